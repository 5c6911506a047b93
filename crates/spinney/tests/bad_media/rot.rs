//! Every byte of a small database in turn turned into another, every page in turn into an older one or into another page: the right
//! answer, or a typed error that names page, family and offset.
//!
//! `cargo test` looks at 50 000 positions; `cargo xtask bitrot` at every byte of every block that is not blank, at
//! three page sizes.

use super::is_readable;
use spinney::{Database, Durability, Error, Options, Result, SimDisk};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

/// Entries by family and table.
type World = BTreeMap<(&'static str, &'static str), BTreeMap<Vec<u8>, Vec<u8>>>;

const PLACES: [(&str, &str); 4] = [("small", ""), ("large", ""), ("large", "table"), ("long keys", "")];
const PAGE_SIZES: [usize; 3] = [4096, 16384, 65536];
/// A chunk of a large value is verified as a whole.
const CHUNK_BYTES: u64 = 64 << 10;
const BLOCK_BYTES: usize = 4096;
const SAMPLES: usize = 50_000;
const SEED: u64 = 0x5EED_0000_2026_1127;

/// A file, what it held before, and every state that may be read from it.
struct Sample {
    page_bytes: usize,
    file: Vec<u8>,
    /// The file some commits earlier, as its pages were then.
    older: Vec<u8>,
    /// The last one is the right one. Where the file was not closed, the end of the log may be taken for one that a power cut
    /// took: then a commit before it is right too.
    states: Vec<World>,
}

fn options(page_bytes: usize) -> Options {
    Options::new().page_size(page_bytes).memory_budget(8 << 20).background(false)
}

fn put(
    db: &Database,
    world: &mut World,
    entries: Vec<(usize, Vec<u8>, Vec<u8>)>,
    durability: Durability,
) -> Result<()> {
    let families = [db.family("small")?, db.family("large")?, db.family("long keys")?];
    let tables = [
        families[0].default_table(),
        families[1].default_table(),
        families[1].table("table")?,
        families[2].default_table(),
    ];
    let mut txn = db.begin(&families)?;
    for (place, key, value) in entries {
        txn.table(&tables[place])?.insert(&key, &value)?;
        world.entry(PLACES[place]).or_default().insert(key, value);
    }
    txn.commit_with(durability).map(drop)
}

fn first_half() -> Vec<(usize, Vec<u8>, Vec<u8>)> {
    let mut entries = Vec::new();
    for i in 0..500u32 {
        entries.push((0, i.to_be_bytes().to_vec(), format!("value {i}").into_bytes()));
        entries.push((2, format!("key {i}").into_bytes(), vec![1; 30]));
    }
    entries.push((1, b"big".to_vec(), (0..100_000u32).map(|i| i.to_le_bytes()[1]).collect()));
    entries.push((1, b"a page".to_vec(), vec![7; 3000]));
    entries.extend((0..60u8).map(|i| (3, [&[i][..], &[0; 800], &[i]].concat(), vec![i; 300])));
    entries
}

fn sample(page_bytes: usize, is_closed: bool) -> Result<Sample> {
    let disk = SimDisk::new();
    let mut world = World::new();
    let open = || options(page_bytes).open_storage(Arc::new(disk.clone()));
    let db = open()?;
    put(&db, &mut world, first_half(), Durability::Immediate)?;
    db.close()?;
    let older = disk.contents();
    let db = open()?;
    let mut states = Vec::new();
    for round in 0..6u32 {
        states.push(world.clone());
        let change = |i: u32| (0, (i * 37 + round).to_be_bytes().to_vec(), format!("changed {round}").into_bytes());
        put(&db, &mut world, (0..12).map(change).collect(), Durability::Immediate)?;
    }
    states.push(world);
    let file = if is_closed {
        db.close()?;
        states.drain(..states.len() - 1);
        disk.contents()
    } else {
        disk.contents()
    };
    assert!(file.len() >= 256 << 10, "{} bytes are no database to speak of", file.len());
    Ok(Sample { page_bytes, file, older, states })
}

