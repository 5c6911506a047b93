//! What can go wrong in a paged file; variants differ where the caller's next step differs.

use spinney_alloc::{Owner, PageNo, Seq};
use std::{fmt, io, sync::Arc, time::Duration};

/// A call to the storage, as named by errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IoOp {
    /// Reading bytes.
    Read,
    /// Writing bytes, durable or not.
    Write,
    /// Making writes durable.
    Sync,
    /// Giving a range real blocks.
    Allocate,
    /// Cutting the file or giving blocks back.
    Shrink,
    /// Opening, locking or asking for the length.
    Open,
}

impl fmt::Display for IoOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "reading",
            Self::Write => "writing",
            Self::Sync => "syncing",
            Self::Allocate => "allocating",
            Self::Shrink => "shrinking",
            Self::Open => "opening",
        })
    }
}

/// An error of the paged file. Cheap to clone: a failed sync is told to everybody who waited for it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// A system call failed. Nothing was committed by the call that returns this; unless the error repeats, try again.
    #[error("{op} at byte {at} failed: {source}")]
    Io {
        /// What was tried.
        op: IoOp,
        /// Where in the file, in bytes.
        at: u64,
        /// What the operating system said.
        source: Arc<io::Error>,
    },

    /// No space: neither free pages in the file nor room for it to grow. Nothing was committed; delete
    /// something, or make room on the file system.
    #[error("no space for {bytes_wanted} more bytes: delete data, free disk space or raise the size limit")]
    Full {
        /// What was asked for, in bytes.
        bytes_wanted: u64,
    },

    /// A page does not hold what was written to it. Restore it from a backup; other families stay readable.
    #[error("page {page} at byte {at} (owner {owner:?}) is corrupt: {why}")]
    Corrupt {
        /// The page.
        page: PageNo,
        /// Whose it is, where that is known.
        owner: Option<Owner>,
        /// Where it starts in the file, in bytes.
        at: u64,
        /// What does not fit.
        why: &'static str,
    },

    /// A structure outside the pages (superblock, log) is damaged. Restore from a backup.
    #[error("the file is damaged at byte {at}: {why}")]
    Damaged {
        /// Where in the file, in bytes.
        at: u64,
        /// What does not fit.
        why: &'static str,
    },

    /// The file is shorter than what its durable state needs.
    #[error("the file is truncated: {bytes_needed} bytes needed, {bytes} present")]
    Truncated {
        /// Length that the durable state needs.
        bytes_needed: u64,
        /// Length found.
        bytes: u64,
    },

    /// The file does not begin with a superblock of this format. Nothing was written to it.
    #[error("not a Spinney file")]
    NotADatabase,

    /// The file was written by a newer version of the format. Nothing was written to it.
    #[error("format version {found} is newer than the supported {supported}: use a newer release")]
    Version {
        /// In the file.
        found: u32,
        /// The newest this build reads.
        supported: u32,
    },

    /// Another open file holds the lock, in this process or another.
    #[error("the file is open already, in this process or another")]
    AlreadyOpen,

    /// An option does not fit (page size not a power of two from 4 KiB to 64 KiB, budget too small).
    #[error("invalid option: {0}")]
    Option(&'static str),

    /// A sync failed earlier, so nothing more is accepted: the kernel may have dropped what it could not write,
    /// and a retry that succeeds would prove nothing. Reading goes on; reopen the file to recover.
    #[error("an earlier write or sync of the log failed; reopen the file")]
    Poisoned,

    /// The log write or sync that carried this commit failed: whether it survives is decided when the file is reopened.
    #[error("commit {seq} may or may not be on disk: the write of the log failed; reopen the file to find out")]
    CommitOutcomeUnknown {
        /// The commit.
        seq: Seq,
    },

    /// Another writer kept the slot for longer than the caller would wait.
    #[error("owner {owner:?} is being written by a transaction begun {held_for:?} ago")]
    Busy {
        /// Whose slot.
        owner: Owner,
        /// For how long it has been held.
        held_for: Duration,
    },

    /// An earlier write of this transaction failed: its pages are not all there, so it can only be aborted.
    #[error("an earlier write of this transaction failed: abort it and try again")]
    TransactionBroken,

    /// The last checkpoint failed, and this commit needs the space one would free.
    #[error("the log is full and the last checkpoint failed: {0}")]
    CheckpointFailed(Arc<FileError>),

    /// The file was closed.
    #[error("the file is closed")]
    Closed,

    /// Opened for reading only.
    #[error("the file is open for reading only")]
    ReadOnly,

    /// This process inherited the open file from the one it was forked from, and must not touch it. Open it anew.
    #[error("the file was opened by the process that this one was forked from: open it here, once it is closed there")]
    Forked,
}

impl FileError {
    pub(crate) fn io(op: IoOp, at: u64, source: io::Error) -> Self {
        Self::Io { op, at, source: Arc::new(source) }
    }
}
