//! A real process, killed at random moments: every commit it reported is there afterwards, and the file is sound.
//!
//! The test runs its own binary again as the child, which commits and reports each commit on a pipe.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

use rand::{Rng, SeedableRng, rngs::SmallRng};
use spinney::{Database, Durability, Error, Options, Result};
use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

const CHILD: &str = "SPINNEY_KILL_CHILD";
const FAMILIES: usize = 4;
const ROUNDS: u64 = 40;

fn family_name(i: usize) -> String {
    format!("family {i}")
}

fn open(path: &Path) -> Result<Database> {
    Options::new().memory_budget(4 << 20).flush_interval(Duration::from_millis(5)).open(path)
}

fn key(counter: u64) -> [u8; 8] {
    counter.to_be_bytes()
}

fn value(writer: usize, counter: u64) -> Vec<u8> {
    let bytes = 1 + (counter as usize * 37 + writer * 11) % if counter.is_multiple_of(17) { 30_000 } else { 900 };
    vec![(counter % 251) as u8; bytes]
}

/// Entries of a large transaction, which replaces all of them: some hundred pages.
const LARGE: u64 = 120;

/// One transaction in so many is a large one.
const LARGE_EVERY: u64 = 23;

fn large_name(i: usize) -> String {
    format!("large {i}")
}

/// What survives a killed process: all that is at least with the operating system.
fn durability(counter: u64) -> Durability {
    match counter % 5 {
        0 => Durability::Eventual,
        1 => Durability::Buffered,
        _ => Durability::Immediate,
    }
}

/// Commits for ever, one thread per family; reports `writer counter` after each commit that must survive. Every other commit also
/// counts in the family that all share, and some replace all entries of another family.
fn child(path: &Path) -> Result<()> {
    let db = open(path)?;
    let shared = db.family("shared")?;
    std::thread::scope(|scope| {
        for writer in 0..FAMILIES {
            let (db, shared) = (&db, &shared);
            scope.spawn(move || -> Result<()> {
                let family = db.family(&family_name(writer))?;
                let large = db.family(&large_name(writer))?;
                let next =
                    db.snapshot().last(&family)?.map_or(0, |(k, _)| u64::from_be_bytes(k[..].try_into().unwrap()) + 1);
                for counter in next.. {
                    let mut members = vec![&family];
                    members.extend(counter.is_multiple_of(2).then_some(shared));
                    members.extend(counter.is_multiple_of(LARGE_EVERY).then_some(&large));
                    let mut txn = db.begin(members)?;
                    txn.family(&family)?.insert(key(counter), value(writer, counter))?;
                    if counter.is_multiple_of(2) {
                        txn.family(shared)?.insert([writer as u8], key(counter))?;
                    }
                    if counter >= 300 {
                        txn.family(&family)?.remove_range(..&key(counter - 300)[..])?;
                    }
                    if counter.is_multiple_of(LARGE_EVERY) {
                        let mut all = txn.family(&large)?;
                        (0..LARGE).try_for_each(|i| all.insert(key(i), value(writer, counter + i)).map(drop))?;
                    }
                    txn.commit_with(durability(counter))?;
                    if durability(counter) != Durability::Eventual {
                        let mut out = std::io::stdout().lock();
                        writeln!(out, "committed {writer} {counter}")
                            .and_then(|()| out.flush())
                            .expect("the parent reads");
                    }
                }
                Ok(())
            });
        }
    });
    Ok(())
}

/// Checks that what should be there is, whole: for somebody who only reads, for the one who recovers, and for the next.
fn verify(path: &Path, reported: &[Option<u64>; FAMILIES]) -> Result<()> {
    match Options::new().read_only(true).open(path) {
        // Killed while it was being made: it is none yet, and nobody who may not write makes it one.
        Err(Error::NotADatabase { .. } | Error::Missing { .. }) if reported.iter().all(Option::is_none) => {}
        db => verify_as(&db?, reported)?,
    }
    let db = open(path)?;
    verify_as(&db, reported)?;
    drop(db);
    verify_as(&open(path)?, reported)
}

fn verify_as(db: &Database, reported: &[Option<u64>; FAMILIES]) -> Result<()> {
    let report = db.check()?;
    assert!(report.is_sound(), "{:?}", report.problems);
    let snap = db.snapshot();
    let Some(shared) = db.open_family("shared")? else {
        assert!(reported.iter().all(Option::is_none));
        return Ok(());
    };
    for (writer, &reported) in reported.iter().enumerate() {
        let Some(family) = db.open_family(&family_name(writer))? else {
            assert_eq!(reported, None);
            continue;
        };
        let last = snap.last(&family)?.map(|(k, _)| u64::from_be_bytes(k[..].try_into().unwrap()));
        assert!(last >= reported, "writer {writer}: {reported:?} was reported, {last:?} is there");
        let Some(last) = last else { continue };
        let mut expected = last.saturating_sub(300);
        for entry in snap.range(&family, ..) {
            let (k, v) = entry?;
            assert_eq!(k[..], key(expected));
            assert_eq!(v[..], value(writer, expected), "writer {writer}, {expected}");
            expected += 1;
        }
        assert_eq!(expected, last + 1);
        // The shared family was changed in the same transactions.
        let even = snap.get(&shared, [writer as u8])?.map(|v| u64::from_be_bytes(v[..].try_into().unwrap()));
        assert_eq!(even, Some(last - last % 2), "writer {writer}: a transaction over two families is whole");
        let Some(large) = db.open_family(&large_name(writer))? else {
            assert!(last < LARGE_EVERY);
            continue;
        };
        let newest = last - last % LARGE_EVERY;
        let mut entries = snap.range(&large, ..);
        for i in 0..LARGE {
            let (k, v) = entries.next().expect("a large transaction is whole")?;
            assert_eq!(k[..], key(i));
            assert_eq!(v[..], value(writer, newest + i), "writer {writer}: entry {i} is not of {newest}");
        }
        assert!(entries.next().is_none());
    }
    Ok(())
}

#[test]
fn every_reported_commit_survives_sigkill() -> Result<()> {
    if let Ok(path) = std::env::var(CHILD) {
        return child(&PathBuf::from(path));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("killed.spinney");
    let mut rng = SmallRng::seed_from_u64(0x6b69_6c6c);
    let mut reported = [None; FAMILIES];
    let mut total = 0;
    for _ in 0..ROUNDS {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "every_reported_commit_survives_sigkill", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let killer = std::thread::spawn({
            let wait = Duration::from_millis(rng.random_range(1..120));
            move || {
                std::thread::sleep(wait);
                process.kill().unwrap();
                process.wait().unwrap();
            }
        });
        for line in lines.map_while(std::result::Result::ok) {
            // A line cut off by the kill does not count: its end is missing.
            let words: Vec<&str> = line.split(' ').collect();
            if let ["committed", writer, counter] = words[..]
                && let (Ok(writer), Ok(counter)) = (writer.parse::<usize>(), counter.parse::<u64>())
                && line.len() >= "committed 0 0".len()
            {
                let newest: &mut Option<u64> = &mut reported[writer];
                *newest = (*newest).max(Some(counter));
                total += 1;
            }
        }
        killer.join().unwrap();
        if path.exists() {
            verify(&path, &reported)?;
        }
    }
    println!("{ROUNDS} kills, {total} reported commits");
    assert!(total > ROUNDS, "the child got nowhere: {total} commits");
    Ok(())
}
