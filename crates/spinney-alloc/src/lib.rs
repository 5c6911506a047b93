//! Which pages of a file are free: extents, arenas, and reuse that respects every reader.
#![forbid(unsafe_code)]

mod words; // the vocabulary of all layers

pub use crate::words::{Extent, Owner, PageNo, Seq, Stamp};
