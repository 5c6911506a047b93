//! Every state in which a crash may leave a file: the recorded run is cut before and after each step, and for each cut the legal
//! images are made one by one.
//!
//! ```text
//!   start --step--> . --step--> . --step--> .        one run on one SimDisk, with marks between the steps
//!            |           |           |
//!           cut         cut         cut              what is durable, and what is pending
//!            |           |           |
//!         images      images      images             any part of what is pending, torn, at any passed length
//! ```

mod choice; // what one crash left
mod explore; // an invariant on all of them
mod limits; // how many images
mod plan; // images by number

pub use self::{
    explore::{Crash, Exploration, Explored},
    limits::{CrashUnit, EnumerationLimits},
};

use self::{
    choice::{Choice, killed, pieces_of_bytes},
    plan::Plan,
};
use crate::storage::sim_disk::{
    SimDisk,
    blocks::BlockMap,
    log::{Log, Step},
    random::{Shuffle, combine},
    state::{DiskState, Effect},
};
use rustc_hash::FxHashSet;
use std::fmt;

/// A run on a [`SimDisk`], kept step by step. Steps are small: a sync and a durable write are two each, their beginning and their end.
///
/// # The images of a cut
/// Pending are all pieces - 4 KiB pages or, if asked for, 512-byte sectors - of writes that no completed sync covers.
/// - Any subset of them may have arrived, in any order: of several writes to one unit any one may win.
/// - A page may have arrived in part: some of its sectors new, the others old; one sector may be garbage.
/// - The length is any that the file passed through; bytes beyond it are gone.
/// - After a process kill everything written is visible, with a first part of the write in flight, and **still pending**: the disk
///   of such an image loses it when its own power is cut.
///
/// No two images with the same bytes are yielded for the same marks.
///
/// # Example
/// A log of one-page records must never acknowledge a record and lose it.
/// ```
/// use spinney_file::{EnumerationLimits, Recording, SimDisk, Storage};
/// use std::io::IoSlice;
///
/// let disk = SimDisk::new();
/// disk.record();
/// for record in 1..=3u8 {
///     let at = u64::from(record - 1) * 4096;
///     disk.write_vectored_at(at, &[IoSlice::new(&[record; 4096])])?;
///     disk.sync_data()?; // leave this out and the assertion below fails
///     disk.mark(u64::from(record)); // acknowledged
/// }
///
/// let recording = Recording::from(&disk);
/// for image in recording.images(&EnumerationLimits::QUICK, 7) {
///     let disk = image.disk();
///     for acknowledged in image.marks() {
///         let mut page = [0; 4096];
///         let read = disk.read_at((acknowledged - 1) * 4096, &mut page)?;
///         assert!(read == 4096 && page.iter().all(|byte| u64::from(*byte) == acknowledged), "{}", image.describe());
///     }
/// }
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone, Debug)]
pub struct Recording {
    log: Log,
}

impl From<&SimDisk> for Recording {
    /// The steps since [`SimDisk::record`]; without it there are none, and the only cut is now.
    fn from(disk: &SimDisk) -> Self {
        disk.recording()
    }
}

impl SimDisk {
    /// The steps since [`record`](Self::record).
    pub fn recording(&self) -> Recording {
        let log = self.log().unwrap_or_else(|| Log::from(self.state()));
        Recording { log }
    }
}

/// How many images there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageCount {
    /// Images that the limits ask for, duplicates included, before `images_per_cut_max` and `images_max`.
    pub planned: u64,
    /// Images that are yielded at most.
    pub budgeted: u64,
    /// Moments at which the run is cut.
    pub cuts: u64,
    /// Of those, how many have every subset of their pending units among the images, with every length the file may have.
    pub cuts_whole: u64,
}

impl Recording {
    /// How many steps were recorded. There is one cut more.
    pub fn step_count(&self) -> usize {
        self.log.steps.len()
    }

