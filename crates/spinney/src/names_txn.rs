//! Creating, renaming and dropping families and tables inside a write transaction.
//!
//! All of it is a change of the name tree (and, for tables, of the family's own directory), so it commits and aborts with
//! the rest. The name tree is joined at the first such call, waited for like a family, and kept until the
//! transaction ends: transactions that create or rename take turns.

use crate::{
    catalog::Names,
    error::{Error, Result},
    family::{Family, Table, mismatch},
    names::{self, DEFAULT_TABLE, FamilyId, FamilyRecord, OwnerRecord, TableRecord, TypeIdentity},
    transaction::{Effect, Member, WriteTransaction},
};
use spinney_btree::{Borrowed, Bounds, FamilyRoot, FileError, Owner, Part, TableId, TreeError, TreeMut};
use std::sync::Arc;

impl WriteTransaction {
    /// The family of this name, as the transaction sees it. Reading or changing its entries needs it to be part of
    /// the transaction.
    ///
    /// # Errors
    /// [`Error::NameEmpty`], [`Error::NameTooLong`]; [`Error::Busy`] while somebody else changes names.
    pub fn open_family(&mut self, name: &str) -> Result<Option<Family>> {
        names::checked(name)?;
        self.join_names()?;
        let Some(id) = self.names_view().family_named(name)? else { return Ok(None) };
        let shared = self.db.core().register(id, name);
        Ok(Some(Family { db: self.db.clone(), shared }))
    }

    /// Creates a family, which is part of the transaction from then on. Others see it once this has committed.
    ///
    /// # Errors
    /// [`Error::FamilyExists`], and those of [`open_family`](Self::open_family).
    pub fn create_family(&mut self, name: &str) -> Result<Family> {
        if self.open_family(name)?.is_some() {
            return Err(Error::FamilyExists { family: name.to_owned() });
        }
        let core = Arc::clone(self.db.core());
        let (id, is_free) = self.join_new_owner()?;
        let FamilyId { owner, generation } = id;
        let mut counters = self.names_view().counters()?;
        counters.families += 1;
        if !is_free {
            counters.next_owner = owner.0.checked_add(1).ok_or(NUMBERS_EXHAUSTED)?;
            core.spend(counters);
        }
        self.change_names(|tree| {
            tree.remove(&names::free_key(owner))?;
            tree.insert(&names::counters_key(), &counters.encode())?;
            tree.insert(&names::family_key(name), &FamilyRecord { id }.encode())?;
            tree.insert(&names::owner_key(owner), &OwnerRecord { generation, name: name.to_owned() }.encode())
        })?;
        self.is_broken = true;
        let part = self.file.as_mut().expect("an open transaction").part(owner).expect("just joined");
        let shared = core.register(id, name);
        shared.set_holder();
        let member = Member::new(Arc::clone(&shared), part).map_err(|error| core.lift(error))?;
        if *part.root() != FamilyRoot::EMPTY.encode() {
            return Err(NOT_EMPTY);
        }
        let at = self.member_of(owner).expect_err("a new owner is not a member yet");
        self.members.insert(at, member);
        self.effects.push(Effect::Created(Arc::clone(&shared)));
        self.is_broken = false;
        Ok(Family { db: self.db.clone(), shared })
    }

    /// Finds an owner for a new family and takes its slot: one that is free again if there is any, else a new one. Says
    /// whether it is a free one. The name tree is joined.
    fn join_new_owner(&mut self) -> Result<(FamilyId, bool)> {
        let core = Arc::clone(self.db.core());
        // Some owners are not for us: handles of their last family are still about, or the background is just leaving.
        let mut free = self.names_view().free_owners().take(FREE_OWNERS_TRIED).collect::<Result<Vec<_>>>()?;
        free.retain(|id| core.known(id.owner).is_none());
        let file = self.file.as_mut().expect("an open transaction");
        for id in free {
            match file.join_new(id.owner) {
                Ok(_) => return Ok((id, true)),
                Err(FileError::Busy { .. }) => {}
                Err(error) => return Err(core.lift(error.into())),
            }
        }
        let owner = Owner(core.unspent(self.names_view().counters()?).next_owner);
        let joined = self.file.as_mut().expect("an open transaction").join_new(owner).map(drop);
        joined.map_err(|error| match error {
            // The only thing that can be wrong with a number.
            FileError::Option(_) => Error::TooManyFamilies { families: owner.0 },
            error => core.lift(error.into()),
        })?;
        Ok((FamilyId { owner, generation: 0 }, false))
    }

