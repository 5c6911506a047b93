//! Limits: many owners, bad input, costs that must not grow, space that must not either.

mod support;

use spinney_file::{PagedFile, PowerCut, SimDisk};
use std::sync::Arc;
use support::{OWNERS, check_accounting, commit_of, commit_page, small, state_of};

/// Each opening leaves a record in the log; however often that happens, the log does not run over its own tail.
#[test]
fn a_file_may_be_opened_for_ever_without_a_commit() {
    for crash in [false, true] {
        let mut disk = SimDisk::new();
        let file = PagedFile::open(Arc::new(disk.clone()), small(None)).unwrap();
        for number in 1..=5 {
            commit_page(&file, OWNERS[1], number).unwrap();
        }
        drop(file);
        for round in 0..100 {
            let file = PagedFile::open(Arc::new(disk.clone()), small(None)).unwrap_or_else(|e| panic!("{round}: {e}"));
            let (state, pages) = state_of(&file).unwrap();
            assert_eq!(commit_of(&state), 5);
            check_accounting(&file, pages).unwrap();
            if crash {
                disk = disk.power_cut(PowerCut::LoseAll);
            } else {
                file.close().unwrap();
            }
        }
        let file = PagedFile::open(Arc::new(disk.clone()), small(None)).unwrap();
        commit_page(&file, OWNERS[1], 6).unwrap();
        assert_eq!(commit_of(&state_of(&file).unwrap().0), 6);
    }
}
