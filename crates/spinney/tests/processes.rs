//! Several processes and one file: the second is refused by whatever name it comes; a forked child may not use what it inherited; and
//! whoever closed a database can open it again at once.
//!
//! Each test that forks runs alone in a process of its own: the threads of other tests would not exist in the child.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "test code")]

use spinney::{Database, Durability, Error, Options, Result};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

/// What the process that runs this binary again is to do, and with which file.
const ROLE: &str = "SPINNEY_PROCESS_ROLE";
const FILE: &str = "SPINNEY_PROCESS_FILE";

/// Runs one test of this binary in a process of its own, which finds its role in the environment.
fn again(test: &str, role: &str, path: &Path) -> std::process::Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(FILE, path)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The role of this process, and the file it is about.
fn role() -> Option<(String, PathBuf)> {
    Some((std::env::var(ROLE).ok()?, std::env::var_os(FILE)?.into()))
}

fn is_locked<T: std::fmt::Debug>(opened: &Result<T>) -> bool {
    matches!(opened, Err(Error::Locked { .. }))
}

/// By its path, by another path, by links soft and hard, for writing and for reading; in this process and in another.
#[test]
fn a_file_is_open_once_by_whatever_name() {
    if let Some((_, path)) = role() {
        let opened = Database::open(&path);
        assert!(is_locked(&opened), "{opened:?}");
        let opened = Options::new().read_only(true).open(&path);
        assert!(is_locked(&opened), "{opened:?}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.spinney");
    let (soft, hard) = (folder.path().join("soft"), folder.path().join("hard"));
    let round_about = folder.path().join("sub/../file.spinney");
    fs::create_dir(folder.path().join("sub")).unwrap();
    let names = [&path, &soft, &hard, &round_about];
    let all_refused = || {
        for name in names {
            assert!(is_locked(&Database::open(name)), "{}", name.display());
            assert!(is_locked(&Options::new().read_only(true).open(name)), "{}", name.display());
            let output = again("a_file_is_open_once_by_whatever_name", "second", name);
            assert!(output.status.success(), "{}: {}", name.display(), String::from_utf8_lossy(&output.stderr));
        }
    };
    let db = Database::open(&path).unwrap();
    symlink(&path, &soft).unwrap();
    fs::hard_link(&path, &hard).unwrap();
    all_refused();
    // Opening and closing the file by other means frees nothing.
    drop(fs::File::open(&hard).unwrap());
    all_refused();
    db.family("f").unwrap();
    db.close().unwrap();

    let db = Options::new().read_only(true).open(&soft).unwrap();
    all_refused();
    drop(db);
    for name in names {
        Database::open(name).unwrap().close().unwrap();
    }
}

/// A program that is started has a copy of every descriptor for a moment, and with it of the lock.
#[test]
fn a_closed_database_opens_at_once_while_programs_are_started() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.spinney");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    Command::new("true").status().unwrap();
                }
            });
        }
        let opened: Result<()> = (0..300).try_for_each(|_| Database::open(&path)?.close());
        done.store(true, Ordering::Relaxed);
        opened.unwrap();
    });
}

/// The child inherits the handle, an open transaction and a snapshot, and gets an error from each call that would change the file;
/// it can drop all of them and end. The parent notices nothing.
#[test]
fn a_forked_child_cannot_use_what_it_inherited() {
    const NAME: &str = "a_forked_child_cannot_use_what_it_inherited";
    let Some((role, path)) = role() else {
        for role in ["background", "no background"] {
            let folder = tempfile::tempdir().unwrap();
            let output = again(NAME, role, &folder.path().join("file.spinney"));
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{role}: {:?}: {said}", output.status);
        }
        return;
    };
    let open = || Options::new().background(role == "background").open(&path);
    let db = open().unwrap();
    let family = db.family("f").unwrap();
    let mut txn = family.begin().unwrap();
    txn.insert("before", "1").unwrap();
    txn.commit().unwrap();
    let mut inherited = db.family("g").unwrap().begin().unwrap();
    inherited.insert("inherited", "1").unwrap();
    let snapshot = db.snapshot();

    match fork::fork().unwrap() {
        fork::Fork::Child => {
            let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let forked = |error: Option<Error>| assert!(matches!(error, Some(Error::Forked { .. })), "{error:?}");
                forked(family.begin().err());
                forked(db.begin([]).err());
                forked(db.family("new").err());
                forked(db.checkpoint().err());
                forked(db.reclaim(1 << 20).err());
                forked(inherited.commit_with(Durability::Immediate).err());
                forked(db.clone().close().err());
                assert!(is_locked(&open()), "the parent has it");
                // What was read before is in memory.
                assert_eq!(snapshot.get(&family, "before").unwrap().as_deref(), Some(&b"1"[..]));
                drop((snapshot, family, db));
            }));
            // Nothing of the test harness runs in the child.
            std::process::exit(i32::from(refused.is_err()));
        }
        fork::Fork::Parent(child) => {
            inherited.insert("more", "2").unwrap();
            inherited.commit().unwrap();
            for i in 0..50u64 {
                let mut txn = family.begin().unwrap();
                txn.insert(i.to_be_bytes(), [7; 500]).unwrap();
                txn.commit_with(if i % 2 == 0 { Durability::Eventual } else { Durability::Immediate }).unwrap();
            }
            let status = fork::waitpid(child).unwrap();
            assert_eq!(fork::WEXITSTATUS(status), 0, "the child was not refused");
            assert!(is_locked(&open()), "the child took the lock with it");
            assert!(db.check().unwrap().is_sound());
            drop((snapshot, family));
            db.close().unwrap();
        }
    }
    let db = open().unwrap();
    assert!(db.check().unwrap().is_sound());
    assert_eq!(db.snapshot().len(&db.family("f").unwrap()).unwrap(), 51);
    assert_eq!(db.snapshot().len(&db.family("g").unwrap()).unwrap(), 2);
}
