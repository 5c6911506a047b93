//! What many threads did and saw, checked as one history: there is one order of all commits, in which every transaction read what the
//! ones before it wrote, every snapshot shows a beginning of it, and every crash leaves one.
//!
//! Values are lists to which transactions append elements that occur nowhere else, so that a list says which commits it has seen and
//! in which order (Kingsbury and Alvaro, "Elle: Inferring Isolation Anomalies from Experimental Observations", PVLDB 14(3), 2020).
//! There the order is inferred; here each commit and each snapshot names its place, so the order is checked.
//!
//! `SPINNEY_HISTORY_SEED` and `SPINNEY_HISTORY_COMMITS` choose another history, and its length.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

use rand::{Rng, SeedableRng, rngs::SmallRng};
use spinney::{Database, Durability, Family, Options, PowerCut, Result, Sabotage, SimDisk, Snapshot, Tuning};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

const FAMILIES: usize = 6;
const KEYS: u8 = 6;
const WRITERS: usize = 6;
const READERS: usize = 2;
/// The same lists, on the same disk, opened again.
const ROUNDS: u64 = 3;

/// A family and a key in it.
type Place = (usize, u8);
type List = Vec<u64>;
/// Every list that is not empty.
type State = BTreeMap<Place, List>;

/// A commit.
#[derive(Clone, Debug)]
struct Commit {
    seq: u64,
    durability: Durability,
    /// In the order it was done: what was there, or what was appended.
    steps: Vec<Step>,
    /// The clock before it began, and after it was acknowledged; never, when nobody was told.
    begun: u64,
    ended: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Read(Place, List),
    Append(Place, u64),
}

/// What was seen from outside: by a snapshot, or after a crash.
#[derive(Clone, Debug)]
struct View {
    /// Its place in the order; for a crash that is what its newest element says.
    seq: Option<u64>,
    begun: u64,
    /// Every commit up to here must be part of it.
    least: u64,
    state: State,
    what: String,
}

/// Everything that happened in one round.
#[derive(Clone, Debug, Default)]
struct History {
    commits: Vec<Commit>,
    views: Vec<View>,
    /// Elements of transactions that were dropped.
    aborted: Vec<u64>,
}

