//! One family inside a write transaction: its tables, and the roots that become its tip.

use crate::{
    error::TreeError,
    range::{Borrowed, Bounds, Range},
    root::{FamilyRoot, TableId, TreeRoot},
};
use bytes::Bytes;
use spinney_file::Part;
use std::io::Read;

/// What a write transaction keeps per family between operations: the roots of the tables it has touched, and what it
/// dropped. Lives as long as the transaction; [`FamilyTxn::store`] hands everything to the [`Part`].
#[derive(Debug)]
pub struct FamilyTxn {
    root: FamilyRoot,
}

impl FamilyTxn {
    /// Begins where the part's descriptor says.
    ///
    /// # Errors
    /// [`TreeError::BadRoot`].
    pub fn new(part: &Part) -> Result<Self, TreeError> {
        unimplemented!()
    }

    /// The family, for some operations.
    pub fn family<'a>(&'a mut self, part: &'a mut Part) -> FamilyMut<'a> {
        FamilyMut { part, txn: self }
    }

    /// Writes changed roots to the directory and the family's root to the part. Call it before the commit; calling it
    /// more often is legal.
    ///
    /// # Errors
    /// [`TreeError::Broken`] when an operation failed half-way: such a transaction must not be committed.
    pub fn store(&mut self, part: &mut Part) -> Result<(), TreeError> {
        unimplemented!()
    }
}

/// One family's tables, as its transaction sees and changes them.
pub struct FamilyMut<'a> {
    part: &'a mut Part,
    txn: &'a mut FamilyTxn,
}

impl FamilyMut<'_> {
    /// One table.
    ///
    /// # Errors
    /// [`TreeError::NoTable`].
    pub fn table(&mut self, id: TableId) -> Result<TreeMut<'_>, TreeError> {
        unimplemented!()
    }

    /// The root of a table as the transaction sees it; `None` when there is no such table.
    pub fn table_root(&mut self, id: TableId) -> Result<Option<TreeRoot>, TreeError> {
        unimplemented!()
    }

    /// The ids of all tables, the default table first. O(tables).
    pub fn tables(&mut self) -> Result<Vec<TableId>, TreeError> {
        unimplemented!()
    }

    /// Makes an empty table.
    ///
    /// # Errors
    /// [`TreeError::TableExists`].
    pub fn create_table(&mut self, id: TableId) -> Result<(), TreeError> {
        unimplemented!()
    }

    /// Removes a table in O(1): its pages go to the graveyard. The default table is emptied only. `false` when there
    /// was no such table.
    pub fn drop_table(&mut self, id: TableId) -> Result<bool, TreeError> {
        unimplemented!()
    }

    /// Sends everything the family has to the graveyard, in O(1).
    pub fn drop_all(&mut self) -> Result<(), TreeError> {
        unimplemented!()
    }

    /// Frees up to `budget_pages` pages of the graveyard and says how many; fewer only when the graveyard is empty.
    pub fn collect(&mut self, budget_pages: u64) -> Result<u64, TreeError> {
        unimplemented!()
    }

    /// Whether nothing waits to be freed.
    pub fn graveyard_is_empty(&mut self) -> Result<bool, TreeError> {
        unimplemented!()
    }
}

/// One table inside a write transaction.
pub struct TreeMut<'a> {
    part: &'a mut Part,
    root: &'a mut TreeRoot,
}

impl TreeMut<'_> {
    /// Entries. Costs nothing.
    pub fn len(&self) -> u64 {
        self.root.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    /// To read what the transaction sees: everything [`Tree`](crate::Tree) offers.
    pub fn read(&self) -> crate::Tree<'_, Part> {
        unimplemented!()
    }

    /// The value of a key, as the transaction sees it.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, TreeError> {
        self.read().get(key)
    }

    /// The entries of a range, as the transaction sees them.
    pub fn range(&self, bounds: Bounds) -> Range<Borrowed<'_, Part>> {
        unimplemented!()
    }

    /// Adds or replaces an entry; whether it replaced one. O(height).
    ///
    /// # Errors
    /// [`TreeError::KeyTooLong`], [`TreeError::ValueTooLarge`]: nothing was changed. After any other error the
    /// transaction is [`Broken`](TreeError::Broken).
    pub fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<bool, TreeError> {
        unimplemented!()
    }

    /// Like [`insert`](Self::insert), with `value_bytes` bytes taken from a reader: a large value is never in memory as a whole.
    pub fn insert_reader(&mut self, key: &[u8], value_bytes: u64, value: &mut dyn Read) -> Result<bool, TreeError> {
        unimplemented!()
    }

    /// Removes an entry; whether there was one. O(height).
    pub fn remove(&mut self, key: &[u8]) -> Result<bool, TreeError> {
        unimplemented!()
    }

    /// Removes the entries of a range and says how many. Whole subtrees go to the graveyard unread, so the cost is
    /// O(height), whatever the range covers.
    pub fn remove_range(&mut self, bounds: &Bounds) -> Result<u64, TreeError> {
        unimplemented!()
    }

    /// Removes everything in O(1) and says how many entries that were.
    pub fn clear(&mut self) -> Result<u64, TreeError> {
        unimplemented!()
    }

    /// Appends entries in strictly ascending order that all come after the tree's last key, into full pages; says how many.
    ///
    /// # Errors
    /// [`TreeError::Unsorted`].
    pub fn bulk_load<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Result<u64, TreeError> {
        unimplemented!()
    }
}
