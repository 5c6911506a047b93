//! The log's blocks: extents of the file, one after the other, as a ring.

use spinney_alloc::Extent;

/// The unit of the log. A group begins at a block and is padded to a whole number of them, so that no acknowledged
/// byte shares a sector with a later write.
pub(crate) const BLOCK_BYTES: u64 = 4096;

/// A log is never larger: a file that says so is hostile.
pub(crate) const LOG_BLOCKS_MAX: u64 = 1 << 19;

/// The extents that form the log. It grows at its end only, and only by the record of a checkpoint, so a block's index never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RingLayout {
    extents: Vec<Extent>,
    page_bytes: u32,
    blocks: u64,
}

impl RingLayout {
    /// As many as a superblock lists.
    pub(crate) const EXTENTS_MAX: usize = 24;

    /// `None` when there is no extent, too many, two that overlap, or an absurd size.
    pub(crate) fn new(extents: Vec<Extent>, page_bytes: u32) -> Option<Self> {
        if extents.is_empty() || extents.len() > Self::EXTENTS_MAX {
            return None;
        }
        let mut sorted = extents.clone();
        sorted.sort_unstable_by_key(|extent| extent.start);
        if sorted.windows(2).any(|pair| pair[0].end() > pair[1].start.get()) {
            return None;
        }
        let per_page = u64::from(page_bytes) / BLOCK_BYTES;
        let blocks = extents.iter().try_fold(0u64, |sum, e| sum.checked_add(e.pages.checked_mul(per_page)?))?;
        (blocks <= LOG_BLOCKS_MAX).then_some(Self { extents, page_bytes, blocks })
    }

    pub(crate) fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// How many blocks the ring has.
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The block `blocks` after `block`.
    pub(crate) fn after(&self, block: u64, blocks: u64) -> u64 {
        (block + blocks) % self.blocks
    }

    /// Blocks from `from` up to, not including, `to`.
    pub(crate) fn distance(&self, from: u64, to: u64) -> u64 {
        (to + self.blocks - from) % self.blocks
    }

    /// The byte ranges of the file that `blocks` blocks from `block` on occupy, in order: one unless an
    /// extent ends in between.
    pub(crate) fn pieces(&self, block: u64, blocks: u64) -> Vec<(u64, u64)> {
        let per_page = u64::from(self.page_bytes) / BLOCK_BYTES;
        let mut pieces: Vec<(u64, u64)> = Vec::with_capacity(1);
        let (mut at, mut left) = (block % self.blocks, blocks);
        while left > 0 {
            let mut first = 0;
            for extent in &self.extents {
                let len = extent.pages * per_page;
                if at < first + len {
                    let take = left.min(first + len - at);
                    let start = extent.start.get() * u64::from(self.page_bytes) + (at - first) * BLOCK_BYTES;
                    match pieces.last_mut() {
                        Some((from, bytes)) if *from + *bytes == start => *bytes += take * BLOCK_BYTES,
                        _ => pieces.push((start, take * BLOCK_BYTES)),
                    }
                    at = (at + take) % self.blocks;
                    left -= take;
                    break;
                }
                first += len;
            }
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_follow_the_extents_and_wrap() {
        let ring = RingLayout::new(vec![Extent::new(6, 4).unwrap(), Extent::new(20, 2).unwrap()], 4096).unwrap();
        assert_eq!(ring.blocks(), 6);
        assert_eq!(ring.pieces(0, 4), [(6 * 4096, 4 * 4096)]);
        assert_eq!(ring.pieces(3, 4), [(9 * 4096, 4096), (20 * 4096, 2 * 4096), (6 * 4096, 4096)]);
        assert_eq!(ring.distance(5, 1), 2);
        let wide = RingLayout::new(vec![Extent::new(2, 1).unwrap()], 16384).unwrap();
        assert_eq!(wide.pieces(1, 2), [(2 * 16384 + 4096, 8192)]);
        let twice = vec![Extent::new(20, 4).unwrap(), Extent::new(6, 15).unwrap()];
        assert_eq!(RingLayout::new(twice, 4096), None, "page 20 twice");
    }
}
