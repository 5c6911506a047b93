//! Leader and followers: one of the threads that wait does the work for all of them, and wakes only those it has served.
//!
//! ```text
//!   wait --> reached? --> nobody leads? --> look again, briefly --> register, sleep
//!                            | lead                                     ^ woken when reached, on failure, or to lead next
//!                            v                                          |
//!                         end the turn ---------------------------------+
//! ```
//! There is no timer. But a leader who follows a turn that served others lets them run first, if they can: they are on their way with
//! more. At the end of a turn the lead is free for whoever comes first, and one of those left is woken so that somebody comes.
//!
//! Always: at most one thread leads; and while somebody sleeps, somebody leads or one who was woken to lead has not looked yet.
//!
//! **Ordering.** Whoever sleeps has registered under the lock, and looked again at what it waits for *and* at the lead after that.
//! - A turn ends under the same lock: a thread that registers later finds the lead free or taken again, by somebody who will end his
//!   turn later too.
//! - Somebody who fulfils a goal without leading publishes, fence, reads the number of sleepers; a thread that registers counts
//!   itself, fence, looks at its goal. Both fences are sequentially consistent, so one of the two sees the other.
//! - A leader that fails says so before its turn ends, and whoever takes the lead looks for that before it works.

use super::sync::{
    AtomicBool, AtomicU32, AtomicUsize, Mutex, Ordering, Sleeper, broken, fence, give_way, looks, spin, thread_local,
};
use std::{cell::Cell, sync::Arc};

/// What threads wait for.
pub(crate) trait Progress {
    type Goal: Copy;

    /// Whether `goal` is reached; once true, true for ever. Called often, also under the lock: a few loads.
    fn reached(&self, goal: Self::Goal) -> bool;

    /// Whether no goal will be reached any more.
    fn failed(&self) -> bool;

    /// Makes it failed, for ever.
    fn fail(&self);
}

/// The goal was not reached, and never will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed;

/// Ways to break it that the model must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// A turn ends and wakes nobody to lead next.
    NobodyNext,
    /// A turn wakes whom it served while it still leads, and ends after that.
    WakesBeforeItEnds,
    /// A thread that registered sleeps without looking again.
    SleepsUnseeing,
    /// No fence between registering and looking again.
    NoFence,
    /// A thread woken to lead goes home with its goal reached, and the lead with it.
    KeepsTheLead,
    /// A new leader works although the last one failed.
    LeadsAfterFailure,
    /// A failure wakes only whose goals are reached.
    FailsInSilence,
}

/// The threads that wait for one kind of [`Progress`].
pub(crate) struct Waiting<G> {
    leading: AtomicBool,
    /// How many are registered: changes under their lock only.
    sleeper_count: AtomicUsize,
    /// In the order of coming. Registered exactly while `Bed::call` is [`ASLEEP`].
    sleepers: Mutex<Vec<Registered<G>>>,
    /// The last turn that ended woke somebody.
    crowded: AtomicBool,
    looks: u32,
}

struct Registered<G> {
    goal: G,
    bed: Arc<Bed>,
}

/// Where a thread sleeps: one for each thread, so that waiting allocates nothing.
struct Bed {
    /// Changes to [`ASLEEP`] and back under the lock of the sleepers.
    call: AtomicU32,
    sleeper: Sleeper,
}

const ASLEEP: u32 = 0;
/// Reached or failed, or worth another look.
const CALLED: u32 = 1;
/// Others are asleep, and nobody may be leading: lead, or see to it that somebody does.
const CALLED_TO_LEAD: u32 = 2;

thread_local! {
    static BED: Arc<Bed> = Arc::new(Bed::of_this_thread());
    /// Keeps its capacity: whom this thread is about to wake.
    #[allow(clippy::missing_const_for_thread_local, reason = "loom's has no `const`")]
    static CALLS: Cell<Vec<Arc<Bed>>> = Cell::new(Vec::new());
}

/// Why the sleepers are looked through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sweep {
    /// Something was reached or failed.
    Progress,
    /// A leader's turn ends.
    EndOfTurn,
    /// A thread was woken to lead and has no need to.
    PassOn,
}

impl<G: Copy> Waiting<G> {
    pub(crate) fn new() -> Self {
        Self {
            leading: AtomicBool::new(false),
            sleeper_count: AtomicUsize::new(0),
            sleepers: Mutex::new(Vec::new()),
            crowded: AtomicBool::new(false),
            looks: looks(),
        }
    }

    /// Waits until `goal` is reached, calling `lead` to get there whenever nobody else leads. A turn that returns an error or
    /// panics makes `progress` fail; one that succeeds without reaching `goal` is followed by another. `lead` must not wait here
    /// itself. Costs no allocation beyond the first time on a thread.
    ///
    /// # Errors
    /// [`Failed`] when `progress` has failed and `goal` is not reached.
    pub(crate) fn wait<P, E>(
        &self,
        progress: &P,
        goal: G,
        mut lead: impl FnMut() -> Result<(), E>,
    ) -> Result<(), Failed>
    where
        P: Progress<Goal = G>,
    {
        let mut to_lead = false;
        loop {
            if let Some(outcome) = outcome(progress, goal) {
                if to_lead && !broken(Mistake::KeepsTheLead) {
                    self.sweep(progress, Sweep::PassOn);
                }
                return outcome;
            }
            if let Some(mut turn) = self.take_lead(progress) {
                to_lead = false;
                if self.crowded.load(Ordering::Relaxed) {
                    // Those whom the last turn served are on their way with more: whoever of them can run comes along.
                    give_way();
                }
                // Once more: the last leader may have served `goal`, and no sync may follow one that failed.
                if outcome(progress, goal).is_none() || broken(Mistake::LeadsAfterFailure) {
                    turn.succeeded = false;
                    turn.succeeded = lead().is_ok();
                }
                continue;
            }
            // Somebody leads, and will wake another when he is done.
            to_lead = false;
            let worth_a_look = || !self.leading.load(Ordering::Relaxed) || outcome(progress, goal).is_some();
            if !spin(self.looks, worth_a_look) {
                to_lead = self.sleep(progress, goal);
            }
        }
    }

