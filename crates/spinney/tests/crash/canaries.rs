//! Engines broken on purpose, with small commits: each must be noticed. What random runs do not reach has a scenario of its own, which
//! the healthy engine passes.

use crate::{
    is_repetition,
    oracle::Run,
    support::{canonical, model::open, model::options, model::world_of, quietly, words},
};
use spinney::{
    CallSet, Database, Durability, EnumerationLimits, Error, Exploration, Fault, FaultKind, PowerCut, Result, Sabotage,
    SimDisk,
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// Runs the harness over an engine with one rule broken; after how many images it was noticed, and by what.
fn caught(rule: Sabotage) -> Option<(u64, String)> {
    let images = AtomicU64::new(0);
    let limits = EnumerationLimits { images_max: 1500, ..EnumerationLimits::PULL_REQUEST };
    let attempt = catch_unwind(AssertUnwindSafe(|| -> Result<()> {
        for seed in (1..30).filter(|seed| seed % 4 != 3) {
            let run = Run::random(seed, 40, Some(rule))?;
            let exploration = Exploration::new("").limits(limits.clone()).seed(seed).threads(1);
            exploration.crash_again(10, EnumerationLimits::QUICK).run(&run.recording, |crash| {
                images.fetch_add(1, Ordering::Relaxed);
                run.check(crash)
            });
        }
        Ok(())
    }));
    let images = images.into_inner();
    match attempt {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some((images, format!("the run itself: {error}"))),
        Err(panic) => Some((images, words(&*panic))),
    }
}

#[test]
fn the_harness_notices_broken_small_commits() {
    if is_repetition() {
        return;
    }
    let broken = [
        Sabotage::LogsGivenUpEffects,
        Sabotage::ImageForgetsEffects,
        Sabotage::ImageSkipsAPage,
        Sabotage::ImageClaimsSync,
        Sabotage::SmallGroupsUnsynced,
        Sabotage::GroupCoversItselfOnly,
        Sabotage::BufferedReturnsAtOnce,
        Sabotage::ForgetsSnapshots,
        Sabotage::ReusesAtOnce,
        Sabotage::CheckpointSkipsAnOwner,
        Sabotage::MapInBothHomes,
        Sabotage::OwnersInOneHome,
        Sabotage::SuperblockInOneSlot,
        Sabotage::SuperblockFirst,
        Sabotage::OpeningWalksData,
        Sabotage::TrustsImages,
        Sabotage::TrustsGroups,
        Sabotage::AcceptsOldGroups,
        Sabotage::NoRecoveredRecord,
        Sabotage::ForgetsClaims,
        Sabotage::FirstImage,
        Sabotage::RepeatsAll,
        Sabotage::ReusesNumbers,
    ];
    let found: Vec<_> = quietly(|| broken.into_iter().map(|rule| (rule, caught(rule))).collect());
    for (rule, found) in &found {
        match found {
            Some((images, what)) => println!("{rule:?}: after {images} images: {}", what.lines().next().unwrap_or("")),
            None => println!("{rule:?}: NOT NOTICED"),
        }
    }
    assert!(found.iter().all(|(_, found)| found.is_some()), "a broken rule went unnoticed");
}

/// The healthy engine passes, the broken one does not: it panics or gets an error.
fn tells_apart(rule: Sabotage, scenario: impl Fn(Option<Sabotage>) -> Result<()>) {
    scenario(None).unwrap_or_else(|e| panic!("the healthy engine: {e}"));
    match quietly(|| catch_unwind(AssertUnwindSafe(|| scenario(Some(rule))))) {
        Ok(Ok(())) => panic!("{rule:?} went unnoticed"),
        Ok(Err(error)) => println!("{rule:?}: {error}"),
        Err(panic) => println!("{rule:?}: {}", words(&*panic)),
    }
}

/// A database with two families, as after a checkpoint.
fn two_families(disk: &SimDisk, sabotage: Option<Sabotage>) -> Result<(Database, [spinney::Family; 2])> {
    let db = open(disk, &options(1, sabotage))?;
    let families = [db.family("orders")?, db.family("stock")?];
    db.checkpoint()?;
    Ok((db, families))
}

fn put(family: &spinney::Family, key: u8, durability: Durability) -> Result<()> {
    let mut txn = family.begin()?;
    txn.insert([key], [key; 20])?;
    txn.commit_with(durability).map(drop)
}

/// Rule 7, with small commits: one that is appended while the group before it is on its way is not covered by that group's sync.
#[test]
fn a_small_commit_during_a_sync_is_not_covered_by_it() {
    tells_apart(Sabotage::DurableReadLate, |sabotage| {
        let disk = SimDisk::new();
        let (db, [orders, stock]) = two_families(&disk, sabotage)?;
        let (late, other) = (Arc::new(Mutex::new(None)), Mutex::new(Some(stock)));
        disk.observe({
            let (db, late) = (db.clone(), Arc::clone(&late));
            move |_, _| {
                // The first group is about to be written: somebody else commits, and comes as far as the append, which ends its turn.
                let Some(stock) = other.lock().unwrap().take() else { return };
                let mut txn = stock.begin().unwrap();
                txn.insert([2], [2; 20]).unwrap();
                *late.lock().unwrap() = Some(thread::spawn(move || txn.commit()));
                while db.try_begin([&stock]).is_err() {
                    thread::yield_now();
                }
            }
        });
        put(&orders, 1, Durability::Immediate)?;
        let late = late.lock().unwrap().take().expect("a write");
        late.join().expect("no panic")?;
        let survivor = open(&disk.fork().power_cut(PowerCut::LoseAll), &options(1, sabotage))?;
        let (found, shown) = (world_of(&survivor)?, world_of(&db)?);
        assert!(found == shown, "{} of 2 acknowledged commits survive", found.values().map(|e| e.len()).sum::<usize>());
        Ok(())
    });
}

/// Rule 8, with small commits: nobody is shown one whose sync failed.
#[test]
fn a_small_commit_that_a_crash_could_take_back_is_never_shown() {
    tells_apart(Sabotage::ShowsUndurable, |sabotage| {
        let disk = SimDisk::new();
        let (db, [orders, _]) = two_families(&disk, sabotage)?;
        put(&orders, 1, Durability::Immediate)?;
        disk.inject(Fault { calls: CallSet::WRITE_SYNC, after: 0, sticky: false, kind: FaultKind::Io });
        let failed = put(&orders, 2, Durability::Immediate);
        assert!(matches!(failed, Err(Error::OutcomeUnknown { .. })), "{failed:?}");
        assert!(world_of(&db)?["orders"].len() == 1, "it is shown");
        Ok(())
    });
}

/// Rule 16, with small commits: a log that is damaged before its end is an error, and not a shorter log.
#[test]
fn a_log_of_small_commits_damaged_in_the_middle_is_not_a_shorter_log() {
    const COMMITS: u8 = 5;
    tells_apart(Sabotage::TrustsLogEnd, |sabotage| {
        let disk = SimDisk::new();
        let (db, [orders, _]) = two_families(&disk, sabotage)?;
        for key in 0..COMMITS {
            put(&orders, key, Durability::Immediate)?;
        }
        assert!(db.stats()?.file.unwritten_bytes > 0, "what they did is in memory");
        let disk = disk.kill();
        let bytes = disk.contents();
        let is_group = |at: &usize| bytes[at + 8..at + 12] == *b"SPNL";
        let seq_at = |at: &usize| u64::from_le_bytes(bytes[at + 48..at + 56].try_into().unwrap());
        let mut groups: Vec<usize> = (0..bytes.len()).step_by(4096).filter(is_group).collect();
        groups.sort_by_key(seq_at);
        let newest = groups.split_off(groups.len() - usize::from(COMMITS));
        for (number, at) in newest.iter().enumerate() {
            let damaged = disk.fork();
            damaged.corrupt(*at as u64 + 84, &[0xA5; 8]);
            let is_last = number + 1 == newest.len();
            match open(&damaged, &options(1, sabotage)).and_then(|db| world_of(&db)) {
                Err(Error::Damaged { .. }) => {}
                // Nothing says that the last group was there but the group itself.
                Ok(world) if is_last => assert_eq!(world["orders"].len(), usize::from(COMMITS) - 1),
                other => panic!("group {number}: {:?}", other.map(|world| world["orders"].len())),
            }
        }
        Ok(())
    });
}

/// Each canonical workload tells at least one broken engine apart, so none of them is there for nothing.
#[test]
fn every_canonical_workload_notices_something() {
    if is_repetition() {
        return;
    }
    let rules = [Sabotage::SmallGroupsUnsynced, Sabotage::SuperblockFirst, Sabotage::ImageClaimsSync];
    let unnoticed = |workload: &canonical::Workload| {
        !rules.iter().any(|&rule| {
            let attempt = catch_unwind(AssertUnwindSafe(|| -> Result<()> {
                let run = Run::scripted(&workload.ops, workload.seed, Some(rule))?;
                let limits = EnumerationLimits { images_max: 2000, ..EnumerationLimits::PULL_REQUEST };
                Exploration::new("").limits(limits).threads(1).run(&run.recording, |crash| run.check(crash));
                Ok(())
            }));
            !matches!(attempt, Ok(Ok(())))
        })
    };
    let all = canonical::all();
    let idle: Vec<_> = quietly(|| all.iter().filter(|w| unnoticed(w)).map(|w| w.name).collect());
    assert!(idle.is_empty(), "{idle:?}");
}
