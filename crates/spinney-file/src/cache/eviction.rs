//! Who leaves the cache when it is full: S3-FIFO over pages, and superseded pages before all others.
//!
//! ```text
//!   new ---> [probation] --used again--> [main] --not used since--> out
//!                 |        10 % of room     ^
//!                 +--> out, remembered -----+ comes back soon: straight to main
//! ```
//! A scan passes through probation and leaves the main queue alone. Hits touch two bits of the frame and none of
//! this; the queues change under the cache's lock, on insertion and eviction only.
//!
//! A queue entry may outlive its frame (a page that was freed, replaced or promoted by way of another queue). It is
//! recognised by its ticket when its turn comes, and swept before such entries outnumber the frames.
//!
//! Source: Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023.

use super::{
    frame::{Frame, Place},
    slot::Pin,
    table::Table,
};
use crate::{
    PageNo, PagePtr,
    budget::{Budget, Charge},
};
use std::collections::VecDeque;

/// Part of the room that pages on probation keep, as a divisor.
const PROBATION_SHARE: u64 = 10;
/// Uses beyond its load that take a page from probation to main. More than one, because one operation may well look
/// at the same page twice.
const USED_TO_PROMOTE: u8 = 2;
/// Stale queue entries tolerated beside one for every frame.
const STALE_MIN: usize = 64;

#[derive(Clone, Copy)]
struct Entry {
    page: PageNo,
    ticket: u64,
}

/// One of the queues, and the bytes of the frames in it.
#[derive(Default)]
struct Queue {
    entries: VecDeque<Entry>,
    bytes: u64,
}

/// The queues. Always: every frame of the table is counted in the queue of its place, and has one entry there.
#[derive(Default)]
pub(super) struct Eviction {
    probation: Queue,
    main: Queue,
    superseded: Queue,
    frame_count: usize,
    ticket_last: u64,
    ghosts: Ghosts,
}

impl Eviction {
    /// A number for a new frame.
    pub(super) fn ticket(&mut self) -> u64 {
        self.ticket_last += 1;
        self.ticket_last
    }

    /// Frames in all queues.
    pub(super) fn frame_count(&self) -> usize {
        self.frame_count
    }

    /// Entries in all queues, stale ones included.
    pub(super) fn entry_count(&self) -> usize {
        self.probation.entries.len() + self.main.entries.len() + self.superseded.entries.len()
    }

    /// Queues a frame that has been put into the table.
    pub(super) fn admit(&mut self, frame: &Frame, budget: &Budget) {
        self.frame_count += 1;
        self.ghosts.grow_to(self.frame_count, budget);
        let place = if self.ghosts.forget(frame.ptr) { Place::Main } else { Place::Probation };
        self.enqueue(frame, place);
    }

    /// Forgets a frame that has been taken out of the table, for whatever reason.
    pub(super) fn forget(&mut self, frame: &Frame, table: &Table, pin: &Pin) {
        self.queue(frame.place()).bytes -= frame.cost();
        self.frame_count -= 1;
        self.sweep_if_stale(table, pin);
    }

    /// Puts a frame first in line: no new reader will come for it.
    pub(super) fn supersede(&mut self, frame: &Frame, table: &Table, pin: &Pin) {
        if frame.place() != Place::Superseded {
            self.queue(frame.place()).bytes -= frame.cost();
            self.enqueue(frame, Place::Superseded);
            self.sweep_if_stale(table, pin);
        }
    }

