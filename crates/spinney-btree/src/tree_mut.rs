//! One table inside a write transaction.

use crate::{
    bulk::{Appender, inline_field, large_record},
    edit::Edit,
    effects::{PIECE_BYTES_MAX, Point},
    error::TreeError,
    family::FamilyTxn,
    large_write,
    limits::Limits,
    range::{Borrowed, Bounds, Range},
    root::{TableId, TreeRoot},
    sweep::Sweep,
    tree::Tree,
};
use bytes::Bytes;
use spinney_file::{Pages, Part};
use std::{fmt, io::Read};

/// A removed range of at most so many entries is told one by one, without changing pages.
const SMALL_RANGE_ENTRIES: usize = 64;

/// One table inside a write transaction. After an error that says so nothing but dropping the transaction is possible;
/// other errors changed nothing.
///
/// As long as the transaction is small, what it does is kept beside the pages. It enters them, which is for good, with what is
/// larger: hundreds of KiB of changes, values of more than 64 KiB, [`bulk_load`](Self::bulk_load), a removed range of more than 64
/// entries, tables that come and go.
pub struct TreeMut<'a> {
    part: &'a mut Part,
    txn: &'a mut FamilyTxn,
    table: TableId,
}

impl fmt::Debug for TreeMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TreeMut").field("table", &self.table).field("root", &self.root()).finish()
    }
}

impl<'a> TreeMut<'a> {
    /// The table has been looked up in `txn`.
    pub(crate) fn new(part: &'a mut Part, txn: &'a mut FamilyTxn, table: TableId) -> Self {
        Self { part, txn, table }
    }

    /// Entries; see [`Tree::len`].
    ///
    /// # Errors
    /// As for [`Tree::len`].
    pub fn len(&self) -> Result<u64, TreeError> {
        self.read().len()
    }

    /// Whether there is no entry; see [`Tree::is_empty`].
    ///
    /// # Errors
    /// As for [`Tree::is_empty`].
    pub fn is_empty(&self) -> Result<bool, TreeError> {
        self.read().is_empty()
    }

    /// The root of the table's pages as it is now.
    pub fn root(&self) -> TreeRoot {
        self.txn.root_of(self.table).expect("looked up")
    }

