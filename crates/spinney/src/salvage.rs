//! Salvage: every record that still reads, out of a damaged file and into a new one; and what did not, in words.
//!
//! ```text
//!   open as usual --else--> open leniently --else--> look at every page
//!         `---------------------'`--------------------------'
//!                        roots of families
//!                               |
//!      names, then each family: its trees, behind whatever does not read   [survey]
//!                               |
//!      what lies in lost ranges of keys, found by looking at every page    [strays], newest writing last
//! ```
//! The source is opened for reading only and never written. What recovery would write stays in memory.

use crate::{
    check::{Keys, table_name},
    database::{Database, NAMES},
    error::{Error, Result},
    family::{Family, Table},
    names::{self, FamilyRecord, OwnerRecord, TableRecord, TypeIdentity},
    options::Options,
    transaction::WriteTransaction,
};
use bytes::Bytes;
use spinney_btree::{
    Create, Cursor, Durability, FamilyRoot, FileError, FileOptions, Finding, LargeSource, LostKeys, Met, OsFile, Owner,
    PageNo, PagePtr, PageSet, PagedFile, Pages, Pin, SMALL_COMMITS, Snapshot, Stamp, Storage, Stray, Surveyor, TableId,
    TreeError, TreeRoot, Wreck, above, listed_table, page_check, stray, survey, survey_stray,
};
use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

/// Bytes of records in one commit to the new database.
const COMMIT_BYTES: u64 = 8 << 20;
/// Of a large value, so much is in memory at once.
const PART_BYTES: usize = 1 << 20;
/// Losses that are listed; the rest is counted.
const LOSSES_MAX: usize = 10_000;

/// How the damaged file could be opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Opened {
    /// As always: recovery found nothing wrong.
    Usually,
    /// Log or superblock are damaged: what is left of them was followed. Commits that were durable may be missing, the newest ones.
    Leniently {
        /// What kept it from being opened as usual.
        why: Error,
    },
    /// Superblocks, space map or owner table are damaged: families were found by looking at every page. Commits that were durable may
    /// be missing, and what was removed may be back.
    ByLooking {
        /// What kept it from being opened leniently.
        why: Error,
    },
}

/// A table, and what was saved of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SalvagedTable {
    /// Its name, empty for the default table; `table-3` when that is not known.
    pub name: String,
    /// Records that its tree led to.
    pub records: u64,
    /// Records that were found by looking at every page, in ranges of keys to which no way leads any more. They were written once and
    /// may have been removed or changed since: of several writings of a key the newest was taken.
    pub records_found: u64,
}

/// A family, and what was saved of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SalvagedFamily {
    /// Its name in the new database; `family-17` when that is not known.
    pub name: String,
    /// The number it has in the damaged file.
    pub owner: u32,
    /// Its tables, the default one first.
    pub tables: Vec<SalvagedTable>,
}

/// Something that could not be read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Loss {
    /// Whose it was.
    pub family: String,
    /// In which table; empty for the default one.
    pub table: String,
    /// The page, if it is one.
    pub page: Option<PageNo>,
    /// Where it begins in the file, in bytes.
    pub at: Option<u64>,
    /// What is wrong.
    pub why: String,
    /// Keys to which no way leads for it. Some of their records may have been found all the same: see
    /// [`SalvagedTable::records_found`].
    pub keys: Option<LostKeys>,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "family `{}`", self.family)?;
        if !self.table.is_empty() {
            write!(f, ", table `{}`", self.table)?;
        }
        if let (Some(page), Some(at)) = (self.page, self.at) {
            write!(f, ", page {page} at byte {at}")?;
        }
        write!(f, ": {}", self.why)?;
        self.keys.as_ref().map_or(Ok(()), |keys| write!(f, "; no way to {}", Keys(keys)))
    }
}

/// What was saved and what was not; see [`salvage`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SalvageReport {
    /// How the damaged file could be opened.
    pub opened: Opened,
    /// Every family.
    pub families: Vec<SalvagedFamily>,
    /// What could not be read.
    pub losses: Vec<Loss>,
    /// How many losses more there are.
    pub losses_unlisted: u64,
}

impl SalvageReport {
    /// Whether everything was saved: what is in the new database is what was in the file.
    pub fn is_complete(&self) -> bool {
        self.losses.is_empty() && matches!(self.opened, Opened::Usually)
    }

