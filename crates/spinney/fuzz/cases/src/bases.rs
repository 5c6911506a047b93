//! Sound files that the real engine made, which targets change: closed, crashed, crashed while recovering, with every sort of
//! page. They are kept, so that an input means the same for ever; `cargo test -p spinney-fuzz-cases --all-features --test
//! corpus -- --ignored` makes them anew when the format changes.

use crate::{disk::Disk, format::Layout, packed::unpack};
use spinney::{Database, Durability, Options, Result};
use std::sync::{Arc, OnceLock};

/// One of the files.
#[derive(Debug)]
pub struct Base {
    /// Whole.
    pub file: Vec<u8>,
    pub(crate) layout: Layout,
}

/// Names and packed bytes of all of them. New ones come last.
static PACKED: [(&str, &[u8]); 5] = [
    ("closed", include_bytes!("../../bases/closed.packed")),
    ("crashed", include_bytes!("../../bases/crashed.packed")),
    ("crashed_twice", include_bytes!("../../bases/crashed_twice.packed")),
    ("deep", include_bytes!("../../bases/deep.packed")),
    ("wide_pages", include_bytes!("../../bases/wide_pages.packed")),
];

impl Base {
    /// What they are called.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PACKED.iter().map(|(name, _)| *name)
    }

    /// The base that a byte of input stands for.
    pub fn of(byte: u8) -> &'static Self {
        static BASES: OnceLock<Vec<Base>> = OnceLock::new();
        let bases = BASES.get_or_init(|| {
            let base = |&(name, packed): &(&str, &[u8])| {
                let file = unpack(packed);
                let layout = Layout::of(&file).unwrap_or_else(|| panic!("{name} is no database"));
                Base { file, layout }
            };
            PACKED.iter().map(base).collect()
        });
        &bases[usize::from(byte) % bases.len()]
    }
}

fn options() -> Options {
    Options::new().memory_budget(4 << 20).background(false)
}

/// Makes a base anew.
///
/// # Errors
/// None that is not a defect.
///
/// # Panics
/// For a name that is none of [`Base::names`].
pub fn make(name: &str) -> Result<Vec<u8>> {
    let disk = Disk::new(&[], 0);
    let open = |disk: &Disk, options: Options| options.open_storage(Arc::new(disk.clone()));
    // What a killed process leaves, while the database goes on.
    let kill = |disk: &Disk| Disk::new(&disk.contents(usize::MAX), 0);
    match name {
        "closed" => {
            let db = open(&disk, options())?;
            fill(&db, 40)?;
            db.close()?;
        }
        "crashed" => {
            let db = open(&disk, options())?;
            fill(&db, 30)?;
            db.checkpoint()?;
            tail(&db)?;
            return Ok(kill(&disk).contents(usize::MAX));
        }
        "crashed_twice" => {
            let db = open(&disk, options())?;
            tail(&db)?;
            db.drop_family("tables")?;
            let second = kill(&disk);
            drop(open(&second, options())?);
            let third = kill(&disk);
            let db = open(&third, options())?;
            tail(&db)?;
            return Ok(kill(&third).contents(usize::MAX));
        }
        "deep" => {
            let db = open(&disk, options())?;
            deep(&db)?;
            db.close()?;
        }
        "wide_pages" => {
            let db = open(&disk, options().page_size(16384))?;
            fill(&db, 30)?;
            db.checkpoint()?;
            tail(&db)?;
            return Ok(kill(&disk).contents(usize::MAX));
        }
        other => panic!("{other} is no base"),
    }
    Ok(disk.contents(usize::MAX))
}

/// Families, a table, large values, a removed range and a dropped family whose pages wait.
fn fill(db: &Database, entries: u32) -> Result<()> {
    let (small, large, tables) = (db.family("small")?, db.family("large")?, db.family("tables")?);
    let table = tables.table("table")?;
    let mut txn = db.begin([&small, &large, &tables])?;
    for i in 0..entries * 10 {
        txn.family(&small)?.insert(i.to_be_bytes(), format!("value {i}"))?;
        txn.table(&table)?.insert(format!("key {i:06}"), [0; 20])?;
    }
    txn.family(&large)?.insert("big", [7; 9000])?;
    txn.family(&large)?.insert("bigger", vec![0; 70_000])?;
    txn.family(&large)?.insert("head only", [1; 2000])?;
    txn.commit()?;
    let doomed = db.family("doomed")?;
    let mut txn = doomed.begin()?;
    (0..entries).try_for_each(|i| txn.insert(i.to_be_bytes(), [0; 900]).map(drop))?;
    txn.commit()?;
    db.drop_family("doomed")?;
    let mut txn = small.begin()?;
    txn.remove_range(20u32.to_be_bytes()..(entries * 5).to_be_bytes())?;
    txn.commit().map(drop)
}

/// Commits that only the log has: effects, images, effects above them, several families, tables that come and go.
fn tail(db: &Database) -> Result<()> {
    let (small, large, tables) = (db.family("small")?, db.family("large")?, db.family("tables")?);
    for i in 0..12u32 {
        let mut txn = db.begin([&small, &tables])?;
        txn.family(&small)?.insert(i.to_be_bytes(), format!("changed {i}"))?;
        txn.family(&small)?.remove((i + 5).to_be_bytes())?;
        txn.family(&tables)?.insert("last", i.to_be_bytes())?;
        txn.commit_with(if i % 3 == 0 { Durability::Eventual } else { Durability::Immediate })?;
    }
    let mut txn = large.begin()?;
    (0..40u32).try_for_each(|i| txn.insert(i.to_be_bytes(), [0; 700]).map(drop))?;
    txn.insert("huge", vec![0; 140_000])?;
    txn.commit_with(Durability::Buffered)?;
    let mut txn = small.begin()?;
    txn.remove_range(3u32.to_be_bytes()..6u32.to_be_bytes())?;
    txn.commit()?;
    let new = tables.table("new")?;
    tables.drop_table("table")?;
    for i in 0..6u32 {
        let mut txn = db.begin([&small, &tables])?;
        txn.family(&small)?.insert((i * 3).to_be_bytes(), format!("changed again {i}"))?;
        txn.table(&new)?.insert(format!("key {i:06}"), [7; 20])?;
        txn.table(&new)?.remove(format!("key {:06}", i / 2))?;
        txn.commit()?;
    }
    Ok(())
}

/// A tree of many levels, all of it long separators.
fn deep(db: &Database) -> Result<()> {
    let family = db.family("deep")?;
    let mut txn = family.begin()?;
    for i in 0..60u32 {
        // Neighbours differ at their end only, and pairs at their beginning: separators are long, prefixes short.
        for end in 0..2u8 {
            let mut key = vec![0; 900];
            key[..4].copy_from_slice(&i.wrapping_mul(0x9E37_79B9).to_be_bytes());
            key[899] = end;
            txn.insert(key, [0; 700])?;
        }
    }
    txn.commit().map(drop)
}
