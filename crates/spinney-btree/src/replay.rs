//! Repeats what the log kept of a family's small commits.

use crate::{
    effects::{Effect, Effects, Points},
    error::TreeError,
    family::FamilyTxn,
};
use spinney_file::{FileError, Pages as _, Part};
use std::ops::Bound;

/// So many effects on single keys are merged and applied together: 6 MiB of memory.
const BATCH_MAX: usize = 1 << 17;

/// Repeats commits of one family on a part that is as the family was before them, and leaves the new root in the part. For
/// [`FileOptions::replay`](spinney_file::FileOptions::replay).
///
/// Effects on single keys are merged over many commits, to the last one of each key, and applied in key order, so that a leaf
/// is visited once for all of its keys. A removed range, and whatever changes a table as a whole, ends a batch. Memory for a
/// batch is bounded; pages are written early as in any transaction.
///
/// # Errors
/// [`FileError::Damaged`] when the effects are none or do not fit the family (its place is unknown here, so it says 0);
/// [`FileError::Corrupt`] when a page does not; and those of reading and allocating pages.
pub fn replay(part: &mut Part, commits: &[&[u8]]) -> Result<(), FileError> {
    replay_in_batches(part, commits, BATCH_MAX)
}

/// Like [`replay`], with so many effects on single keys in a batch at most.
///
/// # Errors
/// As for [`replay`].
#[cfg_attr(not(feature = "testing"), expect(unreachable_pub, reason = "exported to test builds only"))]
pub fn replay_in_batches(part: &mut Part, commits: &[&[u8]], batch_max: usize) -> Result<(), FileError> {
    part.write_pages(); // what the log has already is not logged again
    part.clears(); // what was committed must fit
    let page_bytes = part.page_bytes() as u64;
    repeat(part, commits, batch_max).map_err(|problem| match problem {
        Problem::Effects(why) => FileError::Damaged { at: 0, why },
        Problem::Tree(error) => to_file_error(error, page_bytes),
    })
}

/// What goes wrong.
enum Problem {
    /// The log's bytes are no effects.
    Effects(&'static str),
    Tree(TreeError),
}

impl From<TreeError> for Problem {
    fn from(error: TreeError) -> Self {
        Self::Tree(error)
    }
}

fn repeat(part: &mut Part, commits: &[&[u8]], batch_max: usize) -> Result<(), Problem> {
    let mut txn = FamilyTxn::new(part)?;
    let mut points = Points::default();
    for commit in commits {
        for effect in Effects::decode(commit).map_err(Problem::Effects)? {
            match points.gather(effect.map_err(Problem::Effects)?) {
                Ok(()) if points.len() < batch_max => {}
                Ok(()) => apply_points(&mut txn, part, &mut points)?,
                Err(other) => {
                    apply_points(&mut txn, part, &mut points)?;
                    apply(&mut txn, part, other)?;
                }
            }
        }
    }
    apply_points(&mut txn, part, &mut points)?;
    Ok(txn.store(part)?)
}

fn apply_points(txn: &mut FamilyTxn, part: &mut Part, points: &mut Points<'_>) -> Result<(), TreeError> {
    for of_table in points.finals().chunk_by(|a, b| a.table == b.table) {
        txn.family(part).table(of_table[0].table)?.apply(of_table)?;
    }
    points.clear();
    Ok(())
}

fn apply(txn: &mut FamilyTxn, part: &mut Part, effect: Effect<'_>) -> Result<(), TreeError> {
    let mut family = txn.family(part);
    match effect {
        Effect::Put { .. } | Effect::Delete { .. } => unreachable!("gathered before"),
        Effect::DeleteRange { table, bounds: (start, end) } => {
            let own = |bound: Bound<&[u8]>| bound.map(<[u8]>::to_vec);
            family.table(table)?.remove_range(&(own(start), own(end))).map(|_| ())
        }
        Effect::Clear(table) => family.table(table)?.clear().map(|_| ()),
        Effect::CreateTable(table) => family.create_table(table),
        Effect::DropTable(table) => match family.drop_table(table)? {
            true => Ok(()),
            false => Err(TreeError::NoTable(table)),
        },
        Effect::DropAll => family.drop_all(),
    }
}

/// What the file layer is told. The log passed its checksums, so effects that do not fit are damage, whatever they are.
fn to_file_error(error: TreeError, page_bytes: u64) -> FileError {
    let damaged = |why| FileError::Damaged { at: 0, why };
    match error {
        TreeError::File(error) => error,
        TreeError::Corrupt { page, owner, why, .. } => {
            FileError::Corrupt { page, owner: Some(owner), at: page.get() * page_bytes, why }
        }
        TreeError::BadRoot { why, .. } => damaged(why),
        TreeError::KeyTooLong { .. } => damaged("an effect has a key that is too long"),
        TreeError::ValueTooLarge { .. } => damaged("an effect has a value that is too large"),
        TreeError::NoTable(_) => damaged("an effect names a table that does not exist"),
        TreeError::TableExists(_) => damaged("an effect creates a table that exists"),
        TreeError::Unsorted { .. } | TreeError::Source(_) | TreeError::Broken => damaged("effects cannot be applied"),
    }
}
