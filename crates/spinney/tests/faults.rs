//! Each call to the storage fails in turn under random and six canonical workloads of the whole database: never a panic, never wrong
//! data, never a lost commit or page, and a way back in the end, through a recovery in which a call fails too. The same for each call of
//! an opening that has commits to repeat.
//!
//! `SPINNEY_FAULT_STRIDE` is how many positions lie between two that are tried (1: all of them), `SPINNEY_FAULT_SEED` the
//! first seed, `SPINNEY_FAULT_SEEDS` how many. `SPINNEY_FAULT` is what a failure of a canonical workload printed: then only that fault
//! is tried.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod support;

use spinney::{CallSet, Error, Fault, FaultKind, PowerCut, Result, Sabotage, SimDisk};
use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};
use support::{
    canonical,
    model::{World, check, open, options, read_only, world_of},
    op::Op,
    quietly,
    runner::{Runner, is_honest},
    setting, words,
};

/// Steps of one run: several hundred calls to the storage.
const STEPS: usize = 40;

/// What goes wrong in a sweep, with the calls it can happen to.
const KINDS: [(FaultKind, CallSet, bool); 12] = [
    (FaultKind::Io, CallSet::ALL, false),
    (FaultKind::Io, CallSet::ALL, true),
    (FaultKind::Io, CallSet::SYNC, false),
    (FaultKind::Io, CallSet::READ, true),
    (FaultKind::NoSpace, CallSet::WRITE, false),
    (FaultKind::NoSpace, CallSet::WRITE, true),
    (FaultKind::NoSpace, CallSet::CHANGES, true),
    (FaultKind::Interrupted, CallSet::ALL, false),
    (FaultKind::WouldBlock, CallSet::ALL, true),
    (FaultKind::Short(1), CallSet::ALL, false),
    (FaultKind::Short(511), CallSet::ALL, true),
    // To read nothing means the end of the file, which is not a fault.
    (FaultKind::Short(0), CallSet::WRITES, false),
];

/// What goes wrong everywhere in the canonical workloads, once and from then on.
const SWEPT: [(&str, FaultKind, CallSet); 7] = [
    ("EIO", FaultKind::Io, CallSet::ALL),
    ("ENOSPC", FaultKind::NoSpace, CallSet::CHANGES),
    ("EINTR", FaultKind::Interrupted, CallSet::ALL),
    ("EAGAIN", FaultKind::WouldBlock, CallSet::ALL),
    ("short", FaultKind::Short(511), CallSet::ALL),
    ("zero", FaultKind::Short(0), CallSet::WRITES),
    ("sync", FaultKind::Io, SYNCS),
];
/// Calls after which something is durable.
const SYNCS: CallSet = CallSet::SYNC.and(CallSet::WRITE_SYNC);

/// What is run: random steps, or operations.
struct Script {
    seed: u64,
    ops: Option<Vec<Op>>,
}

impl Script {
    fn random(seed: u64) -> Self {
        Self { seed, ops: None }
    }

    fn steps(&self) -> usize {
        self.ops.as_ref().map_or(STEPS, Vec::len)
    }

    fn step(&self, number: usize, runner: &mut Runner) -> Result<()> {
        match &self.ops {
            Some(ops) => runner.perform(ops[number]),
            None => runner.step(),
        }
    }
}

/// What came of runs with a fault.
#[derive(Default)]
struct Tally {
    runs: AtomicU64,
    errors: AtomicU64,
    poisoned: AtomicU64,
    refused: AtomicU64,
    replayed: AtomicU64,
}

fn count(counter: &AtomicU64, by: bool) {
    counter.fetch_add(u64::from(by), Ordering::Relaxed);
}

