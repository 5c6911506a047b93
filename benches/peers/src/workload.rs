//! The workloads: each runs in a process of its own, and verifies what it wrote after reopening.

mod bulk; // one large transaction
mod churn; // the same records again and again
pub(crate) mod families; // large transactions of several writers
mod get; // random records
pub(crate) mod large; // values of 1 MiB
mod mixed; // reads and writes, skewed
mod open; // how long it takes
mod remove; // many records at once
mod scan; // entries in order
mod single; // small commits of several writers

use crate::{
    bench::Bench,
    case::{Case, Workload},
    measured::Measured,
};

/// Bytes that values are cut from: few enough for a processor's cache where values are small, for it is not memory that is measured.
pub(crate) fn pool_bytes(case: Case) -> usize {
    match case.workload {
        Workload::Families | Workload::FamiliesEventual | Workload::Open => 32 << 20,
        Workload::Large => 64 << 20,
        _ => 1 << 20,
    }
}

/// Nothing where the case only prepares files.
pub(crate) fn run(bench: &Bench) -> anyhow::Result<Option<Measured>> {
    match bench.case.workload {
        Workload::Families | Workload::FamiliesEventual => families::run(bench).map(Some),
        Workload::Single | Workload::SingleEventual | Workload::Batch => single::run(bench).map(Some),
        Workload::Bulk => bulk::run(bench).map(Some),
        Workload::Get => get::run(bench).map(Some),
        Workload::Scan => scan::run(bench).map(Some),
        Workload::Remove => remove::run(bench).map(Some),
        Workload::Mixed if bench.case.variant.is_empty() => mixed::run(bench).map(Some),
        Workload::Mixed => mixed::beside_a_writer(bench).map(Some),
        Workload::Large => large::run(bench).map(Some),
        Workload::Open => open::run(bench),
        Workload::Churn => churn::run(bench).map(Some),
    }
}
