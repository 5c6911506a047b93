//! What the file has done so far, in numbers: latencies, writes, runs, syncs.
//!
//! Counters that nothing else depends on: every access is `Relaxed`, and a reader may see one counter a moment before
//! another.

use std::{
    array,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Stripes of a [`StripedCounter`].
const STRIPE_COUNT: usize = 64;

/// A counter for paths that must not store to a shared line: each thread has a line of its own, summed when somebody
/// asks. Beyond 64 threads lines are shared, and simultaneous additions to one may count once.
#[derive(Debug)]
pub(crate) struct StripedCounter {
    stripes: [Stripe; STRIPE_COUNT],
}

/// Two lines, since processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe(AtomicU64);

impl Default for StripedCounter {
    fn default() -> Self {
        Self { stripes: array::from_fn(|_| Stripe::default()) }
    }
}

impl StripedCounter {
    /// Adds one. A load and a store, both to a line of this thread's.
    #[inline]
    pub(crate) fn add_one(&self) {
        thread_local! {
            static STRIPE: usize = {
                static NEXT: AtomicUsize = AtomicUsize::new(0);
                NEXT.fetch_add(1, Relaxed) % STRIPE_COUNT
            };
        }
        let stripe = &self.stripes[STRIPE.try_with(|&stripe| stripe).unwrap_or(0)].0;
        stripe.store(stripe.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// What has been added.
    pub(crate) fn sum(&self) -> u64 {
        self.stripes.iter().map(|stripe| stripe.0.load(Relaxed)).sum()
    }
}

/// Parts of each power of two that a [`Histogram`] tells apart, log2: a quantile is at most a quarter too high.
const SUB_BITS: u32 = 2;
/// 64 powers of two, the smallest ones sharing buckets.
const BUCKET_COUNT: usize = (64 - SUB_BITS as usize + 1) << SUB_BITS;

/// How long something took, each time: counts by powers of two of nanoseconds, four steps to each.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKET_COUNT],
    sum_ns: AtomicU64,
    max_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: array::from_fn(|_| AtomicU64::new(0)), sum_ns: AtomicU64::new(0), max_ns: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts one duration. Three atomic additions.
    pub fn record(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(ns)].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(ns, Relaxed);
        self.max_ns.fetch_max(ns, Relaxed);
    }

    /// Counts how long `work` takes.
    pub fn time<T>(&self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.record(start.elapsed());
        result
    }

    /// The counts at this moment.
    pub fn snapshot(&self) -> HistogramSnapshot {
        HistogramSnapshot {
            buckets: array::from_fn(|i| self.buckets[i].load(Relaxed)),
            sum_ns: self.sum_ns.load(Relaxed),
            max_ns: self.max_ns.load(Relaxed),
        }
    }
}

/// The counts of a [`Histogram`] at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistogramSnapshot {
    buckets: [u64; BUCKET_COUNT],
    sum_ns: u64,
    max_ns: u64,
}

impl Default for HistogramSnapshot {
    fn default() -> Self {
        Self { buckets: [0; BUCKET_COUNT], sum_ns: 0, max_ns: 0 }
    }
}

