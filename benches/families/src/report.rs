//! The measurements as Markdown tables: medians first, then every run, then what was aimed at; and as a picture.

use crate::{
    engine::Variant,
    measure::{Case, Measured, Measurements},
    workload::{RECORDS, VALUE_BYTES},
};
use spinney_bench_harness::{Aims, Series, svg, table, thousands};

/// Everything, for people.
pub(crate) fn markdown(outcomes: &Measurements, transactions: u32) -> String {
    let runs = outcomes.runs();
    let mut out = format!(
        "# Writers of several families\n\nEach writer: {transactions} durable transactions of {RECORDS} records, u64 keys \
         in order, {VALUE_BYTES} B values. Medians of {runs} runs; ratios are medians of the ratios within each run. \
         Bare disk: as many bytes per transaction as Spinney wrote, one `pwritev` and one `fdatasync`.\n\n"
    );
    let rows = outcomes.cases().map(|case| row(outcomes, case));
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
    let names = |case: Case| [case.0.to_string(), case.1.name().to_owned()];
    outcomes.every_run(&mut out, ["writers", "variant"], names, |measured| thousands(measured.ops_per_second()));
    aims(&mut out, outcomes);
    out
}

/// Records per second by number of writers, a line for each variant.
pub(crate) fn picture(outcomes: &Measurements) -> String {
    let points = |variant| {
        let of_variant = outcomes.cases().filter(move |case| case.1 == variant);
        of_variant.map(|case| (case.0, outcomes.of(case).map(Measured::ops_per_second).collect())).collect()
    };
    let all = Variant::ALL.map(|variant| Series { name: variant.name().to_owned(), points: points(variant) });
    svg("Durable records per second, by number of writers", "writers, each its own family", &all)
}

fn row(outcomes: &Measurements, case: Case) -> Vec<String> {
    let middle = |number: &dyn Fn(&Measured) -> f64| outcomes.middle(case, number);
    let beside = |that| format!("{:.2}", outcomes.compared(case, (case.0, that), Measured::ops_per_second));
    vec![
        case.0.to_string(),
        case.1.name().to_owned(),
        thousands(middle(&Measured::ops_per_second)),
        beside(Variant::Bare),
        beside(Variant::SeparateFiles),
        format!("{:.2}", middle(&|m| m.latency_ms(50))),
        format!("{:.2}", middle(&|m| m.latency_ms(99))),
        thousands(middle(&|m| m.counts.write_calls as f64)),
        format!("{:.1}", middle(&Measured::pages_per_call)),
        thousands(middle(&|m| m.counts.syncs as f64)),
        format!("{:.0}", middle(&|m| m.counts.bytes_written as f64 / 1e6)),
        format!("{:.0}", middle(&|m| m.file_bytes as f64 / 1e6)),
        format!("{:.2}", middle(&|m| m.ms_per_transaction(m.counts.in_write))),
        format!("{:.2}", middle(&|m| m.ms_per_transaction(m.counts.in_sync))),
        format!("{:.2}", middle(&|m| m.ms_per_transaction(m.counts.in_log))),
    ]
}

/// What the engine is built to reach, where the measured numbers of writers allow to say.
fn aims(out: &mut String, outcomes: &Measurements) {
    let has = |writers| outcomes.has((writers, Variant::Spinney));
    let beside = |that| outcomes.compared((8, Variant::Spinney), that, Measured::ops_per_second);
    let mut aims = Aims::default();
    if has(8) {
        aims.at_least("8 writers in one file, of the bare disk", 0.6, beside((8, Variant::Bare)));
        aims.at_least("8 writers in one file, of eight files", 1.0, beside((8, Variant::SeparateFiles)));
    }
    if has(8) && has(2) && has(4) {
        let to = |writers| beside((writers, Variant::Spinney));
        aims.at_least("8 writers, of the better of 2 and 4", 0.9, to(2).min(to(4)));
    }
    aims.write(out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn aims_are_of_eight_writers() {
        let cases = |_| Variant::ALL.map(|variant| (8, variant)).to_vec();
        let outcomes = Measurements::measure(
            2,
            cases,
            |case| format!("{case:?}"),
            |(_, variant)| {
                let elapsed = Duration::from_millis(if variant == Variant::Bare { 50 } else { 100 });
                Ok(Measured { elapsed, records: 1000, ..Measured::default() })
            },
        );
        let text = markdown(&outcomes.unwrap(), 1);
        assert!(text.contains("| 8 writers in one file, of the bare disk | >= 0.60 |  0.50 | no      |"), "{text}");
        assert!(text.contains("| 8 writers in one file, of eight files   | >= 1.00 |  1.00 | yes     |"), "{text}");
        assert!(text.contains("10 000"), "{text}");
    }
}
