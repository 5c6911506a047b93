//! The check a page passes once, when it is loaded.

use crate::{
    large,
    limits::Limits,
    node::{Child, LargeRef, Node, get_u16, get_u32, get_u64, head_of, layout::*, value_len},
};
use spinney_file::Stamp;
use std::{cmp::Ordering, ops::Range};

/// Where the file layer keeps a page's stamp.
const STAMP: usize = 16;

/// Validates the structure of one page, so that the code that searches it may index without fear: kinds, counts, every
/// offset and length, order of keys, cells that do not overlap, pointers that are not younger than the page. This is the
/// `page_check` for [`FileOptions`](spinney_file::FileOptions). Pages of kinds below 16 belong to the file layer and pass.
///
/// # Errors
/// What does not fit, in words.
pub fn page_check(page: &[u8]) -> Result<(), &'static str> {
    if page.len() < PAGE_HEADER_BYTES {
        return Err("a page of an impossible size");
    }
    check(page, Stamp(get_u64(page, STAMP)))
}

/// The same for a page whose header may not be filled in yet.
pub(crate) fn check(page: &[u8], Stamp(stamp): Stamp) -> Result<(), &'static str> {
    if page.len() < 4096 || page.len() > 65536 {
        return Err("a page of an impossible size");
    }
    match page[KIND] {
        KIND_LEAF | KIND_BRANCH => check_node(page, stamp),
        KIND_HEAD | KIND_CHUNKS => large::check_page(page, stamp),
        0..16 => Ok(()),
        _ => Err("a page of unknown kind"),
    }
}

fn check_node(page: &[u8], stamp: u64) -> Result<(), &'static str> {
    let is_leaf = page[KIND] == KIND_LEAF;
    if is_leaf != (page[LEVEL] == 0) || page[LEVEL] >= crate::TreeRoot::HEIGHT_MAX {
        return Err("the level of a node does not fit its kind");
    }
    if page[FLAGS..FLAGS + 2] != [0, 0] || page[RESERVED].iter().any(|&b| b != 0) {
        return Err("reserved bits of a node are set");
    }
    let (count, prefix_len) = (get_u16(page, COUNT), get_u16(page, PREFIX));
    let (heap, holes) = (get_u32(page, HEAP) as usize, get_u32(page, HOLES) as usize);
    let key_max = Limits::new(page.len()).key_bytes_max;
    if prefix_len > key_max {
        return Err("the prefix of a node is too long");
    }
    let heads_at = prefix_len + if is_leaf { LEAF_START } else { BRANCH_START };
    if heap < heads_at + SLOT_BYTES * count || heap > page.len() {
        return Err("the slots of a node reach into its heap");
    }
    check_cells(page, is_leaf, heads_at, count, heap..page.len(), holes, key_max - prefix_len)?;
    let node = Node::new(page);
    check_order(&node, page)?;
    check_payloads(&node, page, stamp)
}

/// Every cell lies in the heap, none overlaps another, and what they leave is the holes.
fn check_cells(
    page: &[u8],
    is_leaf: bool,
    heads_at: usize,
    count: usize,
    heap: Range<usize>,
    holes: usize,
    suffix_max: usize,
) -> Result<(), &'static str> {
    let fixed = if is_leaf { LEAF_FIXED } else { BRANCH_FIXED };
    let offsets_at = heads_at + HEAD_BYTES * count;
    let mut total = 0;
    let mut lowest = heap.end;
    let mut cells = Vec::new();
    for slot in 0..count {
        let at = get_u16(page, offsets_at + 2 * slot);
        if at < heap.start || at + fixed > heap.end {
            return Err("a cell lies outside the heap");
        }
        let suffix_len = get_u16(page, at);
        if suffix_len > suffix_max {
            return Err("a key is too long");
        }
        let mut len = fixed + suffix_len.saturating_sub(HEAD_BYTES);
        if is_leaf {
            let field = get_u16(page, at + 2);
            if field & IS_EXTENT as usize != 0 && value_len(field) != EXTENT_RECORD_BYTES {
                return Err("an extent record of the wrong length");
            }
            len += value_len(field);
        }
        if at + len > heap.end {
            return Err("a cell reaches beyond the heap");
        }
        total += len;
        // Pages built at once have their cells in order from the end; others must be sorted to see overlaps.
        if cells.is_empty() && at + len <= lowest {
            lowest = at;
        } else {
            if cells.is_empty() {
                cells.reserve(count);
                for earlier in 0..slot {
                    let at = get_u16(page, offsets_at + 2 * earlier);
                    cells.push(at..at + cell_len(page, at, is_leaf));
                }
            }
            cells.push(at..at + len);
        }
    }
    cells.sort_unstable_by_key(|cell| cell.start);
    if cells.windows(2).any(|pair| pair[0].end > pair[1].start) {
        return Err("two cells overlap");
    }
    if total + holes != heap.len() {
        return Err("cells and holes are not the whole heap");
    }
    Ok(())
}

