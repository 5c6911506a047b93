//! A family under test beside its model: sorted maps of the standard library.
#![allow(
    dead_code,
    clippy::needless_update,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "each test file uses its own part of this"
)]

use spinney_btree::{
    Bounds, CheckOptions, CheckReport, Durability, FamilyRoot, FamilyTxn, FileError, FileOptions, Owner, PagedFile,
    Part, Range, Snapshot, TableId, Tree, Wait, WriteTxn, check, page_check, replay,
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
    /// Pages that commits have claimed less those they have released.
    pub(crate) pages: u64,
    /// What every commit noted for the log.
    pub(crate) history: Vec<Logged>,
}

/// One commit as the log has it.
pub(crate) struct Logged {
    /// Its effects, before and after they were shortened; `None` when there were too many.
    pub(crate) effects: Option<[Vec<u8>; 2]>,
    pub(crate) after: Model,
}

impl Bed {
    pub(crate) fn new(page_bytes: usize, budget_bytes: u64) -> Self {
        let options =
            FileOptions { page_bytes, budget_bytes, page_check, replay: Some(replay), ..FileOptions::default() };
        let file = PagedFile::in_memory(options).unwrap();
        let model = Model::from([(TableId::DEFAULT, Map::new())]);
        Self { file, txn: None, committed: model.clone(), model, snapshots: Vec::new(), pages: 0, history: Vec::new() }
    }

    pub(crate) fn with<R>(&mut self, operation: impl FnOnce(spinney_btree::FamilyMut<'_>) -> R) -> R {
        if self.txn.is_none() {
            let mut txn = self.file.begin(&[OWNER], Wait::Forever).unwrap();
            let family = FamilyTxn::new(txn.part(OWNER).unwrap()).unwrap();
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
        let noted = part.effects_mut().map(|noted| noted.clone());
        family.store(part).unwrap();
        let shortened = part.effects_mut().map(|noted| noted.clone());
        let effects = noted.zip(shortened).map(|(noted, shortened)| [noted, shortened]);
        self.history.push(Logged { effects, after: self.model.clone() });
        self.pages = self.pages + part.claimed_pages() - part.released_pages();
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
        bed
    }

    /// Repeats commits after which the family should be as `after`.
    pub(crate) fn replay(&mut self, commits: &[&[u8]], after: &Model) {
        self.replay_by(after, |part| replay(part, commits));
    }

    /// The same in another manner.
    pub(crate) fn replay_by(&mut self, after: &Model, replay: impl FnOnce(&mut Part) -> Result<(), FileError>) {
        let mut txn = self.file.begin(&[OWNER], Wait::Forever).unwrap();
        let part = txn.part(OWNER).unwrap();
        replay(part).unwrap();
        assert!(!part.logs_effects());
        self.pages = self.pages + part.claimed_pages() - part.released_pages();
        txn.commit(Durability::Immediate).unwrap();
        self.model = after.clone();
        self.committed = after.clone();
        self.verify();
    }

    /// Every stretch of commits that the log can tell, repeated on another file, is the same family.
    pub(crate) fn verify_replay(&self, page_bytes: usize, budget_bytes: u64) {
        let empty = Model::from([(TableId::DEFAULT, Map::new())]);
        let mut before = &empty;
        let mut at = 0;
        while at < self.history.len() {
            let told = self.history[at..].iter().map_while(|commit| commit.effects.as_ref()).collect::<Vec<_>>();
            if let Some(end) = told.len().checked_sub(1) {
                let after = &self.history[at + end].after;
                for form in 0..2 {
                    let commits: Vec<&[u8]> = told.iter().map(|forms| &*forms[form]).collect();
                    Self::filled(page_bytes, budget_bytes, before).replay(&commits, after);
                }
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
        let root = self.root(&snapshot);
        compare(&self.file, &root, &self.committed);
        let mut visited = 0;
        let options = CheckOptions { large_values: true };
        let report = check(&self.file, OWNER, &root, options, &mut |extent, _| visited += extent.pages).unwrap();
        assert!(report.is_sound(), "{:#?}", report.problems);
        assert_eq!(visited, report.pages());
        assert_eq!(report.pages(), self.pages, "reachable pages are those allocated and not freed");
        assert_eq!(report.entries, self.committed.values().map(|map| map.len() as u64).sum::<u64>());
        assert_eq!(report.tables, self.committed.len() as u64);
        report
    }

    pub(crate) fn verify_snapshots(&self) {
        for (snapshot, model) in &self.snapshots {
            compare(snapshot.file(), &self.root(snapshot), model);
        }
    }
}

/// Reads a whole family and compares it with its model.
pub(crate) fn compare(file: &PagedFile, root: &FamilyRoot, model: &Model) {
    let tables = root.all_tables(file, OWNER).unwrap();
    assert_eq!(tables.iter().map(|(id, _)| *id).collect::<Vec<_>>(), model.keys().copied().collect::<Vec<_>>());
    for (id, root) in tables {
        let tree = Tree::new(file, OWNER, id, root);
        let map = &model[&id];
        assert_eq!(tree.len(), map.len() as u64);
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
