//! The database: opening, what all handles share, and closing.

use crate::{
    check::own_name,
    error::{Error, Result},
    family::{Family, FamilyInfo, FamilyShared},
    maintenance::{Maintainer, Work},
    names::{self, Counters, FamilyId},
    options::Options,
    scrub,
    snapshot::Snapshot,
    transaction::WriteTransaction,
};
use parking_lot::Mutex;
use spinney_btree::{Create, Durability, MemStorage, Owner, PagedFile, Pages, Seq, Storage, TreeError, Wait};
use std::{
    collections::HashMap,
    fmt,
    path::Path,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Owner of the tree of names.
pub(crate) const NAMES: Owner = Owner(0);

/// Owner of the pages that the file keeps for itself.
pub(crate) const FILE_ITSELF: Owner = Owner(u32::MAX);

/// What lives as long as any handle, snapshot or transaction: the file, and what is known of its families.
pub(crate) struct Core {
    pub(crate) file: PagedFile,
    pub(crate) options: Options,
    pub(crate) work: Work,
    /// The scrub that was started last, for statistics.
    pub(crate) scrub: Mutex<Weak<scrub::Shared>>,
    /// The name tree counts as a family with one holder at a time.
    pub(crate) names: Arc<FamilyShared>,
    /// What the file is called in messages.
    label: String,
    closed: AtomicBool,
    registry: Mutex<Registry>,
    /// Numbers given away in this process, also by transactions that were aborted since: a handle that survived an
    /// abort must never meet a later family or table of the same number.
    spent: Mutex<Counters>,
}

/// What handles share, by owner; entries whose handles are gone are swept when the list has doubled.
#[derive(Debug)]
struct Registry {
    families: HashMap<Owner, Weak<FamilyShared>>,
    sweep_at: usize,
}

const SWEEP_AT_LEAST: usize = 64;

impl Core {
    /// Puts an error of the layers below into words.
    pub(crate) fn lift(&self, error: TreeError) -> Error {
        match error {
            TreeError::File(error) => {
                Error::from_file(error, &self.label, &|owner| self.name_of(owner), &|owner| self.holder_of(owner))
            }
            TreeError::Corrupt { page, owner, why, .. } => {
                let at = page.get() * self.file.page_bytes() as u64;
                Error::Corrupt { page, family: self.name_of(owner), at, why }
            }
            TreeError::BadRoot { owner, why } => Error::RootDamaged { family: self.name_of(owner), why },
            TreeError::KeyTooLong { bytes, limit } => Error::KeyTooLong { bytes, bytes_max: limit },
            TreeError::ValueTooLarge { bytes, limit } => Error::ValueTooLarge { bytes, bytes_max: limit },
            TreeError::Unsorted { at } => Error::NotSorted { at },
            TreeError::Source(source) => Error::ValueSource { source },
            TreeError::NoTable(id) | TreeError::TableExists(id) => {
                Error::TableUnknown { family: "?".to_owned(), table: format!("#{}", id.0) }
            }
            TreeError::Broken => Error::TransactionBroken,
            other => Error::Io { op: "using", at: 0, source: Arc::new(std::io::Error::other(other)) },
        }
    }

    /// A family's newest name as far as a handle knows it, else its number.
    pub(crate) fn name_of(&self, owner: Owner) -> String {
        let unknown = || own_name(owner).unwrap_or_else(|| format!("#{}", owner.0));
        self.known(owner).map_or_else(unknown, |shared| shared.name().to_string())
    }

    fn holder_of(&self, owner: Owner) -> String {
        self.known(owner).map_or_else(|| "somebody".to_owned(), |shared| shared.holder())
    }

    /// What the handles of a family share, if there are any.
    pub(crate) fn known(&self, owner: Owner) -> Option<Arc<FamilyShared>> {
        if owner == NAMES {
            return Some(Arc::clone(&self.names));
        }
        self.registry.lock().families.get(&owner).and_then(Weak::upgrade)
    }

    /// What the handles of a family share; begins it when there is none yet. As long as there is any handle its owner
    /// is given to no other family, so one owner has one set of handles.
    pub(crate) fn register(&self, id: FamilyId, name: &str) -> Arc<FamilyShared> {
        let mut registry = self.registry.lock();
        if let Some(shared) = registry.families.get(&id.owner).and_then(Weak::upgrade) {
            return shared;
        }
        if registry.families.len() >= registry.sweep_at {
            registry.families.retain(|_, shared| shared.strong_count() > 0);
            registry.sweep_at = SWEEP_AT_LEAST.max(2 * registry.families.len());
        }
        let shared = Arc::new(FamilyShared::new(id, name));
        registry.families.insert(id.owner, Arc::downgrade(&shared));
        shared
    }

    /// The next numbers to give away: those of the names tree, unless this process has given away higher ones.
    pub(crate) fn unspent(&self, stored: Counters) -> Counters {
        let spent = self.spent.lock();
        Counters {
            next_owner: stored.next_owner.max(spent.next_owner),
            next_table: stored.next_table.max(spent.next_table),
            ..stored
        }
    }

    /// Remembers that all numbers below these were given away.
    pub(crate) fn spend(&self, next: Counters) {
        let mut spent = self.spent.lock();
        spent.next_owner = spent.next_owner.max(next.next_owner);
        spent.next_table = spent.next_table.max(next.next_table);
    }

    pub(crate) fn open(&self) -> Result<()> {
        // Pairs with the store in `close`; whoever misses it is refused by the file.
        if self.closed.load(Ordering::Relaxed) { Err(Error::Closed) } else { Ok(()) }
    }

    /// Refuses a process that was forked from the one that opened the database.
    fn check_process(&self) -> Result<()> {
        self.file.check_process().map_err(|error| self.lift(error.into()))
    }

    pub(crate) fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        self.file.clone().close().map_err(|error| self.lift(error.into()))
    }
}

