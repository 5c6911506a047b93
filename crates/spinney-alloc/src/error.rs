//! What an allocation map read from a file can have wrong with it, and what its owner must fetch.

use crate::words::Extent;

/// What the caller has to do before it makes the same call again. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Need {
    /// Read the page at [`directory_home`](crate::Allocator::directory_home) and hand it to
    /// [`load_directory`](crate::Allocator::load_directory).
    Directory(u32),
    /// Read the page at [`region_home`](crate::Allocator::region_home) and hand it to
    /// [`load_region`](crate::Allocator::load_region).
    Region(u32),
    /// Make the file longer by at least this many pages and say so with
    /// [`grow`](crate::Allocator::grow). Where that would pass
    /// [`max_file_pages`](crate::Geometry::max_file_pages), or the device is full, the caller may still
    /// ask for fewer pages: a single one is granted as long as any is free.
    Growth {
        /// Pages missing at the end of the file.
        pages: u64,
    },
}

/// An allocation map, or something that refers to it, that no correct file can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// A map page says something impossible.
    #[error("map page of region {region}: {why}")]
    Region {
        /// Which region.
        region: u32,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A directory page, or its line in the superblock, says something impossible.
    #[error("directory {directory} of the allocation map: {why}")]
    Directory {
        /// Which directory.
        directory: u32,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An extent that cannot have been granted.
    #[error("extent {extent:?}: {why}")]
    Extent {
        /// Which extent.
        extent: Extent,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file shorter than its fixed pages or longer than the map can describe.
    #[error("a file of {file_pages} pages, outside {min} to {max} pages")]
    FileSize {
        /// The length found or asked for.
        file_pages: u64,
        /// The shortest file.
        min: u64,
        /// The longest file.
        max: u64,
    },
}

/// Why a commit found in a log could not be noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// A map page has to be loaded first.
    #[error("{0:?} has to be loaded first")]
    Need(Need),
    /// The commit cannot have happened to this file.
    #[error(transparent)]
    Map(#[from] MapError),
}

impl From<Need> for ReplayError {
    fn from(need: Need) -> Self {
        Self::Need(need)
    }
}
