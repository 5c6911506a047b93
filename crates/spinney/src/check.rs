//! The online check: every page that is in use, each exactly once, and everything that pages promise each other.

use crate::{
    database::{Database, FILE_ITSELF, NAMES},
    error::{Error, Result},
    snapshot::{Snapshot, SnapshotPages},
};
use bytes::Bytes;
use spinney_btree::{
    Audit, Extent, FamilyRoot, FileError, Finding, LostKeys, Owner, PageNo, PagePtr, PageSet, Pages, Pin, TableId,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// What a check found; see [`Database::check`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Families, dropped ones with pages included.
    pub families: u64,
    /// Tables of all families, default tables included.
    pub tables: u64,
    /// Entries of all tables.
    pub entries: u64,
    /// Leaf and branch pages.
    pub node_pages: u64,
    /// Pages of large values.
    pub extent_pages: u64,
    /// Pages that wait to be freed.
    pub graveyard_pages: u64,
    /// Pages that the space map counts as used for families at the instant of the check. In a sound file they are the ones that were
    /// reached. `None` where the map could not be had: the database is open for reading only, or the checkpoint failed.
    pub used_pages: Option<u64>,
    /// Pages of the file at that instant; 0 where the map could not be had.
    pub file_pages: u64,
    /// Of them, free ones.
    pub free_pages: u64,
    /// Of them, superblocks, space map, owner table and log.
    pub own_pages: u64,
    /// Pages that count as used and were not reached because something above them is damaged.
    pub cut_off_pages: u64,
    /// Each family by itself, in the order of checking; the names of families and tables come first.
    pub by_family: Vec<FamilyReport>,
    /// What does not fit: all of it, but for more than a thousand problems of one family.
    pub problems: Vec<Problem>,
    /// How many problems more there are.
    pub problems_unlisted: u64,
}

/// One family of a [`Report`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct FamilyReport {
    /// Its name; of a dropped family, or one whose name is not known, its number.
    pub name: String,
    /// The number it has in the file.
    pub owner: u32,
    /// Its tables, the default one included.
    pub tables: u64,
    /// Entries of all its tables.
    pub entries: u64,
    /// Levels of its highest tree.
    pub levels: u8,
    /// Leaf and branch pages.
    pub node_pages: u64,
    /// Of them, how many are less than a quarter full; no problem by itself.
    pub poor_pages: u64,
    /// Pages of large values.
    pub extent_pages: u64,
    /// Pages that wait to be freed.
    pub graveyard_pages: u64,
    /// How many of the report's problems are of this family.
    pub problems: u64,
}

impl FamilyReport {
    /// Pages that the family reaches.
    pub fn pages(&self) -> u64 {
        self.node_pages + self.extent_pages + self.graveyard_pages
    }
}

impl Report {
    /// Whether nothing was wrong.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    /// All pages that families reach.
    pub fn pages(&self) -> u64 {
        self.node_pages + self.extent_pages + self.graveyard_pages
    }
}

/// Something that does not fit.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Problem {
    /// A page, root or record is not what it should be, or cannot be read.
    Damaged {
        /// What is wrong, with page, family and offset where there are any.
        error: Error,
        /// In which table's tree: empty for the default one; its number, with `#`, if it has no name. `None` outside of tables.
        table: Option<String>,
        /// Keys that cannot be reached for it.
        lost: Option<LostKeys>,
    },
    /// A page is reached twice.
    SharedPage {
        /// The page.
        page: PageNo,
        /// The family that reached it a second time.
        family: String,
    },
    /// A page is reached, and the space map says that it is free: it will be overwritten.
    FreePage {
        /// The page.
        page: PageNo,
        /// The family that reaches it.
        family: String,
    },
    /// A page counts as used, and nobody reaches it: it is lost until the database is rebuilt.
    LostPage {
        /// The page.
        page: PageNo,
    },
    /// A page that the file keeps for itself is free in the space map.
    OwnPage {
        /// The page.
        page: PageNo,
    },
    /// The records of names do not agree with each other.
    Names {
        /// What does not fit.
        why: String,
    },
}

