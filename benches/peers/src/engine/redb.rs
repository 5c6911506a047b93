//! redb: a table per family of one file, or a file per family. Commits are one-phase, its default; large sorted loads go through
//! its cursor.

use crate::engine::{Durability, Reader, Scan, Setup, Store, Writer, family_name};
use ::redb::{Builder, Database, ReadOnlyTable, ReadableDatabase, Table, TableDefinition};
use std::{ops::Bound, path::Path};

struct Redb {
    /// One, or one per family.
    files: Vec<Database>,
    names: Vec<String>,
    durability: ::redb::Durability,
}

pub(super) fn open(folder: &Path, setup: &Setup) -> anyhow::Result<Box<dyn Store>> {
    open_some(folder, setup, 1)
}

pub(super) fn open_files(folder: &Path, setup: &Setup) -> anyhow::Result<Box<dyn Store>> {
    open_some(folder, setup, setup.families)
}

fn open_some(folder: &Path, setup: &Setup, files: u32) -> anyhow::Result<Box<dyn Store>> {
    let budget_bytes = usize::try_from(setup.budget_bytes / u64::from(files))?;
    let durability = match setup.durability {
        Durability::Durable => ::redb::Durability::Immediate,
        Durability::Eventual => ::redb::Durability::None,
    };
    let mut redb = Redb { files: Vec::new(), names: (0..setup.families).map(family_name).collect(), durability };
    for number in 0..files {
        let path = folder.join(format!("{number}.redb"));
        redb.files.push(Builder::new().set_cache_size(budget_bytes).create(path)?);
    }
    for family in 0..setup.families {
        let txn = redb.file(family).begin_write()?;
        txn.open_table(redb.table(family))?;
        txn.commit()?;
    }
    Ok(Box::new(redb))
}

impl Redb {
    fn file(&self, family: u32) -> &Database {
        &self.files[family as usize % self.files.len()]
    }

    fn table(&self, family: u32) -> TableDefinition<'_, &'static [u8], &'static [u8]> {
        TableDefinition::new(&self.names[family as usize])
    }
}

impl Store for Redb {
    fn write(&self, family: u32, fill: &mut dyn FnMut(&mut dyn Writer) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut txn = self.file(family).begin_write()?;
        txn.set_durability(self.durability)?;
        fill(&mut Txn(txn.open_table(self.table(family))?))?;
        Ok(txn.commit()?)
    }

    fn read(&self, family: u32, look: &mut dyn FnMut(&mut dyn Reader) -> anyhow::Result<()>) -> anyhow::Result<()> {
        look(&mut View(self.file(family).begin_read()?.open_table(self.table(family))?))
    }

    fn load(&self, family: u32, entries: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> anyhow::Result<()> {
        let mut txn = self.file(family).begin_write()?;
        txn.set_durability(self.durability)?;
        let mut table = txn.open_table(self.table(family))?;
        let mut cursor = table.lower_bound_mut(Bound::<&[u8]>::Unbounded)?;
        for (key, value) in entries {
            cursor.insert_before(key, value)?;
        }
        cursor.close()?;
        drop(table);
        Ok(txn.commit()?)
    }

    fn settle(&self) -> anyhow::Result<()> {
        // What was committed without waiting is durable with the next commit that waits.
        for file in &self.files {
            file.begin_write()?.commit()?;
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> anyhow::Result<()> {
        for file in self.files {
            file.close()?;
        }
        Ok(())
    }
}

struct Txn<'t>(Table<'t, &'static [u8], &'static [u8]>);

impl Writer for Txn<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> anyhow::Result<()> {
        self.0.insert(key, value)?;
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> anyhow::Result<()> {
        self.0.remove(key)?;
        Ok(())
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8]) -> anyhow::Result<()> {
        Ok(self.0.retain_in(from..to, |_, _| false)?)
    }
}

struct View(ReadOnlyTable<&'static [u8], &'static [u8]>);

impl Reader for View {
    fn get(&mut self, key: &[u8], show: &mut dyn FnMut(&[u8])) -> anyhow::Result<bool> {
        Ok(self.0.get(key)?.map(|value| show(value.value())).is_some())
    }

    fn scan(&mut self, scan: Scan<'_>, show: &mut dyn FnMut(&[u8], &[u8])) -> anyhow::Result<u64> {
        let mut range = self.0.range::<&[u8]>(scan.bounds())?;
        let mut shown = 0;
        while scan.limit.is_none_or(|limit| shown < limit) {
            let Some(entry) = (if scan.is_backward { range.next_back() } else { range.next() }) else { break };
            let (key, value) = entry?;
            show(key.value(), value.value());
            shown += 1;
        }
        Ok(shown)
    }
}
