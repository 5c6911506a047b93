//! One region: its live map, its durable map where that differs, and its summary.
//!
//! Invariant: what is free in the live map is free in the durable map. So the two are equal exactly
//! when their free counts are, and the durable map is kept only while they are not.

use crate::bitmap::Bitmap;
use std::ops::Range;

/// What is known of one of a region's maps without looking at it. Counts the whole region, also
/// pages beyond the end of the file, so that growing a file changes no region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) free: u32,
    /// Of the durable map: the longest free run, exact as of the last encoding. Of the live map:
    /// never less than the longest run inside the file, and exact once a search has looked.
    pub(crate) longest: u32,
}

/// Where a map page's current copy is: `number << 1 | side`, or 0 when it was never saved and is as
/// at creation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Saved(pub(crate) u64);

impl Saved {
    pub(crate) const NEVER: Self = Self(0);

    /// What a checkpoint of this number makes of it: always the other home.
    pub(crate) fn next(self, number: u64) -> Self {
        assert!(0 < number && number < 1 << 63, "a checkpoint number {number}");
        Self(number << 1 | u64::from(self != Self::NEVER && self.side() == 0))
    }

    pub(crate) const fn side(self) -> u64 {
        self.0 & 1
    }

    pub(crate) const fn number(self) -> u64 {
        self.0 >> 1
    }
}

/// A region as memory knows it: 56 bytes, and its maps while they are needed.
pub(crate) struct Region {
    pub(crate) saved: Saved,
    /// Where the checkpoint in progress has put it; none until then, and none once it changed again.
    pub(crate) saving: Option<Saved>,
    pub(crate) live: Summary,
    pub(crate) durable: Summary,
    maps: Option<Box<Maps>>,
    /// When its maps were last used, in uses of any region's.
    pub(crate) used_at: u64,
}

struct Maps {
    live: Bitmap,
    /// `None` while equal to `live`.
    durable: Option<Bitmap>,
}

impl Region {
    /// A region whose maps are on disk, or as at creation.
    pub(crate) const fn new(saved: Saved, summary: Summary) -> Self {
        Self { saved, saving: None, live: summary, durable: summary, maps: None, used_at: 0 }
    }

    pub(crate) const fn is_loaded(&self) -> bool {
        self.maps.is_some()
    }

    /// Whether live and durable map are the same.
    pub(crate) const fn is_settled(&self) -> bool {
        self.live.free == self.durable.free
    }

    pub(crate) fn load(&mut self, map: Bitmap) {
        assert!(self.maps.is_none() && self.is_settled(), "a region that differs from its page is in memory");
        self.maps = Some(Box::new(Maps { live: map, durable: None }));
    }

    /// Forgets the maps, which are as its page is.
    pub(crate) fn unload(&mut self) {
        assert!(self.is_settled(), "a region that differs from its page stays in memory");
        self.maps = None;
    }

    pub(crate) fn live_map(&self) -> &Bitmap {
        &self.maps.as_ref().expect("a loaded region").live
    }

    pub(crate) fn durable_map(&self) -> &Bitmap {
        let maps = self.maps.as_ref().expect("a loaded region");
        maps.durable.as_ref().unwrap_or(&maps.live)
    }

    /// Marks `range` in use in the live map only; returns how many pages were free before.
    pub(crate) fn take(&mut self, range: Range<u32>) -> u32 {
        let settled = self.is_settled();
        let maps = self.maps.as_mut().expect("a loaded region");
        if settled && maps.live.count(range.clone()) < range.end - range.start {
            maps.durable = Some(maps.live.clone());
        }
        let taken = maps.live.set(range);
        self.live.free -= taken;
        taken
    }

    /// Frees `range` in the live map.
    ///
    /// # Panics
    /// When a page of it is free already or is in use in the durable map: it would be granted twice,
    /// or come back in use after a crash while somebody else has it.
    pub(crate) fn give(&mut self, range: Range<u32>, limit: u32) {
        let pages = range.end - range.start;
        let durable_in_use = self.durable_map().count(range.clone());
        assert_eq!(durable_in_use, 0, "live-free implies durable-free: offsets {range:?}");
        let maps = self.maps.as_mut().expect("a loaded region");
        let freed = maps.live.clear(range.clone());
        assert_eq!(freed, pages, "freed twice: offsets {range:?}");
        self.live.free += pages;
        let start = maps.live.free_run_before(range.start);
        let run = maps.live.next_in_use(range.end, limit.max(range.end)) - start;
        self.live.longest = self.live.longest.max(run);
        self.settle();
    }

    /// Marks `range`, in use in the live map, in use in the durable map; returns whether that changed
    /// anything.
    pub(crate) fn keep(&mut self, range: Range<u32>) -> bool {
        let maps = self.maps.as_mut().expect("a loaded region");
        assert_eq!(maps.live.count(range.clone()), range.end - range.start, "kept, but not in use: offsets {range:?}");
        let Some(durable) = &mut maps.durable else { return false };
        let kept = durable.set(range);
        self.durable.free -= kept;
        self.settle();
        kept > 0
    }

    /// Frees `range` in the durable map only; returns the runs of it that were in use there.
    pub(crate) fn drop_durable(&mut self, range: Range<u32>) -> Vec<Range<u32>> {
        let runs: Vec<Range<u32>> = self.durable_map().used_runs(range).collect();
        let maps = self.maps.as_mut().expect("a loaded region");
        if !runs.is_empty() {
            let durable = maps.durable.get_or_insert_with(|| maps.live.clone());
            self.durable.free += runs.iter().map(|run| durable.clear(run.clone())).sum::<u32>();
        }
        runs
    }

    fn settle(&mut self) {
        if self.is_settled()
            && let Some(maps) = &mut self.maps
            && let Some(durable) = maps.durable.take()
        {
            debug_assert!(durable == maps.live, "equal counts, equal maps");
        }
    }
}
