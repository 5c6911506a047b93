//! How a file is opened.

use crate::{error::FileError, page::PageCheck, part::Part, version::Above};
use bytes::Bytes;
use spinney_alloc::Stamp;
use std::time::Duration;

/// The smallest log: 12 blocks, of which commits never get 6.
const LOG_BYTES_MIN: u64 = 48 << 10;

/// The largest log, and the largest one to begin with: it is one extent then.
const LOG_BYTES_MAX: u64 = 1 << 30;
const LOG_FIRST_BYTES_MAX: u64 = 64 << 20;

/// What a commit waits for.
///
/// | level     | returns when                                        | survives a killed process | survives a power cut                     |
/// |-----------|-----------------------------------------------------|---------------------------|------------------------------------------|
/// | Immediate | the bytes are on stable storage                     | yes                       | yes                                      |
/// | Buffered  | the bytes are with the operating system             | yes                       | once synced: within the flush interval   |
/// | Eventual  | the commit is visible                               | within the flush interval | within the flush interval                |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Durability {
    /// Stable storage. One sync, shared with everybody who waits at that moment.
    #[default]
    Immediate,
    /// The operating system.
    Buffered,
    /// Memory; on storage within [`FileOptions::flush_interval`], or at the next Immediate commit, flush, checkpoint or close.
    Eventual,
}

/// Whether a missing file is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Create {
    /// Make it when it is missing.
    #[default]
    IfMissing,
    /// It must exist.
    Never,
    /// It must not exist.
    Always,
}

/// How a file is opened. All sizes are bytes.
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// A power of two from 4 KiB to 64 KiB, used at creation; an existing file keeps its own.
    pub page_bytes: usize,
    /// For cached pages, the page table and the pages of open transactions, together.
    pub budget_bytes: u64,
    /// The file never grows beyond this.
    pub max_file_bytes: u64,
    /// How long an Eventual or Buffered commit may stay un-synced.
    pub flush_interval: Duration,
    /// Flush, checkpoint and grow in a thread of the file's own. Without it the committing thread does a checkpoint
    /// when one is due, and nothing bounds how long an Eventual commit stays un-synced.
    pub background: bool,
    /// Recover in memory and write nothing.
    pub read_only: bool,
    /// With [`read_only`](Self::read_only): open a damaged file as well as it can be. Where the log ends before what it proves, or a
    /// superblock is damaged whose twin may be older, what is left is shown all the same: commits that were durable may be missing.
    pub lenient: bool,
    /// Whether a missing file is made.
    pub create: Create,
    /// Checks the structure of a page when it comes from storage.
    pub page_check: PageCheck,
    /// What keeps the effects of small commits in memory until they are merged into pages. Without it every commit writes its pages.
    pub small_commits: Option<SmallCommits>,
    /// What benchmarks and tests vary.
    pub tuning: Tuning,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self {
            page_bytes: 4096,
            budget_bytes: 256 << 20,
            max_file_bytes: i64::MAX as u64,
            flush_interval: Duration::from_millis(100),
            background: true,
            read_only: false,
            lenient: false,
            create: Create::IfMissing,
            page_check: |_| Ok(()),
            small_commits: None,
            tuning: Tuning::default(),
        }
    }
}

/// How the layer above keeps what small commits did until it is in pages. The file layer passes it around and looks at none of it.
#[derive(Clone, Copy, Debug)]
pub struct SmallCommits {
    /// Whether effects that the log of a file with pages of so many bytes has are ones that a commit may have: asked before they are
    /// added when the file is opened. An error says what is wrong with them.
    pub check: fn(effects: &[u8], page_bytes: usize) -> Result<(), &'static str>,
    /// What is above an owner's root after a commit with these effects and this stamp, which is higher than those before. Called
    /// again with other `before` if that changed meanwhile; only the last call counts. An error says that the effects, which come
    /// from the log then, are none.
    pub add: AddEffects,
    /// The same contents, divided: what is there now can be merged, and commits after it are kept apart from it.
    pub freeze: fn(&Above) -> Above,
    /// Brings what is frozen into the pages of a part that is as the owner's root was, and leaves the new root in it.
    pub merge: fn(&mut Part, frozen: &Above) -> Result<(), FileError>,
    /// What is left above the new root when all that was frozen has been merged; `None`: nothing.
    pub merged: fn(&Above) -> Option<Above>,
}

