//! The scrub: reading everything from the storage again and again, slowly, so that rot is found while there is still a backup.
//!
//! It takes no writer slot and no lock that writers want for longer than a page takes. A snapshot of one family is held for
//! one piece of at most a second's worth of reading, and not while it waits for the rate: it pins next to nothing. A
//! piece ends at a key; the next one goes on there, in whatever version of the tree there is by then.

use crate::{
    check::{Problem, StoredPages, table_name},
    database::{Core, Database, NAMES},
    error::{Error, Result},
    snapshot::Snapshot,
};
use parking_lot::{Condvar, Mutex};
use spinney_btree::{Cursor, Finding, Met, Owner, Surveyor, TableId, TreeError, TreeRoot, listed_table, survey};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Weak},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Problems that are kept; the rest is counted.
const PROBLEMS_MAX: usize = 1000;

/// A piece reads no more than this, however high the rate is.
const PIECE_BYTES_MAX: u64 = 4 << 20;

/// How a scrub goes about it.
#[derive(Clone, Debug)]
pub struct ScrubOptions {
    bytes_per_second: u64,
    rounds: Option<u64>,
    pause: Duration,
}

impl Default for ScrubOptions {
    fn default() -> Self {
        Self { bytes_per_second: 4 << 20, rounds: None, pause: Duration::from_secs(60) }
    }
}

impl ScrubOptions {
    /// 4 MiB per second, round after round, with a minute between two.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads so many bytes per second in the mean, 4 MiB by default; at least 64 KiB.
    pub fn bytes_per_second(mut self, bytes: u64) -> Self {
        self.bytes_per_second = bytes;
        self
    }

    /// Ends after so many rounds; without this it goes on until it is dropped.
    pub fn rounds(mut self, rounds: u64) -> Self {
        self.rounds = Some(rounds);
        self
    }

    /// How long to rest between two rounds, a minute by default.
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }
}

/// How far a scrub is, and what it found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ScrubStats {
    /// Whether it goes on: it has not been dropped, and has not done all its rounds.
    pub running: bool,
    /// Rounds finished.
    pub rounds: u64,
    /// The family in turn; empty between rounds.
    pub family: String,
    /// Families of this round that are done.
    pub families_done: u64,
    /// Bytes read from the storage so far.
    pub bytes: u64,
    /// Bytes of the round before this one: about what a round takes.
    pub bytes_last_round: u64,
    /// Bytes of this round so far.
    pub bytes_this_round: u64,
    /// Times a snapshot was taken, each for one piece.
    pub pieces: u64,
    /// Problems that were found, each time they were.
    pub problems: u64,
}

#[derive(Debug, Default)]
struct State {
    stats: ScrubStats,
    problems: Vec<Problem>,
    stop: bool,
}

/// What the thread and everybody who looks on share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock());
        self.changed.notify_all();
        result
    }

    pub(crate) fn stats(&self) -> ScrubStats {
        self.state.lock().stats.clone()
    }

    /// Rests, unless it is to stop; `false` then.
    fn rest(&self, until: Instant) -> bool {
        let mut state = self.state.lock();
        while !state.stop {
            if self.changed.wait_until(&mut state, until).timed_out() {
                return !state.stop;
            }
        }
        false
    }
}

/// A scrub that runs. Dropping it stops it, and waits for the page that is being read.
#[derive(Debug)]
pub struct Scrub {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Scrub {
    /// How far it is. [`Database::stats`] says the same.
    pub fn stats(&self) -> ScrubStats {
        self.shared.stats()
    }

    /// What was found so far and not taken yet, at most a thousand problems; [`ScrubStats::problems`] counts all.
    pub fn take_problems(&self) -> Vec<Problem> {
        std::mem::take(&mut self.shared.state.lock().problems)
    }

    /// Waits until it has finished all its [rounds](ScrubOptions::rounds), or can go on no more; then says how far it came.
    pub fn wait(mut self) -> ScrubStats {
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the panic hook, and shows in how far it came.
            let _ = thread.join();
        }
        self.stats()
    }
}

