//! A writer at work: makes the transactions of its plan, and tells of each on standard output as soon as it is acknowledged.
//!
//! ```text
//!   ack WRITER COUNTER SEQ LEVEL     the commit returned
//!   at WRITER COUNTER                the file was opened (again) and shows so many transactions of the writer
//!   err WRITER COUNTER WHAT          the attempt failed with an error that it may fail with
//!   done                             all there was to do
//! ```

use crate::{
    model::counter_of,
    plan::{Change, Event, Place, Plan},
};
use anyhow::{Context, ensure};
use spinney::{Database, Durability, Error, Family, Options, Seq, SimDisk, Snapshot};
use std::{collections::HashMap, io::Write, path::PathBuf, sync::Arc, time::Duration};

/// Writes a line to standard output in one call.
pub(crate) fn tell(line: &str) {
    // Whoever listened is gone: nothing is left to prove.
    if std::io::stdout().lock().write_all(format!("{line}\n").as_bytes()).is_err() {
        std::process::exit(4);
    }
}

/// A family by its place, created when it is missing.
fn family(db: &Database, writer: u8, place: Place) -> spinney::Result<Family> {
    let name = Plan::name(place, writer);
    match place {
        Place::Passing(_) => {
            db.open_family(&name)?.ok_or_else(|| Error::FamilyUnknown { family: format!("{name}, which should be") })
        }
        _ => db.family(&name),
    }
}

/// One attempt at transaction `counter`.
///
/// # Errors
/// What went wrong; unless it says that the outcome is unknown, nothing has happened.
pub(crate) fn attempt(db: &Database, plan: &Plan, writer: u8, counter: u64) -> spinney::Result<(Seq, Durability)> {
    let transaction = plan.transaction(writer, counter);
    let mut families = HashMap::new();
    for &place in &transaction.places {
        families.insert(Plan::name(place, writer), family(db, writer, place)?);
    }
    let mut txn = db.begin(families.values())?;
    for change in &transaction.changes {
        let of = |place: &Place| families[&Plan::name(*place, writer)].clone();
        match change {
            Change::Create(place) => {
                let name = Plan::name(*place, writer);
                let created = txn.create_family(&name)?;
                families.insert(name, created);
            }
            Change::Drop(place) => txn.drop_family(&of(place))?,
            // Some without looking.
            Change::Put(place, key, value) if key.last().is_some_and(|byte| byte % 2 == 0) => {
                txn.family(&of(place))?.put(key, value.make())?
            }
            Change::Put(place, key, value) => drop(txn.family(&of(place))?.insert(key, value.make())?),
            Change::Remove(place, key) if key.last().is_some_and(|byte| byte % 2 == 0) => {
                txn.family(&of(place))?.delete(key)?
            }
            Change::Remove(place, key) => drop(txn.family(&of(place))?.remove(key)?),
            Change::RemoveRange(place, from, to) => {
                txn.family(&of(place))?.remove_range(&from[..]..&to[..])?;
            }
        }
    }
    Ok((txn.commit_with(transaction.durability)?, transaction.durability))
}

/// How a level is called in what is told.
pub(crate) fn level(durability: Durability) -> char {
    match durability {
        Durability::Immediate => 'I',
        Durability::Buffered => 'B',
        _ => 'E',
    }
}

/// Errors that a failing system call may lead to; any other blames the data or the caller.
pub(crate) fn is_honest(error: &Error) -> bool {
    match error {
        Error::CheckpointFailed { source } => is_honest(source),
        Error::Io { .. } | Error::Full { .. } | Error::Poisoned | Error::OutcomeUnknown { .. } => true,
        Error::TransactionBroken | Error::Locked { .. } | Error::Permission { .. } => true,
        _ => false,
    }
}

/// Everything small, so that rare paths are common; `alone` means that no thread but the caller's makes a call.
pub(crate) fn options(alone: bool) -> Options {
    let mut options = Options::new().flush_interval(Duration::from_millis(20)).background(!alone);
    if alone {
        options = options.memory_budget(2 << 20).log_size_max(256 << 10);
    }
    options
}

/// Where a worker's database is.
#[derive(Clone)]
pub(crate) enum Home {
    /// A file; everything is told on standard output.
    Path(PathBuf),
    /// A simulated disk; nothing is told.
    Disk(SimDisk),
}

impl Home {
    /// Opens it so that no thread but the caller's makes a call.
    pub(crate) fn open(&self) -> spinney::Result<Database> {
        match self {
            Self::Path(path) => options(true).open(path),
            Self::Disk(disk) => options(true).open_storage(Arc::new(disk.clone())),
        }
    }
}

