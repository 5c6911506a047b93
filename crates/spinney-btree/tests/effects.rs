//! What a transaction notes for the log, what is left of it, and how little harm it does when it is not what was written.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test may")]

mod common;

use common::*;
use spinney_btree::{
    Durability, FamilyTxn, FileError, FileOptions, PagedFile, TableId, Tuning, Wait, WriteTxn, page_check, replay,
};
use std::ops::Bound;

const TABLE: TableId = TableId(300);

/// The effects noted by some operations, shortened.
fn noted(operations: impl FnOnce(&mut spinney_btree::FamilyMut<'_>)) -> Option<Vec<u8>> {
    let mut bed = Bed::new(4096, 16 << 20);
    bed.with(|mut family| operations(&mut family));
    let (txn, mut family) = bed.txn.take().unwrap();
    let mut txn = txn;
    let part = txn.part(OWNER).unwrap();
    family.store(part).unwrap();
    part.effects_mut().map(|effects| effects.clone())
}

/// A family with a table. Replaying in a transaction that is dropped leaves it as it is.
fn opened() -> PagedFile {
    Bed::filled(4096, 16 << 20, &model()).file
}

fn begin(file: &PagedFile) -> WriteTxn {
    file.begin(&[OWNER], Wait::Forever).unwrap()
}

fn model() -> Model {
    let map: Map = (0..200u16).map(|i| (i.to_be_bytes().to_vec(), value(i as u8, 30 + i as usize % 9 * 200))).collect();
    Model::from([(TableId::DEFAULT, map.clone()), (TABLE, map)])
}

fn replayed(file: &PagedFile, commits: &[&[u8]]) -> Result<(), FileError> {
    replay(begin(file).part(OWNER).unwrap(), commits)
}

fn why(file: &PagedFile, commit: &[u8]) -> &'static str {
    match replayed(file, &[commit]) {
        Err(FileError::Damaged { why, .. }) => why,
        other => panic!("{commit:x?} {other:?}"),
    }
}

/// Everything there is, in one commit.
fn everything() -> Vec<u8> {
    noted(|family| {
        let mut tree = family.table(TableId::DEFAULT).unwrap();
        for i in 0..60u16 {
            tree.insert(&i.wrapping_mul(7919).to_be_bytes(), &value(1, i as usize / 3)).unwrap();
        }
        tree.insert(b"large", &value(2, 1500)).unwrap();
        tree.remove(&7919u16.to_be_bytes()).unwrap();
        let range = (Bound::Included(vec![0]), Bound::Excluded(vec![9, 9, 9]));
        tree.remove_range(&range).unwrap();
        family.create_table(TableId(7)).unwrap();
        let mut tree = family.table(TableId(7)).unwrap();
        tree.bulk_load((0..20u8).map(|i| ([i], [i]))).unwrap();
        tree.remove_range(&(Bound::Excluded(vec![7]), Bound::Unbounded)).unwrap();
        tree.clear().unwrap();
        tree.insert(b"k", b"v").unwrap();
        assert!(family.drop_table(TableId(7)).unwrap());
    })
    .unwrap()
}

#[test]
fn the_bytes_are_those_of_the_table() {
    let range = |start: Bound<&[u8]>, end: Bound<&[u8]>| (start.map(<[u8]>::to_vec), end.map(<[u8]>::to_vec));
    let bytes = noted(|family| {
        let mut tree = family.table(TableId::DEFAULT).unwrap();
        tree.insert(b"b", &[5; 130]).unwrap();
        tree.insert(b"a", b"x").unwrap();
        tree.insert(b"c", b"").unwrap();
        tree.insert(b"b", &[6; 130]).unwrap();
        tree.remove(b"a").unwrap();
        tree.remove_range(&range(Bound::Excluded(b"b"), Bound::Unbounded)).unwrap();
        family.create_table(TABLE).unwrap();
        let mut tree = family.table(TABLE).unwrap();
        tree.insert(b"k", b"v").unwrap();
        tree.remove_range(&range(Bound::Included(b"k"), Bound::Excluded(b"ko"))).unwrap();
        tree.insert(b"k", b"v").unwrap();
        tree.clear().unwrap();
        family.drop_table(TABLE).unwrap();
    });
    let want: Vec<&[u8]> = vec![
        b"\x01",              // version
        b"\x02\x01a",         // deleted a; its insertion is gone
        b"\x01\x01\x82\x01b", // put b: its last value
        &[6; 130],
        b"\x01\x01\x00c",           // put c
        b"\x23\x01b",               // delete from after b on
        b"\x0D\xAC\x02",            // create table 300
        b"\x09\xAC\x02\x01\x01kv",  // put k there
        b"\x9B\xAC\x02\x01k\x02ko", // delete from k to below ko
        b"\x09\xAC\x02\x01\x01kv",  // put k again
        b"\x0C\xAC\x02",            // clear
        b"\x0E\xAC\x02",            // drop
    ];
    assert_eq!(bytes.unwrap(), want.concat());
    // A family that goes takes with it what was noted before.
    let gone = noted(|family| {
        family.table(TableId::DEFAULT).unwrap().insert(b"k", b"v").unwrap();
        family.drop_all().unwrap();
    });
    assert_eq!(gone.unwrap(), b"\x01\x07");
}

