//! Spinney beside other engines: the same work, in the same minutes, with the same promises.
//!
//! ```text
//!   parent --for each run, workload, engine--> child (a fresh process) --a line of JSON--> target/bench-peers.jsonl
//!     |                                          |  opens, times, closes, reopens, compares            |
//!     +--once, below strace--> syncs             +--Store, Writer, Reader--> an adapter                v
//!                                                              docs/benchmarks.md, docs/plots <-- report, goals, plot
//! ```
//! Engines take turns within each case, so that a slow minute of the machine is everybody's, and ratios are taken within a run and a
//! class of durability. Threads of the lowest priority keep the processors awake, and memory was used before: both are the virtual
//! machine's and nobody's engine. What an engine costs is read from the system and not from the engine: bytes and calls from
//! `/proc/self/io`, syncs from a trace, processor time and memory from the process.
#![deny(unsafe_code)] // allowed in one function: a mapped file is opened there

mod bare; // the yardstick
mod bench; // one case of one engine in this process
mod case; // what is measured
mod child; // the fresh process
mod data; // keys and values
mod engine; // who is measured, and what all are asked to do
mod goals; // what was asked, and what was found
mod machine; // on what, with which versions
mod measured; // what a process found
mod meter; // what the system counts
mod parent; // processes in turns
mod plot; // pictures
mod report; // tables
mod results; // every line that was measured
mod trace; // syncs
mod workload; // the work

use crate::{case::Workload, engine::Engine, parent::Plan, results::Results};
use anyhow::ensure;
use clap::{Parser, Subcommand};
use spinney_bench_harness::{Awake, processors, touch_memory};
use std::{
    fs,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

/// Spinney beside redb, LMDB, RocksDB, fjall, canopydb, SQLite and the bare disk
#[derive(Parser)]
#[command(name = "cargo xtask bench peers", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Engines, all of them by default
    #[arg(long, value_delimiter = ',')]
    only: Vec<Engine>,
    /// Workloads, all of them by default
    #[arg(long, value_delimiter = ',')]
    workload: Vec<Workload>,
    /// How many times everything is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// A part of the work, for a quick look: no page is written then
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Does not count syncs, which takes one more run below `strace`
    #[arg(long)]
    no_syncs: bool,
    /// Measures nothing: writes the pages from what was measured before
    #[arg(long)]
    report: bool,
    /// Where the files are written, on the disk to be measured [default: below the folder of the results]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Where the results are kept
    #[arg(long, default_value = "target")]
    out: PathBuf,
    /// The folder of the pages
    #[arg(long, default_value = "docs")]
    docs: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// One case of one engine in this process
    #[command(hide = true)]
    Child(child::Arguments),
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Child(child)) => child::run(child),
        None => compare(&arguments),
    }
}

/// Measures, and writes what was found.
fn compare(arguments: &Arguments) -> anyhow::Result<()> {
    ensure!(arguments.scale > 0.0 && arguments.scale <= 1.0, "--scale takes a number above 0, up to 1");
    let is_whole = arguments.scale == 1.0;
    // Trials are kept apart: nothing of them gets into a page.
    let name = if is_whole { "bench-peers.jsonl" } else { "bench-peers-trial.jsonl" };
    fs::create_dir_all(&arguments.out)?;
    let mut results = Results::open(&arguments.out.join(name))?;
    if !arguments.report {
        let home = arguments.dir.clone().unwrap_or_else(|| arguments.out.join("bench-peers"));
        fs::create_dir_all(&home)?;
        let folder = tempfile::tempdir_in(home)?;
        let engines = Engine::ALL.into_iter().filter(|engine| engine.is_built());
        let plan = Plan {
            engines: engines.filter(|engine| arguments.only.is_empty() || arguments.only.contains(engine)).collect(),
            workloads: arguments.workload.clone(),
            runs: arguments.runs,
            scale: arguments.scale,
            session: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
            folder: folder.path().to_owned(),
            counts_syncs: !arguments.no_syncs,
        };
        touch_memory();
        let _awake = Awake::start(processors());
        plan.run(&mut results)?;
    }
    let section = report::section(&results)?;
    if is_whole {
        return report::write(&arguments.docs, &results, &section);
    }
    println!("{section}");
    Ok(())
}
