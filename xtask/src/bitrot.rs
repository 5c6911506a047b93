//! Is bad media noticed: every byte of a small database changed in three ways, at three page sizes, and every pair of pages.

use crate::step::Step;

/// Runs the test target `bad_media` of the facade, which looks at a sample unless its environment asks for everything: some
/// millions of openings, a few hours of one processor.
pub(crate) fn run() -> anyhow::Result<()> {
    let test =
        ["test", "--locked", "-p", "spinney", "--all-features", "--test", "bad_media", "--", "--nocapture", "rot"];
    Step::cargo(&test).env("SPINNEY_ROT", "all").run()
}
