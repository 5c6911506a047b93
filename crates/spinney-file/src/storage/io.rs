//! Whole reads and writes over a [`Storage`] whose calls may be short, interrupted or refused.
//!
//! Nothing here loops for ever: no progress is an error, and so are too many interruptions in a row.

use crate::{FileError, IoOp, Storage};
use std::{
    io::{self, ErrorKind, IoSlice},
    thread,
};

/// The most buffers one call may carry: Linux's `IOV_MAX`, the smallest in wide use.
pub(crate) const BUFFERS_PER_CALL_MAX: usize = 1024;

/// Interruptions in a row, without a byte of progress, after which a call is given up.
const INTERRUPTIONS_MAX: u32 = 64;

/// Fills `into` from byte `at`. Returns the number of calls made.
///
/// # Errors
/// [`FileError::Truncated`] when the file ends first; [`FileError::Io`] when a call fails.
pub(crate) fn read_exact_at(storage: &dyn Storage, at: u64, into: &mut [u8]) -> Result<u64, FileError> {
    let bytes_needed = end_of(IoOp::Read, at, into.len())?;
    let mut calls = 0;
    let mut filled = 0;
    while filled < into.len() {
        let here = at + filled as u64;
        let (read, tries) = uninterrupted(|| storage.read_at(here, &mut into[filled..]));
        calls += tries;
        match read.map_err(|error| FileError::io(IoOp::Read, here, error))? {
            0 => {
                // Where the range begins beyond the end, the end has to be asked for.
                let bytes = storage.len().map_or(here, |bytes| bytes.min(here));
                return Err(FileError::Truncated { bytes_needed, bytes });
            }
            bytes => filled += bytes,
        }
    }
    Ok(calls)
}

