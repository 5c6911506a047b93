//! A simulated disk: everything a real one may do to a file, and more, on demand and repeatably.

pub(crate) mod blocks; // bytes that copies of a file share
mod calls; // what each call does
mod faults; // calls that fail, reads that lie
pub(crate) mod log; // what was done, step by step
pub(crate) mod random; // the same for the same seed
mod stall; // calls that do not return
pub(crate) mod state; // durable, pending, visible

pub use self::{
    faults::{CallSet, Fault, FaultKind},
    stall::Stall,
};

use self::{
    blocks::{BLOCK_BYTES, BlockMap},
    faults::Faults,
    log::Log,
    random::Random,
    state::{DiskState, Issue},
};
use parking_lot::{Mutex, MutexGuard, RwLock};
use std::{
    fmt,
    io::IoSlice,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Told of every write and punch before it happens, on the thread that makes it and with no lock of the disk held: the place to
/// assert that nothing protected is overwritten.
pub trait WriteObserver: Send + Sync {
    /// `bytes` at byte `at` are about to change.
    fn about_to_write(&self, at: u64, bytes: u64);
}

impl<F: Fn(u64, u64) + Send + Sync> WriteObserver for F {
    fn about_to_write(&self, at: u64, bytes: u64) {
        self(at, bytes);
    }
}

/// How often each call was made, failed ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the number of calls of that name")]
pub struct CallCounts {
    pub read_at: u64,
    pub read_vectored_at: u64,
    pub write_vectored_at: u64,
    pub write_sync: u64,
    pub sync_data: u64,
    pub allocate: u64,
    pub punch: u64,
    pub len: u64,
    pub set_len: u64,
    pub lock: u64,
    pub drop_cache: u64,
    /// Bytes that both kinds of reads returned.
    pub bytes_read: u64,
    /// Bytes that both kinds of writes took.
    pub bytes_written: u64,
}

/// What a power cut leaves of the writes that no sync covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerCut {
    /// None of them.
    LoseAll,
    /// All of them, which is luck and not to be relied on.
    KeepAll,
    /// Some of them, some torn between sectors, and any length the file had meanwhile: one of the legal images, chosen by this
    /// seed. [`Recording`](crate::Recording) visits them in order instead.
    Random(u64),
}

/// A file on a disk whose power can be cut. Clones are handles to the same file, as are several openings of one path.
///
/// Writes are visible to reads at once and pending until a sync covers them:
/// - [`sync_data`](crate::Storage::sync_data) covers what was issued before it **began**;
/// - [`write_sync`](crate::Storage::write_sync) covers its own range (and the length that takes), nothing else;
/// - a failed sync makes a random part durable and forgets the rest, while reads go on to see it, and the next one succeeds.
///
/// Changes of length are pending like bytes. Faults ([`inject`](Self::inject)) strike by the number of the call.
/// All randomness comes from one seed, so a single-threaded run repeats exactly.
///
/// Copies ([`fork`](Self::fork), crash images) share all blocks of 4 KiB that do not differ.
pub struct SimDisk {
    shared: Arc<Shared>,
    holds_lock: AtomicBool,
}

struct Shared {
    inner: Mutex<Inner>,
    locked: AtomicBool,
    observer: RwLock<Option<Arc<dyn WriteObserver>>>,
    overlap: AtomicBool,
    stalls: stall::Stalls,
}

struct Inner {
    state: DiskState,
    next_issue: Issue,
    counts: CallCounts,
    faults: Faults,
    capacity_blocks: Option<u64>,
    log: Option<Log>,
    powered: bool,
    random: Random,
}

impl SimDisk {
    /// An empty file.
    pub fn new() -> Self {
        Self::from_state(DiskState::at_rest(BlockMap::new()))
    }

    /// A file at rest with these bytes.
    pub fn with_contents(bytes: &[u8]) -> Self {
        Self::from_state(DiskState::at_rest(BlockMap::from_bytes(bytes)))
    }

    pub(crate) fn from_state(state: DiskState) -> Self {
        let next_issue = state.pending.last().map_or(1, |piece| piece.issue + 1);
        let inner = Inner {
            state,
            next_issue,
            counts: CallCounts::default(),
            faults: Faults::default(),
            capacity_blocks: None,
            log: None,
            powered: true,
            random: Random::new(0),
        };
        let shared = Shared {
            inner: Mutex::new(inner),
            locked: AtomicBool::new(false),
            observer: RwLock::new(None),
            overlap: AtomicBool::new(false),
            stalls: stall::Stalls::default(),
        };
        Self { shared: Arc::new(shared), holds_lock: AtomicBool::new(false) }
    }

    /// Chooses the random decisions: how much of a failed write was written, what a failed sync made durable.
    pub fn set_seed(&self, seed: u64) {
        self.inner().random = Random::new(seed);
    }

    /// Lets other threads in between the beginning and the end of every sync and durable write, as a real device does.
    /// Off at first, so that a single thread repeats exactly and fast.
    pub fn set_overlap(&self, overlap: bool) {
        self.shared.overlap.store(overlap, Ordering::Relaxed);
    }

