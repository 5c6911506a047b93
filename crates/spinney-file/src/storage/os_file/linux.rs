//! Linux: one system call for each call of the storage.

use crate::storage::io::BUFFERS_PER_CALL_MAX;
use rustix::{
    fs::{Advice, FallocateFlags, OFlags},
    io::{Errno, ReadWriteFlags},
};
use std::{
    fs::{File, OpenOptions},
    io::{self, IoSlice, IoSliceMut},
    num::NonZeroU64,
    os::unix::fs::{FileExt, OpenOptionsExt},
    sync::atomic::{AtomicBool, Ordering},
};

/// What was found missing in the kernel or the file system, so that it is asked for once only.
#[derive(Debug, Default)]
pub(super) struct Abilities {
    lacks_dsync: AtomicBool,
}

#[cfg(test)]
impl Abilities {
    pub(super) fn pretend_dsync_is_missing(&self) {
        self.lacks_dsync.store(true, Ordering::Relaxed);
    }
}

/// Opening a pipe would otherwise wait for somebody at its other end.
pub(super) fn never_wait_for_a_peer(options: &mut OpenOptions) {
    options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
}

pub(super) fn read_at(file: &File, at: u64, into: &mut [u8]) -> io::Result<usize> {
    FileExt::read_at(file, into, at)
}

pub(super) fn read_vectored_at(file: &File, at: u64, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    let count = into.len().min(BUFFERS_PER_CALL_MAX);
    Ok(rustix::io::preadv(file, &mut into[..count], at)?)
}

pub(super) fn write_vectored_at(file: &File, at: u64, run: &[IoSlice<'_>]) -> io::Result<usize> {
    Ok(rustix::io::pwritev(file, at_most(run), at)?)
}

pub(super) fn write_sync(file: &File, abilities: &Abilities, at: u64, run: &[IoSlice<'_>]) -> io::Result<usize> {
    // Relaxed: a hint that guards nothing; a thread that does not see it yet asks the kernel once more.
    if !abilities.lacks_dsync.load(Ordering::Relaxed) {
        match rustix::io::pwritev2(file, at_most(run), at, ReadWriteFlags::DSYNC) {
            // Old kernels call an unknown flag an invalid argument. Only if the plain write is accepted was it the flag.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            written => return Ok(written?),
        }
    }
    let written = write_vectored_at(file, at, run)?;
    abilities.lacks_dsync.store(true, Ordering::Relaxed);
    sync_data(file)?;
    Ok(written)
}

/// Not `File::sync_data`, which repeats an interrupted call.
pub(super) fn sync_data(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fdatasync(file)?)
}

/// `false` where the file system cannot.
pub(super) fn allocate(file: &File, at: u64, bytes: u64) -> io::Result<bool> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), at, bytes) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What the file system has left for this user. Quotas and limits of the process are met when the file grows.
pub(super) fn room(file: &File) -> Option<u64> {
    let found = rustix::fs::fstatvfs(file).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

pub(super) fn punch(file: &File, at: u64, bytes: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(rustix::fs::fallocate(file, flags, at, bytes)?)
}

pub(super) fn drop_cache(file: &File, at: u64, bytes: u64) -> io::Result<()> {
    // No length would mean all the rest.
    let Some(bytes) = NonZeroU64::new(bytes) else { return Ok(()) };
    match rustix::fs::fadvise(file, at, Some(bytes), Advice::DontNeed) {
        // Advice that a file system does not know is advice it does not need: it has no cache of its own to drop.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The kernel starts writing out the dirty pages of a range it is told not to keep, and does not wait for them.
pub(super) fn begin_writeback(file: &File, at: u64, bytes: u64) {
    let _ = rustix::fs::fadvise(file, at, std::num::NonZeroU64::new(bytes), Advice::DontNeed);
}

fn at_most<'r, 'b>(run: &'r [IoSlice<'b>]) -> &'r [IoSlice<'b>] {
    &run[..run.len().min(BUFFERS_PER_CALL_MAX)]
}
