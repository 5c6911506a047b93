//! How a database is opened.

use crate::{
    database::Database,
    error::{Error, Result},
};
use spinney_btree::{Create, FileOptions, SMALL_COMMITS, Tuning, page_check};
use std::{path::Path, time::Duration};

/// Options of a database, set one by one and then used to open it:
///
/// ```
/// # fn main() -> spinney::Result<()> {
/// let db = spinney::Options::new().memory_budget(16 << 20).in_memory()?;
/// # Ok(()) }
/// ```
///
/// What is out of its limits is an [`Error::InvalidOption`] when the database is opened.
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) page_size: usize,
    pub(crate) memory_budget: u64,
    pub(crate) max_file_size: Option<u64>,
    pub(crate) flush_interval: Duration,
    pub(crate) begin_timeout: Duration,
    pub(crate) create: bool,
    pub(crate) read_only: bool,
    pub(crate) background: bool,
    pub(crate) tuning: Tuning,
}

impl Default for Options {
    fn default() -> Self {
        let file = FileOptions::default();
        Self {
            page_size: file.page_bytes,
            memory_budget: file.budget_bytes,
            max_file_size: None,
            flush_interval: file.flush_interval,
            begin_timeout: Duration::from_secs(30),
            create: true,
            read_only: false,
            background: true,
            tuning: file.tuning,
        }
    }
}

impl Options {
    /// Everything at its default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes per page: a power of two from 4 KiB to 64 KiB, 4 KiB by default. Matters when the file is created; an existing
    /// file keeps its own. Larger pages allow longer keys and make small commits cost more.
    pub fn page_size(mut self, bytes: usize) -> Self {
        self.page_size = bytes;
        self
    }

    /// Bytes of memory for cached and changed pages of all families together, 256 MiB by default, at least 64 pages.
    /// Transactions may be larger: they write their pages early.
    pub fn memory_budget(mut self, bytes: u64) -> Self {
        self.memory_budget = bytes;
        self
    }

    /// The file grows to so many bytes and no further, at least 1 MiB; without limit by default.
    pub fn max_file_size(mut self, bytes: u64) -> Self {
        self.max_file_size = Some(bytes);
        self
    }

    /// The log inside the file grows to so many bytes, 64 KiB to 1 GiB, 128 MiB by default; beyond only for a single commit that
    /// needs more. A longer log means fewer checkpoints and a longer recovery.
    pub fn log_size_max(mut self, bytes: u64) -> Self {
        self.tuning.log_bytes_max = bytes;
        self.tuning.log_bytes = self.tuning.log_bytes.min(bytes);
        self
    }

    /// How long an [`Eventual`](crate::Durability::Eventual) commit may stay in memory only, 1 ms to 1 h; 100 ms by default.
    pub fn flush_interval(mut self, interval: Duration) -> Self {
        self.flush_interval = interval;
        self
    }

    /// How long `begin` waits for other writers of the same family before it fails with [`Error::Busy`]; 30 s by default.
    pub fn begin_timeout(mut self, timeout: Duration) -> Self {
        self.begin_timeout = timeout;
        self
    }

    /// Whether [`open`](Self::open) creates a missing file; it does by default.
    pub fn create_missing(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Whether the file is opened for reading only; then nothing is ever written to it.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Whether threads of the database's own sync, checkpoint and grow the file ahead of need, and free the pages of dropped
    /// families and removed ranges; they do by default. Without them committing threads checkpoint, and
    /// [`Database::flush`] and [`Database::maintain`] are for the caller to call now and then.
    pub fn background(mut self, background: bool) -> Self {
        self.background = background;
        self
    }

    /// Measures of the engine that have good defaults; benchmarks and tests vary them.
    pub fn tuning(mut self, tuning: Tuning) -> Self {
        self.tuning = tuning;
        self
    }

    /// Opens the file, or creates it when it is missing and nothing forbids it.
    ///
    /// # Errors
    /// [`Error::NotADatabase`], [`Error::Truncated`], [`Error::Damaged`], [`Error::NewerVersion`], [`Error::Locked`],
    /// [`Error::Permission`], [`Error::IsADirectory`], [`Error::Missing`], [`Error::InvalidOption`], [`Error::Io`].
    pub fn open(self, path: impl AsRef<Path>) -> Result<Database> {
        Database::open_path(path.as_ref(), self)
    }

    /// Creates the file.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] when there is one already, and those of [`open`](Self::open).
    pub fn create(self, path: impl AsRef<Path>) -> Result<Database> {
        Database::create_path(path.as_ref(), self)
    }

    /// Makes a database in memory, which is gone with its last handle.
    ///
    /// # Errors
    /// [`Error::InvalidOption`].
    pub fn in_memory(self) -> Result<Database> {
        Database::open_memory(self)
    }

    /// Opens a database on a storage of the caller's, a simulated disk for instance.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    #[cfg(feature = "testing")]
    pub fn open_storage(self, storage: std::sync::Arc<dyn spinney_btree::Storage>) -> Result<Database> {
        Database::open_storage(storage, self)
    }

    /// Refuses what is out of its limits.
    pub(crate) fn checked(&self) -> Result<()> {
        let bad = |option, why| Err(Error::InvalidOption { option, why });
        if !self.page_size.is_power_of_two() || !(4096..=65536).contains(&self.page_size) {
            return bad("page_size", "give a power of two from 4096 to 65536");
        }
        if self.memory_budget < 64 * self.page_size as u64 {
            return bad("memory_budget", "give at least 64 pages");
        }
        if self.max_file_size.is_some_and(|bytes| bytes < 1 << 20) {
            return bad("max_file_size", "give at least 1 MiB");
        }
        if !(64 << 10..=1 << 30).contains(&self.tuning.log_bytes_max) {
            return bad("log_size_max", "give 64 KiB to 1 GiB");
        }
        if !(Duration::from_millis(1)..=Duration::from_secs(3600)).contains(&self.flush_interval) {
            return bad("flush_interval", "give 1 ms to 1 h");
        }
        Ok(())
    }

    /// The options of the file below.
    pub(crate) fn file_options(&self, create: Create) -> FileOptions {
        FileOptions {
            page_bytes: self.page_size,
            budget_bytes: self.memory_budget,
            max_file_bytes: self.max_file_size.unwrap_or(FileOptions::default().max_file_bytes),
            flush_interval: self.flush_interval,
            background: self.background,
            read_only: self.read_only,
            lenient: false,
            create,
            page_check,
            small_commits: Some(SMALL_COMMITS),
            tuning: self.tuning.clone(),
        }
    }

    /// What opening does about a missing file.
    pub(crate) fn creation(&self) -> Create {
        if self.create && !self.read_only { Create::IfMissing } else { Create::Never }
    }
}
