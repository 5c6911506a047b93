//! The words every layer shares: where a page is, whose it is, and when.

use std::{fmt, num::NonZeroU64};

/// A page's position in the file, counted in pages. Page 0 holds the superblock and is never a
/// `PageNo`, so `Option<PageNo>` is eight bytes and "no child" needs no sentinel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNo(NonZeroU64);

impl PageNo {
    /// The last page number any file can have: its end, at the largest page size (64 KiB), still
    /// fits a signed 64-bit file offset.
    pub const MAX: u64 = (i64::MAX as u64 >> 16) - 1;

    /// `None` for 0 and beyond [`PageNo::MAX`]; hence a page's byte offset cannot overflow.
    #[inline]
    pub const fn new(raw: u64) -> Option<Self> {
        match NonZeroU64::new(raw) {
            Some(page) if raw <= Self::MAX => Some(Self(page)),
            _ => None,
        }
    }

    /// The number itself.
    #[inline]
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Debug for PageNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

impl fmt::Display for PageNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A run of adjacent pages. Never empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// The first page.
    pub start: PageNo,
    /// How many pages, at least 1.
    pub pages: u64,
}

impl Extent {
    /// The extent of one page.
    #[inline]
    pub const fn page(start: PageNo) -> Self {
        Self { start, pages: 1 }
    }

    /// `None` when empty or when the last page would be beyond [`PageNo::MAX`]: for numbers that
    /// come from a file.
    pub const fn new(start: u64, pages: u64) -> Option<Self> {
        match (PageNo::new(start), start.checked_add(pages)) {
            (Some(first), Some(end)) if pages > 0 && end - 1 <= PageNo::MAX => Some(Self { start: first, pages }),
            _ => None,
        }
    }

    /// The page number after the last page.
    #[inline]
    pub const fn end(self) -> u64 {
        self.start.get() + self.pages
    }

    /// Whether `page` lies inside.
    #[inline]
    pub const fn contains(self, page: PageNo) -> bool {
        self.start.get() <= page.get() && page.get() < self.end()
    }
}

impl fmt::Debug for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}+{}", self.start, self.pages)
    }
}

/// What a column family is called below the facade. Owner 0 is the tree of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Owner(pub u32);

/// Drawn by a writer while it holds its slots, and carried by the pages it writes and by the
/// pointers to them. Inside one family stamps and commit sequence numbers grow together. Never 0
/// on a page.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp(pub u64);

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

/// Commit sequence number: one counter for the whole file, given when a commit is appended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub u64);

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
