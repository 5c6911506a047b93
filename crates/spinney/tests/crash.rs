//! The whole database on a disk whose power is cut at every call: random workloads over several families, every legal
//! image recovered and compared with the model, and recovery itself crashed.
//!
//! `SPINNEY_CRASH_IMAGES` and `SPINNEY_CRASH_SEED` choose how many images and from where.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

use rand::{Rng, SeedableRng, rngs::SmallRng};
use spinney::{
    Database, Durability, EnumerationLimits, Family, Image, Options, Recording, Result, Sabotage, SimDisk, Snapshot,
    Tuning, WriteTransaction,
};
use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    panic::{catch_unwind, set_hook, take_hook},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::current,
    time::Instant,
};

/// Family -> key -> value.
type World = BTreeMap<String, Entries>;
type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

const FAMILIES: [&str; 4] = ["orders", "stock", "log", "people"];
const ACKNOWLEDGED: u64 = 1 << 32;
/// One in so many images gets the whole oracle: usable, idempotent, a second crash.
const DEEP_ONE_IN: u64 = 50;

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

fn digest<'a>(entries: impl Iterator<Item = (&'a str, &'a [u8], &'a [u8])>) -> u64 {
    let mut hasher = DefaultHasher::new();
    entries.for_each(|entry| entry.hash(&mut hasher));
    hasher.finish()
}

fn digest_of(world: &World) -> u64 {
    let empty: (&[u8], &[u8]) = (b"", b"");
    digest(world.iter().flat_map(|(family, entries)| {
        let all = entries.iter().map(|(k, v)| (&k[..], &v[..]));
        std::iter::once(empty).chain(all).map(move |(k, v)| (&family[..], k, v))
    }))
}

/// Everything a snapshot shows, as one number.
fn digest_in(snapshot: &Snapshot, db: &Database) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for info in snapshot.families()? {
        let family = db.open_family(&info.name)?.expect("it is in the snapshot");
        (&*info.name, &b""[..], &b""[..]).hash(&mut hasher);
        for entry in snapshot.range(&family, ..) {
            let (key, value) = entry?;
            (&*info.name, &key[..], &value[..]).hash(&mut hasher);
        }
    }
    Ok(hasher.finish())
}

struct Run {
    options: Options,
    recording: Recording,
    /// Digests of the states after each commit.
    states: Vec<u64>,
}

struct Workload {
    rng: SmallRng,
    disk: SimDisk,
    db: Option<Database>,
    world: World,
    states: Vec<u64>,
    held: Vec<(Snapshot, Vec<(Family, Entries)>)>,
    options: Options,
}

