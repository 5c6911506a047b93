//! Every error that a caller can run into, by what the caller did; each readable, and nothing lost by it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use spinney::{Database, Error, Options, Result};
use std::{fs, thread, time::Duration};

const SOON: Duration = Duration::from_millis(20);

fn db() -> Database {
    Database::in_memory().unwrap()
}

/// The message names what it is about, and says something.
fn says(error: &Error, words: &[&str]) {
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "`{message}` does not say `{word}`");
    }
}

#[test]
fn opening_what_is_no_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, vec![7; 100_000]).unwrap();
    let error = Database::open(&path).unwrap_err();
    assert!(matches!(error, Error::NotADatabase { .. }), "{error:?}");
    says(&error, &[path.to_str().unwrap(), "nothing was changed"]);
    assert_eq!(fs::read(&path).unwrap(), vec![7; 100_000]);
}

#[test]
fn opening_a_directory_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Database::open(folder.path()), Err(Error::IsADirectory { .. })));
    let missing = folder.path().join("missing");
    assert!(matches!(Options::new().create_missing(false).open(&missing), Err(Error::Missing { .. })));
    assert!(matches!(Options::new().read_only(true).open(&missing), Err(Error::Missing { .. })));
    assert!(!missing.exists());
    assert!(matches!(Database::open(folder.path().join("no/such/folder")), Err(Error::Missing { .. })));
}

#[test]
fn creating_what_exists_and_opening_twice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let first = Database::create(&path).unwrap();
    assert!(matches!(Database::create(&path), Err(Error::AlreadyExists { .. })));
    let error = Database::open(&path).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error:?}");
    drop(first);
    Database::open(&path).expect("the last handle closes the file");
}

#[test]
#[cfg(unix)]
fn a_file_without_permission() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    drop(Database::create(&path).unwrap());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).unwrap();
    if fs::File::open(&path).is_ok() {
        return; // whoever runs this may read everything
    }
    assert!(matches!(Database::open(&path), Err(Error::Permission { .. })));
}

#[test]
fn options_out_of_their_limits() {
    let refused = |options: Options, name: &str| match options.in_memory() {
        Err(Error::InvalidOption { option, .. }) => assert_eq!(option, name),
        other => panic!("{name}: {other:?}"),
    };
    refused(Options::new().page_size(5000), "page_size");
    refused(Options::new().page_size(2048), "page_size");
    refused(Options::new().page_size(1 << 17), "page_size");
    refused(Options::new().memory_budget(4096), "memory_budget");
    refused(Options::new().max_file_size(4096), "max_file_size");
    refused(Options::new().log_size_max(1), "log_size_max");
    refused(Options::new().flush_interval(Duration::ZERO), "flush_interval");
}

#[test]
fn names_that_cannot_be() {
    let (db, long) = (db(), "x".repeat(256));
    let family = db.family("f").unwrap();
    for (name, is_long) in [("", false), (long.as_str(), true)] {
        let refused = |error: Option<Error>| match error {
            Some(Error::NameTooLong { bytes: 256, bytes_max: 255 }) => assert!(is_long),
            Some(Error::NameEmpty) => assert!(!is_long),
            other => panic!("{other:?}"),
        };
        refused(db.family(name).err());
        refused(db.open_family(name).err());
        refused(db.rename_family("f", name).err());
        refused(family.table(name).err());
        refused(family.open_table(name).err());
        refused(family.drop_table(name).err());
        let mut txn = family.begin().unwrap();
        refused(txn.create_family(name).err());
        refused(txn.create_table(&family, name).err());
        refused(txn.rename_family(&family, name).err());
        txn.insert("still", "usable").unwrap();
        txn.commit().unwrap();
    }
    db.family(&"x".repeat(255)).unwrap();
}

