//! Every record of a closed database, decoded a second time: from `docs/format.md` and the tables of bytes alone, without the engine.
//!
//! ```text
//!   superblock --> owner table --> roots --> trees of names and of families --> records
//! ```
//! Whoever wants to know whether the format is documented, or to read a file without Spinney, begins here. It stops at the
//! first thing that is not as documented. A file that was not closed has commits in its log: opening it once repeats them.

mod families; // what there is, and what it is called
mod tree; // leaves, branches and large values

use crate::{
    dump::{
        image::Image,
        log::commits_since_checkpoint,
        superblock::{SLOT_BYTES, Superblock},
    },
    read::families::Reader,
};
use anyhow::{Context, ensure};
use crc_fast::{CrcAlgorithm::Crc64Nvme, Digest};
use std::{
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

/// Which file, and how much of it.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A database that was closed
    file: PathBuf,
    /// Show every record too, bytes escaped, a large value by its length
    #[arg(long)]
    records: bool,
}

/// One table, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) family: String,
    /// Empty for the default table.
    pub(crate) table: String,
    pub(crate) records: u64,
    /// See [`Content`].
    pub(crate) digest: u64,
}

/// A CRC-64/NVME over all records of a table in order: length of the key (u32), length of the value (u64), key, value.
pub(crate) struct Content {
    records: u64,
    crc: Digest,
}

impl Content {
    pub(crate) fn new() -> Self {
        Self { records: 0, crc: Digest::new(Crc64Nvme) }
    }

    pub(crate) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.records += 1;
        self.crc.update(&u32::try_from(key.len()).expect("a key in a page").to_le_bytes());
        self.crc.update(&(value.len() as u64).to_le_bytes());
        self.crc.update(key);
        self.crc.update(value);
    }

    pub(crate) fn finish(&self, family: &str, table: &str) -> Listed {
        let (family, table) = (family.to_owned(), table.to_owned());
        Listed { family, table, records: self.records, digest: self.crc.finalize() }
    }
}

/// Lists it.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let outcome = list(&arguments.file, &mut |family, table, key, value| {
        if arguments.records {
            let table = if table.is_empty() { String::new() } else { format!("/{table}") };
            let shown = match value.len() {
                0..=256 => format!("\"{}\"", value.escape_ascii()),
                bytes => format!("{bytes} bytes"),
            };
            writeln!(out, "{family}{table} \"{}\" = {shown}", key.escape_ascii())?;
        }
        Ok(())
    });
    let broken_pipe = |error: &anyhow::Error| {
        error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    let listed = match outcome {
        // Whoever reads it has seen enough.
        Err(error) if broken_pipe(&error) => return Ok(()),
        listed => listed?,
    };
    for Listed { family, table, records, digest } in listed {
        let table = if table.is_empty() { String::new() } else { format!(", table `{table}`") };
        writeln!(out, "family `{family}`{table}: {records} records, digest {digest:016x}")?;
    }
    Ok(out.flush()?)
}

/// What [`list`] is told of a record: family, table, key and value.
pub(crate) type Visit<'a> = dyn FnMut(&str, &str, &[u8], &[u8]) -> anyhow::Result<()> + 'a;

