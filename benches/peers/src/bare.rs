//! The yardstick: the same bytes in the same units, written and synced by the same threads, without an engine. Nobody could be
//! faster with these calls.

use crate::{
    bench::{Bench, Work},
    case::Workload,
    data::{KEY_BYTES, VALUE_BYTES},
    engine::{Reader, Store, Writer},
    measured::Measured,
    workload::{families, large},
};
use anyhow::{bail, ensure};
use rustix::{
    fs::{FallocateFlags, fallocate, fdatasync},
    io::{Errno, ReadWriteFlags, pwritev, pwritev2},
};
use spinney_bench_harness::race;
use std::{
    fs::{File, OpenOptions},
    io::IoSlice,
    os::unix::fs::FileExt,
    path::Path,
    sync::Mutex,
};

const PAGE_BYTES: usize = 4096;
/// Linux's `IOV_MAX`.
const BUFFERS_PER_CALL_MAX: usize = 1024;
/// Places of a file that is overwritten, in turn.
const PLACES: u64 = 256;

pub(crate) fn run(bench: &Bench) -> anyhow::Result<Measured> {
    bench.meter.before_engine()?;
    match (bench.case.workload, bench.case.variant) {
        (Workload::Families, _) => grow(bench),
        (Workload::Single, _) => overwrite(bench, PAGE_BYTES, 20_000, 1),
        (Workload::Batch, _) => {
            overwrite(bench, (100 * (KEY_BYTES + VALUE_BYTES)).next_multiple_of(PAGE_BYTES), 4000, 100)
        }
        (Workload::Large, "write") => write_large(bench),
        (Workload::Large, _) => read_large(bench),
        _ => bail!("the bare disk does not do that"),
    }
}

/// Transactions of the writers of `families`, into one file that grows as the engine's does.
fn grow(bench: &Bench) -> anyhow::Result<Measured> {
    let commit_bytes = usize::try_from(families::RECORDS)? * (8 + families::VALUE_BYTES);
    let pages = commit_bytes.div_ceil(PAGE_BYTES);
    let transactions = bench.scaled(100);
    let writers = bench.case.threads;
    let bare = Growing { file: create(&bench.folder, 0)?, ends: Mutex::new((0, 0)) };
    let mut measured = measure(bench, || {
        race(writers, |writer| {
            for transaction in 0..transactions {
                let start = bare.take((pages * PAGE_BYTES) as u64)?;
                let page = |page| bench.pool.cut(u64::from(writer) << 40 | transaction << 20 | page, PAGE_BYTES);
                let buffers: Vec<_> = (0..pages as u64).map(|number| IoSlice::new(page(number))).collect();
                for (number, part) in (0..).zip(buffers.chunks(BUFFERS_PER_CALL_MAX)) {
                    let at = start + number * (BUFFERS_PER_CALL_MAX * PAGE_BYTES) as u64;
                    let written = pwritev(&bare.file, part, at)?;
                    ensure!(written == part.len() * PAGE_BYTES, "a short write: {written} bytes");
                }
                fdatasync(&bare.file)?;
            }
            Ok(())
        })?;
        let commits = transactions * u64::from(writers);
        Ok(Work::new(commits * families::RECORDS, commits))
    })?;
    measured.raw_bytes = measured.commits * commit_bytes as u64;
    Ok(measured)
}

/// A file that stretches are taken from, one after the other.
struct Growing {
    file: File,
    /// Where the next stretch begins, and how long the file is.
    ends: Mutex<(u64, u64)>,
}

impl Growing {
    /// The next `bytes` of the file, which grows by a quarter, at least 1 MiB and at most 64 MiB.
    fn take(&self, bytes: u64) -> anyhow::Result<u64> {
        let mut ends = self.ends.lock().expect("no writer panicked");
        let (start, mut end) = *ends;
        if start + bytes > end {
            let step = (end / 4).clamp(1 << 20, 64 << 20).max(start + bytes - end);
            fallocate(&self.file, FallocateFlags::empty(), end, step)?;
            end += step;
        }
        *ends = (start + bytes, end);
        Ok(start)
    }
}

