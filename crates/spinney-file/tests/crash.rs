//! The paged file on a disk whose power is cut at every call: what was acknowledged is there, whole, and nothing else.
//!
//! A tiny structure of pages stands for a tree: each owner's descriptor points to a directory page, which lists content
//! pages and raw extents, each filled from an id. So every page, pointer and stamp is checked without a tree.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

use rand::{Rng, SeedableRng, rngs::SmallRng};
use spinney_file::{
    Descriptor, Durability, EnumerationLimits, FileError, FileOptions, Image, Owner, PageHeader, PagePtr, PagedFile,
    Pages, Part, Pin, Recording, Sabotage, SimDisk, Snapshot, Tuning, Wait, WriteTxn,
};
use std::{collections::BTreeMap, sync::Arc};

const OWNERS: u32 = 3;

/// What one owner holds: ids of its pages, and of its raw extents with their lengths in pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Content {
    commit: u64,
    pages: Vec<u64>,
    extents: Vec<(u64, u64)>,
}

type State = BTreeMap<u32, Content>;

/// What is found in a file: pointers beside ids.
#[derive(Clone, Debug, Default)]
struct Found {
    dir: Option<PagePtr>,
    commit: u64,
    pages: Vec<(PagePtr, u64)>,
    extents: Vec<(PagePtr, u64, u64)>,
}

impl Found {
    fn content(&self) -> Content {
        Content {
            commit: self.commit,
            pages: self.pages.iter().map(|p| p.1).collect(),
            extents: self.extents.iter().map(|e| (e.1, e.2)).collect(),
        }
    }

