//! Write transactions: who takes part, and how it ends.

use crate::{
    database::{Core, Database, NAMES},
    error::{Error, Result},
    family::{Family, FamilyShared, Fate, Place},
    key_range::{KeyRange, prefix_range},
    maintenance::PAGES_PER_COMMIT,
    range::{Range, bounds_of},
    table_txn::TableTxn,
    value::Value,
};
use smallvec::{SmallVec, smallvec};
use spinney_btree::{
    Durability, FamilyTxn, FileError, Owner, Part, Seq, TableId, Tree, TreeError, TreeRoot, Wait, WriteTxn,
};
use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

/// A family that takes part, and what the transaction knows of its trees.
pub(crate) struct Member {
    pub(crate) shared: Arc<FamilyShared>,
    pub(crate) tree: FamilyTxn,
    /// Tables looked at so far and where they begin now; the default one first.
    pub(crate) tables: SmallVec<[(TableId, TreeRoot); 1]>,
    /// Whether something was sent to the family's graveyard, now or earlier; of a small transaction, earlier.
    pub(crate) has_graves: bool,
    /// Something was there when the transaction began.
    had_graves: bool,
    /// Dropped by this transaction.
    pub(crate) is_dropped: bool,
}

impl Member {
    pub(crate) fn new(shared: Arc<FamilyShared>, part: &mut Part) -> Result<Self, TreeError> {
        let tree = FamilyTxn::new(part)?;
        Ok(Self {
            shared,
            tables: smallvec![(TableId::DEFAULT, tree.default_table())],
            tree,
            has_graves: false,
            had_graves: false,
            is_dropped: false,
        })
    }

    /// The place in `tables` of a table; `None` when the family has no such table.
    pub(crate) fn find_table(&mut self, part: &mut Part, id: TableId) -> Result<Option<usize>, TreeError> {
        if let Some(at) = self.tables.iter().position(|(known, _)| *known == id) {
            return Ok(Some(at));
        }
        let Some(root) = self.tree.family(part).table_root(id)? else { return Ok(None) };
        self.tables.push((id, root));
        Ok(Some(self.tables.len() - 1))
    }

    /// Looks again where its tables begin: entering the pages changes all of it.
    pub(crate) fn reload(&mut self, part: &mut Part) -> Result<(), TreeError> {
        for (id, root) in &mut self.tables {
            *root = self.tree.family(part).table_root(*id)?.ok_or(TreeError::NoTable(*id))?;
        }
        Ok(())
    }

