//! How fast is it: one benchmark by its name, in the profile that is measured.

use crate::{
    step::Step,
    workspace::{self, BENCHES},
};
use anyhow::Context;
use std::path::Path;

/// The benchmarks that are programs of their own rather than criterion's: folders in benches/.
const PROGRAMS: [&str; 2] = ["commits", "families"];

/// Other engines beside this one: a workspace of its own in benches/, for they take long to build, and nothing else needs them.
const PEERS: &str = "peers";

/// Which benchmark, and what it is told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// `commits`, `families`, `peers`, or a file in benches/benches without its ending
    name: String,
    /// Passed on; `commits --help` and `peers --help` list what they take
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds it optimised and runs it; what it finds goes to standard output and below `target/`.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let passed_on = arguments.arguments.iter().map(String::as_str);
    if arguments.name == PEERS {
        return peers(&passed_on.collect::<Vec<_>>());
    }
    if !PROGRAMS.contains(&arguments.name.as_str()) {
        let fixed = ["bench", "--locked", "-p", BENCHES, "--bench", &arguments.name, "--"];
        return Step::cargo(&fixed.into_iter().chain(passed_on).collect::<Vec<_>>()).run();
    }
    let target = workspace::target_dir()?;
    let package = format!("spinney-bench-{}", arguments.name);
    let fixed = ["run", "--locked", "--release", "-p", &package, "--", "--out", text(&target)?];
    Step::cargo(&fixed.into_iter().chain(passed_on).collect::<Vec<_>>()).run()
}

/// Builds every engine, which takes a C++ compiler and libclang, and many minutes the first time.
fn peers(passed_on: &[&str]) -> anyhow::Result<()> {
    let root = workspace::root();
    let (manifest, docs) = (root.join("benches/peers/Cargo.toml"), root.join("docs"));
    let out = workspace::target_dir()?;
    let target = out.join(PEERS);
    let fixed = ["run", "--locked", "--release", "--manifest-path", text(&manifest)?, "--target-dir", text(&target)?];
    let own = ["--", "--out", text(&out)?, "--docs", text(&docs)?];
    Step::cargo(&[&fixed[..], &own, passed_on].concat()).run()
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}
