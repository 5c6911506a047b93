//! The redo log: what was committed since the last checkpoint, in a ring of blocks inside the file.
//!
//! ```text
//!   commits --> [record] [record] --> group (one write, one sync) --> ring of 4 KiB blocks
//!                                       |
//!                                       +-- chained: carries the checksum of the group before
//! ```
mod group; // records that reach the disk together
mod record; // one commit, checkpoint or recovery
mod ring; // where blocks are

pub(crate) use self::{
    group::{GROUP_HEADER_BYTES, GroupHeader, LogId},
    record::{ImagePart, LogPart, OpsPart, RECORD_HEADER_BYTES, Record, RunClaim},
    ring::{BLOCK_BYTES, LOG_BLOCKS_MAX, RingLayout},
};
