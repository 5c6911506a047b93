//! Which groups of the log count, and up to which commit (rule 16).
#![expect(clippy::cast_possible_truncation, reason = "lengths of buffers in memory fit a usize")]

use crate::{
    disk::Disk,
    error::{FileError, IoOp},
    log::{BLOCK_BYTES, GROUP_HEADER_BYTES, GroupHeader, ImagePart, LogPart, Record, RingLayout},
    options::{FileOptions, Sabotage},
    page::RunDigest,
    pipeline::head_after,
    superblock::{NUMBER_MAX, Superblock, get_u64},
};
use bytes::Bytes;
use spinney_alloc::{Extent, Owner, Seq, Stamp};
use std::collections::BTreeMap;

/// Blocks read at a time when the whole log is looked through.
const READ_BLOCKS: u64 = 256;

/// What opening found in the log since the newest checkpoint: its cost follows from this, whatever the size of the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogTail {
    /// Blocks of 4 KiB that were followed.
    pub blocks: u64,
    /// Commits in them, those that did not count included.
    pub commits: u64,
    /// Pages that images among them claim. Those that nothing proves synced are read and compared with their digests.
    pub claimed_pages: u64,
}

/// A commit of the log.
#[derive(Debug)]
struct Commit {
    seq: Seq,
    synced: bool,
    parts: Vec<LogPart>,
    /// Which accepted group it came in.
    group: usize,
}

/// Where an accepted group ends.
#[derive(Clone, Debug)]
struct GroupEnd {
    last: Seq,
    head: u64,
    chain: u64,
    epoch: u64,
    layout: RingLayout,
    decided: Option<Decided>,
}

/// The log ends with the record of a recovery. The next recovery's record takes its turn with it in two blocks and chains from the
/// same group, so that opening the file again and again, or crashing every time, does not use up the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decided {
    /// What that recovery decided; as nothing was appended since, it still holds.
    pub(super) up_to: Seq,
    /// The block that the newer of the two records is not in, and what a record there chains from.
    pub(super) free_block: u64,
    pub(super) previous: u64,
}

/// What the log says, decided.
#[derive(Debug)]
pub(super) struct Scan {
    commits: Vec<Commit>,
    /// S: every commit up to here counts, none after.
    last: Seq,
    pub(super) layout: RingLayout,
    /// Where the next group goes, and what it chains from.
    pub(super) head: u64,
    pub(super) chain: u64,
    pub(super) epoch: u64,
    pub(super) seq_limit: Seq,
    pub(super) stamp_limit: Stamp,
    pub(super) decided: Option<Decided>,
    pub(super) tail: LogTail,
}

impl Scan {
    /// Reads the log from where `superblock` says. `other_is_damaged`: the other slot holds no superblock, so this one counts only if the
    /// log goes on from it; otherwise a newer one may have recycled the log and been damaged (rule 15).
    pub(super) fn run(
        disk: &Disk,
        options: &FileOptions,
        superblock: &Superblock,
        other_is_damaged: bool,
    ) -> Result<Self, FileError> {
        let mut reader = Reader {
            disk,
            options,
            superblock,
            commits: Vec::new(),
            ends: Vec::new(),
            durable: superblock.seq,
            decision: None,
        };
        let mut scan = Self {
            commits: Vec::new(),
            last: superblock.seq,
            layout: superblock.log.clone(),
            head: superblock.log_start,
            chain: superblock.log_chain,
            epoch: superblock.epoch,
            seq_limit: superblock.seq_limit,
            stamp_limit: superblock.stamp_limit,
            decided: None,
            tail: LogTail::default(),
        };
        reader.forget_log(scan.layout.extents())?;
        match reader.accept_groups(&mut scan) {
            // A record that makes no sense ends the log.
            Err(FileError::Damaged { .. }) if options.is_lenient() => {}
            accepted => accepted?,
        }
        let is_lenient = options.is_lenient();
        if other_is_damaged && reader.ends.is_empty() && !is_lenient && !options.broken(Sabotage::AnySuperblock) {
            return Err(FileError::Damaged {
                at: 0,
                why: "one superblock is damaged, and the other may be older than what was committed",
            });
        }
        scan.tail.commits = reader.commits.len() as u64;
        scan.tail.claimed_pages = reader.images().flat_map(|image| &image.claims).map(|claim| claim.extent.pages).sum();
        reader.verify_images(options, &mut scan)?;
        if !is_lenient && !options.broken(Sabotage::TrustsLogEnd) {
            if scan.last < reader.durable {
                return Err(torn_log(&scan));
            }
            reader.look_for_later_groups(&scan)?;
        }
        if scan.last >= scan.seq_limit || scan.epoch >= NUMBER_MAX {
            return Err(FileError::Damaged { at: 0, why: "the log uses a number beyond its limit" });
        }
        let last = scan.last;
        scan.commits = reader.commits;
        scan.commits.retain(|commit| commit.seq <= last);
        Ok(scan)
    }

