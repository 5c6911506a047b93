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
mod plot; // a picture
mod report; // tables
mod workload; // keys and values

use crate::{
    engine::Variant,
    measure::{Measured, Outcome},
    workload::Values,
};
use anyhow::Context;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Writers of several families of one file, measured
#[derive(Parser)]
#[command(name = "cargo xtask bench families")]
struct Arguments {
    /// How many times everything is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Numbers of writers
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8], value_parser = clap::value_parser!(u32).range(1..=64))]
    writers: Vec<u32>,
    /// Durable transactions of each writer
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    transactions: u32,
    /// Where the files are written, on the disk to be measured [default: below the folder of the results]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Where the results are written
    #[arg(long, default_value = "target")]
    out: PathBuf,
    /// Instead: how long runs of pages are on a fresh file, and after ten times the data has been overwritten
    #[arg(long)]
    churn: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let home = arguments.dir.clone().unwrap_or_else(|| arguments.out.join("bench-families"));
    fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
    let folder = tempfile::tempdir_in(&home).with_context(|| format!("cannot write in {}", home.display()))?;
    let values = Values::new();
    if arguments.churn {
        let table = churn::run(folder.path(), &values)?;
        return show(&arguments.out, "bench-families-churn.md", &table);
    }
    let outcomes = compare(&arguments, folder.path(), &values)?;
    show(&arguments.out, "bench-families.md", &report::markdown(&outcomes, arguments.transactions))?;
    let picture = arguments.out.join("bench-families.svg");
    fs::write(&picture, plot::svg(&outcomes)).with_context(|| format!("cannot write {}", picture.display()))?;
    eprintln!("plot: {}", picture.display());
    Ok(())
}

/// Measures every variant with every number of writers, as often as asked.
fn compare(arguments: &Arguments, folder: &Path, values: &Values) -> anyhow::Result<Vec<Outcome>> {
    let mut writers = arguments.writers.clone();
    writers.sort_unstable();
    writers.dedup();
    let steps = u64::from(arguments.runs) * writers.len() as u64 * Variant::ALL.len() as u64;
    let bar = progress(steps);
    let mut outcomes = Vec::new();
    let mut order = Variant::ALL;
    let mut bytes_per_transaction = BTreeMap::new();
    for run in 1..=arguments.runs {
        for &writers in &writers {
            for variant in order {
                bar.set_message(format!("run {run}: {writers} writers, {}", variant.name()));
                let job = workload::Job { writers, transactions: arguments.transactions, values };
                let measured: Measured = match variant {
                    Variant::Bare => bare::run(folder, &job, bytes_per_transaction.get(&writers).copied().unwrap_or(0)),
                    _ => engine::run(variant, folder, &job),
                }
                .with_context(|| format!("{writers} writers, {}", variant.name()))?;
                if variant == Variant::Spinney {
                    bytes_per_transaction.insert(writers, measured.bytes_written / job.transactions_total());
                }
                outcomes.push(Outcome { run, writers, variant, measured });
                bar.inc(1);
            }
        }
        // Nobody is always the one after the removal of the largest files.
        order.rotate_left(1);
    }
    bar.finish_and_clear();
    Ok(outcomes)
}

/// A bar for so many steps; silent where nobody looks.
fn progress(steps: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}");
    ProgressBar::new(steps).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn show(out: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = out.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{text}");
    eprintln!("table: {}", path.display());
    Ok(())
}
