//! Spinney under conditions that only a real process meets: killed, denied, cut short, out of space, for hours.
//!
//! ```text
//!   syscalls   strace and a tracer of our own at every call of `work`, then the verdict
//!   disks      file systems that fill up, are read-only, belong to somebody else
//!   soak       kills and faults for as long as you like, while everything stays flat
//! ```
//! What writers do follows from a seed ([`plan`]), so the model knows what must be there ([`model`]).
#![forbid(unsafe_code)]
#![expect(clippy::cast_possible_truncation, reason = "numbers here are small")]

mod disks; // full, read-only, somebody else's
mod faults; // in-process phases of a long run: a disk that fails
mod model; // what must be there
mod plan; // what writers do
mod short; // calls that do less than asked for
mod soak; // hours of it
mod soak_child; // the process that is killed
mod syscalls; // each call goes wrong once
mod totals; // what was tried, what was skipped
mod verdict; // is the file what it must be
mod work; // a writer that tells what it did

use clap::{Parser, Subcommand};
use plan::Plan;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};
use tempfile::TempDir;
use work::{End, GAVE_UP, Home, Worker};

#[derive(Parser)]
#[command(name = "spinney-torture", disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Each system call of a writer goes wrong in turn
    Syscalls(syscalls::Arguments),
    /// A mixed workload for as long as you like, killed again and again
    Soak(soak::Arguments),
    /// The writers of `soak`
    #[command(hide = true)]
    SoakChild { path: PathBuf, seed: u64 },
    /// Disks that fill up, are read-only or belong to somebody else
    Disks(disks::Arguments),
    /// Somebody without rights
    #[command(hide = true)]
    OpenAsSomebody { path: PathBuf },
    /// The writer of `syscalls`
    #[command(hide = true)]
    Work {
        path: PathBuf,
        seed: u64,
        transactions: u64,
        /// Begins with the first line on standard input
        #[arg(long)]
        wait: bool,
    },
}

/// The folder that somebody chose, or one that goes with what stands beside it.
fn home(chosen: Option<&Path>) -> anyhow::Result<(PathBuf, Option<TempDir>)> {
    if let Some(folder) = chosen {
        return Ok((folder.to_owned(), None));
    }
    let temporary = tempfile::tempdir()?;
    Ok((temporary.path().to_owned(), Some(temporary)))
}

fn run(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Syscalls(arguments) => syscalls::run(arguments).map(|()| ExitCode::SUCCESS),
        Command::Disks(arguments) => disks::run(arguments).map(|()| ExitCode::SUCCESS),
        Command::OpenAsSomebody { path } => disks::open_as_somebody(path).map(ExitCode::from),
        Command::Soak(arguments) => soak::run(arguments).map(|()| ExitCode::SUCCESS),
        Command::SoakChild { path, seed } => soak_child::run(path, *seed).map(|()| ExitCode::SUCCESS),
        Command::Work { path, seed, transactions, wait } => {
            if *wait {
                std::io::stdin().read_line(&mut String::new())?;
            }
            Ok(match Worker::new(Plan::short(*seed), Home::Path(path.clone())).run(*transactions)? {
                End::Done => ExitCode::SUCCESS,
                End::GaveUp => ExitCode::from(GAVE_UP),
            })
        }
    }
}

fn main() -> ExitCode {
    run(&Arguments::parse().command).unwrap_or_else(|error| {
        eprintln!("spinney-torture: {error:#}");
        ExitCode::FAILURE
    })
}
