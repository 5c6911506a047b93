//! The process that is killed: several writers for ever, somebody who holds snapshots, and numbers every second.

use crate::{
    model::counter_of,
    plan::{Event, Plan, Random},
    work::{attempt, level, options, tell},
};
use anyhow::{Context, ensure};
use spinney::{Database, Family, Snapshot};
use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

/// Writers, each with families of its own and one that all share.
pub(crate) const WRITERS: u8 = 3;

/// Bytes of cached and changed pages.
pub(crate) const BUDGET: u64 = 16 << 20;

/// The largest log.
pub(crate) const LOG: u64 = 8 << 20;

/// Snapshots that a writer holds at most, and one that the reader does.
pub(crate) const HELD_PER_WRITER: usize = 2;

pub(crate) fn open(path: &Path, read_only: bool) -> spinney::Result<Database> {
    // A machine that was suspended for minutes is no writer that hangs.
    let patient = options(false).begin_timeout(Duration::from_secs(600));
    patient.memory_budget(BUDGET).log_size_max(LOG).read_only(read_only).open(path)
}

/// Works until it is killed, or standard input ends.
///
/// # Errors
/// Anything: nothing may fail here.
pub(crate) fn run(path: &Path, seed: u64) -> anyhow::Result<()> {
    let plan = Plan::long(seed);
    let db = open(path, false)?;
    let snapshot = db.snapshot();
    let mut counters = Vec::new();
    for writer in 0..WRITERS {
        let counter = counter_of(&db, &snapshot, writer)?;
        tell(&format!("at {writer} {counter}"));
        counters.push(counter);
    }
    drop(snapshot);
    let commits = AtomicU64::new(0);
    thread::scope(|scope| {
        for (writer, &counter) in counters.iter().enumerate() {
            let (db, plan, commits) = (&db, &plan, &commits);
            scope.spawn(move || end_on_error(write(db, plan, writer as u8, counter, commits)));
        }
        scope.spawn(|| end_on_error(watch(&db, seed)));
        end_on_error(count(&db, &commits));
    });
    Ok(())
}

fn end_on_error(result: anyhow::Result<()>) {
    if let Err(error) = result {
        tell(&format!("fail {error:#}"));
        std::process::exit(1);
    }
}

fn write(db: &Database, plan: &Plan, writer: u8, mut counter: u64, commits: &AtomicU64) -> anyhow::Result<()> {
    let mut held: Vec<Snapshot> = Vec::new();
    loop {
        counter += 1;
        let done = attempt(db, plan, writer, counter);
        let (seq, durability) = done.with_context(|| format!("writer {writer}, transaction {counter}"))?;
        tell(&format!("ack {writer} {counter} {} {}", seq.0, level(durability)));
        commits.fetch_add(1, Ordering::Relaxed);
        match plan.event(writer, counter) {
            Some(Event::Checkpoint) => drop(db.checkpoint()?),
            Some(Event::Flush) => drop(db.flush()?),
            Some(Event::Reclaim) => drop(db.reclaim(4 << 20)?),
            Some(Event::HoldSnapshot) => {
                if held.len() == HELD_PER_WRITER {
                    held.remove(0);
                }
                held.push(db.snapshot());
            }
            Some(Event::DropSnapshots) => held.clear(),
            Some(Event::Reopen) | None => {}
        }
    }
}

/// Everything a snapshot shows of a family: how many entries, and a sum of their bytes.
fn sum_of(snapshot: &Snapshot, family: &Family) -> anyhow::Result<(u64, u64)> {
    let (mut entries, mut sum) = (0, 0u64);
    for entry in snapshot.range(family, ..) {
        let (key, value) = entry?;
        entries += 1;
        for byte in key.iter().chain(value.iter()) {
            sum = sum.rotate_left(5).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(*byte);
        }
    }
    Ok((entries, sum))
}

/// A snapshot never changes. Families that come and go cannot be opened by name once they are gone, so it looks at those that stay.
fn watch(db: &Database, seed: u64) -> anyhow::Result<()> {
    let mut random = Random::new(seed);
    loop {
        thread::sleep(Duration::from_millis(200 + random.below(3000)));
        let mut families = Vec::new();
        for info in db.families()?.iter().filter(|info| !info.name.starts_with("passing")) {
            families.extend(db.open_family(&info.name)?);
        }
        if families.is_empty() {
            continue;
        }
        let looked_at = match random.below(10) {
            0 => &families[..],
            _ => {
                let at = random.below(families.len() as u64) as usize;
                &families[at..=at]
            }
        };
        let snapshot = if random.one_in(2) { db.snapshot() } else { db.snapshot_of(looked_at) };
        let sums = || looked_at.iter().map(|family| sum_of(&snapshot, family)).collect::<anyhow::Result<Vec<_>>>();
        let first = sums()?;
        thread::sleep(Duration::from_millis(random.below(2000)));
        ensure!(first == sums()?, "a snapshot of {looked_at:?} changed");
    }
}

/// A number of `/proc/self/status`, in KiB; 0 where there is none.
fn status(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim_start_matches(':').split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn count(db: &Database, commits: &AtomicU64) -> anyhow::Result<()> {
    let mut second = 0;
    loop {
        thread::sleep(Duration::from_secs(1));
        second += 1;
        let stats = db.stats()?;
        let file = &stats.file;
        let us = |time: Duration| time.as_micros();
        tell(&format!(
            "stat {second} {} {} {} {} {} {} {:.1} {:.1} {} {} {} {}",
            commits.load(Ordering::Relaxed),
            stats.space.file_bytes,
            stats.space.live_bytes,
            stats.space.pinned_bytes,
            status("VmRSS"),
            status("VmHWM"),
            file.images.mean_run_pages(),
            file.written_out.mean_run_pages(),
            us(file.sync_time.p50()),
            us(file.sync_time.p99()),
            us(file.log_wait.p99()),
            file.checkpoints,
        ));
    }
}
