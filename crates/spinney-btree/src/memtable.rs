//! Keys in memory with all their values since some moment: what small commits did, before it is in pages.
//!
//! ```text
//!   top --> segments of up to 64 leaves --> leaves of up to 32 keys, in the order of coming --> [keys] --> [older and newer values]
//! ```
//! One thread at a time adds, the one that has the family's slot; any number read, and take no lock. Readers name the stamp up to which
//! values count for them, so what is added later does not disturb them.
//!
//! A new key is appended to its leaf, unsorted: nothing moves, so a reader needs no more than the number of keys that were there. A leaf
//! that is full is replaced by two with half of its keys each. A search compares the first eight bytes of keys as numbers, and whole
//! keys where those agree. (Unsorted leaves: Chen & Jin, "Persistent B+-Trees in Non-Volatile Main Memory", VLDB 2015, who
//! save writes by them.)
//!
//! Nothing is taken out and nothing moves in memory until all of it goes at once, so leaves name keys by their place in a list that only
//! grows, and adding a key seldom allocates.
//!
//! Whether a key was there before its first value may be unknown: whoever needs it asks what lies below, and the answer stays with the
//! key. It cannot change, because what lies below a map keeps its contents for as long as the map is there.
//!
//! **Ordering.** A leaf's count is stored with release after the key it counts, a key's newest value after the value, and both are loaded
//! with acquire. Inner nodes are published through `arc-swap`. Whoever comes with an outdated node misses only what was added after it
//! looked, which does not count for it.

use crate::{effects::head_of, growing::Growing};
use arc_swap::ArcSwap;
use bytes::Bytes;
use spinney_file::Stamp;
use std::{
    fmt,
    ops::Bound,
    sync::{
        Arc,
        atomic::{
            AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
        },
    },
};

/// Keys of a leaf.
const LEAF_KEYS: usize = 32;
/// Leaves of a segment.
const SEGMENT_LEAVES: usize = 64;

/// One table's keys.
pub(crate) struct KeyMap {
    top: ArcSwap<Index<Segment>>,
    keys: Growing<Key>,
    values: Growing<Value>,
    /// Of so many keys, in the order of coming (high half), so many (low half) had unknown before and turned out to have been there.
    settled: AtomicU64,
}

/// Children in order, and where each but the first begins.
struct Index<C> {
    heads: Vec<u64>,
    keys: Vec<Bytes>,
    children: Vec<Arc<C>>,
}

impl<C> Clone for Index<C> {
    fn clone(&self) -> Self {
        Self { heads: self.heads.clone(), keys: self.keys.clone(), children: self.children.clone() }
    }
}

struct Segment {
    leaves: ArcSwap<Index<Leaf>>,
}

struct Leaf {
    count: AtomicUsize,
    heads: [AtomicU64; LEAF_KEYS],
    /// Places in the list of keys.
    keys: [AtomicU32; LEAF_KEYS],
}

/// A key of a leaf and what the leaf has of it.
#[derive(Clone, Copy)]
struct Sorted<'a> {
    head: u64,
    place: u32,
    key: &'a Key,
}

/// A key and its first value.
struct Key {
    /// The key, and the value behind it if there is one.
    data: Bytes,
    key_len: u32,
    is_put: bool,
    /// Whether the key was there, in what lies below, before the first value.
    existed: Existed,
    stamp: Stamp,
    /// The place of the newest of later values plus one; 0: there are none.
    newest: AtomicU32,
}

/// Whether a key was there: known from the start, or found out later.
struct Existed(AtomicU8);

impl Existed {
    const NO: u8 = 0;
    const YES: u8 = 1;
    const UNKNOWN: u8 = 2;
    /// Found out.
    const WAS_NOT: u8 = 3;
    const WAS: u8 = 4;

    fn new(known: Option<bool>) -> Self {
        Self(AtomicU8::new(known.map_or(Self::UNKNOWN, u8::from)))
    }

