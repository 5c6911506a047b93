//! Two superblocks, and which of them counts (rules 14 and 15).

use super::{open, tells_apart};
use crate::support::{OWNERS, Run, check_accounting, commit_of, commit_page, small, state_of};
use spinney_file::{CallSet, EnumerationLimits, Fault, FaultKind, FileError, PagedFile, Sabotage, SimDisk};
use std::sync::Arc;

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

/// Rule 17: a superblock that was torn must not come back. The next one, torn over it, may bring just the sector that it lacked, at a time
/// when what it names has been written anew.
#[test]
fn a_torn_superblock_is_never_completed() {
    tells_apart(Sabotage::LeavesTornSuperblock, |sabotage| {
        let disk = SimDisk::new();
        let file = open(&disk, sabotage)?;
        for number in 1..=3 {
            commit_page(&file, OWNERS[1], number)?;
            file.checkpoint()?;
        }
        drop(file);
        let torn = older_and_newest(&disk).1;
        disk.corrupt(torn + 3584, &[0xA5; 512]);
        let file = open(&disk, sabotage)?;
        commit_page(&file, OWNERS[1], 4)?;
        disk.inject(Fault { calls: CallSet::WRITE_SYNC, after: 0, sticky: false, kind: FaultKind::Io });
        assert!(file.checkpoint().is_err(), "its superblock is not written");
        let disk = disk.kill();
        disk.corrupt(torn + 3584, &[0; 512]);
        let file = open(&disk, sabotage)?;
        let (state, pages) = state_of(&file)?;
        assert_eq!(commit_of(&state), 4);
        check_accounting(&file, pages)
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
