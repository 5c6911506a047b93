//! The tree is a sorted map: random operations beside the standard library's.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test may")]

mod common;

use common::*;
use proptest::{collection::vec, prelude::*, sample::select};
use spinney_btree::{Bounds, Limits, TableId};
use std::ops::Bound;

/// How keys look.
#[derive(Clone, Copy, Debug)]
enum Keys {
    /// 0 to 3 bytes of few sorts: many hits.
    Tiny,
    /// Big-endian numbers of 8 bytes.
    Numbers,
    /// A long common beginning, then a few bytes.
    Prefixed,
    /// Of the greatest length, or a little shorter, differing at either end.
    Longest,
}

#[derive(Clone, Debug)]
enum Op {
    Insert(u16, u8, usize),
    Put(u16, u8, usize),
    Remove(u16),
    Delete(u16),
    RemoveRange(Bound<u16>, Bound<u16>),
    Clear,
    Bulk(u16, usize),
    Run(u16, u16, usize),
    Read(u16, u16),
    Scan(Bound<u16>, Bound<u16>, u8),
    Commit,
    Store,
    Abort,
    Spill,
    Snapshot,
    Collect(u64),
    Table(u32),
    Create(u32),
    Drop(u32),
    DropAll,
}

fn key(style: Keys, n: u16, page_bytes: usize) -> Vec<u8> {
    let longest = Limits::new(page_bytes).key_bytes_max;
    match style {
        Keys::Tiny => n.to_be_bytes().iter().flat_map(|b| [b & 3, b >> 6]).take(n as usize % 4).collect(),
        Keys::Numbers => u64::from(n).to_be_bytes().to_vec(),
        Keys::Prefixed => {
            [&vec![b'p'; 40 * (n as usize % 3)][..], &n.to_be_bytes(), &vec![b'q'; n as usize % 7]].concat()
        }
        Keys::Longest => {
            let mut key = vec![(n >> 12) as u8; longest - n as usize % 3];
            let end = key.len();
            key[end - 2..].copy_from_slice(&n.to_be_bytes());
            key
        }
    }
}

/// Lengths around every limit.
fn length(page_bytes: usize) -> impl Strategy<Value = usize> {
    let limits = Limits::new(page_bytes);
    let edges =
        [limits.inline_bytes_max, limits.inline_entry_bytes_max, page_bytes, page_bytes - 56, 2 * page_bytes, 64 << 10];
    let edges: Vec<usize> = edges.iter().flat_map(|&edge| [edge - 9, edge - 1, edge, edge + 1]).collect();
    prop_oneof![6 => 0..3usize, 6 => 10..200usize, 3 => 200..limits.inline_bytes_max, 1 => select(edges), 1 => Just((128 << 10) + 77)]
}

fn bound() -> impl Strategy<Value = Bound<u16>> {
    prop_oneof![
        1 => Just(Bound::Unbounded),
        4 => any::<u16>().prop_map(Bound::Included),
        4 => any::<u16>().prop_map(Bound::Excluded)
    ]
}

fn op(page_bytes: usize) -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => (any::<u16>(), any::<u8>(), length(page_bytes)).prop_map(|(k, s, l)| Op::Insert(k, s, l)),
        10 => (any::<u16>(), any::<u8>(), length(page_bytes)).prop_map(|(k, s, l)| Op::Put(k, s, l)),
        10 => any::<u16>().prop_map(Op::Remove),
        5 => any::<u16>().prop_map(Op::Delete),
        3 => (bound(), bound()).prop_map(|(a, b)| Op::RemoveRange(a, b)),
        1 => Just(Op::Clear),
        2 => (1..300u16, length(page_bytes)).prop_map(|(n, l)| Op::Bulk(n, l % 3000)),
        6 => (any::<u16>(), 1..400u16, 0..300usize).prop_map(|(k, n, l)| Op::Run(k, n, l)),
        8 => (any::<u16>(), any::<u16>()).prop_map(|(a, b)| Op::Read(a, b)),
        3 => (bound(), bound(), any::<u8>()).prop_map(|(a, b, c)| Op::Scan(a, b, c)),
        6 => Just(Op::Commit),
        2 => Just(Op::Store),
        2 => Just(Op::Abort),
        4 => Just(Op::Spill),
        2 => Just(Op::Snapshot),
        2 => (0..200u64).prop_map(Op::Collect),
        2 => (0..3u32).prop_map(Op::Table),
        2 => (1..3u32).prop_map(Op::Create),
        1 => (0..3u32).prop_map(Op::Drop),
        1 => Just(Op::DropAll),
    ]
}

