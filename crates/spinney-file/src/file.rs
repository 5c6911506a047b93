//! The handle of a paged file.

use crate::{
    cache::Pin,
    engine::Engine,
    error::{FileError, IoOp},
    maintenance::Maintenance,
    options::{Create, FileOptions},
    page::PagePtr,
    pages::Pages,
    pipeline::Goal,
    recovery,
    slots::Wait,
    snapshot::Snapshot,
    stats::FileStats,
    storage::{MemStorage, OsFile, Storage},
    txn::WriteTxn,
};
use bytes::Bytes;
use parking_lot::Mutex;
use spinney_alloc::{Extent, Owner, PageNo, Seq};
use std::{path::Path, sync::Arc};

/// An atomic, cached, paged file with a redo log. Cheap to clone; the file closes when the last handle, transaction and snapshot is gone.
///
/// It knows pages, owners and opaque descriptors, nothing of what a page means.
#[derive(Clone, Debug)]
pub struct PagedFile {
    life: Arc<Life>,
}

/// What the last handle ends.
#[derive(Debug)]
struct Life {
    engine: Arc<Engine>,
    maintenance: Mutex<Option<Maintenance>>,
}

impl PagedFile {
    /// Opens the file at `path`, recovering it if it was not closed: O(log tail), never a walk of the data.
    ///
    /// # Errors
    /// [`FileError::NotADatabase`], [`FileError::Version`], [`FileError::AlreadyOpen`], [`FileError::Truncated`], [`FileError::Damaged`],
    /// [`FileError::Corrupt`], or what the operating system says. Nothing is written to a file that is not recognised.
    pub fn open_path(path: impl AsRef<Path>, options: FileOptions) -> Result<Self, FileError> {
        let path = path.as_ref();
        let storage = if options.read_only {
            OsFile::open_read_only(path)?
        } else {
            match options.create {
                Create::Never => OsFile::open(path)?,
                Create::Always => OsFile::create(path)?,
                Create::IfMissing => OsFile::open_or_create(path)?.0,
            }
        };
        Self::open(Arc::new(storage), options)
    }

    /// Opens what `storage` holds; an empty one becomes a new file, unless [`FileOptions::create`] forbids it.
    ///
    /// # Errors
    /// As [`open_path`](PagedFile::open_path).
    pub fn open(storage: Arc<dyn Storage>, options: FileOptions) -> Result<Self, FileError> {
        options.validate()?;
        let background = options.background && !options.read_only;
        let engine = recovery::open(storage, options)?;
        let maintenance = if background {
            Some(Maintenance::start(&engine).map_err(|e| FileError::io(IoOp::Open, 0, e))?)
        } else {
            None
        };
        Ok(Self { life: Arc::new(Life { engine, maintenance: Mutex::new(maintenance) }) })
    }

    /// A file in memory, gone with its last handle.
    ///
    /// # Errors
    /// [`FileError::Option`].
    pub fn in_memory(options: FileOptions) -> Result<Self, FileError> {
        Self::open(Arc::new(MemStorage::new()), options)
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.life.engine
    }

    /// Protects cached pages while one operation reads them.
    pub fn pin(&self) -> Pin {
        Pin::new()
    }

    /// Begins a write transaction on `owners`, taking their writer slots in id order. Owners that never existed begin with a
    /// zero descriptor. Waits only for other writers of the same owners.
    ///
    /// # Errors
    /// [`FileError::Busy`] when a slot stays taken for longer than `wait`; [`FileError::Poisoned`], [`FileError::Closed`],
    /// [`FileError::ReadOnly`].
    pub fn begin(&self, owners: &[Owner], wait: Wait) -> Result<WriteTxn, FileError> {
        WriteTxn::begin(self.clone(), owners, wait)
    }

