//! canopydb: a database per family, all of one environment that shares a write-ahead log and a cache. Eventual commits are synced
//! in the background, every half second as its README suggests.

use crate::engine::{Durability, Reader, Scan, Setup, Store, Writer, family_name};
use ::canopydb::{Database, DbOptions, EnvOptions, Environment, Tree};
use anyhow::Context;
use std::{path::Path, time::Duration};

const TREE: &[u8] = b"entries";

struct Canopydb {
    families: Vec<Database>,
    is_durable: bool,
}

pub(super) fn open(folder: &Path, setup: &Setup) -> anyhow::Result<Box<dyn Store>> {
    let is_durable = setup.durability == Durability::Durable;
    let mut options = EnvOptions::new(folder);
    options.page_cache_size = usize::try_from(setup.share(12))?;
    options.wal_background_sync_interval = (!is_durable).then_some(Duration::from_millis(500));
    let env = Environment::with_options(options)?;
    // Changes wait in memory for a checkpoint, in the rest of the budget: by default 64 MiB, and four times as much at most.
    let mut options = DbOptions::default();
    let target = usize::try_from(setup.share(4) / 4 / u64::from(setup.families))?.clamp(4 << 20, 64 << 20);
    options.checkpoint_target_size = target;
    options.throttle_memory_limit = 4 * target;
    options.stall_memory_limit = 4 * target;
    let mut families = Vec::new();
    for family in 0..setup.families {
        let db = env.get_or_create_database_with(&family_name(family), options.clone())?;
        let txn = db.begin_write()?;
        txn.get_or_create_tree(TREE)?;
        txn.commit_with(true)?;
        families.push(db);
    }
    Ok(Box::new(Canopydb { families, is_durable }))
}

impl Store for Canopydb {
    fn write(&self, family: u32, fill: &mut dyn FnMut(&mut dyn Writer) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let txn = self.families[family as usize].begin_write()?;
        let mut tree = txn.get_or_create_tree(TREE)?;
        fill(&mut tree)?;
        drop(tree);
        txn.commit_with(self.is_durable)?;
        Ok(())
    }

    fn read(&self, family: u32, look: &mut dyn FnMut(&mut dyn Reader) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let txn = self.families[family as usize].begin_read()?;
        look(&mut View(txn.get_tree(TREE)?.context("the tree is gone")?))
    }

    fn settle(&self) -> anyhow::Result<()> {
        // The log is the environment's: one of its databases syncs it for all.
        Ok(self.families[0].sync()?)
    }

    fn close(self: Box<Self>) -> anyhow::Result<()> {
        for family in &self.families {
            family.checkpoint()?;
        }
        Ok(())
    }
}

impl Writer for Tree<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> anyhow::Result<()> {
        Ok(self.insert(key, value)?)
    }

    fn remove(&mut self, key: &[u8]) -> anyhow::Result<()> {
        self.delete(key)?;
        Ok(())
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8]) -> anyhow::Result<()> {
        Ok(self.delete_range(from..to)?)
    }
}

struct View<'t>(Tree<'t>);

impl Reader for View<'_> {
    fn get(&mut self, key: &[u8], show: &mut dyn FnMut(&[u8])) -> anyhow::Result<bool> {
        Ok(self.0.get(key)?.map(|value| show(&value)).is_some())
    }

    fn scan(&mut self, scan: Scan<'_>, show: &mut dyn FnMut(&[u8], &[u8])) -> anyhow::Result<u64> {
        let mut range = self.0.range::<&[u8]>(scan.bounds())?;
        let mut shown = 0;
        while scan.limit.is_none_or(|limit| shown < limit) {
            let Some(entry) = (if scan.is_backward { range.next_back() } else { range.next() }) else { break };
            let (key, value) = entry?;
            show(&key, &value);
            shown += 1;
        }
        Ok(shown)
    }
}
