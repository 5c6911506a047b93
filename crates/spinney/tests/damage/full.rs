//! A full disk: every size at which it can be full, and a way back from each by removing data, in the space there is.

use crate::value;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use spinney::{Database, Durability, Error, Options, Result, Sabotage, SimDisk, Storage, Tuning};
use std::{panic::catch_unwind, sync::Arc};

/// A log that small commits fill seldom, or often.
fn options(page_size: usize, images_only: bool, has_large_log: bool, sabotage: Option<Sabotage>) -> Options {
    Options::new()
        .page_size(page_size)
        .memory_budget(if has_large_log { 16 << 20 } else { 2 << 20 })
        .background(false)
        .tuning(Tuning {
            log_bytes: 16 * 4096,
            log_bytes_max: if has_large_log { 64 << 20 } else { 64 * 4096 },
            images_only,
            sabotage,
            ..Tuning::default()
        })
}

fn is_full(error: &Error) -> bool {
    match error {
        Error::CheckpointFailed { source } => is_full(source),
        error => matches!(error, Error::Full { .. }),
    }
}

/// Inserts until nothing fits any more: first much at a time, then one record, which is as full as it gets. Returns how many keys there are.
fn fill_up(db: &Database, rng: &mut SmallRng) -> Result<u64> {
    let family = db.family("a")?;
    let mut keys = db.snapshot().last(&family)?.map_or(0, |(key, _)| key_number(&key));
    for records in [200, 20, 1] {
        loop {
            let durability = if rng.random_ratio(1, 3) { Durability::Eventual } else { Durability::Immediate };
            let mut insert = || -> Result<()> {
                let mut txn = family.begin()?;
                for key in keys + 1..=keys + records {
                    let len =
                        if rng.random_ratio(1, 50) { rng.random_range(5000..9000) } else { rng.random_range(1..400) };
                    txn.insert(format!("{key:08}"), value(key, len))?;
                }
                txn.commit_with(durability).map(drop)
            };
            match insert() {
                Ok(()) => keys += records,
                Err(error) if is_full(&error) => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(keys)
}

fn key_number(key: &[u8]) -> u64 {
    str::from_utf8(key).unwrap().parse().unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The first half at once.
    Range,
    /// Every second key, a transaction each.
    Singly,
    /// Every second key, a few in each transaction.
    Few,
    /// The whole family.
    Drop,
}

fn remove_half(db: &Database, way: Way, keys: u64) -> Result<()> {
    let family = db.family("a")?;
    match way {
        Way::Range => {
            let mut txn = family.begin()?;
            txn.remove_range(..format!("{:08}", keys / 2))?;
            txn.commit().map(drop)
        }
        Way::Singly => (0..=keys).step_by(2).try_for_each(|key| {
            let mut txn = family.begin()?;
            txn.remove(format!("{key:08}"))?;
            txn.commit().map(drop)
        }),
        Way::Few => (0..=keys).step_by(2).collect::<Vec<_>>().chunks(8).try_for_each(|few| {
            let mut txn = family.begin()?;
            // Far from each other.
            for key in few {
                txn.remove(format!("{:08}", key * 389 % (keys + 1)))?;
            }
            txn.commit_with(Durability::Eventual).map(drop)
        }),
        Way::Drop => db.drop_family("a").map(drop),
    }
}

/// Every so many sizes: to remove keys singly takes long.
fn sweep(way: Way, every: usize, sabotage: Option<Sabotage>) {
    let (mut refused, mut emptied) = (0, 0);
    let sizes = (0..1 << 20).step_by(4096 * 3 * every).map(|bytes| (4096, bytes));
    let larger = (0..3 << 20).step_by(16_384 * 11 * every).map(|bytes| (16_384, bytes));
    for (page_size, bytes) in sizes.chain(larger) {
        for (images_only, has_large_log) in [(false, false), (true, false), (false, true)] {
            let what = format!(
                "{way:?}, pages of {page_size}, a disk of {bytes} bytes, images only: {images_only}, large log: {has_large_log}"
            );
            let mut rng = SmallRng::seed_from_u64(bytes);
            let disk = SimDisk::new();
            disk.set_capacity(Some(bytes));
            let options = options(page_size, images_only, has_large_log, sabotage);
            let open = || options.clone().open_storage(Arc::new(disk.clone()));
            let opened = open().and_then(|db| db.family("a").map(|_| db));
            let db = match opened {
                Ok(db) => db,
                Err(error) => {
                    assert!(is_full(&error), "{what}: {error}");
                    refused += 1;
                    continue;
                }
            };
            for round in 0..2 {
                let what = format!("{what}, round {round}");
                let keys = fill_up(&db, &mut rng).unwrap_or_else(|e| panic!("{what}: filling: {e}"));
                if keys == 0 {
                    break;
                }
                let full = disk.len().unwrap();
                remove_half(&db, way, keys).unwrap_or_else(|e| {
                    panic!("{what}: removing from {keys} keys: {e}\n{}", db.stats().unwrap().space)
                });
                while db
                    .maintain(1000)
                    .unwrap_or_else(|e| panic!("{what}: freeing: {e}\n{}", db.stats().unwrap().space))
                    > 0
                {}
                db.checkpoint().unwrap_or_else(|e| panic!("{what}: a checkpoint needs no space: {e}"));
                assert!(disk.len().unwrap() <= full, "{what}: the file grew");
                let report = db.check().unwrap();
                assert!(report.is_sound(), "{what}: {:?}", report.problems);
                emptied += 1;
            }
            let shown = db.families().and_then(|_| crate::world_of(&db)).unwrap();
            db.close().unwrap_or_else(|e| panic!("{what}: closing: {e}"));
            let db = open().unwrap_or_else(|e| panic!("{what}: opening: {e}"));
            assert!(crate::world_of(&db).unwrap() == shown, "{what}");
        }
    }
    println!("{way:?}: {refused} refused, {emptied} filled and emptied");
    assert!(refused > 3 && emptied > 20);
}

#[test]
fn a_full_disk_can_be_emptied_by_a_range() {
    sweep(Way::Range, 1, None);
}

#[test]
fn a_full_disk_can_be_emptied_key_by_key() {
    sweep(Way::Singly, 8, None);
}

#[test]
fn a_full_disk_can_be_emptied_by_a_few_keys_at_a_time() {
    sweep(Way::Few, 1, None);
}

#[test]
fn a_full_disk_can_be_emptied_by_dropping() {
    sweep(Way::Drop, 1, None);
}

/// The canary: small commits for which no page is promised are more than can be merged when the disk is full.
#[test]
fn what_is_not_promised_cannot_be_emptied() {
    let broken = catch_unwind(|| sweep(Way::Range, 1, Some(Sabotage::PromisesNothing)));
    let words = broken.expect_err("nobody noticed that nothing was promised");
    let words = words.downcast_ref::<String>().expect("what went wrong, in words");
    assert!(words.contains("no space") || words.contains("full"), "{words}");
    println!("{}", words.lines().next().unwrap_or_default());
}
