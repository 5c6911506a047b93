//! One table inside a write transaction.

use crate::{
    error::{Error, Result},
    key_range::{KeyRange, prefix_range},
    range::{Range, bounds_of},
    transaction::WriteTransaction,
    value::Value,
};
use spinney_btree::{Part, Tree, TreeError, TreeMut};
use std::{fmt, io::Read};

/// One table as a write transaction sees and changes it. Borrows the transaction: make one wherever it is needed.
pub struct TableTxn<'t> {
    pub(crate) txn: &'t mut WriteTransaction,
    /// Place of the family among the transaction's members.
    pub(crate) member: usize,
    /// Place of the table among those the member knows.
    pub(crate) table: usize,
}

impl<'t> TableTxn<'t> {
    /// Adds or replaces an entry; whether it replaced one. O(height).
    ///
    /// # Errors
    /// [`Error::KeyTooLong`], [`Error::ValueTooLarge`]: nothing was changed. After any other error
    /// the transaction is broken and can only be dropped: [`Error::Full`], [`Error::Corrupt`], [`Error::Io`].
    pub fn insert(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<bool> {
        self.change(|tree| tree.insert(key.as_ref(), value.as_ref()))
    }

    /// Adds or replaces an entry without telling which: while the transaction is small, no page is read for it.
    ///
    /// # Errors
    /// Those of [`insert`](Self::insert).
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.change(|tree| tree.put(key.as_ref(), value.as_ref()))
    }

    /// Like [`insert`](Self::insert), with `value_bytes` bytes taken from a reader: a large value is never in memory as a
    /// whole.
    ///
    /// # Errors
    /// [`Error::ValueSource`] when the reader fails or ends early, and those of [`insert`](Self::insert).
    pub fn insert_reader(&mut self, key: impl AsRef<[u8]>, value_bytes: u64, mut value: impl Read) -> Result<bool> {
        self.change(|tree| tree.insert_reader(key.as_ref(), value_bytes, &mut value))
    }

    /// Removes an entry; whether there was one. O(height).
    ///
    /// # Errors
    /// Those of [`insert`](Self::insert).
    pub fn remove(&mut self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.change(|tree| tree.remove(key.as_ref()))
    }

    /// Removes an entry, if there is one, without telling: while the transaction is small, no page is read for it.
    ///
    /// # Errors
    /// Those of [`insert`](Self::insert).
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> Result<()> {
        self.change(|tree| tree.delete(key.as_ref()))
    }

    /// Removes the entries of a range, and says how many. O(height), whatever the range covers: whole subtrees are freed in
    /// the background.
    ///
    /// # Errors
    /// Those of [`insert`](Self::insert).
    pub fn remove_range(&mut self, range: impl KeyRange) -> Result<u64> {
        self.txn.members[self.member].has_graves = true;
        self.change(|tree| tree.remove_range(&bounds_of(&range)))
    }

    /// Removes everything, and says how many entries that were. O(1).
    ///
    /// # Errors
    /// Those of [`insert`](Self::insert).
    pub fn clear(&mut self) -> Result<u64> {
        self.txn.members[self.member].has_graves = true;
        self.change(|tree| tree.clear())
    }

    /// Appends entries in strictly ascending order that all come behind the last key, into full pages; says how many.
    ///
    /// # Errors
    /// [`Error::NotSorted`], and those of [`insert`](Self::insert). After any of them the transaction is broken.
    pub fn bulk_load<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Result<u64> {
        let loaded = self.change(|tree| tree.bulk_load(entries));
        // Entries before the refused one are in the tree, also when it was only too long.
        self.txn.is_broken |= loaded.is_err();
        loaded
    }

