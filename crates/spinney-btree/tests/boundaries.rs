//! Every length around every limit, at every page size.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test may")]

mod common;

use common::*;
use spinney_btree::{Limits, TableId, TreeError};
use std::io::Read;

const PAGE_SIZES: [usize; 3] = [4096, 16384, 65536];

#[test]
fn values_of_every_length_come_back_whole_and_in_part() {
    for page_bytes in PAGE_SIZES {
        let limits = Limits::new(page_bytes);
        let mut lengths: Vec<usize> = [
            limits.inline_bytes_max,
            limits.inline_entry_bytes_max,
            page_bytes - 56,
            page_bytes,
            2 * page_bytes,
            64 << 10,
            128 << 10,
            (1 << 20) + page_bytes,
            5 << 20, // more than an extent's first piece, and at 4 KiB more chunks than a head lists beside a long key
            12 << 20,
        ]
        .into_iter()
        .flat_map(|edge| (edge - 2)..=(edge + 2))
        .collect();
        lengths.extend(0..4);
        let mut bed = Bed::new(page_bytes, 16 << 20);
        for key_len in [0, 1, 4, 5, 100, limits.key_bytes_max - 1, limits.key_bytes_max] {
            // The long ones with one key length are enough.
            for &len in lengths.iter().filter(|&&len| len < 1 << 20 || key_len == limits.key_bytes_max) {
                let mut key = vec![b'k'; key_len];
                if let Some(last) = key.last_mut() {
                    *last = len as u8;
                }
                let value = value(len as u8, len);
                bed.with(|mut family| {
                    let mut tree = family.table(TableId::DEFAULT).unwrap();
                    tree.insert(&key, &value).unwrap();
                    let tree = tree.read();
                    assert!(tree.get(&key).unwrap().unwrap() == value, "{page_bytes} {key_len} {len}");
                    assert_eq!(tree.value_len(&key).unwrap(), Some(len as u64));
                    for offset in [0, 1, page_bytes, 65535, 65536, 65537, len.saturating_sub(1), len, len + 1] {
                        for part in [0, 1, 2, 70_000, usize::MAX] {
                            let want = value.get(offset..).unwrap_or_default();
                            let got = tree.read_at(&key, offset as u64, part).unwrap().unwrap();
                            assert!(
                                got == want[..part.min(want.len())],
                                "{page_bytes} {key_len} {len} {offset} {part}"
                            );
                        }
                    }
                });
                bed.model.get_mut(&TableId::DEFAULT).unwrap().insert(key, value);
            }
            bed.commit();
            bed.verify();
        }
        // All of it is given back.
        bed.with(|mut family| family.table(TableId::DEFAULT).unwrap().clear().unwrap());
        bed.model.get_mut(&TableId::DEFAULT).unwrap().clear();
        while bed.with(|mut family| family.collect(10).unwrap()) > 0 {
            bed.commit();
            bed.verify();
        }
        assert_eq!(bed.verify().pages(), 0);
    }
}

#[test]
fn beyond_the_limits_is_a_typed_error_that_changes_nothing() {
    for page_bytes in PAGE_SIZES {
        let limits = Limits::new(page_bytes);
        let mut bed = Bed::new(page_bytes, 16 << 20);
        bed.with(|mut family| {
            let mut tree = family.table(TableId::DEFAULT).unwrap();
            let key = vec![1; limits.key_bytes_max + 1];
            assert!(
                matches!(tree.insert(&key, b"v"), Err(TreeError::KeyTooLong { bytes, limit }) if bytes == limit + 1)
            );
            let endless = &mut std::io::repeat(7);
            let too_large = tree.insert_reader(b"k", limits.value_bytes_max + 1, endless);
            assert!(matches!(too_large, Err(TreeError::ValueTooLarge { .. })));
            assert!(tree.insert(&key[1..], b"v").is_ok());
            assert!(!tree.read().contains(&key).unwrap() && !tree.remove(&key).unwrap());
        });
    }
}

#[test]
fn three_values_of_1_kib_share_a_leaf_of_4_kib() {
    let mut bed = Bed::new(4096, 1 << 20);
    for i in 0..3u64 {
        let (key, value) = (i.to_be_bytes().to_vec(), value(i as u8, 1024));
        bed.with(|mut family| family.table(TableId::DEFAULT).unwrap().insert(&key, &value).unwrap());
        bed.model.get_mut(&TableId::DEFAULT).unwrap().insert(key, value);
    }
    bed.commit();
    assert_eq!(bed.verify().pages(), 1);
}

/// More than 65 535 entries, of a byte or two each, in the largest page: the slots end long before counts do.
#[test]
fn a_leaf_of_the_smallest_entries_is_full_before_its_count_is() {
    let mut bed = Bed::in_pages(65536, 16 << 20);
    let entries: Vec<_> = (0..70_000u32).map(|i| (i.to_be_bytes()[1..].to_vec(), vec![])).collect();
    bed.with(|mut family| {
        let mut tree = family.table(TableId::DEFAULT).unwrap();
        for (key, value) in &entries {
            tree.insert(key, value).unwrap();
        }
    });
    bed.model.insert(TableId::DEFAULT, entries.into_iter().collect());
    bed.commit();
    bed.verify();
}

