//! A directory tree into one file: a family of files per extension, a family of words beside each, several writers
//! at once; then everything is verified against the directory, and asked a few questions.
//!
//! `cargo run --release --example import -- [DIR] [--db PATH] [--writers N]`
//!
//! ```text
//!   rs, md, toml ...      path -> content              a batch of files and its words
//!   words of rs, ...      word, path -> occurrences    are one transaction over both families
//! ```
//! So the index never knows a file that is not stored, nor misses one that is, whenever the process ends.
//! Writers of different extensions do not wait for each other.

mod load; // the writers
mod print; // tables and units
mod query; // what can be asked
mod tree; // the directory
mod verify; // is everything there
mod words; // what a word is

use crate::{
    load::Loaded,
    print::{Table, bytes, number},
    tree::Kind,
};
use indicatif::{ProgressBar, ProgressStyle};
use spinney::{Database, Options, Snapshot};
use std::{
    env,
    error::Error,
    fs,
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

/// Anything that went wrong, in words.
type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

const USAGE: &str = "usage: import [DIR] [--db PATH] [--writers N]";
/// Rows of the table of families; smaller ones are summed up.
const ROWS_MAX: usize = 12;

struct Arguments {
    dir: PathBuf,
    db: Option<PathBuf>,
    writers: usize,
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("import: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<Arguments> {
    let cores = thread::available_parallelism().map_or(2, usize::from);
    // Writers wait for the disk more than for a processor.
    let (mut dir, mut db, mut writers) = (None, None, (2 * cores).clamp(2, 16));
    let mut given = env::args_os().skip(1);
    while let Some(argument) = given.next() {
        match argument.to_str() {
            Some("--db") => db = Some(given.next().ok_or(USAGE)?.into()),
            Some("--writers") => {
                let count = given.next().and_then(|count| count.to_str()?.parse().ok());
                writers = count.filter(|count| (1..=64).contains(count)).ok_or("--writers takes 1 to 64")?;
            }
            Some(option) if option.starts_with('-') => return Err(USAGE.into()),
            _ if dir.is_none() => dir = Some(PathBuf::from(argument)),
            _ => return Err(USAGE.into()),
        }
    }
    // The default is the repository this example is part of, or else where it is run.
    let repository = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let dir = dir.unwrap_or_else(|| if repository.join("Cargo.toml").is_file() { repository } else { ".".into() });
    let dir = fs::canonicalize(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    Ok(Arguments { dir, db, writers })
}

fn run(arguments: &Arguments) -> Result<()> {
    let scratch = tempfile::tempdir()?; // removed at the end
    let path = arguments.db.clone().unwrap_or_else(|| scratch.path().join("import.spinney"));
    let db = Options::new().create(&path)?;
    println!("{} -> {}, {} writers\n", arguments.dir.display(), path.display(), arguments.writers);

    let kinds = tree::walk(&arguments.dir, &fs::canonicalize(&path)?);
    let file_count = kinds.iter().map(|kind| kind.files.len() as u64).sum();
    if file_count == 0 {
        return Err(format!("no files in {}", arguments.dir.display()).into());
    }
    let bar = progress(file_count);
    let begun = Instant::now();
    let loaded = load::load(&db, &arguments.dir, &kinds, arguments.writers, &bar)?;
    let took = begun.elapsed();
    bar.finish_and_clear();
    print_families(&kinds, &loaded);
    let mut steps = Table::new(&["", ">", "", "", "", ""]);
    steps.row(speed(&db, &loaded, took)?);
    db.close()?;

    let begun = Instant::now();
    let db = Options::new().create_missing(false).open(&path)?;
    let snapshot = db.snapshot();
    steps.row(["reopened".to_owned(), print::time(begun.elapsed())]);

    let begun = Instant::now();
    let verified = verify::verify(&db, &snapshot, &arguments.dir, &kinds, &loaded)?;
    let what = format!("{} files, every byte", number(verified.files));
    steps.row(["verified".to_owned(), print::time(begun.elapsed()), what, verified.changed()]);

    let begun = Instant::now();
    let report = db.check()?;
    if let Some(problem) = report.problems.first() {
        return Err(format!("{} problems, the first: {problem}", report.problems.len()).into());
    }
    let what = format!("{} pages, sound", number(report.pages()));
    steps.row(["checked".to_owned(), print::time(begun.elapsed()), what]);
    steps.print();

    print_space(&db, &kinds)?;
    print_answers(&db, &snapshot, &kinds)?;
    if arguments.db.is_none() {
        println!("The file is removed now; --db PATH keeps it.");
    }
    drop(snapshot);
    Ok(db.close()?)
}

/// A bar of files; silent where nobody looks.
fn progress(files: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} files, {per_sec}");
    ProgressBar::new(files).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// What was stored, the largest families first.
fn print_families(kinds: &[Kind], loaded: &Loaded) {
    let mut table = Table::new(&["family", ">files", ">size", ">words", ">occurrences"]);
    let mut order: Vec<usize> = (0..kinds.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(loaded.by_kind[at].bytes));
    let cells = |name: String, sum: &load::Counts| {
        [name, number(sum.files), bytes(sum.bytes), number(sum.word_entries), number(sum.occurrences)]
    };
    for &at in order.iter().take(ROWS_MAX) {
        table.row(cells(kinds[at].name.clone(), &loaded.by_kind[at]));
    }
    if let Some(rest) = order.get(ROWS_MAX..).filter(|rest| !rest.is_empty()) {
        let sum = rest.iter().map(|&at| loaded.by_kind[at]).sum();
        table.row(cells(format!("{} more", rest.len()), &sum));
    }
    table.row(cells("all".to_owned(), &loaded.total()));
    table.print();
    for skipped in &loaded.skipped {
        println!("skipped {skipped}");
    }
}

/// How fast it went, and what that took of the disk.
fn speed(db: &Database, loaded: &Loaded, took: Duration) -> Result<[String; 6]> {
    let (total, file) = (loaded.total(), db.stats()?.file);
    let seconds = took.as_secs_f64().max(1e-9);
    Ok([
        "imported".to_owned(),
        print::time(took),
        format!("{:.0} files/s", total.files as f64 / seconds),
        format!("{:.1} MiB/s", total.bytes as f64 / f64::from(1 << 20) / seconds),
        format!("{} commits, {} syncs", loaded.commits, file.io.syncs + file.io.synced_writes),
        format!("{:.1} pages per write", file.images.pages as f64 / file.images.calls.max(1) as f64),
    ])
}

/// How large the file is, and why.
fn print_space(db: &Database, kinds: &[Kind]) -> Result<()> {
    let stats = db.stats()?;
    let (space, page_bytes) = (&stats.space, stats.file.page_bytes);
    let mut table = Table::new(&["the file", ">size", ""]);
    let mut row = |what: &str, size: u64, why: &str| {
        if size > 0 {
            table.row([what.to_owned(), bytes(size), why.to_owned()]);
        }
    };
    let mut rest = space.live_bytes;
    for (what, name_of) in [("files", Kind::files_family as fn(&Kind) -> String), ("words", Kind::words_family)] {
        let (mut node_pages, mut held_pages, mut extent_pages) = (0, 0.0, 0);
        for kind in kinds {
            let family = db.open_family(&name_of(kind))?.ok_or("a family is gone")?;
            for (_, tree) in family.stats()? {
                node_pages += tree.leaf_pages + tree.branch_pages;
                extent_pages += tree.extent_pages;
                held_pages += tree.leaf_pages as f64 * tree.leaf_fill + tree.branch_pages as f64 * tree.branch_fill;
            }
        }
        let fill = format!("trees, {:.0} % full", 100.0 * held_pages / node_pages.max(1) as f64);
        row(what, node_pages * page_bytes, &fill);
        row(what, extent_pages * page_bytes, "values too large for a leaf, in whole pages");
        rest = rest.saturating_sub((node_pages + extent_pages) * page_bytes);
    }
    row("names", rest, "of families");
    row("log", space.log_bytes, "where commits become durable; recycled");
    row("metadata", space.metadata_bytes, "superblocks, the map of free pages, the roots of families");
    row("removed", space.awaiting_checkpoint_bytes + space.pinned_bytes, "not reusable before the next checkpoint");
    row("free", space.free_bytes, "grown ahead of need, or removed and reusable");
    row("all", space.file_bytes, "");
    table.print();
    Ok(())
}

/// A few questions whose words come from the answer to the first one, so that every directory has answers.
fn print_answers(db: &Database, snapshot: &Snapshot, kinds: &[Kind]) -> Result<()> {
    let index = query::Index::open(db, snapshot, kinds)?;
    let mut table = Table::new(&["asked", ">found", ""]);
    let list = |words: &[(String, u64)]| {
        let shown = words.iter().take(6).map(|(word, count)| format!("{word} {}", number(*count)));
        shown.collect::<Vec<_>>().join(", ")
    };
    let top = index.top("", 5)?;
    table.row(["words of five letters and more".to_owned(), number(top.len() as u64), list(&top)]);
    if let [(one, _), (other, _), ..] = top.as_slice() {
        let both = index.files_with(one, other)?;
        let shown = both.iter().take(3).map(|path| path.escape_ascii().to_string()).collect::<Vec<_>>().join(", ");
        table.row([format!("files with `{one}` and `{other}`"), number(both.len() as u64), shown]);
    }
    if let Some((word, _)) = top.get(2) {
        let prefix: String = word.chars().take(4).collect();
        let found = index.top(&prefix, 1)?;
        table.row([format!("words that begin with `{prefix}`"), number(found.len() as u64), list(&found)]);
    }
    table.print();
    Ok(())
}
