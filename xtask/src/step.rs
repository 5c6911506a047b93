//! One child process: announced with the command line to repeat it by, run, timed.

use crate::workspace;
use anyhow::{Context, bail};
use std::{env, ffi::OsStr, path::Path, process::Command, time::Instant};

/// A command that must succeed.
pub(crate) struct Step {
    command: Command,
    /// What a person would type to repeat it.
    shown: String,
}

impl Step {
    /// The cargo that runs this binary, at the root of the workspace.
    pub(crate) fn cargo(arguments: &[&str]) -> Self {
        let mut step = Self::program(&env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), arguments);
        step.shown = format!("cargo {}", arguments.join(" "));
        step
    }

    /// Any other program, at the root of the workspace.
    pub(crate) fn program(name: &OsStr, arguments: &[&str]) -> Self {
        let mut command = Command::new(name);
        command.current_dir(workspace::root()).args(arguments);
        Self { command, shown: format!("{} {}", name.to_string_lossy(), arguments.join(" ")) }
    }

    /// Runs it somewhere else than at the root of the workspace.
    pub(crate) fn current_dir(mut self, directory: &Path) -> Self {
        self.shown = format!("cd {} && {}", directory.display(), self.shown);
        self.command.current_dir(directory);
        self
    }

    /// Sets one variable of the child's environment.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.shown = format!("{name}={:?} {}", value.as_ref(), self.shown);
        self.command.env(name, value);
        self
    }

    /// Runs it with its output shown.
    ///
    /// # Errors
    /// When it cannot be started or does not succeed.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        let line = &self.shown;
        eprintln!("xtask: {line}");
        let begun = Instant::now();
        let status = self.command.status().with_context(|| format!("cannot start {line}"))?;
        if !status.success() {
            bail!("{line}\n  ended with {status}");
        }
        eprintln!("xtask: done in {:.1} s", begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// Runs it and returns what it wrote to standard output.
    ///
    /// # Errors
    /// When it cannot be started, does not succeed, or writes anything but UTF-8.
    pub(crate) fn output(mut self) -> anyhow::Result<String> {
        let line = &self.shown;
        let output = self.command.output().with_context(|| format!("cannot start {line}"))?;
        if !output.status.success() {
            bail!("{line}\n  ended with {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        String::from_utf8(output.stdout).with_context(|| format!("{line}: not UTF-8"))
    }
}
