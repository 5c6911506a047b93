//! A history of an allocator and a naive model of it, which keeps every root as a set of pages and never hears of maps, lives or holders: a
//! page is free exactly when it is in the file, not fixed, not lent, not permanent, and no root can reach it that is a tip, a
//! snapshot, the newest checkpoint or a commit after it. Every step compares, so nothing is granted twice, granted while
//! somebody can reach it, or lost.
//!
//! It knows the allocator as everybody does: the fuzz target compiles this file, too. Which steps to take, each knows for itself.

use super::{
    Allocator, Arena, Delta, DirectoryEntry, Extent, ExtentSet, Freed, Geometry, Need, Owner, PageNo, ReplayError, Seq,
    Stamp,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
};

pub(super) const OWNERS: usize = 3;

/// What one owner can reach from one root: page -> stamp.
#[derive(Default)]
pub(super) struct Root {
    stamp: u64,
    pub(super) pages: BTreeMap<u64, u64>,
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

pub(super) struct Txn {
    first_stamp: u64,
    /// A transaction that writes what it has goes on under another stamp.
    pub(super) last_stamp: u64,
    arena: Arena,
    lent: ExtentSet,
    taken: BTreeMap<u64, u64>,
    pub(super) freed: BTreeMap<u64, u64>,
}

/// How a checkpoint in progress goes on: to its end, or to a failure or a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Finish,
    FailAtOnce,
    FailApplied,
    FailWritten,
    CrashWritten,
    CrashDurable,
}

/// What is permanent from the beginning.
pub(super) fn permanent_first() -> [Extent; 2] {
    [extent(20, 3), extent(30, 10)]
}