struct Run {
    bed: Bed,
    style: Keys,
    page_bytes: usize,
    table: TableId,
}

impl Run {
    fn key(&self, n: u16) -> Vec<u8> {
        key(self.style, n, self.page_bytes)
    }

    fn bounds(&self, a: Bound<u16>, b: Bound<u16>) -> Bounds {
        (a.map(|n| self.key(n)), b.map(|n| self.key(n)))
    }

    /// The table in use, or the default one after that was dropped.
    fn table(&mut self) -> TableId {
        if !self.bed.model.contains_key(&self.table) {
            self.table = TableId::DEFAULT;
        }
        self.table
    }

    fn insert(&mut self, key: Vec<u8>, value: Vec<u8>) {
        let table = self.table();
        let replaced = self.bed.with(|mut family| family.table(table).unwrap().insert(&key, &value).unwrap());
        let old = self.bed.model.get_mut(&table).unwrap().insert(key, value);
        assert_eq!(replaced, old.is_some());
    }

    fn apply(&mut self, op: &Op) {
        let table = self.table();
        match *op {
            Op::Insert(k, seed, len) => self.insert(self.key(k), value(seed, len)),
            Op::Run(k, n, len) => {
                for i in 0..n {
                    self.insert(self.key(k.wrapping_add(i)), value(i as u8, len));
                }
            }
            Op::Put(k, seed, len) => {
                let (key, value) = (self.key(k), value(seed, len));
                self.bed.with(|mut family| family.table(table).unwrap().put(&key, &value).unwrap());
                self.bed.model.get_mut(&table).unwrap().insert(key, value);
            }
            Op::Delete(k) => {
                let key = self.key(k);
                self.bed.with(|mut family| family.table(table).unwrap().delete(&key).unwrap());
                self.bed.model.get_mut(&table).unwrap().remove(&key);
            }
            Op::Remove(k) => {
                let key = self.key(k);
                let removed = self.bed.with(|mut family| family.table(table).unwrap().remove(&key).unwrap());
                assert_eq!(removed, self.bed.model.get_mut(&table).unwrap().remove(&key).is_some());
            }
            Op::RemoveRange(a, b) => {
                let bounds = self.bounds(a, b);
                let removed = self.bed.with(|mut family| family.table(table).unwrap().remove_range(&bounds).unwrap());
                let map = self.bed.model.get_mut(&table).unwrap();
                let before = map.len();
                map.retain(|key, _| !contains(&bounds, key));
                assert_eq!(removed, (before - map.len()) as u64);
            }
            Op::Clear => {
                let removed = self.bed.with(|mut family| family.table(table).unwrap().clear().unwrap());
                let map = self.bed.model.get_mut(&table).unwrap();
                assert_eq!(removed, map.len() as u64);
                map.clear();
            }
            Op::Bulk(n, len) => {
                let last = self.bed.model[&table].keys().next_back().cloned();
                let mut keys: Vec<Vec<u8>> = (0..n).map(|i| self.key(i.wrapping_mul(61))).collect();
                keys.sort();
                keys.dedup();
                keys.retain(|key| last.as_ref().is_none_or(|last| key > last));
                let entries: Vec<_> = keys.into_iter().enumerate().map(|(i, key)| (key, value(i as u8, len))).collect();
                let count = self.bed.with(|mut family| {
                    family.table(table).unwrap().bulk_load(entries.iter().map(|(k, v)| (k, v))).unwrap()
                });
                assert_eq!(count, entries.len() as u64);
                self.bed.model.get_mut(&table).unwrap().extend(entries);
            }
            Op::Read(a, b) => {
                let (key, other) = (self.key(a), u64::from(b));
                let map = &self.bed.model[&table];
                let want = map.get(&key).cloned();
                let before = map.range::<Vec<u8>, _>((Bound::Unbounded, Bound::Excluded(&key))).count() as u64;
                let len = map.len() as u64;
                let (first, last) = (map.first_key_value(), map.last_key_value());
                let ends = [first, last].map(|end| end.map(|(k, v)| (k.clone(), v.clone())));
                self.bed.with(|mut family| {
                    let tree = family.table(table).unwrap();
                    let tree = tree.read();
                    assert_eq!(tree.get(&key).unwrap().map(|v| v.to_vec()), want);
                    assert_eq!(tree.get_with(&key, <[u8]>::to_vec).unwrap(), want);
                    assert_eq!(tree.contains(&key).unwrap(), want.is_some());
                    assert_eq!(tree.value_len(&key).unwrap(), want.as_ref().map(|v| v.len() as u64));
                    let part = tree.read_at(&key, other, 1000).unwrap().map(|v| v.to_vec());
                    let cut = |v: &Vec<u8>| v.iter().copied().skip(other as usize).take(1000).collect::<Vec<_>>();
                    assert_eq!(part, want.as_ref().map(cut));
                    assert_eq!(tree.len().unwrap(), len);
                    assert_eq!(tree.count(&(Bound::Unbounded, Bound::Excluded(key.clone()))).unwrap(), before);
                    let got =
                        [tree.first(), tree.last()].map(|end| end.unwrap().map(|(k, v)| (k.to_vec(), v.to_vec())));
                    assert_eq!(got, ends);
                });
            }
            Op::Scan(a, b, turns) => {
                let bounds = self.bounds(a, b);
                let mut want: std::collections::VecDeque<_> = self.bed.model[&table]
                    .iter()
                    .filter(|(key, _)| contains(&bounds, key))
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect();
                self.bed.with(|mut family| {
                    let tree = family.table(table).unwrap();
                    assert_eq!(tree.read().count(&bounds).unwrap(), want.len() as u64);
                    let mut range = tree.range(bounds);
                    for i in 0.. {
                        let back = turns >> (i % 8) & 1 == 1;
                        let own = |key: &[u8], value: &[u8]| (key.to_vec(), value.to_vec());
                        // Lent and owned in turns.
                        let got = match (back, i % 3) {
                            (true, 0) => range.next_back_with(own).map(Result::unwrap),
                            (false, 0) => range.next_with(own).map(Result::unwrap),
                            (true, _) => {
                                range.next_back().map(|entry| entry.unwrap()).map(|(k, v)| own(&k, &v.read().unwrap()))
                            }
                            (false, _) => {
                                range.next().map(|entry| entry.unwrap()).map(|(k, v)| own(&k, &v.read().unwrap()))
                            }
                        };
                        let want = if back { want.pop_back() } else { want.pop_front() };
                        assert!(got == want, "differs at step {i}");
                        if got.is_none() {
                            break;
                        }
                    }
                    assert!(range.next().is_none() && range.next_back().is_none());
                });
            }
            Op::Commit => {
                self.bed.commit();
                self.bed.verify();
            }
            Op::Store => self.bed.store(),
            Op::Abort => self.bed.abort(),
            Op::Spill => self.bed.spill(),
            Op::Snapshot => {
                let snapshot = (self.bed.file.snapshot(), self.bed.committed.clone());
                self.bed.snapshots.push(snapshot);
            }
            Op::Collect(budget) => {
                self.bed.with(|mut family| {
                    let freed = family.collect(budget).unwrap();
                    assert!(freed >= budget || family.graveyard_is_empty().unwrap());
                });
            }
            Op::Table(id) => self.table = TableId(id),
            Op::Create(id) => {
                let exists = self.bed.model.contains_key(&TableId(id));
                let created = self.bed.with(|mut family| family.create_table(TableId(id)));
                assert_eq!(created.is_ok(), !exists);
                self.bed.model.entry(TableId(id)).or_default();
            }
            Op::Drop(id) => {
                let dropped = self.bed.with(|mut family| family.drop_table(TableId(id)).unwrap());
                assert_eq!(dropped, self.bed.model.remove(&TableId(id)).is_some());
                self.bed.model.entry(TableId::DEFAULT).or_default();
            }
            Op::DropAll => {
                self.bed.with(|mut family| family.drop_all().unwrap());
                self.bed.model = Model::from([(TableId::DEFAULT, Map::new())]);
            }
        }
    }
}

