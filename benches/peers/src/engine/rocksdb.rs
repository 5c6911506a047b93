//! RocksDB: a column family per family, one write batch per transaction. As its tuning guide recommends: as many background jobs as
//! processors, bloom filters of 10 bits, index and filter blocks in the cache and so in the budget, dynamic level sizes, 16 KiB
//! blocks, a shared limit of write buffers, blob files for large values, and ingestion of a sorted file for sorted loads. No
//! compression: values are incompressible.

use crate::engine::{Durability, Reader, Scan, Setup, Store, Writer, family_name};
use ::rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, IngestExternalFileOptions,
    Options, ReadOptions, Snapshot, SstFileWriter, WriteBatch, WriteBufferManager, WriteOptions,
};
use anyhow::Context;
use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

struct Rocksdb {
    db: DB,
    folder: PathBuf,
    names: Vec<String>,
    family_options: Options,
    is_durable: bool,
}

pub(super) fn open(folder: &Path, setup: &Setup) -> anyhow::Result<Box<dyn Store>> {
    let names: Vec<_> = (0..setup.families).map(family_name).collect();
    let cache = Cache::new_lru_cache(usize::try_from(setup.budget_bytes)?);
    let family_options = family_options(setup, &cache)?;
    let families = names.iter().map(|name| ColumnFamilyDescriptor::new(name, family_options.clone()));
    let db = DB::open_cf_descriptors(&db_options(setup, cache)?, folder, families)?;
    let is_durable = setup.durability == Durability::Durable;
    Ok(Box::new(Rocksdb { db, folder: folder.to_owned(), names, family_options, is_durable }))
}

fn db_options(setup: &Setup, cache: Cache) -> anyhow::Result<Options> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.increase_parallelism(i32::try_from(thread::available_parallelism()?.get())?);
    options.set_bytes_per_sync(1 << 20);
    // Write buffers are taken from the cache, so that both together keep to the budget.
    let buffers_bytes = usize::try_from(setup.share(4))?;
    options.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager_with_cache(
        buffers_bytes,
        false,
        cache,
    ));
    Ok(options)
}

fn family_options(setup: &Setup, cache: &Cache) -> anyhow::Result<Options> {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_block_size(16 << 10);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_format_version(6);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(usize::try_from(setup.share(1).clamp(8 << 20, 64 << 20))?);
    if setup.has_large_values() {
        options.set_enable_blob_files(true);
        options.set_enable_blob_gc(true);
        options.set_min_blob_size(32 << 10);
    }
    Ok(options)
}

impl Rocksdb {
    fn family(&self, family: u32) -> anyhow::Result<&ColumnFamily> {
        let name = &self.names[family as usize];
        self.db.cf_handle(name).with_context(|| format!("`{name}` is gone"))
    }

    fn write_options(&self) -> WriteOptions {
        let mut options = WriteOptions::default();
        options.set_sync(self.is_durable);
        options
    }
}

impl Store for Rocksdb {
    fn write(&self, family: u32, fill: &mut dyn FnMut(&mut dyn Writer) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut txn = Txn { batch: WriteBatch::default(), family: self.family(family)? };
        fill(&mut txn)?;
        Ok(self.db.write_opt(txn.batch, &self.write_options())?)
    }

    fn read(&self, family: u32, look: &mut dyn FnMut(&mut dyn Reader) -> anyhow::Result<()>) -> anyhow::Result<()> {
        look(&mut View { snapshot: &self.db.snapshot(), family: self.family(family)? })
    }

    fn load(&self, family: u32, entries: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> anyhow::Result<()> {
        let path = self.folder.join("sorted.tmp");
        let mut file = SstFileWriter::create(&self.family_options);
        file.open(&path)?;
        for (key, value) in entries {
            file.put(key, value)?;
        }
        file.finish()?;
        if self.is_durable {
            fs::File::open(&path)?.sync_all()?;
        }
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        Ok(self.db.ingest_external_file_cf_opts(self.family(family)?, &options, vec![path])?)
    }

    fn settle(&self) -> anyhow::Result<()> {
        Ok(self.db.flush_wal(true)?)
    }

    fn close(self: Box<Self>) -> anyhow::Result<()> {
        self.db.cancel_all_background_work(true);
        Ok(())
    }
}

struct Txn<'a> {
    batch: WriteBatch,
    family: &'a ColumnFamily,
}

impl Writer for Txn<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> anyhow::Result<()> {
        self.batch.put_cf(self.family, key, value);
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> anyhow::Result<()> {
        self.batch.delete_cf(self.family, key);
        Ok(())
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8]) -> anyhow::Result<()> {
        self.batch.delete_range_cf(self.family, from, to);
        Ok(())
    }
}

struct View<'a> {
    snapshot: &'a Snapshot<'a>,
    family: &'a ColumnFamily,
}

impl Reader for View<'_> {
    fn get(&mut self, key: &[u8], show: &mut dyn FnMut(&[u8])) -> anyhow::Result<bool> {
        Ok(self.snapshot.get_pinned_cf(self.family, key)?.map(|value| show(&value)).is_some())
    }

    fn scan(&mut self, scan: Scan<'_>, show: &mut dyn FnMut(&[u8], &[u8])) -> anyhow::Result<u64> {
        let mut options = ReadOptions::default();
        if scan.limit.is_none() {
            options.set_readahead_size(2 << 20);
        }
        let mut walk = self.snapshot.raw_iterator_cf_opt(self.family, options);
        match (scan.from, scan.is_backward) {
            (None, false) => walk.seek_to_first(),
            (None, true) => walk.seek_to_last(),
            (Some(key), false) => walk.seek(key),
            (Some(key), true) => walk.seek_for_prev(key),
        }
        let mut shown = 0;
        while scan.limit.is_none_or(|limit| shown < limit) {
            let Some((key, value)) = walk.item() else { break };
            show(key, value);
            shown += 1;
            if scan.is_backward {
                walk.prev();
            } else {
                walk.next();
            }
        }
        walk.status()?;
        Ok(shown)
    }
}
