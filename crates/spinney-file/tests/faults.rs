//! Each call to the storage fails in turn, once or from then on: never a panic, never wrong data, never a lost page, and a
//! way back in the end.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod support;

use rand::{Rng, SeedableRng, rngs::SmallRng};
use spinney_file::{
    CallSet, Durability, EnumerationLimits, Fault, FaultKind, FileError, Owner, PagedFile, PowerCut, SimDisk, Wait,
};
use std::sync::Arc;
use support::{OWNERS, Run, Runner, Tree, check_accounting, commit, commit_of, commit_page, small, state_in, state_of};

/// What goes wrong in a sweep, with the calls it can happen to.
const KINDS: [(FaultKind, CallSet, bool); 11] = [
    (FaultKind::Io, CallSet::ALL, false),
    (FaultKind::Io, CallSet::ALL, true),
    (FaultKind::NoSpace, CallSet::CHANGES, false),
    (FaultKind::NoSpace, CallSet::CHANGES, true),
    (FaultKind::Interrupted, CallSet::ALL, false),
    (FaultKind::Interrupted, CallSet::ALL, true),
    (FaultKind::WouldBlock, CallSet::ALL, false),
    (FaultKind::Short(1), CallSet::ALL, false),
    (FaultKind::Short(511), CallSet::ALL, true),
    // To read nothing means the end of the file, which is not a fault.
    (FaultKind::Short(0), CallSet::WRITES, false),
    (FaultKind::Short(0), CallSet::WRITES, true),
];

/// Errors that a failing disk may lead to; anything else would blame the data.
fn is_honest(error: &FileError) -> bool {
    match error {
        FileError::CheckpointFailed(why) => is_honest(why),
        FileError::Io { .. }
        | FileError::Full { .. }
        | FileError::Poisoned
        | FileError::CommitOutcomeUnknown { .. } => true,
        _ => false,
    }
}

/// Steps of one run: about 150 calls to the storage.
const STEPS: u32 = 20;

/// One run with one fault. Returns whether it struck.
fn run_with(fault: Fault, seed: u64) -> bool {
    let disk = SimDisk::new();
    disk.inject(fault);
    let mut runner = Runner::new(disk.clone(), small(None), seed);
    for _ in 0..STEPS {
        if let Err(error) = runner.step() {
            assert!(is_honest(&error), "{error}");
            assert!(disk.faults_fired() > 0, "nothing was wrong: {error}");
        }
    }
    let fired = disk.faults_fired() > 0;
    // What was acknowledged survives a power cut at this moment, whatever went wrong before.
    let image = disk.fork().power_cut(PowerCut::Random(seed));
    let (state, _) = state_of(&PagedFile::open(Arc::new(image), small(None)).unwrap()).unwrap();
    let survived = commit_of(&state);
    assert!(runner.acknowledged <= survived, "{} was acknowledged, {survived} survived", runner.acknowledged);
    assert_eq!(Some(&state), runner.states.get(survived as usize), "what survived");

    disk.lift_faults();
    runner.check_held().unwrap();
    if let Some(file) = runner.file.clone() {
        runner.shown_by(&file.snapshot()).unwrap();
        if file.stats().poisoned {
            let refused = file.begin(&OWNERS, Wait::Never);
            assert!(matches!(refused, Err(FileError::Poisoned)), "{refused:?}");
            assert!(matches!(file.checkpoint(), Err(FileError::Poisoned)));
            assert!(matches!(file.reclaim(1 << 20), Err(FileError::Poisoned)));
            runner.forget();
        } else {
            go_on(&file, &mut runner);
        }
    }
    runner.forget();
    runner.open().unwrap();
    let file = runner.file.clone().unwrap();
    go_on(&file, &mut runner);
    fired
}