impl Problem {
    pub(crate) fn damaged(error: Error) -> Self {
        Self::Damaged { error, table: None, lost: None }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { error, table, lost } => {
                error.fmt(f)?;
                if let Some(table) = table.as_ref().filter(|table| !table.is_empty()) {
                    write!(f, " (table `{table}`)")?;
                }
                lost.as_ref().map_or(Ok(()), |lost| write!(f, "; lost: {}", Keys(lost)))
            }
            Self::SharedPage { page, family } => write!(f, "page {page} is reached a second time by family `{family}`"),
            Self::FreePage { page, family } => write!(f, "page {page} of family `{family}` counts as free"),
            Self::LostPage { page } => write!(f, "page {page} counts as used, and nobody reaches it"),
            Self::OwnPage { page } => write!(f, "page {page} belongs to the file itself and counts as free"),
            Self::Names { why } => write!(f, "names do not agree: {why}"),
        }
    }
}

/// A range of keys for people.
pub(crate) struct Keys<'a>(pub(crate) &'a LostKeys);

impl fmt::Display for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            (None, None) => write!(f, "all keys"),
            (Some(low), None) => write!(f, "keys from \"{}\" on", low.escape_ascii()),
            (None, Some(high)) => write!(f, "keys below \"{}\"", high.escape_ascii()),
            (Some(low), Some(high)) if high.strip_suffix(&[0]) == Some(low) => {
                write!(f, "the value of key \"{}\"", low.escape_ascii())
            }
            (Some(low), Some(high)) => {
                write!(f, "keys from \"{}\" up to \"{}\"", low.escape_ascii(), high.escape_ascii())
            }
        }
    }
}

/// How far a check is.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct CheckProgress<'a> {
    /// The family that is being checked.
    pub family: &'a str,
    /// Pages reached so far.
    pub pages: u64,
    /// Pages there are to be reached; 0 where that is not known.
    pub pages_expected: u64,
    /// Problems found so far.
    pub problems: u64,
}

/// Families by name.
type NamedOwners = Vec<(String, Owner)>;

type ReportProgress<'a> = Box<dyn FnMut(&CheckProgress<'_>) + 'a>;

/// How a check is made; see [`Database::check_with`].
pub struct CheckOptions<'a> {
    large_values: bool,
    progress: Option<ReportProgress<'a>>,
}

impl Default for CheckOptions<'_> {
    fn default() -> Self {
        Self { large_values: true, progress: None }
    }
}

impl<'a> CheckOptions<'a> {
    /// Everything is checked, and nobody is told meanwhile.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the bytes of large values are read and verified too, 64 KiB at a time; they are by default.
    pub fn large_values(mut self, verify: bool) -> Self {
        self.large_values = verify;
        self
    }

    /// Whom to tell how far it is: after every 256 pages, and at the end of each family. The check waits meanwhile.
    pub fn progress(mut self, progress: impl FnMut(&CheckProgress<'_>) + 'a) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }
}

impl fmt::Debug for CheckOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckOptions").field("large_values", &self.large_values).finish_non_exhaustive()
    }
}

/// Pages between two reports of progress.
const PROGRESS_PAGES: u64 = 256;

/// Pages as the storage has them, whatever is in the cache.
#[derive(Clone)]
pub(crate) struct StoredPages(pub(crate) SnapshotPages);

impl Pages for StoredPages {
    fn page<'a>(&'a self, pin: &'a Pin, owner: Owner, ptr: PagePtr) -> std::result::Result<&'a [u8], FileError> {
        self.0.page(pin, owner, ptr)
    }

    fn page_bytes_shared(&self, owner: Owner, ptr: PagePtr) -> std::result::Result<Bytes, FileError> {
        self.0.file().page_stored(owner, ptr)
    }