    /// Records in the new database that the trees led to, and those found by looking at every page, which may have been removed before.
    pub fn records(&self) -> (u64, u64) {
        let tables = self.families.iter().flat_map(|family| &family.tables);
        tables.fold((0, 0), |(led, found), table| (led + table.records, found + table.records_found))
    }
}

impl fmt::Display for SalvageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.opened {
            Opened::Usually => writeln!(f, "opened as usual")?,
            Opened::Leniently { why } => {
                writeln!(f, "opened leniently, the newest commits may be missing: {why}")?;
            }
            Opened::ByLooking { why } => {
                writeln!(f, "opened by looking at every page, commits may be missing or undone: {why}")?;
            }
        }
        for family in &self.families {
            for table in &family.tables {
                let SalvagedTable { name, records, records_found } = table;
                let table = if name.is_empty() { String::new() } else { format!(", table `{name}`") };
                write!(f, "family `{}`{table}: {records} records", family.name)?;
                match records_found {
                    0 => writeln!(f)?,
                    found => writeln!(f, ", and {found} found without a way to them, perhaps removed before")?,
                }
            }
        }
        self.losses.iter().try_for_each(|loss| writeln!(f, "lost: {loss}"))?;
        match self.losses_unlisted {
            0 => Ok(()),
            more => writeln!(f, "and {more} losses more"),
        }
    }
}

/// Copies every record that can be read from the database in the file `from` to a new database in the file `into`, which must not exist;
/// says what was saved, and what could not be read. `from` is never written, and nobody may have it open.
///
/// It works with damage anywhere. Behind a damaged inner page the records are found by looking at every page of the file. So they are
/// if log, superblocks, space map or owner table are damaged. Where the names of families are lost, they are called `family-17`. The report
/// says which records come from where: those that no tree leads to may have been removed before.
///
/// Reads the file once, and up to four times more if it is damaged; memory: a few bits per page, and 32 bytes for each leaf that is found by
/// looking. The new database is closed at the end.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let (damaged, saved) = (folder.path().join("damaged"), folder.path().join("saved"));
/// # let db = spinney::Database::open(&damaged)?;
/// # db.family("orders")?;
/// # db.close()?;
/// let report = spinney::salvage(&damaged, &saved)?;
/// println!("{report}");
/// assert!(report.is_complete());
/// let db = spinney::Database::open(&saved)?;
/// # assert!(db.open_family("orders")?.is_some());
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`Error::NotADatabase`] when nothing in the file was ever written by this program; [`Error::NewerVersion`], [`Error::Locked`],
/// [`Error::Missing`], [`Error::Permission`]; those of creating and writing the new database.
pub fn salvage(from: impl AsRef<Path>, into: impl AsRef<Path>) -> Result<SalvageReport> {
    let (from, into) = (from.as_ref(), into.as_ref());
    let label = from.display().to_string();
    let storage = OsFile::open_read_only(from).map_err(|error| Error::from_open(error, &label, from.is_dir()))?;
    run(Arc::new(storage), &label, |page_bytes| Options::new().page_size(page_bytes).create(into))
        .map(|(report, _)| report)
}

/// The same from a storage of the caller's into a database that `make` makes, given the page size of the source; for tests.
///
/// # Errors
/// Those of [`salvage`].
#[cfg(feature = "testing")]
pub fn salvage_storage(
    from: Arc<dyn Storage>,
    make: impl FnOnce(usize) -> Result<Database>,
) -> Result<(SalvageReport, Database)> {
    run(from, "the storage", make)
}

fn run(
    storage: Arc<dyn Storage>,
    label: &str,
    make: impl FnOnce(usize) -> Result<Database>,
) -> Result<(SalvageReport, Database)> {
    let source = Source::open(storage, label)?;
    let into = make(source.wreck.page_bytes())?;
    let mut salvage = Salvage::new(source, &into);
    salvage.names()?;
    salvage.families()?;
    salvage.strays()?;
    let report = salvage.finish()?;
    into.checkpoint()?;
    Ok((report, into))
}

