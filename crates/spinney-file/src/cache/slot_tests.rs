//! Values in slots: lent, replaced, and dropped once.

use super::slot::{Pin, Slot};
use crossbeam_epoch as epoch;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

/// Says when it goes, and spoils its content, so that a reader who looks later can tell.
struct Witness {
    content: AtomicUsize,
    dropped: Arc<AtomicUsize>,
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.content.store(usize::MAX, SeqCst);
        self.dropped.fetch_add(1, SeqCst);
    }
}

fn witness(content: usize, dropped: &Arc<AtomicUsize>) -> Option<Box<Witness>> {
    Some(Box::new(Witness { content: AtomicUsize::new(content), dropped: dropped.clone() }))
}

fn collect_until(dropped: &AtomicUsize, want: usize) {
    while dropped.load(SeqCst) < want {
        epoch::pin().flush();
        thread::yield_now(); // other tests may hold pins for a while
    }
    assert_eq!(dropped.load(SeqCst), want, "dropped twice");
}

#[test]
fn what_a_pin_sees_outlives_replacement_and_the_slot() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let pin = Pin::new();
    let slot = Slot::empty();
    assert!(slot.replace(witness(1, &dropped), &pin).is_none());
    let first = slot.get(&pin).unwrap();
    assert!(std::ptr::eq(slot.replace(witness(2, &dropped), &pin).unwrap(), first));
    let second = slot.get(&pin).unwrap();
    drop(slot);
    let held = pin.hold(witness(3, &dropped).unwrap());
    for _ in 0..1000 {
        epoch::pin().flush();
    }
    assert_eq!(dropped.load(SeqCst), 0);
    assert_eq!([first, second, held].map(|seen| seen.content.load(SeqCst)), [1, 2, 3]);
    drop(pin);
    collect_until(&dropped, 3);
}

#[test]
fn each_value_is_dropped_once_and_never_under_a_reader() {
    let rounds = if cfg!(miri) { 50 } else { 20_000 };
    let dropped = Arc::new(AtomicUsize::new(0));
    let slot = Slot::empty();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for i in 0..rounds {
                    slot.replace(if i % 3 == 0 { None } else { witness(i, &dropped) }, &Pin::new());
                }
            });
            scope.spawn(|| {
                for _ in 0..rounds {
                    let pin = Pin::new();
                    if let Some(seen) = slot.get(&pin) {
                        thread::yield_now();
                        assert_ne!(seen.content.load(SeqCst), usize::MAX);
                    }
                }
            });
        }
    });
    drop(slot);
    collect_until(&dropped, 2 * (0..rounds).filter(|i| i % 3 != 0).count());
}
