//! Everything about a database that is a number.

use crate::{
    database::Database,
    error::Result,
    family::{Family, Place},
};
use spinney_btree::TableId;

pub use spinney_btree::{
    AllocStats, CacheStats, FileStats, FlushStats, HistogramSnapshot, IoStats, LogStats, TreeStats,
};

/// What a database counts; see [`Database::stats`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// Families that exist.
    pub families: u64,
    /// Families with pages that wait to be freed: dropped ones, and those from which ranges were removed.
    pub families_waiting: u64,
    /// Records of the name tree: a few per family, one per table.
    pub name_records: u64,
    /// Pages are this large, in bytes.
    pub page_bytes: u64,
    /// The file below: how far it is, where its bytes are and why, what it did since it was opened.
    pub file: FileStats,
}

impl Database {
    /// What the database counts. Cheap: reads a handful of pages. What is about the file is newer than the rest.
    ///
    /// # Errors
    /// Those of reading.
    pub fn stats(&self) -> Result<Stats> {
        let snapshot = self.snapshot();
        let names = snapshot.names()?;
        Ok(Stats {
            families: u64::from(names.counters()?.families),
            families_waiting: self.core().work.families_waiting(),
            name_records: names.root.len(),
            page_bytes: spinney_btree::Pages::page_bytes(snapshot.pages()) as u64,
            file: self.core().file.stats(),
        })
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
