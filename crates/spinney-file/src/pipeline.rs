//! The commit pipeline: append under a short lock, then one leader writes and syncs for everybody who waits.
//!
//! ```text
//!   append (short lock)            leader (one at a time)           readers
//!   seq, tips, queue   -- queue --> group, write, sync  -- publish --> visible version
//! ```
//! Always `visible <= appended` and `durable <= written <= appended`, each a [`Seq`]; none ever falls.
//!
//! There is no timer: whoever wants durability while no leader is active becomes the leader, and takes along
//! whatever was appended meanwhile (greedy group commit; Helland et al., "Group Commit Timers and High Volume
//! Transaction Systems", 1988, shows what timers cost).

mod append; // who is next, and what that changes
mod lead; // groups on their way to the disk

use crate::{
    budget::Budget,
    commit::Share,
    disk::Disk,
    error::FileError,
    log::{BLOCK_BYTES, GROUP_HEADER_BYTES, LogId, RingLayout},
    options::FileOptions,
    owners::OwnerTable,
    promises::Promises,
    version::{Above, OwnerRoot, Version, leaf_of},
    waiting::{Failed, Progress, Waiting},
};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use spinney_alloc::{Delta, Owner, PageNo, Seq};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

/// A group is closed when its records reach this size; more records make another group in the same sync.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// A larger buffer of a group that is written is not kept for another.
const SPARE_BYTES_MAX: usize = 512 << 10;
/// Blocks never reserved by commits: for an anchor or the record of a log that grows, the two in which records of recoveries take
/// turns, and one so that a full log and an empty one differ. A checkpoint that is tried again and again needs none.
pub(crate) const KEPT_BLOCKS: u64 = 4;

/// What a caller waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// New snapshots show it.
    Visible,
    /// Visible, and its group is with the operating system.
    Written,
    /// On stable storage.
    Durable,
}

/// A commit ready to be appended: what it needs on disk is there.
pub(crate) struct Prepared<'a> {
    pub(crate) record: &'a [u8],
    /// Log blocks that were reserved for it.
    pub(crate) reserved_blocks: u64,
    pub(crate) immediate: bool,
    /// Bytes of its pages that no sync has covered yet.
    pub(crate) unsynced_bytes: u64,
    /// What they freed is taken out.
    pub(crate) shares: &'a mut [Share],
}

/// What became of it.
pub(crate) enum Outcome {
    Appended(Appended),
    /// Nothing: a checkpoint has divided what stands above an owner's root since effects were added to it.
    Divided,
}

/// A commit that has its place.
pub(crate) struct Appended {
    pub(crate) seq: Seq,
    /// Older pages that it superseded.
    pub(crate) superseded: Vec<PageNo>,
    /// Records that nobody has written yet take much memory.
    pub(crate) queue_is_long: bool,
    /// Another part of the log is full.
    pub(crate) work_is_due: bool,
    /// Pages that commits have freed since the last checkpoint began.
    pub(crate) freed_pages: u64,
}

/// What a checkpoint covers, captured in one critical section.
pub(crate) struct Cut {
    pub(crate) seq: Seq,
    pub(crate) version: Arc<Version>,
    pub(crate) deltas: Vec<Delta>,
    /// Owner table pages with changes.
    pub(crate) changed: BTreeSet<u32>,
    /// Pages that the commits in it freed.
    pub(crate) freed_pages: u64,
    /// What small commits left above the roots of these owners, frozen.
    pub(crate) frozen: Vec<(Owner, Above)>,
}

/// Where the log goes on after a checkpoint's group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CutPosition {
    pub(crate) seq: Seq,
    pub(crate) block: u64,
    pub(crate) chain: u64,
}

/// Records that will be written together, behind room for the header.
struct Group {
    buffer: Vec<u8>,
    records: u32,
    unsynced_bytes: u64,
    /// The last that a checkpoint covers closes its group. With the layout that holds after it.
    cut: Option<RingLayout>,
}

impl Group {
    fn new(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        buffer.resize(GROUP_HEADER_BYTES, 0);
        Self { buffer, records: 0, unsynced_bytes: 0, cut: None }
    }

    fn is_open(&self, more: usize) -> bool {
        self.cut.is_none() && (self.records == 0 || self.buffer.len() + more <= GROUP_BYTES_MAX)
    }

    fn blocks(&self) -> u64 {
        (self.buffer.len() as u64).div_ceil(BLOCK_BYTES)
    }
}

struct Pending {
    immediate: bool,
    version: Arc<Version>,
}

