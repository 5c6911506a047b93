//! What every such program is told, where it writes, and where its results go.

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use rustix::fs::syncfs;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// What every such program is told.
#[derive(clap::Args)]
pub struct Arguments {
    /// How many times everything is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// Where the files are written, on the disk to be measured [default: below the folder of the results]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Where the results are written
    #[arg(long, default_value = "target")]
    out: PathBuf,
}

impl Arguments {
    /// A folder for the files to be measured, gone when dropped.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn folder(&self, name: &str) -> anyhow::Result<TempDir> {
        let home = self.dir.clone().unwrap_or_else(|| self.out.join(name));
        fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
        tempfile::tempdir_in(&home).with_context(|| format!("cannot write in {}", home.display()))
    }

    /// Writes tables to a file among the results and to standard output.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn show(&self, name: &str, text: &str) -> anyhow::Result<()> {
        println!("{text}");
        self.keep("table", name, text)
    }

    /// Writes a file among the results, and says which `what` it is.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep(&self, what: &str, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.out.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("{what}: {}", path.display());
        Ok(())
    }
}

/// Lets the file system finish what was written before, such as the blocks of removed files.
///
/// # Errors
/// The folder cannot be opened, or a sync failed.
pub fn settle(folder: &Path) -> anyhow::Result<()> {
    Ok(syncfs(File::open(folder)?)?)
}

/// A bar for so many steps; silent where nobody looks.
pub(crate) fn progress(steps: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}");
    ProgressBar::new(steps).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