/// The file works: it takes a commit and a checkpoint, and no page is missing.
fn go_on(file: &PagedFile, runner: &mut Runner) {
    let number = runner.states.len() as u64;
    let mut state = runner.states[runner.states.len() - 1].clone();
    let (_, content) =
        commit(file, OWNERS[1], number, Durability::Immediate, |tree, part| tree.add_page(part, number)).unwrap();
    state.insert(OWNERS[1], content);
    runner.states.push(state);
    runner.acknowledge();
    file.checkpoint().unwrap();
    let (state, pages) = state_of(file).unwrap();
    assert_eq!(Some(&state), runner.states.last());
    assert_eq!(file.stats().pages.lent, 0, "no transaction is open");
    check_accounting(file, pages).unwrap();
}

/// Every call of one random run, in every way.
fn sweep(seed: u64) -> u64 {
    let mut runs = 0;
    for (kind, calls, sticky) in KINDS {
        for after in 0.. {
            let fault = Fault { calls, after, sticky, kind };
            let done = std::panic::catch_unwind(|| run_with(fault, seed));
            match done {
                Ok(true) => runs += 1,
                Ok(false) => break,
                Err(panic) => {
                    eprintln!("seed {seed}: {fault:?}");
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }
    runs
}

#[test]
fn no_failing_call_loses_or_leaks_anything() {
    let runs: u64 = (0..3).map(sweep).sum();
    println!("{runs} runs");
    assert!(runs > 1000, "{runs} runs");
}

#[test]
fn no_failing_call_loses_or_leaks_anything_in_other_runs() {
    let runs: u64 = (100..103).map(sweep).sum();
    println!("{runs} runs");
    assert!(runs > 1000, "{runs} runs");
}

fn open(disk: &SimDisk) -> Result<PagedFile, FileError> {
    PagedFile::open(Arc::new(disk.clone()), small(None))
}

/// Opening after a crash, with every call failing in turn: an honest error, and a later opening succeeds.
#[test]
fn no_failing_call_of_a_recovery_does_harm() {
    let limits = EnumerationLimits { images_per_cut_max: 1, ..EnumerationLimits::QUICK };
    let (mut failed, mut opened) = (0, 0);
    for seed in 0..4 {
        let run = Run::record(seed, 30, None).unwrap();
        for image in run.recording.images(&limits, seed).step_by(17) {
            for (kind, calls, sticky) in KINDS {
                for after in 0.. {
                    let disk = image.disk();
                    disk.set_seed(after);
                    let fault = Fault { calls, after, sticky, kind };
                    disk.inject(fault);
                    let what = || format!("seed {seed}, {fault:?}, {}", image.describe());
                    match open(&disk) {
                        Ok(_) => opened += 1,
                        Err(error) => {
                            assert!(is_honest(&error), "{error}: {}", what());
                            failed += 1;
                        }
                    }
                    let fired = disk.faults_fired() > 0;
                    disk.lift_faults();
                    let cut = disk.fork().power_cut(PowerCut::Random(after));
                    for later in [cut, disk] {
                        run.check_at_rest(&later, &image).unwrap_or_else(|e| panic!("{e}: {}", what()));
                    }
                    if !fired {
                        break;
                    }
                }
            }
        }
    }
    println!("{failed} openings failed, {opened} succeeded");
    assert!(failed > 1000 && opened > 500, "{failed} openings failed, {opened} succeeded");
}

/// A failed sync: nothing more is accepted, whoever waited is told, readers go on; opening anew decides.
#[test]
fn a_failed_sync_ends_writing_and_not_reading() {
    for seed in 0..20 {
        let disk = SimDisk::new();
        disk.set_seed(seed);
        let file = open(&disk).unwrap();
        commit_page(&file, OWNERS[1], 1).unwrap();
        let old = file.snapshot();
        commit_page(&file, OWNERS[1], 2).unwrap();
        let add = |tree: &mut Tree, part: &mut spinney_file::Part| tree.add_page(part, 3);
        let (eventual, _) = commit(&file, OWNERS[2], 3, Durability::Eventual, add).unwrap();
        let mut open_txn = file.begin(&OWNERS[..1], Wait::Never).unwrap();
        Tree::of(open_txn.part(OWNERS[0]).unwrap()).unwrap().store(open_txn.part(OWNERS[0]).unwrap(), 4).unwrap();

        disk.inject(Fault { calls: CallSet::SYNC, after: 0, sticky: false, kind: FaultKind::Io });
        let unknown = file.wait_durable(eventual);
        assert!(matches!(unknown, Err(FileError::CommitOutcomeUnknown { seq }) if seq == eventual), "{unknown:?}");
        assert!(file.stats().poisoned);
        let syncs = disk.counts().sync_data;
        // The next sync would succeed; nobody tries.
        assert!(matches!(open_txn.commit(Durability::Immediate), Err(FileError::Poisoned)));
        assert!(matches!(commit_page(&file, OWNERS[1], 4), Err(FileError::Poisoned)));
        assert!(matches!(file.flush(), Err(FileError::CommitOutcomeUnknown { .. })));
        assert!(matches!(file.checkpoint(), Err(FileError::Poisoned)));
        let (shown, _) = state_of(&file).unwrap();
        assert_eq!((shown[&OWNERS[1]].commit, shown[&OWNERS[2]].commit), (2, 3), "what was visible stays so");
        assert_eq!(commit_of(&state_in(&old, &OWNERS).unwrap().0), 1, "an old snapshot");
        assert!(matches!(file.close(), Err(FileError::Poisoned)));
        drop((old, file));
        assert_eq!(disk.counts().sync_data, syncs, "no sync after one that failed");

        let file = open(&disk).unwrap();
        let (state, pages) = state_of(&file).unwrap();
        assert_eq!(state[&OWNERS[1]].commit, 2, "acknowledged");
        check_accounting(&file, pages).unwrap();
        commit_page(&file, OWNERS[1], 4).unwrap();
    }
}

/// A checkpoint that fails for want of space or by an error is as if it had not been tried, however often, also with a full log.
#[test]
fn checkpoints_may_fail_for_ever_and_then_succeed() {
    let mut failures = 0;
    for kind in [FaultKind::NoSpace, FaultKind::Io, FaultKind::Short(0)] {
        let disk = SimDisk::new();
        let file = open(&disk).unwrap();
        let mut number = 0;
        for round in 0..10 {
            disk.inject(Fault { calls: CallSet::WRITE | CallSet::ALLOCATE, after: 0, sticky: true, kind });
            for _ in 0..20 {
                // One right after another may have nothing to write but a superblock.
                failures += u64::from(file.checkpoint().is_err());
                assert!(!file.stats().poisoned, "round {round}");
            }
            disk.lift_faults();
            // Commits until the log has to be recycled.
            for _ in 0..round + 3 {
                number += 1;
                commit_page(&file, OWNERS[number as usize % 3], number)
                    .unwrap_or_else(|e| panic!("round {round}: {e}"));
            }
        }
        file.checkpoint().unwrap();
        let (state, pages) = state_of(&file).unwrap();
        assert_eq!(commit_of(&state), number);
        check_accounting(&file, pages).unwrap();
    }
    assert!(failures > 300, "{failures} failures");
}

/// Fills the file until there is no space; returns the newest number.
fn fill_up(file: &PagedFile, mut number: u64, rng: &mut SmallRng) -> u64 {
    let largest = rng.random_range(1..6);
    loop {
        assert!(number < 10_000, "it is never full");
        let owner = OWNERS[rng.random_range(0..3)];
        let filled =
            commit(file, owner, number + 1, Durability::Immediate, |tree, part| match rng.random_range(1..=largest) {
                1 => tree.add_page(part, number),
                pages => tree.add_extent(part, number, pages),
            });
        match filled {
            Ok(_) => number += 1,
            Err(error) => {
                let full = match &error {
                    FileError::CheckpointFailed(why) => matches!(**why, FileError::Full { .. }),
                    other => matches!(other, FileError::Full { .. }),
                };
                assert!(full && !file.stats().poisoned, "{error}");
                return number;
            }
        }
    }
}

/// Takes away half of what the owner that holds most has; names it, and says how many pages that freed.
fn delete_half(file: &PagedFile, number: u64) -> Result<(Owner, u64), FileError> {
    let (state, pages) = state_of(file)?;
    let (&owner, _) = state.iter().max_by_key(|(_, content)| content.pages.len() + 2 * content.extents.len()).unwrap();
    commit(file, owner, number, Durability::Immediate, |tree, part| {
        let content = tree.content();
        (0..content.pages.len().div_ceil(2)).for_each(|_| tree.remove_page(part, 0));
        (0..content.extents.len().div_ceil(2)).for_each(|_| tree.remove_extent(part, 0));
        Ok(())
    })?;
    Ok((owner, pages - state_of(file)?.1))
}

/// A full disk, or a file at its size limit: an error of its own, and deleting makes room again.
#[test]
fn a_full_file_can_be_emptied() {
    let (mut refused, mut filled) = (0, 0);
    for bytes in (0..600 << 10).step_by(4096) {
        for limit_of_file in [false, true] {
            let mut rng = SmallRng::seed_from_u64(bytes);
            let disk = SimDisk::new();
            let mut options = small(None);
            if limit_of_file {
                options.max_file_bytes = bytes;
            } else {
                disk.set_capacity(Some(bytes));
            }
            let file = match PagedFile::open(Arc::new(disk.clone()), options.clone()) {
                Ok(file) => file,
                Err(error) => {
                    assert!(matches!(error, FileError::Full { .. }), "{bytes}: {error}");
                    disk.set_capacity(None);
                    open(&disk).unwrap_or_else(|e| panic!("{bytes}: with room: {e}"));
                    refused += 1;
                    continue;
                }
            };
            let mut number = 0;
            for round in 0..3 {
                number = fill_up(&file, number, &mut rng);
                if number == 0 {
                    break; // not even one commit fits
                }
                file.checkpoint().unwrap_or_else(|e| panic!("{bytes}: a checkpoint needs no space: {e}"));
                let (state, pages) = state_of(&file).unwrap();
                check_accounting(&file, pages).unwrap();
                number += 1;
                let (owner, freed) = delete_half(&file, number).unwrap_or_else(|e| {
                    panic!("{bytes}, {limit_of_file}, round {round}: {e}\n{:?}\n{state:?}", file.stats())
                });
                // A checkpoint makes it free; one that fails first takes nothing away.
                disk.inject(Fault { calls: CallSet::WRITE, after: 0, sticky: true, kind: FaultKind::Io });
                drop(file.checkpoint());
                disk.lift_faults();
                for _ in 0..freed.div_ceil(2) {
                    number += 1;
                    commit_page(&file, owner, number).unwrap_or_else(|e| panic!("{bytes}: {e}"));
                }
                filled += 1;
            }
            file.checkpoint().unwrap();
            let (state, pages) = state_of(&file).unwrap();
            check_accounting(&file, pages).unwrap();
            file.close().unwrap();
            drop(file);
            let file = PagedFile::open(Arc::new(disk.clone()), options).unwrap_or_else(|e| panic!("{bytes}: {e}"));
            assert_eq!(state_of(&file).unwrap().0, state, "{bytes}");
        }
    }
    println!("{refused} refused, {filled} filled and emptied");
    assert!(refused > 50 && filled > 300, "{refused} refused, {filled} filled");
}

/// The log grows with a checkpoint that fails, while its end lies before its beginning: commits go on, and what was acknowledged stays.
#[test]
fn a_log_that_grew_in_vain_keeps_its_beginning() {
    let mut grown = 0;
    // Earlier checkpoints move the beginning; each write that follows fails.
    for (checkpoints, failing) in (0..6).flat_map(|c| (0..20).map(move |f| (c, f))) {
        let disk = SimDisk::new();
        let file = open(&disk).unwrap();
        let mut number = 0;
        for _ in 0..checkpoints {
            number += 1;
            commit_page(&file, OWNERS[1], number).unwrap();
            file.checkpoint().unwrap();
        }
        let blocks = file.stats().log.blocks;
        disk.inject(Fault { calls: CallSet::WRITE, after: failing, sticky: false, kind: FaultKind::Io });
        for _ in 0..20 {
            number += u64::from(commit_page(&file, OWNERS[1], number + 1).is_ok());
            let stats = file.stats();
            grown += u64::from(stats.checkpoints_failed > 0 && stats.log.blocks > blocks);
            let survivor = disk.fork().power_cut(PowerCut::LoseAll);
            let what = format!("write {failing} failed after {checkpoints} checkpoints");
            let (state, _) = open(&survivor).and_then(|file| state_of(&file)).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(commit_of(&state), number, "{what}");
        }
    }
    assert!(grown > 0, "no log grew in vain");
}

/// A checkpoint that fails leaves pages behind. One of the next that is lost must not be taken for them.
#[test]
fn what_a_failed_checkpoint_left_is_never_taken_for_a_later_one() {
    let (mut noticed, mut unharmed) = (0, 0);
    for failing in 0..8 {
        for lost in 0..8 {
            let disk = SimDisk::new();
            let file = open(&disk).unwrap();
            commit_page(&file, OWNERS[1], 1).unwrap();
            file.checkpoint().unwrap();
            commit_page(&file, OWNERS[1], 2).unwrap();
            disk.inject(Fault { calls: CallSet::WRITE, after: failing, sticky: false, kind: FaultKind::Short(0) });
            drop(file.checkpoint());
            disk.lift_faults();
            commit_page(&file, OWNERS[1], 3).unwrap();
            disk.inject(Fault { calls: CallSet::WRITE, after: lost, sticky: false, kind: FaultKind::Lost });
            file.checkpoint().unwrap();
            drop(file);
            match open(&disk).and_then(|file| state_of(&file)) {
                Ok((state, _)) => {
                    assert_eq!(commit_of(&state), 3, "write {failing} failed, {lost} was lost");
                    unharmed += 1;
                }
                Err(error) => {
                    assert!(matches!(error, FileError::Corrupt { .. }), "{error}");
                    noticed += 1;
                }
            }
        }
    }
    assert!(noticed > 10 && unharmed > 10, "{noticed} noticed, {unharmed} unharmed");
}

/// A log that cannot become larger is as good as before, and becomes larger when it can.
#[test]
fn a_log_that_cannot_grow_fails_no_checkpoint() {
    let replace = |file: &PagedFile, number: u64| {
        commit(file, OWNERS[1], number, Durability::Immediate, |tree, part| {
            if !tree.content().pages.is_empty() {
                tree.remove_page(part, 0);
            }
            tree.add_page(part, number)
        })
    };
    for kind in [FaultKind::Io, FaultKind::NoSpace] {
        let disk = SimDisk::new();
        let mut options = small(None);
        options.tuning.log_bytes_max = 1 << 20;
        let open = |disk: &SimDisk| PagedFile::open(Arc::new(disk.clone()), options.clone());
        // No space for it in the file, and the file cannot grow.
        let file = open(&disk).unwrap();
        disk.inject(Fault { calls: CallSet::ALLOCATE, after: 0, sticky: true, kind });
        (1..200).for_each(|number| drop(replace(&file, number).unwrap()));
        assert!(disk.faults_fired() > 0);
        let stats = file.stats();
        assert_eq!(stats.checkpoints_failed, 0);
        disk.lift_faults();
        (200..400).for_each(|number| drop(replace(&file, number).unwrap()));
        assert!(file.stats().log.blocks > stats.log.blocks, "it grows in the end");

        // Space, but its zeros cannot be written.
        let disk = SimDisk::new();
        let file = open(&disk).unwrap();
        let mut number = 0;
        let blocks = file.stats().log.blocks;
        while 2 * (file.stats().log.used_blocks + 1) <= blocks {
            number += 1;
            replace(&file, number).unwrap();
        }
        let before = disk.fork().kill();
        drop(file);
        let mut as_small = 0;
        // Which commit makes the checkpoint, and which of its writes are the zeros, is not for this test to know.
        for (healthy, after) in (0..4).flat_map(|healthy| (0..12).map(move |after| (healthy, after))) {
            let disk = before.fork();
            let file = open(&disk).unwrap();
            for _ in 0..healthy {
                number += 1;
                replace(&file, number).unwrap();
            }
            if file.stats().checkpoints > 0 {
                continue;
            }
            number += 1;
            disk.inject(Fault { calls: CallSet::WRITE, after, sticky: false, kind });
            let replaced = replace(&file, number);
            let stats = file.stats();
            if replaced.is_ok() && disk.faults_fired() > 0 && stats.checkpoints > 0 && stats.checkpoints_failed == 0 {
                assert_eq!(stats.log.blocks, blocks, "write {after}: it stays as it is");
                as_small += 1;
            }
        }
        assert!(as_small > 0, "one of the writes was of zeros");
    }
}

/// What commits while the file is being closed is refused, or on the disk once both have returned.
#[test]
fn a_commit_that_races_with_close_is_refused_or_durable() {
    let disk = SimDisk::new();
    let file = open(&disk).unwrap();
    commit_page(&file, OWNERS[1], 1).unwrap();
    let racing = std::sync::Mutex::new(Some(file.clone()));
    disk.observe(move |_: u64, _: u64| {
        // The commit's first page is about to be written: it has been let in.
        let file = racing.lock().unwrap().take();
        if let Some(file) = file {
            file.close().unwrap();
        }
    });
    let add = |tree: &mut Tree, part: &mut spinney_file::Part| tree.add_page(part, 2);
    let committed = commit(&file, OWNERS[1], 2, Durability::Eventual, add);
    let expected = match &committed {
        Ok(_) => 2,
        Err(error) => {
            assert!(matches!(error, FileError::Closed), "{error}");
            1
        }
    };
    let cut = disk.fork().power_cut(PowerCut::LoseAll);
    assert_eq!(commit_of(&state_of(&open(&cut).unwrap()).unwrap().0), expected, "{committed:?}");
    assert!(matches!(commit_page(&file, OWNERS[1], 3), Err(FileError::Closed)));
}

/// A panic somewhere in the program takes no commit with it.
#[test]
fn a_file_dropped_by_a_panic_keeps_what_was_committed() {
    let disk = SimDisk::new();
    let theirs = disk.clone();
    let panicked = std::thread::spawn(move || {
        let file = open(&theirs).unwrap();
        let add = |tree: &mut Tree, part: &mut spinney_file::Part| tree.add_page(part, 1);
        commit(&file, OWNERS[1], 1, Durability::Eventual, add).unwrap();
        panic!("as a test wants it");
    })
    .join();
    assert!(panicked.is_err());
    let cut = disk.fork().power_cut(PowerCut::LoseAll);
    assert_eq!(commit_of(&state_of(&open(&cut).unwrap()).unwrap().0), 1);
}

/// A checkpoint that fails as the file is closed costs time at the next opening and nothing else.
#[test]
fn closing_flushes_also_when_its_checkpoint_fails() {
    let disk = SimDisk::new();
    let file = open(&disk).unwrap();
    commit_page(&file, OWNERS[1], 1).unwrap();
    let add = |tree: &mut Tree, part: &mut spinney_file::Part| tree.add_page(part, 2);
    for after in 0..6 {
        let disk = disk.fork();
        let file = open(&disk).unwrap();
        commit(&file, OWNERS[1], 2, Durability::Eventual, add).unwrap();
        disk.inject(Fault { calls: CallSet::READ | CallSet::WRITE, after, sticky: true, kind: FaultKind::Io });
        let closed = file.close();
        let poisoned = file.stats().poisoned;
        disk.lift_faults();
        let cut = disk.fork().power_cut(PowerCut::LoseAll);
        let survived = commit_of(&state_of(&open(&cut).unwrap()).unwrap().0);
        assert!(survived == 2 || poisoned && closed.is_err(), "call {after}: {closed:?}");
    }
}