    /// Was it?
    fn get<E>(&self, ask: impl FnOnce() -> Result<bool, E>) -> Result<bool, E> {
        Ok(match self.0.load(Relaxed) {
            Self::NO | Self::WAS_NOT => false,
            Self::YES | Self::WAS => true,
            _ => {
                let was = ask()?;
                // Whoever asks finds the same: no partner.
                self.0.store(if was { Self::WAS } else { Self::WAS_NOT }, Relaxed);
                was
            }
        })
    }

    fn was_known(&self) -> bool {
        self.0.load(Relaxed) <= Self::YES
    }
}

/// A later value of a key.
struct Value {
    stamp: Stamp,
    /// `None`: deleted.
    value: Option<Bytes>,
    /// The one before it, likewise.
    older: u32,
}

/// What is known of a key: its value, or that it is deleted.
pub(crate) type Known = Option<Bytes>;

/// The same, lent.
pub(crate) type Lent<'a> = Option<&'a [u8]>;

/// Ends of a range of keys.
pub(crate) type KeyBounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// What happened to a key in a commit.
#[derive(Debug)]
pub(crate) struct Put {
    /// The key, and behind it the value if there is one.
    pub(crate) data: Bytes,
    pub(crate) key_len: usize,
    /// It has a value; else it is deleted.
    pub(crate) is_put: bool,
    /// Whether it was there just before, in what lies below; `None`: nobody looked.
    pub(crate) existed: Option<bool>,
}

impl KeyMap {
    pub(crate) fn new() -> Self {
        let segment = Segment { leaves: ArcSwap::from_pointee(Index::of(Leaf::new())) };
        Self {
            top: ArcSwap::from_pointee(Index::of(segment)),
            keys: Growing::new(),
            values: Growing::new(),
            settled: AtomicU64::new(0),
        }
    }

    /// Adds a value of a key; by one thread at a time, with stamps that do not fall. A value with the same stamp again changes nothing.
    /// Returns whether the key had a value here before, `None` if it is new.
    pub(crate) fn put(&self, stamp: Stamp, put: Put) -> Option<bool> {
        let Put { data, key_len, is_put, existed } = put;
        let head = head_of(&data[..key_len]);
        loop {
            let top = self.top.load();
            let segment = &top.children[top.child_for(head, &data[..key_len])];
            let leaves = segment.leaves.load();
            let at = leaves.child_for(head, &data[..key_len]);
            let leaf = &leaves.children[at];
            if let Some(key) = self.find(leaf, head, &data[..key_len]) {
                let older = key.newest.load(Relaxed);
                let (newest, was_put) = match self.value_at(older) {
                    Some(value) => (value.stamp, value.value.is_some()),
                    None => (key.stamp, key.is_put),
                };
                assert!(newest <= stamp, "stamps grow within a family");
                if newest < stamp {
                    let value = is_put.then(|| data.slice(key_len..));
                    // Partner: the load in `known`.
                    key.newest.store(self.values.push(Value { stamp, value, older }) + 1, Release);
                }
                return Some(was_put);
            }
            let count = leaf.count.load(Relaxed);
            if count < LEAF_KEYS {
                let key_len = u32::try_from(key_len).expect("keys are short");
                let (newest, existed) = (AtomicU32::new(0), Existed::new(existed));
                let place = self.keys.push(Key { data, key_len, is_put, existed, stamp, newest });
                leaf.append(count, head, place);
                return None;
            }
            self.divide(&top, segment, &leaves, at);
        }
    }

