//! A history of operations, compared with a map of maps: transactions over several families at every level of durability,
//! snapshots that are held, removed ranges, large values, checkpoints, closing, kills and power cuts.
//!
//! After a cut the database is as it was after some commit, and none before the last that was acknowledged as durable.

use crate::{input::Input, memory::Meter};
use spinney::{Database, Durability, Family, Options, PowerCut, Range, Result, SimDisk, Snapshot, Table, Tuning};
use std::{collections::BTreeMap, fmt::Write, ops::Bound, sync::Arc};

const FAMILIES: usize = 3;
/// The default table of each family, and another.
const TABLES: usize = 2;
const STEPS_MAX: usize = 64;
const CHANGES_MAX: usize = 16;
const SNAPSHOTS_MAX: usize = 3;
const BUDGET_BYTES: u64 = 1 << 20;
/// Bytes of large values in one history.
const LARGE_BYTES_MAX: usize = 4 << 20;

/// A value is so many bytes of one kind.
type Entries = BTreeMap<Vec<u8>, (u8, usize)>;
type World = [[Entries; TABLES]; FAMILIES];

struct Run {
    options: Options,
    disk: SimDisk,
    /// `None` only while it is opened anew.
    db: Option<Open>,
    /// What a crash may leave: the newest state known to be durable, and those after each later commit.
    states: Vec<World>,
    /// How many of them, from the first, a killed process cannot lose.
    buffered: usize,
    snapshots: Vec<(Snapshot, World)>,
    large_bytes_left: usize,
    /// What was done, for whoever reads a failure.
    told: String,
}

struct Open {
    db: Database,
    families: Vec<Family>,
    tables: Vec<[Table; TABLES]>,
}

pub(crate) fn run(input: &[u8]) {
    let meter = Meter::new();
    let mut input = Input::new(input);
    let how = input.byte();
    let page_bytes = [4096, 4096, 8192, 16384][usize::from(how & 3)];
    let tuning = Tuning {
        images_only: how & 4 != 0,
        arenas: how & 8 == 0,
        log_bytes_max: if how & 16 != 0 { 64 << 10 } else { 1 << 20 },
        spill_bytes: if how & 32 != 0 { 64 << 10 } else { u64::MAX },
        ..Tuning::default()
    };
    let options = Options::new().memory_budget(BUDGET_BYTES).background(false).page_size(page_bytes).tuning(tuning);
    let mut run = Run {
        options,
        disk: SimDisk::new(),
        db: None,
        states: vec![World::default()],
        buffered: 0,
        snapshots: Vec::new(),
        large_bytes_left: LARGE_BYTES_MAX,
        told: String::new(),
    };
    let outcome = run.open().and_then(|()| {
        for _ in 0..STEPS_MAX {
            if input.is_empty() {
                break;
            }
            run.step(&mut input)?;
        }
        run.finish()
    });
    assert!(outcome.is_ok(), "{outcome:?} after\n{}", run.told);
    // The disk keeps what is durable and what is seen; both have every large value, and its blocks are twice as large at worst.
    let held = run.disk.bytes_used() * 4 + 2 * (LARGE_BYTES_MAX as u64);
    drop(run.db);
    meter.assert_bounded(BUDGET_BYTES, held);
}

impl Run {
    fn open(&mut self) -> Result<()> {
        let db = self.options.clone().open_storage(Arc::new(self.disk.clone()))?;
        let families = (0..FAMILIES).map(|i| db.family(&format!("family {i}"))).collect::<Result<Vec<_>>>()?;
        let tables = families.iter().map(|family| Ok([family.default_table(), family.table("other")?]));
        let tables = tables.collect::<Result<Vec<_>>>()?;
        self.db = Some(Open { db, families, tables });
        Ok(())
    }

    fn db(&self) -> &Open {
        self.db.as_ref().expect("opened")
    }

    fn world(&self) -> &World {
        self.states.last().expect("there is always a state")
    }

