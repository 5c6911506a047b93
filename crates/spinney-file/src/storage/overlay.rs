//! A storage whose changes stay in memory: what a read-only opening recovers.
#![expect(clippy::cast_possible_truncation, reason = "lengths of buffers in memory fit a usize")]

use super::Storage;
use parking_lot::RwLock;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    io::{self, IoSlice, IoSliceMut},
    sync::Arc,
};

const BLOCK_BYTES: u64 = 4096;

/// Reads through to `base`, except for blocks that were written here. Nothing is ever written to `base`.
#[derive(Debug)]
pub(crate) struct Overlay {
    base: Arc<dyn Storage>,
    changed: RwLock<Changed>,
}

#[derive(Debug, Default)]
struct Changed {
    blocks: BTreeMap<u64, Box<[u8]>>,
    /// The length, where it is no longer that of the base.
    len: Option<u64>,
}

impl Overlay {
    pub(crate) fn new(base: Arc<dyn Storage>) -> Self {
        Self { base, changed: RwLock::default() }
    }

    /// Fills `into` from the base; beyond its end there are zeros.
    fn read_base(&self, mut at: u64, mut into: &mut [u8]) -> io::Result<()> {
        while !into.is_empty() {
            match self.base.read_at(at, into)? {
                0 => {
                    into.fill(0);
                    return Ok(());
                }
                read => {
                    at += read as u64;
                    into = &mut into[read..];
                }
            }
        }
        Ok(())
    }

    fn write(&self, mut at: u64, run: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut changed = self.changed.write();
        let mut written = 0;
        for mut bytes in run.iter().map(|slice| &**slice) {
            while !bytes.is_empty() {
                let (number, skip) = (at / BLOCK_BYTES, (at % BLOCK_BYTES) as usize);
                let count = bytes.len().min(BLOCK_BYTES as usize - skip);
                let block = match changed.blocks.entry(number) {
                    Entry::Occupied(block) => block.into_mut(),
                    Entry::Vacant(place) => {
                        let mut block = vec![0; BLOCK_BYTES as usize];
                        self.read_base(number * BLOCK_BYTES, &mut block)?;
                        place.insert(block.into())
                    }
                };
                block[skip..skip + count].copy_from_slice(&bytes[..count]);
                bytes = &bytes[count..];
                at += count as u64;
                written += count;
            }
        }
        let len = changed.len.map_or_else(|| self.base.len(), Ok)?;
        changed.len = Some(len.max(at));
        Ok(written)
    }
}

impl Storage for Overlay {
    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let changed = self.changed.read();
        let len = changed.len.map_or_else(|| self.base.len(), Ok)?;
        let count = len.saturating_sub(at).min(into.len() as u64) as usize;
        let into = &mut into[..count];
        self.read_base(at, into)?;
        for (number, block) in changed.blocks.range(at / BLOCK_BYTES..(at + count as u64).div_ceil(BLOCK_BYTES)) {
            let start = number * BLOCK_BYTES;
            let (from, to) = (start.max(at), (start + BLOCK_BYTES).min(at + count as u64));
            into[(from - at) as usize..(to - at) as usize]
                .copy_from_slice(&block[(from - start) as usize..(to - start) as usize]);
        }
        Ok(count)
    }

    fn read_vectored_at(&self, at: u64, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match into.iter_mut().find(|buffer| !buffer.is_empty()) {
            Some(buffer) => self.read_at(at, buffer),
            None => Ok(0),
        }
    }

    fn write_vectored_at(&self, at: u64, run: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write(at, run)
    }

    fn write_sync(&self, at: u64, run: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write(at, run)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn allocate(&self, at: u64, bytes: u64) -> io::Result<()> {
        let mut changed = self.changed.write();
        let len = changed.len.map_or_else(|| self.base.len(), Ok)?;
        changed.len = Some(len.max(at + bytes));
        Ok(())
    }

    fn punch(&self, at: u64, bytes: u64) -> io::Result<()> {
        let zeros = vec![0; BLOCK_BYTES as usize];
        let mut done = 0;
        while done < bytes {
            let count = (bytes - done).min(BLOCK_BYTES);
            self.write(at + done, &[IoSlice::new(&zeros[..count as usize])])?;
            done += count;
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.changed.read().len.map_or_else(|| self.base.len(), Ok)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut changed = self.changed.write();
        changed.len = Some(bytes);
        drop(changed.blocks.split_off(&bytes.div_ceil(BLOCK_BYTES)));
        Ok(())
    }

    fn lock(&self) -> io::Result<bool> {
        self.base.lock()
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemStorage;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn changes_are_seen_and_the_base_is_not_touched(
            writes in proptest::collection::vec((0..20_000_u64, 1..9000_usize, any::<u8>()), 1..12), cut in 0..30_000_u64,
        ) {
            let base = Arc::new(MemStorage::new());
            base.write_vectored_at(0, &[IoSlice::new(&[9; 10_000])]).unwrap();
            let overlay = Overlay::new(base.clone());
            let mut model = vec![9; 10_000];
            for (at, len, fill) in writes {
                let (at_byte, bytes) = (at as usize, vec![fill; len]);
                model.resize(model.len().max(at_byte + len), 0);
                model[at_byte..at_byte + len].fill(fill);
                let (left, right) = bytes.split_at(len / 2);
                overlay.write_vectored_at(at, &[IoSlice::new(left), IoSlice::new(right)]).unwrap();
            }
            let whole = |from: u64| {
                let mut read = vec![1; 60_000];
                let count = overlay.read_at(from, &mut read).unwrap();
                read.truncate(count);
                read
            };
            prop_assert_eq!(&whole(0), &model);
            let from = cut.min(model.len() as u64);
            prop_assert_eq!(&whole(from), &model[from as usize..]);
            overlay.punch(from, model.len() as u64 - from).unwrap();
            model[from as usize..].fill(0);
            prop_assert_eq!(&whole(0), &model);
            let mut kept = vec![0; 20_000];
            prop_assert_eq!(base.read_at(0, &mut kept).unwrap(), 10_000);
            prop_assert!(kept[..10_000].iter().all(|&byte| byte == 9));
        }
    }
}
