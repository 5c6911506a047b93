//! The structural check: every page of a family, once, and everything the pages promise each other.

use crate::{
    error::TreeError,
    graveyard::{Grave, Listed},
    large::{LargeReader, Piece},
    node::{LargeRef, Node, Stored},
    root::{FamilyRoot, TableId, TreeRoot},
    run::KeyRef,
    seal,
};
use spinney_file::{Extent, FileError, IoOp, Owner, PageNo, PagePtr, PageSet, Pages, Stamp};
use std::cmp::Ordering;

/// How thorough a check is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// Also read the bytes of large values and verify the checksum of each 64 KiB.
    pub large_values: bool,
}

/// Keys from the first on, up to but without the second; `None` means without end.
pub type LostKeys = (Option<Vec<u8>>, Option<Vec<u8>>);

/// Something that does not fit, and where.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Finding {
    /// What is wrong; says which page, unless it is a root.
    pub error: TreeError,
    /// In which table's tree.
    pub table: TableId,
    /// The keys that cannot be reached for it, as far as the separators above tell. `None` when nothing is lost.
    pub lost: Option<LostKeys>,
}

impl Finding {
    /// A problem of one table, and the keys that are lost for it.
    pub fn of(error: TreeError, table: TableId, lost: Option<LostKeys>) -> Self {
        Self { error, table, lost }
    }
}

/// What a check found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CheckReport {
    /// Tables, the default table included.
    pub tables: u64,
    /// Entries of all tables.
    pub entries: u64,
    /// Leaf and branch pages of tables and directory.
    pub node_pages: u64,
    /// Of them, how many are less than a quarter full, roots apart. No problem: neighbours may be too full of long keys to
    /// help, and new nodes at either edge of a tree begin with one entry.
    pub poor_pages: u64,
    /// Pages of large values.
    pub extent_pages: u64,
    /// Pages of all sorts that wait in the graveyard.
    pub graveyard_pages: u64,
    /// Levels of the highest tree.
    pub levels: u8,
    /// What does not fit, at most [`CheckReport::PROBLEMS_MAX`] of them.
    pub problems: Vec<Finding>,
    /// How many problems more there are.
    pub problems_unlisted: u64,
}

impl CheckReport {
    /// No more problems than these are listed.
    pub const PROBLEMS_MAX: usize = 1000;

    /// Whether nothing was wrong.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    /// Pages that the family has.
    pub fn pages(&self) -> u64 {
        self.node_pages + self.extent_pages + self.graveyard_pages
    }
}

/// Verifies a whole family: order, separators, counts, fill, levels, pointers, large values, graveyard; and reports every
/// extent that it reaches with its birth, each once. Linear in the pages, with one bit of memory per page.
///
/// # Errors
/// Those that are not about the content of the family: the file is closed. What is wrong with the content, or cannot be read, is
/// listed in the report, each with the keys that are lost for it.
pub fn check<P: Pages>(
    pages: &P,
    owner: Owner,
    root: &FamilyRoot,
    options: CheckOptions,
    visit: &mut dyn FnMut(Extent, Stamp),
) -> Result<CheckReport, TreeError> {
    let mut checker = Checker {
        pages,
        owner,
        options,
        visit,
        seen: PageSet::default(),
        report: CheckReport { tables: 1, ..CheckReport::default() },
        todo: Vec::new(),
    };
    checker.report.entries = root.default.len();
    checker.tree(&root.tables, TableId::DIRECTORY);
    checker.tree(&root.default, TableId::DEFAULT);
    while let Some(todo) = checker.todo.pop() {
        checker.node(&todo)?;
    }
    Ok(checker.report)
}

/// A node to be checked, and what is promised about it.
#[derive(Clone, Debug)]
struct Todo {
    ptr: PagePtr,
    level: u8,
    table: TableId,
    /// Keys are at least this one.
    low: Option<Vec<u8>>,
    /// Keys are below this one.
    high: Option<Vec<u8>>,
    entries: Option<u64>,
    extents: bool,
    is_root: bool,
    /// In the graveyard; children or slots before `done` are freed already.
    buried: bool,
    done: usize,
}