/// Every table with its content, by family and table; each record is told to `visit` in order.
pub(crate) fn list(path: &Path, visit: &mut Visit<'_>) -> anyhow::Result<Vec<Listed>> {
    let mut image = Image::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let superblock = Superblock::newest(&mut image).context("no valid superblock")?;
    ensure!(superblock.version == 1, "format version {} is not documented here", superblock.version);
    image.page_bytes = superblock.page_bytes;
    let end = superblock.file_pages.saturating_mul(image.page_bytes as u64);
    ensure!(end >= 2 * SLOT_BYTES as u64, "a file of {} pages has no room for its header", superblock.file_pages);
    let commits = commits_since_checkpoint(&mut image, &superblock);
    ensure!(commits == 0, "{commits} commits are in the log only: open the database once and close it");
    Reader::new(image, &superblock)?.list(visit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use spinney::{Database, Options, Result};
    use std::fs;

    /// What the engine shows, in the same form.
    fn shown(db: &Database) -> Result<Vec<Listed>> {
        let (snapshot, mut listed) = (db.snapshot(), Vec::new());
        for info in snapshot.families()? {
            let family = db.open_family(&info.name)?.expect("it is in the snapshot");
            let mut tables = vec![family.default_table()];
            for table in snapshot.tables(&family)? {
                tables.extend(snapshot.open_table(&family, &table.name)?);
            }
            for table in tables {
                let mut content = Content::new();
                for entry in snapshot.range(&table, ..) {
                    let (key, value) = entry?;
                    content.add(&key, &value);
                }
                listed.push(content.finish(&info.name, table.name()));
            }
        }
        Ok(listed)
    }

    fn value(seed: u64, len: usize) -> Vec<u8> {
        let mut word = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            word.to_le_bytes()[0]
        };
        (0..len).map(|_| next()).collect()
    }

    /// Families by the hundred, tables, keys of all lengths, values of all sorts, removed ranges, dropped and renamed families.
    fn build(path: &Path, page_size: usize, families: u32) -> Result<Vec<Listed>> {
        let db = Options::new().page_size(page_size).background(false).create(path)?;
        let main = db.family("main")?;
        let typed = main.typed_table::<u64, String>("numbers")?;
        let mut txn = main.begin()?;
        for (key, number) in (0..4000_u64).zip(0..) {
            let name = match key % 4 {
                0 => format!("{key}"),
                1 => format!("a long prefix that many keys share {key:06}"),
                2 => format!("a long prefix that many keys share {key:06}/and more of it {}", "x".repeat(number % 90)),
                _ => String::from_utf8_lossy(&key.to_be_bytes()).into_owned(),
            };
            txn.insert(name, value(key, number % 150))?;
        }
        txn.insert("", "the empty key")?;
        txn.insert("nothing", "")?;
        // Around every limit of a large value: in the leaf, in the head, in chunks, in lists of chunks.
        let mut lens = vec![3000, 4000, 4096, 8192, 65_535, 65_536, 65_537, 70_000, 131_072 + 77];
        lens.extend((families > 5).then_some(1 << 20));
        lens.extend((families > 100).then_some(12 << 20));
        for (key, len) in (0..).zip(lens) {
            txn.insert(format!("large {key}"), value(key, len))?;
        }
        txn.commit()?;
        let mut txn = main.begin()?;
        let mut numbers = txn.typed(&typed)?;
        for key in 0..500 {
            numbers.insert(key * 7, format!("number {key}"))?;
        }
        txn.commit()?;
        for number in 0..families {
            let family = db.family(&format!("family {number}"))?;
            let mut txn = family.begin()?;
            for key in 0..number % 40 {
                txn.insert(key.to_be_bytes(), value(u64::from(number), 30))?;
            }
            txn.commit()?;
        }
        let mut txn = main.begin()?;
        txn.remove_range("a long prefix that many keys share 001000".."a long prefix that many keys share 002000")?;
        txn.commit()?;
        db.rename_family("family 3", "renamed")?;
        db.drop_family("family 5")?;
        db.drop_family("family 50")?;
        let listed = shown(&db)?;
        db.close()?;
        Ok(listed)
    }

    #[test]
    fn the_reader_and_the_engine_agree() {
        let home = tempfile::tempdir().expect("a temporary folder");
        for (page_size, families) in [(4096, 400), (8192, 20), (16_384, 7), (32_768, 60), (65_536, 7)] {
            let path = home.path().join(format!("{page_size}"));
            let wanted = build(&path, page_size, families).expect("built");
            let mut told = 0;
            let found = list(&path, &mut |_, _, _, _| {
                told += 1;
                Ok(())
            });
            let found = found.unwrap_or_else(|error| panic!("{page_size}: {error:#}"));
            assert_eq!(found, wanted, "{page_size}");
            assert_eq!(told, wanted.iter().map(|table| table.records).sum::<u64>());
            assert!(wanted.len() as u64 >= u64::from(families), "{page_size}");
        }
    }

    #[test]
    fn a_file_that_was_not_closed_is_refused() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let (path, copy) = (home.path().join("db"), home.path().join("copy"));
        let db = Options::new().background(false).create(&path).expect("created");
        db.family("a").expect("created");
        fs::copy(&path, &copy).expect("copied");
        let error = list(&copy, &mut |_, _, _, _| Ok(())).expect_err("commits are in the log");
        assert!(error.to_string().contains("in the log only"), "{error:#}");
        db.close().expect("closed");
        assert_eq!(list(&path, &mut |_, _, _, _| Ok(())).expect("closed").len(), 1);
    }

    #[test]
    fn damage_is_an_error_and_never_a_wrong_record() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let path = home.path().join("db");
        let wanted = build(&path, 4096, 5).expect("built");
        let good = fs::read(&path).expect("readable");
        let mut refused = 0;
        for at in (0..good.len()).step_by(good.len() / 200) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&path, &bad).expect("written");
            match list(&path, &mut |_, _, _, _| Ok(())) {
                Ok(found) => assert_eq!(found, wanted, "byte {at}"),
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 60, "{refused} of 200 flipped bits noticed");
    }
}
