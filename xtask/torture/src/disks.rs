//! File systems that real programs meet: one that fills up and is freed again, one that is read-only, a file that belongs to somebody
//! else. Mounts small ones where this process may.

use crate::totals::Totals;
use anyhow::{Context, bail, ensure};
use spinney::{Database, Durability, Error, Family, Options};
use std::{
    fs,
    os::unix::{
        fs::PermissionsExt,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::Command,
};

/// Nothing to choose.
#[derive(clap::Args)]
pub(crate) struct Arguments {}

/// A mounted file system, until it is dropped.
struct Mounted {
    at: PathBuf,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A test that failed half-way may have left the file open: what is still in use goes when it no longer is.
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}

fn succeed(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("there is no {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(output.status.success(), "{program} {}: {said}", arguments.join(" "));
    Ok(())
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is text")
}

/// Bytes of the small file systems.
const DISK: u64 = 24 << 20;

fn mount_tmpfs(home: &Path) -> anyhow::Result<Mounted> {
    let at = home.join("tmpfs");
    fs::create_dir_all(&at)?;
    succeed("mount", &["-t", "tmpfs", "-o", &format!("size={DISK}"), "spinney", text(&at)?])?;
    Ok(Mounted { at })
}

fn mount_ext4(home: &Path) -> anyhow::Result<Mounted> {
    let (at, image) = (home.join("ext4"), home.join("ext4.image"));
    fs::create_dir_all(&at)?;
    fs::File::create(&image)?.set_len(DISK)?;
    // No reserve for the administrator, who may well be the one who runs this.
    succeed("mkfs.ext4", &["-q", "-m", "0", "-F", text(&image)?])?;
    succeed("mount", &["-o", "loop", text(&image)?, text(&at)?])?;
    Ok(Mounted { at })
}

/// Tries every disk that can be had.
///
/// # Errors
/// When one of them was not survived.
pub(crate) fn run(_: &Arguments) -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    // Somebody else is to look into it.
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755))?;
    let totals = Totals::default();
    let step = |name: &str, result: anyhow::Result<()>| match result {
        Ok(()) => {
            println!("{name}: survived");
            totals.count("disks survived");
        }
        Err(error) => totals.fail(format!("cargo xtask disks: {name}: {error:#}")),
    };
    for (kind, mount) in [("tmpfs", mount_tmpfs as fn(&Path) -> _), ("ext4", mount_ext4)] {
        match mount(home.path()) {
            Ok(mounted) => {
                step(&format!("a full {kind}"), fills_up(&mounted.at));
                step(&format!("a read-only {kind}"), is_read_only(&mounted.at));
            }
            Err(error) => totals.skip(&format!("a full and a read-only {kind}"), format!("{error:#}")),
        }
    }
    match somebody_else(home.path()) {
        Ok(result) => step("a file of somebody else", result),
        Err(why) => totals.skip("a file of somebody else", format!("{why:#}")),
    }
    totals.close()
}

fn options() -> Options {
    Options::new().memory_budget(2 << 20).log_size_max(1 << 20)
}

/// Commits until there is no room; how many did. What did not fit has left nothing.
fn fill(db: &Database, family: &Family, from: u64, bytes: usize) -> anyhow::Result<u64> {
    let mut number = from;
    loop {
        let committed = family.begin().and_then(|mut txn| {
            txn.insert(number.to_be_bytes(), vec![number as u8; bytes])?;
            // A sync on a small disk takes long; what counts here is space.
            txn.commit_with(if number.is_multiple_of(64) { Durability::Immediate } else { Durability::Eventual })
        });
        match committed {
            Ok(_) => number += 1,
            Err(Error::Full { .. } | Error::CheckpointFailed { .. }) => break,
            Err(error) => bail!("the disk is full, and it said: {error}"),
        }
        ensure!(number - from < 1 << 20, "the disk never fills up");
    }
    ensure!(!db.stats()?.file.poisoned, "want of space is a clean abort");
    Ok(number)
}

/// Every entry from `from` to `until` is there and nothing else is.
fn holds(db: &Database, family: &Family, from: u64, until: u64) -> anyhow::Result<()> {
    let snapshot = db.snapshot();
    let mut next = from;
    for entry in snapshot.range(family, ..) {
        let (key, value) = entry?;
        ensure!(key[..] == next.to_be_bytes(), "{:?} instead of {next}", &key[..]);
        ensure!(value.iter().all(|byte| *byte == next as u8), "{next} has another value");
        next += 1;
    }
    ensure!(next == until, "{next} entries of {until}");
    let report = db.check()?;
    ensure!(report.is_sound(), "{:?}", report.problems);
    Ok(())
}

