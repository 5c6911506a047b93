//! The bytes of a simulated file as shared blocks: a copy of the file costs only the blocks that differ.

use super::random::scramble;
use rustc_hash::{FxHashMap, FxHasher};
use std::{
    fmt,
    hash::Hasher,
    sync::{Arc, OnceLock},
};

/// The unit in which copies of a file share bytes, and the larger of the two units in which a disk forgets.
pub(crate) const BLOCK_BYTES: usize = 4096;
/// The unit that no disk tears.
pub(crate) const SECTOR_BYTES: usize = 512;
/// As a `u64`, for offsets.
const BLOCK: u64 = BLOCK_BYTES as u64;

/// A block with the fingerprint of its bytes, computed when first asked for.
pub(crate) struct Block {
    bytes: [u8; BLOCK_BYTES],
    fingerprint: OnceLock<u64>,
}

impl Block {
    pub(crate) fn new(bytes: [u8; BLOCK_BYTES]) -> Arc<Self> {
        Arc::new(Self { bytes, fingerprint: OnceLock::new() })
    }

    pub(crate) fn bytes(&self) -> &[u8; BLOCK_BYTES] {
        &self.bytes
    }

    /// 0 for zeros, so that a block of zeros and a hole are the same.
    fn fingerprint(&self) -> u64 {
        *self.fingerprint.get_or_init(|| {
            if self.bytes.iter().all(|byte| *byte == 0) {
                return 0;
            }
            let mut hasher = FxHasher::default();
            hasher.write(&self.bytes);
            scramble(hasher.finish()).max(1)
        })
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {:016x}", self.fingerprint())
    }
}

/// `None` is a hole: zeros that take no space.
type Slot = Option<Arc<Block>>;

/// A file: its length, and its blocks as a shared list with changes laid over it. A clone is a few words plus the changes.
#[derive(Clone, Debug)]
pub(crate) struct BlockMap {
    base: Arc<Base>,
    changed: FxHashMap<u64, Slot>,
    allocated_count: u64,
    bytes: u64, // the length; everything at or beyond it is a hole
}

#[derive(Clone, Debug, Default)]
struct Base {
    slots: Vec<Slot>,
    fingerprint: OnceLock<u64>,
}

impl BlockMap {
    pub(crate) fn new() -> Self {
        Self { base: Arc::default(), changed: FxHashMap::default(), allocated_count: 0, bytes: 0 }
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let mut map = Self::new();
        for (index, chunk) in (0..).zip(bytes.chunks(BLOCK_BYTES)) {
            map.write_part(index, 0, chunk);
        }
        map.bytes = bytes.len() as u64;
        map.fold();
        map
    }

    pub(crate) fn len(&self) -> u64 {
        self.bytes
    }

    /// Blocks that take space.
    pub(crate) fn allocated_count(&self) -> u64 {
        self.allocated_count
    }

    pub(crate) fn get(&self, index: u64) -> Option<&Arc<Block>> {
        if !self.changed.is_empty()
            && let Some(slot) = self.changed.get(&index)
        {
            return slot.as_ref();
        }
        self.base.get(index).as_ref()
    }

    /// Replaces one block, wherever it is; the length stays.
    pub(crate) fn set(&mut self, index: u64, slot: Slot) {
        self.allocated_count -= u64::from(self.get(index).is_some());
        self.allocated_count += u64::from(slot.is_some());
        if self.changed.is_empty()
            && let Ok(place) = usize::try_from(index)
            && place < self.base.slots.len()
            && let Some(base) = Arc::get_mut(&mut self.base)
        {
            base.slots[place] = slot;
            base.fingerprint = OnceLock::new();
            return;
        }
        self.changed.insert(index, slot);
        if self.changed.len() > 64 + self.base.slots.len() / 4 {
            self.fold();
        }
    }

    pub(crate) fn write_part(&mut self, index: u64, from: usize, part: &[u8]) {
        let mut bytes = self.get(index).map_or([0; BLOCK_BYTES], |block| *block.bytes());
        bytes[from..from + part.len()].copy_from_slice(part);
        self.set(index, Some(Block::new(bytes)));
    }

    /// Cuts or lengthens the file. What was cut off reads as zero if the file grows again.
    pub(crate) fn set_len(&mut self, bytes: u64) {
        self.bytes = bytes;
        let (whole, rest) = (bytes / BLOCK, bytes % BLOCK);
        let rest = usize::try_from(rest).expect("within a block");
        let has_bytes_behind = |block: &Arc<Block>| block.bytes()[rest..].iter().any(|byte| *byte != 0);
        if rest > 0 && self.get(whole).is_some_and(has_bytes_behind) {
            self.write_part(whole, rest, &[0; BLOCK_BYTES][rest..]);
        }
        let first_gone = bytes.div_ceil(BLOCK);
        let base_end = self.base.slots.len() as u64;
        let mut gone: Vec<u64> = self.changed.keys().copied().filter(|index| *index >= first_gone).collect();
        gone.extend(first_gone.min(base_end)..base_end);
        for index in gone {
            if self.get(index).is_some() {
                self.set(index, None);
            }
        }
    }