#[test]
fn what_changes_nothing_is_not_noted() {
    let bytes = noted(|family| {
        let mut tree = family.table(TableId::DEFAULT).unwrap();
        assert!(!tree.remove(b"k").unwrap());
        assert_eq!(tree.remove_range(&all()).unwrap(), 0);
        assert_eq!(tree.clear().unwrap(), 0);
        assert!(tree.insert(&[0; 5000], b"").is_err());
        assert!(!family.drop_table(TABLE).unwrap());
        assert!(family.create_table(TableId::DEFAULT).is_err());
        family.collect(100).unwrap();
    });
    assert_eq!(bytes.unwrap(), b"");
}

#[test]
fn a_small_put_takes_at_most_six_bytes_more() {
    let bytes = noted(|family| {
        family.table(TableId::DEFAULT).unwrap().insert(&[1; 24], &[2; 150]).unwrap();
    });
    assert!(bytes.unwrap().len() <= 24 + 150 + 6);
}

#[test]
fn a_value_beyond_the_limit_makes_the_commit_write_its_pages() {
    let of = |len: usize| {
        let value = value(3, len);
        [
            noted(|family| {
                family.table(TableId::DEFAULT).unwrap().insert(b"k", &value).unwrap();
            }),
            noted(|family| {
                let mut tree = family.table(TableId::DEFAULT).unwrap();
                tree.insert_reader(b"k", len as u64, &mut &*value).unwrap();
            }),
            noted(|family| {
                family.table(TableId::DEFAULT).unwrap().bulk_load([(b"k", &value)]).unwrap();
            }),
        ]
    };
    let [a, b, c] = of(64 << 10);
    assert!(a.is_some() && a == b && b == c);
    assert_eq!(of((64 << 10) + 1), [None, None, None]);
}

#[test]
fn nothing_is_noted_without_replay_or_beyond_the_limit() {
    for (options, per_round) in [
        (FileOptions { page_check, ..FileOptions::default() }, 1),
        (
            FileOptions {
                page_check,
                replay: Some(replay),
                tuning: Tuning { log_bytes_max: 1 << 16, ..Tuning::default() },
                ..FileOptions::default()
            },
            40,
        ),
    ] {
        let file = PagedFile::in_memory(options).unwrap();
        let mut txn = file.begin(&[OWNER], Wait::Forever).unwrap();
        let part = txn.part(OWNER).unwrap();
        let mut family = FamilyTxn::new(part).unwrap();
        for i in (0..per_round).rev() {
            family.family(part).table(TableId::DEFAULT).unwrap().insert(&[i], &[7; 120]).unwrap();
        }
        family.store(part).unwrap();
        assert!(!part.logs_effects());
        txn.commit(Durability::Immediate).unwrap();
    }
}