fn contains(bounds: &Bounds, key: &Vec<u8>) -> bool {
    (match &bounds.0 {
        Bound::Unbounded => true,
        Bound::Included(start) => key >= start,
        Bound::Excluded(start) => key > start,
    }) && (match &bounds.1 {
        Bound::Unbounded => true,
        Bound::Included(end) => key <= end,
        Bound::Excluded(end) => key < end,
    })
}

fn run(style: Keys, page_bytes: usize, budget_pages: u64, ops: &[Op]) {
    let bed = Bed::new(page_bytes, budget_pages * page_bytes as u64);
    let mut run = Run { bed, style, page_bytes, table: TableId::DEFAULT };
    for op in ops {
        run.apply(op);
    }
    run.bed.commit();
    run.bed.verify();
    run.bed.verify_snapshots();
    run.bed.verify_repeated(page_bytes, budget_pages * page_bytes as u64);
    // Nothing leaks: an empty family has no page.
    run.bed.with(|mut family| {
        family.drop_all().unwrap();
        family.collect(u64::MAX).unwrap();
        assert!(family.graveyard_is_empty().unwrap());
    });
    run.bed.model = Model::from([(TableId::DEFAULT, Map::new())]);
    run.bed.commit();
    assert_eq!(run.bed.verify().pages(), 0);
    run.bed.verify_snapshots();
}