/// Writes all of `run` at byte `at`, un-synced. Returns the number of calls made: one for every
/// [`BUFFERS_PER_CALL_MAX`] buffers, unless the storage makes short writes.
///
/// # Errors
/// [`FileError::Full`] when the file system has no room; [`FileError::Io`] for everything else, with
/// [`ErrorKind::WriteZero`] when a call wrote nothing. Any part of the range may have been written.
pub(crate) fn write_all_at(storage: &dyn Storage, at: u64, run: &[IoSlice<'_>]) -> Result<u64, FileError> {
    write_all(at, run, |at, run| storage.write_vectored_at(at, run))
}

/// Like [`write_all_at`], and the bytes of this run - no others - are durable when it returns.
///
/// An interrupted call is repeated like any other: it writes the range anew and so makes it dirty anew.
///
/// # Errors
/// As [`write_all_at`]. Any part of the range may be durable.
pub(crate) fn write_all_sync(storage: &dyn Storage, at: u64, run: &[IoSlice<'_>]) -> Result<u64, FileError> {
    write_all(at, run, |at, run| storage.write_sync(at, run))
}

/// Makes every write that returned before this call durable. Never tried twice: after a failure the kernel may
/// have marked the pages clean, so that a second call succeeds and proves nothing.
///
/// # Errors
/// [`FileError::Io`], after which nothing written since the last sync may be relied on.
pub(crate) fn sync_all(storage: &dyn Storage) -> Result<(), FileError> {
    storage.sync_data().map_err(|error| FileError::io(IoOp::Sync, 0, error))
}

/// Gives the range real blocks and extends the file over it.
///
/// # Errors
/// [`FileError::Full`] when the file system has no room; [`FileError::Io`] for everything else.
pub(crate) fn allocate_all(storage: &dyn Storage, at: u64, bytes: u64) -> Result<(), FileError> {
    let (done, _) = uninterrupted(|| storage.allocate(at, bytes));
    done.map_err(|error| refused(IoOp::Allocate, at, bytes, error))
}

/// Whether an error says that there is no room: the disk, the quota or the largest file size is reached.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

fn write_all(
    at: u64,
    run: &[IoSlice<'_>],
    mut write: impl FnMut(u64, &[IoSlice<'_>]) -> io::Result<usize>,
) -> Result<u64, FileError> {
    let bytes_total = run.iter().map(|buffer| buffer.len()).sum::<usize>();
    let end = end_of(IoOp::Write, at, bytes_total)?;
    let mut calls = 0;
    let mut here = at;
    let mut next = 0; // the first buffer not wholly written
    let mut skip = 0; // bytes of it that are
    loop {
        while next < run.len() && skip == run[next].len() {
            (next, skip) = (next + 1, 0);
        }
        if next == run.len() {
            assert_eq!(here, end, "every byte of the run was written once");
            return Ok(calls);
        }
        // After a short write the rest of the torn buffer goes alone, so that nothing is ever copied.
        let rest = [IoSlice::new(&run[next][skip..])];
        let batch = if skip == 0 { &run[next..run.len().min(next + BUFFERS_PER_CALL_MAX)] } else { &rest[..] };
        let (written, tries) = uninterrupted(|| write(here, batch));
        calls += tries;
        let mut left = written.map_err(|error| refused(IoOp::Write, here, end - here, error))?;
        if left == 0 {
            return Err(FileError::io(IoOp::Write, here, ErrorKind::WriteZero.into()));
        }
        here += left as u64;
        while left > 0 {
            let taken = left.min(run[next].len() - skip);
            (left, skip) = (left - taken, skip + taken);
            if skip == run[next].len() {
                (next, skip) = (next + 1, 0);
            }
        }
    }
}

/// Repeats a call that was interrupted or would have blocked, up to a bound. The count includes every try.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> (io::Result<T>, u64) {
    let mut tries = 0;
    loop {
        tries += 1;
        match call() {
            Err(error) if is_passing(&error) && tries <= u64::from(INTERRUPTIONS_MAX) => thread::yield_now(),
            outcome => return (outcome, tries),
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock)
}

fn refused(op: IoOp, at: u64, bytes_wanted: u64, error: io::Error) -> FileError {
    if is_full(&error) { FileError::Full { bytes_wanted } } else { FileError::io(op, at, error) }
}

/// Where a range ends; ranges come from page numbers read from disk, so the sum is checked.
fn end_of(op: IoOp, at: u64, bytes: usize) -> Result<u64, FileError> {
    at.checked_add(bytes as u64).ok_or_else(|| FileError::io(op, at, ErrorKind::InvalidInput.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemStorage;
    use parking_lot::Mutex;
    use std::{collections::VecDeque, io::IoSliceMut};

    /// What one call shall do.
    #[derive(Clone, Copy, Debug)]
    enum Turn {
        Short(usize),
        Fail(ErrorKind),
    }

    /// Memory whose calls follow a script and then behave.
    #[derive(Debug)]
    struct Scripted {
        memory: MemStorage,
        turns: Mutex<VecDeque<Turn>>,
        buffers_max: Mutex<usize>,
    }

    impl Scripted {
        fn new(turns: impl IntoIterator<Item = Turn>) -> Self {
            Self {
                memory: MemStorage::new(),
                turns: Mutex::new(turns.into_iter().collect()),
                buffers_max: Mutex::new(0),
            }
        }

        fn write(&self, at: u64, run: &[IoSlice<'_>]) -> io::Result<usize> {
            let mut buffers_max = self.buffers_max.lock();
            *buffers_max = run.len().max(*buffers_max);
            match self.turns.lock().pop_front() {
                None => self.memory.write_vectored_at(at, run),
                Some(Turn::Fail(kind)) => Err(kind.into()),
                Some(Turn::Short(bytes)) => {
                    let all: Vec<u8> = run.iter().flat_map(|buffer| buffer.to_vec()).collect();
                    self.memory.write_vectored_at(at, &[IoSlice::new(&all[..bytes.min(all.len())])])
                }
            }
        }
    }

    impl Storage for Scripted {
        fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
            match self.turns.lock().pop_front() {
                None => self.memory.read_at(at, into),
                Some(Turn::Fail(kind)) => Err(kind.into()),
                Some(Turn::Short(bytes)) => {
                    let bytes = bytes.min(into.len());
                    self.memory.read_at(at, &mut into[..bytes])
                }
            }
        }
        fn read_vectored_at(&self, at: u64, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
            self.memory.read_vectored_at(at, into)
        }
        fn write_vectored_at(&self, at: u64, run: &[IoSlice<'_>]) -> io::Result<usize> {
            self.write(at, run)
        }
        fn write_sync(&self, at: u64, run: &[IoSlice<'_>]) -> io::Result<usize> {
            self.write(at, run)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.turns.lock().pop_front().map_or(Ok(()), |turn| match turn {
                Turn::Fail(kind) => Err(kind.into()),
                Turn::Short(_) => Ok(()),
            })
        }
        fn allocate(&self, at: u64, bytes: u64) -> io::Result<()> {
            self.memory.allocate(at, bytes)
        }
        fn punch(&self, at: u64, bytes: u64) -> io::Result<()> {
            self.memory.punch(at, bytes)
        }
        fn len(&self) -> io::Result<u64> {
            self.memory.len()
        }
        fn set_len(&self, bytes: u64) -> io::Result<()> {
            self.memory.set_len(bytes)
        }
        fn lock(&self) -> io::Result<bool> {
            self.memory.lock()
        }
        fn drop_cache(&self, _at: u64, _bytes: u64) -> io::Result<()> {
            Ok(())
        }
    }

    fn contents(storage: &Scripted) -> Vec<u8> {
        let mut all = vec![0; usize::try_from(storage.len().unwrap()).unwrap()];
        read_exact_at(&storage.memory, 0, &mut all).unwrap();
        all
    }

    #[test]
    fn every_split_of_a_run_writes_the_same_bytes() {
        let parts: [&[u8]; 5] = [b"ab", b"", b"cdefg", b"h", b""];
        let run: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        for first in 1..=8 {
            for second in 1..=8 {
                for write in [write_all_at, write_all_sync] {
                    let storage = Scripted::new([Turn::Short(first), Turn::Short(second)]);
                    write(&storage, 3, &run).unwrap();
                    assert_eq!(contents(&storage), b"\0\0\0abcdefgh", "short writes of {first} and {second}");
                }
            }
        }
    }

    #[test]
    fn a_whole_write_is_one_call_and_an_empty_one_none() {
        let storage = Scripted::new([]);
        assert_eq!(write_all_at(&storage, 0, &[IoSlice::new(b"one"), IoSlice::new(b"two")]).unwrap(), 1);
        assert_eq!(write_all_at(&storage, 0, &[]).unwrap(), 0);
        assert_eq!(write_all_at(&storage, 9, &[IoSlice::new(b"")]).unwrap(), 0);
    }

    #[test]
    fn no_call_carries_more_buffers_than_the_kernel_takes() {
        let storage = Scripted::new([]);
        let bytes: Vec<u8> = (0..2500).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let run: Vec<IoSlice<'_>> = bytes.chunks(1).map(IoSlice::new).collect();
        assert_eq!(write_all_at(&storage, 0, &run).unwrap(), 3);
        assert_eq!(*storage.buffers_max.lock(), BUFFERS_PER_CALL_MAX);
        assert_eq!(contents(&storage), bytes);
    }

    #[test]
    fn nothing_written_is_an_error_not_a_loop() {
        let storage = Scripted::new([Turn::Short(1), Turn::Short(0)]);
        let error = write_all_at(&storage, 0, &[IoSlice::new(b"abc")]).unwrap_err();
        assert!(
            matches!(&error, FileError::Io { op: IoOp::Write, at: 1, source } if source.kind() == ErrorKind::WriteZero)
        );
    }

    #[test]
    fn interruptions_are_repeated_up_to_a_bound() {
        let passing = [Turn::Fail(ErrorKind::Interrupted), Turn::Fail(ErrorKind::WouldBlock)];
        let storage = Scripted::new(passing);
        assert_eq!(write_all_at(&storage, 0, &[IoSlice::new(b"abc")]).unwrap(), 3, "every try is counted");
        assert_eq!(contents(&storage), b"abc");

        let storage = Scripted::new([Turn::Fail(ErrorKind::Interrupted); 1000]);
        let error = write_all_at(&storage, 0, &[IoSlice::new(b"abc")]).unwrap_err();
        assert!(matches!(&error, FileError::Io { source, .. } if source.kind() == ErrorKind::Interrupted));
    }

    #[test]
    fn a_full_disk_has_an_error_of_its_own() {
        for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge] {
            let storage = Scripted::new([Turn::Short(2), Turn::Fail(kind)]);
            let error = write_all_at(&storage, 0, &[IoSlice::new(b"abc")]).unwrap_err();
            assert!(matches!(error, FileError::Full { bytes_wanted: 1 }), "{error}");
        }
    }

    #[test]
    fn a_short_read_goes_on_and_the_end_is_truncation() {
        let storage = Scripted::new([]);
        write_all_at(&storage, 0, &[IoSlice::new(b"abcdef")]).unwrap();
        *storage.turns.lock() = [Turn::Short(1), Turn::Fail(ErrorKind::Interrupted), Turn::Short(2)].into();
        let mut into = [0; 5];
        assert_eq!(read_exact_at(&storage, 1, &mut into).unwrap(), 4);
        assert_eq!(&into, b"bcdef");
        let error = read_exact_at(&storage, 4, &mut into).unwrap_err();
        assert!(matches!(error, FileError::Truncated { bytes_needed: 9, bytes: 6 }), "{error}");
        let error = read_exact_at(&storage, 9, &mut into).unwrap_err();
        assert!(matches!(error, FileError::Truncated { bytes_needed: 14, bytes: 6 }), "{error}");
        assert!(read_exact_at(&storage, u64::MAX, &mut into).is_err());
    }

    #[test]
    fn a_sync_is_tried_once_only() {
        let storage = Scripted::new([Turn::Fail(ErrorKind::Interrupted)]);
        assert!(sync_all(&storage).is_err());
        assert!(sync_all(&storage).is_ok(), "the second call would have succeeded, and proved nothing");
    }
}
