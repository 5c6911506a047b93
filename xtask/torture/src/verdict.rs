//! The verdict on a file after its writer ended, however it ended: what was acknowledged is there, nothing else is, and it works.

use crate::{
    model::{Model, counter_of},
    plan::Plan,
    work::{attempt, options},
};
use anyhow::{Context, ensure};
use std::path::Path;

/// What a writer told before it ended.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The newest transaction acknowledged and not taken back by a reopening that the writer survived.
    pub(crate) newest: u64,
    /// The newest that must be there: `Immediate` or `Buffered`, in a process that died on an operating system that did not.
    pub(crate) durable: u64,
    pub(crate) errors: u64,
    pub(crate) done: bool,
}

impl Told {
    /// # Errors
    /// A line that is none of the writer's.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let mut told = Self::default();
        // A line cut off by a kill has no end and does not count.
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
            match (words[0], number(2)) {
                ("ack", Some(counter)) => {
                    told.newest = counter;
                    if words.get(4) != Some(&"E") {
                        told.durable = counter;
                    }
                }
                ("at", Some(counter)) => told.newest = counter,
                ("err", Some(_)) => told.errors += 1,
                ("done", _) => told.done = true,
                ("gave", _) => {}
                _ => anyhow::bail!("the writer said `{line}`"),
            }
        }
        Ok(told)
    }
}

/// Opens the file and judges it.
///
/// # Errors
/// Anything lost, invented, unsound or unusable.
pub(crate) fn judge(plan: Plan, path: &Path, told: &Told, until: u64) -> anyhow::Result<()> {
    if !path.exists() {
        ensure!(told.newest == 0, "the file is gone");
        return Ok(());
    }
    let db = options(true).open(path).context("opening after the end")?;
    let found = counter_of(&db, &db.snapshot(), 0)?;
    ensure!(found >= told.durable, "transaction {} was acknowledged, {found} is there", told.durable);
    ensure!(found <= told.newest + 1, "transaction {found} is there, {} was the last acknowledged", told.newest);
    ensure!(!told.done || found == until, "the writer was done, and {found} of {until} is there");
    let mut model = Model::new(plan, 0);
    model.advance(found)?;
    model.compare(&db, &db.snapshot())?;
    let report = db.check()?;
    ensure!(report.is_sound(), "after {found} transactions: {:?}", report.problems);

    attempt(&db, &plan, 0, found + 1).context("the next transaction")?;
    db.close().context("closing")?;
    let db = options(true).read_only(true).open(path).context("opening again")?;
    model.advance(found + 1)?;
    model.compare(&db, &db.snapshot()).context("after going on")
}
