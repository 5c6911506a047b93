//! What every engine is asked to do. One adapter per engine, each configured as its own documentation recommends.

#[cfg(feature = "canopydb")]
mod canopydb; // a database of one environment per family
#[cfg(feature = "fjall")]
mod fjall; // a keyspace per family
#[cfg(feature = "lmdb")]
mod lmdb; // a named database per family, mapped
#[cfg(feature = "redb")]
mod redb; // a table per family of one file, or a file per family
#[cfg(feature = "rocksdb")]
mod rocksdb; // a column family per family
mod spinney; // a family per family
#[cfg(feature = "sqlite")]
mod sqlite; // a table per family

use anyhow::bail;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Who is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Engine {
    /// One file, a family each.
    Spinney,
    /// One file, a table each.
    Redb,
    /// A file each.
    RedbFiles,
    /// Through heed: one mapped file, a named database each.
    Lmdb,
    /// A column family each.
    Rocksdb,
    /// A keyspace each.
    Fjall,
    /// One environment, a database each.
    Canopydb,
    /// One file in WAL mode, a table each.
    Sqlite,
    /// No engine: the same bytes, written and synced.
    Bare,
}

impl Engine {
    /// In the order of tables.
    pub(crate) const ALL: [Self; 9] = [
        Self::Spinney,
        Self::Redb,
        Self::RedbFiles,
        Self::Lmdb,
        Self::Rocksdb,
        Self::Fjall,
        Self::Canopydb,
        Self::Sqlite,
        Self::Bare,
    ];

    /// As people write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Spinney => "Spinney",
            Self::Redb => "redb",
            Self::RedbFiles => "redb, a file each",
            Self::Lmdb => "LMDB",
            Self::Rocksdb => "RocksDB",
            Self::Fjall => "fjall",
            Self::Canopydb => "canopydb",
            Self::Sqlite => "SQLite",
            Self::Bare => "bare disk",
        }
    }

    /// As the command line takes it.
    pub(crate) fn argument(self) -> &'static str {
        match self {
            Self::Spinney => "spinney",
            Self::Redb => "redb",
            Self::RedbFiles => "redb-files",
            Self::Lmdb => "lmdb",
            Self::Rocksdb => "rocksdb",
            Self::Fjall => "fjall",
            Self::Canopydb => "canopydb",
            Self::Sqlite => "sqlite",
            Self::Bare => "bare",
        }
    }

    /// The package whose version is shown, as `Cargo.lock` names it.
    pub(crate) fn package(self) -> Option<&'static str> {
        match self {
            Self::Spinney => Some("spinney"),
            Self::Redb | Self::RedbFiles => Some("redb"),
            Self::Lmdb => Some("heed"),
            Self::Rocksdb => Some("librocksdb-sys"),
            Self::Fjall => Some("fjall"),
            Self::Canopydb => Some("canopydb"),
            Self::Sqlite => Some("libsqlite3-sys"),
            Self::Bare => None,
        }
    }

    /// Whether it was compiled in.
    pub(crate) fn is_built(self) -> bool {
        match self {
            Self::Spinney | Self::Bare => true,
            Self::Redb | Self::RedbFiles => cfg!(feature = "redb"),
            Self::Lmdb => cfg!(feature = "lmdb"),
            Self::Rocksdb => cfg!(feature = "rocksdb"),
            Self::Fjall => cfg!(feature = "fjall"),
            Self::Canopydb => cfg!(feature = "canopydb"),
            Self::Sqlite => cfg!(feature = "sqlite"),
        }
    }

    /// Whether it reads through a mapping of the whole file, which no budget bounds.
    pub(crate) fn maps_its_file(self) -> bool {
        self == Self::Lmdb
    }

    /// Whether it is a B-tree, and pays for a removal when it happens.
    pub(crate) fn is_tree(self) -> bool {
        !matches!(self, Self::Rocksdb | Self::Fjall | Self::Bare)
    }

    /// What a commit that does not wait for the disk leaves to chance.
    pub(crate) fn eventual_class(self) -> Class {
        match self {
            Self::Spinney | Self::Redb | Self::RedbFiles => Class::Memory,
            Self::Rocksdb | Self::Fjall | Self::Canopydb | Self::Sqlite | Self::Bare => Class::System,
            Self::Lmdb => Class::Unordered,
        }
    }

    /// Opens what is in the folder, or creates it.
    pub(crate) fn open(self, folder: &Path, setup: &Setup) -> anyhow::Result<Box<dyn Store>> {
        match self {
            Self::Spinney => spinney::open(folder, setup),
            #[cfg(feature = "redb")]
            Self::Redb => redb::open(folder, setup),
            #[cfg(feature = "redb")]
            Self::RedbFiles => redb::open_files(folder, setup),
            #[cfg(feature = "lmdb")]
            Self::Lmdb => lmdb::open(folder, setup),
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => rocksdb::open(folder, setup),
            #[cfg(feature = "fjall")]
            Self::Fjall => fjall::open(folder, setup),
            #[cfg(feature = "canopydb")]
            Self::Canopydb => canopydb::open(folder, setup),
            #[cfg(feature = "sqlite")]
            Self::Sqlite => sqlite::open(folder, setup),
            _ => bail!("{} is no engine, or was not compiled in", self.name()),
        }
    }
}

