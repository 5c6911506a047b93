//! An atomic pointer that readers follow without a lock: what they see outlives their [`Pin`]. The one module of the
//! cache with unsafe code.

use crate::sync::epoch::{self, Atomic, Guard, Owned, Shared};
use std::{fmt, sync::atomic::Ordering};

/// Keeps whatever this thread looks up in a page cache in memory, for as long as it lives. Costs 5 to 20 ns (a
/// fence) and no shared write; nothing on the path of a hit counts references.
///
/// To be held for one operation, not for a snapshot: while any pin lives, memory of pages evicted since it was made
/// is not given back.
///
/// Source: Fraser, "Practical lock-freedom", 2004 (epoch-based reclamation).
pub struct Pin {
    guard: Guard,
}

impl Pin {
    /// Pins the current thread. Pins may be nested; an inner one is cheaper still.
    #[inline]
    #[must_use]
    pub fn new() -> Self {
        Self { guard: epoch::pin() }
    }

    /// Lets go of everything seen so far and pins anew: for long loops, between two steps.
    pub fn repin(&mut self) {
        self.guard.repin();
    }

    /// Frees what no pin protects any more, of this and of other threads: to be called after some dozens of
    /// replacements, because pinning alone does not keep up with them. Costs a fraction of a microsecond.
    pub(super) fn collect(&self) {
        self.guard.flush();
    }

    /// Keeps `value` alive for as long as the pin.
    pub(super) fn hold<T: Send + Sync + 'static>(&self, value: Box<T>) -> &T {
        let slot = Slot::empty();
        slot.replace(Some(value), self);
        slot.get(self).expect("it was just put there")
    }
}

impl Default for Pin {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pin").finish_non_exhaustive()
    }
}

/// Owns at most one `T`, which it lends to everybody who holds a [`Pin`].
///
/// All unsafe code below rests on one argument. A `T` comes in as a `Box` and its pointer is stored in `self.0` and
/// nowhere else. It leaves by a `swap`, which hands it to exactly one thread, and that thread does nothing but defer
/// its destruction; the collector runs that only after every guard has gone that was pinned at that time. Whoever
/// loads the pointer holds a guard and loads it before the swap, so its guard is one of those. All guards are of the
/// default collector, because a `Pin` has no other way to get one. So a reference with the lifetime of the pin never
/// dangles, and since nothing ever makes a `&mut T`, it is never aliased by one.
pub(super) struct Slot<T: Send + Sync + 'static>(Atomic<T>);

impl<T: Send + Sync + 'static> Slot<T> {
    /// A slot with nothing in it.
    pub(super) fn empty() -> Self {
        Self(Atomic::null())
    }

    /// What it owns now. One load.
    #[inline]
    pub(super) fn get<'p>(&self, pin: &'p Pin) -> Option<&'p T> {
        // Acquire pairs with the swap in `replace`: whoever sees the pointer sees what it points to.
        let shared = self.0.load(Ordering::Acquire, &pin.guard);
        // SAFETY: null, or the pointer of a `T` that is not destroyed before `pin` goes (see above).
        unsafe { shared.as_ref() }
    }

    /// Puts something else there, or nothing, and lends what was there. That is dropped when nobody can hold it any
    /// more, by whichever thread notices.
    pub(super) fn replace<'p>(&self, new: Option<Box<T>>, pin: &'p Pin) -> Option<&'p T> {
        let new = match new {
            Some(new) => Owned::<T>::from(new).into_shared(&pin.guard),
            None => Shared::null(),
        };
        let old = self.0.swap(new, Ordering::AcqRel, &pin.guard);
        if !old.is_null() {
            // SAFETY: the swap gave the pointer to this thread alone, and no thread can load it any more. `T: Send`,
            // so any thread may drop it; `T: 'static`, so it may be late.
            unsafe { pin.guard.defer_destroy(old) };
        }
        // SAFETY: null, or the pointer of a `T` whose destruction was deferred while `pin` was held (see above).
        unsafe { old.as_ref() }
    }
}

impl<T: Send + Sync + 'static> Drop for Slot<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer is compared with null and never followed.
        let is_empty = self.0.load(Ordering::Relaxed, unsafe { epoch::unprotected() }).is_null();
        if !is_empty {
            self.replace(None, &Pin::new()); // a reference borrows the pin and not the slot: there may be readers yet
        }
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").finish_non_exhaustive()
    }
}
