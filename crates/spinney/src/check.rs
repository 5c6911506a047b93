//! The online check: every family of one snapshot, every page it reaches, each exactly once.

use crate::{
    database::{Database, NAMES},
    error::{Error, Result},
};
use spinney_btree::{CheckOptions, Extent, Owner, PageNo};
use std::{collections::HashMap, fmt};

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
    /// Pages that the space map counts as used, if nothing was committed during the check: then they are the ones
    /// that were reached, and a difference is a problem.
    pub used_pages: Option<u64>,
    /// What does not fit.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Whether nothing was wrong.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    /// Compares what was reached with what counts as used.
    fn account(&mut self, used: u64) {
        self.used_pages = Some(used);
        if self.pages() != used && self.is_sound() {
            self.problems.push(Problem::SpaceMap { reached: self.pages(), used });
        }
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
    /// A page, root or record is not what it should be.
    Damaged(Error),
    /// A page is reached twice.
    SharedPage {
        /// The page.
        page: PageNo,
        /// The family that reached it a second time.
        family: String,
    },
    /// The space map counts more pages as used than families reach, or fewer.
    SpaceMap {
        /// Pages that families reach.
        reached: u64,
        /// Pages that count as used.
        used: u64,
    },
    /// The records of names do not agree with each other.
    Names {
        /// What does not fit.
        why: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(error) => error.fmt(f),
            Self::SharedPage { page, family } => write!(f, "page {page} is reached a second time by family `{family}`"),
            Self::SpaceMap { reached, used } => write!(f, "families reach {reached} pages and {used} count as used"),
            Self::Names { why } => write!(f, "names do not agree: {why}"),
        }
    }
}

/// Pages seen, one bit each, in pieces that exist only where there are pages.
#[derive(Default)]
struct PageSet {
    pieces: HashMap<u64, Box<[u64; PIECE_WORDS]>>,
}

const PIECE_WORDS: usize = 64;
const PIECE_PAGES: u64 = PIECE_WORDS as u64 * 64;

impl PageSet {
    /// Adds a page; `false` when it was there.
    fn add(&mut self, page: u64) -> bool {
        let piece = self.pieces.entry(page / PIECE_PAGES).or_insert_with(|| Box::new([0; PIECE_WORDS]));
        let word = &mut piece[(page % PIECE_PAGES / 64) as usize];
        let bit = 1 << (page % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

impl Database {
    /// Verifies every family of one snapshot while everybody goes on working: order, separators, counts, levels, pointers,
    /// large values, graveyards, names; that no page is reached twice; and, if nobody commits meanwhile, that the
    /// pages reached are those that count as used. Makes a checkpoint and reads every page, so it costs as much as a
    /// full scan. What is wrong is reported, not returned as an error.
    ///
    /// # Errors
    /// Errors that are not about the content: [`Error::Closed`], [`Error::Io`].
    pub fn check(&self) -> Result<Report> {
        let file = &self.core().file;
        // The space map learns of commits in a checkpoint. Where there can be none, pages are not counted against it.
        let counted = file.checkpoint().ok();
        let check = Check::new(self);
        let mut report = check.run()?;
        let own = file.own_extents().map_err(|error| self.core().lift(error.into()))?;
        let own: u64 = own.iter().map(|extent| extent.pages).sum();
        let after = file.stats();
        // Behind what a checkpoint covers comes an anchor: more than that is a commit.
        if counted.is_some_and(|counted| after.appended.0 <= counted.0 + 1) {
            report.account(after.pages.used.saturating_sub(own));
        }
        Ok(report)
    }
}

struct Check {
    snapshot: crate::Snapshot,
    seen: PageSet,
    report: Report,
}

impl Check {
    fn new(db: &Database) -> Self {
        Self { snapshot: db.snapshot(), seen: PageSet::default(), report: Report::default() }
    }

    fn run(mut self) -> Result<Report> {
        self.family(NAMES, "(names of families and tables)")?;
        // Names that cannot be read are a problem above already; the families behind them cannot be found.
        if let Err(error) = self.named_families() {
            self.report.problems.push(Problem::Damaged(error));
        }
        Ok(self.report)
    }

    fn named_families(&mut self) -> Result<()> {
        let (mut families, mut dropped) = (Vec::new(), Vec::new());
        let names = self.snapshot.names()?;
        for found in names.families() {
            let (name, id) = found?;
            let owner = id.owner;
            if names.name_of(id)?.as_ref() != Some(&name) {
                let why = format!("family `{name}` has number {}, which has another name", owner.0);
                self.report.problems.push(Problem::Names { why });
            }
            for table in names.tables(owner) {
                table?;
            }
            families.push((name, owner));
        }
        let counted = names.counters()?.families;
        if families.len() as u64 != u64::from(counted) {
            let why = format!("{} families exist and {counted} are counted", families.len());
            self.report.problems.push(Problem::Names { why });
        }
        for owner in names.dropped() {
            dropped.push(owner?);
        }
        for (name, owner) in families {
            self.family(owner, &name)?;
            self.tables(owner, &name)?;
        }
        for owner in dropped {
            self.family(owner, &format!("#{} (dropped)", owner.0))?;
        }
        Ok(())
    }

    /// Everything the family's trees promise.
    fn family(&mut self, owner: Owner, name: &str) -> Result<()> {
        let (seen, problems) = (&mut self.seen, &mut self.report.problems);
        let mut visit = |extent: Extent, _| {
            let shared = (extent.start.get()..extent.end()).filter(|&page| !seen.add(page)).filter_map(PageNo::new);
            problems.extend(shared.map(|page| Problem::SharedPage { page, family: name.to_owned() }));
        };
        let root = match self.snapshot.family_root(owner) {
            Ok(root) => root,
            Err(error) => {
                problems.push(Problem::Damaged(error));
                return Ok(());
            }
        };
        let core = self.snapshot.core();
        let options = CheckOptions { large_values: true };
        let found = spinney_btree::check(self.snapshot.pages(), owner, &root, options, &mut visit);
        let found = found.map_err(|error| core.lift(error))?;
        let report = &mut self.report;
        report.families += u64::from(owner != NAMES);
        report.tables += found.tables;
        report.entries += found.entries;
        report.node_pages += found.node_pages;
        report.extent_pages += found.extent_pages;
        report.graveyard_pages += found.graveyard_pages;
        report.problems.extend(found.problems.into_iter().map(|error| Problem::Damaged(core.lift(error))));
        Ok(())
    }

    /// Every named table has a tree.
    fn tables(&mut self, owner: Owner, name: &str) -> Result<()> {
        let roots = self.snapshot.family_root(owner)?;
        for found in self.snapshot.names()?.tables(owner) {
            let (table, record) = found?;
            if !table.is_empty() && self.snapshot.table_root(owner, &roots, record.table)?.is_none() {
                let why = format!("table `{table}` of family `{name}` has no tree");
                self.report.problems.push(Problem::Names { why });
            }
        }
        Ok(())
    }
}
