//! Writing and freeing values with pages of their own.

use crate::{
    error::TreeError,
    large::{CHUNK_BYTES, Chunk, LargeReader, Piece, Plan, at, list_capacity, small},
    node::{LargeRef, layout::*, put_u16, put_u32},
    root::TableId,
};
use bytes::BytesMut;
use crc_fast::{CrcAlgorithm::Crc64Nvme, checksum};
use spinney_file::{FileError, PageNo, PagePtr, Pages, Part};
use std::{io::Read, sync::Arc};

/// Writes a value of `bytes` bytes to pages of its own. The part may write private pages early meanwhile, so that a large value
/// is never in memory as a whole; the caller must not remember private pages.
pub(crate) fn write(
    part: &mut Part,
    table: TableId,
    key: &[u8],
    bytes: u64,
    value: &mut dyn Read,
) -> Result<LargeRef, TreeError> {
    let page_bytes = part.page_bytes();
    let plan = Plan::new(page_bytes, key.len(), bytes);
    let mut body_left = bytes - plan.rest as u64;
    let mut chunks = Vec::with_capacity(plan.chunks);
    let mut extent_want = part.max_extent_pages();
    while body_left > 0 {
        let pages_left = body_left.div_ceil(page_bytes as u64);
        let (extent, pages) = allocate(part, pages_left, &mut extent_want)?;
        let extent_bytes = (pages * page_bytes as u64).min(body_left);
        write_extent(part, extent, extent_bytes, value, &mut chunks)?;
        body_left -= extent_bytes;
    }
    assert_eq!(chunks.len(), plan.chunks, "extents are whole chunks but for the last");

    let records: Vec<u8> = if plan.lists == 0 {
        chunks.iter().flat_map(Chunk::encode).collect()
    } else {
        let mut pointers = Vec::with_capacity(plan.lists * at::LIST_LEN);
        for list in chunks.chunks(list_capacity(page_bytes)) {
            let ptr = part.allocate()?;
            let page = part.page_mut(ptr);
            page[KIND] = KIND_CHUNKS;
            put_u32(page, at::TABLE, table.0 as usize);
            page[at::BYTES..at::BYTES + 8].copy_from_slice(&bytes.to_le_bytes());
            put_u32(page, at::COUNT, list.len());
            for (record, chunk) in page[at::RECORDS..].chunks_exact_mut(at::CHUNK_LEN).zip(list) {
                record.copy_from_slice(&chunk.encode());
            }
            pointers.extend_from_slice(&ptr.page.get().to_le_bytes());
            pointers.extend_from_slice(&ptr.stamp.0.to_le_bytes());
        }
        pointers
    };
    let head = part.allocate()?;
    let page = part.page_mut(head);
    page[KIND] = KIND_HEAD;
    page[LEVEL] = u8::from(plan.lists > 0);
    put_u32(page, at::TABLE, table.0 as usize);
    put_u16(page, at::KEY, key.len());
    page[at::BYTES..at::BYTES + 8].copy_from_slice(&bytes.to_le_bytes());
    put_u32(page, at::REST, plan.rest);
    put_u32(page, at::COUNT, if plan.lists > 0 { plan.lists } else { plan.chunks });
    let (key_at, rest_at) = (at::RECORDS + records.len(), at::RECORDS + records.len() + key.len());
    page[at::RECORDS..key_at].copy_from_slice(&records);
    page[key_at..rest_at].copy_from_slice(key);
    read_exact(value, &mut page[rest_at..rest_at + plan.rest])?;
    Ok(LargeRef { head, bytes })
}

/// An extent for up to `pages_left` pages: whole chunks, but for the last one of the value. When space is too scattered for
/// a large one, smaller ones are asked for, down to one chunk.
fn allocate(part: &mut Part, pages_left: u64, want: &mut u64) -> Result<(PagePtr, u64), TreeError> {
    let chunk_pages = CHUNK_BYTES / part.page_bytes() as u64;
    loop {
        let whole_chunks = (*want / chunk_pages).max(1) * chunk_pages;
        let pages = pages_left.min(whole_chunks);
        match part.allocate_extent(pages) {
            Ok(extent) => return Ok((extent, pages)),
            Err(FileError::Full { .. }) if pages > chunk_pages => *want = pages / 2,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Fills an extent and notes its chunks.
fn write_extent(
    part: &mut Part,
    extent: PagePtr,
    bytes: u64,
    value: &mut dyn Read,
    chunks: &mut Vec<Chunk>,
) -> Result<(), TreeError> {
    const PIECE_BYTES: u64 = 1 << 20;
    let page_bytes = part.page_bytes();
    let mut written = 0;
    while written < bytes {
        let piece_bytes = small((bytes - written).min(PIECE_BYTES));
        let mut piece = BytesMut::zeroed(piece_bytes.next_multiple_of(page_bytes));
        read_exact(value, &mut piece[..piece_bytes])?;
        let piece = piece.freeze();
        let at = extent.page.get() + written / page_bytes as u64;
        for (i, bytes) in piece[..piece_bytes].chunks(small(CHUNK_BYTES)).enumerate() {
            let page = PageNo::new(at + i as u64 * (CHUNK_BYTES / page_bytes as u64)).expect("inside a granted extent");
            chunks.push(Chunk {
                start: PagePtr { page, stamp: extent.stamp },
                begins_extent: written == 0 && i == 0,
                crc: checksum(Crc64Nvme, bytes),
            });
        }
        part.write_raw(PageNo::new(at).expect("inside a granted extent"), piece)?;
        part.relieve()?;
        written += piece_bytes as u64;
    }
    Ok(())
}

fn read_exact(value: &mut dyn Read, into: &mut [u8]) -> Result<(), TreeError> {
    value.read_exact(into).map_err(|error| TreeError::Source(Arc::new(error)))
}

/// Frees everything a large value has, and says how many pages that were.
pub(crate) fn free(part: &mut Part, table: TableId, large: LargeRef) -> Result<u64, TreeError> {
    let mut pieces = Vec::new();
    LargeReader { pages: &*part, owner: part.owner(), table }.walk(large, None, &mut |piece| pieces.push(piece))?;
    for piece in &pieces {
        match *piece {
            Piece::Raw(start, pages) => part.free_extent(start, pages),
            Piece::Page(ptr) => part.free(ptr),
        }
    }
    Ok(pieces.iter().map(Piece::pages).sum())
}
