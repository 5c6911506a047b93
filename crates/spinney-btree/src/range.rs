//! Ordered iteration from both ends.

use crate::{
    error::TreeError,
    layers::Over,
    memtable::KeyBounds,
    merged::Merged,
    node::{LargeRef, Node, Stored},
    root::{TableId, TreeRoot},
    tree::{Tree, piece},
};
use bytes::Bytes;
use spinney_file::{FileError, Owner, PageNo, PagePtr, Pages, Pin};
use std::{any::Any, fmt, ops::Bound};

/// The ends of a range of keys. Any pair is legal: a start after the end, or equal ends of which one is excluded,
/// make an empty range.
pub type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// Pages borrowed where an owner is asked for: makes a [`Range`] inside a transaction.
#[derive(Debug)]
pub struct Borrowed<'a, P>(pub &'a P);

impl<P> Clone for Borrowed<'_, P> {
    fn clone(&self) -> Self {
        Self(self.0)
    }
}

impl<P: Pages> Pages for Borrowed<'_, P> {
    fn page<'b>(&'b self, pin: &'b Pin, owner: Owner, ptr: PagePtr) -> Result<&'b [u8], FileError> {
        self.0.page(pin, owner, ptr)
    }

    fn page_bytes_shared(&self, owner: Owner, ptr: PagePtr) -> Result<Bytes, FileError> {
        self.0.page_bytes_shared(owner, ptr)
    }

    fn read_raw(&self, at: PageNo, offset: u64, len: usize) -> Result<Bytes, FileError> {
        self.0.read_raw(at, offset, len)
    }

    fn page_bytes(&self) -> usize {
        self.0.page_bytes()
    }

    fn above(&self, owner: Owner) -> Option<&(dyn Any + Send + Sync)> {
        self.0.above(owner)
    }
}

/// The same ends, borrowed.
pub(crate) fn borrowed(bounds: &Bounds) -> KeyBounds<'_> {
    (bounds.0.as_ref().map(|key| &key[..]), bounds.1.as_ref().map(|key| &key[..]))
}

/// The value of an entry met in a range: large values are read only when asked for.
#[derive(Clone)]
pub struct Value<P>(OwnedValue<P>);

#[derive(Clone)]
enum OwnedValue<P> {
    Inline(Bytes),
    Large(LargeRef, Source<P>),
}

/// Where a range reads.
#[derive(Clone)]
struct Source<P> {
    pages: P,
    owner: Owner,
    table: TableId,
    root: TreeRoot,
}

impl<P: Pages> Source<P> {
    fn tree(&self) -> Tree<'_, P> {
        Tree::new(&self.pages, self.owner, self.table, self.root)
    }
}

impl<P: Pages> Value<P> {
    /// One that is in memory already.
    pub(crate) fn inline(bytes: Bytes) -> Self {
        Self(OwnedValue::Inline(bytes))
    }

    /// In bytes. Costs nothing.
    pub fn len(&self) -> u64 {
        match &self.0 {
            OwnedValue::Inline(bytes) => bytes.len() as u64,
            OwnedValue::Large(large, _) => large.bytes,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All bytes. Costs nothing for a value that was in the leaf.
    ///
    /// # Errors
    /// Those of reading a large value; [`TreeError::Corrupt`] when a chunk of it does not match its checksum.
    pub fn read(&self) -> Result<Bytes, TreeError> {
        self.read_at(0, usize::MAX)
    }

    /// Up to `len` bytes from byte `offset` on; see [`Tree::read_at`](crate::Tree::read_at).
    pub fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, TreeError> {
        match &self.0 {
            OwnedValue::Inline(bytes) => Ok(bytes.slice(piece(bytes.len(), offset, len))),
            OwnedValue::Large(large, source) => source.tree().read_large(*large, offset, len),
        }
    }
}

impl<P> fmt::Debug for Value<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            OwnedValue::Inline(bytes) => bytes.fmt(f),
            OwnedValue::Large(large, _) => large.fmt(f),
        }
    }
}

/// An entry on its way out of a range.
pub(crate) type Entry<P> = (Bytes, Value<P>);

/// The entries of a range, in order from either end. Owns what it needs, holds no pin between calls, and keeps at most two
/// leaves in memory. An error is the end: after it come `None`s, never an entry further on.
pub struct Range<P> {
    entries: Entries<P>,
}

