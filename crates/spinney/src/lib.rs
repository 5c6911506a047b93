//! Embedded transactional key-value store: many column families in one file, each with its own writer.
//!
//! ```text
//!   Database --family()--> Family --begin()--> WriteTransaction --commit()--> durable
//!      |                                          |  one writer per family; others go on
//!      +----snapshot()---> Snapshot               +--family(&f), table(&t)--> TableTxn
//!                             readers block nobody
//! ```
//!
//! Names, options and type identities of families and tables are an ordinary tree, changed by ordinary commits: creating,
//! renaming and dropping them is part of a transaction like everything else.
#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod catalog; // reading the name tree
mod check; // every page, each exactly once
mod codec; // types as bytes
mod database; // opening, what handles share, closing
mod error; // what went wrong and what to do next
mod family; // handles of families and tables
mod key_range; // which keys
mod maintenance; // freeing in the background
mod names; // the records of the name tree
mod names_txn; // create, drop, rename
mod options; // how a database is opened
mod range; // ordered iteration
mod salvage; // what still reads
mod scrub; // everything once more, slowly
mod snapshot; // immutable views
mod stats; // everything that is a number
mod table_txn; // one table in a transaction
#[cfg(feature = "testing")]
pub mod testing; // a disk to be cut off, and what it may leave
mod transaction; // who takes part, and how it ends
mod typed; // tables with types
mod value; // bytes read

#[cfg(feature = "testing")]
pub use crate::salvage::salvage_storage;
pub use crate::{
    check::{CheckOptions, CheckProgress, FamilyReport, Problem, Report},
    codec::{DecodeError, KeyType, ValueType},
    database::Database,
    error::{Error, Result},
    family::{Family, FamilyInfo, Place, Table, TableInfo},
    key_range::KeyRange,
    names::{NAME_BYTES_MAX, TypeIdentity},
    options::Options,
    range::{Keys, Range},
    salvage::{Loss, Opened, SalvageReport, SalvagedFamily, SalvagedTable, salvage},
    scrub::{Scrub, ScrubOptions, ScrubStats},
    snapshot::Snapshot,
    stats::{HeldSnapshot, Space, Stats, TreeStats},
    table_txn::TableTxn,
    transaction::WriteTransaction,
    typed::{TypedKeyRange, TypedRange, TypedTable, TypedTxn, TypedView},
    value::Value,
};
pub use spinney_btree::{
    AllocStats, CacheStats, Durability, FileStats, FlushStats, HistogramSnapshot, IoStats, LogStats, LogTail, LostKeys,
    PageNo, Seq, SnapshotInfo, Tuning,
};
#[cfg(feature = "testing")]
pub use spinney_btree::{
    CallCounts, CallSet, Crash, CrashUnit, Cut, EnumerationLimits, Exploration, Explored, Fault, FaultKind, Image,
    ImageCount, Images, MemStorage, PowerCut, Recording, Sabotage, SimDisk, Stall, Storage, WriteObserver,
};
