//! How fast is it: one benchmark by its name, in the profile that is measured.

use crate::{
    step::Step,
    workspace::{self, BENCHES},
};
use anyhow::Context;

/// The benchmarks that are programs of their own rather than criterion's: folders in benches/.
const PROGRAMS: [&str; 2] = ["commits", "families"];

/// Which benchmark, and what it is told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// `commits`, `families`, or a file in benches/benches without its ending
    name: String,
    /// Passed on; `commits --help` lists what that takes
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds it optimised and runs it; what it finds goes to standard output and below `target/`.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let passed_on = arguments.arguments.iter().map(String::as_str);
    if !PROGRAMS.contains(&arguments.name.as_str()) {
        let fixed = ["bench", "--locked", "-p", BENCHES, "--bench", &arguments.name, "--"];
        return Step::cargo(&fixed.into_iter().chain(passed_on).collect::<Vec<_>>()).run();
    }
    let target = workspace::target_dir()?;
    let out = target.to_str().with_context(|| format!("{} is not UTF-8", target.display()))?;
    let package = format!("spinney-bench-{}", arguments.name);
    let fixed = ["run", "--locked", "--release", "-p", &package, "--", "--out", out];
    Step::cargo(&fixed.into_iter().chain(passed_on).collect::<Vec<_>>()).run()
}
