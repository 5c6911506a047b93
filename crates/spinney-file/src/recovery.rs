//! Opening: from bytes to a version (rules 15 to 21).
//!
//! ```text
//!   superblock --> log: accept groups --> verify images --> S --> Recovered record --> map, roots --> replay --> serve
//!                  `------- nothing is written -----------'  (a torn superblock is wiped first)
//! ```
//! Costs the log and what it claims; never a walk of the data.
#![expect(clippy::cast_possible_truncation, reason = "lengths of buffers in memory fit a usize")]

mod creation; // a file that is none yet
#[cfg(test)]
mod forged; // logs that lie
mod scan; // which groups count

use crate::{
    Descriptor,
    appetite::Appetites,
    budget::Budget,
    buffers::Buffers,
    cache::PageCache,
    checkpoint::Checkpoints,
    commit::freed_before_opening,
    disk::Disk,
    engine::Engine,
    error::{FileError, IoOp},
    log::{BLOCK_BYTES, GROUP_HEADER_BYTES, GroupHeader, ImagePart, Record},
    options::{FileOptions, Sabotage, Told},
    owners::{NO_OWNER, OwnerTable},
    pipeline::{Pipeline, PipelineStart, set_root},
    process,
    promises::Promises,
    readers::Readers,
    slots::WriterSlots,
    space::{Room, Space, why},
    storage::Storage,
    superblock::{SLOT_AT, SLOT_BYTES, Slot, Superblock},
    version::{OwnerRoot, Version, leaf_of},
};
pub use scan::LogTail;
use scan::Scan;
use spinney_alloc::{Allocator, Delta, Geometry, Owner, ReplayError, Seq, Stamp};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak, atomic::AtomicU64},
};

/// Opens what `storage` holds, or creates a file in it.
pub(crate) fn open(storage: Arc<dyn Storage>, options: FileOptions) -> Result<Arc<Engine>, FileError> {
    let failed = |error| FileError::io(IoOp::Open, 0, error);
    if !storage.lock().map_err(failed)? {
        return Err(FileError::AlreadyOpen);
    }
    if storage.len().map_err(failed)? > 0 {
        if !options.read_only {
            // After a killed process the page cache shows bytes that the disk may not have; what is served from here
            // on must survive a power cut. After a failed sync it shows bytes that the disk does not have: what decides - superblocks,
            // the log, images that nothing proves synced - is read from the disk itself. A sync covered all else that those name.
            storage.sync_data().map_err(|error| FileError::io(IoOp::Sync, 0, error))?;
        }
        storage.drop_cache(0, SLOTS_END).map_err(failed)?;
    }
    // Asked only now: after a failed sync even the length may not be what the disk has.
    let len = storage.len().map_err(failed)?;
    let probe = Disk::new(Arc::clone(&storage), SLOT_BYTES);
    let superblock = match newest_superblock(&probe, len, options.is_lenient())? {
        Found::Newest(superblock, other) => (superblock, other),
        Found::Nothing => (creation::create(&probe, len, &options)?, Other::Whole),
    };
    let (superblock, other) = superblock;
    let disk = Disk::new(storage, superblock.page_bytes as usize);
    let len = disk.storage.len().map_err(failed)?;
    let page_bytes = disk.page_bytes as u64;
    let bytes_needed = superblock.used_end * page_bytes;
    if len < bytes_needed && !options.is_lenient() {
        return Err(FileError::Truncated { bytes_needed, bytes: len });
    }
    let other_is_damaged = other != Other::Whole && superblock.number > 0;
    let scan = Scan::run(&disk, &options, &superblock, other_is_damaged)?;
    if other == Other::Torn && !options.read_only && !options.broken(Sabotage::LeavesTornSuperblock) {
        // The checkpoint that wrote it never was. If the next superblock were torn over it, what arrives of that could complete
        // it, and what it names will have been used again by then.
        disk.write_sync(SLOT_AT[1 - superblock.slot()], &[0; SLOT_BYTES])?;
    }
    let engine = build(disk, options, superblock, &scan, len / page_bytes)?;
    let engine = Arc::new_cyclic(|me| Engine { me: me.clone(), ..engine });
    repeat(&engine, scan)?;
    Ok(engine)
}

