//! An invariant held against every image of a recording: on all cores, recoveries crashed as well, and each failure in one line from
//! which it comes again.

use super::{EnumerationLimits, Image, Recording};
use crate::SimDisk;
use parking_lot::Mutex;
use std::{
    env, fmt,
    fmt::{Debug, Display},
    ops::AddAssign,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    thread,
};

/// The variable that names the one image to be looked at.
const CHOSEN: &str = "SPINNEY_CRASH_IMAGE";

/// Holds an invariant against every image that a recording may leave behind.
///
/// A check opens what it finds on [`Crash::disk`], looks, and returns what it saw. It fails by an error or a panic. One image in
/// so many is looked at twice: the disk is recorded while the check opens it, and the check is made again on each image that a crash
/// of *that* leaves. What was seen the first time must be seen again if the second crash came when all was over: what has
/// been shown once must not vanish.
///
/// A failure panics, with a line like
///
/// ```text
/// reproduce: SPINNEY_CRASH_IMAGE='transfers 7: cut=41 keep=0-3:ff/5 lengths=1' cargo test
/// ```
///
/// With that variable set the same test looks at this image only; explorations of other labels look at nothing.
#[derive(Clone, Debug)]
pub struct Exploration {
    label: String,
    limits: EnumerationLimits,
    seed: u64,
    again_one_in: u64,
    again: EnumerationLimits,
    threads: usize,
}

