//! A simulated disk: everything a real one may do to a file, and more, on demand and repeatably.

pub(crate) mod blocks; // bytes that copies of a file share
mod faults; // calls that fail, reads that lie
pub(crate) mod log; // what was done, step by step
pub(crate) mod random; // the same for the same seed
pub(crate) mod state; // durable, pending, visible

pub use self::faults::{CallSet, Fault, FaultKind};

use self::{
    blocks::{BLOCK_BYTES, Block, BlockMap},
    faults::{Faults, written_before_failing},
    log::{Call, Log, Step},
    random::Random,
    state::{DiskState, Effect, Issue},
};
use crate::Storage;
use parking_lot::{Mutex, MutexGuard, RwLock};
use std::{
    fmt,
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
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
/// - [`sync_data`](Storage::sync_data) covers what was issued before it **began**;
/// - [`write_sync`](Storage::write_sync) covers its own range (and the length that takes), nothing else;
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
    /// cut short and then fail with [`ErrorKind::StorageFull`], allocations fail whole.
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

    /// Counts a call; an error or a fault if it is to go wrong.
    fn enter(
        &self,
        call: CallSet,
        count: impl FnOnce(&mut CallCounts) -> &mut u64,
    ) -> io::Result<(MutexGuard<'_, Inner>, Option<FaultKind>)> {
        let mut inner = self.inner();
        inner.check_power()?;
        *count(&mut inner.counts) += 1;
        let fault = inner.faults.meet(call);
        Ok((inner, fault))
    }

    /// Lets others in, if they shall be let in.
    fn pause<'g>(&'g self, inner: MutexGuard<'g, Inner>) -> io::Result<MutexGuard<'g, Inner>> {
        if !self.shared.overlap.load(Ordering::Relaxed) {
            return Ok(inner);
        }
        drop(inner);
        thread::yield_now();
        let inner = self.inner();
        inner.check_power()?;
        Ok(inner)
    }

    fn tell_observer(&self, at: u64, bytes: u64) {
        let observer = self.shared.observer.read().clone();
        if let Some(observer) = observer {
            observer.about_to_write(at, bytes);
        }
    }

    fn write(&self, at: u64, run: &[IoSlice<'_>], durable: bool) -> io::Result<usize> {
        let wanted = run.iter().map(|buffer| buffer.len()).sum::<usize>();
        at.checked_add(wanted as u64).filter(|end| i64::try_from(*end).is_ok()).ok_or(ErrorKind::FileTooLarge)?;
        self.tell_observer(at, wanted as u64);
        let (mut inner, fault) = if durable {
            self.enter(CallSet::WRITE_SYNC, |counts| &mut counts.write_sync)?
        } else {
            self.enter(CallSet::WRITE, |counts| &mut counts.write_vectored_at)?
        };
        let error = fault.and_then(FaultKind::error);
        let mut bytes = match (fault, &error) {
            // A durable write fails after it handed all its bytes over; only then does the device say no.
            (Some(FaultKind::Io), _) if durable => wanted,
            (Some(kind), Some(_)) => written_before_failing(kind, wanted, &mut inner.random),
            (Some(FaultKind::Short(bytes)), _) => bytes.min(wanted),
            _ => wanted,
        };
        if bytes > 0 {
            bytes = inner.bytes_that_fit(at, bytes);
            if bytes == 0 {
                return Err(error.unwrap_or_else(|| ErrorKind::StorageFull.into()));
            }
            let end = at + bytes as u64;
            inner.falsify(fault, at, run, bytes);
            let effects = inner.state.effects_of_write(at, run, bytes);
            let call =
                if durable { Call::WriteSync { at, bytes: end - at } } else { Call::Write { at, bytes: end - at } };
            let issue = inner.change(call, effects);
            if durable {
                inner = self.pause(inner)?;
                let seed = inner.random.next();
                inner.step(match error {
                    None => Step::WriteSynced { issue },
                    Some(_) => Step::WriteSyncFailed { issue, seed },
                });
            }
        }
        inner.counts.bytes_written += bytes as u64;
        error.map_or(Ok(bytes), Err)
    }
}

impl Storage for SimDisk {
    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let (mut inner, fault) = self.enter(CallSet::READ, |counts| &mut counts.read_at)?;
        inner.read(at, &mut [IoSliceMut::new(into)], fault)
    }

    fn read_vectored_at(&self, at: u64, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let (mut inner, fault) = self.enter(CallSet::READ, |counts| &mut counts.read_vectored_at)?;
        inner.read(at, into, fault)
    }

    fn write_vectored_at(&self, at: u64, run: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write(at, run, false)
    }

    fn write_sync(&self, at: u64, run: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write(at, run, true)
    }

    fn sync_data(&self) -> io::Result<()> {
        let (mut inner, fault) = self.enter(CallSet::SYNC, |counts| &mut counts.sync_data)?;
        let before = inner.next_issue;
        inner.step(Step::SyncBegan);
        inner = self.pause(inner)?;
        match fault.and_then(FaultKind::error) {
            None => inner.step(Step::Synced { before }),
            Some(error) => {
                let seed = inner.random.next();
                inner.step(Step::SyncFailed { before, seed });
                return Err(error);
            }
        }
        Ok(())
    }

    fn allocate(&self, at: u64, bytes: u64) -> io::Result<()> {
        let (mut inner, fault) = self.enter(CallSet::ALLOCATE, |counts| &mut counts.allocate)?;
        if let Some(error) = fault.and_then(FaultKind::error) {
            return Err(error);
        }
        let end = at.checked_add(bytes).filter(|end| i64::try_from(*end).is_ok()).ok_or(ErrorKind::FileTooLarge)?;
        let holes: Vec<u64> = (at / BLOCK_BYTES as u64..end.div_ceil(BLOCK_BYTES as u64))
            .filter(|block| inner.state.live.get(*block).is_none())
            .collect();
        if holes.len() as u64 > inner.blocks_free() {
            return Err(ErrorKind::StorageFull.into());
        }
        let effects = inner.state.lengthened_to(end);
        inner.change(Call::Allocate { at, bytes }, effects.into_iter().collect());
        let zeros = Block::new([0; BLOCK_BYTES]);
        for block in holes {
            inner.state.live.set(block, Some(Arc::clone(&zeros)));
        }
        Ok(())
    }

    fn punch(&self, at: u64, bytes: u64) -> io::Result<()> {
        self.tell_observer(at, bytes);
        let (mut inner, fault) = self.enter(CallSet::PUNCH, |counts| &mut counts.punch)?;
        if let Some(error) = fault.and_then(FaultKind::error) {
            return Err(error);
        }
        let effects = inner.state.effects_of_punch(at, bytes);
        inner.faults.uncover(at..at.saturating_add(bytes));
        inner.change(Call::Punch { at, bytes }, effects);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let (inner, fault) = self.enter(CallSet::LEN, |counts| &mut counts.len)?;
        fault.and_then(FaultKind::error).map_or(Ok(inner.state.live.len()), Err)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let (mut inner, fault) = self.enter(CallSet::SET_LEN, |counts| &mut counts.set_len)?;
        if let Some(error) = fault.and_then(FaultKind::error) {
            return Err(error);
        }
        inner.faults.uncover(bytes..u64::MAX);
        inner.change(Call::SetLen { bytes }, vec![Effect::Length(bytes)]);
        Ok(())
    }

    fn lock(&self) -> io::Result<bool> {
        let (_inner, fault) = self.enter(CallSet::LOCK, |counts| &mut counts.lock)?;
        if let Some(error) = fault.and_then(FaultKind::error) {
            return Err(error);
        }
        if self.holds_lock.load(Ordering::Acquire) {
            return Ok(true);
        }
        // Pairs with the release in `drop`.
        let taken = !self.shared.locked.swap(true, Ordering::Acquire);
        if taken {
            self.holds_lock.store(true, Ordering::Release);
        }
        Ok(taken)
    }

    fn drop_cache(&self) -> io::Result<()> {
        let (mut inner, fault) = self.enter(CallSet::DROP_CACHE, |counts| &mut counts.drop_cache)?;
        if let Some(error) = fault.and_then(FaultKind::error) {
            return Err(error);
        }
        inner.step(Step::CacheDropped);
        Ok(())
    }
}

