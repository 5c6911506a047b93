//! A history of an allocator, compared with a naive model: which pages each root reaches. A page is free exactly when it is in
//! the file, not fixed, not lent, not permanent, and no root can reach it that is a tip, a snapshot, the newest checkpoint, or a
//! commit after it. Files have several regions, so maps are saved, forgotten and loaded.

use crate::{input::Input, memory::Meter};
use spinney_alloc::{
    Allocator, Arena, Delta, DirectoryEntry, Extent, ExtentSet, Freed, Geometry, Need, Owner, PageNo, ReplayError, Seq,
    Stamp,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
};

const OWNERS: usize = 3;
const PAGE_BYTES: usize = 4096;
const FILE_PAGES: u64 = 60;
/// Two regions and a bit.
const FILE_PAGES_MAX: u64 = 70_000;
const STEPS_MAX: usize = 80;

/// What one owner can reach from one root: page, stamp.
#[derive(Default)]
struct Root {
    stamp: u64,
    pages: BTreeMap<u64, u64>,
}

type Roots = [Rc<Root>; OWNERS];

/// A state that a superblock points to, and what the superblock says.
struct Durable {
    roots: Roots,
    permanent: BTreeSet<Extent>,
    entries: Vec<DirectoryEntry>,
}

struct Commit {
    seq: u64,
    deltas: Vec<Delta>,
    roots: Roots,
}

struct Txn {
    stamp: u64,
    arena: Arena,
    lent: ExtentSet,
    taken: BTreeMap<u64, u64>,
    freed: BTreeMap<u64, u64>,
}

struct World {
    geometry: Geometry,
    alloc: Allocator,
    /// Map pages by page number.
    disk: HashMap<u64, Vec<u8>>,
    stamp: u64,
    seq: u64,
    number: u64,
    snapshot_id: u64,
    tips: Roots,
    open: [Option<Txn>; OWNERS],
    snapshots: BTreeMap<u64, [Option<Rc<Root>>; OWNERS]>,
    newest: Durable,
    /// What the checkpoint in progress covers.
    covers: Option<(u64, Roots)>,
    /// Commits after the newest checkpoint.
    commits: Vec<Commit>,
    permanent: BTreeSet<Extent>,
    /// Given up, and not yet free: before and after the map of a checkpoint in progress has taken them in.
    permanent_dying: Vec<Extent>,
    permanent_applied: Vec<Extent>,
}

pub(crate) fn run(input: &[u8]) {
    let meter = Meter::new();
    let mut input = Input::new(input);
    let mut world = World::new();
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
        world.check();
    }
    world.finale();
    // The model's own sets.
    meter.assert_bounded(0, 48 << 20);
}

impl World {
    fn new() -> Self {
        let geometry = Geometry::new(PAGE_BYTES).expect("a page size");
        let permanent = BTreeSet::from([extent(20, 3), extent(30, 10)]);
        let in_use: Vec<Extent> = permanent.iter().copied().collect();
        let alloc = Allocator::create(geometry, FILE_PAGES, &in_use).expect("a sound beginning");
        let roots = Roots::default();
        let newest = Durable { roots: roots.clone(), permanent: permanent.clone(), entries: Vec::new() };
        let mut world = Self {
            geometry,
            alloc,
            disk: HashMap::new(),
            stamp: 0,
            seq: 0,
            number: 0,
            snapshot_id: 0,
            tips: roots,
            open: [None, None, None],
            snapshots: BTreeMap::new(),
            newest,
            covers: None,
            commits: Vec::new(),
            permanent,
            permanent_dying: Vec::new(),
            permanent_applied: Vec::new(),
        };
        // A file exists from its first checkpoint on.
        world.begin();
        world.go(0);
        world
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(32) {
            0..10 => self.work(input),
            10..16 => {
                let (who, all, aborts) = (input.below(OWNERS), input.byte(), input.byte());
                let who: Vec<usize> = if all & 3 == 0 { (0..OWNERS).collect() } else { vec![who] };
                if aborts & 7 == 0 { who.into_iter().for_each(|owner| self.abort(owner)) } else { self.commit(&who) }
            }
            16..19 => {
                let of = input.byte();
                self.snapshot_id += 1;
                let roots = std::array::from_fn(|owner| (of >> owner & 1 != 0).then(|| Rc::clone(&self.tips[owner])));
                self.snapshots.insert(self.snapshot_id, roots);
            }
            19 => {
                let ids: Vec<u64> = self.snapshots.keys().copied().collect();
                if !ids.is_empty() {
                    self.drop_snapshot(ids[input.below(ids.len())]);
                }
            }
            20 | 21 if self.covers.is_none() => self.begin(),
            20..24 => {
                if self.covers.is_none() {
                    self.begin();
                }
                let stage = input.byte();
                self.go(stage);
            }
            24 => self.crash(input.below(4)),
            25 => self.grow(u64::from(input.u16())),
            26 => self.cut(u64::from(input.u16()), u64::from(input.byte()), input.byte() & 3 == 0),
            27 => self.punch(u64::from(input.u16()), u64::from(input.byte())),
            28 => self.alloc.trim(),
            29 => {
                if let Some(extent) = self.reserve_run(1 + u64::from(input.byte() % 64)) {
                    self.alloc.mark_permanent(extent);
                    self.permanent.insert(extent);
                }
            }
            _ => {
                let all: Vec<Extent> = self.permanent.iter().copied().collect();
                if !all.is_empty() {
                    let extent = all[input.below(all.len())];
                    self.alloc.free_permanent(extent);
                    self.permanent.remove(&extent);
                    self.permanent_dying.push(extent);
                }
            }
        }
    }

