//! Every interleaving of the threads that wait, with the weak memory of the language, by loom: the source of `waiting` compiled with
//! loom's locks and atomics. Each mistake that the source knows how to make must be found.
//!
//! Spinning is left out (it only looks earlier at what is looked at anyway), and sleepers wake now and then without reason.

#![allow(clippy::unwrap_used, reason = "test code")]

use loom::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};
use models::{assert_noticed, check, preemptions};
use std::sync::Arc;
use waiting::{Failed, Mistake, Progress, Waiting};

mod models;
#[path = "../src/waiting.rs"]
mod waiting;

/// The names of `src/sync.rs`, by loom.
mod sync {
    use super::{models::is_made, waiting::Mistake};
    use loom::sync::Notify;
    pub(crate) use loom::{
        sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence},
        thread_local,
    };

    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }

    pub(crate) struct Sleeper(Notify);

    impl Sleeper {
        pub(crate) fn of_this_thread() -> Self {
            Self(Notify::new())
        }

        pub(crate) fn sleep(&self) {
            self.0.wait();
        }

        pub(crate) fn wake(&self) {
            self.0.notify();
        }
    }

    pub(crate) fn looks() -> u32 {
        0
    }

    pub(crate) fn spin(_looks: u32, ready: impl Fn() -> bool) -> bool {
        ready()
    }

    pub(crate) fn give_way() {}

    pub(crate) fn broken(mistake: Mistake) -> bool {
        is_made(mistake)
    }
}

#[derive(Clone, Copy, Debug)]
enum Goal {
    Visible(u64),
    Durable(u64),
}

/// A log that forgets what is in it.
struct Log {
    waiting: Waiting<Goal>,
    visible: AtomicU64,
    durable: AtomicU64,
    failed: AtomicBool,
    // No steps of the model: nothing that waits looks at them.
    appended: std::sync::atomic::AtomicU64,
    leads: std::sync::atomic::AtomicBool,
    turns: std::sync::atomic::AtomicU64,
    lead_failed: std::sync::atomic::AtomicBool,
    /// This turn fails.
    fails_at: u64,
}

impl Progress for Log {
    type Goal = Goal;

    fn reached(&self, goal: Goal) -> bool {
        match goal {
            // What is durable can be seen, as it would be if a leader stored to both.
            Goal::Visible(seq) => self.visible.load(Ordering::Acquire) >= seq || self.reached(Goal::Durable(seq)),
            Goal::Durable(seq) => self.durable.load(Ordering::Acquire) >= seq,
        }
    }

    fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }
}

impl Log {
    fn new(fails_at: u64) -> Arc<Self> {
        Arc::new(Self {
            waiting: Waiting::new(),
            appended: std::sync::atomic::AtomicU64::new(0),
            visible: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            leads: std::sync::atomic::AtomicBool::new(false),
            turns: std::sync::atomic::AtomicU64::new(0),
            lead_failed: std::sync::atomic::AtomicBool::new(false),
            fails_at,
        })
    }