/// One run with one fault. Returns whether it struck.
fn run_with(fault: Fault, script: &Script, sabotage: Option<Sabotage>, tally: &Tally) -> Result<bool> {
    let seed = script.seed;
    let disk = SimDisk::new();
    disk.inject(fault);
    let mut runner = Runner::new(disk.clone(), options(seed, sabotage), seed);
    let mut struck_at = None;
    for step in 0..script.steps() {
        if let Err(error) = script.step(step, &mut runner) {
            assert!(is_honest(&error), "step {step}: {error:?}");
            assert!(disk.faults_fired() > 0, "step {step}: nothing was wrong: {error}");
            count(&tally.errors, true);
        }
        if struck_at.is_none() && disk.faults_fired() > 0 {
            struck_at = Some(step);
            runner.check_survival(seed)?;
        }
    }
    let fired = disk.faults_fired() > 0;
    runner.check_survival(seed + 1)?;
    fail_in_recovery(&runner, fault.after, tally)?;

    disk.lift_faults();
    runner.check_held()?;
    if let Some(db) = runner.db.clone() {
        runner.check_shown(&db)?;
        let is_poisoned = db.stats()?.file.poisoned;
        count(&tally.poisoned, is_poisoned);
        if is_poisoned {
            assert!(matches!(db.begin([]), Err(Error::Poisoned)));
            assert!(matches!(db.checkpoint(), Err(Error::Poisoned)));
            assert!(matches!(db.reclaim(1 << 20), Err(Error::Poisoned)));
            runner.forget();
        } else {
            assert!(runner.unknown.is_none(), "an unknown outcome poisons");
            runner.go_on(&db, "once the disk is well again")?;
            runner.release_all();
            // What the next writers of families would use first goes back, too.
            db.reclaim(1 << 20)?;
            assert_eq!(db.stats()?.file.pages.lent, 0, "no transaction is open");
            runner.forget();
            db.close()?;
            runner.acknowledge();
        }
    }
    runner.forget();
    runner.open()?;
    let db = runner.db.clone().unwrap();
    check(&db, "after opening again")?;
    runner.go_on(&db, "after opening again and going on")?;
    drop(db);
    runner.forget();
    runner.check_survival(seed + 2)?;
    Ok(fired)
}

/// After the first fault the power fails, and a call of the recovery fails too: an honest error, and the next opening succeeds.
fn fail_in_recovery(runner: &Runner, number: u64, tally: &Tally) -> Result<()> {
    let disk = runner.disk.fork().power_cut(PowerCut::Random(number));
    disk.set_seed(number);
    let (_, kind, calls) = SWEPT[(number % SWEPT.len() as u64) as usize];
    disk.inject(Fault { calls, after: number / 3 % 20, sticky: number.is_multiple_of(2), kind });
    match open(&disk, &runner.options).and_then(|db| world_of(&db)) {
        Ok(found) => drop(runner.number_of(&found, "opened in spite of the second fault")),
        Err(error) => {
            assert!(is_honest(&error), "{error:?}");
            count(&tally.refused, true);
        }
    }
    disk.lift_faults();
    let db = open(&disk.power_cut(PowerCut::Random(number + 1)), &runner.options)?;
    runner.number_of(&world_of(&db)?, "after the second fault");
    check(&db, "after the second fault")
}

/// Tries `run` with every fault at every position, `stride` apart, until it no longer strikes.
fn sweep(seed: u64, stride: u64, run: &dyn Fn(Fault) -> Result<bool>) {
    for (at, (kind, calls, sticky)) in KINDS.into_iter().enumerate() {
        let first = (seed * 7 + at as u64 * 5) % stride;
        for after in (first..).step_by(stride as usize) {
            let fault = Fault { calls, after, sticky, kind };
            match catch_unwind(AssertUnwindSafe(|| run(fault))) {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => break,
                Ok(Err(error)) => panic!("seed {seed}: {fault:?}: {error}"),
                Err(panic) => {
                    eprintln!("seed {seed}: {fault:?}");
                    resume_unwind(panic);
                }
            }
        }
    }
}

/// Runs `work` for some seeds, on all cores.
fn for_seeds(seeds_default: u64, work: impl Fn(u64) + Sync) {
    let first = setting("SPINNEY_FAULT_SEED", 1);
    let seeds = setting("SPINNEY_FAULT_SEEDS", seeds_default);
    let next = AtomicU64::new(first);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        break;
                    }
                    work(seed);
                }
            });
        }
    });
}

/// Whether somebody chose what is run, so that its number says nothing.
fn is_chosen() -> bool {
    ["STRIDE", "SEED", "SEEDS"].iter().any(|what| std::env::var_os(format!("SPINNEY_FAULT_{what}")).is_some())
}

fn stride(default: u64) -> u64 {
    setting("SPINNEY_FAULT_STRIDE", default).max(1)
}

#[test]
fn no_failing_call_loses_or_leaks_anything() {
    let tally = Tally::default();
    for_seeds(12, |seed| {
        sweep(seed, stride(41), &|fault| {
            let fired = run_with(fault, &Script::random(seed), None, &tally)?;
            count(&tally.runs, fired);
            Ok(fired)
        });
    });
    let [runs, errors, poisoned] =
        [&tally.runs, &tally.errors, &tally.poisoned].map(|counter| counter.load(Ordering::Relaxed));
    println!("{runs} runs with a fault, {errors} steps failed, {poisoned} databases poisoned");
    assert!(
        is_chosen() || runs >= 400 && errors > 500 && poisoned > 20,
        "{runs} runs, {errors} errors, {poisoned} poisoned"
    );
}

