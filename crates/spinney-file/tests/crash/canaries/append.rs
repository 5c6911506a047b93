//! Slots, stamps, seqs and versions go forward together (rules 1 and 6).

use super::{open, open_to_interludes, tells_apart};
use crate::support::{OWNERS, Tree, check_accounting, commit, commit_page, state_of};
use spinney_file::{Durability, FileError, PowerCut, Sabotage, SimDisk, Wait};

/// Rule 1: two transactions that name the same owners in different orders would wait for each other.
#[test]
fn slots_are_taken_in_the_order_of_owners() {
    tells_apart(Sabotage::SlotsInAnyOrder, |sabotage| {
        let [names, first, second] = OWNERS;
        let file = open(&SimDisk::new(), sabotage)?;
        for asked in [[names, first, second], [second, names, first], [second, first, names]] {
            let mut held: Vec<_> = OWNERS.iter().map(|&owner| file.begin(&[owner], Wait::Never).unwrap()).collect();
            // Owner 0 is the last.
            for expected in [first, second, names] {
                match file.begin(&asked, Wait::Never) {
                    Err(FileError::Busy { owner, .. }) => assert_eq!(owner, expected, "of {asked:?}"),
                    other => panic!("{expected:?} is taken: {other:?}"),
                }
                held.retain(|txn| txn.owners().all(|owner| owner != expected));
            }
            file.begin(&asked, Wait::Never)?.abort();
        }
        Ok(())
    });
}

/// Rule 1: while one transaction is on its way to the slot, another one commits, with two stamps.
#[test]
fn stamps_grow_from_one_commit_of_an_owner_to_the_next() {
    tells_apart(Sabotage::StampBeforeSlots, |sabotage| {
        let disk = SimDisk::new();
        let (file, interlude) = open_to_interludes(&disk, sabotage)?;
        commit_page(&file, OWNERS[1], 1)?;
        interlude.set({
            let file = file.clone();
            move || {
                let committed = commit(&file, OWNERS[1], 2, Durability::Immediate, |tree, part| {
                    tree.add_page(part, 2)?;
                    part.spill()?;
                    tree.add_page(part, 3)
                });
                committed.unwrap();
            }
        });
        // It replaces the directory page that the other one has just made, and a page that it made before.
        let (_, content) = commit(&file, OWNERS[1], 3, Durability::Immediate, |tree, part| {
            tree.replace_page(part, 0, 4)?;
            tree.remove_page(part, 2);
            Ok(())
        })?;
        assert!(!interlude.is_set());
        assert_eq!(content.pages, [4, 2]);
        let (state, pages) = state_of(&open(&disk.fork().power_cut(PowerCut::LoseAll), sabotage)?)?;
        assert_eq!(state[&OWNERS[1]], content);
        file.checkpoint()?;
        check_accounting(&file, pages)
    });
}

/// Rule 6: a commit of one owner comes between another's pages and its record.
fn a_commit_between_another_and_its_append(sabotage: Option<Sabotage>) -> Result<(), FileError> {
    let disk = SimDisk::new();
    let (file, interlude) = open_to_interludes(&disk, sabotage)?;
    commit_page(&file, OWNERS[1], 1)?;
    commit_page(&file, OWNERS[2], 1)?;
    let mut txn = file.begin(&[OWNERS[1]], Wait::Never)?;
    let part = txn.part(OWNERS[1]).expect("just begun");
    Tree::of(part)?.store(part, 2)?;
    interlude.set({
        let file = file.clone();
        move || {
            commit_page(&file, OWNERS[2], 2).unwrap();
        }
    });
    let seq = txn.commit(Durability::Immediate)?;
    assert!(!interlude.is_set());
    assert_eq!(file.stats().appended, seq, "the newest commit");
    let (state, pages) = state_of(&file)?;
    assert_eq!((state[&OWNERS[1]].commit, state[&OWNERS[2]].commit), (2, 2), "what is shown");
    let (survived, _) = state_of(&open(&disk.fork().power_cut(PowerCut::LoseAll), sabotage)?)?;
    assert_eq!(survived, state, "what survives");
    file.checkpoint()?;
    check_accounting(&file, pages)
}

#[test]
fn a_version_contains_the_one_before_it() {
    tells_apart(Sabotage::TipsBeforeLock, a_commit_between_another_and_its_append);
}

#[test]
fn the_queue_is_in_the_order_of_seqs() {
    tells_apart(Sabotage::QueuesLate, a_commit_between_another_and_its_append);
}

/// Rule 6: a checkpoint that comes between a commit's pages and its record changes nothing for it. Its image claims and releases what
/// its own transaction did, whichever checkpoint it follows.
#[test]
fn a_checkpoint_between_a_commit_and_its_append() {
    let disk = SimDisk::new();
    let (file, interlude) = open_to_interludes(&disk, None).unwrap();
    let commit_two = |number, interlude: &dyn Fn()| {
        let mut txn = file.begin(&OWNERS[1..], Wait::Never).unwrap();
        for &owner in &OWNERS[1..] {
            let part = txn.part(owner).unwrap();
            let mut tree = Tree::of(part).unwrap();
            tree.add_page(part, number).unwrap();
            tree.store(part, number).unwrap();
        }
        interlude();
        txn.commit(Durability::Immediate).unwrap();
    };
    commit_two(1, &|| {});
    commit_two(2, &|| {
        let file = file.clone();
        interlude.set(move || {
            file.checkpoint().unwrap();
        });
    });
    assert!(!interlude.is_set());
    for crashed in [true, false] {
        let survivor = open(&disk.fork().power_cut(PowerCut::LoseAll), None).unwrap();
        let (state, pages) = state_of(&survivor).unwrap();
        assert!(OWNERS[1..].iter().all(|owner| state[owner].pages == [1, 2]), "{state:?}");
        check_accounting(&survivor, pages).unwrap();
        if crashed {
            file.checkpoint().unwrap(); // and the next one covers it
        }
    }
}
