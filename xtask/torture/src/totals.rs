//! What was tried and how it came out; and what could not be tried, with the reason.

use std::{collections::BTreeMap, fmt, sync::Mutex};

/// Shared by everybody who tries something.
#[derive(Debug, Default)]
pub(crate) struct Totals(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    counts: BTreeMap<String, u64>,
    skipped: Vec<String>,
    failures: Vec<String>,
}

/// Failures that are written out; the others are only counted.
const SHOWN_MAX: usize = 12;

impl Totals {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// One more of these.
    pub(crate) fn count(&self, what: impl Into<String>) {
        *self.inner().counts.entry(what.into()).or_default() += 1;
    }

    /// A step that this machine cannot make.
    pub(crate) fn skip(&self, step: &str, why: impl fmt::Display) {
        println!("{step}: skipped, because {why}");
        self.inner().skipped.push(format!("{step}: {why}"));
    }

    /// Something that must not be; said at once, in one line that repeats it.
    pub(crate) fn fail(&self, what: String) {
        let mut inner = self.inner();
        if inner.failures.len() < SHOWN_MAX {
            println!("FAILED {what}");
        }
        inner.failures.push(what);
    }

    /// Prints it all.
    ///
    /// # Errors
    /// When anything failed.
    pub(crate) fn close(&self) -> anyhow::Result<()> {
        let inner = self.inner();
        for (what, count) in &inner.counts {
            println!("{count:>8}  {what}");
        }
        println!("{:>8}  steps skipped", inner.skipped.len());
        for skipped in &inner.skipped {
            println!("          {skipped}");
        }
        println!("{:>8}  failures", inner.failures.len());
        anyhow::ensure!(inner.failures.is_empty(), "{} failures, first: {}", inner.failures.len(), inner.failures[0]);
        Ok(())
    }
}
