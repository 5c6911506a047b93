//! What a writer of an owner leaves for the next one: the rest of its arena, and numbers of pages that nobody will look at much
//! longer.
//!
//! Small commits make and supersede the same few pages again and again. Their numbers circulate here, without the shared map and
//! without contiguity being eaten: fresh pages that a commit superseded wait until that commit is visible, no snapshot reaches
//! them and no write of them is under way (rules 10 and 12), and are then the first to be taken.

use crate::{engine::Engine, options::Sabotage, page::PagePtr};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use spinney_alloc::{Arena, Extent, Freed, Owner, Protect, Seq, Stamp};
use std::{collections::VecDeque, sync::atomic::Ordering};

/// The largest rest of an arena that is left to the next writer, in pages.
pub(crate) const KEPT_PAGES_MAX: u64 = 256;
/// Owners with a desk. Beyond, the one used least lately is cleared.
const DESKS_MAX: usize = 48;

/// Pages that were superseded before any map knew them.
#[derive(Clone, Copy, Debug)]
struct Limbo {
    freed: Freed,
    /// The first stamp of the transaction that freed it, and its commit.
    death: Stamp,
    seq: Seq,
    /// Not before so many rounds of writing are finished.
    round: u64,
}

/// See the module. Belongs to whoever holds the owner's slot.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    pub(crate) arena: Arena,
    /// How many pages the next transaction probably asks for.
    pub(crate) appetite: u64,
    limbo: VecDeque<Limbo>,
    /// A snapshot reached these when they were looked at last.
    held: Vec<Limbo>,
    held_checked: u64,
    used: u64,
}

impl Desk {
    /// A commit superseded fresh pages.
    pub(crate) fn add(&mut self, freed: &[Freed], death: Stamp, seq: Seq, round: u64) {
        self.limbo.extend(freed.iter().map(|&freed| Limbo { freed, death, seq, round }));
    }

    fn is_empty(&self) -> bool {
        self.appetite == 0 && self.arena.is_empty() && self.limbo.is_empty() && self.held.is_empty()
    }

    /// Takes back the numbers that nobody needs any more.
    fn settle(&mut self, engine: &Engine, owner: Owner) {
        if self.limbo.is_empty() && self.held.is_empty() {
            return;
        }
        let mut free = Vec::new();
        self.collect(engine, owner, &mut free);
        engine.drop_unwritten(&free);
        for extent in free {
            match extent.pages {
                1 => self.arena.recycle(extent.start),
                _ => self.arena.add([extent]),
            }
        }
    }

    /// Moves to `free` what nobody needs any more.
    fn collect(&mut self, engine: &Engine, owner: Owner, free: &mut Vec<Extent>) {
        if engine.options.broken(Sabotage::GrantsFreshAtOnce) {
            free.extend(self.limbo.drain(..).map(|limbo| limbo.freed.extent));
        }
        let ended = engine.readers.ended_count();
        let visible = engine.pipeline.visible_seq();
        let rounds = engine.pipeline.rounds_finished();
        let mut hold = Vec::new();
        while let Some(limbo) = self.limbo.pop_front_if(|limbo| limbo.seq <= visible && limbo.round <= rounds) {
            match engine.holder(owner, limbo.freed.birth, limbo.death) {
                None => free.push(limbo.freed.extent),
                Some(_) => hold.push(limbo),
            }
        }
        if self.held_checked != ended && !self.held.is_empty() {
            self.held.retain(|limbo| {
                let is_held = limbo.round > rounds || engine.holder(owner, limbo.freed.birth, limbo.death).is_some();
                if !is_held {
                    free.push(limbo.freed.extent);
                }
                is_held
            });
        }
        self.held_checked = ended;
        if !hold.is_empty() {
            // They leave memory with the next pages that are written.
            let pages = hold.iter().filter(|limbo| limbo.freed.extent.pages == 1);
            let round = engine
                .pipeline
                .write_held(pages.map(|limbo| PagePtr { page: limbo.freed.extent.start, stamp: limbo.freed.birth }));
            self.held.extend(hold.into_iter().map(|limbo| Limbo { round, ..limbo }));
            // Whoever was only just registering may have gone already, untold.
            self.held_checked = ended.wrapping_sub(1);
        }
    }
}

/// Desks of the owners written lately.
#[derive(Debug, Default)]
pub(crate) struct Desks {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    desks: FxHashMap<Owner, Desk>,
    /// What hangs on snapshots and has no desk any more.
    orphans: FxHashMap<Owner, Desk>,
    clock: u64,
}

impl Engine {
    /// The desk of `owner`, whose slot the caller holds.
    pub(crate) fn take_desk(&self, owner: Owner) -> Desk {
        let mut desk = self.desks.state.lock().desks.remove(&owner).unwrap_or_default();
        desk.settle(self, owner);
        desk
    }

    /// Leaves a desk for the next writer.
    pub(crate) fn leave_desk(&self, owner: Owner, mut desk: Desk) {
        if desk.is_empty() {
            return;
        }
        if self.space.is_tight() {
            // The next writer may be one that adds, and these may be of the pages that are kept for removing.
            return self.clear_desk(owner, desk);
        }
        let cleared = {
            let mut state = self.desks.state.lock();
            state.clock += 1;
            desk.used = state.clock;
            let other = state.desks.insert(owner, desk);
            assert!(other.is_none(), "one writer per owner, so one desk");
            if state.desks.len() > DESKS_MAX {
                let oldest = state.desks.iter().min_by_key(|(_, desk)| desk.used).map(|(&owner, _)| owner);
                oldest.and_then(|owner| state.desks.remove(&owner).map(|desk| (owner, desk)))
            } else {
                None
            }
        };
        if let Some((owner, desk)) = cleared {
            self.clear_desk(owner, desk);
        }
    }

    /// Gives back what every desk has: space is short, or the file is to shrink. Desks in use are not touched.
    pub(crate) fn clear_desks(&self) {
        let (desks, orphans) = {
            let mut state = self.desks.state.lock();
            (std::mem::take(&mut state.desks), std::mem::take(&mut state.orphans))
        };
        for (owner, desk) in desks.into_iter().chain(orphans) {
            self.clear_desk(owner, desk);
        }
    }

    /// Gives back what desks no longer in use had and snapshots held.
    pub(crate) fn settle_orphans(&self) {
        let orphans = std::mem::take(&mut self.desks.state.lock().orphans);
        for (owner, desk) in orphans {
            self.clear_desk(owner, desk);
        }
    }

    fn clear_desk(&self, owner: Owner, mut desk: Desk) {
        let mut free = Vec::new();
        desk.collect(self, owner, &mut free);
        self.drop_unwritten(&free);
        free.extend(std::mem::take(&mut desk.arena).remainder());
        if !free.is_empty() {
            self.space.give_back(free);
        }
        if !desk.limbo.is_empty() || !desk.held.is_empty() {
            let mut state = self.desks.state.lock();
            let orphan = state.orphans.entry(owner).or_default();
            orphan.limbo.append(&mut desk.limbo);
            orphan.held.append(&mut desk.held);
            orphan.held_checked = self.readers.ended_count().wrapping_sub(1);
        }
    }

    /// Frames of superseded pages go; those that were never written never will be.
    fn drop_unwritten(&self, free: &[Extent]) {
        #[cfg(any(test, feature = "testing"))]
        free.iter().for_each(|&extent| self.shadow.freed(extent));
        let never_written = self.cache.remove_pages(free.iter().filter(|e| e.pages == 1).map(|e| e.start));
        self.disk.counters.superseded_pages.fetch_add(never_written, Ordering::Relaxed);
    }
}
