//! Snapshots: all or some families at one instant.

use crate::{
    catalog::Names,
    database::{Core, NAMES},
    error::{Error, Result},
    family::{Family, FamilyInfo, Place, Table, TableInfo},
    key_range::{KeyRange, prefix_range},
    names::{self, DEFAULT_TABLE, FamilyId, TableRecord},
    range::{Range, bounds_of},
    value::Value,
};
use bytes::Bytes;
use spinney_btree::{
    FamilyRoot, FileError, Owner, PageNo, PagePtr, PagedFile, Pages, Pin, Seq, TableId, Tree, TreeError, TreeRoot,
};
use std::{
    any::Any,
    fmt,
    sync::{Arc, OnceLock},
};

/// Pages of a snapshot: whoever holds this keeps the snapshot registered, and its pages from being reused.
#[derive(Clone)]
pub(crate) struct SnapshotPages(Arc<Inner>);

struct Inner {
    snapshot: spinney_btree::Snapshot,
    core: Arc<Core>,
    /// Sorted; `None` covers all. The name tree is always covered: it is small, and says what exists.
    covered: Option<Vec<Owner>>,
    roots: RootList,
}

impl SnapshotPages {
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0.core
    }

    pub(crate) fn file(&self) -> &PagedFile {
        self.0.snapshot.file()
    }
}

impl Pages for SnapshotPages {
    fn page<'a>(&'a self, pin: &'a Pin, owner: Owner, ptr: PagePtr) -> Result<&'a [u8], FileError> {
        self.0.snapshot.page(pin, owner, ptr)
    }

    fn page_bytes_shared(&self, owner: Owner, ptr: PagePtr) -> Result<Bytes, FileError> {
        self.0.snapshot.page_bytes_shared(owner, ptr)
    }

    fn read_raw(&self, at: PageNo, offset: u64, len: usize) -> Result<Bytes, FileError> {
        self.0.snapshot.read_raw(at, offset, len)
    }

    fn page_bytes(&self) -> usize {
        self.0.snapshot.page_bytes()
    }

    fn above(&self, owner: Owner) -> Option<&(dyn Any + Send + Sync)> {
        self.0.snapshot.above(owner)
    }
}

/// Roots found so far: a list that only grows, so that readers of one snapshot meet without a lock. What does not
/// fit any more is looked up each time.
#[derive(Default)]
struct RootList {
    first: OnceLock<Box<RootNode>>,
}

struct RootNode {
    family: FamilyId,
    table: TableId,
    root: TreeRoot,
    next: OnceLock<Box<RootNode>>,
}

const NAMES_ID: FamilyId = FamilyId { owner: NAMES, generation: 0 };

/// Longer than most programs have tables, short enough to be searched from the front.
const ROOTS_MAX: usize = 24;

impl RootList {
    fn find(&self, family: FamilyId, table: TableId) -> Option<TreeRoot> {
        let mut link = &self.first;
        while let Some(node) = link.get() {
            if node.family == family && node.table == table {
                return Some(node.root);
            }
            link = &node.next;
        }
        None
    }

    fn add(&self, family: FamilyId, table: TableId, root: TreeRoot) {
        let mut node = Box::new(RootNode { family, table, root, next: OnceLock::new() });
        let mut link = &self.first;
        for _ in 0..ROOTS_MAX {
            match link.set(node) {
                Ok(()) => return,
                Err(back) => node = back,
            }
            link = &link.get().expect("a link that cannot be set is set").next;
        }
    }
}

/// An immutable view of all families, or of some, at one instant. Cheap to clone; it owns what it needs, can
/// be stored and sent between threads, and what is read from it keeps it alive.
///
/// A snapshot keeps the pages it can reach from being reused, so a long-lived one of a busy family lets the file grow.
#[derive(Clone)]
pub struct Snapshot {
    pages: SnapshotPages,
}

impl Snapshot {
    pub(crate) fn new(core: &Arc<Core>, covered: Option<Vec<Owner>>) -> Self {
        let (snapshot, covered) = match covered {
            None => (core.file.snapshot(), None),
            Some(mut owners) => {
                owners.push(NAMES);
                owners.sort_unstable();
                owners.dedup();
                (core.file.snapshot_of(&owners), Some(owners))
            }
        };
        let inner = Inner { snapshot, core: Arc::clone(core), covered, roots: RootList::default() };
        Self { pages: SnapshotPages(Arc::new(inner)) }
    }

    /// Of all families, as a snapshot of the file shows them.
    pub(crate) fn of(core: &Arc<Core>, snapshot: spinney_btree::Snapshot) -> Self {
        let inner = Inner { snapshot, core: Arc::clone(core), covered: None, roots: RootList::default() };
        Self { pages: SnapshotPages(Arc::new(inner)) }
    }

    /// Of one family whose number is known; the names are covered as always.
    pub(crate) fn of_owner(core: &Arc<Core>, owner: Owner) -> Self {
        Self::new(core, Some(vec![owner]))
    }

    /// The newest commit it contains, and with it every earlier one.
    pub fn seq(&self) -> Seq {
        self.pages.0.snapshot.seq()
    }

