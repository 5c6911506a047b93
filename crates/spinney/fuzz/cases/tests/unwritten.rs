//! What small commits leave in memory is what they are charged for: the budget is kept with estimates, and here they are held against
//! what the allocator counts. One test, because other threads' memory counts too.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test may")]

use spinney::{Database, Durability, Family, Options, Tuning};
use spinney_fuzz_cases::Meter;

/// Everything stays in memory: no checkpoint is due.
fn database(dir: &tempfile::TempDir) -> Database {
    let tuning = Tuning { log_bytes: 64 << 20, ..Tuning::default() };
    let options = Options::new().memory_budget(8 << 30).background(false).tuning(tuning);
    options.create(dir.path().join("a.spinney")).unwrap()
}

struct Case {
    name: &'static str,
    families: u32,
    commits: u32,
    keys_per_commit: u32,
    /// So many keys there are; then they get other values.
    keys: u32,
    value_bytes: usize,
}

impl Case {
    const ONE: Self = Self { name: "", families: 1, commits: 0, keys_per_commit: 1, keys: u32::MAX, value_bytes: 1 };

    /// What was charged for what was taken, as a ratio.
    fn measure(&self) -> f64 {
        let dir = tempfile::tempdir().unwrap();
        let db = database(&dir);
        let mut txn = db.begin([]).unwrap();
        let families: Vec<Family> =
            (0..self.families).map(|i| txn.create_family(&format!("family {i:06}")).unwrap()).collect();
        txn.commit().unwrap();
        // Each has been written to, and has nothing in memory.
        families.iter().for_each(|family| put(family, [u32::MAX], 1));
        db.checkpoint().unwrap();
        assert_eq!(db.stats().unwrap().file.unwritten_bytes, 0);
        let (meter, mut number) = (Meter::new(), 0u32);
        for commit in 0..self.commits {
            let keys: Vec<u32> = (0..self.keys_per_commit).map(|i| scattered((number + i) % self.keys)).collect();
            number += self.keys_per_commit;
            put(&families[(commit % self.families) as usize], keys, self.value_bytes);
        }
        db.flush().unwrap(); // nothing is left in the log's queue
        let stats = db.stats().unwrap().file;
        assert_eq!(stats.checkpoints, 1);
        let (taken, charged) = (meter.now(), stats.unwritten_bytes);
        let ratio = charged as f64 / taken as f64;
        let (name, each) = (self.name, taken as f64 / f64::from(number));
        println!(
            "{name:<40} {:>6.0} B a key taken, {:>6.0} charged: {ratio:.2}",
            each,
            charged as f64 / f64::from(number)
        );
        ratio
    }
}

/// Keys in no order.
fn scattered(number: u32) -> u32 {
    number.wrapping_mul(0x9E37_79B1)
}

fn put(family: &Family, keys: impl IntoIterator<Item = u32>, value_bytes: usize) {
    let mut txn = family.begin().unwrap();
    for key in keys {
        txn.insert(key.to_be_bytes(), vec![7; value_bytes]).unwrap();
    }
    txn.commit_with(Durability::Eventual).unwrap();
}

#[test]
fn what_small_commits_leave_is_charged() {
    let cases = [
        Case { name: "tiny keys, each in a commit", commits: 200_000, ..Case::ONE },
        Case { name: "tiny keys, a hundred in a commit", commits: 2000, keys_per_commit: 100, ..Case::ONE },
        Case { name: "values of 150 bytes, each in a commit", commits: 100_000, value_bytes: 150, ..Case::ONE },
        Case {
            name: "values of 150 bytes, a hundred in a commit",
            commits: 1000,
            keys_per_commit: 100,
            value_bytes: 150,
            ..Case::ONE
        },
        Case { name: "a hundred keys that change", commits: 200_000, keys: 100, ..Case::ONE },
        Case { name: "a key in each of 10 000 families", families: 10_000, commits: 10_000, ..Case::ONE },
        Case { name: "ten keys in each of 2000 families", families: 2000, commits: 20_000, ..Case::ONE },
    ];
    let found: Vec<_> = cases.iter().map(|case| (case.name, case.measure())).collect();
    for (name, ratio) in found {
        assert!((0.9..=2.0).contains(&ratio), "{name}: {ratio:.2} of what was taken is charged");
    }
}
