//! Do pages of one commit stay neighbours while everything is overwritten again and again?
//!
//! Runs are long on a fresh file because there is nothing else. Each overwriting frees pages where the old versions
//! were: thousands at once when keys come in order, one here and one there when they come at random. If runs became
//! short there, every promise about writing in one call would be one about fresh files.

use crate::workload::{Job, RECORDS, Values};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use spinney::{Database, FlushStats, Options};
use spinney_bench_harness::{race, ratio, table, thousands};
use std::{fs, path::Path};

/// Transactions that all writers together need to write the data once: 100 MB.
const TRANSACTIONS: u32 = 100;
/// How often the data is overwritten.
const ROUNDS: u32 = 10;

/// In which order keys are overwritten.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Ascending,
    Random,
}

/// Measures every order with one writer and with four.
pub(crate) fn run(folder: &Path, values: &Values) -> anyhow::Result<String> {
    let mut rows = Vec::new();
    for (name, order) in [("in order", Order::Ascending), ("at random", Order::Random)] {
        for writers in [1, 4] {
            let job = Job { writers, transactions: TRANSACTIONS / writers, values };
            let (rounds, bytes) = overwrite(folder, &job, order)?;
            let run_pages = |round: usize| format!("{:.1}", rounds.get(round).map_or(0.0, FlushStats::mean_run_pages));
            let last = rounds.last().copied().unwrap_or_default();
            let shortest = rounds.iter().map(FlushStats::mean_run_pages).fold(f64::INFINITY, f64::min);
            rows.push(vec![
                writers.to_string(),
                name.to_owned(),
                run_pages(0),
                run_pages(rounds.len() - 1),
                format!("{shortest:.1}"),
                format!("{:.0}", ratio(last.pages as f64, f64::from(job.transactions * writers))),
                thousands(bytes as f64 / 1e6),
            ]);
            eprintln!("{writers} writers, {name}: done");
        }
    }
    let mut out = format!(
        "# Run lengths under churn\n\nPages per run of images of {RECORDS} records, {TRANSACTIONS} transactions in all, then \
         overwritten {ROUNDS} times. Aims: 64 on a fresh file, 32 in the last round.\n\n"
    );
    let heads = ["writers", "keys", "fresh file", "last round", "shortest round", "pages/transaction", "MB file"];
    table(&mut out, &heads, rows);
    Ok(out)
}

/// What the images of each round did, the first being the fresh file, and the size of the file at the end.
fn overwrite(folder: &Path, job: &Job<'_>, order: Order) -> anyhow::Result<(Vec<FlushStats>, u64)> {
    let path = folder.join("churn.spinney");
    let db = Options::new().create(&path)?;
    let mut rounds = Vec::new();
    for round in 0..=ROUNDS {
        let before = db.stats()?.file.images;
        race(job.writers, |writer| {
            write_all(&db, writer, round, job, if round == 0 { Order::Ascending } else { order })
        })?;
        rounds.push(db.stats()?.file.images.since(&before));
    }
    db.close()?;
    let bytes = fs::metadata(&path)?.len();
    fs::remove_file(&path)?;
    Ok((rounds, bytes))
}

/// As many records as the writer has, overwritten in transactions of the usual size.
fn write_all(db: &Database, writer: u32, round: u32, job: &Job<'_>, order: Order) -> anyhow::Result<()> {
    let family = db.family(&format!("writer {writer}"))?;
    let mut random = SmallRng::seed_from_u64(u64::from(round) << 8 | u64::from(writer));
    for transaction in 0..job.transactions {
        let mut txn = family.begin()?;
        for record in job.records_of(transaction) {
            let record =
                if order == Order::Ascending { record } else { random.random_range(0..job.records_of_writer()) };
            txn.insert(record.to_be_bytes(), job.values.of(writer, record, round))?;
        }
        txn.commit()?;
    }
    Ok(())
}