/// Every call of every canonical workload, every kind of fault, once and from then on; and one more in the recovery after it.
#[test]
fn every_call_of_the_canonical_workloads_fails() {
    let tally = Tally::default();
    let chosen = std::env::var("SPINNEY_FAULT").ok();
    let workloads = canonical::all().map(|w| (w.name, Script { seed: w.seed, ops: Some(w.ops) }));
    let kinds = SWEPT.iter().flat_map(|kind| [(kind, false), (kind, true)]);
    let jobs: Vec<_> = workloads.iter().flat_map(|workload| kinds.clone().map(move |kind| (workload, kind))).collect();
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(((name, script), ((what, kind, calls), sticky))) =
                    jobs.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    for after in (0..).step_by(stride(1) as usize) {
                        let line = format!("{name}: {what} at {after}, {}", if *sticky { "sticky" } else { "once" });
                        if chosen.as_ref().is_some_and(|chosen| *chosen != line) {
                            if after > 10_000 {
                                break;
                            }
                            continue;
                        }
                        let fault = Fault { calls: *calls, after, sticky: *sticky, kind: *kind };
                        let run = AssertUnwindSafe(|| run_with(fault, script, None, &tally));
                        let failed = match catch_unwind(run) {
                            Ok(Ok(true)) => {
                                count(&tally.runs, true);
                                continue;
                            }
                            Ok(Ok(false)) => break,
                            Ok(Err(error)) => error.to_string(),
                            Err(panic) => words(&*panic),
                        };
                        panic!("{failed}\nreproduce: SPINNEY_FAULT='{line}' cargo test --all-features --test faults");
                    }
                }
            });
        }
    });
    let [runs, errors, poisoned, refused] =
        [&tally.runs, &tally.errors, &tally.poisoned, &tally.refused].map(|counter| counter.load(Ordering::Relaxed));
    println!(
        "{runs} runs with a fault, {errors} steps failed, {poisoned} databases poisoned, {refused} recoveries failed"
    );
    let is_all = chosen.is_none() && stride(1) == 1;
    assert!(!is_all || runs > 3500 && poisoned > 800 && refused > 1000, "{runs}, {poisoned}, {refused}");
}

/// What a healthy run leaves now and then: a disk, what it shows, and the run so far.
fn images(seed: u64, mut visit: impl FnMut(&SimDisk, &World, &Runner, bool) -> Result<()>) -> Result<()> {
    let disk = SimDisk::new();
    let mut runner = Runner::new(disk.clone(), options(seed, None), seed);
    for step in 0..60 {
        runner.step()?;
        if step % 8 != 7 {
            continue;
        }
        let at_rest = step % 16 == 7;
        let image = if at_rest { disk.fork().power_cut(PowerCut::Random(step)) } else { disk.fork().kill() };
        let db = open(&image.fork(), &runner.options)?;
        let world = world_of(&db)?;
        runner.number_of(&world, "healthy");
        visit(&image, &world, &runner, at_rest)?;
    }
    Ok(())
}

/// Opening with commits to repeat, with every call failing in turn: an honest error, and a later opening succeeds.
#[test]
fn no_failing_call_of_an_opening_does_harm() {
    let tally = Tally::default();
    for_seeds(4, |seed| {
        images(seed, |image, world, runner, at_rest| {
            let options = &runner.options;
            let healthy = image.fork();
            let db = open(&healthy, options)?;
            count(&tally.replayed, db.stats()?.file.unwritten_bytes > 0);
            drop(db);
            sweep(seed, stride(3), &|fault| {
                let disk = image.fork();
                disk.set_seed(fault.after);
                disk.inject(fault);
                match open(&disk, options).and_then(|db| world_of(&db)) {
                    Ok(found) if at_rest => assert!(found == *world, "opened in spite of the fault"),
                    Ok(found) => drop(runner.number_of(&found, "opened in spite of the fault")),
                    Err(error) => {
                        assert!(is_honest(&error), "{error:?}");
                        count(&tally.refused, true);
                    }
                }
                let fired = disk.faults_fired() > 0;
                disk.lift_faults();
                count(&tally.runs, fired);
                for later in [disk.fork().power_cut(PowerCut::Random(fault.after)), disk] {
                    let read = read_only(&later, options)?;
                    let db = open(&later, options)?;
                    let found = world_of(&db)?;
                    runner.number_of(&found, "later");
                    // What nobody could take away any more was nobody's to take away.
                    assert!(!at_rest || found == *world, "something else than without the fault");
                    assert!(read.is_none_or(|read| read == found), "for reading only, something else is shown");
                    check(&db, "later")?;
                }
                Ok(fired)
            });
            // One failed opening after another, each a call further.
            let disk = image.fork();
            for after in 0..60 {
                disk.inject(Fault { calls: CallSet::ALL, after, sticky: true, kind: FaultKind::Io });
                if let Err(error) = open(&disk, options) {
                    assert!(is_honest(&error), "{error:?}");
                }
                disk.lift_faults();
            }
            let db = open(&disk, options)?;
            let found = world_of(&db)?;
            runner.number_of(&found, "after many");
            assert!(!at_rest || found == *world, "after many");
            check(&db, "after many")
        })
        .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    });
    let [runs, refused, replayed] =
        [&tally.runs, &tally.refused, &tally.replayed].map(|counter| counter.load(Ordering::Relaxed));
    println!("{runs} openings with a fault, {refused} failed; {replayed} images had commits to repeat");
    assert!(
        is_chosen() || runs > 500 && refused > 200 && replayed >= 10,
        "{runs} runs, {refused} refused, {replayed} replayed"
    );
}

