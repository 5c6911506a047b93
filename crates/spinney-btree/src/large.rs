//! Values with pages of their own.
//!
//! The bytes of a large value lie in raw pages, cut into chunks of 64 KiB; the head page lists where each chunk lies and its
//! checksum, so a part of the value is read and verified by the chunks it touches. What is left after the last full page
//! lies in the head itself when there is room, so a value a little larger than a leaf takes costs one page.

use crate::{
    check::is_about_content,
    error::TreeError,
    limits::Limits,
    node::{LargeRef, get_u16, get_u32, get_u64, layout::*},
    root::TableId,
    seal::is_older,
};
use bytes::{Bytes, BytesMut};
use crc_fast::{CrcAlgorithm::Crc64Nvme, checksum};
use spinney_file::{Owner, PageNo, PagePtr, Pages, Stamp};
use std::{collections::BTreeMap, fmt::Write};

/// Bytes of a value that share a checksum. A multiple of every page size.
pub(crate) const CHUNK_BYTES: u64 = 64 << 10;

/// No more memory is reserved ahead for a value whose length comes from a file.
const RESERVE_BYTES_MAX: usize = 16 << 20;

/// The head of a large value (kind 18), and a list page of a very large one (kind 19). Integers are little-endian.
///
/// | at | size | field    | meaning                                                                                 |
/// |---:|-----:|----------|-----------------------------------------------------------------------------------------|
/// |  0 |   28 | header   | the file layer's                                                                        |
/// | 28 |    1 | kind     | 18 head, 19 list                                                                        |
/// | 29 |    1 | level    | head: 0 its records are chunks, 1 they are pointers to lists; list: 0                   |
/// | 30 |    2 | flags    | zero                                                                                    |
/// | 32 |    4 | table    | [`TableId`]                                                                             |
/// | 36 |    2 | key      | head: length of the key                                                                 |
/// | 38 |    2 | reserved | zero                                                                                    |
/// | 40 |    8 | bytes    | length of the value                                                                     |
/// | 48 |    4 | rest     | head: bytes at the value's end that lie in this page                                    |
/// | 52 |    4 | count    | records in this page                                                                    |
/// | 56 |      | records  | level 0: 24 bytes per chunk; level 1: 16 bytes per list, its page u64 and stamp u64     |
/// |    |      | key      | head: whose value this is                                                               |
/// |    |      | rest     | head: those bytes                                                                       |
///
/// | chunk | size | meaning                                                              |
/// |-------|-----:|----------------------------------------------------------------------|
/// | page  |    8 | its first page; bit 63: an extent begins here                        |
/// | stamp |    8 | of the writer that allocated the extent                              |
/// | crc   |    8 | CRC-64/NVME of the chunk's bytes, without what fills its last page   |
///
/// Chunk `i` holds bytes `64 Ki * i` and on of the value, up to its end less `rest`. Lists hold as many chunks as they can.
pub(crate) mod at {
    pub(crate) const TABLE: usize = 32;
    pub(crate) const KEY: usize = 36;
    pub(crate) const RESERVED: std::ops::Range<usize> = 38..40;
    pub(crate) const BYTES: usize = 40;
    pub(crate) const REST: usize = 48;
    pub(crate) const COUNT: usize = 52;
    pub(crate) const RECORDS: usize = 56;
    pub(crate) const CHUNK_LEN: usize = 24;
    pub(crate) const LIST_LEN: usize = 16;
    pub(crate) const BEGINS_EXTENT: u64 = 1 << 63;
}

/// Where a chunk lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk {
    pub(crate) start: PagePtr,
    pub(crate) begins_extent: bool,
    pub(crate) crc: u64,
}

impl Chunk {
    fn decode(record: &[u8]) -> Option<Self> {
        let page = get_u64(record, 0);
        Some(Self {
            start: PagePtr { page: PageNo::new(page & !at::BEGINS_EXTENT)?, stamp: Stamp(get_u64(record, 8)) },
            begins_extent: page & at::BEGINS_EXTENT != 0,
            crc: get_u64(record, 16),
        })
    }

