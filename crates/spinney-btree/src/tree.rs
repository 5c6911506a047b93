//! Reading one tree: descent, point reads, counts.

use crate::{
    error::TreeError,
    large::LargeReader,
    layers::Over,
    node::{LargeRef, Node, Stored},
    range::{Borrowed, Bounds, Range, borrowed},
    root::{TableId, TreeRoot},
};
use bytes::Bytes;
use spinney_file::{Owner, PageNo, PagePtr, Pages, Pin};
use std::ops::Bound;

/// One tree as its root shows it, and what stands above that and is not in pages yet. Borrowed and cheap to make: make one per operation.
#[derive(Debug)]
pub struct Tree<'a, P> {
    pages: &'a P,
    owner: Owner,
    table: TableId,
    root: TreeRoot,
    over: Over<'a>,
}

impl<P> Clone for Tree<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Tree<'_, P> {}

impl<'a, P: Pages> Tree<'a, P> {
    /// A tree whose pages are read from `pages`.
    pub fn new(pages: &'a P, owner: Owner, table: TableId, root: TreeRoot) -> Self {
        Self { pages, owner, table, root, over: Over::of(pages, owner, table) }
    }

    /// Entries. O(1), but for keys that were [put](crate::TreeMut::put) or [deleted](crate::TreeMut::delete) by small commits since the
    /// last checkpoint: the first who asks looks for them.
    ///
    /// # Errors
    /// Those of looking for them.
    pub fn len(&self) -> Result<u64, TreeError> {
        Ok(self.root.len().saturating_add_signed(self.over.change(|key| self.is_in_pages(key))?))
    }

    /// Whether there is no entry. Costs as much as [`len`](Self::len).
    ///
    /// # Errors
    /// Those of [`len`](Self::len).
    pub fn is_empty(&self) -> Result<bool, TreeError> {
        Ok(self.len()? == 0)
    }

