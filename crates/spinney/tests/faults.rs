//! Each call to the storage fails in turn under a random workload of the whole database: never a panic, never wrong data,
//! never a lost commit or page, and a way back in the end. The same for each call of an opening that has commits to repeat.
//!
//! `SPINNEY_FAULT_STRIDE` is how many positions lie between two that are tried (1: all of them), `SPINNEY_FAULT_SEED` the
//! first seed, `SPINNEY_FAULT_SEEDS` how many.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

use rand::{Rng, SeedableRng, rngs::SmallRng};
use spinney::{
    CallSet, Database, Durability, Error, Family, Fault, FaultKind, Options, PowerCut, Problem, Result, Sabotage,
    SimDisk, Snapshot, Tuning, WriteTransaction,
};
use std::{
    collections::BTreeMap,
    panic::{catch_unwind, resume_unwind, set_hook, take_hook},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::current,
};

/// Family -> key -> value.
type World = BTreeMap<String, Entries>;
type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

const FAMILIES: [&str; 4] = ["orders", "stock", "log", "people"];
/// Steps of one run: several hundred calls to the storage.
const STEPS: u32 = 40;

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

/// Everything tiny, so that rare paths are common. Every fourth run writes pages with every commit.
fn options(seed: u64, sabotage: Option<Sabotage>) -> Options {
    Options::new().memory_budget(64 * 4096).background(false).tuning(Tuning {
        log_bytes: 16 * 4096,
        log_bytes_max: 32 * 4096,
        checkpoint_after_freed_bytes: 60 * 4096,
        sync_first_bytes: 12 * 4096,
        sync_first_eventual_bytes: 24 * 4096,
        spill_bytes: if seed.is_multiple_of(3) { 6 * 4096 } else { u64::MAX },
        numbers_ahead: 4096,
        images_only: seed % 4 == 3,
        sabotage,
        ..Tuning::default()
    })
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Errors that a failing disk may lead to; anything else would blame the data or the caller.
fn is_honest(error: &Error) -> bool {
    match error {
        Error::CheckpointFailed { source } => is_honest(source),
        // Not one of those that stand for something the database has no words for.
        Error::Io { op, .. } => *op != "using",
        Error::Full { .. } | Error::Poisoned | Error::OutcomeUnknown { .. } => true,
        _ => false,
    }
}

fn open(disk: &SimDisk, options: &Options) -> Result<Database> {
    options.clone().open_storage(Arc::new(disk.clone()))
}

fn entries(snapshot: &Snapshot, family: &Family) -> Result<Entries> {
    snapshot.range(family, ..).map(|entry| entry.map(|(k, v)| (k.to_vec(), v.to_vec()))).collect()
}

/// Everything that is visible now.
fn world_of(db: &Database) -> Result<World> {
    let (snapshot, mut world) = (db.snapshot(), World::new());
    for info in snapshot.families()? {
        let family = db.open_family(&info.name)?.expect("it is in the snapshot");
        world.insert(info.name, entries(&snapshot, &family)?);
    }
    Ok(world)
}

/// Every page is where it belongs.
fn check(db: &Database, what: &str) -> Result<()> {
    let report = db.check()?;
    // A page that cannot be read now is the disk's fault, and not found to be wrong.
    let unread = |problem: &Problem| match problem {
        Problem::Damaged { error: error @ Error::Io { .. }, .. } => Some(error.clone()),
        _ => None,
    };
    if let Some(error) = report.problems.iter().find_map(unread) {
        assert!(report.problems.iter().all(|problem| unread(problem).is_some()), "{what}: {:?}", report.problems);
        return Err(error);
    }
    assert!(report.is_sound(), "{what}: {:?}", report.problems);
    Ok(())
}

/// A snapshot and what it showed at first.
struct Held {
    snapshot: Snapshot,
    content: Vec<(Family, Entries)>,
}

/// A random run, one step at a time, and the states it committed. A step may fail; the next one goes on.
struct Runner {
    rng: SmallRng,
    disk: SimDisk,
    options: Options,
    /// `None` before the first opening, and after one that failed.
    db: Option<Database>,
    /// Every state in order, that of a commit whose outcome is unknown included.
    states: Vec<World>,
    /// The newest state that was said to be durable.
    acknowledged: usize,
    /// The newest state is that of a commit whose outcome is unknown; with its durability.
    unknown: Option<Durability>,
    held: Vec<Held>,
}

impl Runner {
    fn new(disk: SimDisk, options: Options, seed: u64) -> Self {
        disk.set_seed(seed);
        Self {
            rng: SmallRng::seed_from_u64(seed),
            disk,
            options,
            db: None,
            states: vec![World::new()],
            acknowledged: 0,
            unknown: None,
            held: Vec::new(),
        }
    }

    fn newest(&self) -> &World {
        self.states.last().expect("the first is there")
    }

    fn acknowledge(&mut self) {
        if self.unknown.is_none() {
            self.acknowledged = self.states.len() - 1;
        }
    }

    /// Which state it is, of those that may have survived.
    fn number_of(&self, world: &World, what: &str) -> usize {
        let (least, most) = (self.acknowledged, self.states.len() - 1);
        let found = (least..=most).rev().find(|&number| self.states[number] == *world);
        found.unwrap_or_else(|| {
            let lost = self.states.iter().rposition(|state| state == world);
            panic!("{what}: no state between {least} and {most}, but {lost:?}")
        })
    }

    /// Opens the database, and finds out which of the states it is in.
    fn open(&mut self) -> Result<()> {
        let db = open(&self.disk, &self.options)?;
        let number = self.number_of(&world_of(&db)?, "opened");
        self.db = Some(db);
        self.unknown = None;
        // What opening shows is durable, and what it does not show is gone for good.
        self.states.truncate(number + 1);
        self.acknowledge();
        Ok(())
    }

    /// Lets go of the database and of everything that keeps it.
    fn forget(&mut self) {
        self.held.clear();
        self.db = None;
    }

    fn key(&mut self) -> Vec<u8> {
        match self.rng.random_range(0..20) {
            0 => vec![b'x'; 600 + self.rng.random_range(0..4)],
            _ => format!("key {:03}", self.rng.random_range(0..90)).into_bytes(),
        }
    }

    fn value(&mut self) -> Vec<u8> {
        let bytes = match self.rng.random_range(0..20) {
            0 => self.rng.random_range(3000..20_000),
            1..4 => self.rng.random_range(700..1300),
            _ => self.rng.random_range(0..120),
        };
        vec![self.rng.random(); bytes]
    }

    /// Random changes to one family inside a transaction.
    fn change(&mut self, txn: &mut WriteTransaction, family: &Family, world: &mut World) -> Result<()> {
        let name = family.name().to_string();
        for _ in 0..self.rng.random_range(1..9) {
            let (key, value) = (self.key(), self.value());
            let entries = world.get_mut(&name).expect("a family of the model");
            let mut table = txn.family(family)?;
            match self.rng.random_range(0..20) {
                0..14 => {
                    table.insert(&key, &value)?;
                    entries.insert(key, value);
                }
                14..18 => {
                    table.remove(&key)?;
                    entries.remove(&key);
                }
                _ => {
                    let (from, to) = (key.clone().min(self.key()), key);
                    let to = to.max(from.clone());
                    table.remove_range(from.clone()..to.clone())?;
                    entries.retain(|k, _| !(from <= *k && *k < to));
                }
            }
        }
        Ok(())
    }

    /// Creates, drops or renames a family inside a transaction.
    fn names(&mut self, txn: &mut WriteTransaction, families: &[Family], world: &mut World) -> Result<()> {
        let name = FAMILIES[self.rng.random_range(0..FAMILIES.len())];
        if world.contains_key(name) && !families.iter().any(|f| *f.name() == *name) {
            return Ok(()); // it does not take part in this transaction
        }
        let other = FAMILIES[self.rng.random_range(0..FAMILIES.len())];
        match txn.open_family(name)? {
            None => {
                let family = txn.create_family(name)?;
                world.insert(name.to_owned(), BTreeMap::new());
                self.change(txn, &family, world)?;
            }
            Some(family) if self.rng.random_ratio(1, 3) => {
                txn.drop_family(&family)?;
                world.remove(name);
            }
            Some(family) if !world.contains_key(other) => {
                txn.rename_family(&family, other)?;
                let entries = world.remove(name).expect("a family of the model");
                world.insert(other.to_owned(), entries);
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn transaction(&mut self, db: &Database) -> Result<()> {
        let mut world = self.newest().clone();
        let mut families = Vec::new();
        for name in world.keys() {
            if self.rng.random_ratio(1, 2) {
                // A database whose last commit has an unknown outcome shows either.
                let found = db.open_family(name)?;
                assert!(found.is_some() || self.unknown.is_some(), "family {name} is gone");
                families.extend(found);
            }
        }
        let mut txn = db.begin(&families)?;
        for family in &families {
            self.change(&mut txn, family, &mut world)?;
        }
        if families.is_empty() || self.rng.random_ratio(1, 6) {
            self.names(&mut txn, &families, &mut world)?;
        }
        if self.rng.random_ratio(1, 8) {
            txn.abort();
            return Ok(());
        }
        let durability = match self.rng.random_range(0..5) {
            0 | 1 => Durability::Eventual,
            2 => Durability::Buffered,
            _ => Durability::Immediate,
        };
        self.commit(txn, durability, world)
    }

    fn commit(&mut self, txn: WriteTransaction, durability: Durability, world: World) -> Result<()> {
        match txn.commit_with(durability) {
            Ok(_) => {
                assert!(self.unknown.is_none(), "a commit behind one whose outcome is unknown");
                self.states.push(world);
                if durability == Durability::Immediate {
                    self.acknowledge();
                }
                Ok(())
            }
            Err(error) => {
                if matches!(error, Error::OutcomeUnknown { .. }) {
                    self.states.push(world);
                    self.unknown = Some(durability);
                }
                Err(error)
            }
        }
    }

    /// One random step. With no open database: tries to open it.
    fn step(&mut self) -> Result<()> {
        let Some(db) = self.db.clone() else { return self.open() };
        match self.rng.random_range(0..24) {
            0 => {
                db.checkpoint()?;
                self.acknowledge();
            }
            1 => {
                db.flush()?;
                self.acknowledge();
            }
            2 | 3 => {
                let (snapshot, mut content) = (db.snapshot(), Vec::new());
                if self.unknown.is_none() {
                    for (name, entries) in self.newest() {
                        let family = db.open_family(name)?.unwrap_or_else(|| panic!("family {name} is gone"));
                        content.push((family, entries.clone()));
                    }
                    self.held.push(Held { snapshot, content });
                }
            }
            4 if !self.held.is_empty() => {
                let at = self.rng.random_range(0..self.held.len());
                drop(self.held.swap_remove(at));
            }
            5 => {
                self.forget();
                // A failure is made up for by opening.
                let closed = db.close();
                if closed.is_ok() {
                    self.acknowledge();
                }
                self.open()?;
            }
            6 => {
                let budget = self.rng.random_range(1..200);
                db.maintain(budget)?;
            }
            7 => {
                let bytes = self.rng.random_range(0..60) * 4096;
                db.reclaim(bytes)?;
            }
            _ => self.transaction(&db)?,
        }
        self.check_held()
    }

    /// Every snapshot shows what it showed at first.
    fn check_held(&self) -> Result<()> {
        for held in &self.held {
            for (family, content) in &held.content {
                assert_eq!(&entries(&held.snapshot, family)?, content, "a snapshot changed");
            }
        }
        Ok(())
    }

    /// New snapshots show the newest state.
    fn check_shown(&self, db: &Database) -> Result<()> {
        let (world, newest) = (world_of(db)?, self.states.len() - 1);
        match self.unknown {
            None => assert!(world == self.states[newest], "the newest state is not shown"),
            Some(Durability::Immediate) => assert!(world == self.states[newest - 1], "an unknown outcome is shown"),
            Some(_) => assert!(self.states[newest - 1..].contains(&world), "neither before nor after the commit"),
        }
        Ok(())
    }

    /// What was acknowledged survives a power cut at this moment, and is there for reading only, too.
    fn check_survival(&self, seed: u64) -> Result<()> {
        for cut in [PowerCut::LoseAll, PowerCut::KeepAll, PowerCut::Random(seed)] {
            let disk = self.disk.fork().power_cut(cut);
            let what = format!("after {cut:?}");
            let read = read_only(&disk, &self.options)?;
            let db = open(&disk, &self.options)?;
            let world = world_of(&db)?;
            self.number_of(&world, &what);
            assert!(read.is_none_or(|read| read == world), "{what}: for reading only, something else is shown");
            check(&db, &what)?;
        }
        Ok(())
    }

    /// The database works: it takes a commit and a checkpoint, frees what waits, and no page is missing.
    fn go_on(&mut self, db: &Database, what: &str) -> Result<()> {
        let mut world = self.newest().clone();
        let number = self.states.len() as u8;
        let mut txn = db.begin([])?;
        let name = format!("afterwards {number}");
        let family = txn.create_family(&name)?;
        for i in 0..20u8 {
            txn.family(&family)?.insert([i], vec![number; 500])?;
            world.entry(name.clone()).or_default().insert(vec![i], vec![number; 500]);
        }
        self.commit(txn, Durability::Immediate, world)?;
        let mut world = self.newest().clone();
        let mut txn = family.begin()?;
        txn.remove([3])?;
        world.get_mut(&name).unwrap().remove(&[3][..]);
        self.commit(txn, Durability::Eventual, world)?;
        while db.maintain(1000)? > 0 {}
        self.check_shown(db)?;
        self.check_held()?;
        db.checkpoint()?;
        self.acknowledge();
        check(db, what)?;
        self.check_shown(db)
    }
}

/// What an opening for reading only shows, if there is a database; it writes nothing.
fn read_only(disk: &SimDisk, options: &Options) -> Result<Option<World>> {
    let (disk, options) = (disk.fork(), options.clone().read_only(true));
    // After a failed sync other bytes are seen once the cache was dropped.
    let before = disk.durable_contents();
    let world = match open(&disk, &options) {
        Err(Error::NotADatabase { .. }) if before.iter().all(|byte| *byte == 0) => None,
        Err(error) => {
            // A creation that was cut short is none either; opening makes one of it.
            assert!(matches!(error, Error::NotADatabase { .. } | Error::Missing { .. }), "for reading only: {error}");
            None
        }
        Ok(db) => {
            let world = world_of(&db)?;
            assert!(db.check()?.is_sound(), "for reading only");
            assert!(matches!(db.begin([]), Err(Error::ReadOnly)));
            assert!(matches!(db.checkpoint(), Err(Error::ReadOnly)));
            db.close()?;
            Some(world)
        }
    };
    let counts = disk.counts();
    let changes = [counts.write_vectored_at, counts.write_sync, counts.allocate, counts.punch, counts.set_len];
    assert_eq!(changes, [0; 5], "for reading only");
    assert!(disk.durable_contents() == before, "for reading only, bytes changed");
    Ok(world)
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
fn run_with(fault: Fault, seed: u64, sabotage: Option<Sabotage>, tally: &Tally) -> Result<bool> {
    let disk = SimDisk::new();
    disk.inject(fault);
    let mut runner = Runner::new(disk.clone(), options(seed, sabotage), seed);
    let mut struck_at = None;
    for step in 0..STEPS {
        if let Err(error) = runner.step() {
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
            runner.held.clear();
            runner.held.clear();
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

/// Tries `run` with every fault at every position, `stride` apart, until it no longer strikes.
fn sweep(seed: u64, stride: u64, run: &dyn Fn(Fault) -> Result<bool>) {
    for (at, (kind, calls, sticky)) in KINDS.into_iter().enumerate() {
        let first = (seed * 7 + at as u64 * 5) % stride;
        for after in (first..).step_by(stride as usize) {
            let fault = Fault { calls, after, sticky, kind };
            match catch_unwind(std::panic::AssertUnwindSafe(|| run(fault))) {
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
            let fired = run_with(fault, seed, None, &tally)?;
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

/// Runs the harness over an engine with one rule broken; whether it noticed.
fn notices(rule: Sabotage) -> bool {
    let tally = Tally::default();
    (1..20).filter(|seed| seed % 4 != 3).any(|seed| {
        let attempt = catch_unwind(std::panic::AssertUnwindSafe(|| {
            sweep(seed, 61, &|fault| run_with(fault, seed, Some(rule), &tally));
        }));
        attempt.is_err()
    })
}

#[test]
fn the_harness_notices_broken_rules() {
    let broken = [
        Sabotage::CheckpointSkipsAnOwner,
        Sabotage::ImageForgetsEffects,
        Sabotage::ForgetsClaims,
        Sabotage::RepeatsAll,
        Sabotage::RetriesSync,
    ];
    // It is their panics that are wanted; what other tests have to say is printed.
    let (hook, here) = (take_hook(), current().id());
    set_hook(Box::new(move |info| {
        if current().id() != here {
            hook(info);
        }
    }));
    let unnoticed: Vec<_> = broken.into_iter().filter(|&rule| !notices(rule)).collect();
    drop(take_hook());
    assert!(unnoticed.is_empty(), "{unnoticed:?}");
}
