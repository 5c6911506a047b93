//! One table inside a write transaction.

use crate::{
    bulk::{Appender, inline_field, large_record},
    edit::Edit,
    effects::{Effect, PIECE_BYTES_MAX, Point},
    error::TreeError,
    large_write,
    limits::Limits,
    range::{Borrowed, Bounds, Range},
    root::TreeRoot,
    sweep::Sweep,
    tree::Tree,
};
use bytes::Bytes;
use spinney_file::{Pages, Part};
use std::{fmt, io::Read};

/// One table inside a write transaction. After an error that says so nothing but dropping the transaction is possible;
/// other errors changed nothing.
pub struct TreeMut<'a> {
    edit: Edit<'a>,
}

impl fmt::Debug for TreeMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TreeMut").field("table", &self.edit.table).field("root", &self.edit.root).finish()
    }
}

impl<'a> TreeMut<'a> {
    pub(crate) fn new(edit: Edit<'a>) -> Self {
        Self { edit }
    }

    /// Entries. Costs nothing.
    pub fn len(&self) -> u64 {
        self.edit.root.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.edit.root.is_empty()
    }

    /// The tree's root as it is now.
    pub fn root(&self) -> TreeRoot {
        *self.edit.root
    }

    /// To read what the transaction sees: everything [`Tree`] offers.
    pub fn read(&self) -> Tree<'_, Part> {
        Tree::new(self.edit.part, self.edit.owner(), self.edit.table, *self.edit.root)
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
        Range::new(Borrowed(self.edit.part), self.edit.owner(), self.edit.table, *self.edit.root, bounds)
    }

    /// Adds or replaces an entry; whether it replaced one. O(height).
    ///
    /// # Errors
    /// [`TreeError::KeyTooLong`], [`TreeError::ValueTooLarge`]: nothing was changed. After errors while changing pages
    /// the transaction is [`Broken`](TreeError::Broken).
    pub fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<bool, TreeError> {
        self.check_limits(key, value.len() as u64)?;
        self.edit.part.adds();
        let replaced = self.change(|edit| insert(edit, key, value))?;
        self.edit.note(Effect::Put { table: self.edit.table, key, value });
        Ok(replaced)
    }

    /// Like [`insert`](Self::insert), with `value_bytes` bytes taken from a reader: a large value is never in memory as a
    /// whole.
    ///
    /// # Errors
    /// As for [`insert`](Self::insert); [`TreeError::Source`] when the reader fails or ends early.
    pub fn insert_reader(&mut self, key: &[u8], value_bytes: u64, value: &mut dyn Read) -> Result<bool, TreeError> {
        let limits = self.check_limits(key, value_bytes)?;
        self.edit.part.adds();
        self.change(|edit| {
            *edit.broken = true;
            let is_noted = edit.part.logs_effects() && value_bytes <= PIECE_BYTES_MAX as u64;
            if !is_noted && !limits.is_inline(key.len(), value_bytes) {
                edit.part.write_pages();
                return insert_large(edit, key, value_bytes, value);
            }
            let mut bytes = vec![0; usize::try_from(value_bytes).expect("a short value")];
            value.read_exact(&mut bytes).map_err(|error| TreeError::Source(error.into()))?;
            let replaced = insert(edit, key, &bytes)?;
            edit.note(Effect::Put { table: edit.table, key, value: &bytes });
            Ok(replaced)
        })
    }

    /// Removes an entry; whether there was one. O(height).
    ///
    /// # Errors
    /// Those of reading pages. After errors while changing pages the transaction is [`Broken`](TreeError::Broken).
    pub fn remove(&mut self, key: &[u8]) -> Result<bool, TreeError> {
        self.change(|edit| match edit.remove(key)? {
            None => Ok(false),
            Some(large) => {
                if let Some(large) = large {
                    large_write::free(edit.part, edit.table, large)?;
                }
                edit.note(Effect::Delete { table: edit.table, key });
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
        let removed = self.change(|edit| edit.remove_range(bounds))?;
        if removed > 0 {
            self.edit.note(Effect::range(self.edit.table, bounds));
        }
        Ok(removed)
    }

    /// Removes everything in O(1) and says how many entries that were.
    ///
    /// # Errors
    /// [`TreeError::Broken`].
    pub fn clear(&mut self) -> Result<u64, TreeError> {
        let removed = self.clear_unnoted()?;
        if removed > 0 {
            self.edit.note(Effect::Clear(self.edit.table));
        }
        Ok(removed)
    }

    /// The same, as part of something larger that is noted.
    pub(crate) fn clear_unnoted(&mut self) -> Result<u64, TreeError> {
        self.change(Edit::clear)
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
        let last_key = self.read().last()?.map(|(key, _)| key.to_vec());
        let limits = Limits::new(self.edit.part.page_bytes());
        self.edit.part.adds();
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
                edit.note(Effect::Put { table: edit.table, key, value });
                count += 1;
            }
            appender.finish(edit)?;
            Ok(count)
        })
    }

    /// Applies changes in strictly ascending order of their keys; a key to delete may be missing. Notes nothing.
    ///
    /// # Errors
    /// Those of [`insert`](Self::insert).
    pub(crate) fn apply(&mut self, points: &[Point<'_>]) -> Result<(), TreeError> {
        let limits = Limits::new(self.edit.part.page_bytes());
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
        let limits = Limits::new(self.edit.part.page_bytes());
        check_limits(&limits, key, value_bytes)?;
        Ok(limits)
    }

    /// One operation: broken unless it succeeds or fails before it changed anything.
    #[inline]
    fn change<R>(&mut self, operation: impl FnOnce(&mut Edit<'a>) -> Result<R, TreeError>) -> Result<R, TreeError> {
        if *self.edit.broken {
            return Err(TreeError::Broken);
        }
        let result = operation(&mut self.edit)?;
        if *self.edit.broken {
            // Here nothing holds a page, so the part may write its private pages early.
            self.edit.part.relieve()?;
            *self.edit.broken = false;
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