/// Synced overwrites of places that have their blocks; each thread has its own file.
fn overwrite(bench: &Bench, bytes: usize, commits: u64, records: u64) -> anyhow::Result<Measured> {
    let threads = bench.case.threads;
    let commits = bench.scaled_of_thread(commits);
    let mut files = Vec::new();
    for thread in 0..threads {
        let file = create(&bench.folder, thread)?;
        for place in 0..PLACES {
            file.write_all_at(bench.pool.cut(place, bytes), place * bytes as u64)?;
        }
        file.sync_all()?;
        files.push(file);
    }
    measure(bench, || {
        race(threads, |thread| {
            let file = &files[thread as usize];
            for commit in 0..commits {
                let place = commit % PLACES;
                write_synced(file, bench.pool.cut(commit + 1000, bytes), place * bytes as u64)?;
            }
            Ok(())
        })?;
        let commits = commits * u64::from(threads);
        Ok(Work::new(commits * records, commits))
    })
}

/// Durable when it returns, by one call where the system can.
fn write_synced(file: &File, bytes: &[u8], at: u64) -> anyhow::Result<()> {
    match pwritev2(file, &[IoSlice::new(bytes)], at, ReadWriteFlags::DSYNC) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
            file.write_all_at(bytes, at)?;
            fdatasync(file)?;
        }
        written => ensure!(written? == bytes.len(), "a short write"),
    }
    Ok(())
}

fn write_large(bench: &Bench) -> anyhow::Result<Measured> {
    let values = large::values(bench);
    let file = create(&bench.folder, 0)?;
    let mut measured = measure(bench, || {
        for value in 0..values {
            file.write_all_at(bench.pool.cut(value, large::VALUE_BYTES), value * large::VALUE_BYTES as u64)?;
            if (value + 1).is_multiple_of(large::VALUES_AT_A_TIME) {
                fdatasync(&file)?;
            }
        }
        Ok(Work::new(values, values / large::VALUES_AT_A_TIME))
    })?;
    measured.raw_bytes = values * large::VALUE_BYTES as u64;
    Ok(measured)
}

fn read_large(bench: &Bench) -> anyhow::Result<Measured> {
    let (offset, bytes) = if bench.case.variant == "part" {
        (large::VALUE_BYTES as u64 / 2, large::PART_BYTES)
    } else {
        (0, large::VALUE_BYTES)
    };
    let order = large::shuffled(bench);
    let file = File::open(path(&bench.folder, 0))?;
    let mut buffer = vec![0; bytes];
    measure(bench, || {
        for &value in &order {
            file.read_exact_at(&mut buffer, value * large::VALUE_BYTES as u64 + offset)?;
        }
        Ok(Work::new(order.len() as u64, 0))
    })
}

fn measure(bench: &Bench, work: impl FnOnce() -> anyhow::Result<Work>) -> anyhow::Result<Measured> {
    bench.measure(&bench.setup(), Box::new(Nothing), |_| work())
}

fn create(folder: &Path, number: u32) -> anyhow::Result<File> {
    Ok(OpenOptions::new().read(true).write(true).create_new(true).open(path(folder, number))?)
}

fn path(folder: &Path, number: u32) -> std::path::PathBuf {
    folder.join(format!("bare {number}"))
}

/// What is closed where there is no engine.
struct Nothing;

impl Store for Nothing {
    fn write(&self, _: u32, _: &mut dyn FnMut(&mut dyn Writer) -> anyhow::Result<()>) -> anyhow::Result<()> {
        bail!("no engine")
    }

    fn read(&self, _: u32, _: &mut dyn FnMut(&mut dyn Reader) -> anyhow::Result<()>) -> anyhow::Result<()> {
        bail!("no engine")
    }

    fn settle(&self) -> anyhow::Result<()> {
        Ok(())
    }

    fn close(self: Box<Self>) -> anyhow::Result<()> {
        Ok(())
    }
}
