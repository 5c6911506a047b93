//! A group: the records that reach the disk in one write, with a header that proves them.

use crate::{
    log::BLOCK_BYTES,
    page::checksum,
    superblock::{get_u32, get_u64, put_u32, put_u64},
};
use spinney_alloc::Seq;

/// Bytes before the first record of a group.
pub(crate) const GROUP_HEADER_BYTES: usize = 80;
const MAGIC: u32 = 0x4c_4e_50_53; // "SPNL"

/// Which file's log this is: a log block copied from elsewhere is not mistaken for ours.
pub(crate) type LogId = [u8; 16];

/// Start of every group; the records follow, then zeros to the end of the block.
///
/// | at | size | field       | meaning                                                                  |
/// |---:|-----:|-------------|--------------------------------------------------------------------------|
/// |  0 |    8 | checksum    | CRC-64/NVME of bytes 8 to the end of the records                         |
/// |  8 |    4 | magic       | `SPNL`                                                                   |
/// | 12 |    4 | bytes       | of the records                                                           |
/// | 16 |   16 | file_id     | as in the superblock                                                     |
/// | 32 |    8 | epoch       | never falls along the log; grows with every checkpoint and recovery      |
/// | 40 |    8 | previous    | checksum of the group before, or what the superblock says                |
/// | 48 |    8 | first       | seq of the first record                                                  |
/// | 56 |    8 | last        | seq of the last record: the records between have the seqs between        |
/// | 64 |    8 | durable     | every commit up to here was on stable storage when this was written      |
/// | 72 |    4 | records     | how many                                                                 |
/// | 76 |    4 | reserved    | zero when written, checked when the group counts                         |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    pub(crate) file_id: LogId,
    pub(crate) epoch: u64,
    pub(crate) previous: u64,
    pub(crate) first: Seq,
    pub(crate) last: Seq,
    pub(crate) durable: Seq,
    pub(crate) records: u32,
}

impl GroupHeader {
    /// Fills the first 80 bytes of `group`, whose records (from byte 80 to `end`) are in place, and returns the checksum.
    pub(crate) fn seal(&self, group: &mut [u8], end: usize) -> u64 {
        put_u32(group, 8, MAGIC);
        put_u32(group, 12, u32::try_from(end - GROUP_HEADER_BYTES).expect("a group is far below 4 GiB"));
        group[16..32].copy_from_slice(&self.file_id);
        put_u64(group, 32, self.epoch);
        put_u64(group, 40, self.previous);
        put_u64(group, 48, self.first.0);
        put_u64(group, 56, self.last.0);
        put_u64(group, 64, self.durable.0);
        put_u32(group, 72, self.records);
        put_u32(group, 76, 0);
        let sum = checksum(&group[8..end]);
        put_u64(group, 0, sum);
        sum
    }

    /// How many blocks the group that begins with `block` says it has; `None` when no group begins here.
    pub(crate) fn blocks(block: &[u8], file_id: &LogId) -> Option<u64> {
        if block.len() < GROUP_HEADER_BYTES || get_u32(block, 8) != MAGIC || block[16..32] != *file_id {
            return None;
        }
        Some((GROUP_HEADER_BYTES as u64 + u64::from(get_u32(block, 12))).div_ceil(BLOCK_BYTES))
    }

    /// Whether the reserved bytes of a group are as they are written. Others with a valid checksum are damage, and no end of the log.
    pub(crate) fn is_reserved_zero(group: &[u8]) -> bool {
        get_u32(group, 76) == 0
    }

    /// Header, checksum and records of a whole group, when it is valid by itself.
    pub(crate) fn open<'a>(group: &'a [u8], file_id: &LogId) -> Option<(Self, u64, &'a [u8])> {
        Self::parse(group, file_id).filter(|(_, sum, records)| {
            let end = GROUP_HEADER_BYTES + records.len();
            checksum(&group[8..end]) == *sum
        })
    }

    /// The same, with the checksum still to be compared.
    pub(crate) fn parse<'a>(group: &'a [u8], file_id: &LogId) -> Option<(Self, u64, &'a [u8])> {
        Self::blocks(group, file_id)?;
        let end = GROUP_HEADER_BYTES + get_u32(group, 12) as usize;
        let sum = get_u64(group, 0);
        if end > group.len() {
            return None;
        }
        let header = Self {
            file_id: *file_id,
            epoch: get_u64(group, 32),
            previous: get_u64(group, 40),
            first: Seq(get_u64(group, 48)),
            last: Seq(get_u64(group, 56)),
            durable: Seq(get_u64(group, 64)),
            records: get_u32(group, 72),
        };
        let span = header.last.0.checked_sub(header.first.0)?.checked_add(1)?;
        (span == u64::from(header.records)).then_some((header, sum, &group[GROUP_HEADER_BYTES..end]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_proves_every_byte() {
        let header = GroupHeader {
            file_id: [3; 16],
            epoch: 2,
            previous: 77,
            first: Seq(5),
            last: Seq(6),
            durable: Seq(4),
            records: 2,
        };
        let mut group = vec![0; 4096];
        group[GROUP_HEADER_BYTES..GROUP_HEADER_BYTES + 5].copy_from_slice(b"hello");
        let end = GROUP_HEADER_BYTES + 5;
        let sum = header.seal(&mut group, end);
        assert_eq!(GroupHeader::open(&group, &[3; 16]), Some((header, sum, &b"hello"[..])));
        assert_eq!(GroupHeader::open(&group, &[4; 16]), None, "another file's log");
        for at in 0..end {
            let mut bad = group.clone();
            bad[at] ^= 0x10;
            assert_eq!(GroupHeader::open(&bad, &[3; 16]), None, "byte {at}");
        }
    }
}
