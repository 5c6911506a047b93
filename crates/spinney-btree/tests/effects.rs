//! What a small transaction tells the log, when it stays small, and how little harm its effects do when they are not what was written.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test may")]

mod common;

use common::*;
use spinney_btree::{
    Durability, FamilyTxn, FileError, FileOptions, PagedFile, SMALL_COMMITS, Stamp, TableId, Told, Tuning, Wait,
    page_check,
};
use std::ops::Bound;

const TABLE: TableId = TableId(300);

/// The effects of some operations; `None` when they entered the pages.
fn told_on(bed: &mut Bed, operations: impl FnOnce(&mut spinney_btree::FamilyMut<'_>)) -> Option<Vec<u8>> {
    bed.with(|mut family| operations(&mut family));
    let (mut txn, mut family) = bed.txn.take().unwrap();
    let part = txn.part(OWNER).unwrap();
    family.store(part).unwrap();
    (!part.is_in_pages()).then(|| part.effects().to_vec())
}

fn told(operations: impl FnOnce(&mut spinney_btree::FamilyMut<'_>)) -> Option<Vec<u8>> {
    told_on(&mut Bed::new(4096, 16 << 20), operations)
}

/// A family with a table.
fn filled() -> Bed {
    let map: Map = (0..200u16).map(|i| (i.to_be_bytes().to_vec(), value(i as u8, 30 + i as usize % 9 * 200))).collect();
    Bed::filled(4096, 16 << 20, &Model::from([(TableId::DEFAULT, map.clone()), (TABLE, map)]))
}

/// Brings the effects of one commit into pages, and forgets it.
fn merge(file: &PagedFile, effects: &[u8]) -> Result<(), FileError> {
    let above = (SMALL_COMMITS.add)(None, Stamp(1), Told::Lent(effects));
    let above = above.map_err(|why| FileError::Damaged { at: 0, why })?;
    let mut txn = file.begin(&[OWNER], Wait::Forever)?;
    let part = txn.part(OWNER).unwrap();
    part.enter_pages()?;
    (SMALL_COMMITS.merge)(part, &(SMALL_COMMITS.freeze)(&above))
}

fn why(file: &PagedFile, effects: &[u8]) -> &'static str {
    match merge(file, effects) {
        Err(FileError::Damaged { why, .. }) => why,
        other => panic!("{effects:x?} {other:?}"),
    }
}

/// All there is, in one commit.
fn everything() -> Vec<u8> {
    let operations = |family: &mut spinney_btree::FamilyMut<'_>| {
        let mut tree = family.table(TableId::DEFAULT).unwrap();
        for i in 0..60u16 {
            tree.insert(&i.wrapping_mul(7919).to_be_bytes(), &value(1, i as usize / 3)).unwrap();
        }
        tree.insert(b"large", &value(2, 1500)).unwrap();
        tree.remove(&7919u16.to_be_bytes()).unwrap();
        tree.put(b"put", b"nobody looks").unwrap();
        tree.delete(&15838u16.to_be_bytes()).unwrap();
        tree.remove_range(&(Bound::Included(vec![0]), Bound::Excluded(vec![0, 9]))).unwrap();
        family.table(TABLE).unwrap().insert(b"k", b"v").unwrap();
    };
    told_on(&mut filled(), operations).unwrap()
}

#[test]
fn the_bytes_are_those_of_the_table() {
    let mut bed = filled();
    let bytes = told_on(&mut bed, |family| {
        let mut tree = family.table(TableId::DEFAULT).unwrap();
        tree.insert(b"b", &[5; 130]).unwrap();
        tree.insert(b"a", b"x").unwrap();
        tree.insert(b"c", b"").unwrap();
        tree.insert(b"b", &[6; 130]).unwrap();
        tree.remove(b"a").unwrap();
        tree.insert(&[0, 1], b"n").unwrap();
        tree.put(b"d", b"y").unwrap();
        tree.delete(b"e").unwrap();
        let mut tree = family.table(TABLE).unwrap();
        tree.insert(b"k", b"v").unwrap();
        assert_eq!(tree.remove_range(&(Bound::Included(vec![0, 3]), Bound::Included(vec![0, 4]))).unwrap(), 2);
        tree.insert(&[0, 4], b"w").unwrap();
    });
    let want: Vec<&[u8]> = vec![
        b"\x01",                  // version
        b"\x11\x02\x01\x00\x01n", // put, in the place of another
        b"\x01\x01\x82\x01b",     // put b: its last value; nothing is left of a
        &[6; 130],
        b"\x01\x01\x00c",            // put c
        b"\x21\x01\x01dy",           // put d, was there or not
        b"\x22\x01e",                // delete e likewise
        b"\x1A\xAC\x02\x02\x00\x03", // delete from table 300
        b"\x19\xAC\x02\x02\x01\x00\x04w",
        b"\x09\xAC\x02\x01\x01kv", // put k there
    ];
    assert_eq!(bytes.unwrap(), want.concat());
}