/// The damaged file.
struct Source {
    opened: Opened,
    /// As the engine shows it, if that could be opened.
    engine: Option<PagedFile>,
    /// All of it that the engine shows.
    shown: Option<Snapshot>,
    wreck: Wreck,
    roots: BTreeMap<Owner, Root>,
    /// Pages that are in use, where that is known: others hold nothing but the past.
    in_use: Option<PageSet>,
    /// Owners may be missing among the roots.
    misses_owners: bool,
    wrong: Vec<FileError>,
}

/// Where a family begins.
struct Root {
    root: FamilyRoot,
    /// Newer pages of the family hold newer commits; `None` where there are none.
    newer_than: Option<Stamp>,
}

impl Source {
    fn open(storage: Arc<dyn Storage>, label: &str) -> Result<Self> {
        let options = |lenient| FileOptions {
            read_only: true,
            lenient,
            create: Create::Never,
            background: false,
            budget_bytes: 64 << 20,
            page_check,
            small_commits: Some(SMALL_COMMITS),
            ..FileOptions::default()
        };
        let lift = |error| Error::from_open(error, label, false);
        let open = |lenient| PagedFile::open(Arc::clone(&storage), options(lenient)).map_err(lift);
        let (opened, engine) = match open(false) {
            Ok(file) => (Opened::Usually, Some(file)),
            Err(error @ (Error::Locked { .. } | Error::NewerVersion { .. })) => return Err(error),
            Err(why) => match open(true) {
                Ok(file) => (Opened::Leniently { why }, Some(file)),
                Err(why) => (Opened::ByLooking { why }, None),
            },
        };
        let wreck = Wreck::open(storage, page_check).map_err(lift)?;
        let mut source = Self {
            opened,
            shown: engine.as_ref().map(PagedFile::snapshot),
            engine,
            wreck,
            roots: BTreeMap::new(),
            in_use: None,
            misses_owners: false,
            wrong: Vec::new(),
        };
        match source.engine.clone() {
            Some(engine) => source.roots_of_engine(&engine),
            None => source.misses_owners = true,
        }
        if source.misses_owners {
            source.roots_by_looking(&options(true));
        }
        Ok(source)
    }

    fn roots_of_engine(&mut self, engine: &PagedFile) {
        let snapshot = engine.snapshot();
        let wrong = &mut self.wrong;
        for owner in snapshot.owners(&mut |error| wrong.push(error)) {
            match snapshot.root(owner) {
                // One without a root has small commits only.
                Ok(stored) => match FamilyRoot::decode(owner, &stored.unwrap_or(FamilyRoot::EMPTY.encode())) {
                    Ok(root) => drop(self.roots.insert(owner, Root { root, newer_than: None })),
                    Err(_) => self.misses_owners = true,
                },
                Err(error) => wrong.push(error),
            }
        }
        self.misses_owners |= !wrong.is_empty();
        self.in_use = engine.pages_in_use().map_err(|error| wrong.push(error)).ok();
    }

    /// The newest root of each owner that is not known yet, from pages of owner tables and from the log. Whose they are is seen from the
    /// pages that they point to: the owners of one page of the table have adjacent numbers.
    fn roots_by_looking(&mut self, options: &FileOptions) {
        let mut pages: Vec<Vec<(u32, FamilyRoot, Stamp)>> = Vec::new();
        self.wreck.scan(&mut |_, _, page| {
            let decode = |(place, stored, stamp)| Some((place, FamilyRoot::decode(NAMES, &stored).ok()?, stamp));
            pages.push(Wreck::descriptors(page).into_iter().filter_map(decode).collect());
        });
        let owner_of = |root: &FamilyRoot| {
            let mut tops = [root.default, root.tables].into_iter().filter_map(|tree| tree.ptr());
            tops.find_map(|ptr| self.wreck.owner_of(ptr))
        };
        let mut found: BTreeMap<Owner, (FamilyRoot, Stamp)> = BTreeMap::new();
        let mut add = |owner: Owner, root: FamilyRoot, stamp: Stamp| {
            let newest = found.entry(owner).or_insert((root, stamp));
            if newest.1 < stamp {
                *newest = (root, stamp);
            }
        };
        for page in pages {
            let first = page.iter().find_map(|(place, root, _)| owner_of(root)?.0.checked_sub(*place));
            // A page of which nothing can be reached says nothing; the trees of its owners are looked for page by page.
            let Some(first) = first else { continue };
            page.into_iter().for_each(|(place, root, stamp)| add(Owner(first.saturating_add(place)), root, stamp));
        }
        for (owner, stored, stamp) in self.wreck.logged_roots(options) {
            FamilyRoot::decode(owner, &stored).into_iter().for_each(|root| add(owner, root, stamp));
        }
        for (owner, (root, stamp)) in found {
            self.roots.entry(owner).or_insert(Root { root, newer_than: Some(stamp) });
        }
    }
}

