//! Processors that never idle: a virtual one that does is told of a finished write only at its next tick, milliseconds late.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

/// As nice as a thread can be.
const NICEST: i32 = 19;

/// Threads that are always ready to run and always give way. They end with this value.
pub struct Awake {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// How many there are.
pub fn processors() -> u32 {
    thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1))
}

impl Awake {
    /// So many threads.
    pub fn start(threads: u32) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let threads = (0..threads).map(|_| {
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || {
                // Of this thread alone, on Linux. Refused, it still gives way at every turn.
                let _ = rustix::process::nice(NICEST);
                // Relaxed: nothing else is told by it.
                while !is_over.load(Ordering::Relaxed) {
                    // Whoever is woken has the processor within a microsecond, not at the end of a time slice.
                    thread::yield_now();
                }
            })
        });
        Self { threads: threads.collect(), is_over }
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