/// Rule 19: the small commits of each owner since its last image stand above its root again.
fn repeat(engine: &Engine, scan: Scan) -> Result<(), FileError> {
    for (owner, commits) in scan.take_effects(&engine.options) {
        if owner.0 >= engine.owners.owners_max() {
            return Err(FileError::Damaged { at: 0, why: "the log names an owner that cannot exist" });
        }
        let Some(small) = engine.options.small_commits else {
            return Err(FileError::Option("the log has commits that only the layer which made them can repeat"));
        };
        if !engine.options.read_only {
            engine.home_for(leaf_of(owner))?;
        }
        engine.owners.at_opening(&engine.disk, leaf_of(owner))?;
        let mut above = None;
        let bytes = commits.iter().map(|effects| effects.len()).sum();
        let count = commits.len();
        for effects in commits {
            (small.check)(&effects, engine.disk.page_bytes).map_err(|why| FileError::Damaged { at: 0, why })?;
            let next = (small.add)(above.as_ref(), engine.draw_kept_stamp()?, Told::Shared(effects));
            above = Some(next.map_err(|why| FileError::Damaged { at: 0, why })?);
        }
        if let Some(above) = above {
            let weight = engine.space.promise_again(&engine.disk, count, bytes);
            engine.pipeline.adopt(&engine.owners, owner, above, weight);
        }
    }
    Ok(())
}

/// The end of both superblocks.
const SLOTS_END: u64 = SLOT_AT[1] + SLOT_BYTES as u64;

enum Found {
    /// The newest valid slot, and what the other one is.
    Newest(Superblock, Other),
    /// An empty file, or a creation that was cut short.
    Nothing,
}

/// The slot that is not the newest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Other {
    Whole,
    Blank,
    Torn,
}

fn newest_superblock(probe: &Disk, len: u64, is_lenient: bool) -> Result<Found, FileError> {
    let mut slots = Vec::with_capacity(2);
    for at in SLOT_AT {
        let mut bytes = vec![0; SLOT_BYTES];
        let present = len.saturating_sub(at).min(SLOT_BYTES as u64) as usize;
        probe.read(at, &mut bytes[..present])?;
        slots.push(Superblock::decode(&bytes)?);
    }
    match (slots.remove(0), slots.remove(0)) {
        (Slot::Valid(a), Slot::Valid(b)) if a.file_id != b.file_id && !is_lenient => {
            Err(FileError::Damaged { at: SLOT_AT[1], why: "the two superblocks belong to different files" })
        }
        (Slot::Valid(a), Slot::Valid(b)) => Ok(Found::Newest(if a.number > b.number { *a } else { *b }, Other::Whole)),
        // Number 0 is written first, in the second slot; numbers 0 and 1 say the same.
        (Slot::Valid(only), Slot::Blank) | (Slot::Blank, Slot::Valid(only)) => Ok(Found::Newest(*only, Other::Blank)),
        (Slot::Valid(only), _) | (_, Slot::Valid(only)) => Ok(Found::Newest(*only, Other::Torn)),
        (Slot::Blank, second) if creation::is_unfinished(probe, len)? => {
            drop(second);
            Ok(Found::Nothing)
        }
        _ => Err(FileError::NotADatabase),
    }
}

