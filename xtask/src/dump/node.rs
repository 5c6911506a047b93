//! Leaves, branches and large values; byte tables are in `spinney-btree/src/node.rs` and `large.rs`.

use crate::dump::bytes::Bytes;
use std::fmt::Write;

/// Where a leaf's prefix begins; a branch has its first child there.
const LEAF_START: usize = 56;
const CHILD_BYTES: usize = 20;
/// Of each key after the prefix, kept apart from the rest as a number.
const HEAD_BYTES: usize = 4;
const IS_EXTENT: usize = 1 << 15;
const CHILD_EXTENTS: u64 = 1 << 47;
const BEGINS_EXTENT: u64 = 1 << 63;
/// Of a value, so much is shown.
const SHOWN_BYTES: usize = 32;

/// A page of kind 16 or 17; `None` when something in it points outside of it.
pub(super) fn show(page: &[u8], is_leaf: bool, out: &mut String) -> Option<()> {
    let bytes = Bytes(page);
    let (table, count, prefix_len) = (bytes.u32(32)?, bytes.u16(36)?, bytes.u16(38)?);
    let (heap, holes, with_extents) = (bytes.len32(40)?, bytes.u32(44)?, bytes.u16(48)?);
    let prefix_at = if is_leaf { LEAF_START } else { LEAF_START + CHILD_BYTES };
    let heads_at = prefix_at + prefix_len;
    let offsets_at = heads_at + HEAD_BYTES * count;
    let prefix = bytes.slice(prefix_at, prefix_len)?;
    let kind = if is_leaf { "leaf" } else { "branch" };
    let _ = writeln!(out, "{kind}, table {table}: {count} slots, prefix \"{}\"", prefix.escape_ascii());
    let _ = writeln!(out, "  cells from {heap}, {holes} bytes of holes, {with_extents} with extents");
    if !is_leaf {
        let _ = writeln!(out, "  first -> {}", child(bytes, LEAF_START)?);
    }
    for slot in 0..count {
        let head = bytes.u32(heads_at + HEAD_BYTES * slot)?.to_be_bytes();
        let cell = bytes.u16(offsets_at + 2 * slot)?;
        let suffix_len = bytes.u16(cell)?;
        let tail_len = suffix_len.saturating_sub(HEAD_BYTES);
        let tail_at = cell + if is_leaf { 4 } else { 2 + CHILD_BYTES };
        let key = [prefix, &head[..suffix_len.min(HEAD_BYTES)], bytes.slice(tail_at, tail_len)?].concat();
        let _ = write!(out, "  \"{}\" ", key.escape_ascii());
        if !is_leaf {
            let _ = writeln!(out, "-> {}", child(bytes, cell + 2)?);
            continue;
        }
        let (field, value_at) = (bytes.u16(cell + 2)?, tail_at + tail_len);
        let _ = if field & IS_EXTENT == 0 {
            writeln!(out, "= {}", shown(bytes.slice(value_at, field)?))
        } else {
            let (page, stamp, len) = (bytes.u64(value_at)?, bytes.u64(value_at + 8)?, bytes.u64(value_at + 16)?);
            writeln!(out, "= {len} bytes, head at page {page} stamp {stamp}")
        };
    }
    Some(())
}

fn child(bytes: Bytes<'_>, at: usize) -> Option<String> {
    let (page, stamp, entries) = (bytes.u48(at)?, bytes.u64(at + 6)?, bytes.u48(at + 14)?);
    let extents = if page & CHILD_EXTENTS == 0 { "" } else { ", extents below" };
    Some(format!("page {} stamp {stamp}, {entries} entries{extents}", page & !CHILD_EXTENTS))
}

fn shown(value: &[u8]) -> String {
    match value.get(..SHOWN_BYTES) {
        None => format!("\"{}\"", value.escape_ascii()),
        Some(start) => format!("\"{}\"... {} bytes", start.escape_ascii(), value.len()),
    }
}

/// A page of kind 18 or 19.
pub(super) fn show_large(page: &[u8], is_head: bool, level: u8, out: &mut String) -> Option<()> {
    let bytes = Bytes(page);
    let (table, key_len, value_bytes) = (bytes.u32(32)?, bytes.u16(36)?, bytes.u64(40)?);
    let (rest, count) = (bytes.u32(48)?, bytes.len32(52)?);
    let kind = if is_head { "head of a large value" } else { "list of a large value" };
    let _ = writeln!(out, "{kind}, table {table}: {value_bytes} bytes, {rest} of them here, {count} records");
    let each = if level == 1 { 16 } else { 24 };
    let records = bytes.slice(LEAF_START, count.checked_mul(each)?)?;
    if is_head {
        let key = bytes.slice(LEAF_START + records.len(), key_len)?;
        let _ = writeln!(out, "  of \"{}\"", key.escape_ascii());
    }
    for record in records.chunks_exact(each) {
        let record = Bytes(record);
        let (page, stamp) = (record.u64(0)?, record.u64(8)?);
        let _ = if level == 1 {
            writeln!(out, "  list at page {page} stamp {stamp}")
        } else {
            let begins = if page & BEGINS_EXTENT == 0 { "" } else { ", an extent begins" };
            writeln!(
                out,
                "  chunk at page {} stamp {stamp}, crc {:016x}{begins}",
                page & !BEGINS_EXTENT,
                record.u64(16)?
            )
        };
    }
    Some(())
}
