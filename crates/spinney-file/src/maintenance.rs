//! The background thread: syncs Eventual commits in time, makes checkpoints when they are due, frees what ended snapshots
//! held, and grows the file ahead of need. It never keeps a dropped file alive.

use crate::{engine::Engine, pipeline::Goal};
use parking_lot::{Condvar, Mutex};
use std::{
    sync::{Arc, Weak},
    thread::JoinHandle,
    time::{Duration, Instant},
};

#[derive(Debug, Default)]
struct Wishes {
    stop: bool,
    work: bool,
    /// An un-synced commit is waiting since then.
    unsynced_since: Option<Instant>,
}

/// How everybody else tells the thread what to do.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    wishes: Mutex<Wishes>,
    changed: Condvar,
}

impl Signal {
    /// A commit was acknowledged that is not durable yet.
    pub(crate) fn unsynced(&self) {
        let mut wishes = self.wishes.lock();
        if wishes.unsynced_since.is_none() {
            wishes.unsynced_since = Some(Instant::now());
            self.changed.notify_one();
        }
    }

    /// Pages hang on a snapshot that ended.
    pub(crate) fn snapshot_ended(&self) {
        self.work();
    }

    /// There may be something to do.
    pub(crate) fn work(&self) {
        self.wishes.lock().work = true;
        self.changed.notify_one();
    }

    fn stop(&self) {
        self.wishes.lock().stop = true;
        self.changed.notify_one();
    }
}

/// The running thread. Dropping it stops the thread and waits for it.
#[derive(Debug)]
pub(crate) struct Maintenance {
    signal: Arc<Signal>,
    thread: Option<JoinHandle<()>>,
}

impl Maintenance {
    /// Starts the thread for `engine`; without it (`None`) committing threads do its work.
    pub(crate) fn start(engine: &Arc<Engine>) -> std::io::Result<Self> {
        let signal = Arc::clone(&engine.signal);
        let (weak, theirs) = (Arc::downgrade(engine), Arc::clone(&signal));
        let interval = engine.options.flush_interval;
        let thread =
            std::thread::Builder::new().name("spinney".to_owned()).spawn(move || run(&weak, &theirs, interval))?;
        Ok(Self { signal, thread: Some(thread) })
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.signal.stop();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic there has poisoned the file already; there is nobody else to tell.
            drop(thread.join());
        }
    }
}

fn run(engine: &Weak<Engine>, signal: &Signal, interval: Duration) {
    loop {
        let flush = {
            let mut wishes = signal.wishes.lock();
            loop {
                if wishes.stop {
                    return;
                }
                let due = wishes.unsynced_since.and_then(|since| since.checked_add(interval));
                if due.is_some_and(|due| due <= Instant::now()) {
                    wishes.unsynced_since = None;
                    wishes.work = false;
                    break true;
                }
                if std::mem::take(&mut wishes.work) {
                    break false;
                }
                match due {
                    Some(due) => drop(signal.changed.wait_until(&mut wishes, due)),
                    None => signal.changed.wait(&mut wishes),
                }
            }
        };
        let Some(engine) = engine.upgrade() else { return };
        if flush {
            // A failure poisons the file; everybody who asks is told.
            drop(engine.wait(engine.pipeline.appended(), Goal::Durable));
        }
        engine.housekeep();
    }
}

impl Engine {
    /// What the background thread does, or a committing thread when there is none.
    pub(crate) fn housekeep(&self) {
        self.collect_ended_snapshots();
        if self.check_writable().is_err() {
            return;
        }
        if self.checkpoint_due() {
            // A failed checkpoint loses nothing; whoever needs its space gets its error.
            drop(self.checkpoint_unless(|| !self.checkpoint_due()));
        }
        drop(self.space.grow_ahead(&self.disk));
    }

    /// After a commit that filled another part of the log or freed pages: have done, or do, what has become due.
    pub(crate) fn after_commit(&self) {
        if self.checkpoint_due() {
            if self.options.background {
                self.signal.work();
            } else {
                self.housekeep();
            }
        }
    }
}