impl HistogramSnapshot {
    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// All of them together.
    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// Their mean; zero if there were none.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.sum_ns.checked_div(self.count()).unwrap_or(0))
    }

    /// The longest one.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max_ns)
    }

    /// The median, at most a quarter too high.
    pub fn p50(&self) -> Duration {
        self.quantile(0.50)
    }

    /// What 99 of 100 did not exceed, at most a quarter too high.
    pub fn p99(&self) -> Duration {
        self.quantile(0.99)
    }

    /// What a share `q` of them (0 to 1) did not exceed, at most a quarter too high; zero if there were none.
    pub fn quantile(&self, q: f64) -> Duration {
        let count = self.count();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let rank = ((count as f64 * q.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0;
        for (i, in_bucket) in self.buckets.iter().enumerate() {
            seen += in_bucket;
            if seen >= rank {
                return Duration::from_nanos(last_of(i).min(self.max_ns));
            }
        }
        Duration::ZERO
    }

    /// Adds the counts of another one, of another thread or another file.
    pub fn merge(&mut self, other: &Self) {
        for (into, from) in self.buckets.iter_mut().zip(&other.buckets) {
            *into += from;
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
    }
}

/// The bucket of a number: its highest bit and the [`SUB_BITS`] after it.
fn bucket_of(ns: u64) -> usize {
    let high = ns.max(1).ilog2();
    if high < SUB_BITS {
        return usize::try_from(ns).unwrap_or(0); // 0 to 3: themselves
    }
    let sub = (ns >> (high - SUB_BITS)) & ((1 << SUB_BITS) - 1);
    ((high - SUB_BITS + 1) << SUB_BITS) as usize + usize::try_from(sub).unwrap_or(0)
}

/// The greatest number of a bucket.
fn last_of(bucket: usize) -> u64 {
    let (octave, sub) = (bucket >> SUB_BITS, bucket as u64 & ((1 << SUB_BITS) - 1));
    match octave {
        0 => sub,
        _ => u64::try_from(((u128::from((1 << SUB_BITS) | sub) + 1) << (octave - 1)) - 1).unwrap_or(u64::MAX),
    }
}

/// Where a file's time goes.
#[derive(Debug, Default)]
pub struct Latencies {
    /// Calls that write pages or log groups.
    pub write: Histogram,
    /// Calls that wait for stable storage.
    pub sync: Histogram,
    /// Commits waiting for room in the log, or for the group that carries them.
    pub log_wait: Histogram,
    /// Whole checkpoints.
    pub checkpoint: Histogram,
}

/// What the flusher has done for one purpose.
#[derive(Debug, Default)]
pub struct FlushCounters {
    pages: AtomicU64,
    runs: AtomicU64,
    bytes: AtomicU64,
    calls: AtomicU64,
    syncs: AtomicU64,
}

impl FlushCounters {
    /// Counts one run of adjacent pages, written with so many calls.
    pub(crate) fn count_run(&self, pages: u64, bytes: u64, calls: u64) {
        self.pages.fetch_add(pages, Relaxed);
        self.runs.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.calls.fetch_add(calls, Relaxed);
    }

    /// Counts one sync that these writes needed.
    pub(crate) fn count_sync(&self) {
        self.syncs.fetch_add(1, Relaxed);
    }

    /// The counts at this moment.
    pub fn snapshot(&self) -> FlushStats {
        FlushStats {
            pages: self.pages.load(Relaxed),
            runs: self.runs.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            calls: self.calls.load(Relaxed),
            syncs: self.syncs.load(Relaxed),
        }
    }
}

/// The counts of [`FlushCounters`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlushStats {
    /// Pages written.
    pub pages: u64,
    /// Runs of adjacent pages that they made.
    pub runs: u64,
    /// Bytes written.
    pub bytes: u64,
    /// System calls that took.
    pub calls: u64,
    /// Syncs that took.
    pub syncs: u64,
}

impl FlushStats {
    /// Pages per run: what allocating neighbours together achieves. Zero if nothing was written.
    #[expect(clippy::cast_precision_loss, reason = "a mean")]
    pub fn mean_run_pages(&self) -> f64 {
        if self.runs == 0 { 0.0 } else { self.pages as f64 / self.runs as f64 }
    }

    /// What was done since an earlier moment.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            pages: self.pages - earlier.pages,
            runs: self.runs - earlier.runs,
            bytes: self.bytes - earlier.bytes,
            calls: self.calls - earlier.calls,
            syncs: self.syncs - earlier.syncs,
        }
    }
}

/// All counters of a file: shared by everybody who writes it.
#[derive(Debug, Default)]
pub struct Counters {
    /// Pages of commits that carry their pages.
    pub images: FlushCounters,
    /// Pages written by checkpoints and by the background flusher.
    pub checkpoints: FlushCounters,
    /// Shares of commits that the log tells about, and merges of what they left into pages.
    pub(crate) small_commits: AtomicU64,
    pub(crate) merges: AtomicU64,
    /// Where the time goes.
    pub latencies: Latencies,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::thread;

    #[test]
    fn buckets_are_in_order_and_a_quarter_wide_at_most() {
        let mut first = 0_u64;
        for bucket in 0..BUCKET_COUNT {
            let last = last_of(bucket);
            assert_eq!((bucket_of(first), bucket_of(last)), (bucket, bucket));
            assert!(last - first <= first / 4, "{first}..={last}");
            first = last.wrapping_add(1);
        }
        assert_eq!(first, 0, "the last bucket ends with the greatest number");
    }

    proptest! {
        #[test]
        fn quantiles_are_near_the_true_ones(
            mut times in prop::collection::vec(0..10_000_000_u64, 1..200), split in 0..200_usize, q in 0.0..=1.0_f64,
        ) {
            let (one, other) = (Histogram::default(), Histogram::default());
            for (i, &ns) in times.iter().enumerate() {
                (if i < split { &one } else { &other }).record(Duration::from_nanos(ns));
            }
            let mut all = one.snapshot();
            all.merge(&other.snapshot());
            times.sort_unstable();
            prop_assert_eq!(all.count(), times.len() as u64);
            prop_assert_eq!(all.total(), Duration::from_nanos(times.iter().sum()));
            prop_assert_eq!(all.max().as_nanos(), u128::from(times[times.len() - 1]));
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let rank = ((times.len() as f64 * q).ceil() as usize).max(1);
            let (truth, told) = (u128::from(times[rank - 1]), all.quantile(q).as_nanos());
            prop_assert!(truth <= told && told <= truth + truth / 4, "{} told as {}", truth, told);
        }
    }

    #[test]
    fn nothing_counted_is_zero() {
        let none = HistogramSnapshot::default();
        assert_eq!((none.p50(), none.p99(), none.max(), none.mean()), Default::default());
        assert_eq!(Histogram::default().snapshot(), none);
        Histogram::default().record(Duration::MAX);
    }

    #[test]
    fn stripes_add_up() {
        let counter = StripedCounter::default();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| counter.add_one()));
            }
        });
        // Threads of other tests count on counters of their own, but share the stripes' numbers.
        assert!(counter.sum() <= 4000 && counter.sum() > 0);
    }
}
