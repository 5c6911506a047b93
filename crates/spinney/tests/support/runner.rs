//! A run, step by step: random or scripted, with every state it committed. Any step may fail; the next one goes on.

use super::{
    model::{Entries, World, check, entries, open, read_only, world_of},
    op::Op,
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use spinney::{Database, Durability, Error, Family, Options, PowerCut, Result, SimDisk, Snapshot, WriteTransaction};

pub const FAMILIES: [&str; 4] = ["orders", "stock", "log", "people"];

/// Added to the marks of commits that were acknowledged as durable; without it a mark says that the commit begins.
const ACKNOWLEDGED: u64 = 1 << 32;
/// Added to the marks of commits of which the operating system has everything.
const HANDED_OVER: u64 = 1 << 33;

/// The oldest state that a crash may leave, and the newest, by the marks set before it.
pub fn bounds(marks: impl Iterator<Item = u64>, is_kill: bool) -> (usize, usize) {
    let (mut least, mut most) = (0, 0);
    for mark in marks {
        match (mark & !(HANDED_OVER - 1), mark & ACKNOWLEDGED) {
            (HANDED_OVER, _) if is_kill => least = least.max(mark - HANDED_OVER),
            (HANDED_OVER, _) => {}
            (_, ACKNOWLEDGED) => least = least.max(mark - ACKNOWLEDGED),
            _ => most = most.max(mark),
        }
    }
    (least as usize, most as usize)
}

/// Errors that a failing disk may lead to; anything else would blame the data or the caller.
pub fn is_honest(error: &Error) -> bool {
    match error {
        Error::CheckpointFailed { source } => is_honest(source),
        // Not one of those that stand for something the database has no words for.
        Error::Io { op, .. } => *op != "using",
        Error::Full { .. } | Error::Poisoned | Error::OutcomeUnknown { .. } => true,
        _ => false,
    }
}

/// A snapshot and what it showed at first.
struct Held {
    snapshot: Snapshot,
    content: Vec<(Family, Entries)>,
}

/// A transaction that operations gather in.
struct Open {
    txn: WriteTransaction,
    families: Vec<Family>,
    world: World,
}

pub struct Runner {
    rng: SmallRng,
    pub disk: SimDisk,
    pub options: Options,
    /// `None` before the first opening, and after one that failed.
    pub db: Option<Database>,
    /// Every state in order, that of a commit whose outcome is unknown included.
    pub states: Vec<World>,
    /// The newest state that was said to be durable.
    pub acknowledged: usize,
    /// The newest state of which the operating system was said to have everything.
    handed_over: usize,
    /// The newest state is that of a commit whose outcome is unknown; with its durability.
    pub unknown: Option<Durability>,
    held: Vec<Held>,
    txn: Option<Open>,
    /// Operations so far: what they write differs.
    serial: u8,
}

impl Runner {
    pub fn new(disk: SimDisk, options: Options, seed: u64) -> Self {
        disk.set_seed(seed);
        Self {
            rng: SmallRng::seed_from_u64(seed),
            disk,
            options,
            db: None,
            states: vec![World::new()],
            acknowledged: 0,
            handed_over: 0,
            unknown: None,
            held: Vec::new(),
            txn: None,
            serial: 0,
        }
    }

    pub fn newest(&self) -> &World {
        self.states.last().expect("the first is there")
    }

    pub fn acknowledge(&mut self) {
        if self.unknown.is_none() {
            self.acknowledged = self.states.len() - 1;
            self.disk.mark(ACKNOWLEDGED + self.acknowledged as u64);
        }
    }

    /// Which state it is, of those that may have survived.
    pub fn number_of(&self, world: &World, what: &str) -> usize {
        let (least, most) = (self.acknowledged, self.states.len() - 1);
        let found = (least..=most).rev().find(|&number| self.states[number] == *world);
        found.unwrap_or_else(|| {
            let lost = self.states.iter().rposition(|state| state == world);
            panic!("{what}: no state between {least} and {most}, but {lost:?}")
        })
    }

    /// Opens the database, and finds out which of the states it is in.
    pub fn open(&mut self) -> Result<()> {
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
    pub fn forget(&mut self) {
        self.txn = None;
        self.held.clear();
        self.db = None;
    }

    /// Records the disk from here on; the marks say what was promised before.
    pub fn record(&self) {
        self.disk.record();
        let marks = [self.states.len() - 1, self.acknowledged, self.handed_over];
        marks.into_iter().zip([0, ACKNOWLEDGED, HANDED_OVER]).for_each(|(n, what)| self.disk.mark(what + n as u64));
    }

    /// Lets go of every snapshot.
    pub fn release_all(&mut self) {
        self.held.clear();
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
                world.insert(name.to_owned(), Entries::new());
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
        let number = self.states.len() as u64;
        self.disk.mark(number);
        match txn.commit_with(durability) {
            Ok(_) => {
                assert!(self.unknown.is_none(), "a commit behind one whose outcome is unknown");
                self.states.push(world);
                match durability {
                    Durability::Immediate => self.acknowledge(),
                    Durability::Buffered => {
                        self.handed_over = number as usize;
                        self.disk.mark(HANDED_OVER + number);
                    }
                    Durability::Eventual => {}
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
    pub fn step(&mut self) -> Result<()> {
        let Some(db) = self.db.clone() else { return self.open() };
        match self.rng.random_range(0..24) {
            0 => self.perform(Op::Checkpoint)?,
            1 => self.perform(Op::Flush)?,
            2 | 3 => self.perform(Op::Hold)?,
            4 if !self.held.is_empty() => {
                let at = self.rng.random_range(0..self.held.len());
                drop(self.held.swap_remove(at));
            }
            5 => {
                drop(db);
                self.perform(Op::Reopen)?;
            }
            6 => {
                let pages = self.rng.random_range(1..200);
                self.perform(Op::Maintain(pages))?;
            }
            7 => {
                let bytes = self.rng.random_range(0..60) * 4096;
                self.perform(Op::Reclaim(bytes))?;
            }
            _ => self.transaction(&db)?,
        }
        self.check_held()
    }

    /// One operation. With no open database: tries to open it first.
    pub fn perform(&mut self, op: Op) -> Result<()> {
        if self.db.is_none() {
            self.open()?;
        }
        let db = self.db.clone().expect("just opened");
        self.serial = self.serial.wrapping_add(1);
        match op {
            Op::Create(_)
            | Op::Drop(_)
            | Op::Rename(..)
            | Op::Put { .. }
            | Op::Remove { .. }
            | Op::RemoveRange { .. } => {
                let mut open = self.open_txn(&db)?;
                // One that failed is dropped, which aborts it.
                change_in(&mut open, op, self.serial)?;
                self.txn = Some(open);
            }
            Op::Commit(durability) => {
                let Open { txn, families, world } = self.open_txn(&db)?;
                drop(families);
                self.commit(txn, durability, world)?;
            }
            Op::Abort => self.txn = None,
            Op::Checkpoint => {
                db.checkpoint()?;
                self.acknowledge();
            }
            Op::Flush => {
                db.flush()?;
                self.acknowledge();
            }
            Op::Hold => {
                let (snapshot, mut content) = (db.snapshot(), Vec::new());
                if self.unknown.is_none() {
                    for (name, entries) in self.newest() {
                        let family = db.open_family(name)?.unwrap_or_else(|| panic!("family {name} is gone"));
                        content.push((family, entries.clone()));
                    }
                    self.held.push(Held { snapshot, content });
                }
            }
            Op::Release if self.held.is_empty() => {}
            Op::Release => drop(self.held.remove(0)),
            Op::Reopen => {
                self.forget();
                // A failure is made up for by opening.
                let closed = db.close();
                if closed.is_ok() {
                    self.acknowledge();
                }
                self.open()?;
            }
            Op::Maintain(pages) => drop(db.maintain(pages)?),
            Op::Reclaim(bytes) => drop(db.reclaim(bytes)?),
        }
        Ok(())
    }

    /// The open transaction, or a new one over all families.
    fn open_txn(&mut self, db: &Database) -> Result<Open> {
        if let Some(open) = self.txn.take() {
            return Ok(open);
        }
        let (world, mut families) = (self.newest().clone(), Vec::new());
        for name in world.keys() {
            families.extend(db.open_family(name)?);
        }
        Ok(Open { txn: db.begin(&families)?, families, world })
    }

    /// Every snapshot shows what it showed at first.
    pub fn check_held(&self) -> Result<()> {
        for held in &self.held {
            for (family, content) in &held.content {
                assert_eq!(&entries(&held.snapshot, family)?, content, "a snapshot changed");
            }
        }
        Ok(())
    }

    /// New snapshots show the newest state.
    pub fn check_shown(&self, db: &Database) -> Result<()> {
        let (world, newest) = (world_of(db)?, self.states.len() - 1);
        match self.unknown {
            None => assert!(world == self.states[newest], "the newest state is not shown"),
            Some(Durability::Immediate) => assert!(world == self.states[newest - 1], "an unknown outcome is shown"),
            Some(_) => assert!(self.states[newest - 1..].contains(&world), "neither before nor after the commit"),
        }
        Ok(())
    }

    /// What was acknowledged survives a power cut at this moment, and is there for reading only, too.
    pub fn check_survival(&self, seed: u64) -> Result<()> {
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
    pub fn go_on(&mut self, db: &Database, what: &str) -> Result<()> {
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

fn change_in(open: &mut Open, op: Op, serial: u8) -> Result<()> {
    let Open { txn, families, world } = open;
    let family_named = |index: usize| families.iter().find(|family| *family.name() == *FAMILIES[index]).cloned();
    match op {
        Op::Create(index) if !world.contains_key(FAMILIES[index]) => {
            families.push(txn.create_family(FAMILIES[index])?);
            world.insert(FAMILIES[index].to_owned(), Entries::new());
        }
        Op::Drop(index) => {
            if let Some(family) = family_named(index) {
                txn.drop_family(&family)?;
                families.retain(|other| *other.name() != *family.name());
                world.remove(FAMILIES[index]);
            }
        }
        Op::Rename(from, to) if !world.contains_key(FAMILIES[to]) => {
            if let Some(family) = family_named(from) {
                txn.rename_family(&family, FAMILIES[to])?;
                let entries = world.remove(FAMILIES[from]).expect("a family of the model");
                world.insert(FAMILIES[to].to_owned(), entries);
            }
        }
        Op::Put { family, key, bytes } => {
            if let Some(handle) = family_named(family) {
                let value = vec![serial; bytes];
                // Every other one without looking.
                if serial.is_multiple_of(2) {
                    txn.family(&handle)?.put([key], &value)?;
                } else {
                    txn.family(&handle)?.insert([key], &value)?;
                }
                world.get_mut(FAMILIES[family]).expect("a family of the model").insert(vec![key], value);
            }
        }
        Op::Remove { family, key } => {
            if let Some(handle) = family_named(family) {
                if serial.is_multiple_of(2) {
                    txn.family(&handle)?.delete([key])?;
                } else {
                    txn.family(&handle)?.remove([key])?;
                }
                world.get_mut(FAMILIES[family]).expect("a family of the model").remove(&[key][..]);
            }
        }
        Op::RemoveRange { family, from, to } => {
            if let Some(handle) = family_named(family) {
                txn.family(&handle)?.remove_range([from]..[to])?;
                let entries = world.get_mut(FAMILIES[family]).expect("a family of the model");
                entries.retain(|key, _| !([from][..] <= key[..] && key[..] < [to][..]));
            }
        }
        _ => {}
    }
    Ok(())
}
