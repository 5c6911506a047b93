//! The writers: each takes a batch of files of one extension, reads them and counts their words on its own, and
//! stores both in one durable transaction.

use crate::{
    Result,
    tree::{Found, Kind},
    words,
};
use indicatif::ProgressBar;
use spinney::{Database, Family};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    iter::Sum,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// A batch is full with so many files,
const BATCH_FILES: usize = 64;
/// or so many bytes.
const BATCH_BYTES: u64 = 2 << 20;
/// Larger files go into the database as they are read, without ever being in memory whole, and are not indexed.
pub(crate) const STREAMED_BYTES_MIN: u64 = 8 << 20;

/// What was stored.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Different words of each file, added up: entries of the index.
    pub(crate) word_entries: u64,
    pub(crate) occurrences: u64,
}

impl Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |a, b| Self {
            files: a.files + b.files,
            bytes: a.bytes + b.bytes,
            word_entries: a.word_entries + b.word_entries,
            occurrences: a.occurrences + b.occurrences,
        })
    }
}

/// Everything that was stored, and what was not.
pub(crate) struct Loaded {
    /// As the kinds are ordered.
    pub(crate) by_kind: Vec<Counts>,
    pub(crate) commits: u64,
    /// Files that could not be read, and why.
    pub(crate) skipped: Vec<String>,
}

impl Loaded {
    pub(crate) fn total(&self) -> Counts {
        self.by_kind.iter().copied().sum()
    }
}

/// Files of one kind that are committed together.
struct Batch<'a> {
    kind: usize,
    files: &'a [Found],
}

/// The two families of one kind.
struct Families {
    files: Family,
    words: Family,
}

/// Stores every file. Returns when all of it is durable.
pub(crate) fn load(db: &Database, dir: &Path, kinds: &[Kind], writers: usize, bar: &ProgressBar) -> Result<Loaded> {
    let families = create_families(db, kinds)?;
    let batches = batches(kinds);
    let next = AtomicUsize::new(0);
    let loaded = Loaded { by_kind: vec![Counts::default(); kinds.len()], commits: 1, skipped: Vec::new() };
    let loaded = Mutex::new(loaded);

    thread::scope(|scope| {
        let work = || -> Result<()> {
            // Nothing depends on which writer takes which batch.
            while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                let (counts, skipped) = store(db, dir, &families[batch.kind], batch.files)?;
                bar.inc(batch.files.len() as u64);
                let mut loaded = loaded.lock().expect("no writer panicked");
                loaded.by_kind[batch.kind] = [loaded.by_kind[batch.kind], counts].into_iter().sum();
                loaded.commits += 1;
                loaded.skipped.extend(skipped);
            }
            Ok(())
        };
        let writers: Vec<_> = (0..writers).map(|_| scope.spawn(work)).collect();
        writers.into_iter().try_for_each(|writer| writer.join().expect("a writer panicked"))
    })?;
    Ok(loaded.into_inner().expect("no writer panicked"))
}

/// All families in one transaction, since one sync is cheaper than one for each.
fn create_families(db: &Database, kinds: &[Kind]) -> Result<Vec<Families>> {
    let mut txn = db.begin([])?;
    let mut families = Vec::with_capacity(kinds.len());
    for kind in kinds {
        let (files, words) = (kind.files_family(), kind.words_family());
        families.push(Families { files: txn.create_family(&files)?, words: txn.create_family(&words)? });
    }
    txn.commit()?;
    Ok(families)
}

/// Batches of all kinds, taking turns: writers of different families do not wait for each other.
fn batches(kinds: &[Kind]) -> Vec<Batch<'_>> {
    let mut batches = Vec::new();
    for (kind, Kind { files, .. }) in kinds.iter().enumerate() {
        let (mut begin, mut bytes, mut turn) = (0, 0, 0);
        for (at, file) in files.iter().enumerate() {
            bytes += file.bytes;
            if at + 1 - begin == BATCH_FILES || bytes >= BATCH_BYTES || at + 1 == files.len() {
                batches.push((turn, Batch { kind, files: &files[begin..=at] }));
                (begin, bytes, turn) = (at + 1, 0, turn + 1);
            }
        }
    }
    batches.sort_by_key(|(turn, _)| *turn);
    batches.into_iter().map(|(_, batch)| batch).collect()
}

/// One batch: files and words in one transaction, all or nothing.
fn store(db: &Database, dir: &Path, families: &Families, files: &[Found]) -> Result<(Counts, Vec<String>)> {
    let (mut counts, mut skipped) = (Counts::default(), Vec::new());
    // Reading and counting is done before the transaction begins, while another one of the same family may be open.
    let mut small = Vec::new();
    let mut large = Vec::new();
    let mut index = BTreeMap::new();
    for found in files {
        let path = dir.join(&found.path);
        let read = if found.bytes < STREAMED_BYTES_MIN {
            fs::read(&path).map(|content| {
                for (word, occurrences) in words::count(&content) {
                    counts.occurrences += u64::from(occurrences);
                    index.insert(words::key(&word, found.key()), occurrences);
                }
                small.push((found.key(), content));
            })
        } else {
            File::open(&path).map(|file| large.push((found.key(), found.bytes, file)))
        };
        if let Err(error) = read {
            skipped.push(format!("{}: {error}", found.path.display()));
        }
    }

    let mut txn = db.begin([&families.files, &families.words])?;
    let mut table = txn.family(&families.files)?;
    for (key, content) in &small {
        table.insert(key, content)?;
        counts.bytes += content.len() as u64;
    }
    for (key, bytes, file) in &large {
        table.insert_reader(key, *bytes, file)?;
        counts.bytes += bytes;
    }
    let mut table = txn.family(&families.words)?;
    for (key, occurrences) in &index {
        table.insert(key, occurrences.to_le_bytes())?;
    }
    txn.commit()?;
    counts.files = (small.len() + large.len()) as u64;
    counts.word_entries = index.len() as u64;
    Ok((counts, skipped))
}
