//! The superblock: two alternating slots that say where everything else begins.
//!
//! A checkpoint writes the slot that the newest one does not occupy, so one valid slot exists at any
//! moment. The slots lie at bytes 0 and 4096 whatever the page size, so that a reader needs no
//! other knowledge to find them.

use crate::{error::FileError, log::RingLayout, page::checksum};
use spinney_alloc::{DirectoryEntry, Extent, Seq, Stamp};
use std::ops::Range;

/// Bytes of one slot.
pub(crate) const SLOT_BYTES: usize = 4096;
/// Where the two slots begin, in bytes.
pub(crate) const SLOT_AT: [u64; 2] = [0, SLOT_BYTES as u64];
/// The format this build writes, and the newest it reads.
pub(crate) const FORMAT_VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"SPINNEY\n";

/// No seq, stamp, epoch or checkpoint number of a real file comes near it; a forged one could overflow.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

/// Where one page of a structure with two homes is, and which of them is current.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct TwinEntry {
    /// The first of two adjacent pages; 0: no homes yet.
    pub(crate) home: u64,
    /// Checkpoint number << 1 | side; 0: never saved.
    pub(crate) saved: u64,
}

impl TwinEntry {
    /// Whether both homes lie in a file of `file_pages`, or there are none.
    pub(crate) fn is_inside(self, file_pages: u64) -> bool {
        self.home < file_pages && self.home + 2 <= file_pages && self.saved >> 1 < NUMBER_MAX
    }
}

/// One slot. Integers are little-endian.
///
/// |   at | size | field       | meaning                                                          |
/// |-----:|-----:|-------------|------------------------------------------------------------------|
/// |    0 |    8 | checksum    | CRC-64/NVME of the 4088 bytes after it                           |
/// |    8 |    8 | magic       | `SPINNEY\n`                                                      |
/// |   16 |    4 | version     | of the format                                                    |
/// |   20 |    4 | page_bytes  | a power of two, 4096 to 65536                                    |
/// |   24 |    4 | incompatible| feature bits a reader must know; none yet                        |
/// |   28 |    4 | writable    | feature bits a writer must know; none yet                        |
/// |   32 |    8 | epoch       | of the log when this checkpoint was taken                        |
/// |   40 |   16 | file_id     | random, given at creation                                        |
/// |   56 |    8 | number      | of the checkpoint: 0 and 1 at creation, then stamps that grow    |
/// |   64 |    8 | seq         | the newest commit in this checkpoint                             |
/// |   72 |    8 | seq_limit   | no seq at or above it is used before a higher limit is durable   |
/// |   80 |    8 | stamp_limit | the same for stamps                                              |
/// |   88 |    8 | log_start   | block of the log where the next group goes                       |
/// |   96 |    8 | log_chain   | checksum that the first group there carries as its predecessor's |
/// |  104 |    8 | file_pages  | pages the file has                                               |
/// |  112 |    8 | used_end    | the page after the last one in use                               |
/// |  120 |    4 | log_extents | how many of the 24 below are used                                |
/// |  124 |    4 | map_dirs    | how many of the 128 below are used                               |
/// |  128 |    4 | owner_dirs  | how many of the 88 below are used                                |
/// |  132 |  124 | reserved    | zero when written, checked when read                             |
/// |  256 |  384 | log         | 24 x (start page u64, pages u64)                                 |
/// |  640 | 2048 | map         | 128 x (saved u64, free pages u64), one per map directory page    |
/// | 2688 | 1408 | owners      | 88 x (first home u64, saved u64), one per owner directory page   |
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) page_bytes: u32,
    pub(crate) file_id: [u8; 16],
    pub(crate) number: u64,
    pub(crate) epoch: u64,
    pub(crate) seq: Seq,
    pub(crate) seq_limit: Seq,
    pub(crate) stamp_limit: Stamp,
    pub(crate) log_start: u64,
    pub(crate) log_chain: u64,
    pub(crate) file_pages: u64,
    pub(crate) used_end: u64,
    pub(crate) log: RingLayout,
    pub(crate) map: Vec<DirectoryEntry>,
    pub(crate) owners: Vec<TwinEntry>,
}