    fn read_raw(&self, at: PageNo, offset: u64, len: usize) -> std::result::Result<Bytes, FileError> {
        self.0.read_raw(at, offset, len)
    }

    fn page_bytes(&self) -> usize {
        self.0.page_bytes()
    }
}

impl Database {
    /// Verifies the whole database as it is at one instant, while everybody goes on working:
    ///
    /// - every page of every family and every 64 KiB of large values, read from the storage and not from the cache: checksum, place, stamp;
    /// - what pages promise each other: order, separators, counts of entries, levels, pointers, graveyards;
    /// - that reached pages are just those that the space map of that instant counts as used, each reached exactly once, and with the
    ///   file's own and the free ones all pages of the file;
    /// - superblocks, space map, owner table, and the records of names.
    ///
    /// What is wrong is reported, not returned as an error: all of it, and damage in one family keeps no other from being checked.
    /// Makes a checkpoint and reads every page once; holds a snapshot meanwhile, so pages that are removed during the check become free
    /// after it. Memory: two bits per page.
    ///
    /// ```
    /// # fn main() -> spinney::Result<()> {
    /// let db = spinney::Database::in_memory()?;
    /// let mut txn = db.family("orders")?.begin()?;
    /// txn.insert("1001", "3 apples")?;
    /// txn.commit()?;
    /// let report = db.check()?;
    /// assert!(report.is_sound(), "{}", report.problems[0]);
    /// assert_eq!((report.entries, report.used_pages), (1 + report.by_family[0].entries, Some(report.pages())));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Closed`]. Reading that fails is a problem of the report.
    pub fn check(&self) -> Result<Report> {
        self.check_with(CheckOptions::new())
    }

    /// The same with options, a report of progress for instance.
    ///
    /// ```
    /// # fn main() -> spinney::Result<()> {
    /// # let db = spinney::Database::in_memory()?;
    /// let show = |progress: &spinney::CheckProgress| {
    ///     println!("{} of {} pages, in {}", progress.pages, progress.pages_expected, progress.family);
    /// };
    /// assert!(db.check_with(spinney::CheckOptions::new().progress(show))?.is_sound());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Those of [`check`](Self::check).
    pub fn check_with(&self, options: CheckOptions<'_>) -> Result<Report> {
        let core = self.core();
        core.open()?;
        // A map that fits can be had from a checkpoint only. Where there can be none, pages are not counted against it.
        let audit = core.file.audit().ok();
        let snapshot = match &audit {
            Some(audit) => Snapshot::of(core, audit.snapshot.clone()),
            None => self.snapshot(),
        };
        let check =
            Check { pages: StoredPages(snapshot.pages().clone()), snapshot, audit, options, ..Check::new(self) };
        check.run()
    }
}

struct Check<'a> {
    snapshot: Snapshot,
    pages: StoredPages,
    audit: Option<Audit>,
    options: CheckOptions<'a>,
    seen: PageSet,
    report: Report,
}

impl<'a> Check<'a> {
    fn new(db: &Database) -> Self {
        let snapshot = db.snapshot();
        Self {
            pages: StoredPages(snapshot.pages().clone()),
            snapshot,
            audit: None,
            options: CheckOptions::new(),
            seen: PageSet::default(),
            report: Report::default(),
        }
    }

    fn run(mut self) -> Result<Report> {
        self.own();
        let known = BTreeMap::new();
        self.family(NAMES, "(names of families and tables)", &known)?;
        self.report.families = 0;
        self.named_families()?;
        self.account();
        Ok(self.report)
    }

    fn problem(&mut self, problem: Problem) {
        self.report.problems.push(problem);
    }

    /// What the file keeps for itself.
    fn own(&mut self) {
        let (core, problems) = (self.snapshot.core(), &mut self.report.problems);
        core.file.verify_own(&mut |error| problems.push(Problem::damaged(core.lift(error.into()))));
        let audit = self.audit.iter();
        let missing = audit.flat_map(|audit| &audit.own_missing).map(|&page| Problem::OwnPage { page });
        problems.extend(missing);
    }

