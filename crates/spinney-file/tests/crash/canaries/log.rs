//! What is acknowledged is durable, what is shown is certain, and the log's end is not a matter of opinion (rules 7 to 9, 16).

use super::{open, tells_apart};
use crate::support::{OWNERS, SlowDisk, Tree, commit_of, commit_page, small, state_of, until};
use spinney_file::{CallSet, Durability, Fault, FaultKind, FileError, PagedFile, PowerCut, Sabotage, SimDisk, Wait};
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

/// One call of these fails once.
fn fail_once(disk: &SimDisk, calls: CallSet) {
    disk.inject(Fault { calls, after: 0, sticky: false, kind: FaultKind::Io });
}

/// Rule 8.
#[test]
fn a_commit_that_a_crash_could_take_back_is_never_shown() {
    tells_apart(Sabotage::ShowsUndurable, |sabotage| {
        let disk = SimDisk::new();
        let file = open(&disk, sabotage)?;
        commit_page(&file, OWNERS[1], 1)?;
        fail_once(&disk, CallSet::SYNC | CallSet::WRITE_SYNC);
        let failed = commit_page(&file, OWNERS[1], 2);
        assert!(matches!(failed, Err(FileError::CommitOutcomeUnknown { .. })), "{failed:?}");
        let shown = commit_of(&state_of(&file)?.0);
        assert_eq!(shown, 1, "the newest commit shown");
        let survived = commit_of(&state_of(&open(&disk.power_cut(PowerCut::LoseAll), sabotage)?)?.0);
        assert!(shown <= survived, "{shown} was shown, {survived} survived");
        Ok(())
    });
}

/// Rule 9.
#[test]
fn a_sync_that_failed_is_not_tried_again() {
    tells_apart(Sabotage::RetriesSync, |sabotage| {
        for seed in 0..16 {
            let disk = SimDisk::new();
            disk.set_seed(seed);
            let file = open(&disk, sabotage)?;
            commit_page(&file, OWNERS[1], 1)?;
            fail_once(&disk, CallSet::SYNC);
            let acknowledged = if commit_page(&file, OWNERS[1], 2).is_ok() { 2 } else { 1 };
            let survived = commit_of(&state_of(&open(&disk.power_cut(PowerCut::LoseAll), sabotage)?)?.0);
            assert!(acknowledged <= survived, "{acknowledged} was acknowledged, {survived} survived");
        }
        Ok(())
    });
}

/// Rule 7.
#[test]
fn what_is_appended_during_a_sync_is_not_covered_by_it() {
    tells_apart(Sabotage::DurableReadLate, |sabotage| {
        let opened: Arc<OnceLock<PagedFile>> = Arc::default();
        let syncing = Arc::new(AtomicBool::new(false));
        let after_sync = {
            let (opened, syncing) = (Arc::clone(&opened), Arc::clone(&syncing));
            move || {
                if let Some(file) = opened.get().filter(|_| !syncing.swap(true, Ordering::SeqCst)) {
                    let before = file.stats().appended;
                    until("somebody else appends", || file.stats().appended > before);
                }
            }
        };
        let disk = SimDisk::new();
        let slow = Arc::new(SlowDisk { disk: disk.clone(), after_sync });
        let file = PagedFile::open(slow, small(sabotage))?;
        commit_page(&file, OWNERS[1], 1)?;
        commit_page(&file, OWNERS[2], 1)?;
        syncing.store(false, Ordering::SeqCst);
        opened.set(file.clone()).expect("once");
        let survivor = std::thread::scope(|threads| {
            let first = threads.spawn(|| commit_page(&file, OWNERS[1], 2));
            until("the first commit is in its sync", || syncing.load(Ordering::SeqCst));
            // The power goes the moment the second commit is acknowledged.
            let second = commit_page(&file, OWNERS[2], 2);
            let survivor = disk.fork().power_cut(PowerCut::LoseAll);
            second.and(first.join().expect("no panic")).map(|_| survivor)
        })?;
        let (state, _) = state_of(&open(&survivor, sabotage)?)?;
        assert_eq!(state[&OWNERS[2]].commit, 2, "what the second commit left");
        Ok(())
    });
}

/// Rule 16.
#[test]
fn a_log_damaged_in_the_middle_is_not_a_shorter_log() {
    tells_apart(Sabotage::TrustsLogEnd, |sabotage| {
        const COMMITS: u64 = 4;
        let disk = SimDisk::new();
        let file = open(&disk, sabotage)?;
        for number in 1..=COMMITS {
            commit_page(&file, OWNERS[1], number)?;
        }
        let log = file.own_extents()?[0];
        // The process dies: what follows in the log is what it wrote while it lived.
        let disk = disk.kill();
        let bytes = disk.contents();
        let blocks = (log.start.get()..log.end()).map(|page| page * 4096);
        let groups: Vec<u64> = blocks.filter(|&at| &bytes[at as usize + 8..at as usize + 12] == b"SPNL").collect();
        assert!(groups.len() as u64 >= COMMITS, "a group for each commit");
        for (i, &at) in groups.iter().enumerate() {
            let damaged = disk.fork();
            damaged.corrupt(at + 84, &[0xA5; 8]);
            let opened = open(&damaged, sabotage).and_then(|file| state_of(&file));
            let last = i == groups.len() - 1;
            match opened {
                Err(FileError::Damaged { .. }) => {}
                // Nothing says that the last group was there but the group itself.
                Ok((state, _)) if last => assert_eq!(commit_of(&state), COMMITS - 1),
                other => panic!("group {i} of {}: {:?}", groups.len(), other.map(|(state, _)| commit_of(&state))),
            }
        }
        Ok(())
    });
}

/// A commit of nothing waits for what it read: the certainty is the same as that of a change.
#[test]
fn a_transaction_that_changes_nothing_is_certain_too() {
    let disk = SimDisk::new();
    let file = open(&disk, None).unwrap();
    commit_page(&file, OWNERS[1], 1).unwrap();
    let mut txn = file.begin(&[OWNERS[1]], Wait::Never).unwrap();
    Tree::of(txn.part(OWNERS[1]).unwrap()).unwrap();
    txn.commit(Durability::Immediate).unwrap();
    let survivor = disk.power_cut(PowerCut::LoseAll);
    assert_eq!(commit_of(&state_of(&open(&survivor, None).unwrap()).unwrap().0), 1);
}
