//! How much memory is in use at most, counted by the allocator of every program that links this crate.

use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Beside the memory budget of a database: what its file, its log's queue and its handles may take.
const SLACK_BYTES: usize = 16 << 20;

/// Measures from where it was made. Other threads' memory counts too.
#[derive(Debug)]
pub struct Meter {
    before: usize,
}

impl Meter {
    /// Begins to measure.
    #[expect(clippy::new_without_default, reason = "making one has an effect")]
    pub fn new() -> Self {
        ALLOCATOR.reset_peak_usage();
        Self { before: ALLOCATOR.current_usage() }
    }

    /// The most memory in use at any moment since, in bytes, beyond what was in use then.
    pub fn peak(&self) -> usize {
        ALLOCATOR.peak_usage().saturating_sub(self.before)
    }

    /// What is in use now, in bytes, beyond what was in use then.
    pub fn now(&self) -> usize {
        ALLOCATOR.current_usage().saturating_sub(self.before)
    }

    /// No more than the budget, 16 MiB, and what the caller knows of was ever in use.
    ///
    /// # Panics
    /// When it was.
    pub fn assert_bounded(&self, budget: u64, known: u64) {
        let (peak, known) = (self.peak() as u64, budget + known);
        assert!(peak <= known + SLACK_BYTES as u64, "{peak} bytes in use, {known} and {SLACK_BYTES} allowed");
    }
}