/// What a commit promises when it returns. Only equals are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Class {
    /// It survives a power cut.
    Durable,
    /// It survives the process; a power cut takes the newest commits, and leaves an earlier state.
    System,
    /// It is in memory; the end of the process takes the newest commits, and leaves an earlier state.
    Memory,
    /// It survives the process; a power cut may leave a damaged file, unless the file system keeps writes in order.
    Unordered,
    /// Nothing is committed.
    Read,
}

impl Class {
    /// As tables show it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Durable => "durable",
            Self::System => "eventual, in the system",
            Self::Memory => "eventual, in memory",
            Self::Unordered => "unordered",
            Self::Read => "read",
        }
    }

    /// Whether a ratio of these two says something: both kinds of eventual leave an earlier state after a power cut.
    pub(crate) fn compares_with(self, other: Self) -> bool {
        let is_eventual = |class| matches!(class, Self::System | Self::Memory);
        self == other || is_eventual(self) && is_eventual(other)
    }
}

/// Whether a commit waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// It does.
    Durable,
    /// It does not.
    Eventual,
}

/// How an engine is opened: the same for all.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) families: u32,
    pub(crate) durability: Durability,
    /// Of everything that the engine keeps in memory by its own choice.
    pub(crate) budget_bytes: u64,
    /// Of a typical value: some engines are told to keep large ones apart.
    pub(crate) value_bytes: usize,
    /// Threads that read at one time.
    pub(crate) readers: u32,
}

impl Setup {
    /// A part of the budget, in so many sixteenths.
    #[cfg(any(feature = "canopydb", feature = "fjall", feature = "rocksdb", feature = "sqlite"))]
    pub(crate) fn share(&self, sixteenths: u64) -> u64 {
        self.budget_bytes / 16 * sixteenths
    }

    /// Whether values are larger than what fits a page, by far.
    #[cfg(any(feature = "fjall", feature = "rocksdb"))]
    pub(crate) fn has_large_values(&self) -> bool {
        self.value_bytes >= 64 << 10
    }
}

/// An engine with a number of ordered maps, the families, counted from 0.
pub(crate) trait Store: Send + Sync {
    /// One transaction of one family; committed when `fill` succeeds, with the durability that the store was opened with.
    fn write(&self, family: u32, fill: &mut dyn FnMut(&mut dyn Writer) -> anyhow::Result<()>) -> anyhow::Result<()>;

    /// One view of one family, which does not change while `look` looks.
    fn read(&self, family: u32, look: &mut dyn FnMut(&mut dyn Reader) -> anyhow::Result<()>) -> anyhow::Result<()>;

    /// Fills an empty family in one transaction with entries in the order of their keys, by the way that is meant for it.
    fn load(&self, family: u32, entries: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> anyhow::Result<()> {
        self.write(family, &mut |txn| {
            for (key, value) in &mut *entries {
                txn.put(key, value)?;
            }
            Ok(())
        })
    }

    /// Returns when every commit is durable.
    fn settle(&self) -> anyhow::Result<()>;

    /// Ends as a program should.
    fn close(self: Box<Self>) -> anyhow::Result<()>;
}

/// A transaction that writes.
pub(crate) trait Writer {
    /// Inserts or overwrites.
    fn put(&mut self, key: &[u8], value: &[u8]) -> anyhow::Result<()>;

    /// Removes a key that may be there.
    fn remove(&mut self, key: &[u8]) -> anyhow::Result<()>;

    /// Removes every key from `from`, up to and without `to`.
    fn remove_range(&mut self, from: &[u8], to: &[u8]) -> anyhow::Result<()>;
}

/// Which entries, in which order.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scan<'a> {
    /// The first key that may come, in the direction of the walk; the end of the family without it.
    pub(crate) from: Option<&'a [u8]>,
    pub(crate) is_backward: bool,
    /// How many at most; all without it.
    pub(crate) limit: Option<u64>,
}

impl<'a> Scan<'a> {
    /// How many at most, as a number.
    pub(crate) fn most(&self) -> usize {
        self.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
    }

    /// As a range, which is walked from its end when backward.
    #[cfg(any(feature = "canopydb", feature = "fjall", feature = "lmdb", feature = "redb"))]
    pub(crate) fn bounds(&self) -> (std::ops::Bound<&'a [u8]>, std::ops::Bound<&'a [u8]>) {
        use std::ops::Bound::{Included, Unbounded};
        match (self.from, self.is_backward) {
            (None, _) => (Unbounded, Unbounded),
            (Some(key), false) => (Included(key), Unbounded),
            (Some(key), true) => (Unbounded, Included(key)),
        }
    }
}

/// A view.
pub(crate) trait Reader {
    /// Shows the value of a key, without a copy where the engine can; whether it was there.
    fn get(&mut self, key: &[u8], show: &mut dyn FnMut(&[u8])) -> anyhow::Result<bool>;

    /// Shows `bytes` bytes of a value from `offset` on, without the rest where the engine can.
    fn get_part(
        &mut self,
        key: &[u8],
        offset: usize,
        bytes: usize,
        show: &mut dyn FnMut(&[u8]),
    ) -> anyhow::Result<bool> {
        self.get(key, &mut |value| show(&value[offset..offset + bytes]))
    }

    /// Shows entries in order; how many.
    fn scan(&mut self, scan: Scan<'_>, show: &mut dyn FnMut(&[u8], &[u8])) -> anyhow::Result<u64>;
}

/// What families are called.
pub(crate) fn family_name(family: u32) -> String {
    format!("family_{family}")
}
