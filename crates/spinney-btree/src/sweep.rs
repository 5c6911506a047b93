//! Many changes in key order: the branches above a leaf are visited and brought up to date once for all changes in it.

use crate::{
    bulk::inline_field,
    edit::{Edit, Path},
    error::TreeError,
    large_write,
    limits::Limits,
    node::{Node, Stored},
    node_mut::NodeMut,
    remove::is_poor,
    tree_mut,
};
use spinney_file::Pages as _;

/// The place where the last change was. Keys must come in strictly ascending order.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    /// The way to the leaf that was reached last; `None` when the next one must be looked for.
    path: Option<Path>,
    /// All nodes of the path are private.
    is_owned: bool,
    /// The leaf is for keys below this one, unless it is the last.
    upper: Vec<u8>,
    is_last: bool,
    /// By how much the leaf has more entries than the branches above count.
    uncounted: i64,
}

impl Sweep {
    /// Adds or replaces an entry.
    pub(crate) fn put(&mut self, edit: &mut Edit<'_>, key: &[u8], value: &[u8]) -> Result<(), TreeError> {
        let is_inline = Limits::new(edit.part.page_bytes()).is_inline(key.len(), value.len() as u64);
        if !is_inline || !self.reach(edit, key)? {
            return self.put_alone(edit, key, value);
        }
        let path = self.own(edit)?;
        let (ptr, field) = (path.leaf().ptr, inline_field(value));
        let mut leaf = NodeMut::new(edit.part.page_mut(ptr));
        let (slot, found) = leaf.node().search(key);
        let done = if found {
            if let Stored::Large(_) = leaf.node().value(slot) {
                return self.put_alone(edit, key, value);
            }
            leaf.try_replace_value(slot, field, value) || {
                leaf.remove(slot);
                leaf.try_insert_value(slot, key, field, value)
            }
        } else {
            leaf.try_insert_value(slot, key, field, value)
        };
        path.set_slot(slot);
        let split = if done { None } else { edit.grow_leaf(path, key, field, value)? };
        self.uncounted += i64::from(!found);
        match (split, self.path.take()) {
            (Some(split), Some(path)) => {
                edit.settle(&path, std::mem::take(&mut self.uncounted), Some(split))?;
                edit.part.relieve()?;
            }
            (_, path) => self.path = path,
        }
        Ok(())
    }

    /// Removes an entry if it is there.
    pub(crate) fn delete(&mut self, edit: &mut Edit<'_>, key: &[u8]) -> Result<(), TreeError> {
        if !self.reach(edit, key)? {
            return Ok(());
        }
        let at = self.path.as_ref().expect("just reached").leaf().ptr;
        let (slot, is_large) = match edit.with_node(at, 0, |leaf| match leaf.search(key) {
            (_, false) => None,
            (slot, true) => Some((slot, matches!(leaf.value(slot), Stored::Large(_)))),
        })? {
            None => return Ok(()),
            Some(found) => found,
        };
        if is_large {
            self.leave(edit)?;
            if let Some(Some(large)) = edit.remove(key)? {
                large_write::free(edit.part, edit.table, large)?;
            }
            return Ok(edit.part.relieve()?);
        }
        let path = self.own(edit)?;
        let leaf = edit.part.page_mut(path.leaf().ptr);
        NodeMut::new(leaf).remove(slot);
        let node = Node::new(leaf);
        let needs_repair = if path.steps().len() == 1 { node.count() == 0 } else { is_poor(&node) };
        self.uncounted -= 1;
        if needs_repair {
            self.settle(edit)?;
            edit.repair(key)?;
            edit.part.relieve()?;
        }
        Ok(())
    }

    /// Brings the branches up to date and forgets the place. Ends a sweep; lets the part write private pages early.
    pub(crate) fn leave(&mut self, edit: &mut Edit<'_>) -> Result<(), TreeError> {
        self.settle(edit)?;
        Ok(edit.part.relieve()?)
    }

    fn settle(&mut self, edit: &mut Edit<'_>) -> Result<(), TreeError> {
        match self.path.take() {
            Some(path) if self.is_owned => edit.settle(&path, std::mem::take(&mut self.uncounted), None),
            _ => Ok(()),
        }
    }

    /// An entry that has pages of its own, or replaces one that has, or is the first.
    fn put_alone(&mut self, edit: &mut Edit<'_>, key: &[u8], value: &[u8]) -> Result<(), TreeError> {
        self.leave(edit)?;
        tree_mut::insert(edit, key, value)?;
        Ok(edit.part.relieve()?)
    }

    /// Goes to the leaf for a key; `false` in an empty tree.
    #[inline]
    fn reach(&mut self, edit: &mut Edit<'_>, key: &[u8]) -> Result<bool, TreeError> {
        if self.path.is_some() && (self.is_last || key < self.upper.as_slice()) {
            return Ok(true);
        }
        self.leave(edit)?;
        let Some(mut ptr) = edit.root.ptr() else { return Ok(false) };
        let mut path = Path::at(ptr);
        self.is_last = true;
        for level in (1..edit.root.height()).rev() {
            let (child, next) = edit.with_node(ptr, level, |node| {
                let child = node.child_for(key);
                if child < node.count() {
                    node.key(child).copy_to(&mut self.upper);
                    self.is_last = false;
                }
                (child, node.child(child).ptr)
            })?;
            path.push(ptr, child);
            ptr = next;
        }
        path.push(ptr, 0);
        self.path = Some(path);
        self.is_owned = false;
        Ok(true)
    }

    /// The path, private from the root to the leaf.
    fn own(&mut self, edit: &mut Edit<'_>) -> Result<&mut Path, TreeError> {
        let path = self.path.as_mut().expect("a leaf was reached");
        if !self.is_owned {
            edit.own_path(path)?;
            self.is_owned = true;
        }
        Ok(path)
    }
}
