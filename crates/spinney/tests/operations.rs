//! Millions of single operations on one family against a map, with commits and aborts among them.
//!
//! `SPINNEY_MODEL_OPERATIONS` is how many, `SPINNEY_MODEL_SEED` the first seed.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

use rand::{Rng, SeedableRng, rngs::SmallRng};
use spinney::{Database, Durability, Family, Options, Result, WriteTransaction};
use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::atomic::{AtomicU64, Ordering},
};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Operations of one seed.
const EACH: u64 = 125_000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Short and long keys, near each other and not: 1 to 12 bytes, now and then a few hundred.
fn key(rng: &mut SmallRng, keys: u32) -> Vec<u8> {
    let number = rng.random_range(0..keys);
    let mut key = number.to_be_bytes()[1 + (number % 3) as usize..].to_vec();
    key.resize(key.len() + (number % 7) as usize, number as u8);
    if number.is_multiple_of(97) {
        key.resize(300 + (number % 300) as usize, b'x');
    }
    key
}

fn value(rng: &mut SmallRng) -> Vec<u8> {
    let bytes = match rng.random_range(0..500) {
        0 => rng.random_range(4000..12_000),
        1..10 => rng.random_range(500..1500),
        _ => rng.random_range(0..50),
    };
    vec![rng.random(); bytes]
}

/// What an abort puts back, newest last.
type Undo = Vec<(Vec<u8>, Option<Vec<u8>>)>;

fn operation(
    rng: &mut SmallRng,
    keys: u32,
    (txn, family): (&mut WriteTransaction, &Family),
    model: &mut Model,
    undo: &mut Undo,
) -> Result<()> {
    let key = key(rng, keys);
    match rng.random_range(0..1000) {
        0..430 => {
            let value = value(rng);
            let existed =
                if rng.random() { txn.put(&key, &value).map(|()| None)? } else { Some(txn.insert(&key, &value)?) };
            let old = model.insert(key.clone(), value);
            assert!(existed.is_none_or(|existed| existed == old.is_some()), "insert {key:?}");
            undo.push((key, old));
        }
        430..650 => {
            let old = model.remove(&key);
            let existed = if rng.random() { txn.delete(&key).map(|()| None)? } else { Some(txn.remove(&key)?) };
            assert!(existed.is_none_or(|existed| existed == old.is_some()), "remove {key:?}");
            undo.push((key, old));
        }
        650..960 => assert_eq!(txn.get(&key)?.as_deref(), model.get(&key).map(|v| &v[..]), "get {key:?}"),
        960..990 => {
            let found: Vec<_> = txn.range(&key[..]..).take(8).collect::<Result<_>>()?;
            let expected = model.range::<[u8], _>((Bound::Included(&key[..]), Bound::Unbounded)).take(8);
            assert!(
                found.iter().map(|(k, v)| (&k[..], &v[..])).eq(expected.map(|(k, v)| (&k[..], &v[..]))),
                "after {key:?}"
            );
        }
        990..996 => {
            let found: Vec<_> = txn.range(..=&key[..]).rev().take(8).collect::<Result<_>>()?;
            let expected = model.range::<[u8], _>((Bound::Unbounded, Bound::Included(&key[..]))).rev().take(8);
            assert!(
                found.iter().map(|(k, v)| (&k[..], &v[..])).eq(expected.map(|(k, v)| (&k[..], &v[..]))),
                "before {key:?}"
            );
        }
        996..998 => {
            assert_eq!(txn.len()?, model.len() as u64);
            let below = model.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(&key[..]))).count() as u64;
            assert_eq!(txn.family(family)?.count(..&key[..])?, below, "before {key:?}");
        }
        _ => {
            // About forty entries.
            let end = model.range(key.clone()..).nth(40).map_or(vec![0xFF; 2], |(end, _)| end.clone());
            let gone: Vec<_> = model.range(key.clone()..end.clone().max(key.clone())).map(|(k, _)| k.clone()).collect();
            assert_eq!(txn.remove_range(&key[..]..&end[..])?, gone.len() as u64, "remove {key:?} to {end:?}");
            for key in gone {
                let old = model.remove(&key);
                undo.push((key, old));
            }
        }
    }
    Ok(())
}

fn compare(db: &Database, family: &Family, model: &Model) -> Result<()> {
    let mut expected = model.iter();
    for entry in db.snapshot().range(family, ..) {
        let (key, value) = entry?;
        assert_eq!(Some((&key[..], &value[..])), expected.next().map(|(k, v)| (&k[..], &v[..])));
    }
    assert_eq!(expected.next(), None);
    let report = db.check()?;
    assert!(report.is_sound(), "{:?}", report.problems);
    Ok(())
}

fn run(seed: u64) -> Result<()> {
    let mut rng = SmallRng::seed_from_u64(seed);
    // Every other one in less memory than its data takes.
    let budget = if seed.is_multiple_of(2) { 64 * 4096 } else { 64 << 20 };
    let db = Options::new().memory_budget(budget).background(false).in_memory()?;
    let (family, keys) = (db.family("f")?, 1 << rng.random_range(8..16));
    let (mut model, mut done) = (Model::new(), 0);
    while done < EACH {
        let (mut txn, mut undo) = (family.begin()?, Undo::new());
        let count = rng.random_range(1..2000).min(EACH - done);
        for _ in 0..count {
            operation(&mut rng, keys, (&mut txn, &family), &mut model, &mut undo)?;
        }
        done += count;
        if rng.random_ratio(1, 10) {
            txn.abort();
            for (key, old) in undo.into_iter().rev() {
                match old {
                    Some(old) => drop(model.insert(key, old)),
                    None => drop(model.remove(&key)),
                }
            }
        } else {
            txn.commit_with(if rng.random_ratio(1, 3) { Durability::Immediate } else { Durability::Eventual })?;
        }
    }
    compare(&db, &family, &model)
}

#[test]
fn a_family_is_a_map_for_millions_of_operations() {
    let runs = setting("SPINNEY_MODEL_OPERATIONS", 5_000_000).div_ceil(EACH);
    let first = setting("SPINNEY_MODEL_SEED", 1);
    let next = AtomicU64::new(first);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + runs {
                        break;
                    }
                    let line = Reproduction(seed);
                    run(seed).unwrap_or_else(|error| panic!("{error}"));
                    std::mem::forget(line);
                }
            });
        }
    });
    println!("{} operations", runs * EACH);
}

/// Says how to see a failure again, when dropped by a panic.
struct Reproduction(u64);

impl Drop for Reproduction {
    fn drop(&mut self) {
        eprintln!("reproduce: SPINNEY_MODEL_SEED={} SPINNEY_MODEL_OPERATIONS=1 cargo test --test operations", self.0);
    }
}
