//! Single operations: what scripted runs consist of, and what all short sequences are made of.

use spinney::Durability;

/// Families are numbers into [`FAMILIES`](super::runner::FAMILIES). What changes a family opens a transaction over all families
/// unless one is open; [`Commit`](Self::Commit) ends it. Operations on a family that does not exist do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Create(usize),
    Drop(usize),
    Rename(usize, usize),
    Put {
        family: usize,
        key: u8,
        bytes: usize,
    },
    Remove {
        family: usize,
        key: u8,
    },
    /// Keys from the first to before the second.
    RemoveRange {
        family: usize,
        from: u8,
        to: u8,
    },
    Commit(Durability),
    Abort,
    Checkpoint,
    Flush,
    /// Takes a snapshot and keeps it.
    Hold,
    /// Drops the oldest snapshot that is kept.
    Release,
    /// Drops the transaction and all snapshots, closes and opens.
    Reopen,
    Maintain(u64),
    Reclaim(u64),
}

/// Puts so many keys of a family from the first on.
pub fn puts(family: usize, from: u8, count: u8, bytes: usize) -> impl Iterator<Item = Op> {
    (from..from + count).map(move |key| Op::Put { family, key, bytes })
}
