//! Subtrees that no table reaches any more and whose pages are freed bit by bit.
//!
//! A grave is an entry of the family's directory, so nothing is lost when the program ends. Freeing goes depth first and
//! keeps the way down as graves of its own, each with the number of children that are done: a family's directory grows by no
//! more than the height of what is being freed, and no page is ever changed.

use crate::{
    edit::Edit,
    error::TreeError,
    large_write,
    node::{Child, Node, Stored},
    root::{TableId, TreeRoot},
};
use spinney_file::{Owner, PageNo, PagePtr, Pages, Pin, Stamp};

/// A subtree that waits to be freed.
///
/// | at | size | field    | meaning                                                     |
/// |---:|-----:|----------|-------------------------------------------------------------|
/// |  0 |    8 | page     | its root                                                    |
/// |  8 |    8 | stamp    | what that page carries                                      |
/// | 16 |    4 | table    | whose it was; a directory's leaves lead to further trees    |
/// | 20 |    1 | level    | of its root                                                 |
/// | 21 |    1 | flags    | bit 0: some value below has an extent                       |
/// | 22 |    2 | done     | children, or slots of a leaf, that are freed already        |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grave {
    ptr: PagePtr,
    table: TableId,
    level: u8,
    extents: bool,
    done: u16,
}

impl Grave {
    /// On disk, in bytes.
    pub(crate) const LEN: usize = 24;
    /// What keys of graves begin with, before a big-endian u64.
    pub(crate) const KEY_PREFIX: [u8; 4] = [0xFF; 4];
    pub(crate) const KEY_LEN: usize = 12;

    pub(crate) fn new(subtree: Child, level: u8, table: TableId) -> Self {
        Self { ptr: subtree.ptr, table, level, extents: subtree.extents, done: 0 }
    }

    /// A whole tree's grave; `None` for an empty tree.
    pub(crate) fn of_tree(root: &TreeRoot, table: TableId) -> Option<Self> {
        Some(Self { ptr: root.ptr()?, table, level: root.height() - 1, extents: root.extents_below(), done: 0 })
    }

    pub(crate) fn ptr(&self) -> PagePtr {
        self.ptr
    }

    pub(crate) fn table(&self) -> TableId {
        self.table
    }

    pub(crate) fn level(&self) -> u8 {
        self.level
    }

    pub(crate) fn done(&self) -> usize {
        self.done.into()
    }

    pub(crate) fn extents(&self) -> bool {
        self.extents
    }

    pub(crate) fn key(number: u64) -> [u8; Self::KEY_LEN] {
        let mut key = [0xFF; Self::KEY_LEN];
        key[4..].copy_from_slice(&number.to_be_bytes());
        key
    }

    /// The number in a grave's key; `None` for keys of other entries.
    pub(crate) fn number(key: &[u8]) -> Option<u64> {
        let number = key.strip_prefix(&Self::KEY_PREFIX)?;
        Some(u64::from_be_bytes(number.try_into().ok()?))
    }

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..8].copy_from_slice(&self.ptr.page.get().to_le_bytes());
        out[8..16].copy_from_slice(&self.ptr.stamp.0.to_le_bytes());
        out[16..20].copy_from_slice(&self.table.0.to_le_bytes());
        out[20] = self.level;
        out[21] = u8::from(self.extents);
        out[22..].copy_from_slice(&self.done.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().map_err(|_| "a grave is 24 bytes long")?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let page = PageNo::new(word(0)).ok_or("a grave with an impossible page")?;
        if word(8) == 0 || bytes[20] >= TreeRoot::HEIGHT_MAX || bytes[21] > 1 {
            return Err("a grave with impossible fields");
        }
        Ok(Self {
            ptr: PagePtr { page, stamp: Stamp(word(8)) },
            table: TableId(u32::from_le_bytes([bytes[16], bytes[17], bytes[18], bytes[19]])),
            level: bytes[20],
            extents: bytes[21] == 1,
            done: u16::from_le_bytes([bytes[22], bytes[23]]),
        })
    }

    /// Whether the leaves of this subtree must be read to free what they have outside.
    fn leaves_matter(&self) -> bool {
        self.extents || self.table == TableId::DIRECTORY
    }
}