    fn append(&self) -> u64 {
        self.appended.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// One turn, with `during` in the middle of it.
    fn lead(&self, during: impl FnOnce()) -> Result<(), ()> {
        assert!(!self.leads.swap(true, Ordering::Relaxed), "two lead at the same time");
        assert!(!self.lead_failed.load(Ordering::Relaxed), "a turn follows one that failed");
        let turn = self.turns.fetch_add(1, Ordering::Relaxed) + 1;
        let target = self.appended.load(Ordering::Acquire);
        during();
        let result = if turn == self.fails_at {
            self.lead_failed.store(true, Ordering::Relaxed);
            Err(())
        } else {
            // Only the leader stores to `durable`.
            self.durable.store(target, Ordering::Release);
            Ok(())
        };
        self.leads.store(false, Ordering::Relaxed);
        result
    }

    fn wait(&self, goal: Goal) -> Result<(), Failed> {
        let result = self.waiting.wait(self, goal, || self.lead(|| ()));
        assert_eq!(result.is_ok(), self.reached(goal), "who returns has what it came for, or knows that it has not");
        result
    }

    fn show(&self, seq: u64) {
        self.visible.store(seq, Ordering::Release);
        self.waiting.wake_reached(self);
    }
}

/// `count` threads append and wait, the caller's thread among them; the turn `fails_at` fails.
fn appenders(count: u64, fails_at: u64) {
    let log = Log::new(fails_at);
    let append = |log: &Log| {
        let seq = log.append();
        log.wait(Goal::Durable(seq))
    };
    let others: Vec<_> = (1..count)
        .map(|_| {
            let log = Arc::clone(&log);
            thread::spawn(move || append(&log))
        })
        .collect();
    let mut results = vec![append(&log)];
    results.extend(others.into_iter().map(|thread| thread.join().unwrap()));
    assert!(fails_at > 0 || results.iter().all(Result::is_ok));
    assert!(log.lead_failed.load(Ordering::Relaxed) || results.iter().all(Result::is_ok));
    assert!(log.turns.load(Ordering::Relaxed) <= count, "a turn that served nobody");
}

/// What a leader of a long turn waits for is reached by somebody who does not lead.
fn shown_during_a_turn() {
    let log = Log::new(0);
    let seq = log.append();
    let led = log.waiting.wait(&*log, Goal::Durable(seq), || {
        log.lead(|| {
            let other = Arc::clone(&log);
            let reader = thread::spawn(move || other.wait(Goal::Visible(1)));
            log.show(1);
            // The turn goes on until the reader has returned.
            assert_eq!(reader.join().unwrap(), Ok(()));
        })
    });
    assert_eq!(led, Ok(()));
}

/// Somebody who does not lead fails: all are told at once, not at the end of the turn.
fn failed_during_a_turn() {
    let log = Log::new(0);
    let seq = log.append();
    let led = log.waiting.wait(&*log, Goal::Durable(seq), || {
        log.lead(|| {
            let other = Arc::clone(&log);
            let reader = thread::spawn(move || other.wait(Goal::Durable(1)));
            log.fail();
            log.waiting.wake_reached(&*log);
            assert_eq!(reader.join().unwrap(), Err(Failed));
        })
    });
    assert_eq!(led, Ok(()), "what the leader came for was reached all the same");
}

/// Two fall asleep during a turn that serves neither. Whichever is woken to lead may find its goal reached by somebody else.
fn shown_after_a_turn() {
    let log = Log::new(0);
    let seq = log.append();
    let mut others = Vec::new();
    let led = log.waiting.wait(&*log, Goal::Durable(seq), || {
        log.lead(|| {
            for goal in [Goal::Visible as fn(u64) -> Goal, Goal::Durable] {
                let log = Arc::clone(&log);
                others.push(thread::spawn(move || {
                    let seq = log.append();
                    log.wait(goal(seq))
                }));
            }
            while log.waiting.sleeping() < others.len() {
                thread::yield_now();
            }
        })
    });
    assert_eq!(led, Ok(()));
    log.show(3);
    others.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), Ok(())));
}

/// How often a thread of three may be interrupted where it need not wait. With 1 it takes seconds, with 2 minutes, with 3 hours.
const PREEMPTIONS: usize = 1;

#[test]
fn two_append_and_wait() {
    check(None, || appenders(2, 0));
}

#[test]
fn three_append_and_wait() {
    check(preemptions(PREEMPTIONS), || appenders(3, 0));
}

#[test]
fn a_leader_that_fails_tells_two() {
    check(None, || appenders(2, 1));
    check(None, || appenders(2, 2));
}

#[test]
fn a_leader_that_fails_tells_three() {
    check(preemptions(PREEMPTIONS), || appenders(3, 1));
    check(preemptions(PREEMPTIONS), || appenders(3, 2));
}

#[test]
fn progress_without_a_leader_wakes() {
    check(None, shown_during_a_turn);
}

#[test]
fn failure_without_a_leader_wakes() {
    check(None, failed_during_a_turn);
}

#[test]
fn a_lead_that_is_not_needed_is_passed_on() {
    check(preemptions(PREEMPTIONS), shown_after_a_turn);
}

#[test]
fn the_model_finds_every_mistake() {
    assert_noticed(Mistake::NobodyNext, "three_append_and_wait");
    assert_noticed(Mistake::WakesBeforeItEnds, "two_append_and_wait");
    assert_noticed(Mistake::SleepsUnseeing, "two_append_and_wait");
    assert_noticed(Mistake::SleepsUnseeing, "progress_without_a_leader_wakes");
    assert_noticed(Mistake::NoFence, "progress_without_a_leader_wakes");
    assert_noticed(Mistake::KeepsTheLead, "a_lead_that_is_not_needed_is_passed_on");
    assert_noticed(Mistake::LeadsAfterFailure, "a_leader_that_fails_tells_two");
    assert_noticed(Mistake::FailsInSilence, "failure_without_a_leader_wakes");
}
