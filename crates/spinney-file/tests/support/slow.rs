//! A simulated disk on which something happens before a sync returns.

use spinney_file::{SimDisk, Storage};
use std::{
    fmt,
    io::{self, IoSlice, IoSliceMut},
    time::{Duration, Instant},
};

/// Runs `after_sync` on the thread that syncs, once the sync is done and before it returns.
pub struct SlowDisk<F> {
    pub disk: SimDisk,
    pub after_sync: F,
}

impl<F> fmt::Debug for SlowDisk<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SlowDisk").field(&self.disk).finish()
    }
}

impl<F: Fn() + Send + Sync + 'static> Storage for SlowDisk<F> {
    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        self.disk.read_at(at, into)
    }
    fn read_vectored_at(&self, at: u64, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.disk.read_vectored_at(at, into)
    }
    fn write_vectored_at(&self, at: u64, run: &[IoSlice<'_>]) -> io::Result<usize> {
        self.disk.write_vectored_at(at, run)
    }
    fn write_sync(&self, at: u64, run: &[IoSlice<'_>]) -> io::Result<usize> {
        self.disk.write_sync(at, run)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.disk.sync_data()?;
        (self.after_sync)();
        Ok(())
    }
    fn allocate(&self, at: u64, bytes: u64) -> io::Result<()> {
        self.disk.allocate(at, bytes)
    }
    fn punch(&self, at: u64, bytes: u64) -> io::Result<()> {
        self.disk.punch(at, bytes)
    }
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.disk.set_len(bytes)
    }
    fn lock(&self) -> io::Result<bool> {
        self.disk.lock()
    }
    fn drop_cache(&self, at: u64, bytes: u64) -> io::Result<()> {
        self.disk.drop_cache(at, bytes)
    }
}

/// Waits until something holds; a test that waits for ever says nothing.
pub fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        std::thread::yield_now();
    }
}
