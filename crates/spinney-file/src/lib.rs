//! Pages of one file: cached for readers, coalesced for the disk, committed atomically.
//!
//! ```text
//!   [txn] --parts--> [commit] --runs--> [flusher] ----------> data pages
//!                       | record                                  ^
//!                       v                                         | points to
//!                  [pipeline] --groups, one sync for all--> log --+
//!                       | version                           ^
//!                       v                                   | log start
//!   [snapshot] <-- visible                [checkpoint] --> map, owner table, superblock
//! ```
//! Always `visible <= appended` and `durable <= written <= appended`, each a [`Seq`].

// In this order: what a file is made of,

mod error; // what can go wrong, and what to do then
mod options; // how a file is opened
mod page; // what a page is on disk, and how it is proved whole
mod process; // whose file it is: a child that is forked inherits none
mod storage; // what a file must be able to do; the only module that makes system calls

// what stands between pages and the disk,

mod budget; // one bound on memory
mod buffers; // pages of memory, used again
mod cache; // clean pages, found without a lock
mod counters; // what has been done, in numbers
mod disk; // whole pages, verified; whole writes, counted
mod flusher;
mod huge; // memory in large pieces; unsafe code // neighbours leave together

// what is on disk beside pages,

mod log; // groups of records in a ring of blocks
mod owners; // owner -> root, as checkpoints save it
mod superblock; // two slots that say where everything begins
mod version; // owner -> root at one seq, in memory

// who may do what,

mod promises; // pages that merging will take
mod readers; // which snapshots live
mod slots; // one writer per owner
mod space; // the allocator, with its map pages and a growing file

// the paths,

mod appetite; // how much a writer will want
mod audit; // what is, beside what should be
mod checkpoint; // a durable image of one version
mod commit; // effects or pages, then roots
mod engine; // what all handles share
mod maintenance; // the background thread
mod merge; // what small commits left, into pages
mod pipeline; // append, lead, publish
mod reclaim; // free space goes back
mod recovery; // from bytes to a version
mod sync; // what `waiting` and `readers` are made of; loom has its own
mod waiting; // one leads, and wakes whom it has served
mod wreck; // a file as its bytes say

// and the handles.

mod file; // an open file
mod pages; // where pages are read
mod part; // one owner's share of a transaction
mod snapshot; // a view that never changes
mod stats; // everything that is a number
mod txn; // slots and parts, until commit

#[cfg(test)]
#[path = "readers/tests.rs"]
mod readers_tests; // who holds what

mod live_map; // the map of an engine that is broken on purpose

#[cfg(any(test, feature = "testing"))]
mod interlude; // what somebody else does in the middle of an operation
#[cfg(any(test, feature = "testing"))]
mod shadow; // a second opinion on which pages are in use

pub use crate::{
    audit::{Audit, PageSet},
    cache::{CacheStats, Pin},
    counters::{Counters, FlushCounters, FlushStats, Histogram, HistogramSnapshot, Latencies},
    disk::IoStats,
    error::{FileError, IoOp},
    file::PagedFile,
    options::{AddEffects, Create, Durability, FileOptions, SmallCommits, Told, Tuning},
    page::{PageCheck, PageHeader, PagePtr},
    pages::Pages,
    part::Part,
    pipeline::LogStats,
    readers::SnapshotInfo,
    recovery::LogTail,
    slots::Wait,
    snapshot::Snapshot,
    stats::FileStats,
    storage::{MemStorage, OsFile, Storage},
    txn::WriteTxn,
    version::Above,
    wreck::Wreck,
};
#[cfg(any(test, feature = "testing"))]
pub use crate::{
    interlude::Interlude,
    options::Sabotage,
    storage::{
        CallCounts, CallSet, Crash, CrashUnit, Cut, EnumerationLimits, Exploration, Explored, Fault, FaultKind, Image,
        ImageCount, Images, PowerCut, Recording, SimDisk, Stall, WriteObserver,
    },
};
pub use spinney_alloc::{AllocStats, Extent, Owner, PageNo, Seq, Stamp};

/// What the layer above stores per owner: where its roots are. Opaque here.
pub type Descriptor = [u8; 64];

/// The examples of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