/// What a file holds; the first error ends it.
fn contents(file: &[u8], read_only: bool) -> Result<World> {
    let options = options(4096).read_only(read_only).create_missing(false);
    let db = options.open_storage(Arc::new(SimDisk::with_contents(file)))?;
    let snapshot = db.snapshot();
    let mut world = World::new();
    for (family, table) in PLACES {
        let handle = db.open_family(family)?.expect("a family is missing");
        let place = match table {
            "" => handle.default_table(),
            name => handle.open_table(name)?.expect("a table is missing"),
        };
        let entries = snapshot.range(&place, ..).map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())));
        world.insert((family, table), entries.collect::<Result<_>>()?);
    }
    Ok(world)
}

impl Sample {
    /// The right answer or a typed error; `true` when it was an error. `around` is where the file was changed.
    fn judge(&self, file: &[u8], around: std::ops::Range<usize>, what: &dyn std::fmt::Debug) -> bool {
        let read_only = around.start.is_multiple_of(2);
        let error = match contents(file, read_only) {
            Ok(found) => {
                assert!(self.states.contains(&found), "wrong data: {what:?}, read only: {read_only}");
                return false;
            }
            Err(error) => error,
        };
        is_readable(&error);
        if let Error::Corrupt { page, family, at, .. } = &error {
            let span = CHUNK_BYTES.max(self.page_bytes as u64);
            assert_eq!(*at, page.get() * self.page_bytes as u64);
            // What is damaged is named, not what led there; pages of no family are those of the file's own structures.
            let is_near = *at < around.end as u64 && around.start as u64 <= at + span;
            assert!(is_near, "{error} names another place: {what:?}");
            let families = ["small", "large", "long keys", "(names of families and tables)"];
            let is_named = families.contains(&family.as_str()) || family.starts_with('(') || family.starts_with('#');
            assert!(is_named, "{error}: {what:?}");
        }
        true
    }
}

const PATTERNS: [fn(u8, usize) -> u8; 3] = [|byte, at| byte ^ 1 << (at % 8), |_, _| 0, |_, _| 0xFF];

/// Changes the bytes at these positions one by one, in three ways each, with all processors. Returns how often it was noticed.
fn rot(sample: &Sample, positions: impl Fn(usize) -> Option<(usize, usize)> + Sync) -> (u64, u64) {
    let (next, noticed, tried) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let mut file = sample.file.clone();
                while let Some((at, pattern)) = positions(next.fetch_add(1, Ordering::Relaxed)) {
                    let (was, becomes) = (file[at], PATTERNS[pattern](file[at], at));
                    if was == becomes {
                        continue;
                    }
                    file[at] = becomes;
                    let what = (sample.page_bytes, at, pattern);
                    noticed.fetch_add(u64::from(sample.judge(&file, at..at + 1, &what)), Ordering::Relaxed);
                    tried.fetch_add(1, Ordering::Relaxed);
                    file[at] = was;
                }
            });
        }
    });
    (tried.into_inner(), noticed.into_inner())
}

#[expect(clippy::cast_possible_truncation, reason = "any bits of it will do")]
fn random(i: usize) -> usize {
    let mut x = (i as u64).wrapping_add(SEED).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    (x ^ x >> 31) as usize
}