    /// Drops a family that is part of the transaction, with all its tables. O(log families): its pages are freed in the
    /// background, once no snapshot reads them.
    ///
    /// # Errors
    /// [`Error::NotInTransaction`], [`Error::FamilyDropped`]; [`Error::Busy`] while somebody else changes names.
    pub fn drop_family(&mut self, family: &Family) -> Result<()> {
        let at = self.member(family)?;
        self.join_names()?;
        let FamilyId { owner, generation } = family.shared.id();
        let view = self.names_view();
        let name = view.name_of(family.shared.id())?.ok_or_else(|| family.shared.gone())?;
        let mut counters = view.counters()?;
        counters.families = counters.families.checked_sub(1).ok_or(MISCOUNTED)?;
        self.names_parts().1.set_freeing(true);
        self.parts(at).1.set_freeing(true);
        self.change_names(|tree| {
            tree.insert(&names::counters_key(), &counters.encode())?;
            tree.remove(&names::family_key(&name))?;
            tree.remove(&names::owner_key(owner))?;
            tree.insert(&names::dropped_key(owner), &OwnerRecord { generation, name: name.clone() }.encode())?;
            tree.remove_range(&table_bounds(owner))
        })?;
        self.change_member(at, |member, part| {
            member.tree.family(part).drop_all()?;
            member.is_dropped = true;
            member.has_graves = true;
            Ok(())
        })?;
        self.names_parts().1.set_freeing(false);
        self.effects.push(Effect::Dropped(Arc::clone(&family.shared)));
        Ok(())
    }

    /// Renames a family; handles stay valid. It need not be part of the transaction.
    ///
    /// # Errors
    /// [`Error::FamilyExists`], [`Error::FamilyDropped`], [`Error::NameEmpty`], [`Error::NameTooLong`];
    /// [`Error::Busy`] while somebody else changes names.
    pub fn rename_family(&mut self, family: &Family, new_name: &str) -> Result<()> {
        names::checked(new_name)?;
        self.is_ours(family)?;
        self.join_names()?;
        let FamilyId { owner, generation } = family.shared.id();
        let view = self.names_view();
        let name = view.name_of(family.shared.id())?.ok_or_else(|| family.shared.gone())?;
        let id = family.shared.id();
        match view.family_named(new_name)? {
            None => {}
            Some(found) if found == id => return Ok(()),
            Some(_) => return Err(Error::FamilyExists { family: new_name.to_owned() }),
        }
        self.change_names(|tree| {
            tree.remove(&names::family_key(&name))?;
            tree.insert(&names::family_key(new_name), &FamilyRecord { id }.encode())?;
            tree.insert(&names::owner_key(owner), &OwnerRecord { generation, name: new_name.to_owned() }.encode())
        })?;
        self.effects.push(Effect::Renamed(Arc::clone(&family.shared), new_name.to_owned()));
        Ok(())
    }

    /// A table of a family, as the transaction sees it.
    ///
    /// # Errors
    /// [`Error::NameEmpty`], [`Error::NameTooLong`]; [`Error::Busy`] while somebody else changes names.
    pub fn open_table(&mut self, family: &Family, name: &str) -> Result<Option<Table>> {
        names::checked(name)?;
        self.is_ours(family)?;
        self.join_names()?;
        let record = self.names_view().table(family.shared.owner, name)?;
        Ok(record.map(|record| Table::new(family.clone(), TableId(record.table), name)))
    }

