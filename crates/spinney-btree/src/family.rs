//! One family inside a write transaction: its tables, and the roots that become its tip.

use crate::{
    edit::{Edit, Scratch},
    error::TreeError,
    graveyard::{self, Grave, Listed},
    layers::Pending,
    range::Borrowed,
    root::{FamilyRoot, TableId, TreeRoot},
    tree::Tree,
    tree_mut::TreeMut,
};
use spinney_file::{Owner, Part, Stamp};
use std::collections::{BTreeMap, BTreeSet};

/// What a write transaction keeps per family between operations: the roots of the tables it has touched, and what it
/// dropped. Made once per [`Part`] and kept as long as it; [`FamilyTxn::store`] hands everything over.
#[derive(Debug)]
pub struct FamilyTxn {
    owner: Owner,
    /// Pages that were there before this transaction are older.
    first_stamp: Stamp,
    default: TreeRoot,
    directory: TreeRoot,
    tables: BTreeMap<TableId, Open>,
    /// Graves that the directory does not list yet.
    graves: Vec<Grave>,
    /// The numbers of graves that this transaction has listed, and the next one.
    listed: Option<std::ops::Range<u64>>,
    scratch: Scratch,
    broken: bool,
}

/// A table that was touched.
#[derive(Debug)]
struct Open {
    /// As the directory has it; `None` when it lists no such table.
    listed: Option<TreeRoot>,
    /// As it is now.
    root: Option<TreeRoot>,
}

impl FamilyTxn {
    /// Begins where the part's descriptor says.
    ///
    /// # Errors
    /// [`TreeError::BadRoot`].
    pub fn new(part: &mut Part) -> Result<Self, TreeError> {
        if !part.is_in_pages() {
            part.set_pending(Box::new(Pending::new(part)));
        }
        let mut txn = Self {
            owner: part.owner(),
            first_stamp: part.stamp(),
            default: TreeRoot::EMPTY,
            directory: TreeRoot::EMPTY,
            tables: BTreeMap::new(),
            graves: Vec::new(),
            listed: None,
            scratch: Scratch::default(),
            broken: false,
        };
        txn.load(part)?;
        Ok(txn)
    }

    /// The roots of the part's descriptor, which is not this transaction's.
    fn load(&mut self, part: &Part) -> Result<(), TreeError> {
        let FamilyRoot { default, tables: directory } = FamilyRoot::decode(self.owner, part.root())?;
        self.first_stamp = part.stamp();
        self.check_birth(&default)?;
        self.check_birth(&directory)?;
        (self.default, self.directory) = (default, directory);
        self.tables.clear();
        Ok(())
    }

    /// The root of the default table's pages as it is now.
    pub fn default_table(&self) -> TreeRoot {
        self.default
    }

    /// The family, for some operations.
    pub fn family<'a>(&'a mut self, part: &'a mut Part) -> FamilyMut<'a> {
        assert_eq!(part.owner(), self.owner, "a part of another family");
        FamilyMut { part, txn: self }
    }

    /// Changes pages from here on: what the transaction has done so far goes there, after what earlier small commits left. Roots that were
    /// asked for before are outdated. Costs nothing the second time.
    ///
    /// # Errors
    /// Those of [`Part::enter_pages`], after which nothing has changed; and of changing pages.
    pub fn enter_pages(&mut self, part: &mut Part) -> Result<(), TreeError> {
        self.intact()?;
        if part.is_in_pages() {
            return Ok(());
        }
        part.enter_pages()?;
        self.broken = true; // what it did is not there yet
        let pending = part.take_pending();
        self.load(part)?;
        self.broken = false;
        if let Some(pending) = pending.as_ref().and_then(|pending| pending.downcast_ref::<Pending>()) {
            for (table, points) in pending.points() {
                self.broken = true;
                let mut family = FamilyMut { part: &mut *part, txn: &mut *self };
                let found = family.table_root(table)?.is_some();
                self.broken = false;
                if !found {
                    return Err(TreeError::NoTable(table));
                }
                TreeMut::new(part, self, table).apply(&points)?;
            }
        }
        Ok(())
    }

    /// Writes changed roots to the directory and the family's root to the part; of a small transaction, its effects. Call it before the
    /// commit; calling it more often is legal.
    ///
    /// # Errors
    /// [`TreeError::Broken`] when an operation failed half-way: such a transaction must not be committed.
    pub fn store(&mut self, part: &mut Part) -> Result<(), TreeError> {
        self.intact()?;
        if part.is_in_pages() {
            let root = self.family(part).list_all()?;
            part.set_root(root.encode());
        } else {
            let (effects, keys) = self.pending(part).effects();
            part.set_effects(effects, keys);
        }
        Ok(())
    }

