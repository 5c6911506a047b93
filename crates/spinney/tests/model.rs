//! The database is a map of maps of sorted maps: random histories of transactions over several families and tables, with
//! aborts, drops, renames, snapshots that are held and compared later, and closing and opening in between.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use proptest::prelude::*;
use spinney::{
    Database, Durability, Error, Family, KeyRange, Options, Result, Snapshot, Table, Value, WriteTransaction,
};
use std::{
    collections::BTreeMap,
    ops::{Bound, RangeBounds},
    path::PathBuf,
};

/// A table's entries.
type Entries = BTreeMap<Vec<u8>, Vec<u8>>;
/// A family's tables; the default one has an empty name.
type Tables = BTreeMap<String, Entries>;
/// All families.
type World = BTreeMap<String, Tables>;

const FAMILIES: [&str; 4] = ["orders", "stock", "log", "\u{e9}t\u{e9}"];
const TABLES: [&str; 3] = ["", "by date", "t"];

#[derive(Clone, Debug)]
enum Step {
    Transaction {
        families: Vec<usize>,
        changes: Vec<Change>,
        end: End,
    },
    Snapshot(Option<Vec<usize>>),
    DropSnapshot(usize),
    CompareSnapshot(usize),
    Family(usize),
    DropFamily(usize),
    RenameFamily(usize, usize),
    Table(usize, usize),
    Maintain(u64),
    Check,
    Checkpoint,
    /// Lets go of the handles of dropped families, so that their owners are used again.
    ForgetGhosts,
    Reclaim,
    Reopen {
        close: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum End {
    Commit(Durability),
    Abort,
}

/// A change inside a transaction: family and table are places in the lists above.
#[derive(Clone, Debug)]
enum Change {
    Insert(usize, usize, Vec<u8>, Vec<u8>),
    Remove(usize, usize, Vec<u8>),
    RemoveRange(usize, usize, Ends),
    Clear(usize, usize),
    BulkLoad(usize, usize, u8),
    Compare(usize, usize, Ends),
    CreateFamily(usize),
    DropFamily(usize),
    RenameFamily(usize, usize),
    CreateTable(usize, usize),
    DropTable(usize, usize),
    RenameTable(usize, usize, usize),
}

type Ends = (Bound<Vec<u8>>, Bound<Vec<u8>>);

fn family() -> impl Strategy<Value = usize> {
    0..FAMILIES.len()
}

fn table() -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(0), 1 => 1..TABLES.len()]
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => (0u16..600).prop_map(|n| format!("key {n:05}").into_bytes()),
        1 => prop::collection::vec(prop_oneof![Just(0u8), Just(255)], 0..4),
        1 => (0u8..4).prop_map(|n| vec![n; 1000]),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => (any::<u8>(), 0usize..120).prop_map(|(byte, len)| vec![byte; len]),
        1 => (any::<u8>(), 900usize..3000).prop_map(|(byte, len)| vec![byte; len]),
        1 => (any::<u8>(), 60_000usize..200_000).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

fn ends() -> impl Strategy<Value = Ends> {
    let end = || {
        prop_oneof![
            2 => key().prop_map(Bound::Included),
            2 => key().prop_map(Bound::Excluded),
            1 => Just(Bound::Unbounded),
        ]
    };
    (end(), end())
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        24 => (family(), table(), key(), value()).prop_map(|(f, t, k, v)| Change::Insert(f, t, k, v)),
        8 => (family(), table(), key()).prop_map(|(f, t, k)| Change::Remove(f, t, k)),
        2 => (family(), table(), ends()).prop_map(|(f, t, ends)| Change::RemoveRange(f, t, ends)),
        1 => (family(), table()).prop_map(|(f, t)| Change::Clear(f, t)),
        3 => (family(), table(), any::<u8>()).prop_map(|(f, t, n)| Change::BulkLoad(f, t, n)),
        4 => (family(), table(), ends()).prop_map(|(f, t, ends)| Change::Compare(f, t, ends)),
        1 => family().prop_map(Change::CreateFamily),
        1 => family().prop_map(Change::DropFamily),
        1 => (family(), family()).prop_map(|(from, to)| Change::RenameFamily(from, to)),
        1 => (family(), 1..TABLES.len()).prop_map(|(f, t)| Change::CreateTable(f, t)),
        1 => (family(), 1..TABLES.len()).prop_map(|(f, t)| Change::DropTable(f, t)),
        1 => (family(), 1..TABLES.len(), 1..TABLES.len()).prop_map(|(f, a, b)| Change::RenameTable(f, a, b)),
    ]
}

