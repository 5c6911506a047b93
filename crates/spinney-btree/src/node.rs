//! A node as it lies in its page, and how it is searched.
//!
//! Heads and offsets are two dense arrays (structure of arrays): a binary search walks the heads alone and looks at a cell
//! only when heads are equal, so it touches two or three cache lines of a cold page instead of one per probe.
//!
//! Everything here may index without fear: a page from the file has passed [`page_check`](crate::page_check), a page of
//! the transaction was made by this crate.

use crate::{root::TableId, run::KeyRef};
use spinney_file::{PageNo, PagePtr, Stamp};
use std::cmp::Ordering;

/// A leaf or a branch. Integers are little-endian.
///
/// | at | size | field        | meaning                                                                          |
/// |---:|-----:|--------------|----------------------------------------------------------------------------------|
/// |  0 |   28 | page header  | the file layer's                                                                 |
/// | 28 |    1 | kind         | 16 leaf, 17 branch                                                               |
/// | 29 |    1 | level        | 0 for a leaf; a child's is its parent's minus one                                |
/// | 30 |    2 | flags        | bit 0 is kept for leaves of fixed-width keys; zero                               |
/// | 32 |    4 | table        | [`TableId`]                                                                      |
/// | 36 |    2 | count        | slots                                                                            |
/// | 38 |    2 | prefix len   | how many bytes every key of the node begins with                                 |
/// | 40 |    4 | heap         | where the heap of cells begins; it ends with the page                            |
/// | 44 |    4 | holes        | bytes of the heap that belong to no cell                                         |
/// | 48 |    2 | with extents | leaf: values with an extent; branch: children with an extent below               |
/// | 50 |    6 | reserved     | zero                                                                             |
/// | 56 |   20 | first child  | branch only: a child record (below), for keys below the first separator          |
/// |    |      | prefix       | what every key begins with, stored once; beside the heads, which are read next   |
/// |    |  4 n | heads        | per slot the 4 bytes of its key after the prefix, the first one the highest of a number, zero-padded |
/// |    |  2 n | offsets      | per slot where its cell begins                                                   |
///
/// Slots are in strictly ascending order of their keys. A branch's slot holds a separator and the child for keys from it
/// on. Bytes that belong to nothing are zero.
///
/// | cell of a leaf  | size | meaning                                                                   |
/// |-----------------|-----:|---------------------------------------------------------------------------|
/// | suffix          |    2 | length of the key without the prefix                                      |
/// | value           |    2 | length of the value; bit 15: it is an extent record of 24 bytes instead   |
/// | tail            |      | the suffix without the 4 bytes that its head holds                        |
/// | value           |      | its bytes, or the extent record: page u64, stamp u64, value length u64    |
///
/// | cell of a branch | size | meaning                            |
/// |------------------|-----:|------------------------------------|
/// | suffix           |    2 | as above                           |
/// | child            |   20 | a child record                     |
/// | tail             |      | as above                           |
///
/// | child record | size | meaning                                                    |
/// |--------------|-----:|------------------------------------------------------------|
/// | page         |    6 | page number; bit 47: some value below has an extent        |
/// | stamp        |    8 | what the child's page carries                              |
/// | entries      |    6 | below the child                                            |
pub(crate) mod layout {
    /// What the file layer and `KIND`, `LEVEL`, `FLAGS` take.
    pub(crate) const PAGE_HEADER_BYTES: usize = 32;
    pub(crate) const KIND: usize = 28;
    pub(crate) const LEVEL: usize = 29;
    pub(crate) const FLAGS: usize = 30;
    pub(crate) const TABLE: usize = 32;
    pub(crate) const COUNT: usize = 36;
    pub(crate) const PREFIX: usize = 38;
    pub(crate) const HEAP: usize = 40;
    pub(crate) const HOLES: usize = 44;
    pub(crate) const WITH_EXTENTS: usize = 48;
    pub(crate) const RESERVED: std::ops::Range<usize> = 50..56;
    pub(crate) const FIRST_CHILD: usize = 56;
    /// Where the prefix of a leaf begins, and its heads when there is none.
    pub(crate) const LEAF_START: usize = 56;
    /// The same for a branch.
    pub(crate) const BRANCH_START: usize = FIRST_CHILD + CHILD_BYTES;

