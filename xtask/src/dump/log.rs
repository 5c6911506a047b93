//! The log from the newest superblock on; byte tables are in `spinney-file/src/log/group.rs` and `record.rs`.

use crate::dump::{bytes::Bytes, image::Image, superblock::Superblock};
use crc_fast::{CrcAlgorithm::Crc64Nvme, checksum};
use std::fmt::Write;

/// The unit of the log, in bytes.
const BLOCK_BYTES: usize = 4096;
/// Before the first record of a group.
const GROUP_HEADER_BYTES: usize = 80;
const MAGIC: &[u8] = b"SPNL";
/// No log is longer: one that says so is damaged.
const BLOCKS_MAX: u64 = 1 << 19;

/// A ring of blocks in extents of pages.
struct Ring {
    /// First page and pages of each.
    extents: Vec<(u64, u64)>,
    blocks_per_page: u64,
    blocks: u64,
}

impl Ring {
    fn new(extents: Vec<(u64, u64)>, page_bytes: usize) -> Option<Self> {
        let blocks_per_page = (page_bytes / BLOCK_BYTES) as u64;
        let sum = |sum: u64, pages: u64| sum.checked_add(pages.checked_mul(blocks_per_page)?);
        let blocks = extents.iter().try_fold(0, |blocks, &(_, pages)| sum(blocks, pages))?;
        (0 < blocks && blocks <= BLOCKS_MAX).then_some(Self { extents, blocks_per_page, blocks })
    }

    /// Where a block lies, in bytes.
    fn offset(&self, block: u64) -> Option<u64> {
        let mut left = block % self.blocks;
        for &(start, pages) in &self.extents {
            let here = pages * self.blocks_per_page;
            if left < here {
                return start.checked_mul(self.blocks_per_page)?.checked_add(left)?.checked_mul(BLOCK_BYTES as u64);
            }
            left -= here;
        }
        None
    }

    fn read(&self, image: &mut Image, block: u64, blocks: u64) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        for block in block..block.checked_add(blocks)? {
            bytes.extend(image.read(self.offset(block)?, BLOCK_BYTES)?);
        }
        Some(bytes)
    }

    /// The block after a group: a ring that grew goes on in its new blocks instead of wrapping.
    fn after(&self, grown: &Self, block: u64, blocks: u64) -> u64 {
        let next = block + blocks;
        (if next > self.blocks { next - self.blocks } else { next }) % grown.blocks
    }
}

/// A group that is valid by itself.
struct Group {
    blocks: u64,
    checksum: u64,
    epoch: u64,
    previous: u64,
    first: u64,
    last: u64,
    durable: u64,
    record_count: u32,
    records: Vec<u8>,
}

fn group_at(image: &mut Image, ring: &Ring, block: u64) -> Option<Group> {
    let first = ring.read(image, block, 1)?;
    let record_bytes = group_bytes(&first)?;
    let blocks = (GROUP_HEADER_BYTES + record_bytes).div_ceil(BLOCK_BYTES) as u64;
    if blocks > ring.blocks {
        return None;
    }
    let whole = ring.read(image, block, blocks)?;
    open_group(&whole, blocks)
}

/// Bytes of the records of a group that begins here.
fn group_bytes(block: &[u8]) -> Option<usize> {
    let bytes = Bytes(block);
    if bytes.slice(8, 4)? == MAGIC { bytes.len32(12) } else { None }
}

fn open_group(whole: &[u8], blocks: u64) -> Option<Group> {
    let bytes = Bytes(whole);
    let end = GROUP_HEADER_BYTES.checked_add(bytes.len32(12)?)?;
    let sum = bytes.u64(0)?;
    if checksum(Crc64Nvme, whole.get(8..end)?) != sum {
        return None;
    }
    Some(Group {
        blocks,
        checksum: sum,
        epoch: bytes.u64(32)?,
        previous: bytes.u64(40)?,
        first: bytes.u64(48)?,
        last: bytes.u64(56)?,
        durable: bytes.u64(64)?,
        record_count: bytes.u32(72)?,
        records: whole.get(GROUP_HEADER_BYTES..end)?.to_vec(),
    })
}

