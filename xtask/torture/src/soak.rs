//! Hours of it: writers in a process that is killed at random moments, the file judged after each kill, disks that fail in between;
//! and at the end, nothing has grown.
//!
//! ```text
//!   round: child (0.05 s to 90 s) --SIGKILL--> open for reading, open for writing, model, check --> now and then a failing disk
//! ```

use crate::{
    faults, home,
    model::{Model, counter_of},
    plan::{Plan, Random},
    soak_child::{self, BUDGET, HELD_PER_WRITER, LOG, WRITERS},
};
use anyhow::{Context, bail, ensure};
use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

/// How long, and what.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long it takes, in minutes
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// What the writers do and when they are killed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the file is kept, instead of in a folder that goes away
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// One second of a child.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    /// Since the beginning of the whole run.
    at: f64,
    /// Since the child began, in seconds.
    age: u64,
    file: u64,
    live: u64,
    pinned: u64,
    rss_kib: u64,
    hwm_kib: u64,
    image_run: f64,
    checkpoint_run: f64,
    sync_p50: u64,
    sync_p99: u64,
    wait_p99: u64,
}

/// What one writer told since the file was opened last.
#[derive(Debug, Default)]
struct Acked {
    /// Transactions it had then.
    base: u64,
    /// Places in the order of the ones after that.
    seqs: Vec<u64>,
}

#[derive(Debug, Default)]
struct Round {
    acked: Vec<Acked>,
    /// The newest place in the order that was acknowledged as `Immediate` or `Buffered`.
    durable: u64,
    samples: Vec<Sample>,
}

/// Memory beside the budget: the program, threads, values that callers hold, the allocator's slack.
const MEMORY_BESIDE: u64 = 96 << 20;

/// File beside data: arenas, maps, steps of growth.
const FILE_BESIDE: u64 = 48 << 20;

struct Soak {
    path: PathBuf,
    seed: u64,
    random: Random,
    models: Vec<Model>,
    begun: Instant,
    samples: Vec<Sample>,
    live_model_peak: u64,
    commits: u64,
    kills: u64,
    disks: u64,
    faults: u64,
    said: Instant,
}

/// Runs it.
///
/// # Errors
/// Anything lost, invented, unsound; or a file or a memory that grew.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let (home, _temporary) = home(arguments.dir.as_deref())?;
    let path = home.join("soak.spinney");
    ensure!(!path.exists(), "{} exists already", path.display());
    let plan = Plan::long(arguments.seed);
    let mut soak = Soak {
        path,
        seed: arguments.seed,
        random: Random::new(arguments.seed),
        models: (0..WRITERS).map(|writer| Model::new(plan, writer)).collect(),
        begun: Instant::now(),
        samples: Vec::new(),
        live_model_peak: 0,
        commits: 0,
        kills: 0,
        disks: 0,
        faults: 0,
        said: Instant::now(),
    };
    let end = Duration::from_secs_f64(60.0 * arguments.minutes);
    println!("soak: seed {}, {:.0} minutes, {}", soak.seed, arguments.minutes, soak.path.display());
    let done = (|| {
        while soak.begun.elapsed() < end {
            soak.round(end).with_context(|| format!("after {} kills", soak.kills))?;
        }
        soak.close()
    })();
    done.with_context(|| format!("cargo xtask soak --minutes {} --seed {}", arguments.minutes, arguments.seed))
}

impl Soak {
    fn round(&mut self, end: Duration) -> anyhow::Result<()> {
        let life = match self.random.below(10) {
            0..3 => Duration::from_millis(30 + self.random.below(400)),
            3..7 => Duration::from_millis(300 + self.random.below(4000)),
            7..9 => Duration::from_secs(5 + self.random.below(20)),
            _ => Duration::from_secs(60 + self.random.below(60)),
        };
        let left = end.saturating_sub(self.begun.elapsed()).max(Duration::from_millis(500));
        let round = self.live_and_die(life.min(left))?;
        self.kills += 1;
        self.judge(&round)?;
        if self.random.one_in(3) {
            for _ in 0..20 {
                let seed = self.random.next();
                let failed = faults::run(seed).with_context(|| format!("the failing disk of seed {seed}"))?;
                self.disks += 1;
                self.faults += failed;
            }
        }
        self.say(false);
        Ok(())
    }

