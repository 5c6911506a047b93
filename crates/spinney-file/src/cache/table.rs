//! Page number to frame: a radix tree of atomic pointers that readers walk without a lock, a hash or a store.
//!
//! A file of few pages has a shallow tree and one of many a deep one, as a file's direct and indirect blocks in an
//! inode: there is one tree for each depth, and a page's number says which is its own. So a lookup in a small file is
//! two loads and one in a file of a tebibyte is three, and a page number of any size costs at most five nodes.
//! (The idea: McKusick et al., "A Fast File System for UNIX", 1984.)
//!
//! Nodes exist only where frames are, so the table never outgrows a fraction of the cache. Changes are made by
//! whoever holds the cache's queue lock; `used` is therefore a plain count.

use super::{
    frame::Frame,
    slot::{Pin, Slot},
};
use crate::{
    PageNo,
    budget::{Budget, Charge},
};
use std::{
    array,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

/// Frames per leaf, log2. Small, so that pages scattered over a large file do not each bring a page-sized node.
const LEAF_BITS: u32 = 6;
/// Children per inner node, log2.
const INNER_BITS: u32 = 9;

/// A part of a tree: what it costs, and how it finds, sets and enumerates what is below it.
trait Node: Send + Sync + Sized + 'static {
    /// Pages below one such node, log2.
    const BITS: u32;

    fn empty() -> Self;
    fn used(&self) -> u32;
    fn find<'p>(&self, page: u64, pin: &'p Pin) -> Option<&'p Frame>;
    /// Makes the nodes on the way to `page`.
    fn reserve(&self, page: u64, pin: &Pin, budget: &Budget);
    /// Returns what was there. Nodes that become empty go.
    fn set<'p>(&self, page: u64, frame: Option<Box<Frame>>, pin: &'p Pin, budget: &Budget) -> Option<&'p Frame>;
    /// The first frame at or after `page`, which is counted from this node's first page.
    fn first<'p>(&self, page: u64, pin: &'p Pin) -> Option<&'p Frame>;
}

struct Leaf {
    used: AtomicU32,
    slots: [Slot<Frame>; 1 << LEAF_BITS],
}

struct Inner<C: Node> {
    used: AtomicU32,
    slots: [Slot<C>; 1 << INNER_BITS],
}

/// Which slot of a node holds a page, given the log2 of the pages in a slot.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "masked to the slots of a node")]
const fn slot_of(page: u64, slot_bits: u32, node_bits: u32) -> usize {
    ((page >> slot_bits) & ((1 << (node_bits - slot_bits)) - 1)) as usize
}

impl Node for Leaf {
    const BITS: u32 = LEAF_BITS;

    fn empty() -> Self {
        Self { used: AtomicU32::new(0), slots: array::from_fn(|_| Slot::empty()) }
    }

    fn used(&self) -> u32 {
        self.used.load(Relaxed)
    }

    #[inline]
    fn find<'p>(&self, page: u64, pin: &'p Pin) -> Option<&'p Frame> {
        self.slots[slot_of(page, 0, Self::BITS)].get(pin)
    }

    fn reserve(&self, _: u64, _: &Pin, _: &Budget) {}

    fn set<'p>(&self, page: u64, frame: Option<Box<Frame>>, pin: &'p Pin, _: &Budget) -> Option<&'p Frame> {
        let is_some = frame.is_some();
        let old = self.slots[slot_of(page, 0, Self::BITS)].replace(frame, pin);
        count(&self.used, old.is_some(), is_some);
        old
    }

    fn first<'p>(&self, page: u64, pin: &'p Pin) -> Option<&'p Frame> {
        self.slots[slot_of(page, 0, Self::BITS)..].iter().find_map(|slot| slot.get(pin))
    }
}

impl<C: Node> Node for Inner<C> {
    const BITS: u32 = C::BITS + INNER_BITS;

    fn empty() -> Self {
        Self { used: AtomicU32::new(0), slots: array::from_fn(|_| Slot::empty()) }
    }

    fn used(&self) -> u32 {
        self.used.load(Relaxed)
    }