/// Two databases and a heap of other data on one small disk.
fn fills_up(disk: &Path) -> anyhow::Result<()> {
    let (path, other) = (disk.join("file.spinney"), disk.join("other"));
    // Part of the disk is somebody else's, who will give it back.
    fs::write(&other, vec![1; DISK as usize / 3])?;
    let db = options().open(&path)?;
    let family = db.family("f")?;
    let mut first = 0;
    let mut until = 0;
    for round in 0..4 {
        let bytes = [3000, 300, 60_000, 9000][round];
        until = fill(&db, &family, until, bytes)?;
        ensure!(until > first, "nothing fits");
        holds(&db, &family, first, until).with_context(|| format!("full, round {round}"))?;
        // Deleting works on a disk without a byte left, and makes room for more.
        let middle = first + (until - first) / 2;
        let mut txn = family.begin().context("deleting")?;
        txn.remove_range(..&middle.to_be_bytes()[..]).context("deleting")?;
        txn.commit().context("deleting")?;
        first = middle;
        db.checkpoint().context("a checkpoint on a full disk")?;
        while db.maintain(10_000)? > 0 {}
        db.checkpoint().context("a second one")?;
        holds(&db, &family, first, until).with_context(|| format!("half empty, round {round}"))?;
        let more = fill(&db, &family, until, 2000)?;
        ensure!(more > until + 10, "deleting made no room: {} fit", more - until);
        until = more;
    }
    // Room that comes free elsewhere is used without anybody opening anything again.
    let before = fs::metadata(&path)?.len();
    fs::remove_file(&other)?;
    let more = fill(&db, &family, until, 5000)?;
    ensure!(fs::metadata(&path)?.len() > before + DISK / 6, "the file did not grow into what came free");
    holds(&db, &family, first, more)?;
    drop(family); // whoever holds a handle holds the lock
    db.close().context("closing on a full disk")?;

    // It opens on a full disk, for reading and for writing, and after a process that never closed it.
    let db = options().read_only(true).open(&path).context("reading on a full disk")?;
    holds(&db, &db.open_family("f")?.context("f")?, first, more)?;
    drop(db);
    let db = options().open(&path).context("opening on a full disk")?;
    let family = db.family("f")?;
    let mut txn = family.begin()?;
    txn.remove_range(..)?;
    txn.commit().context("removing everything from a full disk")?;
    while db.maintain(10_000)? > 0 {}
    let given_back = db.reclaim(u64::MAX)?;
    ensure!(given_back > DISK / 3, "{given_back} bytes given back");
    holds(&db, &family, 0, 0)?;
    drop(family);
    db.close()?;
    fs::remove_file(&path)?;
    Ok(())
}

fn is_read_only(disk: &Path) -> anyhow::Result<()> {
    let path = disk.join("read.spinney");
    let db = options().open(&path)?;
    let family = db.family("f")?;
    let mut txn = family.begin()?;
    (0..100u64).try_for_each(|number| txn.insert(number.to_be_bytes(), [number as u8; 50]).map(drop))?;
    txn.commit()?;
    drop(family);
    db.close()?;
    succeed("mount", &["-o", "remount,ro", text(disk)?])?;
    match options().open(&path) {
        Err(Error::Permission { .. }) => {}
        other => bail!("opened for writing on a read-only disk: {other:?}"),
    }
    match options().open(disk.join("new.spinney")) {
        Err(Error::Permission { .. }) => {}
        other => bail!("created on a read-only disk: {other:?}"),
    }
    let db = options().read_only(true).open(&path)?;
    let family = db.open_family("f")?.context("f")?;
    holds(&db, &family, 0, 100)?;
    ensure!(matches!(family.begin(), Err(Error::ReadOnly)), "begun on a read-only disk");
    Ok(())
}

/// What somebody without rights says of a file: the exit codes of `open-as`.
const DENIED: i32 = 10;
const READ: i32 = 11;

/// The process that is somebody else: opens for writing, then for reading.
///
/// # Errors
/// Anything but a refusal.
pub(crate) fn open_as_somebody(path: &Path) -> anyhow::Result<u8> {
    match options().open(path) {
        Err(Error::Permission { .. }) => {}
        other => bail!("{other:?}"),
    }
    match options().read_only(true).open(path) {
        Err(Error::Permission { .. }) => Ok(DENIED as u8),
        Ok(db) => {
            holds(&db, &db.open_family("f")?.context("f")?, 0, 10)?;
            Ok(READ as u8)
        }
        Err(error) => Err(error.into()),
    }
}

/// The outer error says why it cannot be tried.
fn somebody_else(home: &Path) -> anyhow::Result<anyhow::Result<()>> {
    const NOBODY: u32 = 65534;
    let path = home.join("mine.spinney");
    // The program where somebody else may run it.
    let program = home.join("program");
    fs::copy(std::env::current_exe()?, &program)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let probe = Command::new("true").uid(NOBODY).gid(NOBODY).output();
    probe.context("this process may not become somebody else")?;
    Ok((|| {
        let db = options().open(&path)?;
        let family = db.family("f")?;
        let mut txn = family.begin()?;
        (0..10u64).try_for_each(|number| txn.insert(number.to_be_bytes(), [number as u8; 50]).map(drop))?;
        txn.commit()?;
        drop(family);
        db.close()?;
        for (mode, expected) in [(0o600, DENIED), (0o644, READ)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            let mut command = Command::new(&program);
            let output = command.arg("open-as-somebody").arg(&path).uid(NOBODY).gid(NOBODY).output()?;
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let (code, signal) = (output.status.code(), output.status.signal());
            ensure!(code == Some(expected), "mode {mode:o}: {code:?}, signal {signal:?}: {said}");
        }
        Ok(())
    })())
}
