//! The paged file on a disk whose power is cut at every call: what was acknowledged is there, whole, and nothing else. And
//! the same over engines broken on purpose: each is noticed.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

#[path = "crash/canaries/mod.rs"]
mod canaries; // one broken engine for each rule
mod support;

use rand::{Rng, SeedableRng, rngs::SmallRng};
use spinney_file::EnumerationLimits;
use support::{Run, Runner, small};

#[test]
fn acknowledged_commits_survive_every_crash() {
    let mut images = 0;
    for seed in 0..6 {
        let run = Run::record(seed, 40, None).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        images += run.check_all(&EnumerationLimits { images_max: 4000, ..EnumerationLimits::PULL_REQUEST }, seed);
    }
    println!("{images} images");
    assert!(images > 10_000, "{images} images");
}

/// The power fails again and again, mostly while the file is being recovered: the state stays, and the log is not used up.
#[test]
fn crashes_in_a_row_do_no_more_harm_than_one() {
    let mut openings = 0;
    for seed in 0..40 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let run = Run::record(seed, 25, None).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let last = run.recording.cut(run.recording.step_count()).unwrap();
        let mut disk = last.images(&EnumerationLimits::QUICK, seed).next().unwrap().disk();
        let mut runner = Runner::going_on(disk.clone(), small(None), seed, run.states);
        for crash in 0..60 {
            disk.record();
            runner.disk = disk.clone();
            runner.open().unwrap_or_else(|e| panic!("seed {seed}, crash {crash}: {e}"));
            for _ in 0..rng.random_range(0..3) {
                runner.step().unwrap_or_else(|e| panic!("seed {seed}, crash {crash}: {e}"));
            }
            runner.forget();
            openings += 1;
            let recording = disk.recording();
            let image = loop {
                let cut = recording.cut(rng.random_range(0..=recording.step_count())).unwrap();
                let images: Vec<_> = cut.images(&EnumerationLimits::QUICK, rng.random()).collect();
                if !images.is_empty() {
                    break images[rng.random_range(0..images.len())].clone();
                }
            };
            runner.after_crash(&image);
            disk = image.disk();
        }
    }
    println!("{openings} openings");
}