    /// Creates a table in a family that is part of the transaction. Others see it once this has committed.
    ///
    /// # Errors
    /// [`Error::TableExists`], [`Error::NotInTransaction`], and those of [`open_table`](Self::open_table).
    pub fn create_table(&mut self, family: &Family, name: &str) -> Result<Table> {
        let at = self.member(family)?;
        if self.open_table(family, name)?.is_some() {
            return Err(self.table_exists(family, name));
        }
        self.make_table(at, family, name, None)
    }

    /// Drops a table of a family that is part of the transaction. O(log tables): its pages are freed in the background.
    ///
    /// # Errors
    /// [`Error::TableUnknown`], [`Error::DefaultTable`], [`Error::NotInTransaction`]; [`Error::Busy`] while
    /// somebody else changes names.
    pub fn drop_table(&mut self, table: &Table) -> Result<()> {
        let family = table.family();
        let at = self.member(family)?;
        let id = id_of(table, "dropped")?;
        self.join_names()?;
        let (name, _) = self.find_table_record(table)?;
        let owner = family.shared.owner;
        self.change_names(|tree| tree.remove(&names::table_key(owner, &name)))?;
        self.change_member(at, |member, part| {
            member.tree.family(part).drop_table(id)?;
            member.tables.retain(|(known, _)| *known != id);
            member.has_graves = true;
            Ok(())
        })
    }

    /// Renames a table; handles stay valid. Its family need not be part of the transaction.
    ///
    /// # Errors
    /// [`Error::TableExists`], [`Error::TableUnknown`], [`Error::DefaultTable`], [`Error::NameEmpty`],
    /// [`Error::NameTooLong`]; [`Error::Busy`] while somebody else changes names.
    pub fn rename_table(&mut self, table: &Table, new_name: &str) -> Result<()> {
        names::checked(new_name)?;
        let family = table.family();
        self.is_ours(family)?;
        let id = id_of(table, "renamed")?;
        self.join_names()?;
        let owner = family.shared.owner;
        let (name, record) = self.find_table_record(table)?;
        match self.names_view().table(owner, new_name)? {
            None => {}
            Some(found) if found.table == id.0 => return Ok(()),
            Some(_) => return Err(self.table_exists(family, new_name)),
        }
        let record = record.encode()?;
        self.change_names(|tree| {
            tree.remove(&names::table_key(owner, &name))?;
            tree.insert(&names::table_key(owner, new_name), &record)
        })?;
        Ok(())
    }

    /// Opens or creates a table, comparing `types` with its record or storing them there. An empty name is the default
    /// table. The family is part of the transaction.
    pub(crate) fn table_of_types(&mut self, family: &Family, name: &str, types: Option<TypeIdentity>) -> Result<Table> {
        let at = self.member(family)?;
        self.join_names()?;
        let owner = family.shared.owner;
        let record = self.names_view().table(owner, name)?;
        let id = match &record {
            Some(record) => TableId(record.table),
            None if name.is_empty() => TableId(DEFAULT_TABLE),
            None => return self.make_table(at, family, name, types),
        };
        let stored = record.and_then(|record| record.types);
        let table = Table::new(family.clone(), id, name);
        match (stored, types) {
            (stored, types) if stored == types => {}
            (_, None) => {}
            (Some(stored), types) => return Err(mismatch(family, name, &stored, types.as_ref())),
            (None, types) => {
                if !self.table(&table)?.is_empty()? {
                    let untyped = TypeIdentity { key: "bytes".to_owned(), value: "untyped bytes".to_owned() };
                    return Err(mismatch(family, name, &untyped, types.as_ref()));
                }
                let record = TableRecord { table: id.0, types }.encode()?;
                self.change_names(|tree| tree.insert(&names::table_key(owner, name), &record))?;
            }
        }
        Ok(table)
    }

