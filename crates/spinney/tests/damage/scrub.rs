//! The scrub: finds rot that the cache hides, and is in nobody's way.

use crate::{build, contents, fill, headers, open, spoil, value, world_of};
use spinney::{Error, Options, Problem, Result, ScrubOptions, SimDisk};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

fn fast() -> ScrubOptions {
    ScrubOptions::new().bytes_per_second(1 << 40).pause(Duration::ZERO)
}

#[test]
fn rot_on_the_storage_is_found_behind_the_cache() -> Result<()> {
    let page_size = 4096;
    let sound = SimDisk::new();
    let world = build(&sound, page_size, false)?;
    let known = headers(&contents(&sound), page_size);
    let mut found = 0;
    for header in known.iter().filter(|header| header.kind != 4) {
        let disk = sound.fork();
        let db = open(&disk, page_size)?;
        assert_eq!(world_of(&db)?, world);
        let reached = db.check()?;
        spoil(&disk, header.page, page_size);
        assert_eq!(world_of(&db)?, world, "the cache has everything");
        let scrub = db.scrub(fast().rounds(1))?;
        while scrub.stats().running {
            thread::sleep(Duration::from_millis(1));
        }
        let (stats, problems) = (scrub.stats(), scrub.take_problems());
        assert_eq!((stats.rounds, stats.problems), (1, problems.len() as u64));
        let Some(problem) = problems.first() else { continue };
        assert_eq!(problems.len(), 1, "page {}: {problems:?}", header.page);
        let Problem::Damaged { error: Error::Corrupt { page, at, .. }, table, .. } = problem else {
            panic!("{problem}")
        };
        assert_eq!((page.get(), *at), (header.page, header.page * page_size as u64));
        assert_eq!(table.is_some(), header.kind >= 16, "{problem}");
        assert_eq!(db.stats()?.scrub.expect("its handle lives").problems, 1);
        assert!(reached.is_sound());
        drop(scrub);
        assert!(db.stats()?.scrub.is_none());
        found += 1;
    }
    assert!(found > 30, "{found} found");
    Ok(())
}

/// It reads every page of every family: as many as the check reaches.
#[test]
fn a_round_reads_everything() -> Result<()> {
    let page_size = 4096;
    let disk = SimDisk::new();
    build(&disk, page_size, false)?;
    let db = open(&disk, page_size)?;
    let report = db.check()?;
    let done = db.scrub(fast().rounds(1))?.wait();
    assert_eq!(done.problems, 0);
    // Heads of large values are read in passing, and chunks without what fills their last page.
    let (least, most) = ((report.pages() - 20) * page_size as u64, (report.pages() + 100) * page_size as u64);
    assert!((least..most).contains(&done.bytes), "{done:?}, {report:?}");
    Ok(())
}

/// Nothing is found in a sound file, however it changes meanwhile; and a writer's slot is always free.
#[test]
fn writers_do_not_notice_it_and_it_does_not_mind_them() -> Result<()> {
    for background in [false, true] {
        let db = Options::new().memory_budget(2 << 20).background(background).in_memory()?;
        let families = [db.family("a")?, db.family("b")?];
        for family in &families {
            fill(family, "", 0..3000, 1, 100)?;
            fill(family, "table", 0..500, 1, 100)?;
        }
        let scrub = db.scrub(fast())?;
        let over = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = families
            .iter()
            .map(|family| {
                let (family, over) = (family.clone(), Arc::clone(&over));
                thread::spawn(move || -> Result<()> {
                    let mut round = 0;
                    while !over.load(Ordering::Relaxed) {
                        round += 1;
                        let mut txn = family.try_begin()?;
                        for key in (round * 37 % 3000..3000).step_by(211) {
                            txn.insert(format!("key {key:06}"), value(round, 100))?;
                        }
                        txn.insert("large", value(round, 70_000))?;
                        if round % 9 == 0 {
                            txn.remove_range(
                                format!("key {:06}", round % 2500)..format!("key {:06}", round % 2500 + 200),
                            )?;
                        }
                        txn.commit()?;
                    }
                    Ok(())
                })
            })
            .collect();
        while scrub.stats().rounds < 20 {
            thread::sleep(Duration::from_millis(1));
        }
        over.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().expect("no panic")?;
        }
        assert_eq!(scrub.stats().problems, 0, "{:?}", scrub.take_problems());
        drop(scrub);
        assert!(db.check()?.is_sound());
    }
    Ok(())
}

/// While it waits for its rate it holds no snapshot, and each piece is small.
#[test]
fn it_pins_nothing_while_it_rests() -> Result<()> {
    let db = Options::new().in_memory()?;
    fill(&db.family("a")?, "", 0..4000, 1, 200)?;
    db.checkpoint()?;
    let rate = 64 << 10;
    let scrub = db.scrub(ScrubOptions::new().bytes_per_second(rate))?;
    let mut rested = 0;
    while rested < 3 {
        let before = scrub.stats();
        let held = db.stats()?.space.snapshots.len();
        let after = scrub.stats();
        if before.pieces > 0 && before.pieces == after.pieces && held == 0 {
            rested += 1;
        }
        assert!(after.bytes <= (after.pieces + 2) * 2 * rate, "{after:?}");
        thread::sleep(Duration::from_millis(1));
    }
    assert!(scrub.stats().running);
    Ok(())
}

#[test]
fn a_rate_that_would_take_for_ever_is_refused() -> Result<()> {
    let db = Options::new().in_memory()?;
    assert!(matches!(db.scrub(ScrubOptions::new().bytes_per_second(1)), Err(Error::InvalidOption { .. })));
    // It stops when the database closes.
    let scrub = db.scrub(fast())?;
    db.close()?;
    assert!(!scrub.wait().running);
    Ok(())
}
