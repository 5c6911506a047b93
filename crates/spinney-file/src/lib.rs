//! Pages of one file: cached for readers, coalesced for the disk, committed atomically.

mod error; // what can go wrong, and what to do then
mod storage; // what a file must be able to do

#[cfg(any(test, feature = "testing"))]
pub use crate::storage::{
    CallCounts, CallSet, CrashUnit, Cut, EnumerationLimits, Fault, FaultKind, Image, ImageCount, Images, PowerCut,
    Recording, SimDisk, WriteObserver,
};
pub use crate::{
    error::{FileError, IoOp},
    storage::{MemStorage, OsFile, Storage},
};
pub use spinney_alloc::{Extent, Owner, PageNo, Seq, Stamp};
