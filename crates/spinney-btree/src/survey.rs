//! Going through a tree that may be damaged: every page that can be read, in key order, in pieces, behind whatever cannot.
//!
//! A range stops at the first page that does not read. This goes on with the next subtree, and says which keys are lost in
//! between. It can stop anywhere and go on later, in a newer version of the tree, so that nobody holds a snapshot for long.

use crate::{
    check::{Finding, LostKeys, is_about_content},
    error::TreeError,
    graveyard::Listed,
    large::LargeReader,
    node::{LargeRef, Node, Stored, layout::*},
    root::{TableId, TreeRoot},
};
use bytes::Bytes;
use spinney_file::{Owner, PagePtr, Pages};

/// Where a survey goes on: behind everything that it has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    key: Vec<u8>,
    /// Of the large value with this key, chunks that are done.
    chunk: u64,
}

/// A large value, to be read in parts.
pub trait LargeSource {
    /// In bytes, as its leaf says.
    fn bytes(&self) -> u64;

    /// Up to `len` bytes from byte `offset` on, verified.
    ///
    /// # Errors
    /// Those of reading pages; [`TreeError::Corrupt`].
    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, TreeError>;
}

/// The value of an entry that was met.
#[derive(Clone, Copy)]
pub enum Met<'a> {
    /// Lies in the leaf.
    Inline(&'a [u8]),
    /// Has pages of its own, which have been verified.
    Large(&'a dyn LargeSource),
}

impl std::fmt::Debug for Met<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Inline(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Large(large) => write!(f, "{} bytes in pages of their own", large.bytes()),
        }
    }
}

/// Whom a survey tells what it meets.
pub trait Surveyor {
    /// So many more bytes were read. `false` ends this piece of the survey.
    fn spent(&mut self, bytes: u64) -> bool {
        let _ = bytes;
        true
    }

    /// A page of the tree, before it is read.
    fn reached(&mut self, ptr: PagePtr) {
        let _ = ptr;
    }

    /// An entry, in key order.
    ///
    /// # Errors
    /// Whatever ends the survey.
    fn entry(&mut self, key: &[u8], value: Met<'_>) -> Result<(), TreeError> {
        let _ = (key, value);
        Ok(())
    }

    /// Something cannot be read; the survey goes on behind it.
    fn lost(&mut self, finding: Finding);
}

/// A node on the way, and the keys that belong below it.
struct Todo {
    ptr: PagePtr,
    level: u8,
    low: Option<Vec<u8>>,
    high: Option<Vec<u8>>,
}

struct Large<'a, P> {
    reader: LargeReader<'a, P>,
    large: LargeRef,
}

impl<P: Pages> LargeSource for Large<'_, P> {
    fn bytes(&self) -> u64 {
        self.large.bytes
    }

    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, TreeError> {
        self.reader.read_at(self.large, offset, len)
    }
}

/// Goes through one tree from `from` on: reads every page and every chunk of large values, and returns where to go on when
/// [`Surveyor::spent`] ended it, `None` at the end of the tree.
///
/// # Errors
/// Those that are not about the content, and those of [`Surveyor::entry`].
pub fn survey<P: Pages>(
    pages: &P,
    owner: Owner,
    table: TableId,
    root: TreeRoot,
    from: Cursor,
    surveyor: &mut dyn Surveyor,
) -> Result<Option<Cursor>, TreeError> {
    let mut survey = Survey { reader: LargeReader { pages, owner, table }, surveyor, goes_on: true };
    let mut todo: Vec<Todo> = Vec::new();
    todo.extend(root.ptr().map(|ptr| Todo { ptr, level: root.height() - 1, low: None, high: None }));
    let mut from = from;
    while let Some(next) = todo.pop() {
        if !survey.goes_on {
            return Ok(Some(Cursor { key: next.low.unwrap_or_default(), chunk: 0 }));
        }
        let below = todo.len();
        if let Some(stopped) = survey.node(&next, &from, &mut todo)? {
            return Ok(Some(stopped));
        }
        todo[below..].reverse();
        if next.level == 0 {
            from.chunk = 0; // whatever it was for is behind
        }
    }
    Ok(None)
}

struct Survey<'a, 's, P> {
    reader: LargeReader<'a, P>,
    surveyor: &'s mut dyn Surveyor,
    goes_on: bool,
}

impl<P: Pages> Survey<'_, '_, P> {
    fn spent(&mut self, bytes: u64) {
        self.goes_on &= self.surveyor.spent(bytes);
    }

    /// One node; adds its children that are not behind to `todo`, in order.
    fn node(&mut self, at: &Todo, from: &Cursor, todo: &mut Vec<Todo>) -> Result<Option<Cursor>, TreeError> {
        let LargeReader { pages, owner, table } = self.reader;
        self.surveyor.reached(at.ptr);
        let page = pages.page_bytes_shared(owner, at.ptr).map_err(TreeError::from);
        self.spent(pages.page_bytes() as u64);
        let opened = page.and_then(|page| match Node::open(&page, table, at.level) {
            Ok(_) => Ok(page),
            Err(why) => Err(TreeError::Corrupt { page: at.ptr.page, owner, table, why }),
        });
        let page = match opened {
            Ok(page) => page,
            Err(error) => {
                self.lose(error, Some((at.low.clone(), at.high.clone())))?;
                return Ok(None);
            }
        };
        let node = Node::new(&page);
        if node.is_leaf() {
            return self.leaf(&node, at, from);
        }
        for i in 0..node.child_count() {
            let low = if i == 0 { at.low.clone() } else { Some(node.key(i - 1).to_vec()) };
            let high = if i == node.count() { at.high.clone() } else { Some(node.key(i).to_vec()) };
            // A separator outside its parent's would lead back, or into keys of others.
            let is_behind = high.as_ref().is_some_and(|high| *high <= from.key);
            let is_inside = low >= at.low && at.high.as_ref().is_none_or(|end| low.as_ref() < Some(end));
            if !is_behind && is_inside {
                todo.push(Todo { ptr: node.child(i).ptr, level: at.level - 1, low, high });
            }
        }
        Ok(None)
    }