    /// Whether an operation failed half-way, so that the transaction can only be dropped.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    pub(crate) fn intact(&self) -> Result<(), TreeError> {
        if self.broken { Err(TreeError::Broken) } else { Ok(()) }
    }

    /// What a small transaction has done so far.
    pub(crate) fn pending<'p>(&self, part: &'p mut Part) -> &'p mut Pending {
        let pending = part.pending_mut().and_then(|pending| pending.downcast_mut());
        pending.expect("set when the transaction began, and gone when it entered the pages")
    }

    pub(crate) fn pending_bytes(&self, part: &mut Part) -> usize {
        self.pending(part).bytes()
    }

    /// The root of a table that has been looked up.
    pub(crate) fn root_of(&self, table: TableId) -> Option<TreeRoot> {
        match table {
            TableId::DEFAULT => Some(self.default),
            _ => self.tables.get(&table).and_then(|open| open.root),
        }
    }

    /// The root of a table as the transaction sees it, which stays known.
    pub(crate) fn look_up(&mut self, part: &mut Part, table: TableId) -> Result<Option<TreeRoot>, TreeError> {
        FamilyMut { part, txn: self }.table_root(table)
    }

    /// A table that has been looked up, to change its pages.
    pub(crate) fn edit<'a>(&'a mut self, part: &'a mut Part, table: TableId) -> Edit<'a> {
        let root = match table {
            TableId::DEFAULT => &mut self.default,
            _ => self.tables.get_mut(&table).and_then(|open| open.root.as_mut()).expect("looked up"),
        };
        let (scratch, graves, broken) = (&mut self.scratch, &mut self.graves, &mut self.broken);
        Edit { part, root, table, scratch, graves, broken }
    }

    /// Refuses roots that claim to be from this transaction but come from the file.
    fn check_birth(&self, root: &TreeRoot) -> Result<(), TreeError> {
        match root.ptr() {
            Some(ptr) if ptr.stamp >= self.first_stamp => {
                Err(TreeError::BadRoot { owner: self.owner, why: "a root from the future" })
            }
            _ => Ok(()),
        }
    }
}

/// One family's tables, as its transaction sees and changes them.
pub struct FamilyMut<'a> {
    part: &'a mut Part,
    txn: &'a mut FamilyTxn,
}

impl std::fmt::Debug for FamilyMut<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.txn.fmt(f)
    }
}