impl Pages for Source {
    fn page<'a>(&'a self, pin: &'a Pin, owner: Owner, ptr: PagePtr) -> std::result::Result<&'a [u8], FileError> {
        match &self.engine {
            Some(engine) => engine.page(pin, owner, ptr),
            None => self.wreck.page(pin, owner, ptr),
        }
    }

    fn page_bytes_shared(&self, owner: Owner, ptr: PagePtr) -> std::result::Result<Bytes, FileError> {
        match &self.engine {
            Some(engine) => engine.page_bytes_shared(owner, ptr),
            None => self.wreck.page_bytes_shared(owner, ptr),
        }
    }

    fn read_raw(&self, at: PageNo, offset: u64, len: usize) -> std::result::Result<Bytes, FileError> {
        match &self.engine {
            Some(engine) => engine.read_raw(at, offset, len),
            None => self.wreck.read_raw(at, offset, len),
        }
    }

    fn page_bytes(&self) -> usize {
        self.wreck.page_bytes()
    }

    fn above(&self, owner: Owner) -> Option<&(dyn Any + Send + Sync)> {
        self.shown.as_ref()?.above(owner)
    }
}

/// What is known of a family's losses.
#[derive(Default)]
struct Lost {
    /// Tables may be missing: every page of an unknown table counts.
    tables_unknown: bool,
    keys: BTreeMap<TableId, Vec<LostKeys>>,
}

/// What the records of names say, old ones included.
#[derive(Default)]
struct Names {
    families: BTreeMap<Owner, String>,
    dropped: BTreeSet<Owner>,
    tables: BTreeMap<(Owner, TableId), (String, Option<TypeIdentity>)>,
}

struct Salvage<'a> {
    source: Source,
    into: &'a Database,
    names: Names,
    taken_names: BTreeSet<String>,
    reached: PageSet,
    lost: BTreeMap<Owner, Lost>,
    saved: BTreeMap<Owner, SavedFamily>,
    losses: Vec<Loss>,
    losses_unlisted: u64,
}

/// A family of the new database, while it is filled.
struct SavedFamily {
    family: Family,
    name: String,
    tables: BTreeMap<TableId, (Table, SalvagedTable)>,
}

impl<'a> Salvage<'a> {
    fn new(source: Source, into: &'a Database) -> Self {
        let mut salvage = Self {
            source,
            into,
            names: Names::default(),
            taken_names: BTreeSet::new(),
            reached: PageSet::default(),
            lost: BTreeMap::new(),
            saved: BTreeMap::new(),
            losses: Vec::new(),
            losses_unlisted: 0,
        };
        for error in std::mem::take(&mut salvage.source.wrong) {
            salvage.lose("(the file itself)", String::new(), &TreeError::File(error), None);
        }
        salvage
    }

    fn lose(&mut self, family: &str, table: String, error: &TreeError, keys: Option<LostKeys>) {
        if self.losses.len() >= LOSSES_MAX {
            self.losses_unlisted += 1;
            return;
        }
        let page_bytes = self.source.page_bytes() as u64;
        let (page, at, why) = match error {
            TreeError::File(FileError::Corrupt { page, at, why, .. }) => (Some(*page), Some(*at), (*why).to_owned()),
            TreeError::Corrupt { page, why, .. } => (Some(*page), Some(page.get() * page_bytes), (*why).to_owned()),
            other => (None, None, other.to_string()),
        };
        self.losses.push(Loss { family: family.to_owned(), table, page, at, why, keys });
    }