    /// The newest visible state of every owner. Takes no lock.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.clone(), None)
    }

    /// The newest visible state of some owners: pages of others may be reused meanwhile.
    pub fn snapshot_of(&self, owners: &[Owner]) -> Snapshot {
        let mut covers = owners.to_vec();
        covers.sort_unstable();
        covers.dedup();
        Snapshot::new(self.clone(), Some(covers.into()))
    }

    /// Waits until the commit `seq`, and all before it, are on stable storage.
    ///
    /// # Errors
    /// [`FileError::CommitOutcomeUnknown`] when the file is poisoned before that.
    pub fn wait_durable(&self, seq: Seq) -> Result<(), FileError> {
        let engine = self.engine();
        engine.wait(seq.min(engine.pipeline.appended()), Goal::Durable)
    }

    /// Waits until everything committed so far is on stable storage.
    ///
    /// # Errors
    /// As [`wait_durable`](PagedFile::wait_durable).
    pub fn flush(&self) -> Result<Seq, FileError> {
        let seq = self.engine().pipeline.appended();
        self.wait_durable(seq)?;
        Ok(seq)
    }

    /// Makes a checkpoint: the log up to here is not needed any more, and what commits freed may be reused.
    ///
    /// # Errors
    /// What kept it from being durable; nothing is lost.
    pub fn checkpoint(&self) -> Result<Seq, FileError> {
        let engine = self.engine();
        engine.check_writable()?;
        engine.checkpoint_now()
    }

    /// Gives free space back to the file system, at most `bytes` in this call: the free end of the file is cut off, free runs inside are
    /// punched. Everybody goes on working. Returns the bytes given back; 0 when there is nothing more.
    ///
    /// # Errors
    /// Those of a checkpoint, and of the calls that shrink the file.
    pub fn reclaim(&self, bytes: u64) -> Result<u64, FileError> {
        let engine = self.engine();
        engine.check_writable()?;
        engine.reclaim(bytes)
    }

    /// Everything that is a number.
    pub fn stats(&self) -> FileStats {
        self.engine().stats()
    }

    /// Pages this crate keeps outside of what owners claim, as extents: homes of the owner table, and the log. With the header, the
    /// homes of the map, and what owners reach, they are all pages that are not free.
    ///
    /// # Errors
    /// Those of reading the owner directory.
    pub fn own_extents(&self) -> Result<Vec<Extent>, FileError> {
        let engine = self.engine();
        let mut extents = engine.pipeline.layout().extents().to_vec();
        extents.extend(engine.owners.homes(&engine.disk)?.into_iter().map(|start| Extent { start, pages: 2 }));
        Ok(extents)
    }

    /// Whether this is the process that opened the file. One that was forked from it has a copy of the handle that is good for nothing
    /// but being dropped.
    ///
    /// # Errors
    /// [`FileError::Forked`].
    pub fn check_process(&self) -> Result<(), FileError> {
        self.engine().check_process()
    }

    /// Makes a last checkpoint and closes: later calls through other handles get [`FileError::Closed`].
    ///
    /// # Errors
    /// What kept the checkpoint from being durable. The file is closed all the same; opening it recovers.
    pub fn close(&self) -> Result<(), FileError> {
        self.life.close()
    }
}

impl Life {
    fn close(&self) -> Result<(), FileError> {
        self.engine.check_process()?;
        // Two that close at once: the second waits for the first.
        let mut maintenance = self.maintenance.lock();
        // The thread first, so that nothing else makes a checkpoint.
        drop(maintenance.take());
        let engine = &self.engine;
        if engine.pipeline.is_closed() || engine.options.read_only {
            engine.pipeline.close();
            return Ok(());
        }
        // Nothing is appended from here on: what is flushed below is all there is.
        engine.pipeline.close();
        let done = if engine.pipeline.is_poisoned() {
            Err(FileError::Poisoned)
        } else if engine.pipeline.is_clean() {
            Ok(())
        } else {
            engine.checkpoint_now().map(drop)
        };
        done.and(engine.flush_appended())
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if self.engine.check_process().is_err() {
            // The thread to be stopped is the parent's, which goes on working.
            std::mem::forget(self.maintenance.get_mut().take());
            return;
        }
        // Whoever wants to know calls `close`; recovery makes up for a failure here.
        drop(if std::thread::panicking() {
            // No checkpoint: who knows what the panic was about. What was committed is another matter.
            drop(self.maintenance.lock().take());
            self.engine.flush_appended()
        } else {
            self.close()
        });
    }
}

impl Pages for PagedFile {
    fn page<'a>(&'a self, pin: &'a Pin, owner: Owner, ptr: PagePtr) -> Result<&'a [u8], FileError> {
        self.engine().page(pin, owner, ptr).map(|bytes| &**bytes)
    }

    fn page_bytes_shared(&self, owner: Owner, ptr: PagePtr) -> Result<Bytes, FileError> {
        self.engine().page(&Pin::new(), owner, ptr).cloned()
    }

    fn read_raw(&self, at: PageNo, offset: u64, len: usize) -> Result<Bytes, FileError> {
        self.engine().disk.read_raw(at, offset, len)
    }

    fn page_bytes(&self) -> usize {
        self.engine().disk.page_bytes
    }
}