fn end() -> impl Strategy<Value = End> {
    let durability = prop_oneof![Just(Durability::Immediate), Just(Durability::Buffered), Just(Durability::Eventual)];
    prop_oneof![4 => durability.prop_map(End::Commit), 1 => Just(End::Abort)]
}

fn step() -> impl Strategy<Value = Step> {
    let several = || prop::collection::vec(family(), 0..4);
    prop_oneof![
        16 => (several(), prop::collection::vec(change(), 0..24), end())
            .prop_map(|(families, changes, end)| Step::Transaction { families, changes, end }),
        3 => prop::option::of(several()).prop_map(Step::Snapshot),
        2 => any::<usize>().prop_map(Step::DropSnapshot),
        2 => any::<usize>().prop_map(Step::CompareSnapshot),
        4 => family().prop_map(Step::Family),
        1 => family().prop_map(Step::DropFamily),
        1 => (family(), family()).prop_map(|(from, to)| Step::RenameFamily(from, to)),
        2 => (family(), 1..TABLES.len()).prop_map(|(f, t)| Step::Table(f, t)),
        2 => (1u64..40).prop_map(Step::Maintain),
        1 => Just(Step::Check),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Reclaim),
        2 => Just(Step::ForgetGhosts),
        1 => any::<bool>().prop_map(|close| Step::Reopen { close }),
    ]
}

/// The database beside its model.
struct Pair {
    db: Database,
    world: World,
    /// Handles by the family's present name: they must stay valid through renames.
    handles: BTreeMap<String, Family>,
    /// Handles of families that were dropped.
    ghosts: Vec<Family>,
    held: Vec<Held>,
    options: Options,
    background: bool,
    path: PathBuf,
}

/// A snapshot that is held, what it must show, and the handles to read it with.
struct Held {
    snapshot: Snapshot,
    world: World,
    handles: BTreeMap<String, Family>,
    /// Handles of families it was not taken of.
    others: Vec<Family>,
}