#[test]
fn keys_and_values_that_are_too_long_change_nothing() {
    let db = db();
    let family = db.family("f").unwrap();
    let mut txn = family.begin().unwrap();
    txn.insert("kept", "1").unwrap();
    let error = txn.insert(vec![0; 2000], "x").unwrap_err();
    assert!(matches!(error, Error::KeyTooLong { bytes: 2000, bytes_max: 1024 }), "{error:?}");
    says(&error, &["2000", "1024"]);
    let endless = std::io::repeat(0);
    let error = txn.family(&family).unwrap().insert_reader("big", 1 << 40, endless).unwrap_err();
    assert!(matches!(error, Error::ValueTooLarge { bytes: 0x100_0000_0000, .. }), "{error:?}");
    txn.insert(vec![0; 1024], "").unwrap();
    txn.insert("", "the empty key").unwrap();
    txn.commit().unwrap();
    assert_eq!(db.snapshot().len(&family).unwrap(), 3);
    assert_eq!(db.snapshot().get(&family, "").unwrap().unwrap(), "the empty key");
}

#[test]
fn a_writer_who_waits_in_vain_hears_who_writes() {
    let db = Options::new().begin_timeout(SOON).in_memory().unwrap();
    let (a, b) = (db.family("a").unwrap(), db.family("b").unwrap());
    let other = a.clone();
    let holder = thread::Builder::new().name("importer".into()).spawn(move || other.begin().unwrap()).unwrap();
    let holder = holder.join().unwrap();
    for error in [
        a.try_begin().unwrap_err(),
        a.begin_timeout(SOON).unwrap_err(),
        a.begin().unwrap_err(),
        db.begin([&b, &a]).unwrap_err(),
    ] {
        assert!(matches!(&error, Error::Busy { family, .. } if family == "a"), "{error:?}");
        says(&error, &["`a`", "importer", "ago"]);
    }
    b.try_begin().expect("a writer of another family does not matter, nor one who gave up");
    drop(holder);
    a.try_begin().unwrap();
}

#[test]
fn names_have_one_writer_at_a_time() {
    let db = Options::new().begin_timeout(SOON).in_memory().unwrap();
    let a = db.family("a").unwrap();
    let mut txn = db.begin([]).unwrap();
    txn.create_family("b").unwrap();
    let error = db.family("c").unwrap_err();
    assert!(matches!(&error, Error::Busy { family, .. } if family.contains("names")), "{error:?}");
    a.begin().expect("who changes no names does not wait").commit().unwrap();
    drop(txn);
    db.family("c").unwrap();
    assert!(db.open_family("b").unwrap().is_none());
}

#[test]
fn families_that_are_elsewhere() {
    let (db, other_db) = (db(), db());
    let (a, b, foreign) = (db.family("a").unwrap(), db.family("b").unwrap(), other_db.family("a").unwrap());
    assert!(matches!(db.begin([&foreign]), Err(Error::OtherDatabase { .. })));
    let mut txn = a.begin().unwrap();
    assert!(matches!(txn.family(&b), Err(Error::NotInTransaction { family }) if family == "b"));
    assert!(matches!(txn.family(&foreign), Err(Error::OtherDatabase { .. })));
    assert!(matches!(txn.drop_family(&b), Err(Error::NotInTransaction { .. })));
    assert!(matches!(txn.create_table(&b, "t"), Err(Error::NotInTransaction { .. })));
    drop(txn);

    let snap = db.snapshot_of([&a]);
    assert!(matches!(snap.get(&b, "k"), Err(Error::NotInSnapshot { family }) if family == "b"));
    assert!(matches!(snap.range(&b, ..).next(), Some(Err(Error::NotInSnapshot { .. }))));
    assert!(matches!(snap.get(&foreign, "k"), Err(Error::OtherDatabase { .. })));
    assert!(snap.covers(&a) && !snap.covers(&b) && !snap.covers(&foreign));
    assert_eq!(snap.families().unwrap().len(), 1);
}

#[test]
fn a_transaction_of_several_families_asks_which() {
    let db = db();
    let (a, b) = (db.family("a").unwrap(), db.family("b").unwrap());
    let mut txn = db.begin([&b, &a, &a]).unwrap();
    assert!(matches!(txn.insert("k", "v"), Err(Error::WhichFamily { families: 2 })));
    assert!(matches!(txn.get("k"), Err(Error::WhichFamily { families: 2 })));
    assert!(matches!(txn.range(..).next(), Some(Err(Error::WhichFamily { .. }))));
    txn.family(&a).unwrap().insert("k", "v").unwrap();
    txn.commit().unwrap();
    assert!(matches!(db.begin([]).unwrap().len(), Err(Error::WhichFamily { families: 0 })));
}