struct Append {
    next: u64,
    /// The tips: as `visible`, but for commits that must not be shown yet.
    newest: Arc<Version>,
    groups: VecDeque<Group>,
    /// A buffer to be used again.
    spare: Vec<u8>,
    room: LogRoom,
    /// Bytes of the records that were appended since a checkpoint began.
    record_bytes: u64,
    /// Appended and not yet visible, oldest first.
    pending: VecDeque<Pending>,
    deltas: Vec<Delta>,
    freed_pages: u64,
    changed: BTreeSet<u32>,
    /// Owners that have something above their root in the newest version, and what it takes in memory: in all, and of that what is
    /// frozen.
    above: BTreeMap<Owner, AboveSize>,
}

#[derive(Clone, Copy, Default)]
struct Size {
    bytes: u64,
    /// Promised for merging it.
    pages: u64,
}

#[derive(Clone, Copy, Default)]
struct AboveSize {
    all: Size,
    frozen: Size,
}

struct LogWriter {
    layout: RingLayout,
    /// The block where a recovery would begin to read.
    tail: u64,
    head: u64,
    chain: u64,
    epoch: u64,
    /// Groups were written without a sync since the last sync.
    plain: bool,
    /// Un-synced bytes of images in groups written without a sync.
    unsynced_bytes: u64,
    cut: Option<CutPosition>,
}

/// Where the blocks of the log are.
#[derive(Clone, Copy, Debug, Default)]
struct LogRoom {
    blocks: u64,
    /// Needed by a recovery.
    used: u64,
    /// Being written.
    writing: u64,
    /// Of groups that nobody writes yet.
    queued: u64,
    /// Promised to records on their way.
    reserved: u64,
}

impl LogRoom {
    fn promised(&self) -> u64 {
        self.used + self.writing + self.queued + self.reserved
    }
}

/// The log as statistics show it, in blocks of 4 KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogStats {
    /// The ring's size.
    pub blocks: u64,
    /// Needed by a recovery.
    pub used_blocks: u64,
    /// Promised to commits on their way.
    pub reserved_blocks: u64,
    /// Groups written since opening.
    pub groups: u64,
    /// Records written since opening.
    pub records: u64,
    /// Bytes written since opening, padding included.
    pub bytes: u64,
}

/// See the module.
pub(crate) struct Pipeline {
    file_id: LogId,
    append: Mutex<Append>,
    log: Mutex<LogWriter>,
    budget: Arc<Budget>,
    promises: Arc<Promises>,
    waiting: Waiting<(Seq, Goal)>,
    visible: ArcSwap<Version>,
    appended: AtomicU64,
    visible_seq: AtomicU64,
    written: AtomicU64,
    durable: AtomicU64,
    seq_limit: AtomicU64,
    /// Bytes of appended images that no sync has covered.
    unsynced_bytes: AtomicU64,
    poisoned: AtomicBool,
    /// No commit is appended any more.
    closed: AtomicBool,
    groups: AtomicU64,
    records: AtomicU64,
    log_bytes: AtomicU64,
}

/// Where the pipeline starts after creation or recovery.
pub(crate) struct PipelineStart {
    pub(crate) file_id: LogId,
    pub(crate) budget: Arc<Budget>,
    pub(crate) promises: Arc<Promises>,
    pub(crate) layout: RingLayout,
    /// Where the log of the newest checkpoint begins, and where the next group goes.
    pub(crate) tail: u64,
    pub(crate) head: u64,
    pub(crate) chain: u64,
    pub(crate) epoch: u64,
    pub(crate) version: Version,
    pub(crate) seq_limit: Seq,
    /// Pages that the recovered commits freed.
    pub(crate) freed_pages: u64,
    pub(crate) changed: BTreeSet<u32>,
}

impl Pipeline {
    pub(crate) fn new(start: PipelineStart) -> Self {
        let version = Arc::new(start.version);
        let seq = version.seq.0;
        Self {
            file_id: start.file_id,
            append: Mutex::new(Append {
                next: seq + 1,
                newest: Arc::clone(&version),
                groups: VecDeque::new(),
                spare: Vec::new(),
                room: LogRoom {
                    blocks: start.layout.blocks(),
                    used: start.layout.distance(start.tail, start.head),
                    ..LogRoom::default()
                },
                record_bytes: 0,
                pending: VecDeque::new(),
                deltas: Vec::new(),
                freed_pages: start.freed_pages,
                changed: start.changed,
                above: BTreeMap::new(),
            }),
            budget: start.budget,
            promises: start.promises,
            log: Mutex::new(LogWriter {
                tail: start.tail,
                layout: start.layout,
                head: start.head,
                chain: start.chain,
                epoch: start.epoch,
                plain: false,
                unsynced_bytes: 0,
                cut: None,
            }),
            waiting: Waiting::new(),
            visible: ArcSwap::new(version),
            appended: AtomicU64::new(seq),
            visible_seq: AtomicU64::new(seq),
            written: AtomicU64::new(seq),
            durable: AtomicU64::new(seq),
            seq_limit: AtomicU64::new(start.seq_limit.0),
            unsynced_bytes: AtomicU64::new(0),
            poisoned: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            groups: AtomicU64::new(0),
            records: AtomicU64::new(0),
            log_bytes: AtomicU64::new(0),
        }
    }