#[test]
fn what_changes_nothing_is_not_told() {
    let bytes = told(|family| {
        let mut tree = family.table(TableId::DEFAULT).unwrap();
        assert!(!tree.remove(b"k").unwrap());
        assert_eq!(tree.remove_range(&all()).unwrap(), 0);
        assert!(tree.insert(&[0; 5000], b"").is_err());
        assert!(!family.drop_table(TABLE).unwrap());
        let mut tree = family.table(TableId::DEFAULT).unwrap();
        tree.insert(b"k", b"v").unwrap();
        tree.remove(b"k").unwrap();
    });
    assert_eq!(bytes.unwrap(), b"");
}

#[test]
fn a_small_put_takes_at_most_six_bytes_more() {
    let bytes = told(|family| {
        family.table(TableId::DEFAULT).unwrap().insert(&[1; 24], &[2; 150]).unwrap();
    });
    assert!(bytes.unwrap().len() <= 24 + 150 + 6);
}

#[test]
fn what_is_large_enters_the_pages() {
    let insert = |len: usize| {
        let value = value(3, len);
        let with_reader = told(|family| {
            let mut tree = family.table(TableId::DEFAULT).unwrap();
            tree.insert_reader(b"k", len as u64, &mut &*value).unwrap();
        });
        let bytes = told(|family| {
            family.table(TableId::DEFAULT).unwrap().insert(b"k", &value).unwrap();
        });
        assert_eq!(bytes, with_reader);
        bytes
    };
    assert!(insert((64 << 10) - 1).is_some());
    assert!(insert(64 << 10).is_none(), "with its key it is longer");
    let removed = |keys: u8| {
        let mut bed = filled();
        told_on(&mut bed, |family| {
            let to = Bound::Excluded(vec![0, keys]);
            let removed = family.table(TABLE).unwrap().remove_range(&(Bound::Unbounded, to));
            assert_eq!(removed.unwrap(), u64::from(keys));
        })
    };
    assert!(removed(64).is_some() && removed(65).is_none());
    assert!(told(|family| family.create_table(TABLE).unwrap()).is_none());
    assert!(
        told(|family| assert_eq!(family.table(TableId::DEFAULT).unwrap().bulk_load([(b"k", b"v")]).unwrap(), 1))
            .is_none()
    );
    assert!(told(|family| assert_eq!(family.table(TableId::DEFAULT).unwrap().clear().unwrap(), 0)).is_none());
    assert!(told(|family| family.drop_all().unwrap()).is_none());
    assert!(told(|family| assert_eq!(family.collect(1).unwrap(), 0)).is_none());
}

/// What a transaction had done goes with it into the pages, over what was committed before and is in memory.
#[test]
fn a_transaction_that_grows_loses_nothing() {
    for limit in [Tuning::default().log_bytes_max, 1 << 18] {
        let tuning = Tuning { log_bytes_max: limit, ..Tuning::default() };
        let options = FileOptions { page_check, small_commits: Some(SMALL_COMMITS), tuning, ..FileOptions::default() };
        let mut bed = Bed::new(4096, 16 << 20);
        bed.file = PagedFile::in_memory(options).unwrap();
        let mut entered = 0;
        for i in 0..9u16 {
            for j in 0..=i * i * 20 {
                let (key, value) = ((j * 37 % 500).to_be_bytes().to_vec(), value(i as u8, j as usize % 700));
                bed.model.get_mut(&TableId::DEFAULT).unwrap().insert(key.clone(), value.clone());
                bed.with(|mut family| family.table(TableId::DEFAULT).unwrap().insert(&key, &value).unwrap());
                let gone = (j * 11 % 500).to_be_bytes().to_vec();
                let there = bed.model.get_mut(&TableId::DEFAULT).unwrap().remove(&gone).is_some();
                let removed = bed.with(|mut family| family.table(TableId::DEFAULT).unwrap().remove(&gone).unwrap());
                assert_eq!(there, removed);
                let len = bed.with(|mut family| family.table(TableId::DEFAULT).unwrap().len().unwrap());
                assert_eq!(len, bed.model[&TableId::DEFAULT].len() as u64);
            }
            bed.commit();
            entered += usize::from(bed.history.last().unwrap().effects.is_none());
            if i % 3 == 2 {
                bed.verify();
            }
        }
        assert!(entered >= 4 && (entered > 4) == (limit == 1 << 18), "{entered} transactions entered the pages");
    }
}

#[test]
fn without_them_every_commit_changes_pages() {
    let file = PagedFile::in_memory(FileOptions { page_check, ..FileOptions::default() }).unwrap();
    let mut txn = file.begin(&[OWNER], Wait::Forever).unwrap();
    let part = txn.part(OWNER).unwrap();
    let mut family = FamilyTxn::new(part).unwrap();
    family.family(part).table(TableId::DEFAULT).unwrap().insert(b"k", b"v").unwrap();
    family.store(part).unwrap();
    assert!(part.is_in_pages());
    txn.commit(Durability::Immediate).unwrap();
}

