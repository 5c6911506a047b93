//! What is measured: so many writers, each doing this.

use spinney::{Durability, Tuning};
use std::fmt;

/// Records of one commit that is not single.
const BATCH_RECORDS: u32 = 100;
/// Such a commit is as much work as so many single ones, roughly.
const BATCH_COMMITS_DIVISOR: u32 = 20;
/// Together, writers commit at most as often as so many writers.
const FULL_WRITERS: u32 = 8;

/// What each writer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// Durable commits of one record to a family of its own.
    OwnFamily,
    /// Durable commits of one record to the one family there is.
    OneFamily,
    /// Durable commits of 100 records to a family of its own.
    Batches,
    /// The same while every commit writes its pages.
    BatchesAsImages,
    /// Commits of one record to a family of its own, durable later.
    Eventual,
}

impl Workload {
    /// Those in which every commit is durable when it returns.
    const DURABLE: [Self; 4] = [Self::OwnFamily, Self::OneFamily, Self::Batches, Self::BatchesAsImages];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OwnFamily => "a family each",
            Self::OneFamily => "one family",
            Self::Batches => "100 records",
            Self::BatchesAsImages => "100 records, images only",
            Self::Eventual => "eventual",
        }
    }

    /// All workloads run with defaults, but for the one that writes pages with every commit.
    pub(crate) fn tuning(self) -> Tuning {
        Tuning { images_only: self == Self::BatchesAsImages, ..Tuning::default() }
    }

    pub(crate) fn durability(self) -> Durability {
        if self == Self::Eventual { Durability::Eventual } else { Durability::Immediate }
    }

    /// Records of each commit.
    pub(crate) fn records(self) -> u32 {
        if self.is_batched() { BATCH_RECORDS } else { 1 }
    }

    /// Records of each family before anything is timed.
    pub(crate) fn records_before(self) -> u64 {
        if self.is_batched() { 200_000 } else { 100_000 }
    }

    fn is_batched(self) -> bool {
        matches!(self, Self::Batches | Self::BatchesAsImages)
    }
}

/// A workload and how many do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) writers: u32,
    pub(crate) workload: Workload,
}

impl Case {
    /// All cases of a run, which is counted from 0: each run begins with another workload.
    pub(crate) fn of_run(run: u32, writers: &[u32], with_eventual: bool) -> Vec<Self> {
        let rotated = |mut cases: Vec<Self>| {
            let count = cases.len();
            cases.rotate_left(run as usize % count);
            cases
        };
        let durable = |&writers: &u32| rotated(Workload::DURABLE.map(|workload| Self { writers, workload }).to_vec());
        let eventual = |writers| Self { writers, workload: Workload::Eventual };
        let mut cases: Vec<_> = writers.iter().flat_map(durable).collect();
        if with_eventual {
            cases.extend(rotated([1, 2].map(eventual).to_vec()));
        }
        cases
    }

    /// Families there are.
    pub(crate) fn families(self) -> u32 {
        if self.workload == Workload::OneFamily { 1 } else { self.writers }
    }

    /// The family that a writer writes to.
    pub(crate) fn family_of(self, writer: u32) -> u32 {
        writer % self.families()
    }

    /// How often each writer commits, where one writer alone commits `durable` records one by one.
    pub(crate) fn commits_of_writer(self, durable: u32, eventual: u32) -> u32 {
        let share = durable.saturating_mul(FULL_WRITERS) / self.writers.max(FULL_WRITERS);
        match self.workload {
            Workload::OwnFamily | Workload::OneFamily => share,
            Workload::Batches | Workload::BatchesAsImages => share / BATCH_COMMITS_DIVISOR,
            Workload::Eventual => eventual,
        }
        .max(1)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.writers == 1 { "" } else { "s" };
        write!(f, "{} writer{s}, {}", self.writers, self.workload.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_has_the_same_cases_in_another_order() {
        let runs: Vec<_> = (0..4).map(|run| Case::of_run(run, &[1, 32], true)).collect();
        for run in &runs {
            assert_eq!(run.len(), 10);
            assert!(run.iter().all(|case| runs[0].contains(case)));
        }
        assert!((0..4).all(|run| runs[run][0].workload == Workload::DURABLE[run]));
    }

    #[test]
    fn many_writers_commit_less_often_each() {
        let commits = |writers, workload| Case { writers, workload }.commits_of_writer(10_000, 7);
        assert_eq!(commits(8, Workload::OneFamily), 10_000);
        assert_eq!(commits(32, Workload::OneFamily), 2500);
        assert_eq!(commits(32, Workload::Batches), 125);
        assert_eq!(commits(2, Workload::Eventual), 7);
    }
}