    pub(crate) fn encode(&self) -> [u8; at::CHUNK_LEN] {
        let mut out = [0; at::CHUNK_LEN];
        let page = self.start.page.get() | if self.begins_extent { at::BEGINS_EXTENT } else { 0 };
        out[..8].copy_from_slice(&page.to_le_bytes());
        out[8..16].copy_from_slice(&self.start.stamp.0.to_le_bytes());
        out[16..].copy_from_slice(&self.crc.to_le_bytes());
        out
    }
}

/// Chunks that a list page holds.
pub(crate) fn list_capacity(page_bytes: usize) -> usize {
    (page_bytes - at::RECORDS) / at::CHUNK_LEN
}

/// How a value is laid out; follows from page size, key and length alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) chunks: usize,
    /// 0 when the head lists the chunks itself.
    pub(crate) lists: usize,
    pub(crate) rest: usize,
}

impl Plan {
    pub(crate) fn new(page_bytes: usize, key_len: usize, bytes: u64) -> Self {
        let room = (page_bytes - at::RECORDS - key_len) as u64;
        // All in the head; all but what the last page would hold; nothing.
        [bytes, bytes % page_bytes as u64, 0]
            .into_iter()
            .find_map(|rest| {
                let chunks = small((bytes - rest).div_ceil(CHUNK_BYTES));
                let lists = if (chunks * at::CHUNK_LEN) as u64 <= room {
                    0
                } else {
                    chunks.div_ceil(list_capacity(page_bytes))
                };
                let records = if lists == 0 { chunks * at::CHUNK_LEN } else { lists * at::LIST_LEN };
                (records as u64 + rest <= room).then(|| Self { chunks, lists, rest: small(rest) })
            })
            .expect("the lists of the largest value fit beside the longest key")
    }
}

/// The sealed head of a large value, or a list page of one.
#[derive(Clone, Copy, Debug)]
struct Head<'a> {
    page: &'a [u8],
}

impl<'a> Head<'a> {
    /// A page that is to be the head of this value.
    fn open(page: &'a [u8], table: TableId, large: LargeRef) -> Result<Self, &'static str> {
        if page[KIND] != KIND_HEAD {
            return Err("not the head of a large value");
        }
        if get_u32(page, at::TABLE) != table.0 {
            return Err("the head of a large value of another table");
        }
        if get_u64(page, at::BYTES) != large.bytes {
            return Err("the head of a large value of another length");
        }
        Ok(Self { page })
    }

    fn open_list(page: &'a [u8], table: TableId, large: LargeRef, count: usize) -> Result<Self, &'static str> {
        if page[KIND] != KIND_CHUNKS || get_u32(page, at::TABLE) != table.0 || get_u64(page, at::BYTES) != large.bytes {
            return Err("not a list of this large value's chunks");
        }
        if get_u32(page, at::COUNT) as usize != count {
            return Err("a list of a large value's chunks has the wrong length");
        }
        Ok(Self { page })
    }

    fn bytes(&self) -> u64 {
        get_u64(self.page, at::BYTES)
    }

    fn plan(&self) -> Plan {
        Plan::new(self.page.len(), get_u16(self.page, at::KEY), self.bytes())
    }

    fn count(&self) -> usize {
        get_u32(self.page, at::COUNT) as usize
    }

    fn record_len(&self) -> usize {
        if self.page[LEVEL] == 0 { at::CHUNK_LEN } else { at::LIST_LEN }
    }

    fn key(&self) -> &'a [u8] {
        let start = at::RECORDS + self.count() * self.record_len();
        &self.page[start..start + get_u16(self.page, at::KEY)]
    }

    fn rest(&self) -> &'a [u8] {
        let start = at::RECORDS + self.count() * self.record_len() + get_u16(self.page, at::KEY);
        &self.page[start..start + get_u32(self.page, at::REST) as usize]
    }

    fn chunk(&self, i: usize) -> Chunk {
        Chunk::decode(&self.page[at::RECORDS + i * at::CHUNK_LEN..])
            .expect("page numbers were checked when the page was loaded")
    }

    fn list(&self, i: usize) -> PagePtr {
        let record = &self.page[at::RECORDS + i * at::LIST_LEN..];
        PagePtr {
            page: PageNo::new(get_u64(record, 0)).expect("page numbers were checked when the page was loaded"),
            stamp: Stamp(get_u64(record, 8)),
        }
    }
}