const RESERVED: Range<usize> = 132..LOG_AT;
const LOG_AT: usize = 256;
const MAP_AT: usize = 640;
const OWNERS_AT: usize = 2688;
/// Owner directory pages a superblock can list.
pub(crate) const OWNER_DIRS_MAX: usize = (SLOT_BYTES - OWNERS_AT) / 16;
const MAP_DIRS_MAX: usize = (OWNERS_AT - MAP_AT) / 16;
const _: () = assert!(MAP_DIRS_MAX == 128 && OWNER_DIRS_MAX == 88 && (MAP_AT - LOG_AT) / 16 == RingLayout::EXTENTS_MAX);

/// What a slot turned out to hold.
#[derive(Debug)]
pub(crate) enum Slot {
    /// Only zero bytes: never written.
    Blank,
    /// Bytes that are no superblock of this format.
    Invalid,
    /// A superblock.
    Valid(Box<Superblock>),
}

impl Superblock {
    /// Which slot this checkpoint goes to.
    pub(crate) fn slot(&self) -> usize {
        // Number 0 exists only to make the creation of number 1 safe, so it takes the second slot.
        usize::from(self.number.is_multiple_of(2))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; SLOT_BYTES];
        out[8..16].copy_from_slice(&MAGIC);
        put_u32(&mut out, 16, FORMAT_VERSION);
        put_u32(&mut out, 20, self.page_bytes);
        put_u64(&mut out, 32, self.epoch);
        out[40..56].copy_from_slice(&self.file_id);
        put_u64(&mut out, 56, self.number);
        put_u64(&mut out, 64, self.seq.0);
        put_u64(&mut out, 72, self.seq_limit.0);
        put_u64(&mut out, 80, self.stamp_limit.0);
        put_u64(&mut out, 88, self.log_start);
        put_u64(&mut out, 96, self.log_chain);
        put_u64(&mut out, 104, self.file_pages);
        put_u64(&mut out, 112, self.used_end);
        let counts = [self.log.extents().len(), self.map.len(), self.owners.len()];
        for (at, count) in [120, 124, 128].into_iter().zip(counts) {
            put_u32(&mut out, at, u32::try_from(count).expect("bounded by the table sizes"));
        }
        let pairs = |out: &mut [u8], at: usize, pairs: &mut dyn Iterator<Item = (u64, u64)>| {
            for (i, (a, b)) in pairs.enumerate() {
                put_u64(out, at + 16 * i, a);
                put_u64(out, at + 16 * i + 8, b);
            }
        };
        assert!(self.map.len() <= MAP_DIRS_MAX && self.owners.len() <= OWNER_DIRS_MAX, "the tables fit");
        pairs(&mut out, LOG_AT, &mut self.log.extents().iter().map(|e| (e.start.get(), e.pages)));
        pairs(&mut out, MAP_AT, &mut self.map.iter().map(|d| (d.saved, d.free_pages)));
        pairs(&mut out, OWNERS_AT, &mut self.owners.iter().map(|d| (d.home, d.saved)));
        let sum = checksum(&out[8..]);
        put_u64(&mut out, 0, sum);
        out
    }

    /// Reads one slot.
    ///
    /// # Errors
    /// [`FileError::Version`] for a valid slot of a newer format, or one with features this build does not know.
    pub(crate) fn decode(slot: &[u8]) -> Result<Slot, FileError> {
        if slot.iter().all(|&b| b == 0) {
            return Ok(Slot::Blank);
        }
        if slot.len() != SLOT_BYTES || slot[8..16] != MAGIC || get_u64(slot, 0) != checksum(&slot[8..]) {
            return Ok(Slot::Invalid);
        }
        let version = get_u32(slot, 16);
        // Zero in this version: what else is there belongs to a newer one.
        let is_reserved = slot[RESERVED].iter().any(|&byte| byte != 0);
        if version > FORMAT_VERSION || get_u32(slot, 24) != 0 || get_u32(slot, 28) != 0 || is_reserved {
            return Err(FileError::Version { found: version.max(FORMAT_VERSION + 1), supported: FORMAT_VERSION });
        }
        Ok(Self::decode_fields(slot).map_or(Slot::Invalid, |s| Slot::Valid(Box::new(s))))
    }

    fn decode_fields(slot: &[u8]) -> Option<Self> {
        let page_bytes = get_u32(slot, 20);
        if !page_bytes.is_power_of_two() || !(4096..=65536).contains(&page_bytes) {
            return None;
        }
        let pairs = |at: usize, count_at: usize, max: usize| {
            let count = get_u32(slot, count_at) as usize;
            (count <= max)
                .then(|| (0..count).map(move |i| (get_u64(slot, at + 16 * i), get_u64(slot, at + 16 * i + 8))))
        };
        let log = pairs(LOG_AT, 120, RingLayout::EXTENTS_MAX)?
            .map(|(start, pages)| Extent::new(start, pages))
            .collect::<Option<Vec<_>>>()?;
        let log = RingLayout::new(log, page_bytes)?;
        let log_start = get_u64(slot, 88);
        let file_pages = get_u64(slot, 104);
        let bounded = file_pages <= i64::MAX as u64 / u64::from(page_bytes)
            && log_start < log.blocks()
            && log.extents().iter().all(|e| e.end() <= file_pages)
            && get_u64(slot, 112) <= file_pages
            && [32, 56, 64, 72, 80].into_iter().all(|at| get_u64(slot, at) < NUMBER_MAX)
            && get_u64(slot, 64) < get_u64(slot, 72);
        let owners: Vec<TwinEntry> =
            pairs(OWNERS_AT, 128, OWNER_DIRS_MAX)?.map(|(home, saved)| TwinEntry { home, saved }).collect();
        let bounded = bounded && owners.iter().all(|twin| twin.is_inside(file_pages));
        bounded.then_some(Self {
            page_bytes,
            epoch: get_u64(slot, 32),
            file_id: slot[40..56].try_into().expect("16 bytes"),
            number: get_u64(slot, 56),
            seq: Seq(get_u64(slot, 64)),
            seq_limit: Seq(get_u64(slot, 72)),
            stamp_limit: Stamp(get_u64(slot, 80)),
            log_start,
            log_chain: get_u64(slot, 96),
            file_pages,
            used_end: get_u64(slot, 112),
            log,
            map: pairs(MAP_AT, 124, MAP_DIRS_MAX)?
                .map(|(saved, free_pages)| DirectoryEntry { saved, free_pages })
                .collect(),
            owners,
        })
    }
}