    /// Goes through one tree. Adds what is lost to the losses, and what was reached.
    fn tree(
        &mut self,
        owner: Owner,
        table: TableId,
        root: TreeRoot,
        sink: &mut dyn FnMut(&[u8], Met<'_>) -> Result<()>,
    ) -> Result<()> {
        // What small commits did and is not in pages yet counts, whatever pages say of the same keys.
        let mut newer: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
        above(&self.source, owner, table, |key, known| {
            newer.insert(key.to_vec(), known.map(<[u8]>::to_vec));
            Ok::<_, Error>(())
        })?;
        for (key, value) in &newer {
            if let Some(value) = value {
                sink(key, Met::Inline(value))?;
            }
        }
        let mut older = |key: &[u8], value: Met<'_>| if newer.contains_key(key) { Ok(()) } else { sink(key, value) };
        let mut walk = Walk { sink: &mut older, reached: &mut self.reached, found: Vec::new(), failed: None };
        let done = survey(&self.source, owner, table, root, Cursor::default(), &mut walk);
        let Walk { found, failed, .. } = walk;
        if let Some(error) = failed {
            return Err(error);
        }
        let mut found: Vec<Finding> = found;
        if let Err(error) = done {
            found.push(Finding::of(error, table, Some((None, None))));
        }
        for Finding { error, lost, .. } in found {
            let (family, name) = (self.family_name(owner), self.table_label(owner, table));
            self.lose(&family, name, &error, lost.clone());
            let of_owner = self.lost.entry(owner).or_default();
            of_owner.tables_unknown |= table == TableId::DIRECTORY;
            of_owner.keys.entry(table).or_default().extend(lost);
        }
        Ok(())
    }

    /// What pages outside of any tree say about keys that are lost, in the order in which they were written. With `only` of one owner.
    fn find_strays(&self, wanted: &dyn Fn(Owner, TableId, Stamp) -> bool) -> Vec<(Owner, TableId, PagePtr)> {
        let mut found = Vec::new();
        self.source.wreck.scan(&mut |ptr, owner, page| {
            let (Stray::Leaf(table) | Stray::Head(table)) = stray(page) else { return };
            let is_past = self.source.in_use.as_ref().is_some_and(|in_use| !in_use.contains(ptr.page.get()));
            if !is_past && !self.reached.contains(ptr.page.get()) && wanted(owner, table, ptr.stamp) {
                found.push((owner, table, ptr));
            }
        });
        // By table, and in each the newest last.
        found.sort_unstable_by_key(|&(owner, table, ptr)| (owner, table, ptr.stamp, ptr.page));
        found
    }

    /// Tells of the entries of a page that belong to lost keys.
    fn stray(
        &mut self,
        owner: Owner,
        table: TableId,
        ptr: PagePtr,
        sink: &mut dyn FnMut(&[u8], Met<'_>) -> Result<()>,
    ) -> Result<()> {
        let Ok(page) = self.source.wreck.page_bytes_shared(owner, ptr) else { return Ok(()) };
        let is_newer = self.is_newer(owner, ptr.stamp);
        let keys = self.lost.get(&owner).and_then(|lost| lost.keys.get(&table));
        let is_lost = |key: &[u8]| {
            let inside = |(low, high): &LostKeys| {
                let is_behind = low.as_ref().is_none_or(|low| key >= low.as_slice());
                is_behind && high.as_ref().is_none_or(|high| key < high.as_slice())
            };
            is_newer || keys.is_some_and(|keys| keys.iter().any(inside))
        };
        let mut of_lost = |key: &[u8], value: Met<'_>| if is_lost(key) { sink(key, value) } else { Ok(()) };
        let mut seen = PageSet::default();
        let mut walk = Walk { sink: &mut of_lost, reached: &mut seen, found: Vec::new(), failed: None };
        // What of it does not read was lost before.
        let _ = survey_stray(&self.source.wreck, owner, ptr, &page, &mut walk);
        walk.failed.map_or(Ok(()), Err)
    }

    /// Whether a page is newer than the root that is known of its family.
    fn is_newer(&self, owner: Owner, stamp: Stamp) -> bool {
        let newer_than = self.source.roots.get(&owner).map(|root| root.newer_than);
        match newer_than {
            Some(newer_than) => newer_than.is_some_and(|root| stamp > root),
            None => self.source.misses_owners,
        }
    }

    fn knows_table(&self, owner: Owner, table: TableId) -> bool {
        self.saved.get(&owner).is_some_and(|saved| saved.tables.contains_key(&table))
    }

    // ---- names ----

    /// Reads the tree of names, and what is left of it where it is damaged.
    fn names(&mut self) -> Result<()> {
        let mut records: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let root = self.source.roots.get(&NAMES).map(|root| root.root.default);
        match root {
            Some(root) => self.tree(NAMES, TableId::DEFAULT, root, &mut |key, value| keep(&mut records, key, value))?,
            None if self.source.misses_owners => self.lost_family(NAMES),
            None => {}
        }
        let is_whole =
            !self.lost.contains_key(&NAMES) && self.source.roots.get(&NAMES).is_none_or(|r| r.newer_than.is_none());
        if !is_whole {
            let strays = self.find_strays(&|owner, table, _| owner == NAMES && table == TableId::DEFAULT);
            for (owner, table, ptr) in strays {
                self.stray(owner, table, ptr, &mut |key, value| keep(&mut records, key, value))?;
            }
        }
        self.names = Names::of(&records);
        Ok(())
    }

    /// Nothing is known of where a family begins.
    fn lost_family(&mut self, owner: Owner) {
        let error = TreeError::BadRoot { owner, why: "nothing says where the family begins" };
        let family = self.family_name(owner);
        self.lose(&family, String::new(), &error, Some((None, None)));
        let lost = self.lost.entry(owner).or_default();
        lost.tables_unknown = true;
        lost.keys.entry(TableId::DEFAULT).or_default().push((None, None));
    }

    /// What a family is called in reports.
    fn family_name(&self, owner: Owner) -> String {
        match (self.saved.get(&owner), self.names.families.get(&owner)) {
            (Some(saved), _) => saved.name.clone(),
            (None, Some(name)) => name.clone(),
            (None, None) if owner == NAMES => "(names of families and tables)".to_owned(),
            (None, None) => format!("family-{}", owner.0),
        }
    }

    fn table_label(&self, owner: Owner, table: TableId) -> String {
        let of_table = self.names.tables.get(&(owner, table)).map(|(name, _)| (table, name.clone()));
        table_name(table, &of_table.into_iter().collect())
    }

    // ---- families ----

    fn families(&mut self) -> Result<()> {
        let mut owners: BTreeSet<Owner> = self.source.roots.keys().copied().collect();
        owners.extend(self.names.families.keys());
        owners.remove(&NAMES);
        for owner in owners {
            // A family whose root is empty has nothing, and if it has no name either it is none.
            let root = self.source.roots.get(&owner).map(|root| root.root);
            let is_named = self.names.families.contains_key(&owner);
            if !is_named && (self.names.dropped.contains(&owner) || root.is_some_and(|root| root == FamilyRoot::EMPTY))
            {
                continue;
            }
            self.saved_family(owner)?;
            match root {
                Some(root) => self.family(owner, &root)?,
                None if self.source.misses_owners => self.lost_family(owner),
                None => {}
            }
        }
        Ok(())
    }

    /// Every tree of a family.
    fn family(&mut self, owner: Owner, root: &FamilyRoot) -> Result<()> {
        self.table(owner, TableId::DEFAULT, root.default)?;
        let mut tables: BTreeMap<TableId, TreeRoot> = BTreeMap::new();
        let mut list = |key: &[u8], value: Met<'_>| {
            if let Met::Inline(value) = value {
                tables.extend(listed_table(key, value));
            }
            Ok(())
        };
        self.tree(owner, TableId::DIRECTORY, root.tables, &mut list)?;
        if self.lost.get(&owner).is_some_and(|lost| lost.keys.contains_key(&TableId::DIRECTORY)) {
            // Older pages of the directory may know where tables begin.
            let mut more: BTreeMap<TableId, TreeRoot> = BTreeMap::new();
            for (owner, table, ptr) in self.find_strays(&|of, table, _| of == owner && table == TableId::DIRECTORY) {
                self.stray(owner, table, ptr, &mut |key, value| {
                    if let Met::Inline(value) = value {
                        more.extend(listed_table(key, value));
                    }
                    Ok(())
                })?;
            }
            for (id, root) in more {
                tables.entry(id).or_insert(root);
            }
        }
        tables.into_iter().try_for_each(|(id, root)| self.table(owner, id, root))
    }

    /// One table, into the new database.
    fn table(&mut self, owner: Owner, table: TableId, root: TreeRoot) -> Result<()> {
        let mut writer = self.writer(owner, table)?;
        self.tree(owner, table, root, &mut |key, value| writer.put(key, value))?;
        let records = writer.finish()?;
        let saved = self.saved.get_mut(&owner).and_then(|saved| saved.tables.get_mut(&table));
        saved.into_iter().for_each(|(_, saved)| saved.records += records);
        Ok(())
    }

    fn writer(&mut self, owner: Owner, table: TableId) -> Result<Writer> {
        let (family, table) = self.saved_table(owner, table)?;
        Ok(Writer { family, table, txn: None, bytes: 0, records: 0 })
    }

    /// The family of the new database; created when it is missing.
    fn saved_family(&mut self, owner: Owner) -> Result<Family> {
        if let Some(saved) = self.saved.get(&owner) {
            return Ok(saved.family.clone());
        }
        let mut name = self.names.families.get(&owner).cloned().unwrap_or_else(|| format!("family-{}", owner.0));
        if !self.taken_names.insert(name.clone()) {
            // Old records of names may give two families one name.
            name = format!("family-{}", owner.0);
            self.taken_names.insert(name.clone());
        }
        let family = self.into.family(&name)?;
        self.saved.insert(owner, SavedFamily { family: family.clone(), name, tables: BTreeMap::new() });
        Ok(family)
    }

    fn saved_table(&mut self, owner: Owner, table: TableId) -> Result<(Family, Table)> {
        let family = self.saved_family(owner)?;
        let known = self.names.tables.get(&(owner, table)).cloned();
        let saved = self.saved.get_mut(&owner).expect("just made");
        if let Some((table, _)) = saved.tables.get(&table) {
            return Ok((family, table.clone()));
        }
        let (mut name, types) = match known {
            Some((name, types)) => (name, types),
            None if table == TableId::DEFAULT => (String::new(), None),
            None => (format!("table-{}", table.0), None),
        };
        if saved.tables.values().any(|(_, other)| other.name == name) {
            name = format!("table-{}", table.0);
        }
        let handle = if name.is_empty() && types.is_none() {
            family.default_table()
        } else {
            let mut txn = family.begin()?;
            let handle = txn.table_of_types(&family, &name, types)?;
            txn.commit_with(Durability::Eventual)?;
            handle
        };
        let counts = SalvagedTable { name, records: 0, records_found: 0 };
        saved.tables.insert(table, (handle.clone(), counts));
        Ok((family, handle))
    }

    // ---- strays ----

    /// Looks at every page for what is lost, if anything is.
    fn strays(&mut self) -> Result<()> {
        let is_damaged = self.lost.keys().any(|&owner| owner != NAMES) || self.source.misses_owners;
        if !is_damaged {
            return Ok(());
        }
        let wanted = |owner: Owner, table: TableId, stamp: Stamp| {
            if owner == NAMES || table == TableId::DIRECTORY || self.names.dropped.contains(&owner) {
                return false;
            }
            let lost = self.lost.get(&owner);
            lost.is_some_and(|l| l.keys.contains_key(&table) || l.tables_unknown && !self.knows_table(owner, table))
                || self.is_newer(owner, stamp)
        };
        let strays = self.find_strays(&wanted);
        for group in strays.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let (owner, table, _) = group[0];
            let is_new = !self.knows_table(owner, table);
            let mut writer: Option<Writer> = None;
            let (family, handle) = self.saved_table(owner, table)?;
            if is_new {
                // A table that no tree led to counts as lost as a whole.
                self.lost.entry(owner).or_default().keys.entry(table).or_default().push((None, None));
            }
            for &(_, _, ptr) in group {
                let mut put = |key: &[u8], value: Met<'_>| {
                    let fresh =
                        || Writer { family: family.clone(), table: handle.clone(), txn: None, bytes: 0, records: 0 };
                    writer.get_or_insert_with(fresh).put(key, value)
                };
                self.stray(owner, table, ptr, &mut put)?;
            }
            let records = writer.map_or(Ok(0), Writer::finish)?;
            let saved = self.saved.get_mut(&owner).and_then(|saved| saved.tables.get_mut(&table));
            saved.into_iter().for_each(|(_, saved)| saved.records_found += records);
        }
        Ok(())
    }

    fn finish(self) -> Result<SalvageReport> {
        let families = self.saved.into_iter().map(|(owner, saved)| {
            let mut tables: Vec<_> = saved.tables.into_values().map(|(_, table)| table).collect();
            tables.sort_by(|a, b| a.name.cmp(&b.name));
            SalvagedFamily { name: saved.name, owner: owner.0, tables }
        });
        Ok(SalvageReport {
            opened: self.source.opened,
            families: families.collect(),
            losses: self.losses,
            losses_unlisted: self.losses_unlisted,
        })
    }
}