#[test]
fn a_large_value_streams_through_a_reader() {
    let mut bed = Bed::new(4096, 8 << 20);
    let whole = value(3, (3 << 20) + 123);
    bed.with(|mut family| {
        let mut tree = family.table(TableId::DEFAULT).unwrap();
        assert!(!tree.insert_reader(b"big", whole.len() as u64, &mut &whole[..]).unwrap());
        assert!(tree.insert_reader(b"big", 5, &mut &b"small"[..]).unwrap());
        assert_eq!(tree.get(b"big").unwrap().unwrap(), "small");
        assert!(tree.insert_reader(b"big", whole.len() as u64, &mut (&whole[..]).chain(&b"more"[..])).unwrap());
    });
    bed.model.get_mut(&TableId::DEFAULT).unwrap().insert(b"big".to_vec(), whole.clone());
    bed.commit();
    bed.verify();
}

#[test]
fn a_reader_that_ends_early_breaks_the_transaction() {
    let mut bed = Bed::in_pages(4096, 8 << 20);
    bed.with(|mut family| {
        let mut tree = family.table(TableId::DEFAULT).unwrap();
        assert!(matches!(tree.insert_reader(b"k", 1 << 20, &mut &b"short"[..]), Err(TreeError::Source(_))));
        assert!(matches!(tree.insert(b"k", b"v"), Err(TreeError::Broken)));
        assert!(matches!(family.collect(1), Ok(0) | Err(TreeError::Broken)));
    });
    let (mut txn, mut family) = bed.txn.take().unwrap();
    assert!(family.is_broken());
    assert!(matches!(family.store(txn.part(OWNER).unwrap()), Err(TreeError::Broken)));
}

#[test]
fn input_out_of_order_breaks_the_transaction() {
    let mut bed = Bed::in_pages(4096, 8 << 20);
    bed.with(|mut family| {
        let mut tree = family.table(TableId::DEFAULT).unwrap();
        let entries = [(b"a", b"1"), (b"c", b"1"), (b"b", b"1")];
        assert!(matches!(tree.bulk_load(entries), Err(TreeError::Unsorted { at: 2 })));
        assert!(matches!(tree.remove(b"a"), Err(TreeError::Broken)));
    });
}

/// Somebody who catches a panic of his own iterator must not be able to commit what it left.
#[test]
fn a_panic_of_the_callers_iterator_breaks_the_transaction() {
    for at in 0..40u64 {
        let mut bed = Bed::in_pages(4096, 8 << 20);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            bed.with(|mut family| {
                let entries = (0..100u64).map(|i| {
                    if i == at {
                        std::panic::resume_unwind(Box::new("the caller's")); // no message on stderr
                    }
                    (i.to_be_bytes(), [7; 500])
                });
                family.table(TableId::DEFAULT).unwrap().bulk_load(entries)
            })
        }));
        assert!(caught.is_err());
        let (mut txn, mut family) = bed.txn.take().unwrap();
        assert!(matches!(family.store(txn.part(OWNER).unwrap()), Err(TreeError::Broken)));
    }
}

fn stats_of_default(bed: &mut Bed) -> spinney_btree::TreeStats {
    let (txn, family) = bed.txn.as_mut().unwrap();
    let part = txn.part(OWNER).unwrap();
    let root = family.family(part).table(TableId::DEFAULT).unwrap().root();
    spinney_btree::stats(part, OWNER, TableId::DEFAULT, root).unwrap()
}

/// Divided leaves alone would be 0.69 full. The second memory is a fraction of the tree: most pages were written early.
#[test]
fn random_entries_of_one_transaction_leave_leaves_three_quarters_full() {
    for memory in [64 << 20, 1 << 20] {
        let mut bed = Bed::in_pages(4096, memory);
        // Multiplied by an odd number, numbers are all different and in no order.
        let keys: Vec<[u8; 8]> = (0..20_000u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()).collect();
        bed.with(|mut family| {
            let mut tree = family.table(TableId::DEFAULT).unwrap();
            for (n, key) in keys.iter().enumerate() {
                assert!(!tree.insert(key, &value(n as u8, 150)).unwrap());
            }
        });
        let stats = stats_of_default(&mut bed);
        assert!(stats.leaf_fill > 0.76, "{memory} bytes: {stats:?}");
        let map = keys.iter().enumerate().map(|(n, key)| (key.to_vec(), value(n as u8, 150)));
        bed.model.insert(TableId::DEFAULT, map.collect());
        bed.commit();
        bed.verify();
    }
}

