//! Files that are not what was written: cut short, bits turned, a newer version. An error that says what to do, or the
//! right data; never wrong data, never a panic.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

#[path = "bad_media/rot.rs"]
mod rot; // every byte and every page in turn

use spinney::{Error, Options, Result};
use std::{collections::BTreeMap, fs, path::Path};

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

fn options() -> Options {
    Options::new().memory_budget(1 << 20).background(false)
}

/// A closed database with two families, one of them with a table and a large value.
fn build(path: &Path) -> Result<BTreeMap<&'static str, Entries>> {
    let db = options().create(path)?;
    let (small, large) = (db.family("small")?, db.family("large")?);
    let table = large.table("table")?;
    let mut world = BTreeMap::from([("small", Entries::new()), ("large", Entries::new()), ("table", Entries::new())]);
    let mut txn = db.begin([&small, &large])?;
    for i in 0..400u32 {
        let (key, value) = (i.to_be_bytes().to_vec(), format!("value {i}").into_bytes());
        txn.family(&small)?.insert(&key, &value)?;
        txn.table(&table)?.insert(&key, &value)?;
        world.get_mut("small").unwrap().insert(key.clone(), value.clone());
        world.get_mut("table").unwrap().insert(key, value);
    }
    txn.family(&large)?.insert("big", vec![7; 200_000])?;
    world.get_mut("large").unwrap().insert(b"big".to_vec(), vec![7; 200_000]);
    txn.commit()?;
    db.close()?;
    Ok(world)
}

/// Reads everything; stops at the first error. What was read must be right.
fn read(path: &Path, world: &BTreeMap<&'static str, Entries>) -> Result<()> {
    let db = options().open(path)?;
    let snap = db.snapshot();
    let compare = |range: spinney::Range<'_>, wanted: &Entries| -> Result<()> {
        let mut wanted = wanted.iter();
        for entry in range {
            let (key, value) = entry?;
            let (wanted_key, wanted_value) = wanted.next().expect("an entry nobody wrote");
            assert!(key == *wanted_key && value == *wanted_value, "wrong data");
        }
        assert!(wanted.next().is_none(), "an entry is missing");
        Ok(())
    };
    for name in ["small", "large"] {
        let family = db.open_family(name)?.expect("a family is missing");
        compare(snap.range(&family, ..), &world[name])?;
        if name == "large" {
            let table = family.open_table("table")?.expect("a table is missing");
            compare(snap.range(&table, ..), &world["table"])?;
        }
    }
    Ok(())
}

/// Where trouble is, everybody says so in words of their own.
fn is_readable(error: &Error) {
    let message = error.to_string();
    assert!(message.len() > 20, "{message}");
    assert!(
        matches!(
            error,
            Error::Corrupt { .. }
                | Error::Damaged { .. }
                | Error::RootDamaged { .. }
                | Error::NamesDamaged { .. }
                | Error::NotADatabase { .. }
                | Error::NewerVersion { .. }
                | Error::Truncated { .. }
        ),
        "{error:?}"
    );
}

#[test]
fn a_file_cut_short_is_an_error_or_whole() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let world = build(&path)?;
    let sound = fs::read(&path).unwrap();
    // Wherever a sector ends, and beside it.
    let ends = (0..sound.len()).step_by(512).flat_map(|end| [end, end + 1, end + 511]);
    for bytes in ends.filter(|&end| (1..sound.len()).contains(&end)) {
        fs::write(&path, &sound[..bytes]).unwrap();
        if let Err(error) = read(&path, &world) {
            is_readable(&error);
        }
        // Before any structure of the file is complete there is nothing to take it for.
        if bytes < 4096 {
            assert!(read(&path, &world).is_err());
        }
    }
    let half = read_half(&path, &sound, &world);
    assert!(matches!(half, Err(Error::Truncated { .. })), "{half:?}");
    Ok(())
}

#[test]
fn what_follows_the_end_of_a_file_is_nothing() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let world = build(&path)?;
    let sound = fs::read(&path).unwrap();
    for count in [1, 511, 512, 4095, 4096, 4097, 100_000] {
        for fill in [0, 0xFF, 0x5A] {
            let mut bytes = sound.clone();
            bytes.resize(bytes.len() + count, fill);
            fs::write(&path, &bytes).unwrap();
            read(&path, &world)?;
            // And what is written next goes over it.
            let db = options().open(&path)?;
            let more = db.family("more")?;
            let mut txn = more.begin()?;
            txn.insert("value", vec![fill; 300_000])?;
            txn.commit()?;
            drop(more);
            db.close()?;
            read(&path, &world)?;
            let db = options().open(&path)?;
            assert_eq!(db.snapshot().get(&db.family("more")?, "value")?.unwrap(), vec![fill; 300_000]);
            assert!(db.check()?.is_sound());
        }
    }
    Ok(())
}

fn read_half(path: &Path, sound: &[u8], world: &BTreeMap<&'static str, Entries>) -> Result<()> {
    fs::write(path, &sound[..sound.len() / 4]).unwrap();
    read(path, world)
}

#[test]
fn a_corrupt_page_names_its_family_and_spares_the_others() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let world = build(&path)?;
    let mut bytes = fs::read(&path).unwrap();
    // The family's leaves hold its values: spoil all that begin with `value`, in pages of one owner.
    let db = options().open(&path)?;
    let owner = db.families()?.iter().find(|info| info.name == "small").unwrap().owner;
    drop(db);
    let mut spoiled = 0;
    for page in bytes.chunks_mut(4096) {
        if page[24..28] == owner.to_le_bytes() && (16..32).contains(&page[28]) {
            page[100] ^= 0xFF;
            spoiled += 1;
        }
    }
    assert!(spoiled > 1);
    fs::write(&path, &bytes).unwrap();
    let db = options().open(&path)?;
    let (small, large) = (db.open_family("small")?.unwrap(), db.open_family("large")?.unwrap());
    let error = db.snapshot().get(&small, 7u32.to_be_bytes()).unwrap_err();
    match &error {
        Error::Corrupt { page, family, at, .. } => {
            assert_eq!(family, "small");
            assert_eq!(*at, page.get() * 4096);
        }
        other => panic!("{other:?}"),
    }
    assert!(error.to_string().contains("`small`"), "{error}");
    assert_eq!(db.snapshot().get(&large, "big")?.unwrap(), world["large"][&b"big"[..]]);
    let mut txn = large.begin()?;
    txn.insert("still", "writable")?;
    txn.commit()?;
    let report = db.check()?;
    assert!(!report.is_sound());
    println!("{}", report.problems[0]);
    Ok(())
}

#[test]
fn a_closed_file_is_opened_for_reading_only_and_left_as_it_was() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    build(&path)?;
    let sound = fs::read(&path).unwrap();
    let db = Options::new().read_only(true).open(&path)?;
    let small = db.open_family("small")?.unwrap();
    assert_eq!(db.snapshot().len(&small)?, 400);
    assert!(matches!(small.begin(), Err(Error::ReadOnly)));
    assert!(matches!(db.family("new"), Err(Error::ReadOnly)));
    assert!(matches!(db.checkpoint(), Err(Error::ReadOnly)));
    assert!(matches!(db.reclaim(1), Err(Error::ReadOnly)));
    assert_eq!(db.maintain(10)?, 0);
    assert!(db.check()?.is_sound());
    db.close()?;
    assert!(fs::read(&path).unwrap() == sound);
    Ok(())
}
