//! What small commits left above a family's root: the newest first.
//!
//! ```text
//!   [of the transaction] --commit--> [active] --freeze--> [frozen ...] --merge--> pages
//! ```
//! The file layer keeps one [`Layers`] per family and version, and knows nothing of it. A commit shares the maps with its predecessor; what
//! tells versions apart is the stamp up to which values count.

use crate::{
    effects::{Effect, Effects, Point, check},
    error::{TreeError, to_file_error},
    family::FamilyTxn,
    memtable::{KeyBounds, KeyMap, Known, Lent, Put},
    root::TableId,
};
use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;
use spinney_file::{Above, FileError, Owner, Pages, Part, SmallCommits, Stamp, Told};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

/// For [`FileOptions::small_commits`](spinney_file::FileOptions::small_commits): small transactions are kept in memory, and merged into
/// pages later, a leaf once for all of its keys.
pub const SMALL_COMMITS: SmallCommits = SmallCommits { check, add, freeze, merge, merged };

/// Keys of all tables of a family: a list that only grows, so that readers need no lock.
#[derive(Debug, Default)]
struct Memtable {
    first: OnceLock<Box<TableMap>>,
    /// Where effects are kept, one commit's behind another's.
    room: Mutex<Room>,
}

/// A piece of memory with room in it, and how much all pieces have.
#[derive(Debug, Default)]
struct Room {
    piece: BytesMut,
    bytes: usize,
}

/// Effects are kept in pieces of so many bytes: each as large as all before it, up to the largest.
const PIECE_BYTES: std::ops::RangeInclusive<usize> = 512..=64 << 10;

#[derive(Debug)]
struct TableMap {
    table: TableId,
    keys: KeyMap,
    next: OnceLock<Box<TableMap>>,
}

impl Memtable {
    fn tables(&self) -> impl Iterator<Item = &TableMap> {
        std::iter::successors(self.first.get(), |map| map.next.get()).map(|map| &**map)
    }

    fn find(&self, table: TableId) -> Option<&KeyMap> {
        self.tables().find(|map| map.table == table).map(|map| &map.keys)
    }

    /// Keeps the effects of a commit.
    fn keep(&self, effects: &[u8]) -> Bytes {
        if effects.len() > *PIECE_BYTES.end() / 4 {
            return Bytes::copy_from_slice(effects); // it would leave much of a piece unused
        }
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let Room { piece, bytes } = &mut *room;
        if piece.capacity() < effects.len() {
            *piece =
                BytesMut::with_capacity((*bytes).clamp(*PIECE_BYTES.start(), *PIECE_BYTES.end()).max(effects.len()));
            *bytes += piece.capacity();
        }
        piece.extend_from_slice(effects);
        piece.split().freeze()
    }

    /// Of a table, made when missing; by one thread at a time.
    fn table(&self, table: TableId) -> &KeyMap {
        let mut link = &self.first;
        while let Some(map) = link.get() {
            if map.table == table {
                return &map.keys;
            }
            link = &map.next;
        }
        &link.get_or_init(|| Box::new(TableMap { table, keys: KeyMap::new(), next: OnceLock::new() })).keys
    }
}

/// By how many entries tables changed.
#[derive(Clone, Debug, Default)]
struct Changes {
    default: Change,
    others: Option<Arc<BTreeMap<TableId, Change>>>,
}

/// By how many entries a table changed, if none of its `unknown` keys was there before: each that was is one too many.
#[derive(Clone, Copy, Debug, Default)]
struct Change {
    entries: i64,
    unknown: u64,
}

impl Changes {
    fn of(&self, table: TableId) -> Change {
        match table {
            TableId::DEFAULT => self.default,
            _ => self.others.as_ref().and_then(|others| others.get(&table)).copied().unwrap_or_default(),
        }
    }

    /// A key of a table has a value or none; `existed`: whether it had one before.
    fn add(&mut self, table: TableId, has_value: bool, existed: Option<bool>) {
        let change = match table {
            TableId::DEFAULT => &mut self.default,
            _ if existed == Some(has_value) => return,
            _ => Arc::make_mut(self.others.get_or_insert_default()).entry(table).or_default(),
        };
        change.entries += i64::from(has_value) - i64::from(existed == Some(true));
        change.unknown += u64::from(existed.is_none());
    }
}

/// One map, as far as some version sees it.
#[derive(Clone, Debug)]
struct Layer {
    map: Arc<Memtable>,
    limit: Stamp,
    changes: Changes,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Layers {
    active: Layer,
    /// The newest first; more than one only after a checkpoint that failed.
    frozen: Option<Arc<[Layer]>>,
}

impl Layers {
    fn new() -> Self {
        Self { active: Layer::new(), frozen: None }
    }