/// What an entry of a directory is, decoded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Listed {
    Table(TableId, TreeRoot),
    Grave(u64, Grave),
}

impl Listed {
    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<Self, &'static str> {
        if let Some(number) = Grave::number(key) {
            return Ok(Self::Grave(number, Grave::decode(value)?));
        }
        let id: [u8; 4] = key.try_into().map_err(|_| "an entry of a directory that is neither table nor grave")?;
        Ok(Self::Table(TableId(u32::from_be_bytes(id)), TreeRoot::decode(value)?))
    }
}

/// Frees a stack of graves from its top, until the budget is used or the stack is empty; says how many pages were freed.
pub(crate) fn free(edit: &mut Edit<'_>, stack: &mut Vec<Grave>, budget_pages: u64) -> Result<u64, TreeError> {
    /// Far more than trees inside directories inside directories take, and far less than memory.
    const NESTED_MAX: usize = 1 << 16;
    let stack_max = stack.len() + NESTED_MAX;
    let mut freed = 0;
    while freed < budget_pages {
        let Some(mut top) = stack.pop() else { break };
        if stack.len() > stack_max {
            return Err(corrupt(edit.owner(), &top, "graves within graves without end"));
        }
        if top.level == 0 && !top.leaves_matter() {
            edit.part.free(top.ptr);
            freed += 1;
            continue;
        }
        let next = next_of(edit, &top)?;
        let Some(next) = next else {
            edit.part.free(top.ptr);
            freed += 1;
            continue;
        };
        top.done += 1;
        stack.push(top);
        match next {
            Next::Nothing => {}
            Next::Grave(grave) => stack.push(grave),
            Next::Large(large) => freed += large_write::free(edit.part, top.table, large)?,
        }
    }
    Ok(freed)
}

/// What hangs on the next child or slot of a grave.
enum Next {
    Nothing,
    Grave(Grave),
    Large(crate::node::LargeRef),
}

fn next_of(edit: &Edit<'_>, top: &Grave) -> Result<Option<Next>, TreeError> {
    let pin = Pin::new();
    let page = edit.part.page(&pin, edit.owner(), top.ptr)?;
    let wrong = |why| corrupt(edit.owner(), top, why);
    let node = Node::open(page, top.table, top.level).map_err(wrong)?;
    let index = top.done();
    if top.level > 0 {
        let child = (index < node.child_count()).then(|| node.child(index));
        return Ok(child.map(|child| Next::Grave(Grave::new(child, top.level - 1, top.table))));
    }
    if index >= node.count() {
        return Ok(None);
    }
    Ok(Some(match node.value(index) {
        Stored::Large(large) => Next::Large(large),
        Stored::Inline(value) if top.table == TableId::DIRECTORY => {
            match Listed::decode(&node.key(index).to_vec(), value).map_err(wrong)? {
                Listed::Grave(_, grave) => {
                    check_birth(edit.owner(), top, grave.ptr)?;
                    Next::Grave(grave)
                }
                Listed::Table(id, root) => match Grave::of_tree(&root, id) {
                    Some(grave) => {
                        check_birth(edit.owner(), top, grave.ptr)?;
                        Next::Grave(grave)
                    }
                    None => Next::Nothing,
                },
            }
        }
        Stored::Inline(_) => Next::Nothing,
    }))
}

/// A page is never older than what it points to was when it was written.
fn check_birth(owner: Owner, from: &Grave, to: PagePtr) -> Result<(), TreeError> {
    if to.stamp > from.ptr.stamp {
        return Err(corrupt(owner, from, "a pointer to a page from the future"));
    }
    Ok(())
}

fn corrupt(owner: Owner, grave: &Grave, why: &'static str) -> TreeError {
    TreeError::Corrupt { page: grave.ptr.page, owner, table: grave.table, why }
}
