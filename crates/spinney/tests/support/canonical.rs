//! Six workloads, each for a part of the engine. They are small enough to be cut, or to have a call fail, everywhere.

use super::op::{Op, puts};
use Op::{
    Abort, Checkpoint, Commit, Create, Drop, Flush, Hold, Maintain, Put, Reclaim, Release, Remove, RemoveRange, Rename,
    Reopen,
};
use spinney::Durability::{Buffered, Eventual, Immediate};

pub struct Workload {
    pub name: &'static str,
    pub ops: Vec<Op>,
    /// Decides the [options](super::model::options).
    pub seed: u64,
}

pub fn all() -> [Workload; 6] {
    [
        Workload { name: "small commits", ops: small_commits(), seed: 1 },
        Workload { name: "large values", ops: large_values(), seed: 6 },
        Workload { name: "families", ops: families(), seed: 2 },
        Workload { name: "ranges", ops: ranges(), seed: 4 },
        Workload { name: "snapshots", ops: snapshots(), seed: 5 },
        Workload { name: "images and openings", ops: images_and_openings(), seed: 7 },
    ]
}

/// Effects in the log, at every durability; what they did stays in memory until a checkpoint merges it.
fn small_commits() -> Vec<Op> {
    let mut ops = vec![Create(0)];
    ops.extend(puts(0, 0, 12, 200));
    ops.push(Commit(Immediate));
    for (key, durability) in (0..).zip([Immediate, Eventual, Buffered, Eventual, Immediate, Buffered]) {
        ops.extend([
            Put { family: 0, key: 3 * key, bytes: 90 },
            Remove { family: 0, key: key + 5 },
            Commit(durability),
        ]);
    }
    ops.push(Checkpoint);
    for (key, durability) in (0..).zip([Eventual, Eventual, Immediate, Buffered]) {
        ops.extend([
            Put { family: 0, key: 20 + key, bytes: 40 },
            Put { family: 0, key, bytes: 700 },
            Commit(durability),
        ]);
    }
    ops.extend([
        Put { family: 0, key: 1, bytes: 9 },
        Abort,
        Flush,
        Put { family: 0, key: 2, bytes: 10 },
        Commit(Eventual),
    ]);
    ops
}

/// Values on pages of their own, transactions that write early, images that sync first.
fn large_values() -> Vec<Op> {
    let mut ops = vec![
        Create(0),
        Put { family: 0, key: 7, bytes: 20_000 },
        Put { family: 0, key: 8, bytes: 9_000 },
        Commit(Immediate),
    ];
    ops.extend(puts(0, 20, 9, 1300));
    ops.push(Commit(Immediate));
    ops.extend([
        Put { family: 0, key: 7, bytes: 12_000 },
        Commit(Eventual),
        Put { family: 0, key: 1, bytes: 30 },
        Commit(Immediate),
    ]);
    ops.extend(puts(0, 24, 12, 1200)); // it writes early
    ops.extend([Put { family: 0, key: 8, bytes: 25_000 }, Commit(Buffered), Checkpoint]);
    ops.extend([Remove { family: 0, key: 7 }, Put { family: 0, key: 9, bytes: 5_000 }, Commit(Immediate)]);
    ops.extend(puts(0, 40, 8, 1100));
    ops.extend([Abort, Remove { family: 0, key: 8 }, Commit(Eventual), Checkpoint]);
    ops
}

/// Transactions of several families, some of them told by effects and some by pages; names that change.
fn families() -> Vec<Op> {
    let mut ops = vec![Create(0), Create(1), Commit(Immediate)];
    for family in 0..2 {
        ops.extend(puts(family, 0, 10, 300));
    }
    ops.push(Commit(Immediate));
    for (key, durability) in (0..).zip([Eventual, Immediate, Buffered]) {
        ops.extend([Put { family: 0, key, bytes: 50 }, Remove { family: 1, key: key + 3 }, Commit(durability)]);
    }
    ops.extend(puts(0, 30, 9, 1200));
    ops.extend([Put { family: 1, key: 2, bytes: 20 }, Commit(Immediate)]); // an image and effects
    ops.extend([Create(2), Put { family: 2, key: 1, bytes: 400 }, Rename(1, 3), Commit(Immediate), Checkpoint]);
    ops.extend([Drop(0), Put { family: 3, key: 9, bytes: 60 }, Commit(Immediate), Maintain(3), Maintain(1000)]);
    ops.extend([
        Create(0),
        Put { family: 0, key: 9, bytes: 60 },
        Commit(Eventual),
        Rename(2, 1),
        Commit(Immediate),
        Maintain(1000),
    ]);
    ops
}

/// Removal of ranges, what waits to be freed, and a file that gives back its end.
fn ranges() -> Vec<Op> {
    let mut ops = vec![Create(0)];
    ops.extend(puts(0, 0, 60, 400));
    ops.extend([
        Commit(Immediate),
        Checkpoint,
        RemoveRange { family: 0, from: 5, to: 45 },
        Commit(Immediate),
        Maintain(4),
    ]);
    ops.extend(puts(0, 10, 6, 500));
    ops.extend([
        RemoveRange { family: 0, from: 0, to: 3 },
        Commit(Eventual),
        Maintain(1000),
        Checkpoint,
        Reclaim(30 * 4096),
    ]);
    ops.extend(puts(0, 100, 4, 100));
    ops.extend([
        Commit(Immediate),
        RemoveRange { family: 0, from: 0, to: 255 },
        Put { family: 0, key: 200, bytes: 10 },
        Commit(Immediate),
    ]);
    ops.extend([Maintain(1000), Checkpoint, Reclaim(1 << 20), Put { family: 0, key: 1, bytes: 900 }, Commit(Buffered)]);
    ops
}

/// What snapshots reach, while everything is changed and saved under them.
fn snapshots() -> Vec<Op> {
    let mut ops = vec![Create(0), Create(1)];
    for family in 0..2 {
        ops.extend(puts(family, 0, 14, 350));
    }
    ops.extend([Commit(Immediate), Hold, Checkpoint]);
    for round in 0..3u8 {
        ops.extend(puts(0, 4 * round, 4, 300));
        ops.extend([Commit(Eventual), Hold, Put { family: 1, key: round, bytes: 50 }, Commit(Immediate)]);
        ops.push(if round == 1 { Checkpoint } else { Release });
        ops.extend([Remove { family: 0, key: 13 - round }, Commit(Buffered)]);
    }
    ops.extend(puts(1, 0, 10, 900));
    ops.extend([
        Commit(Immediate),
        Release,
        Checkpoint,
        Release,
        Put { family: 0, key: 0, bytes: 10 },
        Commit(Immediate),
        Release,
    ]);
    ops.extend([Put { family: 0, key: 1, bytes: 10 }, Commit(Immediate)]);
    ops
}

/// Pages with every commit; a log that goes round and grows; openings in between.
fn images_and_openings() -> Vec<Op> {
    let mut ops = vec![Create(0), Create(1), Commit(Immediate)];
    for round in 0..4u8 {
        for (key, durability) in (0..).zip([Eventual, Immediate, Immediate]) {
            ops.extend(puts(usize::from(key % 2), 6 * round + 2 * key, 2, 700));
            ops.push(Commit(durability));
        }
        ops.push(if round == 2 { Checkpoint } else { Reopen });
    }
    ops.extend([
        Put { family: 0, key: 3, bytes: 80 },
        Commit(Eventual),
        Reopen,
        Put { family: 1, key: 3, bytes: 80 },
        Commit(Immediate),
    ]);
    ops
}