/// Where they come from.
#[expect(clippy::large_enum_variant, reason = "the common one is made without an allocation")]
enum Entries<P> {
    /// Pages tell all.
    Pages(PageRange<P>),
    /// Something stands above them.
    Merged(Box<Merged<P>>),
}

impl<P: Pages + Clone> Range<P> {
    /// Reads nothing yet.
    pub fn new(pages: P, owner: Owner, table: TableId, root: TreeRoot, bounds: Bounds) -> Self {
        let is_merged = !Over::of(&pages, owner, table).is_empty();
        let pages = PageRange::new(pages, owner, table, root, bounds);
        let entries = if is_merged { Entries::Merged(Box::new(Merged::new(pages))) } else { Entries::Pages(pages) };
        Self { entries }
    }

    /// The next entry, lent to `read`: what lies in a leaf is not copied, and nothing is allocated for it. A large value is read whole.
    pub fn next_with<R>(&mut self, read: impl FnOnce(&[u8], &[u8]) -> R) -> Option<Result<R, TreeError>> {
        match &mut self.entries {
            Entries::Pages(range) => range.lend(End::Front, read),
            Entries::Merged(merged) => lend(merged.next()?, read),
        }
    }

    /// The same from the back.
    pub fn next_back_with<R>(&mut self, read: impl FnOnce(&[u8], &[u8]) -> R) -> Option<Result<R, TreeError>> {
        match &mut self.entries {
            Entries::Pages(range) => range.lend(End::Back, read),
            Entries::Merged(merged) => lend(merged.next_back()?, read),
        }
    }
}

fn lend<P: Pages, R>(
    entry: Result<Entry<P>, TreeError>,
    read: impl FnOnce(&[u8], &[u8]) -> R,
) -> Option<Result<R, TreeError>> {
    Some(entry.and_then(|(key, value)| Ok(read(&key, &value.read()?))))
}

impl<P: Pages + Clone> Iterator for Range<P> {
    type Item = Result<(Bytes, Value<P>), TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.entries {
            Entries::Pages(range) => range.next(),
            Entries::Merged(merged) => merged.next(),
        }
    }
}

impl<P: Pages + Clone> DoubleEndedIterator for Range<P> {
    fn next_back(&mut self) -> Option<Self::Item> {
        match &mut self.entries {
            Entries::Pages(range) => range.next_back(),
            Entries::Merged(merged) => merged.next_back(),
        }
    }
}

impl<P: Pages + Clone> std::iter::FusedIterator for Range<P> {}

impl<P> fmt::Debug for Range<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.entries {
            Entries::Pages(range) => range.fmt(f),
            Entries::Merged(merged) => merged.fmt(f),
        }
    }
}

/// The entries of a range that are in pages.
pub(crate) struct PageRange<P> {
    source: Source<P>,
    bounds: Bounds,
    front: Option<Cursor>,
    back: Option<Cursor>,
    finished: bool,
    /// A key that is lent.
    key: Vec<u8>,
}

impl<P> PageRange<P> {
    pub(crate) fn bounds(&self) -> &Bounds {
        &self.bounds
    }
}

impl<P: Pages> PageRange<P> {
    /// What stands above these pages.
    pub(crate) fn over(&self) -> Over<'_> {
        Over::of(&self.source.pages, self.source.owner, self.source.table)
    }
}

impl<P> fmt::Debug for PageRange<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (owner, table) = (self.source.owner, self.source.table);
        f.debug_struct("Range").field("owner", &owner).field("table", &table).field("finished", &self.finished).finish()
    }
}

/// One end of a range: the leaf it is in, and how it got there.
#[derive(Clone, Debug)]
struct Cursor {
    /// Branches from the root down, and the child taken in each.
    path: Vec<(PagePtr, usize)>,
    ptr: PagePtr,
    leaf: Bytes,
    /// The slots still to be yielded, as far as this end knows.
    slots: std::ops::Range<usize>,
    /// The other end of the range lies in this leaf too.
    is_last: bool,
}

/// Which end moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Front,
    Back,
}

impl<P: Pages + Clone> PageRange<P> {
    /// Reads nothing yet.
    pub(crate) fn new(pages: P, owner: Owner, table: TableId, root: TreeRoot, bounds: Bounds) -> Self {
        use Bound::{Excluded, Included};
        let empty = match (&bounds.0, &bounds.1) {
            (Included(start), Included(end)) => start > end,
            (Included(start) | Excluded(start), Included(end) | Excluded(end)) => start >= end,
            _ => false,
        };
        let finished = empty || root.ptr().is_none();
        let (front, back, key) = (None, None, Vec::new());
        Self { source: Source { pages, owner, table, root }, bounds, front, back, finished, key }
    }

