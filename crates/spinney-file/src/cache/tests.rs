//! The cache against a map of truth, under threads, and its promises one by one.

use super::*;
use crate::{Stamp, page};
use proptest::prelude::*;
use std::{
    collections::HashMap,
    panic,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

const PAGE_BYTES: usize = 64;

fn at(page: u64, stamp: u64) -> PagePtr {
    PagePtr { page: PageNo::new(page).unwrap(), stamp: Stamp(stamp) }
}

/// The one right content of a page.
fn content(ptr: PagePtr) -> Bytes {
    let mut page = vec![0; PAGE_BYTES];
    page::seal(&mut page, ptr.page, ptr.stamp, crate::Owner(5));
    Bytes::from(page)
}

fn assert_is(page: &[u8], ptr: PagePtr) {
    assert_eq!(page::verify(page, ptr, PAGE_BYTES), Ok(()), "{ptr:?}");
}

/// A cache with room for so many frames beside their nodes.
fn cache_of(frames: u64) -> PageCache {
    const NODE_BYTES: u64 = 6 << 10; // one path of two levels, and ghosts
    PageCache::new(Arc::new(Budget::new(frames * Frame::cost_of(PAGE_BYTES) + NODE_BYTES)))
}

fn must_hit() -> Result<Bytes, FileError> {
    panic!("loaded a page that should have been here")
}

/// Until other threads have got there; a bound, so that a broken cache fails rather than hangs.
fn wait_until(there: impl Fn() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(start.elapsed() < Duration::from_secs(30), "it never comes to that");
        thread::yield_now();
    }
}

#[derive(Clone, Debug)]
enum Op {
    Get(u64),
    GetStale(u64),
    Load(u64),
    FailLoad(u64),
    Insert(u64),
    InsertStale(u64),
    Remove(u64, u64),
    Supersede(u64),
    Dirty(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let page = || prop_oneof![4 => 1..40_u64, 1 => (1..4_u64).prop_map(|i| PageNo::MAX - i * 700)];
    prop_oneof![
        4 => page().prop_map(Op::Get),
        1 => page().prop_map(Op::GetStale),
        8 => page().prop_map(Op::Load),
        1 => page().prop_map(Op::FailLoad),
        4 => page().prop_map(Op::Insert),
        1 => page().prop_map(Op::InsertStale),
        1 => (page(), 1..50_u64).prop_map(|(page, pages)| Op::Remove(page, pages)),
        1 => page().prop_map(Op::Supersede),
        1 => (0..2000_u64).prop_map(Op::Dirty),
    ]
}

proptest! {
    #[test]
    fn every_answer_is_right_or_absent_and_the_budget_holds(
        limit in prop_oneof![Just(0_u64), 4000..20_000_u64], ops in prop::collection::vec(op(), 1..200),
    ) {
        let budget = Arc::new(Budget::new(limit));
        let cache = PageCache::new(budget.clone());
        let mut truth = HashMap::new(); // page -> stamp of its newest writing
        let mut dirty = 0;
        let pin = Pin::new();
        for (i, op) in ops.into_iter().enumerate() {
            let stamp = 10 + i as u64;
            let mut newest = |page| at(page, *truth.entry(page).or_insert(1));
            match op {
                Op::Get(page) => {
                    if let Some(seen) = cache.get(&pin, newest(page)) {
                        assert_is(seen, newest(page));
                    }
                }
                Op::GetStale(page) => {
                    let ptr = newest(page);
                    prop_assert!(cache.get(&pin, at(page, ptr.stamp.0 + 1)).is_none());
                    let older = at(page, ptr.stamp.0 - 1);
                    if let Some(seen) = cache.get(&pin, older) {
                        assert_is(seen, older); // InsertStale came when the newest was not here
                    }
                }
                Op::Load(page) => {
                    let ptr = newest(page);
                    assert_is(cache.get_or_load(&pin, ptr, || Ok(content(ptr)))?, ptr);
                    assert_is(cache.get_or_load(&pin, ptr, must_hit)?, ptr);
                }
                Op::FailLoad(page) => {
                    let ptr = newest(page);
                    let was_here = cache.get(&pin, ptr).is_some();
                    let seen = cache.get_or_load(&pin, ptr, || Err(FileError::Closed));
                    prop_assert_eq!(seen.is_ok(), was_here);
                }
                Op::Insert(page) => {
                    truth.insert(page, stamp);
                    cache.insert(at(page, stamp), content(at(page, stamp)));
                    prop_assert!(cache.get(&pin, at(page, stamp)).is_some());
                }
                Op::InsertStale(page) => {
                    let ptr = newest(page);
                    let was_here = cache.get(&pin, ptr).is_some();
                    if ptr.stamp.0 > 1 {
                        let older = at(page, ptr.stamp.0 - 1);
                        assert_is(cache.get_or_load(&pin, older, || Ok(content(older)))?, older);
                        prop_assert_eq!(cache.get(&pin, ptr).is_some(), was_here, "an older writing displaced a newer");
                    }
                }
                Op::Remove(page, pages) => {
                    let pages = pages.min(PageNo::MAX + 1 - page);
                    cache.remove_extent(Extent::new(page, pages).unwrap());
                    for page in page..page + pages {
                        prop_assert!(cache.get(&pin, newest(page)).is_none());
                    }
                }
                Op::Supersede(page) => cache.supersede(PageNo::new(page).unwrap()),
                Op::Dirty(bytes) => {
                    budget.charge(Charge::Dirty, bytes);
                    budget.credit(Charge::Dirty, dirty);
                    dirty = bytes;
                    cache.shrink_to_budget();
                }
            }
            let over = budget.total().saturating_sub(limit.max(dirty + budget.spent(Charge::Nodes)));
            prop_assert!(over <= Frame::cost_of(PAGE_BYTES), "{} bytes over", over);
            let stats = cache.stats();
            prop_assert_eq!(stats.frame_bytes, stats.frames * Frame::cost_of(PAGE_BYTES));
        }
        let end = PageNo::MAX;
        cache.remove_extent(Extent::new(1, end).unwrap());
        prop_assert_eq!(cache.stats().frames, 0);
        prop_assert_eq!(budget.spent(Charge::Frames), 0);
        drop(cache);
    }
}

#[test]
fn a_budget_of_nothing_still_keeps_one_page() {
    let cache = PageCache::new(Arc::new(Budget::new(0)));
    for page in 1..100 {
        cache.insert(at(page, 1), content(at(page, 1)));
        assert!(cache.get(&Pin::new(), at(page, 1)).is_some());
        assert_eq!(cache.stats().frames, 1);
    }
    cache.shrink_to_budget();
    assert_eq!((cache.stats().frames, cache.stats().evictions), (0, 99));
}

#[test]
fn a_page_is_loaded_once_however_many_want_it() {
    const READERS: usize = 8;
    let cache = cache_of(4);
    let (ptr, start) = (at(7, 3), Barrier::new(READERS));
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                start.wait();
                let pin = Pin::new();
                let load = || {
                    wait_until(|| cache.stats().loads_waited >= READERS as u64 - 1);
                    Ok(content(ptr))
                };
                assert_is(cache.get_or_load(&pin, ptr, load).unwrap(), ptr);
            });
        }
    });
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.loads_waited, stats.misses), (1, READERS as u64 - 1, READERS as u64));
    assert_eq!(stats.frames, 1);
}