    /// Replaces a full leaf by two, and a full segment by two.
    fn divide(&self, top: &Index<Segment>, segment: &Arc<Segment>, leaves: &Index<Leaf>, at: usize) {
        let keys = self.sorted(&leaves.children[at]);
        let (left, right) = keys.split_at(keys.len() / 2);
        let mut divided = leaves.clone();
        let leaf_of = |keys: &[Sorted<'_>]| {
            let leaf = Leaf::new();
            keys.iter().enumerate().for_each(|(at, sorted)| leaf.append(at, sorted.head, sorted.place));
            Arc::new(leaf)
        };
        divided.children[at] = leaf_of(left);
        let Sorted { head, key, .. } = right[0];
        divided.insert(at, head, key.data.slice(..key.key().len()), leaf_of(right));
        if divided.children.len() <= SEGMENT_LEAVES {
            segment.leaves.store(Arc::new(divided));
            return;
        }
        let (right, head, key) = divided.split_off(SEGMENT_LEAVES / 2);
        let place = top.children.iter().position(|child| Arc::ptr_eq(child, segment)).expect("found in it");
        let mut top = top.clone();
        let segment = |leaves| Arc::new(Segment { leaves: ArcSwap::from_pointee(leaves) });
        // New ones both: a reader with the old segment finds all there was.
        top.children[place] = segment(divided);
        top.insert(place, head, key, segment(right));
        self.top.store(Arc::new(top));
    }

    #[inline]
    fn find(&self, leaf: &Leaf, head: u64, key: &[u8]) -> Option<&Key> {
        let count = leaf.count.load(Acquire);
        let same_head = (0..count).filter(|&at| leaf.heads[at].load(Relaxed) == head);
        same_head.map(|at| self.key_at(leaf, at)).find(|found| found.key() == key)
    }

    #[inline]
    fn key_at(&self, leaf: &Leaf, at: usize) -> &Key {
        self.keys.get(leaf.keys[at].load(Relaxed)).expect("added before it was counted")
    }

    #[inline]
    fn value_at(&self, place_plus_one: u32) -> Option<&Value> {
        self.values.get(place_plus_one.checked_sub(1)?)
    }

    /// What is known of a key up to a stamp.
    #[inline]
    fn known<'a>(&'a self, key: &'a Key, limit: Stamp) -> Option<Lent<'a>> {
        let mut newer = self.value_at(key.newest.load(Acquire));
        while let Some(value) = newer {
            if value.stamp <= limit {
                return Some(value.value.as_deref());
            }
            newer = self.value_at(value.older);
        }
        (key.stamp <= limit).then(|| key.is_put.then(|| &key.data[key.key().len()..]))
    }

    /// The same, kept.
    fn kept(&self, key: &Key, limit: Stamp) -> Option<Known> {
        let mut newer = self.value_at(key.newest.load(Acquire));
        while let Some(value) = newer {
            if value.stamp <= limit {
                return Some(value.value.clone());
            }
            newer = self.value_at(value.older);
        }
        (key.stamp <= limit).then(|| key.is_put.then(|| key.data.slice(key.key().len()..)))
    }

