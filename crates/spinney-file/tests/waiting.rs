//! Real threads that wait and lead: who is woken, who is told, and that nobody sleeps for ever.

#![allow(clippy::unwrap_used, reason = "test code")]

use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, ThreadId},
};
use waiting::{Failed, Progress, Waiting};

#[allow(unused_imports, dead_code, reason = "some of it is for `readers`")]
#[path = "../src/sync.rs"]
mod sync;
#[path = "../src/waiting.rs"]
mod waiting;

#[derive(Clone, Copy, Debug)]
enum Goal {
    Visible(u64),
    Durable(u64),
}

/// A log that forgets what is in it.
struct Log {
    waiting: Waiting<Goal>,
    appended: AtomicU64,
    visible: AtomicU64,
    durable: AtomicU64,
    failed: AtomicBool,
    leads: AtomicBool,
    turns: AtomicU64,
    lead_failed: AtomicBool,
    /// Who looked at his goal, each time.
    looked: Mutex<Vec<ThreadId>>,
    records_looks: AtomicBool,
}

impl Progress for Log {
    type Goal = Goal;

    fn reached(&self, goal: Goal) -> bool {
        if self.records_looks.load(Ordering::Relaxed) {
            self.looked.lock().unwrap().push(thread::current().id());
        }
        match goal {
            Goal::Visible(seq) => self.visible.load(Ordering::Acquire) >= seq,
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
    fn new() -> Self {
        Self {
            waiting: Waiting::new(),
            appended: AtomicU64::new(0),
            visible: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            leads: AtomicBool::new(false),
            turns: AtomicU64::new(0),
            lead_failed: AtomicBool::new(false),
            looked: Mutex::new(Vec::new()),
            records_looks: AtomicBool::new(false),
        }
    }

    fn append(&self) -> u64 {
        self.appended.fetch_add(1, Ordering::AcqRel) + 1
    }

    fn begin_turn(&self) -> u64 {
        assert!(!self.leads.swap(true, Ordering::AcqRel), "two lead at the same time");
        assert!(!self.lead_failed.load(Ordering::Acquire), "a turn follows one that failed");
        self.turns.fetch_add(1, Ordering::Relaxed);
        self.appended.load(Ordering::Acquire)
    }

    fn publish(&self, target: u64) {
        self.visible.fetch_max(target, Ordering::AcqRel);
        self.durable.fetch_max(target, Ordering::AcqRel);
    }

    fn end_turn(&self, failed: bool) -> Result<(), ()> {
        self.lead_failed.fetch_or(failed, Ordering::AcqRel);
        self.leads.store(false, Ordering::Release);
        if failed { Err(()) } else { Ok(()) }
    }

    fn until_asleep(&self, count: usize) {
        while self.waiting.sleeping() < count {
            thread::yield_now();
        }
    }
}

#[test]
fn many_threads_append_wait_and_lead() {
    const THREADS: u64 = 16;
    const ROUNDS: u64 = 3_000;
    let log = Log::new();
    thread::scope(|scope| {
        for seed in 0..THREADS {
            let log = &log;
            scope.spawn(move || {
                let mut rng = SmallRng::seed_from_u64(seed);
                for _ in 0..ROUNDS {
                    let seq = log.append();
                    let goal = if rng.random_bool(0.2) { Goal::Visible(seq) } else { Goal::Durable(seq) };
                    let pause = rng.random_range(0..4);
                    let led = log.waiting.wait(log, goal, || {
                        let target = log.begin_turn();
                        (0..pause).for_each(|_| thread::yield_now());
                        log.publish(target);
                        log.end_turn(false)
                    });
                    assert!(led.is_ok() && log.reached(goal));
                    if rng.random_bool(0.1) {
                        // Fulfilled by somebody who does not lead.
                        log.visible.fetch_max(log.append(), Ordering::AcqRel);
                        log.waiting.wake_reached(log);
                    }
                }
            });
        }
    });
    assert_eq!(log.waiting.sleeping(), 0);
    assert!(log.turns.load(Ordering::Relaxed) <= THREADS * ROUNDS, "a turn that served nobody");
}

#[test]
fn only_those_served_are_woken_and_one_to_lead_next() {
    let log = Log::new();
    let (end_turn, turn_ends) = mpsc::channel();
    let turn_ends = &Mutex::new(turn_ends);
    let (began, turn_began) = mpsc::channel();
    thread::scope(|scope| {
        let log = &log;
        let mut ids = Vec::new();
        for sleeping in 0..9 {
            log.append();
            let began = began.clone();
            let lead = move || {
                log.begin_turn();
                began.send(thread::current().id()).unwrap();
                let target = turn_ends.lock().unwrap().recv().unwrap();
                log.publish(target);
                log.end_turn(false)
            };
            // The first leads, for goal 1; the others come during his turn, for goals 2 to 9.
            let goal = Goal::Durable(sleeping + 1);
            ids.push(scope.spawn(move || log.waiting.wait(log, goal, lead).unwrap()).thread().id());
            if sleeping == 0 {
                assert_eq!(turn_began.recv().unwrap(), ids[0]);
            } else {
                log.until_asleep(usize::try_from(sleeping).unwrap());
            }
        }
        log.records_looks.store(true, Ordering::Relaxed);
        end_turn.send(4).unwrap();
        // The next leader is the oldest of those left, and the only one of them who looked.
        assert_eq!(turn_began.recv().unwrap(), ids[4]);
        assert_eq!(log.waiting.sleeping(), 4);
        let looked = log.looked.lock().unwrap().clone();
        assert!(ids[5..].iter().all(|id| !looked.contains(id)), "somebody was woken for nothing");
        end_turn.send(9).unwrap();
    });
    assert_eq!(log.turns.load(Ordering::Relaxed), 2);
}

/// One leads, others sleep, and then `lead` goes wrong.
fn goes_wrong(lead: impl Fn(&Log) -> Result<(), ()> + Sync) {
    let log = Log::new();
    thread::scope(|scope| {
        let (log, lead) = (&log, &lead);
        let seq = log.append();
        let mut others = Vec::new();
        let led = catch_unwind(AssertUnwindSafe(|| {
            log.waiting.wait(log, Goal::Durable(seq), || {
                log.begin_turn();
                for _ in 0..4 {
                    others.push(scope.spawn(|| {
                        let seq = log.append();
                        log.waiting.wait(log, Goal::Durable(seq), || -> Result<(), ()> {
                            panic!("nobody leads after a failure")
                        })
                    }));
                }
                log.until_asleep(4);
                lead(log)
            })
        }));
        assert!(!matches!(led, Ok(Ok(()))));
        others.into_iter().for_each(|other| assert_eq!(other.join().unwrap(), Err(Failed)));
    });
    assert!(log.failed());
    assert_eq!(log.waiting.sleeping(), 0);
}

#[test]
fn a_leader_that_fails_tells_everybody() {
    goes_wrong(|log| log.end_turn(true));
}

#[test]
fn a_leader_that_panics_tells_everybody() {
    goes_wrong(|_| panic!("on purpose"));
}

#[test]
fn a_failure_that_is_no_leaders_tells_everybody_during_the_turn() {
    let log = Log::new();
    thread::scope(|scope| {
        let log = &log;
        let seq = log.append();
        let led = log.waiting.wait(log, Goal::Durable(seq), || {
            let target = log.begin_turn();
            let others: Vec<_> = (0..4)
                .map(|i| {
                    scope.spawn(move || log.waiting.wait(log, Goal::Visible(2 + i), || -> Result<(), ()> { Ok(()) }))
                })
                .collect();
            log.until_asleep(4);
            log.visible.store(3, Ordering::Release);
            log.waiting.wake_reached(log);
            assert_eq!(log.waiting.sleeping(), 2, "two goals were reached");
            log.fail();
            log.waiting.wake_reached(log);
            let results: Vec<_> = others.into_iter().map(|other| other.join().unwrap()).collect();
            assert_eq!(results, [Ok(()), Ok(()), Err(Failed), Err(Failed)]);
            log.publish(target);
            log.end_turn(false)
        });
        assert_eq!(led, Ok(()), "what the leader came for was reached all the same");
    });
}
