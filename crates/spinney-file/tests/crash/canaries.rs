//! One engine broken on purpose for each rule. Most are noticed by random runs; some break what random runs do not
//! reach, and have a scenario of their own, which the healthy engine must pass.

use crate::support::{OWNERS, Run, SlowDisk, check_accounting, commit_of, commit_page, small, state_of, until};
use spinney_file::{
    CallSet, Durability, EnumerationLimits, Fault, FaultKind, FileError, PagedFile, PowerCut, Sabotage, SimDisk, Wait,
};
use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    sync::{
        Arc, Once, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

/// Runs the harness over an engine with one rule broken; `Some` with what noticed it, and after how many images.
fn caught(sabotage: Sabotage) -> Option<(u64, String)> {
    let mut images = 0;
    for seed in 0..30 {
        let attempt = catch_unwind(|| -> Result<u64, String> {
            let run = Run::record(seed, 40, Some(sabotage)).map_err(|e| format!("the run itself: {e}"))?;
            let mut count = 0;
            for image in
                run.recording.images(&EnumerationLimits { images_max: 3000, ..EnumerationLimits::PULL_REQUEST }, seed)
            {
                count += 1;
                run.check(&image, count % 20 == 0).map_err(|e| format!("{count} images: {e}"))?;
            }
            Ok(count)
        });
        match attempt {
            Ok(Ok(count)) => images += count,
            Ok(Err(what)) => return Some((images, what)),
            Err(panic) => return Some((images, words(&*panic))),
        }
    }
    None
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let literal = || panic.downcast_ref::<&str>().map(|&s| s.to_owned());
    panic.downcast_ref::<String>().cloned().or_else(literal).unwrap_or_else(|| "a panic".to_owned())
}

thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });

/// Does something that panics when all is well, without a word on this thread.
fn quietly<T>(f: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.get() {
                hook(info)
            }
        }));
    });
    QUIET.set(true);
    let done = f();
    QUIET.set(false);
    done
}