    /// A child for so long, and what it told until it was killed.
    fn live_and_die(&mut self, life: Duration) -> anyhow::Result<Round> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("soak-child")
            .arg(&self.path)
            .arg(self.seed.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the child")?;
        let lines = BufReader::new(child.stdout.take().context("piped")?);
        let (stop, stopped) = mpsc::channel::<()>();
        // Killed on time whatever the child says, or as soon as it says nothing more.
        let killer = std::thread::spawn(move || {
            let _ = stopped.recv_timeout(life);
            child.kill().and_then(|()| child.wait())
        });
        // What the last verdict saw is what the child begins with, whether it comes to say so or not.
        let bases = self.models.iter().map(|model| Acked { base: model.counter(), seqs: Vec::new() });
        let mut round = Round { acked: bases.collect(), ..Round::default() };
        let begun = self.begun;
        let read = read_all(lines, &mut round, begun);
        drop(stop);
        let _ = killer.join().map_err(|_| anyhow::anyhow!("the killer panicked"))?;
        read?;
        self.commits += round.acked.iter().map(|acked| acked.seqs.len() as u64).sum::<u64>();
        self.samples.extend(&round.samples);
        Ok(round)
    }

    /// What was acknowledged is there, in one order for all; nothing else is; everything is where it belongs.
    fn judge(&mut self, round: &Round) -> anyhow::Result<()> {
        if !self.path.exists() {
            let nothing = round.acked.iter().all(|acked| acked.seqs.is_empty()) && self.commits == 0;
            ensure!(nothing, "the file is gone");
            return Ok(());
        }
        let mut read_only = None;
        if self.random.one_in(4) {
            let db = soak_child::open(&self.path, true);
            // A file that was never finished is none yet, for somebody who may not write.
            if let Ok(db) = db {
                read_only = Some(self.counters(&db)?);
            } else if self.commits > 0 {
                db.context("opening for reading")?;
            }
        }
        let db = soak_child::open(&self.path, false).context("opening after the kill")?;
        let found = self.counters(&db)?;
        ensure!(read_only.is_none_or(|seen| seen == found), "reading only showed another state than {found:?}");
        let mut last = round.durable;
        for (acked, &found) in round.acked.iter().zip(&found) {
            let newest = acked.base + acked.seqs.len() as u64;
            ensure!(found >= acked.base, "it went back to {found}, before {}", acked.base);
            ensure!(found <= newest + 1, "{found} is there, {newest} was the last acknowledged");
            if let Some(at) = found.checked_sub(acked.base + 1)
                && let Some(&seq) = acked.seqs.get(at as usize)
            {
                last = last.max(seq);
            }
        }
        for (writer, (acked, &found)) in round.acked.iter().zip(&found).enumerate() {
            if let Some(&seq) = acked.seqs.get((found - acked.base) as usize) {
                ensure!(seq > last, "writer {writer}: commit {seq} is lost, and {last} is there or was durable");
            }
        }
        let snapshot = db.snapshot();
        let mut live = 0;
        for (model, &found) in self.models.iter_mut().zip(&found) {
            model.advance(found)?;
            model.compare(&db, &snapshot)?;
            live += model.live_bytes();
        }
        drop(snapshot);
        self.live_model_peak = self.live_model_peak.max(live);
        let report = db.check()?;
        ensure!(report.is_sound(), "{:?}", report.problems);
        if self.random.one_in(2) {
            db.close().context("closing")?;
        }
        Ok(())
    }

    fn counters(&self, db: &spinney::Database) -> anyhow::Result<Vec<u64>> {
        let snapshot = db.snapshot();
        (0..WRITERS).map(|writer| counter_of(db, &snapshot, writer)).collect()
    }

    /// A line every minute.
    fn say(&mut self, now: bool) {
        if !now && self.said.elapsed() < Duration::from_secs(60) {
            return;
        }
        self.said = Instant::now();
        let last = self.samples.iter().rev().find(|sample| sample.age >= 5).or(self.samples.last());
        let last = last.copied().unwrap_or_default();
        println!(
            "{:6.1} min: {} commits, {} kills, {} disks with {} faults; file {:.1} MiB (live {:.1}, pinned {:.1}), \
             RSS {:.1} MiB (peak {:.1}), pages per run {:.1} commits, {:.1} checkpoints; sync p50 {} us p99 {} us, wait p99 {} us",
            self.begun.elapsed().as_secs_f64() / 60.0,
            self.commits,
            self.kills,
            self.disks,
            self.faults,
            mib(last.file),
            mib(last.live),
            mib(last.pinned),
            mib(last.rss_kib << 10),
            mib(last.hwm_kib << 10),
            last.image_run,
            last.checkpoint_run,
            last.sync_p50,
            last.sync_p99,
            last.wait_p99,
        );
    }

