//! The measurements as Markdown tables: medians first, then every run, then what was aimed at.

use crate::{
    engine::Variant,
    measure::{Measured, Outcome, median, ratio},
    workload::{RECORDS, VALUE_BYTES},
};
use std::fmt::Write;

/// Everything, for people.
pub(crate) fn markdown(outcomes: &[Outcome], transactions: u32) -> String {
    let runs = outcomes.iter().map(|outcome| outcome.run).max().unwrap_or(0);
    let mut out = format!(
        "# Writers of several families\n\nEach writer: {transactions} durable transactions of {RECORDS} records, u64 keys \
         in order, {VALUE_BYTES} B values. Medians of {runs} runs; ratios are medians of the ratios within each run. \
         Bare disk: as many bytes per transaction as Spinney wrote, one `pwritev` and one `fdatasync`.\n\n"
    );
    let rows = cases(outcomes).into_iter().map(|(writers, variant)| row(outcomes, writers, variant));
    let heads = [
        "writers",
        "variant",
        "ops/s",
        "of bare",
        "of files",
        "p50 ms",
        "p99 ms",
        "writes",
        "pages/write",
        "syncs",
        "MB written",
        "MB file",
        "write",
        "sync",
        "log",
    ];
    table(&mut out, &heads, rows);
    out += "\n`syncs` are syncs of the file and writes that were durable when they returned. `write`, `sync`, `log`: ms per \
            transaction that threads spent in write calls, in syncs, and waiting for the log, which includes the \
            syncs of others.\n\n## Every run, ops/s\n\n";
    let mut heads = vec!["writers".to_owned(), "variant".to_owned()];
    heads.extend((1..=runs).map(|run| format!("run {run}")));
    let rows = cases(outcomes).into_iter().map(|(writers, variant)| {
        let mut row = vec![writers.to_string(), variant.name().to_owned()];
        row.extend(of(outcomes, writers, variant).map(|outcome| thousands(outcome.measured.ops_per_second())));
        row
    });
    table(&mut out, &heads, rows);
    aims(&mut out, outcomes);
    out
}

/// Every pair of writers and variant, in the order of measurement.
pub(crate) fn cases(outcomes: &[Outcome]) -> Vec<(u32, Variant)> {
    // The first run is in the order of `Variant::ALL`.
    outcomes.iter().filter(|outcome| outcome.run == 1).map(|outcome| (outcome.writers, outcome.variant)).collect()
}

/// The measurements of one case, by run.
pub(crate) fn of(outcomes: &[Outcome], writers: u32, variant: Variant) -> impl Iterator<Item = &Outcome> {
    outcomes.iter().filter(move |outcome| outcome.writers == writers && outcome.variant == variant)
}

fn middle(outcomes: &[Outcome], writers: u32, variant: Variant, number: impl Fn(&Measured) -> f64) -> f64 {
    median(of(outcomes, writers, variant).map(|outcome| number(&outcome.measured)))
}

/// The speed of one case beside another, compared within each run.
fn compared(outcomes: &[Outcome], this: (u32, Variant), that: (u32, Variant)) -> f64 {
    let pairs = of(outcomes, this.0, this.1).zip(of(outcomes, that.0, that.1));
    median(pairs.map(|(this, that)| ratio(this.measured.ops_per_second(), that.measured.ops_per_second())))
}

fn row(outcomes: &[Outcome], writers: u32, variant: Variant) -> Vec<String> {
    let middle = |number: &dyn Fn(&Measured) -> f64| middle(outcomes, writers, variant, number);
    let beside = |that| format!("{:.2}", compared(outcomes, (writers, variant), (writers, that)));
    vec![
        writers.to_string(),
        variant.name().to_owned(),
        thousands(middle(&Measured::ops_per_second)),
        beside(Variant::Bare),
        beside(Variant::SeparateFiles),
        format!("{:.2}", middle(&|m| m.latency_ms(50))),
        format!("{:.2}", middle(&|m| m.latency_ms(99))),
        thousands(middle(&|m| m.write_calls as f64)),
        format!("{:.1}", middle(&Measured::pages_per_call)),
        thousands(middle(&|m| m.syncs as f64)),
        format!("{:.0}", middle(&|m| m.bytes_written as f64 / 1e6)),
        format!("{:.0}", middle(&|m| m.file_bytes as f64 / 1e6)),
        format!("{:.2}", middle(&|m| m.ms_per_transaction(m.in_write))),
        format!("{:.2}", middle(&|m| m.ms_per_transaction(m.in_sync))),
        format!("{:.2}", middle(&|m| m.ms_per_transaction(m.in_log))),
    ]
}