struct Checker<'a, P> {
    pages: &'a P,
    owner: Owner,
    options: CheckOptions,
    visit: &'a mut dyn FnMut(Extent, Stamp),
    seen: PageSet,
    report: CheckReport,
    todo: Vec<Todo>,
}

impl<P: Pages> Checker<'_, P> {
    fn tree(&mut self, root: &TreeRoot, table: TableId) {
        self.report.levels = self.report.levels.max(root.height());
        self.todo.extend(root.ptr().map(|ptr| Todo {
            ptr,
            level: root.height() - 1,
            table,
            low: None,
            high: None,
            entries: Some(root.len()),
            extents: root.extents_below(),
            is_root: true,
            buried: false,
            done: 0,
        }));
    }

    fn grave(&mut self, grave: &Grave) {
        self.todo.push(Todo {
            ptr: grave.ptr(),
            level: grave.level(),
            table: grave.table(),
            low: None,
            high: None,
            entries: None,
            extents: grave.extents(),
            is_root: true,
            buried: true,
            done: grave.done(),
        });
    }

    fn problem(&mut self, finding: Finding) {
        if self.report.problems.len() < CheckReport::PROBLEMS_MAX {
            self.report.problems.push(finding);
        } else {
            self.report.problems_unlisted += 1;
        }
    }

    fn wrong(&mut self, page: PageNo, table: TableId, why: &'static str) {
        let error = TreeError::Corrupt { page, owner: self.owner, table, why };
        self.problem(Finding { error, table, lost: None });
    }

    /// Notes what is wrong with the content or cannot be read; returns other errors.
    fn note(&mut self, error: TreeError, table: TableId, lost: Option<LostKeys>) -> Result<(), TreeError> {
        if is_about_content(&error) {
            self.problem(Finding { error, table, lost });
            Ok(())
        } else {
            Err(error)
        }
    }

    /// Counts an extent, once.
    fn reach(&mut self, start: PagePtr, pages: u64, table: TableId) -> bool {
        let Some(extent) = Extent::new(start.page.get(), pages) else {
            self.wrong(start.page, table, "an extent beyond the last possible page");
            return false;
        };
        if !(extent.start.get()..extent.end()).all(|page| self.seen.insert(page)) {
            self.wrong(start.page, table, "a page that is reached twice");
            return false;
        }
        (self.visit)(extent, start.stamp);
        true
    }

    fn node(&mut self, todo: &Todo) -> Result<(), TreeError> {
        let &Todo { ptr, level, table, .. } = todo;
        if !self.reach(ptr, 1, table) {
            return Ok(());
        }
        if todo.buried {
            self.report.graveyard_pages += 1;
        } else {
            self.report.node_pages += 1;
        }
        let page = match self.pages.page_bytes_shared(self.owner, ptr) {
            Ok(page) => page,
            Err(error) => return self.lose(todo, error.into()),
        };
        let node = match seal::check(&page, ptr.stamp).and_then(|()| Node::open(&page, table, level)) {
            Ok(node) => node,
            Err(why) => {
                return self.lose(todo, TreeError::Corrupt { page: ptr.page, owner: self.owner, table, why });
            }
        };
        if !seal::unused_is_zero(&page) {
            self.wrong(ptr.page, table, "bytes that belong to nothing are not zero");
        }
        if !todo.buried && !todo.is_root && node.used() < (node.used() + node.free()) / 4 {
            self.report.poor_pages += 1;
        }
        if node.count() == 0 {
            self.wrong(ptr.page, table, "a node without slots");
        }
        if todo.entries.is_some_and(|entries| node.entries() != Some(entries)) {
            self.wrong(ptr.page, table, "a count of entries does not fit those below it");
        }
        if todo.extents != (node.with_extents() > 0) {
            self.wrong(ptr.page, table, "the flag of extents below does not fit those below it");
        }
        self.bounds(todo, &node);
        if node.is_leaf() { self.leaf(todo, &node) } else { self.branch(todo, &node) }
    }

    /// What is below a node cannot be reached.
    fn lose(&mut self, todo: &Todo, error: TreeError) -> Result<(), TreeError> {
        let lost = (!todo.buried).then(|| (todo.low.clone(), todo.high.clone()));
        self.note(error, todo.table, lost)
    }

    /// The keys are where the separators above say.
    fn bounds(&mut self, todo: &Todo, node: &Node<'_>) {
        if node.count() == 0 {
            return;
        }
        let below_low = todo.low.as_ref().is_some_and(|low| node.key(0).compare(&KeyRef::whole(low)) == Ordering::Less);
        let last = node.key(node.count() - 1);
        let above_high = todo.high.as_ref().is_some_and(|high| last.compare(&KeyRef::whole(high)) != Ordering::Less);
        if below_low || above_high {
            self.wrong(todo.ptr.page, todo.table, "keys of a node lie outside its separators");
        }
    }

    fn branch(&mut self, todo: &Todo, node: &Node<'_>) -> Result<(), TreeError> {
        for i in todo.done..node.child_count() {
            let child = node.child(i);
            self.todo.push(Todo {
                ptr: child.ptr,
                level: todo.level - 1,
                table: todo.table,
                low: if i == 0 { todo.low.clone() } else { Some(node.key(i - 1).to_vec()) },
                high: if i == node.count() { todo.high.clone() } else { Some(node.key(i).to_vec()) },
                entries: Some(child.entries),
                extents: child.extents,
                is_root: false,
                buried: todo.buried,
                done: 0,
            });
        }
        Ok(())
    }

    fn leaf(&mut self, todo: &Todo, node: &Node<'_>) -> Result<(), TreeError> {
        for slot in todo.done..node.count() {
            match node.value(slot) {
                Stored::Large(large) => self.large(todo, &node.key(slot).to_vec(), large)?,
                Stored::Inline(value) if todo.table == TableId::DIRECTORY => {
                    let listed = Listed::decode(&node.key(slot).to_vec(), value);
                    match listed {
                        Err(why) => self.wrong(todo.ptr.page, todo.table, why),
                        Ok(Listed::Grave(_, grave)) => self.grave(&grave),
                        // A buried directory's tables are buried with it.
                        Ok(Listed::Table(id, root)) if todo.buried => {
                            if let Some(grave) = Grave::of_tree(&root, id) {
                                self.grave(&grave);
                            }
                        }
                        Ok(Listed::Table(id, root)) => {
                            self.report.tables += 1;
                            self.report.entries += root.len();
                            self.tree(&root, id);
                        }
                    }
                }
                Stored::Inline(_) => {}
            }
        }
        Ok(())
    }

    fn large(&mut self, todo: &Todo, key: &[u8], large: LargeRef) -> Result<(), TreeError> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut after = key.to_vec();
        after.push(0);
        let lost = (!todo.buried).then(|| (Some(key.to_vec()), Some(after)));
        let reader = LargeReader { pages: self.pages, owner: self.owner, table: todo.table };
        let walked = reader.walk(large, Some(key), &mut |piece| pieces.push(piece));
        let mut is_worth_reading = walked.is_ok() && self.options.large_values && !todo.buried;
        if let Err(error) = walked {
            self.note(error, todo.table, lost.clone())?;
        }
        for piece in pieces {
            if !self.reach(piece.start(), piece.pages(), todo.table) {
                // Found already; and a forged file may share its chunks among any number of values.
                is_worth_reading = false;
                continue;
            }
            if todo.buried {
                self.report.graveyard_pages += piece.pages();
            } else {
                self.report.extent_pages += piece.pages();
            }
            if let Piece::Page(ptr) = piece {
                let why = match self.pages.page_bytes_shared(self.owner, ptr) {
                    Ok(page) => seal::check(&page, ptr.stamp).and_then(|()| match seal::unused_is_zero(&page) {
                        true => Ok(()),
                        false => Err("bytes that belong to nothing are not zero"),
                    }),
                    Err(error) => {
                        self.note(error.into(), todo.table, None)?;
                        Ok(())
                    }
                };
                if let Err(why) = why {
                    self.wrong(ptr.page, todo.table, why);
                }
            }
        }
        if is_worth_reading {
            let mut wrong = Vec::new();
            let reader = LargeReader { pages: self.pages, owner: self.owner, table: todo.table };
            reader.verify(large, 0, &mut |_| true, &mut |error| wrong.push(error))?;
            for error in wrong {
                self.note(error, todo.table, lost.clone())?;
            }
        }
        Ok(())
    }
}

