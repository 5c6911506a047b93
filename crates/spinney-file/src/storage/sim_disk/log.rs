//! What was done to a disk, in order, so that any moment of it can be made again.

use super::state::{DiskState, Effect, Issue};
use std::fmt;

/// One step, as small as a power cut can come between.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Bytes or a length were handed over; of a durable write this is only the beginning.
    Changed {
        call: Call,
        issue: Issue,
        effects: Vec<Effect>,
    },
    /// A durable write has succeeded or failed.
    WriteSynced {
        issue: Issue,
    },
    WriteSyncFailed {
        issue: Issue,
        seed: u64,
    },
    SyncBegan,
    /// It covers every issue below.
    Synced {
        before: Issue,
    },
    SyncFailed {
        before: Issue,
        seed: u64,
    },
    /// Clean cached bytes were dropped.
    CacheDropped {
        at: u64,
        bytes: u64,
    },
}

impl Step {
    pub(crate) fn redo(&self, state: &mut DiskState) {
        match self {
            Self::Changed { issue, effects, .. } => state.issue(*issue, effects.iter().cloned()),
            Self::WriteSynced { issue } => state.write_synced(*issue),
            Self::WriteSyncFailed { issue, seed } => state.write_sync_failed(*issue, *seed),
            Self::SyncBegan => {}
            Self::Synced { before } => state.synced(*before),
            Self::SyncFailed { before, seed } => state.sync_failed(*before, *seed),
            Self::CacheDropped { at, bytes } => state.drop_cache(*at, *bytes),
        }
    }
}

/// A call that changes the file, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Write { at: u64, bytes: u64 },
    WriteSync { at: u64, bytes: u64 },
    Allocate { at: u64, bytes: u64 },
    Punch { at: u64, bytes: u64 },
    SetLen { bytes: u64 },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { call, .. } => match call {
                Call::Write { at, bytes } => write!(f, "write {at}+{bytes}"),
                Call::WriteSync { at, bytes } => write!(f, "write_sync {at}+{bytes} begins"),
                Call::Allocate { at, bytes } => write!(f, "allocate {at}+{bytes}"),
                Call::Punch { at, bytes } => write!(f, "punch {at}+{bytes}"),
                Call::SetLen { bytes } => write!(f, "set_len {bytes}"),
            },
            Self::WriteSynced { .. } => f.write_str("write_sync ends"),
            Self::WriteSyncFailed { .. } => f.write_str("write_sync fails"),
            Self::SyncBegan => f.write_str("sync begins"),
            Self::Synced { .. } => f.write_str("sync ends"),
            Self::SyncFailed { .. } => f.write_str("sync fails"),
            Self::CacheDropped { at, bytes } => write!(f, "drop_cache {at}+{bytes}"),
        }
    }
}

/// Every step since recording began, and the marks between them.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(crate) start: DiskState,
    pub(crate) steps: Vec<Step>,
    /// How many steps came before, and what the mark says.
    pub(crate) marks: Vec<(usize, u64)>,
}

impl Log {
    pub(crate) fn from(start: DiskState) -> Self {
        Self { start, steps: Vec::new(), marks: Vec::new() }
    }
}
