//! The storage as the rest of the crate uses it: whole pages, verified; whole writes; every call counted.

use crate::{
    counters::Counters,
    error::{FileError, IoOp},
    page::{self, PagePtr},
    storage::{
        Storage,
        io::{allocate_all, read_exact_at, sync_all, write_all_at, write_all_sync},
    },
};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use spinney_alloc::{Owner, PageNo};
use std::{
    collections::BTreeSet,
    io::IoSlice,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

/// What was asked of the storage since opening, by kind of call. Sums of everything: images, log and checkpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IoStats {
    /// Calls that read.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Calls that wrote, durable or not.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Syncs of the whole file.
    pub syncs: u64,
    /// Writes that were durable when they returned.
    pub synced_writes: u64,
    /// Times the file was extended.
    pub growths: u64,
}

#[derive(Debug, Default)]
pub(crate) struct IoCounters {
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
    syncs: AtomicU64,
    synced_writes: AtomicU64,
    growths: AtomicU64,
}

/// A storage with a page size, and counters of what was asked of it.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) page_bytes: usize,
    pub(crate) counters: Counters,
    io: IoCounters,
    syncs: Mutex<Syncs>,
    sync_ended: Condvar,
}

/// Calls that make bytes durable, under way and failed. The kernel tells a failed writeback to one of the callers that share an open
/// file, so a success proves something only when no other call that overlapped with it has failed
/// (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
#[derive(Debug, Default)]
struct Syncs {
    begun: u64,
    under_way: BTreeSet<u64>,
    failed: bool,
}

impl Disk {
    pub(crate) fn new(storage: Arc<dyn Storage>, page_bytes: usize) -> Self {
        Self {
            storage,
            page_bytes,
            counters: Counters::default(),
            io: IoCounters::default(),
            syncs: Mutex::default(),
            sync_ended: Condvar::new(),
        }
    }

    pub(crate) fn io_stats(&self) -> IoStats {
        let io = &self.io;
        IoStats {
            reads: io.reads.load(Relaxed),
            read_bytes: io.read_bytes.load(Relaxed),
            writes: io.writes.load(Relaxed),
            written_bytes: io.written_bytes.load(Relaxed),
            syncs: io.syncs.load(Relaxed),
            synced_writes: io.synced_writes.load(Relaxed),
            growths: io.growths.load(Relaxed),
        }
    }

    /// Where a page begins, in bytes.
    pub(crate) fn offset(&self, page: PageNo) -> u64 {
        page.get() * self.page_bytes as u64
    }

    /// Reads the page behind `ptr` and verifies checksum, number and stamp. One more try on a mismatch: a bit that
    /// flipped on the way is not rot.
    pub(crate) fn read_page(&self, ptr: PagePtr, owner: Option<Owner>) -> Result<Vec<u8>, FileError> {
        let mut page = vec![0; self.page_bytes];
        self.read_page_into(ptr, owner, &mut page)?;
        Ok(page)
    }

    /// The same, into a buffer of one page.
    pub(crate) fn read_page_into(&self, ptr: PagePtr, owner: Option<Owner>, page: &mut [u8]) -> Result<(), FileError> {
        let at = self.offset(ptr.page);
        let mut why = "";
        for _ in 0..2 {
            self.read(at, page)?;
            match page::verify(page, ptr, self.page_bytes) {
                Ok(()) => return Ok(()),
                Err(reason) => why = reason,
            }
        }
        Err(FileError::Corrupt { page: ptr.page, owner, at, why })
    }

    /// Reads `into.len()` bytes at byte `at`.
    pub(crate) fn read(&self, at: u64, into: &mut [u8]) -> Result<(), FileError> {
        let calls = read_exact_at(&*self.storage, at, into)?;
        self.io.reads.fetch_add(calls, Relaxed);
        self.io.read_bytes.fetch_add(into.len() as u64, Relaxed);
        Ok(())
    }