impl Drop for Scrub {
    fn drop(&mut self) {
        self.shared.update(|state| state.stop = true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Database {
    /// Starts to read everything from the storage, slowly and in the background: every page of every family, every 64 KiB of large
    /// values, superblocks, space map and owner table, verifying each; not from the cache, and without filling it. Pages that small commits
    /// left in memory are passed over until somebody has written them. Goes on until the handle is dropped.
    ///
    /// It keeps nobody waiting, writers least of all, and pins next to nothing: see [`ScrubStats::pieces`]. A round sees
    /// every page that is there from its beginning to its end. What is wrong is kept for [`Scrub::take_problems`]; everybody who reads such
    /// a page gets an error anyway. [`check`](Self::check) looks at more: that no page is lost or used twice.
    ///
    /// ```
    /// # fn main() -> spinney::Result<()> {
    /// let db = spinney::Database::in_memory()?;
    /// # db.family("orders")?;
    /// let scrub = db.scrub(spinney::ScrubOptions::new().bytes_per_second(64 << 20).rounds(1))?;
    /// let done = scrub.wait();
    /// assert_eq!((done.rounds, done.problems), (1, 0));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a rate below 64 KiB per second, [`Error::Closed`]; [`Error::Io`] when no thread can be started.
    pub fn scrub(&self, options: ScrubOptions) -> Result<Scrub> {
        self.core().open()?;
        if options.bytes_per_second < 64 << 10 {
            return Err(Error::InvalidOption { option: "bytes_per_second", why: "give at least 64 KiB" });
        }
        let shared = Arc::new(Shared::default());
        shared.update(|state| state.stats.running = true);
        *self.core().scrub.lock() = Arc::downgrade(&shared);
        let (core, theirs) = (Arc::downgrade(self.core()), Arc::clone(&shared));
        let run = move || {
            Scrubber { core, options, begun: Instant::now(), shared: Arc::clone(&theirs) }.run();
            theirs.update(|state| state.stats.running = false);
        };
        let thread = std::thread::Builder::new().name("spinney-scrub".to_owned()).spawn(run);
        let thread = thread.map_err(|source| Error::Io { op: "starting", at: 0, source: Arc::new(source) })?;
        Ok(Scrub { shared, thread: Some(thread) })
    }
}

struct Scrubber {
    core: Weak<Core>,
    options: ScrubOptions,
    begun: Instant,
    shared: Arc<Shared>,
}

/// It was told to stop, or there is nothing to read any more.
struct Over;

impl Scrubber {
    fn run(&mut self) {
        loop {
            if self.round().is_err() {
                return;
            }
            let rounds = self.shared.update(|state| {
                let stats = &mut state.stats;
                stats.rounds += 1;
                stats.family.clear();
                stats.bytes_last_round = std::mem::take(&mut stats.bytes_this_round);
                stats.rounds
            });
            if self.options.rounds.is_some_and(|all| rounds >= all)
                || !self.shared.rest(Instant::now() + self.options.pause)
            {
                return;
            }
        }
    }

    /// The database, unless it is closed.
    fn core(&self) -> std::result::Result<Arc<Core>, Over> {
        self.core.upgrade().filter(|core| core.open().is_ok()).ok_or(Over)
    }

    fn round(&mut self) -> std::result::Result<(), Over> {
        self.shared.update(|state| state.stats.families_done = 0);
        let core = self.core()?;
        let mut problems = Vec::new();
        let pages = core.file.verify_own(&mut |error| problems.push(Problem::damaged(core.lift(error.into()))));
        let bytes = pages * core.file.stats().page_bytes;
        drop(core);
        self.note(problems);
        self.spend(bytes)?;
        for (owner, name) in self.families()? {
            self.shared.update(|state| state.stats.family.clone_from(&name));
            self.family(owner, &name)?;
            self.shared.update(|state| state.stats.families_done += 1);
        }
        Ok(())
    }

    /// All families there are now, with their names if those can be read.
    fn families(&self) -> std::result::Result<Vec<(Owner, String)>, Over> {
        let core = self.core()?;
        let snapshot = Snapshot::new(&core, None);
        // What of the owner table cannot be read has been found already.
        let owners = snapshot.file_snapshot().owners(&mut |_| {});
        let mut names = BTreeMap::from([(NAMES, "(names of families and tables)".to_owned())]);
        if let Ok(listed) = snapshot.names() {
            names.extend(listed.families().map_while(Result::ok).map(|(name, id)| (id.owner, name)));
        }
        drop(snapshot);
        let name = |owner: Owner| names.get(&owner).cloned().unwrap_or_else(|| format!("#{}", owner.0));
        Ok(owners.into_iter().map(|owner| (owner, name(owner))).collect())
    }

    /// Every table of a family, the directory first.
    fn family(&mut self, owner: Owner, name: &str) -> std::result::Result<(), Over> {
        let mut table = Some(TableId::DIRECTORY);
        while let Some(id) = table {
            let mut at = Some(Cursor::default());
            while let Some(from) = at {
                at = self.piece(owner, name, id, from)?;
            }
            table = self.table_behind(owner, id)?;
        }
        Ok(())
    }

    /// The table of this number comes next; the default table comes after the directory.
    fn table_behind(&self, owner: Owner, table: TableId) -> std::result::Result<Option<TableId>, Over> {
        if table == TableId::DIRECTORY {
            return Ok(Some(TableId::DEFAULT));
        }
        let core = self.core()?;
        let snapshot = Snapshot::of_owner(&core, owner);
        let Ok(roots) = snapshot.family_root(owner) else { return Ok(None) };
        // Damage in the directory was found when it was its turn.
        Ok(snapshot.tables_behind(owner, &roots, table).ok().flatten())
    }

    /// Reads one piece of a table under a snapshot, then rests without one. Returns where the next one begins.
    fn piece(
        &mut self,
        owner: Owner,
        name: &str,
        table: TableId,
        from: Cursor,
    ) -> std::result::Result<Option<Cursor>, Over> {
        let core = self.core()?;
        let budget = self.options.bytes_per_second.min(PIECE_BYTES_MAX);
        let mut piece = Piece { budget, bytes: 0, found: Vec::new(), shared: Arc::clone(&self.shared), is_over: false };
        let next = {
            let snapshot = Snapshot::of_owner(&core, owner);
            let root = snapshot.family_root(owner).and_then(|roots| match table {
                TableId::DEFAULT => Ok(Some(roots.default)),
                TableId::DIRECTORY => Ok(Some(roots.tables)),
                other => snapshot.table_root(owner, &roots, other.0),
            });
            let pages = StoredPages(snapshot.pages().clone());
            // Dropped since, or lost with the directory.
            root.and_then(|root| {
                let root = root.unwrap_or(TreeRoot::EMPTY);
                survey(&pages, owner, table, root, from, &mut piece).map_err(|error| core.lift(error))
            })
        };
        let is_over = piece.is_over || core.open().is_err();
        let lift = |Finding { error, table, lost, .. }| Problem::Damaged {
            error: core.lift(error).named(owner, name),
            table: Some(table_name(table, &BTreeMap::new())),
            lost,
        };
        let problems = piece.found.into_iter().map(lift).collect();
        drop(core);
        if is_over {
            return Err(Over);
        }
        self.note(problems);
        self.shared.update(|state| state.stats.pieces += 1);
        let next = next.unwrap_or_else(|error| {
            self.note(vec![Problem::damaged(error)]);
            None
        });
        self.spend(piece.bytes)?;
        Ok(next)
    }

    fn note(&self, problems: Vec<Problem>) {
        self.shared.update(|state| {
            state.stats.problems += problems.len() as u64;
            let room = PROBLEMS_MAX.saturating_sub(state.problems.len());
            state.problems.extend(problems.into_iter().take(room));
        });
    }

    /// Counts what was read, and rests until the rate allows more.
    fn spend(&mut self, bytes: u64) -> std::result::Result<(), Over> {
        self.shared.update(|state| {
            state.stats.bytes += bytes;
            state.stats.bytes_this_round += bytes;
        });
        // Each piece by itself: what it had to wait for earlier is not caught up with later.
        let rate = u128::from(self.options.bytes_per_second);
        let nanos = u64::try_from(u128::from(bytes) * 1_000_000_000 / rate).unwrap_or(u64::MAX);
        self.begun = Instant::now().max(self.begun + Duration::from_nanos(nanos));
        if self.shared.rest(self.begun) { Ok(()) } else { Err(Over) }
    }
}

/// One piece of a survey.
struct Piece {
    budget: u64,
    bytes: u64,
    found: Vec<Finding>,
    shared: Arc<Shared>,
    is_over: bool,
}

impl Surveyor for Piece {
    fn spent(&mut self, bytes: u64) -> bool {
        self.bytes += bytes;
        self.is_over = self.shared.state.lock().stop;
        self.bytes < self.budget && !self.is_over
    }

    fn entry(&mut self, _: &[u8], _: Met<'_>) -> std::result::Result<(), TreeError> {
        Ok(())
    }

    fn lost(&mut self, finding: Finding) {
        self.found.push(finding);
    }
}

impl fmt::Display for ScrubStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, family, bytes_this_round, bytes_last_round, problems, .. } = self;
        let round = rounds + 1;
        write!(f, "round {round}, {bytes_this_round} bytes read (the last one took {bytes_last_round})")?;
        write!(f, ", in `{family}`, {problems} problems so far")
    }
}

impl Snapshot {
    /// The table whose number comes next behind that of `table`; graves come behind all tables.
    fn tables_behind(
        &self,
        owner: Owner,
        roots: &spinney_btree::FamilyRoot,
        table: TableId,
    ) -> Result<Option<TableId>> {
        let bounds = (std::ops::Bound::Excluded(table.0.to_be_bytes().to_vec()), std::ops::Bound::Unbounded);
        let pages = self.pages().clone();
        let mut listed = spinney_btree::Range::new(pages, owner, TableId::DIRECTORY, roots.tables, bounds);
        let Some(entry) = listed.next() else { return Ok(None) };
        let read = entry.and_then(|(key, value)| Ok((key, value.read()?)));
        let (key, value) = read.map_err(|error| self.core().lift(error))?;
        Ok(listed_table(&key, &value).map(|(id, _)| id))
    }
}
