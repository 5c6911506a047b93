//! Snapshots: a consistent report over several families while they are being written, and what `snapshot_of` is for.
//!
//! `cargo run --example snapshots`

use spinney::{Database, Result, Snapshot};
use std::thread;

fn main() -> Result<()> {
    let db = Database::in_memory()?;
    let (cash, bank, log) = (db.family("cash")?, db.family("bank")?, db.family("log")?);
    let mut txn = db.begin([&cash, &bank])?;
    txn.family(&cash)?.insert("coins", 1000u32.to_be_bytes())?;
    txn.family(&bank)?.insert("coins", 0u32.to_be_bytes())?;
    txn.commit()?;

    // Pins the pages of `log` as it is now, and nothing else: `cash` and `bank` reuse theirs.
    let empty_log = db.snapshot_of([&log]);

    let coins = |snap: &Snapshot, family| -> Result<u32> {
        let value = snap.get(family, "coins")?.expect("stored above");
        Ok(u32::from_be_bytes((*value).try_into().expect("four bytes")))
    };
    thread::scope(|scope| -> Result<()> {
        let writer = scope.spawn(|| -> Result<()> {
            for day in 0..100u32 {
                let mut txn = db.begin([&cash, &bank, &log])?;
                txn.family(&cash)?.insert("coins", (1000 - day * 10).to_be_bytes())?;
                txn.family(&bank)?.insert("coins", (day * 10).to_be_bytes())?;
                txn.family(&log)?.insert(day.to_be_bytes(), "10 coins to the bank")?;
                txn.commit()?;
            }
            Ok(())
        });
        for _ in 0..5 {
            let snap = db.snapshot();
            let (in_cash, in_bank) = (coins(&snap, &cash)?, coins(&snap, &bank)?);
            assert_eq!(in_cash + in_bank, 1000, "never half a transaction");
            println!("commit {}: {in_cash} in cash, {in_bank} in the bank", snap.seq());
        }
        writer.join().expect("the writer does not panic")
    })?;

    println!("log entries then: {}, now: {}", empty_log.len(&log)?, db.snapshot().len(&log)?);

    // An iterator owns its snapshot: it can leave the function that made it.
    let mut newest_first = db.snapshot().range(&log, ..).rev();
    let (day, entry) = newest_first.next().expect("the log is not empty")?;
    println!("day {}: {}", u32::from_be_bytes((*day).try_into().expect("four bytes")), entry.escape_ascii());
    Ok(())
}
