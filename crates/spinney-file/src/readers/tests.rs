//! Who holds what, one thread. Not inside `readers`, whose source the model test compiles with loom's atomics.

use crate::{
    readers::Readers,
    version::{FAN_OUT, OwnerRoot, Version},
};
use spinney_alloc::{Owner, Seq, Stamp};
use std::sync::Arc;

fn version(seq: u64, stamp: u64) -> Arc<Version> {
    let mut v = Version::at_opening(Seq(seq));
    v.set(Owner(1), Some(OwnerRoot { root: [0; 64], stamp: Stamp(stamp) }), None, || [OwnerRoot::NONE; FAN_OUT]);
    Arc::new(v)
}

fn stamp_of(v: &Version, owner: Owner) -> Stamp {
    v.changed(owner).map_or(Stamp(0), |r| r.stamp)
}

#[test]
fn the_newest_root_within_a_life_holds_it_and_its_end_is_told() {
    let readers = Readers::new();
    let old = readers.register(None, || version(1, 10));
    let new = readers.register(Some([Owner(1)].into()), || version(2, 20));
    let other = readers.register(Some([Owner(2)].into()), || version(3, 25));
    let holder = |birth, death| readers.holder(Owner(1), Stamp(birth), Stamp(death), stamp_of);
    assert_eq!(holder(5, 30), Some(new.held.id));
    assert_eq!(holder(5, 20), Some(old.held.id));
    assert_eq!(holder(21, 30), None, "a snapshot of another owner holds nothing here");
    assert!(readers.leave(&new) && readers.leave(&old));
    assert!(!readers.leave(&other));
    let mut ended = readers.take_ended();
    ended.sort_unstable();
    assert_eq!(ended, [old.held.id, new.held.id]);
    assert_eq!(holder(5, 30), None);
    assert!(readers.take_ended().is_empty());
}

#[test]
fn more_snapshots_than_one_chunk_has_slots() {
    let readers = Readers::new();
    let places: Vec<_> = (0..200).map(|i| readers.register(None, || version(i, i + 1))).collect();
    assert_eq!(readers.infos().len(), 200);
    assert!(!places.iter().any(|p| readers.leave(p)), "nothing hangs on them");
    assert_eq!(readers.infos().len(), 0);
}