    /// Compares what was reached with what counts as used.
    fn account(&mut self) {
        let Some(audit) = &self.audit else { return };
        let report = &mut self.report;
        report.used_pages = Some(audit.in_use.len());
        (report.file_pages, report.free_pages) = (audit.file_pages, audit.free_pages);
        report.own_pages = audit.own_pages;
        let unreached = audit.in_use.iter().filter(|&page| !self.seen.contains(page));
        let is_cut_off = report.problems.iter().any(|problem| matches!(problem, Problem::Damaged { .. }));
        if is_cut_off {
            report.cut_off_pages = unreached.count() as u64;
            return;
        }
        let lost = unreached.filter_map(PageNo::new);
        let listed_max = report.problems.len() + PROBLEMS_MAX;
        for page in lost {
            if report.problems.len() < listed_max {
                report.problems.push(Problem::LostPage { page });
            } else {
                report.problems_unlisted += 1;
            }
        }
    }

    fn named_families(&mut self) -> Result<()> {
        let mut checked = BTreeSet::from([NAMES]);
        let listed = self.listed();
        let are_complete = listed.is_ok();
        let (families, dropped) = match listed {
            Ok(listed) => listed,
            // Names that cannot be read: the families are still known by their numbers.
            Err(error) => {
                self.problem(Problem::damaged(error));
                (Vec::new(), Vec::new())
            }
        };
        for (name, owner) in families {
            checked.insert(owner);
            let tables = self.named_tables(owner);
            self.family(owner, &name, &tables)?;
            self.tables(owner, &name, &tables)?;
        }
        for owner in dropped {
            checked.insert(owner);
            self.family(owner, &format!("#{} (dropped)", owner.0), &BTreeMap::new())?;
        }
        // What of the owner table cannot be read has been found already.
        let owners = self.snapshot.file_snapshot().owners(&mut |_| {});
        for owner in owners.into_iter().filter(|owner| !checked.contains(owner)) {
            // What was dropped and is freed has an empty root.
            if matches!(self.snapshot.family_root(owner), Ok(FamilyRoot::EMPTY)) {
                continue;
            }
            if are_complete {
                self.problem(Problem::Names { why: format!("number {} has pages and is no family", owner.0) });
            }
            self.family(owner, &format!("#{}", owner.0), &BTreeMap::new())?;
        }
        Ok(())
    }

