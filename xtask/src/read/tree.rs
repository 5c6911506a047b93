//! Trees: leaves, branches and large values. Tables of bytes: `spinney-btree/src/node.rs` and `large.rs`.

use crate::{
    dump::{
        bytes::Bytes,
        image::{Header, Image},
    },
    read::families::Root,
};
use anyhow::{Context, anyhow, ensure};
use crc_fast::{CrcAlgorithm::Crc64Nvme, checksum};

const LEAF: u8 = 16;
const BRANCH: u8 = 17;
const HEAD: u8 = 18;
const LIST: u8 = 19;

/// Where the prefix of a leaf begins, and the first child of a branch.
const NODE_HEADER_BYTES: usize = 56;
const CHILD_BYTES: usize = 20;
/// Bit 15 of a leaf's value field.
const IS_EXTENT: usize = 1 << 15;
/// Bit 47 of a child's page.
const CHILD_EXTENTS: u64 = 1 << 47;
/// Bit 63 of a chunk's page.
const BEGINS_EXTENT: u64 = 1 << 63;
const CHUNK_BYTES: u64 = 64 << 10;
/// Where the records of a head or list begin.
const RECORDS: usize = 56;

/// Who is told of each entry, in order.
type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> anyhow::Result<()> + 'a;

/// A pointer to a page: its number and its stamp.
type Ptr = (u64, u64);

struct Walk<'a> {
    image: &'a mut Image,
    owner: u32,
    table: u32,
    visit: &'a mut Visit<'a>,
    last: Option<Vec<u8>>,
}

/// Tells of every entry of a tree.
pub(super) fn walk<'a>(
    image: &'a mut Image,
    owner: u32,
    table: u32,
    root: Option<Root>,
    visit: &'a mut Visit<'a>,
) -> anyhow::Result<()> {
    let Some(root) = root else { return Ok(()) };
    ensure!(root.height > 0, "a tree with pages and without levels");
    let mut walk = Walk { image, owner, table, visit, last: None };
    let entries = walk.node((root.page, root.stamp), root.height - 1)?;
    ensure!(entries == root.entries, "the root counts {} entries, and there are {entries}", root.entries);
    Ok(())
}