/// How a worker's work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With all there was to do.
    Done,
    /// After too many errors, each of them honest.
    GaveUp,
}

/// A writer that goes on after errors, as a careful program would.
pub(crate) struct Worker {
    plan: Plan,
    home: Home,
    db: Option<Database>,
    /// The newest transaction acknowledged.
    pub(crate) counter: u64,
    /// The newest that is on stable storage.
    pub(crate) durable: u64,
    /// The newest that is with the operating system.
    buffered: u64,
    held: Vec<Snapshot>,
    errors_left: u32,
}

const WRITER: u8 = 0;

impl Worker {
    pub(crate) fn new(plan: Plan, home: Home) -> Self {
        Self { plan, home, db: None, counter: 0, durable: 0, buffered: 0, held: Vec::new(), errors_left: ERRORS_MAX }
    }

    /// Does transactions up to `until`, in this thread, and closes the database.
    ///
    /// # Errors
    /// What must not happen: dishonest errors, lost commits.
    pub(crate) fn run(&mut self, until: u64) -> anyhow::Result<End> {
        let end = self.work(until)?;
        self.tell(|| if end == End::Done { "done".to_owned() } else { "gave up".to_owned() });
        Ok(end)
    }

    fn work(&mut self, until: u64) -> anyhow::Result<End> {
        loop {
            // Done is what was closed without an error: else nobody knows what is there without opening it again.
            let is_last = self.counter >= until && self.db.is_some();
            let step = if is_last { self.close() } else { self.step(until) };
            let Err(error) = step else {
                if is_last {
                    return Ok(End::Done);
                }
                continue;
            };
            let honest = error.downcast_ref::<Error>().is_some_and(is_honest);
            if !honest {
                return Err(error);
            }
            self.tell(|| format!("err {WRITER} {} {error:#}", self.counter + 1));
            if self.errors_left == 0 {
                self.held.clear();
                self.db = None;
                return Ok(End::GaveUp);
            }
            self.errors_left -= 1;
            // A poisoned file is of no use any more; everything else is tried again.
            if self.db.as_ref().is_some_and(|db| !matches!(db.stats(), Ok(stats) if !stats.file.poisoned)) {
                self.held.clear();
                self.db = None;
            }
        }
    }

    fn tell(&self, line: impl FnOnce() -> String) {
        if matches!(self.home, Home::Path(_)) {
            tell(&line());
        }
    }

    fn step(&mut self, until: u64) -> anyhow::Result<()> {
        if self.db.is_none() {
            self.open()?;
            if self.counter == until {
                return Ok(()); // the last one's outcome was not known, and it is there
            }
        }
        let db = self.db.clone().context("just opened")?;
        let next = self.counter + 1;
        let (seq, durability) = attempt(&db, &self.plan, WRITER, next)?;
        self.counter = next;
        if durability != Durability::Eventual {
            self.buffered = next;
        }
        if durability == Durability::Immediate {
            self.durable = next;
        }
        self.tell(|| format!("ack {WRITER} {next} {} {}", seq.0, level(durability)));
        match self.plan.event(WRITER, next) {
            Some(Event::Checkpoint) => {
                db.checkpoint()?;
                self.durable = next;
            }
            Some(Event::Flush) => {
                db.flush()?;
                self.durable = next;
            }
            Some(Event::Reclaim) => drop(db.reclaim(1 << 20)?),
            Some(Event::HoldSnapshot) => self.held.push(db.snapshot()),
            Some(Event::DropSnapshots) => self.held.clear(),
            Some(Event::Reopen) => {
                drop(db);
                self.close()?;
            }
            None => {}
        }
        Ok(())
    }

    fn close(&mut self) -> anyhow::Result<()> {
        self.held.clear();
        match self.db.take() {
            Some(db) => Ok(db.close()?),
            None => Ok(()),
        }
    }

    fn open(&mut self) -> anyhow::Result<()> {
        let db = self.home.open()?;
        let found = counter_of(&db, &db.snapshot(), WRITER)?;
        // A simulated disk may forget what it could not sync; here only calls fail, and the operating system forgets nothing.
        let least = if matches!(self.home, Home::Path(_)) { self.buffered.max(self.durable) } else { self.durable };
        ensure!(found >= least, "{least} was acknowledged, {found} is there");
        ensure!(found <= self.counter + 1, "{found} is there, only {} was begun", self.counter + 1);
        self.counter = found;
        self.buffered = self.buffered.min(found);
        self.db = Some(db);
        self.tell(|| format!("at {WRITER} {found}"));
        Ok(())
    }
}

/// Errors after which a worker gives up.
const ERRORS_MAX: u32 = 6;

/// What its process exits with then.
pub(crate) const GAVE_UP: u8 = 3;
