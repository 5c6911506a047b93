//! What one run of one case of one engine gives: one line of JSON.

use crate::engine::{Class, Engine};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a process measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) class: Class,
    /// Records written, read or removed.
    pub(crate) operations: u64,
    /// 0 where nothing is committed.
    pub(crate) commits: u64,
    pub(crate) seconds: f64,
    /// Until what was put off was durable as well.
    pub(crate) settled_seconds: f64,
    /// Of all threads, in the timed part.
    pub(crate) cpu_seconds: f64,
    /// To the disk, from the beginning of the timed part until the file was closed.
    pub(crate) written_bytes: u64,
    /// Write calls in the timed part, and the bytes that they and read calls moved.
    pub(crate) write_calls: u64,
    pub(crate) handed_bytes: u64,
    pub(crate) read_bytes: u64,
    /// Memory without mapped files, less what was there before the engine; and all of the process's memory.
    pub(crate) anonymous_bytes: u64,
    pub(crate) resident_bytes: u64,
    pub(crate) budget_bytes: u64,
    /// Of all files, when closed.
    pub(crate) file_bytes: u64,
    /// Of keys and values that are stored at the end; 0 where that says nothing.
    pub(crate) raw_bytes: u64,
    /// What only this workload has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) more: BTreeMap<String, f64>,
}

impl Measured {
    pub(crate) fn per_second(&self) -> f64 {
        self.operations as f64 / self.seconds
    }

    /// A number of a commit, or of an operation where nothing is committed.
    pub(crate) fn per_commit(&self, number: u64) -> f64 {
        number as f64 / (if self.commits > 0 { self.commits } else { self.operations }).max(1) as f64
    }
}

/// A line of the results.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    /// Seconds since 1970 when the program began: only what has the same session and run is compared.
    pub(crate) session: u64,
    /// From 1; 0 is the run in which only syncs were counted.
    pub(crate) run: u32,
    pub(crate) engine: Engine,
    pub(crate) case: String,
    pub(crate) scale: f64,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Measured(Measured),
    /// Of the timed part, with the commits in it.
    Syncs {
        syncs: u64,
        commits: u64,
    },
    /// Why there is nothing.
    Failed(String),
}