    fn page_count(&self) -> u64 {
        u64::from(self.dir.is_some()) + self.pages.len() as u64 + self.extents.iter().map(|e| e.2).sum::<u64>()
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn ptr_at(bytes: &[u8], at: usize) -> Option<PagePtr> {
    PagePtr::decode(bytes[at..at + 16].try_into().unwrap())
}

fn read(pages: &impl Pages, owner: Owner, root: &Descriptor) -> Result<Found, FileError> {
    let mut found = Found::default();
    let Some(dir) = ptr_at(root, 0) else { return Ok(found) };
    let pin = Pin::new();
    let page = pages.page(&pin, owner, dir)?;
    found.dir = Some(dir);
    let mut at = PageHeader::BYTES;
    found.commit = u64_at(page, at);
    let (page_count, extent_count) = (u64_at(page, at + 8), u64_at(page, at + 16));
    at += 24;
    for _ in 0..page_count {
        let (ptr, id) = (ptr_at(page, at).unwrap(), u64_at(page, at + 16));
        let content = pages.page(&pin, owner, ptr)?;
        assert!(content[PageHeader::BYTES..].chunks_exact(8).all(|w| u64_at(w, 0) == id), "page {ptr:?} is not {id}");
        found.pages.push((ptr, id));
        at += 24;
    }
    for _ in 0..extent_count {
        let (ptr, id, len) = (ptr_at(page, at).unwrap(), u64_at(page, at + 16), u64_at(page, at + 24));
        let raw = pages.read_raw(ptr.page, 0, len as usize * pages.page_bytes())?;
        assert!(raw.chunks_exact(8).all(|w| u64_at(w, 0) == id), "extent {ptr:?} is not {id}");
        found.extents.push((ptr, id, len));
        at += 32;
    }
    Ok(found)
}

fn fill(bytes: &mut [u8], id: u64) {
    bytes.chunks_exact_mut(8).for_each(|w| w.copy_from_slice(&id.to_le_bytes()));
}

fn add_page(part: &mut Part, id: u64) -> Result<PagePtr, FileError> {
    let ptr = part.allocate()?;
    fill(&mut part.page_mut(ptr)[PageHeader::BYTES..], id);
    Ok(ptr)
}

/// One random change of one owner; the directory page is always new.
fn change(part: &mut Part, rng: &mut SmallRng, commit: u64, next_id: &mut u64) -> Result<Content, FileError> {
    let root = *part.root();
    let mut found = read(&*part, part.owner(), &root)?;
    for _ in 0..rng.random_range(1..5) {
        *next_id += 1;
        match rng.random_range(0..10) {
            0..5 => found.pages.push((add_page(part, *next_id)?, *next_id)),
            5..7 if !found.pages.is_empty() => {
                let at = rng.random_range(0..found.pages.len());
                part.free(found.pages[at].0);
                found.pages[at] = (add_page(part, *next_id)?, *next_id);
            }
            7 if !found.pages.is_empty() => {
                let at = rng.random_range(0..found.pages.len());
                part.free(found.pages.remove(at).0);
            }
            8 if found.extents.len() < 3 => {
                let len = rng.random_range(1..5);
                let ptr = part.allocate_extent(len)?;
                let mut bytes = vec![0; len as usize * part.page_bytes()];
                fill(&mut bytes, *next_id);
                part.write_raw(ptr.page, bytes.into())?;
                found.extents.push((ptr, *next_id, len));
            }
            _ if !found.extents.is_empty() => {
                let at = rng.random_range(0..found.extents.len());
                let (ptr, _, len) = found.extents.remove(at);
                part.free_extent(ptr, len);
            }
            _ => {}
        }
        if found.pages.len() > 40 {
            for (ptr, _) in found.pages.drain(..30) {
                part.free(ptr);
            }
        }
        if rng.random_ratio(1, 12) {
            part.spill()?;
        }
    }
    if let Some(old) = found.dir {
        part.free(old);
    }
    let dir = part.allocate()?;
    let page = part.page_mut(dir);
    let mut words = vec![commit, found.pages.len() as u64, found.extents.len() as u64];
    for (ptr, id) in &found.pages {
        words.extend([ptr.page.get(), ptr.stamp.0, *id]);
    }
    for (ptr, id, len) in &found.extents {
        words.extend([ptr.page.get(), ptr.stamp.0, *id, *len]);
    }
    for (word, out) in words.iter().zip(page[PageHeader::BYTES..].chunks_exact_mut(8)) {
        out.copy_from_slice(&word.to_le_bytes());
    }
    let mut root = [0; 64];
    root[..16].copy_from_slice(&dir.encode());
    part.set_root(root);
    found.commit = commit;
    Ok(found.content())
}

fn options(sabotage: Option<Sabotage>) -> FileOptions {
    FileOptions {
        budget_bytes: 64 * 4096,
        background: false,
        tuning: Tuning {
            log_bytes: 12 * 4096,
            log_bytes_max: 24 * 4096,
            checkpoint_after_freed_bytes: 40 * 4096,
            sync_alone_bytes: 7 * 4096,
            sync_first_bytes: 9 * 4096,
            sync_first_eventual_bytes: 20 * 4096,
            numbers_ahead: 4096,
            sabotage,
            ..Tuning::default()
        },
        ..FileOptions::default()
    }
}

/// A run: the recorded disk, and every state by commit number.
struct Run {
    recording: Recording,
    states: Vec<State>,
    sabotage: Option<Sabotage>,
}

const ACKNOWLEDGED: u64 = 1 << 32;

fn run(seed: u64, steps: u32, sabotage: Option<Sabotage>) -> Result<Run, FileError> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let disk = SimDisk::new();
    disk.set_seed(seed);
    disk.record();
    let mut file = PagedFile::open(Arc::new(disk.clone()), options(sabotage))?;
    let mut states = vec![State::new()];
    let mut held: Vec<(Snapshot, State)> = Vec::new();
    let mut next_id = 0;
    for _ in 0..steps {
        match rng.random_range(0..20) {
            0 => drop(file.checkpoint()?),
            1 => drop(file.flush().map(|_| disk.mark(ACKNOWLEDGED + states.len() as u64 - 1))?),
            2 => {
                let snapshot = file.snapshot();
                let at = states.len() - 1;
                held.push((snapshot, states[at].clone()));
            }
            3 if !held.is_empty() => drop(held.swap_remove(rng.random_range(0..held.len()))),
            4 => {
                held.clear();
                file.close()?;
                drop(file);
                disk.mark(ACKNOWLEDGED + states.len() as u64 - 1);
                file = PagedFile::open(Arc::new(disk.clone()), options(sabotage))?;
            }
            5 => drop(file.reclaim(rng.random_range(0..40) * 4096)?),
            kind => {
                let count = rng.random_range(1..=2);
                let owners: Vec<Owner> = (0..count).map(|_| Owner(rng.random_range(0..OWNERS) * 37)).collect();
                let mut txn: WriteTxn = file.begin(&owners, Wait::Forever)?;
                let commit = states.len() as u64;
                let mut state = states[states.len() - 1].clone();
                let owners: Vec<Owner> = txn.owners().collect();
                for owner in owners {
                    let content = change(txn.part(owner).unwrap(), &mut rng, commit, &mut next_id)?;
                    state.insert(owner.0, content);
                }
                if kind == 6 {
                    txn.abort();
                    continue;
                }
                disk.mark(commit);
                let durability = match rng.random_range(0..4) {
                    0 => Durability::Eventual,
                    1 => Durability::Buffered,
                    _ => Durability::Immediate,
                };
                states.push(state);
                txn.commit(durability)?;
                if durability == Durability::Immediate {
                    disk.mark(ACKNOWLEDGED + commit);
                }
            }
        }
        for (snapshot, state) in &held {
            for (&owner, content) in state {
                let root = snapshot.root(Owner(owner))?.unwrap_or([0; 64]);
                assert_eq!(&read(snapshot.file(), Owner(owner), &root)?.content(), content, "a snapshot changed");
            }
        }
    }
    held.clear();
    drop(file);
    Ok(Run { recording: disk.recording(), states, sabotage })
}

/// Reads everything and names the commit it is the state of; checks that every page is accounted for.
fn state_of(file: &PagedFile) -> Result<(State, u64), FileError> {
    let snapshot = file.snapshot();
    let mut state = State::new();
    let mut pages = 0;
    for owner in (0..OWNERS).map(|o| o * 37) {
        if let Some(root) = snapshot.root(Owner(owner))? {
            let found = read(file, Owner(owner), &root)?;
            pages += found.page_count();
            state.insert(owner, found.content());
        }
    }
    Ok((state, pages))
}

fn check_accounting(file: &PagedFile, reachable: u64) -> Result<(), FileError> {
    let own: u64 = file.own_extents()?.iter().map(|e| e.pages).sum();
    let stats = file.stats().pages;
    let elsewhere = stats.free + stats.awaiting_checkpoint + stats.pinned + stats.lent + stats.fixed;
    assert_eq!(reachable + own + elsewhere, stats.file_pages, "every page once: {stats:?}, own {own}");
    Ok(())
}

impl Run {
    fn check(&self, image: &Image<'_>, deep: bool) -> Result<(), FileError> {
        let (mut begun, mut acknowledged) = (0, 0);
        for mark in image.marks() {
            if mark >= ACKNOWLEDGED {
                acknowledged = acknowledged.max(mark - ACKNOWLEDGED);
            } else {
                begun = begun.max(mark);
            }
        }
        let disk = image.disk();
        if deep {
            disk.record();
        }
        let file = PagedFile::open(Arc::new(disk.clone()), options(self.sabotage))?;
        let (state, pages) = state_of(&file)?;
        let commit = state.values().map(|c| c.commit).max().unwrap_or(0);
        assert!(acknowledged <= commit && commit <= begun, "{acknowledged} <= {commit} <= {begun}");
        assert_eq!(state, self.states[commit as usize], "the state at {commit}");
        check_accounting(&file, pages)?;
        if !deep {
            return Ok(());
        }
        // D7: what was served is still there after an immediate power cut, at any moment of the recovery.
        let recovery = disk.recording();
        for nested in recovery.images(&EnumerationLimits { images_per_cut_max: 6, ..EnumerationLimits::QUICK }, 1) {
            let again = PagedFile::open(Arc::new(nested.disk()), options(self.sabotage))?;
            let (state, _) = state_of(&again)?;
            let second = state.values().map(|c| c.commit).max().unwrap_or(0);
            assert!(acknowledged <= second, "nested {}: {second} < {acknowledged}", nested.describe());
            assert_eq!(state, self.states[second as usize], "nested {}", nested.describe());
            if nested.cut_index() == recovery.step_count() {
                assert_eq!(second, commit, "what was served vanished: {}", nested.describe());
            }
        }
        // D6: usable.
        let mut rng = SmallRng::seed_from_u64(7);
        let mut next_id = 1 << 40;
        for _ in 0..3 {
            let mut txn = file.begin(&[Owner(37)], Wait::Never)?;
            change(txn.part(Owner(37)).unwrap(), &mut rng, 1 << 20, &mut next_id)?;
            txn.commit(Durability::Immediate)?;
        }
        let (state, pages) = state_of(&file)?;
        file.checkpoint()?;
        check_accounting(&file, pages)?;
        file.close()?;
        drop(file);
        let file = PagedFile::open(Arc::new(disk), options(self.sabotage))?;
        assert_eq!(state_of(&file)?.0, state);
        Ok(())
    }