    /// A step of one owner's transaction, which begins with it if need be.
    fn work(&mut self, input: &mut Input<'_>) {
        let owner = input.below(OWNERS);
        let (reserve, take, run, free) = (1 + input.u16() % 600, input.byte(), input.byte(), input.byte());
        if self.open[owner].is_none() {
            self.stamp += 1;
            let (arena, lent) = (Arena::new(), ExtentSet::new());
            let (taken, freed) = (BTreeMap::new(), BTreeMap::new());
            self.open[owner] = Some(Txn { stamp: self.stamp, arena, lent, taken, freed });
        }
        // Now and then a run that leaves little room in a region.
        let run = if run == 255 {
            20_000
        } else if run < 128 {
            0
        } else {
            u64::from(run & 63) + 1
        };
        if run > 0
            && let Some(extent) = self.reserve_run(run)
        {
            let txn = self.open[owner].as_mut().expect("open");
            txn.lent.insert(extent);
            txn.taken.extend((extent.start.get()..extent.end()).map(|page| (page, txn.stamp)));
        }
        for _ in 0..take {
            if self.open[owner].as_ref().expect("open").arena.is_empty() {
                let arena = self.reserve(u64::from(reserve));
                let txn = self.open[owner].as_mut().expect("open");
                txn.lent.extend(arena.iter().copied());
                txn.arena.add(arena);
            }
            let txn = self.open[owner].as_mut().expect("open");
            let Some(page) = txn.arena.take_page() else { break };
            assert!(txn.taken.insert(page.get(), txn.stamp).is_none(), "{page} taken twice");
        }
        let txn = self.open[owner].as_mut().expect("open");
        if free & 1 != 0
            && let Some((&page, _)) = txn.taken.iter().next()
        {
            txn.taken.remove(&page);
            txn.arena.recycle(PageNo::new(page).expect("it was granted"));
        }
        // Every nth page of the tip is freed.
        let nth = usize::from(free >> 1).max(1);
        if free >= 16 {
            let skip = usize::from(input.byte());
            txn.freed.extend(self.tips[owner].pages.iter().skip(skip).step_by(nth));
        }
    }

    fn reserve(&mut self, pages: u64) -> Vec<Extent> {
        let free = self.free();
        loop {
            match self.alloc.reserve(pages) {
                Ok(arena) => {
                    arena.iter().for_each(|&extent| assert_free(&free, extent));
                    assert!(arena.iter().map(|e| e.pages).sum::<u64>() <= pages);
                    return arena;
                }
                Err(Need::Growth { pages: more }) if !self.satisfy(Need::Growth { pages: more }) => {
                    return if pages > 1 && free.contains(&true) { self.reserve(1) } else { Vec::new() };
                }
                Err(Need::Growth { .. }) => return self.reserve(pages),
                Err(need) => assert!(self.satisfy(need)),
            }
        }
    }

