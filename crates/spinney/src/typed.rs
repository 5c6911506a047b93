//! Tables whose keys and values have types.

use crate::{
    codec::{DecodeError, KeyType, ValueType},
    error::{Error, Result},
    family::{Family, Place, Table},
    names::TypeIdentity,
    range::{self, Range},
    snapshot::Snapshot,
    table_txn::TableTxn,
    transaction::WriteTransaction,
};
use std::{
    borrow::Borrow,
    fmt,
    marker::PhantomData,
    ops::{self, Bound},
};

/// What a table of these types stores of them.
pub(crate) fn identity_of<K: KeyType, V: ValueType>() -> TypeIdentity {
    TypeIdentity { key: K::type_name(), value: V::type_name() }
}

/// A handle of a table whose keys are `K` and whose values are `V`, in the order of `K`. Cheap to clone.
///
/// ```
/// # fn main() -> spinney::Result<()> {
/// let db = spinney::Database::in_memory()?;
/// let users = db.family("users")?.typed::<u64, String>()?;
/// let mut txn = users.begin()?;
/// txn.typed(&users)?.insert(7, "Ada")?;
/// txn.commit()?;
/// assert_eq!(db.snapshot().typed(&users).get(7)?.as_deref(), Some("Ada"));
/// # Ok(()) }
/// ```
pub struct TypedTable<K, V> {
    table: Table,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> TypedTable<K, V> {
    pub(crate) fn new(table: Table) -> Self {
        Self { table, types: PhantomData }
    }

    /// The table without types: its keys and values as bytes.
    pub fn untyped(&self) -> &Table {
        &self.table
    }

    /// The family it belongs to.
    pub fn family(&self) -> &Family {
        self.table.family()
    }

    /// Begins a write transaction of the table's family; see [`Database::begin`](crate::Database::begin).
    ///
    /// # Errors
    /// Those of [`Database::begin`](crate::Database::begin).
    pub fn begin(&self) -> Result<WriteTransaction> {
        self.table.begin()
    }

    fn decode_error(&self, source: DecodeError) -> Error {
        let family = self.family().name().to_string();
        Error::Decode { family, table: self.table.name().to_owned(), source }
    }
}

impl<K: KeyType, V: ValueType> TypedTable<K, V> {
    fn value(&self, bytes: Option<crate::Value>) -> Result<Option<V>> {
        bytes.map(|bytes| V::decode(&bytes).map_err(|source| self.decode_error(source))).transpose()
    }

    fn entry(&self, (key, value): (crate::Value, crate::Value)) -> Result<(K, V)> {
        let entry = K::decode(&key).and_then(|key| Ok((key, V::decode(&value)?)));
        entry.map_err(|source| self.decode_error(source))
    }
}

impl<K, V> Clone for TypedTable<K, V> {
    fn clone(&self) -> Self {
        Self::new(self.table.clone())
    }
}

impl<K, V> fmt::Debug for TypedTable<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table.fmt(f)
    }
}

impl<K, V> Place for TypedTable<K, V> {
    fn as_family(&self) -> &Family {
        self.table.family()
    }

    fn table_name(&self) -> &str {
        self.table.name()
    }

    fn table_id(&self) -> u32 {
        self.table.table_id()
    }
}

impl WriteTransaction {
    /// A typed table of one of the families, to read and change.
    ///
    /// # Errors
    /// Those of [`table`](Self::table).
    pub fn typed<'t, K, V>(&'t mut self, table: &'t TypedTable<K, V>) -> Result<TypedTxn<'t, K, V>> {
        Ok(TypedTxn { inner: self.table(table)?, table })
    }
}

impl Snapshot {
    /// A typed table as the snapshot sees it.
    pub fn typed<'s, K, V>(&'s self, table: &'s TypedTable<K, V>) -> TypedView<'s, K, V> {
        TypedView { snapshot: self, table }
    }
}

/// A typed table inside a write transaction.
#[derive(Debug)]
pub struct TypedTxn<'t, K, V> {
    inner: TableTxn<'t>,
    table: &'t TypedTable<K, V>,
}

