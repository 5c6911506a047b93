//! Salvage: what can be read is saved, whatever is damaged.

use crate::{World, build, contents, headers, options, spoil, value, world_of, write};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use spinney::{Database, Error, LostKeys, Opened, Result, SalvageReport, SimDisk, salvage_storage};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

fn salvage(disk: &SimDisk) -> Result<(SalvageReport, Database)> {
    salvage_storage(Arc::new(disk.clone()), |page_size| options(page_size).in_memory())
}

/// A copy of which every byte stays as it is: whoever writes it panics.
fn copy(disk: &SimDisk) -> SimDisk {
    SimDisk::with_contents(&contents(disk))
}

/// Salvages a copy, and makes sure that it was not written.
fn saved(disk: &SimDisk) -> Result<(SalvageReport, World)> {
    let disk = copy(disk);
    let before = contents(&disk);
    let (report, db) = salvage(&disk)?;
    assert!(contents(&disk) == before, "the source was written");
    let counts = disk.counts();
    assert_eq!(
        counts.write_vectored_at + counts.write_sync + counts.allocate + counts.set_len,
        0,
        "the source was written"
    );
    assert!(db.check()?.is_sound());
    Ok((report, world_of(&db)?))
}

fn is_inside(key: &[u8], (low, high): &LostKeys) -> bool {
    low.as_ref().is_none_or(|low| key >= low.as_slice()) && high.as_ref().is_none_or(|high| key < high.as_slice())
}

/// Every value that was ever written to a key, in any family.
fn ever_written(world: &World) -> BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>> {
    let mut written: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for (key, value) in world.values().flatten() {
        written.entry(key.clone()).or_default().insert(value.clone());
    }
    for key in 0..600u64 {
        let older = [value(key ^ 100, 100), value(key, 90), value(key + 1, 90), value(key + 2, 90)];
        written.entry(format!("key {key:06}").into_bytes()).or_default().extend(older);
    }
    written
}

/// What is there is right, and what is missing was said to be lost. Pages that the log frees are in use until the next checkpoint: what was
/// found by looking may be an older value then, or one that was removed.
fn compare(found: &World, wanted: &World, report: &SalvageReport, with_log: bool, what: &str) -> u64 {
    let mut missing = 0;
    let written = ever_written(wanted);
    let is_older = |key: &[u8], value: &Vec<u8>| with_log && written.get(key).is_some_and(|old| old.contains(value));
    for (place, entries) in wanted {
        let empty = BTreeMap::new();
        let saved = found.get(place).unwrap_or(&empty);
        for (key, value) in entries {
            match saved.get(key) {
                Some(saved) => assert!(saved == value || is_older(key, saved), "{what}: a wrong value in {place:?}"),
                None => {
                    let said = report.losses.iter().any(|loss| {
                        let here = (&loss.family, &loss.table) == (&place.0, &place.1);
                        let directory = loss.family == place.0 && loss.table.starts_with('(');
                        (here || directory) && loss.keys.as_ref().is_some_and(|keys| directory || is_inside(key, keys))
                    });
                    assert!(said, "{what}: {place:?} lacks {:?}, unsaid:\n{report}", key.escape_ascii().to_string());
                    missing += 1;
                }
            }
        }
    }
    for (place, entries) in found {
        let is_wanted = |key: &[u8]| wanted.get(place).is_some_and(|wanted| wanted.contains_key(key));
        let unknown = entries.iter().find(|(key, value)| !is_wanted(key) && !is_older(key, value));
        assert!(unknown.is_none(), "{what}: {place:?} has what nobody wrote: {unknown:?}\n{report}");
    }
    missing
}

#[test]
fn a_sound_file_is_saved_whole() -> Result<()> {
    for page_size in [4096, 16_384, 65_536] {
        for with_log in [false, true] {
            let disk = SimDisk::new();
            let world = build(&disk, page_size, with_log)?;
            let (report, found) = saved(&disk)?;
            assert!(report.is_complete(), "{report}");
            assert_eq!(found, world);
            assert_eq!(report.records(), (world.values().map(|entries| entries.len() as u64).sum(), 0));
        }
    }
    Ok(())
}

