//! A version: every owner's root at one seq, in memory, shared between versions by path copying.
//!
//! A version names only what changed since the file was opened. Where it has nothing, the owner is as the
//! owner table on disk said at opening ([`crate::owners::OwnerTable::at_opening`]), so opening loads no descriptor and a commit costs
//! the same with ten owners and with ten thousand.
//!
//! Source: path copying after Driscoll, Sarnak, Sleator & Tarjan, "Making Data Structures Persistent", 1989.

use crate::Descriptor;
use spinney_alloc::{Owner, Seq, Stamp};
use std::{any::Any, sync::Arc};

/// What small commits of an owner left above its root, in memory: the layer above makes and reads it, here it is opaque. It never
/// changes; the next commit makes another.
pub type Above = Arc<dyn Any + Send + Sync>;

/// Owners per leaf and children per branch: a commit copies one leaf and one branch per level, so small is fast.
pub(crate) const FAN_OUT: usize = 8;
const BITS: u32 = FAN_OUT.trailing_zeros();

/// An owner's newest root in some version. `stamp` 0: the owner was never committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnerRoot {
    pub(crate) root: Descriptor,
    /// The last stamp of the transaction that made the root (rule 10's `r`).
    pub(crate) stamp: Stamp,
}

impl OwnerRoot {
    pub(crate) const NONE: Self = Self { root: [0; 64], stamp: Stamp(0) };

    pub(crate) fn exists(&self) -> bool {
        self.stamp != Stamp(0)
    }
}

/// The roots of [`FAN_OUT`] owners with adjacent numbers.
pub(crate) type RootLeaf = [OwnerRoot; FAN_OUT];

#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "each is in an allocation of its own, and a commit makes one leaf for each branch"
)]
enum Node {
    Branch([Option<Arc<Node>>; FAN_OUT]),
    Leaf(Leaf),
}

#[derive(Clone, Debug)]
struct Leaf {
    roots: RootLeaf,
    above: [Option<Above>; FAN_OUT],
}

/// Every owner's root at `seq`.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) seq: Seq,
    /// Levels of branches above the leaves.
    height: u32,
    top: Option<Arc<Node>>,
}

/// Which leaf holds `owner`.
pub(crate) fn leaf_of(owner: Owner) -> u32 {
    owner.0 >> BITS
}

fn place(owner: Owner) -> usize {
    owner.0 as usize % FAN_OUT
}

impl Version {
    /// As at opening, all of it.
    pub(crate) fn at_opening(seq: Seq) -> Self {
        Self { seq, height: 0, top: None }
    }

    /// The root of `owner` if it changed since opening; `None` means "as at opening".
    pub(crate) fn changed(&self, owner: Owner) -> Option<&OwnerRoot> {
        self.changed_leaf(leaf_of(owner)).map(|roots| &roots[place(owner)])
    }

    /// What small commits of `owner` left above its root.
    pub(crate) fn above(&self, owner: Owner) -> Option<&Above> {
        self.leaf(leaf_of(owner))?.above[place(owner)].as_ref()
    }

    /// Puts a root for `owner` and what is above it; `None` for the root: it stays. `opening` gives the owner's leaf as it was at
    /// opening, asked for on the first change to it. Costs one copied leaf and `height` copied branches.
    pub(crate) fn set(
        &mut self,
        owner: Owner,
        root: Option<OwnerRoot>,
        above: Option<Above>,
        opening: impl FnOnce() -> RootLeaf,
    ) {
        let leaf = leaf_of(owner);
        while u64::from(leaf) >> (BITS * self.height) != 0 {
            let mut children: [Option<Arc<Node>>; FAN_OUT] = Default::default();
            children[0] = self.top.take();
            // An empty version simply becomes higher: a branch without children says nothing.
            self.top = children[0].is_some().then(|| Arc::new(Node::Branch(children)));
            self.height += 1;
        }
        let change = |leaf: &mut Leaf| {
            if let Some(root) = root {
                leaf.roots[place(owner)] = root;
            }
            leaf.above[place(owner)] = above;
        };
        Self::change_below(&mut self.top, self.height, leaf, change, opening);
    }