    /// The next reading of these bytes sees what the disk has, and not what a cache kept after a failed sync.
    pub(crate) fn forget(&self, at: u64, bytes: u64) -> Result<(), FileError> {
        self.storage.drop_cache(at, bytes).map_err(|error| FileError::io(IoOp::Open, at, error))
    }

    /// Seals `page` as `ptr` of `owner` and writes it. Un-synced.
    pub(crate) fn write_page(&self, ptr: PagePtr, owner: Owner, page: &mut [u8]) -> Result<(), FileError> {
        page::seal(page, ptr.page, ptr.stamp, owner);
        self.write(self.offset(ptr.page), page)
    }

    /// Writes `bytes` at byte `at`. Un-synced.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> Result<(), FileError> {
        let begun = Instant::now();
        self.write_run(at, &[IoSlice::new(bytes)])?;
        self.counters.latencies.write.record(begun.elapsed());
        Ok(())
    }

    /// Writes adjacent buffers from byte `at` on, and returns the number of calls it took. Un-synced; the caller takes the time.
    pub(crate) fn write_run(&self, at: u64, run: &[IoSlice<'_>]) -> Result<u64, FileError> {
        let calls = write_all_at(&*self.storage, at, run)?;
        self.wrote(calls, run);
        Ok(calls)
    }

    /// Writes `bytes` at byte `at`; they are durable when it returns, and only they.
    pub(crate) fn write_sync(&self, at: u64, bytes: &[u8]) -> Result<(), FileError> {
        let begun = Instant::now();
        let run = [IoSlice::new(bytes)];
        let calls = self.syncing(|| write_all_sync(&*self.storage, at, &run))?;
        self.counters.latencies.sync.record(begun.elapsed());
        self.wrote(calls, &run);
        self.io.synced_writes.fetch_add(calls, Relaxed);
        Ok(())
    }

    fn syncing<T>(&self, call: impl FnOnce() -> Result<T, FileError>) -> Result<T, FileError> {
        let ticket = {
            let mut syncs = self.syncs.lock();
            syncs.begun += 1;
            let ticket = syncs.begun;
            syncs.under_way.insert(ticket);
            ticket
        };
        let done = call();
        let mut syncs = self.syncs.lock();
        syncs.failed |= done.is_err();
        syncs.under_way.remove(&ticket);
        self.sync_ended.notify_all();
        done
    }

    /// Waits for the syncs under way, which may have been told what this caller's successful one was not, and says whether all
    /// so far succeeded. Whoever makes something depend on a sync asks first.
    ///
    /// # Errors
    /// [`FileError::Poisoned`].
    pub(crate) fn settled(&self) -> Result<(), FileError> {
        let mut syncs = self.syncs.lock();
        let upto = syncs.begun;
        while !syncs.failed && syncs.under_way.first().is_some_and(|&ticket| ticket <= upto) {
            self.sync_ended.wait(&mut syncs);
        }
        if syncs.failed { Err(FileError::Poisoned) } else { Ok(()) }
    }

    fn wrote(&self, calls: u64, run: &[IoSlice<'_>]) {
        self.io.writes.fetch_add(calls, Relaxed);
        self.io.written_bytes.fetch_add(run.iter().map(|b| b.len() as u64).sum(), Relaxed);
    }

    /// Makes everything written before this call durable.
    pub(crate) fn sync(&self) -> Result<(), FileError> {
        let begun = Instant::now();
        self.syncing(|| sync_all(&*self.storage))?;
        self.counters.latencies.sync.record(begun.elapsed());
        self.io.syncs.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Gives a range real blocks.
    pub(crate) fn allocate(&self, at: u64, bytes: u64) -> Result<(), FileError> {
        allocate_all(&*self.storage, at, bytes)?;
        self.io.growths.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Raw bytes of pages, unverified: for what carries checksums of its own.
    pub(crate) fn read_raw(&self, page: PageNo, offset: u64, len: usize) -> Result<Bytes, FileError> {
        let mut bytes = vec![0; len];
        self.read(self.offset(page) + offset, &mut bytes)?;
        Ok(bytes.into())
    }
}