    /// Recovers and checks images; returns how many.
    fn check_all(&self, limits: &EnumerationLimits, seed: u64) -> u64 {
        let mut count = 0;
        for image in self.recording.images(limits, seed) {
            count += 1;
            let checked =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.check(&image, count % 50 == 0)));
            match checked {
                Ok(Ok(())) => {}
                Ok(Err(error)) => panic!("seed {seed}, image {}: {error}", image.describe()),
                Err(panic) => {
                    eprintln!("seed {seed}, image {}", image.describe());
                    std::panic::resume_unwind(panic);
                }
            }
        }
        count
    }
}

/// Runs the harness over an engine with one rule broken; `Some` with what noticed it, and after how many images.
fn caught(sabotage: Sabotage) -> Option<(u64, String)> {
    let mut images = 0;
    for seed in 0..30 {
        let attempt = std::panic::catch_unwind(|| -> Result<u64, String> {
            let run = run(seed, 40, Some(sabotage)).map_err(|e| format!("the run itself: {e}"))?;
            let mut count = 0;
            for image in
                run.recording.images(&EnumerationLimits { images_max: 3000, ..EnumerationLimits::PULL_REQUEST }, seed)
            {
                count += 1;
                run.check(&image, count % 20 == 0).map_err(|e| format!("{count} images: {e}"))?;
            }
            Ok(count)
        });
        match attempt {
            Ok(Ok(count)) => images += count,
            Ok(Err(what)) => return Some((images, what)),
            Err(panic) => {
                let what = panic.downcast_ref::<String>().cloned();
                return Some((images, what.unwrap_or_else(|| "a panic".to_owned())));
            }
        }
    }
    None
}