/// What the engine is built to reach, where the measured numbers of writers allow to say.
fn aims(out: &mut String, outcomes: &[Outcome]) {
    let has = |writers| of(outcomes, writers, Variant::Spinney).next().is_some();
    let mut rows = Vec::new();
    let mut aim = |what: &str, least: f64, found: f64| {
        let verdict = if found >= least { "yes" } else { "no" };
        rows.push(vec![what.to_owned(), format!("{least:.2}"), format!("{found:.2}"), verdict.to_owned()]);
    };
    let ours = (8, Variant::Spinney);
    if has(8) {
        aim("8 writers in one file, of the bare disk", 0.6, compared(outcomes, ours, (8, Variant::Bare)));
        aim("8 writers in one file, of eight files", 1.0, compared(outcomes, ours, (8, Variant::SeparateFiles)));
    }
    if has(8) && has(2) && has(4) {
        let to = |writers| compared(outcomes, ours, (writers, Variant::Spinney));
        aim("8 writers, of the better of 2 and 4", 0.9, to(2).min(to(4)));
    }
    if !rows.is_empty() {
        *out += "\n## What it aims at\n\n";
        table(out, &["aim", "at least", "found", "reached"], rows);
    }
}

/// A table whose source is aligned too: it is read in terminals.
pub(crate) fn table(out: &mut String, heads: &[impl AsRef<str>], rows: impl IntoIterator<Item = Vec<String>>) {
    let rows: Vec<_> = rows.into_iter().collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row.get(column).map_or(0, |cell| cell.chars().count()));
        cells.chain([heads[column].as_ref().chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..heads.len()).map(width).collect();
    let is_text =
        |column: usize| rows.iter().any(|row| row.get(column).is_some_and(|c| c.contains(char::is_alphabetic)));
    let line = |out: &mut String, cells: &[&str]| {
        for (column, &width) in widths.iter().enumerate() {
            let cell = cells.get(column).unwrap_or(&"");
            let _ = if is_text(column) { write!(out, "| {cell:<width$} ") } else { write!(out, "| {cell:>width$} ") };
        }
        *out += "|\n";
    };
    line(out, &heads.iter().map(AsRef::as_ref).collect::<Vec<_>>());
    for (column, &width) in widths.iter().enumerate() {
        let (dashes, end) = ("-".repeat(width + 1), if is_text(column) { "-" } else { ":" });
        *out += &format!("|{dashes}{end}");
    }
    *out += "|\n";
    for row in &rows {
        line(out, &row.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// A whole number with its digits in groups.
pub(crate) fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn outcome(run: u32, writers: u32, variant: Variant, ms: u64) -> Outcome {
        let (elapsed, latencies) = (Duration::from_millis(ms), vec![Duration::from_millis(ms)]);
        Outcome {
            run,
            writers,
            variant,
            measured: Measured { elapsed, latencies, records: 1000, ..Measured::default() },
        }
    }

    #[test]
    fn ratios_are_taken_within_each_run() {
        // A machine that is ten times slower in the second run changes no ratio.
        let outcomes = [(1, 1), (2, 10)].map(|(run, slower)| {
            Variant::ALL
                .map(|variant| outcome(run, 8, variant, slower * if variant == Variant::Bare { 50 } else { 100 }))
        });
        let outcomes: Vec<_> = outcomes.into_iter().flatten().collect();
        let text = markdown(&outcomes, 1);
        assert!(text.contains("| 8 writers in one file, of the bare disk |     0.60 |  0.50 | no      |"), "{text}");
        assert!(text.contains("| 8 writers in one file, of eight files   |     1.00 |  1.00 | yes     |"), "{text}");
        assert!(text.contains("10 000"), "{text}");
    }

    #[test]
    fn digits_are_grouped_from_the_end() {
        assert_eq!(
            ["1", "999", "1 000", "1 234 567"].map(str::to_owned),
            [1.0, 999.0, 1000.0, 1_234_567.0].map(thousands)
        );
    }
}