    /// Whether it was taken of this family.
    pub fn covers(&self, family: &Family) -> bool {
        let inner = &self.pages.0;
        Arc::ptr_eq(family.db.core(), &inner.core) && inner.covers(family.shared.owner)
    }

    /// The value of a key. O(height); a small value is copied out, a large one is read whole.
    ///
    /// # Errors
    /// [`Error::NotInSnapshot`], [`Error::FamilyDropped`], [`Error::TableUnknown`] when the snapshot does not have the
    /// place; [`Error::Corrupt`] and [`Error::Io`] when it cannot be read. The same for every other reading call.
    pub fn get(&self, place: &impl Place, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.lift(self.tree(place)?.get(key.as_ref())).map(|value| value.map(Value::from))
    }

    /// Lends the value of a key to `read` without copying it, if there is one.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn get_with<R>(
        &self,
        place: &impl Place,
        key: impl AsRef<[u8]>,
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>> {
        self.lift(self.tree(place)?.get_with(key.as_ref(), read))
    }

    /// Whether the key is there. Touches no large value.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn contains(&self, place: &impl Place, key: impl AsRef<[u8]>) -> Result<bool> {
        self.lift(self.tree(place)?.contains(key.as_ref()))
    }

    /// The length of a key's value, in bytes. Touches no large value.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn value_len(&self, place: &impl Place, key: impl AsRef<[u8]>) -> Result<Option<u64>> {
        self.lift(self.tree(place)?.value_len(key.as_ref()))
    }

    /// Up to `len` bytes of a key's value from byte `offset` on, fewer at its end. Of a large value only the parts that are
    /// touched are read and verified, 64 KiB at a time.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn read_at(&self, place: &impl Place, key: impl AsRef<[u8]>, offset: u64, len: usize) -> Result<Option<Value>> {
        self.lift(self.tree(place)?.read_at(key.as_ref(), offset, len)).map(|value| value.map(Value::from))
    }

    /// The first entry.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn first(&self, place: &impl Place) -> Result<Option<(Value, Value)>> {
        self.lift(self.tree(place)?.first()).map(|entry| entry.map(|(key, value)| (key.into(), value.into())))
    }

    /// The last entry.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn last(&self, place: &impl Place) -> Result<Option<(Value, Value)>> {
        self.lift(self.tree(place)?.last()).map(|entry| entry.map(|(key, value)| (key.into(), value.into())))
    }

    /// How many entries there are. O(1), but for keys that were [put](crate::TableTxn::put) or
    /// [deleted](crate::TableTxn::delete) since the last checkpoint: whoever asks first looks for each.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn len(&self, place: &impl Place) -> Result<u64> {
        self.lift(self.tree(place)?.len())
    }

    /// Whether there is no entry; costs as much as [`len`](Self::len).
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn is_empty(&self, place: &impl Place) -> Result<bool> {
        self.lift(self.tree(place)?.is_empty())
    }

    /// How many entries lie in a range: exact, in O(height).
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn count(&self, place: &impl Place, range: impl KeyRange) -> Result<u64> {
        self.lift(self.tree(place)?.count(&bounds_of(&range)))
    }

    /// The entries of a range, in order from either end. The iterator owns what it needs; what goes wrong is its
    /// first item.
    pub fn range(&self, place: &impl Place, range: impl KeyRange) -> Range<'static> {
        let root = self.root(place);
        let at = (place.as_family().shared.owner, TableId(place.table_id()));
        Range::of_snapshot(self.pages.clone(), at, root, bounds_of(&range))
    }

    /// The entries whose keys begin with `prefix`, in order from either end.
    pub fn prefix(&self, place: &impl Place, prefix: impl AsRef<[u8]>) -> Range<'static> {
        self.range(place, prefix_range(prefix.as_ref()))
    }

    /// The families it covers, by name.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::NamesDamaged`], [`Error::Io`].
    pub fn families(&self) -> Result<Vec<FamilyInfo>> {
        let covered = |found: &Result<(String, FamilyId)>| match found {
            Ok((_, id)) => self.pages.0.covers(id.owner),
            Err(_) => true,
        };
        let info = |found: Result<(String, FamilyId)>| {
            let (name, FamilyId { owner, .. }) = found?;
            Ok(FamilyInfo { name, owner: owner.0 })
        };
        self.names()?.families().filter(covered).map(info).collect()
    }

    /// A family's tables by name, without the default one.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn tables(&self, family: &Family) -> Result<Vec<TableInfo>> {
        self.family_exists(family)?;
        let info = |found: Result<(String, TableRecord)>| {
            let (name, record) = found?;
            Ok(TableInfo { name, id: record.table, types: record.types })
        };
        let named = |found: &Result<(String, TableRecord)>| !matches!(found, Ok((name, _)) if name.is_empty());
        self.names()?.tables(family.shared.owner).filter(named).map(info).collect()
    }

    /// A table of a family as it was called at the snapshot; the handle is that of any other time.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn open_table(&self, family: &Family, name: &str) -> Result<Option<Table>> {
        let record = self.table_record(family, names::checked(name)?)?;
        Ok(record.map(|record| Table::new(family.clone(), TableId(record.table), name)))
    }

    // For this crate.

    pub(crate) fn core(&self) -> &Arc<Core> {
        self.pages.core()
    }

    pub(crate) fn file_snapshot(&self) -> &spinney_btree::Snapshot {
        &self.pages.0.snapshot
    }

    pub(crate) fn pages(&self) -> &SnapshotPages {
        &self.pages
    }

    pub(crate) fn family_named(&self, name: &str) -> Result<Option<FamilyId>> {
        self.names()?.family_named(name)
    }

    pub(crate) fn dropped_owners(&self) -> Result<Vec<Owner>> {
        self.names()?.dropped().collect()
    }

    /// The record of a table; an empty name means the default table, which has one only when it is typed.
    pub(crate) fn table_record(&self, family: &Family, name: &str) -> Result<Option<TableRecord>> {
        self.family_exists(family)?;
        self.names()?.table(family.shared.owner, name)
    }

    pub(crate) fn names(&self) -> Result<Names<'_, SnapshotPages>> {
        let root = match self.pages.0.roots.find(NAMES_ID, TableId::DEFAULT) {
            Some(root) => root,
            None => {
                let root = self.family_root(NAMES)?.default;
                self.pages.0.roots.add(NAMES_ID, TableId::DEFAULT, root);
                root
            }
        };
        Ok(Names { core: self.core(), pages: self.pages.clone(), root })
    }

    pub(crate) fn family_root(&self, owner: Owner) -> Result<FamilyRoot> {
        let stored = self.lift(self.pages.0.snapshot.root(owner))?;
        stored.map_or(Ok(FamilyRoot::EMPTY), |stored| self.lift(FamilyRoot::decode(owner, &stored)))
    }

    fn tree(&self, place: &impl Place) -> Result<Tree<'_, SnapshotPages>> {
        let root = self.root(place)?;
        Ok(Tree::new(&self.pages, place.as_family().shared.owner, TableId(place.table_id()), root))
    }

    /// Where a table that is not the default one begins.
    pub(crate) fn table_root(&self, owner: Owner, roots: &FamilyRoot, table: u32) -> Result<Option<TreeRoot>> {
        let directory = Tree::new(&self.pages, owner, TableId::DIRECTORY, roots.tables);
        let Some(bytes) = self.lift(directory.get(&table.to_be_bytes()))? else { return Ok(None) };
        self.lift(TreeRoot::decode(&bytes).map_err(|why| TreeError::BadRoot { owner, why })).map(Some)
    }

    /// Whether something in a family waits to be freed: graves come behind all tables in its directory.
    pub(crate) fn has_graves(&self, owner: Owner) -> Result<bool> {
        let directory = self.family_root(owner)?.tables;
        let last = self.lift(Tree::new(&self.pages, owner, TableId::DIRECTORY, directory).last())?;
        Ok(last.is_some_and(|(key, _)| key.len() > size_of::<u32>()))
    }

    /// Where a table begins in this snapshot.
    pub(crate) fn root(&self, place: &impl Place) -> Result<TreeRoot> {
        let (family, table) = (place.as_family(), TableId(place.table_id()));
        let owner = family.shared.owner;
        self.is_of(family)?;
        if let Some(root) = self.pages.0.roots.find(family.shared.id(), table) {
            return Ok(root);
        }
        let roots = self.family_root(owner)?;
        let root = if table.0 == DEFAULT_TABLE {
            // An empty family and one that does not exist have the same root, and an owner used again may have had
            // another family at the snapshot.
            if roots.default.is_empty() || family.shared.generation > 0 {
                self.family_exists(family)?;
            }
            roots.default
        } else {
            match self.table_root(owner, &roots, table.0)? {
                Some(root) => root,
                None => {
                    self.family_exists(family)?;
                    return Err(family.no_table(place.table_name()));
                }
            }
        };
        self.pages.0.roots.add(family.shared.id(), table, root);
        Ok(root)
    }

    /// Refuses families of other databases and those the snapshot was not taken of.
    fn is_of(&self, family: &Family) -> Result<()> {
        let inner = &self.pages.0;
        if !Arc::ptr_eq(family.db.core(), &inner.core) {
            return Err(Error::OtherDatabase { family: family.name().to_string() });
        }
        if inner.covers(family.shared.owner) {
            return Ok(());
        }
        Err(Error::NotInSnapshot { family: family.name().to_string() })
    }

    fn family_exists(&self, family: &Family) -> Result<()> {
        self.is_of(family)?;
        let name = self.names()?.name_of(family.shared.id())?;
        name.map(drop).ok_or_else(|| family.shared.gone())
    }

    fn lift<T>(&self, result: Result<T, impl Into<TreeError>>) -> Result<T> {
        result.map_err(|error| self.core().lift(error.into()))
    }
}

impl Inner {
    fn covers(&self, owner: Owner) -> bool {
        self.covered.as_ref().is_none_or(|owners| owners.binary_search(&owner).is_ok())
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("seq", &self.seq()).field("covered", &self.pages.0.covered).finish()
    }
}
