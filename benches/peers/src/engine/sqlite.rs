//! SQLite: a table per family of one file in WAL mode, `synchronous` FULL or NORMAL. One connection writes, behind a lock, as it
//! allows one writer at a time and its own waiting is by sleeping; readers have a connection each. Small records are in tables
//! `WITHOUT ROWID`, as its documentation advises for them, and large ones are not.

use crate::engine::{Durability, Reader, Scan, Setup, Store, Writer};
use rusqlite::{CachedStatement, Connection, MAIN_DB, OptionalExtension, blob::Blob};
use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// Its documentation: rows of a table `WITHOUT ROWID` should be smaller than a twentieth of a page.
const WITHOUT_ROWID_BYTES: usize = 200;

/// Its default.
const READER_BYTES_MIN: u64 = 2 << 20;

struct Sqlite {
    path: PathBuf,
    writer: Mutex<Connection>,
    /// Those that nobody reads with at the moment.
    readers: Mutex<Vec<Connection>>,
    is_durable: bool,
    reader_bytes: u64,
}

pub(super) fn open(folder: &Path, setup: &Setup) -> anyhow::Result<Box<dyn Store>> {
    let path = folder.join("peers.sqlite");
    let is_durable = setup.durability == Durability::Durable;
    // A cache is a connection's: readers get most of the budget where there are any.
    let writer_sixteenths = if setup.readers == 0 { 16 } else { 4 };
    let reader_bytes = (setup.share(16 - writer_sixteenths) / u64::from(setup.readers.max(1))).max(READER_BYTES_MIN);
    let writer = connect(&path, is_durable, setup.share(writer_sixteenths))?;
    let options = if setup.value_bytes <= WITHOUT_ROWID_BYTES { "WITHOUT ROWID" } else { "" };
    for family in 0..setup.families {
        let columns = "key BLOB NOT NULL PRIMARY KEY, value BLOB NOT NULL";
        writer.execute(&format!("CREATE TABLE IF NOT EXISTS family_{family} ({columns}) {options}"), ())?;
    }
    Ok(Box::new(Sqlite { path, writer: Mutex::new(writer), readers: Mutex::default(), is_durable, reader_bytes }))
}

fn connect(path: &Path, is_durable: bool, budget_bytes: u64) -> anyhow::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", if is_durable { "full" } else { "normal" })?;
    connection.pragma_update(None, "cache_size", -i64::try_from(budget_bytes >> 10)?)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

impl Store for Sqlite {
    fn write(&self, family: u32, fill: &mut dyn FnMut(&mut dyn Writer) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let connection = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute(())?;
        let put = "INSERT INTO family_{} (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2";
        let mut txn = Txn {
            put: prepare(&connection, put, family)?,
            remove: prepare(&connection, "DELETE FROM family_{} WHERE key = ?1", family)?,
            connection: &connection,
            family,
        };
        fill(&mut txn)?;
        connection.prepare_cached("COMMIT")?.execute(())?;
        Ok(())
    }

    fn read(&self, family: u32, look: &mut dyn FnMut(&mut dyn Reader) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let idle = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = idle.map_or_else(|| connect(&self.path, self.is_durable, self.reader_bytes), Ok)?;
        connection.prepare_cached("BEGIN")?.execute(())?;
        look(&mut View {
            get: prepare(&connection, "SELECT value FROM family_{} WHERE key = ?1", family)?,
            connection: &connection,
            family,
        })?;
        connection.prepare_cached("COMMIT")?.execute(())?;
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(())
    }

    fn settle(&self) -> anyhow::Result<()> {
        let connection = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(connection.pragma_update(None, "wal_checkpoint", "full")?)
    }

    fn close(self: Box<Self>) -> anyhow::Result<()> {
        for reader in self.readers.into_inner().unwrap_or_else(PoisonError::into_inner) {
            reader.close().map_err(|(_, error)| error)?;
        }
        let writer = self.writer.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(writer.close().map_err(|(_, error)| error)?)
    }
}

fn prepare<'c>(connection: &'c Connection, sql: &str, family: u32) -> rusqlite::Result<CachedStatement<'c>> {
    connection.prepare_cached(&sql.replace("{}", &family.to_string()))
}

struct Txn<'c> {
    put: CachedStatement<'c>,
    remove: CachedStatement<'c>,
    connection: &'c Connection,
    family: u32,
}

impl Writer for Txn<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> anyhow::Result<()> {
        self.put.execute((key, value))?;
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> anyhow::Result<()> {
        self.remove.execute((key,))?;
        Ok(())
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8]) -> anyhow::Result<()> {
        let sql = "DELETE FROM family_{} WHERE key >= ?1 AND key < ?2";
        prepare(self.connection, sql, self.family)?.execute((from, to))?;
        Ok(())
    }
}

struct View<'c> {
    get: CachedStatement<'c>,
    connection: &'c Connection,
    family: u32,
}

impl Reader for View<'_> {
    fn get(&mut self, key: &[u8], show: &mut dyn FnMut(&[u8])) -> anyhow::Result<bool> {
        let mut rows = self.get.query((key,))?;
        let Some(row) = rows.next()? else { return Ok(false) };
        show(row.get_ref(0)?.as_blob()?);
        Ok(true)
    }

    fn get_part(
        &mut self,
        key: &[u8],
        offset: usize,
        bytes: usize,
        show: &mut dyn FnMut(&[u8]),
    ) -> anyhow::Result<bool> {
        let mut find = prepare(self.connection, "SELECT rowid FROM family_{} WHERE key = ?1", self.family)?;
        let Some(row) = find.query_row((key,), |row| row.get::<_, i64>(0)).optional()? else { return Ok(false) };
        let table = format!("family_{}", self.family);
        let blob: Blob<'_> = self.connection.blob_open(MAIN_DB, table.as_str(), "value", row, true)?;
        let mut part = vec![0; bytes];
        blob.read_at_exact(&mut part, offset)?;
        show(&part);
        Ok(true)
    }

    fn scan(&mut self, scan: Scan<'_>, show: &mut dyn FnMut(&[u8], &[u8])) -> anyhow::Result<u64> {
        let (sign, order) = if scan.is_backward { ("<=", "DESC") } else { (">=", "ASC") };
        let from = if scan.from.is_some() { format!("WHERE key {sign} ?1") } else { String::new() };
        let limit = scan.limit.map_or_else(String::new, |limit| format!("LIMIT {limit}"));
        let sql = format!("SELECT key, value FROM family_{{}} {from} ORDER BY key {order} {limit}");
        let mut select = prepare(self.connection, &sql, self.family)?;
        let mut rows = match scan.from {
            Some(key) => select.query((key,))?,
            None => select.query(())?,
        };
        let mut shown = 0;
        while let Some(row) = rows.next()? {
            show(row.get_ref(0)?.as_blob()?, row.get_ref(1)?.as_blob()?);
            shown += 1;
        }
        Ok(shown)
    }
}
