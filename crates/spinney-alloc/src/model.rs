//! Random histories of several owners against a naive model, in files with tiny regions.
//!
//! The model keeps every root as a set of pages, and never hears of maps, lives or holders: a page is
//! free exactly when it is in the file, not fixed, not lent, not permanent, and no root can reach it
//! that is a tip, a snapshot, the newest checkpoint or a commit after it. That is compared page by
//! page after every step, so nothing is granted twice, granted while somebody can reach it, or lost.

use crate::{
    Allocator, Arena, Delta, DirectoryEntry, Extent, ExtentSet, Freed, Geometry, Need, Owner, PageNo, ReplayError, Seq,
    Stamp, canary::Rule,
};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
};

const OWNERS: usize = 3;
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Finish,
    FailAtOnce,
    FailApplied,
    FailWritten,
    CrashWritten,
    CrashDurable,
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

/// What one owner can reach from one root: page -> stamp.
#[derive(Default)]
struct Root {
    stamp: u64,
    pages: BTreeMap<u64, u64>,
}

type Roots = [Rc<Root>; OWNERS];

/// A state that a superblock points to, and what the superblock says.
#[derive(Clone)]
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
    first_stamp: u64,
    last_stamp: u64,
    arena: Arena,
    lent: ExtentSet,
    taken: BTreeMap<u64, u64>,
    freed: BTreeMap<u64, u64>,
}

struct World {
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
    permanent_dying: Vec<Extent>,
    permanent_applied: Vec<Extent>,
}

impl World {
    fn new(broken: Option<Rule>) -> Self {
        let permanent = BTreeSet::from([extent(20, 3), extent(30, 10)]);
        let in_use: Vec<Extent> = permanent.iter().copied().collect();
        let mut alloc = Allocator::create(geometry(), 40, &in_use).unwrap();
        alloc.broken = broken;
        let roots = Roots::default();
        let newest = Durable { roots: roots.clone(), permanent: permanent.clone(), entries: Vec::new() };
        let mut world = Self {
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
        world.go(Stage::Finish);
        world
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Work { owner, reserve, take, run, free, recycle, spill } => {
                self.work(*owner, *reserve, *take, *run);
                let Some(txn) = &mut self.open[*owner] else { return };
                for index in free {
                    let old: Vec<(u64, u64)> = self.tips[*owner]
                        .pages
                        .iter()
                        .map(|(&p, &b)| (p, b))
                        .filter(|(p, _)| !txn.freed.contains_key(p))
                        .collect();
                    if !old.is_empty() {
                        let (page, birth) = *index.get(&old);
                        txn.freed.insert(page, birth);
                    }
                }
                if *recycle && let Some((&page, _)) = txn.taken.iter().find(|(_, birth)| **birth == txn.last_stamp) {
                    txn.taken.remove(&page);
                    txn.arena.recycle(PageNo::new(page).unwrap());
                }
                if *spill {
                    self.stamp += 1;
                    txn.last_stamp = self.stamp;
                }
            }
            Op::End { owner, commit, all } => {
                let who: Vec<usize> = if *all { (0..OWNERS).collect() } else { vec![*owner] };
                if *commit { self.commit(&who) } else { who.into_iter().for_each(|owner| self.abort(owner)) }
            }
            Op::Snapshot { of } => {
                self.snapshot_id += 1;
                let roots = std::array::from_fn(|owner| of[owner].then(|| self.tips[owner].clone()));
                self.snapshots.insert(self.snapshot_id, roots);
            }
            Op::Drop(index) => {
                let ids: Vec<u64> = self.snapshots.keys().copied().collect();
                if !ids.is_empty() {
                    self.drop_snapshot(*index.get(&ids));
                }
            }
            Op::Begin => {
                if self.covers.is_none() {
                    self.begin();
                }
            }
            Op::Go(stage) => {
                if self.covers.is_some() {
                    self.go(*stage);
                }
            }
            Op::Crash { lose } => self.crash(*lose),
            Op::Grow(pages) => self.grow(*pages),
            Op::Cut { max, keep, give_up } => self.cut(*max, *keep, *give_up),
            Op::Punch { max, min } => self.punch(*max, *min),
            Op::Trim => self.alloc.trim(),
            Op::Permanent(pages) => {
                if let Some(extent) = self.reserve_run(*pages) {
                    self.alloc.mark_permanent(extent);
                    self.permanent.insert(extent);
                }
            }
            Op::FreePermanent(index) => {
                let all: Vec<Extent> = self.permanent.iter().copied().collect();
                if !all.is_empty() {
                    let extent = *index.get(&all);
                    self.alloc.free_permanent(extent);
                    self.permanent.remove(&extent);
                    self.permanent_dying.push(extent);
                }
            }
        }
    }

