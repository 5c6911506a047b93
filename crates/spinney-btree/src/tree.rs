//! Reading one tree: descent, point reads, counts.

use crate::{
    error::TreeError,
    range::{Bounds, Range},
    root::{TableId, TreeRoot},
};
use bytes::Bytes;
use spinney_file::{Owner, Pages};

/// One tree as its root shows it. Borrowed and cheap to make: make one per operation.
#[derive(Debug)]
pub struct Tree<'a, P> {
    pages: &'a P,
    owner: Owner,
    table: TableId,
    root: TreeRoot,
}

impl<'a, P: Pages> Tree<'a, P> {
    /// A tree whose pages are read from `pages`.
    pub fn new(pages: &'a P, owner: Owner, table: TableId, root: TreeRoot) -> Self {
        Self { pages, owner, table, root }
    }

    /// Entries. Costs nothing.
    pub fn len(&self) -> u64 {
        self.root.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    /// The value of a key. O(height); a small value is copied out, a large one is read whole.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, TreeError> {
        unimplemented!()
    }

    /// Lends the value to `read` without copying it when it lies in a leaf.
    pub fn get_with<R>(&self, key: &[u8], read: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, TreeError> {
        unimplemented!()
    }

    /// Whether the key is there. Touches no large value.
    pub fn contains(&self, key: &[u8]) -> Result<bool, TreeError> {
        unimplemented!()
    }

    /// The length of a key's value, in bytes. Touches no large value.
    pub fn value_len(&self, key: &[u8]) -> Result<Option<u64>, TreeError> {
        unimplemented!()
    }

    /// Up to `len` bytes of a key's value from byte `offset` on, fewer at its end. Of a large value only the 64 KiB
    /// chunks that are touched are read and verified.
    pub fn read_at(&self, key: &[u8], offset: u64, len: usize) -> Result<Option<Bytes>, TreeError> {
        unimplemented!()
    }

    /// The first entry.
    pub fn first(&self) -> Result<Option<(Bytes, Bytes)>, TreeError> {
        unimplemented!()
    }

    /// The last entry.
    pub fn last(&self) -> Result<Option<(Bytes, Bytes)>, TreeError> {
        unimplemented!()
    }

    /// How many entries lie in a range: exact, from the counts in child pointers, O(height).
    pub fn count(&self, bounds: &Bounds) -> Result<u64, TreeError> {
        unimplemented!()
    }

    /// The entries of a range, in order from either end.
    pub fn range(&self, bounds: Bounds) -> Range<P>
    where
        P: Clone,
    {
        Range::new(self.pages.clone(), self.owner, self.table, self.root, bounds)
    }
}