/// Follows the chain from the superblock for as long as it holds. Whether each commit counts is for recovery to decide.
pub(super) fn show(image: &mut Image, superblock: &Superblock, out: &mut String) {
    let _ = writeln!(out, "\nlog");
    let Some(mut ring) = Ring::new(superblock.log.clone(), image.page_bytes) else {
        let _ = writeln!(out, "  damaged: its extents are impossible");
        return;
    };
    let (mut block, mut chain, mut blocks_seen) = (superblock.log_start, superblock.log_chain, 0);
    while blocks_seen < ring.blocks {
        let Some(group) = group_at(image, &ring, block).filter(|group| group.previous == chain) else { break };
        let _ = write!(out, "  block {block}: {} blocks, epoch {}", group.blocks, group.epoch);
        let _ = writeln!(out, ", {} records, durable up to {}", group.record_count, group.durable);
        let mut grown = Ring { extents: ring.extents.clone(), ..ring };
        show_records(&group, image.page_bytes, &mut grown, out);
        block = ring.after(&grown, block, group.blocks);
        chain = group.checksum;
        blocks_seen += group.blocks;
        ring = grown;
    }
    let _ = writeln!(out, "  ends before block {block} of {}", ring.blocks);
}

/// How many commits the log has that no checkpoint covers, as far as its chain holds.
pub(crate) fn commits_since_checkpoint(image: &mut Image, superblock: &Superblock) -> u64 {
    const COMMIT: u8 = 1;
    let Some(ring) = Ring::new(superblock.log.clone(), image.page_bytes) else { return 0 };
    let (mut block, mut chain, mut commits, mut blocks_seen) = (superblock.log_start, superblock.log_chain, 0, 0);
    while blocks_seen < ring.blocks {
        let Some(group) = group_at(image, &ring, block).filter(|group| group.previous == chain) else { break };
        let mut records = group.records.as_slice();
        while let Some(length) = Bytes(records).len32(0).filter(|len| (8..=records.len()).contains(len)) {
            commits += u64::from(records[4] == COMMIT);
            records = &records[length..];
        }
        block = ring.after(&ring, block, group.blocks);
        chain = group.checksum;
        blocks_seen += group.blocks;
    }
    commits
}

fn show_records(group: &Group, page_bytes: usize, ring: &mut Ring, out: &mut String) {
    let mut records = group.records.as_slice();
    let mut seq = group.first;
    while !records.is_empty() {
        let length = Bytes(records).len32(0).filter(|len| (8..=records.len()).contains(len));
        let Some((record, rest)) = length.map(|length| records.split_at(length)) else {
            let _ = writeln!(out, "    damaged: a record of impossible length");
            return;
        };
        let _ = write!(out, "    seq {seq}: ");
        if show_record(record, page_bytes, ring, out).is_none() {
            let _ = writeln!(out, "damaged: a record that ends too early");
        }
        records = rest;
        seq = seq.wrapping_add(1);
    }
    if seq != group.last.wrapping_add(1) {
        let _ = writeln!(out, "    damaged: the last record should be seq {}", group.last);
    }
}

