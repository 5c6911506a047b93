//! Random histories of several owners against a naive model, in files with tiny regions, and the same over allocators broken on purpose.

mod world; // the history, and the model

use crate::{
    Allocator, Arena, Delta, DirectoryEntry, Extent, ExtentSet, Freed, Geometry, Need, Owner, PageNo, ReplayError, Seq,
    Stamp, canary::Rule,
};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use std::panic::{AssertUnwindSafe, catch_unwind};
use world::{OWNERS, Stage, World, permanent_first};

const FILE_PAGES_MAX: u64 = 1000;

/// Pages of 96 bytes, regions of 64 pages, three regions to a directory.
fn geometry() -> Geometry {
    Geometry::tiny(96, 64, 3)
}

#[derive(Clone, Debug)]
enum Op {
    /// A step of `owner`'s transaction, which begins with it if need be.
    Work {
        owner: usize,
        reserve: u64,
        take: usize,
        run: u64,
        free: Vec<prop::sample::Index>,
        recycle: bool,
        spill: bool,
    },
    /// Ends `owner`'s transaction, or all of them with one commit.
    End {
        owner: usize,
        commit: bool,
        all: bool,
    },
    Snapshot {
        of: [bool; OWNERS],
    },
    Drop(prop::sample::Index),
    Begin,
    /// The checkpoint in progress goes on to its end, or to a failure or a power cut.
    Go(Stage),
    Crash {
        lose: usize,
    },
    Grow(u64),
    Cut {
        max: u64,
        keep: u64,
        give_up: bool,
    },
    Punch {
        max: u64,
        min: u64,
    },
    Trim,
    Permanent(u64),
    FreePermanent(prop::sample::Index),
}

fn op() -> impl Strategy<Value = Op> {
    let index = any::<prop::sample::Index>;
    let free = prop::collection::vec(index(), 0..12);
    let work = (0..OWNERS, 1..40_u64, 0..30_usize, 0..6_u64, free, any::<bool>(), prop::bool::weighted(0.2));
    prop_oneof![
        12 => work.prop_map(|(owner, reserve, take, run, free, recycle, spill)| {
            Op::Work { owner, reserve, take, run, free, recycle, spill }
        }),
        8 => (0..OWNERS, prop::bool::weighted(0.85), prop::bool::weighted(0.2))
            .prop_map(|(owner, commit, all)| Op::End { owner, commit, all }),
        4 => any::<[bool; OWNERS]>().prop_map(|of| Op::Snapshot { of }),
        2 => index().prop_map(Op::Drop),
        3 => Just(Op::Begin),
        5 => prop_oneof![
            8 => Just(Stage::Finish),
            1 => Just(Stage::FailAtOnce),
            1 => Just(Stage::FailApplied),
            1 => Just(Stage::FailWritten),
            1 => Just(Stage::CrashWritten),
            1 => Just(Stage::CrashDurable),
        ].prop_map(Op::Go),
        1 => (0..4_usize).prop_map(|lose| Op::Crash { lose }),
        1 => (1..100_u64).prop_map(Op::Grow),
        2 => (1..200_u64, 0..20_u64, prop::bool::weighted(0.2))
            .prop_map(|(max, keep, give_up)| Op::Cut { max, keep, give_up }),
        1 => (1..100_u64, 1..8_u64).prop_map(|(max, min)| Op::Punch { max, min }),
        1 => Just(Op::Trim),
        1 => (1..10_u64).prop_map(Op::Permanent),
        1 => index().prop_map(Op::FreePermanent),
    ]
}

/// A new file.
fn world(broken: Option<Rule>) -> World {
    let mut alloc = Allocator::create(geometry(), 40, &permanent_first()).unwrap();
    alloc.broken = broken;
    World::new(alloc, geometry(), FILE_PAGES_MAX, |before, after| after.broken = before.broken)
}

