//! Which pages are in use, region by region, for whoever compares that with what can be reached.

use crate::{allocator::Allocator, error::Need, words::Extent};

/// One of the two maps of the same pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The present: what grants are made from. Pages that are lent, and those that wait to become free, are in use.
    Live,
    /// Committed work as of the newest checkpoint.
    Durable,
}

impl Allocator {
    /// How many regions the file has.
    pub fn region_count(&self) -> u32 {
        self.geometry.region_count(self.file_pages)
    }

    /// How many pages can be granted now, as [`stats`](Allocator::stats) says too. O(1).
    pub fn free_count(&self) -> u64 {
        self.free_pages()
    }

    /// Pages at the start of regions that are never granted, in the whole file.
    pub fn fixed_pages(&self) -> u64 {
        self.geometry.fixed_before(self.file_pages)
    }

    /// The runs of `region` (none beyond the end of the file) that are in use in one of the maps, in order, its fixed pages apart. Loads the region's map, which stays in
    /// memory until the next [`trim`](Allocator::trim).
    ///
    /// # Errors
    /// [`Need::Directory`] and [`Need::Region`]: nothing changed, call again.
    pub fn used_runs(&mut self, region: u32, which: Which) -> Result<Vec<Extent>, Need> {
        if region >= self.region_count() {
            return Ok(Vec::new()); // the file was cut off since the caller asked how many there are
        }
        self.region_ready(region)?;
        let fixed = self.geometry.fixed_pages(region);
        let known = self.region(region);
        let map = match which {
            Which::Live => known.live_map(),
            Which::Durable => known.durable_map(),
        };
        Ok(map.used_runs(fixed..self.geometry.region_pages()).map(|run| self.geometry.extent(region, run)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Delta, Geometry, Owner, Seq, Stamp};

    #[test]
    fn the_maps_differ_by_what_is_lent() {
        let geometry = Geometry::tiny(4096, 64, 4);
        let log = Extent::new(10, 3).unwrap();
        let mut map = Allocator::create(geometry, 150, &[log]).unwrap();
        assert_eq!(map.region_count(), 3);
        let lent = map.reserve_run(5).unwrap();
        let used = |map: &mut Allocator, which| -> Vec<Extent> {
            (0..3).flat_map(|region| map.used_runs(region, which).unwrap()).collect()
        };
        assert_eq!(used(&mut map, Which::Durable), [log]);
        let pages: u64 = used(&mut map, Which::Live).iter().map(|run| run.pages).sum();
        assert_eq!(pages, 8);
        map.commit(Delta { seq: Seq(1), owner: Owner(1), death: Stamp(1), allocated: vec![lent], freed: Vec::new() });
        assert_eq!(used(&mut map, Which::Durable), [log], "no checkpoint yet");
        map.begin_checkpoint(Seq(1));
        map.apply_checkpoint().unwrap();
        assert_eq!(used(&mut map, Which::Durable), used(&mut map, Which::Live));
        assert_eq!(map.fixed_pages(), u64::from((0..3).map(|r| geometry.fixed_pages(r)).sum::<u32>()));
    }
}
