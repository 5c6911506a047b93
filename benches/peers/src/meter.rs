//! What a process costs, as the system sees it and not as the engine tells.

use anyhow::Context;
use rustix::time::{ClockId, clock_gettime};
use std::{
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

/// Paths that are looked for, in vain, where the timed part begins and ends: a trace of system calls shows them.
pub(crate) const MARKS: [&str; 2] = ["/spinney-peers/begin", "/spinney-peers/end"];

/// How often memory is looked at.
const MEMORY_EVERY: Duration = Duration::from_millis(20);

/// Watches this process.
pub(crate) struct Meter {
    /// Memory without mapped files: how much there was before the engine, and how much there was at most.
    anonymous_before: AtomicU64,
    anonymous_peak: Arc<AtomicU64>,
    started: Mutex<Option<Point>>,
    /// Dropped, it ends the thread that looks at memory.
    _looking: mpsc::Sender<()>,
}

/// What was counted up to a moment.
#[derive(Clone, Copy, Debug)]
struct Point {
    cpu: Duration,
    io: Io,
}

/// `/proc/self/io`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Io {
    /// On their way to the disk, in whole pages: what `write_bytes` counts.
    pub(crate) written_bytes: u64,
    /// Handed to write calls.
    pub(crate) handed_bytes: u64,
    /// Write calls.
    pub(crate) write_calls: u64,
    /// Fetched by read calls; what is read through a mapping is not seen.
    pub(crate) read_bytes: u64,
}

/// What a timed part took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    pub(crate) elapsed: Duration,
    pub(crate) cpu: Duration,
    pub(crate) io: Io,
}

impl Meter {
    pub(crate) fn start() -> Self {
        let anonymous_peak = Arc::new(AtomicU64::new(0));
        let (looking, ended) = mpsc::channel::<()>();
        let peak = Arc::clone(&anonymous_peak);
        thread::spawn(move || {
            while ended.recv_timeout(MEMORY_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
                // Relaxed: nothing else is told by it.
                peak.fetch_max(anonymous_bytes().unwrap_or(0), Ordering::Relaxed);
            }
        });
        Self { anonymous_before: AtomicU64::new(0), anonymous_peak, started: Mutex::default(), _looking: looking }
    }

    /// What is in memory now is none of the engine's.
    pub(crate) fn before_engine(&self) -> anyhow::Result<()> {
        let bytes = anonymous_bytes()?;
        self.anonymous_before.store(bytes, Ordering::Relaxed);
        self.anonymous_peak.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Times `work`.
    pub(crate) fn timed<T>(&self, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(Span, T)> {
        let before = Point::now()?;
        *self.started.lock().expect("nobody panicked") = Some(before);
        mark(MARKS[0]);
        let begun = Instant::now();
        let result = work()?;
        let elapsed = begun.elapsed();
        mark(MARKS[1]);
        let after = Point::now()?;
        Ok((Span { elapsed, cpu: after.cpu - before.cpu, io: after.io.since(before.io) }, result))
    }

    /// What was written since the timed part began, up to now.
    pub(crate) fn io_since_timed(&self) -> anyhow::Result<Io> {
        let started = self.started.lock().expect("nobody panicked").context("nothing was timed")?;
        Ok(Point::now()?.io.since(started.io))
    }

    /// The most memory of the engine at one time, without mapped files.
    pub(crate) fn anonymous_peak_bytes(&self) -> anyhow::Result<u64> {
        let now = anonymous_bytes()?;
        let peak = self.anonymous_peak.fetch_max(now, Ordering::Relaxed).max(now);
        Ok(peak.saturating_sub(self.anonymous_before.load(Ordering::Relaxed)))
    }
}

impl Point {
    fn now() -> anyhow::Result<Self> {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = Duration::new(u64::try_from(time.tv_sec)?, u32::try_from(time.tv_nsec)?);
        Ok(Self { cpu, io: Io::now()? })
    }
}

impl Io {
    pub(crate) fn now() -> anyhow::Result<Self> {
        let text = fs::read_to_string("/proc/self/io")?;
        Ok(Self {
            written_bytes: field(&text, "write_bytes:")?,
            handed_bytes: field(&text, "wchar:")?,
            write_calls: field(&text, "syscw:")?,
            read_bytes: field(&text, "rchar:")?,
        })
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            written_bytes: self.written_bytes - before.written_bytes,
            handed_bytes: self.handed_bytes - before.handed_bytes,
            write_calls: self.write_calls - before.write_calls,
            read_bytes: self.read_bytes - before.read_bytes,
        }
    }
}

/// The most memory of this process at one time, mapped files included.
pub(crate) fn resident_peak_bytes() -> anyhow::Result<u64> {
    Ok(field(&fs::read_to_string("/proc/self/status")?, "VmHWM:")? << 10)
}

/// The lengths of all files in a folder.
pub(crate) fn size_of(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        bytes += if path.is_dir() { size_of(&path)? } else { fs::metadata(&path)?.len() };
    }
    Ok(bytes)
}

fn anonymous_bytes() -> anyhow::Result<u64> {
    Ok(field(&fs::read_to_string("/proc/self/status")?, "RssAnon:")? << 10)
}

/// The number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> anyhow::Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse().ok());
    number.with_context(|| format!("/proc does not tell `{name}`"))
}

fn mark(path: &str) {
    // It is not there: that it was looked for is all.
    drop(fs::File::open(path));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_counted_by_the_system() {
        let meter = Meter::start();
        let file = tempfile::tempfile().unwrap();
        let (span, ()) = meter.timed(|| Ok(std::os::unix::fs::FileExt::write_all_at(&file, &[1; 10_000], 0)?)).unwrap();
        assert!(span.io.handed_bytes >= 10_000 && span.io.write_calls >= 1, "{span:?}");
    }

    #[test]
    fn a_field_is_the_number_behind_its_name() {
        assert_eq!(field("wchar: 12\nVmHWM:\t  345 kB\n", "VmHWM:").unwrap(), 345);
        assert!(field("wchar: 12", "rchar:").is_err());
    }
}
