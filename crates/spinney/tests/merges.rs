//! What small commits left is merged into pages while everybody goes on: who reads and who adds meanwhile, at the moments that matter.
#![allow(clippy::unwrap_used, reason = "a test may")]

use spinney::{Database, Durability, Error, Options, Result, Sabotage, Tuning};

fn open(sabotage: Option<Sabotage>) -> Result<(Database, Tuning)> {
    let tuning = Tuning { sabotage, ..Tuning::default() };
    let db = Options::new().background(false).memory_budget(16 << 20).tuning(tuning.clone()).in_memory()?;
    Ok((db, tuning))
}

const KEYS: u16 = 2000;

fn key(n: u16) -> [u8; 2] {
    n.wrapping_mul(7919).to_be_bytes()
}

fn filled(db: &Database) -> Result<spinney::Family> {
    let family = db.family("f")?;
    let mut txn = family.begin()?;
    let mut entries: Vec<_> = (0..KEYS).map(|n| (key(n), [n.to_le_bytes()[0]; 100])).collect();
    entries.sort();
    txn.bulk_load(entries)?;
    txn.commit()?;
    db.checkpoint()?;
    Ok(family)
}

/// One small commit.
fn put(family: &spinney::Family, n: u16, value: u8) -> Result<()> {
    let mut txn = family.begin()?;
    txn.insert(key(n), [value; 100])?;
    txn.commit_with(Durability::Eventual)?;
    Ok(())
}

/// A commit comes while a checkpoint merges what was before it.
fn commits_during_a_merge(sabotage: Option<Sabotage>) -> Result<bool> {
    let (db, tuning) = open(sabotage)?;
    let family = filled(&db)?;
    put(&family, 1, 201)?;
    let (other, later) = (family.clone(), 7);
    tuning.interlude.set(move || put(&other, later, 202).unwrap());
    db.checkpoint()?;
    assert!(!tuning.interlude.is_set());
    let read = |n| db.snapshot().get(&family, key(n)).map(|value| value.map(|value| value[0]));
    Ok((read(1)?, read(later)?) == (Some(201), Some(202)) && db.snapshot().len(&family)? == u64::from(KEYS))
}

#[test]
fn what_is_committed_during_a_merge_stays() -> Result<()> {
    assert!(commits_during_a_merge(None)?);
    assert!(!commits_during_a_merge(Some(Sabotage::MergeSwallowsLater))?);
    Ok(())
}

/// A small transaction reads a root that is replaced meanwhile, and whose pages are wanted by others.
fn reads_while_merged(sabotage: Option<Sabotage>) -> Result<bool> {
    let (db, _) = open(sabotage)?;
    let (family, other) = (filled(&db)?, db.family("other")?);
    (0..200).try_for_each(|n| put(&family, 10 * n, 203))?;
    let mut txn = family.begin()?;
    txn.insert(key(3), [204; 100])?;
    for round in 0..4u8 {
        // Another family takes what came free.
        db.checkpoint()?;
        let mut large = other.begin()?;
        large.family(&other)?.clear()?;
        large.bulk_load((0..1500u16).map(|n| (n.to_be_bytes(), [round; 150])))?;
        large.commit()?;
        while db.maintain(1000)? > 0 {}
    }
    let read = || -> Result<bool> {
        let mut right = txn.len()? == u64::from(KEYS);
        for n in 0..KEYS {
            let value = txn.get(key(n))?.map(|value| value[0]);
            let expected = if n == 3 {
                204
            } else if n % 10 == 0 {
                203
            } else {
                n.to_le_bytes()[0]
            };
            right &= value == Some(expected);
        }
        Ok(right)
    };
    let right = match read() {
        Err(Error::Corrupt { .. }) => false,
        read => read?,
    };
    if right {
        txn.commit()?;
        assert!(db.check()?.is_sound());
        db.checkpoint()?;
        db.checkpoint()?;
        let pinned = db.stats()?.file.pages.pinned;
        assert_eq!(pinned, 0, "what it read comes free when it has ended");
    }
    Ok(right)
}

#[test]
fn a_transaction_reads_what_it_began_on() -> Result<()> {
    assert!(reads_while_merged(None)?);
    assert!(!reads_while_merged(Some(Sabotage::ForgetsWriters))?);
    Ok(())
}
