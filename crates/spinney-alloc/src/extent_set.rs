//! A set of pages, kept as sorted runs that join when they touch.

use crate::words::{Extent, PageNo};
use std::{collections::BTreeMap, fmt};

/// A sorted set of pages that stores runs: neighbours join, removal splits.
/// Each operation costs O(log runs) and the runs it swallows.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ExtentSet {
    /// First page of a run -> the page number after its last.
    runs: BTreeMap<u64, u64>,
    pages: u64,
}

impl ExtentSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self { runs: BTreeMap::new(), pages: 0 }
    }

    /// Adds every page of `extent`; pages that are there already stay.
    pub fn insert(&mut self, extent: Extent) {
        let (mut start, mut end) = (extent.start.get(), extent.end());
        // The usual case of a writer that takes one page after the other.
        if let Some((&s, e)) = self.runs.range_mut(..=start).next_back()
            && *e >= start
        {
            if *e >= end {
                return;
            }
            start = s;
        }
        while let Some((&s, &e)) = self.runs.range(start..=end).next() {
            self.runs.remove(&s);
            self.pages -= e - s;
            end = end.max(e);
        }
        self.runs.insert(start, end);
        self.pages += end - start;
    }

    /// Takes `extent` out if all of it is there; otherwise changes nothing and returns `false`.
    pub fn remove(&mut self, extent: Extent) -> bool {
        let (start, end) = (extent.start.get(), extent.end());
        match self.run_at(start) {
            Some((s, e)) if end <= e => {
                self.cut(s, e, start, end);
                true
            }
            _ => false,
        }
    }

    /// Takes out whatever the set has of `extent`.
    pub fn subtract(&mut self, extent: Extent) {
        let (start, end) = (extent.start.get(), extent.end());
        if let Some((s, e)) = self.run_at(start) {
            self.cut(s, e, start, end.min(e));
        }
        while let Some((&s, &e)) = self.runs.range(start..end).next() {
            self.cut(s, e, s, end.min(e));
        }
    }

    /// Whether `page` is in the set.
    pub fn contains(&self, page: PageNo) -> bool {
        self.run_at(page.get()).is_some()
    }

    /// Whether any page of `extent` is in the set.
    pub fn overlaps(&self, extent: Extent) -> bool {
        self.runs.range(..extent.end()).next_back().is_some_and(|(_, &end)| end > extent.start.get())
    }

    /// The runs of `extent` that are *not* in the set, in order.
    pub fn gaps(&self, extent: Extent) -> Vec<Extent> {
        let mut gaps = Vec::new();
        let mut from = self.run_at(extent.start.get()).map_or(extent.start.get(), |(_, end)| end);
        for (&start, &end) in self.runs.range(from..extent.end().max(from)) {
            gaps.extend(Extent::new(from, start - from));
            from = end;
        }
        gaps.extend(Extent::new(from, extent.end().saturating_sub(from)));
        gaps
    }

    /// The runs in order: as few extents as there can be.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Extent> + '_ {
        self.runs.iter().filter_map(|(&start, &end)| Extent::new(start, end - start))
    }

    /// How many pages are in the set.
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// How many runs the set has.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Whether the set has no page.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Takes every page out.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.pages = 0;
    }

    fn run_at(&self, page: u64) -> Option<(u64, u64)> {
        self.runs.range(..=page).next_back().map(|(&s, &e)| (s, e)).filter(|&(_, end)| page < end)
    }

    /// Takes `start..end` out of the run `s..e` around it.
    fn cut(&mut self, s: u64, e: u64, start: u64, end: u64) {
        self.runs.remove(&s);
        if s < start {
            self.runs.insert(s, start);
        }
        if end < e {
            self.runs.insert(end, e);
        }
        self.pages -= end - start;
    }
}

impl Extend<Extent> for ExtentSet {
    fn extend<I: IntoIterator<Item = Extent>>(&mut self, extents: I) {
        extents.into_iter().for_each(|extent| self.insert(extent));
    }
}

impl FromIterator<Extent> for ExtentSet {
    fn from_iter<I: IntoIterator<Item = Extent>>(extents: I) -> Self {
        let mut set = Self::new();
        set.extend(extents);
        set
    }
}

impl fmt::Debug for ExtentSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u64, u64),
        Remove(u64, u64),
        Subtract(u64, u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        let extent = || (1..60_u64, 1..12_u64);
        prop_oneof![
            3 => extent().prop_map(|(s, n)| Op::Insert(s, n)),
            2 => extent().prop_map(|(s, n)| Op::Remove(s, n)),
            1 => extent().prop_map(|(s, n)| Op::Subtract(s, n)),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_set_of_pages(ops in proptest::collection::vec(op(), 1..80)) {
            let mut set = ExtentSet::new();
            let mut model = BTreeSet::new();
            for op in ops {
                match op {
                    Op::Insert(s, n) => {
                        set.insert(Extent::new(s, n).unwrap());
                        model.extend(s..s + n);
                    }
                    Op::Remove(s, n) => {
                        let all = (s..s + n).all(|p| model.contains(&p));
                        prop_assert_eq!(set.remove(Extent::new(s, n).unwrap()), all);
                        if all {
                            model.retain(|p| !(s..s + n).contains(p));
                        }
                    }
                    Op::Subtract(s, n) => {
                        set.subtract(Extent::new(s, n).unwrap());
                        model.retain(|p| !(s..s + n).contains(p));
                    }
                }
                let pages: Vec<u64> = set.iter().flat_map(|e| e.start.get()..e.end()).collect();
                prop_assert_eq!(&pages, &model.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(set.pages(), pages.len() as u64);
                let runs: Vec<Extent> = set.iter().collect();
                prop_assert!(runs.windows(2).all(|w| w[0].end() < w[1].start.get()), "runs join: {:?}", set);
                let window = Extent::new(20, 15).unwrap();
                let gaps: Vec<u64> = set.gaps(window).iter().flat_map(|e| e.start.get()..e.end()).collect();
                let missing: Vec<u64> = (20..35).filter(|p| !model.contains(p)).collect();
                prop_assert_eq!(set.overlaps(window), missing.len() < 15);
                prop_assert_eq!(gaps, missing);
                prop_assert_eq!(set.contains(PageNo::new(25).unwrap()), model.contains(&25));
            }
        }
    }
}
