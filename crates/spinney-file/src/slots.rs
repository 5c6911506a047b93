//! Writer slots: one transaction at a time per owner, owners independent of each other.
//!
//! Slots are taken in id order (rule 1), so no two transactions ever wait for each other in a ring. Owner 0 is
//! taken last, by somebody who waits for nothing afterwards.

use crate::error::FileError;
use parking_lot::{Condvar, Mutex};
use rustc_hash::FxHashMap;
use spinney_alloc::{Owner, Stamp};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How long to wait for a writer slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Fail at once when somebody else holds it.
    Never,
    /// Fail after this long.
    For(Duration),
    /// Until it is free.
    Forever,
}

#[derive(Debug)]
struct Held {
    since: Instant,
    waiters: u32,
    /// Where they wait, once there are any.
    freed: Option<Arc<Condvar>>,
    free: bool,
    /// The root that the holder reads: its stamp. `None`: he has not loaded it yet, or may load a newer one.
    base: Option<Stamp>,
}

/// All slots that are held or waited for. Owners nobody writes cost nothing.
#[derive(Debug, Default)]
pub(crate) struct WriterSlots {
    held: Mutex<FxHashMap<Owner, Held>>,
}

impl WriterSlots {
    /// Takes the slot of `owner`.
    ///
    /// # Errors
    /// [`FileError::Busy`] when it stays held until `deadline` (`None`: for ever).
    pub(crate) fn take(&self, owner: Owner, deadline: Option<Instant>) -> Result<(), FileError> {
        let mut held = self.held.lock();
        let now = Instant::now();
        let Some(slot) = held.get_mut(&owner) else {
            held.insert(owner, Held { since: now, waiters: 0, freed: None, free: false, base: None });
            return Ok(());
        };
        slot.waiters += 1;
        let freed = Arc::clone(slot.freed.get_or_insert_default());
        loop {
            let timed_out = match deadline {
                Some(at) => freed.wait_until(&mut held, at).timed_out(),
                None => {
                    freed.wait(&mut held);
                    false
                }
            };
            let slot = held.get_mut(&owner).expect("a slot with waiters stays listed");
            if slot.free {
                slot.free = false;
                slot.waiters -= 1;
                slot.since = Instant::now();
                slot.base = None;
                return Ok(());
            }
            if timed_out {
                slot.waiters -= 1;
                return Err(FileError::Busy { owner, held_for: slot.since.elapsed() });
            }
        }
    }

    /// The holder reads this root, and none that is older, for as long as he has the slot.
    pub(crate) fn set_base(&self, owner: Owner, base: Option<Stamp>) {
        self.held.lock().get_mut(&owner).expect("only a holder reads as a writer").base = base;
    }

    /// Whether the transaction that holds the slot of `owner` may reach a page of it that lived in `[birth, death)`: its small
    /// commits may be merged into the tree meanwhile, which frees pages that it reads (rule 10).
    pub(crate) fn reaches(&self, owner: Owner, birth: Stamp, death: Stamp) -> bool {
        let held = self.held.lock();
        held.get(&owner).is_some_and(|slot| !slot.free && slot.base.is_none_or(|base| birth <= base && base < death))
    }

    /// Gives a slot back and wakes one waiter.
    pub(crate) fn release(&self, owner: Owner) {
        let mut held = self.held.lock();
        let slot = held.get_mut(&owner).expect("only a held slot is released");
        if slot.waiters == 0 {
            held.remove(&owner);
        } else {
            slot.free = true;
            slot.freed.as_ref().expect("whoever waits has a place to").notify_one();
        }
    }
}

impl Wait {
    /// When this wait ends; `None`: never.
    pub(crate) fn deadline(self) -> Option<Instant> {
        match self {
            Self::Never => Some(Instant::now()),
            Self::For(time) => Instant::now().checked_add(time),
            Self::Forever => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_one_holder_and_every_waiter_gets_its_turn() {
        let slots = Arc::new(WriterSlots::default());
        let inside = Arc::new(Mutex::new(0));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (slots, inside) = (Arc::clone(&slots), Arc::clone(&inside));
                std::thread::spawn(move || {
                    for _ in 0..200 {
                        slots.take(Owner(1), None).unwrap();
                        let guard = inside.try_lock().expect("alone inside");
                        drop(guard);
                        slots.release(Owner(1));
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert!(slots.held.lock().is_empty());
    }

    #[test]
    fn a_wait_that_ends_names_the_owner_and_leaves_the_slot_usable() {
        let slots = WriterSlots::default();
        slots.take(Owner(3), None).unwrap();
        let late = slots.take(Owner(3), Wait::For(Duration::from_millis(1)).deadline());
        assert!(matches!(late, Err(FileError::Busy { owner: Owner(3), .. })));
        slots.release(Owner(3));
        slots.take(Owner(3), Wait::Never.deadline()).unwrap();
    }
}