#[test]
fn loads_of_different_pages_do_not_wait_for_each_other() {
    let cache = cache_of(4);
    let both = Barrier::new(2);
    thread::scope(|scope| {
        for page in [1, 17] {
            // the same shard of flights
            let (cache, both) = (&cache, &both);
            scope.spawn(move || {
                let load = || {
                    both.wait();
                    Ok(content(at(page, 1)))
                };
                cache.get_or_load(&Pin::new(), at(page, 1), load).map(drop).unwrap();
            });
        }
    });
    assert_eq!(cache.stats().loads, 2);
}

#[test]
fn an_error_goes_to_everybody_who_waited_and_is_not_kept() {
    let cache = cache_of(4);
    let (ptr, failed) = (at(7, 3), AtomicUsize::new(0));
    let load = || {
        wait_until(|| cache.stats().loads_waited >= 3);
        Err(FileError::Closed)
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| match cache.get_or_load(&Pin::new(), ptr, load) {
                Err(FileError::Closed) => failed.fetch_add(1, SeqCst),
                other => panic!("{other:?}"),
            });
        }
    });
    assert_eq!((failed.load(SeqCst), cache.stats().loads, cache.stats().frames), (4, 1, 0));
    assert_is(cache.get_or_load(&Pin::new(), ptr, || Ok(content(ptr))).unwrap(), ptr);
}

#[test]
fn a_loader_that_panics_leaves_the_page_to_the_next() {
    let cache = cache_of(4);
    let ptr = at(7, 3);
    thread::scope(|scope| {
        let first = scope.spawn(|| {
            let load = || {
                wait_until(|| cache.stats().loads_waited >= 1);
                panic::resume_unwind(Box::new("as a test wants it"))
            };
            drop(cache.get_or_load(&Pin::new(), ptr, load));
        });
        wait_until(|| cache.stats().loads > 0);
        assert_is(cache.get_or_load(&Pin::new(), ptr, || Ok(content(ptr))).unwrap(), ptr);
        first.join().unwrap_err();
    });
}

#[test]
fn a_scan_leaves_the_pages_in_use_alone() {
    let cache = cache_of(100);
    let pin = Pin::new();
    let read = |page| drop(cache.get_or_load(&pin, at(page, 1), || Ok(content(at(page, 1)))).unwrap().clone());
    for _ in 0..4 {
        (1..=50).for_each(read);
    }
    for page in 1000..2000 {
        read(page);
        if page % 10 == 0 {
            (1..=50).for_each(read);
        }
    }
    assert_eq!(cache.stats().loads, 50 + 1000, "each page was loaded once");
}

