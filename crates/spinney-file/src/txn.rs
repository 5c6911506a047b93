//! A write transaction over one or several owners.

use crate::{
    error::FileError,
    file::PagedFile,
    options::{Durability, Sabotage},
    part::Part,
    slots::Wait,
};
use smallvec::SmallVec;
use spinney_alloc::{Owner, Seq};
use std::sync::Arc;

/// The slots of one or several owners and a [`Part`] for each, until [`commit`](WriteTxn::commit) or drop, which aborts.
#[derive(Debug)]
pub struct WriteTxn {
    // Parts go first: an aborted part returns its pages before its owner's next writer may start.
    parts: Vec<Part>,
    slots: HeldSlots,
}

/// Writer slots, given back in any case.
#[derive(Debug)]
struct HeldSlots {
    file: PagedFile,
    owners: SmallVec<[Owner; 1]>,
}

impl HeldSlots {
    fn release(&mut self) {
        for owner in self.owners.drain(..) {
            self.file.engine().slots.release(owner);
        }
    }
}

impl Drop for HeldSlots {
    fn drop(&mut self) {
        self.release();
    }
}

impl WriteTxn {
    /// Takes the slots of `owners` in id order (rule 1: owner 0 last) and begins on their tips.
    pub(crate) fn begin(file: PagedFile, owners: &[Owner], wait: Wait) -> Result<Self, FileError> {
        file.engine().check_writable()?;
        let deadline = wait.deadline();
        let mut sorted: SmallVec<[Owner; 1]> = owners.into();
        let broken = |rule| file.engine().options.broken(rule);
        if !broken(Sabotage::SlotsInAnyOrder) {
            sorted.sort_unstable_by_key(|owner| owner.0.wrapping_sub(1)); // owner 0 is the last
        }
        sorted.dedup();
        let early = broken(Sabotage::StampBeforeSlots).then(|| file.engine().draw_stamp()).transpose()?;
        file.engine().options.interlude();
        let mut txn =
            Self { parts: Vec::with_capacity(sorted.len()), slots: HeldSlots { file, owners: SmallVec::new() } };
        for &owner in &sorted {
            txn.take(owner, deadline)?;
        }
        for owner in sorted {
            let mut part = Part::new(Arc::clone(txn.slots.file.engine()), owner)?;
            if let Some(stamp) = early {
                (part.first_stamp, part.stamp) = (stamp, stamp);
            }
            txn.parts.push(part);
        }
        Ok(txn)
    }

    fn take(&mut self, owner: Owner, deadline: Option<std::time::Instant>) -> Result<(), FileError> {
        if owner.0 >= self.slots.file.engine().owners.owners_max() {
            return Err(FileError::Option("the owner number is beyond what the owner table holds"));
        }
        self.slots.file.engine().slots.take(owner, deadline)?;
        self.slots.owners.push(owner);
        Ok(())
    }

    /// The owners of this transaction.
    pub fn owners(&self) -> impl Iterator<Item = Owner> + '_ {
        self.parts.iter().map(Part::owner)
    }

    /// The part of `owner`; `None` when it does not belong to this transaction.
    pub fn part(&mut self, owner: Owner) -> Option<&mut Part> {
        self.parts.iter_mut().find(|part| part.owner == owner)
    }

    /// The same, for reading.
    pub fn part_ref(&self, owner: Owner) -> Option<&Part> {
        self.parts.iter().find(|part| part.owner == owner)
    }

    /// Adds owner 0, whose slot comes last (rule 1); no effect when it is there. Its holder must not wait for another slot.
    ///
    /// # Errors
    /// [`FileError::Busy`] when somebody else keeps it for longer than `wait`.
    pub fn join_names(&mut self, wait: Wait) -> Result<&mut Part, FileError> {
        if self.part_ref(Owner(0)).is_none() {
            self.take(Owner(0), wait.deadline())?;
            // A stamp of its own, drawn with this slot held: the part of owner 0 may build on a tip younger than the other parts.
            let part = Part::new(Arc::clone(self.slots.file.engine()), Owner(0))?;
            self.parts.push(part);
        }
        Ok(self.part(Owner(0)).expect("just added"))
    }

    /// Adds an owner that nobody else can know yet, so that taking its slot out of order waits for nobody.
    ///
    /// # Errors
    /// [`FileError::Busy`] when somebody does hold it.
    pub fn join_new(&mut self, owner: Owner) -> Result<&mut Part, FileError> {
        if self.part_ref(owner).is_none() {
            self.take(owner, Wait::Never.deadline())?;
            let part = Part::new(Arc::clone(self.slots.file.engine()), owner)?;
            self.parts.push(part);
        }
        Ok(self.part(owner).expect("just added"))
    }

    /// Makes everything this transaction changed take effect at once, and returns its place in the order. The next writers of these
    /// owners go on before it is durable.
    ///
    /// What small parts did goes to the log and to memory; others cost one vectored write per run of adjacent pages. [`Durability::Immediate`] adds a share of one log write and one sync.
    ///
    /// # Errors
    /// Nothing took effect, except with [`FileError::CommitOutcomeUnknown`], where reopening decides.
    pub fn commit(self, durability: Durability) -> Result<Seq, FileError> {
        let Self { parts, mut slots } = self;
        let engine = Arc::clone(slots.file.engine());
        engine.commit(parts, durability, || slots.release())
    }

    /// Forgets everything; its pages are free at once. The same as dropping it.
    pub fn abort(self) {}
}
