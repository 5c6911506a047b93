//! Freeing in the background: the pages of dropped families and of whole subtrees that were removed.
//!
//! What waits is known from commits; what an earlier opening of the file left is found by looking at each family once, when
//! there is nothing else to do.
//!
//! A drop or a range removal costs O(height): the tree hands what it cut off to its family's graveyard. From there
//! pages are freed a budget at a time, by the family's own commits and by the thread here, which takes a family's writer
//! slot only when it is free.
//!
//! The thread runs only while there is something to do. It holds the database weakly, and whoever closes the
//! database waits for the step under way: **a maintained database can be dropped and opened again at once**.

use crate::{
    database::{Core, Database, HOUSEKEEPING, NAMES},
    error::{Error, Result},
    names::{self, FamilyId, FreeRecord, OwnerRecord},
    snapshot::Snapshot,
};
use parking_lot::{Condvar, Mutex};
use spinney_btree::{FamilyTxn, FileError, Owner, Part, TableId, TreeError, Wait};
use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    thread::JoinHandle,
    time::Duration,
};

/// Pages freed by a commit on top of its own work: enough that a family which only removes ranges keeps up.
pub(crate) const PAGES_PER_COMMIT: u64 = 64;

/// Pages freed per step of the background, between which writers get their turn.
const PAGES_PER_STEP: u64 = 512;

/// How long to leave a family alone whose writer slot was taken.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// What waits to be freed, as far as it is known.
#[derive(Debug, Default)]
pub(crate) struct Work(Mutex<WorkLists>);

#[derive(Debug, Default)]
struct WorkLists {
    /// Families with a graveyard.
    graves: BTreeSet<Owner>,
    /// Families that were dropped and still have pages.
    dropped: BTreeSet<Owner>,
    /// Families whose graveyard cannot be read. They are left alone until the database is opened again.
    unreadable: BTreeSet<Owner>,
    /// Where the last step was: the next one goes on behind it, so that every family gets its turn.
    last: Option<Owner>,
    /// How far families have been looked at for what an earlier opening left.
    search: Search,
}

/// The search through all families, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Search {
    /// Everything behind this name is to be looked at.
    Behind(String),
    /// Nothing is to be found: the file was new, or everything has been looked at.
    #[default]
    Over,
}

/// Families looked at per step.
const FAMILIES_PER_STEP: usize = 64;

impl Work {
    pub(crate) fn add_graves(&self, owner: Owner) {
        self.0.lock().graves.insert(owner);
    }

    pub(crate) fn add_dropped(&self, owner: Owner) {
        self.0.lock().dropped.insert(owner);
    }

    pub(crate) fn give_up(&self, owner: Owner) {
        self.0.lock().unreadable.insert(owner);
    }

    pub(crate) fn is_readable(&self, owner: Owner) -> bool {
        !self.0.lock().unreadable.contains(&owner)
    }

    /// Families that wait to have pages freed.
    pub(crate) fn families_waiting(&self) -> u64 {
        let lists = self.0.lock();
        lists.graves.union(&lists.dropped).filter(|owner| !lists.unreadable.contains(owner)).count() as u64
    }

    /// There may be graveyards that an earlier opening left.
    pub(crate) fn search_all(&self) {
        self.0.lock().search = Search::Behind(String::new());
    }

    /// Whether a step would find something to do.
    fn is_waiting(&self) -> bool {
        self.families_waiting() > 0 || self.0.lock().search != Search::Over
    }

    /// A family's graveyard is empty; if it was dropped, so is its record of it. One that was dropped during
    /// the step that emptied its graveyard still has a record.
    fn done(&self, owner: Owner, was_dropped: bool) {
        let mut lists = self.0.lock();
        lists.graves.remove(&owner);
        if was_dropped {
            lists.dropped.remove(&owner);
        }
    }

