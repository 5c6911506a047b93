//! Files damaged on purpose: the check names every damaged page and accounts for every other, the scrub finds what the cache
//! hides, salvage saves what still reads, and a full disk can be emptied.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod check;
mod full;
mod salvage;
mod scrub;

use spinney::{Database, Family, Options, Result, SimDisk, Snapshot, Storage};
use std::{collections::BTreeMap, io::IoSlice, sync::Arc};

/// Key -> value.
type Entries = BTreeMap<Vec<u8>, Vec<u8>>;
/// Family, table -> entries. The default table has an empty name.
type World = BTreeMap<(String, String), Entries>;

fn options(page_size: usize) -> Options {
    Options::new().page_size(page_size).memory_budget(4 << 20).background(false)
}

fn open(disk: &SimDisk, page_size: usize) -> Result<Database> {
    options(page_size).open_storage(Arc::new(disk.clone()))
}

fn contents(disk: &SimDisk) -> Vec<u8> {
    disk.contents()
}

fn write(disk: &SimDisk, at: u64, bytes: &[u8]) {
    assert_eq!(disk.write_vectored_at(at, &[IoSlice::new(bytes)]).unwrap(), bytes.len());
    disk.sync_data().unwrap();
}

/// Turns bits in the middle of a page.
fn spoil(disk: &SimDisk, page: u64, page_size: usize) {
    let at = page * page_size as u64 + 100;
    let mut bytes = [0; 8];
    assert_eq!(disk.read_at(at, &mut bytes).unwrap(), 8);
    write(disk, at, &bytes.map(|byte| byte ^ 0x5A));
}

/// A page that verifies, as its header says.
#[derive(Clone, Copy, Debug)]
struct Header {
    page: u64,
    owner: u32,
    kind: u8,
    table: u32,
}

/// Every page of the file that verifies.
fn headers(bytes: &[u8], page_size: usize) -> Vec<Header> {
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let half = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    let pages = (0u64..).zip(bytes.chunks_exact(page_size));
    let whole =
        pages.filter(|(number, page)| word(&page[..8]) == checksum(&page[8..]) && word(&page[8..16]) == *number);
    whole
        .map(|(page, bytes)| Header { page, owner: half(&bytes[24..28]), kind: bytes[28], table: half(&bytes[32..36]) })
        .collect()
}

fn checksum(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes)
}

fn entries(snapshot: &Snapshot, place: &impl spinney::Place) -> Result<Entries> {
    snapshot.range(place, ..).map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect()
}

/// Everything that a database shows.
fn world_of(db: &Database) -> Result<World> {
    let (snapshot, mut world) = (db.snapshot(), World::new());
    for info in snapshot.families()? {
        let family = db.open_family(&info.name)?.expect("it is in the snapshot");
        world.insert((info.name.clone(), String::new()), entries(&snapshot, &family)?);
        for table in snapshot.tables(&family)? {
            let found = snapshot.open_table(&family, &table.name)?.expect("it is in the snapshot");
            world.insert((info.name.clone(), table.name), entries(&snapshot, &found)?);
        }
    }
    Ok(world)
}

/// Some bytes that follow from a number.
fn value(seed: u64, len: usize) -> Vec<u8> {
    let mut word = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word as u8
    };
    (0..len).map(|_| next()).collect()
}

fn fill(family: &Family, table: &str, keys: std::ops::Range<u64>, step: u64, len: usize) -> Result<()> {
    let table = if table.is_empty() { family.default_table() } else { family.table(table)? };
    let mut txn = family.begin()?;
    for key in keys.step_by(step as usize) {
        txn.table(&table)?.insert(format!("key {key:06}"), value(key ^ len as u64, len))?;
    }
    txn.commit().map(drop)
}

/// A database on which a checkpoint was made, with all there is: tables, large values, removed ranges, a dropped family. Commits that only
/// the log knows follow if asked for.
fn build(disk: &SimDisk, page_size: usize, with_log: bool) -> Result<World> {
    let db = open(disk, page_size)?;
    let (world, crashed) = change_all(&db, disk, with_log)?;
    db.close()?;
    if let Some(crashed) = crashed {
        let bytes = contents(&crashed);
        disk.set_len(bytes.len() as u64).unwrap();
        write(disk, 0, &bytes);
    }
    Ok(world)
}

/// What is there in the end, and the disk as a crash would leave it.
fn change_all(db: &Database, disk: &SimDisk, with_log: bool) -> Result<(World, Option<SimDisk>)> {
    let page_size = db.stats()?.file.page_bytes as usize;
    let (orders, stock) = (db.family("orders")?, db.family("stock")?);
    let gone = db.family("gone")?;
    fill(&orders, "", 0..600, 1, 100)?;
    fill(&orders, "by customer", 0..200, 1, 40)?;
    fill(&stock, "", 0..3, 1, 3 * page_size)?;
    fill(&stock, "", 10..12, 1, 150_000)?;
    fill(&stock, "", 100..300, 1, 60)?;
    fill(&gone, "", 0..100, 1, 100)?;
    fill(&db.family("small")?, "", 0..5, 1, 10)?;
    db.family("empty")?;
    // Older writings of the same keys, left behind in free pages.
    for round in 0..3 {
        let mut txn = orders.begin()?;
        for key in (0..600u64).step_by(7) {
            txn.insert(format!("key {key:06}"), value(key + round, 90))?;
        }
        txn.remove_range("key 000300".."key 000320")?;
        txn.commit()?;
        db.checkpoint()?;
    }
    db.drop_family("gone")?;
    while db.maintain(1000)? > 0 {}
    db.checkpoint()?;
    db.checkpoint()?;
    if with_log {
        fill(&orders, "", 1000..1005, 1, 30)?;
        fill(&stock, "", 400..900, 1, 200)?;
        let late = db.family("late")?;
        // Until the newest checkpoint is some commits old.
        for key in 0.. {
            let stats = db.stats()?.file;
            if stats.appended.0 > stats.checkpoint.0 + 6 {
                break;
            }
            fill(&late, "", key..key + 1, 1, 30)?;
            fill(&orders, "", 2000 + 40 * key..2040 + 40 * key, 1, 200)?;
        }
        let world = world_of(db)?;
        db.flush()?;
        return Ok((world, Some(disk.fork())));
    }
    Ok((world_of(db)?, None))
}