    /// Limits the space that written and allocated blocks of 4 KiB may take together; `None` lifts the limit. Beyond it writes are
    /// cut short and then fail with [`StorageFull`](std::io::ErrorKind::StorageFull), allocations fail whole.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.inner().capacity_blocks = bytes.map(|bytes| bytes / BLOCK_BYTES as u64);
    }

    /// Space taken by written and allocated blocks, in bytes.
    pub fn bytes_used(&self) -> u64 {
        self.inner().state.live.allocated_count() * BLOCK_BYTES as u64
    }

    /// Has somebody told of every write; replaces whoever was told before.
    pub fn observe(&self, observer: impl WriteObserver + 'static) {
        *self.shared.observer.write() = Some(Arc::new(observer));
    }

    /// Arms a fault. Several may be armed; the one armed first wins.
    pub fn inject(&self, fault: Fault) {
        self.inner().faults.arm(fault);
    }

    /// Flips the bits of `mask` in what reads see of byte `at`: in the next read that touches it, or in all of them.
    pub fn flip_on_read(&self, at: u64, mask: u8, sticky: bool) {
        self.inner().faults.flip(at, mask, sticky);
    }

    /// Shows reads these bytes instead of those in the file, until the range is written or faults are lifted.
    /// For a write that the device lost, or that it put in the wrong place.
    pub fn overlay(&self, at: u64, bytes: &[u8]) {
        self.inner().faults.overlay(at, bytes.to_vec());
    }

    /// Disarms all faults and removes flips and overlays: what is in the file is seen again.
    pub fn lift_faults(&self) {
        self.inner().faults.lift();
    }

    /// How often a fault struck. A sweep over call numbers is through when this stays 0.
    pub fn faults_fired(&self) -> u64 {
        self.inner().faults.fired
    }

    /// Changes bytes at rest, past every rule: bit rot, or another program.
    pub fn corrupt(&self, at: u64, bytes: &[u8]) {
        let mut inner = self.inner();
        let effects = inner.state.effects_of_write(at, &[IoSlice::new(bytes)], bytes.len());
        for effect in effects {
            state::apply(&mut inner.state.live, &effect);
            state::apply(&mut inner.state.durable, &effect);
        }
    }

    /// The bytes that reads see, without faults.
    pub fn contents(&self) -> Vec<u8> {
        bytes_of(&self.inner().state.live)
    }

    /// The bytes that survive every power cut.
    pub fn durable_contents(&self) -> Vec<u8> {
        bytes_of(&self.inner().state.durable)
    }

    /// Calls made so far.
    pub fn counts(&self) -> CallCounts {
        self.inner().counts
    }

    /// Another disk in the same state, pending writes included; faults, limits, lock and record stay behind.
    pub fn fork(&self) -> Self {
        let mut inner = self.inner();
        inner.state.live.fold();
        inner.state.durable.fold();
        Self::from_state(inner.state.clone())
    }

    /// Begins to keep a record of every step for a [`Recording`](crate::Recording); an earlier record is dropped.
    pub fn record(&self) {
        let mut inner = self.inner();
        inner.log = Some(Log::from(inner.state.clone()));
    }

    /// Notes a moment in the record, in order with the calls: "commit 7 begins", "commit 7 was acknowledged". What the
    /// number means is the caller's affair.
    pub fn mark(&self, mark: u64) {
        if let Some(log) = &mut self.inner().log {
            log.marks.push((log.steps.len(), mark));
        }
    }

    pub(crate) fn state(&self) -> DiskState {
        self.inner().state.clone()
    }

    pub(crate) fn log(&self) -> Option<Log> {
        self.inner().log.clone()
    }

    /// Cuts the power: all handles of this disk fail from now on, and the disk that comes up has what the cut left.
    pub fn power_cut(&self, cut: PowerCut) -> Self {
        let mut inner = self.inner();
        inner.powered = false;
        let seed = match cut {
            PowerCut::LoseAll => return Self::from_state(DiskState::at_rest(inner.state.with_no_pending())),
            PowerCut::KeepAll => return Self::from_state(DiskState::at_rest(inner.state.with_all_pending())),
            PowerCut::Random(seed) => seed,
        };
        Self::from_state(DiskState::at_rest(crate::storage::crash::random_image(&inner.state, seed)))
    }

    /// Kills the process: all handles of this disk fail from now on; the disk that comes up shows every write that was made,
    /// but what was pending still is, and a power cut can still take it away.
    pub fn kill(&self) -> Self {
        let survivor = self.fork();
        self.inner().powered = false;
        survivor
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.shared.inner.lock()
    }
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl Clone for SimDisk {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), holds_lock: AtomicBool::new(false) }
    }
}

impl Drop for SimDisk {
    fn drop(&mut self) {
        if *self.holds_lock.get_mut() {
            // Pairs with the acquire in `lock`.
            self.shared.locked.store(false, Ordering::Release);
        }
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.inner();
        f.debug_struct("SimDisk")
            .field("bytes", &inner.state.live.len())
            .field("bytes_durable", &inner.state.durable.len())
            .field("pieces_pending", &inner.state.pending.len())
            .field("counts", &inner.counts)
            .finish_non_exhaustive()
    }
}

fn bytes_of(map: &BlockMap) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(map.len()).expect("a file that fits memory")];
    let read = map.read(0, &mut bytes);
    assert_eq!(read, bytes.len());
    bytes
}

#[cfg(test)]
mod tests;