/// For reading only: what opening for writing would show, and not a byte of the file changes; after a crash as well.
#[test]
fn reading_only_repeats_commits_in_memory() {
    let (tally, failed) = (Tally::default(), AtomicU64::new(0));
    for_seeds(20, |seed| {
        images(seed, |image, world, runner, _| {
            let read = read_only(image, &runner.options)?;
            assert!(read.as_ref() == Some(world), "for reading only, something else is shown");
            let options = runner.options.clone().read_only(true);
            let db = open(&image.fork(), &options)?;
            count(&tally.runs, true);
            count(&tally.replayed, db.stats()?.file.unwritten_bytes > 0);
            drop(db);
            for after in (0..).step_by(stride(5) as usize) {
                let disk = image.fork();
                let before = disk.contents();
                disk.inject(Fault { calls: CallSet::ALL, after, sticky: true, kind: FaultKind::Io });
                match open(&disk, &options).and_then(|db| world_of(&db)) {
                    Ok(found) => assert!(found == *world, "in spite of the fault"),
                    Err(error) => {
                        assert!(is_honest(&error), "{error:?}");
                        count(&failed, true);
                    }
                }
                assert!(disk.contents() == before, "for reading only, bytes changed");
                if disk.faults_fired() == 0 {
                    break;
                }
                disk.lift_faults();
                assert!(world_of(&open(&disk, &options)?)? == *world, "once the disk is well again");
            }
            Ok(())
        })
        .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    });
    let [runs, replayed, failed] =
        [&tally.runs, &tally.replayed, &failed].map(|counter| counter.load(Ordering::Relaxed));
    println!("{runs} images read, {replayed} with commits to repeat; {failed} openings failed");
    assert!(
        is_chosen() || runs > 100 && replayed > 50 && failed > 200,
        "{runs} images, {replayed} replayed, {failed} failed"
    );
}

/// What small commits freed of a dropped family stays free when they are repeated: nobody would find it again.
#[test]
fn a_dropped_family_leaves_no_page_behind_after_a_crash() -> Result<()> {
    for emptied_before in [false, true] {
        let (disk, options) = (SimDisk::new(), options(1, None));
        let db = open(&disk, &options)?;
        let family = db.family("short-lived")?;
        let mut txn = family.begin()?;
        for i in 0..40u8 {
            txn.insert([i], vec![i; if i == 7 { 20_000 } else { 500 }])?;
        }
        txn.commit()?;
        db.checkpoint()?;
        // It leaves pages in memory, so that what follows is told by effects as well.
        let mut txn = family.begin()?;
        txn.insert([1], "changed")?;
        txn.commit()?;
        if emptied_before {
            let mut txn = family.begin()?;
            txn.remove_range(..)?;
            txn.commit()?;
            while db.maintain(1000)? > 0 {}
        }
        drop(family);
        db.drop_family("short-lived")?;
        while db.maintain(1000)? > 0 {}
        db.flush()?;
        let db = open(&disk.power_cut(PowerCut::LoseAll), &options)?;
        check(&db, "after a crash")?;
    }
    Ok(())
}

