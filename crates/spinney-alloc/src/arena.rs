//! Free pages lent to one transaction, which takes from them without a lock.

use crate::{
    extent_set::ExtentSet,
    words::{Extent, PageNo},
};

/// Pages reserved for one transaction. It belongs to that transaction alone, so taking a page is a
/// few instructions. Pages come out in the order of the extents, each from low to high, so what
/// one transaction writes lies side by side; only pages recycled before they were ever written go
/// first, so that churn does not eat contiguity.
#[derive(Debug, Default)]
pub struct Arena {
    /// Next to be used last, so that it can be popped.
    extents: Vec<Extent>,
    recycled: Vec<PageNo>,
    pages: u64,
}

impl Arena {
    /// An arena with nothing in it.
    pub const fn new() -> Self {
        Self { extents: Vec::new(), recycled: Vec::new(), pages: 0 }
    }

    /// Adds extents just reserved; they are used after those already here, in the order given.
    pub fn add(&mut self, extents: impl IntoIterator<Item = Extent, IntoIter: DoubleEndedIterator>) {
        let before = self.extents.len();
        self.extents.extend(extents.into_iter().rev());
        self.pages += self.extents[before..].iter().map(|e| e.pages).sum::<u64>();
        let added = self.extents.len() - before;
        self.extents.rotate_right(added);
    }

    /// One page; `None` when the arena is empty. O(1).
    #[inline]
    pub fn take_page(&mut self) -> Option<PageNo> {
        if let Some(page) = self.recycled.pop() {
            self.pages -= 1;
            return Some(page);
        }
        let last = self.extents.len().checked_sub(1)?;
        self.take_front(last, 1).map(|run| run.start)
    }

    /// `pages` adjacent pages; `None` when no extent has as many left. O(extents).
    pub fn take_run(&mut self, pages: u64) -> Option<Extent> {
        assert!(pages > 0, "a run has at least one page");
        let fits = self.extents.iter().rposition(|extent| extent.pages >= pages)?;
        self.take_front(fits, pages)
    }

    /// Takes back a page that came from here and was never written: it is the next to be taken.
    #[inline]
    pub fn recycle(&mut self, page: PageNo) {
        self.recycled.push(page);
        self.pages += 1;
    }

    /// How many pages can still be taken one by one.
    pub const fn len(&self) -> u64 {
        self.pages
    }

    /// Whether nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// Everything not taken, as few extents as possible, to be given back.
    pub fn remainder(self) -> Vec<Extent> {
        let mut left: ExtentSet = self.recycled.into_iter().map(Extent::page).collect();
        left.extend(self.extents);
        debug_assert_eq!(left.pages(), self.pages, "a page is in an arena once");
        left.iter().collect()
    }

    fn take_front(&mut self, at: usize, pages: u64) -> Option<Extent> {
        let extent = self.extents[at];
        match Extent::new(extent.start.get() + pages, extent.pages - pages) {
            Some(rest) => self.extents[at] = rest,
            None => {
                self.extents.remove(at);
            }
        }
        self.pages -= pages;
        Some(Extent { start: extent.start, pages })
    }
}

impl FromIterator<Extent> for Arena {
    fn from_iter<I: IntoIterator<Item = Extent>>(extents: I) -> Self {
        let mut arena = Self::new();
        arena.add(extents.into_iter().collect::<Vec<_>>());
        arena
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(start: u64, pages: u64) -> Extent {
        Extent::new(start, pages).unwrap()
    }

    #[test]
    fn pages_come_in_order_and_recycled_ones_first() {
        let mut arena: Arena = [extent(10, 2), extent(40, 3)].into_iter().collect();
        arena.add([extent(70, 4), extent(90, 1)]);
        assert_eq!(arena.len(), 10);
        assert_eq!(arena.take_page().unwrap().get(), 10);
        assert_eq!(arena.take_run(4), Some(extent(70, 4)), "the first extent that is long enough");
        assert_eq!(arena.take_run(4), None);
        assert_eq!(arena.take_page().unwrap().get(), 11);
        arena.recycle(PageNo::new(10).unwrap());
        assert_eq!(arena.take_page().unwrap().get(), 10);
        arena.recycle(PageNo::new(11).unwrap());
        arena.recycle(PageNo::new(10).unwrap());
        assert_eq!(arena.take_run(2), Some(extent(40, 2)));
        assert_eq!(arena.len(), 4);
        assert_eq!(arena.remainder(), vec![extent(10, 2), extent(42, 1), extent(90, 1)]);
    }

    #[test]
    fn an_empty_arena_gives_nothing() {
        let mut arena = Arena::new();
        assert!(arena.is_empty() && arena.take_page().is_none() && arena.take_run(1).is_none());
        assert_eq!(arena.remainder(), vec![]);
    }
}
