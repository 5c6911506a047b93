//! Handles: a family, a table, and what they share.

use crate::{
    codec::{KeyType, ValueType},
    database::Database,
    error::{Error, Result},
    names::{self, DEFAULT_TABLE, FamilyId, TypeIdentity},
    transaction::WriteTransaction,
    typed::{TypedTable, identity_of},
};
use parking_lot::{Mutex, RwLock};
use spinney_btree::{Owner, TableId, Wait};
use std::{fmt, sync::Arc, thread::Thread, time::Duration};

/// A family's fate, as handles need to know it. Whether it exists *in a snapshot* is for that snapshot to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It exists, or a transaction that creates it is open.
    Alive,
    /// It was dropped, or never came to be.
    Gone,
}

/// What all handles of one family share. There is one per owner and process, kept by the registry of the database,
/// so that a drop or rename is seen through every handle.
#[derive(Debug)]
pub(crate) struct FamilyShared {
    pub(crate) owner: Owner,
    /// How many families had this owner before.
    pub(crate) generation: u32,
    /// The newest committed name, for messages and `name()`.
    name: RwLock<Arc<str>>,
    /// Held by a commit that drops the family until its outcome is known: the slot is released earlier, at the append.
    pub(crate) fate: Mutex<Fate>,
    /// Who began the newest write transaction, for the error of those who wait for it in vain.
    holder: Mutex<Option<Thread>>,
    /// Held while the background frees pages of the family: it is not a writer anybody should fail for.
    pub(crate) in_maintenance: Mutex<()>,
    /// Whether somebody has looked for pages that wait to be freed since the database was opened.
    pub(crate) graves_looked_for: std::sync::atomic::AtomicBool,
}

impl FamilyShared {
    pub(crate) fn new(id: FamilyId, name: &str) -> Self {
        Self {
            owner: id.owner,
            generation: id.generation,
            name: RwLock::new(name.into()),
            fate: Mutex::new(Fate::Alive),
            holder: Mutex::new(None),
            in_maintenance: Mutex::new(()),
            graves_looked_for: std::sync::atomic::AtomicBool::new(false),
        }
    }

    pub(crate) fn id(&self) -> FamilyId {
        FamilyId { owner: self.owner, generation: self.generation }
    }

    pub(crate) fn name(&self) -> Arc<str> {
        self.name.read().clone()
    }

    pub(crate) fn set_name(&self, name: &str) {
        *self.name.write() = name.into();
    }

    /// The caller has got the writer slot.
    pub(crate) fn set_holder(&self) {
        *self.holder.lock() = Some(std::thread::current());
    }

    pub(crate) fn holder(&self) -> String {
        match &*self.holder.lock() {
            Some(thread) => match thread.name() {
                Some(name) => format!("thread `{name}`"),
                None => format!("{:?}", thread.id()),
            },
            None => "somebody".to_owned(),
        }
    }

    /// Refuses a family that is gone. Waits for a commit that is dropping it.
    pub(crate) fn alive(&self) -> Result<()> {
        match *self.fate.lock() {
            Fate::Alive => Ok(()),
            Fate::Gone => Err(self.gone()),
        }
    }

    pub(crate) fn gone(&self) -> Error {
        Error::FamilyDropped { family: self.name().to_string() }
    }
}

/// A column family: a named set of tables with one writer at a time, independent of all other families' writers.
///
/// Cheap to clone, and keeps the database open. It stays valid when the family is renamed; once the family is
/// dropped, calls that need it return [`Error::FamilyDropped`].
///
/// A family also stands for its default table wherever a table is asked for.
#[derive(Clone)]
pub struct Family {
    pub(crate) db: Database,
    pub(crate) shared: Arc<FamilyShared>,
}

impl Family {
    /// Its newest name.
    pub fn name(&self) -> Arc<str> {
        self.shared.name()
    }

    /// The database it belongs to.
    pub fn database(&self) -> &Database {
        &self.db
    }