impl<K: KeyType, V: ValueType> TypedTxn<'_, K, V> {
    /// Adds or replaces an entry; whether it replaced one.
    ///
    /// # Errors
    /// Those of [`TableTxn::insert`].
    pub fn insert(&mut self, key: impl Borrow<K::Ref>, value: impl Borrow<V::Ref>) -> Result<bool> {
        let mut bytes = Vec::new();
        V::encode(value.borrow(), &mut bytes);
        self.inner.insert(encoded::<K>(key.borrow()), bytes)
    }

    /// Adds or replaces an entry without telling which; see [`TableTxn::put`].
    ///
    /// # Errors
    /// Those of [`TableTxn::put`].
    pub fn put(&mut self, key: impl Borrow<K::Ref>, value: impl Borrow<V::Ref>) -> Result<()> {
        let mut bytes = Vec::new();
        V::encode(value.borrow(), &mut bytes);
        self.inner.put(encoded::<K>(key.borrow()), bytes)
    }

    /// Removes an entry, if there is one, without telling; see [`TableTxn::delete`].
    ///
    /// # Errors
    /// Those of [`TableTxn::delete`].
    pub fn delete(&mut self, key: impl Borrow<K::Ref>) -> Result<()> {
        self.inner.delete(encoded::<K>(key.borrow()))
    }

    /// Removes an entry; whether there was one.
    ///
    /// # Errors
    /// Those of [`TableTxn::remove`].
    pub fn remove(&mut self, key: impl Borrow<K::Ref>) -> Result<bool> {
        self.inner.remove(encoded::<K>(key.borrow()))
    }

    /// Removes the entries of a range, and says how many.
    ///
    /// # Errors
    /// Those of [`TableTxn::remove_range`].
    pub fn remove_range(&mut self, range: impl TypedKeyRange<K>) -> Result<u64> {
        self.inner.remove_range(range.bytes())
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`Error::Decode`], and those of [`TableTxn::get`].
    pub fn get(&self, key: impl Borrow<K::Ref>) -> Result<Option<V>> {
        self.table.value(self.inner.get(encoded::<K>(key.borrow()))?)
    }

    /// Whether the key is there.
    ///
    /// # Errors
    /// Those of [`TableTxn::get`].
    pub fn contains(&self, key: impl Borrow<K::Ref>) -> Result<bool> {
        self.inner.contains(encoded::<K>(key.borrow()))
    }

    /// The first entry.
    ///
    /// # Errors
    /// [`Error::Decode`], and those of [`TableTxn::get`].
    pub fn first(&self) -> Result<Option<(K, V)>> {
        self.inner.first()?.map(|entry| self.table.entry(entry)).transpose()
    }

    /// The last entry.
    ///
    /// # Errors
    /// [`Error::Decode`], and those of [`TableTxn::get`].
    pub fn last(&self) -> Result<Option<(K, V)>> {
        self.inner.last()?.map(|entry| self.table.entry(entry)).transpose()
    }

    /// How many entries there are; see [`TableTxn::len`].
    ///
    /// # Errors
    /// Those of [`TableTxn::len`].
    pub fn len(&self) -> Result<u64> {
        self.inner.len()
    }

    /// Whether there is no entry; see [`TableTxn::is_empty`].
    ///
    /// # Errors
    /// Those of [`TableTxn::len`].
    pub fn is_empty(&self) -> Result<bool> {
        self.inner.is_empty()
    }

    /// The entries of a range, in order from either end.
    pub fn range(&self, range: impl TypedKeyRange<K>) -> TypedRange<'_, K, V> {
        TypedRange { inner: self.inner.range(range.bytes()), table: self.table.clone() }
    }
}

/// A typed table in a snapshot.
#[derive(Debug)]
pub struct TypedView<'s, K, V> {
    snapshot: &'s Snapshot,
    table: &'s TypedTable<K, V>,
}

