//! Removal, and the repair of nodes it leaves too empty.

use crate::{
    edit::{Edit, Path, Step, WRONG_COUNT, keep},
    error::TreeError,
    node::{Child, LargeRef, Node, Stored},
    node_mut::NodeMut,
    root::TreeRoot,
    run::{Item, KeyRef, separator},
};
use spinney_file::{PagePtr, Part, Pin};

impl Edit<'_> {
    /// Removes an entry; `None` when there is none, else the large value it had.
    pub(crate) fn remove(&mut self, key: &[u8]) -> Result<Option<Option<LargeRef>>, TreeError> {
        let Some((mut path, true)) = self.find(key)? else { return Ok(None) };
        self.own_path(&mut path)?;
        let Step { ptr, child: slot } = path.leaf();
        let mut leaf = NodeMut::new(self.part.page_mut(ptr));
        let large = match leaf.node().value(slot) {
            Stored::Large(large) => Some(large),
            Stored::Inline(_) => None,
        };
        leaf.remove(slot);
        let node = leaf.node();
        let needs_repair = if path.steps().len() == 1 { node.count() == 0 } else { is_poor(&node) };
        self.settle(&path, -1, None)?;
        if needs_repair {
            self.repair(key)?;
        }
        Ok(Some(large))
    }

    /// Merges nodes on the way to a key that are less than a quarter full with a neighbour, or takes from one, until all are
    /// full enough or cannot be helped; takes empty nodes away, and roots that have one child.
    ///
    /// Starts over after each change, from the root: changes are rare, and a descent costs no more than any operation.
    pub(crate) fn repair(&mut self, key: &[u8]) -> Result<(), TreeError> {
        // Bit per level: a node there stays poor, because its neighbours are too full of long keys. A branch that has lost all
        // separators since is another case: it can be helped whatever its neighbours hold.
        let mut hopeless = [0u32; 2];
        'again: while let Some((mut path, _)) = self.find(key)? {
            self.own_path(&mut path)?;
            let root = path.steps()[0].ptr;
            let node = Node::new(self.part.page_mut(root));
            if node.count() == 0 {
                if node.is_leaf() {
                    *self.root = TreeRoot::EMPTY;
                } else {
                    let only = node.child(0);
                    self.set_root(only.ptr, self.root.len(), self.root.height() - 1, only.extents);
                }
                self.part.free(root);
                continue;
            }
            // From the top: a poor branch with one child must get neighbours for that child first.
            for depth in 1..path.steps().len() {
                let level = 1 << (path.steps().len() - 1 - depth);
                let node = Node::new(self.part.page_mut(path.steps()[depth].ptr));
                let case = usize::from(node.count() == 0);
                if is_poor(&node) && hopeless[case] & level == 0 {
                    if self.relieve_poverty(&path, depth)? {
                        continue 'again;
                    }
                    hopeless[case] |= level;
                }
            }
            break;
        }
        Ok(())
    }

    /// Helps the poor private node at `depth` of a private path; whether it could.
    fn relieve_poverty(&mut self, path: &Path, depth: usize) -> Result<bool, TreeError> {
        let Step { ptr: parent, child: index } = path.steps()[depth - 1];
        let ptr = path.steps()[depth].ptr;
        let children = Node::new(self.part.page_mut(parent)).child_count();
        if children == 1 {
            return Ok(false);
        }
        let node = Node::new(self.part.page_mut(ptr));
        let level = node.level();
        if node.is_leaf() && node.count() == 0 {
            NodeMut::new(self.part.page_mut(parent)).remove_child(index);
            self.part.free(ptr);
            return Ok(true);
        }
        let mut pairs = Vec::with_capacity(2);
        for left in [index.checked_sub(1), Some(index).filter(|&i| i + 1 < children)].into_iter().flatten() {
            let sibling = if left == index { index + 1 } else { left };
            let sibling = Node::new(self.part.page_mut(parent)).child(sibling).ptr;
            pairs.push((self.with_node(sibling, level, |node| node.used())?, left));
        }
        pairs.sort_unstable();
        for &(_, left) in &pairs {
            if self.join(path, depth, left, Join::Merge)? {
                return Ok(true);
            }
        }
        for &(_, left) in pairs.iter().rev() {
            if self.join(path, depth, left, Join::Share)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Shares the entries of a full leaf at the end of a private path with a neighbour that is less than three quarters full, so that it
    /// need not be divided; whether that was done. Leaves of random insertions are 0.78 full for it, not 0.69 ("overflow", Bayer and
    /// McCreight 1972), and no more pages change: a page for the other half would be one, too.
    pub(crate) fn make_room(&mut self, path: &Path) -> Result<bool, TreeError> {
        let (leaf, Some(depth)) = (path.leaf(), path.steps().len().checked_sub(2)) else { return Ok(false) };
        // At an end more of the same order may follow, for which the other nodes are left as they are.
        if leaf.child == 0 || leaf.child == Node::new(self.part.page_mut(leaf.ptr)).count() {
            return Ok(false);
        }
        let Step { ptr: parent, child: index } = path.steps()[depth];
        let children = Node::new(self.part.page_mut(parent)).child_count();
        let sides = [index.checked_sub(1).map(|left| (left, left)), Some((index, index + 1))];
        for (left, neighbour) in sides.into_iter().flatten().filter(|&(_, neighbour)| neighbour < children) {
            let neighbour = Node::new(self.part.page_mut(parent)).child(neighbour).ptr;
            let has_room = self.with_node(neighbour, 0, |node| node.free() > (node.used() + node.free()) / 4)?;
            if has_room && self.join(path, depth + 1, left, Join::Share)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Merges two neighbours at `depth` of a private path into one, or shares their entries evenly; whether that was possible and of use.
    fn join(&mut self, path: &Path, depth: usize, left: usize, how: Join) -> Result<bool, TreeError> {
        let parent = path.steps()[depth - 1].ptr;
        let level = u8::try_from(path.steps().len() - 1 - depth).expect("a height is at most 24");
        let above = Node::new(self.part.page_mut(parent));
        let (l, r) = (above.child(left), above.child(left + 1));
        keep(&mut self.scratch.parent, self.part.page_mut(parent));
        for (ptr, is_left) in [(l.ptr, true), (r.ptr, false)] {
            let mut buffer = std::mem::take(if is_left { &mut self.scratch.left } else { &mut self.scratch.right });
            let kept = self.with_page(ptr, level, |page| keep(&mut buffer, page));
            *(if is_left { &mut self.scratch.left } else { &mut self.scratch.right }) = buffer;
            kept?;
        }
        let (shape, parent_shape) = (self.shape(level), self.shape(level + 1));
        let (owner, table) = (self.part.owner(), self.table);
        let corrupt = |page, why| TreeError::Corrupt { page, owner, table, why };
        let above = Node::new(&self.scratch.parent);
        let (ln, rn) = (Node::new(&self.scratch.left), Node::new(&self.scratch.right));
        let first = (level > 0).then(|| ln.child(0));
        let record = if level > 0 { rn.child(0).encode() } else { [0; 20] };
        let mut items: Vec<Item<'_>> = (0..ln.count()).map(|i| Item::of(&ln, i)).collect();
        if level > 0 {
            items.push(Item { key: above.key(left), field: 0, payload: &record });
        }
        items.extend((0..rn.count()).map(|i| Item::of(&rn, i)));
        let seam = ln.count().saturating_sub(1)..items.len().min(ln.count() + 2);
        if !items[seam].is_sorted_by(|a, b| a.key.compare(&b.key).is_lt()) {
            return Err(corrupt(r.ptr.page, "keys of neighbouring nodes are not in order"));
        }
        let entries = |node: &Node<'_>| node.entries().ok_or_else(|| corrupt(r.ptr.page, WRONG_COUNT));
        let (l_entries, r_entries) = (entries(&ln)?, entries(&rn)?);
        let is_dire = ln.count() == 0 || rn.count() == 0;
        let bytes = shape.bytes(&items);
        match how {
            Join::Merge => {
                // Not quite full, so that the next insertion does not divide it again.
                if bytes > if is_dire { shape.capacity() } else { shape.capacity() / 4 * 3 } {
                    return Ok(false);
                }
                let ptr = private(self.part, l.ptr)?;
                shape.build(self.part.page_mut(ptr), first, &items);
                self.part.free(r.ptr);
                let mut branch = NodeMut::new(self.part.page_mut(parent));
                branch.remove(left);
                let merged = Child { ptr, entries: l_entries + r_entries, extents: l.extents || r.extents };
                branch.set_child(left, &merged);
            }
            Join::Share => {
                let Some(at) = shape.divide(&items) else { return Ok(false) };
                let right_at = if level == 0 { at } else { at + 1 };
                let poorer = |a: usize, b: usize| a.min(b);
                let gain = poorer(shape.bytes(&items[..at]), shape.bytes(&items[right_at..]));
                if !is_dire && gain <= poorer(ln.used(), rn.used()) {
                    return Ok(false);
                }
                let between =
                    if level == 0 { separator(&items[at - 1].key, &items[at].key) } else { items[at].key.to_vec() };
                // The new separator may be longer than the old one. Where it has no room nothing is done, unless a branch with
                // one child must be helped: then the parent is split.
                let mut shelves: Vec<Item<'_>> = (0..above.count()).map(|i| Item::of(&above, i)).collect();
                shelves[left].key = KeyRef::whole(&between);
                if !is_dire && !parent_shape.fits(&shelves) {
                    return Ok(false);
                }
                let (lp, rp) = (private(self.part, l.ptr)?, private(self.part, r.ptr)?);
                let right_first = (level > 0).then(|| items[at].child());
                shape.build(self.part.page_mut(lp), first, &items[..at]);
                shape.build(self.part.page_mut(rp), right_first, &items[right_at..]);
                let child = |part: &mut Part, ptr| {
                    let node = Node::new(part.page_mut(ptr));
                    Ok::<_, TreeError>(Child { ptr, entries: entries(&node)?, extents: node.with_extents() > 0 })
                };
                let (lc, rc) = (child(self.part, lp)?, child(self.part, rp)?);
                let mut branch = NodeMut::new(self.part.page_mut(parent));
                branch.remove(left);
                branch.set_child(left, &lc);
                let mut above = path.up_to(depth);
                above.set_slot(left);
                let split = self.insert_child(&above, depth - 1, &between, rc)?;
                self.settle(&above, 0, split)?;
            }
        }
        Ok(true)
    }

    /// Lends a whole page of the tree to `read`.
    pub(crate) fn with_page<R>(&self, ptr: PagePtr, level: u8, read: impl FnOnce(&[u8]) -> R) -> Result<R, TreeError> {
        use spinney_file::Pages as _;
        let pin = Pin::new();
        let page = self.part.page(&pin, self.owner(), ptr)?;
        Node::open(page, self.table, level).map_err(|why| self.corrupt(ptr.page, why))?;
        Ok(read(page))
    }
}

/// How two neighbours are joined.
#[derive(Clone, Copy, Debug)]
enum Join {
    Merge,
    Share,
}

/// Less than a quarter full, or a branch without separators.
pub(crate) fn is_poor(node: &Node<'_>) -> bool {
    node.count() == 0 || node.used() < (node.used() + node.free()) / 4
}

/// The page itself when it is private, else a new one in its place.
fn private(part: &mut Part, ptr: PagePtr) -> Result<PagePtr, TreeError> {
    if part.is_private(ptr) {
        return Ok(ptr);
    }
    let new = part.allocate()?;
    part.free(ptr);
    Ok(new)
}
