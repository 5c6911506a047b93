//! What the tests of this crate share.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "test code; each test binary uses some of it"
)]

mod run; // random runs, and what must hold after a crash
mod slow; // a sync that takes its time
mod tree; // pages that stand for a tree

pub use self::{
    run::{Run, Runner, small},
    slow::{SlowDisk, until},
    tree::{Content, OWNERS, State, Tree, change, check_accounting, commit_of, state_in, state_of},
};
use spinney_file::{Durability, FileError, Owner, PagedFile, Seq, Wait};

/// Commits one change of `owner` made by `edit`, as commit number `commit`.
pub fn commit(
    file: &PagedFile,
    owner: Owner,
    commit: u64,
    durability: Durability,
    edit: impl FnOnce(&mut Tree, &mut spinney_file::Part) -> Result<(), FileError>,
) -> Result<(Seq, Content), FileError> {
    let mut txn = file.begin(&[owner], Wait::Forever)?;
    let part = txn.part(owner).expect("just begun");
    let mut tree = Tree::of(part)?;
    edit(&mut tree, part)?;
    let content = tree.store(part, commit)?;
    Ok((txn.commit(durability)?, content))
}

/// Commits one more page of `owner`.
pub fn commit_page(file: &PagedFile, owner: Owner, number: u64) -> Result<Seq, FileError> {
    commit(file, owner, number, Durability::Immediate, |tree, part| tree.add_page(part, number)).map(|done| done.0)
}