/// Each page of every tree in turn: whatever does not lie on that page is saved, also behind inner nodes and lists of chunks.
#[test]
fn one_damaged_page_costs_what_lies_on_it() -> Result<()> {
    let (mut inner, mut leaves, mut values) = (0, 0, 0);
    for with_log in [false, true] {
        let page_size = 4096;
        let sound = SimDisk::new();
        let world = build(&sound, page_size, with_log)?;
        for header in headers(&contents(&sound), page_size).iter().filter(|h| h.owner != 0 && h.kind >= 16) {
            let what = format!("{header:?}, with log: {with_log}");
            let disk = copy(&sound);
            spoil(&disk, header.page, page_size);
            let (report, found) = saved(&disk)?;
            // Recovery repeats commits on the trees: where it meets the damage, pages are all there is.
            if !matches!(report.opened, Opened::Usually) {
                assert!(with_log, "{what}: {report}");
                continue;
            }
            let missing = compare(&found, &world, &report, with_log, &what);
            assert_eq!(report.losses.is_empty(), report.is_complete());
            if report.losses.is_empty() {
                continue; // an old page
            }
            let loss = &report.losses[0];
            assert_eq!(loss.page.map(|page| page.get()), Some(header.page), "{what}: {report}");
            assert_eq!(loss.at, Some(header.page * page_size as u64));
            match header.kind {
                17 => {
                    assert_eq!(missing, 0, "{what}: {report}");
                    inner += 1;
                }
                16 if header.table == u32::MAX => assert_eq!(missing, 0, "{what}: {report}"),
                16 => {
                    assert!((u64::from(!with_log)..=120).contains(&missing), "{what}: {missing} missing\n{report}");
                    leaves += 1;
                }
                _ => {
                    assert!(missing == 1 || with_log && missing == 0, "{what}: {missing} missing\n{report}");
                    values += 1;
                }
            }
        }
    }
    println!("{inner} inner pages, {leaves} leaves, {values} heads and lists of values");
    assert!(inner >= 2 && leaves > 40 && values >= 5);
    Ok(())
}

/// Each page of the names in turn, and all of them.
#[test]
fn families_without_names_get_numbers() -> Result<()> {
    let page_size = 4096;
    let sound = SimDisk::new();
    let world = build(&sound, page_size, false)?;
    let disk = copy(&sound);
    for header in headers(&contents(&sound), page_size).iter().filter(|h| h.owner == 0 && h.kind >= 16) {
        spoil(&disk, header.page, page_size);
    }
    let (report, found) = saved(&disk)?;
    assert!(!report.is_complete());
    let contents_of = |world: &World| -> BTreeSet<Vec<(Vec<u8>, Vec<u8>)>> {
        world.values().filter(|e| !e.is_empty()).map(|e| e.clone().into_iter().collect()).collect()
    };
    assert_eq!(contents_of(&found), contents_of(&world), "{report}");
    assert!(report.families.iter().all(|family| family.name == format!("family-{}", family.owner)), "{report}");
    assert!(report.families.iter().any(|family| family.tables.iter().any(|table| table.name.starts_with("table-"))));
    Ok(())
}

