//! More data than memory, and opening a large file: inside the budget, and in proportion to the log's tail.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

use peak_alloc::PeakAlloc;
use spinney::{Database, Durability, Options, Result};
use std::{path::PathBuf, process::Command, sync::Mutex};

const BUDGET: u64 = 4 << 20;

/// What is allocated, counted exactly; what the process has of the system depends on how its allocator keeps what is freed.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Each test alone, because all of the process is counted.
static ALONE: Mutex<()> = Mutex::new(());

fn within_budget(db: &Database, most: &mut u64) -> Result<()> {
    let file = db.stats()?.file;
    *most = (*most).max(file.budget_used_bytes);
    assert!(file.dirty_bytes <= BUDGET * 3 / 4, "{} dirty bytes", file.dirty_bytes);
    Ok(())
}

fn value(n: u64) -> Vec<u8> {
    // Every seventh is large, so that extents are spilled as well.
    vec![(n % 253) as u8; if n.is_multiple_of(7) { 9000 } else { 500 }]
}

/// Four budgets of data in one transaction, then in many, read back: memory stays where it was told to stay.
#[test]
fn four_budgets_of_data_fit_into_one() -> Result<()> {
    let _alone = ALONE.lock();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.spinney");
    let options = Options::new().memory_budget(BUDGET);
    let db = options.clone().open(&path)?;
    let count = 4 * BUDGET / 1700;
    let before = MEMORY.current_usage() as u64;
    MEMORY.reset_peak_usage();
    let mut most = 0;

    let one = db.family("one")?;
    let mut txn = one.begin()?;
    for n in 0..count {
        txn.insert(n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes(), value(n))?;
        if n.is_multiple_of(64) {
            within_budget(&db, &mut most)?;
        }
    }
    txn.commit()?;

    let many = db.family("many")?;
    for chunk in 0..count / 50 {
        let mut txn = many.begin()?;
        for n in chunk * 50..chunk * 50 + 50 {
            txn.insert(n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes(), value(n))?;
        }
        txn.commit_with(Durability::Eventual)?;
        within_budget(&db, &mut most)?;
    }
    let check = |db: &Database| -> Result<()> {
        let snap = db.snapshot();
        for (family, count) in [(db.family("one")?, count), (db.family("many")?, count / 50 * 50)] {
            assert_eq!(snap.len(&family)?, count);
            for n in 0..count {
                let found = snap.get(&family, n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes())?.unwrap();
                assert!(found[..] == value(n)[..], "{n}");
            }
        }
        Ok(())
    };
    check(&db)?;
    within_budget(&db, &mut most)?;
    // One page more than the limit for each load under way, and what a spill has in flight.
    assert!(most <= BUDGET + BUDGET / 10, "{most} bytes of {BUDGET}");
    drop((one, many));
    db.close()?;
    check(&options.open(&path)?)?;
    let grown = (MEMORY.peak_usage() as u64).saturating_sub(before);
    assert!(grown < 4 * BUDGET, "{grown} bytes were allocated at once; the data is {} bytes", 8 * BUDGET);
    Ok(())
}

const CHILD: &str = "SPINNEY_SCALE_CHILD";

/// 1 GiB, written and then abandoned without closing.
fn child(path: &PathBuf) -> Result<()> {
    let db = Options::new().memory_budget(64 << 20).open(path)?;
    let bulk = db.family("bulk")?;
    let block = vec![7; 1 << 20];
    for n in 0..1000u64 {
        let mut txn = bulk.begin()?;
        txn.insert(n.to_be_bytes(), &block)?;
        txn.commit_with(Durability::Eventual)?;
    }
    let small = db.family("small")?;
    let mut txn = small.begin()?;
    for n in 0..20_000u64 {
        txn.insert(n.to_be_bytes(), [1; 100])?;
    }
    txn.commit()?;
    db.checkpoint()?;
    for n in 0..10u64 {
        let mut txn = small.begin()?;
        txn.insert(n.to_be_bytes(), [2; 100])?;
        txn.commit()?;
    }
    std::process::abort();
}

/// Opening reads the log and what its tail claims, whatever the file holds.
#[test]
fn a_gigabyte_opens_after_a_crash_by_reading_the_tail_of_the_log() -> Result<()> {
    let _alone = ALONE.lock();
    if let Ok(path) = std::env::var(CHILD) {
        return child(&PathBuf::from(path));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gigabyte.spinney");
    let name = "a_gigabyte_opens_after_a_crash_by_reading_the_tail_of_the_log";
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(CHILD, &path)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(!status.success(), "the child crashes");
    assert!(std::fs::metadata(&path).unwrap().len() > 1 << 30);
    let db = Options::new().memory_budget(64 << 20).background(false).open(&path)?;
    let opened = db.stats()?.file;
    let log_bytes = opened.log.blocks * 4096;
    // The superblocks, the log twice (its chain, then all of it), what ten commits claim, and a few map pages.
    let bound = 2 * log_bytes + 10 * 64 * 1024 + 256 * 1024;
    assert!(opened.io.read_bytes <= bound, "{} bytes read to open, {bound} expected at most", opened.io.read_bytes);
    assert!(opened.io.reads < 300 + opened.log.blocks, "{} reads", opened.io.reads);
    let snap = db.snapshot();
    let (bulk, small) = (db.family("bulk")?, db.family("small")?);
    assert_eq!((snap.len(&bulk)?, snap.len(&small)?), (1000, 20_000));
    assert_eq!(snap.get(&small, 9u64.to_be_bytes())?.unwrap()[..], [2; 100]);
    assert_eq!(snap.read_at(&bulk, 999u64.to_be_bytes(), 500_000, 10)?.unwrap()[..], [7; 10]);
    Ok(())
}