fn show_record(record: &[u8], page_bytes: usize, ring: &mut Ring, out: &mut String) -> Option<()> {
    let bytes = Bytes(record);
    let (kind, flags, count) = (bytes.u8(4)?, bytes.u8(5)?, bytes.u16(6)?);
    match kind {
        1 => {
            let _ = writeln!(
                out,
                "commit of {count} owners{}",
                if flags & 1 == 0 { "" } else { ", its pages synced before" }
            );
            let mut at = 8;
            for _ in 0..count {
                at = show_part(bytes, at, out)?;
            }
        }
        2 => {
            let log = bytes.pairs(8, count)?;
            let _ = writeln!(out, "checkpoint; the log is {} extents long from here", log.len());
            *ring = Ring::new(log, page_bytes).unwrap_or_else(|| Ring { extents: ring.extents.clone(), ..*ring });
        }
        3 => {
            let (up_to, seqs, stamps) = (bytes.u64(8)?, bytes.u64(16)?, bytes.u64(24)?);
            let _ = writeln!(out, "recovered up to seq {up_to}; numbers below seq {seqs} and stamp {stamps}");
        }
        4 => drop(writeln!(out, "anchor")),
        _ => drop(writeln!(out, "damaged: no kind of record is {kind}")),
    }
    Some(())
}

/// One owner's share of a commit; returns where it ends.
fn show_part(bytes: Bytes<'_>, at: usize, out: &mut String) -> Option<usize> {
    match bytes.u8(at + 4)? {
        1 => show_image(bytes, at, out),
        2 => {
            let (owner, len) = (bytes.u32(at)?, bytes.len32(at + 8)?);
            let _ = writeln!(out, "      owner {owner}: ops, {len} bytes of effects");
            super::effects::show(bytes.slice(at + 12, len)?, out)?;
            (at + 12).checked_add(len)
        }
        kind => {
            let _ = writeln!(out, "      damaged: no kind of part is {kind}");
            None
        }
    }
}

/// A share whose pages are in their place; returns where it ends.
fn show_image(bytes: Bytes<'_>, at: usize, out: &mut String) -> Option<usize> {
    let (claims, releases) = (bytes.len32(at + 80)?, bytes.len32(at + 84)?);
    let claims_at = at + 88;
    let releases_at = claims_at.checked_add(claims.checked_mul(20)?)?;
    let end = releases_at.checked_add(releases.checked_mul(12)?)?;
    let extents = |table: &[u8], each: usize| -> Option<String> {
        let mut pages = 0_u64;
        let mut words = Vec::new();
        for entry in table.chunks_exact(each) {
            let (start, len) = (Bytes(entry).u64(0)?, Bytes(entry).u32(8)?);
            pages += u64::from(len);
            if words.len() < 4 {
                words.push(format!("{start}+{len}"));
            }
        }
        let more = if table.len() / each > words.len() { " ..." } else { "" };
        Some(format!("{pages} pages in {} runs: {}{more}", table.len() / each, words.join(" ")))
    };
    let (owner, stamp) = (bytes.u32(at)?, bytes.u64(at + 8)?);
    let _ = writeln!(out, "      owner {owner}: image, stamp {stamp}");
    let _ = writeln!(out, "        root: {}", super::owners::describe(bytes.slice(at + 16, 64)?));
    let _ = writeln!(out, "        takes {}", extents(bytes.slice(claims_at, claims * 20)?, 20)?);
    let _ = writeln!(out, "        gives back {}", extents(bytes.slice(releases_at, releases * 12)?, 12)?);
    Some(end)
}

/// A page that belongs to the log, by the blocks in it.
pub(super) fn show_page(page: &[u8], out: &mut String) {
    for block in page.chunks_exact(BLOCK_BYTES) {
        let _ = match group_bytes(block) {
            Some(records) => writeln!(out, "block of the log: a group begins, with {records} bytes of records"),
            None if block.iter().all(|&byte| byte == 0) => writeln!(out, "block of the log: never written"),
            None => writeln!(out, "block of the log: inside a group"),
        };
        if let Some(group) = open_group(block, 1) {
            let _ = writeln!(
                out,
                "  epoch {}, seqs {} to {}, durable up to {}",
                group.epoch, group.first, group.last, group.durable
            );
            let mut ring = Ring { extents: Vec::new(), blocks_per_page: 1, blocks: 1 };
            show_records(&group, page.len(), &mut ring, out);
        }
    }
}