    /// Begins a write transaction of this family; see [`Database::begin`].
    ///
    /// # Errors
    /// Those of [`Database::begin`].
    pub fn begin(&self) -> Result<WriteTransaction> {
        self.db.begin([self])
    }

    /// Begins a write transaction if nobody else writes the family.
    ///
    /// # Errors
    /// [`Error::Busy`] at once when somebody does, and those of [`Database::begin`].
    pub fn try_begin(&self) -> Result<WriteTransaction> {
        self.db.try_begin([self])
    }

    /// Begins a write transaction, waiting at most so long for other writers of the family.
    ///
    /// # Errors
    /// [`Error::Busy`] after that time, and those of [`Database::begin`].
    pub fn begin_timeout(&self, timeout: Duration) -> Result<WriteTransaction> {
        self.db.begin_timeout([self], timeout)
    }

    /// The table every family has, as a handle of its own.
    pub fn default_table(&self) -> Table {
        Table::new(self.clone(), TableId(DEFAULT_TABLE), "")
    }

    /// A table of the family; creates it when it is missing, durably and in a transaction of its own.
    ///
    /// # Errors
    /// [`Error::NameEmpty`], [`Error::NameTooLong`], [`Error::FamilyDropped`], and those of a commit.
    pub fn table(&self, name: &str) -> Result<Table> {
        self.table_of_types(names::checked(name)?, None)
    }

    /// A table of the family if there is one.
    ///
    /// # Errors
    /// [`Error::NameEmpty`], [`Error::NameTooLong`], [`Error::FamilyDropped`], and those of reading.
    pub fn open_table(&self, name: &str) -> Result<Option<Table>> {
        self.db.snapshot().open_table(self, name)
    }

    /// The default table with typed keys and values. The types are stored when it is first opened so, which it must be
    /// while it is empty, and compared from then on.
    ///
    /// # Errors
    /// [`Error::TypeMismatch`], [`Error::FamilyDropped`], and those of a commit.
    pub fn typed<K: KeyType, V: ValueType>(&self) -> Result<TypedTable<K, V>> {
        self.table_of_types("", Some(identity_of::<K, V>())).map(TypedTable::new)
    }

    /// A table with typed keys and values; creates it when it is missing. The types are stored with a new or
    /// empty table and compared from then on.
    ///
    /// # Errors
    /// [`Error::TypeMismatch`], and those of [`table`](Self::table).
    pub fn typed_table<K: KeyType, V: ValueType>(&self, name: &str) -> Result<TypedTable<K, V>> {
        self.table_of_types(names::checked(name)?, Some(identity_of::<K, V>())).map(TypedTable::new)
    }

    /// Drops a table, durably and in a transaction of its own. `false` when there was none.
    ///
    /// # Errors
    /// Those of [`open_table`](Self::open_table), [`begin`](Self::begin) and a commit.
    pub fn drop_table(&self, name: &str) -> Result<bool> {
        names::checked(name)?;
        let mut txn = self.begin()?;
        let Some(table) = txn.open_table(self, name)? else { return Ok(false) };
        txn.drop_table(&table)?;
        txn.commit()?;
        Ok(true)
    }

    /// Renames a table, durably and in a transaction of its own. Handles stay valid.
    ///
    /// # Errors
    /// [`Error::TableUnknown`], [`Error::TableExists`], and those of [`begin`](Self::begin) and a commit.
    pub fn rename_table(&self, name: &str, new_name: &str) -> Result<()> {
        names::checked(name)?;
        let mut txn = self.begin()?;
        let table = txn.open_table(self, name)?;
        let table = table.ok_or_else(|| self.no_table(name))?;
        txn.rename_table(&table, new_name)?;
        txn.commit().map(drop)
    }

    /// The family's tables by name, without the default one.
    ///
    /// # Errors
    /// [`Error::FamilyDropped`], and those of reading.
    pub fn tables(&self) -> Result<Vec<TableInfo>> {
        self.db.snapshot().tables(self)
    }

    pub(crate) fn no_table(&self, table: &str) -> Error {
        Error::TableUnknown { family: self.name().to_string(), table: table.to_owned() }
    }

