//! A checkpoint: the durable map moves on to one commit, is written, and then pages become free.
//!
//! ```text
//! begin_checkpoint, save_as -> apply_checkpoint -> encode_region* -> encode_directory* -> superblock_entries
//!                                     ... the superblock is durable ... -> finish_checkpoint
//!                                     ... something failed ...          -> fail_checkpoint
//! ```
//! Between the first and the last of these, transactions reserve, commit and abort as ever.
//!
//! Invariant: the homes that the newest durable superblock points to are not written; the
//! encoding goes to the others.

use crate::{
    allocator::{Allocator, count},
    canary::Rule,
    commit::{Delta, Freed},
    error::Need,
    map_page::{self, DirectoryEntry},
    region::{Region, Saved},
    words::{Extent, Owner, PageNo, Seq, Stamp},
};
use std::collections::BTreeSet;

/// Knows the protected roots: the visible version, live snapshots, the newest checkpoint, the one in
/// progress, and images after the newest checkpoint.
pub trait Protect {
    /// Who can still reach a page of `owner` that lived in `birth..death`: whoever has a root `r` of
    /// it (`r` being the last stamp of the transaction that made the root) with
    /// `birth <= r < death`. The newest of them, by an id that [`Allocator::release`] is called with
    /// when it goes; `None` when nobody can.
    fn holder(&self, owner: Owner, birth: Stamp, death: Stamp) -> Option<u64>;
}

impl<F: Fn(Owner, Stamp, Stamp) -> Option<u64>> Protect for F {
    fn holder(&self, owner: Owner, birth: Stamp, death: Stamp) -> Option<u64> {
        self(owner, birth, death)
    }
}

/// The checkpoint in progress.
pub(crate) struct Checkpoint {
    /// The last commit it covers.
    pub(crate) covers: Seq,
    /// The stamp of the map pages it writes.
    number: Option<u64>,
}

/// Pages that no tip reaches any more, with what decides whether a snapshot does.
#[derive(Clone, Copy)]
pub(crate) struct Dying {
    extent: Extent,
    owner: Owner,
    birth: Stamp,
    death: Stamp,
}

/// What hangs on one holder.
#[derive(Default)]
pub(crate) struct Pinned {
    pub(crate) pages: u64,
    dying: Vec<Dying>,
}

impl Allocator {
    /// Begins a checkpoint of everything up to the commit `covers`, all of which has been noted.
    ///
    /// # Panics
    /// While another is in progress.
    pub fn begin_checkpoint(&mut self, covers: Seq) {
        assert!(self.checkpoint.is_none(), "one checkpoint at a time");
        self.checkpoint = Some(Checkpoint { covers, number: None });
    }

    /// The number of the checkpoint in progress, which the map pages it writes carry as their stamp.
    /// No other checkpoint of this file, finished or not, had the same.
    ///
    /// # Panics
    /// When none is in progress, or for 0.
    pub fn save_as(&mut self, number: u64) {
        assert!(number > 0, "a checkpoint number");
        self.checkpoint.as_mut().expect("a checkpoint in progress").number = Some(number);
    }

    /// Brings the durable map to the commit the checkpoint covers, and to the permanent extents of
    /// this moment. After a [`Need`] it goes on where it stopped. May be called again, to take in
    /// permanent extents marked since; pages encoded before are then to be encoded again if
    /// [`Allocator::changed_regions`] still lists them.
    ///
    /// # Errors
    /// [`Need::Directory`] and [`Need::Region`].
    ///
    /// # Panics
    /// When none is in progress.
    pub fn apply_checkpoint(&mut self) -> Result<(), Need> {
        let covers = self.checkpoint.as_ref().expect("a checkpoint in progress").covers;
        let too_many = self.broken(Rule::CheckpointIsOneInstant);
        while let Some(delta) = self.noted.pop_front_if(|delta| delta.seq <= covers || too_many) {
            if let Err(need) = self.apply(&delta) {
                self.noted.push_front(delta);
                return Err(need);
            }
        }
        while let Some(&(extent, taken)) = self.permanent_noted.front() {
            let (region, range) = self.locate(extent).expect("a permanent extent");
            self.region_ready(region)?;
            if taken {
                self.keep(region, range);
            } else {
                let dropped = self.drop_durable(region, range);
                assert_eq!(dropped, [extent], "a permanent extent was in use");
                self.permanent_dying.push(extent);
            }
            self.permanent_noted.pop_front();
        }
        Ok(())
    }

    /// The regions whose map pages the checkpoint has to write, in order: those that differ from their
    /// current copy, unless they are as at creation, which needs no page.
    pub fn changed_regions(&self) -> Vec<u32> {
        self.changed.iter().copied().filter(|&region| !self.is_fresh(region)).collect()
    }

    /// The directories whose pages the checkpoint has to write, after the regions.
    pub fn changed_directories(&self) -> Vec<u32> {
        let changed = self.directories_of_changed().into_iter();
        changed.filter(|&directory| !self.is_fresh_directory(directory)).collect()
    }

