//! How fast is it: one benchmark by its name, in the profile that is measured.

use crate::{
    step::Step,
    workspace::{self, BENCHES},
};
use anyhow::Context;

/// The benchmark that is a program of its own rather than criterion's.
const FAMILIES: &str = "families";

/// Which benchmark, and what it is told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// `families`, or a file in benches/benches without its ending
    name: String,
    /// Passed on; `families --help` lists what it takes
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds it optimised and runs it; what it finds goes to standard output and below `target/`.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let passed_on = arguments.arguments.iter().map(String::as_str);
    if arguments.name != FAMILIES {
        let fixed = ["bench", "--locked", "-p", BENCHES, "--bench", &arguments.name, "--"];
        return Step::cargo(&fixed.into_iter().chain(passed_on).collect::<Vec<_>>()).run();
    }
    let target = workspace::target_dir()?;
    let out = target.to_str().with_context(|| format!("{} is not UTF-8", target.display()))?;
    let fixed = ["run", "--locked", "--release", "-p", "spinney-bench-families", "--", "--out", out];
    Step::cargo(&fixed.into_iter().chain(passed_on).collect::<Vec<_>>()).run()
}