impl Pair {
    fn new(background: bool, path: PathBuf) -> Result<Self> {
        let options = Options::new().memory_budget(64 * 4096).background(background);
        let db = options.clone().open(&path)?;
        let (world, handles, ghosts, held) = Default::default();
        Ok(Self { db, world, handles, ghosts, held, options, background, path })
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Transaction { families, changes, end } => self.transaction(families, changes, *end)?,
            Step::Snapshot(None) => {
                let snapshot = self.db.snapshot();
                let (world, handles) = (self.world.clone(), self.handles.clone());
                self.held.push(Held { snapshot, world, handles, others: Vec::new() });
            }
            Step::Snapshot(Some(places)) => {
                let covers = |name: &String| places.iter().any(|&place| FAMILIES[place] == name);
                let (handles, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
                    self.handles.clone().into_iter().partition(|(name, _)| covers(name));
                let snapshot = self.db.snapshot_of(handles.values());
                let world = self.world.clone().into_iter().filter(|(name, _)| covers(name)).collect();
                self.held.push(Held { snapshot, world, handles, others: others.into_values().collect() });
            }
            Step::DropSnapshot(at) if !self.held.is_empty() => drop(self.held.swap_remove(at % self.held.len())),
            Step::CompareSnapshot(at) if !self.held.is_empty() => {
                let held = &self.held[at % self.held.len()];
                held.compare()?;
                held.compare_strangers(self.handles.values())?;
            }
            Step::DropSnapshot(_) | Step::CompareSnapshot(_) => {}
            Step::Family(place) => {
                let family = self.db.family(FAMILIES[*place])?;
                self.created(FAMILIES[*place], family);
            }
            Step::DropFamily(place) => {
                let was_there = self.world.remove(FAMILIES[*place]).is_some();
                assert_eq!(self.db.drop_family(FAMILIES[*place])?, was_there);
                self.ghosts.extend(self.handles.remove(FAMILIES[*place]));
            }
            Step::RenameFamily(from, to) => {
                let (from, to) = (FAMILIES[*from], FAMILIES[*to]);
                let outcome = self.db.rename_family(from, to);
                match (self.world.contains_key(from), self.world.contains_key(to)) {
                    (false, _) => assert!(matches!(outcome, Err(Error::FamilyUnknown { .. })), "{outcome:?}"),
                    (true, true) if from != to => {
                        assert!(matches!(outcome, Err(Error::FamilyExists { .. })), "{outcome:?}");
                    }
                    (true, _) => {
                        outcome?;
                        rename(&mut self.world, from, to);
                        rename(&mut self.handles, from, to);
                    }
                }
            }
            Step::Table(family, table) => {
                if let Some(handle) = self.handles.get(FAMILIES[*family]) {
                    handle.table(TABLES[*table])?;
                    let tables = self.world.get_mut(FAMILIES[*family]).unwrap();
                    tables.entry(TABLES[*table].to_owned()).or_default();
                }
            }
            Step::Maintain(pages) => drop(self.db.maintain(*pages)?),
            Step::Check => self.check()?,
            Step::Checkpoint => drop(self.db.checkpoint()?),
            Step::ForgetGhosts => self.ghosts.clear(),
            Step::Reclaim => drop(self.db.reclaim(1 << 20)?),
            Step::Reopen { close } => {
                self.held.clear();
                self.ghosts.clear();
                self.handles.clear();
                let closed = std::mem::replace(&mut self.db, Database::in_memory()?);
                if *close {
                    closed.close()?;
                } else {
                    drop(closed);
                }
                self.db = self.options.clone().open(&self.path)?;
                for name in self.world.keys() {
                    self.handles.insert(name.clone(), self.db.open_family(name)?.expect("a family that was committed"));
                }
            }
        }
        let now = Held::new(self.db.snapshot(), self.world.clone(), self.handles.clone());
        now.compare_names()
    }

    fn created(&mut self, name: &str, family: Family) {
        self.world.entry(name.to_owned()).or_insert_with(|| Tables::from([(String::new(), Entries::new())]));
        let known = self.handles.entry(name.to_owned()).or_insert_with(|| family.clone());
        assert_eq!(*known, family, "one family, one identity");
    }

    /// Everything, through new and old handles.
    fn check(&self) -> Result<()> {
        Held::new(self.db.snapshot(), self.world.clone(), self.handles.clone()).compare()?;
        for ghost in &self.ghosts {
            assert!(matches!(ghost.begin(), Err(Error::FamilyDropped { .. })));
            assert!(matches!(self.db.snapshot().get(ghost, "k"), Err(Error::FamilyDropped { .. })));
        }
        for held in &self.held {
            held.compare()?;
            held.compare_strangers(self.handles.values())?;
        }
        let report = self.db.check()?;
        assert!(report.is_sound(), "{:?}", report.problems);
        assert!(report.used_pages.is_some() || self.background, "nobody commits during a check");
        let entries: usize = self.world.values().flat_map(BTreeMap::values).map(BTreeMap::len).sum();
        assert!(report.entries >= entries as u64, "names have entries too");
        Ok(())
    }

    fn transaction(&mut self, places: &[usize], changes: &[Change], end: End) -> Result<()> {
        let mut open = Open {
            world: self.world.clone(),
            handles: self.handles.clone(),
            inside: places
                .iter()
                .map(|&place| FAMILIES[place])
                .filter_map(|name| self.handles.get(name))
                .cloned()
                .collect(),
            dropped: Vec::new(),
        };
        let mut txn = self.db.begin(&open.inside)?;
        for change in changes {
            open.change(&mut txn, change)?;
        }
        match end {
            End::Commit(durability) => {
                let seq = txn.commit_with(durability)?;
                self.world = open.world;
                self.handles = open.handles;
                self.ghosts.extend(open.dropped);
                assert!(self.db.snapshot().seq() >= seq, "a snapshot after a commit contains it");
            }
            End::Abort => txn.abort(),
        }
        Ok(())
    }
}

