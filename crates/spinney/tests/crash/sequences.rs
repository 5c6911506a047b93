//! Every sequence of up to so many operations, each of its cuts.
//!
//! What is cut is the last operation only: a shorter sequence has been cut in the others. Each sequence begins on a small database
//! whose log has something to repeat, as most bugs need little more than a file that is not empty.
//!
//! Source: Mohan et al., "Finding Crash-Consistency Bugs with Bounded Black-Box Crash Testing", OSDI 2018 (ACE).

use crate::{
    is_repetition,
    oracle::Run,
    report,
    support::{
        model::options,
        op::{Op, puts},
        runner::Runner,
        setting,
    },
};
use spinney::{Durability, EnumerationLimits, Exploration, Explored, Result, SimDisk};
use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

/// How the database is, and how much an operation puts.
struct Flavour {
    name: &'static str,
    /// Decides the options.
    seed: u64,
    bytes: usize,
}

const FLAVOURS: [Flavour; 3] = [
    Flavour { name: "effects", seed: 1, bytes: 60 },
    Flavour { name: "values of their own pages", seed: 6, bytes: 9000 },
    Flavour { name: "images only", seed: 7, bytes: 300 },
];

/// Two families, a checkpoint, and commits since.
fn beginning() -> Vec<Op> {
    let mut ops = vec![Op::Create(0), Op::Create(1)];
    ops.extend((0..2).flat_map(|family| puts(family, 0, 12, 300)));
    ops.extend([Op::Commit(Durability::Immediate), Op::Checkpoint]);
    ops.extend([Op::Put { family: 0, key: 1, bytes: 40 }, Op::Commit(Durability::Immediate)]);
    ops.extend([Op::Put { family: 1, key: 2, bytes: 40 }, Op::Commit(Durability::Eventual)]);
    ops
}

/// Letter -> what it does.
fn alphabet(bytes: usize) -> [(&'static str, Vec<Op>); 10] {
    let put = |family, key| Op::Put { family, key, bytes };
    [
        ("put", vec![put(0, 3)]),
        ("put-elsewhere", vec![put(1, 30)]),
        ("remove", vec![Op::Remove { family: 0, key: 1 }]),
        ("commit", vec![Op::Commit(Durability::Immediate)]),
        ("commit-eventually", vec![Op::Commit(Durability::Eventual)]),
        ("commit-both", vec![put(0, 4), put(1, 4), Op::Commit(Durability::Immediate)]),
        ("checkpoint", vec![Op::Checkpoint]),
        ("hold", vec![Op::Hold]),
        ("release", vec![Op::Release]),
        ("reopen", vec![Op::Reopen]),
    ]
}

/// Runs the sequence of this number, and cuts its last operation everywhere.
fn explore(flavour: &Flavour, number: usize, length: u32) -> Result<Explored> {
    let alphabet = alphabet(flavour.bytes);
    let letters = (0..length).rev().map(|place| &alphabet[number / alphabet.len().pow(place) % alphabet.len()]);
    let letters: Vec<_> = letters.collect();
    let mut runner = Runner::new(SimDisk::new(), options(flavour.seed, None), flavour.seed);
    beginning().into_iter().try_for_each(|op| runner.perform(op))?;
    let (last, before) = letters.split_last().expect("not empty");
    before.iter().flat_map(|letter| &letter.1).try_for_each(|&op| runner.perform(op))?;
    runner.record();
    last.1.iter().try_for_each(|&op| runner.perform(op))?;
    runner.check_held()?;
    let run = Run::of(&runner);
    runner.forget();
    let names: Vec<&str> = letters.iter().map(|letter| letter.0).collect();
    let limits = EnumerationLimits {
        exhaustive_units: 8,
        pairs: 4,
        random_subsets: 8,
        torn_masks: Some(0),
        random_tears: 4,
        garbage_sectors: 1,
        kills: 3,
        ..EnumerationLimits::PULL_REQUEST
    };
    let exploration = Exploration::new(format!("{}, {}", flavour.name, names.join(" "))).limits(limits).threads(1);
    Ok(exploration.seed(number as u64).run(&run.recording, |crash| run.check(crash)))
}

#[test]
fn every_crash_of_every_short_sequence() {
    let longest = setting("SPINNEY_CRASH_LENGTH", 3) as u32;
    let (mut explored, mut sequences, begun) = (Explored::default(), 0, Instant::now());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for flavour in &FLAVOURS {
        for length in 1..=longest {
            let (count, next) = (alphabet(0).len().pow(length), AtomicUsize::new(0));
            let sum = Mutex::new(Explored::default());
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        loop {
                            let number = next.fetch_add(1, Ordering::Relaxed);
                            if number >= count {
                                break;
                            }
                            let found = explore(flavour, number, length);
                            let found = found.unwrap_or_else(|error| {
                                panic!("{}, sequence {number} of length {length}: {error}", flavour.name)
                            });
                            *sum.lock().unwrap() += found;
                        }
                    });
                }
            });
            explored += sum.into_inner().unwrap();
            sequences += count;
        }
    }
    report(&format!("{sequences} sequences of up to {longest} operations"), &explored, begun);
    assert!(is_repetition() || explored.images > 10_000, "{explored}");
}
