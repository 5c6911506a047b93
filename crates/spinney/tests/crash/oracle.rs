//! What must hold of every image that a crash leaves.

use crate::support::{
    model::{World, check, open, options},
    op::Op,
    runner::{Runner, bounds},
};
use spinney::{CallCounts, Crash, Database, Options, Recording, Result, Sabotage, SimDisk, Snapshot};
use std::hash::{DefaultHasher, Hash, Hasher};

fn digest<'a>(entries: impl Iterator<Item = (&'a str, &'a [u8], &'a [u8])>) -> u64 {
    let mut hasher = DefaultHasher::new();
    entries.for_each(|entry| entry.hash(&mut hasher));
    hasher.finish()
}

fn digest_of(world: &World) -> u64 {
    let empty: (&[u8], &[u8]) = (b"", b"");
    digest(world.iter().flat_map(|(family, entries)| {
        let all = entries.iter().map(|(k, v)| (&k[..], &v[..]));
        std::iter::once(empty).chain(all).map(move |(k, v)| (&family[..], k, v))
    }))
}

/// Everything a snapshot shows, as one number.
fn digest_in(snapshot: &Snapshot, db: &Database) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for info in snapshot.families()? {
        let family = db.open_family(&info.name)?.expect("it is in the snapshot");
        (&*info.name, &b""[..], &b""[..]).hash(&mut hasher);
        for entry in snapshot.range(&family, ..) {
            let (key, value) = entry?;
            (&*info.name, &key[..], &value[..]).hash(&mut hasher);
        }
    }
    Ok(hasher.finish())
}

/// A recorded run.
pub(crate) struct Run {
    pub(crate) recording: Recording,
    options: Options,
    /// Digests of the states after each commit.
    states: Vec<u64>,
}

impl Run {
    /// So many random steps.
    pub(crate) fn random(seed: u64, steps: u32, sabotage: Option<Sabotage>) -> Result<Self> {
        Self::record(seed, sabotage, |runner| (0..steps).try_for_each(|_| runner.step()))
    }

    /// Operations one after the other.
    pub(crate) fn scripted(ops: &[Op], seed: u64, sabotage: Option<Sabotage>) -> Result<Self> {
        Self::record(seed, sabotage, |runner| {
            ops.iter().try_for_each(|&op| runner.perform(op))?;
            runner.check_held()
        })
    }

    fn record(seed: u64, sabotage: Option<Sabotage>, steps: impl Fn(&mut Runner) -> Result<()>) -> Result<Self> {
        let mut runner = Runner::new(SimDisk::new(), options(seed, sabotage), seed);
        runner.record();
        steps(&mut runner)?;
        runner.forget();
        Ok(Self::of(&runner))
    }

    /// What a runner has recorded so far.
    pub(crate) fn of(runner: &Runner) -> Self {
        let states = runner.states.iter().map(digest_of).collect();
        Self { recording: runner.disk.recording(), options: runner.options.clone(), states }
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// D1 to D4 on each image: what was acknowledged is there, as one state of all families, and every page is where it belongs. On
    /// the chosen ones also what opening cost, and that the database goes on from there. Returns which commit is the last.
    pub(crate) fn check(&self, crash: &Crash<'_>) -> Result<usize> {
        let (least, most) = bounds(crash.marks(), crash.is_kill());
        let disk = crash.disk();
        let before = disk.counts();
        let db = open(&disk, &self.options)?;
        if crash.is_chosen() {
            check_cost(&db, before, disk.counts())?;
        }
        let found = digest_in(&db.snapshot(), &db)?;
        let commit = (least..=most).rev().find(|&commit| self.states[commit] == found);
        check(&db, "recovered")?;
        let commit = commit.unwrap_or_else(|| panic!("no state between {least} and {most}"));
        crash.recovered();
        if crash.is_chosen() {
            self.go_on(db, &disk)?;
        }
        Ok(commit)
    }

    /// D5 and D6: a commit, a checkpoint, and no page is missing; closed and opened again it shows the same.
    fn go_on(&self, db: Database, disk: &SimDisk) -> Result<()> {
        let family = db.family("afterwards")?;
        let mut txn = family.begin()?;
        for i in 0..30u8 {
            txn.insert([i], vec![i; 500])?;
        }
        txn.commit()?;
        while db.maintain(1000)? > 0 {}
        let before = digest_in(&db.snapshot(), &db)?;
        db.checkpoint()?;
        check(&db, "after going on")?;
        drop(family);
        db.close()?;
        let db = open(disk, &self.options)?;
        assert_eq!(digest_in(&db.snapshot(), &db)?, before, "after closing and opening");
        Ok(())
    }
}

/// Blocks that opening reads besides the log and what it names: two superblocks, a look behind the log's end, the roots of the map and of
/// the owner table with one page below each, and the way to the first record of the tree of names. With what the widest image took, and three more.
const OPENING_BLOCKS: u64 = 12;

/// D8: opening costs one reading of the log, and what its tail says. How much data there is does not matter.
fn check_cost(db: &Database, before: CallCounts, after: CallCounts) -> Result<()> {
    if after.allocate > before.allocate {
        return Ok(()); // a creation that was cut short: it was looked through for anything else, and made anew
    }
    let stats = db.stats()?.file;
    let (log, tail) = (stats.log.blocks, stats.recovered);
    // Each block of the tail may be read twice more: as the head of a group, and with it.
    let tail_blocks = 2 * tail.blocks + tail.claimed_pages;
    let blocks = (after.bytes_read - before.bytes_read).div_ceil(4096);
    assert!(
        blocks <= OPENING_BLOCKS + log + tail_blocks,
        "opening read {blocks} blocks; the log has {log}, and {tail:?}"
    );
    let reads = |counts: CallCounts| counts.read_at + counts.read_vectored_at;
    let calls = reads(after) - reads(before);
    assert!(calls <= OPENING_BLOCKS + tail_blocks, "opening made {calls} reads; the log has {tail:?}");
    Ok(())
}
