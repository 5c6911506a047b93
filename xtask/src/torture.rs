//! What only real processes meet: killed at any system call, denied, out of space, for hours. The program is
//! `xtask/torture`; here it is built and run.

use crate::step::Step;

/// What the program is told.
#[derive(Default, clap::Args)]
pub(crate) struct Arguments {
    /// Passed on; `--help` behind `--` lists what that takes
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs one of its commands, in the test profile: optimised, with every assertion of the engine on.
pub(crate) fn run(command: &str, arguments: &Arguments) -> anyhow::Result<()> {
    let fixed = ["run", "--locked", "--profile", "test", "-p", "spinney-torture", "--", command];
    let passed_on = arguments.arguments.iter().map(String::as_str);
    Step::cargo(&fixed.into_iter().chain(passed_on).collect::<Vec<_>>()).run()
}