    /// Fills in `page`, but for checksum, page number, stamp and owner, with the durable map of
    /// `region`, and says where to write it: the home that is not current.
    ///
    /// # Panics
    /// When `region` is not one of [`Allocator::changed_regions`], before [`Allocator::save_as`], or
    /// for a buffer that is not a page long.
    pub fn encode_region(&mut self, region: u32, page: &mut [u8]) -> PageNo {
        assert_eq!(page.len(), self.geometry.page_bytes(), "one page");
        assert!(self.changed.contains(&region), "region {region} has not changed");
        let number = self.number();
        let same_home = self.broken(Rule::HomesTakeTurns);
        let live_instead = self.broken(Rule::ArenasAreNotSaved);
        let (pages, twins) = (self.geometry.region_pages(), self.geometry.region_twins(region));
        let known = self.region_mut(region);
        let mut saving = known.saved.next(number);
        if same_home {
            saving = Saved(number << 1 | known.saved.side());
        }
        known.saving = Some(saving);
        let longest = known.durable_map().longest(pages);
        known.durable.longest = longest.end - longest.start;
        map_page::encode_region(page, if live_instead { known.live_map() } else { known.durable_map() });
        PageNo::new(twins.get() + saving.side()).expect("a home in the file")
    }

    /// Fills in `page` like [`Allocator::encode_region`], with the summary of `directory`, once all its
    /// changed regions are encoded.
    ///
    /// # Panics
    /// When `directory` is not one of [`Allocator::changed_directories`] or one of its changed regions
    /// is not encoded; else as [`Allocator::encode_region`].
    pub fn encode_directory(&mut self, directory: u32, page: &mut [u8]) -> PageNo {
        assert_eq!(page.len(), self.geometry.page_bytes(), "one page");
        let number = self.number();
        let saving = self.directories[directory as usize].saved.next(number);
        self.directories[directory as usize].saving = Some(saving);
        let regions: &[Region] = self.directories[directory as usize].regions.as_ref().expect("a directory in memory");
        let first = directory * self.geometry.regions_per_directory();
        map_page::encode_directory(page, (first..).zip(regions).map(|(id, region)| (region, self.saved_next(id))));
        PageNo::new(self.geometry.directory_twins(directory).get() + saving.side()).expect("a home in the file")
    }

    /// The superblock's lines, one per directory of the file: with a checkpoint in progress those
    /// that make it the newest, once its directories are encoded; else the current ones.
    ///
    /// # Panics
    /// When a changed directory is not encoded.
    pub fn superblock_entries(&self) -> Vec<DirectoryEntry> {
        let changed = if self.checkpoint.is_some() { self.directories_of_changed() } else { BTreeSet::new() };
        (0..count(&self.directories))
            .map(|id| {
                let known = &self.directories[id as usize];
                let saved = match known.saving {
                    _ if !changed.contains(&id) => known.saved,
                    _ if self.is_fresh_directory(id) => Saved::NEVER,
                    saving => saving.expect("an encoded directory"),
                };
                let free_pages = if saved == Saved::NEVER { 0 } else { known.durable_free };
                DirectoryEntry { saved: saved.0, free_pages }
            })
            .collect()
    }

    /// The page after the last one in use in the durable map: a file shorter than that is truncated.
    ///
    /// # Errors
    /// [`Need::Directory`] and [`Need::Region`].
    pub fn durable_used_end(&mut self) -> Result<u64, Need> {
        for directory in (0..count(&self.directories)).rev() {
            if self.is_fresh_directory(directory) {
                continue;
            }
            self.directory_ready(directory)?;
            for region in self.regions_in_file(directory).rev() {
                if !self.is_fresh(region) {
                    self.region_ready(region)?;
                    let end = self.region(region).durable_map().used_end();
                    return Ok(self.geometry.region_start(region) + u64::from(end));
                }
            }
        }
        Ok(self.geometry.min_file_pages())
    }

    /// The checkpoint is durable and the older superblock can no longer be used. What it covers is free
    /// now, unless `protect` says that somebody can reach it, on whom it then hangs. Returns the runs that
    /// became free, in order, so that copies of these pages can be forgotten.
    ///
    /// # Panics
    /// When none is in progress, or not all it covers was applied, or not all that changed encoded.
    pub fn finish_checkpoint(&mut self, protect: &impl Protect) -> Vec<Extent> {
        let covers = self.checkpoint.as_ref().expect("a checkpoint in progress").covers;
        assert!(self.noted.front().is_none_or(|delta| delta.seq > covers), "a commit up to {covers} was not applied");
        for directory in self.directories_of_changed() {
            let saved = match self.directories[directory as usize].saving.take() {
                _ if self.is_fresh_directory(directory) => Saved::NEVER,
                saving => saving.expect("an encoded directory"),
            };
            self.directories[directory as usize].saved = saved;
        }
        for &region in &std::mem::take(&mut self.changed) {
            let saved = if self.is_fresh(region) { Some(Saved::NEVER) } else { self.region(region).saving };
            let known = self.region_mut(region);
            known.saved = saved.expect("an encoded region");
            known.saving = None;
        }
        self.checkpoint = None;
        self.replayed_frees.clear();

        let mut free = std::mem::take(&mut self.permanent_dying);
        self.awaiting -= free.iter().map(|extent| extent.pages).sum::<u64>();
        let careless = self.broken(Rule::SnapshotsProtect);
        for dying in std::mem::take(&mut self.dying) {
            self.awaiting -= dying.extent.pages;
            match protect.holder(dying.owner, dying.birth, dying.death).filter(|_| !careless) {
                Some(holder) => self.pin(holder, dying),
                None => free.push(dying.extent),
            }
        }
        self.give_all(free)
    }

