//! What a disk has, what its reader sees, and what lies between: writes that no sync covers yet.

use super::{
    blocks::{BLOCK_BYTES, Block, BlockMap, SECTOR_BYTES, place},
    random::Random,
};
use std::{io::IoSlice, ops::Range, sync::Arc};

/// The order in which changes were issued.
pub(crate) type Issue = u64;

/// Every sector of a block, as a mask.
pub(crate) const ALL_SECTORS: u8 = 0xFF;

/// New bytes of one block.
#[derive(Clone, Debug)]
pub(crate) enum Data {
    Whole(Arc<Block>),
    Part(Arc<[u8]>),
    Zeros(usize), // of a punched hole
}

impl Data {
    fn len(&self) -> usize {
        match self {
            Self::Whole(_) => BLOCK_BYTES,
            Self::Part(bytes) => bytes.len(),
            Self::Zeros(bytes) => *bytes,
        }
    }
}

/// What one piece of a call does to the file.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    Bytes { block: u64, from: usize, data: Data },
    Length(u64),
}

impl Effect {
    /// The sectors of its block that it touches; none for a change of length.
    pub(crate) fn sectors(&self) -> u8 {
        match self {
            Self::Length(_) => 0,
            Self::Bytes { from, data, .. } => sectors_of(*from..*from + data.len()),
        }
    }

    /// Lays the chosen sectors of new bytes over the file, whose length stays.
    pub(crate) fn lay_over(&self, map: &mut BlockMap, sectors: u8) {
        let Self::Bytes { block, from, data } = self else { return };
        if sectors & self.sectors() == self.sectors() {
            match data {
                Data::Whole(bytes) => return map.set(*block, Some(Arc::clone(bytes))),
                Data::Part(bytes) => return map.write_part(*block, *from, bytes),
                Data::Zeros(BLOCK_BYTES) => return map.set(*block, None),
                Data::Zeros(_) => {}
            }
        }
        let mut bytes = map.get(*block).map_or([0; BLOCK_BYTES], |block| *block.bytes());
        for sector in (0..8).filter(|sector| sectors & (1 << sector) != 0) {
            let start = (sector * SECTOR_BYTES).max(*from);
            let end = ((sector + 1) * SECTOR_BYTES).min(from + data.len());
            if start >= end {
                continue;
            }
            let source = start - from..end - from;
            match data {
                Data::Whole(new) => bytes[start..end].copy_from_slice(&new.bytes()[source]),
                Data::Part(new) => bytes[start..end].copy_from_slice(&new[source]),
                Data::Zeros(_) => bytes[start..end].fill(0),
            }
        }
        map.set(*block, Some(Block::new(bytes)));
    }

    fn hides(&self, older: &Self) -> bool {
        match (self, older) {
            (Self::Bytes { block, from, data }, Self::Bytes { block: other, from: older_from, data: older_data }) => {
                block == other && from <= older_from && older_from + older_data.len() <= from + data.len()
            }
            _ => false,
        }
    }

    fn meets(&self, older: &Self) -> bool {
        match (self, older) {
            (Self::Bytes { block, from, data }, Self::Bytes { block: other, from: older_from, data: older_data }) => {
                block == other && *from < older_from + older_data.len() && *older_from < from + data.len()
            }
            // A cut of the length takes away what was there before it, and must not take what came after.
            (Self::Bytes { block, from, data }, Self::Length(bytes)) => {
                block * BLOCK_BYTES as u64 + (from + data.len()) as u64 > *bytes
            }
            (Self::Length(_), _) => true,
        }
    }
}

/// One piece that no sync covers.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) issue: Issue,
    /// On the disk for certain, but not yet part of `durable`: something older that may or may not be there lies below it.
    pub(crate) forced: bool,
    pub(crate) effect: Effect,
}

/// A file on a disk with a volatile cache.
#[derive(Clone, Debug)]
pub(crate) struct DiskState {
    /// What reads see.
    pub(crate) live: BlockMap,
    /// What no power cut takes away.
    pub(crate) durable: BlockMap,
    /// What a power cut may or may not take away, in the order of issue.
    pub(crate) pending: Vec<Pending>,
}

impl DiskState {
    /// A file at rest.
    pub(crate) fn at_rest(durable: BlockMap) -> Self {
        Self { live: durable.clone(), durable, pending: Vec::new() }
    }