    /// The steps, one line each.
    pub fn steps(&self) -> impl Iterator<Item = String> {
        self.log.steps.iter().map(Step::to_string)
    }

    /// Every moment between two steps, the first before all of them and the last after all.
    pub fn cuts(&self) -> impl Iterator<Item = Cut<'_>> {
        let mut state = self.log.start.clone();
        (0..=self.step_count()).map(move |index| {
            if index > 0 {
                self.log.steps[index - 1].redo(&mut state);
            }
            Cut { recording: self, index, state: state.clone() }
        })
    }

    /// One moment: after so many steps.
    pub fn cut(&self, index: usize) -> Option<Cut<'_>> {
        let steps = self.log.steps.get(..index)?;
        let mut state = self.log.start.clone();
        steps.iter().for_each(|step| step.redo(&mut state));
        Some(Cut { recording: self, index, state })
    }

    /// The images of all cuts. Two runs with the same limits and seed yield the same.
    pub fn images(&self, limits: &EnumerationLimits, seed: u64) -> Images<'_> {
        Images::new(self, limits, seed, 0, self.step_count() + 1, self.log.start.clone())
    }

    /// How many images all cuts have together. Costs one pass over the steps.
    pub fn image_count(&self, limits: &EnumerationLimits) -> ImageCount {
        let cuts = self.cuts().map(|cut| cut.plan(limits, 0));
        let (planned, whole): (Vec<u64>, Vec<bool>) = cuts.map(|plan| (plan.count(), plan.is_whole())).unzip();
        let quotas = quotas(&planned, limits);
        let all = planned.iter().zip(&quotas).map(|(planned, quota)| planned == quota);
        ImageCount {
            planned: planned.iter().sum(),
            budgeted: quotas.iter().sum(),
            cuts: planned.len() as u64,
            cuts_whole: all.zip(whole).filter(|(all, whole)| *all && *whole).count() as u64,
        }
    }

    /// Makes an image again from what [`Image::describe`] said about it.
    ///
    /// # Errors
    /// Says which part of the text does not fit this recording.
    pub fn image(&self, description: &str) -> Result<Image<'_>, String> {
        let words = description.split('#').next().unwrap_or_default();
        let index = words.split_whitespace().find_map(|word| word.strip_prefix("cut=")).ok_or("no cut= in the text")?;
        let index = index.parse().map_err(|error| format!("cut={index}: {error}"))?;
        let cut = self.cut(index).ok_or_else(|| format!("cut={index} of {}", self.step_count()))?;
        let choice = Choice::parse(words)?;
        if let Choice::Power(power) = &choice {
            let pieces = pieces_of_bytes(&cut.state).count();
            if pieces != power.masks.len() {
                return Err(format!("{} pieces in the text, {pieces} pending at the cut", power.masks.len()));
            }
        }
        Ok(cut.image(choice))
    }

    fn marks_before(&self, cut: usize) -> &[(usize, u64)] {
        &self.log.marks[..self.log.marks.partition_point(|(step, _)| *step <= cut)]
    }
}

/// A moment between two steps, at which the power may fail or the process die.
#[derive(Clone, Debug)]
pub struct Cut<'r> {
    recording: &'r Recording,
    index: usize,
    state: DiskState,
}