fn cases(default: u32) -> ProptestConfig {
    let cases = std::env::var("SPINNEY_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn the_tree_is_a_sorted_map(
        style in select(vec![Keys::Tiny, Keys::Numbers, Keys::Prefixed, Keys::Longest]),
        budget in select(vec![16u64, 64, 4096]),
        ops in vec(op(4096), 1..150),
    ) {
        run(style, 4096, budget, &ops);
    }
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn so_it_is_in_larger_pages(
        style in select(vec![Keys::Tiny, Keys::Numbers, Keys::Prefixed, Keys::Longest]),
        page_bytes in select(vec![16384usize, 65536]),
        ops in vec(op(65536), 1..100),
    ) {
        run(style, page_bytes, 64, &ops);
    }
}

fn replay(style: Keys, page_bytes: usize, ops: &[Op]) {
    run(style, page_bytes, 64, ops);
}

/// A branch that was only poor, and beyond help, when it was looked at first, lost its last separator in the same repair.
#[test]
fn a_branch_that_loses_its_separators_during_a_repair_is_helped() {
    use Op::{Insert, RemoveRange, Run};
    let range = RemoveRange(Bound::Included(6647), Bound::Included(36863));
    let ops = [Insert(0, 0, 0), Insert(20480, 0, 0), Run(28734, 5, 0), Run(4597, 8, 0), Insert(32768, 0, 0), range];
    replay(Keys::Longest, 65536, &ops);
}

/// The separator that would have helped a branch with one child had no room in the parent.
#[test]
fn a_parent_is_split_to_help_a_branch_with_one_child() {
    use Op::{Bulk, Insert, RemoveRange, Run};
    let mut ops: Vec<Op> = [24576, 28672].map(|k| Insert(k, 0, 0)).into();
    ops.push(Run(2854, 239, 107));
    ops.extend([28673, 12288, 7435, 16384, 20638, 12289, 12290, 22985, 8192].map(|k| Insert(k, 0, 0)));
    ops.extend([Bulk(1, 0), Insert(8192, 0, 0), Insert(8193, 0, 0), Run(8192, 43, 0), Run(16368, 68, 265)]);
    ops.push(RemoveRange(Bound::Excluded(5778), Bound::Unbounded));
    replay(Keys::Longest, 4096, &ops);
}

/// A range without end emptied the last leaf, which no repair came to.
#[test]
fn the_last_leaf_goes_when_a_range_without_end_empties_it() {
    let ops = [Op::Run(28770, 34, 114), Op::RemoveRange(Bound::Included(23492), Bound::Unbounded), Op::Clear];
    replay(Keys::Prefixed, 4096, &ops);
}