    fn tell(&mut self, step: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.told, "{step}");
    }

    /// Everything up to now is durable.
    fn settle(&mut self) {
        self.states.drain(..self.states.len() - 1);
        self.buffered = 0;
    }

    fn step(&mut self, input: &mut Input<'_>) -> Result<()> {
        match input.below(20) {
            0..10 => self.transaction(input)?,
            10 => {
                self.tell(format_args!("snapshot"));
                if self.snapshots.len() == SNAPSHOTS_MAX {
                    self.snapshots.remove(0);
                }
                // Of what is visible: the newest state, as every commit returned when it was.
                let seen = (self.db().db.snapshot(), self.world().clone());
                self.snapshots.push(seen);
            }
            11 => {
                self.tell(format_args!("compare a snapshot"));
                if let Some((snapshot, world)) = self.snapshots.pop() {
                    self.compare(&snapshot, &world)?;
                }
            }
            12 => {
                self.tell(format_args!("checkpoint"));
                self.db().db.checkpoint()?;
                self.settle();
            }
            13 => {
                self.tell(format_args!("flush"));
                self.db().db.flush()?;
                self.settle();
            }
            14 => {
                let pages = u64::from(input.byte());
                self.tell(format_args!("maintain {pages}"));
                self.db().db.maintain(pages)?;
            }
            15 => {
                self.tell(format_args!("reclaim"));
                self.db().db.reclaim(1 << 20)?;
            }
            16 => {
                self.tell(format_args!("check"));
                let report = self.db().db.check()?;
                assert!(report.is_sound(), "{:?} after\n{}", report.problems, self.told);
            }
            17 => {
                let family = input.below(FAMILIES);
                self.tell(format_args!("drop and make family {family}"));
                let name = format!("family {family}");
                let mut world = self.world().clone();
                world[family] = Default::default();
                let open = self.db.as_mut().expect("opened");
                assert!(open.db.drop_family(&name)?);
                open.families[family] = open.db.family(&name)?;
                open.tables[family] = [open.families[family].default_table(), open.families[family].table("other")?];
                self.states.push(world);
                self.settle();
            }
            _ => self.reopen(input)?,
        }
        Ok(())
    }

    fn transaction(&mut self, input: &mut Input<'_>) -> Result<()> {
        let mut world = self.world().clone();
        let mask = 1 + input.below((1 << FAMILIES) - 1);
        let who: Vec<usize> = (0..FAMILIES).filter(|i| mask >> i & 1 != 0).collect();
        let changes = 1 + input.below(CHANGES_MAX);
        self.tell(format_args!("begin {who:?}"));
        let open = self.db.as_ref().expect("opened");
        let mut txn = open.db.begin(who.iter().map(|&i| &open.families[i]))?;
        for _ in 0..changes {
            let family = who[input.below(who.len())];
            let table = usize::from(input.byte() & 3 == 0);
            let entries = &mut world[family][table];
            let mut tree = txn.table(&open.tables[family][table])?;
            match input.below(12) {
                0..5 => {
                    let (key, value) = (key(input), value(input, &mut self.large_bytes_left));
                    let _ = writeln!(self.told, "  {family}/{table} insert {} {value:?}", key.escape_ascii());
                    let replaced = tree.insert(&key, vec![value.0; value.1])?;
                    assert_eq!(replaced, entries.insert(key, value).is_some(), "{}", self.told);
                }
                5 | 6 => {
                    let key = key(input);
                    let _ = writeln!(self.told, "  {family}/{table} remove {}", key.escape_ascii());
                    if key.len().is_multiple_of(2) {
                        tree.delete(&key)?;
                        entries.remove(&key);
                    } else {
                        assert_eq!(tree.remove(&key)?, entries.remove(&key).is_some(), "{}", self.told);
                    }
                }
                7 => {
                    let bounds = (bound(input), bound(input));
                    let _ = writeln!(self.told, "  {family}/{table} remove {bounds:?}");
                    let gone: Vec<Vec<u8>> = entries.keys().filter(|key| contains(&bounds, key)).cloned().collect();
                    gone.iter().for_each(|key| {
                        let _ = entries.remove(key);
                    });
                    assert_eq!(tree.remove_range(bounds)?, gone.len() as u64, "{}", self.told);
                }
                8 => {
                    let count = 1 + input.below(60);
                    let len = usize::from(input.byte());
                    let _ = writeln!(self.told, "  {family}/{table} {count} of {len}");
                    for i in 0..count {
                        let key = format!("key {:03}", i * 4).into_bytes();
                        let value = (i as u8, len);
                        tree.put(&key, vec![value.0; value.1])?;
                        entries.insert(key, value);
                    }
                }
                9 => {
                    let _ = writeln!(self.told, "  {family}/{table} clear");
                    assert_eq!(tree.clear()?, entries.len() as u64, "{}", self.told);
                    entries.clear();
                }
                10 => {
                    let key = key(input);
                    let found = tree.get(&key)?.map(|value| value.to_vec());
                    let wanted = entries.get(&key).map(|value| vec![value.0; value.1]);
                    assert!(found == wanted, "{} after\n{}", key.escape_ascii(), self.told);
                }
                _ => {
                    let bounds = (bound(input), bound(input));
                    assert_eq!(tree.count(bounds.clone())?, count(entries, &bounds), "{bounds:?} after\n{}", self.told);
                    let wanted = entries.iter().filter(|(key, _)| contains(&bounds, key));
                    same(tree.range(bounds.clone()), wanted, &self.told)?;
                }
            }
        }
        let durability = match input.below(8) {
            0..3 => Durability::Immediate,
            3 => Durability::Buffered,
            4..7 => Durability::Eventual,
            _ => {
                self.tell(format_args!("abort"));
                txn.abort();
                return Ok(());
            }
        };
        txn.commit_with(durability)?;
        self.tell(format_args!("commit {durability:?}"));
        self.states.push(world);
        match durability {
            Durability::Immediate => self.settle(),
            Durability::Buffered => self.buffered = self.states.len() - 1,
            Durability::Eventual => {}
        }
        Ok(())
    }

    fn reopen(&mut self, input: &mut Input<'_>) -> Result<()> {
        self.snapshots.clear();
        let open = self.db.take().expect("opened");
        let (how, seed) = (input.below(6), u64::from(input.u16()));
        self.tell(format_args!("reopen {how} {seed}"));
        let first = match how {
            0 | 1 => {
                let Open { db, families, tables } = open;
                drop((families, tables));
                db.close()?;
                self.states.len() - 1
            }
            2 => {
                self.disk = self.disk.kill();
                drop(open);
                self.buffered
            }
            _ => {
                let cut = [PowerCut::LoseAll, PowerCut::KeepAll, PowerCut::Random(seed)][how - 3];
                self.disk = self.disk.power_cut(cut);
                drop(open);
                0
            }
        };
        let options = self.options.clone().create_missing(false);
        let db = options.open_storage(Arc::new(self.disk.clone()))?;
        let found = contents(&db)?;
        let at = self.states[first..].iter().rposition(|world| fits(world, &found));
        let Some(at) = at else {
            panic!(
                "the database is as it was after no commit from {first} of {}, after\n{}",
                self.states.len(),
                self.told
            );
        };
        self.states = vec![self.states[first + at].clone()];
        self.buffered = 0;
        drop(db);
        self.open()
    }

    fn compare(&self, snapshot: &Snapshot, world: &World) -> Result<()> {
        for (family, tables) in world.iter().enumerate() {
            for (table, entries) in tables.iter().enumerate() {
                let place = &self.db().tables[family][table];
                // A family that was dropped and made again since has other handles.
                if snapshot.len(place).is_ok_and(|len| len == entries.len() as u64) {
                    same(snapshot.range(place, ..), entries.iter(), &self.told)?;
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        while let Some((snapshot, world)) = self.snapshots.pop() {
            self.compare(&snapshot, &world)?;
        }
        let found = contents(&self.db().db)?;
        assert!(fits(self.world(), &found), "the database is not what was written to it, after\n{}", self.told);
        while self.db().db.maintain(1000)? > 0 {}
        let report = self.db().db.check()?;
        assert!(report.is_sound(), "{:?} after\n{}", report.problems, self.told);
        Ok(())
    }
}

/// The entries of a range are these, byte by byte.
fn same<'e>(
    range: Range<'_>,
    wanted: impl DoubleEndedIterator<Item = (&'e Vec<u8>, &'e (u8, usize))>,
    told: &str,
) -> Result<()> {
    let mut wanted = wanted;
    for entry in range {
        let (key, value) = entry?;
        let wanted = wanted.next();
        let is_same = wanted.is_some_and(|(wanted_key, wanted)| {
            key == *wanted_key && value.len() == wanted.1 && value.iter().all(|&byte| byte == wanted.0)
        });
        assert!(is_same, "{key:?} instead of {wanted:?} after\n{told}");
    }
    assert!(wanted.next().is_none(), "an entry is missing after\n{told}");
    Ok(())
}

/// All entries by family and table.
fn contents(db: &Database) -> Result<World> {
    let snapshot = db.snapshot();
    let mut world = World::default();
    for (i, tables) in world.iter_mut().enumerate() {
        let Some(family) = db.open_family(&format!("family {i}"))? else { continue };
        let other = family.open_table("other")?;
        for (entries, table) in tables.iter_mut().zip([Some(family.default_table()), other]) {
            let Some(table) = table else { continue };
            for entry in snapshot.range(&table, ..) {
                let (key, value) = entry?;
                let byte = value.first().copied().unwrap_or(0);
                assert!(value.iter().all(|&b| b == byte), "a value of two");
                entries.insert(key.to_vec(), (byte, value.len()));
            }
        }
    }
    Ok(world)
}

/// A value without bytes has no kind.
fn fits(world: &World, found: &World) -> bool {
    world.iter().flatten().zip(found.iter().flatten()).all(|(wanted, found)| {
        let kind = |(key, value): (&Vec<u8>, &(u8, usize))| (key.clone(), if value.1 == 0 { (0, 0) } else { *value });
        wanted.len() == found.len() && wanted.iter().map(kind).eq(found.iter().map(kind))
    })
}

fn key(input: &mut Input<'_>) -> Vec<u8> {
    let n = input.byte();
    match n {
        0..200 => format!("key {n:03}").into_bytes(),
        200 => Vec::new(),
        201..220 => vec![n; usize::from(n - 200) * 50],
        220..240 => [vec![0; 900], vec![n; 3]].concat(),
        _ => vec![n, input.byte()],
    }
}

fn value(input: &mut Input<'_>, large_bytes_left: &mut usize) -> (u8, usize) {
    let (byte, shape) = (input.byte(), input.byte());
    let len = match shape {
        0..160 => usize::from(shape),
        160..200 => 1000 + usize::from(shape),
        200..230 => 3000 + 300 * usize::from(shape - 200),
        230..250 => 65_536 - 20 + usize::from(shape),
        _ => 150_000,
    };
    if len > 1000 {
        match large_bytes_left.checked_sub(len) {
            Some(left) => *large_bytes_left = left,
            None => return (byte, 17),
        }
    }
    (byte, len)
}

fn bound(input: &mut Input<'_>) -> Bound<Vec<u8>> {
    match input.below(5) {
        0 => Bound::Unbounded,
        1 | 2 => Bound::Included(key(input)),
        _ => Bound::Excluded(key(input)),
    }
}

fn contains(bounds: &(Bound<Vec<u8>>, Bound<Vec<u8>>), key: &Vec<u8>) -> bool {
    let above = match &bounds.0 {
        Bound::Unbounded => true,
        Bound::Included(start) => key >= start,
        Bound::Excluded(start) => key > start,
    };
    let below = match &bounds.1 {
        Bound::Unbounded => true,
        Bound::Included(end) => key <= end,
        Bound::Excluded(end) => key < end,
    };
    above && below
}

fn count(entries: &Entries, bounds: &(Bound<Vec<u8>>, Bound<Vec<u8>>)) -> u64 {
    entries.keys().filter(|key| contains(bounds, key)).count() as u64
}