/// See [`SmallCommits::add`].
pub type AddEffects = fn(before: Option<&Above>, stamp: Stamp, effects: Told<'_>) -> Result<Above, &'static str>;

/// Effects of a commit.
#[derive(Debug)]
pub enum Told<'a> {
    /// To be copied by whoever keeps them.
    Lent(&'a [u8]),
    /// To be kept as they are: they share memory with their neighbours in the log.
    Shared(Bytes),
}

/// Measures of the engine that have good defaults; benchmarks and tests vary them.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Adjacent pages leave in one write; off: one write per page.
    pub merge: bool,
    /// Transactions allocate from stretches of their own; off: page by page from the shared map.
    pub arenas: bool,
    /// Every commit writes its pages: a second implementation of small commits, to test the other against.
    pub images_only: bool,
    /// The log's size at creation, in bytes.
    pub log_bytes: u64,
    /// The log grows up to here, and beyond only for a single commit that needs more.
    pub log_bytes_max: u64,
    /// A checkpoint is due when this much was freed since the last one, or a quarter of the file if that is more.
    pub checkpoint_after_freed_bytes: u64,
    /// An Immediate commit with more un-synced bytes than this syncs them by itself before it is appended.
    pub sync_first_bytes: u64,
    /// The same for Eventual and Buffered commits.
    pub sync_first_eventual_bytes: u64,
    /// A transaction with more private bytes than this spills, even when the budget has room.
    pub spill_bytes: u64,
    /// How far ahead a checkpoint reserves seqs and stamps.
    pub numbers_ahead: u64,
    /// Break a rule on purpose: the crash harness must notice.
    #[cfg(any(test, feature = "testing"))]
    pub sabotage: Option<Sabotage>,
    /// What somebody else does where a broken rule would show.
    #[cfg(any(test, feature = "testing"))]
    pub interlude: crate::interlude::Interlude,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            merge: true,
            arenas: true,
            images_only: false,
            log_bytes: 64 << 10,
            log_bytes_max: 128 << 20,
            checkpoint_after_freed_bytes: 32 << 20,
            sync_first_bytes: 4 << 20,
            sync_first_eventual_bytes: 64 << 20,
            spill_bytes: u64::MAX,
            numbers_ahead: 1 << 32,
            #[cfg(any(test, feature = "testing"))]
            sabotage: None,
            #[cfg(any(test, feature = "testing"))]
            interlude: crate::interlude::Interlude::default(),
        }
    }
}

