//! A commit: write the pages, log the roots, wait as long as the caller asked (rules 3 to 8).
//!
//! Every part is an *image*: its pages are in their final place before its record is appended.

use crate::{
    engine::Engine,
    error::FileError,
    flusher::{Flusher, WrittenRun},
    log::{ImagePart, Record, RunClaim},
    options::{Durability, Sabotage},
    part::Part,
    pipeline::{Goal, Pipeline, Prepared},
    version::{OwnerRoot, leaf_of},
};
use bytes::Bytes;
use spinney_alloc::{Delta, Extent, Freed, PageNo, Seq, Stamp};
use std::io::IoSlice;

/// Un-synced images start a leader by themselves when there is this much of them.
const UNSYNCED_BYTES_MAX: u64 = 64 << 20;

/// Shorter runs are left to the sync: their way to the disk is not worth a call of its own.
const WRITEBACK_BYTES_MIN: u64 = 64 << 10;

/// Pages ready to be written, in order.
#[derive(Debug, Default)]
pub(crate) struct DirtyPages {
    /// Whole pages with headers.
    pub(crate) sealed: Vec<(PageNo, Bytes)>,
    /// Runs of raw pages, by first page.
    pub(crate) raw: Vec<(PageNo, Bytes)>,
}

impl DirtyPages {
    /// The runs they form.
    pub(crate) fn extents(&self, page_bytes: usize) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        let sealed = self.sealed.iter().map(|(page, _)| Extent::page(*page));
        let raw =
            self.raw.iter().map(|(start, data)| Extent { start: *start, pages: (data.len() / page_bytes) as u64 });
        for extent in sealed.chain(raw) {
            match extents.last_mut() {
                Some(last) if last.end() == extent.start.get() => last.pages += extent.pages,
                _ => extents.push(extent),
            }
        }
        extents
    }
}

