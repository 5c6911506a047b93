//! What is measured: workloads with their variants and numbers of threads, in groups that share their data.

use crate::engine::Engine;
use std::{fmt, str::FromStr};

/// A workload, as the command line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub(crate) enum Workload {
    Families,
    FamiliesEventual,
    Single,
    SingleEventual,
    Batch,
    Bulk,
    Get,
    Scan,
    Remove,
    Mixed,
    Large,
    Open,
    Churn,
}

impl Workload {
    /// In the order of tables.
    pub(crate) const ALL: [Self; 13] = [
        Self::Families,
        Self::FamiliesEventual,
        Self::Single,
        Self::SingleEventual,
        Self::Batch,
        Self::Bulk,
        Self::Get,
        Self::Scan,
        Self::Remove,
        Self::Mixed,
        Self::Large,
        Self::Open,
        Self::Churn,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Families => "families",
            Self::FamiliesEventual => "families-eventual",
            Self::Single => "single",
            Self::SingleEventual => "single-eventual",
            Self::Batch => "batch",
            Self::Bulk => "bulk",
            Self::Get => "get",
            Self::Scan => "scan",
            Self::Remove => "remove",
            Self::Mixed => "mixed",
            Self::Large => "large",
            Self::Open => "open",
            Self::Churn => "churn",
        }
    }

    /// What it is, for people, at its full size.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Families => {
                "Each writer has its own family and commits 100 durable transactions of 1000 records with keys in order and values of 1 KiB."
            }
            Self::FamiliesEventual => "The same, without waiting for the disk.",
            Self::Single => {
                "One random record of 24 B and 150 B per durable commit, into families of 100 000; each writer has its own. 20 000 commits in all."
            }
            Self::SingleEventual => "The same, without waiting for the disk. 1 000 000 commits in all.",
            Self::Batch => {
                "100 random records per durable commit, into families of 200 000; each writer has its own. 4000 commits in all."
            }
            Self::Bulk => {
                "5 000 000 random records in one durable transaction; and the same in the order of their keys, by each engine's way for that."
            }
            Self::Get => {
                "1 000 000 random gets on the data of `bulk`: with a cache of 2 GiB that has seen all of it, and with one of a tenth of the data. The system's page cache has the file in both."
            }
            Self::Scan => "200 000 scans of 10 records from a random key; one full scan forward; one backward. Warm.",
            Self::Remove => {
                "Half of the records of `bulk` at random in one durable transaction; a third of the keys as one range."
            }
            Self::Mixed => {
                "Each thread has its own family of 200 000 and reads 10 records, then overwrites 10 in a commit that does not wait, 50 000 times; skewed. And two readers of a family while one writes it: 400 000 gets in all, of which the rate is."
            }
            Self::Large => {
                "2000 values of 1 MiB, 10 per durable commit; then each read in random order; then 4 KiB from the middle of each."
            }
            Self::Open => {
                "Until the first record is read, at 1 GiB: after a clean close, and after SIGKILL behind 5000 durable commits."
            }
            Self::Churn => {
                "1 000 000 records are overwritten and removed at random, nine to one, in commits of 100 that do not wait, for ten times their number: ten windows."
            }
        }
    }
}

/// One measurement of one engine, in a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Case {
    pub(crate) workload: Workload,
    /// Empty where there is only one.
    pub(crate) variant: &'static str,
    pub(crate) threads: u32,
}

/// A case in its group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stage {
    pub(crate) case: Case,
    /// Whether it only prepares what the next one needs.
    pub(crate) is_hidden: bool,
}

impl Case {
    const fn new(workload: Workload, variant: &'static str, threads: u32) -> Self {
        Self { workload, variant, threads }
    }

