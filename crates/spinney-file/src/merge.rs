//! What small commits left above an owner's root is brought into its pages: by checkpoints for all owners, and for one owner before a
//! transaction changes its pages.
//!
//! Whoever merges has the turn of checkpoints, so that nobody else changes the root at the same time: a transaction in pages finds
//! nothing above its root, and while it has the writer slot nobody adds anything there.

use crate::{
    commit::{Share, joined_freed},
    engine::Engine,
    error::FileError,
    options::{Durability, Sabotage},
    part::Part,
    pipeline::Cut,
    version::{Above, OwnerRoot},
};
use rustc_hash::FxHashMap;
use spinney_alloc::{Delta, Extent, Owner, PageNo};
use std::sync::{Arc, atomic::Ordering};

/// The root of an owner after a merge by a checkpoint, which is shown once the checkpoint is durable.
///
/// If that fails after the allocator has learned of the merge, the next checkpoint begins where this one ended: bringing in
/// the same effects again changes nothing.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(crate) root: OwnerRoot,
    /// Older pages that it replaced.
    superseded: Vec<PageNo>,
    /// Pages that it made, for the second opinion.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) claimed: Vec<Extent>,
}

/// Merges of checkpoints that are not durable yet.
pub(crate) type Unfinished = FxHashMap<Owner, Merged>;

impl Engine {
    /// Brings what is above the root of `owner` into its pages, by a commit of its own that has the effects of all before it. The
    /// caller has the owner's slot.
    ///
    /// # Errors
    /// [`FileError::Full`], [`FileError::Poisoned`], and those of writing and of a checkpoint. Nothing has changed.
    pub(crate) fn merge_owner(&self, owner: Owner) -> Result<(), FileError> {
        let mut has_retried = false;
        loop {
            let turn = self.checkpoints.turn();
            let tips = self.pipeline.tips();
            let Some(above) = tips.above(owner) else { return Ok(()) };
            if turn.unfinished.contains_key(&owner) {
                drop(turn);
                self.checkpoint_now()?;
                continue;
            }
            let done = self.root_in(&tips, owner).and_then(|base| self.merge_alone(owner, base, above));
            drop(turn);
            match done {
                // A checkpoint frees pages and log, and merges by itself.
                Err(FileError::Full { .. }) if !has_retried => {
                    has_retried = true;
                    self.checkpoint_now()?;
                }
                done => return done,
            }
        }
    }

    fn merge_alone(&self, owner: Owner, base: OwnerRoot, above: &Above) -> Result<(), FileError> {
        let mut part = self.merged_part(owner, base, above)?;
        let mut shares = [Share::of(&mut part)];
        let done = self.append_images(&mut shares, Durability::Eventual, false)?;
        part.written_early.clear();
        self.appetites.note(owner, shares[0].written.pages());
        done.superseded.iter().for_each(|&page| self.cache.supersede(page));
        self.signal.unsynced();
        Ok(())
    }

    /// A part that has in its pages what was above the root.
    fn merged_part(&self, owner: Owner, base: OwnerRoot, above: &Above) -> Result<Part, FileError> {
        let small = self.options.small_commits.expect("only a layer that keeps effects has some");
        let mut part = Part::for_merge(self.shared(), owner, base)?;
        (small.merge)(&mut part, &(small.freeze)(above))?;
        self.disk.counters.merges.fetch_add(1, Ordering::Relaxed);
        Ok(part)
    }

    /// Rule 13: everything that small commits up to the cut left goes into pages, which are written, un-synced. The allocator learns of
    /// it as of commits in the cut.
    ///
    /// # Errors
    /// Those of merging and writing. What was merged by then stays in `unfinished`.
    pub(crate) fn merge_cut(&self, cut: &Cut, unfinished: &mut Unfinished) -> Result<(), FileError> {
        let skipped = usize::from(self.options.broken(Sabotage::CheckpointSkipsAnOwner));
        for (owner, above) in cut.frozen.iter().skip(skipped) {
            let base = match unfinished.get(owner) {
                Some(earlier) => earlier.root,
                None => self.root_in(&cut.version, *owner)?,
            };
            let mut part = self.merged_part(*owner, base, above)?;
            let pages = part.take_private();
            self.flush_pages(&pages, &self.disk.counters.checkpoints)?;
            part.keep_frames(pages);
            let allocated: Vec<Extent> = std::mem::take(&mut part.written_early).iter().collect();
            let freed = std::mem::take(&mut part.freed);
            let merged = unfinished.entry(*owner).or_insert_with(|| Merged {
                root: base,
                superseded: Vec::new(),
                #[cfg(any(test, feature = "testing"))]
                claimed: Vec::new(),
            });
            merged.root = OwnerRoot { root: part.root, stamp: part.stamp };
            merged.superseded.extend(freed.iter().filter(|f| f.extent.pages == 1).map(|f| f.extent.start));
            #[cfg(any(test, feature = "testing"))]
            merged.claimed.extend(&allocated);
            self.appetites.note(*owner, allocated.iter().map(|extent| extent.pages).sum());
            let (death, freed) = (part.first_stamp, joined_freed(freed));
            let delta = Delta { seq: cut.seq, owner: *owner, death, allocated, freed };
            self.space.map(|map| map.commit(delta));
        }
        Ok(())
    }

    /// The checkpoint is durable: from here on everybody continues on the merged roots.
    pub(crate) fn install_merged(&self, unfinished: &mut Unfinished) {
        let merged: Vec<_> = unfinished.drain().collect();
        self.pipeline.install(&self.options, &self.owners, &merged);
        for (_, merged) in merged {
            #[cfg(any(test, feature = "testing"))]
            self.shadow.claimed(&merged.claimed);
            merged.superseded.iter().for_each(|&page| self.cache.supersede(page));
        }
    }

    fn shared(&self) -> Arc<Self> {
        self.me.upgrade().expect("whoever calls it has it")
    }
}
