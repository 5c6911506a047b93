//! The measurements as Markdown tables: medians first, then every run, then what was aimed at; and as a picture.

use crate::{
    case::{Case, Workload},
    measure::{Measured, Measurements, Speed, Yardstick},
    steps::Steps,
    workload::{KEY_BYTES, VALUE_BYTES},
};
use spinney_bench_harness::{Aims, Series, median, ratio, svg, table, thousands};

/// Under which everything was measured.
pub(crate) struct Conditions {
    /// Threads that keep processors from idling.
    pub(crate) awake: u32,
    pub(crate) memory_mib: u64,
    /// Of a writer alone.
    pub(crate) commits: u32,
    pub(crate) eventual: u32,
    /// How the bare disk is written.
    pub(crate) bare_call: &'static str,
}

/// Everything, for people.
pub(crate) fn markdown(outcomes: &Measurements, conditions: &Conditions) -> String {
    let Conditions { awake, memory_mib, commits, eventual, bare_call } = conditions;
    let awake = match awake {
        0 => "Processors may idle, and then learn late of finished writes.".to_owned(),
        threads => format!("{threads} threads of the lowest priority keep the processors awake."),
    };
    let mut out = format!(
        "# Small commits\n\nRecords of {KEY_BYTES} B random keys and {VALUE_BYTES} B incompressible values, one per commit, added to \
         families of 100 000; or 100 per commit, to families of 200 000. {memory_mib} MiB of memory. Up to 8 writers commit {commits} times each, with \
         100 records a twentieth of that; more writers as often as 8 together. Eventual: {eventual} commits per thread, and the \
         flush that makes the last ones durable. {awake}\n\nMedians of {} runs; ratios are medians of the ratios within each run. \
         Bare: synced 4 KiB overwrites by {bare_call}, half of them directly before and half directly after each measurement, by one thread; \
         N bare: by as many threads as there are writers, each on its own file.\n\n",
        outcomes.runs()
    );
    let heads = [
        "writers",
        "what",
        "commits/s",
        "of bare",
        "of N bare",
        "p50 us",
        "p99 us",
        "commits/sync",
        "writes/commit",
        "syncs/commit",
        "B/commit",
        "log/user",
        "checkpoints",
        "bare/s",
        "bare p50 us",
        "bare p99 us",
        "N bare/s",
    ];
    table(&mut out, &heads, outcomes.cases().map(|case| row(outcomes, case)));
    out += "\nLatency is that of the whole transaction: the family's turn, the insertion, the commit. Syncs are syncs of the file and writes that were \
            durable when they returned. Counts are of everything, checkpoints included. `B/commit` are all bytes written, `log/user` the bytes \
            of the log beside those of keys and values.\n";
    steps(&mut out, outcomes);
    out += "\n## Every run, commits/s (of bare)\n\n";
    let names = |case: Case| [case.writers.to_string(), case.workload.name().to_owned()];
    outcomes.every_run(&mut out, ["writers", "what"], names, |measured| {
        let of_bare = measured.of_bare().map_or(String::new(), |ratio| format!(" ({ratio:.2})"));
        format!("{}{of_bare}", thousands(measured.per_second()))
    });
    aims(&mut out, outcomes);
    out
}

/// Durable commits per second by number of writers.
pub(crate) fn picture(outcomes: &Measurements) -> String {
    let series = |name: &str, workload: Workload, rate: &dyn Fn(&Measured) -> f64| {
        let cases = outcomes.cases().filter(|case| case.workload == workload);
        let points = cases.map(|case| (case.writers, outcomes.of(case).map(rate).collect()));
        Series { name: name.to_owned(), points: points.collect() }
    };
    let ours = |workload: Workload| series(workload.name(), workload, &Measured::per_second);
    let bare = |name, rate: &dyn Fn(&Yardstick) -> f64| {
        series(name, Workload::OwnFamily, &|measured| measured.bare.as_ref().map_or(0.0, rate))
    };
    let all = [
        ours(Workload::OwnFamily),
        ours(Workload::OneFamily),
        ours(Workload::Batches),
        bare("bare, N threads", &|bare| bare.together.as_ref().unwrap_or(&bare.alone).per_second()),
        bare("bare, one thread", &|bare| bare.alone.per_second()),
    ];
    svg("Durable commits per second, by number of writers", "writers", &all)
}