impl Workload {
    fn db(&self) -> &Database {
        self.db.as_ref().expect("open between steps")
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

    fn transaction(&mut self) -> Result<()> {
        let mut world = self.world.clone();
        let mut families = Vec::new();
        for name in world.keys() {
            if self.rng.random_ratio(1, 2) {
                families.extend(self.db().open_family(name)?);
            }
        }
        let mut txn = self.db().begin(&families)?;
        for family in &families {
            self.change(&mut txn, family, &mut world)?;
        }
        if self.rng.random_ratio(1, 6) {
            self.names(&mut txn, &families, &mut world)?;
        }
        if self.rng.random_ratio(1, 8) {
            txn.abort();
            return Ok(());
        }
        let commit = self.states.len() as u64;
        self.disk.mark(commit);
        self.states.push(digest_of(&world));
        self.world = world;
        let durability = match self.rng.random_range(0..5) {
            0 => Durability::Eventual,
            1 => Durability::Buffered,
            _ => Durability::Immediate,
        };
        txn.commit_with(durability)?;
        if durability == Durability::Immediate {
            self.disk.mark(ACKNOWLEDGED + commit);
        }
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        match self.rng.random_range(0..24) {
            0 => drop(self.db().checkpoint()?),
            1 => {
                self.db().flush()?;
                self.disk.mark(ACKNOWLEDGED + self.states.len() as u64 - 1);
            }
            2 => {
                let (snapshot, mut content) = (self.db().snapshot(), Vec::new());
                for (name, entries) in &self.world {
                    content.push((self.db().open_family(name)?.expect("it exists"), entries.clone()));
                }
                self.held.push((snapshot, content));
            }
            3 if !self.held.is_empty() => {
                let at = self.rng.random_range(0..self.held.len());
                drop(self.held.swap_remove(at));
            }
            4 => {
                self.held.clear();
                self.db.take().expect("open").close()?;
                self.disk.mark(ACKNOWLEDGED + self.states.len() as u64 - 1);
                self.db = Some(self.options.clone().open_storage(Arc::new(self.disk.clone()))?);
            }
            5 => {
                let budget = self.rng.random_range(1..200);
                self.db().maintain(budget)?;
            }
            6 => {
                let bytes = self.rng.random_range(0..60) * 4096;
                self.db().reclaim(bytes)?;
            }
            _ => self.transaction()?,
        }
        for (snapshot, content) in &self.held {
            for (family, entries) in content {
                let found: Result<BTreeMap<_, _>> =
                    snapshot.range(family, ..).map(|e| e.map(|(k, v)| (k.to_vec(), v.to_vec()))).collect();
                assert_eq!(&found?, entries, "a snapshot changed");
            }
        }
        Ok(())
    }
}

fn run(seed: u64, steps: u32, sabotage: Option<Sabotage>) -> Result<Run> {
    let disk = SimDisk::new();
    disk.set_seed(seed);
    disk.record();
    let options = options(seed, sabotage);
    let db = options.clone().open_storage(Arc::new(disk.clone()))?;
    let mut workload = Workload {
        rng: SmallRng::seed_from_u64(seed),
        disk: disk.clone(),
        db: Some(db),
        world: World::new(),
        states: vec![digest_of(&World::new())],
        held: Vec::new(),
        options: options.clone(),
    };
    let first = workload.states.len() as u64;
    disk.mark(first);
    workload.world.insert("orders".to_owned(), BTreeMap::new());
    workload.states.push(digest_of(&workload.world));
    workload.db().family("orders")?;
    disk.mark(ACKNOWLEDGED + first);
    for _ in 0..steps {
        workload.step()?;
    }
    workload.held.clear();
    drop(workload.db.take());
    Ok(Run { options, recording: disk.recording(), states: workload.states })
}

impl Run {
    /// The commit whose state a database shows; checks that every page is where it belongs.
    fn commit_in(&self, db: &Database, range: (u64, u64), what: &str) -> Result<u64> {
        let found = digest_in(&db.snapshot(), db)?;
        let commits = range.0..=range.1;
        let commit = commits.rev().find(|&commit| self.states[commit as usize] == found);
        let report = db.check()?;
        assert!(report.is_sound(), "{what}: {:?}", report.problems);
        commit.ok_or_else(|| panic!("{what}: no state between {} and {}", range.0, range.1))
    }