pub(super) struct World {
    pub(super) alloc: Allocator,
    geometry: Geometry,
    file_pages_max: u64,
    /// What the allocator that is opened after a crash has of the one before.
    inherit: fn(&Allocator, &mut Allocator),
    /// Map pages by page number.
    disk: HashMap<u64, Vec<u8>>,
    pub(super) stamp: u64,
    seq: u64,
    number: u64,
    snapshot_id: u64,
    pub(super) tips: Roots,
    pub(super) open: [Option<Txn>; OWNERS],
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

impl World {
    /// With an allocator in whose file [`permanent_first`] is in use.
    pub(super) fn new(
        alloc: Allocator,
        geometry: Geometry,
        file_pages_max: u64,
        inherit: fn(&Allocator, &mut Allocator),
    ) -> Self {
        let permanent = BTreeSet::from(permanent_first());
        let roots = Roots::default();
        let newest = Durable { roots: roots.clone(), permanent: permanent.clone(), entries: Vec::new() };
        let mut world = Self {
            alloc,
            geometry,
            file_pages_max,
            inherit,
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

    /// A step of `owner`'s transaction, which begins with it if need be: a run, if it is of any pages, and so many pages.
    pub(super) fn work(&mut self, owner: usize, reserve: u64, take: usize, run: u64) -> &mut Txn {
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
            let txn = self.txn(owner);
            txn.lent.insert(extent);
            txn.taken.extend((extent.start.get()..extent.end()).map(|page| (page, txn.last_stamp)));
        }
        for _ in 0..take {
            if self.txn(owner).arena.is_empty() {
                let arena = self.reserve(reserve);
                let txn = self.txn(owner);
                txn.lent.extend(arena.iter().copied());
                txn.arena.add(arena);
            }
            let txn = self.txn(owner);
            let Some(page) = txn.arena.take_page() else { break };
            assert!(txn.taken.insert(page.get(), txn.last_stamp).is_none(), "{page} taken twice");
        }
        self.txn(owner)
    }

    fn txn(&mut self, owner: usize) -> &mut Txn {
        self.open[owner].as_mut().expect("it has begun")
    }

    fn reserve(&mut self, pages: u64) -> Vec<Extent> {
        let free = self.free();
        loop {
            match self.alloc.reserve(pages) {
                Ok(arena) => {
                    arena.iter().for_each(|&extent| assert_free(&free, extent));
                    assert!(arena.iter().map(|e| e.pages).sum::<u64>() <= pages);
                    let fit = first_fit(&free, pages, self.geometry);
                    let expected = fit.map(|start| vec![extent(start, pages)]);
                    assert!(expected.is_none_or(|expected| expected == arena), "not the lowest fit: {arena:?}");
                    return arena;
                }
                Err(need @ Need::Growth { .. }) if !self.grows_with_reason(need, pages, &free) => {
                    return if pages > 1 && free.contains(&true) { self.reserve(1) } else { Vec::new() };
                }
                Err(Need::Growth { .. }) => return self.reserve(pages),
                Err(need) => assert!(self.satisfy(need)),
            }
        }
    }

    /// Grows the file, which was not to be asked for while enough is free.
    fn grows_with_reason(&mut self, need: Need, pages: u64, free: &[bool]) -> bool {
        assert_eq!(first_fit(free, pages, self.geometry), None, "a run was there");
        let count = free.iter().filter(|is_free| **is_free).count() as u64;
        assert!(count == 0 || count < self.alloc.file_pages() / 4, "much was free");
        self.satisfy(need)
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
    pub(super) fn satisfy(&mut self, need: Need) -> bool {
        match need {
            Need::Growth { pages } => return self.grow(pages),
            Need::Directory(directory) => {
                let home = self.alloc.directory_home(directory).expect("needed, so saved");
                let page = self.read(home.page, home.number);
                self.alloc.load_directory(directory, &page).expect("sound");
            }
            Need::Region(region) => {
                let home = self.alloc.region_home(region).expect("its directory is there").expect("needed, so saved");
                // A slow reader comes with what it read from the other home.
                let twins = self.geometry.region_twins(region).get();
                if let Some(stale) = self.disk.get(&(twins * 2 + 1 - home.page.get())) {
                    self.alloc.load_region(region, stale).expect("it is not looked at");
                }
                let page = self.read(home.page, home.number);
                self.alloc.load_region(region, &page).expect("sound");
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

    pub(super) fn commit(&mut self, who: &[usize]) {
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

    pub(super) fn abort(&mut self, owner: usize) {
        if let Some(txn) = self.open[owner].take() {
            self.alloc.give_back(txn.lent.iter());
        }
    }

    pub(super) fn snapshot(&mut self, of: [bool; OWNERS]) {
        self.snapshot_id += 1;
        let roots = std::array::from_fn(|owner| of[owner].then(|| Rc::clone(&self.tips[owner])));
        self.snapshots.insert(self.snapshot_id, roots);
    }

    pub(super) fn snapshots(&self) -> Vec<u64> {
        self.snapshots.keys().copied().collect()
    }

    pub(super) fn drop_snapshot(&mut self, id: u64) {
        self.snapshots.remove(&id);
        let free = self.alloc.release(id, &holder(&self.snapshots, &self.newest, &self.commits));
        let now = self.free();
        free.iter().for_each(|&extent| assert_free(&now, extent));
    }

    pub(super) fn make_permanent(&mut self, pages: u64) {
        if let Some(extent) = self.reserve_run(pages) {
            self.alloc.mark_permanent(extent);
            self.permanent.insert(extent);
        }
    }

    pub(super) fn permanent(&self) -> Vec<Extent> {
        self.permanent.iter().copied().collect()
    }

    pub(super) fn free_permanent(&mut self, extent: Extent) {
        self.alloc.free_permanent(extent);
        self.permanent.remove(&extent);
        self.permanent_dying.push(extent);
    }

    /// Whether a checkpoint is in progress.
    pub(super) fn is_saving(&self) -> bool {
        self.covers.is_some()
    }

    pub(super) fn begin(&mut self) {
        self.alloc.begin_checkpoint(Seq(self.seq));
        self.covers = Some((self.seq, self.tips.clone()));
    }

    pub(super) fn go(&mut self, stage: Stage) {
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
            let mut page = vec![0xA5; self.geometry.page_bytes()];
            let home = self.alloc.encode_region(region, &mut page);
            written.push((home, page));
        }
        for directory in self.alloc.changed_directories() {
            let mut page = vec![0xA5; self.geometry.page_bytes()];
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
        let of_roots = self.newest.roots.iter().filter_map(|root| root.pages.keys().next_back().map(|page| page + 1));
        let last = of_roots.chain(self.newest.permanent.iter().map(|extent| extent.end())).max();
        assert_eq!(used_end, last.unwrap_or(self.geometry.min_file_pages()), "the end of what is in use");
        if stage == Stage::CrashDurable {
            return self.crash(0);
        }
        let freed = self.alloc.finish_checkpoint(&holder(&self.snapshots, &self.newest, &self.commits));
        self.permanent_applied.clear();
        let free = self.free();
        freed.iter().for_each(|&extent| assert_free(&free, extent));
    }

    /// The power goes, and with it the last `lose` commits, whose log was not synced.
    pub(super) fn crash(&mut self, lose: usize) {
        self.open = [None, None, None];
        self.snapshots.clear();
        self.covers = None;
        self.permanent = self.newest.permanent.clone();
        (self.permanent_dying, self.permanent_applied) = (Vec::new(), Vec::new());
        self.commits.truncate(self.commits.len().saturating_sub(lose));
        self.tips = self.commits.last().map_or(&self.newest.roots, |commit| &commit.roots).clone();
        self.stamp += 1000;

        let entries = self.newest.entries.clone();
        let mut alloc = Allocator::open(self.geometry, self.alloc.file_pages(), entries).expect("sound");
        (self.inherit)(&self.alloc, &mut alloc);
        self.alloc = alloc;
        self.permanent.iter().for_each(|&extent| self.alloc.adopt_permanent(extent).expect("sound"));
        let deltas: Vec<Delta> = self.commits.iter().flat_map(|commit| commit.deltas.clone()).collect();
        for delta in deltas {
            while let Err(error) = self.alloc.replay(&delta) {
                let ReplayError::Need(need) = error else { panic!("{error}") };
                assert!(self.satisfy(need));
            }
        }
    }

    /// `false` when it may not.
    pub(super) fn grow(&mut self, pages: u64) -> bool {
        let grows = self.alloc.file_pages() + pages <= self.file_pages_max;
        if grows {
            self.alloc.grow(self.alloc.file_pages() + pages);
        }
        grows
    }

    pub(super) fn cut(&mut self, max: u64, keep: u64, gives_up: bool) {
        let free = self.free();
        let tail = loop {
            match self.alloc.reserve_tail(max) {
                Ok(tail) => break tail,
                Err(need) => assert!(self.satisfy(need)),
            }
        };
        let Some(tail) = tail else {
            assert!(!free[free.len() - 1], "the last page is free");
            return;
        };
        assert_eq!(tail.end(), self.alloc.file_pages());
        assert!(tail.pages <= max);
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

    /// Lends runs that may be punched, and takes them back. Returns how many there were.
    pub(super) fn punch(&mut self, max: u64, min: u64) -> usize {
        let free = self.free();
        let runs = loop {
            match self.alloc.reserve_for_punch(max, min) {
                Ok(runs) => break runs,
                Err(need) => assert!(self.satisfy(need)),
            }
        };
        runs.iter().for_each(|&run| assert_free(&free, run));
        let count = runs.len();
        self.alloc.give_back(runs);
        count
    }

    /// Which pages are free, by definition.
    pub(super) fn free(&self) -> Vec<bool> {
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

    pub(super) fn check(&self) {
        let stats = self.alloc.stats();
        let free = self.free().into_iter().filter(|&free| free).count();
        assert_eq!(stats.free, free as u64, "free pages: {stats:?}");
        let permanent: u64 = self.permanent.iter().map(|extent| extent.pages).sum();
        let used: usize = self.tips.iter().map(|root| root.pages.len()).sum();
        assert_eq!(stats.used, used as u64 + permanent, "{stats:?}");
        assert_eq!(stats.lent, self.open.iter().flatten().map(|txn| txn.lent.pages()).sum::<u64>(), "{stats:?}");
        let settled = self.commits.is_empty() && self.permanent_dying.is_empty() && self.permanent_applied.is_empty();
        assert!(stats.awaiting_checkpoint == 0 || !settled, "{stats:?}");
        assert!(stats.pinned == 0 || !self.snapshots.is_empty(), "{stats:?}");
    }

    /// Everybody goes; then what is not free is reachable, permanent or fixed.
    pub(super) fn finale(&mut self) {
        (0..OWNERS).for_each(|owner| self.abort(owner));
        self.snapshots().into_iter().for_each(|id| self.drop_snapshot(id));
        for _ in 0..2 {
            if !self.is_saving() {
                self.begin();
            }
            self.go(Stage::Finish);
        }
        self.check();
        let stats = self.alloc.stats();
        assert_eq!((stats.lent, stats.awaiting_checkpoint, stats.pinned), (0, 0, 0), "{stats:?}");
        self.crash(0);
        self.check();
    }
}

impl Txn {
    /// The lowest page it took since it wrote last goes back into its arena.
    pub(super) fn recycle(&mut self) {
        if let Some((&page, _)) = self.taken.iter().find(|(_, birth)| **birth == self.last_stamp) {
            self.taken.remove(&page);
            self.arena.recycle(PageNo::new(page).expect("it was granted"));
        }
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