impl Engine {
    /// Writes pages of images, coalesced and un-synced. Long runs set out for the disk at once, while other writers still work, so that
    /// the group's sync finds little to wait for.
    pub(crate) fn flush_images(&self, pages: &DirtyPages) -> Result<Vec<WrittenRun>, FileError> {
        let mut flusher = Flusher {
            page_bytes: self.disk.page_bytes,
            merge: self.options.tuning.merge,
            counters: &self.disk.counters.images,
            latency: &self.disk.counters.latencies.write,
            write: |at, run: &[IoSlice<'_>]| self.disk.write_run(at, run),
        };
        let skipped = usize::from(self.options.broken(Sabotage::ImageSkipsAPage)).min(pages.sealed.len());
        let runs = flusher.flush(&pages.sealed[skipped..], &pages.raw)?.runs;
        for run in runs.iter().filter(|run| self.bytes_of(run.extent) >= WRITEBACK_BYTES_MIN) {
            self.disk.storage.begin_writeback(self.disk.offset(run.extent.start), self.bytes_of(run.extent));
        }
        Ok(runs)
    }

    fn bytes_of(&self, extent: Extent) -> u64 {
        extent.pages * self.disk.page_bytes as u64
    }

    /// Commits `parts`, whose slots the caller holds until `appended` is called: with the append done, the next writers
    /// may go on.
    ///
    /// # Errors
    /// Before the append: a clean abort. Afterwards only [`FileError::CommitOutcomeUnknown`].
    pub(crate) fn commit(
        &self,
        mut parts: Vec<Part>,
        durability: Durability,
        appended: impl FnOnce(),
    ) -> Result<Seq, FileError> {
        self.check_writable()?;
        if parts.iter().any(|part| part.broken) {
            return Err(FileError::TransactionBroken);
        }
        if parts.len() > usize::from(u16::MAX) {
            return Err(FileError::Option("a transaction changes at most 65535 owners"));
        }
        if !parts.iter().any(Part::is_changed) {
            // Nothing to write; but what was read is certain only once it cannot be taken back.
            let seq = self.pipeline.appended();
            drop(parts);
            appended();
            self.wait(seq, goal(durability))?;
            return Ok(seq);
        }
        let prepared = self.prepare(&mut parts, durability)?;
        let claimed: Vec<Extent> = prepared.deltas.iter().flat_map(|d| d.allocated.iter().copied()).collect();
        let freed = prepared.deltas.iter().flat_map(|d| &d.freed).filter(|f| f.extent.pages == 1);
        let superseded: Vec<PageNo> = freed.map(|f| f.extent.start).collect();
        let blocks = prepared.blocks;
        #[cfg(any(test, feature = "testing"))]
        self.shadow.claimed(&claimed);
        let seq = match self.pipeline.append(&self.options, &self.owners, prepared) {
            Ok(seq) => seq,
            Err(error) => {
                self.pipeline.unreserve(blocks);
                self.abandon(claimed);
                return Err(error);
            }
        };
        for page in superseded {
            self.cache.supersede(page);
        }
        for part in &mut parts {
            let rest = part.take_remainder();
            if !rest.is_empty() {
                self.space.give_back(rest);
            }
        }
        drop(parts);
        appended();
        if self.pipeline.unsynced_bytes() > UNSYNCED_BYTES_MAX {
            self.wait(seq, Goal::Durable)?;
        }
        self.wait(seq, goal(durability))?;
        if durability != Durability::Immediate {
            self.signal.unsynced();
        }
        Ok(seq)
    }

    /// Everything before the append: rules 3 to 5.
    fn prepare(&self, parts: &mut [Part], durability: Durability) -> Result<Prepared, FileError> {
        let page_bytes = self.disk.page_bytes as u64;
        let mut images = Vec::with_capacity(parts.len());
        let mut roots = Vec::with_capacity(parts.len());
        let mut deltas = Vec::with_capacity(parts.len());
        let mut unsynced_bytes = 0;
        let mut spilled = false;
        let changed: Vec<bool> = parts.iter().map(Part::is_changed).collect();
        for part in parts.iter_mut().filter(|p| p.is_changed()) {
            let leaf = leaf_of(part.owner);
            self.owners.at_opening(&self.disk, leaf)?;
            if !part.base.exists() {
                self.home_for(leaf)?;
            }
            spilled |= !part.written_early.is_empty();
            let pages = part.take_private();
            let runs = self.flush_images(&pages)?;
            part.keep_frames(pages);
            let claims: Vec<RunClaim> = if spilled {
                part.written_early.iter().map(|extent| RunClaim { extent, digest: 0 }).collect()
            } else {
                runs.iter().map(|run| RunClaim { extent: run.extent, digest: run.digest }).collect()
            };
            let allocated: Vec<Extent> = part.written_early.iter().collect();
            let pages_claimed: u64 = allocated.iter().map(|e| e.pages).sum();
            self.remember_appetite(part.owner, pages_claimed);
            unsynced_bytes += pages_claimed * page_bytes;
            let freed = coalesced(std::mem::take(&mut part.freed));
            images.push(ImagePart {
                owner: part.owner,
                stamp: part.stamp,
                root: part.root,
                claims,
                releases: freed.iter().map(|f| f.extent).collect(),
            });
            roots.push((part.owner, OwnerRoot { root: part.root, stamp: part.stamp }));
            deltas.push(Delta { seq: Seq(0), owner: part.owner, death: part.first_stamp, allocated, freed });
        }
        let tuning = &self.options.tuning;
        let sync_above = match durability {
            Durability::Immediate => tuning.sync_first_bytes,
            Durability::Buffered | Durability::Eventual => tuning.sync_first_eventual_bytes,
        };
        // Pages that were spilled have no digest in memory any more, so a transaction that spilled syncs as well.
        let mut synced = unsynced_bytes == 0 || spilled || unsynced_bytes > sync_above;
        if synced && unsynced_bytes > 0 {
            if !self.options.broken(Sabotage::ImageClaimsSync) {
                self.disk.sync().inspect_err(|_| self.pipeline.poison())?;
            }
            self.disk.counters.images.count_sync();
            unsynced_bytes = 0;
        }
        if self.options.broken(Sabotage::ImageClaimsSync) {
            (synced, unsynced_bytes) = (true, 0);
        }
        let record = Record::Commit { synced, parts: images }.encode();
        let blocks = Pipeline::blocks_for(record.len());
        self.reserve_log(blocks)?;
        for (part, _) in parts.iter_mut().zip(changed).filter(|(_, changed)| *changed) {
            // From the append on these pages belong to the commit.
            part.written_early.clear();
        }
        Ok(Prepared { record, blocks, immediate: durability == Durability::Immediate, unsynced_bytes, roots, deltas })
    }

    /// The append was refused: the pages are nobody's.
    fn abandon(&self, claimed: Vec<Extent>) {
        self.forget(&claimed);
        #[cfg(any(test, feature = "testing"))]
        claimed.iter().for_each(|&extent| self.shadow.freed(extent));
        self.space.give_back(claimed);
    }
}

fn goal(durability: Durability) -> Goal {
    match durability {
        Durability::Immediate => Goal::Durable,
        Durability::Buffered => Goal::Written,
        Durability::Eventual => Goal::Visible,
    }
}

/// Sorts what was freed and joins neighbours of one birth, so that the record is short.
fn coalesced(mut freed: Vec<Freed>) -> Vec<Freed> {
    freed.sort_unstable_by_key(|f| f.extent.start);
    freed.dedup_by(|next, last| {
        let joins = last.extent.end() == next.extent.start.get()
            && last.birth == next.birth
            && last.extent.pages + next.extent.pages <= u64::from(u32::MAX);
        if joins {
            last.extent.pages += next.extent.pages;
        }
        joins
    });
    freed
}

/// What recovery makes of a part whose readers are all gone: a life nobody can have seen.
pub(crate) fn freed_before_opening(extents: &[Extent]) -> Vec<Freed> {
    extents.iter().map(|&extent| Freed { extent, birth: Stamp(0) }).collect()
}
