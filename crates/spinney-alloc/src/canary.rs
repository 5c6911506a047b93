//! Ways to break the allocator on purpose, so that the model test can be seen to notice.

/// A rule that a test may switch off. Outside tests every rule holds and the switches cost nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// What a commit freed is not granted before a checkpoint that covers it.
    FreedPagesWait,
    /// What a snapshot can reach is not granted.
    SnapshotsProtect,
    /// When a snapshot goes, older ones that reach the same pages are asked.
    OlderSnapshotsProtect,
    /// What hung on a snapshot is free once nobody else protects it.
    ReleaseFrees,
    /// A checkpoint saves commits up to its own sequence number only.
    CheckpointIsOneInstant,
    /// The durable map, not the live one, is saved.
    ArenasAreNotSaved,
    /// The home that the superblock points to is not overwritten.
    HomesTakeTurns,
    /// A failed checkpoint loses nothing.
    FailureKeepsFrees,
    /// What an aborted transaction had is free at once.
    AbortsFree,
    /// A map page that has been replaced since it was read is not believed.
    StalePagesAreIgnored,
    /// A region remembers that a longer run became free in it.
    FreedRunsAreFound,
    /// A permanent extent given up is in use until the next checkpoint.
    PermanentPagesWait,
    /// A page named by a commit in the log is not granted.
    ReplayClaims,
}