    /// The slot of the next entry, in the leaf that this end is at then.
    #[inline]
    fn step(&mut self, end: End) -> Result<Option<usize>, TreeError> {
        loop {
            if self.finished {
                return Ok(None);
            }
            let (here, other) = match end {
                End::Front => (&mut self.front, &self.back),
                End::Back => (&mut self.back, &self.front),
            };
            let Some(cursor) = here else {
                *here = Some(Cursor::start(&self.source, &self.bounds, end)?);
                continue;
            };
            let meets = other.as_ref().filter(|other| other.ptr == cursor.ptr);
            // In the same leaf each end stops at the other.
            let slots = match (end, meets) {
                (End::Front, Some(back)) => cursor.slots.start..cursor.slots.end.min(back.slots.end),
                (End::Back, Some(front)) => cursor.slots.start.max(front.slots.start)..cursor.slots.end,
                (_, None) => cursor.slots.clone(),
            };
            if slots.is_empty() {
                if cursor.is_last || meets.is_some() || !cursor.advance(&self.source, &self.bounds, end)? {
                    self.finished = true;
                }
                continue;
            }
            return Ok(Some(match end {
                End::Front => {
                    cursor.slots.start += 1;
                    slots.start
                }
                End::Back => {
                    cursor.slots.end -= 1;
                    slots.end - 1
                }
            }));
        }
    }

    /// The next slot, in the leaf that this end is at then; after an error, or the last one, nothing ever again.
    #[inline]
    fn step_or_stop(&mut self, end: End) -> Option<Result<usize, TreeError>> {
        let step = self.step(end).transpose();
        if !matches!(step, Some(Ok(_))) {
            self.stop();
        }
        step
    }

    fn stop(&mut self) {
        self.finished = true;
        (self.front, self.back) = (None, None); // Lets go of the leaves.
    }

    #[inline]
    fn cursor(&self, end: End) -> &Cursor {
        let cursor = match end {
            End::Front => &self.front,
            End::Back => &self.back,
        };
        cursor.as_ref().expect("an end that has a slot is in its leaf")
    }

    #[inline]
    fn entry(&mut self, end: End) -> Option<Result<Entry<P>, TreeError>> {
        let slot = self.step_or_stop(end)?;
        Some(slot.map(|slot| self.cursor(end).entry(slot, &self.source)))
    }

    #[inline]
    fn lend<R>(&mut self, end: End, read: impl FnOnce(&[u8], &[u8]) -> R) -> Option<Result<R, TreeError>> {
        let slot = match self.step_or_stop(end)? {
            Ok(slot) => slot,
            Err(error) => return Some(Err(error)),
        };
        let mut key = std::mem::take(&mut self.key);
        let node = Node::new(&self.cursor(end).leaf);
        node.key(slot).copy_to(&mut key);
        let lent = match node.value(slot) {
            Stored::Inline(value) => Ok(read(&key, value)),
            Stored::Large(large) => self.source.tree().read_large(large, 0, usize::MAX).map(|value| read(&key, &value)),
        };
        self.key = key;
        if lent.is_err() {
            self.stop();
        }
        Some(lent)
    }
}

impl Cursor {
    /// Descends to one end of the range.
    fn start<P: Pages>(source: &Source<P>, bounds: &Bounds, end: End) -> Result<Self, TreeError> {
        let tree = source.tree();
        let mut path = Vec::with_capacity(source.root.height().into());
        let mut ptr = source.root.ptr().expect("a range over an empty tree is finished");
        let pin = Pin::new();
        for level in (1..source.root.height()).rev() {
            let node = tree.node(&pin, ptr, level)?;
            let child = match (end, &bounds.0, &bounds.1) {
                (End::Front, Bound::Unbounded, _) => 0,
                (End::Back, _, Bound::Unbounded) => node.count(),
                (End::Front, Bound::Included(key) | Bound::Excluded(key), _)
                | (End::Back, _, Bound::Included(key) | Bound::Excluded(key)) => node.child_for(key),
            };
            path.push((ptr, child));
            ptr = node.child(child).ptr;
        }
        Self::at_leaf(source, bounds, path, ptr, end)
    }