    /// Reads up to the end of the file.
    pub(crate) fn read(&self, at: u64, into: &mut [u8]) -> usize {
        let available = self.bytes.saturating_sub(at);
        let total = usize::try_from(available).map_or(into.len(), |available| available.min(into.len()));
        let mut done = 0;
        while done < total {
            let (index, within) = place(at + done as u64);
            let length = (total - done).min(BLOCK_BYTES - within);
            let target = &mut into[done..done + length];
            match self.get(index) {
                Some(block) => target.copy_from_slice(&block.bytes()[within..within + length]),
                None => target.fill(0),
            }
            done += length;
        }
        total
    }

    /// A number that two files share only if their bytes and lengths are equal (but for accidents of one in 2^64).
    /// Costs a few steps for every changed block, and one pass over the shared list for all its clones together.
    pub(crate) fn fingerprint(&self) -> u64 {
        let unchanged = *self.base.fingerprint.get_or_init(|| {
            (0..).zip(&self.base.slots).fold(0, |sum, (index, slot)| sum ^ share(index, slot.as_ref()))
        });
        let sum = self.changed.iter().fold(unchanged, |sum, (index, slot)| {
            sum ^ share(*index, self.base.get(*index).as_ref()) ^ share(*index, slot.as_ref())
        });
        scramble(sum ^ scramble(self.bytes))
    }

    /// Makes the changes part of the list, so that clones made from now on are small.
    pub(crate) fn fold(&mut self) {
        let Some(end) = self.changed.keys().max().map(|last| last + 1) else { return };
        // A file that is nearly all hole stays a table of changes: a list would be as long as the file.
        let wanted = end.max(self.base.slots.len() as u64);
        if wanted > 1024 + 8 * (self.allocated_count + self.base.slots.len() as u64) {
            return;
        }
        let Ok(slot_count) = usize::try_from(wanted) else { return };
        let base = Arc::make_mut(&mut self.base);
        base.slots.resize(slot_count, None);
        base.fingerprint = OnceLock::new();
        for (index, slot) in self.changed.drain() {
            base.slots[usize::try_from(index).expect("below the list's length")] = slot;
        }
    }
}

impl Base {
    fn get(&self, index: u64) -> &Slot {
        usize::try_from(index).ok().and_then(|index| self.slots.get(index)).unwrap_or(&None)
    }
}

/// A block's part in the fingerprint of its file.
fn share(index: u64, slot: Option<&Arc<Block>>) -> u64 {
    match slot.map_or(0, |block| block.fingerprint()) {
        0 => 0,
        fingerprint => scramble(fingerprint ^ scramble(index)),
    }
}

/// The block a byte is in, and its place there.
pub(crate) fn place(at: u64) -> (u64, usize) {
    (at / BLOCK, usize::try_from(at % BLOCK).expect("within a block"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn contents(map: &BlockMap) -> Vec<u8> {
        let mut all = vec![0xEE; usize::try_from(map.len()).unwrap()];
        assert_eq!(map.read(0, &mut all), all.len());
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn a_map_is_a_vector_and_its_fingerprint_follows_the_bytes(
            ops in vec((0u8..5, 0u64..12, 0usize..4096, any::<u8>()), 1..40),
        ) {
            let mut map = BlockMap::from_bytes(&[1; 9000]);
            let mut model = vec![1; 9000];
            let mut clones: Vec<(BlockMap, Vec<u8>)> = Vec::new();
            for (what, index, within, byte) in ops {
                match what {
                    0 | 1 => {
                        let part = &[byte; 4096][within.min(4000)..];
                        map.write_part(index, 4096 - part.len(), part);
                        let end = usize::try_from(index + 1).unwrap() * 4096;
                        if map.len() < end as u64 {
                            map.set_len(end as u64);
                            model.resize(end, 0);
                        }
                        model[end - part.len()..end].copy_from_slice(part);
                    }
                    2 => {
                        let bytes = index * 4096 + within as u64;
                        map.set_len(bytes);
                        model.resize(usize::try_from(bytes).unwrap(), 0);
                    }
                    3 => clones.push((map.clone(), model.clone())),
                    _ => map.fold(),
                }
                prop_assert!(contents(&map) == model);
                prop_assert_eq!(map.fingerprint(), BlockMap::from_bytes(&model).fingerprint());
            }
            for (clone, model) in clones {
                prop_assert!(contents(&clone) == model, "a clone never changes");
            }
        }
    }

    #[test]
    fn different_bytes_have_different_fingerprints() {
        let zeros = BlockMap::from_bytes(&[0; 8192]);
        let mut other = zeros.clone();
        other.write_part(1, 7, &[1]);
        assert_ne!(zeros.fingerprint(), other.fingerprint());
        let mut moved = zeros.clone();
        moved.write_part(0, 7, &[1]);
        assert_ne!(moved.fingerprint(), other.fingerprint());
        let mut longer = zeros.clone();
        longer.set_len(8193);
        assert_ne!(zeros.fingerprint(), longer.fingerprint());
    }

    #[test]
    fn a_block_at_the_end_of_the_address_space_takes_one_block() {
        let mut map = BlockMap::new();
        map.write_part(u64::MAX / BLOCK, 0, &[1]);
        map.fold();
        map.set_len(u64::MAX);
        assert_eq!(map.allocated_count(), 1);
        map.set_len(0);
        assert_eq!(map.allocated_count(), 0);
    }
}