    pub(crate) const KIND_LEAF: u8 = 16;
    pub(crate) const KIND_BRANCH: u8 = 17;
    /// Head of a large value, see `large.rs`.
    pub(crate) const KIND_HEAD: u8 = 18;
    /// List of a large value's chunks, see `large.rs`.
    pub(crate) const KIND_CHUNKS: u8 = 19;

    /// A head and an offset.
    pub(crate) const SLOT_BYTES: usize = 6;
    pub(crate) const HEAD_BYTES: usize = 4;
    pub(crate) const CHILD_BYTES: usize = 20;
    /// Of a leaf's cell, before the tail.
    pub(crate) const LEAF_FIXED: usize = 4;
    /// Of a branch's cell, before the tail.
    pub(crate) const BRANCH_FIXED: usize = 2 + CHILD_BYTES;
    /// In the value field of a leaf's cell.
    pub(crate) const IS_EXTENT: u16 = 1 << 15;
    pub(crate) const EXTENT_RECORD_BYTES: usize = 24;
    pub(crate) const CHILD_EXTENTS: u64 = 1 << 47;
}
use layout::*;
const _: () = assert!(TABLE == PAGE_HEADER_BYTES && RESERVED.end == FIRST_CHILD);
const _: () = assert!(PageNo::MAX < CHILD_EXTENTS);

/// For people.
pub(crate) const KIND_NAMES: [(u8, &str); 4] = [
    (KIND_LEAF, "leaf"),
    (KIND_BRANCH, "branch"),
    (KIND_HEAD, "head of a large value"),
    (KIND_CHUNKS, "chunks of a large value"),
];

#[inline]
pub(crate) fn get_u16(page: &[u8], at: usize) -> usize {
    u16::from_le_bytes([page[at], page[at + 1]]) as usize
}

#[inline]
pub(crate) fn get_u32(page: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
}

#[inline]
pub(crate) fn get_u48(page: &[u8], at: usize) -> u64 {
    let b = &page[at..at + 6];
    u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], 0, 0])
}

#[inline]
pub(crate) fn get_u64(page: &[u8], at: usize) -> u64 {
    let b = &page[at..at + 8];
    u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])
}

#[inline]
pub(crate) fn put_u16(page: &mut [u8], at: usize, value: usize) {
    let value = u16::try_from(value).expect("counts, lengths and offsets in a page fit 16 bits");
    page[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

#[inline]
pub(crate) fn put_u32(page: &mut [u8], at: usize, value: usize) {
    let value = u32::try_from(value).expect("offsets in a page fit 32 bits");
    page[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// The first four bytes as a number that orders like the bytes do; missing ones count as zero.
#[inline]
pub(crate) fn head_of(suffix: &[u8]) -> u32 {
    match suffix.first_chunk::<4>() {
        Some(head) => u32::from_be_bytes(*head),
        None => {
            let mut head = [0; 4];
            head[..suffix.len()].copy_from_slice(suffix);
            u32::from_be_bytes(head)
        }
    }
}

/// What a branch knows of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) ptr: PagePtr,
    /// Entries below.
    pub(crate) entries: u64,
    /// Some value below has an extent.
    pub(crate) extents: bool,
}

impl Child {
    pub(crate) fn encode(&self) -> [u8; CHILD_BYTES] {
        let mut out = [0; CHILD_BYTES];
        let page = self.ptr.page.get() | if self.extents { CHILD_EXTENTS } else { 0 };
        out[..6].copy_from_slice(&page.to_le_bytes()[..6]);
        out[6..14].copy_from_slice(&self.ptr.stamp.0.to_le_bytes());
        out[14..].copy_from_slice(&self.entries.to_le_bytes()[..6]);
        out
    }

    /// `None` when the page number is impossible, which [`page_check`](crate::page_check) rules out.
    #[inline]
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let page = get_u48(bytes, 0);
        Some(Self {
            ptr: PagePtr { page: PageNo::new(page & !CHILD_EXTENTS)?, stamp: Stamp(get_u64(bytes, 6)) },
            entries: get_u48(bytes, 14),
            extents: page & CHILD_EXTENTS != 0,
        })
    }
}

/// A value as its leaf holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored<'a> {
    Inline(&'a [u8]),
    Large(LargeRef),
}

/// Where a large value begins, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LargeRef {
    pub(crate) head: PagePtr,
    pub(crate) bytes: u64,
}

impl LargeRef {
    pub(crate) fn encode(&self) -> [u8; EXTENT_RECORD_BYTES] {
        let mut out = [0; EXTENT_RECORD_BYTES];
        out[..8].copy_from_slice(&self.head.page.get().to_le_bytes());
        out[8..16].copy_from_slice(&self.head.stamp.0.to_le_bytes());
        out[16..].copy_from_slice(&self.bytes.to_le_bytes());
        out
    }

    #[inline]
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            head: PagePtr { page: PageNo::new(get_u64(bytes, 0))?, stamp: Stamp(get_u64(bytes, 8)) },
            bytes: get_u64(bytes, 16),
        })
    }
}

