//! Ordered iteration from both ends.

use crate::{
    error::TreeError,
    root::{TableId, TreeRoot},
};
use bytes::Bytes;
use spinney_file::{FileError, Owner, PageNo, PagePtr, Pages, Pin};
use std::ops::Bound;

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
    fn pin(&self) -> Pin {
        self.0.pin()
    }

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
}

/// The value of an entry met in a range: large values are read only when asked for.
#[derive(Clone, Debug)]
pub struct Value<P> {
    pages: P,
}

impl<P: Pages> Value<P> {
    /// In bytes. Costs nothing.
    pub fn len(&self) -> u64 {
        unimplemented!()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All bytes. Costs nothing for a value that was in the leaf.
    pub fn read(&self) -> Result<Bytes, TreeError> {
        unimplemented!()
    }

    /// Up to `len` bytes from byte `offset` on; see [`Tree::read_at`](crate::Tree::read_at).
    pub fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, TreeError> {
        unimplemented!()
    }
}

/// The entries of a range, in order from either end. Owns what it needs, holds no pin between calls, and keeps at most
/// two leaves in memory. After an error it yields that error's end: `None`, never an entry further on.
#[derive(Debug)]
pub struct Range<P> {
    pages: P,
}

impl<P: Pages + Clone> Range<P> {
    /// Reads nothing yet.
    pub fn new(pages: P, owner: Owner, table: TableId, root: TreeRoot, bounds: Bounds) -> Self {
        unimplemented!()
    }
}

impl<P: Pages + Clone> Iterator for Range<P> {
    type Item = Result<(Bytes, Value<P>), TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        unimplemented!()
    }
}

impl<P: Pages + Clone> DoubleEndedIterator for Range<P> {
    fn next_back(&mut self) -> Option<Self::Item> {
        unimplemented!()
    }
}
