//! LMDB through heed: a named database per family of one mapped file. Durable is its default, the file synced and the meta page
//! written through; eventual is `MDB_NOSYNC`, without a writable map. Sorted loads append.
//!
//! Its memory is the system's: no budget bounds it, and what of it is in memory counts as the process's.

use crate::engine::{Durability, Reader, Scan, Setup, Store, Writer, family_name};
use heed::{Database, Env, EnvFlags, EnvOpenOptions, PutFlags, RoTxn, RwTxn, types::Bytes};
use std::path::Path;

/// Of the address space only.
const MAP_BYTES: usize = 64 << 30;

struct Lmdb {
    env: Env,
    families: Vec<Database<Bytes, Bytes>>,
}

pub(super) fn open(folder: &Path, setup: &Setup) -> anyhow::Result<Box<dyn Store>> {
    let env = map(folder, setup)?;
    let mut txn = env.write_txn()?;
    let families = (0..setup.families).map(|family| env.create_database(&mut txn, Some(&family_name(family))));
    let families = families.collect::<Result<_, _>>()?;
    txn.commit()?;
    Ok(Box::new(Lmdb { env, families }))
}

#[expect(unsafe_code, reason = "LMDB maps its file: heed has no safe way to open one")]
fn map(folder: &Path, setup: &Setup) -> anyhow::Result<Env> {
    let mut options = EnvOpenOptions::new();
    options.map_size(MAP_BYTES).max_dbs(setup.families);
    if setup.durability == Durability::Eventual {
        // SAFETY: without syncs the file may be damaged by a power cut only; the folder is this run's, and is removed after it.
        unsafe { options.flags(EnvFlags::NO_SYNC) };
    }
    // SAFETY: the folder was made for this process; nobody else changes the file below the map while it is open, and it is on
    // a local disk.
    Ok(unsafe { options.open(folder) }?)
}

impl Store for Lmdb {
    fn write(&self, family: u32, fill: &mut dyn FnMut(&mut dyn Writer) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut txn = Txn { txn: self.env.write_txn()?, family: self.families[family as usize] };
        fill(&mut txn)?;
        Ok(txn.txn.commit()?)
    }

    fn read(&self, family: u32, look: &mut dyn FnMut(&mut dyn Reader) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let txn = self.env.read_txn()?;
        look(&mut View { txn: &txn, family: self.families[family as usize] })
    }

    fn load(&self, family: u32, entries: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> anyhow::Result<()> {
        let mut txn = self.env.write_txn()?;
        for (key, value) in entries {
            self.families[family as usize].put_with_flags(&mut txn, PutFlags::APPEND, key, value)?;
        }
        Ok(txn.commit()?)
    }

    fn settle(&self) -> anyhow::Result<()> {
        Ok(self.env.force_sync()?)
    }

    fn close(self: Box<Self>) -> anyhow::Result<()> {
        self.env.prepare_for_closing().wait();
        Ok(())
    }
}

struct Txn<'e> {
    txn: RwTxn<'e>,
    family: Database<Bytes, Bytes>,
}

impl Writer for Txn<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> anyhow::Result<()> {
        Ok(self.family.put(&mut self.txn, key, value)?)
    }

    fn remove(&mut self, key: &[u8]) -> anyhow::Result<()> {
        self.family.delete(&mut self.txn, key)?;
        Ok(())
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8]) -> anyhow::Result<()> {
        use std::ops::Bound::{Excluded, Included};
        self.family.delete_range(&mut self.txn, &(Included(from), Excluded(to)))?;
        Ok(())
    }
}

struct View<'a> {
    txn: &'a RoTxn<'a>,
    family: Database<Bytes, Bytes>,
}

impl Reader for View<'_> {
    fn get(&mut self, key: &[u8], show: &mut dyn FnMut(&[u8])) -> anyhow::Result<bool> {
        Ok(self.family.get(self.txn, key)?.map(show).is_some())
    }

    fn scan(&mut self, scan: Scan<'_>, show: &mut dyn FnMut(&[u8], &[u8])) -> anyhow::Result<u64> {
        let bounds = scan.bounds();
        let mut shown = 0;
        let mut one = |entry: heed::Result<(&[u8], &[u8])>| {
            entry.map(|(key, value)| {
                show(key, value);
                shown += 1;
            })
        };
        if scan.is_backward {
            self.family.rev_range(self.txn, &bounds)?.take(scan.most()).try_for_each(&mut one)?;
        } else {
            self.family.range(self.txn, &bounds)?.take(scan.most()).try_for_each(&mut one)?;
        }
        Ok(shown)
    }
}