#[test]
fn every_cut_is_an_error_or_the_beginning() {
    let (file, whole) = (filled().file, everything());
    let mut harmless = 0;
    for len in 0..whole.len() {
        match merge(&file, &whole[..len]) {
            Ok(()) => harmless += 1,
            Err(FileError::Damaged { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert!(harmless < whole.len() / 2, "{harmless}");
    merge(&file, &whole).unwrap();
}

#[test]
fn every_flipped_bit_is_an_error_or_harmless() {
    let (file, whole) = (filled().file, everything());
    let (mut refused, mut harmless) = (0, 0);
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut forged = whole.clone();
            forged[at] ^= 1 << bit;
            match merge(&file, &forged) {
                Ok(()) => harmless += 1,
                Err(FileError::Damaged { .. }) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert!(refused > 500 && harmless > 500, "{refused} {harmless}");
}

/// Asked of what a log has, before any of it is in memory.
#[test]
fn a_log_tells_effects_in_order_each_key_once_and_none_too_long() {
    let check = |effects: &[u8]| (SMALL_COMMITS.check)(effects, 4096);
    let (a, b) = (&b"\x01\x01\x00a"[..], &b"\x02\x01b"[..]);
    let (a_in_9, b_in_9) = (&b"\x09\x09\x01\x00a"[..], &b"\x0A\x09\x01b"[..]);
    let longest =
        |bytes: usize| [&b"\x02"[..], &[0x80 | bytes as u8 & 0x7F, (bytes >> 7) as u8], &vec![b'k'; bytes]].concat();
    for sound in [&[][..], &[a], &[a, b], &[b, a_in_9], &[a, b, a_in_9, b_in_9], &[&longest(1024)]] {
        let version: &[u8] = if sound.is_empty() { b"" } else { b"\x01" };
        assert_eq!(check(&[version, &sound.concat()].concat()), Ok(()), "{sound:x?}");
    }
    for unsorted in [&[b, a][..], &[a, a], &[a_in_9, b], &[a, a_in_9, a_in_9], &[a_in_9, a], &[b, a_in_9, a]] {
        let why = check(&[&b"\x01"[..], &unsorted.concat()].concat());
        assert_eq!(why, Err("the effects of a commit are not in order"), "{unsorted:x?}");
    }
    assert_eq!(check(&[&b"\x01"[..], &longest(1025)].concat()), Err("an effect has a key that is too long"));
    assert_eq!((SMALL_COMMITS.check)(&[&b"\x01"[..], &longest(1025)].concat(), 8192), Ok(()));
    assert_eq!(check(b"\x01\x00"), Err("an effect of unknown kind"));
    assert_eq!(check(&everything()), Ok(()));
}

#[test]
fn what_does_not_fit_is_named() {
    let file = filled().file;
    for (effects, want) in [
        (&b"\x02"[..], "the effects of a commit have an unknown version"),
        (b"\x01", "the effects of a commit are a version and nothing else"),
        (b"\x01\x00", "an effect of unknown kind"),
        (b"\x01\x03\x01k", "an effect of unknown kind"),
        (b"\x01\x41\x01\x01kv", "an effect has bits that mean nothing"),
        (b"\x01\x31\x01\x01kv", "an effect knows what it does not know"),
        (b"\x01\x01\x02\x01k", "an effect ends after its commit"),
        (b"\x01\x02", "an effect ends after its commit"),
        (b"\x01\x02\x81\x00k", "a number in an effect is too long"),
        (b"\x01\x02\xFF\xFF\xFF\xFF\x1Fk", "a number in an effect is too large"),
        (b"\x01\x02\xFF\xFF\xFF\xFF\x8F\x00k", "a number in an effect is too large"),
        (b"\x01\x0A\x00\x01k", "an effect names an impossible table"),
        (b"\x01\x0A\xFF\xFF\xFF\xFF\x0F\x01k", "an effect names an impossible table"),
        (b"\x01\x0A\x09\x01k", "an effect names a table that does not exist"),
        (&[&b"\x01\x02\x81\x08"[..], &[b'k'; 1025]].concat(), "an effect has a key that is too long"),
        (&[&b"\x01\x01\x81\x08\x00"[..], &[b'k'; 1025]].concat(), "an effect has a key that is too long"),
    ] {
        assert_eq!(why(&file, effects), want, "{effects:x?}");
    }
    merge(&file, b"").unwrap();
    merge(&file, b"\x01\x02\x06absent").unwrap();
}

/// The canary: the comparison can fail.
#[test]
#[should_panic(expected = "differs")]
fn a_lost_effect_is_noticed() {
    let mut bed = Bed::new(4096, 16 << 20);
    for k in [b"a", b"b", b"c"] {
        bed.with(|mut family| family.table(TableId::DEFAULT).unwrap().insert(k, b"v").unwrap());
        bed.model.get_mut(&TableId::DEFAULT).unwrap().insert(k.to_vec(), b"v".to_vec());
        bed.commit();
    }
    let lost = bed.history[2].effects.as_mut().unwrap();
    *lost = b"\x01\x01\x01\x01cw".to_vec();
    bed.verify_repeated(4096, 16 << 20);
}