#[test]
fn the_harness_notices_each_broken_rule() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let broken = [
        Sabotage::SpillKeepsStamp,
        Sabotage::ImageSkipsAPage,
        Sabotage::ImageClaimsSync,
        Sabotage::GroupCoversItselfOnly,
        Sabotage::ForgetsSnapshots,
        Sabotage::ReusesAtOnce,
        Sabotage::SuperblockFirst,
        Sabotage::TrustsImages,
        Sabotage::NoRecoveredRecord,
        Sabotage::ForgetsClaims,
        Sabotage::FirstImage,
        Sabotage::ReusesNumbers,
    ];
    let found: Vec<_> = broken.into_iter().map(|rule| (rule, caught(rule))).collect();
    std::panic::set_hook(hook);
    for (rule, found) in &found {
        match found {
            Some((images, what)) => println!("{rule:?}: after {images} images: {}", what.lines().next().unwrap_or("")),
            None => println!("{rule:?}: NOT NOTICED"),
        }
    }
    assert!(found.iter().all(|(_, found)| found.is_some()), "a broken rule went unnoticed");
}

#[test]
fn acknowledged_commits_survive_every_crash() {
    let mut images = 0;
    for seed in 0..6 {
        let run = run(seed, 40, None).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        images += run.check_all(&EnumerationLimits { images_max: 4000, ..EnumerationLimits::PULL_REQUEST }, seed);
    }
    assert!(images > 10_000, "{images} images");
}
