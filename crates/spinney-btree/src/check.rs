//! The structural check: every page of a family, once, and everything the pages promise each other.

use crate::{
    error::TreeError,
    root::{FamilyRoot, TableId, TreeRoot},
};
use spinney_file::{Extent, Owner, Pages, Stamp};

/// How thorough a check is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// Also read the bytes of large values and verify the checksum of each 64 KiB.
    pub large_values: bool,
}

/// What a check found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CheckReport {
    /// Tables, the default table included.
    pub tables: u64,
    /// Entries of all tables.
    pub entries: u64,
    /// Leaf and branch pages of tables and directory.
    pub node_pages: u64,
    /// Pages of large values.
    pub extent_pages: u64,
    /// Pages of all sorts that wait in the graveyard.
    pub graveyard_pages: u64,
    /// What does not fit, at most [`CheckReport::PROBLEMS_MAX`] of them.
    pub problems: Vec<TreeError>,
}

impl CheckReport {
    /// No more problems than these are listed.
    pub const PROBLEMS_MAX: usize = 100;

    /// Whether nothing was wrong.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Verifies a whole family: order, separators, counts, fill, levels, pointers, large values, graveyard; and reports every
/// extent that it reaches with its birth, each once. Linear in the pages, with one bit of memory per page.
///
/// # Errors
/// Errors that are not about the content of the family: the file is closed, a system call failed.
pub fn check<P: Pages>(
    pages: &P,
    owner: Owner,
    root: &FamilyRoot,
    options: CheckOptions,
    visit: &mut dyn FnMut(Extent, Stamp),
) -> Result<CheckReport, TreeError> {
    unimplemented!()
}

/// How one tree fills its pages.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct TreeStats {
    /// Levels.
    pub height: u8,
    /// Entries.
    pub entries: u64,
    /// Pages at level 0.
    pub leaf_pages: u64,
    /// Pages above.
    pub branch_pages: u64,
    /// Pages of large values.
    pub extent_pages: u64,
    /// Bytes of leaves that hold something, out of all their bytes: 0.0 to 1.0.
    pub leaf_fill: f64,
    /// Bytes of branches that hold something, out of all their bytes: 0.0 to 1.0.
    pub branch_fill: f64,
}

/// Counts pages and fill of one tree. Reads every page of it, but no large value.
pub fn stats<P: Pages>(pages: &P, owner: Owner, table: TableId, root: TreeRoot) -> Result<TreeStats, TreeError> {
    unimplemented!()
}
