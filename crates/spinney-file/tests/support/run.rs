//! A random run, and what must hold of every image that a crash of it leaves.

use super::tree::{OWNERS, State, change, check_accounting, commit_of, state_in, state_of};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use spinney_file::{
    Durability, EnumerationLimits, FileError, FileOptions, Image, Owner, PagedFile, Recording, Sabotage, SimDisk,
    Snapshot, Tuning, Wait,
};
use std::sync::Arc;

/// Everything tiny, so that rare paths are common.
pub fn small(sabotage: Option<Sabotage>) -> FileOptions {
    FileOptions {
        budget_bytes: 64 * 4096,
        background: false,
        tuning: Tuning {
            log_bytes: 12 * 4096,
            log_bytes_max: 24 * 4096,
            checkpoint_after_freed_bytes: 40 * 4096,
            sync_first_bytes: 9 * 4096,
            sync_first_eventual_bytes: 20 * 4096,
            numbers_ahead: 4096,
            sabotage,
            ..Tuning::default()
        },
        ..FileOptions::default()
    }
}

/// A random run on a simulated disk, one step at a time, and the states it committed. A step may fail; the next one goes on.
pub struct Runner {
    pub disk: SimDisk,
    options: FileOptions,
    /// `None` before the first opening, and after one that failed.
    pub file: Option<PagedFile>,
    /// Every state by commit number, those of commits whose outcome is unknown included.
    pub states: Vec<State>,
    /// The newest commit that was said to be durable.
    pub acknowledged: u64,
    /// An Immediate commit that failed with an unknown outcome: nobody may be shown it.
    unknown: Option<u64>,
    held: Vec<(Snapshot, State)>,
    rng: SmallRng,
    next_id: u64,
}

/// Added to the marks of commits that were acknowledged; without it a mark says that the commit begins.
const ACKNOWLEDGED: u64 = 1 << 32;

impl Runner {
    pub fn new(disk: SimDisk, options: FileOptions, seed: u64) -> Self {
        disk.set_seed(seed);
        Self {
            disk,
            options,
            file: None,
            states: vec![State::new()],
            acknowledged: 0,
            unknown: None,
            held: Vec::new(),
            rng: SmallRng::seed_from_u64(seed),
            next_id: 0,
        }
    }

    /// On a disk that holds one of `states`.
    pub fn going_on(disk: SimDisk, options: FileOptions, seed: u64, states: Vec<State>) -> Self {
        Self { states, next_id: 1 << 40, ..Self::new(disk, options, seed) }
    }

    /// The next opening is that of an image of this run.
    pub fn after_crash(&mut self, image: &Image<'_>) {
        self.acknowledged = Run::bounds(image).0;
    }

    /// Opens the file, and finds out which of the states it is in.
    pub fn open(&mut self) -> Result<(), FileError> {
        let file = PagedFile::open(Arc::new(self.disk.clone()), self.options.clone())?;
        let (state, pages) = state_of(&file)?;
        let commit = commit_of(&state);
        assert!(self.acknowledged <= commit, "{} was acknowledged, {commit} is there", self.acknowledged);
        assert_eq!(Some(&state), self.states.get(commit as usize), "the state at {commit}");
        check_accounting(&file, pages)?;
        self.file = Some(file);
        self.unknown = None;
        // What opening shows is durable, and what it does not show is gone for good.
        self.states.truncate(commit as usize + 1);
        self.acknowledge();
        Ok(())
    }

    /// Says that everything committed so far is durable.
    pub fn acknowledge(&mut self) {
        self.acknowledged = self.states.len() as u64 - 1;
        self.disk.mark(ACKNOWLEDGED + self.acknowledged);
    }

    /// Drops the file without closing it properly, and all snapshots.
    pub fn forget(&mut self) {
        self.held.clear();
        self.file = None;
    }

    /// One random step. With no open file: tries to open it.
    pub fn step(&mut self) -> Result<(), FileError> {
        let Some(file) = self.file.clone() else { return self.open() };
        match self.rng.random_range(0..20) {
            0 => {
                file.checkpoint()?;
                self.acknowledge();
            }
            1 => {
                file.flush()?;
                self.acknowledge();
            }
            2 => {
                let snapshot = file.snapshot();
                let state = self.shown_by(&snapshot)?;
                self.held.push((snapshot, state));
            }
            3 if !self.held.is_empty() => {
                let at = self.rng.random_range(0..self.held.len());
                self.held.swap_remove(at);
            }
            4 => {
                self.forget();
                // A failure is made up for by opening.
                if file.close().is_ok() {
                    self.acknowledge();
                }
                drop(file);
                self.open()?;
            }
            5 => drop(file.reclaim(self.rng.random_range(0..40) * 4096)?),
            6 => self.transaction(&file, None)?,
            _ => {
                let durability = match self.rng.random_range(0..4) {
                    0 => Durability::Eventual,
                    1 => Durability::Buffered,
                    _ => Durability::Immediate,
                };
                self.transaction(&file, Some(durability))?;
            }
        }
        self.check_held()
    }