    #[inline]
    fn find<'p>(&self, page: u64, pin: &'p Pin) -> Option<&'p Frame> {
        self.slots[slot_of(page, C::BITS, Self::BITS)].get(pin)?.find(page, pin)
    }

    fn reserve(&self, page: u64, pin: &Pin, budget: &Budget) {
        let slot = &self.slots[slot_of(page, C::BITS, Self::BITS)];
        let child = slot.get(pin).unwrap_or_else(|| {
            count(&self.used, false, true);
            add(slot, pin, budget)
        });
        child.reserve(page, pin, budget);
    }

    fn set<'p>(&self, page: u64, frame: Option<Box<Frame>>, pin: &'p Pin, budget: &Budget) -> Option<&'p Frame> {
        let slot = &self.slots[slot_of(page, C::BITS, Self::BITS)];
        let child = slot.get(pin)?;
        let old = child.set(page, frame, pin, budget);
        if child.used() == 0 {
            discard(slot, pin, budget);
            count(&self.used, true, false);
        }
        old
    }

    fn first<'p>(&self, page: u64, pin: &'p Pin) -> Option<&'p Frame> {
        let start = slot_of(page, C::BITS, Self::BITS);
        self.slots[start..].iter().enumerate().find_map(|(i, slot)| {
            let from = if i == 0 { page } else { 0 };
            slot.get(pin)?.first(from & ((1 << C::BITS) - 1), pin)
        })
    }
}

fn count(used: &AtomicU32, before: bool, after: bool) {
    used.store(used.load(Relaxed) + u32::from(after) - u32::from(before), Relaxed);
}

fn add<'p, N: Node>(slot: &Slot<N>, pin: &'p Pin, budget: &Budget) -> &'p N {
    budget.charge(Charge::Nodes, size_of::<N>() as u64);
    slot.replace(Some(Box::new(N::empty())), pin);
    slot.get(pin).expect("it was just put there, and nodes change under the queue lock only")
}

fn discard<N: Node>(slot: &Slot<N>, pin: &Pin, budget: &Budget) {
    slot.replace(None, pin);
    budget.credit(Charge::Nodes, size_of::<N>() as u64);
}

type Level2 = Inner<Leaf>;
type Level3 = Inner<Level2>;
type Level4 = Inner<Level3>;
type Level5 = Inner<Level4>;
type Level6 = Inner<Level5>;
const _: () = assert!(PageNo::MAX >> Level6::BITS == 0, "the deepest tree holds every page number");

/// All trees. A page belongs to the shallowest that can hold its number.
#[derive(Default)]
pub(super) struct Table {
    level2: Root<Level2>, // 128 MiB of file, with pages of 4 KiB
    level3: Root<Level3>, // 64 GiB
    level4: Root<Level4>, // 32 TiB
    level5: Root<Level5>,
    level6: Root<Level6>,
}

struct Root<N: Node>(Slot<N>);

impl<N: Node> Default for Root<N> {
    fn default() -> Self {
        Self(Slot::empty())
    }
}

/// Runs `$body` with `$root` bound to the tree of `$page`.
macro_rules! in_tree_of {
    ($table:expr, $page:expr, $root:ident => $body:expr) => {
        match u64::BITS - $page.leading_zeros() {
            ..=Level2::BITS => {
                let $root = &$table.level2.0;
                $body
            }
            ..=Level3::BITS => {
                let $root = &$table.level3.0;
                $body
            }
            ..=Level4::BITS => {
                let $root = &$table.level4.0;
                $body
            }
            ..=Level5::BITS => {
                let $root = &$table.level5.0;
                $body
            }
            _ => {
                let $root = &$table.level6.0;
                $body
            }
        }
    };
}

