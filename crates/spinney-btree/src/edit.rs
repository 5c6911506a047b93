//! Changing one tree inside a transaction: descent, private copies, insertion, splits.
//!
//! A node may be changed in place while it is private, that is, while its pointer carries the part's stamp; else it is copied
//! to a new page first. A private node's parent is private, because the parent holds that pointer; so a path is private from
//! the root down to some level, and copying goes top-down from there.

use crate::{
    error::TreeError,
    graveyard::Grave,
    node::{Child, LargeRef, Node, Stored, layout::*},
    node_mut::NodeMut,
    root::{TableId, TreeRoot},
    run::{Item, KeyRef, Shape, separator},
};
use spinney_file::{Owner, PageNo, PagePtr, Pages, Part, Pin};

/// Buffers that operations of a transaction share.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) left: Vec<u8>,
    pub(crate) right: Vec<u8>,
    pub(crate) parent: Vec<u8>,
}

/// One tree being changed.
pub(crate) struct Edit<'a> {
    pub(crate) part: &'a mut Part,
    pub(crate) root: &'a mut TreeRoot,
    pub(crate) table: TableId,
    pub(crate) scratch: &'a mut Scratch,
    /// Where subtrees go that nothing reaches any more.
    pub(crate) graves: &'a mut Vec<Grave>,
    /// Set before the first change; whoever began the operation clears it when it has succeeded.
    pub(crate) broken: &'a mut bool,
}

/// A node on a path, and the child taken from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) ptr: PagePtr,
    /// In a leaf: the slot.
    pub(crate) child: usize,
}

/// From the root to a leaf.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    steps: [Step; TreeRoot::HEIGHT_MAX as usize],
    len: usize,
}

impl Path {
    pub(crate) fn at(root: PagePtr) -> Self {
        Self { steps: [Step { ptr: root, child: 0 }; TreeRoot::HEIGHT_MAX as usize], len: 0 }
    }

    pub(crate) fn push(&mut self, ptr: PagePtr, child: usize) {
        self.steps[self.len] = Step { ptr, child };
        self.len += 1;
    }

    #[inline]
    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps[..self.len]
    }

    /// Its first `len` nodes.
    pub(crate) fn up_to(&self, len: usize) -> Self {
        Self { len, ..self.clone() }
    }

    /// In the node at its end.
    pub(crate) fn set_slot(&mut self, slot: usize) {
        self.steps[self.len - 1].child = slot;
    }

    #[inline]
    pub(crate) fn leaf(&self) -> Step {
        self.steps[self.len - 1]
    }
}

/// A node that was added on the right of another one.
pub(crate) struct Split {
    pub(crate) separator: Vec<u8>,
    pub(crate) right: Child,
}

/// Where in the tree something is added, which decides how full splits leave the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edge {
    Left,
    Inside,
    Right,
}