fn row(outcomes: &Measurements, case: Case) -> Vec<String> {
    let middle = |number: &dyn Fn(&Measured) -> f64| outcomes.middle(case, number);
    // Not every case has a yardstick.
    let of = |number: &dyn Fn(&Measured) -> Option<f64>, shown: &dyn Fn(f64) -> String| {
        let numbers: Option<Vec<f64>> = outcomes.of(case).map(number).collect();
        numbers.map_or_else(|| "-".to_owned(), |numbers| shown(median(numbers)))
    };
    let [one, two] = [1, 2].map(|digits| move |number: f64| format!("{number:.digits$}"));
    let alone = |number: &dyn Fn(&Speed) -> f64| {
        let number = |m: &Measured| m.bare.as_ref().map(|bare| number(&bare.alone));
        of(&number, &thousands)
    };
    let together = |m: &Measured| Some(m.bare.as_ref()?.together.as_ref()?.per_second());
    vec![
        case.writers.to_string(),
        case.workload.name().to_owned(),
        thousands(middle(&Measured::per_second)),
        of(&Measured::of_bare, &two),
        of(&|m| Some(ratio(m.per_second(), together(m)?)), &two),
        one(middle(&|m| m.speed.latency_us(50))),
        one(middle(&|m| m.speed.latency_us(99))),
        two(middle(&Measured::commits_per_sync)),
        format!("{:.3}", middle(&|m| m.per_commit(m.counts.write_calls))),
        format!("{:.3}", middle(&|m| m.per_commit(m.counts.syncs))),
        thousands(middle(&|m| m.per_commit(m.counts.bytes_written))),
        two(middle(&Measured::log_share)),
        one(middle(&|m| m.counts.checkpoints as f64)),
        alone(&Speed::per_second),
        alone(&|speed| speed.latency_us(50)),
        alone(&|speed| speed.latency_us(99)),
        of(&together, &thousands),
    ]
}

/// Commits counted one by one.
fn steps(out: &mut String, outcomes: &Measurements) {
    let rows: Vec<_> = outcomes
        .cases()
        .filter(|case| outcomes.of(*case).all(|measured| measured.steps.is_some()))
        .map(|case| {
            let middle = |number: &dyn Fn(&Steps) -> f64| {
                format!("{:.3}", outcomes.middle(case, |measured| measured.steps.as_ref().map_or(0.0, number)))
            };
            let (writes, syncs) = (middle(&|s| s.write_calls_per_commit()), middle(&|s| s.syncs_per_commit()));
            vec![case.workload.name().to_owned(), writes, syncs, middle(&|s| s.exact_share())]
        })
        .collect();
    if !rows.is_empty() {
        *out += "\n## One writer, each commit counted alone\n\nAfterwards and untimed; without those that a checkpoint worked beside. The last \
                 column: the share of commits of exactly one write call and one sync.\n\n";
        table(out, &["what", "writes/commit", "syncs/commit", "1 and 1"], rows);
    }
}

