//! Removal of a range: the two boundary leaves are edited, everything between goes to the graveyard unread.

use crate::{
    edit::{Edit, Path, WRONG_COUNT, keep},
    error::TreeError,
    graveyard::Grave,
    large_write,
    node::{Child, Node, Stored},
    node_mut::NodeMut,
    range::Bounds,
    root::TreeRoot,
    run::Item,
};
use spinney_file::PagePtr;
use std::ops::{Bound, Range};

/// Keys from one on and below another one.
struct Span {
    start: Vec<u8>,
    end: Option<Vec<u8>>,
}

impl Span {
    fn new((start, end): &Bounds) -> Self {
        // The next key after one is that key and a zero byte.
        let next = |key: &[u8]| [key, &[0]].concat();
        Self {
            start: match start {
                Bound::Unbounded => Vec::new(),
                Bound::Included(key) => key.clone(),
                Bound::Excluded(key) => next(key),
            },
            end: match end {
                Bound::Unbounded => None,
                Bound::Included(key) => Some(next(key)),
                Bound::Excluded(key) => Some(key.clone()),
            },
        }
    }

    fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// The child or slot where the range begins.
    fn first(&self, node: &Node<'_>) -> usize {
        if node.is_leaf() { node.search(&self.start).0 } else { node.child_for(&self.start) }
    }

    /// The child where the range ends, or the slot after it; without an end the last child.
    fn last(&self, node: &Node<'_>) -> usize {
        match &self.end {
            Some(end) if node.is_leaf() => node.search(end).0,
            Some(end) => node.child_for(end),
            None => node.count(),
        }
    }
}

