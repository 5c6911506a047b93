//! What a database should hold, and what it does hold.

use spinney::{Database, Error, Family, Options, Problem, Result, Sabotage, SimDisk, Snapshot, Tuning};
use std::{collections::BTreeMap, sync::Arc};

/// Family -> key -> value.
pub type World = BTreeMap<String, Entries>;
pub type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// Everything tiny, so that rare paths are common. Every fourth run writes pages with every commit.
pub fn options(seed: u64, sabotage: Option<Sabotage>) -> Options {
    Options::new().memory_budget(64 * 4096).background(false).tuning(Tuning {
        log_bytes: 16 * 4096,
        log_bytes_max: 32 * 4096,
        checkpoint_after_freed_bytes: 60 * 4096,
        sync_first_bytes: 12 * 4096,
        sync_first_eventual_bytes: 24 * 4096,
        spill_bytes: if seed.is_multiple_of(3) { 6 * 4096 } else { u64::MAX },
        numbers_ahead: 4096,
        images_only: seed % 4 == 3,
        sabotage,
        ..Tuning::default()
    })
}

pub fn open(disk: &SimDisk, options: &Options) -> Result<Database> {
    options.clone().open_storage(Arc::new(disk.clone()))
}

pub fn entries(snapshot: &Snapshot, family: &Family) -> Result<Entries> {
    let all = snapshot.range(family, ..).map(|entry| entry.map(|(k, v)| (k.to_vec(), v.to_vec())));
    let all = all.collect::<Result<Entries>>()?;
    assert_eq!(snapshot.len(family)?, all.len() as u64, "entries of {}", family.name());
    Ok(all)
}

/// Everything that is visible now.
pub fn world_of(db: &Database) -> Result<World> {
    let (snapshot, mut world) = (db.snapshot(), World::new());
    for info in snapshot.families()? {
        let family = db.open_family(&info.name)?.expect("it is in the snapshot");
        world.insert(info.name, entries(&snapshot, &family)?);
    }
    Ok(world)
}

/// Every page is where it belongs.
pub fn check(db: &Database, what: &str) -> Result<()> {
    let report = db.check()?;
    // A page that cannot be read now is the disk's fault, and not found to be wrong.
    let unread = |problem: &Problem| match problem {
        Problem::Damaged { error: error @ Error::Io { .. }, .. } => Some(error.clone()),
        _ => None,
    };
    if let Some(error) = report.problems.iter().find_map(unread) {
        assert!(report.problems.iter().all(|problem| unread(problem).is_some()), "{what}: {:?}", report.problems);
        return Err(error);
    }
    assert!(report.is_sound(), "{what}: {:?}", report.problems);
    Ok(())
}

/// What an opening for reading only shows, if there is a database; it writes nothing.
pub fn read_only(disk: &SimDisk, options: &Options) -> Result<Option<World>> {
    let (disk, options) = (disk.fork(), options.clone().read_only(true));
    // After a failed sync other bytes are seen once the cache was dropped.
    let before = disk.durable_contents();
    let world = match open(&disk, &options) {
        Err(Error::NotADatabase { .. }) if before.iter().all(|byte| *byte == 0) => None,
        Err(error) => {
            // A creation that was cut short is none either; opening makes one of it.
            assert!(matches!(error, Error::NotADatabase { .. } | Error::Missing { .. }), "for reading only: {error}");
            None
        }
        Ok(db) => {
            let world = world_of(&db)?;
            assert!(db.check()?.is_sound(), "for reading only");
            assert!(matches!(db.begin([]), Err(Error::ReadOnly)));
            assert!(matches!(db.checkpoint(), Err(Error::ReadOnly)));
            db.close()?;
            Some(world)
        }
    };
    let counts = disk.counts();
    let changes = [counts.write_vectored_at, counts.write_sync, counts.allocate, counts.punch, counts.set_len];
    assert_eq!(changes, [0; 5], "for reading only");
    assert!(disk.durable_contents() == before, "for reading only, bytes changed");
    Ok(world)
}