/// Of a cell that is known to lie in the heap.
fn cell_len(page: &[u8], at: usize, is_leaf: bool) -> usize {
    let tail = get_u16(page, at).saturating_sub(HEAD_BYTES);
    if is_leaf { LEAF_FIXED + tail + value_len(get_u16(page, at + 2)) } else { BRANCH_FIXED + tail }
}

/// Keys are in strictly ascending order, and heads are the beginnings of their keys.
fn check_order(node: &Node<'_>, page: &[u8]) -> Result<(), &'static str> {
    let fixed = if node.is_leaf() { LEAF_FIXED } else { BRANCH_FIXED };
    let rest = |slot: usize| {
        let at = node.offset(slot);
        let suffix_len = get_u16(page, at);
        (suffix_len, &page[at + fixed..at + fixed + suffix_len.saturating_sub(HEAD_BYTES)])
    };
    for slot in 0..node.count() {
        let (suffix_len, tail) = rest(slot);
        let head = node.head(slot).to_be_bytes();
        if suffix_len < HEAD_BYTES && head_of(&head[..suffix_len]) != node.head(slot) {
            return Err("the head of a short key is not filled up with zeros");
        }
        if slot == 0 {
            continue;
        }
        let (before_len, before_tail) = rest(slot - 1);
        let order = node.head(slot - 1).cmp(&node.head(slot)).then_with(|| {
            if before_len <= HEAD_BYTES || suffix_len <= HEAD_BYTES {
                before_len.cmp(&suffix_len)
            } else {
                before_tail.cmp(tail)
            }
        });
        if order != Ordering::Less {
            return Err("keys of a node are not in order");
        }
    }
    Ok(())
}

/// Pointers are possible and not younger than their page, and the count of extents is right.
fn check_payloads(node: &Node<'_>, page: &[u8], stamp: u64) -> Result<(), &'static str> {
    let mut with_extents = 0;
    let impossible = "a node points to an impossible page";
    let mut child = |bytes: &[u8]| {
        let child = Child::decode(bytes).ok_or(impossible)?;
        with_extents += usize::from(child.extents);
        is_older(child.ptr.stamp.0, stamp)
    };
    if !node.is_leaf() {
        child(&page[FIRST_CHILD..FIRST_CHILD + CHILD_BYTES])?;
        for slot in 0..node.count() {
            child(node.payload(slot).1)?;
        }
    } else {
        for slot in 0..node.count() {
            let (field, bytes) = node.payload(slot);
            if field & IS_EXTENT != 0 {
                with_extents += 1;
                let large = LargeRef::decode(bytes).ok_or(impossible)?;
                if large.bytes > Limits::VALUE_BYTES_MAX {
                    return Err("a large value beyond the limits");
                }
                is_older(large.head.stamp.0, stamp)?;
            }
        }
    }
    if with_extents != node.with_extents() {
        return Err("the count of extents of a node is wrong");
    }
    Ok(())
}

/// A page is written after all it points to, or with it; so nothing points to a page that a transaction makes now.
pub(crate) fn is_older(stamp: u64, than: u64) -> Result<(), &'static str> {
    if stamp == 0 || stamp > than { Err("a pointer to a page from the future") } else { Ok(()) }
}

/// Whether every byte that belongs to nothing is zero. The page has passed [`page_check`].
pub(crate) fn unused_is_zero(page: &[u8]) -> bool {
    if !matches!(page[KIND], KIND_LEAF | KIND_BRANCH) {
        return large::unused_is_zero(page);
    }
    let node = Node::new(page);
    let mut used: Vec<Range<usize>> =
        (0..node.count()).map(|slot| node.offset(slot)..node.offset(slot) + node.cell_len(slot)).collect();
    used.sort_unstable_by_key(|cell| cell.start);
    let mut at = node.heap() - node.gap();
    used.push(page.len()..page.len());
    used.into_iter().all(|cell| {
        let clean = page[at..cell.start].iter().all(|&b| b == 0);
        at = cell.end;
        clean
    })
}
