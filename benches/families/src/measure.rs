//! What one run of one variant gives, and the middle of several.

use crate::{engine::Variant, workload::Job};
use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

/// Everything a variant is asked for. Counts and times are of the timed part alone, all writers and files together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    pub(crate) elapsed: Duration,
    pub(crate) records: u64,
    /// Of each commit, in no order.
    pub(crate) latencies: Vec<Duration>,
    /// System calls that wrote.
    pub(crate) write_calls: u64,
    /// Pages of commits, and the calls that wrote them.
    pub(crate) image_pages: u64,
    pub(crate) image_calls: u64,
    /// Syncs, and writes that were durable when they returned.
    pub(crate) syncs: u64,
    pub(crate) bytes_written: u64,
    pub(crate) file_bytes: u64,
    /// Threads waiting for write calls, for syncs, and for the log; the last includes syncs of others.
    pub(crate) in_write: Duration,
    pub(crate) in_sync: Duration,
    pub(crate) in_log: Duration,
}

impl Measured {
    pub(crate) fn ops_per_second(&self) -> f64 {
        ratio(self.records as f64, self.elapsed.as_secs_f64())
    }

    /// What so many percent of the commits did not exceed, in milliseconds.
    pub(crate) fn latency_ms(&self, percent: usize) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
    }

    pub(crate) fn pages_per_call(&self) -> f64 {
        ratio(self.image_pages as f64, self.image_calls as f64)
    }

    /// A time all writers spent together, in milliseconds of each transaction.
    pub(crate) fn ms_per_transaction(&self, time: Duration) -> f64 {
        ratio(time.as_secs_f64() * 1e3, self.latencies.len() as f64)
    }
}

/// One measurement and what it was of.
pub(crate) struct Outcome {
    /// From 1.
    pub(crate) run: u32,
    pub(crate) writers: u32,
    pub(crate) variant: Variant,
    pub(crate) measured: Measured,
}

/// Starts all writers at one moment and waits for the last: how long that took, and what each returned.
pub(crate) fn race<T: Send>(
    job: &Job<'_>,
    write: impl Fn(u32) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<(Duration, Vec<T>)> {
    let start = Barrier::new(job.writers as usize + 1);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..job.writers)
            .map(|writer| {
                let (start, write) = (&start, &write);
                scope.spawn(move || {
                    start.wait();
                    write(writer)
                })
            })
            .collect();
        start.wait();
        let begun = Instant::now();
        let results: Vec<_> = writers.into_iter().map(|writer| writer.join().expect("a writer panicked")).collect();
        Ok((begun.elapsed(), results.into_iter().collect::<anyhow::Result<_>>()?))
    })
}

/// The middle value; of an even number the mean of the two in the middle. Zero of none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// Zero when there is nothing to divide by.
pub(crate) fn ratio(dividend: f64, divisor: f64) -> f64 {
    if divisor == 0.0 { 0.0 } else { dividend / divisor }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_several() {
        assert_eq!(median([]), 0.0);
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0]), 2.5);
    }

    #[test]
    fn quantiles_count_from_the_shortest() {
        let latencies = (1..=100).rev().map(Duration::from_millis).collect();
        let measured = Measured { latencies, ..Measured::default() };
        assert_eq!((measured.latency_ms(50), measured.latency_ms(99)), (50.0, 99.0));
        assert_eq!(Measured::default().latency_ms(50), 0.0);
    }
}