#[test]
fn the_harness_notices_each_broken_rule() {
    let broken = [
        Sabotage::SpillKeepsStamp,
        Sabotage::ImageSkipsAPage,
        Sabotage::ImageClaimsSync,
        Sabotage::GroupCoversItselfOnly,
        Sabotage::ForgetsSnapshots,
        Sabotage::ReusesAtOnce,
        Sabotage::SuperblockFirst,
        Sabotage::TrustsImages,
        Sabotage::NoRecoveredRecord,
        Sabotage::ForgetsClaims,
        Sabotage::FirstImage,
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
fn tells_apart(rule: Sabotage, scenario: impl Fn(Option<Sabotage>) -> Result<(), FileError>) {
    scenario(None).unwrap_or_else(|e| panic!("the healthy engine: {e}"));
    match quietly(|| catch_unwind(AssertUnwindSafe(|| scenario(Some(rule))))) {
        Ok(Ok(())) => panic!("{rule:?} went unnoticed"),
        Ok(Err(error)) => println!("{rule:?}: {error}"),
        Err(panic) => println!("{rule:?}: {}", words(&*panic)),
    }
}

fn open(disk: &SimDisk, sabotage: Option<Sabotage>) -> Result<PagedFile, FileError> {
    PagedFile::open(Arc::new(disk.clone()), small(sabotage))
}

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

/// Where a slot begins, and the number of the superblock in it.
fn superblocks(disk: &SimDisk) -> [(u64, u64); 2] {
    let bytes = disk.contents();
    [0, 4096].map(|at: usize| (at as u64, u64::from_le_bytes(bytes[at + 56..at + 64].try_into().unwrap())))
}

fn older_and_newest(disk: &SimDisk) -> (u64, u64) {
    let [first, second] = superblocks(disk);
    if first.1 < second.1 { (first.0, second.0) } else { (second.0, first.0) }
}

fn rot(disk: &SimDisk, at: u64) {
    disk.corrupt(at + 100, &[0xA5; 64]);
}

/// Rule 14.
#[test]
fn a_damaged_older_superblock_does_no_harm() {
    tells_apart(Sabotage::NoAnchor, |sabotage| {
        for commits in 1..6 {
            let disk = SimDisk::new();
            let file = open(&disk, sabotage)?;
            for number in 1..=commits {
                commit_page(&file, OWNERS[1], number)?;
                file.checkpoint()?;
            }
            file.close()?;
            drop(file);
            rot(&disk, older_and_newest(&disk).0);
            let file = open(&disk, sabotage)?;
            let (state, pages) = state_of(&file)?;
            assert_eq!(commit_of(&state), commits);
            check_accounting(&file, pages)?;
        }
        Ok(())
    });
}

/// Rule 15: with the newest superblock gone, the older one counts only if its log goes on from it. (As long as anything newer is
/// left in the log, rule 16 notices too: here nothing is.)
#[test]
fn an_older_superblock_without_its_log_is_not_used() {
    tells_apart(Sabotage::AnySuperblock, |sabotage| {
        let disk = SimDisk::new();
        let file = open(&disk, sabotage)?;
        for number in 1..=3 {
            commit_page(&file, OWNERS[1], number)?;
            file.checkpoint()?;
        }
        let log = file.own_extents()?[0];
        drop(file);
        rot(&disk, older_and_newest(&disk).1);
        disk.corrupt(log.start.get() * 4096, &vec![0; log.pages as usize * 4096]);
        let opened = open(&disk, sabotage).and_then(|file| state_of(&file));
        assert!(matches!(opened, Err(FileError::Damaged { .. })), "{opened:?}");
        Ok(())
    });
}

/// Rules 14 to 16 together: the newest superblock is lost after any number of commits, with a log that wraps between two checkpoints.
#[test]
fn without_the_newest_superblock_the_state_is_the_newest_or_an_error() {
    let mut options = small(None);
    options.tuning.log_bytes_max = options.tuning.log_bytes;
    let (mut opened, mut refused) = (0, 0);
    for commits in 1..60 {
        let disk = SimDisk::new();
        let file = PagedFile::open(Arc::new(disk.clone()), options.clone()).unwrap();
        for number in 1..=commits {
            commit_page(&file, OWNERS[1], number).unwrap();
        }
        let disk = disk.kill();
        rot(&disk, older_and_newest(&disk).1);
        match open(&disk, None) {
            Ok(file) => {
                // As long as the log reaches back to the older superblock, nothing is lost.
                let (state, pages) = state_of(&file).unwrap();
                assert_eq!(commit_of(&state), commits, "an older state");
                check_accounting(&file, pages).unwrap();
                opened += 1;
            }
            Err(FileError::Damaged { .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    println!("{opened} opened, {refused} refused");
    assert!(opened > 5 && refused > 5, "{opened} opened, {refused} refused");
}

/// Rules 14 and 15 at every moment of random runs. Without the older superblock nothing is lost; without the newest one nothing wrong is shown.
#[test]
fn a_damaged_superblock_leads_to_the_right_state_or_to_an_error() {
    let limits = EnumerationLimits { images_per_cut_max: 2, ..EnumerationLimits::QUICK };
    let (mut opened, mut refused, mut refused_for_the_older) = (0, 0, 0);
    for seed in 100..104 {
        let run = Run::record(seed, 60, None).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        for image in run.recording.images(&limits, seed) {
            let (acknowledged, begun) = Run::bounds(&image);
            if image.disk().contents().len() < 8192 {
                continue; // not created yet
            }
            let newest = older_and_newest(&image.disk()).1;
            for at in [0, 4096] {
                let disk = image.disk();
                rot(&disk, at);
                match open(&disk, None).and_then(|file| state_of(&file)) {
                    Ok((state, _)) => {
                        let commit = commit_of(&state);
                        let what = format!("slot at {at}, seed {seed}, {}", image.describe());
                        assert!((acknowledged..=begun).contains(&commit), "{commit}: {what}");
                        assert_eq!(state, run.states[commit as usize], "{what}");
                        opened += 1;
                    }
                    Err(FileError::Damaged { .. } | FileError::NotADatabase) if at != newest => {
                        refused_for_the_older += 1;
                    }
                    // What only the older of the two names is overwritten by a checkpoint on its way, or given back.
                    Err(
                        FileError::Damaged { .. }
                        | FileError::NotADatabase
                        | FileError::Corrupt { .. }
                        | FileError::Truncated { .. },
                    ) if at == newest => refused += 1,
                    Err(other) => panic!("slot at {at}, seed {seed}, {}: {other}", image.describe()),
                }
            }
        }
    }
    println!("{opened} opened, {refused} refused, {refused_for_the_older} for the older superblock");
    assert!(opened > 500 && refused > 100, "{opened} opened, {refused} refused");
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
    crate::support::Tree::of(txn.part(OWNERS[1]).unwrap()).unwrap();
    txn.commit(Durability::Immediate).unwrap();
    let survivor = disk.power_cut(PowerCut::LoseAll);
    assert_eq!(commit_of(&state_of(&open(&survivor, None).unwrap()).unwrap().0), 1);
}
