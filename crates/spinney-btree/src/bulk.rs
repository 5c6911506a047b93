//! Appending sorted input.

use crate::{
    edit::{Edit, Path},
    error::TreeError,
    node::{LargeRef, Node, layout::*},
    node_mut::NodeMut,
};

/// Appends entries one after the other to the last leaf, and touches the branches above only once per leaf.
#[derive(Debug, Default)]
pub(crate) struct Appender {
    /// The way to the last leaf, all private; `None` when it must be looked for.
    path: Option<Path>,
    /// Entries in the last leaf that the branches above do not count yet.
    uncounted: i64,
    last_key: Option<Vec<u8>>,
}

impl Appender {
    /// After the tree's last key.
    pub(crate) fn new(last_key: Option<Vec<u8>>) -> Self {
        Self { last_key, ..Self::default() }
    }

    /// Whether a key comes after all there are; remembers it as the last.
    pub(crate) fn accepts(&mut self, key: &[u8]) -> bool {
        if self.last_key.as_deref().is_some_and(|last| key <= last) {
            return false;
        }
        let last = self.last_key.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        true
    }

    /// Appends an entry; `true` when a leaf was finished, so that private pages may be written early.
    pub(crate) fn append(
        &mut self,
        edit: &mut Edit<'_>,
        key: &[u8],
        field: u16,
        payload: &[u8],
    ) -> Result<bool, TreeError> {
        if edit.root.ptr().is_none() {
            edit.plant(key, field, payload)?;
            return Ok(false);
        }
        let mut path = match self.path.take() {
            Some(path) => path,
            None => last_leaf(edit)?,
        };
        let leaf = edit.part.page_mut(path.leaf().ptr);
        let slot = Node::new(leaf).count();
        if NodeMut::new(leaf).try_insert_value(slot, key, field, payload) {
            self.uncounted += 1;
            self.path = Some(path);
            return Ok(false);
        }
        path.set_slot(slot);
        let split = edit.grow_leaf(&path, key, field, payload)?;
        let finished = split.is_some();
        edit.settle(&path, std::mem::take(&mut self.uncounted) + 1, split)?;
        Ok(finished)
    }

    /// Counts what is not counted yet, and forgets the way to the last leaf: pages may be written early now.
    pub(crate) fn settle(&mut self, edit: &mut Edit<'_>) -> Result<(), TreeError> {
        match self.path.take() {
            Some(path) => edit.settle(&path, std::mem::take(&mut self.uncounted), None),
            None => Ok(()),
        }
    }

    /// The end: the last leaf must not be too empty.
    pub(crate) fn finish(mut self, edit: &mut Edit<'_>) -> Result<(), TreeError> {
        self.settle(edit)?;
        match self.last_key {
            Some(key) => edit.repair(&key),
            None => Ok(()),
        }
    }
}

/// The private way to the last leaf of a tree that is not empty.
fn last_leaf(edit: &mut Edit<'_>) -> Result<Path, TreeError> {
    let mut ptr = edit.own_root()?;
    let mut path = Path::at(ptr);
    for level in (1..edit.root.height()).rev() {
        let last = edit.with_node(ptr, level, |node| node.count())?;
        path.push(ptr, last);
        ptr = edit.own_child(ptr, last)?;
    }
    let count = edit.with_node(ptr, 0, |node| node.count())?;
    path.push(ptr, count);
    Ok(path)
}

/// A leaf's value field for a value in the leaf.
pub(crate) fn inline_field(value: &[u8]) -> u16 {
    u16::try_from(value.len()).expect("inline values are at most 16 KiB long")
}

/// A leaf's value field and record for a large value.
pub(crate) fn large_record(large: &LargeRef) -> (u16, [u8; EXTENT_RECORD_BYTES]) {
    let len = u16::try_from(EXTENT_RECORD_BYTES).expect("24");
    (IS_EXTENT | len, large.encode())
}
