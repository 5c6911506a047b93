//! Memory and file stay bounded, and statistics say what holds the space.

use spinney::{Database, Durability, Error, Options, Result};

const BUDGET: u64 = 1 << 20;

fn options() -> Options {
    Options::new().memory_budget(BUDGET).background(false)
}

fn value(i: u64) -> Vec<u8> {
    i.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes().repeat(128)
}

/// Four times the budget in one transaction, and in many; read back within the budget.
#[test]
fn data_larger_than_memory() -> Result<()> {
    const ENTRIES: u64 = 4 * BUDGET / 1024;
    let db = options().in_memory()?;
    let (one, many) = (db.family("one")?, db.family("many")?);
    let mut txn = one.begin()?;
    for i in 0..ENTRIES {
        txn.insert((i * 7919 % ENTRIES).to_be_bytes(), value(i * 7919 % ENTRIES))?;
        let used = db.stats()?.file.budget_used_bytes;
        assert!(used <= BUDGET, "{used} bytes in use");
    }
    txn.commit()?;
    for i in 0..ENTRIES {
        let mut txn = many.begin()?;
        txn.insert(i.to_be_bytes(), value(i))?;
        txn.commit_with(Durability::Eventual)?;
        assert!(db.stats()?.file.budget_used_bytes <= BUDGET);
    }
    let snap = db.snapshot();
    for family in [&one, &many] {
        assert_eq!(snap.len(family)?, ENTRIES);
        for (i, entry) in (0u64..).zip(snap.range(family, ..)) {
            let (key, found) = entry?;
            assert_eq!(key, i.to_be_bytes());
            assert_eq!(found, value(i));
        }
        assert!(db.stats()?.file.budget_used_bytes <= BUDGET);
    }
    assert!(db.check()?.is_sound());
    Ok(())
}

#[test]
fn a_new_database_is_small() -> Result<()> {
    let db = options().in_memory()?;
    let space = db.stats()?.space;
    assert!(space.file_bytes <= 256 << 10, "{space}");
    Ok(())
}

/// The same data over and over: the file does not grow with the history.
#[test]
fn what_is_overwritten_and_removed_is_used_again() -> Result<()> {
    let db = options().in_memory()?;
    let family = db.family("f")?;
    let mut sizes = Vec::new();
    for round in 0..24u64 {
        let mut txn = family.begin()?;
        for i in 0..300u64 {
            txn.insert(i.to_be_bytes(), value(i + round))?;
        }
        txn.commit()?;
        let mut txn = family.begin()?;
        txn.remove_range(100u64.to_be_bytes()..200u64.to_be_bytes())?;
        txn.commit()?;
        db.maintain(1000)?;
        db.checkpoint()?;
        sizes.push(db.stats()?.space.file_bytes);
    }
    assert!(sizes[23] <= sizes[7], "{sizes:?}");
    Ok(())
}

#[test]
fn space_goes_back_to_the_file_system_when_asked() -> Result<()> {
    let db = options().in_memory()?;
    let family = db.family("f")?;
    let mut txn = family.begin()?;
    for i in 0..4000u64 {
        txn.insert(i.to_be_bytes(), value(i))?;
    }
    txn.commit()?;
    let full = db.stats()?.space.file_bytes;
    db.drop_family("f")?;
    while db.maintain(1000)? > 0 {}
    let mut given_back = 0;
    loop {
        // A budget at a time, so that nobody waits long.
        match db.reclaim(1 << 20)? {
            0 => break,
            bytes => given_back += bytes,
        }
    }
    assert!(given_back > full / 4 * 3, "{full} bytes before, {given_back} given back:\n{}", db.stats()?.space);
    Ok(())
}

/// Overwrites `family` and says what snapshots pin afterwards.
fn churn(db: &Database, family: &spinney::Family) -> Result<u64> {
    for round in 0..10u64 {
        let mut txn = family.begin()?;
        for i in 0..200u64 {
            txn.insert(i.to_be_bytes(), value(i + round))?;
        }
        txn.commit()?;
    }
    db.checkpoint()?;
    Ok(db.stats()?.space.pinned_bytes)
}

