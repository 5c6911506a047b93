//! Benchmarks that are programs: cases measured in turns, several times over, and shown as tables and a picture.
//!
//! ```text
//!   Arguments --runs--> Outcomes::measure --each case--> race, Counts --> table, Aims, plot --> target/
//! ```
//! Such a program compares: what a machine does in one minute says nothing about the next. Hence cases take turns within each
//! run, ratios are taken within a run, and a number is the median of the runs.

mod awake; // processors that never idle
mod counts; // what a file did between two moments
mod memory; // memory that the machine has
mod numbers; // the middle of several
mod outcomes; // every case in every run
mod plot; // a picture
mod pool; // bytes that no disk can make smaller
mod program; // arguments, folders, results
mod race; // threads that start at one moment
mod table; // Markdown

pub use crate::{
    awake::{Awake, processors},
    counts::Counts,
    memory::touch_memory,
    numbers::{median, quantile, ratio},
    outcomes::Outcomes,
    plot::{Series, svg},
    pool::Pool,
    program::{Arguments, settle},
    race::race,
    table::{Aims, table, thousands},
};
