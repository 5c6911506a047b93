//! Which lines of the four crates does no test run: all tests, instrumented, with a floor that the share of lines may not fall below.
//!
//! Needs cargo-llvm-cov and LLVM's own tools, no older than the compiler's, and installs none. Takes several times as long as `test`.

use crate::{
    step::Step,
    workspace::{self, LAYERS},
};
use anyhow::ensure;
use std::{
    env,
    ffi::OsString,
    process::{Command, Stdio},
};

/// Percent of lines that tests run, at least.
const FLOOR: u32 = 92;

/// Programs of LLVM, and the variables in which cargo-llvm-cov is told of them.
const TOOLS: [(&str, &str); 2] = [("LLVM_COV", "llvm-cov"), ("LLVM_PROFDATA", "llvm-profdata")];

/// Which report to make.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Pages with every line, in `target/llvm-cov/html`, instead of a table of files
    #[arg(long)]
    html: bool,
    /// Runs no test: another report of what the last run left
    #[arg(long)]
    report: bool,
}

/// Tests and reports. What `SPINNEY_CRASH_IMAGES` and its like say holds here, too: a tenth of the images runs nearly every line.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    all_there()?;
    if !arguments.report {
        let packages = LAYERS.iter().flat_map(|name| ["-p", name]);
        let test: Vec<_> = ["llvm-cov", "--locked", "--all-features", "--no-report", "-p", "spinney-fuzz-cases"]
            .into_iter()
            .chain(packages)
            .collect();
        Step::cargo(&test).run()?;
    }
    let floor = FLOOR.to_string();
    // Of the repository, the sources of the four crates; of those, what is no test.
    let others =
        format!("^{}/(xtask|benches|crates/spinney/fuzz)/|/tests?\\.rs$|_tests\\.rs$", workspace::root().display());
    let mut report = vec!["llvm-cov", "report", "--fail-under-lines", &floor, "--ignore-filename-regex", &others];
    if arguments.html {
        report.push("--html");
    }
    Step::cargo(&report).run()
}

/// Says what is missing, and how to get it.
fn all_there() -> anyhow::Result<()> {
    let works = |name: OsString, arguments: &[&str]| {
        let mut command = Command::new(name);
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let mut missing = Vec::new();
    if !works("cargo-llvm-cov".into(), &["llvm-cov", "--version"]) {
        missing.push("cargo-llvm-cov: `cargo install cargo-llvm-cov`".to_owned());
    }
    let has_component = || Ok::<_, anyhow::Error>(component_dir()?.join("llvm-cov").exists());
    if TOOLS.iter().any(|(variable, _)| env::var_os(variable).is_none()) && !has_component()? {
        missing.push("LLVM's tools: `rustup component add llvm-tools`".to_owned());
    } else {
        for (variable, name) in TOOLS {
            if let Some(path) = env::var_os(variable).filter(|path| !works(path.clone(), &["--version"])) {
                missing.push(format!("{name}: {variable} is {}, which does not run", path.display()));
            }
        }
    }
    ensure!(
        missing.is_empty(),
        "coverage needs what is not here:\n  {}\n(tools from elsewhere are named by LLVM_COV and LLVM_PROFDATA)",
        missing.join("\n  ")
    );
    Ok(())
}

/// Where rustup puts LLVM's tools.
fn component_dir() -> anyhow::Result<std::path::PathBuf> {
    let print = |what: &[&str]| Step::program("rustc".as_ref(), what).output().map(|text| text.trim().to_owned());
    let version = print(&["-vV"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
    let libraries = print(&["--print", "sysroot"])?;
    Ok(std::path::Path::new(&libraries).join("lib/rustlib").join(host).join("bin"))
}