    /// Looks for pages that were left to be freed before the database was opened, once per family.
    fn look_for_graves(&mut self, part: &mut Part) -> Result<(), TreeError> {
        if self.shared.graves_looked_for.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.had_graves = !self.tree.family(part).graveyard_is_empty()?;
        self.has_graves = self.had_graves;
        self.shared.graves_looked_for.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// What becomes of handles when the transaction ends.
pub(crate) enum Effect {
    Created(Arc<FamilyShared>),
    Dropped(Arc<FamilyShared>),
    Renamed(Arc<FamilyShared>, String),
}

/// A write transaction of one or several families, or of none when it only creates and renames some.
///
/// It sees what it has written itself, and the newest committed state of its families; what it read is certain once it
/// has committed. Nobody else sees any of it before [`commit`](Self::commit). Dropping it aborts it.
///
/// If it has exactly one family, entries of that family's default table can be read and changed directly;
/// [`family`](Self::family) and [`table`](Self::table) reach all others.
pub struct WriteTransaction {
    pub(crate) db: Database,
    /// `None` once it has ended.
    pub(crate) file: Option<WriteTxn>,
    /// By owner.
    pub(crate) members: Vec<Member>,
    /// The name tree, once something was to be created, dropped or renamed.
    pub(crate) names: Option<Box<Member>>,
    pub(crate) effects: Vec<Effect>,
    /// Set while a change is under way, and for good when one has failed half-way.
    pub(crate) is_broken: bool,
    /// How long to wait for the name tree, whose turn comes last.
    pub(crate) wait: Wait,
}

const ENDED: &str = "a transaction that has ended cannot be reached";

impl WriteTransaction {
    pub(crate) fn begin<'a>(db: &Database, families: impl IntoIterator<Item = &'a Family>, wait: Wait) -> Result<Self> {
        let core = db.core();
        core.open()?;
        if core.options.read_only {
            return Err(Error::ReadOnly);
        }
        let mut shared: SmallVec<[Arc<FamilyShared>; 1]> = SmallVec::new();
        for family in families {
            if !Arc::ptr_eq(family.db.core(), core) {
                return Err(Error::OtherDatabase { family: family.name().to_string() });
            }
            shared.push(Arc::clone(&family.shared));
        }
        shared.sort_unstable_by_key(|shared| shared.owner);
        shared.dedup_by_key(|shared| shared.owner);
        let mut file = take_slots(core, &shared, wait).map_err(|error| core.lift(error.into()))?;
        let mut members = Vec::with_capacity(shared.len());
        for shared in shared {
            // Asked only now: whoever held the slot may have dropped the family.
            shared.alive()?;
            shared.set_holder();
            let part = file.part(shared.owner).expect("a transaction has the parts it was begun for");
            let member = Member::new(shared, part).and_then(|mut member| {
                member.look_for_graves(part)?;
                Ok(member)
            });
            members.push(member.map_err(|error| core.lift(error))?);
        }
        let (names, effects) = (None, Vec::new());
        Ok(Self { db: db.clone(), file: Some(file), members, names, effects, is_broken: false, wait })
    }

    /// A family's default table, to read and change.
    ///
    /// # Errors
    /// [`Error::NotInTransaction`], [`Error::FamilyDropped`], [`Error::OtherDatabase`], [`Error::TransactionBroken`].
    pub fn family(&mut self, family: &Family) -> Result<TableTxn<'_>> {
        self.table(family)
    }

