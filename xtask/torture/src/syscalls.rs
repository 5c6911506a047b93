//! Every system call that a writer makes on its file, one at a time: killed in front of it, failed once, failed from then on, or
//! cut short. Afterwards the file is judged.
//!
//! `strace` kills and fails (`-e inject`); calls are numbered per name, and a writer makes all of its calls in one thread. What it
//! calls a short write writes nothing and says that it did, which is a disk that lies; so calls are cut short by a tracer of our own
//! ([`crate::short`]), which has the kernel do less than it was asked for.

use crate::{
    home,
    plan::Plan,
    short,
    totals::Totals,
    verdict::{Told, judge},
    work::GAVE_UP,
};
use anyhow::{Context, bail, ensure};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

/// What to sweep.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many workloads, each another seed
    #[arg(long, default_value_t = 1)]
    workloads: u64,
    /// The first one's seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Transactions per workload
    #[arg(long, default_value_t = 14)]
    transactions: u64,
    /// Only this call, `pwritev2` for instance
    #[arg(long)]
    call: Option<String>,
    /// Only this number of it, from 1
    #[arg(long)]
    index: Option<u64>,
    /// Only this kind
    #[arg(long)]
    kind: Option<String>,
    /// Keep the files here instead of in a folder that goes away
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Everything that reaches the file, its name or its folder.
const CALLS: &str = "openat,statx,newfstatat,fstat,flock,fadvise64,pread64,preadv,preadv2,pwrite64,pwritev,pwritev2,\
                     fdatasync,fsync,sync_file_range,fallocate,ftruncate";

/// How a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Kill,
    IoOnce,
    IoFromThen,
    FullOnce,
    FullFromThen,
    Interrupted,
    Short,
}

const KINDS: [(Kind, &str, &str); 7] = [
    (Kind::Kill, "kill", "signal=KILL:when=#"),
    (Kind::IoOnce, "io-once", "error=EIO:when=#"),
    (Kind::IoFromThen, "io-from-then", "error=EIO:when=#+"),
    (Kind::FullOnce, "full-once", "error=ENOSPC:when=#"),
    (Kind::FullFromThen, "full-from-then", "error=ENOSPC:when=#+"),
    (Kind::Interrupted, "interrupted", "error=EINTR:when=#"),
    (Kind::Short, "short", ""),
];

impl Kind {
    fn name(self) -> &'static str {
        KINDS.iter().find(|(kind, ..)| *kind == self).map_or("", |(_, name, _)| name)
    }

    /// Whether a call can go wrong so.
    fn fits(self, call: &str) -> bool {
        let changes = matches!(call, "pwrite64" | "pwritev" | "pwritev2" | "fallocate" | "ftruncate");
        let syncs = matches!(call, "fdatasync" | "fsync");
        match self {
            Self::Kill | Self::IoOnce => true,
            Self::IoFromThen => changes || syncs || call.starts_with("pread"),
            Self::FullOnce | Self::FullFromThen => changes || syncs,
            Self::Interrupted => changes || syncs || call.starts_with("pread") || call == "openat" || call == "flock",
            Self::Short => false, // has its own numbering, see `short`
        }
    }
}

struct Sweep<'a> {
    arguments: &'a Arguments,
    home: PathBuf,
    totals: Totals,
}

#[derive(Clone, Debug)]
struct Case {
    seed: u64,
    call: String,
    index: u64,
    kind: Kind,
}

/// Runs the sweep.
///
/// # Errors
/// When a file did not pass.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let (home, _temporary) = home(arguments.dir.as_deref())?;
    let sweep = Sweep { arguments, home, totals: Totals::default() };
    let strace = strace_works();
    for seed in arguments.seed..arguments.seed + arguments.workloads {
        match &strace {
            Ok(()) => sweep.with_strace(seed)?,
            Err(why) => sweep.totals.skip("kill and errors at every call", format!("{why:#}")),
        }
        match short::supported() {
            Ok(()) => sweep.with_tracer(seed)?,
            Err(why) => sweep.totals.skip("short calls", format!("{why:#}")),
        }
    }
    sweep.totals.close()
}

