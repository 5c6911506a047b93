//! Where bytes live: one trait, so that production code runs unchanged on a real disk, in memory,
//! and on a simulated disk whose power can be cut.

#[cfg(any(test, feature = "testing"))]
pub(crate) mod crash; // every state a power cut may leave
pub(crate) mod io; // whole reads and writes out of short ones
mod memory; // a file in memory
mod os_file; // a file of the operating system
#[cfg(any(test, feature = "testing"))]
pub(crate) mod sim_disk; // a disk whose power can be cut

#[cfg(any(test, feature = "testing"))]
pub use self::{
    crash::{Crash, CrashUnit, Cut, EnumerationLimits, Exploration, Explored, Image, ImageCount, Images, Recording},
    sim_disk::{CallCounts, CallSet, Fault, FaultKind, PowerCut, SimDisk, Stall, WriteObserver},
};
pub use self::{memory::MemStorage, os_file::OsFile};

use std::{
    fmt,
    io::{IoSlice, IoSliceMut},
};

/// A file as this crate needs it. All offsets and lengths are bytes.
///
/// Implementations assume nothing about the order in which un-synced writes reach the disk, and
/// neither does any caller. Reads and writes may be short, as the system calls behind them may be;
/// callers loop.
#[expect(clippy::len_without_is_empty, reason = "nobody asks a file whether it is empty")]
pub trait Storage: Send + Sync + fmt::Debug + 'static {
    /// Reads up to `into.len()` bytes from byte `at`; 0 means the end of the file.
    fn read_at(&self, at: u64, into: &mut [u8]) -> std::io::Result<usize>;

    /// Reads adjacent bytes from byte `at` into several buffers; may be short.
    fn read_vectored_at(&self, at: u64, into: &mut [IoSliceMut<'_>]) -> std::io::Result<usize>;

    /// Writes adjacent bytes from byte `at`; may be short. Durable after the next
    /// [`sync_data`](Storage::sync_data) that starts after it returned.
    fn write_vectored_at(&self, at: u64, run: &[IoSlice<'_>]) -> std::io::Result<usize>;

    /// Like [`write_vectored_at`](Storage::write_vectored_at), but the bytes it reports as written
    /// are on stable storage when it returns. It covers **its own range only**: other writes stay
    /// un-synced. `pwritev2(RWF_DSYNC)` on Linux; a write and a full sync elsewhere.
    fn write_sync(&self, at: u64, run: &[IoSlice<'_>]) -> std::io::Result<usize>;

    /// Makes every write that returned before this call durable, and the file's length.
    fn sync_data(&self) -> std::io::Result<()>;

    /// Asks that a range just written set out for the disk now instead of at the next
    /// [`sync_data`](Storage::sync_data), which then waits for less. Promises nothing and cannot fail.
    fn begin_writeback(&self, _at: u64, _bytes: u64) {}

    /// Gives the range real blocks and extends the file over it; bytes never written read as zero.
    /// Un-synced until the next [`sync_data`](Storage::sync_data).
    fn allocate(&self, at: u64, bytes: u64) -> std::io::Result<()>;

    /// Gives the range's blocks back to the file system; it reads as zero afterwards. The length stays.
    fn punch(&self, at: u64, bytes: u64) -> std::io::Result<()>;

    /// The file's length.
    fn len(&self) -> std::io::Result<u64>;

    /// By how many bytes the file can grow, as far as is known now; `None` where nobody knows, or nothing limits it.
    fn room(&self) -> Option<u64> {
        None
    }

    /// Cuts or extends the file.
    fn set_len(&self, bytes: u64) -> std::io::Result<()>;

    /// Takes the exclusive lock for as long as this storage lives; `false` when another open file
    /// holds it, in this process or another.
    fn lock(&self) -> std::io::Result<bool>;

    /// Drops clean cached bytes of a range, so that the next read of them sees what the disk has.
    fn drop_cache(&self, at: u64, bytes: u64) -> std::io::Result<()>;
}
