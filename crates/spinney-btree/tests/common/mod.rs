//! A family under test beside its model: sorted maps of the standard library.
#![allow(
    dead_code,
    clippy::needless_update,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "each test file uses its own part of this"
)]

use spinney_btree::{
    Bounds, CheckOptions, CheckReport, Durability, FamilyRoot, FamilyTxn, FileOptions, Owner, PagedFile, Pages, Range,
    SMALL_COMMITS, Snapshot, Stamp, TableId, Told, Tree, Wait, WriteTxn, check, page_check,
};
use std::collections::BTreeMap;

pub(crate) const OWNER: Owner = Owner(7);

pub(crate) type Map = BTreeMap<Vec<u8>, Vec<u8>>;
pub(crate) type Model = BTreeMap<TableId, Map>;

/// One family: what is committed, the transaction that is open, and what both should hold.
pub(crate) struct Bed {
    pub(crate) file: PagedFile,
    pub(crate) txn: Option<(WriteTxn, FamilyTxn)>,
    pub(crate) committed: Model,
    pub(crate) model: Model,
    pub(crate) snapshots: Vec<(Snapshot, Model)>,
    /// What every commit told the log.
    pub(crate) history: Vec<Logged>,
    /// Every other transaction changes pages from its beginning; all do, if so chosen.
    pub(crate) pages_only: bool,
    begun: usize,
}

/// One commit as the log has it.
pub(crate) struct Logged {
    /// Its effects; `None` when it changed pages.
    pub(crate) effects: Option<Vec<u8>>,
    pub(crate) after: Model,
}

impl Bed {
    pub(crate) fn new(page_bytes: usize, budget_bytes: u64) -> Self {
        let options = FileOptions {
            page_bytes,
            budget_bytes,
            page_check,
            small_commits: Some(SMALL_COMMITS),
            ..FileOptions::default()
        };
        let file = PagedFile::in_memory(options).unwrap();
        let model = Model::from([(TableId::DEFAULT, Map::new())]);
        let (snapshots, history) = (Vec::new(), Vec::new());
        Self { file, txn: None, committed: model.clone(), model, snapshots, history, pages_only: false, begun: 0 }
    }

    /// One whose transactions all change pages.
    pub(crate) fn in_pages(page_bytes: usize, budget_bytes: u64) -> Self {
        Self { pages_only: true, ..Self::new(page_bytes, budget_bytes) }
    }

