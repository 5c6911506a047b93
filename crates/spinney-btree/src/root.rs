//! Where trees begin: the root of one tree, and the two roots a family stores.

use crate::error::TreeError;
use spinney_file::{Descriptor, Owner, PageNo, PagePtr, Stamp};

/// A named tree inside a family. Names live above this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TableId(pub u32);

impl TableId {
    /// The table every family has.
    pub const DEFAULT: Self = Self(0);
    /// The directory of a family's other tables. Not for callers: its keys are table ids.
    pub const DIRECTORY: Self = Self(u32::MAX);
}

/// Where a tree begins, and what is known about it without reading a page.
///
/// | at | size | field    | meaning                                                    |
/// |---:|-----:|----------|------------------------------------------------------------|
/// |  0 |    8 | page     | the root page; 0 = an empty tree, and all the rest is zero |
/// |  8 |    8 | stamp    | what the root page carries                                 |
/// | 16 |    8 | entries  | in the whole tree                                          |
/// | 24 |    1 | height   | levels, 1 = the root is a leaf; at most 24                 |
/// | 25 |    1 | flags    | bit 0: some value has an extent of its own                 |
/// | 26 |    6 | reserved | zero when written, checked when read                       |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeRoot {
    ptr: Option<PagePtr>,
    entries: u64,
    height: u8,
    extents_below: bool,
}

impl TreeRoot {
    /// On disk, in bytes.
    pub const LEN: usize = 32;
    /// No tree is higher.
    pub const HEIGHT_MAX: u8 = 24;
    /// The tree without entries.
    pub const EMPTY: Self = Self { ptr: None, entries: 0, height: 0, extents_below: false };
    /// Counts are 48 bits wide on disk.
    pub(crate) const ENTRIES_MAX: u64 = (1 << 48) - 1;
    const EXTENTS_BELOW: u8 = 1;

    /// The root of a tree that has pages.
    pub(crate) fn new(ptr: PagePtr, entries: u64, height: u8, extents_below: bool) -> Self {
        assert!(0 < height && height <= Self::HEIGHT_MAX, "a tree of {height} levels");
        Self { ptr: Some(ptr), entries, height, extents_below }
    }

    /// The root page; `None` when the tree is empty.
    #[inline]
    pub fn ptr(&self) -> Option<PagePtr> {
        self.ptr
    }

    /// Entries in the tree. Costs nothing.
    #[inline]
    pub fn len(&self) -> u64 {
        self.entries
    }

    /// Whether there is no entry.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Levels; 0 for an empty tree.
    #[inline]
    pub fn height(&self) -> u8 {
        self.height
    }

    /// Whether some value of the tree has pages of its own.
    #[inline]
    pub fn extents_below(&self) -> bool {
        self.extents_below
    }

    /// To disk.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        if let Some(ptr) = self.ptr {
            out[..8].copy_from_slice(&ptr.page.get().to_le_bytes());
            out[8..16].copy_from_slice(&ptr.stamp.0.to_le_bytes());
            out[16..24].copy_from_slice(&self.entries.to_le_bytes());
            out[24] = self.height;
            out[25] = u8::from(self.extents_below) * Self::EXTENTS_BELOW;
        }
        out
    }

    /// From disk.
    ///
    /// # Errors
    /// What does not fit, in words: the caller knows whose root it is.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().map_err(|_| "a root is 32 bytes long")?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        if bytes[26..].iter().any(|&b| b != 0) || bytes[25] & !Self::EXTENTS_BELOW != 0 {
            return Err("reserved bits of a root are set");
        }
        if word(0) == 0 {
            return if bytes.iter().all(|&b| b == 0) { Ok(Self::EMPTY) } else { Err("an empty root has a rest") };
        }
        let page = PageNo::new(word(0)).ok_or("a root page beyond the last possible page")?;
        let (stamp, entries, height) = (Stamp(word(8)), word(16), bytes[24]);
        if stamp.0 == 0 {
            return Err("a root without a stamp");
        }
        if entries == 0 || entries > Self::ENTRIES_MAX {
            return Err("a root with an impossible number of entries");
        }
        if height == 0 || height > Self::HEIGHT_MAX {
            return Err("a root with an impossible height");
        }
        Ok(Self { ptr: Some(PagePtr { page, stamp }), entries, height, extents_below: bytes[25] != 0 })
    }
}

/// A family's roots: exactly what the file layer stores per owner.
///
/// | at | size | field   | meaning                                                   |
/// |---:|-----:|---------|-----------------------------------------------------------|
/// |  0 |   32 | default | [`TreeRoot`] of the default table                         |
/// | 32 |   32 | tables  | [`TreeRoot`] of the directory: other tables and graveyard |
///
/// The directory is a tree like the others, of two sorts of entries:
///
/// | key                                    | value                                             |
/// |----------------------------------------|---------------------------------------------------|
/// | 4 bytes: table id, big-endian          | that table's [`TreeRoot`]                         |
/// | 12 bytes: `FF FF FF FF`, u64 big-endian | a [`Grave`](crate::Grave): pages that wait to be freed |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FamilyRoot {
    /// The default table.
    pub default: TreeRoot,
    /// The directory of the other tables and of the graveyard.
    pub tables: TreeRoot,
}

impl FamilyRoot {
    /// A family without entries and tables: 64 zero bytes.
    pub const EMPTY: Self = Self { default: TreeRoot::EMPTY, tables: TreeRoot::EMPTY };

    /// To the file layer.
    pub fn encode(&self) -> Descriptor {
        let mut out = [0; 64];
        out[..32].copy_from_slice(&self.default.encode());
        out[32..].copy_from_slice(&self.tables.encode());
        out
    }

    /// From the file layer.
    ///
    /// # Errors
    /// [`TreeError::BadRoot`] when either half is not a root.
    pub fn decode(owner: Owner, descriptor: &Descriptor) -> Result<Self, TreeError> {
        let root = |half: &[u8]| TreeRoot::decode(half).map_err(|why| TreeError::BadRoot { owner, why });
        Ok(Self { default: root(&descriptor[..32])?, tables: root(&descriptor[32..])? })
    }
}