    /// After the first tenth nothing grew any more.
    fn close(&mut self) -> anyhow::Result<()> {
        self.say(true);
        let total = self.begun.elapsed().as_secs_f64();
        let live = self.samples.iter().map(|sample| sample.live).max().unwrap_or(0).max(self.live_model_peak);
        // Each snapshot that is held can pin one version of everything; one more version is being written and one is there. Half as much
        // again, because free space is in pieces.
        let versions = 2 + 1 + u64::from(WRITERS) * HELD_PER_WRITER as u64;
        let file_max = (live * versions + LOG) * 3 / 2 + FILE_BESIDE;
        // The budget, and the queue of the log.
        let memory_max = BUDGET + (4 << 20) + MEMORY_BESIDE;
        let settled: Vec<&Sample> = self.samples.iter().filter(|sample| sample.at > total / 10.0).collect();
        ensure!(!settled.is_empty(), "not one sample: give it more minutes");
        for sample in &settled {
            ensure!(sample.file <= file_max, "the file has {} bytes, more than {file_max}: {sample:?}", sample.file);
            ensure!(sample.hwm_kib << 10 <= memory_max, "memory of more than {memory_max} bytes: {sample:?}");
        }
        let part = |from: f64, to: f64| settled.iter().filter(move |s| s.at > from * total && s.at <= to * total);
        let file = |from, to| median(part(from, to).map(|sample| sample.file).collect());
        // A young process has not touched its budget yet.
        let memory = |from, to| median(part(from, to).filter(|s| s.age >= 5).map(|s| s.rss_kib << 10).collect());
        let run = |from, to| median(part(from, to).map(|sample| (sample.image_run * 1000.0) as u64).collect());
        let (file_early, file_late) = (file(0.1, 0.4), file(0.7, 1.0));
        let (memory_early, memory_late) = (memory(0.1, 0.4), memory(0.7, 1.0));
        let (run_early, run_late) = (run(0.1, 0.4), run(0.7, 1.0));
        println!(
            "soak: {} commits, {} kills, {} failing disks with {} faults, nothing lost; live data {:.1} MiB",
            self.commits,
            self.kills,
            self.disks,
            self.faults,
            mib(live)
        );
        let (file_peak, hwm) = (settled.iter().map(|s| s.file).max(), settled.iter().map(|s| s.hwm_kib << 10).max());
        println!(
            "soak: file {:.1} -> {:.1} MiB (peak {:.1}, bound {:.1}), memory {:.1} -> {:.1} MiB (peak {:.1}, bound {:.1}), \
             pages per run {:.2} -> {:.2}: medians between 10 % and 40 % and of the last 30 %",
            mib(file_early),
            mib(file_late),
            mib(file_peak.unwrap_or(0)),
            mib(file_max),
            mib(memory_early),
            mib(memory_late),
            mib(hwm.unwrap_or(0)),
            mib(memory_max),
            run_early as f64 / 1000.0,
            run_late as f64 / 1000.0,
        );
        let flat = |early: u64, late: u64, slack: u64| early == 0 || late <= early + early / 3 + slack;
        ensure!(flat(file_early, file_late, 16 << 20), "the file grows");
        ensure!(flat(memory_early, memory_late, 16 << 20), "memory grows");
        ensure!(run_late * 3 >= run_early * 2, "runs become short");
        Ok(())
    }
}

fn read_all(lines: impl BufRead, round: &mut Round, begun: Instant) -> anyhow::Result<()> {
    let mut lines = lines;
    let mut line = String::new();
    loop {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        // A line that the kill cut off does not count.
        let Some(line) = line.strip_suffix('\n') else { return Ok(()) };
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        let real = |at: usize| words.get(at).and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
        match words[0] {
            "ack" => {
                let acked = round.acked.get_mut(number(1) as usize).with_context(|| line.to_owned())?;
                acked.seqs.push(number(3));
                ensure!(number(2) == acked.base + acked.seqs.len() as u64, "out of turn: {line}");
                if words.get(4) != Some(&"E") {
                    round.durable = round.durable.max(number(3));
                }
            }
            "at" => {
                let acked = round.acked.get_mut(number(1) as usize).with_context(|| line.to_owned())?;
                ensure!(acked.base == number(2), "{} was there at the last opening, and now: {line}", acked.base);
            }
            "stat" => round.samples.push(Sample {
                at: begun.elapsed().as_secs_f64(),
                age: number(1),
                file: number(3),
                live: number(4),
                pinned: number(5),
                rss_kib: number(6),
                hwm_kib: number(7),
                image_run: real(8),
                checkpoint_run: real(9),
                sync_p50: number(10),
                sync_p99: number(11),
                wait_p99: number(12),
            }),
            _ => bail!("the child said: {line}"),
        }
    }
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