    fn reserve_run(&mut self, pages: u64) -> Option<Extent> {
        let free = self.free();
        let fit = first_fit(&free, pages, self.geometry);
        loop {
            match self.alloc.reserve_run(pages) {
                Ok(extent) => {
                    assert_eq!(extent.pages, pages);
                    assert!(fit.is_none_or(|fit| fit == extent.start.get()), "not the lowest fit: {extent:?}");
                    return Some(extent);
                }
                Err(need) if !self.satisfy(need) => return None,
                Err(Need::Growth { .. }) => assert_eq!(fit, None),
                Err(_) => {}
            }
        }
    }

    /// Does what the allocator asks for; `false` when the file may not grow further.
    fn satisfy(&mut self, need: Need) -> bool {
        let (home, what) = match need {
            Need::Growth { pages } => {
                let grows = self.alloc.file_pages() + pages <= FILE_PAGES_MAX;
                if grows {
                    self.alloc.grow(self.alloc.file_pages() + pages);
                }
                return grows;
            }
            Need::Directory(directory) => (self.alloc.directory_home(directory), need),
            Need::Region(region) => (self.alloc.region_home(region).expect("its directory is there"), need),
        };
        let home = home.expect("needed, so saved");
        assert!(home.page.get() < self.alloc.file_pages(), "{} was cut off", home.page);
        let page = self.disk.get(&home.page.get()).expect("a home that was written").clone();
        assert_eq!(page[16..24], home.number.to_le_bytes(), "the stamp that was promised");
        match what {
            Need::Directory(directory) => self.alloc.load_directory(directory, &page).expect("sound"),
            Need::Region(region) => self.alloc.load_region(region, &page).expect("sound"),
            Need::Growth { .. } => {}
        }
        true
    }

    fn commit(&mut self, who: &[usize]) {
        let mut deltas = Vec::new();
        let seq = self.seq + 1;
        for &owner in who {
            let Some(txn) = self.open[owner].take() else { continue };
            self.alloc.give_back(txn.arena.remainder());
            let mut pages = self.tips[owner].pages.clone();
            for (page, birth) in &txn.freed {
                assert_eq!(pages.remove(page), Some(*birth));
            }
            pages.extend(&txn.taken);
            let allocated: ExtentSet = txn.taken.keys().map(|&page| extent(page, 1)).collect();
            let freed = txn.freed.iter().map(|(&page, &birth)| Freed { extent: extent(page, 1), birth: Stamp(birth) });
            deltas.push(Delta {
                seq: Seq(seq),
                owner: Owner(u32::try_from(owner).expect("few")),
                death: Stamp(txn.stamp),
                allocated: allocated.iter().collect(),
                freed: freed.collect(),
            });
            self.tips[owner] = Rc::new(Root { stamp: txn.stamp, pages });
        }
        if !deltas.is_empty() {
            self.seq = seq;
            deltas.iter().for_each(|delta| self.alloc.commit(delta.clone()));
            self.commits.push(Commit { seq, deltas, roots: self.tips.clone() });
        }
    }

    fn abort(&mut self, owner: usize) {
        if let Some(txn) = self.open[owner].take() {
            self.alloc.give_back(txn.lent.iter());
        }
    }

    fn drop_snapshot(&mut self, id: u64) {
        self.snapshots.remove(&id);
        let freed = self.alloc.release(id, &holder(&self.snapshots));
        let free = self.free();
        freed.iter().for_each(|&extent| assert_free(&free, extent));
    }

    fn begin(&mut self) {
        self.alloc.begin_checkpoint(Seq(self.seq));
        self.covers = Some((self.seq, self.tips.clone()));
    }

