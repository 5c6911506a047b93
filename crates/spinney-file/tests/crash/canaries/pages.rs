//! Who may have a page, and who may take it for what (rules 11 to 13).

use super::{open, open_to_interludes, tells_apart};
use crate::support::{OWNERS, Tree, check_accounting, commit, commit_of, commit_page, state_in, state_of};
use spinney_file::{
    Durability, FileError, Owner, PagePtr, PagedFile, Pages, Pin, PowerCut, Sabotage, SimDisk, Stamp, Wait,
};

/// Commits 32 new pages of `owner` in place of `old`.
fn replace_all(file: &PagedFile, owner: Owner, old: &[PagePtr]) -> Result<Vec<PagePtr>, FileError> {
    let mut txn = file.begin(&[owner], Wait::Never)?;
    let part = txn.part(owner).expect("just begun");
    old.iter().for_each(|&ptr| part.free(ptr));
    let new: Vec<_> = (0..32).map(|_| part.allocate()).collect::<Result<_, _>>()?;
    let mut root = [0; 64];
    root[..16].copy_from_slice(&new[0].encode());
    part.set_root(root);
    txn.commit(Durability::Immediate).map(|_| new)
}

/// Rule 11: what a snapshot has just loaded is replaced, and a checkpoint frees it.
fn a_checkpoint_while_a_snapshot_registers(sabotage: Option<Sabotage>) -> Result<(), FileError> {
    let (file, interlude) = open_to_interludes(&SimDisk::new(), sabotage)?;
    commit_page(&file, OWNERS[1], 1)?;
    commit_page(&file, OWNERS[2], 1)?;
    interlude.set({
        let file = file.clone();
        move || {
            let replaced =
                commit(&file, OWNERS[1], 2, Durability::Immediate, |tree, part| tree.replace_page(part, 0, 2));
            replaced.unwrap();
            file.checkpoint().unwrap();
        }
    });
    let snapshot = file.snapshot();
    assert!(!interlude.is_set());
    for number in 3..120 {
        commit_page(&file, OWNERS[2], number)?;
    }
    let (state, _) = state_in(&snapshot, &OWNERS)?;
    assert_eq!(commit_of(&state), 1, "the snapshot was taken before");
    drop(snapshot);
    // Now it is free: it was kept for the snapshot, and for nobody else.
    file.checkpoint()?;
    assert_eq!(file.stats().pages.pinned, 0);
    check_accounting(&file, state_of(&file)?.1)
}

#[test]
fn a_snapshot_protects_from_before_it_has_loaded() {
    tells_apart(Sabotage::RegistersLate, a_checkpoint_while_a_snapshot_registers);
}

#[test]
fn a_snapshot_that_registers_protects_everything() {
    tells_apart(Sabotage::ForgetsRegistering, a_checkpoint_while_a_snapshot_registers);
}

/// Rule 12.
#[test]
fn a_page_given_back_is_not_written_any_more() {
    tells_apart(Sabotage::ReturnsDuringWrite, |sabotage| {
        let disk = SimDisk::new();
        let (file, interlude) = open_to_interludes(&disk, sabotage)?;
        let mut txn = file.begin(&[OWNERS[1]], Wait::Never)?;
        let part = txn.part(OWNERS[1]).expect("just begun");
        let mut tree = Tree::of(part)?;
        (0..4).try_for_each(|id| tree.add_page(part, id))?;
        part.spill()?;
        tree.add_page(part, 4)?;
        interlude.set({
            let file = file.clone();
            move || {
                let committed = commit(&file, OWNERS[2], 1, Durability::Immediate, |tree, part| {
                    (0..6).try_for_each(|id| tree.add_page(part, 10 + id))
                });
                committed.unwrap();
            }
        });
        txn.abort();
        assert!(!interlude.is_set());
        file.close()?;
        drop(file);
        let file = open(&disk, sabotage)?;
        let (state, pages) = state_of(&file)?;
        assert_eq!(state[&OWNERS[2]].pages, [10, 11, 12, 13, 14, 15]);
        check_accounting(&file, pages)
    });
}

/// Rule 12: a pointer that outlived its page, out of a damaged one say, leads to an error and never to what is there now.
#[test]
fn an_old_pointer_does_not_lead_to_a_new_page() {
    tells_apart(Sabotage::FramesByNumber, |sabotage| {
        let file = open(&SimDisk::new(), sabotage)?;
        let old = replace_all(&file, OWNERS[1], &[])?;
        replace_all(&file, OWNERS[1], &old)?;
        file.checkpoint()?;
        let new = replace_all(&file, OWNERS[2], &[])?;
        let reused = old.iter().find_map(|old| new.iter().find(|new| new.page == old.page).map(|&new| (*old, new)));
        let (old, new) = reused.expect("what was freed is granted again");
        assert!(file.page(&Pin::new(), OWNERS[2], new).is_ok());
        for stamp in [old.stamp, Stamp(new.stamp.0 + 1)] {
            match file.page(&Pin::new(), OWNERS[1], PagePtr { stamp, ..new }) {
                Err(FileError::Corrupt { page, .. }) => assert_eq!(page, old.page),
                other => panic!("{:?} led to {:?}", stamp, other.map(<[u8]>::len)),
            }
        }
        // The page that is there keeps its place in the cache.
        let loads = file.stats().cache.loads;
        assert!(file.page(&Pin::new(), OWNERS[2], new).is_ok());
        assert_eq!(file.stats().cache.loads, loads);
        Ok(())
    });
}

/// Rule 13: what is lent to a transaction, and what a commit has freed, is nobody's after a crash.
#[test]
fn a_checkpoint_does_not_save_what_is_lent() {
    tells_apart(Sabotage::SavesLiveMap, |sabotage| {
        let disk = SimDisk::new();
        let file = open(&disk, sabotage)?;
        commit_page(&file, OWNERS[1], 1)?;
        let mut txn = file.begin(&[OWNERS[2]], Wait::Never)?;
        let part = txn.part(OWNERS[2]).expect("just begun");
        let mut tree = Tree::of(part)?;
        tree.add_page(part, 1)?;
        part.spill()?;
        file.checkpoint()?;
        let survivor = open(&disk.fork().power_cut(PowerCut::LoseAll), sabotage)?;
        let (state, pages) = state_of(&survivor)?;
        assert_eq!(commit_of(&state), 1);
        check_accounting(&survivor, pages)?;
        tree.store(part, 2)?;
        txn.commit(Durability::Immediate).map(drop)
    });
}

/// Rule 13: a commit comes between the checkpoint's record and its map; the power cut takes that commit back.
#[test]
fn a_checkpoint_is_of_one_instant() {
    tells_apart(Sabotage::MapAfterCut, |sabotage| {
        let disk = SimDisk::new();
        let (file, interlude) = open_to_interludes(&disk, sabotage)?;
        commit_page(&file, OWNERS[1], 1)?;
        interlude.set({
            let file = file.clone();
            move || {
                drop(commit(&file, OWNERS[1], 2, Durability::Eventual, |tree, part| tree.add_page(part, 2)).unwrap())
            }
        });
        file.checkpoint()?;
        assert!(!interlude.is_set());
        for cut in [PowerCut::LoseAll, PowerCut::KeepAll] {
            let survivor = open(&disk.fork().power_cut(cut), sabotage)?;
            let (state, pages) = state_of(&survivor)?;
            assert!((1..=2).contains(&commit_of(&state)));
            check_accounting(&survivor, pages)?;
        }
        Ok(())
    });
}
