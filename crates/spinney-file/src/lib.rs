//! Pages of one file: cached for readers, coalesced for the disk, committed atomically.

mod storage; // what a file must be able to do

pub use crate::storage::Storage;
pub use spinney_alloc::{Extent, Owner, PageNo, Seq, Stamp};