    /// What new snapshots show.
    pub(crate) fn visible(&self) -> Arc<Version> {
        self.visible.load_full()
    }

    /// The tips: what the next writer of each owner builds on. Stable for owners whose slot the caller holds.
    pub(crate) fn tips(&self) -> Arc<Version> {
        Arc::clone(&self.append.lock().newest)
    }

    pub(crate) fn appended(&self) -> Seq {
        Seq(self.appended.load(Ordering::Acquire))
    }

    pub(crate) fn visible_seq(&self) -> Seq {
        Seq(self.visible_seq.load(Ordering::Acquire))
    }

    pub(crate) fn durable(&self) -> Seq {
        Seq(self.durable.load(Ordering::Acquire))
    }

    pub(crate) fn seq_limit(&self) -> Seq {
        Seq(self.seq_limit.load(Ordering::Relaxed))
    }

    /// A higher limit is durable.
    pub(crate) fn raise_seq_limit(&self, limit: Seq) {
        self.seq_limit.fetch_max(limit.0, Ordering::Relaxed);
    }

    pub(crate) fn unsynced_bytes(&self) -> u64 {
        self.unsynced_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    /// Rule 9: nothing more is accepted, and everybody who waits is told.
    pub(crate) fn poison(&self) {
        self.fail();
        self.waiting.wake_reached(self);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Lets no commit in any more. What was appended before this returns is all there is to be flushed.
    pub(crate) fn close(&self) {
        let _append = self.append.lock();
        self.closed.store(true, Ordering::Release);
    }

    /// Pages freed by commits since the last checkpoint began.
    pub(crate) fn freed_pages(&self) -> u64 {
        self.append.lock().freed_pages
    }

    /// Pages that commits allocated and freed which no checkpoint has taken yet.
    pub(crate) fn recent_pages(&self) -> (u64, u64) {
        let append = self.append.lock();
        let allocated: u64 = append.deltas.iter().flat_map(|d| &d.allocated).map(|extent| extent.pages).sum();
        (allocated, freed_pages(&append.deltas))
    }

    /// Whether nothing was appended since the last checkpoint began, except what shows that the log grew or goes on.
    pub(crate) fn is_clean(&self) -> bool {
        let append = self.append.lock();
        append.changed.is_empty() && append.deltas.is_empty()
    }

    pub(crate) fn stats(&self) -> LogStats {
        let room = self.append.lock().room;
        LogStats {
            blocks: room.blocks,
            used_blocks: room.used + room.writing,
            reserved_blocks: room.queued + room.reserved,
            groups: self.groups.load(Ordering::Relaxed),
            records: self.records.load(Ordering::Relaxed),
            bytes: self.log_bytes.load(Ordering::Relaxed),
        }
    }

    /// The log's layout once everything appended so far is written.
    pub(crate) fn layout(&self) -> RingLayout {
        let writer = self.log.lock();
        self.append.lock().layout(&writer)
    }

    // ---- leader and followers (rules 7 to 9) ----

    /// Waits until `seq` has reached `goal`, leading if nobody else does.
    ///
    /// # Errors
    /// [`FileError::CommitOutcomeUnknown`] when the log was poisoned before that.
    pub(crate) fn wait(&self, disk: &Disk, options: &FileOptions, seq: Seq, goal: Goal) -> Result<(), FileError> {
        if self.reached((seq, goal)) {
            return Ok(());
        }
        let begun = Instant::now();
        let done = self.waiting.wait(self, (seq, goal), || {
            // Another Immediate commit may be what keeps `seq` from being visible: then durability is what helps.
            let durable = goal == Goal::Durable || self.written.load(Ordering::Acquire) >= seq.0;
            self.lead(disk, options, durable)
        });
        disk.counters.latencies.log_wait.record(begun.elapsed());
        done.map_err(|Failed| FileError::CommitOutcomeUnknown { seq })
    }
}

impl Progress for Pipeline {
    type Goal = (Seq, Goal);

    fn reached(&self, (seq, goal): (Seq, Goal)) -> bool {
        match goal {
            Goal::Visible => self.visible_seq() >= seq,
            Goal::Written => self.visible_seq() >= seq && self.written.load(Ordering::Acquire) >= seq.0,
            Goal::Durable => self.durable() >= seq,
        }
    }

    fn failed(&self) -> bool {
        self.is_poisoned()
    }

    fn fail(&self) {
        self.poisoned.store(true, Ordering::Release);
    }
}

/// The block after a group. A layout that grew goes on in its new blocks instead of wrapping.
pub(crate) fn head_after(before: &RingLayout, after: &RingLayout, head: u64, blocks: u64) -> u64 {
    let next = head + blocks;
    let next = if next > before.blocks() { next - before.blocks() } else { next };
    next % after.blocks()
}

/// Puts an owner's root, unless it stays, and what is above it into a version; the owner's leaf as it was at opening must be loaded.
pub(crate) fn set_root(
    version: &mut Version,
    owners: &OwnerTable,
    owner: Owner,
    root: Option<OwnerRoot>,
    above: Option<Above>,
) {
    version.set(owner, root, above, || {
        owners.loaded(leaf_of(owner)).copied().unwrap_or([OwnerRoot::NONE; crate::version::FAN_OUT])
    });
}

fn freed_pages(deltas: &[Delta]) -> u64 {
    deltas.iter().flat_map(|d| &d.freed).map(|f| f.extent.pages).sum()
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline")
            .field("appended", &self.appended())
            .field("visible", &self.visible_seq())
            .field("durable", &self.durable())
            .field("poisoned", &self.is_poisoned())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{log::Record, storage::MemStorage};
    use spinney_alloc::Extent;

    /// A pipeline with what it works on.
    struct Bed {
        disk: Disk,
        options: FileOptions,
        owners: OwnerTable,
        pipeline: Pipeline,
    }

    impl Bed {
        fn new(layout: RingLayout, tail: u64, head: u64) -> Self {
            let pipeline = Pipeline::new(PipelineStart {
                file_id: [1; 16],
                budget: Arc::new(Budget::new(1 << 20)),
                promises: Arc::default(),
                layout,
                tail,
                head,
                chain: 0,
                epoch: 0,
                version: Version::at_opening(Seq(0)),
                seq_limit: Seq(1 << 30),
                freed_pages: 0,
                changed: BTreeSet::new(),
            });
            Self {
                disk: Disk::new(Arc::new(MemStorage::new()), 4096),
                options: FileOptions::default(),
                owners: OwnerTable::new(4096, Vec::new()),
                pipeline,
            }
        }

        fn wait(&self, seq: Seq) {
            self.pipeline.wait(&self.disk, &self.options, seq, Goal::Durable).unwrap();
        }

        fn commit(&self, reserved_blocks: u64) {
            let record = Record::Anchor.encode();
            let commit =
                Prepared { record: &record, reserved_blocks, immediate: true, unsynced_bytes: 0, shares: &mut [] };
            let Outcome::Appended(done) = self.pipeline.append(&self.options, &self.owners, commit).unwrap() else {
                panic!("it has no effects that could stand on something else")
            };
            self.wait(done.seq);
        }

        fn begin_checkpoint(&self, layout: &RingLayout) -> Cut {
            let record = Record::Checkpoint { log: layout.extents().to_vec() }.encode();
            self.pipeline.append_checkpoint(&self.owners, None, &record, layout.clone()).unwrap()
        }
    }

    #[test]
    fn a_log_that_grows_while_it_wraps_offers_no_block_before_its_tail_moves() {
        let (old, gained) = (Extent::new(10, 16).unwrap(), Extent::new(100, 16).unwrap());
        // The tail is at block 8, and the log goes on to 14.
        let bed = Bed::new(RingLayout::new(vec![old], 4096).unwrap(), 8, 14);
        for _ in 0..3 {
            assert!(bed.pipeline.reserve(1));
            bed.commit(1); // 14, 15, 0
        }
        let cut = bed.begin_checkpoint(&RingLayout::new(vec![old, gained], 4096).unwrap());
        bed.wait(cut.seq); // 1
        let position = bed.pipeline.cut_position(cut.seq);
        assert_eq!(position.block, 2);
        let mut reserved = 0;
        while bed.pipeline.reserve(1) {
            reserved += 1;
        }
        assert!(position.block + reserved < 8, "{reserved} blocks before the tail at 8");
        bed.pipeline.free_before(position);
        assert!(bed.pipeline.reserve(20), "the whole ring is free but for what is kept");
    }

    #[test]
    fn commits_between_checkpoints_that_fail_take_no_room_from_the_next() {
        let layout = RingLayout::new(vec![Extent::new(10, 16).unwrap()], 4096).unwrap();
        let bed = Bed::new(layout.clone(), 0, 0);
        // As many commits as there is room for are on their way at once.
        let reserved = (0..).take_while(|_| bed.pipeline.reserve(1)).count();
        for _ in 0..reserved {
            bed.pipeline.take_back(bed.begin_checkpoint(&layout));
            bed.commit(1);
        }
        let cut = bed.begin_checkpoint(&layout);
        bed.wait(cut.seq);
        bed.pipeline.free_before(bed.pipeline.cut_position(cut.seq));
        bed.wait(bed.pipeline.append_anchor(&Record::Anchor.encode()).unwrap());
        assert!(bed.pipeline.reserve(reserved as u64 - 1), "the log is free again");
    }
}