impl Inner {
    fn check_power(&self) -> io::Result<()> {
        if self.powered {
            return Ok(());
        }
        Err(io::Error::new(ErrorKind::BrokenPipe, "the power of this simulated disk was cut"))
    }

    /// Does one step, and keeps a record of it.
    fn step(&mut self, step: Step) {
        step.redo(&mut self.state);
        if let Some(log) = &mut self.log {
            log.steps.push(step);
        }
    }

    fn change(&mut self, call: Call, effects: Vec<Effect>) -> Issue {
        let issue = self.next_issue;
        self.next_issue += 1;
        self.step(Step::Changed { call, issue, effects });
        issue
    }

    fn read(&mut self, at: u64, into: &mut [IoSliceMut<'_>], fault: Option<FaultKind>) -> io::Result<usize> {
        if let Some(error) = fault.and_then(FaultKind::error) {
            return Err(error);
        }
        let mut left = match fault {
            Some(FaultKind::Short(bytes)) => bytes,
            _ => usize::MAX,
        };
        let mut total = 0;
        for buffer in into {
            let wanted = left.min(buffer.len());
            let here = at.saturating_add(total as u64);
            let read = self.state.live.read(here, &mut buffer[..wanted]);
            self.faults.distort(here, &mut buffer[..read]);
            total += read;
            left -= read;
            if read < buffer.len() {
                break;
            }
        }
        self.counts.bytes_read += total as u64;
        Ok(total)
    }

    fn blocks_free(&self) -> u64 {
        self.capacity_blocks.map_or(u64::MAX, |blocks| blocks.saturating_sub(self.state.live.allocated_count()))
    }

    /// How much of a write there is room for.
    fn bytes_that_fit(&self, at: u64, bytes: usize) -> usize {
        let mut free = self.blocks_free();
        if free == u64::MAX {
            return bytes;
        }
        let end = at + bytes as u64;
        for block in at / BLOCK_BYTES as u64..end.div_ceil(BLOCK_BYTES as u64) {
            if self.state.live.get(block).is_some() {
                continue;
            }
            if free == 0 {
                let fitting = (block * BLOCK_BYTES as u64).saturating_sub(at);
                return usize::try_from(fitting).expect("less than the run");
            }
            free -= 1;
        }
        bytes
    }

    /// Prepares what reads will see of a write that the device loses or misplaces, and of one that it does not.
    fn falsify(&mut self, fault: Option<FaultKind>, at: u64, run: &[IoSlice<'_>], bytes: usize) {
        let old = |state: &DiskState, at| {
            let mut old = vec![0; bytes];
            let _ = state.live.read(at, &mut old); // beyond the end: zeros
            old
        };
        match fault {
            Some(FaultKind::Lost) => self.faults.overlay(at, old(&self.state, at)),
            Some(FaultKind::Misdirected { by }) => {
                let new: Vec<u8> = run.iter().flat_map(|buffer| buffer.iter().copied()).take(bytes).collect();
                self.faults.overlay(at, old(&self.state, at));
                self.faults.overlay(at.saturating_add_signed(by), new);
            }
            _ => self.faults.uncover(at..at + bytes as u64),
        }
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
