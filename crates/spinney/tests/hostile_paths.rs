//! Paths that lead to anything but a database: an error that says what is wrong, and not one byte written.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use spinney::{Database, Error, Options};
use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

const WAYS: [&str; 4] = ["open", "open an existing one", "read only", "create"];

fn opening(way: &str, path: &Path) -> spinney::Result<Database> {
    let options = Options::new().background(false);
    match way {
        "open" => options.open(path),
        "open an existing one" => options.create_missing(false).open(path),
        "read only" => options.read_only(true).open(path),
        _ => options.create(path),
    }
}

/// The path is refused for what it is.
fn is_refused(way: &str, path: &Path) {
    match opening(way, path).err() {
        Some(Error::NotADatabase { .. }) => {}
        Some(Error::AlreadyExists { .. }) if way == "create" => {}
        outcome => panic!("{way} of {}: {outcome:?}", path.display()),
    }
}

#[test]
fn what_is_no_file_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("folder")).unwrap();
    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    symlink(at("loop"), at("loop")).unwrap();
    symlink(at("nowhere"), at("to nowhere")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let places =
        [at("folder"), at("pipe"), "/dev/null".into(), "/dev/zero".into(), at("loop"), at("to nowhere"), at("socket")];
    for path in places {
        for way in WAYS {
            let error = opening(way, &path).err().unwrap_or_else(|| panic!("{way} of {} succeeds", path.display()));
            let fits = match &error {
                Error::IsADirectory { .. } => path.is_dir(),
                Error::AlreadyExists { .. } => !path.is_dir(),
                Error::NotADatabase { .. } => !path.is_dir(),
                Error::Missing { .. } => path == at("to nowhere"),
                Error::Io { .. } => path == at("loop"),
                _ => false,
            };
            assert!(fits, "{way} of {}: {error:?}", path.display());
        }
    }
    drop(socket);
    assert!(!at("nowhere").exists(), "a file was created behind a symbolic link");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 5, "something was created");
}

#[test]
fn what_is_no_database_is_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let noise: Vec<u8> = (0..300_000u32).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
    let text = "Dear diary, today nothing happened.\n".repeat(10_000).into_bytes();
    let sqlite = [&b"SQLite format 3\0"[..], &[0; 8176]].concat();
    let zeros_and_a_byte = [&[0; 100_000][..], &[1], &[0; 100_000]].concat();
    for bytes in [noise, text, sqlite, zeros_and_a_byte, vec![0xFF; 8192], b"x".to_vec(), b"SPINNEY\n".to_vec()] {
        for way in WAYS {
            fs::write(&path, &bytes).unwrap();
            let before = fs::metadata(&path).unwrap().modified().unwrap();
            is_refused(way, &path);
            assert!(fs::read(&path).unwrap() == bytes, "{way} changed the file");
            assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before, "{way} wrote to the file");
        }
    }
    // An empty file becomes a database when it may, and only then.
    fs::write(&path, b"").unwrap();
    for way in &WAYS[1..] {
        is_refused(way, &path);
        assert_eq!(fs::metadata(&path).unwrap().len(), 0, "{way}");
    }
    drop(opening(WAYS[0], &path).unwrap());
}

/// As long as the file system lets a file be, up to 8 EiB, and all of it holes.
fn stretch(path: &Path) -> u64 {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    let len = (33..63).rev().map(|bits| (1u64 << bits) - 4096).find(|&len| file.set_len(len).is_ok());
    len.expect("a file of 8 GiB of holes")
}

#[test]
fn a_file_of_endless_holes_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, b"").unwrap();
    println!("a file of {} bytes", stretch(&path));
    WAYS.iter().for_each(|way| is_refused(way, &path));
    fs::remove_file(&path).unwrap();

    // A database with as much behind it: what is behind its end is nothing to it.
    let options = || Options::new().memory_budget(1 << 20).background(false);
    let db = options().create(&path).unwrap();
    let family = db.family("family").unwrap();
    let mut txn = family.begin().unwrap();
    for i in 0..100u32 {
        txn.insert(i.to_be_bytes(), [7; 100]).unwrap();
    }
    txn.commit().unwrap();
    drop(family);
    db.close().unwrap();
    stretch(&path);
    for read_only in [true, false] {
        let db = options().read_only(read_only).open(&path).unwrap();
        let family = db.open_family("family").unwrap().unwrap();
        assert_eq!(db.snapshot().range(&family, ..).map(Result::unwrap).count(), 100);
        assert!(db.check().unwrap().is_sound());
        if !read_only {
            let mut txn = family.begin().unwrap();
            txn.insert("more", vec![1; 1 << 20]).unwrap();
            txn.commit().unwrap();
        }
        drop(family);
        db.close().unwrap();
    }
}