/// The newest superblock that reads, for whoever takes what there is.
pub(crate) fn newest_of_any(probe: &Disk, len: u64) -> Result<Option<Superblock>, FileError> {
    match newest_superblock(probe, len, true) {
        Ok(Found::Newest(superblock, _)) => Ok(Some(superblock)),
        Ok(Found::Nothing) | Err(FileError::NotADatabase | FileError::Io { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The newest root of each owner that an image in the log names, as far as the log can be followed.
pub(crate) fn roots_in_log(disk: &Disk, options: &FileOptions, len: u64) -> Vec<(Owner, Descriptor, Stamp)> {
    let options = FileOptions { read_only: true, lenient: true, ..options.clone() };
    let scanned = newest_of_any(disk, len).ok().flatten().and_then(|s| Scan::run(disk, &options, &s, false).ok());
    let mut roots: BTreeMap<Owner, (Descriptor, Stamp)> = BTreeMap::new();
    for (_, part) in scanned.iter().flat_map(Scan::images) {
        roots.insert(part.owner, (part.root, part.stamp));
    }
    roots.into_iter().map(|(owner, (root, stamp))| (owner, root, stamp)).collect()
}

/// Puts the engine together on what the scan accepted.
fn build(
    disk: Disk,
    options: FileOptions,
    superblock: Superblock,
    scan: &Scan,
    len_pages: u64,
) -> Result<Engine, FileError> {
    let page_bytes = disk.page_bytes as u64;
    let damaged = |why| FileError::Damaged { at: SLOT_AT[superblock.slot()], why };
    let geometry = Geometry::new(disk.page_bytes).ok_or(damaged("its page size is not supported"))?;
    let claimed_end = scan.images().flat_map(|(_, p)| &p.claims).map(|c| c.extent.end()).max().unwrap_or(0);
    let log_end = scan.layout.extents().iter().map(|e| e.end()).max().unwrap_or(0);
    // What lies beyond the end was free when it was cut off; the file grows again when it needs to.
    let needed = superblock.used_end.max(claimed_end).max(log_end).max(geometry.min_file_pages());
    let file_pages = superblock.file_pages.min(len_pages).max(needed);
    if len_pages < claimed_end.max(log_end) && !options.is_lenient() {
        return Err(FileError::Truncated {
            bytes_needed: claimed_end.max(log_end) * page_bytes,
            bytes: len_pages * page_bytes,
        });
    }
    if options.broken(Sabotage::OpeningWalksData) {
        let mut page = vec![0; disk.page_bytes];
        (2..superblock.used_end.min(len_pages)).try_for_each(|number| disk.read(number * page_bytes, &mut page))?;
    }
    let map = Allocator::open(geometry, file_pages, superblock.map.clone()).map_err(|e| damaged(why(&e)))?;
    let max_pages = (options.max_file_bytes / page_bytes).min(geometry.max_file_pages());
    let promises = Arc::new(Promises::new(options.broken(Sabotage::PromisesNothing)));
    let space = Space::new(map, max_pages, Arc::clone(&promises));
    let owners = OwnerTable::new(disk.page_bytes, superblock.owners.clone());

    // Rule 17: before it at most a torn superblock is wiped. Everything accepted is on stable storage: it was synced before it was read.
    let ahead = options.tuning.numbers_ahead;
    let (mut record_seq, mut next_stamp) = (scan.seq_limit, scan.stamp_limit);
    if options.broken(Sabotage::ReusesNumbers) {
        record_seq = Seq(scan.last_seq().0 + 1);
        next_stamp = Stamp(scan.images().map(|(_, p)| p.stamp.0 + 1).max().unwrap_or(1));
    }
    let too_far = FileError::Damaged { at: 0, why: "its numbers are used up" };
    let seq_limit = Seq(record_seq.0.checked_add(ahead).ok_or(too_far.clone())?);
    let stamp_limit = Stamp(next_stamp.0.checked_add(ahead).ok_or(too_far)?);
    let (mut head, mut chain, epoch) = (scan.head, scan.chain, scan.epoch + 1);
    if !options.read_only && !options.broken(Sabotage::NoRecoveredRecord) {
        let place = RecordPlace::new(scan);
        let record = Record::Recovered { up_to: place.up_to, seq_limit, stamp_limit };
        chain = write_recovered(&disk, &superblock, scan, &place, record_seq, epoch, &record)?;
        head = scan.layout.after(place.block, 1);
    }

    let (mut version, changed, freed_pages) = replay(&disk, &options, &space, &owners, &superblock, scan)?;
    version.seq = record_seq;
    let budget = Arc::new(Budget::new(options.budget_bytes));
    let mut newest = superblock.clone();
    newest.seq_limit = seq_limit;
    newest.stamp_limit = stamp_limit;
    let engine = Engine {
        opened_by: process::id(),
        space,
        cache: PageCache::new(Arc::clone(&budget)),
        budget: Arc::clone(&budget),
        buffers: Buffers::new(disk.page_bytes, options.budget_bytes),
        owners,
        readers: Readers::new(),
        slots: WriterSlots::default(),
        pipeline: Pipeline::new(PipelineStart {
            file_id: superblock.file_id,
            budget,
            promises,
            layout: scan.layout.clone(),
            tail: superblock.log_start,
            head,
            chain,
            epoch,
            version,
            seq_limit,
            freed_pages,
            changed,
        }),
        checkpoints: Checkpoints::new(newest),
        signal: Arc::default(),
        next_stamp: AtomicU64::new(next_stamp.0),
        stamp_limit: AtomicU64::new(stamp_limit.0),
        appetites: Appetites::default(),
        recovered: scan.tail,
        me: Weak::new(),
        #[cfg(any(test, feature = "testing"))]
        shadow: crate::shadow::Shadow::default(),
        disk,
        options,
    };
    if !engine.options.read_only {
        engine.give_homes(scan)?;
    }
    Ok(engine)
}

/// Where recovery says what it decided.
struct RecordPlace {
    block: u64,
    previous: u64,
    up_to: Seq,
}

impl RecordPlace {
    /// After the last accepted group; or, if that is a recovery's record, in the other of the two blocks where such records take turns.
    fn new(scan: &Scan) -> Self {
        match scan.decided {
            Some(decided) => Self { block: decided.free_block, previous: decided.previous, up_to: decided.up_to },
            None => Self { block: scan.head, previous: scan.chain, up_to: scan.last_seq() },
        }
    }
}

/// Writes what recovery decided; returns the chain from there.
fn write_recovered(
    disk: &Disk,
    superblock: &Superblock,
    scan: &Scan,
    place: &RecordPlace,
    seq: Seq,
    epoch: u64,
    record: &Record,
) -> Result<u64, FileError> {
    let bytes = record.encode();
    let mut block = vec![0; BLOCK_BYTES as usize];
    let end = GROUP_HEADER_BYTES + bytes.len();
    block[GROUP_HEADER_BYTES..end].copy_from_slice(&bytes);
    let header = GroupHeader {
        file_id: superblock.file_id,
        epoch,
        previous: place.previous,
        first: seq,
        last: seq,
        durable: place.up_to,
        records: 1,
    };
    let chain = header.seal(&mut block, end);
    for (at, _) in scan.layout.pieces(place.block, 1) {
        disk.write_sync(at, &block)?;
    }
    Ok(chain)
}

/// Rules 18 and 19: marks what the log claims, and gives each owner its last image. Reads the map pages that claims touch.
fn replay(
    disk: &Disk,
    options: &FileOptions,
    space: &Space,
    owners: &OwnerTable,
    superblock: &Superblock,
    scan: &Scan,
) -> Result<(Version, BTreeSet<u32>, u64), FileError> {
    let mut version = Version::at_opening(scan.last_seq());
    let mut changed = BTreeSet::new();
    let mut freed_pages = 0;
    // Blocks the log gained since the map was saved; all of them, if it never was.
    let known = if superblock.number <= 1 { 0 } else { superblock.log.extents().len() };
    let log = scan.layout.extents()[known..].to_vec();
    if !log.is_empty() {
        let death = Stamp(0);
        claim(disk, space, Delta { seq: superblock.seq, owner: NO_OWNER, death, allocated: log, freed: Vec::new() })?;
    }
    // From here on no commit can claim or release them.
    for &extent in scan.layout.extents() {
        space
            .map(|map| map.adopt_permanent(extent))
            .map_err(|e| FileError::Damaged { at: disk.offset(extent.start), why: why(&e) })?;
    }
    for (seq, part) in scan.images() {
        if part.owner.0 >= owners.owners_max() {
            return Err(FileError::Damaged { at: 0, why: "the log names an owner that cannot exist" });
        }
        if part.stamp >= scan.stamp_limit {
            return Err(FileError::Damaged { at: 0, why: "the log uses a stamp beyond its limit" });
        }
        let leaf = leaf_of(part.owner);
        let before = *owners
            .at_opening(disk, leaf)?
            .get(part.owner.0 as usize % crate::version::FAN_OUT)
            .expect("a leaf is full");
        if !(options.broken(Sabotage::FirstImage) && version.changed(part.owner).is_some_and(|r| *r != before)) {
            set_root(&mut version, owners, part.owner, Some(OwnerRoot { root: part.root, stamp: part.stamp }), None);
        }
        changed.insert(owners.page_of(leaf));
        if !options.broken(Sabotage::ForgetsClaims) {
            freed_pages += claim(disk, space, delta_of(seq, part))?;
        }
    }
    Ok((version, changed, freed_pages))
}

fn delta_of(seq: Seq, part: &ImagePart) -> Delta {
    Delta {
        seq,
        owner: part.owner,
        // No reader is older than this opening: nothing freed before it has to wait for one.
        death: Stamp(0),
        allocated: part.claims.iter().map(|c| c.extent).collect(),
        freed: freed_before_opening(&part.releases),
    }
}

fn claim(disk: &Disk, space: &Space, delta: Delta) -> Result<u64, FileError> {
    let freed = delta.freed.iter().map(|f| f.extent.pages).sum();
    loop {
        match space.map(|map| map.replay(&delta)) {
            Ok(()) => return Ok(freed),
            Err(ReplayError::Need(need)) => space.satisfy(disk, need)?,
            Err(ReplayError::Map(error)) => return Err(FileError::Damaged { at: 0, why: why(&error) }),
        }
    }
}

impl Engine {
    /// Homes for the owner table pages that only the log knows: those of the crashed run came from memory.
    fn give_homes(&self, scan: &Scan) -> Result<(), FileError> {
        let leaves: BTreeSet<u32> = scan.images().map(|(_, part)| leaf_of(part.owner)).collect();
        leaves.into_iter().try_for_each(|leaf| self.home_for(leaf))
    }

    /// Makes sure that the owner table page of `leaf` can be saved.
    pub(crate) fn home_for(&self, leaf: u32) -> Result<(), FileError> {
        self.owners.ensure_homes(
            &self.disk,
            leaf,
            || self.with_space(|| self.space.reserve_run(&self.disk, 2, Room::Clears)),
            |pair| self.space.map(|map| map.mark_permanent(pair)),
            |pair| self.space.give_back([pair]),
        )
    }
}
