//! One load at a time of any one page: who comes second waits for the first and shares what it brings.
//!
//! Only misses come here. The map of flights is locked to look a page up, never during a load.

use crate::{
    FileError, PagePtr,
    sync::{Condvar, Mutex},
};
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::{collections::hash_map::Entry, sync::Arc};

const SHARD_COUNT: usize = 16;

type Shard = Mutex<FxHashMap<PagePtr, Arc<Flight>>>;

/// All loads under way.
#[derive(Default)]
pub(super) struct Flights {
    shards: [Shard; SHARD_COUNT],
}

#[derive(Default)]
struct Flight {
    landed: Mutex<Option<Landing>>,
    wake: Condvar,
}

#[derive(Clone)]
enum Landing {
    Loaded(Result<Bytes, FileError>),
    /// Its loader panicked.
    Abandoned,
}

/// What to do about a page that is not there.
pub(super) enum Turn<'a> {
    /// Load it, and tell the others.
    Load(Lead<'a>),
    /// Somebody else has: what it brought.
    Waited(Result<Bytes, FileError>),
}

/// The duty to load a page. Dropped without [`land`](Lead::land), it lets somebody else try.
pub(super) struct Lead<'a> {
    shard: &'a Shard,
    flight: Arc<Flight>,
    ptr: PagePtr,
    landing: Landing,
}

impl Flights {
    /// Joins the load of a page, or begins it; `on_wait` is called before waiting.
    pub(super) fn join(&self, ptr: PagePtr, on_wait: impl Fn()) -> Turn<'_> {
        #[expect(clippy::cast_possible_truncation, reason = "the low bits choose a shard")]
        let shard = &self.shards[ptr.page.get() as usize % SHARD_COUNT];
        loop {
            let flight = match shard.lock().entry(ptr) {
                Entry::Occupied(under_way) => under_way.get().clone(),
                Entry::Vacant(none) => {
                    let flight = none.insert(Arc::default()).clone();
                    return Turn::Load(Lead { shard, flight, ptr, landing: Landing::Abandoned });
                }
            };
            on_wait();
            let mut landed = flight.landed.lock();
            flight.wake.wait_while(&mut landed, |landed| landed.is_none());
            if let Some(Landing::Loaded(result)) = landed.clone() {
                return Turn::Waited(result);
            }
        }
    }
}

impl Lead<'_> {
    /// Tells everybody who waits, and ends the flight: who comes now finds the page in the cache.
    pub(super) fn land(mut self, result: Result<Bytes, FileError>) {
        self.landing = Landing::Loaded(result);
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.shard.lock().remove(&self.ptr);
        *self.flight.landed.lock() = Some(self.landing.clone());
        self.flight.wake.notify_all();
    }
}
