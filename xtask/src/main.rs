//! The workspace's own commands: `cargo xtask help` lists them.
//!
//! ```text
//!   check = layers + tidy + fmt + clippy + docs        test = cargo test + import + package
//! ```
//! Every command exits with an error when what it looks at does not hold, and says where.

mod bench; // how fast is it
mod bitrot; // is bad media noticed
mod check; // is the code in order
mod coverage; // what no test runs
mod crash; // is nothing acknowledged ever lost
mod dump; // what is in a file
mod fuzz; // does anything bring it down
mod layers; // do the crates point one way
mod package; // does what is published work for a stranger
mod read; // every record, without the engine
mod step; // one child process: announced, run, timed
mod test; // does everything the README promises hold
mod tidy; // rules of the house that no compiler knows
mod torture; // what only real processes meet
mod workspace; // where things are

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The workspace's own commands", disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Format, lints and documentation, warnings as errors; and `layers` and `tidy`
    Check,
    /// Everything the README promises: all tests, the import example, and the READMEs against the packaged crates
    Test,
    /// Fails when a crate depends on anything but the layer directly below it
    Layers,
    /// Fails when a file lacks its header, a link its target, or `unsafe` is where it does not belong
    Tidy,
    /// Cuts the power at every storage call of random workloads, reopens, and compares with the model
    Crash(crash::Arguments),
    /// Lets each system call of a real process go wrong in turn (`strace`), and judges the file: `--workloads N --seed S`
    Syscalls(torture::Arguments),
    /// Disks that fill up, that are read-only, that belong to somebody else; mounts small ones where it may
    Disks(torture::Arguments),
    /// A mixed workload in a process that is killed again and again, for `--minutes M --seed S`; nothing may be lost, nothing may grow
    Soak(torture::Arguments),
    /// Runs all tests instrumented, and fails when they reach too few lines of the four crates: `--html`, `--report`
    Coverage(coverage::Arguments),
    /// Changes every byte of small databases in three ways, at three page sizes; `test` looks at 50 000 of them
    Bitrot,
    /// Fuzzes files, logs, histories and the allocator with libFuzzer, or replays an input without it
    Fuzz(fuzz::Arguments),
    /// Measures: `commits` is small ones, `families` writers of large ones, `peers` other engines; else a file in benches/benches
    Bench(bench::Arguments),
    /// Shows what a database file holds, or one of its pages, for people; writes nothing
    Dump(dump::Arguments),
    /// Lists every family, table and record of a closed database, decoded from the documented format alone; writes nothing
    Read(read::Arguments),
    /// Packages the four crates and runs the READMEs' programs against the packages
    Package,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Check => check::run(),
        Command::Test => test::run(),
        Command::Layers => layers::run(),
        Command::Tidy => tidy::run(),
        Command::Crash(arguments) => crash::run(&arguments),
        Command::Syscalls(arguments) => torture::run("syscalls", &arguments),
        Command::Disks(arguments) => torture::run("disks", &arguments),
        Command::Soak(arguments) => torture::run("soak", &arguments),
        Command::Coverage(arguments) => coverage::run(&arguments),
        Command::Bitrot => bitrot::run(),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Dump(arguments) => dump::run(&arguments),
        Command::Read(arguments) => read::run(&arguments),
        Command::Package => package::run(),
    };
    // The chain of causes only: where in xtask it was noticed helps nobody.
    result.map_or_else(
        |error| {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}
