//! Long histories of overwriting: commits stay in long runs, and the file stays bounded.

#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong")]

use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};
use spinney_alloc::{Allocator, Arena, Delta, Extent, ExtentSet, Freed, Geometry, Need, Owner, PageNo, Seq, Stamp};

const OWNERS: usize = 4;
const COMMIT_PAGES: usize = 340;

struct Churn {
    alloc: Allocator,
    rng: TestRng,
    seq: u64,
    /// Each owner's pages in the order of its keys.
    pages: Vec<Vec<PageNo>>,
    runs: usize,
    written: usize,
}

impl Churn {
    fn new(pages_per_owner: usize) -> Self {
        let geometry = Geometry::new(4096).unwrap();
        let alloc = Allocator::create(geometry, 1024, &[]).unwrap();
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
        let mut churn = Self { alloc, rng, seq: 0, pages: vec![Vec::new(); OWNERS], runs: 0, written: 0 };
        for from in (0..pages_per_owner).step_by(COMMIT_PAGES) {
            (0..OWNERS).for_each(|owner| churn.commit(owner, &(from..from + COMMIT_PAGES).collect::<Vec<_>>()));
        }
        churn
    }

    /// The owner writes the pages at these places anew.
    fn commit(&mut self, owner: usize, places: &[usize]) {
        self.seq += 1;
        let mut arena = Arena::new();
        let mut appetite = 64;
        let mut allocated = ExtentSet::new();
        let mut freed = Vec::new();
        for &place in places {
            while arena.is_empty() {
                match self.alloc.reserve(appetite) {
                    Ok(extents) => {
                        arena.add(extents);
                        appetite = (appetite * 2).min(1024);
                    }
                    Err(Need::Growth { pages }) => {
                        let step = pages.max(256).max(self.alloc.file_pages() / 50);
                        self.alloc.grow(self.alloc.file_pages() + step);
                    }
                    Err(need) => unreachable!("{need:?}: nothing was forgotten"),
                }
            }
            let page = arena.take_page().unwrap();
            allocated.insert(Extent::page(page));
            match self.pages[owner].get_mut(place) {
                Some(old) => {
                    let extent = Extent::page(std::mem::replace(old, page));
                    freed.push(Freed { extent, birth: Stamp(1) });
                }
                None => self.pages[owner].push(page),
            }
        }
        self.alloc.give_back(arena.remainder());
        self.runs += allocated.runs();
        self.written += places.len();
        let owner = Owner(u32::try_from(owner).unwrap());
        let allocated = allocated.iter().collect();
        self.alloc.commit(Delta { seq: Seq(self.seq), owner, death: Stamp(self.seq), allocated, freed });
    }

    fn checkpoint(&mut self) {
        self.alloc.begin_checkpoint(Seq(self.seq));
        self.alloc.save_as(self.seq);
        self.alloc.apply_checkpoint().unwrap();
        let mut page = vec![0; 4096];
        for region in self.alloc.changed_regions() {
            self.alloc.encode_region(region, &mut page);
        }
        for directory in self.alloc.changed_directories() {
            self.alloc.encode_directory(directory, &mut page);
        }
        self.alloc.finish_checkpoint(&|_: Owner, _: Stamp, _: Stamp| None);
    }

    /// Overwrites ten times the data, a checkpoint every 20 commits; returns the mean length of a
    /// run in the last tenth, and how much of the file is in use.
    fn overwrite(&mut self, mut places: impl FnMut(&mut TestRng, usize) -> Vec<usize>) -> (usize, f64) {
        let pages: usize = self.pages.iter().map(Vec::len).sum();
        let commits = 10 * pages / COMMIT_PAGES;
        for commit in 0..commits {
            if commit == commits * 9 / 10 {
                (self.runs, self.written) = (0, 0);
            }
            let places = places(&mut self.rng, commit);
            self.commit(commit % OWNERS, &places);
            if commit % 20 == 0 {
                self.checkpoint();
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a rough share")]
        let share = pages as f64 / self.alloc.file_pages() as f64;
        (self.written / self.runs, share)
    }
}

#[test]
fn keys_in_order_stay_in_long_runs() {
    let mut churn = Churn::new(34_000);
    let (run, share) = churn.overwrite(|_, commit| {
        let from = (commit / OWNERS % 100) * COMMIT_PAGES;
        (from..from + COMMIT_PAGES).collect()
    });
    println!("mean run {run} pages, {share:.2} of the file in use");
    assert!(run >= 64, "mean run of {run} pages");
    assert!(share > 0.6, "{share} of the file in use");
}

#[test]
fn ranges_at_random_stay_in_long_runs() {
    let mut churn = Churn::new(34_000);
    let (run, share) = churn.overwrite(|rng, _| {
        let from = below(rng, 34_000 - COMMIT_PAGES);
        (from..from + COMMIT_PAGES).collect()
    });
    println!("mean run {run} pages, {share:.2} of the file in use");
    assert!(run >= 32, "mean run of {run} pages");
    assert!(share > 0.6, "{share} of the file in use");
}

#[test]
fn pages_at_random_leave_the_file_bounded() {
    let mut churn = Churn::new(34_000);
    let (run, share) = churn.overwrite(|rng, _| {
        let mut places: Vec<usize> = (0..COMMIT_PAGES).map(|_| below(rng, 34_000)).collect();
        places.sort_unstable();
        places.dedup();
        places
    });
    println!("mean run {run} pages, {share:.2} of the file in use");
    assert!(run >= 2, "mean run of {run} pages");
    assert!(share > 0.6, "{share} of the file in use");
}

fn below(rng: &mut TestRng, limit: usize) -> usize {
    usize::try_from(rng.next_u32()).unwrap() % limit
}