    /// The next family in turn, and whether it was dropped.
    fn next(&self) -> Option<(Owner, bool)> {
        let mut lists = self.0.lock();
        let waiting = |owner: &&Owner| !lists.unreadable.contains(owner);
        let all = || lists.graves.union(&lists.dropped).filter(waiting).copied();
        let behind = all().find(|&owner| lists.last.is_none_or(|last| owner > last));
        let owner = behind.or_else(|| all().next())?;
        lists.last = Some(owner);
        Some((owner, lists.dropped.contains(&owner)))
    }
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Pages were freed; there may be more.
    Freed(u64),
    /// Families were looked at.
    Looked,
    /// A writer has the family; try later.
    Busy,
    /// Nothing waits.
    Idle,
}

impl Core {
    /// Frees up to `pages` pages of the next family in turn.
    fn maintain(self: &Arc<Self>, pages: u64) -> Result<Step> {
        let Some((owner, is_dropped)) = self.work.next() else { return self.search() };
        match self.collect(owner, is_dropped, pages) {
            Err(TreeError::File(FileError::Busy { .. })) => Ok(Step::Busy),
            Err(error) => {
                self.work.give_up(owner);
                Err(self.lift(error))
            }
            Ok(step) => Ok(step),
        }
    }

    /// Looks at the next few families for what an earlier opening left.
    fn search(self: &Arc<Self>) -> Result<Step> {
        let Search::Behind(last) = self.work.0.lock().search.clone() else { return Ok(Step::Idle) };
        let snapshot = Snapshot::new(self, None);
        if last.is_empty() && snapshot.has_graves(NAMES)? {
            self.work.add_graves(NAMES);
        }
        let mut search = Search::Over;
        for (looked, found) in snapshot.names()?.families_behind(&last).enumerate() {
            let (name, FamilyId { owner, .. }) = found?;
            // A family that does not read is for its own readers to report.
            if snapshot.has_graves(owner).unwrap_or(false) {
                self.work.add_graves(owner);
            }
            if looked + 1 == FAMILIES_PER_STEP {
                search = Search::Behind(name);
                break;
            }
        }
        self.work.0.lock().search = search;
        Ok(Step::Looked)
    }

    fn collect(&self, owner: Owner, is_dropped: bool, pages: u64) -> Result<Step, TreeError> {
        let family = self.known(owner);
        // Before the slot, until after the commit: `try_begin` waits for this instead of failing.
        let _guard = family.as_ref().map(|family| family.in_maintenance.lock());
        // A writer that comes again and again lets it in like any other.
        let mut txn = self.file.begin(&[owner], Wait::For(BUSY_PAUSE))?;
        let part = txn.part(owner).expect("a transaction has the parts it was begun for");
        part.clears();
        let mut tree = FamilyTxn::new(part)?;
        let freed = tree.family(part).collect(pages)?;
        let is_empty = tree.family(part).graveyard_is_empty()?;
        tree.store(part)?;
        let mut is_done = is_empty;
        if is_dropped && is_empty {
            match txn.join_names(Wait::For(BUSY_PAUSE)) {
                Ok(names) => free_owner(names, owner)?,
                // What was freed stays freed; its record goes with a later step.
                Err(FileError::Busy { .. }) => is_done = false,
                Err(error) => return Err(error.into()),
            }
        }
        txn.commit(HOUSEKEEPING)?;
        if is_done {
            self.work.done(owner, is_dropped);
        }
        Ok(if freed == 0 && !is_done { Step::Busy } else { Step::Freed(freed) })
    }
}

/// A dropped family has no pages left: its record goes, and its owner can be used again.
fn free_owner(part: &mut Part, owner: Owner) -> Result<(), TreeError> {
    part.clears();
    let mut tree = FamilyTxn::new(part)?;
    let mut family = tree.family(part);
    let mut names = family.table(TableId::DEFAULT)?;
    let record = names.get(&names::dropped_key(owner))?.map(|bytes| OwnerRecord::decode(&bytes));
    names.remove(&names::dropped_key(owner))?;
    // A record that does not read, or a generation that was the last, leaves the owner unused for good.
    if let Some(Ok(OwnerRecord { generation, .. })) = record
        && let Some(generation) = generation.checked_add(1)
    {
        names.insert(&names::free_key(owner), &FreeRecord { generation }.encode())?;
    }
    tree.store(part)
}

