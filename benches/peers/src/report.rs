//! The section of `docs/benchmarks.md`, made from every line that was measured.

use crate::{
    case::{Case, Workload},
    engine::Engine,
    goals, machine,
    measured::Measured,
    plot,
    results::Results,
};
use anyhow::Context;
use spinney_bench_harness::{median, ratio, table, thousands};
use std::{fs, path::Path};

/// What stands between these is made here.
const MARKS: [&str; 2] = ["<!-- bench peers: begin -->", "<!-- bench peers: end -->"];

/// Numbers of a row beside the rates.
const COLUMNS: [&str; 9] = [
    "CPU us/record",
    "syncs/commit",
    "written B/record",
    "read B/record",
    "settled/s",
    "memory MiB",
    "resident MiB",
    "file MiB",
    "file/raw",
];

/// All of it.
pub(crate) fn section(results: &Results) -> anyhow::Result<String> {
    let mut out = String::from("## Other engines: `cargo xtask bench peers`\n\n");
    out += &introduction();
    out += "\n### What was asked\n\n";
    out += &goals::goals(results);
    for workload in Workload::ALL {
        let cases: Vec<_> = Case::shown().into_iter().filter(|case| case.workload == workload).collect();
        let rows: Vec<_> = cases.iter().flat_map(|&case| rows(results, case)).collect();
        if rows.is_empty() {
            continue;
        }
        out += &format!("\n### {}\n\n{}\n\n", workload.name(), workload.about());
        let runs = rows.iter().map(|row| row.runs.len()).max().unwrap_or(0);
        let heads = ["case", "engine", "class", "median/s", "beside Spinney"].map(str::to_owned).into_iter();
        let heads: Vec<_> =
            heads.chain((1..=runs).map(|run| format!("run {run}"))).chain(COLUMNS.map(str::to_owned)).collect();
        table(&mut out, &heads, rows.into_iter().map(|row| row.cells(runs)));
        if workload == Workload::Churn {
            windows(&mut out, results);
        }
        if plot::svg(results, workload).is_some() {
            out += &format!("\n![{0}](plots/peers-{0}.svg)\n", workload.name());
        }
    }
    Ok(out)
}

/// Puts the section in its place, and the pictures beside.
pub(crate) fn write(docs: &Path, results: &Results, section: &str) -> anyhow::Result<()> {
    let page = docs.join("benchmarks.md");
    let text = fs::read_to_string(&page).with_context(|| format!("{}", page.display()))?;
    fs::write(&page, replaced(&text, section).with_context(|| format!("{}", page.display()))?)?;
    let plots = docs.join("plots");
    fs::create_dir_all(&plots)?;
    for workload in Workload::ALL {
        if let Some(picture) = plot::svg(results, workload) {
            fs::write(plots.join(format!("peers-{}.svg", workload.name())), picture)?;
        }
    }
    eprintln!("page: {}", page.display());
    Ok(())
}

fn replaced(page: &str, section: &str) -> anyhow::Result<String> {
    let [begin, end] = MARKS;
    let (before, rest) = page.split_once(begin).with_context(|| format!("`{begin}` is not there"))?;
    let (_, after) = rest.split_once(end).with_context(|| format!("`{end}` is not there"))?;
    Ok(format!("{before}{begin}\n\n{section}\n{end}{after}"))
}

fn introduction() -> String {
    let engines = Engine::ALL.into_iter().filter_map(|engine| Some((engine, machine::version(engine)?)));
    let versions: Vec<_> = engines
        .filter(|(engine, _)| *engine != Engine::RedbFiles)
        .map(|(engine, version)| format!("{} {version}", engine.name()))
        .collect();
    format!(
        "{}. {}.\n\n\
         Every measurement is a process of its own; engines take turns within each case, and ratios are medians of those within each \
         run. Rates count records. Budgets of memory are equal, values incompressible, results verified after reopening. *Class* says \
         what a commit promises: *durable* survives a power cut; *eventual, in the system* survives the process, *in memory* does not, \
         and both leave an earlier state after a power cut; *unordered* (`MDB_NOSYNC`) may leave a damaged file, and is compared with \
         nobody. *Settled* counts until what was put off was durable too. *Written* is what the process sent to the disk until it had closed the \
         file, as the kernel counts it (a small write into a large folio of the page cache seems to count as the folio: Spinney hands over \
         9.6 KB per single commit, see above), *read* what it fetched by calls: what LMDB reads through its mapping is not in it. *Memory* is the process's most without mapped \
         files and without what the benchmark itself has; *resident* is all of it, pages of LMDB's mapping included, which the system takes \
         back when it wants. *Syncs* are counted in one more run, below `strace`, that is not timed: `fsync`, `fdatasync`, and writes that are \
         durable when they return. The bare disk is no engine: the same bytes by `pwritev` and `fdatasync` (families, large), or synced \
         overwrites of as many whole pages as a commit has (single, batch).\n",
        machine::about(),
        versions.join(", ")
    )
}

