//! The file as `docs/format.md` describes it, as far as checksums go: whoever changes a file can have them made to fit again, so
//! that what is tested is what stands behind them. Written apart from the engine's own code.

use crc_fast::{CrcAlgorithm::Crc64Nvme, checksum};
use std::collections::BTreeMap;

const SLOTS: [usize; 2] = [0, 4096];
const SLOT_BYTES: usize = 4096;
const BLOCK_BYTES: usize = 4096;
const CHUNK_BYTES: u64 = 64 << 10;
pub(crate) const GROUP_HEADER_BYTES: usize = 80;
const GROUP_MAGIC: u32 = 0x4c4e_5053;
/// Where the claims of an image begin, and how long each is.
const IMAGE_HEADER_BYTES: usize = 88;
const CLAIM_BYTES: usize = 20;

pub(crate) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

pub(crate) fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

pub(crate) fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Where things are in a sound file.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) page_bytes: usize,
    /// The slots that hold a superblock, the newest first.
    pub(crate) slots: Vec<usize>,
    /// Numbers of the pages that bear a checksum.
    pub(crate) pages: Vec<usize>,
    /// Where each block of the log begins in the file.
    pub(crate) blocks: Vec<usize>,
    /// The blocks at which groups begin that are whole, in the order of their commits.
    pub(crate) groups: Vec<usize>,
}

impl Layout {
    /// `None` when the file has no superblock.
    pub(crate) fn of(file: &[u8]) -> Option<Self> {
        let is_slot = |&at: &usize| {
            let slot = file.get(at..at + SLOT_BYTES)?;
            (slot[8..16] == *b"SPINNEY\n" && sum(&slot[8..]) == get_u64(slot, 0)).then_some(())
        };
        let mut slots: Vec<usize> = SLOTS.into_iter().filter(|at| is_slot(at).is_some()).collect();
        slots.sort_by_key(|&at| std::cmp::Reverse(get_u64(file, at + 56)));
        let newest = *slots.first()?;
        let page_bytes = get_u32(file, newest + 20) as usize;
        let header_pages = (2 * SLOT_BYTES / page_bytes).max(1);
        let pages = header_pages..file.len() / page_bytes;
        let pages = pages.filter(|&number| {
            let page = &file[number * page_bytes..][..page_bytes];
            get_u64(page, 8) == number as u64 && sum(&page[8..]) == get_u64(page, 0)
        });
        let extents = (0..get_u32(file, newest + 120) as usize).map(|i| newest + 256 + 16 * i);
        let blocks = extents.flat_map(|at| {
            let (start, pages) = (get_u64(file, at) as usize, get_u64(file, at + 8) as usize);
            (start * page_bytes..(start + pages) * page_bytes).step_by(BLOCK_BYTES)
        });
        let mut layout = Self {
            page_bytes,
            pages: pages.collect(),
            blocks: blocks.filter(|at| at + BLOCK_BYTES <= file.len()).collect(),
            slots,
            groups: Vec::new(),
        };
        let is_group =
            |&block: &usize| layout.group(file, block).is_some_and(|group| sum(&group[8..]) == get_u64(&group, 0));
        let mut groups: Vec<usize> = (0..layout.blocks.len()).filter(is_group).collect();
        // By first seq, then by epoch: records of recoveries have the same predecessor.
        groups
            .sort_by_key(|&block| (get_u64(file, layout.blocks[block] + 48), get_u64(file, layout.blocks[block] + 32)));
        layout.groups = groups;
        Some(layout)
    }

    /// The group that begins at `block`, header and records.
    pub(crate) fn group(&self, file: &[u8], block: usize) -> Option<Vec<u8>> {
        let header = file.get(self.blocks[block]..)?.get(..GROUP_HEADER_BYTES)?;
        let bytes = GROUP_HEADER_BYTES + get_u32(header, 12) as usize;
        if get_u32(header, 8) != GROUP_MAGIC || bytes > self.blocks.len() * BLOCK_BYTES {
            return None;
        }
        let mut group = Vec::with_capacity(bytes + BLOCK_BYTES);
        let mut block = block;
        while group.len() < bytes {
            group.extend_from_slice(file.get(self.blocks[block]..)?.get(..BLOCK_BYTES)?);
            block = (block + 1) % self.blocks.len();
        }
        group.truncate(bytes);
        Some(group)
    }

    /// Puts a group into the log, padded with zeros, and returns the block after it.
    pub(crate) fn put_group(&self, file: &mut [u8], block: usize, group: &[u8]) -> usize {
        let mut block = block;
        for bytes in group.chunks(BLOCK_BYTES) {
            let at = self.blocks[block];
            if let Some(place) = file.get_mut(at..at + BLOCK_BYTES) {
                place.fill(0);
                place[..bytes.len()].copy_from_slice(bytes);
            }
            block = (block + 1) % self.blocks.len();
        }
        block
    }
}