    /// The checkpoint failed before its superblock was written. Nothing is freed and nothing lost: the
    /// next one covers all of it.
    ///
    /// # Panics
    /// When none is in progress.
    pub fn fail_checkpoint(&mut self) {
        assert!(self.checkpoint.take().is_some(), "a checkpoint in progress");
        for region in self.changed.clone() {
            self.region_mut(region).saving = None;
        }
        self.directories.iter_mut().for_each(|directory| directory.saving = None);
        if self.broken(Rule::FailureKeepsFrees) {
            self.dying.clear();
        }
    }

    /// A holder is gone, and `protect` no longer names it: what hung on it is free, or hangs on the
    /// next. Returns what became free.
    pub fn release(&mut self, holder: u64, protect: &impl Protect) -> Vec<Extent> {
        if self.broken(Rule::ReleaseFrees) {
            return Vec::new();
        }
        let careless = self.broken(Rule::OlderSnapshotsProtect);
        let mut free = Vec::new();
        for dying in self.pinned.remove(&holder).unwrap_or_default().dying {
            match protect.holder(dying.owner, dying.birth, dying.death).filter(|_| !careless) {
                Some(next) => self.pin(next, dying),
                None => free.push(dying.extent),
            }
        }
        self.give_all(free)
    }

    /// How many pages hang on each holder.
    pub fn pinned_by(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.pinned.iter().map(|(&holder, pinned)| (holder, pinned.pages))
    }

    /// Frees pages, most of which were freed one by one, run by run; returns the runs.
    fn give_all(&mut self, mut free: Vec<Extent>) -> Vec<Extent> {
        free.sort_unstable();
        free.dedup_by(|next, run| {
            let joins = run.end() == next.start.get();
            run.pages += if joins { next.pages } else { 0 };
            joins
        });
        free.iter().for_each(|&extent| self.give(extent));
        free
    }

    fn pin(&mut self, holder: u64, dying: Dying) {
        let pinned = self.pinned.entry(holder).or_default();
        pinned.pages += dying.extent.pages;
        pinned.dying.push(dying);
    }

    /// Puts one commit into the durable map; all of it, or on a [`Need`] nothing.
    fn apply(&mut self, delta: &Delta) -> Result<(), Need> {
        let freed = delta.freed.iter().map(|freed| freed.extent);
        for extent in delta.allocated.iter().copied().chain(freed) {
            // What was free may have been cut off since a damaged tree or a forged log freed it once more.
            if let Ok((region, _)) = self.locate(extent) {
                self.region_ready(region)?;
            }
        }
        for &extent in &delta.allocated {
            let (region, range) = self.locate(extent).expect("an extent that was granted");
            self.keep(region, range);
        }
        for &Freed { extent, birth } in &delta.freed {
            // Freeing what is free has no effect: what is not in use here is not counted twice.
            self.awaiting -= extent.pages;
            let Ok((region, range)) = self.locate(extent) else { continue };
            for extent in self.drop_durable(region, range) {
                self.awaiting += extent.pages;
                self.dying.push(Dying { extent, owner: delta.owner, birth, death: delta.death });
            }
        }
        Ok(())
    }

    fn number(&self) -> u64 {
        self.checkpoint.as_ref().and_then(|c| c.number).expect("a checkpoint in progress, with a number")
    }

    fn directories_of_changed(&self) -> BTreeSet<u32> {
        self.changed.iter().map(|&region| self.geometry.directory_of(region)).collect()
    }

    /// Where the region's current copy is once this checkpoint is the newest.
    fn saved_next(&self, region: u32) -> Saved {
        let known = self.region(region);
        if !self.changed.contains(&region) {
            known.saved
        } else if self.is_fresh(region) {
            Saved::NEVER
        } else {
            known.saving.expect("an encoded region")
        }
    }

    /// Whether the durable map of the region, whose directory is in memory, is as at creation.
    fn is_fresh(&self, region: u32) -> bool {
        self.region(region).durable.free == self.geometry.fresh_free(region)
    }

    fn is_fresh_directory(&self, directory: u32) -> bool {
        self.directories[directory as usize].durable_free == self.geometry.fresh_free_of_directory(directory)
    }
}
