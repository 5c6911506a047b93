//! The fresh process of one case of one engine: prints one line of JSON.

use crate::{
    bare,
    bench::Bench,
    case::Case,
    engine::Engine,
    meter::Meter,
    workload::{self, pool_bytes},
};
use spinney_bench_harness::Pool;
use std::path::PathBuf;

/// What a child is told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    engine: Engine,
    #[arg(long)]
    case: Case,
    /// Where its files are, and stay
    #[arg(long)]
    folder: PathBuf,
    #[arg(long)]
    scale: f64,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { engine, case, folder, scale } = arguments;
    let bench = Bench { engine, case, folder, scale, pool: Pool::new(pool_bytes(case)), meter: Meter::start() };
    let measured = if engine == Engine::Bare { Some(bare::run(&bench)?) } else { workload::run(&bench)? };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}
