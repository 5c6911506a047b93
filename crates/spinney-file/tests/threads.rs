//! Real threads: writers of their own owners and of shared ones, readers, checkpoints and reclaiming, all at the same time.
//!
//! Every transaction writes its number in two places that must agree, so a snapshot that shows half of one is noticed.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod support;

use rand::{Rng, SeedableRng, rngs::SmallRng};
use spinney_file::{Durability, FileError, FileOptions, Owner, PagedFile, SimDisk, Snapshot, Storage, Tuning, Wait};
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};
use support::{SlowDisk, State, Tree, check_accounting, commit_page, state_in, until};

/// Two owners that everybody writes.
const SHARED: [Owner; 2] = [Owner(1), Owner(2)];
/// Writers with an owner of their own.
const OWN: usize = 8;
/// Writers of both shared owners and of nothing else.
const BOTH: usize = 2;
const WRITERS: usize = OWN + BOTH;

fn own(writer: usize) -> Owner {
    Owner(100 + 20 * writer as u32)
}

fn all_owners() -> Vec<Owner> {
    SHARED.into_iter().chain((0..OWN).map(own)).collect()
}

/// Page ids of a shared owner: which writer's turn it was last, in that writer's page.
fn id(writer: usize, number: u64) -> u64 {
    (writer as u64) << 32 | number
}

fn numbers(state: &State, shared: usize) -> Vec<u64> {
    state.get(&SHARED[shared]).map_or(vec![0; WRITERS], |content| {
        content
            .pages
            .iter()
            .enumerate()
            .map(|(writer, page)| {
                assert_eq!(page >> 32, writer as u64, "a page of another writer");
                page & 0xFFFF_FFFF
            })
            .collect()
    })
}

/// Every transaction is there whole or not at all. Returns each writer's newest number.
fn check(snapshot: &Snapshot) -> Result<(State, Vec<u64>), FileError> {
    let (state, _) = state_in(snapshot, &all_owners())?;
    let (first, second) = (numbers(&state, 0), numbers(&state, 1));
    let mut newest = Vec::new();
    for writer in 0..WRITERS {
        let shared = first[writer].max(second[writer]);
        if writer < OWN {
            let own = state.get(&own(writer)).map_or(0, |content| content.commit);
            assert_eq!(own, shared, "writer {writer} at {:?}: its own owner, the shared ones", snapshot.seq());
        } else {
            assert_eq!(first[writer], second[writer], "writer {writer} at {:?}", snapshot.seq());
        }
        newest.push(shared);
    }
    Ok((state, newest))
}

/// Transaction `number` of a writer.
fn write(file: &PagedFile, writer: usize, number: u64, rng: &mut SmallRng) -> Result<(), FileError> {
    let durability = [Durability::Immediate, Durability::Buffered, Durability::Eventual][rng.random_range(0..3)];
    let owners = if writer < OWN { [own(writer), SHARED[rng.random_range(0..2)]] } else { SHARED };
    let mut txn = file.begin(&owners, Wait::Forever)?;
    for owner in owners {
        let part = txn.part(owner).expect("one of its owners");
        let mut tree = Tree::of(part)?;
        if SHARED.contains(&owner) {
            tree.replace_page(part, writer, id(writer, number))?;
        } else {
            for _ in 0..rng.random_range(0..4) {
                tree.add_page(part, number)?;
            }
            if rng.random_ratio(1, 4) {
                tree.add_extent(part, number, rng.random_range(1..6))?;
            }
            let content = tree.content();
            (0..content.pages.len().saturating_sub(8)).for_each(|_| tree.remove_page(part, 0));
            (0..content.extents.len().saturating_sub(2)).for_each(|_| tree.remove_extent(part, 0));
        }
        if rng.random_ratio(1, 10) {
            part.spill()?;
        }
        tree.store(part, number)?;
    }
    if rng.random_ratio(1, 12) {
        txn.abort();
        return write(file, writer, number, rng);
    }
    txn.commit(durability).map(drop)
}

/// A log and a budget so small that they are full all the time.
fn options(background: bool) -> FileOptions {
    FileOptions {
        background,
        budget_bytes: 128 * 4096,
        tuning: Tuning {
            log_bytes: 16 * 4096,
            log_bytes_max: 64 * 4096,
            checkpoint_after_freed_bytes: 64 * 4096,
            sync_first_bytes: 8 * 4096,
            numbers_ahead: 4096,
            ..Tuning::default()
        },
        ..FileOptions::default()
    }
}