/// A node, to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<'a> {
    page: &'a [u8],
    count: usize,
    /// Where the prefix begins: what kind of node it is.
    start: usize,
    heads_at: usize,
}

impl<'a> Node<'a> {
    /// A page that is known to be a node.
    #[inline]
    pub(crate) fn new(page: &'a [u8]) -> Self {
        let start = if page[KIND] == KIND_LEAF { LEAF_START } else { BRANCH_START };
        Self { page, count: get_u16(page, COUNT), start, heads_at: start + get_u16(page, PREFIX) }
    }

    /// A page that is to be a node of this table and level.
    #[inline]
    pub(crate) fn open(page: &'a [u8], table: TableId, level: u8) -> Result<Self, &'static str> {
        let kind = if level == 0 { KIND_LEAF } else { KIND_BRANCH };
        if page[KIND] != kind || page[LEVEL] != level {
            return Err("a child is not one level below its parent");
        }
        if get_u32(page, TABLE) != table.0 {
            return Err("a node of another table");
        }
        Ok(Self::new(page))
    }

    #[inline]
    pub(crate) fn is_leaf(&self) -> bool {
        self.start == LEAF_START
    }

    #[inline]
    pub(crate) fn level(&self) -> u8 {
        self.page[LEVEL]
    }

    pub(crate) fn table(&self) -> TableId {
        TableId(get_u32(self.page, TABLE))
    }

    /// Slots: a leaf's entries, a branch's separators.
    #[inline]
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// A branch's children: one more than separators.
    #[inline]
    pub(crate) fn child_count(&self) -> usize {
        debug_assert!(!self.is_leaf());
        self.count + 1
    }

    /// Values with an extent, or children with one below.
    #[inline]
    pub(crate) fn with_extents(&self) -> usize {
        get_u16(self.page, WITH_EXTENTS)
    }

    #[inline]
    pub(crate) fn prefix(&self) -> &'a [u8] {
        &self.page[self.start..self.heads_at]
    }

    pub(crate) fn heap(&self) -> usize {
        get_u32(self.page, HEAP) as usize
    }

    pub(crate) fn holes(&self) -> usize {
        get_u32(self.page, HOLES) as usize
    }

    /// Where the heads begin.
    #[inline]
    pub(crate) fn heads_at(&self) -> usize {
        self.heads_at
    }

    /// Free bytes in one piece, between slots and heap.
    #[inline]
    pub(crate) fn gap(&self) -> usize {
        self.heap() - self.heads_at - SLOT_BYTES * self.count
    }

    /// All free bytes.
    #[inline]
    pub(crate) fn free(&self) -> usize {
        self.gap() + self.holes()
    }

    /// Bytes that slots, cells and prefix take.
    pub(crate) fn used(&self) -> usize {
        self.page.len() - self.start - self.free()
    }

