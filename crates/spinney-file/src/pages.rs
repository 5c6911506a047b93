//! Reading pages, wherever they come from: the file, or a transaction that sees its own.

use crate::{cache::Pin, error::FileError, page::PagePtr};
use bytes::Bytes;
use spinney_alloc::{Owner, PageNo};
use std::any::Any;

/// Something pages can be read from. A [`PagedFile`](crate::PagedFile) gives what is committed, a
/// [`Part`](crate::Part) also what its transaction has changed.
pub trait Pages {
    /// The page behind `ptr`, verified; header included. A hit in the cache costs about ten nanoseconds and no lock.
    ///
    /// # Errors
    /// [`FileError::Corrupt`] when storage holds something else, [`FileError::Io`] when it cannot be read.
    fn page<'a>(&'a self, pin: &'a Pin, owner: Owner, ptr: PagePtr) -> Result<&'a [u8], FileError>;

    /// The same as a buffer that keeps the page in memory as long as it lives. A transaction's private page is copied.
    ///
    /// # Errors
    /// As [`page`](Pages::page).
    fn page_bytes_shared(&self, owner: Owner, ptr: PagePtr) -> Result<Bytes, FileError>;

    /// `len` bytes of raw pages, `offset` bytes after the start of page `at`: not verified, not cached.
    ///
    /// # Errors
    /// [`FileError::Io`], or [`FileError::Truncated`] when the file ends first.
    fn read_raw(&self, at: PageNo, offset: u64, len: usize) -> Result<Bytes, FileError>;

    /// The page size.
    fn page_bytes(&self) -> usize;

    /// What stands above an owner's root and is not in its pages yet, for the layer that made it: of a snapshot's version, or of a
    /// transaction.
    fn above(&self, owner: Owner) -> Option<&(dyn Any + Send + Sync)> {
        let _ = owner;
        None
    }
}
