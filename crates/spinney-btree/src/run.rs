//! Runs of entries on their way into nodes: what splits, merges and rebuilds have in common.

use crate::node::{Child, Node, head_of, layout::*, put_u16, put_u32, value_len};
use crate::root::TableId;
use std::cmp::Ordering;

/// A key in the pieces it is stored in: the node's prefix, the head, the tail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyRef<'a> {
    prefix: &'a [u8],
    head: [u8; HEAD_BYTES],
    head_len: usize,
    tail: &'a [u8],
}

impl<'a> KeyRef<'a> {
    #[inline]
    pub(crate) fn stored(prefix: &'a [u8], head: u32, suffix_len: usize, tail: &'a [u8]) -> Self {
        Self { prefix, head: head.to_be_bytes(), head_len: suffix_len.min(HEAD_BYTES), tail }
    }

    /// A whole key as a caller has it.
    pub(crate) fn whole(key: &'a [u8]) -> Self {
        let head_len = key.len().min(HEAD_BYTES);
        Self { prefix: &[], head: head_of(key).to_be_bytes(), head_len, tail: &key[head_len..] }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.prefix.len() + self.head_len + self.tail.len()
    }

    #[inline]
    pub(crate) fn copy_to(&self, into: &mut Vec<u8>) {
        into.clear();
        into.extend_from_slice(self.prefix);
        into.extend_from_slice(&self.head[..self.head_len]);
        into.extend_from_slice(self.tail);
    }

    pub(crate) fn to_vec(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len());
        self.copy_to(&mut out);
        out
    }

    fn bytes(&self) -> impl Iterator<Item = u8> {
        self.prefix.iter().chain(&self.head[..self.head_len]).chain(self.tail).copied()
    }

    /// How many bytes two keys begin with alike.
    pub(crate) fn common(&self, other: &Self) -> usize {
        if std::ptr::eq(self.prefix, other.prefix) {
            let same = |(a, b): &(u8, u8)| a == b;
            let heads = self.head[..self.head_len].iter().chain(self.tail).copied();
            return self.prefix.len()
                + heads.zip(other.head[..other.head_len].iter().chain(other.tail).copied()).take_while(same).count();
        }
        self.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count()
    }

    pub(crate) fn compare(&self, other: &Self) -> Ordering {
        self.bytes().cmp(other.bytes())
    }
}

/// One entry of a leaf, or a separator and the child that begins with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item<'a> {
    pub(crate) key: KeyRef<'a>,
    /// A leaf's value field: the length, or [`IS_EXTENT`] and 24.
    pub(crate) field: u16,
    /// A leaf's value or extent record, a branch's child record.
    pub(crate) payload: &'a [u8],
}

impl<'a> Item<'a> {
    #[inline]
    pub(crate) fn of(node: &Node<'a>, slot: usize) -> Self {
        let (field, payload) = node.payload(slot);
        Self { key: node.key(slot), field, payload }
    }

    /// What it takes in a node whose prefix is so long, slot included.
    #[inline]
    fn cost(&self, prefix: usize, fixed: usize) -> usize {
        SLOT_BYTES + fixed + (self.key.len() - prefix).saturating_sub(HEAD_BYTES) + value_len(self.field as usize)
    }

    /// The child of a branch's item.
    pub(crate) fn child(&self) -> Child {
        Child::decode(self.payload).expect("page numbers were checked when the page was loaded")
    }
}

/// What sort of node to build.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) table: TableId,
    pub(crate) level: u8,
    pub(crate) page_bytes: usize,
}

impl Shape {
    #[inline]
    fn fixed(&self) -> usize {
        if self.level == 0 { LEAF_FIXED } else { BRANCH_FIXED }
    }

    /// Bytes for slots, cells and prefix.
    #[inline]
    pub(crate) fn capacity(&self) -> usize {
        self.page_bytes - if self.level == 0 { LEAF_START } else { BRANCH_START }
    }