/// Notes a small record.
fn keep(records: &mut BTreeMap<Vec<u8>, Vec<u8>>, key: &[u8], value: Met<'_>) -> Result<()> {
    if let Met::Inline(value) = value {
        records.insert(key.to_vec(), value.to_vec());
    }
    Ok(())
}

impl Names {
    fn of(records: &BTreeMap<Vec<u8>, Vec<u8>>) -> Self {
        let mut names = Self::default();
        let owner = |key: &[u8]| names::owner_in_key(key).ok();
        // Families by owner first: those by name, which count, take their place.
        for (key, value) in records.iter().filter(|(key, _)| key.first() == Some(&b'o')) {
            if let (Some(owner), Ok(record)) = (owner(key), OwnerRecord::decode(value)) {
                names.families.insert(owner, record.name);
            }
        }
        for (key, value) in records {
            match key.first() {
                Some(b'f') => {
                    if let (Ok(name), Ok(record)) = (names::name_in_key(key, 1), FamilyRecord::decode(value)) {
                        names.families.insert(record.id.owner, name.to_owned());
                    }
                }
                Some(b'd') => names.dropped.extend(owner(key)),
                Some(b't') => {
                    let name = names::name_in_key(key, 5).map(str::to_owned);
                    if let (Some(owner), Ok(name), Ok(record)) =
                        (owner(&key[..key.len().min(5)]), name, TableRecord::decode(value))
                    {
                        names.tables.insert((owner, TableId(record.table)), (name, record.types));
                    }
                }
                _ => {}
            }
        }
        names
    }
}