/// The part of [`page_check`](crate::page_check) for heads and lists.
pub(crate) fn check_page(page: &[u8], stamp: u64) -> Result<(), &'static str> {
    let (head, count, key_len) = (Head { page }, get_u32(page, at::COUNT) as usize, get_u16(page, at::KEY));
    let (bytes, rest) = (head.bytes(), get_u32(page, at::REST) as usize);
    if page[FLAGS..FLAGS + 2] != [0, 0] || page[at::RESERVED].iter().any(|&b| b != 0) {
        return Err("reserved bits of a large value's page are set");
    }
    if bytes > Limits::VALUE_BYTES_MAX || key_len > Limits::new(page.len()).key_bytes_max {
        return Err("a large value beyond the limits");
    }
    if page[KIND] == KIND_HEAD {
        let plan = Plan::new(page.len(), key_len, bytes);
        if page[LEVEL] != u8::from(plan.lists > 0) || rest != plan.rest {
            return Err("a large value is not laid out as its length asks for");
        }
        if count != if plan.lists > 0 { plan.lists } else { plan.chunks } {
            return Err("the head of a large value has the wrong number of records");
        }
    } else if page[LEVEL] != 0 || rest != 0 || key_len != 0 || count == 0 || count > list_capacity(page.len()) {
        return Err("a list of a large value's chunks is not laid out as one");
    }
    for i in 0..count {
        let record = &page[at::RECORDS + i * head.record_len()..];
        let raw = get_u64(record, 0);
        let page_no = if page[LEVEL] == 0 { raw & !at::BEGINS_EXTENT } else { raw };
        if PageNo::new(page_no).is_none() {
            return Err("a large value points to an impossible page");
        }
        is_older(get_u64(record, 8), stamp)?;
    }
    Ok(())
}

/// The key and the length of the value that a head begins. The page has passed [`check_page`].
pub(crate) fn value_of_head(page: &[u8]) -> (&[u8], u64) {
    let head = Head { page };
    (head.key(), head.bytes())
}

/// Whether every byte after the last used one is zero. The page has passed [`check_page`].
pub(crate) fn unused_is_zero(page: &[u8]) -> bool {
    let head = Head { page };
    let used = at::RECORDS + head.count() * head.record_len() + get_u16(page, at::KEY) + head.rest().len();
    page[used..].iter().all(|&b| b == 0)
}

/// For people; the page has passed [`check_page`].
pub(crate) fn dump(out: &mut String, page: &[u8]) {
    let head = Head { page };
    let (key, rest) = (head.key().escape_ascii(), head.rest().len());
    let _ =
        writeln!(out, "table {}, key \"{key}\", {} bytes, {rest} of them here", get_u32(page, at::TABLE), head.bytes());
    for i in 0..head.count() {
        let _ = if page[LEVEL] == 0 {
            let Chunk { start, begins_extent, crc } = head.chunk(i);
            let extent = if begins_extent { ", begins an extent" } else { "" };
            writeln!(out, "  chunk at {:?} {:?}, crc {crc:016x}{extent}", start.page, start.stamp)
        } else {
            writeln!(out, "  chunks in {:?} {:?}", head.list(i).page, head.list(i).stamp)
        };
    }
}

/// What a large value is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Piece {
    /// An extent of so many raw pages.
    Raw(PagePtr, u64),
    /// A head or a list.
    Page(PagePtr),
}

impl Piece {
    pub(crate) fn start(&self) -> PagePtr {
        match *self {
            Self::Raw(ptr, _) | Self::Page(ptr) => ptr,
        }
    }

    pub(crate) fn pages(&self) -> u64 {
        match *self {
            Self::Raw(_, pages) => pages,
            Self::Page(_) => 1,
        }
    }
}

/// Reads a large value of one table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LargeReader<'a, P> {
    pub(crate) pages: &'a P,
    pub(crate) owner: Owner,
    pub(crate) table: TableId,
}

