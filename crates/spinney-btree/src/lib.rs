//! A copy-on-write B+tree on a crash-safe paged file: ordered maps on disk, many in one family, with O(1) snapshots.
#![forbid(unsafe_code)]
#![allow(unused, clippy::unimplemented)]

mod check;
mod dump;
mod error;
mod family;
mod graveyard;
mod limits;
mod range;
mod root;
mod seal;
mod tree;

pub use crate::{
    check::{CheckOptions, CheckReport, TreeStats, check, stats},
    dump::dump_page,
    error::TreeError,
    family::{FamilyMut, FamilyTxn, TreeMut},
    graveyard::Grave,
    limits::Limits,
    range::{Borrowed, Bounds, Range, Value},
    root::{FamilyRoot, TableId, TreeRoot},
    seal::page_check,
    tree::Tree,
};
// What the next layer needs of this one's foundation.
pub use spinney_file::{
    Descriptor, Durability, Extent, FileError, FileOptions, IoOp, MemStorage, OsFile, Owner, PageNo, PagePtr, PagedFile,
    Pages, Part, Pin, Seq, Snapshot, Stamp, Storage, Wait, WriteTxn,
};
