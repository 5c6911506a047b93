//! What only real processes meet: killed at any system call, denied, out of space, for hours. The program is
//! `xtask/torture`; here it is built and run.

use crate::{step::Step, workspace};
use std::env::consts::EXE_SUFFIX;

const PROGRAM: &str = "spinney-torture";

/// What the program is told.
#[derive(Default, clap::Args)]
pub(crate) struct Arguments {
    /// Passed on; `--help` behind `--` lists what that takes
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs one of its commands, in the test profile: optimised, with every assertion of the engine on.
pub(crate) fn run(command: &str, arguments: &Arguments) -> anyhow::Result<()> {
    // Of the whole workspace with all features, as the tests are, so that nothing below it is built a second time.
    let build = ["build", "--locked", "--workspace", "--all-features", "--profile", "test", "--bin", PROGRAM];
    Step::cargo(&build).run()?;
    let program = workspace::target_dir()?.join("debug").join(format!("{PROGRAM}{EXE_SUFFIX}"));
    let passed_on = arguments.arguments.iter().map(String::as_str);
    Step::program(program.as_os_str(), &[command].into_iter().chain(passed_on).collect::<Vec<_>>()).run()
}