#[test]
fn a_rotten_byte_anywhere_is_noticed_or_harmless() -> Result<()> {
    let every_byte = std::env::var_os("SPINNEY_ROT").is_some();
    let sizes = if every_byte { &PAGE_SIZES[..] } else { &PAGE_SIZES[..1] };
    for &page_bytes in sizes {
        for is_closed in [true, false] {
            let sample = sample(page_bytes, is_closed)?;
            let right = contents(&sample.file, true)?;
            assert!(sample.states.last() == Some(&right), "the file is not what was written");
            let len = sample.file.len();
            // Half of the samples in each of the two files; where bytes stay as they are, the next one.
            let is_used = |at: usize| sample.file[at..(at + 64).min(len)].iter().any(|&byte| byte != 0);
            let (tried, noticed) = if every_byte {
                // Where a whole block is blank one byte is like another.
                let blocks = (0..len).step_by(BLOCK_BYTES).map(|at| at..(at + BLOCK_BYTES).min(len));
                let positions: Vec<usize> = blocks
                    .flat_map(|block| {
                        let is_blank = sample.file[block.clone()].iter().all(|&byte| byte == 0);
                        block.step_by(if is_blank { 61 } else { 1 })
                    })
                    .collect();
                rot(&sample, |i| positions.get(i / 3).map(|&at| (at, i % 3)))
            } else {
                let used: Vec<usize> = (0..len).filter(|&at| is_used(at)).collect();
                rot(&sample, |i| {
                    // Three of four where something is written, the others anywhere.
                    let at = if i % 4 == 0 { random(i) % len } else { used[random(i) % used.len()] };
                    (i < SAMPLES / 2).then_some((at, random(i + SAMPLES) % 3))
                })
            };
            println!("{page_bytes} bytes a page, closed {is_closed}: {tried} bytes changed, {noticed} noticed");
            assert!(tried > 15_000 && noticed * 10 > tried, "{noticed} of {tried} noticed");
        }
    }
    Ok(())
}

#[test]
fn a_page_whose_write_was_lost_is_noticed_or_harmless() -> Result<()> {
    for page_bytes in PAGE_SIZES {
        for is_closed in [true, false] {
            let sample = sample(page_bytes, is_closed)?;
            let (mut lost, mut noticed) = (0, 0);
            // Superblocks and groups of the log are written in blocks of 4 KiB, whatever the page size.
            for unit in [4096, page_bytes] {
                for at in (0..sample.file.len().min(sample.older.len())).step_by(unit) {
                    let old = &sample.older[at..(at + unit).min(sample.older.len())];
                    if sample.file[at..at + old.len()] == *old {
                        continue;
                    }
                    let mut file = sample.file.clone();
                    file[at..at + old.len()].copy_from_slice(old);
                    lost += 1;
                    noticed += u32::from(sample.judge(&file, at..at + unit, &(page_bytes, at, "older")));
                    // And as if it had never been written at all.
                    file[at..at + old.len()].fill(0);
                    noticed += u32::from(sample.judge(&file, at..at + unit, &(page_bytes, at, "zeros")));
                }
            }
            println!(
                "{page_bytes} bytes a page, closed {is_closed}: {lost} writes lost, {noticed} noticed of twice as many"
            );
            assert!(lost > 3 && noticed > 0, "{noticed} of {lost} noticed");
        }
    }
    Ok(())
}

#[test]
fn a_misdirected_page_is_noticed_or_harmless() -> Result<()> {
    let every_pair = std::env::var_os("SPINNEY_ROT").is_some();
    let page_bytes = PAGE_SIZES[0];
    let sample = sample(page_bytes, true)?;
    let pages = sample.file.len() / page_bytes;
    let page = |number: usize| number * page_bytes..(number + 1) * page_bytes;
    let is_blank = |number: usize| sample.file[page(number)].iter().all(|&byte| byte == 0);
    let (mut tried, mut noticed) = (0, 0);
    for to in 0..pages {
        for from in 0..pages {
            // Every page to a few places, and every place from a few pages.
            let is_one = every_pair || (from + to * 7) % 16 == 0;
            if from == to || !is_one || is_blank(from) {
                continue;
            }
            let mut file = sample.file.clone();
            file[page(to)].copy_from_slice(&sample.file[page(from)]);
            tried += 1;
            noticed += u32::from(sample.judge(&file, page(to), &(from, to)));
        }
    }
    println!("{tried} pages written over others, {noticed} noticed");
    assert!(tried > 300 && noticed > tried / 10);
    Ok(())
}
