//! What the fuzz targets do with their input. Each target is a function from bytes to nothing that panics when something is
//! wrong; libFuzzer calls it from `fuzz_targets/`, and an ordinary test calls it with every file of `corpus/`.
//!
//! ```text
//!   input --> open_bytes  -- a file, runs of zeros squeezed ------------+
//!         --> mutate_file -- a sound file, changed, sums made to fit ---+--> visit: open, read, check, write, close, twice
//!         --> log_bytes   -- a sound file with another log, the same ---+
//!         --> effects     -- a sound file, small commits behind its log --+--> the same, and what they say
//!         --> operations  -- a history --> database and map of maps
//!         --> allocator   -- a history --> allocator and sets of pages
//! ```
//! Always, whatever the input: no panic, no more memory than the budget and 16 MiB, no more storage calls than the file's size
//! explains, the right answer or a typed error.
#![cfg(feature = "testing")]
#![forbid(unsafe_code)]
#![allow(clippy::cast_possible_truncation, reason = "files fit into memory here, and inputs are cut down on purpose")]

// In this order: what everybody needs,
mod disk; // a file that counts what is asked of it
mod input; // bytes, taken one by one
mod memory; // how much is allocated

// what files are made of,
mod bases; // sound files of the real engine
mod format; // checksums made to fit
mod packed; // files without their zeros

// what is done with a file,
mod visit; // everything a user might do

// and the targets.
mod allocator;
mod effects;
mod log_bytes;
mod mutate_file;
mod open_bytes;
mod operations;

pub use crate::{
    bases::{Base, make},
    disk::Disk,
    format::{anonymise, reseal},
    memory::Meter,
    packed::{pack, unpack},
    visit::{Visit, visit},
};

/// A fuzz target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any bytes, opened and read as a database.
    OpenBytes,
    /// A sound file, changed with its checksums made to fit.
    MutateFile,
    /// A history of operations, compared with a map of maps.
    Operations,
    /// A sound file with another log, its checksums made to fit.
    LogBytes,
    /// A sound file whose log goes on with small commits, compared with what they say.
    Effects,
    /// A history of an allocator, compared with a naive model.
    Allocator,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::OpenBytes, Self::MutateFile, Self::Operations, Self::LogBytes, Self::Effects, Self::Allocator];

    /// As its program and its corpus are called.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenBytes => "open_bytes",
            Self::MutateFile => "mutate_file",
            Self::Operations => "operations",
            Self::LogBytes => "log_bytes",
            Self::Effects => "effects",
            Self::Allocator => "allocator",
        }
    }

    /// Does with `input` what the target does.
    ///
    /// # Panics
    /// When something is wrong with the engine.
    pub fn run(self, input: &[u8]) {
        match self {
            Self::OpenBytes => open_bytes::run(input),
            Self::MutateFile => mutate_file::run(input),
            Self::Operations => operations::run(input),
            Self::LogBytes => log_bytes::run(input),
            Self::Effects => effects::run(input),
            Self::Allocator => allocator::run(input),
        }
    }
}