    /// The checkpoint in progress goes on to its end, or to a failure or a power cut.
    fn go(&mut self, stage: u8) {
        const FAILS_AT_ONCE: u8 = 250;
        const FAILS_APPLIED: u8 = 251;
        const FAILS_WRITTEN: u8 = 252;
        const CUT_WRITTEN: u8 = 253;
        const CUT_DURABLE: u8 = 254;
        let (seq, roots) = self.covers.take().expect("a checkpoint in progress");
        if stage == FAILS_AT_ONCE {
            return self.alloc.fail_checkpoint();
        }
        while let Err(need) = self.alloc.apply_checkpoint() {
            assert!(self.satisfy(need));
        }
        self.permanent_applied.append(&mut self.permanent_dying);
        if stage == FAILS_APPLIED {
            return self.alloc.fail_checkpoint();
        }
        self.number += 1;
        self.alloc.save_as(self.number);
        let mut written = Vec::new();
        for region in self.alloc.changed_regions() {
            let mut page = vec![0xA5; PAGE_BYTES];
            written.push((self.alloc.encode_region(region, &mut page), page));
        }
        for directory in self.alloc.changed_directories() {
            let mut page = vec![0xA5; PAGE_BYTES];
            written.push((self.alloc.encode_directory(directory, &mut page), page));
        }
        for (home, mut page) in written {
            page[16..24].copy_from_slice(&self.number.to_le_bytes());
            if matches!(stage, FAILS_WRITTEN | CUT_WRITTEN) {
                page.fill(0xFF);
            }
            self.disk.insert(home.get(), page);
        }
        match stage {
            FAILS_WRITTEN => return self.alloc.fail_checkpoint(),
            CUT_WRITTEN => return self.crash(1),
            _ => {}
        }
        let entries = self.alloc.superblock_entries();
        let used_end = loop {
            match self.alloc.durable_used_end() {
                Ok(end) => break end,
                Err(need) => assert!(self.satisfy(need)),
            }
        };
        self.newest = Durable { roots, permanent: self.permanent.clone(), entries };
        self.commits.retain(|commit| commit.seq > seq);
        let of_roots = self.newest.roots.iter().filter_map(|root| root.pages.keys().next_back().map(|page| page + 1));
        let last = of_roots.chain(self.newest.permanent.iter().map(|extent| extent.end())).max();
        assert_eq!(used_end, last.unwrap_or(self.geometry.min_file_pages()), "the end of what is in use");
        if stage == CUT_DURABLE {
            return self.crash(0);
        }
        let freed = self.alloc.finish_checkpoint(&holder(&self.snapshots));
        self.permanent_applied.clear();
        let free = self.free();
        freed.iter().for_each(|&extent| assert_free(&free, extent));
    }

    /// The power goes, and with it the last `lose` commits, whose log was not synced.
    fn crash(&mut self, lose: usize) {
        self.open = [None, None, None];
        self.snapshots.clear();
        self.covers = None;
        self.permanent = self.newest.permanent.clone();
        (self.permanent_dying, self.permanent_applied) = (Vec::new(), Vec::new());
        self.commits.truncate(self.commits.len().saturating_sub(lose));
        self.tips = self.commits.last().map_or(&self.newest.roots, |commit| &commit.roots).clone();
        self.stamp += 1000;
        let (file_pages, entries) = (self.alloc.file_pages(), self.newest.entries.clone());
        self.alloc = Allocator::open(self.geometry, file_pages, entries).expect("sound");
        self.permanent.iter().for_each(|&extent| self.alloc.adopt_permanent(extent).expect("sound"));
        let deltas: Vec<Delta> = self.commits.iter().flat_map(|commit| commit.deltas.clone()).collect();
        for delta in deltas {
            while let Err(error) = self.alloc.replay(&delta) {
                let ReplayError::Need(need) = error else { panic!("{error}") };
                assert!(self.satisfy(need));
            }
        }
    }

    fn grow(&mut self, pages: u64) {
        if self.alloc.file_pages() + pages <= FILE_PAGES_MAX {
            self.alloc.grow(self.alloc.file_pages() + pages);
        }
    }

    fn cut(&mut self, max: u64, keep: u64, gives_up: bool) {
        let free = self.free();
        let tail = loop {
            match self.alloc.reserve_tail(max.max(1)) {
                Ok(tail) => break tail,
                Err(need) => assert!(self.satisfy(need)),
            }
        };
        let Some(tail) = tail else {
            assert!(!free[free.len() - 1], "the last page is free");
            return;
        };
        assert_eq!(tail.end(), self.alloc.file_pages());
        assert!(tail.pages <= max.max(1));
        for page in tail.start.get()..tail.end() {
            assert!(free[index(page)] || is_fixed(self.geometry, page), "cut {page}");
        }
        if gives_up {
            return self.alloc.give_back([tail]);
        }
        let end = (tail.start.get() + keep).min(tail.end());
        self.alloc.shrink(end);
        assert_eq!(self.alloc.file_pages(), end);
        self.disk.retain(|&page, _| page < end);
    }