    /// Families by name, and those that were dropped.
    fn listed(&mut self) -> Result<(NamedOwners, Vec<Owner>)> {
        let (mut families, mut dropped, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
        let names = self.snapshot.names()?;
        for found in names.families() {
            let (name, id) = found?;
            let owner = id.owner;
            if names.name_of(id)?.as_ref() != Some(&name) {
                wrong.push(format!("family `{name}` has number {}, which has another name", owner.0));
            }
            for table in names.tables(owner) {
                table?;
            }
            families.push((name, owner));
        }
        let counted = names.counters()?.families;
        if families.len() as u64 != u64::from(counted) {
            wrong.push(format!("{} families exist and {counted} are counted", families.len()));
        }
        for owner in names.dropped() {
            dropped.push(owner?);
        }
        self.report.problems.extend(wrong.into_iter().map(|why| Problem::Names { why }));
        Ok((families, dropped))
    }

    /// Names of a family's tables, as far as they can be read.
    fn named_tables(&self, owner: Owner) -> BTreeMap<TableId, String> {
        let Ok(names) = self.snapshot.names() else { return BTreeMap::new() };
        names.tables(owner).filter_map(Result::ok).map(|(name, record)| (TableId(record.table), name)).collect()
    }

    /// Everything the family's trees promise.
    fn family(&mut self, owner: Owner, name: &str, tables: &BTreeMap<TableId, String>) -> Result<()> {
        let core = self.snapshot.core().clone();
        self.report.families += 1;
        let mut about = FamilyReport { name: name.to_owned(), owner: owner.0, ..FamilyReport::default() };
        let problems_before = self.report.problems.len() as u64;
        match self.snapshot.family_root(owner) {
            Err(error) => self.problem(Problem::damaged(error)),
            Ok(root) => {
                let (seen, report) = (&mut self.seen, &mut self.report);
                let in_use = self.audit.as_ref().map(|audit| &audit.in_use);
                let pages_expected = in_use.map_or(0, PageSet::len);
                let (progress, mut told_at) = (&mut self.options.progress, seen.len());
                let mut visit = |extent: Extent, _| {
                    for page in (extent.start.get()..extent.end()).filter_map(PageNo::new) {
                        if !seen.insert(page.get()) {
                            report.problems.push(Problem::SharedPage { page, family: name.to_owned() });
                        }
                        if in_use.is_some_and(|in_use| !in_use.contains(page.get())) {
                            report.problems.push(Problem::FreePage { page, family: name.to_owned() });
                        }
                    }
                    if let Some(progress) = progress.as_mut().filter(|_| seen.len() >= told_at + PROGRESS_PAGES) {
                        told_at = seen.len();
                        let problems = report.problems.len() as u64;
                        progress(&CheckProgress { family: name, pages: told_at, pages_expected, problems });
                    }
                };
                let options = spinney_btree::CheckOptions { large_values: self.options.large_values };
                let found = spinney_btree::check(&self.pages, owner, &root, options, &mut visit);
                let found = found.map_err(|error| core.lift(error))?;
                about.tables = found.tables;
                about.entries = found.entries;
                about.levels = found.levels;
                (about.node_pages, about.poor_pages) = (found.node_pages, found.poor_pages);
                (about.extent_pages, about.graveyard_pages) = (found.extent_pages, found.graveyard_pages);
                report.problems_unlisted += found.problems_unlisted;
                let lift = |Finding { error, table, lost, .. }| Problem::Damaged {
                    error: core.lift(error).named(owner, name),
                    table: Some(table_name(table, tables)),
                    lost,
                };
                report.problems.extend(found.problems.into_iter().map(lift));
                if let Some(progress) = progress {
                    let problems = report.problems.len() as u64;
                    progress(&CheckProgress { family: name, pages: seen.len(), pages_expected, problems });
                }
            }
        }
        let report = &mut self.report;
        about.problems = report.problems.len() as u64 - problems_before;
        report.tables += about.tables;
        report.entries += about.entries;
        report.node_pages += about.node_pages;
        report.extent_pages += about.extent_pages;
        report.graveyard_pages += about.graveyard_pages;
        report.by_family.push(about);
        Ok(())
    }

    /// Every named table has a tree. What of the directory cannot be read is known already.
    fn tables(&mut self, owner: Owner, name: &str, tables: &BTreeMap<TableId, String>) -> Result<()> {
        let Ok(roots) = self.snapshot.family_root(owner) else { return Ok(()) };
        for (id, table) in tables.iter().filter(|(_, table)| !table.is_empty()) {
            if let Ok(None) = self.snapshot.table_root(owner, &roots, id.0) {
                self.problem(Problem::Names { why: format!("table `{table}` of family `{name}` has no tree") });
            }
        }
        Ok(())
    }
}

/// Pages of one sort that are listed.
const PROBLEMS_MAX: usize = 1000;

/// What a table is called in reports: the default one has no name, and the directory is none that users see.
pub(crate) fn table_name(table: TableId, names: &BTreeMap<TableId, String>) -> String {
    match names.get(&table) {
        Some(name) => name.clone(),
        None if table == TableId::DEFAULT => String::new(),
        None if table == TableId::DIRECTORY => "(directory of tables)".to_owned(),
        None => format!("#{}", table.0),
    }
}

/// Whose page it is, for a file whose own pages count as nobody's.
pub(crate) fn own_name(owner: Owner) -> Option<String> {
    (owner == FILE_ITSELF).then(|| "(the file itself)".to_owned())
}
