//! Several threads: the same family created twice at once, writers beside each other, readers in between, drops under
//! the feet of those who wait.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use spinney::{Database, Durability, Error, Family, Result};
use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

#[test]
fn two_threads_that_create_a_family_get_the_same_one() {
    let db = Database::in_memory().unwrap();
    let start = Barrier::new(4);
    let families: Vec<Vec<Family>> = thread::scope(|scope| {
        let create = || {
            (0..50)
                .map(|i| {
                    start.wait();
                    let family = db.family(&format!("f{i}")).unwrap();
                    // What `family` returned can be read at once.
                    assert!(db.snapshot().is_empty(&family).unwrap());
                    family
                })
                .collect()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(create)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(families.iter().all(|of_one| *of_one == families[0]));
    assert_eq!(db.families().unwrap().len(), 50);
    assert_eq!(db.stats().unwrap().families, 50);
    assert!(db.check().unwrap().is_sound());
}

#[test]
fn tables_are_created_once_too() {
    let db = Database::in_memory().unwrap();
    let family = db.family("f").unwrap();
    let ids: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| family.table("t").unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|table| *table == ids[0]));
}

/// Money moves between accounts of different families; every snapshot has all of it.
#[test]
fn snapshots_see_whole_transactions() {
    const FAMILIES: usize = 4;
    const EACH: u64 = 1000;
    let db = Database::in_memory().unwrap();
    let banks: Vec<Family> = (0..FAMILIES).map(|i| db.family(&format!("bank{i}")).unwrap()).collect();
    let read = |value: Option<spinney::Value>| u64::from_be_bytes((*value.unwrap()).try_into().unwrap());
    let mut txn = db.begin(&banks).unwrap();
    for bank in &banks {
        txn.family(bank).unwrap().insert("money", EACH.to_be_bytes()).unwrap();
    }
    txn.commit().unwrap();

    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let movers: Vec<_> = (0..FAMILIES)
            .map(|i| {
                let (db, banks) = (&db, &banks);
                scope.spawn(move || -> Result<()> {
                    for round in 0..200 {
                        let (from, to) = ((i + round) % FAMILIES, (i * 3 + round * 7 + 1) % FAMILIES);
                        let (from, to) = (&banks[from], &banks[to]);
                        let mut txn = db.begin([from, to])?;
                        let has = read(txn.family(from)?.get("money")?);
                        txn.family(from)?.insert("money", (has - 1).to_be_bytes())?;
                        let has = read(txn.family(to)?.get("money")?);
                        txn.family(to)?.insert("money", (has + 1).to_be_bytes())?;
                        let durability = if round % 3 == 0 { Durability::Immediate } else { Durability::Eventual };
                        txn.commit_with(durability)?;
                    }
                    Ok(())
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let snap = db.snapshot();
                let total: u64 = banks.iter().map(|bank| read(snap.get(bank, "money").unwrap())).sum();
                assert_eq!(total, FAMILIES as u64 * EACH);
            }
        });
        let moved: Vec<_> = movers.into_iter().map(|mover| mover.join()).collect();
        done.store(true, Ordering::Relaxed);
        moved.into_iter().for_each(|moved| moved.unwrap().unwrap());
    });
}

#[test]
fn who_waits_for_a_family_that_is_dropped_hears_of_it() {
    for round in 0..20 {
        let db = Database::in_memory().unwrap();
        let family = db.family("f").unwrap();
        let mut txn = family.begin().unwrap();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| family.begin().map(drop));
            if round % 2 == 0 {
                thread::yield_now();
            }
            txn.drop_family(&family).unwrap();
            let durability = if round % 4 < 2 { Durability::Immediate } else { Durability::Eventual };
            txn.commit_with(durability).unwrap();
            let waited = waiter.join().unwrap();
            assert!(matches!(waited, Err(Error::FamilyDropped { .. })), "{waited:?}");
        });
        assert!(db.open_family("f").unwrap().is_none());
    }
}

#[test]
fn opening_by_name_never_finds_a_family_that_is_gone() {
    let db = Database::in_memory().unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let Some(family) = db.open_family("f").unwrap() else { continue };
                // Either we were first, or we are told: a commit that succeeds was to a family that existed.
                match family.begin() {
                    Ok(mut txn) => {
                        txn.insert("k", "v").unwrap();
                        let snap_before = db.snapshot();
                        txn.commit().unwrap();
                        drop(snap_before);
                    }
                    Err(Error::FamilyDropped { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        });
        for _ in 0..100 {
            db.family("f").unwrap();
            db.drop_family("f").unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    while db.maintain(1000).unwrap() > 0 {}
    assert!(db.check().unwrap().is_sound());
}