impl Edit<'_> {
    /// Removes everything: the tree goes to the graveyard as a whole.
    pub(crate) fn clear(&mut self) -> Result<u64, TreeError> {
        let Some(ptr) = self.root.ptr() else { return Ok(0) };
        *self.broken = true;
        let (entries, level) = (self.root.len(), self.root.height() - 1);
        self.bury(Child { ptr, entries, extents: self.root.extents_below() }, level)?;
        *self.root = TreeRoot::EMPTY;
        Ok(entries)
    }

    /// Removes the entries of a range and says how many there were.
    pub(crate) fn remove_range(&mut self, bounds: &Bounds) -> Result<u64, TreeError> {
        let span = Span::new(bounds);
        if span.is_empty() || self.root.ptr().is_none() {
            return Ok(0);
        }
        if span.start.is_empty() && span.end.is_none() {
            return self.clear();
        }
        let before = self.root.len();

        // Both boundaries on one path, down to where they part; a range without end has one boundary only.
        let mut ptr = self.own_root()?;
        let mut left = Path::at(ptr);
        let mut right = Path::at(ptr);
        let parted = loop {
            let node = Node::new(self.part.page_mut(ptr));
            let (first, last) = (span.first(&node), span.last(&node));
            if node.is_leaf() {
                self.remove_slots(ptr, first..last)?;
                left.push(ptr, first);
                break None;
            }
            left.push(ptr, first);
            if span.end.is_none() {
                self.cut(ptr, first + 1..last + 1)?;
            } else if first < last {
                self.cut(ptr, first + 1..last)?;
                right.push(ptr, first + 1);
                break Some(left.steps().len() - 1);
            }
            right.push(ptr, last);
            ptr = self.own_child(ptr, first)?;
        };
        // Then each boundary on its own.
        if let Some(depth) = parted {
            let parting = left.steps()[depth].ptr;
            let index = left.steps()[depth].child;
            let mut ptr = self.own_child(parting, index)?;
            loop {
                let node = Node::new(self.part.page_mut(ptr));
                let (first, count, is_leaf) = (span.first(&node), node.count(), node.is_leaf());
                left.push(ptr, first);
                if is_leaf {
                    self.remove_slots(ptr, first..count)?;
                    break;
                }
                self.cut(ptr, first + 1..count + 1)?;
                ptr = self.own_child(ptr, first)?;
            }
            let mut ptr = self.own_child(parting, index + 1)?;
            loop {
                let node = Node::new(self.part.page_mut(ptr));
                let (last, is_leaf) = (span.last(&node), node.is_leaf());
                right.push(ptr, 0);
                if is_leaf {
                    self.remove_slots(ptr, 0..last)?;
                    break;
                }
                self.cut(ptr, 0..last)?;
                ptr = self.own_child(ptr, 0)?;
            }
            self.recount(&right, depth)?;
        }
        self.recount(&left, 0)?;
        let root = left.steps()[0].ptr;
        let node = Node::new(self.part.page_mut(root));
        let (after, extents) = (node.entries(), node.with_extents() > 0);
        let after = after.ok_or_else(|| self.corrupt(root.page, WRONG_COUNT))?;
        let removed = before.checked_sub(after).ok_or_else(|| self.corrupt(root.page, WRONG_COUNT))?;
        self.set_root(root, after, self.root.height(), extents);
        self.repair(&span.start)?;
        if let Some(end) = &span.end {
            self.repair(end)?;
        }
        Ok(removed)
    }

    /// Removes slots of a private leaf, and what they have outside.
    fn remove_slots(&mut self, leaf: PagePtr, slots: Range<usize>) -> Result<(), TreeError> {
        if slots.is_empty() {
            return Ok(());
        }
        keep(&mut self.scratch.left, self.part.page_mut(leaf));
        let shape = self.shape(0);
        let old = Node::new(&self.scratch.left);
        let mut large_values = Vec::new();
        for slot in slots.clone() {
            if let Stored::Large(large) = old.value(slot) {
                large_values.push(large);
            }
        }
        let rest = (0..old.count()).filter(|slot| !slots.contains(slot));
        let items: Vec<Item<'_>> = rest.map(|slot| Item::of(&old, slot)).collect();
        shape.build(self.part.page_mut(leaf), None, &items);
        for large in large_values {
            large_write::free(self.part, self.table, large)?;
        }
        Ok(())
    }

    /// Takes children out of a private branch and buries them, as one subtree when they are several. At least one stays.
    fn cut(&mut self, branch: PagePtr, children: Range<usize>) -> Result<(), TreeError> {
        if children.is_empty() {
            return Ok(());
        }
        keep(&mut self.scratch.left, self.part.page_mut(branch));
        let old = Node::new(&self.scratch.left);
        let level = old.level();
        let shape = self.shape(level);
        let buried: Vec<Child> = children.clone().map(|i| old.child(i)).collect();
        let together = buried.iter().try_fold(0u64, |sum, child| sum.checked_add(child.entries));
        let together = together.filter(|&sum| sum <= TreeRoot::ENTRIES_MAX);
        let extents = buried.iter().any(|child| child.extents);
        let slots = |children: Range<usize>| -> Vec<Item<'_>> {
            // The first child of a branch needs no separator.
            (children.start..children.end.saturating_sub(1)).map(|slot| Item::of(&old, slot)).collect()
        };
        // Freeing leaves costs less than burying them.
        let bury_together = buried.len() > 1 && (level > 1 || extents);
        let mut grave = None;
        if bury_together {
            let ptr = self.part.allocate()?;
            shape.build(self.part.page_mut(ptr), Some(buried[0]), &slots(children.clone()));
            grave = Some(ptr);
        }
        let (first, items) = if children.start == 0 {
            (old.child(children.end), slots(children.end..old.child_count()))
        } else {
            let mut items: Vec<Item<'_>> = (0..children.start - 1).map(|slot| Item::of(&old, slot)).collect();
            items.extend((children.end - 1..old.count()).map(|slot| Item::of(&old, slot)));
            (old.child(0), items)
        };
        shape.build(self.part.page_mut(branch), Some(first), &items);
        match grave {
            Some(ptr) => {
                let entries = together.ok_or_else(|| self.corrupt(branch.page, WRONG_COUNT))?;
                self.bury(Child { ptr, entries, extents }, level)
            }
            None => buried.into_iter().try_for_each(|child| self.bury(child, level - 1)),
        }
    }

    /// Sends a subtree to the graveyard; a lone leaf without extents is freed at once.
    pub(crate) fn bury(&mut self, subtree: Child, level: u8) -> Result<(), TreeError> {
        if level == 0 && !subtree.extents {
            self.part.free(subtree.ptr);
        } else {
            self.graves.push(Grave::new(subtree, level, self.table));
        }
        Ok(())
    }

    /// Brings counts and flags above a private path's leaf up to date, from the bottom up to `depth`.
    fn recount(&mut self, path: &Path, depth: usize) -> Result<(), TreeError> {
        let steps = path.steps();
        for above in (depth..steps.len() - 1).rev() {
            let ptr = steps[above + 1].ptr;
            let node = Node::new(self.part.page_mut(ptr));
            let (entries, extents) = (node.entries(), node.with_extents() > 0);
            let entries = entries.ok_or_else(|| self.corrupt(ptr.page, WRONG_COUNT))?;
            let child = Child { ptr, entries, extents };
            NodeMut::new(self.part.page_mut(steps[above].ptr)).set_child(steps[above].child, &child);
        }
        Ok(())
    }
}