    /// Makes a table that does not exist. The name tree is joined.
    fn make_table(&mut self, at: usize, family: &Family, name: &str, types: Option<TypeIdentity>) -> Result<Table> {
        let core = Arc::clone(self.db.core());
        let mut counters = core.unspent(self.names_view().counters()?);
        let id = TableId(counters.next_table);
        counters.next_table = counters.next_table.checked_add(1).ok_or(NUMBERS_EXHAUSTED)?;
        let record = TableRecord { table: id.0, types }.encode()?;
        core.spend(counters);
        self.change_names(|tree| {
            tree.insert(&names::counters_key(), &counters.encode())?;
            tree.insert(&names::table_key(family.shared.owner, name), &record)
        })?;
        self.change_member(at, |member, part| member.tree.family(part).create_table(id))?;
        Ok(Table::new(family.clone(), id, name))
    }

    /// The record of a table and its present name, by the handle's number: the table may have been renamed.
    fn find_table_record(&self, table: &Table) -> Result<(String, TableRecord)> {
        let (family, id) = (table.family(), id_of(table, "reached")?);
        let view = self.names_view();
        match view.table(family.shared.owner, table.name())? {
            Some(record) if record.table == id.0 => return Ok((table.name().to_owned(), record)),
            _ => {}
        }
        for found in view.tables(family.shared.owner) {
            let (name, record) = found?;
            if record.table == id.0 {
                return Ok((name, record));
            }
        }
        family.shared.alive()?;
        Err(family.no_table(table.name()))
    }

    fn table_exists(&self, family: &Family, table: &str) -> Error {
        Error::TableExists { family: family.name().to_string(), table: table.to_owned() }
    }

    /// Refuses families of other databases.
    fn is_ours(&self, family: &Family) -> Result<()> {
        if Arc::ptr_eq(family.db.core(), self.db.core()) {
            return Ok(());
        }
        Err(Error::OtherDatabase { family: family.name().to_string() })
    }

    /// The name tree as the transaction sees it; joined before.
    fn names_view(&self) -> Names<'_, Borrowed<'_, Part>> {
        let (names, part) = self.names_parts_ref();
        Names { core: self.db.core(), pages: Borrowed(part), root: names.tables[0].1 }
    }

    /// Changes the name tree; joined before. What goes wrong half-way leaves the transaction broken.
    fn change_names<R>(&mut self, change: impl FnOnce(&mut TreeMut<'_>) -> Result<R, TreeError>) -> Result<R> {
        self.is_broken = true;
        let (names, part) = self.names_parts();
        let mut family = names.tree.family(part);
        let outcome = family.table(TableId::DEFAULT).and_then(|mut tree| change(&mut tree));
        let root = family.table_root(TableId::DEFAULT);
        names.has_graves = true; // a removed range of records can leave some
        let outcome = outcome.and_then(|done| {
            names.tables[0].1 = root?.expect("every family has a default table");
            Ok(done)
        });
        let done = self.lift(outcome)?;
        self.is_broken = false;
        Ok(done)
    }

    /// Changes what tables a member has. What goes wrong half-way leaves the transaction broken.
    fn change_member<R>(
        &mut self,
        at: usize,
        change: impl FnOnce(&mut Member, &mut Part) -> Result<R, TreeError>,
    ) -> Result<R> {
        self.is_broken = true;
        let (member, part) = self.parts(at);
        let outcome = change(member, part);
        let done = self.lift(outcome)?;
        self.is_broken = false;
        Ok(done)
    }
}

/// How many free owners to look at for one that can be used at once.
const FREE_OWNERS_TRIED: usize = 8;

/// Where a family's table records begin and end.
fn table_bounds(owner: Owner) -> Bounds {
    crate::key_range::prefix_range(&names::table_prefix(owner))
}

/// A table's number; the default table is refused.
fn id_of(table: &Table, what: &'static str) -> Result<TableId> {
    let id = crate::family::Place::table_id(table);
    if id == DEFAULT_TABLE {
        return Err(Error::DefaultTable { family: table.family().name().to_string(), what });
    }
    Ok(TableId(id))
}

const NUMBERS_EXHAUSTED: Error = Error::NamesDamaged { why: "all numbers for families or tables are used up" };
const NOT_EMPTY: Error = Error::NamesDamaged { why: "an owner is free that still has a tree" };
const MISCOUNTED: Error = Error::NamesDamaged { why: "more families exist than are counted" };