    /// The value of a key, copied out; a large one is read whole. O(height).
    ///
    /// # Errors
    /// Those of reading a page; [`TreeError::Corrupt`] when pages do not fit together. The same for all reads.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, TreeError> {
        if let Some(known) = self.over.get(key, |known| known.map(Bytes::copy_from_slice)) {
            return Ok(known);
        }
        self.find(key, |stored| match stored {
            Stored::Inline(bytes) => Ok(Bytes::copy_from_slice(bytes)),
            Stored::Large(large) => self.large().read_at(large, 0, usize::MAX),
        })
    }

    /// Lends the value to `read` without copying it when it lies in a leaf.
    pub fn get_with<R>(&self, key: &[u8], read: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, TreeError> {
        let mut read = Some(read);
        let mut read = |value: &[u8]| read.take().map(|read| read(value));
        if let Some(known) = self.over.get(key, |known| known.and_then(&mut read)) {
            return Ok(known);
        }
        let found = self.find(key, |stored| match stored {
            Stored::Inline(bytes) => Ok(read(bytes)),
            Stored::Large(large) => Ok(read(&self.large().read_at(large, 0, usize::MAX)?)),
        });
        Ok(found?.flatten())
    }

    /// Whether the key is there. Touches no large value.
    pub fn contains(&self, key: &[u8]) -> Result<bool, TreeError> {
        if let Some(is_there) = self.over.get(key, |known| known.is_some()) {
            return Ok(is_there);
        }
        self.is_in_pages(key)
    }

    fn is_in_pages(&self, key: &[u8]) -> Result<bool, TreeError> {
        Ok(self.find(key, |_| Ok(()))?.is_some())
    }

    /// The length of a key's value, in bytes. Touches no large value.
    pub fn value_len(&self, key: &[u8]) -> Result<Option<u64>, TreeError> {
        if let Some(len) = self.over.get(key, |known| known.map(|value| value.len() as u64)) {
            return Ok(len);
        }
        self.find(key, |stored| match stored {
            Stored::Inline(bytes) => Ok(bytes.len() as u64),
            Stored::Large(large) => Ok(large.bytes),
        })
    }

    /// Up to `len` bytes of a key's value from byte `offset` on, fewer at its end. Of a large value only the 64 KiB
    /// chunks that are touched are read and verified.
    pub fn read_at(&self, key: &[u8], offset: u64, len: usize) -> Result<Option<Bytes>, TreeError> {
        let read = |value: &[u8]| Bytes::copy_from_slice(&value[piece(value.len(), offset, len)]);
        if let Some(known) = self.over.get(key, |known| known.map(read)) {
            return Ok(known);
        }
        self.find(key, |stored| match stored {
            Stored::Inline(bytes) => Ok(Bytes::copy_from_slice(&bytes[piece(bytes.len(), offset, len)])),
            Stored::Large(large) => self.large().read_at(large, offset, len),
        })
    }

    /// The first entry.
    pub fn first(&self) -> Result<Option<(Bytes, Bytes)>, TreeError> {
        if !self.over.is_empty() {
            let first = Range::new(Borrowed(self.pages), self.owner, self.table, self.root, EVERYTHING).next();
            return first.transpose()?.map(|(key, value)| Ok((key, value.read()?))).transpose();
        }
        self.end(|_| 0, |_| 0)
    }

    /// The last entry.
    pub fn last(&self) -> Result<Option<(Bytes, Bytes)>, TreeError> {
        if !self.over.is_empty() {
            let last = Range::new(Borrowed(self.pages), self.owner, self.table, self.root, EVERYTHING).next_back();
            return last.transpose()?.map(|(key, value)| Ok((key, value.read()?))).transpose();
        }
        self.end(|branch| branch.count(), |leaf| leaf.count().wrapping_sub(1))
    }

    /// How many entries lie in a range: exact, from the counts in child pointers, O(height), and what stands above pages in that range.
    pub fn count(&self, bounds: &Bounds) -> Result<u64, TreeError> {
        let before = |key: &[u8], inclusive: bool| self.rank(key, inclusive);
        let start = match &bounds.0 {
            Bound::Unbounded => 0,
            Bound::Included(key) => before(key, false)?,
            Bound::Excluded(key) => before(key, true)?,
        };
        let end = match &bounds.1 {
            Bound::Unbounded => self.root.len(),
            Bound::Included(key) => before(key, true)?,
            Bound::Excluded(key) => before(key, false)?,
        };
        let change = self.over.change_in(borrowed(bounds), |key| self.is_in_pages(key))?;
        Ok(end.saturating_sub(start).saturating_add_signed(change))
    }

    /// The entries of a range, in order from either end.
    pub fn range(&self, bounds: Bounds) -> Range<P>
    where
        P: Clone,
    {
        Range::new(self.pages.clone(), self.owner, self.table, self.root, bounds)
    }

    /// How many entries are below a key, or not above it.
    fn rank(&self, key: &[u8], inclusive: bool) -> Result<u64, TreeError> {
        let pin = Pin::new();
        let Some(mut ptr) = self.root.ptr() else { return Ok(0) };
        let mut rank = 0u64;
        for level in (0..self.root.height()).rev() {
            let node = self.node(&pin, ptr, level)?;
            if level == 0 {
                let (slot, found) = node.search(key);
                return Ok(rank.saturating_add(slot as u64 + u64::from(found && inclusive)));
            }
            let index = node.child_for(key);
            rank = (0..index).fold(rank, |rank, i| rank.saturating_add(node.child(i).entries));
            ptr = node.child(index).ptr;
        }
        unreachable!("a tree with a root has a level 0")
    }

    /// Descends to a key's value.
    #[inline]
    fn find<R>(
        &self,
        key: &[u8],
        read: impl FnOnce(Stored<'_>) -> Result<R, TreeError>,
    ) -> Result<Option<R>, TreeError> {
        let Some(mut ptr) = self.root.ptr() else { return Ok(None) };
        let pin = Pin::new();
        for level in (1..self.root.height()).rev() {
            let node = self.node(&pin, ptr, level)?;
            ptr = node.child(node.child_for(key)).ptr;
        }
        let leaf = self.node(&pin, ptr, 0)?;
        match leaf.search(key) {
            (slot, true) => Ok(Some(read(leaf.value(slot))?)),
            _ => Ok(None),
        }
    }

    /// The entry at one end of the tree.
    fn end(
        &self,
        child: impl Fn(&Node<'_>) -> usize,
        slot: impl Fn(&Node<'_>) -> usize,
    ) -> Result<Option<(Bytes, Bytes)>, TreeError> {
        let Some(mut ptr) = self.root.ptr() else { return Ok(None) };
        let pin = Pin::new();
        for level in (1..self.root.height()).rev() {
            let node = self.node(&pin, ptr, level)?;
            ptr = node.child(child(&node)).ptr;
        }
        let leaf = self.node(&pin, ptr, 0)?;
        let slot = slot(&leaf);
        if slot >= leaf.count() {
            return Err(self.corrupt(ptr.page, "a leaf without entries"));
        }
        let value = match leaf.value(slot) {
            Stored::Inline(bytes) => Bytes::copy_from_slice(bytes),
            Stored::Large(large) => self.large().read_at(large, 0, usize::MAX)?,
        };
        Ok(Some((leaf.key(slot).to_vec().into(), value)))
    }

    /// A page as a node of this tree.
    #[inline]
    pub(crate) fn node<'p>(&'p self, pin: &'p Pin, ptr: PagePtr, level: u8) -> Result<Node<'p>, TreeError> {
        let page = self.pages.page(pin, self.owner, ptr)?;
        Node::open(page, self.table, level).map_err(|why| self.corrupt(ptr.page, why))
    }

    fn large(&self) -> LargeReader<'a, P> {
        LargeReader { pages: self.pages, owner: self.owner, table: self.table }
    }

    pub(crate) fn corrupt(&self, page: PageNo, why: &'static str) -> TreeError {
        TreeError::Corrupt { page, owner: self.owner, table: self.table, why }
    }

    /// A large value found in one of the tree's leaves.
    pub(crate) fn read_large(&self, large: LargeRef, offset: u64, len: usize) -> Result<Bytes, TreeError> {
        self.large().read_at(large, offset, len)
    }
}

const EVERYTHING: Bounds = (Bound::Unbounded, Bound::Unbounded);

/// A value that is kept by whoever gets it: a small one must not keep the buffer of a whole commit.
pub(crate) fn own(value: Bytes) -> Bytes {
    const SHARED_BYTES_MIN: usize = 512;
    if value.len() < SHARED_BYTES_MIN { Bytes::copy_from_slice(&value) } else { value }
}

/// Where up to `len` bytes from `offset` on are in a value of `bytes`.
pub(crate) fn piece(bytes: usize, offset: u64, len: usize) -> std::ops::Range<usize> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes);
    start..start.saturating_add(len).min(bytes)
}
