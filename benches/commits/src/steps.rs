//! What a single commit asks of the disk, while nothing else does.
//!
//! Totals cannot say it: they contain checkpoints. Here one writer commits, the counters are read after each commit, and
//! those during which a checkpoint was at work are left out.

use spinney::Database;
use spinney_bench_harness::{Counts, ratio};
use std::time::Instant;

/// Sums over commits that no checkpoint worked beside.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Steps {
    commits: u64,
    write_calls: u64,
    syncs: u64,
    /// Commits of exactly one write call and one sync.
    exact: u64,
}

impl Steps {
    pub(crate) fn write_calls_per_commit(&self) -> f64 {
        ratio(self.write_calls as f64, self.commits as f64)
    }

    pub(crate) fn syncs_per_commit(&self) -> f64 {
        ratio(self.syncs as f64, self.commits as f64)
    }

    /// The share of commits of exactly one write call and one sync.
    pub(crate) fn exact_share(&self) -> f64 {
        ratio(self.exact as f64, self.commits as f64)
    }
}

/// From one reading of the counters to the next.
struct Step {
    begun: Instant,
    ended: Instant,
    counts: Counts,
}

impl Step {
    /// When the checkpoints that finished in this step were at work, as far as can be told from how long they took.
    fn checkpoints(&self) -> Option<(Instant, Instant)> {
        let begun =
            self.ended.checked_sub(self.counts.in_checkpoints + (self.ended - self.begun)).unwrap_or(self.begun);
        (self.counts.checkpoints > 0).then_some((begun, self.ended))
    }
}

/// Commits so many times, and counts.
pub(crate) fn count(
    db: &Database,
    commits: u32,
    mut commit: impl FnMut(u32) -> anyhow::Result<()>,
) -> anyhow::Result<Steps> {
    // Nothing is left over for the background, and at the end nothing is still at work.
    db.checkpoint()?;
    let mut steps = Vec::with_capacity(commits as usize);
    let mut before = db.stats()?.file;
    let mut begun = Instant::now();
    let mut step = |steps: &mut Vec<Step>| -> anyhow::Result<()> {
        let after = db.stats()?.file;
        let ended = Instant::now();
        steps.push(Step { begun, ended, counts: Counts::between(&before, &after) });
        (before, begun) = (after, ended);
        Ok(())
    };
    for number in 0..commits {
        commit(number)?;
        step(&mut steps)?;
    }
    db.checkpoint()?;
    let mut last = Vec::new();
    step(&mut last)?;
    let checkpoints: Vec<_> = steps.iter().chain(&last).filter_map(Step::checkpoints).collect();
    Ok(sum(&steps, &checkpoints))
}

fn sum(steps: &[Step], checkpoints: &[(Instant, Instant)]) -> Steps {
    let mut sum = Steps::default();
    for Step { begun, ended, counts } in steps {
        if checkpoints.iter().any(|(from, to)| begun <= to && from <= ended) {
            continue;
        }
        sum.commits += 1;
        sum.write_calls += counts.write_calls;
        sum.syncs += counts.syncs;
        sum.exact += u64::from((counts.write_calls, counts.syncs) == (1, 1));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn commits_beside_a_checkpoint_are_left_out() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let step = |number: u64, write_calls, checkpoint_ms| Step {
            begun: at(number * 10),
            ended: at(number * 10 + 10),
            counts: Counts {
                write_calls,
                syncs: 1,
                checkpoints: u64::from(checkpoint_ms > 0),
                in_checkpoints: Duration::from_millis(checkpoint_ms),
                ..Counts::default()
            },
        };
        // The checkpoint that finishes between 50 and 60 took 15 ms: it was not at work before 35.
        let steps = [(1, 0), (1, 0), (2, 0), (9, 0), (9, 0), (9, 15), (9, 0), (1, 0)];
        let steps: Vec<_> = (0..).zip(steps).map(|(number, (calls, ms))| step(number, calls, ms)).collect();
        let checkpoints: Vec<_> = steps.iter().filter_map(Step::checkpoints).collect();
        let sum = sum(&steps, &checkpoints);
        // The fourth ends at 40, the seventh begins at 60.
        assert_eq!((sum.commits, sum.write_calls, sum.exact), (4, 5, 3));
        assert_eq!((sum.write_calls_per_commit(), sum.exact_share()), (1.25, 0.75));
    }
}
