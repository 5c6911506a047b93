//! What the models of threads share: exploring and counting, and a process of its own for each mistake.
//!
//! `SPINNEY_MODEL_PREEMPTIONS` allows more preemptions than a test does by itself: more interleavings, and much more time.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub, reason = "test code, of which no model uses all")]

use loom::model::Builder;
use std::{
    env,
    fmt::Debug,
    process::{Command, Stdio},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// As many preemptions as the environment says, or else so many.
pub fn preemptions(count: usize) -> Option<usize> {
    Some(env::var("SPINNEY_MODEL_PREEMPTIONS").map_or(count, |count| count.parse().unwrap()))
}

/// Runs through all interleavings with at most so many preemptions (`None`: all there are), and says how many there were.
pub fn check(preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 10_000;
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    builder.check(move || {
        counted.fetch_add(1, Relaxed);
        model();
    });
    println!("{} interleavings", count.load(Relaxed));
}

/// Names the mistake that this process makes.
const MISTAKE_VARIABLE: &str = "SPINNEY_MODEL_MISTAKE";
static MISTAKE: LazyLock<Option<String>> = LazyLock::new(|| env::var(MISTAKE_VARIABLE).ok());

/// Whether this process makes this mistake.
pub fn is_made(mistake: impl Debug) -> bool {
    MISTAKE.as_ref().is_some_and(|made| *made == format!("{mistake:?}"))
}

/// A process that makes the mistake does not get through a test of this program. A process, because a model that deadlocks takes its own with it.
pub fn assert_noticed(mistake: impl Debug, test: &str) {
    let status = Command::new(env::current_exe().unwrap())
        .args([test, "--exact"])
        .env(MISTAKE_VARIABLE, format!("{mistake:?}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(!status.success(), "the model does not notice {mistake:?}");
}
