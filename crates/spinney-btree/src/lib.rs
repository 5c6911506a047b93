//! A copy-on-write B+tree on a crash-safe paged file: ordered maps on disk, many in one family, with O(1) snapshots.
#![forbid(unsafe_code)]

mod bulk;
mod check;
mod dump;
mod edit;
mod error;
mod family;
mod graveyard;
mod large;
mod limits;
mod node;
mod node_mut;
mod range;
mod remove;
mod remove_range;
mod root;
mod run;
mod seal;
mod tree;
mod tree_mut;

pub use crate::{
    check::{CheckOptions, CheckReport, TreeStats, check, stats},
    dump::dump_page,
    error::TreeError,
    family::{FamilyMut, FamilyTxn},
    graveyard::Grave,
    limits::Limits,
    range::{Borrowed, Bounds, Range, Value},
    root::{FamilyRoot, TableId, TreeRoot},
    seal::page_check,
    tree::Tree,
    tree_mut::TreeMut,
};
// What the next layer needs of this one's foundation.
pub use spinney_file::{
    AllocStats, CacheStats, Create, Descriptor, Durability, Extent, FileError, FileOptions, FileStats, FlushStats,
    HistogramSnapshot, IoOp, IoStats, LogStats, MemStorage, Owner, PageNo, PagePtr, PagedFile, Pages, Part, Pin, Seq,
    Snapshot, SnapshotInfo, Stamp, Storage, Tuning, Wait, WriteTxn,
};
#[cfg(feature = "testing")]
pub use spinney_file::{
    CallCounts, CallSet, CrashUnit, Cut, EnumerationLimits, Fault, FaultKind, Image, ImageCount, Images, PowerCut,
    Recording, Sabotage, SimDisk, WriteObserver,
};
