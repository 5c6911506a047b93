//! Which pages of a file are free: extents, arenas, and reuse that respects every reader.
//!
//! ```text
//!            reserve            commit               begin_ .. finish_checkpoint
//!   [free] ----------> [lent] ----------> [in use] ...... durable map ......
//!     ^  ^                |                  | commit frees
//!     |  +---give_back----+                  v
//!     |                           [awaiting a checkpoint] --> [hanging on a snapshot]
//!     +---------- finish_checkpoint ---------+                       |
//!     +---------- release -------------------------------------------+
//! ```
//! Always: what is free in the live map is free in the durable map. Nothing here does I/O or locks;
//! a call that lacks a page of the map, or a longer file, returns a [`Need`] and has changed nothing.
#![forbid(unsafe_code)]

// In this order: what a page is, where its bit is, and then how it changes hands.

mod words; // the vocabulary of all layers

mod geometry; // where the map lives in a file

mod bitmap; // one bit per page
mod region; // two maps of the same pages, and their summary

mod map_page; // the same on disk

mod error; // what is missing, what is wrong

mod allocator; // all regions, loaded on demand

mod reserve; // finding free pages

mod commit; // what commits allocated and freed

mod checkpoint; // the durable map moves on, and pages become free

mod audit; // what is in use, to be compared
mod reclaim; // space and memory that go back
mod stats; // where the pages are

mod arena; // pages lent to one transaction
mod extent_set; // sorted runs

mod canary; // how tests break it
#[cfg(test)]
mod model; // random histories against a naive model

/// The examples of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use crate::{
    allocator::{Allocator, Home},
    arena::Arena,
    audit::Which,
    checkpoint::Protect,
    commit::{Delta, Freed},
    error::{MapError, Need, ReplayError},
    extent_set::ExtentSet,
    geometry::Geometry,
    map_page::DirectoryEntry,
    stats::AllocStats,
    words::{Extent, Owner, PageNo, Seq, Stamp},
};