/// A transaction's view of the world.
struct Open {
    world: World,
    handles: BTreeMap<String, Family>,
    inside: Vec<Family>,
    dropped: Vec<Family>,
}

impl Open {
    /// The family of a place if it exists and takes part.
    fn inside(&self, place: usize) -> Option<Family> {
        self.handles.get(FAMILIES[place]).filter(|family| self.inside.contains(family)).cloned()
    }

    /// A table of a place if its family takes part and has it.
    fn find(
        &mut self,
        txn: &mut WriteTransaction,
        family: usize,
        table: usize,
    ) -> Result<Option<(Table, &mut Entries)>> {
        let Some(handle) = self.inside(family) else { return Ok(None) };
        let entries = self.world.get_mut(FAMILIES[family]).unwrap().get_mut(TABLES[table]);
        let found = match TABLES[table] {
            "" => Some(handle.default_table()),
            // Joins the names, which waits for nobody here.
            name => txn.open_table(&handle, name)?,
        };
        assert_eq!(found.is_some(), entries.is_some());
        Ok(found.zip(entries))
    }

    fn change(&mut self, txn: &mut WriteTransaction, change: &Change) -> Result<()> {
        match change {
            Change::Insert(family, table, key, value) => {
                let Some((table, entries)) = self.find(txn, *family, *table)? else { return Ok(()) };
                let replaced = entries.insert(key.clone(), value.clone()).is_some();
                let mut table = txn.table(&table)?;
                let did = match value.len() % 3 {
                    0 => table.insert(key, value)?,
                    1 => table.insert_reader(key, value.len() as u64, &value[..])?,
                    _ => table.put(key, value).map(|()| replaced)?, // does not tell
                };
                assert_eq!(did, replaced);
            }
            Change::Remove(family, table, key) => {
                let Some((table, entries)) = self.find(txn, *family, *table)? else { return Ok(()) };
                let was_there = entries.remove(key).is_some();
                if key.len() % 2 == 0 {
                    txn.table(&table)?.delete(key)?;
                } else {
                    assert_eq!(txn.table(&table)?.remove(key)?, was_there);
                }
            }
            Change::RemoveRange(family, table, ends) => {
                let Some((table, entries)) = self.find(txn, *family, *table)? else { return Ok(()) };
                let before = entries.len();
                entries.retain(|key, _| !contains(ends, key));
                assert_eq!(txn.table(&table)?.remove_range(ends)?, (before - entries.len()) as u64);
            }
            Change::Clear(family, table) => {
                let Some((table, entries)) = self.find(txn, *family, *table)? else { return Ok(()) };
                assert_eq!(txn.table(&table)?.clear()?, entries.len() as u64);
                entries.clear();
            }
            Change::BulkLoad(family, table, count) => {
                let Some((table, entries)) = self.find(txn, *family, *table)? else { return Ok(()) };
                let last = entries.last_key_value().map(|(key, _)| key.clone()).unwrap_or_default();
                if last.len() > 500 {
                    return Ok(()); // no room behind it
                }
                let load = (0..*count).map(|n| ([&last[..], &[b'+', n]].concat(), vec![n; usize::from(n) * 9]));
                assert_eq!(txn.table(&table)?.bulk_load(load.clone())?, u64::from(*count));
                entries.extend(load);
            }
            Change::Compare(family, table, ends) => {
                let Some((table, entries)) = self.find(txn, *family, *table)? else { return Ok(()) };
                let view = txn.table(&table)?;
                assert_eq!(view.len()?, entries.len() as u64);
                assert_eq!(first_of(view.first()?), entries.first_key_value().map(owned));
                assert_eq!(first_of(view.last()?), entries.last_key_value().map(owned));
                let wanted: Vec<_> = within(entries, ends).collect();
                assert_eq!(view.count(ends)?, wanted.len() as u64);
                compare_range(view.range(ends), &wanted)?;
                if let Some((key, value)) = wanted.first() {
                    assert_eq!(view.get(key)?.as_deref(), Some(&value[..]));
                    assert_eq!(view.value_len(key)?, Some(value.len() as u64));
                    assert!(view.contains(key)?);
                }
            }
            Change::CreateFamily(place) => {
                let name = FAMILIES[*place];
                let outcome = txn.create_family(name);
                if self.world.contains_key(name) {
                    assert!(matches!(outcome, Err(Error::FamilyExists { .. })), "{outcome:?}");
                    return Ok(());
                }
                let family = outcome?;
                self.world.insert(name.to_owned(), Tables::from([(String::new(), Entries::new())]));
                self.handles.insert(name.to_owned(), family.clone());
                self.inside.push(family);
            }
            Change::DropFamily(place) => {
                let Some(family) = self.inside(*place) else { return Ok(()) };
                txn.drop_family(&family)?;
                assert!(matches!(txn.family(&family), Err(Error::FamilyDropped { .. })));
                self.world.remove(FAMILIES[*place]);
                self.dropped.extend(self.handles.remove(FAMILIES[*place]));
            }
            Change::RenameFamily(from, to) => {
                let (from, to) = (FAMILIES[*from], FAMILIES[*to]);
                let Some(family) = self.handles.get(from) else { return Ok(()) };
                let outcome = txn.rename_family(family, to);
                if from != to && self.world.contains_key(to) {
                    assert!(matches!(outcome, Err(Error::FamilyExists { .. })), "{outcome:?}");
                    return Ok(());
                }
                outcome?;
                rename(&mut self.world, from, to);
                rename(&mut self.handles, from, to);
            }
            Change::CreateTable(place, table) => {
                let Some(family) = self.inside(*place) else { return Ok(()) };
                let outcome = txn.create_table(&family, TABLES[*table]);
                let tables = self.world.get_mut(FAMILIES[*place]).unwrap();
                if tables.contains_key(TABLES[*table]) {
                    assert!(matches!(outcome, Err(Error::TableExists { .. })), "{outcome:?}");
                    return Ok(());
                }
                outcome?;
                tables.insert(TABLES[*table].to_owned(), Entries::new());
            }
            Change::DropTable(place, table) => {
                let Some((handle, _)) = self.find(txn, *place, *table)? else { return Ok(()) };
                txn.drop_table(&handle)?;
                assert!(matches!(txn.table(&handle), Err(Error::TableUnknown { .. })));
                self.world.get_mut(FAMILIES[*place]).unwrap().remove(TABLES[*table]);
            }
            Change::RenameTable(place, from, to) => {
                let Some((handle, _)) = self.find(txn, *place, *from)? else { return Ok(()) };
                let outcome = txn.rename_table(&handle, TABLES[*to]);
                let tables = self.world.get_mut(FAMILIES[*place]).unwrap();
                if from != to && tables.contains_key(TABLES[*to]) {
                    assert!(matches!(outcome, Err(Error::TableExists { .. })), "{outcome:?}");
                    return Ok(());
                }
                outcome?;
                rename(tables, TABLES[*from], TABLES[*to]);
                txn.table(&handle)?;
            }
        }
        Ok(())
    }
}