    /// The keys of a leaf in order.
    fn sorted(&self, leaf: &Leaf) -> Vec<Sorted<'_>> {
        let sorted = |at: usize| Sorted {
            head: leaf.heads[at].load(Relaxed),
            place: leaf.keys[at].load(Relaxed),
            key: self.key_at(leaf, at),
        };
        let mut keys: Vec<_> = (0..leaf.count.load(Acquire)).map(sorted).collect();
        keys.sort_unstable_by(|a, b| a.head.cmp(&b.head).then_with(|| a.key.key().cmp(b.key.key())));
        keys
    }

    /// What is known of the keys of a leaf that lie in a range, in order.
    fn known_in(&self, leaf: &Leaf, bounds: KeyBounds<'_>, limit: Stamp) -> Vec<(Bytes, Known)> {
        let keys = self.sorted(leaf);
        let inside = keys.iter().map(|sorted| sorted.key).filter(|key| contains(bounds, key.key()));
        inside.filter_map(|key| Some((key.data.slice(..key.key().len()), self.kept(key, limit)?))).collect()
    }

    /// All that is known up to a stamp, in order, in pieces of some keys.
    pub(crate) fn for_all<E>(
        &self,
        limit: Stamp,
        mut visit: impl FnMut(&[(&[u8], Lent<'_>)]) -> Result<(), E>,
    ) -> Result<(), E> {
        let top = self.top.load_full();
        for segment in &top.children {
            let leaves = segment.leaves.load_full();
            let mut some = Vec::with_capacity(SEGMENT_LEAVES * LEAF_KEYS);
            for leaf in &leaves.children {
                let known = self.sorted(leaf);
                some.extend(known.iter().filter_map(|Sorted { key, .. }| Some((key.key(), self.known(key, limit)?))));
            }
            if !some.is_empty() {
                visit(&some)?;
            }
        }
        Ok(())
    }

    /// What is known of a key up to a stamp.
    pub(crate) fn get<R>(&self, key: &[u8], limit: Stamp, read: impl FnOnce(Lent<'_>) -> R) -> Option<R> {
        let head = head_of(key);
        let top = self.top.load();
        let leaves = top.children[top.child_for(head, key)].leaves.load();
        let found = self.find(&leaves.children[leaves.child_for(head, key)], head, key)?;
        self.known(found, limit).map(read)
    }

    /// At least one key in a range of which something is known up to a stamp, if there is one; more of the same leaf, in order from
    /// the front.
    pub(crate) fn first_in(&self, bounds: KeyBounds<'_>, limit: Stamp) -> Vec<(Bytes, Known)> {
        let mut start: Option<Bytes> = None; // where the next leaf begins
        loop {
            let begin = match (&start, bounds.0) {
                (Some(key), _) => key,
                (None, Bound::Included(key) | Bound::Excluded(key)) => key,
                (None, Bound::Unbounded) => &[],
            };
            let head = head_of(begin);
            let top = self.top.load();
            let segment_at = top.child_for(head, begin);
            let leaves = top.children[segment_at].leaves.load();
            let at = leaves.child_for(head, begin);
            let end = leaves.keys.get(at).or_else(|| top.keys.get(segment_at));
            let found = self.known_in(&leaves.children[at], bounds, limit);
            let is_behind = |end: &Bytes| match bounds.1 {
                Bound::Included(last) => end[..] > *last,
                Bound::Excluded(after) => end[..] >= *after,
                Bound::Unbounded => false,
            };
            match end {
                Some(end) if found.is_empty() && !is_behind(end) => start = Some(end.clone()),
                _ => return found,
            }
        }
    }

    /// The same, in order from the back.
    pub(crate) fn last_in(&self, bounds: KeyBounds<'_>, limit: Stamp) -> Vec<(Bytes, Known)> {
        let mut before: Option<Bytes> = None; // where the last leaf began
        loop {
            let top = self.top.load();
            let end = match (&before, bounds.1) {
                (Some(key), _) => Bound::Excluded(&key[..]),
                (None, end) => end,
            };
            let segment_at = top.last_child_in(end);
            let leaves = top.children[segment_at].leaves.load();
            let at = leaves.last_child_in(end);
            let begin =
                at.checked_sub(1).map(|i| &leaves.keys[i]).or_else(|| segment_at.checked_sub(1).map(|i| &top.keys[i]));
            let mut found = self.known_in(&leaves.children[at], bounds, limit);
            found.reverse();
            let is_before = |begin: &Bytes| match bounds.0 {
                Bound::Included(first) | Bound::Excluded(first) => begin[..] <= *first,
                Bound::Unbounded => false,
            };
            match begin {
                Some(begin) if found.is_empty() && !is_before(begin) => before = Some(begin.clone()),
                _ => return found,
            }
        }
    }

    /// How many of the keys up to a stamp were there before, of those for which this was unknown. `ask` says whether a key lies
    /// below. Each key is asked for once; then O(keys that came since the last call).
    pub(crate) fn existed_unknown<E>(
        &self,
        limit: Stamp,
        mut ask: impl FnMut(&[u8]) -> Result<bool, E>,
    ) -> Result<u64, E> {
        let count = u32::try_from(self.keys.len()).expect("places are 32 bits long");
        let settled = self.settled.load(Relaxed);
        #[expect(clippy::cast_possible_truncation, reason = "the low half is taken on purpose")]
        let (mut place, mut existed) = ((settled >> 32) as u32, settled as u32);
        let key_at = |place| self.keys.get(place).expect("it was counted");
        if place > 0 && key_at(place - 1).stamp > limit {
            (place, existed) = (0, 0); // of a version that is older than somebody else's
        }
        // In the order of coming stamps do not fall.
        while place < count && key_at(place).stamp <= limit {
            let key = key_at(place);
            if !key.existed.was_known() && key.existed.get(|| ask(key.key()))? {
                existed += 1;
            }
            place += 1;
        }
        // Each is the truth about so many keys: the larger one is worth more. No partner: keys are loaded by their count.
        self.settled.fetch_max(u64::from(place) << 32 | u64::from(existed), Relaxed);
        Ok(u64::from(existed))
    }

    /// By how many entries a range changed up to a stamp; `ask` says whether a key lies below. O(keys in the range).
    pub(crate) fn change_in<E>(
        &self,
        bounds: KeyBounds<'_>,
        limit: Stamp,
        mut ask: impl FnMut(&[u8]) -> Result<bool, E>,
    ) -> Result<i64, E> {
        let top = self.top.load();
        let (begin, all) = match bounds.0 {
            Bound::Included(key) | Bound::Excluded(key) => (key, false),
            Bound::Unbounded => (&[][..], true),
        };
        let head = head_of(begin);
        let first_segment = if all { 0 } else { top.child_for(head, begin) };
        let last_segment = top.last_child_in(bounds.1);
        let mut change = 0;
        for (number, segment) in top.children.iter().enumerate().take(last_segment + 1).skip(first_segment) {
            let leaves = segment.leaves.load();
            let first = if number == first_segment && !all { leaves.child_for(head, begin) } else { 0 };
            let last = if number == last_segment { leaves.last_child_in(bounds.1) } else { leaves.children.len() - 1 };
            for leaf in leaves.children.iter().take(last + 1).skip(first) {
                let keys = (0..leaf.count.load(Acquire)).map(|at| self.key_at(leaf, at));
                for key in keys.filter(|key| contains(bounds, key.key())) {
                    if let Some(known) = self.known(key, limit) {
                        let existed = key.existed.get(|| ask(key.key()))?;
                        change += i64::from(known.is_some()) - i64::from(existed);
                    }
                }
            }
        }
        Ok(change)
    }
}

impl<C> Index<C> {
    fn of(child: C) -> Self {
        Self { heads: Vec::new(), keys: Vec::new(), children: vec![Arc::new(child)] }
    }

    /// The child that a key belongs to.
    #[inline]
    fn child_for(&self, head: u64, key: &[u8]) -> usize {
        let mut at = self.heads.partition_point(|&other| other < head);
        while at < self.heads.len() && self.heads[at] == head && self.keys[at][..] <= *key {
            at += 1;
        }
        at
    }

    /// The last child that can have keys before an end.
    fn last_child_in(&self, end: Bound<&[u8]>) -> usize {
        match end {
            Bound::Unbounded => self.heads.len(),
            Bound::Included(key) => self.keys.partition_point(|begin| begin[..] <= *key),
            Bound::Excluded(key) => self.keys.partition_point(|begin| begin[..] < *key),
        }
    }

    /// Adds a child behind the one at `at`.
    fn insert(&mut self, at: usize, head: u64, key: Bytes, child: Arc<C>) {
        self.heads.insert(at, head);
        self.keys.insert(at, key);
        self.children.insert(at + 1, child);
    }

    /// Keeps `count` children; the others, and where they begin.
    fn split_off(&mut self, count: usize) -> (Self, u64, Bytes) {
        let children = self.children.split_off(count);
        let (heads, keys) = (self.heads.split_off(count), self.keys.split_off(count));
        let (head, key) = (self.heads.pop().expect("more than one"), self.keys.pop().expect("more than one"));
        (Self { heads, keys, children }, head, key)
    }
}

impl Leaf {
    fn new() -> Self {
        Self {
            count: AtomicUsize::new(0),
            heads: [const { AtomicU64::new(0) }; LEAF_KEYS],
            keys: [const { AtomicU32::new(0) }; LEAF_KEYS],
        }
    }

    fn append(&self, at: usize, head: u64, place: u32) {
        self.heads[at].store(head, Relaxed);
        self.keys[at].store(place, Relaxed);
        // Partner: the loads with acquire.
        self.count.store(at + 1, Release);
    }
}

impl Key {
    #[inline]
    fn key(&self) -> &[u8] {
        &self.data[..self.key_len as usize]
    }
}

fn contains((start, end): KeyBounds<'_>, key: &[u8]) -> bool {
    let after_start = match start {
        Bound::Included(start) => key >= start,
        Bound::Excluded(start) => key > start,
        Bound::Unbounded => true,
    };
    after_start
        && match end {
            Bound::Included(end) => key <= end,
            Bound::Excluded(end) => key < end,
            Bound::Unbounded => true,
        }
}

impl fmt::Debug for KeyMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyMap").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{collections::BTreeMap, thread};

    /// Keys that heads tell apart, and keys that they do not.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            (0..500_u16).prop_map(|n| n.to_be_bytes().to_vec()),
            (0..300_u16).prop_map(|n| [&b"the same"[..], &n.to_be_bytes()].concat()),
            (0..4_usize).prop_map(|n| vec![0; n]),
        ]
    }

    fn put(key: &[u8], value: Option<&[u8]>, existed: Option<bool>) -> Put {
        let data = Bytes::from([key, value.unwrap_or_default()].concat());
        Put { data, key_len: key.len(), is_put: value.is_some(), existed }
    }

    fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
        prop_oneof![Just(Bound::Unbounded), key().prop_map(Bound::Included), key().prop_map(Bound::Excluded)]
    }

    fn walk(
        map: &KeyMap,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        limit: Stamp,
        from_back: bool,
    ) -> Vec<(Bytes, Known)> {
        let mut all: Vec<(Bytes, Known)> = Vec::new();
        loop {
            let last = all.last().map(|(key, _)| key.clone());
            let some = match (&last, from_back) {
                (None, false) => map.first_in((start, end), limit),
                (None, true) => map.last_in((start, end), limit),
                (Some(last), false) => map.first_in((Bound::Excluded(last), end), limit),
                (Some(last), true) => map.last_in((start, Bound::Excluded(last)), limit),
            };
            if some.is_empty() {
                return all;
            }
            all.extend(some);
        }
    }

    proptest! {
        #[test]
        fn it_is_a_sorted_map_at_every_stamp(
            puts in prop::collection::vec((key(), any::<Option<u8>>(), any::<bool>()), 1..600),
            ranges in prop::collection::vec((bound(), bound()), 1..12),
        ) {
            let map = KeyMap::new();
            let mut model: BTreeMap<Vec<u8>, Option<u8>> = BTreeMap::new();
            let mut states = vec![model.clone()];
            // Of what lies below it is often not known whether it has a key.
            let is_below = |key: &[u8]| key.last().is_some_and(|byte| byte % 3 == 0);
            let mut unknown = vec![0];
            for (i, (key, value, looked)) in puts.iter().enumerate() {
                let known = model.get(key).map(Option::is_some);
                let existed = looked.then(|| known.unwrap_or_else(|| is_below(key)));
                unknown.push(unknown[i] + u64::from(known.is_none() && existed.is_none() && is_below(key)));
                let before = map.put(Stamp(i as u64 + 1), put(key, value.as_ref().map(std::slice::from_ref), existed));
                prop_assert_eq!(before, known);
                model.insert(key.clone(), *value);
                states.push(model.clone());
            }
            prop_assert_eq!(map.keys.len(), model.len());
            let asked = std::cell::RefCell::new(std::collections::BTreeSet::new());
            let ask = |key: &[u8]| if asked.borrow_mut().insert(key.to_vec()) { Ok(is_below(key)) } else { Err("once is enough") };
            // As versions are asked: now a newer one, now an older one.
            let mut stamps: Vec<usize> = (0..states.len()).step_by(states.len().div_ceil(9)).collect();
            stamps.rotate_left(4 % states.len().min(9));
            for (stamp, state) in stamps.into_iter().map(|stamp| (stamp, &states[stamp])) {
                let limit = Stamp(stamp as u64);
                if !stamp.is_multiple_of(4) {
                    prop_assert_eq!(map.existed_unknown(limit, ask), Ok(unknown[stamp]));
                }
                for (key, ..) in &puts {
                    let known = map.get(key, limit, |known| known.map(|v| v[0]));
                    prop_assert_eq!(known, state.get(key).copied());
                }
                let mut all = Vec::new();
                let keep = |some: &[(&[u8], Lent<'_>)]| {
                    all.extend(some.iter().map(|(key, value)| (key.to_vec(), value.map(|v| v[0]))));
                    Ok::<_, ()>(())
                };
                map.for_all(limit, keep).unwrap();
                prop_assert_eq!(all, state.clone().into_iter().collect::<Vec<_>>());
                for (start, end) in &ranges {
                    let (start, end) = (start.as_ref().map(|k| &k[..]), end.as_ref().map(|k| &k[..]));
                    let inside = |(key, _): &(&Vec<u8>, &Option<u8>)| contains((start, end), key);
                    let mut expected: Vec<_> = state.iter().filter(inside).map(|(k, v)| (k.clone(), *v)).collect();
                    let plain = |all: Vec<(Bytes, Known)>| -> Vec<(Vec<u8>, Option<u8>)> {
                        all.into_iter().map(|(k, v)| (k.to_vec(), v.map(|v| v[0]))).collect()
                    };
                    let change = expected.iter().map(|(k, v)| i64::from(v.is_some()) - i64::from(is_below(k))).sum();
                    prop_assert_eq!(map.change_in((start, end), limit, ask), Ok(change));
                    prop_assert_eq!(plain(walk(&map, start, end, limit, false)), expected.clone());
                    expected.reverse();
                    prop_assert_eq!(plain(walk(&map, start, end, limit, true)), expected);
                }
            }
        }
    }

    #[test]
    fn readers_see_their_stamp_while_somebody_adds() {
        const KEYS: u64 = 5000;
        let map = KeyMap::new();
        let done = AtomicU64::new(0);
        let key = |n: u64| Bytes::copy_from_slice(&(n.wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_be_bytes());
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while done.load(Acquire) < KEYS {
                        let limit = done.load(Acquire);
                        let all = walk(&map, Bound::Unbounded, Bound::Unbounded, Stamp(limit), limit.is_multiple_of(2));
                        assert_eq!(all.len() as u64, limit);
                        for n in (1..=limit).rev().take(50) {
                            assert_eq!(map.get(&key(n), Stamp(limit), |v| v == Some(&key(n)[..])), Some(true));
                            assert_eq!(map.get(&key(n), Stamp(n - 1), |_| ()), None);
                        }
                    }
                });
            }
            for n in 1..=KEYS {
                map.put(Stamp(n), put(&key(n), Some(&key(n)), None));
                done.store(n, Release);
            }
        });
    }

    #[test]
    fn a_key_has_all_its_values() {
        let map = KeyMap::new();
        for stamp in 1..=100_000_u64 {
            map.put(Stamp(stamp), put(b"hot", Some(&stamp.to_le_bytes()), None));
            map.put(Stamp(stamp), put(b"hot", None, None)); // the same commit once more
        }
        for stamp in [1, 17, 99_999, 100_000] {
            assert_eq!(map.get(b"hot", Stamp(stamp), |v| v == Some(&stamp.to_le_bytes()[..])), Some(true));
        }
        assert_eq!(map.get(b"hot", Stamp(0), |_| ()), None);
    }
}