    fn work(&mut self, owner: usize, reserve: u64, take: usize, run: u64) {
        if self.open[owner].is_none() {
            self.stamp += 1;
            self.open[owner] = Some(Txn {
                first_stamp: self.stamp,
                last_stamp: self.stamp,
                arena: Arena::new(),
                lent: ExtentSet::new(),
                taken: BTreeMap::new(),
                freed: BTreeMap::new(),
            });
        }
        if run > 0
            && let Some(extent) = self.reserve_run(run)
        {
            let txn = self.open[owner].as_mut().unwrap();
            txn.lent.insert(extent);
            txn.taken.extend((extent.start.get()..extent.end()).map(|page| (page, txn.last_stamp)));
        }
        for _ in 0..take {
            if self.open[owner].as_ref().unwrap().arena.is_empty() {
                let arena = self.reserve(reserve);
                let txn = self.open[owner].as_mut().unwrap();
                txn.lent.extend(arena.iter().copied());
                txn.arena.add(arena);
            }
            let txn = self.open[owner].as_mut().unwrap();
            let Some(page) = txn.arena.take_page() else { break };
            assert!(txn.taken.insert(page.get(), txn.last_stamp).is_none(), "{page} taken twice");
        }
    }

    fn reserve(&mut self, pages: u64) -> Vec<Extent> {
        let free = self.free();
        loop {
            match self.alloc.reserve(pages) {
                Ok(arena) => {
                    arena.iter().for_each(|&extent| assert_free(&free, extent));
                    assert!(arena.iter().map(|e| e.pages).sum::<u64>() <= pages);
                    let fits = runs(&free).into_iter().find(|run| run.pages >= pages);
                    let expected = fits.map(|run| vec![Extent { pages, ..run }]);
                    assert!(expected.is_none_or(|expected| expected == arena), "not the lowest fit: {arena:?}");
                    return arena;
                }
                Err(need @ Need::Growth { .. }) if !self.grows_with_reason(need, pages, &free) => {
                    let single = free.iter().next().is_some() && pages > 1;
                    return if single { self.reserve(1) } else { Vec::new() };
                }
                Err(Need::Growth { .. }) => return self.reserve(pages),
                Err(need) => assert!(self.satisfy(need)),
            }
        }
    }

    /// Grows the file, which was not to be asked for while enough is free.
    fn grows_with_reason(&mut self, need: Need, pages: u64, free: &BTreeSet<u64>) -> bool {
        assert!(runs(free).iter().all(|run| run.pages < pages), "a run was there");
        assert!(free.is_empty() || (free.len() as u64) < self.alloc.file_pages() / 4, "much was free");
        self.satisfy(need)
    }