    /// The value of a key. O(height); a small value is copied out, a large one is read whole.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Io`], [`Error::TransactionBroken`]. The same for every other reading call.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.lift(self.tree()?.get(key.as_ref())).map(|value| value.map(Value::from))
    }

    /// Lends the value of a key to `read` without copying it, if there is one.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn get_with<R>(&self, key: impl AsRef<[u8]>, read: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        self.lift(self.tree()?.get_with(key.as_ref(), read))
    }

    /// Whether the key is there. Touches no large value.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.lift(self.tree()?.contains(key.as_ref()))
    }

    /// The length of a key's value, in bytes. Touches no large value.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn value_len(&self, key: impl AsRef<[u8]>) -> Result<Option<u64>> {
        self.lift(self.tree()?.value_len(key.as_ref()))
    }

    /// Up to `len` bytes of a key's value from byte `offset` on; see [`Snapshot::read_at`](crate::Snapshot::read_at).
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn read_at(&self, key: impl AsRef<[u8]>, offset: u64, len: usize) -> Result<Option<Value>> {
        self.lift(self.tree()?.read_at(key.as_ref(), offset, len)).map(|value| value.map(Value::from))
    }

    /// The first entry.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn first(&self) -> Result<Option<(Value, Value)>> {
        self.lift(self.tree()?.first()).map(|entry| entry.map(|(key, value)| (key.into(), value.into())))
    }

    /// The last entry.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn last(&self) -> Result<Option<(Value, Value)>> {
        self.lift(self.tree()?.last()).map(|entry| entry.map(|(key, value)| (key.into(), value.into())))
    }

    /// How many entries there are. O(1), but for keys that were [put](Self::put) or [deleted](Self::delete) since the last
    /// checkpoint: whoever asks first looks for each.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn len(&self) -> Result<u64> {
        self.lift(self.tree()?.len())
    }

    /// Whether there is no entry; costs as much as [`len`](Self::len).
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn is_empty(&self) -> Result<bool> {
        self.lift(self.tree()?.is_empty())
    }

    /// How many entries lie in a range: exact, in O(height).
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn count(&self, range: impl KeyRange) -> Result<u64> {
        self.lift(self.tree()?.count(&bounds_of(&range)))
    }

    /// The entries of a range, in order from either end. What goes wrong is the first item.
    pub fn range(&self, range: impl KeyRange) -> Range<'_> {
        self.txn.range_at((self.member, self.table), &range)
    }

    /// The entries whose keys begin with `prefix`, in order from either end.
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Range<'_> {
        self.range(prefix_range(prefix.as_ref()))
    }

    fn tree(&self) -> Result<Tree<'_, Part>> {
        self.txn.tree_at((self.member, self.table))
    }

    /// Runs a change. Whatever ends it half-way, an error or a panic, leaves the transaction broken.
    fn change<R>(&mut self, change: impl FnOnce(&mut TreeMut<'_>) -> Result<R, TreeError>) -> Result<R> {
        if self.txn.is_broken {
            return Err(Error::TransactionBroken);
        }
        self.txn.is_broken = true;
        let table = self.table;
        let (member, part) = self.txn.parts(self.member);
        let id = member.tables[table].0;
        let outcome = member.tree.family(part).table(id).and_then(|mut tree| change(&mut tree));
        // Also after an error: what was refused may have entered the pages before.
        let reloaded = if member.tree.is_broken() { Ok(()) } else { member.reload(part) };
        match (outcome, reloaded) {
            (Ok(done), Ok(())) => {
                self.txn.is_broken = false;
                Ok(done)
            }
            (Err(error), reloaded) => {
                self.txn.is_broken = !Error::is_bad_input(&error) || reloaded.is_err();
                self.lift(Err(error))
            }
            (Ok(_), Err(error)) => self.lift(Err(error)),
        }
    }

    fn lift<T>(&self, result: Result<T, TreeError>) -> Result<T> {
        self.txn.lift(result)
    }
}

impl fmt::Debug for TableTxn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let member = &self.txn.members[self.member];
        f.debug_struct("TableTxn")
            .field("family", &member.shared.name())
            .field("table", &member.tables[self.table].0)
            .finish()
    }
}