/// What the engine is built to reach, where the measured numbers of writers allow to say.
fn aims(out: &mut String, outcomes: &Measurements) {
    let mut aims = Aims::default();
    let of = |workload| outcomes.cases().filter(move |case| case.workload == workload);
    for case in of(Workload::OwnFamily).filter(|case| case.writers == 1) {
        let step = |number: &dyn Fn(&Steps) -> f64| {
            outcomes.middle(case, |measured| measured.steps.as_ref().map_or(0.0, number))
        };
        aims.at_most(
            "1 writer, write calls per commit outside checkpoints",
            1.0,
            step(&|s| s.write_calls_per_commit()),
        );
        aims.at_most("1 writer, syncs per commit outside checkpoints", 1.0, step(&|s| s.syncs_per_commit()));
        aims.at_least("1 writer, of the bare disk", 0.85, outcomes.middle(case, |m| m.of_bare().unwrap_or(0.0)));
    }
    let mut fewer: Option<Case> = None;
    for (workload, share) in [(Workload::OwnFamily, 0.45), (Workload::OneFamily, 0.3)] {
        for case in of(workload).filter(|case| case.writers > 1) {
            let what = format!("{case}, commits per sync");
            aims.at_least(&what, share * f64::from(case.writers), outcomes.middle(case, Measured::commits_per_sync));
        }
    }
    for case in of(Workload::OwnFamily) {
        if let Some(fewer) = fewer.replace(case) {
            let what = format!("{case}, rate beside that of {}", fewer.writers);
            aims.at_least(&what, 1.0, outcomes.compared(case, fewer, Measured::per_second));
        }
    }
    let eventual = |writers| Case { writers, workload: Workload::Eventual };
    if outcomes.has(eventual(1)) {
        let (rate, beside) = (
            outcomes.middle(eventual(1), Measured::per_second),
            outcomes.compared(eventual(2), eventual(1), Measured::per_second),
        );
        aims.at_least("eventual, commits/s of 1 thread", 400_000.0, rate);
        aims.at_least("eventual, 2 threads beside 1", 1.6, beside);
    }
    for case in of(Workload::Batches) {
        let images = Case { workload: Workload::BatchesAsImages, ..case };
        let beside = outcomes.compared(case, images, Measured::per_second);
        aims.at_most(&format!("{case}, log beside the user's bytes"), 1.3, outcomes.middle(case, Measured::log_share));
        aims.at_least(&format!("{case}, rate beside images only"), 2.0, beside);
    }
    aims.write(out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use spinney_bench_harness::Counts;
    use std::time::Duration;

    /// A machine on which one synced write takes 100 us, and an engine that commits `per_sync` times for each.
    fn measured(case: Case, per_sync: u64) -> Measured {
        let speed = |commits: u64, ms| Speed {
            elapsed: Duration::from_millis(ms),
            commits,
            latencies: vec![Duration::from_micros(100)],
        };
        let counts =
            Counts { syncs: 1000, write_calls: 1000, log_bytes: 4096 * 1000, checkpoints: 1, ..Counts::default() };
        let together = (case.writers > 1).then(|| speed(10_000, 500));
        Measured {
            speed: speed(1000 * per_sync, 100),
            counts,
            bare: (case.workload != Workload::Eventual).then(|| Yardstick { alone: speed(1000, 100), together }),
            steps: None,
            records: case.workload.records(),
        }
    }

    fn text(per_sync: impl Fn(Case) -> u64) -> String {
        let cases = |run| Case::of_run(run, &[1, 4], true);
        let outcomes =
            Measurements::measure(2, cases, |case| case.to_string(), |case| Ok(measured(case, per_sync(case))))
                .unwrap();
        let conditions =
            Conditions { awake: 2, memory_mib: 1, commits: 1, eventual: 1, bare_call: "`pwritev2(RWF_DSYNC)`" };
        assert!(picture(&outcomes).contains("bare, N threads"));
        markdown(&outcomes, &conditions)
    }

    fn verdict<'a>(text: &'a str, aim: &str) -> Vec<&'a str> {
        let line = text.lines().find(|line| line.starts_with(&format!("| {aim}"))).expect("the aim is listed");
        line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).skip(1).collect()
    }

    #[test]
    fn who_shares_reaches_more_than_who_does_not() {
        let shared = text(|case| u64::from(case.writers));
        assert_eq!(verdict(&shared, "4 writers, a family each, commits per sync"), [">= 1.80", "4.00", "yes"]);
        assert_eq!(verdict(&shared, "4 writers, a family each, rate beside that of 1"), [">= 1.00", "4.00", "yes"]);
        assert_eq!(verdict(&shared, "1 writer, of the bare disk"), [">= 0.85", "1.00", "yes"]);
        let alone = text(|_| 1);
        assert_eq!(verdict(&alone, "4 writers, one family, commits per sync"), [">= 1.20", "1.00", "no"]);
        assert_eq!(verdict(&alone, "1 writer, 100 records, rate beside images only"), [">= 2.00", "1.00", "no"]);
        assert_eq!(verdict(&alone, "eventual, commits/s of 1 thread"), [">= 400 000", "10 000", "no"]);
        // 4 KiB of log for 100 records of 174 bytes.
        assert_eq!(verdict(&alone, "1 writer, 100 records, log beside the user's bytes"), ["<= 1.30", "0.24", "yes"]);
    }
}
