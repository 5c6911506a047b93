//! A file that lives in memory: the storage of in-memory databases.

use crate::Storage;
use parking_lot::RwLock;
use std::{
    cmp,
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// A file is a list of chunks of this many bytes, so that growing moves at most one of them.
const CHUNK_BYTES: usize = 1 << 20;

/// A chunk may be shorter than [`CHUNK_BYTES`]: what is missing reads as zero and costs nothing.
type Chunk = RwLock<Vec<u8>>;

/// A growable file in memory. Cloning opens the same file once more, as opening a path twice does:
/// the file lives as long as one handle does, and only one handle can hold the lock.
///
/// "Durable" means nothing here; syncs return at once.
#[derive(Debug)]
pub struct MemStorage {
    file: Arc<MemFile>,
    holds_lock: AtomicBool,
}

#[derive(Debug)]
struct MemFile {
    // Readers and writers of bytes share this lock; only a change of length takes it alone.
    body: RwLock<Body>,
    bytes_max: u64,
    locked: AtomicBool,
}

#[derive(Debug)]
struct Body {
    bytes: u64,
    chunks: Vec<Chunk>,
}

impl MemStorage {
    /// An empty file that may grow as long as there is memory.
    pub fn new() -> Self {
        Self::with_max(u64::MAX)
    }

    /// An empty file that may have at most `bytes_max` bytes. Growing beyond fails with
    /// [`ErrorKind::StorageFull`], as it does on a full disk.
    pub fn with_max(bytes_max: u64) -> Self {
        let body = RwLock::new(Body { bytes: 0, chunks: Vec::new() });
        let file = MemFile { body, bytes_max, locked: AtomicBool::new(false) };
        Self { file: Arc::new(file), holds_lock: AtomicBool::new(false) }
    }
}

impl Default for MemStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl Clone for MemStorage {
    fn clone(&self) -> Self {
        Self { file: Arc::clone(&self.file), holds_lock: AtomicBool::new(false) }
    }
}

impl Drop for MemStorage {
    fn drop(&mut self) {
        if *self.holds_lock.get_mut() {
            // Pairs with the acquire in `lock`: the next holder sees all that this one did.
            self.file.locked.store(false, Ordering::Release);
        }
    }
}

impl Storage for MemStorage {
    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        Ok(self.file.body.read().read(at, into))
    }

    fn read_vectored_at(&self, at: u64, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let body = self.file.body.read();
        let mut total = 0;
        for buffer in into {
            let bytes = body.read(at.saturating_add(total as u64), buffer);
            total += bytes;
            if bytes < buffer.len() {
                break;
            }
        }
        Ok(total)
    }

    fn write_vectored_at(&self, at: u64, run: &[IoSlice<'_>]) -> io::Result<usize> {
        let wanted = run.iter().map(|buffer| buffer.len()).sum::<usize>();
        if wanted == 0 {
            return Ok(0);
        }
        let room = self.file.bytes_max.saturating_sub(at);
        if room == 0 {
            return Err(ErrorKind::StorageFull.into());
        }
        let mut left = usize::try_from(room).map_or(wanted, |room| room.min(wanted));
        let end = at.checked_add(left as u64).ok_or(ErrorKind::FileTooLarge)?;
        let body = self.file.grown_to(end)?;
        let mut here = at;
        for buffer in run {
            let bytes = left.min(buffer.len());
            body.write(here, &buffer[..bytes])?;
            here += bytes as u64;
            left -= bytes;
        }
        Ok(usize::try_from(here - at).expect("no longer than the run"))
    }

    fn write_sync(&self, at: u64, run: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write_vectored_at(at, run)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn allocate(&self, at: u64, bytes: u64) -> io::Result<()> {
        let end = at.checked_add(bytes).ok_or(ErrorKind::FileTooLarge)?;
        if end > self.file.bytes_max {
            return Err(ErrorKind::StorageFull.into());
        }
        self.file.grown_to(end).map(drop)
    }

    fn punch(&self, at: u64, bytes: u64) -> io::Result<()> {
        let body = self.file.body.read();
        let end = at.saturating_add(bytes).min(body.bytes);
        let mut here = at;
        while here < end {
            let (index, within) = place(here);
            let until = cmp::min(end - here, (CHUNK_BYTES - within) as u64);
            let length = usize::try_from(until).expect("within a chunk");
            let mut chunk = body.chunks[index].write();
            if length == CHUNK_BYTES {
                *chunk = Vec::new();
            } else {
                let present = chunk.len();
                chunk[within.min(present)..(within + length).min(present)].fill(0);
            }
            here += until;
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.body.read().bytes)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        if bytes > self.file.bytes_max {
            return Err(ErrorKind::StorageFull.into());
        }
        let mut body = self.file.body.write();
        if bytes > body.bytes {
            return body.grow(bytes);
        }
        let (index, within) = place(bytes);
        body.chunks.truncate(index + usize::from(within > 0));
        if within > 0 {
            // What was cut off must read as zero when the file grows again.
            body.chunks[index].get_mut().truncate(within);
        }
        body.bytes = bytes;
        Ok(())
    }

    fn lock(&self) -> io::Result<bool> {
        if self.holds_lock.load(Ordering::Acquire) {
            return Ok(true);
        }
        // Pairs with the release in `drop`.
        let taken = !self.file.locked.swap(true, Ordering::Acquire);
        if taken {
            self.holds_lock.store(true, Ordering::Release);
        }
        Ok(taken)
    }

    fn drop_cache(&self, _at: u64, _bytes: u64) -> io::Result<()> {
        Ok(())
    }
}

impl MemFile {
    /// The body with at least `end` bytes of length, locked for everybody who does not change the length.
    fn grown_to(&self, end: u64) -> io::Result<parking_lot::RwLockReadGuard<'_, Body>> {
        let body = self.body.read();
        if end <= body.bytes {
            return Ok(body);
        }
        drop(body);
        let mut body = self.body.write();
        if end > body.bytes {
            body.grow(end)?;
        }
        Ok(parking_lot::RwLockWriteGuard::downgrade(body))
    }
}

impl Body {
    /// Lengthens the file; the new bytes read as zero and take no memory until written.
    fn grow(&mut self, bytes: u64) -> io::Result<()> {
        let chunk_count = usize::try_from(bytes.div_ceil(CHUNK_BYTES as u64)).map_err(|_| ErrorKind::FileTooLarge)?;
        let more = chunk_count.saturating_sub(self.chunks.len());
        self.chunks.try_reserve(more).map_err(|_| ErrorKind::StorageFull)?;
        self.chunks.resize_with(chunk_count, Chunk::default);
        self.bytes = bytes;
        Ok(())
    }

    fn read(&self, at: u64, into: &mut [u8]) -> usize {
        let available = self.bytes.saturating_sub(at);
        let total = usize::try_from(available).map_or(into.len(), |available| available.min(into.len()));
        let mut done = 0;
        while done < total {
            let (index, within) = place(at + done as u64);
            let length = (total - done).min(CHUNK_BYTES - within);
            let target = &mut into[done..done + length];
            let chunk = self.chunks[index].read();
            let present = chunk.len().saturating_sub(within).min(length);
            target[..present].copy_from_slice(&chunk[within.min(chunk.len())..][..present]);
            target[present..].fill(0);
            done += length;
        }
        total
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let (index, within) = place(at + done as u64);
            let length = (bytes.len() - done).min(CHUNK_BYTES - within);
            let mut chunk = self.chunks[index].write();
            if chunk.len() < within + length {
                let more = within + length - chunk.len();
                chunk.try_reserve(more).map_err(|_| ErrorKind::StorageFull)?;
                chunk.resize(within + length, 0);
            }
            chunk[within..within + length].copy_from_slice(&bytes[done..done + length]);
            done += length;
        }
        Ok(())
    }
}