    /// Changes one or two owners and commits that; `None` aborts.
    fn transaction(&mut self, file: &PagedFile, durability: Option<Durability>) -> Result<(), FileError> {
        let count = self.rng.random_range(1..=2);
        let owners: Vec<Owner> = (0..count).map(|_| OWNERS[self.rng.random_range(0..OWNERS.len())]).collect();
        let mut txn = file.begin(&owners, Wait::Forever)?;
        let commit = self.states.len() as u64;
        let mut state = self.states[self.states.len() - 1].clone();
        for owner in txn.owners().collect::<Vec<_>>() {
            let content = change(txn.part(owner).unwrap(), &mut self.rng, commit, &mut self.next_id)?;
            state.insert(owner, content);
        }
        let Some(durability) = durability else {
            txn.abort();
            return Ok(());
        };
        self.disk.mark(commit);
        match txn.commit(durability) {
            Ok(_) => {
                self.states.push(state);
                if durability == Durability::Immediate {
                    self.acknowledge();
                }
                Ok(())
            }
            Err(error) => {
                if matches!(error, FileError::CommitOutcomeUnknown { .. }) {
                    assert!(file.stats().poisoned, "an unknown outcome poisons");
                    self.unknown = (durability == Durability::Immediate).then_some(commit);
                    self.states.push(state);
                }
                Err(error)
            }
        }
    }

    /// What a snapshot taken now shows: the newest state, or with the file poisoned some state not older than what was shown before.
    pub fn shown_by(&self, snapshot: &Snapshot) -> Result<State, FileError> {
        let (state, _) = state_in(snapshot, &OWNERS)?;
        let commit = commit_of(&state);
        assert_eq!(Some(&state), self.states.get(commit as usize), "what a snapshot shows at {commit}");
        assert!(self.acknowledged <= commit, "{} was acknowledged, {commit} is shown", self.acknowledged);
        assert!(self.unknown.is_none_or(|unknown| commit < unknown), "{commit} is shown, which a crash may take back");
        if !snapshot.file().stats().poisoned {
            assert_eq!(commit as usize, self.states.len() - 1, "a snapshot shows every commit that has returned");
        }
        Ok(state)
    }

    /// No snapshot changes.
    pub fn check_held(&self) -> Result<(), FileError> {
        for (snapshot, state) in &self.held {
            assert_eq!(&state_in(snapshot, &OWNERS)?.0, state, "a snapshot changed");
        }
        Ok(())
    }
}

/// A recorded run: what the disk went through, and every state by commit number.
pub struct Run {
    pub recording: Recording,
    pub states: Vec<State>,
    sabotage: Option<Sabotage>,
}

impl Run {
    pub fn record(seed: u64, steps: u32, sabotage: Option<Sabotage>) -> Result<Self, FileError> {
        let disk = SimDisk::new();
        disk.record();
        let mut runner = Runner::new(disk.clone(), small(sabotage), seed);
        for _ in 0..steps {
            runner.step()?;
        }
        runner.forget();
        Ok(Self { recording: disk.recording(), states: runner.states, sabotage })
    }

    /// The newest commits that were acknowledged and begun before an image was left.
    pub fn bounds(image: &Image<'_>) -> (u64, u64) {
        let (mut begun, mut acknowledged) = (0, 0);
        for mark in image.marks() {
            if mark >= ACKNOWLEDGED {
                acknowledged = acknowledged.max(mark - ACKNOWLEDGED);
            } else {
                begun = begun.max(mark);
            }
        }
        (acknowledged, begun)
    }

    /// Recovers an image and checks what is there; `deep`: also crashes the recovery, and goes on working.
    pub fn check(&self, image: &Image<'_>, deep: bool) -> Result<(), FileError> {
        let (acknowledged, begun) = Self::bounds(image);
        let disk = image.disk();
        if deep {
            disk.record();
        }
        let file = PagedFile::open(Arc::new(disk.clone()), small(self.sabotage))?;
        let (state, pages) = state_of(&file)?;
        let commit = commit_of(&state);
        assert!(acknowledged <= commit && commit <= begun, "{acknowledged} <= {commit} <= {begun}");
        assert_eq!(state, self.states[commit as usize], "the state at {commit}");
        check_accounting(&file, pages)?;
        if !deep {
            return Ok(());
        }
        // D7: what was served is still there after an immediate power cut, at any moment of the recovery.
        let recovery = disk.recording();
        for nested in recovery.images(&EnumerationLimits { images_per_cut_max: 6, ..EnumerationLimits::QUICK }, 1) {
            let again = PagedFile::open(Arc::new(nested.disk()), small(self.sabotage))?;
            let (state, _) = state_of(&again)?;
            let second = commit_of(&state);
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
            let mut txn = file.begin(&OWNERS[1..2], Wait::Never)?;
            change(txn.part(OWNERS[1]).unwrap(), &mut rng, 1 << 20, &mut next_id)?;
            txn.commit(Durability::Immediate)?;
        }
        let (state, pages) = state_of(&file)?;
        file.checkpoint()?;
        check_accounting(&file, pages)?;
        file.close()?;
        drop(file);
        let file = PagedFile::open(Arc::new(disk), small(self.sabotage))?;
        assert_eq!(state_of(&file)?.0, state);
        Ok(())
    }

    /// Checks a disk that was an image once, and was opened or nearly so.
    pub fn check_at_rest(&self, disk: &SimDisk, image: &Image<'_>) -> Result<(), FileError> {
        let (acknowledged, begun) = Self::bounds(image);
        let file = PagedFile::open(Arc::new(disk.clone()), small(self.sabotage))?;
        let (state, pages) = state_of(&file)?;
        let commit = commit_of(&state);
        assert!(acknowledged <= commit && commit <= begun, "{acknowledged} <= {commit} <= {begun}");
        assert_eq!(state, self.states[commit as usize], "the state at {commit}");
        check_accounting(&file, pages)
    }

    /// Recovers and checks images; returns how many.
    pub fn check_all(&self, limits: &EnumerationLimits, seed: u64) -> u64 {
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
