//! Is the code in order: what a change must pass before anybody reads it. Cheap looks first.

use crate::{layers, step::Step, tidy};

/// Runs every look and stops at the first that fails.
pub(crate) fn run() -> anyhow::Result<()> {
    Step::cargo(&["fmt", "--all", "--check"]).run()?;
    layers::run()?;
    tidy::run()?;
    // Twice, because a feature may hide an unused import as well as cause one.
    for features in ["--no-default-features", "--all-features"] {
        let clippy = ["clippy", "--locked", "--workspace", "--all-targets", features, "--", "-D", "warnings"];
        Step::cargo(&clippy).run()?;
        let doc = ["doc", "--locked", "--workspace", "--no-deps", features];
        Step::cargo(&doc).env("RUSTDOCFLAGS", "-D warnings").run()?;
    }
    Ok(())
}
