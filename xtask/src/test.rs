//! Does everything the README promises hold.

use crate::{
    package,
    step::Step,
    torture::{self, Arguments},
};

/// Runs it all and stops at the first failure.
pub(crate) fn run() -> anyhow::Result<()> {
    // Unit, model, crash and fault tests, the programs in docstrings, and the examples compile. One run with
    // all features: they only add items, and `check` has compiled the workspace without them.
    Step::cargo(&["test", "--locked", "--workspace", "--all-features"]).run()?;
    // Real processes: one workload with all of its system calls, and whatever disks can be had here.
    torture::run("syscalls", &Arguments::default())?;
    torture::run("disks", &Arguments::default())?;
    // The README's other command, on the smallest folder that has several extensions: it verifies itself.
    Step::cargo(&["run", "--locked", "--release", "--example", "import", "--", "crates/spinney-alloc"]).run()?;
    package::run()
}