    fn punch(&mut self, max: u64, min: u64) {
        let free = self.free();
        for _ in 0..100 {
            let runs = loop {
                match self.alloc.reserve_for_punch(max, min) {
                    Ok(runs) => break runs,
                    Err(need) => assert!(self.satisfy(need)),
                }
            };
            if runs.is_empty() {
                break;
            }
            runs.iter().for_each(|&run| assert_free(&free, run));
            self.alloc.give_back(runs);
        }
    }

    /// Which pages are free, by definition.
    fn free(&self) -> Vec<bool> {
        let file_pages = self.alloc.file_pages();
        let mut free = vec![true; index(file_pages)];
        for region in 0..self.geometry.region_of(PageNo::new(file_pages - 1).expect("not empty")) + 1 {
            let fixed = self.geometry.fixed(region);
            free[index(fixed.start.min(file_pages))..index(fixed.end.min(file_pages))].fill(false);
        }
        let snapshots = self.snapshots.values().flatten().flatten();
        let commits = self.commits.iter().flat_map(|commit| &commit.roots);
        for root in self.tips.iter().chain(&self.newest.roots).chain(snapshots).chain(commits) {
            root.pages.keys().for_each(|&page| free[index(page)] = false);
        }
        let lent = self.open.iter().flatten().flat_map(|txn| txn.lent.iter());
        let dying = self.permanent_dying.iter().chain(&self.permanent_applied).copied();
        for extent in lent.chain(dying).chain(self.permanent.iter().copied()) {
            free[index(extent.start.get())..index(extent.end())].fill(false);
        }
        free
    }

    fn check(&self) {
        let stats = self.alloc.stats();
        let free = self.free().into_iter().filter(|&free| free).count();
        assert_eq!(stats.free, free as u64, "free pages: {stats:?}");
        let permanent: u64 = self.permanent.iter().map(|extent| extent.pages).sum();
        let used: usize = self.tips.iter().map(|root| root.pages.len()).sum();
        assert_eq!(stats.used, used as u64 + permanent, "{stats:?}");
        assert_eq!(stats.lent, self.open.iter().flatten().map(|txn| txn.lent.pages()).sum::<u64>(), "{stats:?}");
        assert!(stats.pinned == 0 || !self.snapshots.is_empty(), "{stats:?}");
    }

    /// Everybody goes; then what is not free is reachable, permanent or fixed.
    fn finale(&mut self) {
        (0..OWNERS).for_each(|owner| self.abort(owner));
        self.snapshots.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| self.drop_snapshot(id));
        for _ in 0..2 {
            if self.covers.is_none() {
                self.begin();
            }
            self.go(0);
        }
        self.check();
        let stats = self.alloc.stats();
        assert_eq!((stats.lent, stats.awaiting_checkpoint, stats.pinned), (0, 0, 0), "{stats:?}");
        self.crash(0);
        self.check();
    }
}

fn extent(start: u64, pages: u64) -> Extent {
    Extent::new(start, pages).expect("an extent of the file")
}

fn index(page: u64) -> usize {
    usize::try_from(page).expect("a page of a small file")
}

fn is_fixed(geometry: Geometry, page: u64) -> bool {
    PageNo::new(page).is_none_or(|page| geometry.fixed(geometry.region_of(page)).contains(&page.get()))
}

fn assert_free(free: &[bool], extent: Extent) {
    (extent.start.get()..extent.end()).for_each(|page| assert!(free[index(page)], "{page} of {extent:?} is not free"));
}

/// Where the lowest run of free pages begins that is long enough; runs end with their region.
fn first_fit(free: &[bool], pages: u64, geometry: Geometry) -> Option<u64> {
    let mut run = 0;
    for (page, &is_free) in (0..).zip(free) {
        run = match is_free {
            false => 0,
            true if page % u64::from(geometry.region_pages()) == 0 => 1,
            true => run + 1,
        };
        if run == pages {
            return Some(page + 1 - pages);
        }
    }
    None
}

/// Rule of reuse, by stamps: the newest snapshot that reaches a page holds it.
fn holder(snapshots: &BTreeMap<u64, [Option<Rc<Root>>; OWNERS]>) -> impl Fn(Owner, Stamp, Stamp) -> Option<u64> {
    move |owner, birth, death| {
        let holds = |(_, roots): &(&u64, &[Option<Rc<Root>>; OWNERS])| {
            roots[owner.0 as usize].as_deref().is_some_and(|root| birth.0 <= root.stamp && root.stamp < death.0)
        };
        snapshots.iter().rev().find(holds).map(|(&id, _)| id)
    }
}