    /// In a leaf, with the slots that lie inside the bounds.
    fn at_leaf<P: Pages>(
        source: &Source<P>,
        bounds: &Bounds,
        path: Vec<(PagePtr, usize)>,
        ptr: PagePtr,
        end: End,
    ) -> Result<Self, TreeError> {
        let leaf = source.pages.page_bytes_shared(source.owner, ptr)?;
        let node = Node::open(&leaf, source.table, 0).map_err(|why| source.tree().corrupt(ptr.page, why))?;
        let start = match &bounds.0 {
            Bound::Unbounded => 0,
            Bound::Included(key) => node.search(key).0,
            Bound::Excluded(key) => {
                let (slot, found) = node.search(key);
                slot + usize::from(found)
            }
        };
        let stop = match &bounds.1 {
            Bound::Unbounded => node.count(),
            Bound::Excluded(key) => node.search(key).0,
            Bound::Included(key) => {
                let (slot, found) = node.search(key);
                slot + usize::from(found)
            }
        };
        let is_last = match end {
            End::Front => stop < node.count(),
            End::Back => start > 0,
        };
        Ok(Self { path, ptr, leaf, slots: start..stop, is_last })
    }

    /// Moves to the neighbouring leaf; `false` when there is none.
    fn advance<P: Pages>(&mut self, source: &Source<P>, bounds: &Bounds, end: End) -> Result<bool, TreeError> {
        let tree = source.tree();
        let height = usize::from(source.root.height());
        let mut path = self.path.clone();
        // Up to the lowest branch that has a child further on.
        let pin = Pin::new();
        let level_of = |depth: usize| u8::try_from(height - 1 - depth).expect("a height is at most 24");
        let mut ptr = loop {
            let Some((ptr, child)) = path.pop() else { return Ok(false) };
            let node = tree.node(&pin, ptr, level_of(path.len()))?;
            let next = match end {
                End::Front => Some(child + 1).filter(|&next| next < node.child_count()),
                End::Back => child.checked_sub(1),
            };
            if let Some(next) = next {
                path.push((ptr, next));
                break node.child(next).ptr;
            }
        };
        // And down along its near edge.
        while path.len() + 1 < height {
            let node = tree.node(&pin, ptr, level_of(path.len()))?;
            let child = match end {
                End::Front => 0,
                End::Back => node.count(),
            };
            path.push((ptr, child));
            ptr = node.child(child).ptr;
        }
        let next = Self::at_leaf(source, bounds, path, ptr, end)?;
        let (before, after) = match end {
            End::Front => (&*self, &next),
            End::Back => (&next, &*self),
        };
        let (before, after) = (Node::new(&before.leaf), Node::new(&after.leaf));
        // Keys grow from leaf to leaf, so a forged tree that leads to a page again and again ends here; one of empty leaves
        // would not.
        if Node::new(&next.leaf).count() == 0 {
            return Err(tree.corrupt(ptr.page, "a leaf without entries"));
        }
        if before.count() > 0 && after.count() > 0 && before.key(before.count() - 1).compare(&after.key(0)).is_ge() {
            return Err(tree.corrupt(ptr.page, "keys of neighbouring leaves are not in order"));
        }
        *self = next;
        Ok(true)
    }

    fn entry<P: Clone>(&self, slot: usize, source: &Source<P>) -> (Bytes, Value<P>) {
        let node = Node::new(&self.leaf);
        let stored = match node.value(slot) {
            Stored::Large(large) => OwnedValue::Large(large, source.clone()),
            // A value that is a good part of the leaf keeps the leaf; a small one must not.
            Stored::Inline(bytes) if bytes.len() * 8 >= self.leaf.len() => {
                OwnedValue::Inline(self.leaf.slice_ref(bytes))
            }
            Stored::Inline(bytes) => OwnedValue::Inline(Bytes::copy_from_slice(bytes)),
        };
        (node.key(slot).to_vec().into(), Value(stored))
    }
}

impl<P: Pages + Clone> Iterator for PageRange<P> {
    type Item = Result<(Bytes, Value<P>), TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.entry(End::Front)
    }
}

impl<P: Pages + Clone> DoubleEndedIterator for PageRange<P> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.entry(End::Back)
    }
}

impl<P: Pages + Clone> std::iter::FusedIterator for PageRange<P> {}
