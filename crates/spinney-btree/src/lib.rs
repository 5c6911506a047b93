//! A copy-on-write B+tree on a crash-safe paged file: ordered maps on disk, many in one family, with snapshots that cost
//! nothing.
//!
//! ```text
//!   FamilyTxn --> FamilyMut --> TreeMut --> insert, remove, remove_range, bulk_load
//!       | roots                    | private pages           | subtrees
//!       v                          v                         v
//!   FamilyRoot --> Tree, Range  [Part]                   graveyard --collect--> free pages
//!                       | reads
//!                       v
//!                    [Pages]      pages pass `page_check` once, when they are loaded
//! ```
//! A transaction that does little changes no page at all: what it did stands above the roots until it is merged.
//! Always: a child's level is its parent's minus one, its keys lie inside the parent's separators, its entries are what the
//! parent counts, and its stamp is not above the parent's.
#![forbid(unsafe_code)]

// In this order: what there is,
mod error; // what can go wrong
mod limits; // how long keys and values may be
mod root; // where trees begin

// what a page holds,
mod dump; // pages for people
mod large; // values with pages of their own
mod large_write; // how they come and go
mod node; // a node as it lies in its page, and how it is searched
mod node_mut; // changes in place
mod run; // entries on their way into nodes
mod seal; // the check a page passes once

// how trees are read,
mod check; // everything pages promise each other
mod range; // in order, from both ends
mod survey; // in order, behind damage
mod tree; // by key

// what is not in pages yet,
mod growing; // a list that only grows
mod layers; // what small commits left above a family's root
mod memtable; // keys in memory, with all their values
mod merged; // both in order, from both ends

// and how they change.
mod bulk; // sorted input
mod edit; // private copies, insertion, splits
mod effects; // what was done, for the log
mod family; // the tables of a family in a transaction
mod graveyard; // what waits to be freed
mod remove; // removal and repair
mod remove_range; // two edges, and all between them to the graveyard
mod sweep; // many changes in key order
mod tree_mut; // one table in a transaction

pub use crate::{
    check::{CheckOptions, CheckReport, Finding, LostKeys, TreeStats, check, stats},
    dump::dump_page,
    error::TreeError,
    family::{FamilyMut, FamilyTxn},
    graveyard::Grave,
    layers::{SMALL_COMMITS, above},
    limits::Limits,
    range::{Borrowed, Bounds, Range, Value},
    root::{FamilyRoot, TableId, TreeRoot},
    seal::page_check,
    survey::{Cursor, LargeSource, Met, Stray, Surveyor, listed_table, stray, survey, survey_stray},
    tree::Tree,
    tree_mut::TreeMut,
};
// What the next layer needs of this one's foundation.
pub use spinney_file::{
    Above, AllocStats, Audit, CacheStats, Create, Descriptor, Durability, Extent, FileError, FileOptions, FileStats,
    FlushStats, HistogramSnapshot, IoOp, IoStats, LogStats, LogTail, MemStorage, OsFile, Owner, PageHeader, PageNo,
    PagePtr, PageSet, PagedFile, Pages, Part, Pin, Seq, SmallCommits, Snapshot, SnapshotInfo, Stamp, Storage, Told,
    Tuning, Wait, Wreck, WriteTxn,
};
#[cfg(feature = "testing")]
pub use spinney_file::{
    CallCounts, CallSet, Crash, CrashUnit, Cut, EnumerationLimits, Exploration, Explored, Fault, FaultKind, Image,
    ImageCount, Images, PowerCut, Recording, Sabotage, SimDisk, Stall, WriteObserver,
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
