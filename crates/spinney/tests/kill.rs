//! A real process, killed at random moments: every commit it reported is there afterwards, and the file is sound.
//!
//! The test runs its own binary again as the child, which commits and reports each commit on a pipe.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

use rand::{Rng, SeedableRng, rngs::SmallRng};
use spinney::{Database, Durability, Options, Result};
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

/// Commits for ever, one thread per family; reports `writer counter` after each durable commit. Every other commit also
/// counts in the family that all share.
fn child(path: &Path) -> Result<()> {
    let db = open(path)?;
    let shared = db.family("shared")?;
    std::thread::scope(|scope| {
        for writer in 0..FAMILIES {
            let (db, shared) = (&db, &shared);
            scope.spawn(move || -> Result<()> {
                let family = db.family(&family_name(writer))?;
                let next =
                    db.snapshot().last(&family)?.map_or(0, |(k, _)| u64::from_be_bytes(k[..].try_into().unwrap()) + 1);
                for counter in next.. {
                    let mut txn =
                        if counter.is_multiple_of(2) { db.begin([&family, shared])? } else { family.begin()? };
                    txn.family(&family)?.insert(key(counter), value(writer, counter))?;
                    if counter.is_multiple_of(2) {
                        txn.family(shared)?.insert([writer as u8], key(counter))?;
                    }
                    if counter >= 300 {
                        txn.family(&family)?.remove_range(..&key(counter - 300)[..])?;
                    }
                    let durable = !counter.is_multiple_of(5);
                    txn.commit_with(if durable { Durability::Immediate } else { Durability::Eventual })?;
                    if durable {
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

/// The newest counter of each writer, after checking that what should be there is, whole.
fn verify(path: &Path, reported: &[Option<u64>; FAMILIES]) -> Result<()> {
    let db = open(path)?;
    let report = db.check()?;
    assert!(report.is_sound(), "{:?}", report.problems);
    let snap = db.snapshot();
    let shared = db.family("shared")?;
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
    }
    db.close()
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