/// Whether the beginning of a slot bears the mark of this format.
pub(crate) fn has_magic(slot: &[u8]) -> bool {
    slot.get(8..16) == Some(&MAGIC[..])
}

pub(crate) fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

pub(crate) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

pub(crate) fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Superblock {
        Superblock {
            page_bytes: 4096,
            file_id: [7; 16],
            number: 5,
            epoch: 3,
            seq: Seq(99),
            seq_limit: Seq(1 << 32),
            stamp_limit: Stamp(1 << 33),
            log_start: 3,
            log_chain: 12345,
            file_pages: 64,
            used_end: 40,
            log: RingLayout::new(vec![Extent::new(6, 16).unwrap()], 4096).unwrap(),
            map: vec![DirectoryEntry { saved: 11, free_pages: 20 }],
            owners: vec![TwinEntry { home: 22, saved: 10 }],
        }
    }

    #[test]
    fn a_superblock_survives_the_round_trip() {
        match Superblock::decode(&sample().encode()).unwrap() {
            Slot::Valid(found) => assert_eq!(*found, sample()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = sample().encode();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(matches!(Superblock::decode(&bad), Ok(Slot::Invalid)), "byte {at}");
        }
    }

    #[test]
    fn a_newer_version_is_named_and_a_blank_slot_is_blank() {
        let mut newer = sample().encode();
        put_u32(&mut newer, 16, FORMAT_VERSION + 1);
        let sum = checksum(&newer[8..]);
        put_u64(&mut newer, 0, sum);
        assert!(matches!(Superblock::decode(&newer), Err(FileError::Version { found: 2, supported: 1 })));
        for bit in (24 * 8..32 * 8).chain(RESERVED.start * 8..RESERVED.end * 8) {
            let mut newer = sample().encode();
            newer[bit / 8] ^= 1 << (bit % 8);
            let sum = checksum(&newer[8..]);
            put_u64(&mut newer, 0, sum);
            let decoded = Superblock::decode(&newer);
            assert!(matches!(decoded, Err(FileError::Version { found: 2, supported: 1 })), "bit {bit}: {decoded:?}");
        }
        assert!(matches!(Superblock::decode(&[0; SLOT_BYTES]), Ok(Slot::Blank)));
    }
}
