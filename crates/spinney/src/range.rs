//! Ordered iteration over the entries of a table, from either end.

use crate::{
    database::Core,
    error::{Error, Result},
    key_range::KeyRange,
    snapshot::SnapshotPages,
    value::Value,
};
use bytes::Bytes;
use spinney_btree::{Borrowed, Bounds, Owner, Pages, Part, TableId, TreeError, TreeRoot};
use std::{fmt, ops::Bound, sync::Arc};

/// A range as the tree takes it.
pub(crate) fn bounds_of(range: &impl KeyRange) -> Bounds {
    let owned = |bound: Bound<&[u8]>| bound.map(<[u8]>::to_vec);
    (owned(range.start()), owned(range.end()))
}

/// The entries of a range: an iterator that can be taken from both ends.
///
/// One of a snapshot (`Range<'static>`) keeps the snapshot alive and can be stored; one of a transaction borrows it.
/// After an error it ends: it never goes on with an entry further along.
pub struct Range<'a> {
    core: Arc<Core>,
    entries: Entries<'a>,
}

enum Entries<'a> {
    Snapshot(spinney_btree::Range<SnapshotPages>),
    Transaction(spinney_btree::Range<Borrowed<'a, Part>>),
    /// It could not begin.
    Failed(Option<Error>),
}

/// What iteration yields.
pub(crate) type Entry = Result<(Value, Value)>;

/// An entry whose value may not have been read yet.
enum Found<'a> {
    Snapshot(Bytes, spinney_btree::Value<SnapshotPages>),
    Transaction(Bytes, spinney_btree::Value<Borrowed<'a, Part>>),
}

impl<'a> Range<'a> {
    pub(crate) fn of_snapshot(
        pages: SnapshotPages,
        (owner, table): (Owner, TableId),
        root: Result<TreeRoot>,
        bounds: Bounds,
    ) -> Self {
        let core = Arc::clone(pages.core());
        let entries = match root {
            Ok(root) => Entries::Snapshot(spinney_btree::Range::new(pages, owner, table, root, bounds)),
            Err(error) => Entries::Failed(Some(error)),
        };
        Self { core, entries }
    }

    pub(crate) fn of_transaction(
        core: &Arc<Core>,
        part: &'a Part,
        table: TableId,
        root: TreeRoot,
        bounds: Bounds,
    ) -> Self {
        let entries = spinney_btree::Range::new(Borrowed(part), part.owner(), table, root, bounds);
        Self { core: Arc::clone(core), entries: Entries::Transaction(entries) }
    }

    pub(crate) fn failed(core: &Arc<Core>, error: Error) -> Self {
        Self { core: Arc::clone(core), entries: Entries::Failed(Some(error)) }
    }

    /// Only the keys: reads no large value.
    pub fn keys(self) -> Keys<'a> {
        Keys(self)
    }

    /// The next entry, lent to `read`: a small one is neither copied nor does it allocate, so that a walk over many entries costs a third
    /// or less of what owning each costs. A large value is read whole.
    pub fn next_with<R>(&mut self, read: impl FnOnce(&[u8], &[u8]) -> R) -> Option<Result<R>> {
        self.lend(false, read)
    }

    /// The same from the back.
    pub fn next_back_with<R>(&mut self, read: impl FnOnce(&[u8], &[u8]) -> R) -> Option<Result<R>> {
        self.lend(true, read)
    }

    #[inline]
    fn lend<R>(&mut self, from_back: bool, read: impl FnOnce(&[u8], &[u8]) -> R) -> Option<Result<R>> {
        let lent = match (&mut self.entries, from_back) {
            (Entries::Snapshot(range), false) => range.next_with(read)?,
            (Entries::Snapshot(range), true) => range.next_back_with(read)?,
            (Entries::Transaction(range), false) => range.next_with(read)?,
            (Entries::Transaction(range), true) => range.next_back_with(read)?,
            (Entries::Failed(error), _) => return error.take().map(Err),
        };
        let lent = lent.map_err(|error| self.core.lift(error));
        if lent.is_err() {
            self.end();
        }
        Some(lent)
    }

    /// Yields nothing more.
    pub(crate) fn end(&mut self) {
        self.entries = Entries::Failed(None);
    }

    fn step(&mut self, from_back: bool) -> Option<Result<Found<'a>>> {
        fn turn<P: Pages + Clone>(
            range: &mut spinney_btree::Range<P>,
            from_back: bool,
        ) -> Option<Result<(Bytes, spinney_btree::Value<P>), TreeError>> {
            if from_back { range.next_back() } else { range.next() }
        }
        let found = match &mut self.entries {
            Entries::Snapshot(range) => turn(range, from_back)?.map(|(key, value)| Found::Snapshot(key, value)),
            Entries::Transaction(range) => turn(range, from_back)?.map(|(key, value)| Found::Transaction(key, value)),
            Entries::Failed(error) => return error.take().map(Err),
        };
        Some(found.map_err(|error| self.core.lift(error)))
    }

    fn entry(&mut self, from_back: bool) -> Option<Entry> {
        let entry = self.step(from_back)?.and_then(|found| {
            let (key, value) = match found {
                Found::Snapshot(key, value) => (key, value.read()),
                Found::Transaction(key, value) => (key, value.read()),
            };
            Ok((key.into(), value.map_err(|error| self.core.lift(error))?.into()))
        });
        if entry.is_err() {
            self.end();
        }
        Some(entry)
    }
}

impl Iterator for Range<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Self::Item> {
        self.entry(false)
    }
}

impl DoubleEndedIterator for Range<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.entry(true)
    }
}

impl fmt::Debug for Range<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Range").finish_non_exhaustive()
    }
}

/// The keys of a range, from either end; see [`Range::keys`].
#[derive(Debug)]
pub struct Keys<'a>(Range<'a>);

impl Keys<'_> {
    fn key(&mut self, from_back: bool) -> Option<Result<Value>> {
        let key = self.0.step(from_back)?.map(|found| match found {
            Found::Snapshot(key, _) | Found::Transaction(key, _) => key.into(),
        });
        if key.is_err() {
            self.0.end();
        }
        Some(key)
    }
}

impl Iterator for Keys<'_> {
    type Item = Result<Value>;

    fn next(&mut self) -> Option<Self::Item> {
        self.key(false)
    }
}

impl DoubleEndedIterator for Keys<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.key(true)
    }
}