#[test]
fn entries_in_order_leave_full_leaves() {
    for descending in [false, true] {
        let mut bed = Bed::in_pages(4096, 64 << 20);
        let mut keys: Vec<u64> = (0..20_000).collect();
        if descending {
            keys.reverse();
        }
        bed.with(|mut family| {
            let mut tree = family.table(TableId::DEFAULT).unwrap();
            for key in keys {
                tree.insert(&key.to_be_bytes(), &value(key as u8, 100)).unwrap();
            }
        });
        let stats = stats_of_default(&mut bed);
        assert!(stats.leaf_fill > 0.95 && stats.branch_pages <= 6, "descending: {descending}, {stats:?}");
    }
}

#[test]
fn what_is_left_after_removals_is_not_spread_thin() {
    let mut bed = Bed::in_pages(4096, 64 << 20);
    bed.with(|mut family| {
        let mut tree = family.table(TableId::DEFAULT).unwrap();
        for key in 0..20_000u64 {
            tree.insert(&key.to_be_bytes(), &value(key as u8, 100)).unwrap();
        }
        for key in (0..20_000u64).filter(|key| key % 50 != 0) {
            assert!(tree.remove(&key.to_be_bytes()).unwrap());
        }
    });
    let map = (0..20_000u64).filter(|key| key % 50 == 0).map(|key| (key.to_be_bytes().to_vec(), value(key as u8, 100)));
    bed.model.insert(TableId::DEFAULT, map.collect());
    bed.commit();
    let report = bed.verify();
    assert!(report.poor_pages <= 1 && report.pages() < 40, "{report:?}");
}

/// The cost of a range delete is that of its edges: nearly every page goes to the graveyard unread.
#[test]
fn a_range_delete_leaves_the_pages_between_alone() {
    let mut bed = Bed::in_pages(4096, 64 << 20);
    let entries: Vec<_> = (0..200_000u64).map(|key| (key.to_be_bytes().to_vec(), value(key as u8, 20))).collect();
    bed.with(|mut family| {
        family.table(TableId::DEFAULT).unwrap().bulk_load(entries.iter().map(|(k, v)| (k, v))).unwrap()
    });
    bed.model.insert(TableId::DEFAULT, entries.iter().cloned().collect());
    bed.commit();
    let before = bed.verify().pages();
    let bounds = (
        std::ops::Bound::Excluded(17u64.to_be_bytes().to_vec()),
        std::ops::Bound::Excluded(199_000u64.to_be_bytes().to_vec()),
    );
    assert_eq!(bed.with(|mut family| family.table(TableId::DEFAULT).unwrap().remove_range(&bounds).unwrap()), 198_982);
    bed.model.insert(
        TableId::DEFAULT,
        entries
            .into_iter()
            .filter(|(key, _)| *key <= 17u64.to_be_bytes().to_vec() || *key >= 199_000u64.to_be_bytes().to_vec())
            .collect(),
    );
    let (txn, _) = bed.txn.as_mut().unwrap();
    let part = txn.part(OWNER).unwrap();
    // Two branches of leaves are freed from their parents, the rest is buried.
    assert!(part.claimed_pages() < 20, "{}", part.claimed_pages());
    bed.commit();
    let report = bed.verify();
    assert!(report.graveyard_pages > before / 2);
    let mut rounds = 0;
    while bed.with(|mut family| family.collect(100).unwrap()) > 0 {
        bed.commit();
        assert!(bed.verify().graveyard_pages <= report.graveyard_pages - 100 * rounds);
        rounds += 1;
    }
    assert!(rounds > 10 && bed.verify().graveyard_pages == 0);
}

/// What cannot be done with a table that is there or is not, and with a root that is none.
#[test]
fn tables_and_roots_that_do_not_fit_are_told_apart() {
    let id = TableId(9);
    let mut bed = Bed::new(4096, 16 << 20);
    assert!(
        matches!(bed.with(|mut family| family.table(id).map(drop)), Err(TreeError::NoTable(missing)) if missing == id)
    );
    bed.with(|mut family| family.create_table(id)).unwrap();
    let again = bed.with(|mut family| family.create_table(id));
    assert!(matches!(again, Err(TreeError::TableExists(there)) if there == id), "{again:?}");
    let directory = bed.with(|mut family| family.create_table(TableId::DIRECTORY));
    assert!(matches!(directory, Err(TreeError::NoTable(TableId::DIRECTORY))), "{directory:?}");
    let root = spinney_btree::FamilyRoot::decode(OWNER, &[0xFF; 64]);
    assert!(matches!(root, Err(TreeError::BadRoot { owner: OWNER, .. })), "{root:?}");
    bed.txn = None;
    bed.file.clone().close().unwrap();
    let closed = spinney_btree::FileError::Closed;
    let begun = bed.file.begin(&[OWNER], spinney_btree::Wait::Never).map_err(TreeError::from);
    assert!(matches!(begun, Err(TreeError::File(error)) if error.to_string() == closed.to_string()));
}
