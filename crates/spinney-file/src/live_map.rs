//! A broken engine's map, for tests: what is lent to transactions, and what waits to be free, counts as in use. So would an engine
//! save it that has one map instead of two. For files of one region.

use crate::{
    engine::Engine,
    error::FileError,
    options::Sabotage,
    page::PageHeader,
    space::KIND_MAP_REGION,
    superblock::{get_u64, put_u64},
};
use spinney_alloc::{DirectoryEntry, PageNo};

/// The pages that can be granted now, in order.
pub(crate) struct LiveMap {
    free: Vec<PageNo>,
    file_pages: u64,
    /// How many more the durable map has.
    missing: u64,
}

impl LiveMap {
    /// `None` in an engine that keeps the rule.
    pub(crate) fn if_broken(engine: &Engine) -> Result<Option<Self>, FileError> {
        if !engine.options.broken(Sabotage::SavesLiveMap) {
            return Ok(None);
        }
        let free = engine.space.with_no_growth(&engine.disk, |map| {
            let mut free = Vec::new();
            while map.stats().free > 0 {
                free.push(map.reserve_run(1)?);
            }
            map.give_back(free.clone());
            Ok(free)
        })?;
        let free = free.into_iter().map(|run| run.start).collect();
        Ok(Some(Self { free, file_pages: engine.space.map(|map| map.file_pages()), missing: 0 }))
    }

    /// Puts it in the place of the durable map: first into the page of the region, then into that of the directory.
    pub(crate) fn put(&mut self, kind: u8, page: &mut [u8]) {
        let payload = &mut page[PageHeader::BYTES..];
        let pages = payload.len() as u64 * 8;
        let place = |p: u64| (usize::try_from(p / 8).expect("within a page"), 1 << (p % 8));
        if kind == KIND_MAP_REGION {
            let in_use = |payload: &[u8]| payload.iter().map(|b| u64::from(b.count_ones())).sum::<u64>();
            let before = in_use(payload);
            for (at, bit) in (0..self.file_pages).map(place) {
                payload[at] |= bit;
            }
            for (at, bit) in self.free.iter().map(|p| place(p.get())) {
                payload[at] &= !bit;
            }
            self.missing = in_use(payload) - before;
        } else {
            // The longest run is the one that goes on beyond the end of the file.
            let in_file = (1..=self.file_pages).zip(self.free.iter().rev());
            let tail = in_file.take_while(|(back, page)| page.get() == self.file_pages - back).count() as u64;
            let free = (get_u64(payload, 8) & 0xFFFF_FFFF) - self.missing;
            put_u64(payload, 8, free | (pages - self.file_pages + tail) << 32);
        }
    }

    /// What the superblock says of it.
    pub(crate) fn entries(live: Option<Self>, mut durable: Vec<DirectoryEntry>) -> Vec<DirectoryEntry> {
        if let Some(live) = live {
            durable[0].free_pages -= live.missing;
        }
        durable
    }
}
