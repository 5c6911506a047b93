//! One bit per page of a region, set when the page is in use, searched a word at a time.

use std::ops::Range;

const BITS: u32 = u64::BITS;

/// The bits of one region. Bit `i % 64` of word `i / 64` is page `i`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Bitmap {
    words: Box<[u64]>,
}

impl Bitmap {
    /// `pages` (a multiple of 64) bits, the first `in_use` of them set.
    pub(crate) fn new(pages: u32, in_use: u32) -> Self {
        let mut map = Self { words: vec![0; (pages / BITS) as usize].into() };
        map.set(0..in_use);
        map
    }

    /// From a page's payload, little-endian words. Bytes after the last word are not looked at.
    pub(crate) fn from_bytes(pages: u32, bytes: &[u8]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        Self { words: words[..(pages / BITS) as usize].iter().map(|word| u64::from_le_bytes(*word)).collect() }
    }

    /// Into a page's payload.
    pub(crate) fn write_to(&self, bytes: &mut [u8]) {
        let (words, _) = bytes.as_chunks_mut::<8>();
        for (to, word) in words.iter_mut().zip(&self.words) {
            *to = word.to_le_bytes();
        }
    }

    /// Sets all bits of `range`; returns how many were not set before.
    pub(crate) fn set(&mut self, range: Range<u32>) -> u32 {
        masks(range)
            .map(|(word, mask)| {
                let added = mask & !self.words[word];
                self.words[word] |= mask;
                added.count_ones()
            })
            .sum()
    }

    /// Clears all bits of `range`; returns how many were set before.
    pub(crate) fn clear(&mut self, range: Range<u32>) -> u32 {
        masks(range)
            .map(|(word, mask)| {
                let removed = mask & self.words[word];
                self.words[word] &= !mask;
                removed.count_ones()
            })
            .sum()
    }

    /// How many bits of `range` are set.
    pub(crate) fn count(&self, range: Range<u32>) -> u32 {
        masks(range).map(|(word, mask)| (mask & self.words[word]).count_ones()).sum()
    }

    /// The first page of `from..limit` that is free.
    pub(crate) fn next_free(&self, from: u32, limit: u32) -> Option<u32> {
        self.next(from, limit, u64::MAX)
    }

    /// The first page of `from..limit` that is in use, or `limit`.
    pub(crate) fn next_in_use(&self, from: u32, limit: u32) -> u32 {
        self.next(from, limit, 0).unwrap_or(limit)
    }

    /// The free runs of `from..limit`, in order.
    pub(crate) fn free_runs(&self, from: u32, limit: u32) -> impl Iterator<Item = Range<u32>> + '_ {
        let mut from = from;
        std::iter::from_fn(move || {
            let start = self.next_free(from, limit)?;
            from = self.next_in_use(start, limit);
            Some(start..from)
        })
    }

    /// The runs in use in `range`, in order.
    pub(crate) fn used_runs(&self, range: Range<u32>) -> impl Iterator<Item = Range<u32>> + '_ {
        let mut from = range.start;
        std::iter::from_fn(move || {
            let start = self.next_in_use(from, range.end);
            from = self.next_free(start, range.end).unwrap_or(range.end);
            (start < range.end).then_some(start..from)
        })
    }

    /// The first run of at least `pages` free pages below `limit`, or the length of the longest.
    pub(crate) fn first_fit(&self, pages: u32, limit: u32) -> Result<Range<u32>, u32> {
        let mut longest = 0;
        for run in self.free_runs(0, limit) {
            if run.end - run.start >= pages {
                return Ok(run);
            }
            longest = longest.max(run.end - run.start);
        }
        Err(longest)
    }

    /// The longest run of free pages below `limit`, the lowest of equals; empty when none is free.
    pub(crate) fn longest(&self, limit: u32) -> Range<u32> {
        self.free_runs(0, limit).fold(0..0, |best, run| if run.len() > best.len() { run } else { best })
    }

    /// Where the run of free pages that ends before `end` starts; `end` when the page before it is
    /// in use.
    pub(crate) fn free_run_before(&self, end: u32) -> u32 {
        if end == 0 {
            return 0;
        }
        let last = (end - 1) / BITS;
        let below = u64::MAX >> (BITS - 1 - (end - 1) % BITS);
        for word in (0..=last).rev() {
            let in_use = self.words[word as usize] & if word == last { below } else { u64::MAX };
            if in_use != 0 {
                return (word + 1) * BITS - in_use.leading_zeros();
            }
        }
        0
    }

    /// The page after the last one in use.
    pub(crate) fn used_end(&self) -> u32 {
        self.free_run_before(u32::try_from(self.words.len()).expect("a region's words") * BITS)
    }

    /// The first bit of `from..limit` that is set once each word was xored with `flip`.
    fn next(&self, from: u32, limit: u32, flip: u64) -> Option<u32> {
        if from >= limit {
            return None;
        }
        let first = from / BITS;
        let above = u64::MAX << (from % BITS);
        for word in first..=(limit - 1) / BITS {
            let found = (self.words[word as usize] ^ flip) & if word == first { above } else { u64::MAX };
            if found != 0 {
                return Some(word * BITS + found.trailing_zeros()).filter(|&bit| bit < limit);
            }
        }
        None
    }
}