#[test]
fn dropped_families_are_gone_for_every_handle_but_not_for_older_snapshots() {
    let db = db();
    let family = db.family("f").unwrap();
    let table = family.table("t").unwrap();
    let again = db.family("f").unwrap();
    assert_eq!(family, again);
    let mut txn = family.begin().unwrap();
    txn.insert("k", "v").unwrap();
    txn.commit().unwrap();
    let before = db.snapshot();
    assert!(db.drop_family("f").unwrap());
    assert!(!db.drop_family("f").unwrap());
    assert!(matches!(again.begin(), Err(Error::FamilyDropped { family }) if family == "f"));
    let after = db.snapshot();
    assert!(matches!(after.get(&again, "k"), Err(Error::FamilyDropped { .. })));
    assert!(matches!(after.get(&table, "k"), Err(Error::FamilyDropped { .. })));
    assert!(matches!(after.tables(&again), Err(Error::FamilyDropped { .. })));
    assert!(matches!(again.table("new"), Err(Error::FamilyDropped { .. })));
    assert_eq!(before.get(&again, "k").unwrap().unwrap(), "v");
    assert!(before.is_empty(&table).unwrap());

    let new = db.family("f").unwrap();
    assert_ne!(new, again);
    assert!(db.snapshot().is_empty(&new).unwrap());
    assert!(matches!(after.get(&new, "k"), Err(Error::FamilyDropped { .. })), "it did not exist yet");
    assert!(db.check().unwrap().is_sound());
}

#[test]
fn an_aborted_creation_leaves_nothing_not_even_a_handle() {
    let db = db();
    let mut txn = db.begin([]).unwrap();
    let ghost = txn.create_family("f").unwrap();
    let ghost_table = txn.create_table(&ghost, "t").unwrap();
    txn.family(&ghost).unwrap().insert("k", "v").unwrap();
    txn.table(&ghost_table).unwrap().insert("k", "v").unwrap();
    txn.abort();
    assert!(db.families().unwrap().is_empty());
    let real = db.family("f").unwrap();
    assert_ne!(ghost, real);
    assert!(matches!(ghost.begin(), Err(Error::FamilyDropped { .. })));
    assert!(matches!(db.snapshot().get(&ghost, "k"), Err(Error::FamilyDropped { .. })));

    let mut txn = real.begin().unwrap();
    let ghost_table = txn.create_table(&real, "t").unwrap();
    txn.abort();
    let real_table = real.table("t").unwrap();
    assert_ne!(ghost_table, real_table);
    assert!(matches!(db.snapshot().get(&ghost_table, "k"), Err(Error::TableUnknown { .. })));
    assert!(matches!(real.begin().unwrap().table(&ghost_table), Err(Error::TableUnknown { .. })));
}

/// Owners are used again once nobody can take their last family for the next one.
#[test]
fn families_come_and_go_without_end() {
    let db = Options::new().background(false).in_memory().unwrap();
    let before = db.snapshot();
    for round in 0..100u32 {
        let family = db.family("f").unwrap();
        assert!(matches!(before.get(&family, "k"), Err(Error::FamilyDropped { .. })), "it did not exist yet");
        assert!(db.snapshot().is_empty(&family).unwrap());
        let mut txn = family.begin().unwrap();
        txn.insert("k", round.to_string()).unwrap();
        txn.commit().unwrap();
        let held = db.snapshot();
        assert!(db.drop_family("f").unwrap());
        while db.maintain(100).unwrap() > 0 {}
        let next = db.family("f").unwrap();
        assert_ne!(family, next);
        assert_eq!(held.get(&family, "k").unwrap().unwrap(), round.to_string().as_str());
        assert!(matches!(held.get(&next, "k"), Err(Error::FamilyDropped { .. })));
        assert!(matches!(db.snapshot().get(&family, "k"), Err(Error::FamilyDropped { .. })));
        assert!(db.drop_family("f").unwrap());
        while db.maintain(100).unwrap() > 0 {}
    }
    let last = db.family("last").unwrap();
    assert!(db.families().unwrap()[0].owner <= 3, "{last:?}");
    assert!(db.check().unwrap().is_sound());
}