    /// S.
    pub(super) fn last_seq(&self) -> Seq {
        self.last
    }

    /// The images of every commit that counts, in order.
    pub(super) fn images(&self) -> impl Iterator<Item = (Seq, &ImagePart)> {
        let parts = self.commits.iter().flat_map(|commit| commit.parts.iter().map(|part| (commit.seq, part)));
        parts.filter_map(|(seq, part)| part.image().map(|image| (seq, image)))
    }

    /// What each owner's small commits did after its last image, in order (rule 19).
    pub(super) fn take_effects(self, options: &FileOptions) -> BTreeMap<Owner, Vec<Bytes>> {
        let mut effects: BTreeMap<Owner, Vec<Bytes>> = BTreeMap::new();
        for part in self.commits.into_iter().flat_map(|commit| commit.parts) {
            match part {
                LogPart::Image(image) if !options.broken(Sabotage::RepeatsAll) => drop(effects.remove(&image.owner)),
                LogPart::Image(_) => {}
                LogPart::Ops(ops) => effects.entry(ops.owner).or_default().push(ops.effects),
            }
        }
        effects
    }
}

fn torn_log(scan: &Scan) -> FileError {
    let at = scan.layout.pieces(scan.head, 1).first().map_or(0, |piece| piece.0);
    FileError::Damaged { at, why: "the log ends before a commit that is known to have been durable" }
}

struct Reader<'a> {
    disk: &'a Disk,
    options: &'a FileOptions,
    superblock: &'a Superblock,
    commits: Vec<Commit>,
    ends: Vec<GroupEnd>,
    /// The newest commit that some accepted group knows to have been durable.
    durable: Seq,
    /// What the group just decoded decided, if it is the record of a recovery.
    decision: Option<Seq>,
}