/// The chunk a byte is in, and its place there. Callers stay below the file's length, whose chunks are counted
/// by a `usize`.
fn place(at: u64) -> (usize, usize) {
    let index = usize::try_from(at / CHUNK_BYTES as u64).expect("below the file's length");
    let within = usize::try_from(at % CHUNK_BYTES as u64).expect("within a chunk");
    (index, within)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    #[derive(Clone, Debug)]
    enum Op {
        Write(u64, Vec<u8>),
        Punch(u64, u64),
        SetLen(u64),
        Allocate(u64, u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        // Places gather around the border between two chunks.
        let at = prop_oneof![0..64u64, (CHUNK_BYTES as u64 - 32)..(CHUNK_BYTES as u64 + 32)];
        prop_oneof![
            (at.clone(), vec(any::<u8>(), 0..48)).prop_map(|(at, bytes)| Op::Write(at, bytes)),
            (at.clone(), 0..(CHUNK_BYTES as u64 * 2)).prop_map(|(at, bytes)| Op::Punch(at, bytes)),
            at.clone().prop_map(Op::SetLen),
            (at, 0..64u64).prop_map(|(at, bytes)| Op::Allocate(at, bytes)),
        ]
    }

    fn resize_at_least(model: &mut Vec<u8>, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap();
        if model.len() < bytes {
            model.resize(bytes, 0);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn memory_is_a_vector_of_bytes(ops in vec(op(), 1..40)) {
            let storage = MemStorage::new();
            let mut model: Vec<u8> = Vec::new();
            for op in ops {
                match op {
                    Op::Write(at, bytes) => {
                        let (left, right) = bytes.split_at(bytes.len() / 2);
                        let written = storage.write_vectored_at(at, &[IoSlice::new(left), IoSlice::new(right)]).unwrap();
                        prop_assert_eq!(written, bytes.len());
                        if !bytes.is_empty() {
                            resize_at_least(&mut model, at + bytes.len() as u64);
                            let at = usize::try_from(at).unwrap();
                            model[at..at + bytes.len()].copy_from_slice(&bytes);
                        }
                    }
                    Op::Punch(at, bytes) => {
                        storage.punch(at, bytes).unwrap();
                        let (at, bytes) = (usize::try_from(at).unwrap(), usize::try_from(bytes).unwrap());
                        let end = model.len().min(at + bytes);
                        model[at.min(end)..end].fill(0);
                    }
                    Op::SetLen(bytes) => {
                        storage.set_len(bytes).unwrap();
                        model.resize(usize::try_from(bytes).unwrap(), 0);
                    }
                    Op::Allocate(at, bytes) => {
                        storage.allocate(at, bytes).unwrap();
                        resize_at_least(&mut model, at + bytes);
                    }
                }
                prop_assert_eq!(storage.len().unwrap(), model.len() as u64);
                let mut left = vec![0xEE; model.len() / 3];
                let mut right = vec![0xEE; model.len() + 9 - left.len()];
                let mut into = [IoSliceMut::new(&mut left), IoSliceMut::new(&mut right)];
                prop_assert_eq!(storage.read_vectored_at(0, &mut into).unwrap(), model.len());
                let all = [left, right].concat();
                prop_assert!(all[..model.len()] == model[..], "contents differ");
            }
        }
    }

    #[test]
    fn a_full_file_takes_what_fits_and_then_nothing() {
        let storage = MemStorage::with_max(10);
        assert_eq!(storage.write_vectored_at(8, &[IoSlice::new(b"abcd")]).unwrap(), 2);
        let error = storage.write_vectored_at(10, &[IoSlice::new(b"cd")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert_eq!(storage.allocate(4, 7).unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(storage.set_len(11).unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(storage.len().unwrap(), 10);
    }

    #[test]
    fn one_handle_holds_the_lock_until_it_is_dropped() {
        let first = MemStorage::new();
        let second = first.clone();
        assert!(first.lock().unwrap());
        assert!(first.lock().unwrap(), "its own lock is no obstacle");
        assert!(!second.lock().unwrap());
        drop(first);
        assert!(second.lock().unwrap());
    }

    #[test]
    fn a_sparse_file_takes_no_memory() {
        let storage = MemStorage::new();
        storage.set_len(1 << 40).unwrap();
        let mut into = [7; 4];
        assert_eq!(storage.read_at((1 << 40) - 2, &mut into).unwrap(), 2);
        assert_eq!(into, [0, 0, 7, 7]);
        assert_eq!(storage.read_at(u64::MAX, &mut into).unwrap(), 0);
    }
}