    /// A table of one of the families, to read and change.
    ///
    /// # Errors
    /// [`Error::TableUnknown`], and those of [`family`](Self::family).
    pub fn table(&mut self, place: &impl Place) -> Result<TableTxn<'_>> {
        let family = place.as_family();
        let member = self.member(family)?;
        self.table_of(member, TableId(place.table_id()), |family| family.no_table(place.table_name()), family)
    }

    fn table_of(
        &mut self,
        member: usize,
        id: TableId,
        unknown: impl Fn(&Family) -> Error,
        family: &Family,
    ) -> Result<TableTxn<'_>> {
        let core = Arc::clone(self.db.core());
        let (state, part) = self.parts(member);
        let found = state.find_table(part, id).map_err(|error| core.lift(error))?;
        let table = found.ok_or_else(|| unknown(family))?;
        Ok(TableTxn { txn: self, member, table })
    }

    /// Adds or replaces an entry of the only family's default table; whether it replaced one.
    ///
    /// # Errors
    /// [`Error::WhichFamily`], and those of [`TableTxn::insert`].
    pub fn insert(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<bool> {
        self.only()?.insert(key, value)
    }

    /// Adds or replaces an entry of the only family's default table without telling which: while the transaction is small, no page
    /// is read for it.
    ///
    /// # Errors
    /// [`Error::WhichFamily`], and those of [`TableTxn::put`].
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.only()?.put(key, value)
    }

    /// Removes an entry of the only family's default table, if there is one, without telling; see [`put`](Self::put).
    ///
    /// # Errors
    /// [`Error::WhichFamily`], and those of [`TableTxn::delete`].
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> Result<()> {
        self.only()?.delete(key)
    }

    /// Removes an entry of the only family's default table; whether there was one.
    ///
    /// # Errors
    /// [`Error::WhichFamily`], and those of [`TableTxn::remove`].
    pub fn remove(&mut self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.only()?.remove(key)
    }

    /// Removes the entries of a range from the only family's default table, and says how many.
    ///
    /// # Errors
    /// [`Error::WhichFamily`], and those of [`TableTxn::remove_range`].
    pub fn remove_range(&mut self, range: impl KeyRange) -> Result<u64> {
        self.only()?.remove_range(range)
    }

    /// Appends sorted entries to the only family's default table, and says how many.
    ///
    /// # Errors
    /// [`Error::WhichFamily`], and those of [`TableTxn::bulk_load`].
    pub fn bulk_load<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Result<u64> {
        self.only()?.bulk_load(entries)
    }

    /// The value of a key of the only family's default table, as the transaction sees it.
    ///
    /// # Errors
    /// [`Error::WhichFamily`], and those of [`TableTxn::get`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.lift(self.only_tree()?.get(key.as_ref())).map(|value| value.map(Value::from))
    }

    /// Whether the only family's default table has the key.
    ///
    /// # Errors
    /// [`Error::WhichFamily`], and those of [`TableTxn::contains`].
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.lift(self.only_tree()?.contains(key.as_ref()))
    }

    /// The first entry of the only family's default table.
    ///
    /// # Errors
    /// [`Error::WhichFamily`], and those of [`TableTxn::first`].
    pub fn first(&self) -> Result<Option<(Value, Value)>> {
        self.lift(self.only_tree()?.first()).map(|entry| entry.map(|(key, value)| (key.into(), value.into())))
    }

    /// The last entry of the only family's default table.
    ///
    /// # Errors
    /// [`Error::WhichFamily`], and those of [`TableTxn::last`].
    pub fn last(&self) -> Result<Option<(Value, Value)>> {
        self.lift(self.only_tree()?.last()).map(|entry| entry.map(|(key, value)| (key.into(), value.into())))
    }

    /// How many entries the only family's default table has; see [`TableTxn::len`].
    ///
    /// # Errors
    /// [`Error::WhichFamily`], and those of [`TableTxn::len`].
    pub fn len(&self) -> Result<u64> {
        self.lift(self.only_tree()?.len())
    }

    /// Whether the only family's default table has no entry; see [`TableTxn::is_empty`].
    ///
    /// # Errors
    /// [`Error::WhichFamily`], and those of [`TableTxn::is_empty`].
    pub fn is_empty(&self) -> Result<bool> {
        self.lift(self.only_tree()?.is_empty())
    }

    /// The entries of a range of the only family's default table, as the transaction sees them. What goes wrong is the
    /// first item.
    pub fn range(&self, range: impl KeyRange) -> Range<'_> {
        match self.only_ready() {
            Ok(()) => self.range_at((0, 0), &range),
            Err(error) => Range::failed(self.db.core(), error),
        }
    }

    /// The entries of the only family's default table whose keys begin with `prefix`.
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Range<'_> {
        self.range(prefix_range(prefix.as_ref()))
    }

    /// Makes everything durable and visible, and returns when it is: the commit's sequence number.
    ///
    /// # Errors
    /// [`Error::TransactionBroken`], [`Error::Full`], [`Error::Io`], [`Error::CheckpointFailed`]: nothing was
    /// committed. [`Error::OutcomeUnknown`]: reopening decides. [`Error::Poisoned`], [`Error::Closed`].
    pub fn commit(self) -> Result<Seq> {
        self.commit_with(Durability::Immediate)
    }

    /// Commits with another durability. The sequence number is a ticket for [`Database::wait_durable`].
    ///
    /// | durability  | returns when                                          | survives a killed process | survives a power cut             |
    /// |-------------|-------------------------------------------------------|---------------------------|----------------------------------|
    /// | `Immediate` | it is on stable storage                               | yes                       | yes                              |
    /// | `Buffered`  | the operating system has it                           | yes                       | once flushed                     |
    /// | `Eventual`  | it is visible                                         | once flushed              | once flushed, or an interval later |
    ///
    /// # Errors
    /// Those of [`commit`](Self::commit).
    pub fn commit_with(mut self, durability: Durability) -> Result<Seq> {
        if self.is_broken {
            return Err(Error::TransactionBroken);
        }
        self.is_broken = true;
        self.prepare()?;
        let file = self.file.take().expect(ENDED);
        let dropped: Vec<_> = self.effects.iter().filter_map(Effect::dropped).cloned().collect();
        // The slots are released before the outcome is known: who gets one then must wait for the family's fate.
        let mut fates: Vec<_> = dropped.iter().map(|shared| shared.fate.lock()).collect();
        let outcome = file.commit(durability);
        let outcome = outcome.map_err(|error| {
            drop(std::mem::take(&mut fates)); // their names are asked for
            self.db.core().lift(error.into())
        });
        if outcome.is_ok() {
            fates.iter_mut().for_each(|fate| **fate = Fate::Gone);
        }
        drop(fates);
        let seq = outcome?;
        self.take_effect();
        Ok(seq)
    }

    /// Ends the transaction without a trace. Dropping it does the same.
    pub fn abort(self) {}

    /// Hands every member's roots to the file, and frees a few pages that earlier removals left.
    fn prepare(&mut self) -> Result<()> {
        let core = Arc::clone(self.db.core());
        let file = self.file.as_mut().expect(ENDED);
        for member in self.members.iter_mut().chain(self.names.as_deref_mut()) {
            let owner = member.shared.owner;
            let part = file.part(owner).expect("a member has a part");
            // A transaction that changes no pages sends nothing there, and does not begin to change some for this.
            member.has_graves &= member.had_graves || part.is_in_pages();
            if member.has_graves && part.is_in_pages() && core.work.is_readable(owner) {
                let mut family = member.tree.family(part);
                let collected = family.collect(PAGES_PER_COMMIT).and_then(|_| family.graveyard_is_empty());
                match collected {
                    Ok(is_empty) => member.has_graves = !is_empty,
                    Err(error) => {
                        core.work.give_up(owner);
                        return Err(core.lift(error));
                    }
                }
            }
            member.tree.store(part).map_err(|error| core.lift(error))?;
        }
        Ok(())
    }

    /// Tells handles and background what was committed.
    fn take_effect(&mut self) {
        let core = self.db.core();
        for member in self.members.iter().chain(self.names.as_deref()) {
            if member.has_graves && !member.is_dropped {
                core.work.add_graves(member.shared.owner);
            }
        }
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Created(_) => {}
                Effect::Dropped(shared) => core.work.add_dropped(shared.owner),
                Effect::Renamed(shared, name) => shared.set_name(&name),
            }
        }
        self.db.nudge_maintenance();
    }

    /// Whether there is an only family whose default table can be read and changed: member 0, table 0.
    fn only_ready(&self) -> Result<()> {
        match self.members.as_slice() {
            _ if self.is_broken => Err(Error::TransactionBroken),
            [member] if member.is_dropped => Err(member.shared.gone()),
            [_] => Ok(()),
            members => Err(Error::WhichFamily { families: members.len() }),
        }
    }

    fn only(&mut self) -> Result<TableTxn<'_>> {
        self.only_ready()?;
        Ok(TableTxn { txn: self, member: 0, table: 0 })
    }

    fn only_tree(&self) -> Result<Tree<'_, Part>> {
        self.only_ready()?;
        self.tree_at((0, 0))
    }

    /// A table by its place: which member, and which of that member's tables.
    pub(crate) fn tree_at(&self, (member, table): (usize, usize)) -> Result<Tree<'_, Part>> {
        if self.is_broken {
            return Err(Error::TransactionBroken);
        }
        let (member, part) = self.parts_ref(member);
        let (id, root) = member.tables[table];
        Ok(Tree::new(part, part.owner(), id, root))
    }

    /// A range of a table by its place.
    pub(crate) fn range_at(&self, (member, table): (usize, usize), range: &impl KeyRange) -> Range<'_> {
        let core = self.db.core();
        if self.is_broken {
            return Range::failed(core, Error::TransactionBroken);
        }
        let (member, part) = self.parts_ref(member);
        let (id, root) = member.tables[table];
        Range::of_transaction(core, part, id, root, bounds_of(range))
    }

    pub(crate) fn lift<T>(&self, result: Result<T, TreeError>) -> Result<T> {
        result.map_err(|error| self.db.core().lift(error))
    }

    /// A family's place among the members.
    pub(crate) fn member(&self, family: &Family) -> Result<usize> {
        if self.is_broken {
            return Err(Error::TransactionBroken);
        }
        if !Arc::ptr_eq(family.db.core(), self.db.core()) {
            return Err(Error::OtherDatabase { family: family.name().to_string() });
        }
        match self.member_of(family.shared.owner) {
            Ok(at) if self.members[at].is_dropped => Err(family.shared.gone()),
            Ok(at) => Ok(at),
            Err(_) => Err(Error::NotInTransaction { family: family.name().to_string() }),
        }
    }

    pub(crate) fn member_of(&self, owner: Owner) -> Result<usize, usize> {
        self.members.binary_search_by_key(&owner, |member| member.shared.owner)
    }

    /// A member and its part of the file's transaction.
    pub(crate) fn parts(&mut self, member: usize) -> (&mut Member, &mut Part) {
        let member = &mut self.members[member];
        let part = self.file.as_mut().expect(ENDED).part(member.shared.owner).expect("a member has a part");
        (member, part)
    }

    /// The same, to read.
    pub(crate) fn parts_ref(&self, member: usize) -> (&Member, &Part) {
        let member = &self.members[member];
        let part = self.file.as_ref().expect(ENDED).part_ref(member.shared.owner).expect("a member has a part");
        (member, part)
    }

    /// Takes the name tree's slot, which comes last.
    pub(crate) fn join_names(&mut self) -> Result<()> {
        if self.is_broken {
            return Err(Error::TransactionBroken);
        }
        if self.names.is_some() {
            return Ok(());
        }
        let core = Arc::clone(self.db.core());
        let (file, wait) = (self.file.as_mut().expect(ENDED), self.wait);
        let joined = patiently(std::slice::from_ref(&core.names), wait, || file.join_names(wait).map(drop));
        joined.map_err(|error| core.lift(error.into()))?;
        let part = file.part(NAMES).expect("just joined");
        core.names.set_holder();
        self.names = Some(Box::new(Member::new(Arc::clone(&core.names), part).map_err(|error| core.lift(error))?));
        Ok(())
    }

    /// The name tree and its part; joined before.
    pub(crate) fn names_parts(&mut self) -> (&mut Member, &mut Part) {
        let names = self.names.as_mut().expect("the name tree was joined");
        let part = self.file.as_mut().expect(ENDED).part(NAMES).expect("the name tree was joined");
        (names, part)
    }

    /// The same, to read.
    pub(crate) fn names_parts_ref(&self) -> (&Member, &Part) {
        let names = self.names.as_ref().expect("the name tree was joined");
        let part = self.file.as_ref().expect(ENDED).part_ref(NAMES).expect("the name tree was joined");
        (names, part)
    }
}

