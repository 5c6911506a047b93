//! The tests can fail: each way a tree can be wrong is made on purpose, and noticed.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test may")]

mod common;

use common::*;
use spinney_btree::{CheckOptions, FamilyRoot, Finding, PagePtr, TableId, TreeError, check};

const LEAF: u8 = 16;
const BRANCH: u8 = 17;
/// Where the heads of a branch's slots begin; before it lies the first child, which ends with its count of entries.
const BRANCH_HEADS: usize = 76;

/// A tree of two levels in an open transaction, one page of which is spoiled; and what `check` then says.
fn check_after(kind: u8, spoil: impl Fn(&mut [u8])) -> Vec<&'static str> {
    let mut bed = Bed::in_pages(4096, 64 << 20);
    bed.with(|mut family| {
        let mut tree = family.table(TableId::DEFAULT).unwrap();
        for i in 0..500u32 {
            tree.insert(&i.wrapping_mul(7919).to_be_bytes(), &value(i as u8, 100)).unwrap();
        }
    });
    let (txn, family) = bed.txn.as_mut().unwrap();
    let part = txn.part(OWNER).unwrap();
    family.store(part).unwrap();
    let root = FamilyRoot::decode(OWNER, part.root()).unwrap();
    let mut pages = Vec::new();
    let sound = check(part, OWNER, &root, CheckOptions::default(), &mut |extent, stamp| {
        pages.push(PagePtr { page: extent.start, stamp });
    });
    assert!(sound.unwrap().is_sound());
    let victim = pages.into_iter().find(|&ptr| part.page_mut(ptr)[28] == kind).unwrap();
    spoil(part.page_mut(victim));
    let report = check(part, OWNER, &root, CheckOptions::default(), &mut |_, _| {}).unwrap();
    let why = |problem: Finding| match problem.error {
        TreeError::Corrupt { why, .. } => why,
        other => panic!("{other}"),
    };
    report.problems.into_iter().map(why).collect()
}

#[test]
fn a_wrong_count_is_noticed() {
    let problems = check_after(BRANCH, |page| page[BRANCH_HEADS - 6] += 1);
    assert_eq!(problems, ["a count of entries does not fit those below it"; 2]); // the child's, and the sum
}

#[test]
fn a_wrong_separator_is_noticed() {
    // The first separator a little lower: keys of the first child are now at or above it.
    let problems = check_after(BRANCH, |page| {
        let head = u32::from_le_bytes(page[BRANCH_HEADS..BRANCH_HEADS + 4].try_into().unwrap());
        page[BRANCH_HEADS..BRANCH_HEADS + 4].copy_from_slice(&((head / 2) & 0xFFFF_0000).to_le_bytes());
    });
    assert!(problems.contains(&"keys of a node lie outside its separators"), "{problems:?}");
}

#[test]
fn keys_out_of_order_are_noticed() {
    let problems = check_after(LEAF, |page| page.copy_within(56..60, 60));
    assert_eq!(problems, ["keys of a node are not in order"]);
}

#[test]
fn a_wrong_level_is_noticed() {
    let problems = check_after(BRANCH, |page| page[29] = 2);
    assert_eq!(problems, ["a child is not one level below its parent"]);
}

#[test]
fn a_page_reached_twice_is_noticed() {
    // The first child takes the place of the second one's neighbour: the last cell of the heap is the first separator's.
    let problems = check_after(BRANCH, |page| {
        let count = u16::from_le_bytes([page[36], page[37]]) as usize;
        let at = BRANCH_HEADS + 4 * count;
        let cell = u16::from_le_bytes([page[at], page[at + 1]]) as usize;
        page.copy_within(56..56 + 14, cell + 2);
    });
    assert!(problems.contains(&"a page that is reached twice"), "{problems:?}");
}

#[test]
fn bytes_left_behind_are_noticed() {
    let problems = check_after(LEAF, |page| {
        let heap = u32::from_le_bytes(page[40..44].try_into().unwrap()) as usize;
        page[heap - 1] = 0xA5;
    });
    assert_eq!(problems, ["bytes that belong to nothing are not zero"]);
}

#[test]
#[should_panic(expected = "reachable pages are those allocated and not freed")]
fn a_leaked_page_is_noticed() {
    let mut bed = Bed::in_pages(4096, 64 << 20);
    bed.with(|mut family| family.table(TableId::DEFAULT).unwrap().insert(b"k", b"v").unwrap());
    bed.model.get_mut(&TableId::DEFAULT).unwrap().insert(b"k".to_vec(), b"v".to_vec());
    bed.txn.as_mut().unwrap().0.part(OWNER).unwrap().allocate().unwrap();
    bed.commit();
    bed.verify();
}

#[test]
#[should_panic(expected = "differs")]
fn a_wrong_value_is_noticed() {
    let mut bed = Bed::in_pages(4096, 64 << 20);
    bed.with(|mut family| family.table(TableId::DEFAULT).unwrap().insert(b"k", b"v").unwrap());
    bed.model.get_mut(&TableId::DEFAULT).unwrap().insert(b"k".to_vec(), b"w".to_vec());
    bed.commit();
    bed.verify();
}