impl<'r> Cut<'r> {
    /// How many steps come before.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The marks set before this moment, in order.
    pub fn marks(&self) -> impl Iterator<Item = u64> + use<'r> {
        self.recording.marks_before(self.index).iter().map(|(_, mark)| *mark)
    }

    /// Pieces of writes that no sync covers at this moment.
    pub fn pending_count(&self) -> usize {
        self.state.pending.iter().filter(|piece| !piece.forced && matches!(piece.effect, Effect::Bytes { .. })).count()
    }

    /// The legal images of this cut, but for torn ones, duplicates included; `None` beyond 2^128.
    pub fn legal_count(&self, unit: CrashUnit) -> Option<u128> {
        self.plan(&EnumerationLimits { unit, ..EnumerationLimits::QUICK }, 0).legal_count()
    }

    /// How many images of this cut the limits ask for.
    pub fn image_count(&self, limits: &EnumerationLimits) -> ImageCount {
        let plan = self.plan(limits, 0);
        let planned = plan.count();
        let budgeted = planned.min(limits.images_per_cut_max).min(limits.images_max);
        ImageCount { planned, budgeted, cuts: 1, cuts_whole: u64::from(budgeted == planned && plan.is_whole()) }
    }

    /// The images of this cut.
    pub fn images(&self, limits: &EnumerationLimits, seed: u64) -> Images<'r> {
        Images::new(self.recording, limits, seed, self.index, self.index + 1, self.state.clone())
    }

    fn plan(&self, limits: &EnumerationLimits, seed: u64) -> Plan {
        Plan::new(&self.state, self.recording.log.steps.get(self.index), limits, seed)
    }

    fn image(&self, choice: Choice) -> Image<'r> {
        let state = match &choice {
            Choice::Power(power) => DiskState::at_rest(power.image(&self.state)),
            Choice::Kill { bytes } => killed(&self.state, self.recording.log.steps.get(self.index), *bytes),
        };
        Image { recording: self.recording, cut: self.index, choice, state }
    }
}

/// The images of one or all cuts, made when asked for. Costs about a microsecond each, and a copy of every torn page.
#[derive(Debug)]
pub struct Images<'r> {
    limits: EnumerationLimits,
    seed: u64,
    cut: Cut<'r>,
    /// For each cut from the present one on, how many images it may yield.
    quotas: std::vec::IntoIter<u64>,
    now: Option<Progress>,
    seen: FxHashSet<u64>,
    marks_seen: usize,
    share: (u64, u64),
}

/// How far the present cut is.
#[derive(Debug)]
struct Progress {
    plan: Plan,
    order: Option<Shuffle>,
    place: u64,
    places_max: u64,
    left: u64,
}

impl<'r> Images<'r> {
    fn new(
        recording: &'r Recording,
        limits: &EnumerationLimits,
        seed: u64,
        first: usize,
        end: usize,
        state: DiskState,
    ) -> Self {
        let cut = Cut { recording, index: first, state };
        let planned = if end - first == 1 {
            vec![cut.plan(limits, seed).count()]
        } else {
            planned_counts(recording.cuts(), limits)
        };
        let mut images = Self {
            limits: limits.clone(),
            seed,
            cut,
            quotas: quotas(&planned, limits).into_iter(),
            now: None,
            seen: FxHashSet::default(),
            marks_seen: 0,
            share: (0, 1),
        };
        images.begin_cut();
        images
    }

    /// Yields only one of `of` parts of the images, by their bytes: threads that take the parts 0, 1, .. visit every image once.
    #[must_use]
    pub fn share(mut self, part: u64, of: u64) -> Self {
        assert!(part < of, "part {part} of {of}");
        self.share = (part, of);
        self
    }

    fn begin_cut(&mut self) {
        let Some(quota) = self.quotas.next() else {
            self.now = None;
            return;
        };
        // All images of the cut share this list of blocks.
        self.cut.state.durable.fold();
        let seed = combine(&[self.seed, self.cut.index as u64]);
        let plan = self.cut.plan(&self.limits, seed);
        let (count, corners) = (plan.count(), plan.corner_count());
        let sampled = quota < count;
        let order = (sampled && count > corners).then(|| Shuffle::new(count - corners, seed));
        // Duplicates do not count, but looking for others has an end.
        let places_max = if sampled { count.min(quota.saturating_mul(4)) } else { count };
        self.now = Some(Progress { plan, order, place: 0, places_max, left: quota });
        let marks = self.cut.recording.marks_before(self.cut.index).len();
        if marks != self.marks_seen {
            self.marks_seen = marks;
            self.seen.clear(); // the same bytes are another case once more has been promised
        }
    }