/// What lives as long as there are handles that can write. The last one closes the file.
struct Shared {
    core: Arc<Core>,
    maintainer: Maintainer,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.core.check_process().is_err() {
            return; // its threads and its file are the parent's
        }
        self.maintainer.stop();
        // Nobody is left to be told. What was promised is durable; the next opening recovers the rest.
        let _ = self.core.close();
    }
}

/// A database: many column families in one file.
///
/// A handle: cheap to clone, and shared freely between threads. The file is closed when the last handle, family and
/// transaction is gone, or by [`close`](Self::close), which reports errors. Snapshots can be read until they are dropped.
#[derive(Clone)]
pub struct Database {
    shared: Arc<Shared>,
}

impl Database {
    /// Opens the database in a file, or creates it when the file is missing. See [`Options`] for everything else.
    ///
    /// # Errors
    /// Those of [`Options::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Options::new().open(path)
    }

    /// Creates a database in a new file.
    ///
    /// # Errors
    /// Those of [`Options::create`].
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        Options::new().create(path)
    }

    /// Makes a database in memory, which is gone with its last handle.
    ///
    /// # Errors
    /// [`Error::Full`] when there is no memory.
    pub fn in_memory() -> Result<Self> {
        Options::new().in_memory()
    }

    pub(crate) fn open_path(path: &Path, options: Options) -> Result<Self> {
        let create = options.creation();
        Self::open_at(path, options, create)
    }

    pub(crate) fn create_path(path: &Path, options: Options) -> Result<Self> {
        if options.read_only {
            return Err(Error::ReadOnly);
        }
        Self::open_at(path, options, Create::Always)
    }

    fn open_at(path: &Path, options: Options, create: Create) -> Result<Self> {
        options.checked()?;
        let label = path.display().to_string();
        let file = PagedFile::open_path(path, options.file_options(create));
        let file = file.map_err(|error| Error::from_open(error, &label, path.is_dir()))?;
        Self::over(file, label, options)
    }

    pub(crate) fn open_memory(options: Options) -> Result<Self> {
        let (create, label) = (Create::IfMissing, "the database in memory".to_owned());
        Self::open_storage_with(Arc::new(MemStorage::new()), label, options, create)
    }

    #[cfg(feature = "testing")]
    pub(crate) fn open_storage(storage: Arc<dyn Storage>, options: Options) -> Result<Self> {
        let create = options.creation();
        Self::open_storage_with(storage, "the storage".to_owned(), options, create)
    }

    fn open_storage_with(storage: Arc<dyn Storage>, label: String, options: Options, create: Create) -> Result<Self> {
        options.checked()?;
        let file = PagedFile::open(storage, options.file_options(create));
        Self::over(file.map_err(|error| Error::from_open(error, &label, false))?, label, options)
    }

    fn over(file: PagedFile, label: String, options: Options) -> Result<Self> {
        let core = Core {
            file,
            options,
            work: Work::default(),
            scrub: Mutex::default(),
            names: Arc::new(FamilyShared::new(
                FamilyId { owner: NAMES, generation: 0 },
                "(names of families and tables)",
            )),
            label,
            closed: AtomicBool::new(false),
            registry: Mutex::new(Registry { families: HashMap::new(), sweep_at: SWEEP_AT_LEAST }),
            spent: Mutex::new(Counters::FIRST),
        };
        let db = Self { shared: Arc::new(Shared { core: Arc::new(core), maintainer: Maintainer::default() }) };
        if !db.core().options.read_only {
            let snapshot = db.snapshot();
            for owner in snapshot.dropped_owners()? {
                db.core().work.add_dropped(owner);
            }
            if !snapshot.names()?.root.is_empty() {
                db.core().work.search_all();
            }
            db.nudge_maintenance();
        }
        Ok(db)
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.shared.core
    }

    pub(crate) fn begin_timeout_default(&self) -> Duration {
        self.core().options.begin_timeout
    }

    /// Starts the background thread if it has something to do.
    pub(crate) fn nudge_maintenance(&self) {
        if self.core().options.background {
            self.shared.maintainer.nudge(self.core());
        }
    }

    /// Checkpoints and closes the file, whatever handles there still are: what they do next fails with
    /// [`Error::Closed`]. Closing twice does nothing.
    ///
    /// # Errors
    /// What the checkpoint failed with. Even then nothing acknowledged is lost: the next opening recovers it.
    pub fn close(self) -> Result<()> {
        self.core().check_process()?;
        self.shared.maintainer.stop();
        self.core().close()
    }

    /// The family of this name; creates it when it is missing, durably and in a transaction of its own. Two threads that
    /// create the same one get the same one. O(log families).
    ///
    /// # Errors
    /// [`Error::NameEmpty`], [`Error::NameTooLong`], and those of a commit.
    pub fn family(&self, name: &str) -> Result<Family> {
        if let Some(family) = self.open_family(name)? {
            return Ok(family);
        }
        let mut txn = self.begin([])?;
        let family = match txn.open_family(name)? {
            Some(family) => family,
            None => txn.create_family(name)?,
        };
        // Even if somebody else has just created it: once this has committed, that has too.
        txn.commit()?;
        Ok(family)
    }

    /// The family of this name, if there is one. O(log families).
    ///
    /// # Errors
    /// [`Error::NameEmpty`], [`Error::NameTooLong`], and those of reading.
    pub fn open_family(&self, name: &str) -> Result<Option<Family>> {
        self.core().open()?;
        names::checked(name)?;
        let Some(id) = self.snapshot().family_named(name)? else { return Ok(None) };
        let shared = self.core().register(id, name);
        // The family may have been dropped or renamed before it was registered: nobody could tell the new handle then.
        if self.snapshot().family_named(name)? != Some(shared.id()) {
            return self.open_family(name);
        }
        Ok(Some(Family { db: self.clone(), shared }))
    }

    /// All families by name.
    ///
    /// # Errors
    /// Those of reading.
    pub fn families(&self) -> Result<Vec<FamilyInfo>> {
        self.snapshot().families()
    }

    /// Drops a family with all its tables, durably and in a transaction of its own. `false` when there is none of this
    /// name. Costs O(log families): its pages are freed in the background.
    ///
    /// # Errors
    /// [`Error::Busy`] while somebody writes the family, and those of a commit.
    pub fn drop_family(&self, name: &str) -> Result<bool> {
        let Some(family) = self.open_family(name)? else { return Ok(false) };
        let mut txn = match family.begin() {
            Err(Error::FamilyDropped { .. }) => return Ok(false),
            begun => begun?,
        };
        txn.drop_family(&family)?;
        txn.commit()?;
        Ok(true)
    }

    /// Renames a family, durably and in a transaction of its own. Handles stay valid.
    ///
    /// # Errors
    /// [`Error::FamilyUnknown`], [`Error::FamilyExists`], and those of a commit.
    pub fn rename_family(&self, name: &str, new_name: &str) -> Result<()> {
        let unknown = || Error::FamilyUnknown { family: name.to_owned() };
        let mut txn = self.begin([])?;
        let family = txn.open_family(name)?.ok_or_else(unknown)?;
        txn.rename_family(&family, new_name)?;
        txn.commit().map(drop)
    }

    /// Begins a write transaction of these families, none, one or several. Until it is committed or dropped nobody else
    /// writes them; writers of other families go on. Waits for other writers of these as long as
    /// [`Options::begin_timeout`] says.
    ///
    /// # Errors
    /// [`Error::Busy`], which says who writes; [`Error::FamilyDropped`], [`Error::OtherDatabase`], [`Error::ReadOnly`],
    /// [`Error::Poisoned`], [`Error::Closed`].
    pub fn begin<'a>(&self, families: impl IntoIterator<Item = &'a Family>) -> Result<WriteTransaction> {
        self.begin_waiting(families, Wait::For(self.begin_timeout_default()))
    }

    /// Begins a write transaction if nobody else writes these families.
    ///
    /// # Errors
    /// [`Error::Busy`] at once when somebody does, and those of [`begin`](Self::begin).
    pub fn try_begin<'a>(&self, families: impl IntoIterator<Item = &'a Family>) -> Result<WriteTransaction> {
        self.begin_waiting(families, Wait::Never)
    }

    /// Begins a write transaction, waiting at most so long for each family's other writers.
    ///
    /// # Errors
    /// [`Error::Busy`] after that time, and those of [`begin`](Self::begin).
    pub fn begin_timeout<'a>(
        &self,
        families: impl IntoIterator<Item = &'a Family>,
        timeout: Duration,
    ) -> Result<WriteTransaction> {
        self.begin_waiting(families, Wait::For(timeout))
    }

    pub(crate) fn begin_waiting<'a>(
        &self,
        families: impl IntoIterator<Item = &'a Family>,
        wait: Wait,
    ) -> Result<WriteTransaction> {
        WriteTransaction::begin(self, families, wait)
    }

    /// Every family at one instant. Costs the same with one family and with ten thousand, takes no lock, and blocks nobody.
    /// A snapshot taken after a commit returned contains that commit.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.core(), None)
    }

    /// These families at one instant; pages of all others can be reused while it lives.
    pub fn snapshot_of<'a>(&self, families: impl IntoIterator<Item = &'a Family>) -> Snapshot {
        Snapshot::new(self.core(), Some(families.into_iter().map(|family| family.shared.owner).collect()))
    }

    /// Waits until a commit is on stable storage, and everything before it.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`], [`Error::Poisoned`], [`Error::Closed`].
    pub fn wait_durable(&self, seq: Seq) -> Result<()> {
        self.core().file.wait_durable(seq).map_err(|error| self.core().lift(error.into()))
    }

    /// Makes every commit up to now durable, and returns the newest of them.
    ///
    /// # Errors
    /// Those of [`wait_durable`](Self::wait_durable).
    pub fn flush(&self) -> Result<Seq> {
        self.core().file.flush().map_err(|error| self.core().lift(error.into()))
    }

    /// Brings the data area and the superblock up to date, so that the log can be recycled and opening has nothing to
    /// replay. Happens by itself as the log fills and on closing.
    ///
    /// # Errors
    /// [`Error::CheckpointFailed`], [`Error::Poisoned`], [`Error::Closed`].
    pub fn checkpoint(&self) -> Result<Seq> {
        self.core().file.checkpoint().map_err(|error| self.core().lift(error.into()))
    }

    /// Gives up to `budget_bytes` of free space back to the file system, while everybody goes on working; says how many.
    /// Space becomes free with a checkpoint, so this makes one if anything was committed since the last.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Poisoned`], [`Error::Closed`].
    pub fn reclaim(&self, budget_bytes: u64) -> Result<u64> {
        let file = &self.core().file;
        let stats = file.stats();
        // Behind what a checkpoint covers comes an anchor.
        let checkpoint = if stats.appended.0 > stats.checkpoint.0 + 1 { file.checkpoint().map(drop) } else { Ok(()) };
        checkpoint.and_then(|()| file.reclaim(budget_bytes)).map_err(|error| self.core().lift(error.into()))
    }

    /// The database's options.
    pub fn options(&self) -> &Options {
        &self.core().options
    }

    /// Whether both are handles of one opened database.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(self.core(), other.core())
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("file", &self.core().label).finish_non_exhaustive()
    }
}

/// The durability of commits that this crate makes for itself.
pub(crate) const HOUSEKEEPING: Durability = Durability::Eventual;