/// Whether an error is about what some place of the file holds, or that it cannot be read: others places may be better.
pub(crate) fn is_about_content(error: &TreeError) -> bool {
    match error {
        TreeError::Corrupt { .. } | TreeError::BadRoot { .. } => true,
        TreeError::File(error) => matches!(
            error,
            FileError::Corrupt { .. }
                | FileError::Damaged { .. }
                | FileError::Truncated { .. }
                | FileError::Io { op: IoOp::Read, .. }
        ),
        _ => false,
    }
}

/// How one tree fills its pages.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct TreeStats {
    /// Levels.
    pub height: u8,
    /// Entries.
    pub entries: u64,
    /// Pages at level 0.
    pub leaf_pages: u64,
    /// Pages above.
    pub branch_pages: u64,
    /// Pages of large values.
    pub extent_pages: u64,
    /// Bytes of leaves that hold something, out of all their bytes: 0.0 to 1.0.
    pub leaf_fill: f64,
    /// Bytes of branches that hold something, out of all their bytes: 0.0 to 1.0.
    pub branch_fill: f64,
}

/// Counts pages and fill of one tree. Reads every node of it and the heads of large values, but not their bytes.
///
/// # Errors
/// Those of reading pages; [`TreeError::Corrupt`].
pub fn stats<P: Pages>(pages: &P, owner: Owner, table: TableId, root: TreeRoot) -> Result<TreeStats, TreeError> {
    let mut out = TreeStats { height: root.height(), entries: root.len(), ..TreeStats::default() };
    let (mut leaf_bytes, mut branch_bytes) = (0u64, 0u64);
    let mut todo: Vec<(PagePtr, u8)> = root.ptr().map(|ptr| (ptr, root.height() - 1)).into_iter().collect();
    let reader = LargeReader { pages, owner, table };
    let mut seen = PageSet::default();
    while let Some((ptr, level)) = todo.pop() {
        let corrupt = |why| TreeError::Corrupt { page: ptr.page, owner, table, why };
        // A forged tree whose branches share their children has more paths than anybody has time for.
        if !seen.insert(ptr.page.get()) {
            return Err(corrupt("a page that is reached twice"));
        }
        let page = pages.page_bytes_shared(owner, ptr)?;
        let node = Node::open(&page, table, level).map_err(corrupt)?;
        let held = (page.len() - node.free()) as u64;
        if !node.is_leaf() {
            out.branch_pages += 1;
            branch_bytes += held;
            todo.extend((0..node.child_count()).map(|i| (node.child(i).ptr, level - 1)));
            continue;
        }
        out.leaf_pages += 1;
        leaf_bytes += held;
        for slot in 0..if node.with_extents() > 0 { node.count() } else { 0 } {
            if let Stored::Large(large) = node.value(slot) {
                reader.walk(large, None, &mut |piece| out.extent_pages += piece.pages())?;
            }
        }
    }
    let fill = |bytes: u64, count: u64| {
        if count == 0 { 0.0 } else { bytes as f64 / (count * pages.page_bytes() as u64) as f64 }
    };
    out.leaf_fill = fill(leaf_bytes, out.leaf_pages);
    out.branch_fill = fill(branch_bytes, out.branch_pages);
    Ok(out)
}