impl Reader<'_> {
    fn images(&self) -> impl Iterator<Item = &ImagePart> {
        self.commits.iter().flat_map(|commit| &commit.parts).filter_map(LogPart::image)
    }

    fn read_blocks(&self, layout: &RingLayout, block: u64, blocks: u64) -> Result<Vec<u8>, FileError> {
        let mut bytes = vec![0; (blocks * BLOCK_BYTES) as usize];
        self.read_into(layout, block, &mut bytes)?;
        Ok(bytes)
    }

    /// Fills `bytes`, which are whole blocks.
    fn read_into(&self, layout: &RingLayout, block: u64, bytes: &mut [u8]) -> Result<(), FileError> {
        let mut from = 0;
        for (at, len) in layout.pieces(block, bytes.len() as u64 / BLOCK_BYTES) {
            self.disk.read(at, &mut bytes[from..from + len as usize])?;
            from += len as usize;
        }
        Ok(())
    }

    /// The next readings of blocks see what the disk has.
    fn forget_log(&self, extents: &[Extent]) -> Result<(), FileError> {
        let page_bytes = self.disk.page_bytes as u64;
        extents
            .iter()
            .try_for_each(|extent| self.disk.forget(self.disk.offset(extent.start), extent.pages * page_bytes))
    }

    /// The group that begins at `block`, if a valid one does.
    fn group_at(&self, layout: &RingLayout, block: u64) -> Result<Option<(u64, Vec<u8>)>, FileError> {
        let first = self.read_blocks(layout, block, 1)?;
        let Some(blocks) = GroupHeader::blocks(&first, &self.superblock.file_id) else { return Ok(None) };
        if blocks >= layout.blocks() {
            return Ok(None);
        }
        let bytes = if blocks == 1 { first } else { self.read_blocks(layout, block, blocks)? };
        Ok(Some((blocks, bytes)))
    }

    /// Follows the chain from the superblock for as long as it holds.
    fn accept_groups(&mut self, scan: &mut Scan) -> Result<(), FileError> {
        let mut blocks_seen = 0;
        while blocks_seen < scan.layout.blocks() {
            let (previous, block) = (scan.chain, scan.head);
            let mut free_block = scan.layout.after(block, 1);
            let mut next = self.group_at(&scan.layout, block)?.map(|(blocks, bytes)| (blocks, Bytes::from(bytes)));
            next = next.filter(|(_, bytes)| self.following_group(scan, bytes).is_some());
            let recovery = next.as_ref().and_then(|(_, bytes)| self.recovery_in(scan, bytes));
            if next.is_none() || recovery.is_some() {
                // Of two records of recoveries that took turns only the newer counts.
                let other = Bytes::from(self.read_blocks(&scan.layout, free_block, 1)?);
                if self.recovery_in(scan, &other) > recovery {
                    scan.head = std::mem::replace(&mut free_block, block);
                    next = Some((1, other));
                    blocks_seen += 1;
                }
            }
            let Some((blocks, bytes)) = next else { return Ok(()) };
            let Some((header, chain, records)) = self.following_group(scan, &bytes) else { return Ok(()) };
            if !GroupHeader::is_reserved_zero(&bytes) {
                return Err(FileError::Damaged {
                    at: 0,
                    why: "a group of the log has reserved bytes that are not zero",
                });
            }
            let follows = header.first.0 == scan.last.0 + 1 || self.options.broken(Sabotage::AcceptsOldGroups);
            let Some((decoded, layout)) = self.decode(&header, (records, &bytes), follows, scan)? else {
                return Ok(());
            };
            self.durable = self.durable.max(header.durable);
            let group = self.ends.len();
            self.commits.extend(decoded.into_iter().map(|commit| Commit { group, ..commit }));
            scan.head = head_after(&scan.layout, &layout, scan.head, blocks);
            scan.layout = layout;
            scan.last = header.last;
            scan.chain = chain;
            scan.epoch = header.epoch;
            scan.decided = self.decision.take().map(|up_to| Decided { up_to, free_block, previous });
            blocks_seen += blocks;
            scan.tail.blocks = blocks_seen;
            self.ends.push(GroupEnd {
                last: scan.last,
                head: scan.head,
                chain,
                epoch: scan.epoch,
                layout: scan.layout.clone(),
                decided: scan.decided,
            });
        }
        Ok(())
    }

    /// The group, if it is whole and follows what was accepted so far.
    fn following_group<'a>(&self, scan: &Scan, bytes: &'a [u8]) -> Option<(GroupHeader, u64, &'a [u8])> {
        let open = if self.options.broken(Sabotage::TrustsGroups) { GroupHeader::parse } else { GroupHeader::open };
        let group = open(bytes, &self.superblock.file_id)?;
        let header = group.0;
        let follows = header.previous == scan.chain && header.epoch >= scan.epoch && header.first > scan.last
            || self.options.broken(Sabotage::AcceptsOldGroups);
        (follows && header.last.0 < NUMBER_MAX).then_some(group)
    }

    /// The epoch of the group, if it is the record of a recovery that follows what was accepted so far.
    fn recovery_in(&self, scan: &Scan, bytes: &Bytes) -> Option<u64> {
        let (header, _, records) = self.following_group(scan, bytes)?;
        let record = Record::decode(records, bytes, self.superblock.page_bytes);
        matches!(record, Some((Record::Recovered { .. }, []))).then_some(header.epoch)
    }

    /// The commits of one group, and the log's layout after it; `None` when the group does not follow.
    fn decode(
        &mut self,
        header: &GroupHeader,
        (mut records, group): (&[u8], &Bytes),
        follows: bool,
        scan: &mut Scan,
    ) -> Result<Option<(Vec<Commit>, RingLayout)>, FileError> {
        let malformed = FileError::Damaged { at: 0, why: "a record of the log is malformed" };
        let mut decoded = Vec::new();
        let mut layout = scan.layout.clone();
        let mut seq = header.first;
        while !records.is_empty() {
            let (record, rest) =
                Record::decode(records, group, self.superblock.page_bytes).ok_or_else(|| malformed.clone())?;
            records = rest;
            match record {
                Record::Recovered { seq_limit: Seq(a), stamp_limit: Stamp(b), .. } if a.max(b) >= NUMBER_MAX => {
                    return Err(malformed);
                }
                Record::Recovered { up_to, seq_limit, stamp_limit } => {
                    // An earlier recovery's decision holds: what it dropped stays dropped, what it kept was synced.
                    self.commits.retain(|commit| commit.seq <= up_to);
                    self.durable = self.durable.max(up_to);
                    self.decision = Some(up_to);
                    scan.seq_limit = scan.seq_limit.max(seq_limit);
                    scan.stamp_limit = scan.stamp_limit.max(stamp_limit);
                }
                _ if !follows => return Ok(None),
                Record::Commit { synced, parts } => decoded.push(Commit { seq, synced, parts, group: 0 }),
                Record::Checkpoint { log } => {
                    let larger = RingLayout::new(log, self.superblock.page_bytes).ok_or_else(|| malformed.clone())?;
                    if !larger.extents().starts_with(layout.extents()) {
                        return Err(malformed);
                    }
                    self.forget_log(&larger.extents()[layout.extents().len()..])?;
                    layout = larger;
                }
                Record::Anchor => {}
            }
            seq = Seq(seq.0 + 1);
        }
        if seq.0 != header.last.0 + 1 {
            return Err(malformed);
        }
        Ok(Some((decoded, layout)))
    }

    /// S ends before the first image whose pages did not reach the disk, unless it is known to have been durable.
    fn verify_images(&self, options: &FileOptions, scan: &mut Scan) -> Result<(), FileError> {
        if options.broken(Sabotage::TrustsImages) {
            return Ok(());
        }
        let bytes = self.disk.storage.len().map_err(|e| FileError::io(IoOp::Open, 0, e))?;
        let file_pages = bytes / self.disk.page_bytes as u64;
        let mut pages_left = file_pages;
        for commit in self.commits.iter().filter(|c| !c.synced && c.seq > self.durable) {
            for claim in commit.parts.iter().filter_map(LogPart::image).flat_map(|image| &image.claims) {
                if claim.extent.end() <= file_pages {
                    // Between two checkpoints no page is claimed twice, so all there is to read is one reading of the file.
                    pages_left = pages_left.checked_sub(claim.extent.pages).ok_or(FileError::Damaged {
                        at: self.disk.offset(claim.extent.start),
                        why: "commits of the log claim a page twice",
                    })?;
                    if self.digest(claim.extent)? == claim.digest {
                        continue;
                    }
                }
                scan.last = Seq(commit.seq.0 - 1);
                let end = &self.ends[commit.group];
                // The group itself stays: what follows it is what recovery writes.
                (scan.head, scan.chain, scan.epoch) = (end.head, end.chain, end.epoch);
                scan.layout = end.layout.clone();
                scan.decided = end.decided;
                assert!(end.last >= commit.seq, "a commit lies in its group");
                return Ok(());
            }
        }
        Ok(())
    }

    /// The digest of a run as it is on disk.
    fn digest(&self, extent: Extent) -> Result<u64, FileError> {
        let page_bytes = self.disk.page_bytes;
        let mut digest = RunDigest::new();
        self.disk.forget(self.disk.offset(extent.start), extent.pages * page_bytes as u64)?;
        let mut page = vec![0; page_bytes * extent.pages.min(64) as usize];
        let mut done = 0;
        while done < extent.pages {
            let pages = (extent.pages - done).min(64) as usize;
            let at = self.disk.offset(extent.start) + done * page_bytes as u64;
            self.disk.read(at, &mut page[..pages * page_bytes])?;
            page[..pages * page_bytes].chunks_exact(page_bytes).for_each(|page| digest.push_raw(page));
            done += pages as u64;
        }
        Ok(digest.finish())
    }

    /// A group anywhere in the log that knows of a durable commit after S: then the log is damaged, not ended. One reading of the log
    /// in large pieces; reading only where groups may begin would be a call per block.
    ///
    /// Groups do not overlap, so those that a real log can hold are together no longer than it. Heads that promise more are forged.
    fn look_for_later_groups(&self, scan: &Scan) -> Result<(), FileError> {
        let blocks = scan.layout.blocks();
        let mut blocks_to_prove = blocks;
        let mut bytes = vec![0; (READ_BLOCKS.min(blocks) * BLOCK_BYTES) as usize];
        let mut from = 0;
        while from < blocks {
            let count = READ_BLOCKS.min(blocks - from);
            let bytes = &mut bytes[..(count * BLOCK_BYTES) as usize];
            self.read_into(&scan.layout, from, bytes)?;
            for (i, block) in (from..).zip(bytes.chunks_exact(BLOCK_BYTES as usize)) {
                let Some(len) = GroupHeader::blocks(block, &self.superblock.file_id) else { continue };
                if len >= blocks || Seq(get_u64(&block[..GROUP_HEADER_BYTES], 64)) <= scan.last {
                    continue;
                }
                blocks_to_prove = blocks_to_prove.checked_sub(len).ok_or_else(|| torn_log(scan))?;
                let group = self.read_blocks(&scan.layout, i, len)?;
                if GroupHeader::open(&group, &self.superblock.file_id).is_some() {
                    return Err(torn_log(scan));
                }
            }
            from += count;
        }
        Ok(())
    }
}