fn step(world: &mut World, op: &Op) {
    match op {
        Op::Work { owner, reserve, take, run, free, recycle, spill } => {
            world.work(*owner, *reserve, *take, *run);
            let (tip, stamp) = (world.tips[*owner].clone(), world.stamp + 1);
            let txn = world.open[*owner].as_mut().unwrap();
            for index in free {
                let old: Vec<(u64, u64)> =
                    tip.pages.iter().map(|(&p, &b)| (p, b)).filter(|(p, _)| !txn.freed.contains_key(p)).collect();
                if !old.is_empty() {
                    let (page, birth) = *index.get(&old);
                    txn.freed.insert(page, birth);
                }
            }
            if *recycle {
                txn.recycle();
            }
            if *spill {
                txn.last_stamp = stamp;
                world.stamp = stamp;
            }
        }
        Op::End { owner, commit, all } => {
            let who: Vec<usize> = if *all { (0..OWNERS).collect() } else { vec![*owner] };
            if *commit { world.commit(&who) } else { who.into_iter().for_each(|owner| world.abort(owner)) }
        }
        Op::Snapshot { of } => world.snapshot(*of),
        Op::Drop(index) => {
            let ids = world.snapshots();
            if !ids.is_empty() {
                world.drop_snapshot(*index.get(&ids));
            }
        }
        Op::Begin if !world.is_saving() => world.begin(),
        Op::Go(stage) if world.is_saving() => world.go(*stage),
        Op::Begin | Op::Go(_) => {}
        Op::Crash { lose } => world.crash(*lose),
        Op::Grow(pages) => {
            world.grow(*pages);
        }
        Op::Cut { max, keep, give_up } => world.cut(*max, *keep, *give_up),
        Op::Punch { max, min } => punch(world, *max, *min),
        Op::Trim => world.alloc.trim(),
        Op::Permanent(pages) => world.make_permanent(*pages),
        Op::FreePermanent(index) => {
            let all = world.permanent();
            if !all.is_empty() {
                world.free_permanent(*index.get(&all));
            }
        }
    }
}

/// Until nothing is left, three times: at last nothing is.
fn punch(world: &mut World, max: u64, min: u64) {
    let mut rounds = [0, 0, 0];
    for round in &mut rounds {
        loop {
            let runs = world.punch(max, min);
            if runs == 0 {
                break;
            }
            *round += runs;
            assert!(*round <= 1000, "the same runs again and again");
        }
    }
    assert_eq!(rounds[2], 0, "punched twice");
}

/// The maps in memory say of each page what the model says.
fn check_maps(world: &World) {
    let (free, file_pages) = (world.free(), world.alloc.file_pages());
    for region in 0..geometry().region_count(file_pages) {
        let directory = &world.alloc.directories[geometry().directory_of(region) as usize];
        if directory.regions.is_none() || !world.alloc.region(region).is_loaded() {
            continue;
        }
        for offset in 0..geometry().pages_in_file(region, file_pages) {
            let page = geometry().region_start(region) + u64::from(offset);
            let in_use = world.alloc.region(region).live_map().next_in_use(offset, offset + 1) == offset;
            assert_eq!(in_use, !free[usize::try_from(page).unwrap()], "page {page} in use");
        }
    }
}

fn run(ops: &[Op], broken: Option<Rule>) {
    let mut world = world(broken);
    for op in ops {
        step(&mut world, op);
        world.check();
        check_maps(&world);
    }
    world.finale();
    for region in 0..geometry().region_count(world.alloc.file_pages()) {
        while let Err(need) = world.alloc.region_ready(region) {
            assert!(world.satisfy(need));
        }
    }
    world.check();
    check_maps(&world);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(768), ..ProptestConfig::default() })]
    #[test]
    fn every_page_is_free_exactly_when_nobody_needs_it(ops in prop::collection::vec(op(), 1..150)) {
        run(&ops, None);
    }
}

/// The canary: with any one rule switched off, the same test fails.
#[test]
fn the_model_notices_every_broken_rule() {
    use Rule::*;
    for rule in [
        FreedPagesWait,
        SnapshotsProtect,
        OlderSnapshotsProtect,
        ReleaseFrees,
        CheckpointIsOneInstant,
        ArenasAreNotSaved,
        HomesTakeTurns,
        FailureKeepsFrees,
        AbortsFree,
        StalePagesAreIgnored,
        FreedRunsAreFound,
        PermanentPagesWait,
        ReplayClaims,
    ] {
        let mut runner = TestRunner::deterministic();
        let histories = prop::collection::vec(op(), 100..150);
        let noticed = (0..400).any(|_| {
            let ops = histories.new_tree(&mut runner).unwrap().current();
            catch_unwind(AssertUnwindSafe(|| run(&ops, Some(rule)))).is_err()
        });
        assert!(noticed, "nobody noticed that {rule:?} was off");
    }
}