impl<'a> FamilyMut<'a> {
    /// One table.
    ///
    /// # Errors
    /// [`TreeError::NoTable`].
    pub fn table(&mut self, id: TableId) -> Result<TreeMut<'_>, TreeError> {
        self.table_root(id)?.ok_or(TreeError::NoTable(id))?;
        Ok(TreeMut::new(self.part, self.txn, id))
    }

    /// The same for as long as the family is borrowed.
    ///
    /// # Errors
    /// [`TreeError::NoTable`].
    pub fn into_table(mut self, id: TableId) -> Result<TreeMut<'a>, TreeError> {
        self.table_root(id)?.ok_or(TreeError::NoTable(id))?;
        Ok(TreeMut::new(self.part, self.txn, id))
    }

    /// The root of a table as the transaction sees it; `None` when there is no such table.
    ///
    /// # Errors
    /// Those of reading the directory.
    pub fn table_root(&mut self, id: TableId) -> Result<Option<TreeRoot>, TreeError> {
        let (_, txn) = self.open(id)?;
        Ok(if id == TableId::DEFAULT { Some(txn.default) } else { txn.tables.get(&id).and_then(|open| open.root) })
    }

    /// The ids of all tables, the default table first. O(tables).
    ///
    /// # Errors
    /// Those of reading the directory.
    pub fn tables(&mut self) -> Result<Vec<TableId>, TreeError> {
        let mut ids = list_tables(self.part, self.txn.owner, self.txn.directory)?
            .into_iter()
            .map(|(id, _)| id)
            .collect::<BTreeSet<_>>();
        for (id, open) in &self.txn.tables {
            if open.root.is_some() {
                ids.insert(*id);
            } else {
                ids.remove(id);
            }
        }
        Ok(std::iter::once(TableId::DEFAULT).chain(ids).collect())
    }

    /// Makes an empty table.
    ///
    /// # Errors
    /// [`TreeError::TableExists`]; [`TreeError::NoTable`] for the id of the directory.
    pub fn create_table(&mut self, id: TableId) -> Result<(), TreeError> {
        if id == TableId::DIRECTORY {
            return Err(TreeError::NoTable(id));
        }
        self.txn.enter_pages(self.part)?;
        if self.table_root(id)?.is_some() {
            return Err(TreeError::TableExists(id));
        }
        self.txn.tables.get_mut(&id).expect("just looked up").root = Some(TreeRoot::EMPTY);
        Ok(())
    }

    /// Removes a table in O(1): its pages go to the graveyard. The default table is emptied only. `false` when there
    /// was no such table.
    ///
    /// # Errors
    /// Those of reading the directory.
    pub fn drop_table(&mut self, id: TableId) -> Result<bool, TreeError> {
        if self.table_root(id)?.is_none() {
            return Ok(false);
        }
        if id == TableId::DEFAULT {
            self.table(id)?.clear()?;
            return Ok(true);
        }
        self.table(id)?.clear()?;
        if let Some(open) = self.txn.tables.get_mut(&id) {
            open.root = None;
        }
        Ok(true)
    }

    /// Sends everything the family has to the graveyard; O(tables that this transaction changed).
    ///
    /// # Errors
    /// As for [`FamilyTxn::store`].
    pub fn drop_all(&mut self) -> Result<(), TreeError> {
        self.table(TableId::DEFAULT)?.clear()?;
        self.list_tables_changed()?;
        // The directory is buried as a tree whose leaves lead to all other trees and graves.
        self.txn.graves.extend(Grave::of_tree(&self.txn.directory, TableId::DIRECTORY));
        self.txn.directory = TreeRoot::EMPTY;
        self.txn.tables.clear();
        Ok(())
    }

    /// Frees about `budget_pages` pages of the graveyard and says how many: fewer only when the graveyard is empty, more only
    /// by the rest of the large value it was at.
    ///
    /// # Errors
    /// Those of reading pages; the transaction is [`Broken`](TreeError::Broken) then.
    pub fn collect(&mut self, budget_pages: u64) -> Result<u64, TreeError> {
        self.txn.enter_pages(self.part)?;
        let mut freed = 0;
        while freed < budget_pages {
            if self.txn.graves.is_empty() {
                let Some(grave) = self.unlist_grave()? else { break };
                self.txn.graves.push(grave);
            }
            let mut stack = std::mem::take(&mut self.txn.graves);
            self.directory(|edit| {
                *edit.broken = true;
                freed += graveyard::free(edit, &mut stack, budget_pages - freed)?;
                Ok(())
            })?;
            self.txn.graves.append(&mut stack);
        }
        self.part.relieve()?;
        Ok(freed)
    }

    /// Whether nothing waits to be freed.
    ///
    /// # Errors
    /// Those of reading the directory.
    pub fn graveyard_is_empty(&mut self) -> Result<bool, TreeError> {
        Ok(self.txn.graves.is_empty() && self.last_listed_grave()?.is_none())
    }

    /// Looks a table up, so that its root is among the open ones. Lends the two halves.
    fn open(&mut self, id: TableId) -> Result<(&mut Part, &mut FamilyTxn), TreeError> {
        if id != TableId::DEFAULT && id != TableId::DIRECTORY && !self.txn.tables.contains_key(&id) {
            let directory = Tree::new(&*self.part, self.txn.owner, TableId::DIRECTORY, self.txn.directory);
            let listed = table_root_in(&directory, self.txn.owner, id)?;
            if let Some(root) = &listed {
                self.txn.check_birth(root)?;
            }
            self.txn.tables.insert(id, Open { listed, root: listed });
        }
        Ok((self.part, self.txn))
    }

    /// An operation on the directory; broken unless it succeeds.
    fn directory<R>(&mut self, operation: impl FnOnce(&mut Edit<'_>) -> Result<R, TreeError>) -> Result<R, TreeError> {
        if self.txn.broken {
            return Err(TreeError::Broken);
        }
        let mut none = Vec::new();
        let mut edit = Edit {
            part: self.part,
            root: &mut self.txn.directory,
            table: TableId::DIRECTORY,
            scratch: &mut self.txn.scratch,
            graves: &mut none,
            broken: &mut self.txn.broken,
        };
        let result = operation(&mut edit)?;
        assert!(none.is_empty(), "no operation on a directory buries anything");
        self.txn.broken = false;
        Ok(result)
    }

    /// Writes the roots of changed tables to the directory.
    fn list_tables_changed(&mut self) -> Result<(), TreeError> {
        let changed: Vec<_> = self
            .txn
            .tables
            .iter()
            .filter(|(_, open)| open.listed != open.root)
            .map(|(id, open)| (*id, open.root))
            .collect();
        for (id, root) in changed {
            let key = id.0.to_be_bytes();
            self.directory(|edit| match root {
                Some(root) => insert_inline(edit, &key, &root.encode()),
                None => edit.remove(&key).map(|_| ()),
            })?;
            self.txn.tables.get_mut(&id).expect("it was changed").listed = root;
        }
        Ok(())
    }

    /// Writes everything to the directory, and says what the family's root is then.
    fn list_all(&mut self) -> Result<FamilyRoot, TreeError> {
        if self.txn.broken {
            return Err(TreeError::Broken);
        }
        self.list_tables_changed()?;
        if !self.txn.graves.is_empty() && self.txn.listed.is_none() {
            let next = self.last_listed_grave()?.map_or(0, |(number, _)| number.saturating_add(1));
            self.txn.listed = Some(next..next);
        }
        while let Some(grave) = self.txn.graves.last().copied() {
            let number = self.txn.listed.as_ref().expect("set above").end;
            self.directory(|edit| insert_inline(edit, &Grave::key(number), &grave.encode()))?;
            self.txn.graves.pop();
            self.txn.listed.as_mut().expect("set above").end += 1;
        }
        Ok(FamilyRoot { default: self.txn.default, tables: self.txn.directory })
    }

    /// The grave with the highest number in the directory.
    fn last_listed_grave(&self) -> Result<Option<(u64, Grave)>, TreeError> {
        let directory = Tree::new(&*self.part, self.txn.owner, TableId::DIRECTORY, self.txn.directory);
        let Some((key, value)) = directory.last()? else { return Ok(None) };
        let bad = |why| TreeError::BadRoot { owner: self.txn.owner, why };
        match Listed::decode(&key, &value).map_err(bad)? {
            Listed::Table(..) => Ok(None),
            Listed::Grave(number, grave) => {
                let is_ours = self.txn.listed.as_ref().is_some_and(|listed| listed.contains(&number));
                if !is_ours && grave.ptr().stamp >= self.txn.first_stamp {
                    return Err(bad("a grave from the future"));
                }
                Ok(Some((number, grave)))
            }
        }
    }

    /// Takes the last grave out of the directory.
    fn unlist_grave(&mut self) -> Result<Option<Grave>, TreeError> {
        let Some((number, grave)) = self.last_listed_grave()? else { return Ok(None) };
        self.directory(|edit| edit.remove(&Grave::key(number)))?;
        Ok(Some(grave))
    }
}