impl History {
    /// Finds an order in which all of it makes sense, beginning with `state`, which it makes the state at the end.
    fn check(mut self, state: &mut State) -> std::result::Result<(), String> {
        self.commits.sort_by_key(|commit| commit.seq);
        let mut place_of = HashMap::new();
        for pair in self.commits.windows(2) {
            if pair[0].seq == pair[1].seq {
                return Err(format!("two commits have the number {}", pair[0].seq));
            }
        }
        for commit in &self.commits {
            for step in &commit.steps {
                if let Step::Append(_, element) = step {
                    place_of.insert(*element, commit.seq);
                }
            }
        }
        self.check_time()?;

        // A view without a place has the one of its newest element.
        let begin = state.clone();
        let mut views: Vec<(u64, &View)> = Vec::new();
        for view in &self.views {
            let mut newest = 0;
            for (place, list) in &view.state {
                for element in list {
                    match place_of.get(element) {
                        Some(seq) => newest = newest.max(*seq),
                        None if begin.get(place).is_some_and(|list| list.contains(element)) => {}
                        None if self.aborted.contains(element) => {
                            return Err(format!("{}: {place:?} has {element}, which was aborted", view.what));
                        }
                        None => return Err(format!("{}: {place:?} has {element}, which nobody wrote", view.what)),
                    }
                }
            }
            if newest > view.seq.unwrap_or(u64::MAX) {
                return Err(format!("{}: it is at {:?} and shows commit {newest}", view.what, view.seq));
            }
            views.push((view.seq.unwrap_or(newest), view));
        }
        views.sort_by_key(|(seq, _)| *seq);

        let mut next = views.into_iter().peekable();
        for at in 0..=self.commits.len() {
            let upto = self.commits.get(at).map_or(u64::MAX, |commit| commit.seq);
            while let Some((seq, view)) = next.next_if(|(seq, _)| *seq < upto) {
                if *state != view.state {
                    let differs =
                        state.keys().chain(view.state.keys()).find(|key| state.get(key) != view.state.get(key));
                    let place = differs.unwrap();
                    let (is, shown) = (state.get(place), view.state.get(place));
                    return Err(format!("{} at {seq}: {place:?} shows {shown:?}, and was {is:?}", view.what));
                }
                let newest = at.checked_sub(1).map_or(0, |at| self.commits[at].seq);
                if newest < view.least {
                    return Err(format!("{}: it shows up to {newest}, and {} was certain", view.what, view.least));
                }
            }
            let Some(commit) = self.commits.get(at) else { break };
            for step in &commit.steps {
                match step {
                    Step::Append(place, element) => state.entry(*place).or_default().push(*element),
                    Step::Read(place, seen) => {
                        let is = state.get(place).map_or(&[][..], |list| list);
                        if *is != seen[..] {
                            return Err(format!("commit {}: {place:?} read {seen:?}, and was {is:?}", commit.seq));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// What was acknowledged before something began comes before it.
    fn check_time(&self) -> std::result::Result<(), String> {
        enum Moment<'h> {
            Ended(u64),
            Begun(&'h Commit),
            Viewed(&'h View),
        }
        let mut moments = Vec::new();
        for commit in &self.commits {
            moments.push((commit.begun, Moment::Begun(commit)));
            moments.push((commit.ended, Moment::Ended(commit.seq)));
        }
        moments.extend(self.views.iter().map(|view| (view.begun, Moment::Viewed(view))));
        moments.sort_by_key(|(clock, _)| *clock);
        let mut acknowledged = 0;
        for (_, moment) in moments {
            match moment {
                Moment::Ended(seq) => acknowledged = acknowledged.max(seq),
                Moment::Begun(commit) if commit.seq <= acknowledged => {
                    return Err(format!("commit {} began after {acknowledged} had returned", commit.seq));
                }
                Moment::Viewed(View { seq: Some(seq), what, .. }) if *seq < acknowledged => {
                    return Err(format!("{what}: taken after {acknowledged} had returned, and it is at {seq}"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn decode(bytes: &[u8]) -> List {
    bytes.chunks_exact(8).map(|element| u64::from_be_bytes(element.try_into().unwrap())).collect()
}

fn state_in(snapshot: &Snapshot, families: &[Family]) -> Result<State> {
    let mut state = State::new();
    for (at, family) in families.iter().enumerate() {
        for entry in snapshot.range(family, ..) {
            let (key, value) = entry?;
            state.insert((at, key[0]), decode(&value));
        }
    }
    Ok(state)
}

fn open(disk: &SimDisk, sabotage: Option<Sabotage>) -> Result<(Database, Vec<Family>)> {
    let tuning = Tuning { sabotage, ..Tuning::default() };
    let options = Options::new().tuning(tuning).memory_budget(1 << 20).log_size_max(256 << 10);
    let db = options.flush_interval(Duration::from_millis(3)).open_storage(Arc::new(disk.clone()))?;
    let families = (0..FAMILIES).map(|at| db.family(&format!("f{at}"))).collect::<Result<_>>()?;
    Ok((db, families))
}

/// What all threads of a round share.
struct Round<'r> {
    db: &'r Database,
    families: &'r [Family],
    disk: &'r SimDisk,
    clock: &'r AtomicU64,
    element: &'r AtomicU64,
    history: Mutex<History>,
    /// The newest commit that was acknowledged as durable.
    durable: AtomicU64,
    left: AtomicU64,
    done: AtomicBool,
}

impl Round<'_> {
    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn write(&self, mut rng: SmallRng) -> Result<()> {
        while self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            let mut at: Vec<usize> = (0..rng.random_range(1..=3)).map(|_| rng.random_range(0..FAMILIES)).collect();
            at.dedup();
            let begun = self.now();
            let mut txn = self.db.begin(at.iter().map(|&at| &self.families[at]))?;
            let mut steps = Vec::new();
            for _ in 0..rng.random_range(1..=4) {
                let place = (at[rng.random_range(0..at.len())], rng.random_range(0..KEYS));
                let mut table = txn.family(&self.families[place.0])?;
                let bytes = table.get([place.1])?.map_or_else(Vec::new, |value| value.to_vec());
                if rng.random_bool(0.3) {
                    steps.push(Step::Read(place, decode(&bytes)));
                    continue;
                }
                let element = self.element.fetch_add(1, Ordering::SeqCst);
                table.insert([place.1], [&bytes[..], &element.to_be_bytes()].concat())?;
                steps.push(Step::Append(place, element));
            }
            if rng.random_bool(0.05) {
                drop(txn);
                let appended = steps.iter().filter_map(|step| match step {
                    Step::Append(_, element) => Some(*element),
                    Step::Read(..) => None,
                });
                self.history.lock().unwrap().aborted.extend(appended);
                continue;
            }
            // One that changes nothing has no place of its own.
            let changes = steps.iter().any(|step| matches!(step, Step::Append(..)));
            let durability = match rng.random_range(0..8) {
                0..3 => Durability::Immediate,
                3 => Durability::Buffered,
                _ => Durability::Eventual,
            };
            let seq = txn.commit_with(durability)?.0;
            if durability == Durability::Immediate {
                self.durable.fetch_max(seq, Ordering::SeqCst);
            }
            if changes {
                let commit = Commit { seq, durability, steps, begun, ended: self.now() };
                self.history.lock().unwrap().commits.push(commit);
            }
            if rng.random_bool(0.01) {
                self.db.checkpoint()?;
            }
        }
        Ok(())
    }

    /// Snapshots of everything, and after each third one a power cut: what a snapshot showed of `Immediate` commits is there.
    fn read(&self, mut rng: SmallRng) -> Result<()> {
        let mut count = 0;
        while !self.done.load(Ordering::SeqCst) {
            count += 1;
            let begun = self.now();
            let snapshot = self.db.snapshot();
            let cut = (count % 3 == 0).then(|| {
                let durable = self.durable.load(Ordering::SeqCst);
                let seed = rng.random();
                (durable, self.now(), seed, self.disk.fork().power_cut(PowerCut::Random(seed)))
            });
            let state = state_in(&snapshot, self.families)?;
            let seq = snapshot.seq().0;
            drop(snapshot);
            self.view(View { seq: Some(seq), begun, least: 0, state: state.clone(), what: "a snapshot".to_owned() });
            let Some((durable, begun, seed, disk)) = cut else { continue };
            let (db, families) = open(&disk, None)?;
            let after = state_in(&db.snapshot(), &families)?;
            let what = format!("power cut {seed} behind a snapshot of {seq}");
            assert!(db.check()?.is_sound(), "{what}");
            self.view(View { seq: None, begun, least: durable, state: after, what: what.clone() });
            // The newest `Immediate` commit that the snapshot showed is looked up when all are known.
            self.view(View { seq: Some(seq), begun, least: u64::MAX, state, what });
            thread::sleep(Duration::from_millis(rng.random_range(0..20)));
        }
        Ok(())
    }

    fn view(&self, view: View) {
        self.history.lock().unwrap().views.push(view);
    }
}

/// Pairs of views made by [`Round::read`]: a crash, and the snapshot before it. The crash must have kept what the snapshot showed.
fn tie_crashes_to_snapshots(history: &mut History) {
    let seen: HashMap<String, u64> = history
        .views
        .extract_if(.., |view| view.least == u64::MAX)
        .map(|view| (view.what, view.seq.expect("a snapshot has a place")))
        .collect();
    for view in &mut history.views {
        let Some(seq) = seen.get(&view.what) else { continue };
        let immediate = history.commits.iter().filter(|commit| commit.durability == Durability::Immediate);
        let newest = immediate.map(|commit| commit.seq).filter(|commit| commit <= seq).max();
        view.least = view.least.max(newest.unwrap_or(0));
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// What a run came to.
#[derive(Debug, Default)]
struct Tally {
    commits: usize,
    views: usize,
}

/// Rounds of many threads, checked; an engine that is broken on purpose fails, or so it is hoped.
fn run(seed: u64, commits: u64, rounds: u64, sabotage: Option<Sabotage>) -> Result<std::result::Result<Tally, String>> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut disk = SimDisk::new();
    disk.set_seed(seed);
    let (clock, element) = (AtomicU64::new(1), AtomicU64::new(1));
    let (mut state, mut tally) = (State::new(), Tally::default());
    for number in 0..rounds {
        let (db, families) = open(&disk, sabotage)?;
        // What the cut before left is what everybody begins with.
        assert_eq!(state_in(&db.snapshot(), &families)?, state, "seed {seed}, round {number}");
        let round = Round {
            db: &db,
            families: &families,
            disk: &disk,
            clock: &clock,
            element: &element,
            history: Mutex::default(),
            durable: AtomicU64::new(0),
            left: AtomicU64::new(commits / rounds),
            done: AtomicBool::new(false),
        };
        thread::scope(|scope| {
            let mut seeds = std::iter::repeat_with(|| SmallRng::seed_from_u64(rng.random()));
            let round = &round;
            let writers: Vec<_> =
                seeds.by_ref().take(WRITERS).map(|rng| scope.spawn(move || round.write(rng))).collect();
            let readers: Vec<_> = seeds.take(READERS).map(|rng| scope.spawn(move || round.read(rng))).collect();
            let written: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
            round.done.store(true, Ordering::SeqCst);
            let read: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
            written.into_iter().chain(read).try_for_each(|ended| ended.unwrap())
        })?;
        let durable = round.durable.load(Ordering::SeqCst);
        let mut history = round.history.into_inner().unwrap();

        // The end of the round is a power cut, too, with the newest commits not yet on the disk; what it leaves is the next one's beginning.
        let cut = rng.random();
        let after = disk.power_cut(PowerCut::Random(cut));
        drop((families, db));
        let (survivor, families) = open(&after, None)?;
        let left = state_in(&survivor.snapshot(), &families)?;
        assert!(survivor.check()?.is_sound());
        drop((families, survivor));
        let (begun, what) = (clock.load(Ordering::SeqCst), format!("power cut {cut} at the end"));
        history.views.push(View { seq: None, begun, least: durable, state: left.clone(), what });
        disk = after;

        tie_crashes_to_snapshots(&mut history);
        tally.commits += history.commits.len();
        tally.views += history.views.len();
        if let Err(why) = history.check(&mut state) {
            return Ok(Err(format!("SPINNEY_HISTORY_SEED={seed}, round {number}: {why}")));
        }
        state = left;
    }
    Ok(Ok(tally))
}

#[test]
fn everybody_agrees_on_one_order() -> Result<()> {
    let seed = setting("SPINNEY_HISTORY_SEED", 0x656c_6c65);
    let commits = setting("SPINNEY_HISTORY_COMMITS", 12_000);
    let tally = run(seed, commits, ROUNDS, None)?.unwrap_or_else(|why| panic!("{why}"));
    println!("seed {seed}: {tally:?}, in one order");
    assert!(tally.commits as u64 > commits * 3 / 4 && tally.views > 50, "{tally:?}");
    Ok(())
}

/// Snapshots that show what a crash takes back.
#[test]
fn an_engine_that_shows_too_much_is_noticed() -> Result<()> {
    for seed in 0..20 {
        if let Err(why) = run(seed, 600, 1, Some(Sabotage::ShowsUndurable))? {
            println!("{why}");
            return Ok(());
        }
    }
    panic!("twenty histories of an engine that shows commits before they are durable, and nothing was noticed");
}

/// Histories with one thing wrong in each: the checker must say so, or it proves nothing.
#[test]
fn the_checker_notices_what_is_wrong() {
    let (x, y): (Place, Place) = ((0, 0), (1, 0));
    let commit = |seq: u64, clock: u64, steps: Vec<Step>| Commit {
        seq,
        durability: Durability::Immediate,
        steps,
        begun: clock,
        ended: clock + 1,
    };
    let view = |seq: Option<u64>, begun: u64, least: u64, lists: &[(Place, &[u64])]| View {
        seq,
        begun,
        least,
        state: lists.iter().map(|(place, list)| (*place, list.to_vec())).collect(),
        what: "a view".to_owned(),
    };
    let healthy = || History {
        commits: vec![
            commit(1, 10, vec![Step::Append(x, 100), Step::Append(y, 101)]),
            commit(2, 20, vec![Step::Read(x, vec![100]), Step::Append(x, 102)]),
            commit(3, 30, vec![Step::Read(y, vec![101]), Step::Append(y, 103)]),
        ],
        views: vec![
            view(Some(2), 25, 0, &[(x, &[100, 102]), (y, &[101])]),
            view(None, 35, 2, &[(x, &[100, 102]), (y, &[101])]),
        ],
        aborted: vec![900],
    };
    let says = |what: &str, history: History, words: &str| {
        let said = history.check(&mut State::new()).expect_err(what);
        assert!(said.contains(words), "{what}: {said}");
    };
    healthy().check(&mut State::new()).unwrap();
    type Break = fn(&mut History);
    let breaks: [(&str, Break, &str); 10] = [
        ("a lost append", |h| drop(h.commits[0].steps.pop()), "which nobody wrote"),
        ("a stale read", |h| h.commits[1].steps[0] = Step::Read((0, 0), vec![]), "read []"),
        ("a read from the future", |h| h.commits[1].steps[0] = Step::Read((0, 0), vec![100, 102]), "read [100, 102]"),
        ("half of a transaction", |h| drop(h.views[0].state.remove(&(1, 0))), "shows None"),
        ("a snapshot ahead of its place", |h| (h.views[0].seq, h.views[0].begun) = (Some(1), 15), "shows commit 2"),
        ("a snapshot behind what returned", |h| h.views[0].begun = 40, "and it is at 2"),
        ("an aborted element", |h| h.views[1].state.get_mut(&(0, 0)).unwrap().push(900), "was aborted"),
        ("a hole", |h| h.views[1].state = [((0, 0), vec![100]), ((1, 0), vec![101, 103])].into(), "shows Some([100])"),
        ("a durable commit taken back", |h| h.views[1].least = 3, "3 was certain"),
        ("an order against time", |h| (h.commits[1].begun, h.commits[1].ended) = (40, 41), "began after 3"),
    ];
    for (what, break_it, words) in breaks {
        let mut history = healthy();
        break_it(&mut history);
        says(what, history, words);
    }
    // Two commits that each read what the other had not written: a cycle that no order resolves.
    let skewed = History {
        commits: vec![
            commit(1, 10, vec![Step::Read(y, vec![]), Step::Append(x, 1)]),
            commit(2, 10, vec![Step::Read(x, vec![]), Step::Append(y, 2)]),
        ],
        ..History::default()
    };
    says("write skew", skewed, "read []");
}