    /// Opens or creates a table; `types` are compared with, or stored in, its record.
    fn table_of_types(&self, name: &str, types: Option<TypeIdentity>) -> Result<Table> {
        let snapshot = self.db.snapshot();
        if let Some(record) = snapshot.table_record(self, name)? {
            if types.is_none() || record.types == types {
                return Ok(Table::new(self.clone(), TableId(record.table), name));
            }
            if let Some(stored) = record.types {
                return Err(mismatch(self, name, &stored, types.as_ref()));
            }
        } else if types.is_none() && name.is_empty() {
            return Ok(self.default_table());
        }
        let mut txn = self.db.begin_waiting([self], Wait::For(self.db.begin_timeout_default()))?;
        let table = txn.table_of_types(self, name, types)?;
        txn.commit()?;
        Ok(table)
    }
}

/// The error of a table that holds other types than it was opened with.
pub(crate) fn mismatch(family: &Family, table: &str, stored: &TypeIdentity, asked: Option<&TypeIdentity>) -> Error {
    let words = |types: &TypeIdentity| format!("{} -> {}", types.key, types.value);
    Error::TypeMismatch {
        family: family.name().to_string(),
        table: table.to_owned(),
        stored: words(stored),
        asked: asked.map_or_else(|| "untyped bytes".to_owned(), words),
    }
}

impl PartialEq for Family {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Eq for Family {}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Family").field("name", &self.name()).field("owner", &self.shared.owner.0).finish()
    }
}

/// What is known of a family without reading its data.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FamilyInfo {
    /// Its name.
    pub name: String,
    /// What it is called below the facade, and in page dumps. May be given to another family once it is dropped.
    pub owner: u32,
}

/// What is known of a table without reading its data.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableInfo {
    /// Its name.
    pub name: String,
    /// Its number inside the file, as in page dumps. Never used again once the table is dropped.
    pub id: u32,
    /// What its keys and values are, if it is typed.
    pub types: Option<TypeIdentity>,
}

/// A named tree inside a family. Cheap to clone, and keeps the database open. It stays valid when table or family are
/// renamed; once dropped, calls that need it return [`Error::TableUnknown`].
#[derive(Clone)]
pub struct Table {
    family: Family,
    id: TableId,
    /// When the handle was made; the table may have been renamed since.
    name: Arc<str>,
}

impl Table {
    pub(crate) fn new(family: Family, id: TableId, name: &str) -> Self {
        Self { family, id, name: name.into() }
    }

    /// The family it belongs to.
    pub fn family(&self) -> &Family {
        &self.family
    }

    /// Its name when the handle was made; empty for a default table.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Begins a write transaction of the table's family; see [`Database::begin`].
    ///
    /// # Errors
    /// Those of [`Database::begin`].
    pub fn begin(&self) -> Result<WriteTransaction> {
        self.family.begin()
    }
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.family == other.family && self.id == other.id
    }
}

impl Eq for Table {}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("family", &self.family).field("name", &self.name).field("id", &self.id.0).finish()
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Family {}
    impl Sealed for super::Table {}
    impl<K, V> Sealed for crate::TypedTable<K, V> {}
}

/// Where entries are: a [`Table`], a [`TypedTable`], or a [`Family`], which stands for its default table.
pub trait Place: sealed::Sealed {
    /// The family.
    fn as_family(&self) -> &Family;
    /// The table's name when the handle was made; empty for the default table.
    fn table_name(&self) -> &str;
    /// The table's number inside the file.
    fn table_id(&self) -> u32;
}

impl Place for Family {
    fn as_family(&self) -> &Family {
        self
    }

    fn table_name(&self) -> &str {
        ""
    }

    fn table_id(&self) -> u32 {
        DEFAULT_TABLE
    }
}

impl Place for Table {
    fn as_family(&self) -> &Family {
        &self.family
    }

    fn table_name(&self) -> &str {
        &self.name
    }

    fn table_id(&self) -> u32 {
        self.id.0
    }
}