impl Held {
    fn new(snapshot: Snapshot, world: World, handles: BTreeMap<String, Family>) -> Self {
        Self { snapshot, world, handles, others: Vec::new() }
    }

    fn compare_names(&self) -> Result<()> {
        let names: Vec<_> = self.snapshot.families()?.into_iter().map(|info| info.name).collect();
        assert_eq!(names, self.world.keys().cloned().collect::<Vec<_>>());
        for (name, family) in &self.handles {
            let named: Vec<_> = self.snapshot.tables(family)?.into_iter().map(|info| info.name).collect();
            assert_eq!(named, self.world[name].keys().filter(|name| !name.is_empty()).cloned().collect::<Vec<_>>());
        }
        Ok(())
    }

    /// Families that did not exist yet, even if they have the owner of one that did.
    fn compare_strangers<'a>(&self, families: impl Iterator<Item = &'a Family>) -> Result<()> {
        for family in families.filter(|family| !self.is_known(family)) {
            let found = self.snapshot.get(family, "k");
            assert!(matches!(found, Err(Error::FamilyDropped { .. } | Error::NotInSnapshot { .. })), "{found:?}");
        }
        Ok(())
    }

    fn is_known(&self, family: &Family) -> bool {
        self.handles.values().any(|known| known == family)
    }

    fn compare(&self) -> Result<()> {
        self.compare_names()?;
        for (name, tables) in &self.world {
            let family = &self.handles[name];
            for (table, entries) in tables {
                let place = match table.as_str() {
                    "" => family.default_table(),
                    // The handle may have been dropped or renamed since: the snapshot finds its own.
                    name => self.snapshot.open_table(family, name)?.expect("a table the model has"),
                };
                assert_eq!(self.snapshot.len(&place)?, entries.len() as u64);
                let wanted: Vec<_> = entries.iter().map(owned).collect();
                compare_range(self.snapshot.range(&place, ..), &wanted)?;
                for (key, value) in entries.iter().take(3) {
                    assert_eq!(self.snapshot.get(&place, key)?.as_deref(), Some(&value[..]));
                    let (from, len) = (value.len() as u64 / 3, value.len() / 2);
                    let part = &value[value.len() / 3..value.len().min(value.len() / 3 + len)];
                    assert_eq!(self.snapshot.read_at(&place, key, from, len)?.as_deref(), Some(part));
                }
                assert_eq!(self.snapshot.get(&place, "no such key")?, None);
            }
        }
        for other in &self.others {
            assert!(matches!(self.snapshot.get(other, "k"), Err(Error::NotInSnapshot { .. })));
        }
        Ok(())
    }
}