/// Where the log of a sound file ends, and what its next group says.
pub(crate) struct LogEnd {
    /// The block, and the checksum of the group before it.
    pub(crate) place: usize,
    pub(crate) chain: u64,
    pub(crate) epoch: u64,
    /// The last one so far.
    pub(crate) seq: u64,
}

impl LogEnd {
    /// Where the newest superblock says that the log begins.
    pub(crate) fn start(layout: &Layout, file: &[u8]) -> Self {
        let slot = layout.slots[0];
        let place = get_u64(file, slot + 88) as usize;
        Self { place, chain: get_u64(file, slot + 96), epoch: get_u64(file, slot + 32), seq: get_u64(file, slot + 64) }
    }

    /// Behind the last group, if there is one.
    pub(crate) fn of(layout: &Layout, file: &[u8]) -> Self {
        let Some((last, group)) = layout.groups.last().and_then(|&last| Some((last, layout.group(file, last)?))) else {
            return Self::start(layout, file);
        };
        let place = (last + group.len().div_ceil(BLOCK_BYTES)) % layout.blocks.len();
        Self { place, chain: get_u64(&group, 0), epoch: get_u64(&group, 32), seq: get_u64(&group, 56) }
    }

    /// Adds a group that is as it should be; `false` when it does not fit.
    pub(crate) fn append(&mut self, layout: &Layout, file: &mut [u8], records: &[Vec<u8>]) -> bool {
        let mut group = vec![0; GROUP_HEADER_BYTES];
        records.iter().for_each(|record| group.extend_from_slice(record));
        let blocks = group.len().div_ceil(BLOCK_BYTES);
        let used = (self.place + layout.blocks.len() - Self::start(layout, file).place) % layout.blocks.len();
        if used + blocks + 4 >= layout.blocks.len() {
            return false;
        }
        let identity = layout.slots[0] + 40;
        group[8..12].copy_from_slice(&GROUP_MAGIC.to_le_bytes());
        let bytes = (group.len() - GROUP_HEADER_BYTES) as u32;
        group[12..16].copy_from_slice(&bytes.to_le_bytes());
        group[16..32].copy_from_slice(&file[identity..identity + 16]);
        let count = records.len() as u64;
        let fields = [self.epoch, self.chain, self.seq + 1, self.seq + count, self.seq, count];
        fields.into_iter().enumerate().for_each(|(i, value)| put_u64(&mut group, 32 + 8 * i, value));
        seal_group(layout.page_bytes, file, &mut group);
        (self.chain, self.seq) = (get_u64(&group, 0), self.seq + count);
        self.place = layout.put_group(file, self.place, &group);
        true
    }
}

fn sum(bytes: &[u8]) -> u64 {
    checksum(Crc64Nvme, bytes)
}

/// Makes every checksum fit that fitted in `before`, the same file before it was changed.
pub fn reseal(before: &[u8], file: &mut [u8]) {
    if let Some(layout) = Layout::of(before) {
        reseal_as(&layout, file);
    }
}

/// Gives a file that was made just now the identity that all bases have, so that it is the same whenever it is made.
pub fn anonymise(file: &mut [u8]) {
    const IDENTITY: [u8; 16] = *b"a base of a fuzz";
    let Some(layout) = Layout::of(file) else { return };
    let chain = u64::from_le_bytes(std::array::from_fn(|i| file[layout.slots[0] + 40 + i]));
    for at in
        layout.slots.iter().map(|slot| slot + 40).chain(layout.groups.iter().map(|&block| layout.blocks[block] + 16))
    {
        file[at..at + 16].copy_from_slice(&IDENTITY);
    }
    // The first group of all chains from the identity.
    for at in
        layout.slots.iter().map(|slot| slot + 96).chain(layout.groups.iter().map(|&block| layout.blocks[block] + 40))
    {
        if get_u64(file, at) == chain {
            file[at..at + 8].copy_from_slice(&IDENTITY[..8]);
        }
    }
    reseal_as(&layout, file);
}