/// Whether strace is there and may trace.
fn strace_works() -> anyhow::Result<()> {
    let output = Command::new("strace").args(["-qq", "-e", "trace=none", "true"]).output();
    let output = output.context("there is no strace")?;
    ensure!(output.status.success(), "strace may not trace: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// The command line of a writer.
pub(crate) fn writer(seed: u64, transactions: u64, path: &Path) -> anyhow::Result<Vec<OsString>> {
    let program = std::env::current_exe()?.into_os_string();
    let words = [program, "work".into(), path.into(), seed.to_string().into(), transactions.to_string().into()];
    Ok(words.into())
}

impl Sweep<'_> {
    fn with_strace(&self, seed: u64) -> anyhow::Result<()> {
        let counts = self.calls_of(seed)?;
        let shown: Vec<String> = counts.iter().map(|(call, count)| format!("{count} {call}")).collect();
        println!("workload {seed}: {} calls: {}", counts.values().sum::<u64>(), shown.join(", "));
        let mut cases = Vec::new();
        for (call, &count) in &counts {
            for (kind, ..) in KINDS.iter().filter(|(kind, ..)| kind.fits(call)) {
                cases.extend((1..=count).map(|index| Case { seed, call: call.clone(), index, kind: *kind }));
            }
        }
        self.all(cases, |case, path| self.strace(case, path))
    }

    fn with_tracer(&self, seed: u64) -> anyhow::Result<()> {
        let path = self.fresh(&format!("dry-short-{seed}"))?;
        let cuttable = short::run(&writer(seed, self.arguments.transactions, &path)?, &path, None)?.cuttable;
        println!("workload {seed}: {cuttable} calls that can be cut short");
        let case = |index| Case { seed, call: "any".to_owned(), index, kind: Kind::Short };
        self.all((1..=cuttable).map(case).collect(), |case, path| {
            let ended = short::run(&writer(case.seed, self.arguments.transactions, path)?, path, Some(case.index))?;
            ensure!(ended.cut, "the call was not reached");
            ensure!(ended.exit_code == Some(0), "the writer ended with {:?}", ended.exit_code);
            let told = Told::parse(&ended.output)?;
            ensure!(told.done && told.errors == 0, "a call that did less than asked for is no error: {told:?}");
            Ok(told)
        })
    }

    /// Runs and judges the cases that were asked for, on all cores.
    fn all(&self, cases: Vec<Case>, run: impl Fn(&Case, &Path) -> anyhow::Result<Told> + Sync) -> anyhow::Result<()> {
        let asked = self.arguments;
        let wanted = |case: &Case| {
            asked.call.as_ref().is_none_or(|call| *call == case.call)
                && asked.index.is_none_or(|index| index == case.index)
                && asked.kind.as_ref().is_none_or(|kind| kind == case.kind.name())
        };
        let cases: Vec<Case> = cases.into_iter().filter(wanted).collect();
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (cases, next, failed, run) = (&cases, &next, &failed, &run);
                scope.spawn(move || {
                    while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let path = match self.fresh(&format!("case-{thread}")) {
                            Ok(path) => path,
                            Err(error) => {
                                *failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
                                return;
                            }
                        };
                        self.one(case, &path, run);
                    }
                });
            }
        });
        failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn one(&self, case: &Case, path: &Path, run: impl Fn(&Case, &Path) -> anyhow::Result<Told>) {
        let plan = Plan::short(case.seed);
        let judged = run(case, path).and_then(|told| {
            judge(plan, path, &told, self.arguments.transactions)?;
            Ok(told)
        });
        let kind = case.kind.name();
        match judged {
            Ok(told) if told.done => self.totals.count(format!("{kind}: the writer got through")),
            Ok(_) if case.kind == Kind::Kill => self.totals.count(format!("{kind}: the writer was killed")),
            Ok(_) => self.totals.count(format!("{kind}: the writer gave up")),
            Err(error) => self.totals.fail(format!(
                "cargo xtask syscalls --seed {} --transactions {} --kind {kind} --call {} --index {}: {error:#}",
                case.seed, self.arguments.transactions, case.call, case.index
            )),
        }
    }

    /// A path in a new folder.
    fn fresh(&self, name: &str) -> anyhow::Result<PathBuf> {
        let folder = self.home.join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        Ok(folder.join("file.spinney"))
    }

    /// How often the workload makes each call, undisturbed.
    fn calls_of(&self, seed: u64) -> anyhow::Result<BTreeMap<String, u64>> {
        let path = self.fresh(&format!("dry-{seed}"))?;
        let (ended, log) = self.traced(seed, &path, CALLS, None)?;
        ensure!(ended.status.success(), "the undisturbed writer failed: {}", String::from_utf8_lossy(&ended.stderr));
        let told = Told::parse(&String::from_utf8(ended.stdout)?)?;
        ensure!(told.done && told.errors == 0, "undisturbed: {told:?}");
        judge(Plan::short(seed), &path, &told, self.arguments.transactions).context("undisturbed")?;
        let mut counts = BTreeMap::new();
        for line in log.lines().filter(|line| !line.contains(" resumed>")) {
            let call = line.split_whitespace().nth(1).and_then(|rest| rest.split_once('(')).map(|(call, _)| call);
            let call = call.with_context(|| format!("strace wrote `{line}`"))?;
            *counts.entry(call.to_owned()).or_default() += 1;
        }
        ensure!(!counts.is_empty(), "strace saw nothing");
        Ok(counts)
    }

    fn traced(
        &self,
        seed: u64,
        path: &Path,
        calls: &str,
        inject: Option<&str>,
    ) -> anyhow::Result<(std::process::Output, String)> {
        let folder = path.parent().context("in a folder")?;
        let log = folder.join("strace.log");
        let mut command = Command::new("strace");
        // Faster; but a signal that is to come with a call does not come where the filter stops it.
        if !inject.is_some_and(|inject| inject.starts_with("signal")) {
            command.arg("--seccomp-bpf");
        }
        command.args(["-f", "-qq", "-e", "signal=none", "-s", "0", "-e", &format!("trace={calls}")]);
        if let Some(inject) = inject {
            command.args(["-e", &format!("inject={calls}:{inject}")]);
        }
        command.arg("-o").arg(&log).arg("-P").arg(path).arg("-P").arg(folder);
        command.args(writer(seed, self.arguments.transactions, path)?);
        let ended = command.stdin(Stdio::null()).output().context("running strace")?;
        Ok((ended, fs::read_to_string(&log).unwrap_or_default()))
    }

    fn strace(&self, case: &Case, path: &Path) -> anyhow::Result<Told> {
        let pattern = KINDS.iter().find(|(kind, ..)| *kind == case.kind).map_or("", |(.., pattern)| pattern);
        let inject = pattern.replace('#', &case.index.to_string());
        let (ended, log) = self.traced(case.seed, path, &case.call, Some(&inject))?;
        let told = Told::parse(&String::from_utf8(ended.stdout).context("the writer's words")?)?;
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        if case.kind == Kind::Kill {
            ensure!(ended.status.code().is_none_or(|code| code == 128 + 9), "not killed, but {}", ended.status);
            ensure!(!told.done, "done in spite of the kill");
            return Ok(told);
        }
        ensure!(log.contains("(INJECTED)"), "the call was not reached: the workload does not repeat");
        match ended.status.code() {
            Some(0) => ensure!(told.done, "ended without being done"),
            Some(code) if code == i32::from(GAVE_UP) && matches!(case.kind, Kind::IoFromThen | Kind::FullFromThen) => {}
            _ => bail!("the writer ended with {}: {}", ended.status, said.trim()),
        }
        Ok(told)
    }
}
