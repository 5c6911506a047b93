//! A history of an allocator, compared with the naive model of its own tests, with other steps: in files of several regions of ordinary size, so
//! maps are saved, forgotten and loaded.

use crate::{input::Input, memory::Meter};
use spinney_alloc::{
    Allocator, Arena, Delta, DirectoryEntry, Extent, ExtentSet, Freed, Geometry, Need, Owner, PageNo, ReplayError, Seq,
    Stamp,
};
use world::{OWNERS, Stage, World, permanent_first};

#[path = "../../../../spinney-alloc/src/model/world.rs"]
mod world;

const PAGE_BYTES: usize = 4096;
const FILE_PAGES: u64 = 60;
/// Two regions and a bit.
const FILE_PAGES_MAX: u64 = 70_000;
const STEPS_MAX: usize = 80;

pub(crate) fn run(input: &[u8]) {
    let meter = Meter::new();
    let mut input = Input::new(input);
    let geometry = Geometry::new(PAGE_BYTES).expect("a page size");
    let alloc = Allocator::create(geometry, FILE_PAGES, &permanent_first()).expect("a sound beginning");
    let mut world = World::new(alloc, geometry, FILE_PAGES_MAX, |_, _| ());
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        step(&mut world, &mut input);
        world.check();
    }
    world.finale();
    // The model's own sets.
    meter.assert_bounded(0, 48 << 20);
}

fn step(world: &mut World, input: &mut Input<'_>) {
    match input.below(32) {
        0..10 => work(world, input),
        10..16 => {
            let (who, all, aborts) = (input.below(OWNERS), input.byte(), input.byte());
            let who: Vec<usize> = if all & 3 == 0 { (0..OWNERS).collect() } else { vec![who] };
            if aborts & 7 == 0 { who.into_iter().for_each(|owner| world.abort(owner)) } else { world.commit(&who) }
        }
        16..19 => {
            let of = input.byte();
            world.snapshot(std::array::from_fn(|owner| of >> owner & 1 != 0));
        }
        19 => {
            let ids = world.snapshots();
            if !ids.is_empty() {
                world.drop_snapshot(ids[input.below(ids.len())]);
            }
        }
        20 | 21 if !world.is_saving() => world.begin(),
        20..24 => {
            if !world.is_saving() {
                world.begin();
            }
            world.go(stage(input.byte()));
        }
        24 => world.crash(input.below(4)),
        25 => {
            world.grow(u64::from(input.u16()));
        }
        26 => world.cut(u64::from(input.u16()).max(1), u64::from(input.byte()), input.byte() & 3 == 0),
        27 => {
            let (max, min) = (u64::from(input.u16()), u64::from(input.byte()));
            let _rounds = (0..100).take_while(|_| world.punch(max, min) > 0).count();
        }
        28 => world.alloc.trim(),
        29 => world.make_permanent(1 + u64::from(input.byte() % 64)),
        _ => {
            let all = world.permanent();
            if !all.is_empty() {
                world.free_permanent(all[input.below(all.len())]);
            }
        }
    }
}

fn stage(byte: u8) -> Stage {
    match byte {
        250 => Stage::FailAtOnce,
        251 => Stage::FailApplied,
        252 => Stage::FailWritten,
        253 => Stage::CrashWritten,
        254 => Stage::CrashDurable,
        _ => Stage::Finish,
    }
}

fn work(world: &mut World, input: &mut Input<'_>) {
    let owner = input.below(OWNERS);
    let (reserve, take, run, free) = (1 + input.u16() % 600, input.byte(), input.byte(), input.byte());
    // Now and then a run that leaves little room in a region.
    let run = match run {
        255 => 20_000,
        128.. => u64::from(run & 63) + 1,
        _ => 0,
    };
    let tip = world.tips[owner].clone();
    let txn = world.work(owner, u64::from(reserve), usize::from(take), run);
    if free & 1 != 0 {
        txn.recycle();
    }
    // Every nth page of the tip is freed.
    if free >= 16 {
        let (skip, nth) = (usize::from(input.byte()), usize::from(free >> 1));
        txn.freed.extend(tip.pages.iter().skip(skip).step_by(nth));
    }
}
