//! Every line that was ever measured, in a file below `target/`: tables are made from it.

use crate::{
    case::Case,
    engine::Engine,
    measured::{Line, Measured, Outcome},
};
use anyhow::Context;
use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

/// The file.
pub(crate) struct Results {
    path: PathBuf,
    lines: Vec<Line>,
}

impl Results {
    /// Those that are there already.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let text = if path.exists() { fs::read_to_string(path)? } else { String::new() };
        let lines = text.lines().map(serde_json::from_str).collect::<Result<_, _>>();
        Ok(Self { path: path.to_owned(), lines: lines.with_context(|| format!("{}", path.display()))? })
    }

    /// At once, so that nothing is lost when the program is stopped.
    pub(crate) fn add(&mut self, line: Line) -> anyhow::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        writeln!(file, "{}", serde_json::to_string(&line)?)?;
        self.lines.push(line);
        Ok(())
    }

    /// The newest session in which an engine ran a case.
    fn session(&self, engine: Engine, case: Case) -> Option<u64> {
        self.of(engine, case).filter(|line| line.run > 0).map(|line| line.session).max()
    }

    fn of(&self, engine: Engine, case: Case) -> impl Iterator<Item = &Line> {
        let case = case.to_string();
        self.lines.iter().filter(move |line| line.engine == engine && line.case == case)
    }

    /// The measurements of the newest session, each with its run.
    pub(crate) fn measured(&self, engine: Engine, case: Case) -> Vec<(u64, u32, &Measured)> {
        let session = self.session(engine, case);
        let mut found = Vec::new();
        for line in self.of(engine, case).filter(|line| Some(line.session) == session) {
            if let Outcome::Measured(measured) = &line.outcome {
                found.push((line.session, line.run, measured));
            }
        }
        found
    }

    /// Why there is nothing of the newest session.
    pub(crate) fn failure(&self, engine: Engine, case: Case) -> Option<&str> {
        let session = self.session(engine, case);
        self.of(engine, case).filter(|line| Some(line.session) == session).find_map(|line| match &line.outcome {
            Outcome::Failed(why) => Some(why.as_str()),
            _ => None,
        })
    }

    /// Syncs per commit, of the newest session in which they were counted.
    pub(crate) fn syncs_per_commit(&self, engine: Engine, case: Case) -> Option<f64> {
        let counted = self.of(engine, case).filter_map(|line| match line.outcome {
            Outcome::Syncs { syncs, commits } if commits > 0 => Some((line.session, syncs as f64 / commits as f64)),
            _ => None,
        });
        counted.max_by_key(|(session, _)| *session).map(|(_, syncs)| syncs)
    }
}
