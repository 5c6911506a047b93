//! The whole database on a disk whose power is cut at every call: every legal image is recovered and compared with the model,
//! and recovery itself is crashed. Random workloads, six canonical ones, and all short sequences of operations; and the same over engines
//! broken on purpose.
//!
//! `SPINNEY_CRASH_IMAGES` and `SPINNEY_CRASH_SEED` choose how many images of random workloads and from where,
//! `SPINNEY_CRASH_LENGTH` how long the sequences are, and `SPINNEY_CRASH_IMAGE` is the line that a failure printed: then nothing else is
//! looked at.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

#[path = "crash/canaries.rs"]
mod canaries; // engines broken on purpose
#[path = "crash/costs.rs"]
mod costs; // a measurement
#[path = "crash/oracle.rs"]
mod oracle; // what must hold of every image
#[path = "crash/sequences.rs"]
mod sequences; // every short sequence of operations
mod support;

use oracle::Run;
use spinney::{EnumerationLimits, Exploration, Explored};
use std::{env, time::Instant};
use support::{canonical, setting};

/// Whether only the image of one line is looked at, so that numbers say nothing.
fn is_repetition() -> bool {
    env::var_os("SPINNEY_CRASH_IMAGE").is_some()
}

fn report(what: &str, explored: &Explored, begun: Instant) {
    let seconds = begun.elapsed().as_secs_f64();
    let per_second = (explored.images + explored.images_again) as f64 / seconds;
    println!("{what}: {explored}; {per_second:.0} recoveries/s, {seconds:.1} s");
}

#[test]
fn every_crash_leaves_a_prefix_that_holds_what_was_acknowledged() {
    let goal = setting("SPINNEY_CRASH_IMAGES", 160_000);
    let first_seed = setting("SPINNEY_CRASH_SEED", 1);
    let per_run = (goal / 30).clamp(1000, 20_000);
    let limits = EnumerationLimits { images_max: per_run, exhaustive_units: 8, ..EnumerationLimits::PULL_REQUEST };
    let (mut explored, begun) = (Explored::default(), Instant::now());
    let mut seed = first_seed;
    // The line of a failure begins with its seed.
    let chosen = env::var("SPINNEY_CRASH_IMAGE").ok();
    let chosen = chosen.as_deref().and_then(|line| line.strip_prefix("seed ")?.split(':').next()?.parse().ok());
    if is_repetition() {
        let Some(chosen) = chosen else { return };
        seed = chosen;
    }
    while explored.images < goal {
        let run = Run::random(seed, 40, None).unwrap_or_else(|error| panic!("the workload of seed {seed}: {error}"));
        let exploration = Exploration::new(format!("seed {seed}")).limits(limits.clone()).seed(seed);
        explored += exploration.run(&run.recording, |crash| run.check(crash));
        seed += 1;
        if is_repetition() {
            return println!("{explored}");
        }
    }
    assert!(explored.images >= goal);
    report(&format!("{} random runs from seed {first_seed}", seed - first_seed), &explored, begun);
}

/// Every cut; all subsets of up to twelve pending units, also where a recovery is crashed.
#[test]
fn every_crash_of_the_canonical_workloads() {
    let limits = EnumerationLimits { exhaustive_units: 12, ..EnumerationLimits::PULL_REQUEST };
    let again = EnumerationLimits { exhaustive_units: 12, images_per_cut_max: u64::MAX, ..EnumerationLimits::QUICK };
    let (mut explored, begun) = (Explored::default(), Instant::now());
    for workload in canonical::all() {
        let name = workload.name;
        let run = Run::scripted(&workload.ops, workload.seed, None).unwrap_or_else(|error| panic!("{name}: {error}"));
        let exploration = Exploration::new(name).limits(limits.clone()).crash_again(50, again.clone());
        let found = exploration.run(&run.recording, |crash| run.check(crash));
        println!("{name}: {found}");
        explored += found;
    }
    report("six workloads", &explored, begun);
    assert!(is_repetition() || explored.cuts_whole * 10 > explored.cuts * 9, "{explored}");
}