    pub(crate) fn with<R>(&mut self, operation: impl FnOnce(spinney_btree::FamilyMut<'_>) -> R) -> R {
        if self.txn.is_none() {
            let mut txn = self.file.begin(&[OWNER], Wait::Forever).unwrap();
            let part = txn.part(OWNER).unwrap();
            let mut family = FamilyTxn::new(part).unwrap();
            self.begun += 1;
            if self.pages_only || self.begun.is_multiple_of(2) {
                family.enter_pages(part).unwrap();
            }
            self.txn = Some((txn, family));
        }
        let (txn, family) = self.txn.as_mut().unwrap();
        operation(family.family(txn.part(OWNER).unwrap()))
    }

    pub(crate) fn spill(&mut self) {
        if let Some((txn, _)) = &mut self.txn {
            txn.part(OWNER).unwrap().spill().unwrap();
        }
    }

    pub(crate) fn abort(&mut self) {
        self.txn = None;
        self.model = self.committed.clone();
    }

    pub(crate) fn commit(&mut self) {
        let Some((mut txn, mut family)) = self.txn.take() else { return };
        let part = txn.part(OWNER).unwrap();
        family.store(part).unwrap();
        let effects = (!part.is_in_pages()).then(|| part.effects().to_vec());
        self.history.push(Logged { effects, after: self.model.clone() });
        txn.commit(Durability::Immediate).unwrap();
        self.committed = self.model.clone();
    }

    /// Stores the roots, and goes on.
    pub(crate) fn store(&mut self) {
        if let Some((txn, family)) = &mut self.txn {
            family.store(txn.part(OWNER).unwrap()).unwrap();
        }
    }

    /// A family with the contents of a model.
    pub(crate) fn filled(page_bytes: usize, budget_bytes: u64, model: &Model) -> Self {
        let mut bed = Self::new(page_bytes, budget_bytes);
        bed.with(|mut family| {
            for (&id, map) in model {
                if id != TableId::DEFAULT {
                    family.create_table(id).unwrap();
                }
                family.table(id).unwrap().bulk_load(map).unwrap();
            }
        });
        bed.model = model.clone();
        bed.commit();
        bed.begun = 0;
        bed
    }

    /// Repeats commits after which the family should be as `after`.
    pub(crate) fn repeat(&mut self, commits: &[&[u8]], after: &Model) {
        let mut above = None;
        for (stamp, effects) in (1..).zip(commits) {
            above = Some((SMALL_COMMITS.add)(above.as_ref(), Stamp(stamp), Told::Lent(effects)).unwrap());
        }
        let mut txn = self.file.begin(&[OWNER], Wait::Forever).unwrap();
        let part = txn.part(OWNER).unwrap();
        part.enter_pages().unwrap();
        if let Some(above) = above {
            (SMALL_COMMITS.merge)(part, &(SMALL_COMMITS.freeze)(&above)).unwrap();
        }
        txn.commit(Durability::Immediate).unwrap();
        self.model = after.clone();
        self.committed = after.clone();
        self.verify();
    }

    /// Every stretch of commits that the log can tell, repeated on another file, is the same family.
    pub(crate) fn verify_repeated(&self, page_bytes: usize, budget_bytes: u64) {
        let empty = Model::from([(TableId::DEFAULT, Map::new())]);
        let mut before = &empty;
        let mut at = 0;
        while at < self.history.len() {
            let told = self.history[at..].iter().map_while(|commit| commit.effects.as_ref()).collect::<Vec<_>>();
            if let Some(end) = told.len().checked_sub(1) {
                let after = &self.history[at + end].after;
                let commits: Vec<&[u8]> = told.iter().map(|effects| &***effects).collect();
                Self::filled(page_bytes, budget_bytes, before).repeat(&commits, after);
            }
            at += told.len() + 1;
            before = &self.history[at.min(self.history.len()) - 1].after;
        }
    }

    pub(crate) fn root(&self, snapshot: &Snapshot) -> FamilyRoot {
        FamilyRoot::decode(OWNER, &snapshot.root(OWNER).unwrap().unwrap_or([0; 64])).unwrap()
    }

    /// Checks the committed family: its content, its structure, and that it has exactly the pages it should have.
    pub(crate) fn verify(&self) -> CheckReport {
        let snapshot = self.file.snapshot();
        compare(&snapshot, &self.root(&snapshot), &self.committed);
        drop(snapshot);
        // And once more when all of it is in pages.
        self.file.checkpoint().unwrap();
        let snapshot = self.file.snapshot();
        let root = self.root(&snapshot);
        compare(&self.file, &root, &self.committed);
        let mut visited = 0;
        let options = CheckOptions { large_values: true };
        let report = check(&self.file, OWNER, &root, options, &mut |extent, _| visited += extent.pages).unwrap();
        assert!(report.is_sound(), "{:#?}", report.problems);
        assert_eq!(visited, report.pages());
        if self.txn.is_none() {
            let own: u64 = self.file.own_extents().unwrap().iter().map(|extent| extent.pages).sum();
            let used = self.file.stats().pages.used - own;
            assert_eq!(report.pages(), used, "reachable pages are those allocated and not freed");
        }
        assert_eq!(report.entries, self.committed.values().map(|map| map.len() as u64).sum::<u64>());
        assert_eq!(report.tables, self.committed.len() as u64);
        report
    }

    pub(crate) fn verify_snapshots(&self) {
        for (snapshot, model) in &self.snapshots {
            compare(snapshot, &self.root(snapshot), model);
        }
    }
}

/// Reads a whole family and compares it with its model.
pub(crate) fn compare<P: Pages + Clone>(pages: &P, root: &FamilyRoot, model: &Model) {
    let tables = root.all_tables(pages, OWNER).unwrap();
    assert_eq!(tables.iter().map(|(id, _)| *id).collect::<Vec<_>>(), model.keys().copied().collect::<Vec<_>>());
    for (id, root) in tables {
        let tree = Tree::new(pages, OWNER, id, root);
        let map = &model[&id];
        assert_eq!(tree.len().unwrap(), map.len() as u64);
        assert!(contents(tree.range(all())) == map.clone().into_iter().collect::<Vec<_>>(), "{id:?} differs");
    }
}

pub(crate) fn all() -> Bounds {
    (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded)
}

pub(crate) fn contents<P: spinney_btree::Pages + Clone>(range: Range<P>) -> Vec<(Vec<u8>, Vec<u8>)> {
    range
        .map(|entry| {
            let (key, value) = entry.unwrap();
            (key.to_vec(), value.read().unwrap().to_vec())
        })
        .collect()
}

/// Bytes that differ by `seed`.
pub(crate) fn value(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8) ^ seed | 1).collect()
}
