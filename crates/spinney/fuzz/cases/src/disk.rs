//! A file that exists only where something was written, and that counts what is asked of it: its length may be anything, and
//! whoever asks for too much is refused and found out.

use spinney::Storage;
use std::{
    collections::BTreeMap,
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

const BLOCK_BYTES: u64 = 4096;

/// See the module. Clones are the same file, opened once more.
#[derive(Debug)]
pub struct Disk {
    file: Arc<Mutex<File>>,
    locked: Arc<AtomicBool>,
    holds_lock: AtomicBool,
}

#[derive(Debug)]
struct File {
    blocks: BTreeMap<u64, Box<[u8]>>,
    len: u64,
    /// Grows no further.
    len_max: u64,
    calls_left: u64,
    bytes_left: u64,
    writes: u64,
    exhausted: bool,
}

/// Bytes that a file may grow by.
const GROWTH_BYTES: u64 = 8 << 20;

impl Disk {
    /// A file with these bytes, then zeros up to `len`.
    pub fn new(bytes: &[u8], len: u64) -> Self {
        let blocks = (0..).zip(bytes.chunks(BLOCK_BYTES as usize)).filter(|(_, block)| block.iter().any(|&b| b != 0));
        let blocks = blocks.map(|(number, bytes)| {
            let mut block = vec![0; BLOCK_BYTES as usize];
            block[..bytes.len()].copy_from_slice(bytes);
            (number, block.into())
        });
        let len = len.max(bytes.len() as u64);
        let file = File {
            blocks: blocks.collect(),
            len,
            len_max: len.saturating_add(GROWTH_BYTES),
            calls_left: u64::MAX,
            bytes_left: u64::MAX,
            writes: 0,
            exhausted: false,
        };
        let (file, locked) = (Arc::new(Mutex::new(file)), Arc::default());
        Self { file, locked, holds_lock: AtomicBool::new(false) }
    }

    /// From now on so many calls are served, and so many bytes read and written.
    pub fn allow(&self, calls: u64, bytes: u64) {
        let mut file = self.file();
        (file.calls_left, file.bytes_left) = (calls, bytes);
    }

    /// Nobody asked for more than was allowed.
    ///
    /// # Panics
    /// When somebody did.
    pub fn assert_bounded(&self) {
        assert!(!self.file().exhausted, "more was asked of the file than its size explains");
    }

    /// Bytes of memory that the file takes.
    pub fn held(&self) -> u64 {
        self.file().blocks.len() as u64 * BLOCK_BYTES
    }

    /// Calls so far that changed the file or its length.
    pub fn writes(&self) -> u64 {
        self.file().writes
    }

    /// The first `len` bytes of the file, or as many as it has.
    pub fn contents(&self, len: usize) -> Vec<u8> {
        let file = self.file();
        let mut bytes = vec![0; usize::try_from(file.len).unwrap_or(len).min(len)];
        file.read(0, &mut bytes);
        bytes
    }

    fn file(&self) -> MutexGuard<'_, File> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clone for Disk {
    fn clone(&self) -> Self {
        let (file, locked) = (Arc::clone(&self.file), Arc::clone(&self.locked));
        Self { file, locked, holds_lock: AtomicBool::new(false) }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if *self.holds_lock.get_mut() {
            self.locked.store(false, Ordering::SeqCst);
        }
    }
}

impl File {
    fn charge(&mut self, bytes: u64) -> io::Result<()> {
        match (self.calls_left.checked_sub(1), self.bytes_left.checked_sub(bytes)) {
            (Some(calls), Some(bytes)) => {
                (self.calls_left, self.bytes_left) = (calls, bytes);
                Ok(())
            }
            _ => {
                self.exhausted = true;
                Err(io::Error::other("more was asked of the file than is allowed"))
            }
        }
    }

    fn read(&self, at: u64, into: &mut [u8]) {
        into.fill(0);
        let end = at.saturating_add(into.len() as u64);
        for (number, block) in self.blocks.range(at / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES)) {
            let start = number * BLOCK_BYTES;
            let (from, to) = (start.max(at), (start + BLOCK_BYTES).min(end));
            into[(from - at) as usize..(to - at) as usize]
                .copy_from_slice(&block[(from - start) as usize..(to - start) as usize]);
        }
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        let (mut at, mut bytes) = (at, bytes);
        self.len = self.len.max(at + bytes.len() as u64);
        while !bytes.is_empty() {
            let skip = (at % BLOCK_BYTES) as usize;
            let count = bytes.len().min(BLOCK_BYTES as usize - skip);
            let block = self.blocks.entry(at / BLOCK_BYTES).or_insert_with(|| vec![0; BLOCK_BYTES as usize].into());
            block[skip..skip + count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            at += count as u64;
        }
    }

    fn grow(&mut self, len: u64) -> io::Result<()> {
        self.writes += 1;
        if len > self.len_max {
            return Err(ErrorKind::StorageFull.into());
        }
        self.len = len;
        Ok(())
    }
}

impl Storage for Disk {
    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut file = self.file();
        let count = file.len.saturating_sub(at).min(into.len() as u64) as usize;
        file.charge(count as u64)?;
        file.read(at, &mut into[..count]);
        Ok(count)
    }

    fn read_vectored_at(&self, at: u64, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match into.iter_mut().find(|buffer| !buffer.is_empty()) {
            Some(buffer) => self.read_at(at, buffer),
            None => Ok(0),
        }
    }

    fn write_vectored_at(&self, at: u64, run: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut file = self.file();
        let bytes: u64 = run.iter().map(|slice| slice.len() as u64).sum();
        file.charge(bytes)?;
        file.writes += 1;
        let end = at.checked_add(bytes).ok_or(ErrorKind::FileTooLarge)?;
        if end > file.len_max {
            return Err(ErrorKind::StorageFull.into());
        }
        let mut here = at;
        for slice in run {
            file.write(here, slice);
            here += slice.len() as u64;
        }
        Ok(bytes as usize)
    }

    fn write_sync(&self, at: u64, run: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write_vectored_at(at, run)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file().charge(0)
    }

    fn allocate(&self, at: u64, bytes: u64) -> io::Result<()> {
        let mut file = self.file();
        file.charge(0)?;
        let end = at.checked_add(bytes).ok_or(ErrorKind::FileTooLarge)?.max(file.len);
        file.grow(end)
    }

    fn punch(&self, at: u64, bytes: u64) -> io::Result<()> {
        let mut file = self.file();
        file.charge(0)?;
        file.writes += 1;
        let end = at.saturating_add(bytes).min(file.len);
        let present: Vec<u64> =
            file.blocks.range(at / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES)).map(|(&number, _)| number).collect();
        for number in present {
            let start = number * BLOCK_BYTES;
            let (from, to) = (start.max(at), (start + BLOCK_BYTES).min(end));
            file.write(from, &vec![0; (to - from) as usize]);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file().len)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut file = self.file();
        file.charge(0)?;
        file.grow(bytes)?;
        drop(file.blocks.split_off(&bytes.div_ceil(BLOCK_BYTES)));
        if let Some(block) = file.blocks.get_mut(&(bytes / BLOCK_BYTES)) {
            block[(bytes % BLOCK_BYTES) as usize..].fill(0);
        }
        Ok(())
    }

    fn lock(&self) -> io::Result<bool> {
        let taken = !self.locked.swap(true, Ordering::SeqCst);
        self.holds_lock.fetch_or(taken, Ordering::SeqCst);
        Ok(taken)
    }

    fn drop_cache(&self, _at: u64, _bytes: u64) -> io::Result<()> {
        Ok(())
    }
}