impl Walk<'_> {
    /// A page that is this family's, of a kind and level.
    fn page(&mut self, (number, stamp): Ptr, kind: u8, level: u8) -> anyhow::Result<Vec<u8>> {
        let page = self.image.page_of_stamp(number, stamp).map_err(|why| anyhow!(why))?;
        let header = Header::of(&page).context("a page without a header")?;
        ensure!(header.owner == self.owner, "page {number} belongs to owner {}, not {}", header.owner, self.owner);
        ensure!(header.kind == kind, "page {number} is of kind {}, not {kind}", header.kind);
        ensure!(kind == HEAD || header.level == level, "page {number} is of level {}, not {level}", header.level);
        ensure!(Bytes(&page).u32(32) == Some(self.table), "page {number} belongs to another table");
        Ok(page)
    }

    /// Everything below a node; returns how many entries that is.
    fn node(&mut self, ptr: Ptr, level: u8) -> anyhow::Result<u64> {
        let page = self.page(ptr, if level == 0 { LEAF } else { BRANCH }, level)?;
        self.slots(&page, level).with_context(|| format!("page {}", ptr.0))
    }

    fn slots(&mut self, page: &[u8], level: u8) -> anyhow::Result<u64> {
        let bytes = Bytes(page);
        let short = "something in a node points outside of it";
        let (count, prefix_len) = (bytes.u16(36).context(short)?, bytes.u16(38).context(short)?);
        let prefix_at = NODE_HEADER_BYTES + if level == 0 { 0 } else { CHILD_BYTES };
        let prefix = bytes.slice(prefix_at, prefix_len).context(short)?;
        let heads_at = prefix_at + prefix_len;
        let mut entries = 0;
        if level > 0 {
            entries += self.child(page, NODE_HEADER_BYTES, level)?;
        }
        for slot in 0..count {
            let head = bytes.u32(heads_at + 4 * slot).context(short)?.to_be_bytes();
            let cell = bytes.u16(heads_at + 4 * count + 2 * slot).context(short)?;
            let suffix_len = bytes.u16(cell).context(short)?;
            let (tail_at, tail_len) =
                (cell + if level == 0 { 4 } else { 2 + CHILD_BYTES }, suffix_len.saturating_sub(4));
            let tail = bytes.slice(tail_at, tail_len).context(short)?;
            let key = [prefix, &head[..suffix_len.min(4)], tail].concat();
            if level > 0 {
                ensure!(
                    self.last.as_ref().is_none_or(|last| *last < key),
                    "a separator is not above the keys before it"
                );
                entries += self.child(page, cell + 2, level)?;
                continue;
            }
            ensure!(self.last.as_ref().is_none_or(|last| *last < key), "keys are not in order");
            let field = bytes.u16(cell + 2).context(short)?;
            let stored = bytes.slice(tail_at + tail_len, field & !IS_EXTENT).context(short)?;
            if field & IS_EXTENT == 0 {
                (self.visit)(&key, stored)?;
            } else {
                let value = self.large(stored, &key).with_context(|| format!("key \"{}\"", key.escape_ascii()))?;
                (self.visit)(&key, &value)?;
            }
            self.last = Some(key);
            entries += 1;
        }
        Ok(entries)
    }

    /// What is below a child record.
    fn child(&mut self, page: &[u8], at: usize, level: u8) -> anyhow::Result<u64> {
        let bytes = Bytes(page);
        let short = "a child record reaches out of its node";
        let number = bytes.u48(at).context(short)? & !CHILD_EXTENTS;
        let (stamp, entries) = (bytes.u64(at + 6).context(short)?, bytes.u48(at + 14).context(short)?);
        let found = self.node((number, stamp), level - 1)?;
        ensure!(found == entries, "a node counts {entries} entries below page {number}, and there are {found}");
        Ok(found)
    }

    /// A value with pages of its own, by its extent record.
    fn large(&mut self, record: &[u8], key: &[u8]) -> anyhow::Result<Vec<u8>> {
        let record = Bytes(record).pairs(0, 1).zip(Bytes(record).u64(16)).context("an extent record of 24 bytes")?;
        let (ptr, bytes) = (record.0[0], record.1);
        let head = self.page(ptr, HEAD, 0)?;
        let table = Bytes(&head);
        let short = "a head that ends too early";
        ensure!(table.u64(40) == Some(bytes), "the head of a value of another length");
        let (key_len, rest_len) = (table.u16(36).context(short)?, table.len32(48).context(short)?);
        let (count, has_lists) = (table.len32(52).context(short)?, head[29] == 1);
        let key_at = RECORDS + count * if has_lists { 16 } else { 24 };
        ensure!(table.slice(key_at, key_len) == Some(key), "the head of another key's value");
        let mut chunks = Vec::new();
        if has_lists {
            for list in table.pairs(RECORDS, count).context(short)? {
                let page = self.page(list, LIST, 0)?;
                let count = Bytes(&page).len32(52).context(short)?;
                chunks.extend(chunks_of(&page, count)?);
            }
        } else {
            chunks = chunks_of(&head, count)?;
        }
        let mut value = Vec::new();
        let body = bytes.checked_sub(rest_len as u64).context("more bytes in the head than the value has")?;
        for (number, (page, crc)) in (0_u64..).zip(chunks) {
            let len = body.checked_sub(number * CHUNK_BYTES).context("too many chunks")?.min(CHUNK_BYTES);
            let at = page.checked_mul(self.image.page_bytes as u64).context("a chunk beyond any end")?;
            let chunk = self.image.read(at, usize::try_from(len)?).context("a chunk beyond the end of the file")?;
            ensure!(checksum(Crc64Nvme, &chunk) == crc, "chunk {number} does not match its checksum");
            value.extend(chunk);
        }
        value.extend(table.slice(key_at + key_len, rest_len).context(short)?);
        ensure!(value.len() as u64 == bytes, "a value of {bytes} bytes has {} bytes", value.len());
        Ok(value)
    }
}

/// First page and checksum of each chunk that a page lists.
fn chunks_of(page: &[u8], count: usize) -> anyhow::Result<Vec<(u64, u64)>> {
    let bytes = Bytes(page);
    let chunk = |i| Some((bytes.u64(RECORDS + 24 * i)? & !BEGINS_EXTENT, bytes.u64(RECORDS + 24 * i + 16)?));
    (0..count).map(|i| chunk(i).context("a list of chunks that ends too early")).collect()
}