    /// The frame to evict next, still in the table and in its queue's count. `None` if there are none.
    pub(super) fn victim<'p>(&mut self, room: u64, table: &Table, pin: &'p Pin) -> Option<&'p Frame> {
        // Readers may use pages as fast as this passes over them; after each has had its chances, the next one goes.
        let mut patience = self.frame_count * usize::from(Frame::USED_MAX + 2);
        loop {
            let place = if self.superseded.bytes > 0 {
                Place::Superseded
            } else if self.probation.bytes > 0
                && (self.probation.bytes > room / PROBATION_SHARE || self.main.bytes == 0)
            {
                Place::Probation
            } else {
                Place::Main
            };
            let entry = self.queue(place).entries.pop_front()?;
            let Some(frame) = current(entry, place, table, pin) else { continue };
            patience = patience.saturating_sub(1);
            match place {
                Place::Probation if frame.used() >= USED_TO_PROMOTE && patience > 0 => {
                    frame.set_used(0);
                    self.probation.bytes -= frame.cost();
                    self.enqueue(frame, Place::Main);
                }
                Place::Main if frame.used() > 0 && patience > 0 => {
                    frame.set_used(frame.used() - 1);
                    self.main.entries.push_back(entry);
                }
                Place::Probation => {
                    self.ghosts.remember(frame.ptr);
                    return Some(frame);
                }
                Place::Main | Place::Superseded => return Some(frame),
            }
        }
    }

    fn queue(&mut self, place: Place) -> &mut Queue {
        match place {
            Place::Probation => &mut self.probation,
            Place::Main => &mut self.main,
            Place::Superseded => &mut self.superseded,
        }
    }

    fn enqueue(&mut self, frame: &Frame, place: Place) {
        frame.set_place(place);
        let queue = self.queue(place);
        queue.entries.push_back(Entry { page: frame.ptr.page, ticket: frame.ticket });
        queue.bytes += frame.cost();
    }

    /// Costs O(entries), once for as many changes.
    fn sweep_if_stale(&mut self, table: &Table, pin: &Pin) {
        if self.entry_count() > 2 * self.frame_count + STALE_MIN {
            for place in [Place::Probation, Place::Main, Place::Superseded] {
                let entries = &mut self.queue(place).entries;
                entries.retain(|&entry| current(entry, place, table, pin).is_some());
                entries.shrink_to(2 * entries.len());
            }
        }
    }
}

/// The frame that an entry was made for, if it is still there and still in this queue.
fn current<'p>(entry: Entry, place: Place, table: &Table, pin: &'p Pin) -> Option<&'p Frame> {
    table.find(entry.page, pin).filter(|frame| frame.ticket == entry.ticket && frame.place() == place)
}

/// Pages lately evicted from probation: about as many as there are frames, four bytes each.
///
/// A table without chains: a newer page overwrites an older one that falls on the same entry, which is how old ones
/// get forgotten. A wrong guess costs a page an undeserved stay in main, nothing else.
#[derive(Default)]
struct Ghosts {
    fingerprints: Vec<u32>,
}

impl Ghosts {
    const COUNT_MIN: usize = 16;

    fn grow_to(&mut self, frame_count: usize, budget: &Budget) {
        if self.fingerprints.len() < frame_count {
            let count = frame_count.next_power_of_two().max(Self::COUNT_MIN);
            budget.charge(Charge::Nodes, 4 * (count - self.fingerprints.len()) as u64);
            self.fingerprints = vec![0; count];
        }
    }

    fn remember(&mut self, ptr: PagePtr) {
        let (at, fingerprint) = self.place_of(ptr);
        self.fingerprints[at] = fingerprint;
    }

    fn forget(&mut self, ptr: PagePtr) -> bool {
        let (at, fingerprint) = self.place_of(ptr);
        let known = self.fingerprints[at] == fingerprint;
        if known {
            self.fingerprints[at] = 0;
        }
        known
    }

    /// Where a page is remembered, and as what; never as 0.
    #[expect(clippy::cast_possible_truncation, reason = "parts of a hash")]
    fn place_of(&self, ptr: PagePtr) -> (usize, u32) {
        // Fibonacci hashing (Knuth, TAOCP 6.4): the upper bits are the mixed ones.
        let hash = (ptr.page.get() ^ ptr.stamp.0.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let hash = (hash ^ hash >> 32).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((hash >> 32) as usize & (self.fingerprints.len() - 1), hash as u32 | 1)
    }
}