    /// The cell of a slot and all behind it.
    #[inline]
    fn cell(&self, slot: usize) -> &'a [u8] {
        &self.page[self.offset(slot)..]
    }

    #[inline]
    pub(crate) fn offset(&self, slot: usize) -> usize {
        get_u16(self.page, self.heads_at + HEAD_BYTES * self.count + 2 * slot)
    }

    #[inline]
    pub(crate) fn head(&self, slot: usize) -> u32 {
        get_u32(self.page, self.heads_at + HEAD_BYTES * slot)
    }

    /// Before the tail in a cell.
    #[inline]
    fn fixed(&self) -> usize {
        if self.is_leaf() { LEAF_FIXED } else { BRANCH_FIXED }
    }

    /// The tail of a slot's key, and the key's length without the prefix.
    #[inline]
    fn tail(&self, slot: usize) -> (&'a [u8], usize) {
        let cell = self.cell(slot);
        let suffix_len = get_u16(cell, 0);
        let fixed = self.fixed();
        (&cell[fixed..fixed + suffix_len.saturating_sub(HEAD_BYTES)], suffix_len)
    }

    /// How long a slot's cell is.
    #[inline]
    pub(crate) fn cell_len(&self, slot: usize) -> usize {
        let cell = self.cell(slot);
        let tail = get_u16(cell, 0).saturating_sub(HEAD_BYTES);
        if self.is_leaf() { LEAF_FIXED + tail + value_len(get_u16(cell, 2)) } else { BRANCH_FIXED + tail }
    }

    /// A slot's key, in the pieces it is stored in.
    #[inline]
    pub(crate) fn key(&self, slot: usize) -> KeyRef<'a> {
        let (tail, suffix_len) = self.tail(slot);
        KeyRef::stored(self.prefix(), self.head(slot), suffix_len, tail)
    }

    /// The payload of a slot as its cell holds it: a leaf's value field and value, a branch's child record.
    #[inline]
    pub(crate) fn payload(&self, slot: usize) -> (u16, &'a [u8]) {
        let cell = self.cell(slot);
        if self.is_leaf() {
            let tail = get_u16(cell, 0).saturating_sub(HEAD_BYTES);
            let field = u16::from_le_bytes([cell[2], cell[3]]);
            let at = LEAF_FIXED + tail;
            (field, &cell[at..at + value_len(field as usize)])
        } else {
            (0, &cell[2..2 + CHILD_BYTES])
        }
    }

    /// The value of a leaf's slot.
    #[inline]
    pub(crate) fn value(&self, slot: usize) -> Stored<'a> {
        debug_assert!(self.is_leaf());
        let (field, bytes) = self.payload(slot);
        if field & IS_EXTENT == 0 {
            return Stored::Inline(bytes);
        }
        Stored::Large(LargeRef::decode(bytes).expect("page numbers were checked when the page was loaded"))
    }

    /// A child of a branch; child 0 is for keys below the first separator.
    #[inline]
    pub(crate) fn child(&self, index: usize) -> Child {
        let bytes = if index == 0 { &self.page[FIRST_CHILD..] } else { &self.cell(index - 1)[2..] };
        Child::decode(bytes).expect("page numbers were checked when the page was loaded")
    }

    /// Entries below all children, or of the leaf. `None` when that many are impossible.
    pub(crate) fn entries(&self) -> Option<u64> {
        if self.is_leaf() {
            return Some(self.count as u64);
        }
        let sum = (0..self.child_count()).try_fold(0u64, |sum, i| sum.checked_add(self.child(i).entries))?;
        (sum <= crate::root::TreeRoot::ENTRIES_MAX).then_some(sum)
    }

    /// Where a key is or would be, and whether it is there.
    #[inline]
    pub(crate) fn search(&self, key: &[u8]) -> (usize, bool) {
        let prefix = self.prefix();
        let suffix = match key.strip_prefix(prefix) {
            Some(suffix) => suffix,
            // All keys of the node are on the same side of one that has not their prefix.
            None => return if key < prefix { (0, false) } else { (self.count, false) },
        };
        let head = head_of(suffix);
        let (heads, _) = self.page[self.heads_at..self.heads_at + HEAD_BYTES * self.count].as_chunks::<HEAD_BYTES>();
        let (mut low, mut high) = (0, heads.len());
        while low < high {
            let middle = (low + high) / 2;
            let order = match u32::from_le_bytes(heads[middle]).cmp(&head) {
                Ordering::Equal => self.compare_tail(middle, suffix),
                order => order,
            };
            match order {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return (middle, true),
            }
        }
        (low, false)
    }

    /// How a slot's key compares with one of the same prefix and the same head.
    #[inline]
    fn compare_tail(&self, slot: usize, suffix: &[u8]) -> Ordering {
        let (tail, suffix_len) = self.tail(slot);
        match suffix.get(HEAD_BYTES..) {
            Some(other) if suffix_len > HEAD_BYTES && !other.is_empty() => tail.cmp(other),
            // The shorter one is the other one's beginning, but for zeros.
            _ => suffix_len.cmp(&suffix.len()),
        }
    }

    /// The child whose range holds a key.
    #[inline]
    pub(crate) fn child_for(&self, key: &[u8]) -> usize {
        let (slot, found) = self.search(key);
        slot + usize::from(found)
    }
}

/// The length of what a leaf's cell holds for a value field.
#[inline]
pub(crate) fn value_len(field: usize) -> usize {
    field & !(IS_EXTENT as usize)
}