/// A rule broken on purpose, by the number it has in the commit rules. Release builds know the names and break nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(not(any(test, feature = "testing")), expect(unreachable_pub, reason = "exported to test builds only"))]
pub enum Sabotage {
    /// 1: slots are taken in the order in which the caller names their owners.
    SlotsInAnyOrder,
    /// 1: the stamp is drawn before the slots are taken.
    StampBeforeSlots,
    /// 2: a page written early and changed again keeps its stamp and place.
    SpillKeepsStamp,
    /// 3: a part that has entered the pages is logged as effects all the same, of which there are none.
    LogsGivenUpEffects,
    /// 5: small commits are made although nobody knows whether there will be pages to merge them into.
    PromisesNothing,
    /// 4: an image leaves its first page unwritten.
    ImageSkipsAPage,
    /// 4: an image says that it is synced, and is not.
    ImageClaimsSync,
    /// 6: the tips that a commit builds its version on are read before the append lock is taken.
    TipsBeforeLock,
    /// 6: the append lock is let go between giving the seq and queueing the record.
    QueuesLate,
    /// 7: a group is written synced on its own although it carries un-synced images, whose run digests are dropped.
    GroupCoversItselfOnly,
    /// 7: a group of small commits only is written and not synced.
    SmallGroupsUnsynced,
    /// 7: the durable position is read after the sync instead of before.
    DurableReadLate,
    /// 8: commits are shown before they are durable.
    ShowsUndurable,
    /// 8: a Buffered commit returns when it is visible.
    BufferedReturnsAtOnce,
    /// 9: a failed sync is tried again.
    RetriesSync,
    /// 10: freed pages are granted at the next checkpoint although a snapshot reaches them.
    ForgetsSnapshots,
    /// 10: freed pages are granted as soon as the commit is appended.
    ReusesAtOnce,
    /// 11: a snapshot claims its slot after it has loaded its version.
    RegistersLate,
    /// 11: a slot that is claimed and not yet filled protects nothing.
    ForgetsRegistering,
    /// 12: an abort returns its pages while they are being written.
    ReturnsDuringWrite,
    /// 12: a frame is found by its page number alone.
    FramesByNumber,
    /// 13: the map of this moment is saved, with what is lent and what waits.
    SavesLiveMap,
    /// 13: the map has what was committed after the checkpoint's commit.
    MapAfterCut,
    /// 13: a page of the map is written to both its homes.
    MapInBothHomes,
    /// 13: a page of the owner table is always written to the same home.
    OwnersInOneHome,
    /// 14: the superblock is always written to the same slot.
    SuperblockInOneSlot,
    /// 4: an image leaves out what earlier small commits of its owner left in memory.
    ImageForgetsEffects,
    /// 10: pages that a merge replaced are granted again though the transaction that is open on the owner reads them.
    ForgetsWriters,
    /// 17: a torn superblock stays as it is, so that a later one can complete it.
    LeavesTornSuperblock,
    /// 19: small commits before an owner's last image are repeated as well.
    RepeatsAll,
    /// 13: what small commits of one owner left stays out of the pages.
    CheckpointSkipsAnOwner,
    /// 13: what was merged takes the place of what commits added meanwhile.
    MergeSwallowsLater,
    /// 14: the superblock is written before what it points to is synced.
    SuperblockFirst,
    /// 14: no anchor follows a checkpoint.
    NoAnchor,
    /// 15: opening reads every page, and not only what the log names.
    OpeningWalksData,
    /// 15: any valid superblock will do when the newest is damaged.
    AnySuperblock,
    /// 16: run digests are not verified.
    TrustsImages,
    /// 16: a group counts without its checksum.
    TrustsGroups,
    /// 16: a group counts whatever it chains from, and whatever its numbers are.
    AcceptsOldGroups,
    /// 16: a log that ends too early is not noticed.
    TrustsLogEnd,
    /// 17: recovery writes no record of what it decided.
    NoRecoveredRecord,
    /// 18: pages that the log claims stay free.
    ForgetsClaims,
    /// 19: a family starts from its first image instead of its last.
    FirstImage,
    /// 21: numbers go on from the last one seen.
    ReusesNumbers,
}

impl FileOptions {
    /// # Errors
    /// [`FileError::Option`] naming what does not fit.
    pub(crate) fn validate(&self) -> Result<(), FileError> {
        if !self.page_bytes.is_power_of_two() || !(4096..=65536).contains(&self.page_bytes) {
            return Err(FileError::Option("the page size is a power of two from 4 KiB to 64 KiB"));
        }
        if self.budget_bytes < self.page_bytes as u64 {
            return Err(FileError::Option("the memory budget is at least a page"));
        }
        if self.tuning.log_bytes < LOG_BYTES_MIN {
            return Err(FileError::Option("the log has at least 48 KiB"));
        }
        if self.tuning.log_bytes > LOG_BYTES_MAX || self.tuning.log_bytes_max > LOG_BYTES_MAX {
            return Err(FileError::Option("the log has at most 1 GiB"));
        }
        if self.tuning.log_bytes > LOG_FIRST_BYTES_MAX {
            return Err(FileError::Option("the log begins with at most 64 MiB"));
        }
        if self.tuning.numbers_ahead < 4096 {
            return Err(FileError::Option("at least 4096 numbers are reserved ahead"));
        }
        Ok(())
    }

    /// Whether a damaged file is to be opened as well as it can be; nothing is written to it.
    pub(crate) fn is_lenient(&self) -> bool {
        self.lenient && self.read_only
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn broken(&self, rule: Sabotage) -> bool {
        self.tuning.sabotage == Some(rule)
    }

    /// Here somebody else may come between.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn interlude(&self) {
        self.tuning.interlude.run();
    }

    /// Release builds are not interrupted.
    #[cfg(not(any(test, feature = "testing")))]
    #[inline(always)]
    pub(crate) fn interlude(&self) {}

    /// Release builds break nothing.
    #[cfg(not(any(test, feature = "testing")))]
    #[inline(always)]
    pub(crate) fn broken(&self, _rule: Sabotage) -> bool {
        false
    }
}