    /// Cases whose files each leaves to the next; the first makes them.
    pub(crate) fn groups() -> Vec<Vec<Stage>> {
        use Workload::{
            Batch, Bulk, Churn, Families, FamiliesEventual, Get, Large, Mixed, Open, Remove, Scan, Single,
            SingleEventual,
        };
        let shown =
            |workload, variant, threads| Stage { case: Self::new(workload, variant, threads), is_hidden: false };
        let hidden = |workload, variant| Stage { case: Self::new(workload, variant, 1), is_hidden: true };
        let each = |workload, threads: &'static [u32]| threads.iter().map(move |&t| vec![shown(workload, "", t)]);
        let mut groups = Vec::new();
        groups.extend(each(Families, &[1, 2, 4, 8]));
        groups.extend(each(FamiliesEventual, &[1, 2, 4, 8]));
        groups.extend(each(Single, &[1, 4, 16]));
        groups.extend(each(SingleEventual, &[1, 4]));
        groups.extend(each(Batch, &[1, 4]));
        let mut data = vec![shown(Bulk, "random", 1)];
        data.extend(
            ["warm", "tenth"].into_iter().flat_map(|cache| [1, 2, 8].map(|threads| shown(Get, cache, threads))),
        );
        data.extend(["short", "forward", "backward"].map(|variant| shown(Scan, variant, 1)));
        data.push(shown(Remove, "random", 1));
        groups.push(data);
        groups.push(vec![shown(Bulk, "sorted", 1), shown(Remove, "range", 1)]);
        groups.extend(each(Mixed, &[1, 4]));
        groups.push(vec![shown(Mixed, "beside a writer", 2)]);
        groups.push(["write", "read", "part"].map(|variant| shown(Large, variant, 1)).to_vec());
        groups.push(vec![
            hidden(Open, "fill"),
            shown(Open, "clean", 1),
            hidden(Open, "kill"),
            shown(Open, "killed", 1),
        ]);
        groups.push(vec![shown(Churn, "", 1)]);
        groups
    }

    /// Every case that tables show, in their order.
    pub(crate) fn shown() -> Vec<Self> {
        let mut cases: Vec<_> =
            Self::groups().into_iter().flatten().filter(|stage| !stage.is_hidden).map(|stage| stage.case).collect();
        cases.sort_by_key(|case| case.workload); // stable: variants stay as they are
        cases
    }

    /// One family per writer, or one for all.
    pub(crate) fn families(self) -> u32 {
        match self.workload {
            Workload::Families
            | Workload::FamiliesEventual
            | Workload::Single
            | Workload::SingleEventual
            | Workload::Batch => self.threads,
            Workload::Mixed if self.variant.is_empty() => self.threads,
            _ => 1,
        }
    }

    /// Whether an engine can be asked: a file per family is another thing where there are several, and the bare disk only writes
    /// and reads what it is told.
    pub(crate) fn suits(self, engine: Engine) -> bool {
        match engine {
            Engine::RedbFiles => self.families() > 1,
            Engine::Bare => {
                matches!(self.workload, Workload::Families | Workload::Single | Workload::Batch | Workload::Large)
            }
            _ => true,
        }
    }

    /// Whether its commits wait for the disk, so that counting syncs says something.
    pub(crate) fn is_synced(self) -> bool {
        matches!(self.workload, Workload::Families | Workload::Single | Workload::Batch)
            || (self.workload, self.variant) == (Workload::Large, "write")
    }
}

/// `families 4`, `get warm 8`: what the command line takes too.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let between = if self.variant.is_empty() { "" } else { " " };
        write!(f, "{}{between}{} {}", self.workload.name(), self.variant, self.threads)
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut cases = Self::groups().into_iter().flatten().map(|stage| stage.case);
        cases.find(|case| case.to_string() == text).ok_or_else(|| format!("there is no case `{text}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_case() {
        for stage in Case::groups().into_iter().flatten() {
            assert_eq!(stage.case.to_string().parse(), Ok(stage.case));
        }
    }

    #[test]
    fn every_workload_has_a_case() {
        for workload in Workload::ALL {
            assert!(Case::shown().iter().any(|case| case.workload == workload), "{workload:?}");
        }
    }
}
