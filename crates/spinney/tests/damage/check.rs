//! The check: accounts for every page while everybody goes on, and names what is damaged.

use crate::{build, checksum, contents, fill, headers, open, options, spoil, value, world_of, write};
use spinney::{CheckOptions, Error, Options, Problem, Result, SimDisk};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

#[test]
fn reached_own_and_free_pages_are_all_pages() -> Result<()> {
    for page_size in [4096, 16_384, 65_536] {
        for with_log in [false, true] {
            let disk = SimDisk::new();
            build(&disk, page_size, with_log)?;
            let report = open(&disk, page_size)?.check()?;
            assert!(report.is_sound(), "{page_size}: {:?}", report.problems);
            assert_eq!(report.used_pages, Some(report.pages()), "{page_size}");
            assert_eq!(report.file_pages, report.pages() + report.own_pages + report.free_pages, "{page_size}");
            assert_eq!(report.by_family.iter().map(spinney::FamilyReport::pages).sum::<u64>(), report.pages());
            let orders = report.by_family.iter().find(|family| family.name == "orders").expect("it exists");
            assert_eq!((orders.tables, orders.problems), (2, 0));
            assert_eq!(report.cut_off_pages, 0);
        }
    }
    Ok(())
}

/// Counts down when a thread ends, however it does.
struct Leaves(Arc<AtomicUsize>);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The accounting is of one instant, whatever happens meanwhile.
#[test]
fn the_accounts_are_right_while_everybody_writes() -> Result<()> {
    for background in [false, true] {
        let db = Options::new().memory_budget(2 << 20).background(background).in_memory()?;
        let at_work = Arc::new(AtomicUsize::new(3));
        let writers: Vec<_> = (0..3u64)
            .map(|writer| {
                let (db, at_work) = (db.clone(), Leaves(Arc::clone(&at_work)));
                std::thread::spawn(move || -> Result<()> {
                    let _at_work = at_work;
                    for round in 1..600 {
                        let family = db.family(&format!("family {}", writer + 3 * (round / 40 % 2)))?;
                        let first = round * 31 % 500;
                        if round % 20 == 0 {
                            fill(&family, "table", first..first + 300, 1, 120)?;
                        } else if round % 11 == 0 {
                            let mut txn = family.begin()?;
                            txn.insert("large", value(round, 90_000))?;
                            txn.remove_range(format!("key {:06}", first)..format!("key {:06}", first + 60))?;
                            txn.commit()?;
                        } else if round % 80 == 79 {
                            db.drop_family(&family.name())?;
                        } else {
                            fill(&family, "", first..first + 5, 1, 300)?;
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        let mut round = 0;
        while at_work.load(Ordering::Relaxed) > 0 || round < 5 {
            round += 1;
            let report = db.check()?;
            assert!(report.is_sound(), "round {round}: {:?}", report.problems);
            assert_eq!(report.used_pages, Some(report.pages()), "round {round}");
            assert_eq!(report.file_pages, report.pages() + report.own_pages + report.free_pages, "round {round}");
        }
        println!("{round} checks");
        for writer in writers {
            writer.join().expect("no panic")?;
        }
    }
    Ok(())
}

/// Each page in turn: the check names it, its family, its table and its offset, though the cache has it whole; and the rest of the
/// database is checked and used.
#[test]
fn every_damaged_page_is_named_and_spares_the_others() -> Result<()> {
    let page_size = 4096;
    let sound = SimDisk::new();
    let world = build(&sound, page_size, false)?;
    let (mut in_trees, mut chunks, mut own, mut harmless) = (0, 0, 0, 0);
    let bytes = contents(&sound);
    let known = headers(&bytes, page_size);
    for page in 0..(bytes.len() / page_size) as u64 {
        let disk = sound.fork();
        let db = open(&disk, page_size)?;
        let names: Vec<_> = db.families()?.into_iter().map(|family| (family.owner, family.name)).collect();
        assert_eq!(world_of(&db)?, world);
        // The audit makes a checkpoint, which writes to the log and to one superblock.
        spoil(&disk, page, page_size);
        let report = db.check()?;
        let header = known.iter().find(|header| header.page == page);
        if report.is_sound() {
            harmless += 1;
            continue;
        }
        let first = &report.problems[0];
        assert_eq!(report.problems.len(), 1, "page {page}: {:?}", report.problems);
        let Problem::Damaged { error, table, lost } = first else { panic!("page {page}: {first}") };
        match (error, header) {
            (Error::Damaged { at, .. }, _) => {
                assert_eq!(at / page_size as u64, page);
                own += 1;
            }
            (Error::Corrupt { page: named, family, at, .. }, header) => {
                assert_eq!(at / page_size as u64, named.get());
                // A chunk is named by its first page.
                assert!((named.get()..named.get() + 16).contains(&page), "page {page}: {first}");
                match header.filter(|header| header.page == named.get()) {
                    None => chunks += 1,
                    Some(header) if header.kind < 16 => {
                        assert_eq!(family, "(the file itself)");
                        own += 1;
                        continue;
                    }
                    Some(header) => {
                        let name = names.iter().find(|(owner, _)| *owner == header.owner);
                        assert!(name.is_none_or(|(_, name)| name == family), "page {page}: {first}");
                        let is_table = family == "orders" && header.table != 0 && header.table != u32::MAX;
                        let wanted = if is_table { "by customer" } else { "" };
                        assert!(header.table == u32::MAX || table.as_deref() == Some(wanted), "page {page}: {first}");
                        in_trees += 1;
                    }
                }
                assert!(lost.is_some(), "page {page}: {first}");
                // Whatever else there is can be read and written.
                for (_, other) in names.iter().filter(|(_, name)| name != family && !family.starts_with('(')) {
                    let handle = db.open_family(other)?.expect("it exists");
                    assert_eq!(crate::entries(&db.snapshot(), &handle)?, world[&(other.clone(), String::new())]);
                    let mut txn = handle.begin()?;
                    txn.insert("still", "writable")?;
                    txn.commit()?;
                }
            }
            _ => panic!("page {page}: {first}"),
        }
    }
    println!("{in_trees} pages of trees, {chunks} of chunks, {own} of the file, {harmless} harmless");
    assert!(in_trees > 30 && chunks > 60 && own > 4 && harmless > 10);
    Ok(())
}

#[test]
fn damaged_names_do_not_hide_the_families_behind_them() -> Result<()> {
    let page_size = 4096;
    let disk = SimDisk::new();
    build(&disk, page_size, false)?;
    let db = open(&disk, page_size)?;
    let sound = db.check()?;
    let orders = db.open_family("orders")?.expect("it exists");
    for header in headers(&contents(&disk), page_size).iter().filter(|header| header.owner == 0 && header.kind >= 16) {
        spoil(&disk, header.page, page_size);
    }
    drop(orders);
    drop(db);
    let owner = sound.by_family.iter().find(|family| family.name == "orders").expect("it exists").owner;
    let db = options(page_size).read_only(true).open_storage(Arc::new(disk.clone()))?;
    let report = db.check()?;
    assert!(!report.is_sound());
    let again = report.by_family.iter().find(|family| family.owner == owner).expect("it is found by its number");
    let before = sound.by_family.iter().find(|family| family.owner == owner).expect("it was there");
    assert_eq!(again.name, format!("#{owner}"));
    assert_eq!((again.entries, again.tables, again.pages()), (before.entries, before.tables, before.pages()));
    Ok(())
}

#[test]
fn progress_is_told_and_ends_where_it_should() -> Result<()> {
    let disk = SimDisk::new();
    let page_size = 4096;
    build(&disk, page_size, true)?;
    let db = open(&disk, page_size)?;
    let mut told = Vec::new();
    let mut families = Vec::new();
    let report = db.check_with(CheckOptions::new().progress(|progress| {
        told.push((progress.pages, progress.pages_expected, progress.problems));
        families.push(progress.family.to_owned());
    }))?;
    assert!(report.is_sound());
    assert!(told.is_sorted_by_key(|&(pages, _, _)| pages));
    assert_eq!(told.last(), Some(&(report.pages(), report.pages(), 0)));
    families.dedup();
    assert_eq!(families.len() as u64, report.families + 1, "{families:?}");
    Ok(())
}

/// A map that verifies and is wrong: one page of a family is free in it, and one that nobody has is in use.
#[test]
fn a_map_that_lies_is_noticed() -> Result<()> {
    let page_size = 4096;
    let disk = SimDisk::new();
    build(&disk, page_size, false)?;
    let bytes = contents(&disk);
    let known = headers(&bytes, page_size);
    let mut caught = 0;
    for map in known.iter().filter(|header| header.kind == 1) {
        let at = map.page as usize * page_size;
        let bits = &bytes[at + 32..at + page_size];
        let in_use = |page: u64| bits[page as usize / 8] >> (page % 8) & 1 == 1;
        let pages = (bytes.len() / page_size) as u64;
        // Alone between pages in use, so that the longest free run stays what it was.
        let is_alone = |page: &u64| in_use(page - 1) && in_use(page + 1);
        let victims = known.iter().filter(|h| h.kind == 16 && in_use(h.page)).map(|h| h.page).filter(is_alone);
        let Some(victim) = victims.max() else { continue };
        let free_runs = (8..pages - 1).filter(|page| !in_use(*page) && is_alone(page));
        for orphan in free_runs.take(1) {
            let disk = SimDisk::with_contents(&bytes);
            let mut page = bytes[at..at + page_size].to_vec();
            page[32 + victim as usize / 8] &= !(1 << (victim % 8));
            page[32 + orphan as usize / 8] |= 1 << (orphan % 8);
            let sum = checksum(&page[8..]);
            page[..8].copy_from_slice(&sum.to_le_bytes());
            write(&disk, at as u64, &page);
            let report = open(&disk, page_size)?.check()?;
            let free = |problem: &Problem| matches!(problem, Problem::FreePage { page, .. } if page.get() == victim);
            let lost = |problem: &Problem| matches!(problem, Problem::LostPage { page } if page.get() == orphan);
            if report.is_sound() {
                continue; // not the newest of the map's two homes
            }
            assert!(report.problems.iter().any(free) && report.problems.iter().any(lost), "{:?}", report.problems);
            assert_eq!(report.problems.len(), 2, "{:?}", report.problems);
            caught += 1;
        }
    }
    assert!(caught > 0, "no map could be changed without changing its counts");
    Ok(())
}