impl Exploration {
    /// Looks at what [`EnumerationLimits::PULL_REQUEST`] asks for, and crashes one recovery in fifty, on all cores. `label` tells this
    /// exploration from others of the same test; it must name everything that the recording depends on, such as a seed.
    pub fn new(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            limits: EnumerationLimits::PULL_REQUEST,
            seed: 1,
            again_one_in: 50,
            again: EnumerationLimits { images_per_cut_max: 8, ..EnumerationLimits::QUICK },
            threads: thread::available_parallelism().map_or(1, usize::from),
        }
    }

    /// Which images.
    #[must_use]
    pub fn limits(mut self, limits: EnumerationLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Chooses the random ones among them.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Crashes the recovery of one image in `one_in`, 0 for none, and looks at as many images of each as `limits` say.
    #[must_use]
    pub fn crash_again(mut self, one_in: u64, limits: EnumerationLimits) -> Self {
        (self.again_one_in, self.again) = (one_in, limits);
        self
    }

    /// How many threads check at a time; with one, in order.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Makes the check on each image.
    ///
    /// # Panics
    /// With the first check that fails, and the line that repeats it.
    pub fn run<T, E>(&self, recording: &Recording, check: impl Fn(&Crash<'_>) -> Result<T, E> + Sync) -> Explored
    where
        T: PartialEq + Debug,
        E: Display,
    {
        self.run_as(env::var(CHOSEN).ok().as_deref(), recording, check)
    }

    fn run_as<T, E>(
        &self,
        chosen: Option<&str>,
        recording: &Recording,
        check: impl Fn(&Crash<'_>) -> Result<T, E> + Sync,
    ) -> Explored
    where
        T: PartialEq + Debug,
        E: Display,
    {
        if let Some(chosen) = chosen {
            return match chosen.strip_prefix(&self.label).and_then(|rest| rest.strip_prefix(':')) {
                Some(description) => self.repeat(recording, description, &check),
                None => Explored::default(),
            };
        }
        let count = recording.image_count(&self.limits);
        let total = Mutex::new(Explored { cuts: count.cuts, cuts_whole: count.cuts_whole, ..Explored::default() });
        let part = |part: u64| {
            let mut found = Explored::default();
            for (number, image) in (0u64..).zip(recording.images(&self.limits, self.seed)) {
                if number % self.threads as u64 == part {
                    let is_chosen = self.again_one_in > 0 && (number + self.seed).is_multiple_of(self.again_one_in);
                    found += self.look_at(&image, is_chosen, &check);
                }
            }
            *total.lock() += found;
        };
        thread::scope(|scope| {
            let part = &part;
            let others: Vec<_> = (1..self.threads as u64).map(|other| scope.spawn(move || part(other))).collect();
            part(0);
            for other in others {
                if let Err(panic) = other.join() {
                    resume_unwind(panic);
                }
            }
        });
        total.into_inner()
    }

    /// One image, and if it is chosen those of its recovery.
    fn look_at<T, E>(&self, image: &Image<'_>, is_chosen: bool, check: &impl Fn(&Crash<'_>) -> Result<T, E>) -> Explored
    where
        T: PartialEq + Debug,
        E: Display,
    {
        let mut found = Explored { images: 1, chosen: u64::from(is_chosen), ..Explored::default() };
        let crash = Crash::first(image, is_chosen);
        let seen = self.checked(&crash, check);
        let Some(recovery) = crash.recovery() else { return found };
        for again in recovery.images(&self.again, self.seed) {
            found.images_again += 1;
            self.look_again(&crash, &recovery, &again, &seen, check);
        }
        found
    }

    fn look_again<T, E>(
        &self,
        first: &Crash<'_>,
        recovery: &Recording,
        again: &Image<'_>,
        seen: &T,
        check: &impl Fn(&Crash<'_>) -> Result<T, E>,
    ) where
        T: PartialEq + Debug,
        E: Display,
    {
        let second = Crash::second(first, again);
        let seen_again = self.checked(&second, check);
        if again.cut_index() == recovery.step_count() && seen_again != *seen {
            self.fail(&second, &format!("{seen:?} was seen, and {seen_again:?} after the next crash"));
        }
    }

    /// The image of a line that was printed, and nothing else.
    fn repeat<T, E>(
        &self,
        recording: &Recording,
        description: &str,
        check: &impl Fn(&Crash<'_>) -> Result<T, E>,
    ) -> Explored
    where
        T: PartialEq + Debug,
        E: Display,
    {
        let (outer, inner) = description.split_once('>').map_or((description, None), |(o, i)| (o, Some(i)));
        let unfit = |error| -> ! { panic!("{CHOSEN} does not fit {}: {error}", self.label) };
        let image = recording.image(outer).unwrap_or_else(|error| unfit(error));
        let Some(inner) = inner else { return self.look_at(&image, outer.contains(DEEP), check) };
        let crash = Crash::first(&image, true);
        let seen = self.checked(&crash, check);
        let recovery = crash.recovery().expect("it is recorded");
        let again = recovery.image(inner).unwrap_or_else(|error| unfit(error));
        self.look_again(&crash, &recovery, &again, &seen, check);
        Explored { images: 1, chosen: 1, images_again: 1, ..Explored::default() }
    }

    fn checked<T, E: Display>(&self, crash: &Crash<'_>, check: &impl Fn(&Crash<'_>) -> Result<T, E>) -> T {
        match catch_unwind(AssertUnwindSafe(|| check(crash))) {
            Ok(Ok(seen)) => seen,
            Ok(Err(error)) => self.fail(crash, &error.to_string()),
            Err(panic) => {
                let words = panic.downcast_ref::<&str>().map(|&words| words.to_owned());
                let words = words.or_else(|| panic.downcast_ref::<String>().cloned());
                self.fail(crash, &words.unwrap_or_else(|| "a panic".to_owned()))
            }
        }
    }

    fn fail(&self, crash: &Crash<'_>, what: &str) -> ! {
        panic!("{what}\nreproduce: {CHOSEN}='{}: {}' cargo test", self.label, crash.describe());
    }
}

/// Says in a line that the recovery was recorded: a check may have looked deeper.
const DEEP: &str = "deep";

/// What a check looks at: the disk that a crash left.
#[derive(Debug)]
pub struct Crash<'r> {
    disk: SimDisk,
    /// Of all crashes so far, the first one first.
    images: Vec<&'r Image<'r>>,
    marks: Vec<u64>,
    is_chosen: bool,
    recovery: Mutex<Option<Recording>>,
}

impl<'r> Crash<'r> {
    fn first(image: &'r Image<'r>, is_chosen: bool) -> Self {
        let disk = image.disk();
        if is_chosen {
            disk.record();
        }
        Self { disk, images: vec![image], marks: image.marks().collect(), is_chosen, recovery: Mutex::new(None) }
    }

    fn second(first: &Self, again: &'r Image<'r>) -> Self {
        let images = first.images.iter().copied().chain([again]).collect();
        let marks = first.marks.iter().copied().chain(again.marks()).collect();
        Self { disk: again.disk(), images, marks, is_chosen: false, recovery: Mutex::new(None) }
    }

    /// A handle of the disk.
    pub fn disk(&self) -> SimDisk {
        self.disk.clone()
    }

    /// The [marks](SimDisk::mark) set before the crash, in order.
    pub fn marks(&self) -> impl Iterator<Item = u64> {
        self.marks.iter().copied()
    }

    /// Whether the process died, or was killed each time, and the power stayed.
    pub fn is_kill(&self) -> bool {
        self.images.iter().all(|image| image.is_kill())
    }

    /// 0 at first; 1 where the recovery of such a crash was crashed in turn.
    pub fn depth(&self) -> usize {
        self.images.len() - 1
    }

    /// Whether this is one of those images whose recovery is crashed: the place for whatever is too slow to be asked of each.
    pub fn is_chosen(&self) -> bool {
        self.is_chosen
    }

    /// The recovery is over: what the check does from here on is not crashed.
    pub fn recovered(&self) {
        if self.is_chosen {
            self.recovery.lock().get_or_insert_with(|| self.disk.recording());
        }
    }

    /// In one line, what the crashes left.
    pub fn describe(&self) -> String {
        let words = |image: &&Image<'_>| image.describe().split('#').next().unwrap_or_default().trim().to_owned();
        let mut text = self.images.iter().map(words).collect::<Vec<_>>().join(" > ");
        if self.is_chosen {
            text = format!("{text} {DEEP}");
        }
        text
    }

    fn recovery(&self) -> Option<Recording> {
        self.recovered();
        self.recovery.lock().take()
    }
}

/// What an exploration came across; sums of several are made with `+=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "said by those that are not self-evident")]
pub struct Explored {
    /// Distinct images of the recording.
    pub images: u64,
    /// Those among them whose recovery was crashed.
    pub chosen: u64,
    /// Images of crashed recoveries.
    pub images_again: u64,
    pub cuts: u64,
    /// Cuts of which every subset of what was pending was looked at, with every length.
    pub cuts_whole: u64,
}

impl AddAssign for Explored {
    fn add_assign(&mut self, other: Self) {
        self.images += other.images;
        self.chosen += other.chosen;
        self.images_again += other.images_again;
        self.cuts += other.cuts;
        self.cuts_whole += other.cuts_whole;
    }
}

impl Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.cuts_whole as f64 * 100.0 / self.cuts.max(1) as f64;
        write!(
            f,
            "{} images, {} of them with the whole oracle, and {} of crashed recoveries; {} cuts, {} of them whole ({percent:.1} %)",
            self.images, self.chosen, self.images_again, self.cuts, self.cuts_whole
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Storage;
    use std::io::{self, IoSlice};

    /// Two pages that must be equal, written one after the other; with a first copy elsewhere, or without.
    fn recorded(careful: bool) -> Recording {
        let disk = SimDisk::with_contents(&[0; 3 * 4096]);
        disk.record();
        for page in if careful { vec![2, 0, 1] } else { vec![0, 1] } {
            disk.write_sync(page * 4096, &[IoSlice::new(&[7; 4096])]).unwrap();
        }
        disk.recording()
    }

    /// Whether both pages are new, once the copy has been laid over them.
    fn recover(crash: &Crash<'_>) -> io::Result<bool> {
        let (disk, mut page, mut pages) = (crash.disk(), [0; 4096], [0; 8192]);
        disk.sync_data()?; // a killed process leaves what only seems to be there
        disk.read_at(2 * 4096, &mut page)?;
        if page == [7; 4096] {
            disk.write_sync(0, &[IoSlice::new(&page), IoSlice::new(&page)])?;
        }
        crash.recovered();
        disk.read_at(0, &mut pages)?;
        disk.write_sync(0, &[IoSlice::new(&[9; 8192])])?; // not part of the recovery
        assert!(pages == [0; 8192] || pages == [7; 8192], "neither old nor new");
        Ok(pages == [7; 8192])
    }

    fn exploration() -> Exploration {
        Exploration::new("pages 1").crash_again(1, EnumerationLimits::QUICK).threads(2)
    }

    fn failure(chosen: Option<&str>) -> String {
        let failed = catch_unwind(AssertUnwindSafe(|| exploration().run_as(chosen, &recorded(false), recover)));
        failed.unwrap_err().downcast_ref::<String>().unwrap().clone()
    }

    #[test]
    fn a_failure_names_its_image_and_comes_again() {
        let first = failure(None);
        let line = first.split('\'').nth(1).unwrap();
        assert!(first.starts_with("neither old nor new") && line.starts_with("pages 1: cut="), "{first}");
        assert_eq!(failure(Some(line)), first);
        let healthy = exploration().run_as(Some(line), &recorded(false), |_| io::Result::Ok(()));
        assert_eq!((healthy.images, healthy.chosen), (1, 1));
        let elsewhere = exploration().run_as(Some("pages 12: cut=0"), &recorded(false), recover);
        assert_eq!(elsewhere, Explored::default(), "another label");
    }

    #[test]
    fn recoveries_are_crashed_and_what_was_seen_stays() {
        let explored = exploration().run_as(None, &recorded(true), recover);
        assert!(explored.images > 20 && explored.chosen == explored.images, "{explored}");
        assert!(explored.images_again > explored.images && explored.cuts_whole == explored.cuts, "{explored}");
        // A recovery that shows what it has not made durable.
        let hasty = |crash: &Crash<'_>| {
            crash.disk().write_vectored_at(0, &[IoSlice::new(&[8; 4096])])?;
            io::Result::Ok(crash.disk().contents()[0])
        };
        let lost = |crash: &Crash<'_>| if crash.depth() == 0 { hasty(crash) } else { Ok(crash.disk().contents()[0]) };
        let explore = || exploration().threads(1).run_as(None, &recorded(false), lost);
        let failed = catch_unwind(AssertUnwindSafe(explore)).unwrap_err();
        let words = failed.downcast_ref::<String>().unwrap();
        assert!(words.starts_with("8 was seen, and 0 after") && words.contains(" > cut="), "{words}");
    }
}