#[test]
fn a_page_that_comes_back_soon_stays() {
    // Ten pages stay in main for ever unless those that come back take their place.
    let cache = cache_of(20);
    let pin = Pin::new();
    let read = |page| drop(cache.get_or_load(&pin, at(page, 1), || Ok(content(at(page, 1)))).unwrap().clone());
    for _ in 0..4 {
        (1..=18).for_each(read);
    }
    for _ in 0..8 {
        (100..=115).for_each(read);
    }
    let loads_before = cache.stats().loads;
    (100..=115).for_each(read);
    assert!(cache.stats().loads - loads_before <= 2, "the working set moved and the cache did not");
}

#[test]
fn superseded_pages_go_first() {
    let cache = cache_of(20);
    let pin = Pin::new();
    for page in 1..=20 {
        cache.insert(at(page, 1), content(at(page, 1)));
        for _ in 0..5 {
            cache.get(&pin, at(page, 1)).unwrap();
        }
    }
    for page in 5..=14 {
        cache.supersede(PageNo::new(page).unwrap());
        assert!(cache.get(&pin, at(page, 1)).is_some(), "older snapshots still find it");
    }
    for page in 21..100 {
        cache.insert(at(page, 1), content(at(page, 1)));
        let gone: Vec<u64> = (1..=page).filter(|&page| cache.get(&pin, at(page, 1)).is_none()).collect();
        assert!(gone.iter().all(|page| (5..=14).contains(page)), "{gone:?}");
        if gone.len() == 10 {
            return;
        }
    }
    panic!("superseded pages stay");
}

#[test]
fn queues_do_not_grow_with_pages_that_come_and_go() {
    let cache = cache_of(20);
    for i in 1..10_000 {
        cache.insert(at(1 + i % 3, i), content(at(1 + i % 3, i)));
        cache.supersede(PageNo::new(1 + i % 3).unwrap());
        if i % 2 == 0 {
            cache.remove(PageNo::new(1 + i % 3).unwrap());
        }
    }
    assert!(cache.queue.lock().entry_count() < 100);
}

#[test]
fn hits_are_counted() {
    let cache = cache_of(4);
    let pin = Pin::new();
    cache.insert(at(1, 1), content(at(1, 1)));
    for _ in 0..10 {
        cache.get(&pin, at(1, 1)).unwrap();
        assert!(cache.get(&pin, at(1, 2)).is_none());
    }
    assert_eq!((cache.stats().hits, cache.stats().misses), (10, 0));
}

/// A disk on which every page is rewritten under new stamps while others read it.
#[test]
fn no_reader_ever_sees_another_page_than_its_pointer_means() {
    const PAGES: u64 = 48;
    let rounds: u64 = if cfg!(miri) { 1000 } else { 30_000 };
    let cache = cache_of(12);
    let disk: Vec<Mutex<PagePtr>> = (0..PAGES).map(|i| Mutex::new(at(1 + i * 37, 1))).collect();
    let (stamp, done) = (AtomicU64::new(1), AtomicBool::new(false));
    let random = |state: &mut u64| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    };
    thread::scope(|scope| {
        for seed in 1..=3 {
            let (cache, disk, done) = (&cache, &disk, &done);
            scope.spawn(move || {
                let mut state = seed;
                while !done.load(Relaxed) {
                    let pin = Pin::new();
                    let mut seen = Vec::new();
                    for _ in 0..4 {
                        let page = &disk[usize::try_from(random(&mut state) % PAGES).unwrap()];
                        let ptr = *page.lock();
                        let load = || {
                            let on_disk = *page.lock();
                            if on_disk == ptr { Ok(content(ptr)) } else { Err(FileError::Closed) }
                        };
                        match cache.get_or_load(&pin, ptr, load) {
                            Ok(bytes) => seen.push((ptr, bytes)),
                            Err(FileError::Closed) => {} // rewritten in between
                            Err(error) => panic!("{error}"),
                        }
                    }
                    for (ptr, bytes) in seen {
                        assert_is(bytes, ptr); // also those seen first, evicted since
                    }
                }
            });
        }
        let mut state = 99;
        // On a busy machine the readers may come late.
        let seen_all =
            |i: u64| i.is_multiple_of(1000) && i >= rounds && cache.stats().hits > 0 && cache.stats().loads > 0;
        for i in (0..1000 * rounds).take_while(|&i| !seen_all(i)) {
            let page = &disk[usize::try_from(random(&mut state) % PAGES).unwrap()];
            let ptr = {
                let mut on_disk = page.lock();
                on_disk.stamp = Stamp(stamp.fetch_add(1, SeqCst) + 1);
                *on_disk
            };
            match i % 4 {
                0 => cache.remove(ptr.page),
                1 => cache.supersede(ptr.page),
                _ => cache.insert(ptr, content(ptr)),
            }
        }
        done.store(true, Relaxed);
    });
    let stats = cache.stats();
    assert!(stats.evictions > 0 && stats.hits > 0 && stats.loads > 0, "{stats:?}");
    let budget = cache.budget.clone();
    drop(cache);
    wait_until(|| {
        crossbeam_epoch::pin().flush();
        budget.spent(Charge::Frames) + budget.spent(Charge::Limbo) == 0 // every frame is freed in the end
    });
}
