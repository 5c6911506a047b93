//! How should dirty pages leave: one by one, as vectors, copied together, or with the gaps between them?
//!
//! Through the storage that the flusher uses, onto a real disk, each flush followed by its sync. The flusher joins neighbours and writes
//! them as vectors; if copying them together were faster it should, and if writing a gap along saved more than the gap costs, it should
//! write gaps that are free.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use spinney_benches::{incompressible, settings};
use spinney_file::{OsFile, Storage};
use std::{io::IoSlice, ops::Range};

const PAGE_BYTES: u64 = 4096;
/// Of the file, all of them written before.
const FILE_PAGES: u64 = 16_384;
/// Of a flush.
const DIRTY: u64 = 512;
/// A gap so long is written along where gaps are.
const BRIDGED: u64 = 2;

/// How a flush writes.
#[derive(Clone, Copy, Debug)]
enum Way {
    EachPage,
    Vectored,
    Concatenated,
    Bridged,
}

/// Which pages are dirty: runs of neighbours, in order.
fn runs(shape: &str) -> Vec<Range<u64>> {
    let spread = |count: u64, pages: u64, step: u64| (0..count).map(move |n| n * step..n * step + pages);
    match shape {
        "adjacent" => std::iter::once(0..DIRTY).collect(),
        "scattered" => spread(DIRTY, 1, 31).collect(),
        "every second" => spread(DIRTY, 1, 2).collect(),
        _ => {
            let (long, short) = (spread(4, DIRTY / 8, 200), spread(DIRTY / 4, 2, 19));
            long.chain(short.map(|run| run.start + 1000..run.end + 1000)).collect()
        }
    }
}

/// Runs that a gap of at most so many pages divides become one.
fn bridged(runs: &[Range<u64>], gap: u64) -> Vec<Range<u64>> {
    let mut out: Vec<Range<u64>> = Vec::new();
    for run in runs {
        match out.last_mut() {
            Some(last) if run.start - last.end <= gap => last.end = run.end,
            _ => out.push(run.clone()),
        }
    }
    out
}

fn flush(file: &OsFile, runs: &[Range<u64>], way: Way, page: &[u8]) {
    for run in runs {
        let pages = usize::try_from(run.end - run.start).expect("a run fits memory");
        let at = run.start * PAGE_BYTES;
        match way {
            Way::EachPage => {
                for number in run.clone() {
                    write(file, number * PAGE_BYTES, &[IoSlice::new(page)]);
                }
            }
            Way::Concatenated => write(file, at, &[IoSlice::new(&page.repeat(pages))]),
            Way::Vectored | Way::Bridged => write(file, at, &vec![IoSlice::new(page); pages]),
        }
    }
    file.sync_data().expect("the disk works");
}

fn write(file: &OsFile, at: u64, run: &[IoSlice<'_>]) {
    let bytes: usize = run.iter().map(|slice| slice.len()).sum();
    assert_eq!(file.write_vectored_at(at, run).expect("the disk has room"), bytes, "a short write");
}

fn flush_by_runs(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(".").expect("a folder on the disk");
    let file = OsFile::create(folder.path().join("pages")).expect("a new file");
    let page = incompressible(1, 4096);
    for number in 0..FILE_PAGES {
        write(&file, number * PAGE_BYTES, &[IoSlice::new(&page)]);
    }
    file.sync_data().expect("the disk works");
    for shape in ["adjacent", "scattered", "every second", "mixed"] {
        let mut group = criterion.benchmark_group(format!("flush_by_runs/{shape}"));
        group.throughput(Throughput::Elements(DIRTY));
        for way in [Way::EachPage, Way::Vectored, Way::Concatenated, Way::Bridged] {
            let gap = if matches!(way, Way::Bridged) { BRIDGED } else { 0 };
            let runs = bridged(&runs(shape), gap);
            group.bench_function(BenchmarkId::from_parameter(format!("{way:?}")), |bencher| {
                bencher.iter(|| flush(&file, &runs, way, &page));
            });
        }
        group.finish();
    }
}

criterion_group! { name = benches; config = settings(); targets = flush_by_runs }
criterion_main!(benches);