/// From the front, from the back, and from both ends at once.
fn compare_range(range: spinney::Range<'_>, wanted: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
    let mut range = range;
    let (mut front, mut back) = (Vec::new(), Vec::new());
    loop {
        // Uneven, so that the ends meet somewhere else each time.
        for _ in 0..2 {
            front.extend(range.next().transpose()?);
        }
        match range.next_back() {
            Some(entry) => back.push(entry?),
            None => break,
        }
    }
    assert!(range.next().is_none());
    front.extend(back.into_iter().rev());
    let found: Vec<_> = front.into_iter().map(|(key, value)| (Vec::from(key), Vec::from(value))).collect();
    assert!(found == wanted, "{} entries found, {} wanted", found.len(), wanted.len());
    Ok(())
}

fn contains(ends: &Ends, key: &Vec<u8>) -> bool {
    RangeBounds::<Vec<u8>>::contains(ends, key)
}

fn within<'a>(entries: &'a Entries, ends: &'a Ends) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + 'a {
    assert_eq!(KeyRange::start(ends), ends.0.as_ref().map(Vec::as_slice));
    entries.iter().filter(|(key, _)| contains(ends, key)).map(owned)
}

fn owned((key, value): (&Vec<u8>, &Vec<u8>)) -> (Vec<u8>, Vec<u8>) {
    (key.clone(), value.clone())
}

fn first_of(entry: Option<(Value, Value)>) -> Option<(Vec<u8>, Vec<u8>)> {
    entry.map(|(key, value)| (key.into(), value.into()))
}

fn rename<V>(map: &mut BTreeMap<String, V>, from: &str, to: &str) {
    if let Some(value) = map.remove(from) {
        map.insert(to.to_owned(), value);
    }
}

fn run(steps: &[Step], background: bool) -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let mut pair = Pair::new(background, folder.path().join("model.spinney"))?;
    for step in steps {
        pair.step(step)?;
    }
    pair.check()?;
    // Once nobody holds on to it, everything that was dropped or removed is freed.
    (pair.held, pair.ghosts) = Default::default();
    while pair.db.maintain(1000)? > 0 || pair.db.stats()?.families_waiting > 0 {}
    pair.check()?;
    let report = pair.db.check()?;
    assert_eq!(report.graveyard_pages, 0);
    assert_eq!(report.families, pair.world.len() as u64);
    Ok(())
}

/// As many histories as asked for (`PROPTEST_CASES`), else a few.
fn config() -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let default = ProptestConfig::default();
    ProptestConfig { cases: if asked { default.cases } else { 64 }, ..default }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_database_is_a_map_of_maps(steps in prop::collection::vec(step(), 1..60)) {
        run(&steps, false)?;
    }

    #[test]
    fn and_stays_one_while_the_background_frees(steps in prop::collection::vec(step(), 1..40)) {
        run(&steps, true)?;
    }
}
