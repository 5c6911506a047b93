//! What commits allocated and freed, noted until a checkpoint puts it into the durable map.

use crate::{
    allocator::Allocator,
    canary::Rule,
    error::{MapError, ReplayError},
    words::{Extent, Owner, Seq, Stamp},
};

/// One owner's share of a commit, as far as pages go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// The commit's place in the order; shares of one commit have the same.
    pub seq: Seq,
    /// Whose pages.
    pub owner: Owner,
    /// The first stamp of the transaction: the lives of the pages it freed end here.
    pub death: Stamp,
    /// Pages that were reserved and are reachable from now on.
    pub allocated: Vec<Extent>,
    /// Pages that are no longer reachable from here on.
    pub freed: Vec<Freed>,
}

/// Pages of one age that a commit freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freed {
    /// Which pages.
    pub extent: Extent,
    /// Their stamp: where their lives began.
    pub birth: Stamp,
}

impl Allocator {
    /// Notes a commit. Costs as much as its lists are long; looks at no map.
    ///
    /// Freed extents that can never have been granted are left out: they come from pointers in a
    /// damaged tree.
    ///
    /// # Panics
    /// When commits come out of order, when the checkpoint in progress should have had this one, or
    /// when a page allocated was not reserved.
    pub fn commit(&mut self, delta: Delta) {
        self.assert_in_order(delta.seq);
        let allocated = delta.allocated.iter().map(|extent| extent.pages).sum();
        assert!(self.lent >= allocated, "{} commits pages that were not reserved", delta.seq);
        self.lent -= allocated;
        self.note(delta);
    }

    /// Notes a commit found in the log after the newest checkpoint, and marks what it allocated in
    /// use: nothing else is granted these pages, which need not have been reserved. In order of
    /// `seq`, and before anything is reserved. Allocating what is in use and freeing what is free have
    /// no effect.
    ///
    /// # Errors
    /// [`ReplayError::Need`]: nothing changed, call again. [`ReplayError::Map`] for an extent that
    /// cannot have been granted, or was freed by an earlier commit in the log.
    pub fn replay(&mut self, delta: &Delta) -> Result<(), ReplayError> {
        self.assert_in_order(delta.seq);
        for &extent in &delta.allocated {
            let (region, _) = self.locate(extent)?;
            if self.replayed_frees.overlaps(extent) {
                return Err(MapError::Extent { extent, why: "granted again before a checkpoint" }.into());
            }
            if self.permanent.overlaps(extent) {
                return Err(MapError::Extent { extent, why: "granted, but permanent" }.into());
            }
            self.region_ready(region)?;
        }
        for freed in &delta.freed {
            self.locate(freed.extent)?;
        }
        if !self.broken(Rule::ReplayClaims) {
            for &extent in &delta.allocated {
                let (region, range) = self.locate(extent)?;
                self.take(region, range);
            }
        }
        let mut freed = Vec::with_capacity(delta.freed.len());
        for &Freed { extent, birth } in &delta.freed {
            let gaps = self.replayed_frees.gaps(extent);
            self.replayed_frees.insert(extent);
            freed.extend(gaps.into_iter().map(|extent| Freed { extent, birth }));
        }
        self.note(Delta { freed, ..delta.clone() });
        Ok(())
    }

    /// Makes reserved pages permanent: in use now, in the durable map with the next checkpoint, or
    /// with the one in progress when [`Allocator::apply_checkpoint`] is called after this. They belong
    /// to no commit.
    ///
    /// # Panics
    /// When they were not reserved.
    pub fn mark_permanent(&mut self, extent: Extent) {
        assert!(self.lent >= extent.pages && !self.permanent.overlaps(extent), "{extent:?} was not reserved");
        self.lent -= extent.pages;
        self.permanent.insert(extent);
        self.permanent_noted.push_back((extent, true));
    }

    /// Says of an extent, in use, that it is permanent: after opening, for those that nothing but a hostile log
    /// would claim or release.
    ///
    /// # Errors
    /// [`MapError::Extent`] when it cannot have been granted.
    pub fn adopt_permanent(&mut self, extent: Extent) -> Result<(), MapError> {
        self.locate(extent)?;
        if self.permanent.overlaps(extent) || self.permanent.pages() + extent.pages > self.in_use {
            return Err(MapError::Extent { extent, why: "permanent, but not in use or twice so" });
        }
        self.permanent.insert(extent);
        Ok(())
    }

    /// Gives up permanent pages: free in the durable map with the next checkpoint (or the one in
    /// progress, as for [`Allocator::mark_permanent`]), and to be granted when that has finished.
    ///
    /// # Panics
    /// When they are not permanent.
    pub fn free_permanent(&mut self, extent: Extent) {
        assert!(self.permanent.remove(extent), "{extent:?} is not permanent");
        if self.broken(Rule::PermanentPagesWait) {
            let (region, range) = self.locate(extent).expect("a permanent extent");
            self.drop_durable(region, range);
            return self.give(extent);
        }
        self.awaiting += extent.pages;
        self.permanent_noted.push_back((extent, false));
    }

    fn note(&mut self, mut delta: Delta) {
        let (geometry, file_pages, permanent) = (self.geometry, self.file_pages, &self.permanent);
        delta
            .freed
            .retain(|freed| geometry.locate(freed.extent, file_pages).is_some() && !permanent.overlaps(freed.extent));
        if self.broken(Rule::FreedPagesWait) {
            for freed in std::mem::take(&mut delta.freed) {
                let (region, range) = self.locate(freed.extent).expect("an extent that was granted");
                self.region_ready(region).expect("no reading in this test");
                self.drop_durable(region, range);
                self.give(freed.extent);
            }
        }
        self.awaiting += delta.freed.iter().map(|freed| freed.extent.pages).sum::<u64>();
        self.noted.push_back(delta);
    }

    fn assert_in_order(&self, seq: Seq) {
        assert!(self.noted.back().is_none_or(|last| last.seq <= seq), "{seq} after {:?}", self.noted.back());
        assert!(self.checkpoint.as_ref().is_none_or(|c| c.covers < seq), "{seq} belongs to the checkpoint in progress");
    }
}
