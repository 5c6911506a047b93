//! Changes to a private node in its place.

use crate::node::{Child, Node, head_of, layout::*, put_u16, put_u32, value_len};

/// A private node. Bytes that an operation frees are zeroed by it.
#[derive(Debug)]
pub(crate) struct NodeMut<'a> {
    page: &'a mut [u8],
}

impl<'a> NodeMut<'a> {
    #[inline]
    pub(crate) fn new(page: &'a mut [u8]) -> Self {
        Self { page }
    }

    #[inline]
    pub(crate) fn node(&self) -> Node<'_> {
        Node::new(self.page)
    }

    /// Adds an entry to a leaf without moving any cell; `false` when key or room do not allow it.
    #[inline]
    pub(crate) fn try_insert_value(&mut self, slot: usize, key: &[u8], field: u16, payload: &[u8]) -> bool {
        debug_assert_eq!(value_len(field as usize), payload.len());
        let node = self.node();
        let Some(suffix_len) = key.strip_prefix(node.prefix()).map(<[u8]>::len) else { return false };
        let tail_len = suffix_len.saturating_sub(HEAD_BYTES);
        let cell_len = LEAF_FIXED + tail_len + payload.len();
        if node.gap() < SLOT_BYTES + cell_len {
            return false;
        }
        let at = self.open_slot(slot, &key[key.len() - suffix_len..], cell_len);
        let cell = &mut self.page[at..at + cell_len];
        put_u16(cell, 2, field as usize);
        cell[LEAF_FIXED..LEAF_FIXED + tail_len].copy_from_slice(&key[key.len() - tail_len..]);
        cell[LEAF_FIXED + tail_len..].copy_from_slice(payload);
        if field & IS_EXTENT != 0 {
            self.add_with_extents(1);
        }
        true
    }

    /// Adds a separator and its child to a branch without moving any cell; `false` when key or room do not allow it.
    pub(crate) fn try_insert_child(&mut self, slot: usize, key: &[u8], child: &Child) -> bool {
        let node = self.node();
        let Some(suffix_len) = key.strip_prefix(node.prefix()).map(<[u8]>::len) else { return false };
        let tail_len = suffix_len.saturating_sub(HEAD_BYTES);
        let cell_len = BRANCH_FIXED + tail_len;
        if node.gap() < SLOT_BYTES + cell_len {
            return false;
        }
        let at = self.open_slot(slot, &key[key.len() - suffix_len..], cell_len);
        let cell = &mut self.page[at..at + cell_len];
        cell[2..2 + CHILD_BYTES].copy_from_slice(&child.encode());
        cell[BRANCH_FIXED..].copy_from_slice(&key[key.len() - tail_len..]);
        if child.extents {
            self.add_with_extents(1);
        }
        true
    }

    /// Makes room for a slot and its cell, writes head, offset and suffix length, and says where the cell begins.
    #[inline]
    fn open_slot(&mut self, slot: usize, suffix: &[u8], cell_len: usize) -> usize {
        let node = self.node();
        let (count, heads_at, heap) = (node.count(), node.heads_at(), node.heap() - cell_len);
        let old_offsets = heads_at + HEAD_BYTES * count;
        let offsets = old_offsets + HEAD_BYTES;
        // From the back: what is overwritten has moved already.
        self.page.copy_within(old_offsets + 2 * slot..old_offsets + 2 * count, offsets + 2 * (slot + 1));
        self.page.copy_within(old_offsets..old_offsets + 2 * slot, offsets);
        self.page.copy_within(heads_at + HEAD_BYTES * slot..old_offsets, heads_at + HEAD_BYTES * (slot + 1));
        self.page[heads_at + HEAD_BYTES * slot..][..HEAD_BYTES].copy_from_slice(&head_of(suffix).to_le_bytes());
        put_u16(self.page, offsets + 2 * slot, heap);
        put_u16(self.page, COUNT, count + 1);
        put_u32(self.page, HEAP, heap);
        put_u16(self.page, heap, suffix.len());
        heap
    }

    /// Removes a slot and its cell. Removing a branch's slot removes the child on its right.
    pub(crate) fn remove(&mut self, slot: usize) {
        let node = self.node();
        let (count, at, cell_len, is_leaf) = (node.count(), node.offset(slot), node.cell_len(slot), node.is_leaf());
        let extents = if is_leaf { node.payload(slot).0 & IS_EXTENT != 0 } else { node.child(slot + 1).extents };
        if extents {
            self.remove_with_extents();
        }
        self.page[at..at + cell_len].fill(0);
        self.close_hole(at, cell_len);
        let heads_at = self.node().heads_at();
        let old_offsets = heads_at + HEAD_BYTES * count;
        let offsets = old_offsets - HEAD_BYTES;
        self.page.copy_within(heads_at + HEAD_BYTES * (slot + 1)..old_offsets, heads_at + HEAD_BYTES * slot);
        self.page.copy_within(old_offsets..old_offsets + 2 * slot, offsets);
        self.page.copy_within(old_offsets + 2 * (slot + 1)..old_offsets + 2 * count, offsets + 2 * slot);
        let end = old_offsets + 2 * count;
        self.page[end - SLOT_BYTES..end].fill(0);
        put_u16(self.page, COUNT, count - 1);
        if count == 1 {
            let heap = self.page.len();
            put_u32(self.page, HEAP, heap);
            put_u32(self.page, HOLES, 0);
        }
    }

    /// Accounts for zeroed bytes of the heap that belong to no cell any more.
    fn close_hole(&mut self, at: usize, bytes: usize) {
        if at == self.node().heap() {
            put_u32(self.page, HEAP, at + bytes);
        } else {
            put_u32(self.page, HOLES, self.node().holes() + bytes);
        }
    }

    /// Replaces a leaf's value by one that is not longer, in its place; `false` when it is longer.
    pub(crate) fn try_replace_value(&mut self, slot: usize, field: u16, payload: &[u8]) -> bool {
        let node = self.node();
        let (old_field, old) = node.payload(slot);
        let (at, end) = (node.offset(slot), node.offset(slot) + node.cell_len(slot));
        let value_at = end - old.len();
        if payload.len() > old.len() {
            return false;
        }
        match (old_field & IS_EXTENT != 0, field & IS_EXTENT != 0) {
            (true, false) => self.remove_with_extents(),
            (false, true) => self.add_with_extents(1),
            _ => {}
        }
        put_u16(self.page, at + 2, field as usize);
        self.page[value_at..value_at + payload.len()].copy_from_slice(payload);
        let rest = value_at + payload.len()..end;
        put_u32(self.page, HOLES, self.node().holes() + rest.len());
        self.page[rest].fill(0);
        true
    }

    /// Replaces what a branch knows of a child.
    #[inline]
    pub(crate) fn set_child(&mut self, index: usize, child: &Child) {
        let node = self.node();
        let old = node.child(index);
        let at = if index == 0 { FIRST_CHILD } else { node.offset(index - 1) + 2 };
        self.page[at..at + CHILD_BYTES].copy_from_slice(&child.encode());
        match (old.extents, child.extents) {
            (true, false) => self.remove_with_extents(),
            (false, true) => self.add_with_extents(1),
            _ => {}
        }
    }

    /// Removes a child and the separator that bounded it: the one before it, or for the first child the one after it, whose
    /// child takes the first place.
    pub(crate) fn remove_child(&mut self, index: usize) {
        if index == 0 {
            let next = self.node().child(1);
            self.remove(0);
            self.set_child(0, &next);
        } else {
            self.remove(index - 1);
        }
    }

    fn add_with_extents(&mut self, n: usize) {
        let now = self.node().with_extents() + n;
        put_u16(self.page, WITH_EXTENTS, now);
    }

    fn remove_with_extents(&mut self) {
        let now = self.node().with_extents() - 1;
        put_u16(self.page, WITH_EXTENTS, now);
    }
}
