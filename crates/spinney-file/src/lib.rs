//! Pages of one file: cached for readers, coalesced for the disk, committed atomically.

mod budget; // one bound on memory
mod cache; // clean pages, found without a lock
mod counters; // what has been done, in numbers
mod error; // what can go wrong, and what to do then
mod flusher; // neighbours leave together
mod page; // what a page is on disk, and how it is proved whole
mod storage; // what a file must be able to do

#[cfg(any(test, feature = "testing"))]
pub use crate::storage::{
    CallCounts, CallSet, CrashUnit, Cut, EnumerationLimits, Fault, FaultKind, Image, ImageCount, Images, PowerCut,
    Recording, SimDisk, WriteObserver,
};
pub use crate::{
    cache::{CacheStats, Pin},
    counters::{Counters, FlushCounters, FlushStats, Histogram, HistogramSnapshot, Latencies},
    error::{FileError, IoOp},
    page::{PageCheck, PageHeader, PagePtr},
    storage::Storage,
};
pub use spinney_alloc::{Extent, Owner, PageNo, Seq, Stamp};