    fn next_cut(&mut self) {
        if let Some(step) = self.cut.recording.log.steps.get(self.cut.index)
            && self.quotas.len() > 0
        {
            step.redo(&mut self.cut.state);
            self.cut.index += 1;
        }
        self.begin_cut();
    }
}

impl<'r> Iterator for Images<'r> {
    type Item = Image<'r>;

    fn next(&mut self) -> Option<Image<'r>> {
        loop {
            let now = self.now.as_mut()?;
            if now.left == 0 || now.place == now.places_max {
                self.next_cut();
                continue;
            }
            let corners = now.plan.corner_count();
            let number = match &now.order {
                Some(order) if now.place >= corners => corners + order.at(now.place - corners),
                _ => now.place,
            };
            now.place += 1;
            let image = self.cut.image(now.plan.choice(number));
            let identity = image.identity();
            if self.seen.insert(identity) {
                now.left -= 1;
                if identity % self.share.1 == self.share.0 {
                    return Some(image);
                }
            }
        }
    }
}

/// What a crash left of the file.
#[derive(Clone, Debug)]
pub struct Image<'r> {
    recording: &'r Recording,
    cut: usize,
    choice: Choice,
    state: DiskState,
}

impl<'r> Image<'r> {
    /// A disk in this state; each call makes another. It shares all blocks that it does not change.
    pub fn disk(&self) -> SimDisk {
        SimDisk::from_state(self.state.clone())
    }

    /// The cut it belongs to: how many steps came before.
    pub fn cut_index(&self) -> usize {
        self.cut
    }

    /// The marks set before the crash, in order.
    pub fn marks(&self) -> impl Iterator<Item = u64> + use<'r> {
        self.recording.marks_before(self.cut).iter().map(|(_, mark)| *mark)
    }

    /// Whether the process died while the power stayed.
    pub fn is_kill(&self) -> bool {
        matches!(self.choice, Choice::Kill { .. })
    }

    /// One line from which [`Recording::image`] makes the same image, given the same recording.
    pub fn describe(&self) -> String {
        self.to_string()
    }

    fn identity(&self) -> u64 {
        let live = self.state.live.fingerprint();
        if self.state.pending.is_empty() {
            let durable = self.state.durable.fingerprint();
            return if live == durable { live } else { combine(&[live, durable]) };
        }
        // What is pending belongs to the image, and is another at every cut.
        combine(&[live, self.cut as u64])
    }
}

impl fmt::Display for Image<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = &self.recording.log.steps;
        write!(f, "cut={} {} #", self.cut, self.choice)?;
        if let Some(step) = self.cut.checked_sub(1).and_then(|last| steps.get(last)) {
            write!(f, " after {step}")?;
        }
        if let Some(step) = steps.get(self.cut) {
            write!(f, " before {step}")?;
        }
        Ok(())
    }
}

/// A random legal image of a disk.
pub(crate) fn random_image(state: &DiskState, seed: u64) -> BlockMap {
    plan::random_choice(state, seed).image(state)
}

fn planned_counts<'r>(cuts: impl Iterator<Item = Cut<'r>>, limits: &EnumerationLimits) -> Vec<u64> {
    cuts.map(|cut| cut.plan(limits, 0).count()).collect()
}

/// How many images each cut may yield: all it has, up to a level that all cuts share.
fn quotas(planned: &[u64], limits: &EnumerationLimits) -> Vec<u64> {
    let capped: Vec<u64> = planned.iter().map(|count| (*count).min(limits.images_per_cut_max)).collect();
    let mut ascending = capped.clone();
    ascending.sort_unstable();
    let mut left = limits.images_max;
    let mut level = u64::MAX;
    for (place, count) in ascending.iter().enumerate() {
        let share = left / (ascending.len() - place) as u64;
        if *count > share {
            level = share;
            break;
        }
        left -= count;
    }
    capped.into_iter().map(|count| count.min(level)).collect()
}

#[cfg(test)]
mod tests;