    /// The pieces of a write at this state: new length first, if any, then one piece for each block.
    pub(crate) fn effects_of_write(&self, at: u64, run: &[IoSlice<'_>], bytes: usize) -> Vec<Effect> {
        let end = at + bytes as u64;
        let mut effects = Vec::with_capacity(2 + bytes / BLOCK_BYTES);
        effects.extend(self.lengthened_to(end));
        let mut source = run.iter().flat_map(|buffer| buffer.chunks(BLOCK_BYTES)).filter(|chunk| !chunk.is_empty());
        let mut chunk: &[u8] = &[];
        let mut take = |mut into: &mut [u8]| {
            while !into.is_empty() {
                if chunk.is_empty() {
                    chunk = source.next().expect("as many bytes as the run has");
                }
                let length = chunk.len().min(into.len());
                into[..length].copy_from_slice(&chunk[..length]);
                (chunk, into) = (&chunk[length..], &mut into[length..]);
            }
        };
        for_each_block(at..end, |block, within| {
            let mut buffer = [0; BLOCK_BYTES];
            take(&mut buffer[within.clone()]);
            let from = within.start;
            let data = if within.len() == BLOCK_BYTES {
                Data::Whole(Block::new(buffer))
            } else {
                Data::Part(buffer[within].into())
            };
            effects.push(Effect::Bytes { block, from, data });
        });
        effects
    }

    /// The pieces of a punch, which never lengthens the file.
    pub(crate) fn effects_of_punch(&self, at: u64, bytes: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        for_each_block(at..at.saturating_add(bytes).min(self.live.len()), |block, within| {
            effects.push(Effect::Bytes { block, from: within.start, data: Data::Zeros(within.len()) });
        });
        effects
    }

    /// The change of length that a write or an allocation up to `end` makes. Asked of what a sync would make durable, not of what
    /// reads see: after a failed sync dropped a change of length, the next write that needs it brings it up again.
    pub(crate) fn lengthened_to(&self, end: u64) -> Option<Effect> {
        (end > self.pending_len()).then(|| Effect::Length(end.max(self.live.len())))
    }

    fn pending_len(&self) -> u64 {
        let last = self.pending.iter().rev().find_map(|piece| match piece.effect {
            Effect::Length(bytes) => Some(bytes),
            Effect::Bytes { .. } => None,
        });
        last.unwrap_or(self.durable.len())
    }

    /// Does a call: visible at once, pending until synced.
    pub(crate) fn issue(&mut self, issue: Issue, effects: impl IntoIterator<Item = Effect>) {
        for effect in effects {
            match &effect {
                Effect::Length(bytes) => self.live.set_len(*bytes),
                bytes => bytes.lay_over(&mut self.live, ALL_SECTORS),
            }
            self.pending.push(Pending { issue, forced: false, effect });
        }
    }

    /// A sync that began when `before` was the next issue has succeeded.
    pub(crate) fn synced(&mut self, before: Issue) {
        let (covered, left) = self.pending.drain(..).partition::<Vec<_>, _>(|piece| piece.issue < before);
        self.pending = left;
        for piece in covered {
            apply(&mut self.durable, &piece.effect);
        }
    }

    /// A sync that began when `before` was the next issue has failed: some of what it covered is durable, the rest is
    /// forgotten by the disk while reads go on to see it.
    pub(crate) fn sync_failed(&mut self, before: Issue, seed: u64) {
        self.lose_some(seed, |piece| piece.issue < before);
    }

    /// A durable write has succeeded: its own range is durable, and the length it needs; nothing else is.
    pub(crate) fn write_synced(&mut self, issue: Issue) {
        let end = self.pending.iter().filter(|piece| piece.issue == issue).filter_map(|piece| match &piece.effect {
            Effect::Bytes { block, from, data } => Some(block * BLOCK_BYTES as u64 + (from + data.len()) as u64),
            Effect::Length(_) => None,
        });
        let needs_len = end.max().is_some_and(|end| end > self.durable.len());
        for piece in self.pending.iter_mut().filter(|piece| piece.issue <= issue) {
            let is_length = matches!(piece.effect, Effect::Length(_));
            piece.forced |= if is_length { needs_len } else { piece.issue == issue };
        }
        self.settle();
    }

    /// A durable write has failed: any part of its range may be durable, the rest is forgotten by the disk.
    pub(crate) fn write_sync_failed(&mut self, issue: Issue, seed: u64) {
        self.lose_some(seed, |piece| piece.issue == issue && !piece.forced);
    }

    /// What a power cut leaves at best.
    pub(crate) fn with_all_pending(&self) -> BlockMap {
        self.with_pending(|_| true)
    }

    /// What a power cut leaves at worst.
    pub(crate) fn with_no_pending(&self) -> BlockMap {
        self.with_pending(|piece| piece.forced)
    }

    fn with_pending(&self, kept: impl Fn(&Pending) -> bool) -> BlockMap {
        let mut map = self.durable.clone();
        for piece in self.pending.iter().filter(|piece| kept(piece)) {
            apply(&mut map, &piece.effect);
        }
        map.set_len(map.len()); // a piece may lie beyond a length that was not kept
        map
    }

    /// Clean cached bytes of a range, and the length, are read anew from the disk; dirty ones stay.
    pub(crate) fn drop_cache(&mut self, at: u64, bytes: u64) {
        let on_disk = self.with_all_pending();
        let length = self.live.len();
        self.live.set_len(on_disk.len());
        // What the length had hidden was not cached.
        self.read_anew(&on_disk, length, on_disk.len());
        self.read_anew(&on_disk, at, at.saturating_add(bytes).min(on_disk.len()));
    }

    fn read_anew(&mut self, on_disk: &BlockMap, from: u64, to: u64) {
        let mut at = from;
        while at < to {
            let (index, within) = place(at);
            let count = (to - at).min((BLOCK_BYTES - within) as u64);
            // A block that was allocated stays so, whatever the disk has in it.
            if self.live.get(index).is_some() || on_disk.get(index).is_some() {
                let mut part = vec![0; usize::try_from(count).expect("within a block")];
                on_disk.read(at, &mut part);
                self.live.write_part(index, within, &part);
            }
            at += count;
        }
    }

    /// Of the pieces that the predicate names, a random part becomes durable and the rest is forgotten.
    fn lose_some(&mut self, seed: u64, named: impl Fn(&Pending) -> bool) {
        let mut random = Random::new(seed);
        let lengths =
            self.pending.iter().filter(|piece| named(piece) && matches!(piece.effect, Effect::Length(_))).count();
        let mut lengths_kept = random.index(lengths + 1);
        self.pending.retain_mut(|piece| {
            if piece.forced || !named(piece) {
                return true;
            }
            piece.forced = match piece.effect {
                // Lengths reach the disk in order.
                Effect::Length(_) if lengths_kept > 0 => {
                    lengths_kept -= 1;
                    true
                }
                Effect::Length(_) => false,
                Effect::Bytes { .. } => random.chance(4),
            };
            piece.forced
        });
        self.settle();
        self.durable.set_len(self.durable.len()); // bytes beyond a length that was forgotten are gone with it
    }

    /// Moves forced pieces into `durable` where nothing uncertain lies below them.
    fn settle(&mut self) {
        let mut left: Vec<Pending> = Vec::with_capacity(self.pending.len());
        for piece in self.pending.drain(..) {
            if !piece.forced {
                left.push(piece);
                continue;
            }
            // What it overwrites wholly can not show again.
            left.retain(|older| older.forced || !piece.effect.hides(&older.effect));
            let free = match piece.effect {
                // A longer file shows what pending writes put there as soon as they are there; a cut removes some of it.
                Effect::Length(bytes) => {
                    bytes >= self.durable.len() && !left.iter().any(|older| matches!(older.effect, Effect::Length(_)))
                }
                Effect::Bytes { .. } => !left.iter().any(|older| piece.effect.meets(&older.effect)),
            };
            if free {
                apply(&mut self.durable, &piece.effect);
            } else {
                left.push(piece);
            }
        }
        self.pending = left;
    }
}

/// Does one piece to a file, all of it.
pub(crate) fn apply(map: &mut BlockMap, effect: &Effect) {
    match effect {
        Effect::Length(bytes) => map.set_len(*bytes),
        bytes => bytes.lay_over(map, ALL_SECTORS),
    }
}

fn sectors_of(range: Range<usize>) -> u8 {
    (range.start / SECTOR_BYTES..range.end.div_ceil(SECTOR_BYTES)).fold(0, |mask, sector| mask | 1 << sector)
}

/// Calls with every block of a range and the range inside it.
fn for_each_block(range: Range<u64>, mut each: impl FnMut(u64, Range<usize>)) {
    let mut here = range.start;
    while here < range.end {
        let (block, from) = place(here);
        let length = usize::try_from(range.end - here).map_or(BLOCK_BYTES - from, |left| left.min(BLOCK_BYTES - from));
        each(block, from..from + length);
        here += length as u64;
    }
}