impl Table {
    /// The frame of a page. Lock-free; stores nothing.
    #[inline]
    pub(super) fn find<'p>(&self, page: PageNo, pin: &'p Pin) -> Option<&'p Frame> {
        let page = page.get();
        in_tree_of!(self, page, root => root.get(pin)?.find(page, pin))
    }

    /// The first frame at or after `page` and before `end`. Costs the nodes in between that exist.
    pub(super) fn first_in<'p>(&self, page: u64, end: u64, pin: &'p Pin) -> Option<&'p Frame> {
        fn first_of<'p, N: Node>(root: &Root<N>, page: u64, pin: &'p Pin) -> Option<&'p Frame> {
            // A deeper tree begins where the shallower one ends, so a smaller number means its beginning.
            if page >> N::BITS != 0 { None } else { root.0.get(pin)?.first(page, pin) }
        }
        first_of(&self.level2, page, pin)
            .or_else(|| first_of(&self.level3, page, pin))
            .or_else(|| first_of(&self.level4, page, pin))
            .or_else(|| first_of(&self.level5, page, pin))
            .or_else(|| first_of(&self.level6, page, pin))
            .filter(|frame| frame.ptr.page.get() < end)
    }

    /// Makes the nodes that a frame of this page needs, so that their cost is known before room is made for it.
    /// Caller holds the queue lock, here and below.
    pub(super) fn reserve(&self, page: PageNo, pin: &Pin, budget: &Budget) {
        let page = page.get();
        in_tree_of!(self, page, root => {
            root.get(pin).unwrap_or_else(|| add(root, pin, budget)).reserve(page, pin, budget);
        });
    }

    /// Puts a frame at its page's place, which is empty, and lends it.
    pub(super) fn put<'p>(&self, frame: Box<Frame>, pin: &'p Pin, budget: &Budget) -> &'p Frame {
        let page = frame.ptr.page;
        self.reserve(page, pin, budget);
        let old = self.set(page, Some(frame), pin, budget);
        debug_assert!(old.is_none(), "the caller takes an older frame out first: its bytes are counted");
        self.find(page, pin).expect("frames change under the queue lock only")
    }

    /// Takes a page's frame out, and the nodes that are empty then.
    pub(super) fn take<'p>(&self, page: PageNo, pin: &'p Pin, budget: &Budget) -> Option<&'p Frame> {
        self.set(page, None, pin, budget)
    }

    fn set<'p>(&self, page: PageNo, frame: Option<Box<Frame>>, pin: &'p Pin, budget: &Budget) -> Option<&'p Frame> {
        let page = page.get();
        in_tree_of!(self, page, root => {
            let node = root.get(pin)?;
            let old = node.set(page, frame, pin, budget);
            if node.used() == 0 {
                discard(root, pin, budget);
            }
            old
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PagePtr, Stamp};
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::{collections::BTreeMap, sync::Arc};

    /// Numbers that meet: small ones, and the edges of every tree.
    fn page() -> impl Strategy<Value = u64> {
        prop_oneof![
            1..200_u64,
            (prop::sample::select(vec![Level2::BITS, Level3::BITS, Level4::BITS, Level5::BITS]), 0..3_u64)
                .prop_map(|(bits, i)| (1 << bits) - 1 + i),
            PageNo::MAX - 2..=PageNo::MAX,
        ]
    }

    fn frame(page: u64, stamp: u64, budget: &Arc<Budget>) -> Box<Frame> {
        let ptr = PagePtr { page: PageNo::new(page).unwrap(), stamp: Stamp(stamp) };
        Box::new(Frame::new(ptr, Bytes::new(), 0, budget.clone()))
    }

    proptest! {
        #[test]
        fn the_table_is_a_sorted_map(ops in prop::collection::vec((page(), page(), any::<bool>()), 1..100)) {
            let budget = Arc::new(Budget::new(0));
            let (table, mut model, pin) = (Table::default(), BTreeMap::new(), Pin::new());
            for (i, &(page, other, put)) in ops.iter().enumerate() {
                let stamp = 1 + i as u64;
                let number = PageNo::new(page).unwrap();
                let old = table.take(number, &pin, &budget).map(|frame| frame.ptr.stamp.0);
                prop_assert_eq!(old, model.remove(&page));
                if put {
                    let new = table.put(frame(page, stamp, &budget), &pin, &budget);
                    prop_assert_eq!(new.ptr.stamp.0, stamp);
                    model.insert(page, stamp);
                }
                let seen = table.find(PageNo::new(other).unwrap(), &pin).map(|frame| frame.ptr.stamp.0);
                prop_assert_eq!(seen, model.get(&other).copied());
                let (from, end) = (page.min(other), page.max(other));
                let first = table.first_in(from, end, &pin).map(|frame| frame.ptr.page.get());
                prop_assert_eq!(first, model.range(from..end).next().map(|(&page, _)| page));
                let nodes_bytes_max = model.len() as u64 * (size_of::<Leaf>() + 5 * size_of::<Level2>()) as u64;
                prop_assert!(budget.spent(Charge::Nodes) <= nodes_bytes_max, "nodes exist only where frames are");
            }
            for &page in model.keys() {
                table.take(PageNo::new(page).unwrap(), &pin, &budget);
            }
            prop_assert_eq!(budget.spent(Charge::Nodes), 0);
        }
    }
}