/// Superblocks, log, map and owner table: everything that a checkpoint covers is saved, and with the log what came later.
#[test]
fn what_says_where_things_are_may_be_gone() -> Result<()> {
    for page_size in [4096, 8192, 65_536] {
        for with_log in [false, true] {
            let sound = SimDisk::new();
            let world = build(&sound, page_size, with_log)?;
            let checkpointed = SimDisk::new();
            let older = build(&checkpointed, page_size, false)?;
            let bytes = contents(&sound);
            let known = headers(&bytes, page_size);
            let zeros = vec![0; 4096];
            let of_kind = |kinds: &[u8]| -> Vec<u64> {
                known.iter().filter(|h| kinds.contains(&h.kind)).map(|h| h.page).collect()
            };
            let log = (0..bytes.len() as u64 / 4096).filter(|block| {
                let at = *block as usize * 4096;
                // Of a group, after its checksum and the magic number: the identity of the file.
                bytes[at + 16..at + 32] == bytes[40..56] && *block > 1
            });
            let log: Vec<u64> = log.collect();
            let mut cases: Vec<(&str, SimDisk, bool)> = Vec::new();
            let mut case = |what, change: &dyn Fn(&SimDisk), complete: bool| {
                let disk = copy(&sound);
                change(&disk);
                cases.push((what, disk, complete));
            };
            let pages = |disk: &SimDisk, pages: &[u64]| pages.iter().for_each(|&page| spoil(disk, page, page_size));
            case("first superblock", &|disk| write(disk, 0, &[7; 300]), true);
            case("second superblock", &|disk| write(disk, 4096, &[7; 300]), true);
            case(
                "both superblocks",
                &|disk| {
                    write(disk, 0, &zeros);
                    write(disk, 4096, &zeros);
                },
                false,
            );
            case("both superblocks, garbage", &|disk| write(disk, 0, &[7; 8192]), false);
            case("map", &|disk| pages(disk, &of_kind(&[1, 2])), false);
            case("owner table", &|disk| pages(disk, &of_kind(&[3])), false);
            case("owner directory", &|disk| pages(disk, &of_kind(&[4])), false);
            case(
                "owners and superblocks",
                &|disk| {
                    pages(disk, &of_kind(&[3, 4]));
                    write(disk, 0, &[7; 8192]);
                },
                false,
            );
            case("log", &|disk| log.iter().for_each(|&block| write(disk, block * 4096, &[7; 200])), false);
            for (what, disk, complete) in cases {
                let what = format!("{what}, pages of {page_size}, with log: {with_log}");
                let (report, found) = saved(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
                println!("{what}: {:?} {:?}", report.records(), report.opened);
                let least = if complete { &world } else { &older };
                for (place, entries) in least {
                    let saved = found.get(place).unwrap_or_else(|| panic!("{what}: no {place:?}\n{report}"));
                    for (key, value) in entries {
                        let newer = world.get(place).and_then(|entries| entries.get(key));
                        let saved =
                            saved.get(key).unwrap_or_else(|| panic!("{what}: {place:?} lacks {key:?}\n{report}"));
                        assert!(saved == value || Some(saved) == newer, "{what}: {place:?} has an old value\n{report}");
                    }
                }
            }
        }
    }
    Ok(())
}

/// A group of the log in the middle: the file opens no more, and what lies before it is saved.
#[test]
fn a_log_damaged_in_the_middle_is_followed_up_to_there() -> Result<()> {
    let page_size = 4096;
    let sound = SimDisk::new();
    let world = build(&sound, page_size, true)?;
    let bytes = contents(&sound);
    let is_log = |block: &usize| bytes[block * 4096 + 16..block * 4096 + 32] == bytes[40..56];
    let (mut refused, mut whole) = (0, 0);
    for block in (2..bytes.len() / 4096).filter(is_log) {
        let disk = copy(&sound);
        write(&disk, block as u64 * 4096 + 90, b"this is not what was written");
        let opens = options(page_size).open_storage(Arc::new(disk.fork())).is_ok();
        let (report, found) = saved(&disk)?;
        assert_eq!(opens, matches!(report.opened, Opened::Usually), "block {block}: {report}");
        refused += u64::from(!opens);
        whole += u64::from(found == world);
        assert!(report.losses.is_empty(), "block {block}: {report}");
        assert!(matches!(report.opened, Opened::Usually | Opened::Leniently { .. }), "block {block}: {report}");
        // A prefix of the commits: nothing but what the last ones did is missing.
        for (place, entries) in &found {
            assert!(
                entries.iter().all(|(key, value)| world[place].get(key) == Some(value)),
                "block {block}: {place:?}"
            );
        }
    }
    println!("{refused} damaged logs were refused, {whole} files were saved whole");
    assert!(refused > 2 && whole > 2);
    Ok(())
}

/// Whatever the bytes are: an error or a report, never a panic; and values that nobody wrote never.
#[test]
fn any_damage_leads_to_a_report_or_an_error() -> Result<()> {
    let page_size = 4096;
    let sound = SimDisk::new();
    let world = build(&sound, page_size, true)?;
    let bytes = contents(&sound);
    let written = ever_written(&world);
    let (mut reports, mut errors) = (0, 0);
    for seed in 0..150 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut bad = bytes.clone();
        for _ in 0..1 << rng.random_range(0..10) {
            let at = rng.random_range(0..bad.len());
            let len = rng.random_range(1..64).min(bad.len() - at);
            bad[at..at + len].iter_mut().for_each(|byte| *byte = rng.random());
        }
        if seed % 5 == 0 {
            bad.truncate(rng.random_range(0..bad.len()));
        }
        match salvage(&SimDisk::with_contents(&bad)) {
            Ok((report, db)) => {
                reports += 1;
                assert!(db.check()?.is_sound(), "seed {seed}");
                for (key, value) in world_of(&db)?.values().flatten() {
                    let is_known = written.get(key).is_some_and(|values| values.contains(value));
                    assert!(is_known, "seed {seed}: {} was never written\n{report}", key.escape_ascii());
                }
            }
            Err(error) => {
                assert!(
                    matches!(error, Error::NotADatabase { .. } | Error::NewerVersion { .. }),
                    "seed {seed}: {error}"
                );
                errors += 1;
            }
        }
    }
    println!("{reports} reports, {errors} errors");
    assert!(reports > 100);
    Ok(())
}

#[test]
fn a_file_in_use_and_one_that_is_none_are_refused() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let (from, into) = (folder.path().join("from"), folder.path().join("into"));
    assert!(matches!(spinney::salvage(&from, &into), Err(Error::Missing { .. })));
    std::fs::write(&from, vec![3; 100_000]).unwrap();
    assert!(matches!(spinney::salvage(&from, &into), Err(Error::NotADatabase { .. })));
    std::fs::remove_file(&from).unwrap();
    let db = Database::open(&from)?;
    db.family("a")?;
    assert!(matches!(spinney::salvage(&from, &into), Err(Error::Locked { .. })));
    db.close()?;
    let report = spinney::salvage(&from, &into)?;
    assert!(report.is_complete() && Database::open(&into)?.open_family("a")?.is_some(), "{report}");
    assert!(matches!(spinney::salvage(&from, &into), Err(Error::AlreadyExists { .. })));
    Ok(())
}