    /// To read what the transaction sees: everything [`Tree`] offers.
    pub fn read(&self) -> Tree<'_, Part> {
        Tree::new(self.part, self.part.owner(), self.table, self.root())
    }

    /// The value of a key, as the transaction sees it.
    ///
    /// # Errors
    /// As for [`Tree::get`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, TreeError> {
        self.read().get(key)
    }

    /// The entries of a range, as the transaction sees them.
    pub fn range(&self, bounds: Bounds) -> Range<Borrowed<'_, Part>> {
        Range::new(Borrowed(self.part), self.part.owner(), self.table, self.root(), bounds)
    }

    /// Adds or replaces an entry; whether it replaced one. O(height).
    ///
    /// # Errors
    /// [`TreeError::KeyTooLong`], [`TreeError::ValueTooLarge`]: nothing was changed. After errors while changing pages
    /// the transaction is [`Broken`](TreeError::Broken).
    pub fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<bool, TreeError> {
        self.check_limits(key, value.len() as u64)?;
        self.part.adds();
        if self.stays_small(key.len() + value.len())? {
            return self.look_and_keep(key, Some(value));
        }
        self.change(|edit| insert(edit, key, value))
    }

    /// Like [`insert`](Self::insert), but does not tell whether it replaced an entry: a small transaction reads no page for it.
    ///
    /// # Errors
    /// As for [`insert`](Self::insert).
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), TreeError> {
        self.check_limits(key, value.len() as u64)?;
        self.part.adds();
        if self.stays_small(key.len() + value.len())? {
            self.txn.pending(self.part).put(self.table, key, Some(value), None);
            return Ok(());
        }
        self.change(|edit| insert(edit, key, value)).map(drop)
    }

    /// Like [`remove`](Self::remove), but does not tell whether there was an entry: a small transaction reads no page for it.
    ///
    /// # Errors
    /// As for [`remove`](Self::remove).
    pub fn delete(&mut self, key: &[u8]) -> Result<(), TreeError> {
        // What no tree can hold need not be deleted, and must not be told.
        if key.len() > Limits::new(self.part.page_bytes()).key_bytes_max {
            return self.txn.intact();
        }
        if self.stays_small(key.len())? {
            self.txn.pending(self.part).put(self.table, key, None, None);
            return Ok(());
        }
        self.remove(key).map(drop)
    }

    /// Like [`insert`](Self::insert), with `value_bytes` bytes taken from a reader: a large value is never in memory as a
    /// whole.
    ///
    /// # Errors
    /// As for [`insert`](Self::insert); [`TreeError::Source`] when the reader fails or ends early.
    pub fn insert_reader(&mut self, key: &[u8], value_bytes: u64, value: &mut dyn Read) -> Result<bool, TreeError> {
        let limits = self.check_limits(key, value_bytes)?;
        self.part.adds();
        if value_bytes <= PIECE_BYTES_MAX as u64 || limits.is_inline(key.len(), value_bytes) {
            self.txn.intact()?;
            let mut bytes = vec![0; usize::try_from(value_bytes).expect("a short value")];
            value.read_exact(&mut bytes).map_err(|error| TreeError::Source(error.into()))?;
            return self.insert(key, &bytes);
        }
        self.enter_pages()?;
        self.change(|edit| insert_large(edit, key, value_bytes, value))
    }

    /// Removes an entry; whether there was one. O(height).
    ///
    /// # Errors
    /// Those of reading pages. After errors while changing pages the transaction is [`Broken`](TreeError::Broken).
    pub fn remove(&mut self, key: &[u8]) -> Result<bool, TreeError> {
        if self.stays_small(key.len())? {
            return self.look_and_keep(key, None);
        }
        self.change(|edit| match edit.remove(key)? {
            None => Ok(false),
            Some(large) => {
                if let Some(large) = large {
                    large_write::free(edit.part, edit.table, large)?;
                }
                Ok(true)
            }
        })
    }

    /// Removes the entries of a range and says how many. Whole subtrees go to the graveyard unread, so the cost is
    /// O(height), whatever the range covers.
    ///
    /// # Errors
    /// As for [`remove`](Self::remove).
    pub fn remove_range(&mut self, bounds: &Bounds) -> Result<u64, TreeError> {
        if self.stays_small(0)? {
            let some = self.range(bounds.clone()).take(SMALL_RANGE_ENTRIES + 1);
            let keys = some.map(|entry| entry.map(|(key, _)| key)).collect::<Result<Vec<_>, _>>()?;
            if keys.len() <= SMALL_RANGE_ENTRIES {
                keys.iter().try_for_each(|key| self.remove(key).map(drop))?;
                return Ok(keys.len() as u64);
            }
            self.enter_pages()?;
        }
        self.change(|edit| edit.remove_range(bounds))
    }

    /// Removes everything in O(1), in pages, and says how many entries that were.
    ///
    /// # Errors
    /// [`TreeError::Broken`], and those of merging earlier small commits into pages.
    pub fn clear(&mut self) -> Result<u64, TreeError> {
        self.enter_pages()?;
        self.change(|edit| edit.clear())
    }

    /// Appends entries in strictly ascending order that all come after the tree's last key, into full pages; says how many.
    ///
    /// # Errors
    /// [`TreeError::Unsorted`], and those of [`insert`](Self::insert). After any of them the transaction is
    /// [`Broken`](TreeError::Broken).
    pub fn bulk_load<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Result<u64, TreeError> {
        self.enter_pages()?;
        let last_key = self.read().last()?.map(|(key, _)| key.to_vec());
        let limits = Limits::new(self.part.page_bytes());
        self.part.adds();
        self.change(|edit| {
            *edit.broken = true;
            let mut appender = Appender::new(last_key);
            let mut count = 0;
            for (key, value) in entries {
                let (key, value) = (key.as_ref(), value.as_ref());
                check_limits(&limits, key, value.len() as u64)?;
                if !appender.accepts(key) {
                    return Err(TreeError::Unsorted { at: count });
                }
                let finished_leaf = if limits.is_inline(key.len(), value.len() as u64) {
                    appender.append(edit, key, inline_field(value), value)?
                } else {
                    appender.settle(edit)?;
                    let large = large_write::write(edit.part, edit.table, key, value.len() as u64, &mut &*value)?;
                    let (field, record) = large_record(&large);
                    appender.append(edit, key, field, &record)?
                };
                if finished_leaf {
                    edit.part.relieve()?;
                }
                count += 1;
            }
            appender.finish(edit)?;
            Ok(count)
        })
    }

    /// Applies changes in strictly ascending order of their keys to pages; a key to delete may be missing.
    ///
    /// # Errors
    /// Those of [`insert`](Self::insert).
    pub(crate) fn apply(&mut self, points: &[Point<'_>]) -> Result<(), TreeError> {
        let limits = Limits::new(self.part.page_bytes());
        self.change(|edit| {
            let mut sweep = Sweep::default();
            for point in points {
                check_limits(&limits, point.key, point.value.map_or(0, <[u8]>::len) as u64)?;
                match point.value {
                    Some(value) => sweep.put(edit, point.key, value)?,
                    None => sweep.delete(edit, point.key)?,
                }
            }
            sweep.leave(edit)
        })
    }

    fn check_limits(&self, key: &[u8], value_bytes: u64) -> Result<Limits, TreeError> {
        let limits = Limits::new(self.part.page_bytes());
        check_limits(&limits, key, value_bytes)?;
        Ok(limits)
    }

    /// Whether the transaction is small and stays so with so many bytes more; else it has entered the pages.
    fn stays_small(&mut self, more: usize) -> Result<bool, TreeError> {
        self.txn.intact()?;
        if self.part.is_in_pages() {
            return Ok(false);
        }
        if more <= PIECE_BYTES_MAX && self.txn.pending_bytes(self.part) + more <= self.part.effect_bytes_max() {
            return Ok(true);
        }
        self.enter_pages()?;
        Ok(false)
    }

    fn enter_pages(&mut self) -> Result<(), TreeError> {
        self.txn.enter_pages(self.part)?;
        // Not every root of before is one now.
        self.txn.look_up(self.part, self.table)?.map(drop).ok_or(TreeError::NoTable(self.table))
    }

    /// Keeps a value for a key, or that it has none, beside the pages; whether it had one.
    fn look_and_keep(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<bool, TreeError> {
        let existed = self.read().contains(key)?;
        if existed || value.is_some() {
            self.txn.pending(self.part).put(self.table, key, value, Some(existed));
        }
        Ok(existed)
    }

    /// One operation on pages: broken unless it succeeds or fails before it changed anything.
    #[inline]
    fn change<R>(&mut self, operation: impl FnOnce(&mut Edit<'_>) -> Result<R, TreeError>) -> Result<R, TreeError> {
        self.txn.intact()?;
        let mut edit = self.txn.edit(self.part, self.table);
        let result = operation(&mut edit)?;
        if *edit.broken {
            // Here nothing holds a page, so the part may write its private pages early.
            edit.part.relieve()?;
            *edit.broken = false;
        }
        Ok(result)
    }
}

fn check_limits(limits: &Limits, key: &[u8], value_bytes: u64) -> Result<(), TreeError> {
    if key.len() > limits.key_bytes_max {
        return Err(TreeError::KeyTooLong { bytes: key.len(), limit: limits.key_bytes_max });
    }
    if value_bytes > limits.value_bytes_max {
        return Err(TreeError::ValueTooLarge { bytes: value_bytes, limit: limits.value_bytes_max });
    }
    Ok(())
}

/// Adds or replaces an entry, noting nothing.
pub(crate) fn insert(edit: &mut Edit<'_>, key: &[u8], value: &[u8]) -> Result<bool, TreeError> {
    if !Limits::new(edit.part.page_bytes()).is_inline(key.len(), value.len() as u64) {
        return insert_large(edit, key, value.len() as u64, &mut &*value);
    }
    let (replaced, large) = edit.insert(key, inline_field(value), value)?;
    if let Some(large) = large {
        large_write::free(edit.part, edit.table, large)?;
    }
    Ok(replaced)
}

fn insert_large(edit: &mut Edit<'_>, key: &[u8], value_bytes: u64, value: &mut dyn Read) -> Result<bool, TreeError> {
    *edit.broken = true;
    let (field, record) = large_record(&large_write::write(edit.part, edit.table, key, value_bytes, value)?);
    let (replaced, large) = edit.insert(key, field, &record)?;
    if let Some(large) = large {
        large_write::free(edit.part, edit.table, large)?;
    }
    Ok(replaced)
}