/// A row of a table.
struct Row {
    /// Case, engine, class, median, ratio.
    names: Vec<String>,
    runs: Vec<String>,
    numbers: Vec<String>,
}

impl Row {
    fn cells(self, runs: usize) -> Vec<String> {
        let missing = runs - self.runs.len();
        let runs = self.runs.into_iter().chain(std::iter::repeat_n("-".to_owned(), missing));
        self.names.into_iter().chain(runs).chain(self.numbers).collect()
    }
}

/// Every engine's row of a case.
fn rows(results: &Results, case: Case) -> Vec<Row> {
    Engine::ALL.into_iter().filter_map(|engine| row(results, engine, case)).collect()
}

fn row(results: &Results, engine: Engine, case: Case) -> Option<Row> {
    let all: Vec<_> = results.measured(engine, case).into_iter().map(|(_, _, measured)| measured).collect();
    let name = engine.name().to_owned();
    let Some(first) = all.first() else {
        let why = results.failure(engine, case)?;
        let why = why.replace('|', "/").chars().take(80).collect::<String>();
        let names = vec![case.to_string(), name, format!("failed: {why}"), "-".to_owned(), "-".to_owned()];
        return Some(Row { names, runs: Vec::new(), numbers: vec!["-".to_owned(); COLUMNS.len()] });
    };
    let middle = |number: &dyn Fn(&Measured) -> f64| median(all.iter().map(|measured| number(measured)));
    let beside = goals::beside(results, engine, Engine::Spinney, case);
    let beside = beside.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
    let rate = middle(&Measured::per_second);
    let names = vec![case.to_string(), name, first.class.name().to_owned(), shown(rate), beside];
    let runs = all.iter().map(|measured| shown(measured.per_second())).collect();
    let syncs = results.syncs_per_commit(engine, case);
    let per_record = |number: u64, m: &Measured| ratio(number as f64, m.operations as f64);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let has_commits = first.commits > 0;
    let only_if = |is_shown: bool, text: String| if is_shown { text } else { "-".to_owned() };
    let numbers = vec![
        format!("{:.2}", middle(&|m| m.cpu_seconds * 1e6 / m.operations as f64)),
        syncs.map_or_else(|| "-".to_owned(), |syncs| format!("{syncs:.3}")),
        only_if(has_commits, thousands(middle(&|m| per_record(m.written_bytes, m)))),
        thousands(middle(&|m| per_record(m.read_bytes, m))),
        only_if(has_commits, shown(middle(&|m| ratio(m.operations as f64, m.settled_seconds)))),
        thousands(middle(&|m| mib(m.anonymous_bytes))),
        thousands(middle(&|m| mib(m.resident_bytes))),
        thousands(middle(&|m| mib(m.file_bytes))),
        only_if(first.raw_bytes > 0, format!("{:.2}", middle(&|m| ratio(m.file_bytes as f64, m.raw_bytes as f64)))),
    ];
    Some(Row { names, runs, numbers })
}

/// Small rates, such as those of opening, keep their digits.
fn shown(rate: f64) -> String {
    if rate < 1000.0 { format!("{rate:.1}") } else { thousands(rate) }
}

/// How churn goes on: by window.
fn windows(out: &mut String, results: &Results) {
    let case = Case { workload: Workload::Churn, variant: "", threads: 1 };
    for what in ["per second", "KiB per write", "MiB of file"] {
        *out += &format!("\nBy tenth of the work, {what}:\n\n");
        let heads: Vec<_> =
            std::iter::once("engine".to_owned()).chain((1..=10).map(|window| window.to_string())).collect();
        let rows = Engine::ALL.into_iter().filter_map(|engine| {
            let all = results.measured(engine, case);
            let of = |window: u32| {
                let numbers =
                    all.iter().filter_map(|(_, _, measured)| measured.more.get(&format!("{window:02} {what}")));
                shown(median(numbers.copied()))
            };
            (!all.is_empty()).then(|| std::iter::once(engine.name().to_owned()).chain((1..=10).map(of)).collect())
        });
        table(out, &heads, rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let page = format!("above\n{}\nold\n{}\nbelow\n", MARKS[0], MARKS[1]);
        let new = replaced(&page, "new").unwrap();
        assert_eq!(new, format!("above\n{}\n\nnew\n{}\nbelow\n", MARKS[0], MARKS[1]));
        assert_eq!(replaced(&new, "new").unwrap(), new);
        assert!(replaced("no marks", "new").is_err());
    }
}
