//! What must be there: the state that a writer's first `counter` transactions make, and the comparison with a file.

use crate::plan::{Change, Place, Plan, Transaction, Value};
use anyhow::{Context, bail, ensure};
use spinney::{Database, Snapshot};
use std::collections::BTreeMap;

/// Key -> value of one family, as far as one writer owns the keys.
type Entries = BTreeMap<Vec<u8>, Value>;

/// The families of one writer after some of its transactions.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    plan: Plan,
    writer: u8,
    counter: u64,
    families: BTreeMap<Place, Entries>,
}

impl Model {
    pub(crate) fn new(plan: Plan, writer: u8) -> Self {
        Self { plan, writer, counter: 0, families: BTreeMap::new() }
    }

    /// Transactions it contains.
    pub(crate) fn counter(&self) -> u64 {
        self.counter
    }

    /// Bytes of keys and values.
    pub(crate) fn live_bytes(&self) -> u64 {
        let entries = self.families.values().flatten();
        entries.map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }

    /// Makes it the state after `counter` transactions.
    ///
    /// # Errors
    /// When it is further than that: states are not undone.
    pub(crate) fn advance(&mut self, counter: u64) -> anyhow::Result<()> {
        ensure!(self.counter <= counter, "writer {} went back from {} to {counter}", self.writer, self.counter);
        while self.counter < counter {
            self.counter += 1;
            let transaction = self.plan.transaction(self.writer, self.counter);
            self.apply(&transaction);
        }
        Ok(())
    }

    fn apply(&mut self, transaction: &Transaction) {
        for change in &transaction.changes {
            match change {
                Change::Create(place) => drop(self.families.insert(*place, Entries::new())),
                Change::Drop(place) => drop(self.families.remove(place)),
                Change::Put(place, key, value) => drop(self.entries(*place).insert(key.clone(), *value)),
                Change::Remove(place, key) => drop(self.entries(*place).remove(key)),
                Change::RemoveRange(place, from, to) => self.entries(*place).retain(|key, _| key < from || key >= to),
            }
        }
    }

    fn entries(&mut self, place: Place) -> &mut Entries {
        self.families.entry(place).or_default()
    }

    /// Compares with what the snapshot shows of this writer: no entry more, none less, none different.
    ///
    /// # Errors
    /// The first difference.
    pub(crate) fn compare(&self, db: &Database, snapshot: &Snapshot) -> anyhow::Result<()> {
        for info in snapshot.families()? {
            let mine = Plan::writer_of(&info.name) == Some(self.writer);
            let known = self.families.keys().any(|place| Plan::name(*place, self.writer) == info.name);
            let is_own = info.name.starts_with("own ");
            ensure!(!mine || known || is_own, "{self}: family `{}` should not be there", info.name);
        }
        let nothing = Entries::new();
        let always = [Place::Own(0), Place::Own(1), Place::Shared].map(|place| (place, &nothing));
        let mut all: BTreeMap<Place, &Entries> = always.into();
        all.extend(self.families.iter().map(|(place, entries)| (*place, entries)));
        for (place, entries) in all {
            let name = Plan::name(place, self.writer);
            let Some(family) = db.open_family(&name)? else {
                ensure!(entries.is_empty(), "{self}: family `{name}` is missing");
                continue;
            };
            let mut found = snapshot.prefix(&family, [self.writer]);
            for (key, value) in entries {
                let Some(entry) = found.next() else { bail!("{self}: `{name}` ends before {key:?}") };
                let (found_key, found_value) = entry.with_context(|| format!("{self}: `{name}`"))?;
                ensure!(found_key[..] == key[..], "{self}: `{name}` has {:?}, not {key:?}", &found_key[..]);
                let is_same = found_value.len() == value.len() && found_value[..] == value.make()[..];
                ensure!(is_same, "{self}: `{name}` has another value at {key:?}");
            }
            if let Some(entry) = found.next() {
                bail!("{self}: `{name}` has {:?} too many", &entry?.0[..]);
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seed {}, writer {}, transaction {}", self.plan.seed, self.writer, self.counter)
    }
}

/// How many of its transactions a snapshot shows of a writer: the highest number any of its families has.
/// (A transaction that drops a family changes another one, too.)
///
/// # Errors
/// Those of reading, and a number that is none.
pub(crate) fn counter_of(db: &Database, snapshot: &Snapshot, writer: u8) -> anyhow::Result<u64> {
    let mut newest = 0;
    for info in snapshot.families()? {
        if Plan::writer_of(&info.name).is_some_and(|of| of != writer) {
            continue;
        }
        let Some(family) = db.open_family(&info.name)? else { continue };
        let Some(found) = snapshot.get(&family, Plan::counter_key(writer))? else { continue };
        let counter: [u8; 8] = found[..].try_into().with_context(|| format!("the counter in `{}`", info.name))?;
        newest = newest.max(u64::from_be_bytes(counter));
    }
    Ok(newest)
}