    /// Wakes all whose goals are reached, or everybody after a failure; for those who made progress without leading. Costs a fence
    /// and a load while nobody sleeps.
    pub(crate) fn wake_reached(&self, progress: &impl Progress<Goal = G>) {
        // Partner: the fence in `sleep`. See the module's header.
        fence(Ordering::SeqCst);
        if self.sleeping() > 0 {
            self.sweep(progress, Sweep::Progress);
        }
    }

    /// How many sleep, or are about to.
    pub(crate) fn sleeping(&self) -> usize {
        self.sleeper_count.load(Ordering::Relaxed)
    }

    fn take_lead<'a, P: Progress<Goal = G>>(&'a self, progress: &'a P) -> Option<Turn<'a, P>> {
        // Loaded first: those who only look share the line.
        let free = !self.leading.load(Ordering::Relaxed)
            // Partner: the store in `sweep`. What the last leader published, or said of its failure, is seen.
            && self.leading.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
        free.then(|| Turn { waiting: self, progress, succeeded: true })
    }

    /// Registers and sleeps, unless there is no need to any more. Returns whether it was woken to lead.
    fn sleep(&self, progress: &impl Progress<Goal = G>, goal: G) -> bool {
        let bed = Bed::mine();
        {
            let mut sleepers = self.sleepers.lock();
            bed.call.store(ASLEEP, Ordering::Relaxed);
            sleepers.push(Registered { goal, bed: Arc::clone(&bed) });
            self.sleeper_count.store(sleepers.len(), Ordering::Relaxed);
            // Partner: the fence in `wake_reached`. See the module's header.
            if !broken(Mistake::NoFence) {
                fence(Ordering::SeqCst);
            }
            let needless = !self.leading.load(Ordering::Relaxed) || outcome(progress, goal).is_some();
            if needless && !broken(Mistake::SleepsUnseeing) {
                sleepers.pop();
                self.sleeper_count.store(sleepers.len(), Ordering::Relaxed);
                return false;
            }
        }
        loop {
            // Partner: the stores in `sweep`. A wake-up without a call is left over from an earlier sleep, or nobody's.
            match bed.call.load(Ordering::Acquire) {
                ASLEEP => bed.sleeper.sleep(),
                call => return call == CALLED_TO_LEAD,
            }
        }
    }

    /// Takes out whoever has reached its goal, and one to lead next if that is due, and wakes them.
    fn sweep(&self, progress: &impl Progress<Goal = G>, why: Sweep) {
        let mut calls = CALLS.try_with(Cell::take).unwrap_or_default();
        {
            let mut sleepers = self.sleepers.lock();
            // Partner: the exchange in `take_lead`.
            let end_turn = || self.leading.store(false, Ordering::Release);
            if why == Sweep::EndOfTurn && !broken(Mistake::WakesBeforeItEnds) {
                end_turn();
            }
            let failed = progress.failed() && !broken(Mistake::FailsInSilence);
            let served = sleepers.extract_if(.., |sleeper| failed || progress.reached(sleeper.goal));
            calls.extend(served.map(|sleeper| sleeper.called(CALLED)));
            let due = why != Sweep::Progress && !self.leading.load(Ordering::Relaxed) && !broken(Mistake::NobodyNext);
            if due && !sleepers.is_empty() {
                calls.push(sleepers.remove(0).called(CALLED_TO_LEAD));
            }
            self.sleeper_count.store(sleepers.len(), Ordering::Relaxed);
            if why == Sweep::EndOfTurn {
                self.crowded.store(!calls.is_empty(), Ordering::Relaxed);
            }
            if broken(Mistake::WakesBeforeItEnds) {
                drop(sleepers);
                end_turn();
            }
        }
        // Outside the lock, since each may cost a system call; the next leader first, so that the device rests as little as possible.
        calls.drain(..).rev().for_each(|bed| bed.sleeper.wake());
        // A thread that is ending has no place for it any more.
        let _ = CALLS.try_with(|kept| kept.set(calls));
    }
}

/// `None` while it pays to wait.
fn outcome<P: Progress>(progress: &P, goal: P::Goal) -> Option<Result<(), Failed>> {
    // In this order: whoever sees the failure sees all that was reached before it.
    let failed = progress.failed();
    if progress.reached(goal) { Some(Ok(())) } else { failed.then_some(Err(Failed)) }
}

impl<G> Registered<G> {
    fn called(self, call: u32) -> Arc<Bed> {
        // Partner: the load in `sleep`.
        self.bed.call.store(call, Ordering::Release);
        self.bed
    }
}

impl Bed {
    fn of_this_thread() -> Self {
        Self { call: AtomicU32::new(CALLED), sleeper: Sleeper::of_this_thread() }
    }

    fn mine() -> Arc<Self> {
        BED.try_with(Arc::clone).unwrap_or_else(|_| Arc::new(Self::of_this_thread()))
    }
}

/// Ends a leader's turn, also when it panics, so that nobody waits for ever.
struct Turn<'a, P: Progress> {
    waiting: &'a Waiting<P::Goal>,
    progress: &'a P,
    succeeded: bool,
}

impl<P: Progress> Drop for Turn<'_, P> {
    fn drop(&mut self) {
        if !self.succeeded {
            self.progress.fail();
        }
        self.waiting.sweep(self.progress, Sweep::EndOfTurn);
    }
}
