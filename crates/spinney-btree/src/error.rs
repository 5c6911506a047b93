//! What can go wrong in a tree; variants differ where the caller's next step differs.

use crate::root::TableId;
use spinney_file::{FileError, Owner, PageNo};
use std::{io, sync::Arc};

/// An error of a tree. Cheap to clone.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// The file below failed.
    #[error(transparent)]
    File(#[from] FileError),

    /// Pages that are each as they were written do not make a tree together. Restore from a backup; other
    /// tables stay readable.
    #[error("page {page} (owner {owner:?}, table {table:?}) does not fit its tree: {why}")]
    Corrupt {
        /// The page.
        page: PageNo,
        /// Whose it is.
        owner: Owner,
        /// In which table.
        table: TableId,
        /// What does not fit.
        why: &'static str,
    },

    /// The 64 bytes a family stores, or the 32 bytes of one table's root, are not a root.
    #[error("the root of owner {owner:?} is damaged: {why}")]
    BadRoot {
        /// Whose it is.
        owner: Owner,
        /// What does not fit.
        why: &'static str,
    },

    /// The key is longer than this page size allows. Nothing was changed.
    #[error("a key of {bytes} bytes is too long: the limit at this page size is {limit}")]
    KeyTooLong {
        /// Its length.
        bytes: usize,
        /// The longest that fits, see [`Limits`](crate::Limits).
        limit: usize,
    },

    /// The value is longer than any tree takes. Nothing was changed.
    #[error("a value of {bytes} bytes is too large: the limit is {limit}")]
    ValueTooLarge {
        /// Its length.
        bytes: u64,
        /// The largest that fits, see [`Limits`](crate::Limits).
        limit: u64,
    },

    /// The input of a bulk load is not in strictly ascending order, or does not begin after the tree's last key.
    /// The transaction takes nothing more: drop it.
    #[error("the input of a bulk load is not in ascending order at entry {at}")]
    Unsorted {
        /// Which entry of the input, counted from 0.
        at: u64,
    },

    /// The reader a value was to come from failed or ended early. The transaction takes nothing more: drop it.
    #[error("reading the value failed: {0}")]
    Source(Arc<io::Error>),

    /// The table does not exist.
    #[error("there is no table {0:?}")]
    NoTable(TableId),

    /// The table exists already.
    #[error("table {0:?} exists already")]
    TableExists(TableId),

    /// An earlier operation of this transaction failed half-way, so it can only be dropped.
    #[error("an earlier operation of this transaction failed: drop it and begin again")]
    Broken,
}

/// What the file layer is told by a merge. The log passed its checksums, so effects that do not fit are damage, whatever they are.
pub(crate) fn to_file_error(error: TreeError, page_bytes: u64) -> FileError {
    let damaged = |why| FileError::Damaged { at: 0, why };
    match error {
        TreeError::File(error) => error,
        TreeError::Corrupt { page, owner, why, .. } => {
            FileError::Corrupt { page, owner: Some(owner), at: page.get() * page_bytes, why }
        }
        TreeError::BadRoot { why, .. } => damaged(why),
        TreeError::KeyTooLong { .. } => damaged("an effect has a key that is too long"),
        TreeError::ValueTooLarge { .. } => damaged("an effect has a value that is too large"),
        TreeError::NoTable(_) => damaged("an effect names a table that does not exist"),
        TreeError::TableExists(_) => damaged("an effect creates a table that exists"),
        TreeError::Unsorted { .. } | TreeError::Source(_) | TreeError::Broken => damaged("effects cannot be applied"),
    }
}