#[test]
fn a_snapshot_tells_families_of_one_owner_apart() {
    let db = Options::new().background(false).in_memory().unwrap();
    let first = db.family("f").unwrap();
    let mut txn = first.begin().unwrap();
    txn.insert("k", "of the first").unwrap();
    txn.commit().unwrap();
    let (held, cached) = (db.snapshot(), db.snapshot());
    assert_eq!(cached.get(&first, "k").unwrap().unwrap(), "of the first");
    let owner = |name| db.families().unwrap().into_iter().find(|info| info.name == name).unwrap().owner;
    let first_owner = owner("f");
    drop(first);
    assert!(db.drop_family("f").unwrap());
    while db.maintain(100).unwrap() > 0 {}
    let second = db.family("g").unwrap();
    assert_eq!(owner("g"), first_owner);
    for old in [held, cached] {
        let found = old.get(&second, "k");
        assert!(matches!(found, Err(Error::FamilyDropped { .. })), "{found:?}");
    }
    assert_eq!(db.snapshot().get(&second, "k").unwrap(), None);
}

#[test]
fn tables_that_do_not_exist_or_exist_already() {
    let db = db();
    let family = db.family("f").unwrap();
    let table = family.table("t").unwrap();
    assert!(family.open_table("u").unwrap().is_none());
    assert!(!family.drop_table("u").unwrap());
    assert!(matches!(family.rename_table("u", "w"), Err(Error::TableUnknown { .. })));
    let other = family.table("u").unwrap();
    assert!(matches!(family.rename_table("u", "t"), Err(Error::TableExists { table, .. }) if table == "t"));
    let mut txn = family.begin().unwrap();
    assert!(matches!(txn.create_table(&family, "t"), Err(Error::TableExists { .. })));
    assert!(matches!(txn.drop_table(&family.default_table()), Err(Error::DefaultTable { .. })));
    assert!(matches!(txn.rename_table(&family.default_table(), "x"), Err(Error::DefaultTable { .. })));
    txn.drop_table(&table).unwrap();
    assert!(matches!(txn.table(&table), Err(Error::TableUnknown { table, .. }) if table == "t"));
    assert!(matches!(txn.drop_table(&table), Err(Error::TableUnknown { .. })));
    txn.table(&other).unwrap().insert("k", "v").unwrap();
    txn.commit().unwrap();
    assert!(matches!(db.snapshot().get(&table, "k"), Err(Error::TableUnknown { .. })));
    assert_eq!(family.tables().unwrap().len(), 1);
}

#[test]
fn families_that_exist_already() {
    let db = db();
    let (a, _b) = (db.family("a").unwrap(), db.family("b").unwrap());
    assert!(matches!(db.rename_family("a", "b"), Err(Error::FamilyExists { family }) if family == "b"));
    assert!(matches!(db.rename_family("c", "d"), Err(Error::FamilyUnknown { family }) if family == "c"));
    assert!(matches!(db.begin([]).unwrap().create_family("a"), Err(Error::FamilyExists { .. })));
    db.rename_family("a", "a").unwrap();
    db.rename_family("a", "c").unwrap();
    assert_eq!(&*a.name(), "c");
    a.begin().unwrap().commit().unwrap();
    assert!(db.open_family("a").unwrap().is_none());
}

