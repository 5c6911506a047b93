//! fjall: a keyspace per family, one write batch per transaction, its journal synced by the batch. Blobs are kept apart for large
//! values, and sorted loads are ingested. No compression: values are incompressible.

use crate::engine::{Durability, Reader, Scan, Setup, Store, Writer, family_name};
use ::fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, OwnedWriteBatch, PersistMode,
    Readable, Snapshot, config::CompressionPolicy,
};
use std::path::Path;

struct Fjall {
    db: Database,
    families: Vec<Keyspace>,
    persist: Option<PersistMode>,
}

pub(super) fn open(folder: &Path, setup: &Setup) -> anyhow::Result<Box<dyn Store>> {
    let db = Database::builder(folder).cache_size(setup.share(12)).journal_compression(CompressionType::None).open()?;
    let memtable_bytes = (setup.share(4) / u64::from(setup.families)).clamp(8 << 20, 64 << 20);
    let options = || {
        KeyspaceCreateOptions::default()
            .max_memtable_size(memtable_bytes)
            .data_block_compression_policy(CompressionPolicy::disabled())
            .with_kv_separation(setup.has_large_values().then(KvSeparationOptions::default))
    };
    let families = (0..setup.families).map(|family| db.keyspace(&family_name(family), options));
    let families = families.collect::<Result<_, _>>()?;
    let persist = (setup.durability == Durability::Durable).then_some(PersistMode::SyncData);
    Ok(Box::new(Fjall { db, families, persist }))
}

impl Store for Fjall {
    fn write(&self, family: u32, fill: &mut dyn FnMut(&mut dyn Writer) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut txn = Txn {
            batch: self.db.batch().durability(self.persist),
            db: &self.db,
            family: &self.families[family as usize],
        };
        fill(&mut txn)?;
        Ok(txn.batch.commit()?)
    }

    fn read(&self, family: u32, look: &mut dyn FnMut(&mut dyn Reader) -> anyhow::Result<()>) -> anyhow::Result<()> {
        look(&mut View { snapshot: self.db.snapshot(), family: &self.families[family as usize] })
    }

    fn load(&self, family: u32, entries: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> anyhow::Result<()> {
        let mut ingestion = self.families[family as usize].start_ingestion()?;
        for (key, value) in entries {
            ingestion.write(key, value)?;
        }
        Ok(ingestion.finish()?)
    }

    fn settle(&self) -> anyhow::Result<()> {
        Ok(self.db.persist(PersistMode::SyncAll)?)
    }

    fn close(self: Box<Self>) -> anyhow::Result<()> {
        // It persists its journal when the last handle is dropped.
        Ok(())
    }
}

struct Txn<'a> {
    batch: OwnedWriteBatch,
    db: &'a Database,
    family: &'a Keyspace,
}

impl Writer for Txn<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> anyhow::Result<()> {
        self.batch.insert(self.family, key, value);
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> anyhow::Result<()> {
        self.batch.remove(self.family, key);
        Ok(())
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8]) -> anyhow::Result<()> {
        // It has no removal of ranges: every key of it is looked up and removed.
        for entry in self.db.snapshot().range(self.family, from..to) {
            self.batch.remove(self.family, entry.key()?);
        }
        Ok(())
    }
}

struct View<'a> {
    snapshot: Snapshot,
    family: &'a Keyspace,
}

impl Reader for View<'_> {
    fn get(&mut self, key: &[u8], show: &mut dyn FnMut(&[u8])) -> anyhow::Result<bool> {
        Ok(self.snapshot.get(self.family, key)?.map(|value| show(&value)).is_some())
    }

    fn scan(&mut self, scan: Scan<'_>, show: &mut dyn FnMut(&[u8], &[u8])) -> anyhow::Result<u64> {
        let mut range = self.snapshot.range::<&[u8], _>(self.family, scan.bounds());
        let mut shown = 0;
        while scan.limit.is_none_or(|limit| shown < limit) {
            let Some(entry) = (if scan.is_backward { range.next_back() } else { range.next() }) else { break };
            let (key, value) = entry.into_inner()?;
            show(&key, &value);
            shown += 1;
        }
        Ok(shown)
    }
}
