//! Spinney: writes beside the bare disk, then reopens and compares.

use crate::{
    bare::Bare,
    case::Workload,
    measure::{Measured, Speed, Yardstick},
    steps::{self, Steps},
    workload::Job,
};
use anyhow::{Context, ensure};
use spinney::{Database, Durability, Family, Options};
use spinney_bench_harness::{Counts, race, settle};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// Families are filled by so many threads: more only wait for the disk.
const LOADERS: u32 = 4;
/// Commits whose steps are counted one by one: fewer than lead to a checkpoint.
const STEPS: u32 = 1000;
/// Overwrites of the bare disk before, and again after, each measurement.
const OVERWRITES: u32 = 1500;
/// A commit that waits for nothing takes about as long as fifty readings of the clock: one in so many is timed alone.
const EVENTUAL_TIMED: u32 = 64;
/// One in so many records is compared afterwards.
const COMPARED: usize = 13;

/// Measures one case and verifies what it stored.
pub(crate) fn run(folder: &Path, job: &Job<'_>, bare: &Bare) -> anyhow::Result<Measured> {
    let path = folder.join("commits.spinney");
    let db = options(job).create(&path)?;
    let families = load(&db, job)?;
    db.checkpoint()?;
    settle(folder)?;

    let (case, is_durable) = (job.case, job.case.workload != Workload::Eventual);
    let mut yardstick = Yardstick::default();
    if is_durable {
        overwrite(&mut yardstick, bare, job)?;
    }
    let before = db.stats()?.file;
    let begun = Instant::now();
    let (mut elapsed, latencies) =
        race(case.writers, |writer| write_all(&families[case.family_of(writer) as usize], writer, job))?;
    if !is_durable {
        db.flush()?; // what was put off belongs to it
        elapsed = begun.elapsed();
    }
    let counts = Counts::between(&before, &db.stats()?.file);
    db.checkpoint()?; // or the background would do it beside the yardstick
    if is_durable {
        overwrite(&mut yardstick, bare, job)?;
    }
    let (mut steps, mut written) = (None, job.commits);
    if is_durable && case.writers == 1 {
        steps = Some(count_steps(&db, &families[0], job)?);
        written += STEPS;
    }
    drop(families);
    db.close()?;
    verify(&path, job, written).with_context(|| format!("{} after reopening", path.display()))?;
    fs::remove_file(&path)?;

    let speed = Speed { elapsed, commits: job.commits_total(), latencies: latencies.concat() };
    let bare = is_durable.then_some(yardstick);
    Ok(Measured { speed, counts, bare, steps, records: case.workload.records() })
}

fn options(job: &Job<'_>) -> Options {
    Options::new().memory_budget(job.memory_bytes).tuning(job.case.workload.tuning())
}

fn name_of(family: u32) -> String {
    format!("family {family}")
}

/// Makes the families and gives each its first records.
fn load(db: &Database, job: &Job<'_>) -> anyhow::Result<Vec<Family>> {
    let families: Vec<_> =
        (0..job.case.families()).map(|family| db.family(&name_of(family))).collect::<Result<_, _>>()?;
    race(LOADERS, |loader| {
        for (number, family) in (0..).zip(&families).skip(loader as usize).step_by(LOADERS as usize) {
            let mut entries: Vec<_> = (0..job.case.workload.records_before())
                .map(|record| (job.key(number, record), job.value(number, record)))
                .collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            let mut txn = family.begin()?;
            txn.bulk_load(entries)?;
            txn.commit_with(Durability::Eventual)?;
        }
        Ok(())
    })?;
    Ok(families)
}

/// A half of the yardstick.
fn overwrite(yardstick: &mut Yardstick, bare: &Bare, job: &Job<'_>) -> anyhow::Result<()> {
    yardstick.alone += bare.run(1, OVERWRITES)?;
    if job.case.writers > 1 {
        *yardstick.together.get_or_insert_default() += bare.run(job.case.writers, OVERWRITES / job.case.writers)?;
    }
    Ok(())
}

/// One writer's commits; returns how long each took that was timed.
fn write_all(family: &Family, writer: u32, job: &Job<'_>) -> anyhow::Result<Vec<Duration>> {
    let step = if job.case.workload == Workload::Eventual { EVENTUAL_TIMED } else { 1 };
    let mut latencies = Vec::with_capacity((job.commits / step) as usize + 1);
    for commit in 0..job.commits {
        let begun = (commit % step == 0).then(Instant::now);
        write(family, writer, commit, job)?;
        latencies.extend(begun.map(|begun| begun.elapsed()));
    }
    Ok(latencies)
}

/// One commit, from waiting for the family's turn to what was asked of durability.
fn write(family: &Family, writer: u32, commit: u32, job: &Job<'_>) -> anyhow::Result<()> {
    let mut txn = family.begin()?;
    for record in job.records_of(commit) {
        txn.put(job.key(writer, record), job.value(writer, record))?;
    }
    txn.commit_with(job.case.workload.durability())?;
    Ok(())
}

/// The only writer goes on where it stopped, and each of its commits is counted alone.
fn count_steps(db: &Database, family: &Family, job: &Job<'_>) -> anyhow::Result<Steps> {
    steps::count(db, STEPS, |commit| write(family, 0, job.commits + commit, job))
}

/// Every record is counted; of those from before and those of each writer's `commits`, some are compared.
fn verify(path: &Path, job: &Job<'_>, commits: u32) -> anyhow::Result<()> {
    let db = options(job).create_missing(false).open(path)?;
    let snapshot = db.snapshot();
    let compare = |family: &Family, writer: u32, record: u64| {
        let is_same = |value: &[u8]| value == job.value(writer, record);
        let found = snapshot.get_with(family, job.key(writer, record), is_same)?;
        ensure!(found == Some(true), "{}, record {record} of writer {writer}: {found:?}", family.name());
        anyhow::Ok(())
    };
    let records_before = job.case.workload.records_before();
    let writers = u64::from(job.case.writers / job.case.families());
    for number in 0..job.case.families() {
        let name = name_of(number);
        let family = db.open_family(&name)?.with_context(|| format!("`{name}` is gone"))?;
        let records = u64::from(commits) * u64::from(job.case.workload.records());
        let expected = records_before + writers * records;
        let mut walked = 0;
        for entry in snapshot.range(&family, ..) {
            entry?;
            walked += 1;
        }
        let counts = (walked, snapshot.len(&family)?);
        ensure!(counts == (expected, expected), "{name} has {counts:?} records, walked and counted, not {expected}");
        for record in (0..records_before).step_by(COMPARED) {
            compare(&family, number, record)?;
        }
        for writer in (0..job.case.writers).filter(|&writer| job.case.family_of(writer) == number) {
            for record in (records_before..records_before + records).rev().step_by(COMPARED) {
                compare(&family, writer, record)?;
            }
        }
    }
    drop(snapshot);
    Ok(db.close()?)
}