fn everybody_at_once(storage: impl Fn() -> Arc<dyn Storage>, background: bool, rounds: u64) {
    let file = PagedFile::open(storage(), options(background)).unwrap();
    let mut txn = file.begin(&SHARED, Wait::Never).unwrap();
    for owner in SHARED {
        let part = txn.part(owner).unwrap();
        let mut tree = Tree::of(part).unwrap();
        (0..WRITERS).for_each(|writer| tree.add_page(part, id(writer, 0)).unwrap());
        tree.store(part, 0).unwrap();
    }
    txn.commit(Durability::Immediate).unwrap();

    let (writing, snapshots) = (AtomicBool::new(true), AtomicU64::new(0));
    thread::scope(|threads| {
        let (file, writing, snapshots) = (&file, &writing, &snapshots);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                threads.spawn(move || {
                    let mut rng = SmallRng::seed_from_u64(writer as u64);
                    for number in 1..=rounds {
                        write(file, writer, number, &mut rng).unwrap_or_else(|e| panic!("writer {writer}: {e}"));
                        let (_, newest) = check(&file.snapshot()).unwrap();
                        assert_eq!(newest[writer], number, "a snapshot taken after a commit contains it");
                    }
                })
            })
            .collect();
        for reader in 0..2 {
            threads.spawn(move || {
                let mut rng = SmallRng::seed_from_u64(1000 + reader);
                let mut held: Vec<(Snapshot, State)> = Vec::new();
                let (mut seq, mut newest) = (file.snapshot().seq(), vec![0; WRITERS]);
                while writing.load(Ordering::Relaxed) {
                    let snapshot = file.snapshot();
                    assert!(seq <= snapshot.seq(), "{seq:?}, then {:?}", snapshot.seq());
                    seq = snapshot.seq();
                    let (state, now) = check(&snapshot).unwrap();
                    assert!(newest.iter().zip(&now).all(|(before, now)| before <= now), "{newest:?}, then {now:?}");
                    newest = now;
                    snapshots.fetch_add(1, Ordering::Relaxed);
                    held.push((snapshot, state));
                    if held.len() > 6 {
                        let (snapshot, state) = held.swap_remove(rng.random_range(0..held.len()));
                        assert_eq!(check(&snapshot).unwrap().0, state, "a snapshot changed");
                    }
                    let some = file.snapshot_of(&SHARED);
                    assert!(some.root(own(0)).unwrap().is_none(), "not covered");
                    state_in(&some, &SHARED).unwrap();
                }
            });
        }
        threads.spawn(move || {
            let mut rng = SmallRng::seed_from_u64(2000);
            while writing.load(Ordering::Relaxed) {
                match rng.random_range(0..3) {
                    0 => drop(file.checkpoint().unwrap()),
                    1 => drop(file.reclaim(rng.random_range(0..64) * 4096).unwrap()),
                    _ => drop(file.flush().unwrap()),
                }
                thread::yield_now();
            }
        });
        let ended: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        writing.store(false, Ordering::Relaxed);
        ended.into_iter().for_each(|ended| ended.unwrap());
    });

    let (state, newest) = check(&file.snapshot()).unwrap();
    assert_eq!(newest, vec![rounds; WRITERS]);
    file.checkpoint().unwrap();
    let (_, pages) = state_in(&file.snapshot(), &all_owners()).unwrap();
    check_accounting(&file, pages).unwrap();
    let stats = file.stats();
    assert_eq!((stats.pages.lent, stats.pages.pinned, stats.snapshots.len()), (0, 0, 0), "nobody is left");
    assert!(stats.log.bytes > stats.log.blocks * 4096, "the log was recycled: {:?}", stats.log);
    assert!(stats.log.blocks > 16, "and it grew: {:?}", stats.log);
    println!(
        "{} snapshots, {} commits, {} checkpoints, log of {} blocks",
        snapshots.load(Ordering::Relaxed),
        stats.appended.0,
        stats.checkpoints,
        stats.log.blocks
    );
    // Without a proper end: what was acknowledged by the checkpoint above is everything.
    drop(file);
    let file = PagedFile::open(storage(), options(background)).unwrap();
    assert_eq!(check(&file.snapshot()).unwrap().0, state);
    let (_, pages) = state_in(&file.snapshot(), &all_owners()).unwrap();
    check_accounting(&file, pages).unwrap();
}

#[test]
fn on_a_simulated_disk() {
    for background in [false, true] {
        let disk = SimDisk::new();
        disk.set_overlap(true);
        everybody_at_once(|| Arc::new(disk.clone()), background, 150);
    }
}

#[test]
fn on_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("threads.spinney");
    let open = || Arc::new(spinney_file::OsFile::open_or_create(&path).unwrap().0) as Arc<dyn Storage>;
    everybody_at_once(open, true, 60);
}

/// Whoever commits while a sync is under way shares the next one.
#[test]
fn eight_commits_take_two_syncs() {
    let opened: Arc<OnceLock<PagedFile>> = Arc::default();
    let syncing = Arc::new(AtomicBool::new(false));
    let after_sync = {
        let (opened, syncing) = (Arc::clone(&opened), Arc::clone(&syncing));
        move || {
            if let Some(file) = opened.get().filter(|_| !syncing.swap(true, Ordering::SeqCst)) {
                let before = file.stats().appended.0;
                until("seven others have appended", || file.stats().appended.0 == before + 7);
            }
        }
    };
    let disk = SimDisk::new();
    let file = PagedFile::open(Arc::new(SlowDisk { disk, after_sync }), options(false)).unwrap();
    let commit_each = |number| (0..8).map(|writer| commit_page(&file, own(writer), number).unwrap()).max();
    commit_each(1);
    file.checkpoint().unwrap();
    opened.set(file.clone()).unwrap();
    syncing.store(false, Ordering::SeqCst);
    let before = file.stats();
    thread::scope(|threads| {
        let file = &file;
        threads.spawn(move || commit_page(file, own(0), 2).unwrap());
        until("the first is in its sync", || syncing.load(Ordering::SeqCst));
        (1..8).for_each(|writer| drop(threads.spawn(move || commit_page(file, own(writer), 2).unwrap())));
    });
    let after = file.stats();
    assert_eq!(after.durable.0 - before.durable.0, 8);
    let syncs = after.io.syncs + after.io.synced_writes - before.io.syncs - before.io.synced_writes;
    assert_eq!((syncs, after.log.groups - before.log.groups), (2, 2), "for eight durable commits");
    // One after the other they take one each.
    assert_eq!(commit_each(3), Some(file.stats().durable));
    assert_eq!(file.stats().io.syncs - after.io.syncs, 8);
}