/// A transaction over two families merges what small commits left in both and then fails. What it came to merge stays merged, and the
/// rest is by whoever comes next.
#[test]
fn what_was_merged_for_a_transaction_that_failed_stays_merged() -> Result<()> {
    let (mut failed, mut went_on) = (0, 0);
    for after in 0..24 {
        let (disk, options) = (SimDisk::new(), options(1, None));
        let db = open(&disk, &options)?;
        let families = [db.family("a")?, db.family("b")?];
        for family in &families {
            let mut txn = family.begin()?;
            (0..40u8).try_for_each(|i| txn.insert([i], [i; 300]).map(drop))?;
            txn.commit()?;
        }
        db.checkpoint()?;
        for (family, i) in families.iter().zip([3u8, 9]) {
            let mut txn = family.begin()?;
            txn.insert([i], "small")?;
            txn.commit()?;
        }
        let unwritten = db.stats()?.file.unwritten_bytes;
        assert!(unwritten > 0, "small commits stay in memory");
        disk.inject(Fault { calls: CallSet::WRITE, after, sticky: false, kind: FaultKind::Io });
        let large = || -> Result<()> {
            let mut txn = db.begin(&families)?;
            for family in &families {
                let mut table = txn.family(family)?;
                // The first value enters the pages.
                (100..120u8).try_for_each(|i| table.insert([i], vec![i; 70_000]).map(drop))?;
            }
            txn.commit().map(drop)
        };
        let outcome = large();
        disk.lift_faults();
        if outcome.is_ok() || db.stats()?.file.poisoned {
            continue;
        }
        failed += 1;
        // An image of the first family.
        let images = db.stats()?.file.images.pages;
        let mut txn = families[0].begin()?;
        (20..22u8).try_for_each(|i| txn.insert([i], vec![7; 70_000]).map(drop))?;
        txn.commit()?;
        went_on += u64::from(db.stats()?.file.images.pages > images);
        let expected = world_of(&db)?;
        let db = open(&disk.power_cut(PowerCut::LoseAll), &options)?;
        assert!(world_of(&db)? == expected, "write {after}");
        check(&db, &format!("write {after}"))?;
    }
    assert!(failed > 3 && went_on > 3, "{failed} failed, {went_on} went on with an image");
    Ok(())
}

/// Runs the harness over an engine with one rule broken; how many faults it takes until it notices.
fn caught(rule: Sabotage) -> Option<u64> {
    let (tally, tried) = (Tally::default(), AtomicU64::new(0));
    let noticed = (1..20).filter(|seed| seed % 4 != 3).any(|seed| {
        let attempt = catch_unwind(AssertUnwindSafe(|| {
            sweep(seed, 61, &|fault| {
                count(&tried, true);
                run_with(fault, &Script::random(seed), Some(rule), &tally)
            });
        }));
        attempt.is_err()
    });
    noticed.then(|| tried.into_inner())
}

#[test]
fn the_harness_notices_broken_rules() {
    let broken = [
        Sabotage::CheckpointSkipsAnOwner,
        Sabotage::ImageForgetsEffects,
        Sabotage::ForgetsClaims,
        Sabotage::RepeatsAll,
        Sabotage::RetriesSync,
        Sabotage::ShowsUndurable,
    ];
    let found: Vec<_> = quietly(|| broken.into_iter().map(|rule| (rule, caught(rule))).collect());
    for (rule, runs) in &found {
        println!("{rule:?}: after {runs:?} runs");
    }
    assert!(found.iter().all(|(_, runs)| runs.is_some()), "a broken rule went unnoticed");
}

/// While a sync does not return, everybody can read, also what is not cached, and writers can prepare what comes next.
#[test]
fn a_stuck_device_stops_no_reader() -> Result<()> {
    let (disk, options) = (SimDisk::new(), options(1, None));
    let mut runner = Runner::new(disk.clone(), options.clone(), 1);
    canonical::all()[4].ops.iter().try_for_each(|&op| runner.perform(op))?;
    runner.perform(Op::Reopen)?; // nothing is cached
    let db = runner.db.clone().expect("just opened");
    let before = runner.newest().clone();
    let [orders, stock] = ["orders", "stock"].map(|name| db.open_family(name));
    let (orders, stock) = (orders?.expect("it exists"), stock?.expect("it exists"));
    let stall = disk.stall(SYNCS);
    std::thread::scope(|scope| {
        let commit = scope.spawn(|| -> Result<()> {
            let mut txn = orders.begin()?;
            txn.insert("late", "1")?;
            txn.commit().map(drop)
        });
        stall.wait_for(1);
        assert!(world_of(&db)? == before, "what is not durable is not shown");
        let mut others = [orders.begin()?, stock.begin()?];
        for txn in &mut others {
            txn.insert("later", "2")?;
        }
        assert_eq!(others[0].get("late")?.as_deref(), Some(&b"1"[..]), "a writer builds on the tip");
        drop(others);
        assert!(!commit.is_finished());
        drop(stall);
        commit.join().expect("no panic")
    })?;
    assert_eq!(world_of(&db)?["orders"].get(&b"late"[..]), Some(&b"1".to_vec()));
    Ok(())
}