    fn reserve_run(&mut self, pages: u64) -> Option<Extent> {
        let free = self.free();
        let fit = runs(&free).into_iter().find(|run| run.pages >= pages);
        loop {
            match self.alloc.reserve_run(pages) {
                Ok(extent) => {
                    assert_eq!(extent.pages, pages);
                    assert!(fit.is_none_or(|fit| fit.start == extent.start), "not the lowest fit: {extent:?}");
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
        match need {
            Need::Growth { pages } => {
                let grows = self.alloc.file_pages() + pages <= FILE_PAGES_MAX;
                if grows {
                    self.alloc.grow(self.alloc.file_pages() + pages);
                }
                return grows;
            }
            Need::Directory(directory) => {
                let home = self.alloc.directory_home(directory).expect("needed, so saved");
                let page = self.read(home.page, home.number);
                self.alloc.load_directory(directory, &page).unwrap();
            }
            Need::Region(region) => {
                let home = self.alloc.region_home(region).expect("its directory is there").expect("needed, so saved");
                // A slow reader comes with what it read from the other home.
                let twins = geometry().region_twins(region).get();
                if let Some(stale) = self.disk.get(&(twins * 2 + 1 - home.page.get())) {
                    self.alloc.load_region(region, stale).unwrap();
                }
                let page = self.read(home.page, home.number);
                self.alloc.load_region(region, &page).unwrap();
            }
        }
        true
    }

    fn read(&self, page: PageNo, number: u64) -> Vec<u8> {
        assert!(page.get() < self.alloc.file_pages(), "{page} was cut off");
        let page = self.disk.get(&page.get()).expect("a home that was written").clone();
        assert_eq!(page[16..24], number.to_le_bytes(), "the stamp that was promised");
        page
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
                owner: Owner(u32::try_from(owner).unwrap()),
                death: Stamp(txn.first_stamp),
                allocated: allocated.iter().collect(),
                freed: freed.collect(),
            });
            self.tips[owner] = Rc::new(Root { stamp: txn.last_stamp, pages });
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
        let free = self.alloc.release(id, &holder(&self.snapshots, &self.newest, &self.commits));
        let now = self.free();
        free.iter().for_each(|&extent| assert_free(&now, extent));
    }

    fn begin(&mut self) {
        self.alloc.begin_checkpoint(Seq(self.seq));
        self.covers = Some((self.seq, self.tips.clone()));
    }

    fn go(&mut self, stage: Stage) {
        let (seq, roots) = self.covers.take().expect("a checkpoint in progress");
        if stage == Stage::FailAtOnce {
            return self.alloc.fail_checkpoint();
        }
        while let Err(need) = self.alloc.apply_checkpoint() {
            assert!(self.satisfy(need));
        }
        self.permanent_applied.append(&mut self.permanent_dying);
        if stage == Stage::FailApplied {
            return self.alloc.fail_checkpoint();
        }
        self.number += 1;
        self.alloc.save_as(self.number);
        let mut written = Vec::new();
        for region in self.alloc.changed_regions() {
            let mut page = vec![0xA5; geometry().page_bytes()];
            let home = self.alloc.encode_region(region, &mut page);
            written.push((home, page));
        }
        for directory in self.alloc.changed_directories() {
            let mut page = vec![0xA5; geometry().page_bytes()];
            let home = self.alloc.encode_directory(directory, &mut page);
            written.push((home, page));
        }
        let torn = matches!(stage, Stage::FailWritten | Stage::CrashWritten);
        for (home, mut page) in written {
            page[16..24].copy_from_slice(&self.number.to_le_bytes());
            if torn {
                page.fill(0xFF);
            }
            self.disk.insert(home.get(), page);
        }
        match stage {
            Stage::FailWritten => return self.alloc.fail_checkpoint(),
            Stage::CrashWritten => return self.crash(1),
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
        let last = reach(&self.newest.roots).chain(pages(&self.newest.permanent)).max();
        assert_eq!(used_end, last.map_or(geometry().min_file_pages(), |page| page + 1), "the end of what is in use");
        if stage == Stage::CrashDurable {
            return self.crash(0);
        }
        let freed = self.alloc.finish_checkpoint(&holder(&self.snapshots, &self.newest, &self.commits));
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

        let broken = self.alloc.broken;
        self.alloc = Allocator::open(geometry(), self.alloc.file_pages(), self.newest.entries.clone()).unwrap();
        self.alloc.broken = broken;
        self.permanent.iter().for_each(|&extent| self.alloc.adopt_permanent(extent).unwrap());
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

    fn cut(&mut self, max: u64, keep: u64, give_up: bool) {
        let free = self.free();
        let tail = loop {
            match self.alloc.reserve_tail(max) {
                Ok(tail) => break tail,
                Err(need) => assert!(self.satisfy(need)),
            }
        };
        let Some(tail) = tail else {
            assert!(!free.contains(&(self.alloc.file_pages() - 1)), "the last page is free");
            return;
        };
        assert_eq!(tail.end(), self.alloc.file_pages());
        assert!(tail.pages <= max);
        (tail.start.get()..tail.end()).for_each(|page| assert!(free.contains(&page) || is_fixed(page), "cut {page}"));
        if give_up {
            return self.alloc.give_back([tail]);
        }
        let end = (tail.start.get() + keep).min(tail.end());
        self.alloc.shrink(end);
        assert_eq!(self.alloc.file_pages(), end);
        self.disk.retain(|&page, _| page < end);
    }

    fn punch(&mut self, max: u64, min: u64) {
        let free = self.free();
        let mut rounds = [0, 0, 0];
        for round in &mut rounds {
            loop {
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
                *round += runs.len();
                assert!(*round <= 1000, "the same runs again and again");
                self.alloc.give_back(runs);
            }
        }
        assert_eq!(rounds[2], 0, "punched twice");
    }

    /// The pages that are free, by definition.
    fn free(&self) -> BTreeSet<u64> {
        let mut free: BTreeSet<u64> = (0..self.alloc.file_pages()).filter(|&page| !is_fixed(page)).collect();
        let mut take = |page: u64| {
            free.remove(&page);
        };
        let snapshots = self.snapshots.values().flatten().flatten();
        let commits = self.commits.iter().flat_map(|commit| &commit.roots);
        for root in self.tips.iter().chain(&self.newest.roots).chain(snapshots).chain(commits) {
            root.pages.keys().copied().for_each(&mut take);
        }
        let lent = self.open.iter().flatten().flat_map(|txn| txn.lent.iter());
        let dying = self.permanent_dying.iter().chain(&self.permanent_applied).copied();
        for extent in lent.chain(dying).chain(self.permanent.iter().copied()) {
            (extent.start.get()..extent.end()).for_each(&mut take);
        }
        free
    }

    fn check(&self) {
        let free = self.free();
        let stats = self.alloc.stats();
        assert_eq!(stats.free, free.len() as u64, "free pages: {stats:?}");
        let used = reach(&self.tips).count() + pages(&self.permanent).count();
        assert_eq!(stats.used, used as u64, "{stats:?}");
        assert_eq!(stats.lent, self.open.iter().flatten().map(|txn| txn.lent.pages()).sum::<u64>(), "{stats:?}");
        let settled = self.commits.is_empty() && self.permanent_dying.is_empty() && self.permanent_applied.is_empty();
        assert!(stats.awaiting_checkpoint == 0 || !settled, "{stats:?}");
        assert!(stats.pinned == 0 || !self.snapshots.is_empty(), "{stats:?}");
        for region in 0..geometry().region_count(self.alloc.file_pages()) {
            let directory = &self.alloc.directories[geometry().directory_of(region) as usize];
            if directory.regions.is_none() || !self.alloc.region(region).is_loaded() {
                continue;
            }
            for offset in 0..geometry().pages_in_file(region, self.alloc.file_pages()) {
                let page = geometry().region_start(region) + u64::from(offset);
                let in_use = self.alloc.region(region).live_map().next_in_use(offset, offset + 1) == offset;
                assert_eq!(in_use, !free.contains(&page), "page {page} in use");
            }
        }
    }

    /// Everybody goes; then what is not free is reachable, permanent or fixed.
    fn finale(&mut self) {
        (0..OWNERS).for_each(|owner| self.abort(owner));
        self.snapshots.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| self.drop_snapshot(id));
        for _ in 0..2 {
            if self.covers.is_none() {
                self.begin();
            }
            self.go(Stage::Finish);
        }
        self.check();
        let stats = self.alloc.stats();
        assert_eq!((stats.lent, stats.awaiting_checkpoint, stats.pinned), (0, 0, 0), "{stats:?}");
        self.crash(0);
        for region in 0..geometry().region_count(self.alloc.file_pages()) {
            while let Err(need) = self.alloc.region_ready(region) {
                assert!(self.satisfy(need));
            }
        }
        self.check();
    }
}

fn extent(start: u64, pages: u64) -> Extent {
    Extent::new(start, pages).unwrap()
}

fn is_fixed(page: u64) -> bool {
    let (region, offset) = geometry().split(page);
    offset < geometry().fixed_pages(region)
}

fn assert_free(free: &BTreeSet<u64>, extent: Extent) {
    (extent.start.get()..extent.end())
        .for_each(|page| assert!(free.contains(&page), "{page} of {extent:?} is not free"));
}

/// The free runs in order; no two pages of one run have a fixed page between them.
fn runs(free: &BTreeSet<u64>) -> Vec<Extent> {
    free.iter().map(|&page| extent(page, 1)).collect::<ExtentSet>().iter().collect()
}

fn reach(roots: &Roots) -> impl Iterator<Item = u64> {
    roots.iter().flat_map(|root| root.pages.keys().copied())
}

fn pages(extents: &BTreeSet<Extent>) -> impl Iterator<Item = u64> {
    extents.iter().flat_map(|extent| extent.start.get()..extent.end())
}

/// Rule of reuse, by stamps. The newest checkpoint and what came after it never protect what a
/// finished checkpoint has freed.
fn holder(
    snapshots: &BTreeMap<u64, [Option<Rc<Root>>; OWNERS]>,
    newest: &Durable,
    commits: &[Commit],
) -> impl Fn(Owner, Stamp, Stamp) -> Option<u64> {
    move |owner, birth, death| {
        let owner = owner.0 as usize;
        let protects = |root: &Root| birth.0 <= root.stamp && root.stamp < death.0;
        assert!(!protects(&newest.roots[owner]) && !commits.iter().any(|commit| protects(&commit.roots[owner])));
        let holds = |(_, roots): &(&u64, &[Option<Rc<Root>>; OWNERS])| roots[owner].as_deref().is_some_and(protects);
        snapshots.iter().rev().find(holds).map(|(&id, _)| id)
    }
}

fn run(ops: &[Op], broken: Option<Rule>) {
    let mut world = World::new(broken);
    for op in ops {
        world.step(op);
        world.check();
    }
    world.finale();
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