    fn all(&self) -> impl Iterator<Item = &Layer> {
        std::iter::once(&self.active).chain(self.frozen())
    }

    fn frozen(&self) -> &[Layer] {
        self.frozen.as_deref().unwrap_or_default()
    }
}

impl Layer {
    fn new() -> Self {
        Self { map: Arc::default(), limit: Stamp(0), changes: Changes::default() }
    }

    fn is_empty(&self) -> bool {
        self.limit == Stamp(0)
    }
}

fn layers_in(above: &Above) -> &Layers {
    above.downcast_ref().expect("what is above a family's root is made here")
}

fn add(before: Option<&Above>, stamp: Stamp, effects: Told<'_>) -> Result<Above, &'static str> {
    let mut layers = before.map_or_else(Layers::new, |above| layers_in(above).clone());
    let Layer { map, limit, changes } = &mut layers.active;
    let effects = match effects {
        Told::Lent(effects) => map.keep(effects),
        Told::Shared(effects) => effects,
    };
    let mut last: Option<(TableId, &KeyMap)> = None;
    for effect in Effects::decode(&effects)? {
        let Effect { table, key, value, existed } = effect?;
        let keys = match last {
            Some((of, keys)) if of == table => keys,
            _ => map.table(table),
        };
        last = Some((table, keys));
        let start = key.as_ptr() as usize - effects.as_ptr() as usize;
        let data = effects.slice(start..start + key.len() + value.map_or(0, <[u8]>::len));
        let had_value = keys.put(stamp, Put { data, key_len: key.len(), is_put: value.is_some(), existed });
        changes.add(table, value.is_some(), existed.or(had_value));
    }
    *limit = stamp;
    Ok(Arc::new(layers))
}

fn freeze(above: &Above) -> Above {
    let layers = layers_in(above);
    if layers.active.is_empty() {
        return Arc::clone(above);
    }
    let frozen: Vec<Layer> = layers.all().cloned().collect();
    Arc::new(Layers { active: Layer::new(), frozen: Some(frozen.into()) })
}

fn merged(above: &Above) -> Option<Above> {
    let layers = layers_in(above);
    let left = || -> Above { Arc::new(Layers { active: layers.active.clone(), frozen: None }) };
    (!layers.active.is_empty()).then(left)
}

fn merge(part: &mut Part, frozen: &Above) -> Result<(), FileError> {
    let page_bytes = part.page_bytes() as u64;
    bring_into_pages(part, layers_in(frozen)).map_err(|error| to_file_error(error, page_bytes))
}

fn bring_into_pages(part: &mut Part, layers: &Layers) -> Result<(), TreeError> {
    let mut txn = FamilyTxn::new(part)?;
    let tables: BTreeSet<TableId> = layers.frozen().iter().flat_map(|l| l.map.tables()).map(|t| t.table).collect();
    for table in tables {
        // The oldest first: what is newer takes its place.
        for layer in layers.frozen().iter().rev() {
            let Some(keys) = layer.map.find(table) else { continue };
            keys.for_all(layer.limit, |some| {
                let points: Vec<Point<'_>> = some.iter().map(|&(key, value)| Point { key, value }).collect();
                txn.family(part).table(table)?.apply(&points)
            })?;
        }
    }
    txn.store(part)
}

/// What a small transaction did itself, above all others.
#[derive(Debug)]
pub(crate) struct Pending {
    /// By table; most transactions have one.
    tables: SmallVec<[(TableId, BTreeMap<Bytes, Own>); 1]>,
    base: Option<Arc<Layers>>,
    bytes: usize,
}

/// What it did to a key.
#[derive(Debug)]
struct Own {
    /// Whether the key was there before the transaction; `None`: nobody looked.
    existed: Option<bool>,
    known: Known,
}

/// What a change costs the log beside key and value, at most.
const CHANGE_BYTES: usize = 16;

impl Pending {
    /// Of a part that has done nothing yet.
    pub(crate) fn new(part: &Part) -> Self {
        let base = part.base_above().map(|above| {
            let layers = Arc::clone(above).downcast();
            layers.expect("what is above a family's root is made here")
        });
        Self { tables: SmallVec::new(), base, bytes: 0 }
    }

    /// What its effects take in the log, or a little less than this.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A key has another value, or none; `existed`: whether it had one just before, if somebody looked.
    pub(crate) fn put(&mut self, table: TableId, key: &[u8], value: Option<&[u8]>, existed: Option<bool>) {
        let known = value.map(Bytes::copy_from_slice);
        let at = self.tables.binary_search_by_key(&table, |(id, _)| *id).unwrap_or_else(|at| {
            self.tables.insert(at, (table, BTreeMap::new()));
            at
        });
        let changes = &mut self.tables[at].1;
        self.bytes += known.as_ref().map_or(0, Bytes::len);
        if let Some(own) = changes.get_mut(key) {
            self.bytes -= own.known.as_ref().map_or(0, Bytes::len);
            own.known = known;
        } else {
            self.bytes += key.len() + CHANGE_BYTES;
            changes.insert(Bytes::copy_from_slice(key), Own { existed, known });
        }
    }

    /// For the log: one effect per key, in order, and of how many keys. Nothing when nothing is different in the end.
    pub(crate) fn effects(&self) -> (Vec<u8>, usize) {
        let mut out = Vec::with_capacity(self.bytes + 1);
        let mut keys = 0;
        for &(table, ref changes) in &self.tables {
            for (key, own) in changes.iter().filter(|(_, own)| own.existed != Some(false) || own.known.is_some()) {
                Effect { table, key, value: own.known.as_deref(), existed: own.existed }.encode(&mut out);
                keys += 1;
            }
        }
        (out, keys)
    }

    /// For pages: what was done, by table and in order.
    pub(crate) fn points(&self) -> impl Iterator<Item = (TableId, Vec<Point<'_>>)> {
        self.tables.iter().map(|(table, changes)| {
            (*table, changes.iter().map(|(key, own)| Point { key, value: own.known.as_deref() }).collect())
        })
    }
}

/// What stands above one table's pages, for whoever reads it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Over<'a> {
    table: TableId,
    pending: Option<&'a BTreeMap<Bytes, Own>>,
    layers: Option<&'a Layers>,
}

impl<'a> Over<'a> {
    /// As `pages` see it. The directory of tables has nothing above it: it changes in pages only.
    #[inline]
    pub(crate) fn of(pages: &'a impl Pages, owner: Owner, table: TableId) -> Self {
        let mut over = Self { table, pending: None, layers: None };
        if table == TableId::DIRECTORY {
            return over;
        }
        if let Some(above) = pages.above(owner) {
            if let Some(layers) = above.downcast_ref::<Layers>() {
                over.layers = Some(layers);
            } else if let Some(pending) = above.downcast_ref::<Pending>() {
                over.pending = pending.tables.iter().find(|(id, _)| *id == table).map(|(_, changes)| changes);
                over.layers = pending.base.as_deref();
            }
        }
        over
    }