/// The same, where it is known already what had a checksum.
pub(crate) fn reseal_as(layout: &Layout, file: &mut [u8]) {
    for &number in &layout.pages {
        reseal_chunks(layout, number, file);
    }
    for &number in &layout.pages {
        if let Some(page) = file.get_mut(number * layout.page_bytes..(number + 1) * layout.page_bytes) {
            let sum = sum(&page[8..]);
            put_u64(page, 0, sum);
        }
    }
    // What a group was and is called by those that follow it.
    let mut renamed = BTreeMap::new();
    for &block in &layout.groups {
        let Some(mut group) = layout.group(file, block) else { continue };
        let was = get_u64(&group, 0);
        if let Some(&previous) = renamed.get(&get_u64(&group, 40)) {
            put_u64(&mut group, 40, previous);
        }
        seal_group(layout.page_bytes, file, &mut group);
        renamed.insert(was, get_u64(&group, 0));
        layout.put_group(file, block, &group);
    }
    for &at in &layout.slots {
        let Some(slot) = file.get_mut(at..at + SLOT_BYTES) else { continue };
        if let Some(&chain) = renamed.get(&get_u64(slot, 96)) {
            put_u64(slot, 96, chain);
        }
        let sum = sum(&slot[8..]);
        put_u64(slot, 0, sum);
    }
}

/// Makes the digests of claims, and the checksum, of a group fit.
pub(crate) fn seal_group(page_bytes: usize, file: &[u8], group: &mut [u8]) {
    let _ = redigest(page_bytes, file, &mut group[GROUP_HEADER_BYTES..]);
    let sum = sum(&group[8..]);
    put_u64(group, 0, sum);
}

/// The checksums of a large value's chunks, as its head says where they are.
fn reseal_chunks(layout: &Layout, number: usize, file: &mut [u8]) {
    const KIND_HEAD: u8 = 18;
    let page_bytes = layout.page_bytes;
    let at = number * page_bytes;
    let Some(page) = file.get(at..at + page_bytes) else { return };
    if page[28] != KIND_HEAD || page[29] != 0 {
        return;
    }
    let body_bytes = get_u64(page, 40).saturating_sub(u64::from(get_u32(page, 48)));
    for i in 0..(get_u32(page, 52) as usize).min((page_bytes - 56) / 24) {
        let record = at + 56 + 24 * i;
        let start = (get_u64(file, record) & !(1 << 63)).saturating_mul(page_bytes as u64);
        let bytes = body_bytes.saturating_sub(i as u64 * CHUNK_BYTES).min(CHUNK_BYTES);
        let (Ok(start), Ok(bytes)) = (usize::try_from(start), usize::try_from(bytes)) else { continue };
        if let Some(chunk) = start.checked_add(bytes).and_then(|end| file.get(start..end)) {
            let sum = sum(chunk);
            put_u64(file, record + 16, sum);
        }
    }
}

/// The digests of all claims in the records of a group, as far as the records read.
fn redigest(page_bytes: usize, file: &[u8], records: &mut [u8]) -> Option<()> {
    const COMMIT: u8 = 1;
    const IMAGE: u8 = 1;
    const OPS: u8 = 2;
    let mut at = 0;
    while at < records.len() {
        let end = at.checked_add(get_u32(records.get(at..at + 4)?, 0) as usize)?;
        let record = records.get_mut(at..end).filter(|record| record.len() >= 8)?;
        let mut part = 8;
        while record[4] == COMMIT && part < record.len() {
            match *record.get(part + 4)? {
                IMAGE => {
                    let header = record.get(part..part + IMAGE_HEADER_BYTES)?;
                    let (claims, releases) = (get_u32(header, 80) as usize, get_u32(header, 84) as usize);
                    let first = part + IMAGE_HEADER_BYTES;
                    for claim in (first..).step_by(CLAIM_BYTES).take(claims) {
                        let claim = record.get_mut(claim..claim + CLAIM_BYTES)?;
                        if let Some(digest) = digest(page_bytes, file, get_u64(claim, 0), get_u32(claim, 8)) {
                            put_u64(claim, 12, digest);
                        }
                    }
                    part =
                        first.checked_add(claims.checked_mul(CLAIM_BYTES)?)?.checked_add(releases.checked_mul(12)?)?;
                }
                OPS => part = (part + 12).checked_add(get_u32(record.get(part..part + 12)?, 8) as usize)?,
                _ => return None,
            }
        }
        at = end;
    }
    Some(())
}

/// The digest of a run of pages: a checksum over the first eight bytes of each and the checksum of the others.
fn digest(page_bytes: usize, file: &[u8], start: u64, pages: u32) -> Option<u64> {
    let from = usize::try_from(start).ok()?.checked_mul(page_bytes)?;
    let run = file.get(from..from.checked_add((pages as usize).checked_mul(page_bytes)?)?)?;
    let entries: Vec<u8> = run
        .chunks_exact(page_bytes)
        .flat_map(|page| {
            let mut entry = [0; 16];
            entry[..8].copy_from_slice(&page[..8]);
            put_u64(&mut entry, 8, sum(&page[8..]));
            entry
        })
        .collect();
    Some(sum(&entries))
}