#[test]
fn every_cut_is_an_error_or_the_beginning() {
    let (file, whole) = (opened(), everything());
    let mut harmless = 0;
    for len in 0..whole.len() {
        match replayed(&file, &[&whole[..len]]) {
            Ok(()) => harmless += 1,
            Err(FileError::Damaged { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert!(harmless < whole.len() / 2, "{harmless}");
    replayed(&file, &[&whole]).unwrap();
}

#[test]
fn every_flipped_bit_is_an_error_or_harmless() {
    let (file, whole) = (opened(), everything());
    let (mut refused, mut harmless) = (0, 0);
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut forged = whole.clone();
            forged[at] ^= 1 << bit;
            match replayed(&file, &[&forged]) {
                Ok(()) => harmless += 1,
                Err(FileError::Damaged { .. }) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert!(refused > 500 && harmless > 500, "{refused} {harmless}");
}

#[test]
fn what_does_not_fit_is_named() {
    let file = opened();
    for (commit, want) in [
        (&b"\x02"[..], "the effects of a commit have an unknown version"),
        (b"\x01", "the effects of a commit are a version and nothing else"),
        (b"\x01\x00", "an effect of unknown kind"),
        (b"\x01\x11\x01\x01kv", "an effect has bits that mean nothing"),
        (b"\x01\x33\x01k", "an effect has an end of a range of unknown kind"),
        (b"\x01\x01\x02\x01k", "an effect ends after its commit"),
        (b"\x01\x02", "an effect ends after its commit"),
        (b"\x01\x02\x81\x00k", "a number in an effect is too long"),
        (b"\x01\x02\xFF\xFF\xFF\xFF\x1Fk", "a number in an effect is too large"),
        (b"\x01\x02\xFF\xFF\xFF\xFF\x8F\x00k", "a number in an effect is too large"),
        (b"\x01\x0A\x00\x01k", "an effect names an impossible table"),
        (b"\x01\x0A\xFF\xFF\xFF\xFF\x0F\x01k", "an effect names an impossible table"),
        (b"\x01\x05", "an effect creates or drops the default table"),
        (b"\x01\x06", "an effect creates or drops the default table"),
        (b"\x01\x0F\x07", "an effect of unknown kind"),
        (b"\x01\x0D\xAC\x02", "an effect creates a table that exists"),
        (b"\x01\x0A\x09\x01k", "an effect names a table that does not exist"),
        (b"\x01\x0C\x09", "an effect names a table that does not exist"),
        (b"\x01\x0E\x09", "an effect names a table that does not exist"),
        (&[&b"\x01\x02\x81\x08"[..], &[b'k'; 1025]].concat(), "an effect has a key that is too long"),
        (&[&b"\x01\x01\x81\x08\x00"[..], &[b'k'; 1025]].concat(), "an effect has a key that is too long"),
    ] {
        assert_eq!(why(&file, commit), want, "{commit:x?}");
    }
    replayed(&file, &[]).unwrap();
    replayed(&file, &[b"", b"\x01\x02\x06absent", b""]).unwrap();
}

#[test]
fn a_damaged_root_is_refused() {
    let file = opened();
    let mut txn = begin(&file);
    let part = txn.part(OWNER).unwrap();
    part.set_root([0xA5; 64]);
    assert!(matches!(replay(part, &[]), Err(FileError::Damaged { .. })));
}

/// However small the batches, the outcome is the same.
#[cfg(feature = "testing")]
#[test]
fn batches_of_every_size_come_to_the_same() {
    let mut bed = Bed::filled(4096, 64 << 10, &model());
    let before = bed.model.clone();
    bed.history.clear();
    for i in 0..2000u16 {
        let (key, id) = ((i * 31 % 200).to_be_bytes().to_vec(), if i % 3 == 0 { TABLE } else { TableId::DEFAULT });
        let value = value(i as u8, i as usize % 50 * 23);
        let map = bed.model.get_mut(&id).unwrap();
        if i % 4 < 2 || i / 500 % 2 == 1 {
            map.remove(&key);
            bed.with(|mut family| family.table(id).unwrap().remove(&key).unwrap());
        } else {
            map.insert(key.clone(), value.clone());
            bed.with(|mut family| family.table(id).unwrap().insert(&key, &value).unwrap());
        }
        if i % 53 == 0 {
            bed.commit();
        }
    }
    bed.commit();
    let commits: Vec<&[u8]> = bed.history.iter().map(|commit| &*commit.effects.as_ref().unwrap()[1]).collect();
    for batch_max in [1, 2, 3, 10, 100, 1000] {
        Bed::filled(4096, 64 << 10, &before)
            .replay_by(&bed.model, |part| spinney_btree::replay_in_batches(part, &commits, batch_max));
    }
}

/// The canary: the comparison can fail.
#[test]
#[should_panic(expected = "differs")]
fn a_lost_effect_is_noticed() {
    let mut bed = Bed::new(4096, 16 << 20);
    for k in [b"a", b"b"] {
        bed.with(|mut family| family.table(TableId::DEFAULT).unwrap().insert(k, b"v").unwrap());
        bed.model.get_mut(&TableId::DEFAULT).unwrap().insert(k.to_vec(), b"v".to_vec());
        bed.commit();
    }
    let lost = bed.history[1].effects.as_mut().unwrap();
    lost.iter_mut().for_each(|form| form.truncate(0));
    lost[0].extend(b"\x01\x01\x01\x01bw");
    bed.verify_replay(4096, 16 << 20);
}