#[test]
fn types_that_do_not_match() {
    let db = db();
    let family = db.family("f").unwrap();
    family.typed_table::<u64, String>("t").unwrap();
    family.typed_table::<u64, String>("t").unwrap();
    let error = family.typed_table::<i64, String>("t").unwrap_err();
    assert!(matches!(error, Error::TypeMismatch { .. }), "{error:?}");
    says(&error, &["u64 -> string", "i64 -> string"]);
    assert!(family.typed_table::<u64, Vec<u8>>("t").is_err());

    let untyped = family.table("raw").unwrap();
    let mut txn = untyped.begin().unwrap();
    txn.table(&untyped).unwrap().insert("not eight bytes", "x").unwrap();
    txn.commit().unwrap();
    assert!(matches!(family.typed_table::<u64, String>("raw"), Err(Error::TypeMismatch { .. })));
    let mut txn = untyped.begin().unwrap();
    txn.table(&untyped).unwrap().clear().unwrap();
    txn.commit().unwrap();
    let typed = family.typed_table::<u64, String>("raw").unwrap();

    let mut txn = untyped.begin().unwrap();
    txn.table(&untyped).unwrap().insert("not eight bytes", "x").unwrap();
    txn.table(&untyped).unwrap().insert(7u64.to_be_bytes(), [0xFF]).unwrap();
    txn.commit().unwrap();
    let snap = db.snapshot();
    assert!(matches!(snap.typed(&typed).get(7), Err(Error::Decode { .. })));
    assert_eq!(snap.typed(&typed).get(8).unwrap(), None);
    let mut range = snap.typed(&typed).range(..);
    assert!(matches!(range.next(), Some(Err(Error::Decode { .. }))));
    assert!(range.next().is_none(), "a range ends with its error");
    assert_eq!(family.tables().unwrap()[0].types.as_ref().unwrap().key, "u64");
}

#[test]
fn a_transaction_that_failed_half_way_cannot_be_committed() {
    let db = db();
    let family = db.family("f").unwrap();
    let mut txn = family.begin().unwrap();
    txn.insert("a", "1").unwrap();
    let error = txn.bulk_load([("m", "1"), ("k", "2")]).unwrap_err();
    assert!(matches!(error, Error::NotSorted { at: 1 }), "{error:?}");
    assert!(matches!(txn.insert("b", "1"), Err(Error::TransactionBroken)));
    assert!(matches!(txn.get("a"), Err(Error::TransactionBroken)));
    assert!(matches!(txn.range(..).next(), Some(Err(Error::TransactionBroken))));
    assert!(matches!(txn.family(&family), Err(Error::TransactionBroken)));
    assert!(matches!(txn.create_family("g"), Err(Error::TransactionBroken)));
    assert!(matches!(txn.commit(), Err(Error::TransactionBroken)));

    let mut txn = family.begin().unwrap();
    let short = txn.family(&family).unwrap().insert_reader("k", 100_000, &b"too short"[..]);
    assert!(matches!(short, Err(Error::ValueSource { .. })), "{short:?}");
    assert!(matches!(txn.commit(), Err(Error::TransactionBroken)));
    assert!(db.snapshot().is_empty(&family).unwrap());
}

#[test]
fn a_panic_half_way_breaks_the_transaction_and_nothing_else() {
    let db = db();
    let family = db.family("f").unwrap();
    let mut txn = family.begin().unwrap();
    let entries = (0..).map(|i: u32| if i < 100 { (i.to_be_bytes(), "x") } else { panic!("out of entries") });
    let loading = std::panic::AssertUnwindSafe(|| txn.bulk_load(entries));
    assert!(std::panic::catch_unwind(loading).is_err());
    assert!(matches!(txn.commit(), Err(Error::TransactionBroken)));
    let mut txn = family.begin().unwrap();
    txn.insert("k", "v").unwrap();
    txn.commit().unwrap();
    assert_eq!(db.snapshot().len(&family).unwrap(), 1);
}

#[test]
fn a_closed_database_says_so() {
    let db = db();
    let family = db.family("f").unwrap();
    let mut open = family.begin().unwrap();
    open.insert("k", "v").unwrap();
    db.clone().close().unwrap();
    db.clone().close().unwrap();
    assert!(matches!(open.commit(), Err(Error::Closed)));
    assert!(matches!(family.begin(), Err(Error::Closed)));
    assert!(matches!(db.family("f"), Err(Error::Closed)));
    assert!(matches!(db.open_family("g"), Err(Error::Closed)));
}

#[test]
fn dropping_handles_in_any_order_is_fine() -> Result<()> {
    let db = db();
    let family = db.family("f")?;
    let mut txn = family.begin()?;
    txn.insert("k", "v")?;
    drop((db, family));
    txn.commit().map(drop)
}