impl<P: Pages> LargeReader<'_, P> {
    fn corrupt(&self, page: PageNo, why: &'static str) -> TreeError {
        TreeError::Corrupt { page, owner: self.owner, table: self.table, why }
    }

    /// Up to `len` bytes from byte `offset` on.
    pub(crate) fn read_at(&self, large: LargeRef, offset: u64, len: usize) -> Result<Bytes, TreeError> {
        let end = offset.saturating_add(len as u64).min(large.bytes);
        if offset >= end {
            return Ok(Bytes::new());
        }
        let head = self.pages.page_bytes_shared(self.owner, large.head)?;
        let head = Head::open(&head, self.table, large).map_err(|why| self.corrupt(large.head.page, why))?;
        let body_bytes = large.bytes - head.rest().len() as u64;
        let wanted =
            usize::try_from(end - offset).map_err(|_| self.corrupt(large.head.page, "a value larger than memory"))?;
        let mut out = BytesMut::new();
        let mut lists = Lists::new(self, head, large);
        let mut chunks = Disjoint::default();
        let mut position = offset;
        while position < end.min(body_bytes) {
            let index = position / CHUNK_BYTES;
            let start = index * CHUNK_BYTES;
            let stop = (start + CHUNK_BYTES).min(body_bytes);
            let chunk = lists.chunk(index)?;
            if !chunks.add(chunk.start.page, (stop - start).div_ceil(self.pages.page_bytes() as u64)) {
                return Err(self.corrupt(large.head.page, OVERLAP));
            }
            let bytes = self.chunk(chunk, stop - start)?;
            let part = bytes.slice(small(position - start)..small(end.min(stop) - start));
            position += part.len() as u64;
            if out.is_empty() && position == end {
                return Ok(part); // All in one chunk: nothing is copied.
            }
            if out.is_empty() {
                out.reserve(wanted.min(RESERVE_BYTES_MAX));
            }
            out.extend_from_slice(&part);
        }
        if position < end {
            out.extend_from_slice(&head.rest()[small(position - body_bytes)..small(end - body_bytes)]);
        }
        Ok(out.freeze())
    }

    /// A chunk's bytes, verified.
    fn chunk(&self, chunk: Chunk, bytes: u64) -> Result<Bytes, TreeError> {
        let read = self.pages.read_raw(chunk.start.page, 0, small(bytes))?;
        if read.len() as u64 != bytes || checksum(Crc64Nvme, &read) != chunk.crc {
            return Err(self.corrupt(chunk.start.page, "a chunk of a large value does not match its checksum"));
        }
        Ok(read)
    }

    /// Reads the chunks from number `first` on and tells of each that is not what its checksum says, or cannot be read. `go_on` is told
    /// the bytes of each and says whether to continue; returns the chunk to go on with, or `None` at the end.
    pub(crate) fn verify(
        &self,
        large: LargeRef,
        first: u64,
        go_on: &mut dyn FnMut(u64) -> bool,
        wrong: &mut dyn FnMut(TreeError),
    ) -> Result<Option<u64>, TreeError> {
        let page = self.pages.page_bytes_shared(self.owner, large.head)?;
        let head = Head::open(&page, self.table, large).map_err(|why| self.corrupt(large.head.page, why))?;
        let plan = head.plan();
        let body_bytes = large.bytes - plan.rest as u64;
        let mut lists = Lists::new(self, head, large);
        for i in first..plan.chunks as u64 {
            let chunk = lists.chunk(i)?;
            let bytes = CHUNK_BYTES.min(body_bytes - i * CHUNK_BYTES);
            match self.chunk(chunk, bytes) {
                Ok(_) => {}
                Err(error) if is_about_content(&error) => wrong(error),
                Err(error) => return Err(error),
            }
            if !go_on(bytes) && i + 1 < plan.chunks as u64 {
                return Ok(Some(i + 1));
            }
        }
        Ok(None)
    }

    /// Visits everything the value has, its head last. With `key`, the head must name it. Reads head and lists, not the chunks.
    pub(crate) fn walk(
        &self,
        large: LargeRef,
        key: Option<&[u8]>,
        visit: &mut dyn FnMut(Piece),
    ) -> Result<(), TreeError> {
        let page = self.pages.page_bytes_shared(self.owner, large.head)?;
        let head = Head::open(&page, self.table, large).map_err(|why| self.corrupt(large.head.page, why))?;
        if key.is_some_and(|key| key != head.key()) {
            return Err(self.corrupt(large.head.page, "the head of another key's large value"));
        }
        let plan = head.plan();
        let body_bytes = large.bytes - plan.rest as u64;
        let page_bytes = self.pages.page_bytes() as u64;
        let mut lists = Lists::new(self, head, large);
        let mut run: Option<(PagePtr, u64)> = None;
        let mut chunks = Disjoint::default();
        for i in 0..plan.chunks as u64 {
            let chunk = lists.chunk(i)?;
            let bytes = CHUNK_BYTES.min(body_bytes - i * CHUNK_BYTES);
            let pages = bytes.div_ceil(page_bytes);
            if !chunks.add(chunk.start.page, pages) {
                return Err(self.corrupt(large.head.page, OVERLAP));
            }
            run = match run {
                Some((start, so_far)) if !chunk.begins_extent => {
                    if chunk.start.page.get() != start.page.get() + so_far || chunk.start.stamp != start.stamp {
                        return Err(self.corrupt(large.head.page, "an extent of a large value has a gap"));
                    }
                    Some((start, so_far + pages))
                }
                None if !chunk.begins_extent => {
                    return Err(self.corrupt(large.head.page, "a large value does not begin with an extent"));
                }
                previous => {
                    if let Some((start, pages)) = previous {
                        visit(Piece::Raw(start, pages));
                    }
                    Some((chunk.start, pages))
                }
            };
        }
        if let Some((start, pages)) = run {
            visit(Piece::Raw(start, pages));
        }
        for i in 0..plan.lists {
            visit(Piece::Page(head.list(i)));
        }
        visit(Piece::Page(large.head));
        Ok(())
    }
}

