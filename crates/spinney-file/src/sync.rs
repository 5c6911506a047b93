//! What `waiting`, `readers`, `space`, and of the cache `slot` and `flight` are made of: locks, atomics, memory that goes when nobody
//! looks, and a way for a thread to sleep.
//!
//! The model tests compile them with loom's versions of the same names, so this list is all they may use.

pub(crate) use arc_swap::ArcSwapOption;
pub(crate) use crossbeam_epoch as epoch;
pub(crate) use parking_lot::{Condvar, Mutex};
pub(crate) use std::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
    thread_local,
};

use super::waiting::Mistake;
use std::{hint, thread, thread::Thread};

/// Places for snapshots that are made together.
pub(crate) const READERS_PER_CHUNK: usize = 64;

/// How often a thread looks again before it sleeps: about a microsecond, a fraction of what sleeping and waking cost.
const LOOKS: u32 = 48;

/// Puts one thread to sleep. A wake-up that comes first is kept, and one may come that nobody sent.
pub(crate) struct Sleeper(Thread);

impl Sleeper {
    pub(crate) fn of_this_thread() -> Self {
        Self(thread::current())
    }

    /// Sleeps until woken; for the thread that made it.
    pub(crate) fn sleep(&self) {
        debug_assert_eq!(self.0.id(), thread::current().id(), "a thread sleeps for itself");
        thread::park();
    }

    pub(crate) fn wake(&self) {
        self.0.unpark();
    }
}

/// How often it is worth looking again before sleeping: never, unless another processor can change what is seen.
pub(crate) fn looks() -> u32 {
    if thread::available_parallelism().is_ok_and(|count| count.get() > 1) { LOOKS } else { 0 }
}

/// Looks up to `looks` times whether something is `ready`, and once more after whoever else can run has run.
pub(crate) fn spin(looks: u32, ready: impl Fn() -> bool) -> bool {
    for _ in 0..looks {
        if ready() {
            return true;
        }
        hint::spin_loop();
    }
    if looks > 0 {
        thread::yield_now();
    }
    ready()
}

/// Lets whoever else can run do so first.
pub(crate) fn give_way() {
    thread::yield_now();
}

/// Only the model makes mistakes.
#[inline(always)]
pub(crate) fn broken(_mistake: Mistake) -> bool {
    false
}