fn insert_inline(edit: &mut Edit<'_>, key: &[u8], value: &[u8]) -> Result<(), TreeError> {
    edit.insert(key, crate::bulk::inline_field(value), value).map(|_| ())
}

/// The root of one table, looked up in a directory.
pub(crate) fn table_root_in<P: spinney_file::Pages>(
    directory: &Tree<'_, P>,
    owner: Owner,
    id: TableId,
) -> Result<Option<TreeRoot>, TreeError> {
    let decode = |bytes: &[u8]| TreeRoot::decode(bytes).map_err(|why| TreeError::BadRoot { owner, why });
    directory.get_with(&id.0.to_be_bytes(), decode)?.transpose()
}

/// All tables of a directory, in order of their ids. O(tables).
pub(crate) fn list_tables<P: spinney_file::Pages>(
    pages: &P,
    owner: Owner,
    directory: TreeRoot,
) -> Result<Vec<(TableId, TreeRoot)>, TreeError> {
    let range = Tree::new(&Borrowed(pages), owner, TableId::DIRECTORY, directory)
        .range((std::ops::Bound::Unbounded, std::ops::Bound::Excluded(Grave::KEY_PREFIX.to_vec())));
    range
        .map(|entry| {
            let (key, value) = entry?;
            match Listed::decode(&key, &value.read()?).map_err(|why| TreeError::BadRoot { owner, why })? {
                Listed::Table(id, root) => Ok((id, root)),
                Listed::Grave(..) => Err(TreeError::BadRoot { owner, why: "a grave among the tables" }),
            }
        })
        .collect()
}

impl FamilyRoot {
    /// The root of a table as a reader finds it; `None` when there is no such table. O(height of the directory).
    ///
    /// # Errors
    /// Those of reading the directory.
    pub fn table<P: spinney_file::Pages>(
        &self,
        pages: &P,
        owner: Owner,
        id: TableId,
    ) -> Result<Option<TreeRoot>, TreeError> {
        if id == TableId::DEFAULT {
            return Ok(Some(self.default));
        }
        table_root_in(&Tree::new(pages, owner, TableId::DIRECTORY, self.tables), owner, id)
    }

    /// All tables, the default table first. O(tables).
    ///
    /// # Errors
    /// Those of reading the directory.
    pub fn all_tables<P: spinney_file::Pages>(
        &self,
        pages: &P,
        owner: Owner,
    ) -> Result<Vec<(TableId, TreeRoot)>, TreeError> {
        let others = list_tables(pages, owner, self.tables)?;
        Ok(std::iter::once((TableId::DEFAULT, self.default)).chain(others).collect())
    }
}