impl Database {
    /// Frees up to `pages` pages that dropped families and removed ranges left behind, and says how many. The background
    /// does it by itself unless [`Options::background`](crate::Options::background) is off. Families that are being written
    /// are passed over. 0 means that nothing waits, or only for writers.
    ///
    /// # Errors
    /// [`Error::Corrupt`] and [`Error::Io`]: the family is then left alone until the database is opened again;
    /// [`Error::Poisoned`], [`Error::Closed`], [`Error::ReadOnly`].
    pub fn maintain(&self, pages: u64) -> Result<u64> {
        let mut freed = 0;
        let mut busy_left = self.core().work.families_waiting();
        while freed < pages {
            match self.core().maintain(PAGES_PER_STEP.min(pages - freed))? {
                Step::Freed(more) => freed += more,
                Step::Looked => {}
                Step::Busy if busy_left > 0 => busy_left -= 1,
                Step::Busy | Step::Idle => break,
            }
        }
        Ok(freed)
    }
}

/// The background thread, while there is one.
#[derive(Debug, Default)]
pub(crate) struct Maintainer {
    signal: Arc<Signal>,
}

#[derive(Debug, Default)]
struct Signal {
    state: Mutex<State>,
    stopped: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stop: bool,
    /// Between a nudge and the moment the thread finds nothing left.
    running: bool,
    thread: Option<JoinHandle<()>>,
}

impl Maintainer {
    /// Starts the thread if there is work and none runs.
    pub(crate) fn nudge(&self, core: &Arc<Core>) {
        if !core.work.is_waiting() {
            return;
        }
        let mut state = self.signal.state.lock();
        if state.stop || state.running {
            return;
        }
        let (weak, signal) = (Arc::downgrade(core), Arc::clone(&self.signal));
        let thread = std::thread::Builder::new().name("spinney-maintain".to_owned()).spawn(move || run(&weak, &signal));
        // Without a thread the pages stay where they are until the next nudge.
        if let Ok(thread) = thread {
            state.running = true;
            if let Some(last) = state.thread.replace(thread) {
                // It has found nothing left and is on its way out; afterwards it holds the file no more.
                let _ = last.join();
            }
        }
    }

    /// Ends the thread and waits for the step under way.
    pub(crate) fn stop(&self) {
        let thread = {
            let mut state = self.signal.state.lock();
            state.stop = true;
            self.signal.stopped.notify_all();
            state.thread.take()
        };
        if let Some(thread) = thread {
            // A step that panicked has been reported by the panic hook, and its transaction was aborted.
            let _ = thread.join();
        }
    }
}

fn run(core: &Weak<Core>, signal: &Signal) {
    loop {
        let Some(core) = core.upgrade() else { return };
        let step = core.maintain(PAGES_PER_STEP);
        let mut state = signal.state.lock();
        let is_over = match &step {
            Ok(Step::Freed(_) | Step::Looked | Step::Busy) => false,
            // Asked again under the lock: a nudge that came meanwhile has seen a running thread.
            Ok(Step::Idle) => !core.work.is_waiting(),
            Err(Error::Poisoned | Error::Closed | Error::ReadOnly | Error::OutcomeUnknown { .. }) => true,
            // That family was given up; the others go on.
            Err(_) => false,
        };
        if is_over || state.stop {
            state.running = false;
            return;
        }
        if matches!(step, Ok(Step::Busy)) {
            drop(core);
            signal.stopped.wait_for(&mut state, BUSY_PAUSE);
        }
    }
}