/// The words `range` touches, each with the bits of it.
fn masks(range: Range<u32>) -> impl Iterator<Item = (usize, u64)> {
    let Range { start, end } = range;
    let words = if start < end { start / BITS..(end - 1) / BITS + 1 } else { 0..0 };
    words.map(move |word| {
        let low = start.saturating_sub(word * BITS);
        let high = (end - 1 - word * BITS).min(BITS - 1);
        (word as usize, (u64::MAX << low) & (u64::MAX >> (BITS - 1 - high)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGES: u32 = 256;

    fn runs(model: &[bool], limit: u32) -> Vec<Range<u32>> {
        let mut runs: Vec<Range<u32>> = Vec::new();
        for page in (0..limit).filter(|&p| !model[p as usize]) {
            match runs.last_mut() {
                Some(run) if run.end == page => run.end += 1,
                _ => runs.push(page..page + 1),
            }
        }
        runs
    }

    proptest! {
        #[test]
        fn it_is_a_vector_of_bool(
            ops in proptest::collection::vec((any::<bool>(), 0..PAGES, 0..90_u32), 1..60),
            limit in 1..=PAGES, want in 1..80_u32,
        ) {
            let mut map = Bitmap::new(PAGES, 0);
            let mut model = vec![false; PAGES as usize];
            for (set, start, pages) in ops {
                let range = start..(start + pages).min(PAGES);
                let set_before = range.clone().filter(|&p| model[p as usize]).count();
                prop_assert_eq!(map.count(range.clone()) as usize, set_before);
                let changed = if set { map.set(range.clone()) } else { map.clear(range.clone()) };
                prop_assert_eq!(changed as usize, if set { range.len() - set_before } else { set_before });
                range.for_each(|p| model[p as usize] = set);
            }
            let free = runs(&model, limit);
            prop_assert_eq!(map.free_runs(0, limit).collect::<Vec<_>>(), free.clone());
            let longest = free.iter().map(|r| r.end - r.start).max().unwrap_or(0);
            prop_assert_eq!(map.longest(limit).len(), longest as usize);
            let fit = free.iter().find(|r| r.end - r.start >= want).cloned().ok_or(longest);
            prop_assert_eq!(map.first_fit(want, limit), fit);
            let before = free.last().filter(|r| r.end == limit).map_or(limit, |r| r.start);
            prop_assert_eq!(map.free_run_before(limit), before);
            let end = model.iter().rposition(|&b| b).map_or(0, |p| p + 1);
            prop_assert_eq!(map.used_end() as usize, end);
            let used: Vec<u32> = map.used_runs(3..limit.max(3)).flatten().collect();
            prop_assert_eq!(used, (3..limit).filter(|&p| model[p as usize]).collect::<Vec<_>>());
            let mut bytes = [0xA5; PAGES as usize / 8 + 3];
            map.write_to(&mut bytes);
            prop_assert!(Bitmap::from_bytes(PAGES, &bytes) == map);
            prop_assert_eq!(bytes[PAGES as usize / 8], 0xA5);
        }
    }
}
