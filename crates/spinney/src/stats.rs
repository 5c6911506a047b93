//! Everything about a database that is a number.

use crate::{
    database::{Database, NAMES},
    error::Result,
    family::{Family, Place},
    scrub::ScrubStats,
};
use spinney_btree::{FileStats, Owner, Seq, TableId};
use std::{fmt, time::Duration};

pub use spinney_btree::TreeStats;

/// What a database counts; see [`Database::stats`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// Families that exist.
    pub families: u64,
    /// Families that are known to have pages that wait to be freed: dropped ones, and those from which ranges were removed.
    pub families_waiting: u64,
    /// Records of the name tree: a few per family, one per table.
    pub name_records: u64,
    /// Why the file is as large as it is.
    pub space: Space,
    /// The scrub that was started last; `None` when there is none, or its handle was dropped.
    pub scrub: Option<ScrubStats>,
    /// The file: how far it is, what it did since it was opened, how long that took.
    pub file: FileStats,
}

/// Why a file is as large as it is, in bytes. The parts make up the whole.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Space {
    /// The length of the file.
    pub file_bytes: u64,
    /// Reachable from the newest checkpoint: data, and what waits in graveyards.
    pub live_bytes: u64,
    /// Removed, but a snapshot can still reach it.
    pub pinned_bytes: u64,
    /// Removed, and free with the next checkpoint.
    pub awaiting_checkpoint_bytes: u64,
    /// Granted to transactions that are open, or kept for a family's next one.
    pub recent_bytes: u64,
    /// The log.
    pub log_bytes: u64,
    /// Superblock, space map and owner table.
    pub metadata_bytes: u64,
    /// Free for the next commits; [`Database::reclaim`] gives it back to the file system.
    pub free_bytes: u64,
    /// Snapshots that are held, and what each alone pins; the oldest first.
    pub snapshots: Vec<HeldSnapshot>,
}

/// A snapshot that somebody holds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HeldSnapshot {
    /// The newest commit it shows.
    pub seq: Seq,
    /// For how long it has been held.
    pub age: Duration,
    /// The families it was taken of; `None` for all.
    pub families: Option<Vec<String>>,
    /// What would become free without it, as far as it is known, in bytes.
    pub pinned_bytes: u64,
}

impl Space {
    fn new(file: &FileStats, own_pages: u64, name_of: impl Fn(Owner) -> String) -> Self {
        let bytes = |pages: u64| pages * file.page_bytes;
        let log_bytes = file.log.blocks * LOG_BLOCK_BYTES;
        let pinned_by = |id| file.pinned_by.iter().filter(|(by, _)| *by == id).map(|(_, pages)| bytes(*pages)).sum();
        let names =
            |owners: &Vec<Owner>| owners.iter().filter(|owner| **owner != NAMES).map(|owner| name_of(*owner)).collect();
        let mut snapshots: Vec<HeldSnapshot> = file
            .snapshots
            .iter()
            .map(|held| HeldSnapshot {
                seq: held.seq,
                age: held.age,
                families: held.covers.as_ref().map(names),
                pinned_bytes: pinned_by(held.id),
            })
            .collect();
        snapshots.sort_unstable_by_key(|held| std::cmp::Reverse(held.age));
        let pages = &file.pages;
        Self {
            file_bytes: bytes(pages.file_pages),
            live_bytes: bytes(pages.used.saturating_sub(own_pages)),
            pinned_bytes: bytes(pages.pinned),
            awaiting_checkpoint_bytes: bytes(pages.awaiting_checkpoint),
            recent_bytes: bytes(pages.lent),
            log_bytes,
            metadata_bytes: bytes(pages.fixed + own_pages).saturating_sub(log_bytes),
            free_bytes: bytes(pages.free),
            snapshots,
        }
    }
}

/// A table for people.
impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("live", self.live_bytes),
            ("pinned by snapshots", self.pinned_bytes),
            ("awaiting checkpoint", self.awaiting_checkpoint_bytes),
            ("open transactions", self.recent_bytes),
            ("log", self.log_bytes),
            ("metadata", self.metadata_bytes),
            ("free", self.free_bytes),
            ("file", self.file_bytes),
        ];
        for (what, bytes) in rows {
            writeln!(f, "{what:<20} {:>12} KiB", bytes >> 10)?;
        }
        for held in &self.snapshots {
            let families = held.families.as_ref().map_or_else(|| "all families".to_owned(), |names| names.join(", "));
            let (pinned, age, seq) = (held.pinned_bytes >> 10, held.age, held.seq);
            writeln!(f, "snapshot of {families} at commit {seq}, held for {age:.1?}, pins {pinned} KiB")?;
        }
        Ok(())
    }
}

/// Statistics count the log in blocks of this many bytes.
const LOG_BLOCK_BYTES: u64 = 4096;

impl Database {
    /// What the database counts. Cheap: reads a handful of pages.
    ///
    /// # Errors
    /// Those of reading.
    pub fn stats(&self) -> Result<Stats> {
        let snapshot = self.snapshot();
        let names = snapshot.names()?;
        let (families, name_records) = (u64::from(names.counters()?.families), names.root.len());
        drop(names);
        drop(snapshot); // not among those that are held
        let file = self.core().file.stats();
        let own = self.core().file.own_extents().map_err(|error| self.core().lift(error.into()))?;
        let own_pages = own.iter().map(|extent| extent.pages).sum();
        let space = Space::new(&file, own_pages, |owner| self.core().name_of(owner));
        let families_waiting = self.core().work.families_waiting();
        let scrub = self.core().scrub.lock().upgrade().map(|scrub| scrub.stats());
        Ok(Stats { families, families_waiting, name_records, space, scrub, file })
    }
}

impl Family {
    /// How each table fills its pages, by name; the default one first, with an empty name. Reads every page of the
    /// family, but no large value.
    ///
    /// # Errors
    /// Those of reading.
    pub fn stats(&self) -> Result<Vec<(String, TreeStats)>> {
        let snapshot = self.db.snapshot_of([self]);
        let mut all = vec![(String::new(), snapshot.tree_stats(self, TableId::DEFAULT)?)];
        for info in snapshot.tables(self)? {
            let table = crate::Table::new(self.clone(), TableId(info.id), &info.name);
            all.push((info.name, snapshot.tree_stats(&table, TableId(info.id))?));
        }
        Ok(all)
    }
}

impl crate::Snapshot {
    fn tree_stats(&self, place: &impl Place, id: TableId) -> Result<TreeStats> {
        let owner = place.as_family().shared.owner;
        let stats = spinney_btree::stats(self.pages(), owner, id, self.root(place)?);
        stats.map_err(|error| self.core().lift(error))
    }
}
