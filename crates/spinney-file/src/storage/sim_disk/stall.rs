//! Calls that do not return until somebody lets them: a device that is slow, or stuck. There are no delays by the clock, which would
//! make a run another one each time.

use super::{CallSet, SimDisk};
use parking_lot::{Condvar, Mutex};
use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
};

/// What is stuck.
#[derive(Debug, Default)]
pub(super) struct Stalls {
    /// Nearly always 0, and then this is all that a call looks at.
    count: AtomicUsize,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    stuck: Vec<(u64, CallSet)>,
    next: u64,
    /// Calls that wait.
    waiting: usize,
}

impl Stalls {
    /// Waits while calls of this kind are stuck.
    pub(super) fn pass(&self, call: CallSet) {
        // Pairs with the release in `stall`; a call that misses it came before.
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut inner = self.inner.lock();
        while inner.stuck.iter().any(|(_, calls)| calls.meets(call)) {
            inner.waiting += 1;
            self.changed.notify_all();
            self.changed.wait(&mut inner);
            inner.waiting -= 1;
        }
    }
}

impl SimDisk {
    /// From now on calls of these kinds do not return, on whichever thread and handle, until what this returns is dropped. They wait
    /// before they do anything, with no lock of the disk held.
    pub fn stall(&self, calls: CallSet) -> Stall {
        let stalls = &self.shared.stalls;
        let mut inner = stalls.inner.lock();
        let number = inner.next;
        inner.next += 1;
        inner.stuck.push((number, calls));
        stalls.count.fetch_add(1, Ordering::Release);
        drop(inner);
        Stall { disk: self.clone(), number }
    }
}

/// Keeps calls from returning, see [`SimDisk::stall`].
pub struct Stall {
    disk: SimDisk,
    number: u64,
}

impl Stall {
    /// Waits until so many calls are stuck.
    pub fn wait_for(&self, calls: usize) {
        let stalls = &self.disk.shared.stalls;
        let mut inner = stalls.inner.lock();
        while inner.waiting < calls {
            stalls.changed.wait(&mut inner);
        }
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        let stalls = &self.disk.shared.stalls;
        stalls.inner.lock().stuck.retain(|(number, _)| *number != self.number);
        stalls.count.fetch_sub(1, Ordering::Release);
        stalls.changed.notify_all();
    }
}

impl fmt::Debug for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stall").field(&self.number).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Storage;
    use std::thread;

    #[test]
    fn what_is_stuck_waits_and_the_rest_goes_on() {
        let disk = SimDisk::with_contents(&[7; 4096]);
        let stall = disk.stall(CallSet::SYNC);
        let sync = thread::spawn({
            let disk = disk.clone();
            move || disk.sync_data()
        });
        stall.wait_for(1);
        assert_eq!((disk.counts().sync_data, disk.read_at(0, &mut [0]).unwrap()), (0, 1));
        let other = disk.stall(CallSet::READ);
        drop(other);
        assert!(!sync.is_finished() && disk.read_at(0, &mut [0]).is_ok());
        drop(stall);
        sync.join().unwrap().unwrap();
        assert_eq!(disk.counts().sync_data, 1);
    }
}