    fn change_below(
        slot: &mut Option<Arc<Node>>,
        level: u32,
        leaf: u32,
        change: impl FnOnce(&mut Leaf),
        opening: impl FnOnce() -> RootLeaf,
    ) {
        if level == 0 {
            let fresh = || Arc::new(Node::Leaf(Leaf { roots: opening(), above: Default::default() }));
            match Arc::make_mut(slot.get_or_insert_with(fresh)) {
                Node::Leaf(leaf) => change(leaf),
                Node::Branch(_) => unreachable!("branches are above level 0"),
            }
            return;
        }
        let node = slot.get_or_insert_with(|| Arc::new(Node::Branch(Default::default())));
        match Arc::make_mut(node) {
            Node::Branch(children) => {
                let child = &mut children[(leaf >> (BITS * (level - 1))) as usize % FAN_OUT];
                Self::change_below(child, level - 1, leaf, change, opening);
            }
            Node::Leaf(_) => unreachable!("leaves are at level 0"),
        }
    }

    /// The leaves in which something changed since opening, in order.
    pub(crate) fn changed_leaves(&self) -> Vec<u32> {
        fn below(node: &Node, level: u32, first: u32, found: &mut Vec<u32>) {
            match node {
                Node::Leaf(_) => found.push(first),
                Node::Branch(children) => {
                    let children = (0..).zip(children.iter()).filter_map(|(i, child)| Some((i, child.as_deref()?)));
                    children.for_each(|(i, child)| below(child, level - 1, first | i << (BITS * (level - 1)), found));
                }
            }
        }
        let mut found = Vec::new();
        if let Some(top) = &self.top {
            below(top, self.height, 0, &mut found);
        }
        found
    }

    /// The whole leaf, if anything in it changed since opening.
    pub(crate) fn changed_leaf(&self, leaf: u32) -> Option<&RootLeaf> {
        self.leaf(leaf).map(|leaf| &leaf.roots)
    }

    fn leaf(&self, leaf: u32) -> Option<&Leaf> {
        if u64::from(leaf) >> (BITS * self.height) != 0 {
            return None;
        }
        let mut node = self.top.as_deref()?;
        let mut level = self.height;
        loop {
            match node {
                Node::Leaf(leaf) => return Some(leaf),
                Node::Branch(children) => {
                    level -= 1;
                    node = children[(leaf >> (BITS * level)) as usize % FAN_OUT].as_deref()?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn root(n: u64) -> OwnerRoot {
        OwnerRoot { root: [u8::try_from(n % 251).unwrap(); 64], stamp: Stamp(n + 1) }
    }

    proptest! {
        #[test]
        fn versions_are_maps_that_never_change(sets in proptest::collection::vec((prop_oneof![0u32..40, 0u32..100_000, any::<u32>()], 0u64..1000), 1..60)) {
            let mut version = Version::at_opening(Seq(0));
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            let mut older = Vec::new();
            for (owner, n) in sets {
                older.push((version.clone(), model.clone()));
                version.set(Owner(owner), Some(root(n)), None, || [OwnerRoot::NONE; FAN_OUT]);
                model.insert(owner, n);
            }
            older.push((version, model));
            for (version, model) in older {
                let mut leaves: Vec<u32> = model.keys().map(|&owner| leaf_of(Owner(owner))).collect();
                leaves.dedup();
                prop_assert_eq!(version.changed_leaves(), leaves);
                for (&owner, &n) in &model {
                    prop_assert_eq!(version.changed(Owner(owner)), Some(&root(n)));
                }
                for owner in 0..50 {
                    let found = version.changed(Owner(owner)).filter(|r| r.exists());
                    prop_assert_eq!(found.copied(), model.get(&owner).map(|&n| root(n)));
                }
            }
        }
    }
}
