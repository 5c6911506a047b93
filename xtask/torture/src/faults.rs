//! A worker on a simulated disk: a call fails, once or from then on, and then the power is cut.

use crate::{
    model::{Model, counter_of},
    plan::{Plan, Random},
    work::{Home, Worker, attempt},
};
use anyhow::{Context, ensure};
use spinney::{CallSet, Fault, FaultKind, PowerCut, SimDisk};

/// One run, which follows from the seed. Returns how many calls failed.
///
/// # Errors
/// What must not happen.
pub(crate) fn run(seed: u64) -> anyhow::Result<u64> {
    let mut random = Random::new(seed);
    let plan = Plan::short(random.next());
    let disk = SimDisk::new();
    disk.set_seed(random.next());
    let (calls, kind) = match random.below(7) {
        0 => (CallSet::ALL, FaultKind::Io),
        1 => (CallSet::CHANGES, FaultKind::Io),
        2 => (CallSet::CHANGES, FaultKind::NoSpace),
        3 => (CallSet::ALL, FaultKind::Interrupted),
        4 => (CallSet::WRITES, FaultKind::Short(random.below(5000) as usize)),
        5 => (CallSet::SYNC, FaultKind::Io),
        _ => (CallSet::READ, FaultKind::Short(1 + random.below(5000) as usize)),
    };
    // A disk that for ever moves nothing stops everybody; once is enough of that.
    let sticky = random.one_in(3) && kind != FaultKind::Short(0);
    disk.inject(Fault { calls, after: random.below(400), sticky, kind });
    let mut worker = Worker::new(plan, Home::Disk(disk.clone()));
    worker.run(40)?;
    let (durable, newest, fired) = (worker.durable, worker.counter, disk.faults_fired());
    drop(worker);

    let after = disk.power_cut(PowerCut::Random(random.next()));
    let home = Home::Disk(after);
    let db = home.open().context("opening after the power cut")?;
    let found = counter_of(&db, &db.snapshot(), 0)?;
    ensure!(found >= durable, "transaction {durable} was durable, {found} is there");
    ensure!(found <= newest + 1, "transaction {found} is there, {newest} was the last acknowledged");
    let mut model = Model::new(plan, 0);
    model.advance(found)?;
    model.compare(&db, &db.snapshot())?;
    let report = db.check()?;
    ensure!(report.is_sound(), "{:?}", report.problems);
    attempt(&db, &plan, 0, found + 1).context("the next transaction")?;
    model.advance(found + 1)?;
    model.compare(&db, &db.snapshot()).context("after going on")?;
    db.close()?;
    Ok(fired)
}
