//! A durable work queue: producers append, workers take. Jobs and results are families of one file, so a job is
//! finished and its result stored in one commit, and producers never wait for workers.
//!
//! `cargo run --example queue`

use spinney::{Database, Durability, Family, Result};
use std::thread;

const JOBS: u64 = 1000;
const WORKERS: u64 = 2;

fn main() -> Result<()> {
    let db = Database::in_memory()?;
    // One inbox per worker: a family has one writer at a time, families do not wait for each other.
    let inboxes = (0..WORKERS).map(|i| db.family(&format!("inbox {i}"))).collect::<Result<Vec<_>>>()?;
    let results = (0..WORKERS).map(|i| db.family(&format!("results {i}"))).collect::<Result<Vec<_>>>()?;

    thread::scope(|scope| {
        scope.spawn(|| produce(&db, &inboxes).expect("the queue takes jobs"));
        for (inbox, results) in inboxes.iter().zip(&results) {
            let db = &db;
            scope.spawn(move || work(db, inbox, results).expect("jobs are worked off"));
        }
    });

    let snap = db.snapshot();
    for (inbox, results) in inboxes.iter().zip(&results) {
        assert!(snap.is_empty(inbox)?);
        println!("{}: {} jobs done", results.name(), snap.len(results)?);
    }
    let (id, root) = snap.last(&results[0])?.expect("there was a job");
    println!("the last one: {} -> {}", id.escape_ascii(), root.escape_ascii());
    Ok(())
}

fn produce(db: &Database, inboxes: &[Family]) -> Result<()> {
    let mut newest = None;
    for job in 0..JOBS {
        let mut txn = inboxes[usize::try_from(job % WORKERS).unwrap_or(0)].begin()?;
        txn.insert(format!("job {job:06}"), job.to_string())?;
        // Visible at once, durable with the next sync: nobody waits for each single job.
        newest = Some(txn.commit_with(Durability::Eventual)?);
    }
    newest.map_or(Ok(()), |seq| db.wait_durable(seq))
}

fn work(db: &Database, inbox: &Family, results: &Family) -> Result<()> {
    let mut left = JOBS / WORKERS;
    while left > 0 {
        let mut txn = db.begin([inbox, results])?;
        let jobs = txn.family(inbox)?.range(..).take(50).collect::<Result<Vec<_>>>()?;
        for (id, job) in &jobs {
            let number: f64 = String::from_utf8_lossy(job).parse().unwrap_or(0.0);
            txn.family(results)?.insert(id, format!("{:.3}", number.sqrt()))?;
            txn.family(inbox)?.remove(id)?;
        }
        // Jobs leave the inbox in the same commit in which their results appear.
        txn.commit_with(Durability::Eventual)?;
        left -= jobs.len() as u64;
    }
    Ok(())
}
