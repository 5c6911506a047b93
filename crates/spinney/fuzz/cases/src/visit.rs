//! Everything a user might do with a file he was given: open, read in every way, check, write, close, and all that again.

use crate::{disk::Disk, memory::Meter};
use spinney::{Database, Error, Family, Options, Result, Snapshot, Table};
use std::{ops::ControlFlow, sync::Arc};

const BUDGET_BYTES: u64 = 1 << 20;
/// Entries read of one table from one side, families and tables visited: bounded, so that bounded work is expected.
const ENTRIES_MAX: usize = 20_000;
const PLACES_MAX: usize = 24;
/// So much of a value is read.
const VALUE_BYTES_MAX: usize = 1 << 20;
/// A file of zeros up to this long may be one whose creation was cut short: it is read through.
const UNFINISHED_BYTES_MAX: u64 = 64 << 20;
/// Storage calls per page of the file, and a few; bytes per byte of the file, and a few.
const CALLS_PER_PAGE: u64 = 64;
const BYTES_PER_BYTE: u64 = 64;

/// How a file is visited.
#[derive(Clone, Copy, Debug)]
pub struct Visit {
    /// Nothing may be written.
    pub read_only: bool,
    /// Its length, if it is more than its bytes.
    pub len: u64,
}

/// Visits a file that may be anything; says whether it ever opened.
///
/// # Panics
/// When the engine does, and when it takes more memory or storage calls than it may.
pub fn visit(file: &[u8], how: Visit) -> bool {
    let disk = Disk::new(file, how.len);
    let meter = Meter::new();
    let size = (file.len() as u64).max(how.len.min(UNFINISHED_BYTES_MAX)) + (1 << 20);
    let mut opened = false;
    for writes in [!how.read_only, false] {
        disk.allow(CALLS_PER_PAGE * size / 4096, BYTES_PER_BYTE * size);
        match round_trip(&disk, how.read_only, writes) {
            Ok(()) => opened = true,
            Err(error) => is_typed(&error),
        }
        disk.assert_bounded();
    }
    assert!(!how.read_only || disk.writes() == 0, "something was written to a file opened for reading only");
    meter.assert_bounded(BUDGET_BYTES, disk.held() + file.len() as u64);
    opened
}

/// An error that says what it is about. Those about handles and other transactions cannot come of a file.
fn is_typed(error: &Error) {
    let of_another_sort = matches!(
        error,
        Error::Busy { .. }
            | Error::Locked { .. }
            | Error::Closed
            | Error::OtherDatabase { .. }
            | Error::NotInTransaction { .. }
    );
    assert!(!of_another_sort && error.to_string().len() > 20, "{error:?}");
}

fn round_trip(disk: &Disk, read_only: bool, writes: bool) -> Result<()> {
    let options = Options::new().memory_budget(BUDGET_BYTES).background(false).read_only(read_only);
    let db = options.create_missing(false).open_storage(Arc::new(disk.clone()))?;
    note(read(&db));
    note(db.check().map(drop));
    note(db.stats().map(drop));
    if writes {
        note(write(&db));
    }
    note(db.close());
    Ok(())
}

/// Errors are welcome here, if they are typed.
fn note(outcome: Result<()>) {
    if let Err(error) = outcome {
        is_typed(&error);
    }
}

fn read(db: &Database) -> Result<()> {
    let snapshot = db.snapshot();
    for info in snapshot.families()?.into_iter().take(PLACES_MAX) {
        let Some(family) = db.open_family(&info.name)? else { continue };
        note(read_table(&snapshot, &family.default_table()));
        note(family.stats().map(drop));
        for info in snapshot.tables(&family)?.into_iter().take(PLACES_MAX) {
            match snapshot.open_table(&family, &info.name) {
                Ok(Some(table)) => note(read_table(&snapshot, &table)),
                Ok(None) => {}
                Err(error) => is_typed(&error),
            }
        }
    }
    Ok(())
}

fn read_table(snapshot: &Snapshot, table: &Table) -> Result<()> {
    for key in [&b""[..], b"big", b"bigger", b"huge", b"key 000017", &7u32.to_be_bytes(), &[0xFF; 1024]] {
        let _ = snapshot.contains(table, key)?;
        let _ = snapshot.read_at(table, key, 3, VALUE_BYTES_MAX)?;
        let _ = snapshot.count(table, key..)?;
    }
    let _ = (snapshot.len(table)?, snapshot.first(table)?, snapshot.last(table)?);
    for backwards in [false, true] {
        let mut range = snapshot.range(table, ..);
        let mut last: Option<Vec<u8>> = None;
        let mut step = || -> Result<ControlFlow<()>> {
            let Some(entry) = (if backwards { range.next_back() } else { range.next() }) else {
                return Ok(ControlFlow::Break(()));
            };
            let (key, value) = entry?;
            let key = key.to_vec();
            let in_order = last.as_ref().is_none_or(|last| if backwards { key < *last } else { key > *last });
            assert!(in_order, "a range goes back, or stands still");
            last = Some(key);
            drop(value);
            Ok(ControlFlow::Continue(()))
        };
        for _ in 0..ENTRIES_MAX {
            if step()?.is_break() {
                break;
            }
        }
    }
    Ok(())
}

fn write(db: &Database) -> Result<()> {
    for info in db.families()?.into_iter().take(PLACES_MAX) {
        let Some(family) = db.open_family(&info.name)? else { continue };
        note(change(&family));
        for info in family.tables()?.into_iter().take(PLACES_MAX) {
            note(family.open_table(&info.name).and_then(|table| table.map_or(Ok(()), |table| change_table(&table))));
        }
    }
    note(db.family("new").and_then(|family| change(&family)));
    note(db.checkpoint().map(drop));
    note(db.drop_family("small").map(drop));
    let first = db.families()?.into_iter().next();
    note(first.map_or(Ok(()), |info| db.drop_family(&info.name).map(drop)));
    note(db.maintain(500).map(drop));
    note(db.reclaim(1 << 20).map(drop));
    note(db.flush().map(drop));
    Ok(())
}

fn change(family: &Family) -> Result<()> {
    change_table(&family.default_table())?;
    note(family.table("one more").and_then(|table| change_table(&table)));
    note(family.drop_table("table").map(drop));
    Ok(())
}

/// One small commit and one with a range and a large value; the first error ends it.
fn change_table(table: &Table) -> Result<()> {
    let mut txn = table.begin()?;
    let mut entries = txn.table(table)?;
    for i in 0..12u8 {
        entries.insert((u32::from(i) * 37).to_be_bytes(), [i; 40])?;
        entries.remove((u32::from(i) * 11).to_be_bytes())?;
    }
    entries.remove("big")?;
    txn.commit()?;
    let mut txn = table.begin()?;
    let mut entries = txn.table(table)?;
    entries.insert("bigger", vec![1; 10_000])?;
    entries.remove_range(100u32.to_be_bytes()..250u32.to_be_bytes())?;
    txn.commit().map(drop)
}