    /// Whether nothing stands there: then pages tell all.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_none() && self.layers.is_none()
    }

    /// Lends what is known of a key; `None`: ask the pages.
    #[inline]
    pub(crate) fn get<R>(&self, key: &[u8], read: impl FnOnce(Lent<'_>) -> R) -> Option<R> {
        if let Some(own) = self.pending.and_then(|changes| changes.get(key)) {
            return Some(read(own.known.as_deref()));
        }
        self.get_below(0, key, read)
    }

    /// The same in layers from one on, the newest being number 0.
    #[inline]
    fn get_below<R>(&self, number: usize, key: &[u8], read: impl FnOnce(Lent<'_>) -> R) -> Option<R> {
        let mut read = Some(read);
        self.layers?.all().skip(number).find_map(|layer| {
            let read = |known: Lent<'_>| read.take().map(|read| read(known));
            layer.map.find(self.table)?.get(key, layer.limit, read).flatten()
        })
    }

    /// Whether a key is there in layers from one on and, if they know nothing of it, in pages.
    fn is_below<E>(&self, number: usize, key: &[u8], in_pages: &impl Fn(&[u8]) -> Result<bool, E>) -> Result<bool, E> {
        self.get_below(number, key, |known| known.is_some()).map_or_else(|| in_pages(key), Ok)
    }

    /// Layers that changed the table, by their numbers.
    fn changing_layers(&self) -> impl Iterator<Item = (usize, &'a Layer, &'a KeyMap)> {
        let (table, layers) = (self.table, self.layers.into_iter().flat_map(Layers::all).enumerate());
        layers.filter_map(move |(number, layer)| Some((number, layer, layer.map.find(table)?)))
    }

    /// By how many entries the table has changed. Keys of which nobody knows whether they were there before are looked for, `in_pages`
    /// too; each once, unless they are the transaction's own.
    pub(crate) fn change<E>(&self, in_pages: impl Fn(&[u8]) -> Result<bool, E>) -> Result<i64, E> {
        let mut entries = 0;
        for (number, layer, keys) in self.changing_layers() {
            let change = layer.changes.of(self.table);
            entries += change.entries;
            if change.unknown > 0 {
                let were_there = keys.existed_unknown(layer.limit, |key| self.is_below(number + 1, key, &in_pages))?;
                entries = entries.saturating_sub_unsigned(were_there);
            }
        }
        self.pending.into_iter().flatten().try_fold(entries, |entries, own| Ok(entries + self.own(own, &in_pages)?))
    }

    /// By how many entries a range has changed. O(changed keys in it), and those that are [looked for](Self::change).
    pub(crate) fn change_in<E>(
        &self,
        bounds: KeyBounds<'_>,
        in_pages: impl Fn(&[u8]) -> Result<bool, E>,
    ) -> Result<i64, E> {
        let mut entries = 0;
        for (number, layer, keys) in self.changing_layers() {
            entries += keys.change_in(bounds, layer.limit, |key| self.is_below(number + 1, key, &in_pages))?;
        }
        let own = self.pending.into_iter().flat_map(|changes| range(changes, bounds));
        own.into_iter().try_fold(entries, |entries, own| Ok(entries + self.own(own, &in_pages)?))
    }

    /// By how many entries the transaction's own change of a key changed the table.
    fn own<E>(&self, (key, own): (&Bytes, &Own), in_pages: &impl Fn(&[u8]) -> Result<bool, E>) -> Result<i64, E> {
        let existed = own.existed.map_or_else(|| self.is_below(0, key, in_pages), Ok)?;
        Ok(i64::from(own.known.is_some()) - i64::from(existed))
    }

    /// What is known of keys in a range, in order from its front: of one at least, if there is any.
    pub(crate) fn first_in(&self, bounds: KeyBounds<'_>) -> Vec<(Bytes, Known)> {
        self.some_in(bounds, false)
    }

    /// The same, in order from its back.
    pub(crate) fn last_in(&self, bounds: KeyBounds<'_>) -> Vec<(Bytes, Known)> {
        self.some_in(bounds, true)
    }

    fn some_in(&self, bounds: KeyBounds<'_>, from_back: bool) -> Vec<(Bytes, Known)> {
        const PENDING_MAX: usize = 64;
        // Of each layer some keys from that end: those up to the nearest last one are complete.
        let mut found: Vec<Vec<(Bytes, Known)>> = Vec::new();
        if let Some(changes) = self.pending {
            let own = |(key, own): (&Bytes, &Own)| (key.clone(), own.known.clone());
            let changes = range(changes, bounds);
            found.push(if from_back {
                changes.rev().take(PENDING_MAX).map(own).collect()
            } else {
                changes.take(PENDING_MAX).map(own).collect()
            });
        }
        for layer in self.layers.into_iter().flat_map(Layers::all) {
            if let Some(keys) = layer.map.find(self.table) {
                found.push(if from_back {
                    keys.last_in(bounds, layer.limit)
                } else {
                    keys.first_in(bounds, layer.limit)
                });
            }
        }
        found.retain(|some| !some.is_empty());
        if found.len() <= 1 {
            return found.pop().unwrap_or_default();
        }
        let ends = found.iter().filter_map(|some| some.last().map(|(key, _)| key.clone()));
        let end = if from_back { ends.max() } else { ends.min() }.expect("there are some");
        let is_complete = |key: &Bytes| if from_back { *key >= end } else { *key <= end };
        // The newest layer first: a stable sort keeps it before the others.
        let mut all: Vec<(Bytes, Known)> = found.into_iter().flatten().filter(|(key, _)| is_complete(key)).collect();
        all.sort_by(|(a, _), (b, _)| if from_back { b.cmp(a) } else { a.cmp(b) });
        all.dedup_by(|(later, _), (kept, _)| later == kept);
        all
    }
}

/// Tells of what stands above one table's pages, in order of keys: values, and that keys are deleted. What pages say of these keys is
/// outdated.
///
/// # Errors
/// What `visit` returns.
pub fn above<E>(
    pages: &impl Pages,
    owner: Owner,
    table: TableId,
    mut visit: impl FnMut(&[u8], Option<&[u8]>) -> Result<(), E>,
) -> Result<(), E> {
    let over = Over::of(pages, owner, table);
    let mut start: Bound<Bytes> = Bound::Unbounded;
    loop {
        let some = over.first_in((start.as_ref().map(|key| &key[..]), Bound::Unbounded));
        let Some((last, _)) = some.last() else { return Ok(()) };
        start = Bound::Excluded(last.clone());
        some.iter().try_for_each(|(key, known)| visit(key, known.as_deref()))?;
    }
}

/// The changes in a range that need not be one.
fn range<'a>(
    changes: &'a BTreeMap<Bytes, Own>,
    bounds: KeyBounds<'_>,
) -> impl DoubleEndedIterator<Item = (&'a Bytes, &'a Own)> {
    use Bound::{Excluded, Included};
    let is_empty = match bounds {
        (Included(start), Included(end)) => start > end,
        (Included(start) | Excluded(start), Included(end) | Excluded(end)) => start >= end,
        _ => false,
    };
    (!is_empty).then(|| changes.range::<[u8], _>(bounds)).into_iter().flatten()
}