impl<K: KeyType, V: ValueType> TypedView<'_, K, V> {
    /// The value of a key.
    ///
    /// # Errors
    /// [`Error::Decode`], and those of [`Snapshot::get`].
    pub fn get(&self, key: impl Borrow<K::Ref>) -> Result<Option<V>> {
        self.table.value(self.snapshot.get(self.table, encoded::<K>(key.borrow()))?)
    }

    /// Whether the key is there.
    ///
    /// # Errors
    /// Those of [`Snapshot::get`].
    pub fn contains(&self, key: impl Borrow<K::Ref>) -> Result<bool> {
        self.snapshot.contains(self.table, encoded::<K>(key.borrow()))
    }

    /// The first entry.
    ///
    /// # Errors
    /// [`Error::Decode`], and those of [`Snapshot::get`].
    pub fn first(&self) -> Result<Option<(K, V)>> {
        self.snapshot.first(self.table)?.map(|entry| self.table.entry(entry)).transpose()
    }

    /// The last entry.
    ///
    /// # Errors
    /// [`Error::Decode`], and those of [`Snapshot::get`].
    pub fn last(&self) -> Result<Option<(K, V)>> {
        self.snapshot.last(self.table)?.map(|entry| self.table.entry(entry)).transpose()
    }

    /// How many entries there are. O(1).
    ///
    /// # Errors
    /// Those of [`Snapshot::get`].
    pub fn len(&self) -> Result<u64> {
        self.snapshot.len(self.table)
    }

    /// Whether there is no entry. O(1).
    ///
    /// # Errors
    /// Those of [`Snapshot::get`].
    pub fn is_empty(&self) -> Result<bool> {
        self.snapshot.is_empty(self.table)
    }

    /// How many entries lie in a range: exact, in O(height).
    ///
    /// # Errors
    /// Those of [`Snapshot::get`].
    pub fn count(&self, range: impl TypedKeyRange<K>) -> Result<u64> {
        self.snapshot.count(self.table, range.bytes())
    }

    /// The entries of a range, in order from either end. The iterator owns what it needs.
    pub fn range(&self, range: impl TypedKeyRange<K>) -> TypedRange<'static, K, V> {
        TypedRange { inner: self.snapshot.range(self.table, range.bytes()), table: self.table.clone() }
    }
}

/// The entries of a range of a typed table, from either end. After an error it ends.
#[derive(Debug)]
pub struct TypedRange<'a, K, V> {
    inner: Range<'a>,
    table: TypedTable<K, V>,
}

impl<K: KeyType, V: ValueType> TypedRange<'_, K, V> {
    fn decode(&mut self, entry: range::Entry) -> Result<(K, V)> {
        let entry = entry.and_then(|entry| self.table.entry(entry));
        if entry.is_err() {
            self.inner.end();
        }
        entry
    }
}

impl<K: KeyType, V: ValueType> Iterator for TypedRange<'_, K, V> {
    type Item = Result<(K, V)>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.inner.next()?;
        Some(self.decode(entry))
    }
}

impl<K: KeyType, V: ValueType> DoubleEndedIterator for TypedRange<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let entry = self.inner.next_back()?;
        Some(self.decode(entry))
    }
}

/// A range of typed keys: any range expression over the key type or what stands for it, `..` for all, or a pair
/// of [`Bound`]s.
pub trait TypedKeyRange<K: KeyType> {
    /// The range of encoded keys.
    fn bytes(&self) -> (Bound<Vec<u8>>, Bound<Vec<u8>>);
}

impl<K: KeyType> TypedKeyRange<K> for ops::RangeFull {
    fn bytes(&self) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
        (Bound::Unbounded, Bound::Unbounded)
    }
}

macro_rules! typed_ranges {
    ($($range:ty),*) => { $(
        impl<K: KeyType, Q: Borrow<K::Ref>> TypedKeyRange<K> for $range {
            fn bytes(&self) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
                let encode = |bound: Bound<&Q>| bound.map(|key| encoded::<K>(key.borrow()));
                (encode(ops::RangeBounds::start_bound(self)), encode(ops::RangeBounds::end_bound(self)))
            }
        }
    )* };
}
typed_ranges!(
    ops::Range<Q>,
    ops::RangeFrom<Q>,
    ops::RangeTo<Q>,
    ops::RangeInclusive<Q>,
    ops::RangeToInclusive<Q>,
    (Bound<Q>, Bound<Q>)
);

fn encoded<K: KeyType>(key: &K::Ref) -> Vec<u8> {
    let mut bytes = Vec::new();
    K::encode(key, &mut bytes);
    bytes
}
