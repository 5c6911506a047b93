//! How many pages there are of each kind, and why.

/// Where a file's pages are. Every page is counted once: the fields after `file_pages` add up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AllocStats {
    /// The length of the file.
    pub file_pages: u64,
    /// Can be granted now.
    pub free: u64,
    /// Reserved by transactions, open or between two of one family, and neither committed nor given back.
    pub lent: u64,
    /// Freed by commits; free once a checkpoint that covers them has finished.
    pub awaiting_checkpoint: u64,
    /// Freed by commits and covered by a checkpoint, but a snapshot can still reach them.
    pub pinned: u64,
    /// Never granted: the header and the homes of the map.
    pub fixed: u64,
    /// The rest: reachable from the newest commits, or permanent.
    pub used: u64,
}
