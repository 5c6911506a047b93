//! Does any file, any log or any history bring the engine down: libFuzzer on the targets below `crates/spinney/fuzz`.
//!
//! ```text
//!   corpus/TARGET (in the repository) --+--> libFuzzer --> target/fuzz/found/TARGET --keep--> corpus/TARGET
//!                                                |
//!                                                +--> artifacts/TARGET/crash-... --input--> a test, without libFuzzer
//! ```
//! Needs a nightly compiler and cargo-fuzz, and installs neither.

use crate::{step::Step, workspace};
use anyhow::{Context, bail, ensure};
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// As their programs and folders are called.
const TARGETS: [&str; 6] = ["open_bytes", "mutate_file", "operations", "log_bytes", "effects", "allocator"];

/// How long to look, and where.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Minutes for all targets together; 0 replays the corpus with the sanitizer
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// One target only
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(TARGETS))]
    target: Option<String>,
    /// Adds what was found, as far as it leads somewhere new, to the corpus in the repository
    #[arg(long)]
    keep: bool,
    /// Without the address sanitizer: twice as fast, and blind for what safe code cannot do anyway
    #[arg(long)]
    fast: bool,
    /// Fuzzes nothing; gives one file, or a folder of them, to the target that its path names, on the stable compiler
    #[arg(long, conflicts_with_all = ["minutes", "target", "keep", "fast"])]
    input: Option<PathBuf>,
}

/// Fuzzes, or replays.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if let Some(input) = &arguments.input {
        let input = fs::canonicalize(input).with_context(|| format!("cannot find {}", input.display()))?;
        let test = ["test", "--locked", "-p", "spinney-fuzz-cases", "--all-features", "--test", "corpus"];
        let test = [&test[..], &["--", "--nocapture", "named_inputs"]].concat();
        return Step::cargo(&test).env("SPINNEY_FUZZ_INPUT", input).run();
    }
    all_there()?;
    let targets = TARGETS.into_iter().filter(|name| arguments.target.as_deref().is_none_or(|only| only == *name));
    let targets: Vec<&str> = targets.collect();
    let seconds = arguments.minutes * 60 / targets.len() as u64;
    for name in targets {
        fuzz(name, seconds, arguments)?;
    }
    Ok(())
}

/// Says what is missing, and how to get it.
fn all_there() -> anyhow::Result<()> {
    let works = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(name);
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let mut missing = Vec::new();
    if !works("rustup", &["run", "nightly", "rustc", "--version"]) {
        missing.push("a nightly compiler: `rustup toolchain install nightly --profile minimal`");
    }
    if !works("cargo-fuzz", &["--version"]) {
        missing.push("cargo-fuzz: `cargo install cargo-fuzz`");
    }
    ensure!(missing.is_empty(), "fuzzing needs what is not here:\n  {}", missing.join("\n  "));
    Ok(())
}

fn fuzz(name: &str, seconds: u64, arguments: &Arguments) -> anyhow::Result<()> {
    let folder = workspace::root().join("crates/spinney/fuzz");
    let target_dir = workspace::target_dir()?.join("fuzz");
    let (found, corpus) = (target_dir.join("found").join(name), folder.join("corpus").join(name));
    fs::create_dir_all(&found).with_context(|| format!("cannot create {}", found.display()))?;
    let sanitizer = if arguments.fast { "none" } else { "address" };
    let common = ["run", "nightly", "cargo", "fuzz", "run", name, "--fuzz-dir", text(&folder)?];
    let common = [&common[..], &["--target-dir", text(&target_dir)?, "--sanitizer", sanitizer]].concat();

    // Whole files are long, everything else is a script. Single-minded growth from short inputs would begin with nothing.
    let longest = if name == "open_bytes" { "-max_len=65000" } else { "-max_len=1000" };
    // To libFuzzer no time means all the time there is; here it means the corpus alone.
    let time = if seconds == 0 { "-runs=0".to_owned() } else { format!("-max_total_time={seconds}") };
    let limits = ["--", &time, longest, "-len_control=0", "-timeout=60", "-rss_limit_mb=4096", "-print_final_stats=1"];
    let run = [&common[..], &[text(&found)?, text(&corpus)?], &limits].concat();
    Step::program(OsStr::new("rustup"), &run).run().with_context(|| {
        let artifacts = folder.join("artifacts").join(name);
        format!(
            "replay what is in {} with `cargo xtask fuzz --input FILE`, and keep it in the corpus",
            artifacts.display()
        )
    })?;
    if arguments.keep {
        // What reaches code that nothing else reaches; not what merely runs it more often, which would be ten times as much.
        let limits = ["--", "-merge=1", "-use_counters=0", longest];
        let merge = [&common[..], &[text(&corpus)?, text(&found)?], &limits].concat();
        Step::program(OsStr::new("rustup"), &merge).run()?;
    }
    Ok(())
}

fn text(path: &Path) -> anyhow::Result<&str> {
    let Some(text) = path.to_str() else { bail!("{} is not UTF-8", path.display()) };
    Ok(text)
}
