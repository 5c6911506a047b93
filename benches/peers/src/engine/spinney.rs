//! Spinney: everything at its default but the budget.

use crate::engine::{Durability, Reader, Scan, Setup, Store, Writer, family_name};
use spinney::{Database, Family, KeyRange, Options, Range, Snapshot, TableTxn};
use std::path::Path;

struct Spinney {
    db: Database,
    families: Vec<Family>,
    durability: spinney::Durability,
}

pub(super) fn open(folder: &Path, setup: &Setup) -> anyhow::Result<Box<dyn Store>> {
    let db = Options::new().memory_budget(setup.budget_bytes).open(folder.join("peers.spinney"))?;
    let families = (0..setup.families).map(|family| db.family(&family_name(family))).collect::<Result<_, _>>()?;
    let durability = match setup.durability {
        Durability::Durable => spinney::Durability::Immediate,
        Durability::Eventual => spinney::Durability::Eventual,
    };
    Ok(Box::new(Spinney { db, families, durability }))
}

impl Spinney {
    fn family(&self, family: u32) -> &Family {
        &self.families[family as usize]
    }
}

impl Store for Spinney {
    fn write(&self, family: u32, fill: &mut dyn FnMut(&mut dyn Writer) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let family = self.family(family);
        let mut txn = family.begin()?;
        fill(&mut txn.family(family)?)?;
        txn.commit_with(self.durability)?;
        Ok(())
    }

    fn read(&self, family: u32, look: &mut dyn FnMut(&mut dyn Reader) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let family = self.family(family);
        look(&mut View { snapshot: self.db.snapshot_of([family]), family })
    }

    fn load(&self, family: u32, entries: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> anyhow::Result<()> {
        let mut txn = self.family(family).begin()?;
        txn.bulk_load(entries)?;
        txn.commit_with(self.durability)?;
        Ok(())
    }

    fn settle(&self) -> anyhow::Result<()> {
        self.db.flush()?;
        Ok(())
    }

    fn close(self: Box<Self>) -> anyhow::Result<()> {
        drop(self.families);
        Ok(self.db.close()?)
    }
}

impl Writer for TableTxn<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> anyhow::Result<()> {
        Ok(TableTxn::put(self, key, value)?)
    }

    fn remove(&mut self, key: &[u8]) -> anyhow::Result<()> {
        Ok(self.delete(key)?)
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8]) -> anyhow::Result<()> {
        TableTxn::remove_range(self, from..to)?;
        Ok(())
    }
}

struct View<'a> {
    snapshot: Snapshot,
    family: &'a Family,
}

impl View<'_> {
    fn range(&self, keys: impl KeyRange) -> Range<'static> {
        self.snapshot.range(self.family, keys)
    }
}

impl Reader for View<'_> {
    fn get(&mut self, key: &[u8], show: &mut dyn FnMut(&[u8])) -> anyhow::Result<bool> {
        Ok(self.snapshot.get_with(self.family, key, show)?.is_some())
    }

    fn get_part(
        &mut self,
        key: &[u8],
        offset: usize,
        bytes: usize,
        show: &mut dyn FnMut(&[u8]),
    ) -> anyhow::Result<bool> {
        let part = self.snapshot.read_at(self.family, key, offset as u64, bytes)?;
        Ok(part.map(|part| show(&part)).is_some())
    }

    fn scan(&mut self, scan: Scan<'_>, show: &mut dyn FnMut(&[u8], &[u8])) -> anyhow::Result<u64> {
        let mut range = match (scan.from, scan.is_backward) {
            (None, _) => self.range(..),
            (Some(key), false) => self.range(key..),
            (Some(key), true) => self.range(..=key),
        };
        let mut shown = 0;
        while scan.limit.is_none_or(|limit| shown < limit) {
            let lent = if scan.is_backward { range.next_back_with(&mut *show) } else { range.next_with(&mut *show) };
            let Some(lent) = lent else { break };
            lent?;
            shown += 1;
        }
        Ok(shown)
    }
}
