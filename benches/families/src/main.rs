//! Do writers of different families really work at the same time, and what does the disk leave of it?
//!
//! ```text
//!   for each run                                     for each number of writers
//!     Spinney | merging off | arenas off too | separate files | bare disk     one after the other, then again
//! ```
//! Each writer has its own family of one file and commits 100 durable transactions of 1000 records: u64 keys in order,
//! 1 KiB incompressible values. If eight writers in one file were slower than eight files, or than two writers, then
//! something in the engine is shared that should not be. The bare disk gets as many bytes per transaction
//! as Spinney wrote: what is missing to it is what the engine costs.
//!
//! Variants take turns within each run, and each run begins with another one, so that a slow minute of the machine is
//! everybody's.

mod bare; // the yardstick
mod churn; // how long runs stay while data is overwritten
mod engine; // Spinney, in its variants
mod measure; // what one run of one variant gives
mod report; // tables, and a picture
mod workload; // keys and values

use crate::{engine::Variant, measure::Measurements, workload::Values};
use clap::Parser;
use spinney_bench_harness::{Awake, processors, touch_memory};
use std::{collections::BTreeMap, path::Path};

/// Writers of several families of one file, measured
#[derive(Parser)]
#[command(name = "cargo xtask bench families")]
struct Arguments {
    #[command(flatten)]
    program: spinney_bench_harness::Arguments,
    /// Numbers of writers
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8], value_parser = clap::value_parser!(u32).range(1..=64))]
    writers: Vec<u32>,
    /// Durable transactions of each writer
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    transactions: u32,
    /// Instead: how long runs of pages are on a fresh file, and after ten times the data has been overwritten
    #[arg(long)]
    churn: bool,
}

fn main() -> anyhow::Result<()> {
    let mut arguments = Arguments::parse();
    arguments.writers.sort_unstable();
    arguments.writers.dedup();
    let program = &arguments.program;
    let folder = program.folder("bench-families")?;
    let values = Values::new();
    touch_memory();
    let _awake = Awake::start(processors());
    if arguments.churn {
        return program.show("bench-families-churn.md", &churn::run(folder.path(), &values)?);
    }
    let outcomes = compare(&arguments, folder.path(), &values)?;
    program.show("bench-families.md", &report::markdown(&outcomes, arguments.transactions))?;
    program.keep("plot", "bench-families.svg", &report::picture(&outcomes))
}

/// Measures every variant with every number of writers, as often as asked.
fn compare(arguments: &Arguments, folder: &Path, values: &Values) -> anyhow::Result<Measurements> {
    let cases = |run: u32| {
        let mut order = Variant::ALL;
        // Nobody is always the one after the removal of the largest files.
        order.rotate_left(run as usize % Variant::ALL.len());
        arguments.writers.iter().flat_map(|&writers| order.map(|variant| (writers, variant))).collect()
    };
    let name = |(writers, variant): (u32, Variant)| format!("{writers} writers, {}", variant.name());
    let mut bytes_per_transaction = BTreeMap::new();
    Measurements::measure(arguments.program.runs, cases, name, |(writers, variant)| {
        let job = workload::Job { writers, transactions: arguments.transactions, values };
        if variant == Variant::Bare {
            return bare::run(folder, &job, bytes_per_transaction.get(&writers).copied().unwrap_or(0));
        }
        let measured = engine::run(variant, folder, &job)?;
        if variant == Variant::Spinney {
            bytes_per_transaction.insert(writers, measured.counts.bytes_written / job.transactions_total());
        }
        Ok(measured)
    })
}