impl Effect {
    fn dropped(&self) -> Option<&Arc<FamilyShared>> {
        match self {
            Self::Dropped(shared) => Some(shared),
            _ => None,
        }
    }
}

/// Takes the writer slots.
fn take_slots(core: &Core, families: &[Arc<FamilyShared>], wait: Wait) -> Result<WriteTxn, FileError> {
    let owners: SmallVec<[Owner; 1]> = families.iter().map(|shared| shared.owner).collect();
    patiently(families, wait, || core.file.begin(&owners, wait))
}

/// Takes slots for somebody who does not want to wait, who still waits for the background to finish its step:
/// that is no writer anybody knows of.
fn patiently<T>(
    families: &[Arc<FamilyShared>],
    wait: Wait,
    mut take: impl FnMut() -> Result<T, FileError>,
) -> Result<T, FileError> {
    loop {
        match take() {
            Err(FileError::Busy { owner, held_for }) if wait == Wait::Never => {
                let family = families.iter().find(|shared| shared.owner == owner);
                match family.filter(|family| family.in_maintenance.is_locked()) {
                    Some(family) => drop(family.in_maintenance.lock()),
                    None => return Err(FileError::Busy { owner, held_for }),
                }
            }
            taken => return taken,
        }
    }
}

impl Drop for WriteTransaction {
    fn drop(&mut self) {
        // Handles of families that never came to be must not be taken for anything later.
        for effect in self.effects.drain(..) {
            if let Effect::Created(shared) = effect {
                *shared.fate.lock() = Fate::Gone;
            }
        }
    }
}

impl fmt::Debug for WriteTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let families: Vec<_> = self.members.iter().map(|member| member.shared.name()).collect();
        f.debug_struct("WriteTransaction").field("families", &families).field("is_broken", &self.is_broken).finish()
    }
}