/// A survey whose entries go somewhere that may fail.
struct Walk<'a> {
    sink: &'a mut dyn FnMut(&[u8], Met<'_>) -> Result<()>,
    reached: &'a mut PageSet,
    found: Vec<Finding>,
    failed: Option<Error>,
}

impl Surveyor for Walk<'_> {
    fn reached(&mut self, ptr: PagePtr) {
        self.reached.insert(ptr.page.get());
    }

    fn entry(&mut self, key: &[u8], value: Met<'_>) -> std::result::Result<(), TreeError> {
        (self.sink)(key, value).map_err(|error| {
            self.failed = Some(error);
            TreeError::Broken
        })
    }

    fn lost(&mut self, finding: Finding) {
        self.found.push(finding);
    }
}

/// Fills one table, a few megabytes at a time.
struct Writer {
    family: Family,
    table: Table,
    txn: Option<WriteTransaction>,
    bytes: u64,
    records: u64,
}

impl Writer {
    fn put(&mut self, key: &[u8], value: Met<'_>) -> Result<()> {
        let mut txn = match self.txn.take() {
            Some(txn) => txn,
            None => self.family.begin()?,
        };
        let mut table = txn.table(&self.table)?;
        let (was_there, bytes) = match value {
            Met::Inline(value) => (table.insert(key, value)?, value.len() as u64),
            Met::Large(large) => (table.insert_reader(key, large.bytes(), Parts { large, at: 0 })?, large.bytes()),
        };
        self.records += u64::from(!was_there);
        self.bytes += key.len() as u64 + bytes;
        if self.bytes < COMMIT_BYTES {
            self.txn = Some(txn);
            return Ok(());
        }
        self.bytes = 0;
        txn.commit_with(Durability::Eventual).map(drop)
    }

    fn finish(self) -> Result<u64> {
        self.txn.map_or(Ok(()), |txn| txn.commit_with(Durability::Eventual).map(drop))?;
        Ok(self.records)
    }
}

/// A large value as a stream.
struct Parts<'a> {
    large: &'a dyn LargeSource,
    at: u64,
}

impl Read for Parts<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let part = self.large.read_at(self.at, into.len().min(PART_BYTES)).map_err(io::Error::other)?;
        into[..part.len()].copy_from_slice(&part);
        self.at += part.len() as u64;
        Ok(part.len())
    }
}
