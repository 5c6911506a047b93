//! The yardstick: the same bytes in the same units, written and synced by the same threads, into a file that
//! grows the way the engine's does. No database could be faster with these calls.

use crate::{measure::Measured, workload::Job};
use anyhow::{Context, ensure};
use rustix::{
    fs::{FallocateFlags, fallocate, fdatasync},
    io::pwritev,
};
use spinney_bench_harness::{race, settle};
use std::{
    fs::{self, File, OpenOptions},
    io::IoSlice,
    os::unix::fs::FileExt,
    path::Path,
    sync::Mutex,
    time::{Duration, Instant},
};

const PAGE_BYTES: usize = 4096;
/// Buffers per call: Linux's `IOV_MAX`.
const BUFFERS_PER_CALL_MAX: usize = 1024;

/// A file that stretches are taken from, one after the other.
struct Bare {
    file: File,
    /// Where the next stretch begins, and how long the file is.
    ends: Mutex<(u64, u64)>,
}

impl Bare {
    /// The next `bytes` of the file, which grows by a quarter, at least 128 KiB and at most 64 MiB, as the engine's does.
    fn take(&self, bytes: u64) -> anyhow::Result<u64> {
        let mut ends = self.ends.lock().expect("no writer panicked");
        let (start, file_bytes) = *ends;
        let mut end = file_bytes;
        if start + bytes > end {
            let step = (end / 4).clamp(128 << 10, 64 << 20).max(start + bytes - end);
            fallocate(&self.file, FallocateFlags::empty(), end, step)?;
            end += step;
        }
        *ends = (start + bytes, end);
        Ok(start)
    }
}

/// What one writer did.
#[derive(Default)]
struct Done {
    latencies: Vec<Duration>,
    calls: u64,
    in_write: Duration,
    in_sync: Duration,
    /// Where its transactions begin in the file.
    starts: Vec<u64>,
}

/// Writes `bytes` per transaction, rounded up to whole pages.
pub(crate) fn run(folder: &Path, job: &Job<'_>, bytes: u64) -> anyhow::Result<Measured> {
    let path = folder.join("bare");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    let bare = Bare { file, ends: Mutex::new((0, 0)) };
    settle(folder)?;
    let pages = bytes.div_ceil(PAGE_BYTES as u64);
    let (elapsed, done) = race(job.writers, |writer| write(&bare, writer, job, pages))?;
    verify(&bare.file, job, pages, &done).context("the bare file")?;

    let records = job.records_of_writer() * u64::from(job.writers);
    let mut measured = Measured { elapsed, records, file_bytes: bare.file.metadata()?.len(), ..Measured::default() };
    let counts = &mut measured.counts;
    counts.syncs = job.transactions_total();
    counts.bytes_written = job.transactions_total() * pages * PAGE_BYTES as u64;
    counts.image_pages = job.transactions_total() * pages;
    for done in done {
        counts.write_calls += done.calls;
        counts.in_write += done.in_write;
        counts.in_sync += done.in_sync;
        measured.latencies.extend(done.latencies);
    }
    counts.image_calls = counts.write_calls;
    fs::remove_file(&path)?;
    Ok(measured)
}

fn write(bare: &Bare, writer: u32, job: &Job<'_>, pages: u64) -> anyhow::Result<Done> {
    let mut done = Done::default();
    for transaction in 0..job.transactions {
        let buffers: Vec<IoSlice<'_>> =
            (0..pages).map(|page| IoSlice::new(page_of(job, writer, transaction, page))).collect();
        let begun = Instant::now();
        let start = bare.take(pages * PAGE_BYTES as u64)?;
        let mut at = start;
        for part in buffers.chunks(BUFFERS_PER_CALL_MAX) {
            let begun = Instant::now();
            let written = pwritev(&bare.file, part, at)?;
            done.in_write += begun.elapsed();
            done.calls += 1;
            ensure!(written == part.len() * PAGE_BYTES, "a short write: {written} bytes");
            at += written as u64;
        }
        let syncing = Instant::now();
        fdatasync(&bare.file)?;
        done.in_sync += syncing.elapsed();
        done.latencies.push(begun.elapsed());
        done.starts.push(start);
    }
    Ok(done)
}

fn page_of<'a>(job: &'a Job<'_>, writer: u32, transaction: u32, page: u64) -> &'a [u8] {
    job.values.page(writer, u64::from(transaction) << 20 | page, PAGE_BYTES)
}

/// The first and the last page of each transaction are compared.
fn verify(file: &File, job: &Job<'_>, pages: u64, done: &[Done]) -> anyhow::Result<()> {
    let mut found = vec![0; PAGE_BYTES];
    for (writer, done) in (0..).zip(done) {
        for (transaction, start) in (0..).zip(&done.starts) {
            for page in [0, pages - 1] {
                file.read_exact_at(&mut found, start + page * PAGE_BYTES as u64)?;
                ensure!(found == page_of(job, writer, transaction, page), "writer {writer}, transaction {transaction}");
            }
        }
    }
    Ok(())
}