    fn leaf(&mut self, node: &Node<'_>, at: &Todo, from: &Cursor) -> Result<Option<Cursor>, TreeError> {
        for slot in 0..node.count() {
            let key = node.key(slot).to_vec();
            let is_inside =
                at.low.as_ref().is_none_or(|low| key >= *low) && at.high.as_ref().is_none_or(|high| key < *high);
            if key < from.key || !is_inside {
                continue;
            }
            if !self.goes_on {
                return Ok(Some(Cursor { key, chunk: 0 }));
            }
            let chunk = if key == from.key { from.chunk } else { 0 };
            if let Some(chunk) = self.entry(&key, node.value(slot), chunk)? {
                return Ok(Some(Cursor { key, chunk }));
            }
        }
        Ok(None)
    }

    /// One entry. A large value is verified before it is told of; returns the chunk to go on with if that was interrupted.
    fn entry(&mut self, key: &[u8], value: Stored<'_>, chunk: u64) -> Result<Option<u64>, TreeError> {
        let large = match value {
            Stored::Inline(bytes) => {
                self.surveyor.entry(key, Met::Inline(bytes))?;
                return Ok(None);
            }
            Stored::Large(large) => large,
        };
        let mut pieces = Vec::new();
        let mut wrong = self.reader.walk(large, Some(key), &mut |piece| pieces.push(piece)).err();
        self.surveyor.reached(large.head);
        for piece in pieces {
            let start = piece.start();
            for page in (start.page.get()..start.page.get() + piece.pages()).filter_map(spinney_file::PageNo::new) {
                self.surveyor.reached(PagePtr { page, stamp: start.stamp });
            }
        }
        if wrong.is_none() {
            let (surveyor, goes_on) = (&mut *self.surveyor, &mut self.goes_on);
            let mut spent = |bytes| {
                *goes_on &= surveyor.spent(bytes);
                *goes_on
            };
            let verified = self.reader.verify(large, chunk, &mut spent, &mut |error| wrong = Some(error));
            match verified {
                Ok(Some(next)) if wrong.is_none() => return Ok(Some(next)),
                Ok(_) => {}
                Err(error) => wrong = Some(error),
            }
        }
        match wrong {
            Some(error) => {
                let mut after = key.to_vec();
                after.push(0);
                self.lose(error, Some((Some(key.to_vec()), Some(after))))?;
            }
            None => {
                let LargeReader { pages, owner, table } = self.reader;
                let reader = LargeReader { pages, owner, table };
                self.surveyor.entry(key, Met::Large(&Large { reader, large }))?;
            }
        }
        Ok(None)
    }

    fn lose(&mut self, error: TreeError, lost: Option<LostKeys>) -> Result<(), TreeError> {
        if !is_about_content(&error) {
            return Err(error);
        }
        self.surveyor.lost(Finding { error, table: self.reader.table, lost });
        Ok(())
    }
}

/// What a page of a tree holds by itself, for those who have lost the way to it. It has passed [`page_check`](crate::page_check).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stray {
    /// Entries of a table.
    Leaf(TableId),
    /// A large value of a table, with its key.
    Head(TableId),
    /// Nothing that can be used alone.
    Other,
}

/// What sort of page it is.
pub fn stray(page: &[u8]) -> Stray {
    let table = || TableId(crate::node::get_u32(page, TABLE));
    match page.get(KIND) {
        Some(&KIND_LEAF) => Stray::Leaf(table()),
        Some(&KIND_HEAD) => Stray::Head(table()),
        _ => Stray::Other,
    }
}

/// Tells of the entries of a leaf, or of the value that a head begins, as they are on this page alone.
///
/// # Errors
/// As [`survey`].
pub fn survey_stray<P: Pages>(
    pages: &P,
    owner: Owner,
    ptr: PagePtr,
    page: &[u8],
    surveyor: &mut dyn Surveyor,
) -> Result<(), TreeError> {
    match stray(page) {
        Stray::Leaf(table) => {
            let mut survey = Survey { reader: LargeReader { pages, owner, table }, surveyor, goes_on: true };
            let all = Todo { ptr, level: 0, low: None, high: None };
            survey.leaf(&Node::new(page), &all, &Cursor::default()).map(drop)
        }
        Stray::Head(table) => {
            let mut survey = Survey { reader: LargeReader { pages, owner, table }, surveyor, goes_on: true };
            let (key, bytes) = crate::large::value_of_head(page);
            survey.entry(key, Stored::Large(LargeRef { head: ptr, bytes }), 0).map(drop)
        }
        Stray::Other => Ok(()),
    }
}

/// What an entry of a family's directory says, if it is that of a table.
pub fn listed_table(key: &[u8], value: &[u8]) -> Option<(TableId, TreeRoot)> {
    match Listed::decode(key, value) {
        Ok(Listed::Table(id, root)) => Some((id, root)),
        _ => None,
    }
}
