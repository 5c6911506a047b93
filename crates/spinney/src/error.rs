//! What can go wrong, in words that say what to do next.
//!
//! Variants differ where the caller's next step differs: fix the input, try again, reopen, restore.

use crate::codec::DecodeError;
use spinney_btree::{FileError, IoOp, Owner, PageNo, Seq, TreeError};
use std::{io, sync::Arc, time::Duration};

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the database. Cheap to clone.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // Opening: nothing was changed in the file.
    /// The file does not begin as a Spinney database does. Nothing was written to it.
    #[error("{file} is not a Spinney database: check the path; nothing was changed")]
    NotADatabase {
        /// What was opened.
        file: String,
    },

    /// A newer release wrote the file. Nothing was written to it.
    #[error("{file} has format version {found}, this release reads up to {supported}: use a newer release")]
    NewerVersion {
        /// What was opened.
        file: String,
        /// Version in the file.
        found: u32,
        /// The newest version this release reads.
        supported: u32,
    },

    /// The file is shorter than what its durable state needs.
    #[error("{file} is truncated: it needs {bytes_needed} bytes and has {bytes}; restore it from a backup")]
    Truncated {
        /// What was opened.
        file: String,
        /// Length found.
        bytes: u64,
        /// Length that the durable state needs.
        bytes_needed: u64,
    },

    /// Somebody has the database open, in this process or another.
    #[error("{file} is open already, in this process or another: close it there, or share its `Database` handle")]
    Locked {
        /// What was opened.
        file: String,
    },

    /// The operating system does not let this process use the file.
    #[error("no permission to open {file}: change its owner or mode, or open it for reading only")]
    Permission {
        /// What was opened.
        file: String,
    },

    /// The path names a directory.
    #[error("{file} is a directory: give the path of a file inside it")]
    IsADirectory {
        /// What was opened.
        file: String,
    },

    /// There is no such file, and the options do not ask to create one.
    #[error("{file} does not exist: check the path, or let the options create it")]
    Missing {
        /// What was opened.
        file: String,
    },

    /// A new database was asked for and the file exists.
    #[error("{file} exists already: open it instead, or choose another path")]
    AlreadyExists {
        /// What was opened.
        file: String,
    },

    /// An option is out of its limits, or does not fit the file.
    #[error("option `{option}`: {why}")]
    InvalidOption {
        /// Which one.
        option: &'static str,
        /// What does not fit.
        why: &'static str,
    },

    // Bad media: nothing wrong is ever returned.
    /// A page does not hold what was written to it. Other pages and families stay readable.
    #[error(
        "page {page} at byte {at} of family `{family}` is corrupt: {why}; save what still reads, then restore a backup"
    )]
    Corrupt {
        /// The page.
        page: PageNo,
        /// Whose page it is: the family's name, or its number where the name is not known.
        family: String,
        /// Where it starts in the file, in bytes.
        at: u64,
        /// What does not fit.
        why: &'static str,
    },

    /// A structure outside the pages (superblock, log) is damaged.
    #[error("the file is damaged at byte {at}: {why}; restore it from a backup")]
    Damaged {
        /// Where in the file, in bytes.
        at: u64,
        /// What does not fit.
        why: &'static str,
    },

    /// What a family stores of where its trees begin does not read. Other families stay readable.
    #[error("the root of family `{family}` is damaged: {why}; save what still reads, then restore a backup")]
    RootDamaged {
        /// The family.
        family: String,
        /// What does not fit.
        why: &'static str,
    },

    /// A record that says which families and tables exist does not read.
    #[error("the names of families and tables are damaged: {why}; restore the file from a backup")]
    NamesDamaged {
        /// What does not fit.
        why: &'static str,
    },

    // Bad luck.
    /// A system call failed. What was being done has not happened; unless the error repeats, try again.
    #[error("{op} at byte {at} of the file failed ({source}): nothing was committed by this; try again")]
    Io {
        /// What was tried.
        op: &'static str,
        /// Where in the file, in bytes.
        at: u64,
        /// What the operating system said.
        source: Arc<io::Error>,
    },

    /// No space: neither free pages in the file nor room for it to grow. Nothing was committed.
    #[error("no space for {bytes_wanted} more bytes: remove data, free disk space or raise `max_file_size`")]
    Full {
        /// What was asked for, in bytes.
        bytes_wanted: u64,
    },

    /// The log is full, and the checkpoint that would empty it has failed. Nothing was committed.
    #[error("the log is full and the last checkpoint failed ({source}): remove the cause and try again")]
    CheckpointFailed {
        /// Why it failed.
        source: Arc<Error>,
    },

    /// A write or sync of the log failed earlier, so nothing more is accepted. Reading goes on.
    #[error("an earlier write or sync failed, so nothing more is accepted: close the database and open it again")]
    Poisoned,

    /// The write or sync that carried this commit failed: opening the file again decides whether it survives.
    #[error("commit {seq} may or may not be on disk: open the database again and look")]
    OutcomeUnknown {
        /// The commit.
        seq: Seq,
    },

    // The caller's turn.
    /// Another transaction writes the family, for longer than this one would wait.
    #[error(
        "family `{family}` is being written by a transaction that {holder} began {held_for:?} ago: finish that one, \
         or wait longer"
    )]
    Busy {
        /// The family; the names of families and tables count as one.
        family: String,
        /// The thread that began the other transaction.
        holder: String,
        /// For how long the other transaction has been open.
        held_for: Duration,
    },

    /// The transaction has not exactly one family, so a call must say which one it means.
    #[error("the transaction has {families} families: say which one with `txn.family(..)`")]
    WhichFamily {
        /// How many it has.
        families: usize,
    },

    /// An earlier call on this transaction failed half-way, so it can only be dropped.
    #[error("an earlier call on this transaction failed half-way: drop it and begin again")]
    TransactionBroken,

    /// The database was closed.
    #[error("the database is closed")]
    Closed,

    /// The database was opened for reading only.
    #[error("the database is open for reading only: open it with `read_only(false)` to write")]
    ReadOnly,

    /// The database was opened by the process that this one was forked from. The handle is of no use here.
    #[error("{file} was opened by the process that this one was forked from: open it here, once it is closed there")]
    Forked {
        /// What was opened.
        file: String,
    },

    /// A handle belongs to another database than the transaction or snapshot it was used with.
    #[error("family `{family}` belongs to another database")]
    OtherDatabase {
        /// The family.
        family: String,
    },

    // Families and tables.
    /// No family has this name.
    #[error("there is no family `{family}`")]
    FamilyUnknown {
        /// The name.
        family: String,
    },

    /// The family was dropped, or the transaction that created it was not committed.
    #[error("family `{family}` no longer exists: it was dropped, or the transaction that created it was aborted")]
    FamilyDropped {
        /// Its last name.
        family: String,
    },

    /// A family with the new name exists.
    #[error("there is a family `{family}` already: choose another name")]
    FamilyExists {
        /// The name.
        family: String,
    },

    /// The file holds no more families; how many depends on the page size.
    #[error("no room for one more than {families} families: drop some, or use a table per subject instead of a family")]
    TooManyFamilies {
        /// How many there are, those included that were dropped and are not freed yet.
        families: u32,
    },

    /// The transaction was not begun for this family.
    #[error("family `{family}` is not part of this transaction: name it in `begin`")]
    NotInTransaction {
        /// The family.
        family: String,
    },

    /// The snapshot was not taken of this family.
    #[error("family `{family}` is not part of this snapshot: name it in `snapshot_of`, or use `snapshot`")]
    NotInSnapshot {
        /// The family.
        family: String,
    },

    /// The family does not have this table, or did not have it yet at the snapshot.
    #[error(
        "family `{family}` has no table `{table}` here: it was dropped, or created later or in another transaction"
    )]
    TableUnknown {
        /// The family.
        family: String,
        /// The table.
        table: String,
    },

    /// A table with the new name exists.
    #[error("family `{family}` has a table `{table}` already: choose another name")]
    TableExists {
        /// The family.
        family: String,
        /// The table.
        table: String,
    },

    /// The default table can be neither dropped nor renamed.
    #[error("the default table of family `{family}` cannot be {what}: drop or rename the family, or clear the table")]
    DefaultTable {
        /// The family.
        family: String,
        /// What was asked for.
        what: &'static str,
    },

    /// The table holds other types than those it was opened with.
    #[error(
        "table `{table}` of family `{family}` holds {stored}, not {asked}: open it with the types it was made with"
    )]
    TypeMismatch {
        /// The family.
        family: String,
        /// The table; empty for the default table.
        table: String,
        /// What it holds.
        stored: String,
        /// What it was opened with.
        asked: String,
    },

    /// Stored bytes are not of the table's type: somebody wrote the table untyped.
    #[error("an entry of table `{table}` in family `{family}` does not decode: {source}")]
    Decode {
        /// The family.
        family: String,
        /// The table; empty for the default table.
        table: String,
        /// What does not fit.
        source: DecodeError,
    },

    // Names, keys and values.
    /// Names have at least one byte.
    #[error("a name is empty: names have 1 to 255 bytes")]
    NameEmpty,

    /// Names have a limit.
    #[error("a name of {bytes} bytes is too long: at most {bytes_max}")]
    NameTooLong {
        /// Length of the name.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },

    /// Keys have a limit, which depends on the page size.
    #[error("a key of {bytes} bytes is too long: at most {bytes_max} with this page size")]
    KeyTooLong {
        /// Length of the key.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },

    /// Values have a limit.
    #[error("a value of {bytes} bytes is too large: at most {bytes_max}; split it over several keys")]
    ValueTooLarge {
        /// Length of the value.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },

    /// A bulk load needs its keys strictly ascending, and behind the last key of the table.
    #[error("entry {at} of a bulk load does not ascend: sort the input, give each key once, and only behind the last")]
    NotSorted {
        /// Which entry of the input, counted from 0.
        at: u64,
    },

    /// The reader that a value was to come from failed or ended early.
    #[error("reading the value failed: {source}")]
    ValueSource {
        /// What it said.
        source: Arc<io::Error>,
    },
}

impl Error {
    /// Whether a mutating call that failed so has changed nothing: the transaction may go on.
    pub(crate) fn is_bad_input(error: &TreeError) -> bool {
        matches!(error, TreeError::KeyTooLong { .. } | TreeError::ValueTooLarge { .. } | TreeError::NoTable(_))
    }

    /// With the family's name instead of its number, where no handle knows the name.
    pub(crate) fn named(mut self, owner: Owner, name: &str) -> Self {
        if let Self::Corrupt { family, .. } | Self::RootDamaged { family, .. } = &mut self
            && *family == format!("#{}", owner.0)
        {
            name.clone_into(family);
        }
        self
    }

    /// Puts an error of the file into words. `name_of` names owners, `holder_of` who writes them.
    pub(crate) fn from_file(
        error: FileError,
        file: &str,
        name_of: &dyn Fn(Owner) -> String,
        holder_of: &dyn Fn(Owner) -> String,
    ) -> Self {
        let file = || file.to_owned();
        match error {
            FileError::Io { op, at, source } => Self::Io { op: op_words(op), at, source },
            FileError::Full { bytes_wanted } => Self::Full { bytes_wanted },
            FileError::Corrupt { page, owner, at, why } => {
                let family = owner.map_or_else(|| "(not known)".to_owned(), name_of);
                Self::Corrupt { page, family, at, why }
            }
            FileError::Damaged { at, why } => Self::Damaged { at, why },
            FileError::Truncated { bytes_needed, bytes } => Self::Truncated { file: file(), bytes, bytes_needed },
            FileError::NotADatabase => Self::NotADatabase { file: file() },
            FileError::Version { found, supported } => Self::NewerVersion { file: file(), found, supported },
            FileError::AlreadyOpen => Self::Locked { file: file() },
            FileError::Option(why) => Self::InvalidOption { option: "file", why },
            FileError::Poisoned => Self::Poisoned,
            FileError::CommitOutcomeUnknown { seq } => Self::OutcomeUnknown { seq },
            FileError::Busy { owner, held_for } => {
                Self::Busy { family: name_of(owner), holder: holder_of(owner), held_for }
            }
            FileError::CheckpointFailed(source) => {
                let source = Self::from_file((*source).clone(), &file(), name_of, holder_of);
                Self::CheckpointFailed { source: Arc::new(source) }
            }
            FileError::Closed => Self::Closed,
            FileError::ReadOnly => Self::ReadOnly,
            FileError::Forked => Self::Forked { file: file() },
            // The file layer may learn new errors: unknown ones keep their own words.
            other => Self::Io { op: "using", at: 0, source: Arc::new(io::Error::other(other)) },
        }
    }

    /// Puts an error of opening a path into words.
    pub(crate) fn from_open(error: FileError, file: &str, is_directory: bool) -> Self {
        if let FileError::Io { source, .. } = &error {
            let file = file.to_owned();
            match source.kind() {
                _ if is_directory => return Self::IsADirectory { file },
                io::ErrorKind::NotFound => return Self::Missing { file },
                io::ErrorKind::AlreadyExists => return Self::AlreadyExists { file },
                // A pipe, a socket, a device.
                io::ErrorKind::InvalidInput => return Self::NotADatabase { file },
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    return Self::Permission { file };
                }
                _ => {}
            }
        }
        let unknown = |owner: Owner| format!("#{}", owner.0);
        Self::from_file(error, file, &unknown, &|_| String::new())
    }
}

fn op_words(op: IoOp) -> &'static str {
    match op {
        IoOp::Read => "reading",
        IoOp::Write => "writing",
        IoOp::Sync => "syncing",
        IoOp::Allocate => "allocating space",
        IoOp::Shrink => "shrinking",
        IoOp::Open => "opening",
        _ => "using",
    }
}