#[test]
fn a_snapshot_pins_what_it_was_taken_of_and_is_named_for_it() -> Result<()> {
    let db = options().in_memory()?;
    let (log, sessions) = (db.family("log")?, db.family("sessions")?);
    churn(&db, &log)?;
    assert_eq!(churn(&db, &sessions)?, 0);
    let held = db.snapshot_of([&log]);
    assert_eq!(churn(&db, &sessions)?, 0, "a reader of the log is not in the way of sessions");
    // A little more than the version it shows, not everything that was removed since.
    let pinned = churn(&db, &log)?;
    assert!((200 << 10..400 << 10).contains(&pinned), "{pinned}");
    let stats = db.stats()?;
    assert_eq!(stats.space.snapshots.len(), 1);
    assert_eq!(stats.space.snapshots[0].families.as_deref(), Some(&["log".to_owned()][..]));
    assert_eq!(stats.space.snapshots[0].pinned_bytes, pinned);
    assert!(stats.space.to_string().contains("snapshot of log"), "{}", stats.space);
    assert_eq!(held.len(&log)?, 200);
    drop(held);
    db.checkpoint()?;
    let space = db.stats()?.space;
    assert_eq!((space.pinned_bytes, space.snapshots.len()), (0, 0), "{space}");
    Ok(())
}

/// The parts make up the whole.
#[test]
fn space_adds_up() -> Result<()> {
    let db = options().in_memory()?;
    let family = db.family("f")?;
    churn(&db, &family)?;
    let _held = db.snapshot();
    churn(&db, &family)?;
    let mut open = family.begin()?;
    open.insert("k", "v")?;
    let space = db.stats()?.space;
    let parts = [
        space.live_bytes,
        space.pinned_bytes,
        space.awaiting_checkpoint_bytes,
        space.recent_bytes,
        space.log_bytes,
        space.metadata_bytes,
        space.free_bytes,
    ];
    assert!(parts.iter().all(|&part| part > 0) || space.awaiting_checkpoint_bytes == 0, "{space}");
    assert_eq!(parts.iter().sum::<u64>(), space.file_bytes, "{space}");
    Ok(())
}

/// Whatever filled the file to its last page: entries, ranges and families can be removed, again and again, and there is room again.
#[test]
fn a_full_database_can_be_emptied() -> Result<()> {
    for (bytes, limit, durability) in [
        (300, 1 << 20, Durability::Immediate),
        (3000, 1 << 20, Durability::Eventual),
        (900, 3 << 20, Durability::Eventual),
        (3000, 4 << 20, Durability::Immediate),
        (20_000, 2 << 20, Durability::Immediate),
    ] {
        let db = options().max_file_size(limit).log_size_max(64 << 10).in_memory()?;
        let (family, other) = (db.family("f")?, db.family("other")?);
        let fill = |family: &spinney::Family, mut next: u64, bytes: usize| -> Result<u64> {
            loop {
                let mut txn = family.begin()?;
                match txn.insert(next.to_be_bytes(), vec![7; bytes]).and_then(|_| txn.commit_with(durability)) {
                    Ok(_) => next += 1,
                    Err(Error::Full { .. }) => return Ok(next),
                    Err(error) => panic!("{bytes} bytes, limit {limit}: {error}"),
                }
            }
        };
        let mut first = 0;
        let mut next = fill(&family, 0, bytes)?;
        let others = fill(&other, 0, 50)?;
        for round in 0..6 {
            let what = format!("{bytes} bytes, limit {limit}, round {round}, {}", db.stats()?.space);
            assert!(next > first + 8, "{what}");
            // Entry by entry, without anybody making a checkpoint for it.
            for _ in 0..4 {
                let mut txn = family.begin()?;
                assert!(txn.remove(first.to_be_bytes()).unwrap_or_else(|error| panic!("{error}: {what}")));
                txn.commit_with(durability).unwrap_or_else(|error| panic!("{error}: {what}"));
                first += 1;
            }
            next = fill(&family, next, bytes)?;
            let middle = first + (next - first) / 2;
            let mut txn = family.begin()?;
            txn.remove_range(..&middle.to_be_bytes()[..]).unwrap_or_else(|error| panic!("{error}: {what}"));
            txn.commit_with(durability).unwrap_or_else(|error| panic!("{error}: {what}"));
            let removed = middle - first;
            first = middle;
            while db.maintain(1000)? > 0 {}
            db.checkpoint()?;
            let filled = fill(&family, next, bytes)?;
            assert!(filled - next >= removed / 2, "{removed} entries made room for {}: {what}", filled - next);
            next = filled;
            assert!(db.check()?.is_sound(), "{what}");
        }
        assert_eq!(db.snapshot().len(&family)?, next - first);
        assert_eq!(db.snapshot().len(&other)?, others);
        assert!(db.drop_family("f")?);
        while db.maintain(1000)? > 0 {}
        assert!(fill(&other, others, bytes)? > others + 8, "a dropped family made no room");
    }
    Ok(())
}
