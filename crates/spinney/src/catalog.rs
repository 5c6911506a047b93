//! Reading the name tree, in a snapshot or in a transaction that changes it.

use crate::{
    database::{Core, NAMES},
    error::Result,
    key_range::prefix_range,
    names::{self, Counters, FamilyId, FamilyRecord, FreeRecord, OwnerRecord, TableRecord},
};
use bytes::Bytes;
use spinney_btree::{Bounds, Owner, Pages, Range, TableId, Tree, TreeRoot};
use std::ops::Bound;

/// The name tree as `pages` and `root` show it.
pub(crate) struct Names<'a, P> {
    pub(crate) core: &'a Core,
    pub(crate) pages: P,
    pub(crate) root: TreeRoot,
}

impl<P: Pages + Clone> Names<'_, P> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Tree::new(&self.pages, NAMES, TableId::DEFAULT, self.root).get(key).map_err(|error| self.core.lift(error))
    }

    fn range(&self, bounds: Bounds) -> impl Iterator<Item = Result<(Bytes, Bytes)>> {
        let entries = Range::new(self.pages.clone(), NAMES, TableId::DEFAULT, self.root, bounds);
        entries
            .map(|entry| entry.and_then(|(key, value)| Ok((key, value.read()?))).map_err(|error| self.core.lift(error)))
    }

    pub(crate) fn counters(&self) -> Result<Counters> {
        self.get(&names::counters_key())?.map_or(Ok(Counters::FIRST), |bytes| Counters::decode(&bytes))
    }

    /// Which family has this name.
    pub(crate) fn family_named(&self, name: &str) -> Result<Option<FamilyId>> {
        let record = self.get(&names::family_key(name))?;
        record.map(|bytes| FamilyRecord::decode(&bytes)).transpose().map(|record| record.map(|record| record.id))
    }

    /// The name of a family, if it exists.
    pub(crate) fn name_of(&self, id: FamilyId) -> Result<Option<String>> {
        let record = self.get(&names::owner_key(id.owner))?.map(|bytes| OwnerRecord::decode(&bytes)).transpose()?;
        Ok(record.filter(|record| record.generation == id.generation).map(|record| record.name))
    }

    /// Owners that can be used again, and the generation of their next family.
    pub(crate) fn free_owners(&self) -> impl Iterator<Item = Result<FamilyId>> {
        self.range(prefix_range(names::FREE_PREFIX)).map(|entry| {
            let (key, value) = entry?;
            let generation = FreeRecord::decode(&value)?.generation;
            Ok(FamilyId { owner: names::owner_in_key(&key)?, generation })
        })
    }

    pub(crate) fn table(&self, owner: Owner, name: &str) -> Result<Option<TableRecord>> {
        self.get(&names::table_key(owner, name))?.map(|bytes| TableRecord::decode(&bytes)).transpose()
    }

    /// A family's tables by name; the default one, if it has a record, comes first and has an empty name.
    pub(crate) fn tables(&self, owner: Owner) -> impl Iterator<Item = Result<(String, TableRecord)>> {
        let prefix = names::table_prefix(owner);
        self.range(prefix_range(&prefix)).map(move |entry| {
            let (key, value) = entry?;
            Ok((names::name_in_key(&key, prefix.len())?.to_owned(), TableRecord::decode(&value)?))
        })
    }

    /// All families by name.
    pub(crate) fn families(&self) -> impl Iterator<Item = Result<(String, FamilyId)>> {
        self.families_in(prefix_range(names::FAMILY_PREFIX))
    }

    /// The families behind a name; behind the empty name are all.
    pub(crate) fn families_behind(&self, name: &str) -> impl Iterator<Item = Result<(String, FamilyId)>> {
        let (_, end) = prefix_range(names::FAMILY_PREFIX);
        self.families_in((Bound::Excluded(names::family_key(name)), end))
    }

    fn families_in(&self, bounds: Bounds) -> impl Iterator<Item = Result<(String, FamilyId)>> {
        self.range(bounds).map(|entry| {
            let (key, value) = entry?;
            let name = names::name_in_key(&key, names::FAMILY_PREFIX.len())?;
            Ok((name.to_owned(), FamilyRecord::decode(&value)?.id))
        })
    }

    /// The families whose pages are not all free yet.
    pub(crate) fn dropped(&self) -> impl Iterator<Item = Result<Owner>> {
        self.range(prefix_range(names::DROPPED_PREFIX)).map(|entry| names::owner_in_key(&entry?.0))
    }
}