impl Edit<'_> {
    pub(crate) fn owner(&self) -> Owner {
        self.part.owner()
    }

    pub(crate) fn corrupt(&self, page: PageNo, why: &'static str) -> TreeError {
        TreeError::Corrupt { page, owner: self.owner(), table: self.table, why }
    }

    pub(crate) fn shape(&self, level: u8) -> Shape {
        Shape { table: self.table, level, page_bytes: self.part.page_bytes() }
    }

    /// Lends a node of the tree to `read`.
    #[inline]
    pub(crate) fn with_node<R>(
        &self,
        ptr: PagePtr,
        level: u8,
        read: impl FnOnce(Node<'_>) -> R,
    ) -> Result<R, TreeError> {
        let pin = Pin::new();
        let page = self.part.page(&pin, self.owner(), ptr)?;
        let node = Node::open(page, self.table, level).map_err(|why| self.corrupt(ptr.page, why))?;
        Ok(read(node))
    }

    /// The way to a key's leaf, the slot there, and whether the key is there. `None` in an empty tree.
    #[inline]
    pub(crate) fn find(&self, key: &[u8]) -> Result<Option<(Path, bool)>, TreeError> {
        let Some(mut ptr) = self.root.ptr() else { return Ok(None) };
        let mut path = Path::at(ptr);
        let pin = Pin::new();
        let owner = self.owner();
        for level in (1..self.root.height()).rev() {
            let page = self.part.page(&pin, owner, ptr)?;
            let node = Node::open(page, self.table, level).map_err(|why| self.corrupt(ptr.page, why))?;
            let child = node.child_for(key);
            path.push(ptr, child);
            ptr = node.child(child).ptr;
        }
        let page = self.part.page(&pin, owner, ptr)?;
        let leaf = Node::open(page, self.table, 0).map_err(|why| self.corrupt(ptr.page, why))?;
        let (slot, found) = leaf.search(key);
        path.push(ptr, slot);
        Ok(Some((path, found)))
    }

    /// Makes all nodes of a path private.
    #[inline]
    pub(crate) fn own_path(&mut self, path: &mut Path) -> Result<(), TreeError> {
        *self.broken = true;
        for depth in 0..path.len {
            if self.part.is_private(path.steps[depth].ptr) {
                continue;
            }
            path.steps[depth].ptr = match depth {
                0 => self.own_root()?,
                _ => self.own_child(path.steps[depth - 1].ptr, path.steps[depth - 1].child)?,
            };
        }
        Ok(())
    }

    /// Makes the root private. The tree is not empty.
    pub(crate) fn own_root(&mut self) -> Result<PagePtr, TreeError> {
        *self.broken = true;
        let old = self.root.ptr().expect("a tree that is not empty");
        if self.part.is_private(old) {
            return Ok(old);
        }
        let new = self.copy(old, self.root.height() - 1)?;
        self.set_root(new, self.root.len(), self.root.height(), self.root.extents_below());
        Ok(new)
    }

    /// Makes a child of a private branch private.
    pub(crate) fn own_child(&mut self, parent: PagePtr, index: usize) -> Result<PagePtr, TreeError> {
        let branch = Node::new(self.part.page_mut(parent));
        let (old, level) = (branch.child(index), branch.level() - 1);
        if self.part.is_private(old.ptr) {
            return Ok(old.ptr);
        }
        let ptr = self.copy(old.ptr, level)?;
        NodeMut::new(self.part.page_mut(parent)).set_child(index, &Child { ptr, ..old });
        Ok(ptr)
    }

    /// A private copy of a node, which is freed.
    fn copy(&mut self, old: PagePtr, level: u8) -> Result<PagePtr, TreeError> {
        let new = self.part.allocate_copy(old)?;
        let opened = Node::open(self.part.page_mut(new), self.table, level).map(drop);
        opened.map_err(|why| self.corrupt(old.page, why))?;
        self.part.free(old);
        Ok(new)
    }

    pub(crate) fn set_root(&mut self, ptr: PagePtr, entries: u64, height: u8, extents: bool) {
        *self.root = TreeRoot::new(ptr, entries, height, extents);
    }

    /// Adds or replaces an entry; whether it replaced one, and the large value that it replaced.
    pub(crate) fn insert(
        &mut self,
        key: &[u8],
        field: u16,
        payload: &[u8],
    ) -> Result<(bool, Option<LargeRef>), TreeError> {
        let Some((mut path, found)) = self.find(key)? else {
            self.plant(key, field, payload)?;
            return Ok((false, None));
        };
        self.own_path(&mut path)?;
        let Step { ptr, child: slot } = path.leaf();
        let mut leaf = NodeMut::new(self.part.page_mut(ptr));
        let mut replaced = None;
        let done = if found {
            if let Stored::Large(large) = leaf.node().value(slot) {
                replaced = Some(large);
            }
            leaf.try_replace_value(slot, field, payload) || {
                leaf.remove(slot);
                leaf.try_insert_value(slot, key, field, payload)
            }
        } else {
            leaf.try_insert_value(slot, key, field, payload)
        };
        if !done && !found && self.make_room(&path)? {
            return self.insert(key, field, payload);
        }
        let split = if done { None } else { self.grow_leaf(&path, key, field, payload)? };
        self.settle(&path, i64::from(!found), split)?;
        Ok((found, replaced))
    }

    /// The first entry of a tree.
    pub(crate) fn plant(&mut self, key: &[u8], field: u16, payload: &[u8]) -> Result<(), TreeError> {
        *self.broken = true;
        let ptr = self.part.allocate()?;
        let item = Item { key: KeyRef::whole(key), field, payload };
        // No prefix yet: nothing is known of the keys to come.
        self.shape(0).build_with_prefix(self.part.page_mut(ptr), None, &[item], 0);
        self.set_root(ptr, 1, 1, field & IS_EXTENT != 0);
        Ok(())
    }

    /// Which edge of the tree a path runs along, for something added before slot `slot` of `count` at its end.
    fn edge(&mut self, above: &[Step], slot: usize, count: usize) -> Edge {
        let mut branches = |is_edge: fn(usize, usize) -> bool| {
            above.iter().all(|step| is_edge(step.child, Node::new(self.part.page_mut(step.ptr)).count()))
        };
        if slot == count && branches(|child, count| child == count) {
            Edge::Right
        } else if slot == 0 && branches(|child, _| child == 0) {
            Edge::Left
        } else {
            Edge::Inside
        }
    }

    /// Adds an entry to a private leaf that has no room for it as it is: rebuilds the leaf when that makes room, else splits it.
    pub(crate) fn grow_leaf(
        &mut self,
        path: &Path,
        key: &[u8],
        field: u16,
        payload: &[u8],
    ) -> Result<Option<Split>, TreeError> {
        let (Step { ptr, child: slot }, shape) = (path.leaf(), self.shape(0));
        let count = Node::new(self.part.page_mut(ptr)).count();
        let edge = self.edge(&path.steps()[..path.len - 1], slot, count);
        keep(&mut self.scratch.left, self.part.page_mut(ptr));
        let old = Node::new(&self.scratch.left);
        let new = Item { key: KeyRef::whole(key), field, payload };
        let mut items: Vec<Item<'_>> = (0..count).map(|i| Item::of(&old, i)).collect();
        items.insert(slot, new);
        if shape.fits(&items) {
            shape.build(self.part.page_mut(ptr), None, &items);
            return Ok(None);
        }
        let at = match edge {
            Edge::Right if count > 0 => Some(count),
            Edge::Left if count > 0 => Some(1),
            _ => shape.divide(&items),
        };
        let Some(at) = at else {
            return Err(TreeError::Corrupt {
                page: ptr.page,
                owner: self.part.owner(),
                table: self.table,
                why: "a leaf that cannot be divided",
            });
        };
        let right = self.part.allocate()?;
        if at == count && slot == count {
            // The full leaf stays as it is. Keys to come are likely to begin as this one and its predecessor do.
            let prefix = new.key.common(&items[at - 1].key).min(key.len().saturating_sub(HEAD_BYTES));
            shape.build_with_prefix(self.part.page_mut(right), None, &items[at..], prefix);
        } else {
            shape.build(self.part.page_mut(right), None, &items[at..]);
            shape.build(self.part.page_mut(ptr), None, &items[..at]);
        }
        let separator = separator(&items[at - 1].key, &items[at].key);
        let node = Node::new(self.part.page_mut(right));
        let right = Child { ptr: right, entries: node.count() as u64, extents: node.with_extents() > 0 };
        Ok(Some(Split { separator, right }))
    }

    /// Brings the branches above a changed leaf up to date: counts, flags, and the node that a split added.
    pub(crate) fn settle(&mut self, path: &Path, delta: i64, mut split: Option<Split>) -> Result<(), TreeError> {
        let steps = path.steps();
        let mut extents = Node::new(self.part.page_mut(path.leaf().ptr)).with_extents() > 0;
        for depth in (0..steps.len() - 1).rev() {
            let Step { ptr, child: index } = steps[depth];
            let below = steps[depth + 1].ptr;
            let mut branch = NodeMut::new(self.part.page_mut(ptr));
            let old = branch.node().child(index);
            let added = split.as_ref().map_or(0, |split| split.right.entries);
            let Some(entries) = changed(old.entries, delta, added) else {
                return Err(self.corrupt(ptr.page, WRONG_COUNT));
            };
            branch.set_child(index, &Child { ptr: below, entries, extents });
            extents = branch.node().with_extents() > 0;
            if let Some(Split { separator, right }) = split.take() {
                split = self.insert_child(path, depth, &separator, right)?;
                extents = Node::new(self.part.page_mut(ptr)).with_extents() > 0;
            }
        }
        let (root, height) = (steps[0].ptr, self.root.height());
        let entries = changed(self.root.len(), delta, 0).ok_or_else(|| self.corrupt(root.page, WRONG_COUNT))?;
        let Some(Split { separator, right }) = split else {
            self.set_root(root, entries, height, extents);
            return Ok(());
        };
        if height == TreeRoot::HEIGHT_MAX {
            return Err(self.corrupt(root.page, "the tree is as high as a tree can be"));
        }
        let left = changed(entries, 0, right.entries).ok_or_else(|| self.corrupt(root.page, WRONG_COUNT))?;
        let top = self.part.allocate()?;
        let (first, record) = (Child { ptr: root, entries: left, extents }, right.encode());
        let item = Item { key: KeyRef::whole(&separator), field: 0, payload: &record };
        self.shape(height).build_with_prefix(self.part.page_mut(top), Some(first), &[item], 0);
        self.set_root(top, entries, height + 1, extents || right.extents);
        Ok(())
    }

    /// Adds a child to the private branch at `depth` of a path, on the right of the child that the path takes.
    pub(crate) fn insert_child(
        &mut self,
        path: &Path,
        depth: usize,
        key: &[u8],
        child: Child,
    ) -> Result<Option<Split>, TreeError> {
        let Step { ptr, child: slot } = path.steps()[depth];
        let mut branch = NodeMut::new(self.part.page_mut(ptr));
        let node = branch.node();
        let count = node.count();
        let whole = KeyRef::whole(key);
        let in_order = (slot == 0 || node.key(slot - 1).compare(&whole).is_lt())
            && (slot == count || node.key(slot).compare(&whole).is_gt());
        if in_order && branch.try_insert_child(slot, key, &child) {
            return Ok(None);
        }
        let level = branch.node().level();
        if !in_order {
            return Err(self.corrupt(ptr.page, "a child has keys outside its separators"));
        }
        let shape = self.shape(level);
        let edge = self.edge(&path.steps()[..depth], slot, count);
        keep(&mut self.scratch.left, self.part.page_mut(ptr));
        let old = Node::new(&self.scratch.left);
        let record = child.encode();
        let mut items: Vec<Item<'_>> = (0..count).map(|i| Item::of(&old, i)).collect();
        items.insert(slot, Item { key: whole, field: 0, payload: &record });
        if shape.fits(&items) {
            shape.build(self.part.page_mut(ptr), Some(old.child(0)), &items);
            return Ok(None);
        }
        let at = match edge {
            Edge::Right if count > 1 => Some(count - 1),
            Edge::Left if count > 1 => Some(1),
            _ => None,
        };
        let at = at.filter(|&at| shape.divides(&items, at)).or_else(|| shape.divide(&items));
        let Some(at) = at else {
            return Err(TreeError::Corrupt {
                page: ptr.page,
                owner: self.part.owner(),
                table: self.table,
                why: "a branch that cannot be divided",
            });
        };
        let right = self.part.allocate()?;
        shape.build(self.part.page_mut(right), Some(items[at].child()), &items[at + 1..]);
        shape.build(self.part.page_mut(ptr), Some(old.child(0)), &items[..at]);
        let separator = items[at].key.to_vec();
        let node = Node::new(self.part.page_mut(right));
        let (entries, extents) = (node.entries(), node.with_extents() > 0);
        let entries = entries.ok_or_else(|| self.corrupt(ptr.page, WRONG_COUNT))?;
        Ok(Some(Split { separator, right: Child { ptr: right, entries, extents } }))
    }
}

pub(crate) const WRONG_COUNT: &str = "a count of entries does not fit those below it";

/// A count after a change, less what moved elsewhere.
fn changed(count: u64, delta: i64, moved: u64) -> Option<u64> {
    count.checked_add_signed(delta)?.checked_sub(moved).filter(|&count| count <= TreeRoot::ENTRIES_MAX)
}

/// Copies a page into a buffer, so that it can be read while pages are written.
pub(crate) fn keep(buffer: &mut Vec<u8>, page: &[u8]) {
    buffer.clear();
    buffer.extend_from_slice(page);
}