const OVERLAP: &str = "chunks of a large value lie over each other";

/// The runs of pages that chunks of one value lie in. No two share a page, so no value is longer than its file: otherwise a small
/// forged file could ask for as much memory as the longest value takes.
#[derive(Debug, Default)]
struct Disjoint {
    /// Where each run ends, by where it starts.
    runs: BTreeMap<u64, u64>,
}

impl Disjoint {
    /// Adds a run; `false` when it shares a page with an earlier one.
    fn add(&mut self, start: PageNo, pages: u64) -> bool {
        let (start, end) = (start.get(), start.get() + pages);
        let overlaps = self.runs.range(..end).next_back().is_some_and(|(_, &before)| before > start);
        self.runs.insert(start, end);
        !overlaps
    }
}

/// A length or offset within a value, which memory has room for.
pub(crate) fn small(n: u64) -> usize {
    usize::try_from(n).expect("an offset within a value that memory has room for")
}

/// Finds chunks, keeping the list page it looked at last.
struct Lists<'a, 'b, P> {
    reader: &'a LargeReader<'a, P>,
    head: Head<'b>,
    large: LargeRef,
    plan: Plan,
    list: Option<(usize, Bytes)>,
}

impl<'a, 'b, P: Pages> Lists<'a, 'b, P> {
    fn new(reader: &'a LargeReader<'a, P>, head: Head<'b>, large: LargeRef) -> Self {
        Self { reader, head, large, plan: head.plan(), list: None }
    }

    fn chunk(&mut self, index: u64) -> Result<Chunk, TreeError> {
        let index = small(index);
        if self.plan.lists == 0 {
            return Ok(self.head.chunk(index));
        }
        let capacity = list_capacity(self.reader.pages.page_bytes());
        let (list, within) = (index / capacity, index % capacity);
        if self.list.as_ref().is_none_or(|(kept, _)| *kept != list) {
            let page = self.reader.pages.page_bytes_shared(self.reader.owner, self.head.list(list))?;
            self.list = Some((list, page));
        }
        let (_, page) = self.list.as_ref().expect("just kept");
        let count = capacity.min(self.plan.chunks - list * capacity);
        let head = Head::open_list(page, self.reader.table, self.large, count)
            .map_err(|why| self.reader.corrupt(self.head.list(list).page, why))?;
        Ok(head.chunk(within))
    }
}