    /// The prefix to store for a run: what its keys have in common, unless a shorter one costs less. Between 0 and this
    /// length each byte of prefix saves at least the byte it takes, so [`Shape::bytes`] is never more than with a shorter one.
    pub(crate) fn prefix(&self, items: &[Item<'_>]) -> usize {
        let (Some(first), Some(last)) = (items.first(), items.last()) else { return 0 };
        let longest = items.iter().map(|item| item.key.len()).max().unwrap_or(0);
        // Sorted: what the first and the last key share, all share.
        first.key.common(&last.key).min(longest.saturating_sub(HEAD_BYTES))
    }

    /// What a run takes in one node.
    pub(crate) fn bytes(&self, items: &[Item<'_>]) -> usize {
        let prefix = self.prefix(items);
        prefix + items.iter().map(|item| item.cost(prefix, self.fixed())).sum::<usize>()
    }

    pub(crate) fn fits(&self, items: &[Item<'_>]) -> bool {
        self.bytes(items) <= self.capacity()
    }

    /// Where to divide a run that is to fill two nodes: the index of the first item of the right one. In a branch that
    /// item's separator moves up and its child becomes the right node's first. Both sides fit, as even as they can; `None`
    /// when there is no such place.
    pub(crate) fn divide(&self, items: &[Item<'_>]) -> Option<usize> {
        let prefix = self.prefix(items);
        let total: usize = items.iter().map(|item| item.cost(prefix, self.fixed())).sum();
        let mut left = 0;
        let mut middle = items.len();
        for (i, item) in items.iter().enumerate() {
            let cost = item.cost(prefix, self.fixed());
            if 2 * left + cost > total {
                middle = i;
                break;
            }
            left += cost;
        }
        // A key that fits the prefix makes the even place good; one that does not stands at an end, alone if need be.
        let last = items.len().checked_sub(if self.level == 0 { 1 } else { 2 })?;
        let middle = middle.min(last);
        let near = (0..8).flat_map(|d| [middle.saturating_sub(d), middle + d]);
        near.chain([1, last]).find(|&at| self.divides(items, at))
    }

    /// Whether a run may be divided at an index.
    pub(crate) fn divides(&self, items: &[Item<'_>], at: usize) -> bool {
        let right = if self.level == 0 { at } else { at + 1 };
        at > 0 && right < items.len() && self.fits(&items[..at]) && self.fits(&items[right..])
    }

    /// Makes a page of a run that fits. `first` is the first child of a branch.
    pub(crate) fn build(&self, page: &mut [u8], first: Option<Child>, items: &[Item<'_>]) {
        let prefix = self.prefix(items);
        self.build_with_prefix(page, first, items, prefix);
    }

    /// The same with a prefix of the caller's choice, which all keys must have.
    pub(crate) fn build_with_prefix(&self, page: &mut [u8], first: Option<Child>, items: &[Item<'_>], prefix: usize) {
        assert_eq!(first.is_some(), self.level > 0, "a branch has a first child, a leaf has not");
        page[KIND..].fill(0);
        page[KIND] = if self.level == 0 { KIND_LEAF } else { KIND_BRANCH };
        page[LEVEL] = self.level;
        put_u32(page, TABLE, self.table.0 as usize);
        put_u16(page, COUNT, items.len());
        put_u16(page, PREFIX, prefix);
        let mut with_extents = 0;
        let mut prefix_at = LEAF_START;
        if let Some(first) = first {
            page[FIRST_CHILD..FIRST_CHILD + CHILD_BYTES].copy_from_slice(&first.encode());
            with_extents += usize::from(first.extents);
            prefix_at = BRANCH_START;
        }
        let heads_at = prefix_at + prefix;
        let offsets_at = heads_at + HEAD_BYTES * items.len();
        let slots_end = offsets_at + 2 * items.len();
        let mut heap = self.page_bytes;
        let mut key = Vec::new();
        for (slot, item) in items.iter().enumerate() {
            let (head, tail, suffix_len) = if item.key.prefix.len() == prefix {
                (u32::from_be_bytes(item.key.head), item.key.tail, item.key.head_len + item.key.tail.len())
            } else {
                item.key.copy_to(&mut key);
                let suffix = &key[prefix..];
                (head_of(suffix), &suffix[suffix.len().min(HEAD_BYTES)..], suffix.len())
            };
            let tail_at = self.fixed();
            heap -= tail_at + tail.len() + if self.level == 0 { item.payload.len() } else { 0 };
            assert!(heap >= slots_end, "a run that does not fit");
            let cell = &mut page[heap..];
            put_u16(cell, 0, suffix_len);
            cell[tail_at..tail_at + tail.len()].copy_from_slice(tail);
            if self.level == 0 {
                put_u16(cell, 2, item.field as usize);
                cell[tail_at + tail.len()..tail_at + tail.len() + item.payload.len()].copy_from_slice(item.payload);
                with_extents += usize::from(item.field & IS_EXTENT != 0);
            } else {
                cell[2..2 + CHILD_BYTES].copy_from_slice(item.payload);
                with_extents += usize::from(item.child().extents);
            }
            page[heads_at + HEAD_BYTES * slot..][..HEAD_BYTES].copy_from_slice(&head.to_le_bytes());
            put_u16(page, offsets_at + 2 * slot, heap);
        }
        if prefix > 0 {
            items[0].key.copy_to(&mut key);
            page[prefix_at..heads_at].copy_from_slice(&key[..prefix]);
        }
        put_u32(page, HEAP, heap);
        put_u16(page, WITH_EXTENTS, with_extents);
    }
}

/// The shortest key that is greater than `left` and not greater than `right`.
pub(crate) fn separator(left: &KeyRef<'_>, right: &KeyRef<'_>) -> Vec<u8> {
    let mut key = right.to_vec();
    key.truncate(left.common(right) + 1);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE_BYTES: usize = 4096;

    fn leaf(keys: &[Vec<u8>]) -> Vec<u8> {
        let items: Vec<Item<'_>> =
            keys.iter().map(|key| Item { key: KeyRef::whole(key), field: 1, payload: b"v" }).collect();
        let shape = Shape { table: TableId(0), level: 0, page_bytes: PAGE_BYTES };
        assert!(shape.fits(&items));
        let mut page = vec![0; PAGE_BYTES];
        shape.build(&mut page, None, &items);
        assert_eq!(shape.bytes(&items), Node::new(&page).used());
        assert_eq!(crate::seal::check(&page, spinney_file::Stamp(1)), Ok(()));
        page
    }

    /// Keys that heads cannot tell apart: shorter than a head, and filled up with zeros that others really have.
    #[test]
    fn a_search_finds_every_key_and_every_gap() {
        let bytes = [0u8, 1, 255];
        let mut keys: Vec<Vec<u8>> = vec![vec![]];
        for len in 1..=3 {
            for n in 0..27usize {
                keys.push((0..len).map(|i| bytes[n / 3usize.pow(i) % 3]).collect());
            }
        }
        keys.extend(
            [&b"\0\0\0\0"[..], b"\0\0\0\0\0", b"\0\0\0\0\0\0", b"\0\0\0\0\x01", b"\x01\0\0\0", b"\x01\0\0\0a"]
                .map(Vec::from),
        );
        keys.sort();
        keys.dedup();
        for prefix in [&b""[..], b"p", b"a long one"] {
            let keys: Vec<Vec<u8>> = keys.iter().map(|key| [prefix, key].concat()).collect();
            // Every other key is there, all are looked for.
            let there: Vec<Vec<u8>> = keys.iter().step_by(2).cloned().collect();
            let page = leaf(&there);
            let node = Node::new(&page);
            for key in keys.iter().chain([&b"o".to_vec(), &b"q".to_vec(), &vec![]]) {
                let want = there.binary_search(key);
                assert_eq!(node.search(key), (want.unwrap_or_else(|at| at), want.is_ok()), "{key:?} under {prefix:?}");
            }
            for (slot, key) in there.iter().enumerate() {
                assert_eq!(node.key(slot).to_vec(), *key);
            }
        }
    }

    #[test]
    fn a_separator_is_as_short_as_it_can_be() {
        for (left, right, want) in
            [("a", "b", "b"), ("abc", "abcd", "abcd"), ("abc", "abzz", "abz"), ("", "x", "x"), ("a", "aaaa", "aa")]
        {
            let separator = separator(&KeyRef::whole(left.as_bytes()), &KeyRef::whole(right.as_bytes()));
            assert_eq!(separator, want.as_bytes());
            assert!(left.as_bytes() < &separator[..] && &separator[..] <= right.as_bytes());
        }
    }

    #[test]
    fn a_longer_prefix_never_costs_more() {
        let keys: Vec<Vec<u8>> = (0..20u8).map(|i| [&b"common"[..], &[i]].concat()).collect();
        let page = leaf(&keys);
        // Seven bytes each: three in the prefix, four in the head, none in a tail.
        assert_eq!(Node::new(&page).prefix(), b"com");
        assert_eq!(Node::new(&page).used(), 3 + 20 * (SLOT_BYTES + LEAF_FIXED + 1));
    }
}