    /// Returns how many images of the recovery itself were recovered and verified too.
    fn check(&self, image: &Image<'_>, deep: bool) -> Result<u64> {
        let (mut begun, mut acknowledged) = (0, 0);
        for mark in image.marks() {
            if mark >= ACKNOWLEDGED {
                acknowledged = acknowledged.max(mark - ACKNOWLEDGED);
            } else {
                begun = begun.max(mark);
            }
        }
        let disk = image.disk();
        if deep {
            disk.record();
        }
        let options = &self.options;
        let db = options.clone().open_storage(Arc::new(disk.clone()))?;
        let commit = self.commit_in(&db, (acknowledged, begun), "first recovery")?;
        if !deep {
            return Ok(0);
        }
        let mut nested_images = 0;
        let recovery = disk.recording();
        for nested in recovery.images(&EnumerationLimits { images_per_cut_max: 8, ..EnumerationLimits::QUICK }, 1) {
            nested_images += 1;
            let served = nested.cut_index() == recovery.step_count();
            let least = if served { commit } else { acknowledged };
            let again = options.clone().open_storage(Arc::new(nested.disk()))?;
            self.commit_in(&again, (least, begun), &format!("second recovery, {}", nested.describe()))?;
        }
        // Usable, and nothing leaked: a commit, a checkpoint, and all pages are accounted for.
        let family = db.family("afterwards")?;
        let mut txn = family.begin()?;
        for i in 0..30u8 {
            txn.insert([i], vec![i; 500])?;
        }
        txn.commit()?;
        while db.maintain(1000)? > 0 {}
        let before = digest_in(&db.snapshot(), &db)?;
        db.checkpoint()?;
        let report = db.check()?;
        assert!(report.is_sound(), "after use: {:?}", report.problems);
        drop(family);
        db.close()?;
        let db = options.clone().open_storage(Arc::new(disk))?;
        assert_eq!(digest_in(&db.snapshot(), &db)?, before, "after closing and opening");
        Ok(nested_images)
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn every_crash_leaves_a_prefix_that_holds_what_was_acknowledged() {
    let goal = setting("SPINNEY_CRASH_IMAGES", 60_000);
    let first_seed = setting("SPINNEY_CRASH_SEED", 1);
    let per_run = (goal / 12).clamp(1000, 20_000);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let (images, deep, nested) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let begun = Instant::now();
    let mut seeds = 0;
    while images.load(Ordering::Relaxed) < goal {
        let seed = first_seed + seeds;
        seeds += 1;
        let run = run(seed, 40, None).unwrap_or_else(|error| panic!("the workload of seed {seed}: {error}"));
        let limits = EnumerationLimits { images_max: per_run, ..EnumerationLimits::PULL_REQUEST };
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (run, limits, images, deep, nested) = (&run, &limits, &images, &deep, &nested);
                scope.spawn(move || {
                    for image in run.recording.images(limits, seed).share(thread, threads) {
                        let number = images.fetch_add(1, Ordering::Relaxed);
                        let is_deep = number.is_multiple_of(DEEP_ONE_IN);
                        deep.fetch_add(u64::from(is_deep), Ordering::Relaxed);
                        let line = Reproduction(seed, &image);
                        let inner = run.check(&image, is_deep).unwrap_or_else(|error| panic!("{error}"));
                        nested.fetch_add(inner, Ordering::Relaxed);
                        std::mem::forget(line);
                    }
                });
            }
        });
    }
    let images = images.load(Ordering::Relaxed);
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{images} images of {seeds} runs from seed {first_seed}, {} with the whole oracle and {} of crashed recoveries: \
         {:.0} recoveries/s on {threads} threads",
        deep.load(Ordering::Relaxed),
        nested.load(Ordering::Relaxed),
        (images + nested.load(Ordering::Relaxed)) as f64 / seconds
    );
    assert!(images >= goal);
}

/// Prints what is needed to see a failure again, when dropped by a panic.
struct Reproduction<'a>(u64, &'a Image<'a>);

impl Drop for Reproduction<'_> {
    fn drop(&mut self) {
        eprintln!("reproduce: SPINNEY_CRASH_SEED={} image {}", self.0, self.1.describe());
    }
}

/// Runs the harness over an engine with one rule of small commits broken; whether it noticed.
fn notices(sabotage: Sabotage) -> bool {
    (1..30).filter(|seed| seed % 4 != 3).any(|seed| {
        let attempt = catch_unwind(|| -> Result<()> {
            let run = run(seed, 40, Some(sabotage))?;
            let limits = EnumerationLimits { images_max: 1500, ..EnumerationLimits::PULL_REQUEST };
            for (number, image) in run.recording.images(&limits, seed).enumerate() {
                run.check(&image, number % 10 == 0)?;
            }
            Ok(())
        });
        !matches!(attempt, Ok(Ok(())))
    })
}

#[test]
fn the_harness_notices_broken_small_commits() {
    let broken = [
        Sabotage::ImageForgetsEffects,
        Sabotage::CheckpointSkipsAnOwner,
        Sabotage::ForgetsClaims,
        Sabotage::RepeatsAll,
        Sabotage::ReusesNumbers,
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
