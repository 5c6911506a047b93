//! Every interleaving of a snapshot that registers or ends with the reuse of a page, with the weak memory of the language, by loom: the
//! source of `readers` compiled with loom's atomics. Each mistake must be found.
//!
//! The pointers that are swapped are modelled with release and acquire, which is less than `arc-swap` gives.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub, reason = "test code, which uses a part of the module")]

use loom::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};
use models::{assert_noticed, check, is_made, preemptions};
use readers::{REGISTERING, Readers};
use spinney_alloc::{Owner, Seq, Stamp};
use std::sync::Arc;
use sync::ArcSwapOption;
use version::Version;

mod models;
#[path = "../src/readers.rs"]
mod readers;

/// As much of `src/version.rs` as a snapshot is asked for.
mod version {
    use super::{Seq, Stamp};

    #[derive(Debug)]
    pub(crate) struct Version {
        pub(crate) seq: Seq,
        pub(crate) root: Stamp,
    }
}

/// The names of `src/sync.rs`, by loom.
mod sync {
    use super::{Mistake, is_made};
    pub(crate) use loom::{
        sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        thread_local,
    };
    use std::sync::Arc;

    /// Few, because each is a step of the model.
    pub(crate) const READERS_PER_CHUNK: usize = 2;

    pub(crate) fn fence(ordering: Ordering) {
        if !is_made(Mistake::NoFence) {
            loom::sync::atomic::fence(ordering);
        }
    }

    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T: Default> Default for Mutex<T> {
        fn default() -> Self {
            Self(loom::sync::Mutex::new(T::default()))
        }
    }

    impl<T> Mutex<T> {
        pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }

    /// Everything that was ever stored, no step of the model, and a number that says which is there now. 0 is nothing.
    pub(crate) struct ArcSwapOption<T> {
        all: std::sync::Mutex<Vec<Arc<T>>>,
        now: AtomicUsize,
    }

    impl<T> Default for ArcSwapOption<T> {
        fn default() -> Self {
            Self { all: std::sync::Mutex::default(), now: AtomicUsize::new(0) }
        }
    }

    impl<T> ArcSwapOption<T> {
        pub(crate) fn store(&self, value: Option<Arc<T>>) {
            let number = value.map_or(0, |value| {
                let mut all = self.all.lock().unwrap();
                all.push(value);
                all.len()
            });
            self.now.store(number, Ordering::Release);
        }

        pub(crate) fn load_full(&self) -> Option<Arc<T>> {
            let number = self.now.load(Ordering::Acquire);
            number.checked_sub(1).map(|index| Arc::clone(&self.all.lock().unwrap()[index]))
        }

        pub(crate) fn load(&self) -> Option<Arc<T>> {
            self.load_full()
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    /// None of the fences between claiming and loading, storing and looking, is there.
    NoFence,
    /// A snapshot loads its version before it claims its slot.
    RegistersLate,
    /// Who is only registering protects nothing.
    ForgetsRegistering,
    /// What hung on a snapshot is not asked about again when it has ended.
    ForgetsEnded,
}

const OWNER: Owner = Owner(1);

/// A page that lives in [1, 2), and the two versions with and without it.
struct File {
    readers: Readers,
    visible: ArcSwapOption<Version>,
    /// The page was granted again: what it held is gone.
    reused: AtomicBool,
}

impl File {
    fn new() -> Arc<Self> {
        let visible = ArcSwapOption::default();
        visible.store(Some(Self::version(1)));
        Arc::new(Self { readers: Readers::new(), visible, reused: AtomicBool::new(false) })
    }

    fn version(number: u64) -> Arc<Version> {
        Arc::new(Version { seq: Seq(number), root: Stamp(number) })
    }

    fn load(&self) -> Arc<Version> {
        self.visible.load_full().expect("there is always one")
    }

    /// Takes a snapshot, reads the page if it shows it, and ends. Returns whether something hung on it.
    fn read(&self) -> bool {
        let place = if is_made(Mistake::RegistersLate) {
            let version = self.load();
            self.readers.register(None, || version)
        } else {
            self.readers.register(None, || self.load())
        };
        if place.held.version.root == Stamp(1) {
            assert!(!self.reused.load(Ordering::Relaxed), "a page was granted again under a snapshot");
        }
        self.readers.leave(&place)
    }

    /// Grants the page again unless somebody may read it; says who.
    fn collect(&self) -> Option<u64> {
        let holder = self.readers.holder(OWNER, Stamp(1), Stamp(2), |version, _| version.root);
        let holder = holder.filter(|&holder| holder != REGISTERING || !is_made(Mistake::ForgetsRegistering));
        if holder.is_none() {
            self.reused.store(true, Ordering::Relaxed);
        }
        holder
    }
}

/// So many snapshots come and go, while a commit without the page becomes visible and the page is to be used again.
fn reuse(snapshots: usize) {
    let file = File::new();
    let threads: Vec<_> = (0..snapshots)
        .map(|_| {
            let file = Arc::clone(&file);
            thread::spawn(move || file.read())
        })
        .collect();
    file.visible.store(Some(File::version(2)));
    let first = file.collect();
    let hung = threads.into_iter().map(|thread| thread.join().unwrap()).filter(|hung| *hung).count();
    // Whoever held it told that he ended, or was only registering and is asked again in any case.
    let ended = if is_made(Mistake::ForgetsEnded) { Vec::new() } else { file.readers.take_ended() };
    assert_eq!(ended.len(), if is_made(Mistake::ForgetsEnded) { 0 } else { hung });
    match first {
        None => {}
        Some(REGISTERING) => assert_eq!(file.collect(), None, "nobody is left"),
        Some(id) => {
            assert!(ended.contains(&id), "the page hangs on somebody who has ended, for ever");
            assert_eq!(file.collect(), None, "nobody is left");
        }
    }
}

#[test]
fn one_snapshot_and_a_reuse() {
    check(None, || reuse(1));
}

#[test]
fn two_snapshots_and_a_reuse() {
    check(preemptions(5), || reuse(2));
}

#[test]
fn the_model_finds_every_mistake() {
    for mistake in [Mistake::NoFence, Mistake::RegistersLate, Mistake::ForgetsRegistering, Mistake::ForgetsEnded] {
        assert_noticed(mistake, "one_snapshot_and_a_reuse");
    }
}
