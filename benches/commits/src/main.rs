//! What does a small commit cost beyond one synced write, and do those who wait share it?
//!
//! ```text
//!   for each run                                                          the order rotates
//!     for each number of writers    a family each | one family | 100 records | 100 records as images
//!       bare disk, Spinney, bare disk              reopened and compared afterwards
//!     1 thread | 2 threads          commits that do not wait for the disk
//! ```
//! A small durable commit should be one synced write of one block, and nothing else: hence the yardstick, a synced 4 KiB overwrite of
//! a file that has its blocks, made by the call that the log is written with, directly before and after each
//! measurement. Whoever commits meanwhile should go with the next such write: hence commits per sync. If writers of different
//! families shared less than half of what they could, or one writer needed a second call, the way a commit takes through the log
//! would have to change; if 100 records were no faster as effects than as pages, the log should hold roots only.
//!
//! A virtual processor that idles is told of a finished write only at its next tick, milliseconds late. Threads of the
//! lowest priority keep the processors awake, for the engine and for the yardstick.

mod bare; // the yardstick
mod case; // what is measured
mod engine; // Spinney: writes, reopens, compares
mod measure; // what one run of one case gives
mod report; // tables, and a picture
mod steps; // what a single commit asks of the disk
mod workload; // keys and values

use crate::{bare::Bare, case::Case, measure::Measurements, workload::Job};
use clap::Parser;
use spinney_bench_harness::{Awake, Pool, processors, touch_memory};
use std::path::Path;

/// Small commits beside the bare disk
#[derive(Parser)]
#[command(name = "cargo xtask bench commits")]
struct Arguments {
    #[command(flatten)]
    program: spinney_bench_harness::Arguments,
    /// Numbers of writers whose commits are durable
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16, 32], value_parser = clap::value_parser!(u32).range(1..=64))]
    writers: Vec<u32>,
    /// Durable commits of each writer, fewer where there are more than eight; a twentieth of them with 100 records each
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(160..))]
    commits: u32,
    /// Commits of each thread that do not wait for the disk; 0 measures none
    #[arg(long, default_value_t = 1_000_000)]
    eventual: u32,
    /// Memory of the database in MiB
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(1..))]
    memory: u64,
    /// Threads that keep processors from idling; 0 for none [default: one per processor]
    #[arg(long)]
    awake: Option<u32>,
}

fn main() -> anyhow::Result<()> {
    let mut arguments = Arguments::parse();
    arguments.writers.sort_unstable();
    arguments.writers.dedup();
    let awake = arguments.awake.unwrap_or_else(processors);
    let folder = arguments.program.folder("bench-commits")?;
    touch_memory();
    let bare = Bare::create(folder.path(), arguments.writers.last().copied().unwrap_or(1))?;
    let outcomes = compare(&arguments, folder.path(), &bare, awake)?;
    let conditions = report::Conditions {
        awake,
        memory_mib: arguments.memory,
        commits: arguments.commits,
        eventual: arguments.eventual,
        bare_call: bare.call(),
    };
    arguments.program.show("bench-commits.md", &report::markdown(&outcomes, &conditions))?;
    arguments.program.keep("plot", "bench-commits.svg", &report::picture(&outcomes))
}

/// Measures every case as often as asked, with the processors awake.
fn compare(arguments: &Arguments, folder: &Path, bare: &Bare, awake: u32) -> anyhow::Result<Measurements> {
    let values = Pool::new(workload::POOL_BYTES);
    let _awake = Awake::start(awake);
    let cases = |run| Case::of_run(run, &arguments.writers, arguments.eventual > 0);
    Measurements::measure(
        arguments.program.runs,
        cases,
        |case| case.to_string(),
        |case| {
            let commits = case.commits_of_writer(arguments.commits, arguments.eventual);
            engine::run(folder, &Job { case, commits, memory_bytes: arguments.memory << 20, values: &values }, bare)
        },
    )
}
