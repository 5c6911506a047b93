//! Runs children: engines take turns within each case, runs take turns as a whole.

use crate::{
    case::{Case, Stage, Workload},
    engine::Engine,
    measured::{Line, Measured, Outcome},
    results::Results,
    trace,
};
use anyhow::{Context, bail};
use spinney_bench_harness::thousands;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What is measured how often.
pub(crate) struct Plan {
    pub(crate) engines: Vec<Engine>,
    /// All when empty.
    pub(crate) workloads: Vec<Workload>,
    pub(crate) runs: u32,
    pub(crate) scale: f64,
    pub(crate) session: u64,
    /// On the disk to be measured.
    pub(crate) folder: PathBuf,
    pub(crate) counts_syncs: bool,
}

impl Plan {
    /// Measures everything and keeps it.
    pub(crate) fn run(&self, results: &mut Results) -> anyhow::Result<()> {
        for run in 1..=self.runs {
            for group in Case::groups() {
                self.run_group(run, &group, results)?;
            }
        }
        if self.counts_syncs && !trace::is_there() {
            eprintln!("syncs are not counted: there is no `strace`");
        } else if self.counts_syncs {
            for stage in Case::groups().iter().filter_map(|group| group.first()) {
                if self.wants(stage.case) && stage.case.is_synced() {
                    self.count_syncs(stage.case, results)?;
                }
            }
        }
        Ok(())
    }

    fn wants(&self, case: Case) -> bool {
        self.workloads.is_empty() || self.workloads.contains(&case.workload)
    }

    /// Every engine does a case before any does the next one; each keeps its files until the group is over.
    fn run_group(&self, run: u32, group: &[Stage], results: &mut Results) -> anyhow::Result<()> {
        let Some(last) = group.iter().rposition(|stage| !stage.is_hidden && self.wants(stage.case)) else {
            return Ok(());
        };
        let mut engines = self.engines.clone();
        engines.rotate_left((run as usize - 1) % self.engines.len().max(1));
        let mut failed = Vec::new();
        for (index, stage) in group[..=last].iter().enumerate() {
            let is_shown = !stage.is_hidden && self.wants(stage.case);
            // The first of a group makes what the others need, and hidden ones are there because they are needed.
            if !is_shown && index > 0 && !stage.is_hidden {
                continue;
            }
            for &engine in engines.iter().filter(|&&engine| stage.case.suits(engine)) {
                if failed.contains(&engine) {
                    continue;
                }
                let folder = self.folder.join(engine.argument());
                fs::create_dir_all(&folder)?;
                let outcome = self.child(engine, stage.case, &folder);
                if outcome.is_err() && index < last {
                    failed.push(engine); // what follows would find no data
                }
                self.note(run, engine, stage.case, is_shown, outcome, results)?;
            }
        }
        for engine in engines {
            remove(&self.folder.join(engine.argument()))?;
        }
        Ok(())
    }

    /// Shows and keeps what a child gave.
    fn note(
        &self,
        run: u32,
        engine: Engine,
        case: Case,
        is_shown: bool,
        outcome: anyhow::Result<Option<Measured>>,
        results: &mut Results,
    ) -> anyhow::Result<()> {
        let name = format!("run {run}: {case}: {}", engine.name());
        let outcome = match outcome {
            Ok(Some(measured)) if is_shown => {
                let seconds = measured.seconds;
                eprintln!("{name}: {} per second, {seconds:.2} s", thousands(measured.per_second()));
                Outcome::Measured(measured)
            }
            Ok(_) => return Ok(()),
            Err(error) => {
                eprintln!("{name}: failed: {error:#}");
                Outcome::Failed(format!("{error:#}"))
            }
        };
        results.add(self.line(run, engine, case, outcome))
    }

    fn line(&self, run: u32, engine: Engine, case: Case, outcome: Outcome) -> Line {
        Line { session: self.session, run, engine, case: case.to_string(), scale: self.scale, outcome }
    }

    /// `None` where the case only prepares files, or ends by being killed.
    fn child(&self, engine: Engine, case: Case, folder: &Path) -> anyhow::Result<Option<Measured>> {
        let mut command = Command::new(env::current_exe()?);
        let output = self.arguments(&mut command, engine, case, folder).output()?;
        if is_killed_on_purpose(case) && is_killed(&output.status) {
            return Ok(None);
        }
        if !output.status.success() {
            let told = String::from_utf8_lossy(&output.stderr);
            bail!("{}: {}", output.status, told.trim().lines().last().unwrap_or_default());
        }
        serde_json::from_slice(&output.stdout).context("no line of JSON")
    }

    fn arguments<'c>(&self, command: &'c mut Command, engine: Engine, case: Case, folder: &Path) -> &'c mut Command {
        command.args(["child", "--engine", engine.argument(), "--case", &case.to_string()]);
        command.arg("--folder").arg(folder).args(["--scale", &self.scale.to_string()]);
        command.stdin(Stdio::null())
    }

    /// The first case of a group once more, below a tracer.
    fn count_syncs(&self, case: Case, results: &mut Results) -> anyhow::Result<()> {
        for &engine in self.engines.iter().filter(|&&engine| case.suits(engine)) {
            let folder = self.folder.join(engine.argument());
            let log = self.folder.join("trace.log");
            fs::create_dir_all(&folder)?;
            let mut command = Command::new("strace");
            command.args(["-f", "-qq", "--seccomp-bpf", "-s", "0", "-e", "signal=none"]);
            command.arg("-e").arg(format!("trace={}", trace::CALLS)).arg("-o").arg(&log).arg(env::current_exe()?);
            let output = self.arguments(&mut command, engine, case, &folder).output()?;
            let measured: Option<Measured> = serde_json::from_slice(&output.stdout).unwrap_or(None);
            let syncs = trace::syncs(&fs::read_to_string(&log).unwrap_or_default());
            remove(&folder)?;
            if let (Some(measured), Some(syncs)) = (measured, syncs) {
                let commits = measured.commits;
                eprintln!("{case}: {}: {syncs} syncs of {commits} commits", engine.name());
                results.add(self.line(0, engine, case, Outcome::Syncs { syncs, commits }))?;
            } else {
                eprintln!("{case}: {}: syncs were not counted: the trace gives no number", engine.name());
            }
        }
        Ok(())
    }
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    Ok(())
}

fn is_killed_on_purpose(case: Case) -> bool {
    (case.workload, case.variant) == (Workload::Open, "kill")
}

fn is_killed(status: &std::process::ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    status.signal() == Some(9)
}
