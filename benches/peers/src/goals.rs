//! What was asked, beside what was found. Ratios are taken within a run, between equals in durability, and their median counts.

use crate::{
    case::{Case, Workload},
    engine::{Class, Engine},
    measured::Measured,
    results::Results,
};
use spinney_bench_harness::{median, ratio, table};

/// Of the budget, for what no budget counts: code, threads, the program itself.
const BUDGET_AND: f64 = 1.10;

/// The table; nothing without any number.
pub(crate) fn goals(results: &Results) -> String {
    let mut goals = Goals { results, rows: Vec::new() };
    goals.writing();
    goals.reading();
    goals.sizes();
    let mut out = String::new();
    table(&mut out, &["goal", "asked", "found", "reached"], goals.rows);
    out
}

struct Goals<'a> {
    results: &'a Results,
    rows: Vec<Vec<String>>,
}

impl Goals<'_> {
    fn writing(&mut self) {
        use Workload::{Batch, Families, FamiliesEventual, Mixed, Remove, Single, SingleEventual};
        for (writers, asked) in [(1, 1.2), (2, 1.5), (4, 2.0), (8, 2.0)] {
            let case = case(Families, "", writers);
            self.beside_best(case, asked, "the best peer", |_| true);
            self.beside(case, 0.6, Engine::Bare);
        }
        self.beside_best(case(FamiliesEventual, "", 4), 1.2, "the best peer", |_| true);
        self.beside_best(case(Single, "", 1), 1.4, "the best peer", |_| true);
        self.beside(case(Single, "", 1), 0.85, Engine::Bare);
        for (writers, asked) in [(4, 1.5), (16, 2.0)] {
            let case = case(Single, "", writers);
            self.beside_best(case, asked, "the best peer", |_| true);
            let per_sync = self.results.syncs_per_commit(Engine::Spinney, case).map(|syncs| ratio(1.0, syncs));
            self.at_least(format!("{case}: commits per sync"), 0.45 * f64::from(writers), per_sync);
        }
        for (workload, writers, asked) in
            [(SingleEventual, 1, 1.0), (SingleEventual, 4, 2.0), (Batch, 1, 1.3), (Batch, 4, 2.0)]
        {
            self.beside_best(case(workload, "", writers), asked, "the best peer", |_| true);
        }
        self.beside(case(Workload::Bulk, "random", 1), 1.0, Engine::Lmdb);
        self.beside_best(case(Workload::Bulk, "sorted", 1), 1.2, "the best peer", |_| true);
        for variant in ["random", "range"] {
            self.beside_best(case(Remove, variant, 1), 1.0, "the best B-tree", Engine::is_tree);
        }
        for (threads, asked) in [(1, 1.3), (4, 1.5)] {
            self.beside_best(case(Mixed, "", threads), asked, "the best peer", |_| true);
        }
    }

    fn reading(&mut self) {
        for threads in [1, 2] {
            self.beside(case(Workload::Get, "warm", threads), 1.2, Engine::Lmdb);
        }
        for threads in [1, 2, 8] {
            let what = "the best that does not map its file";
            self.beside_best(case(Workload::Get, "tenth", threads), 1.0, what, |engine| !engine.maps_its_file());
        }
        for variant in ["short", "forward", "backward"] {
            self.beside(case(Workload::Scan, variant, 1), 1.0, Engine::Lmdb);
        }
        for variant in ["write", "read", "part"] {
            self.beside_best(case(Workload::Large, variant, 1), 1.0, "the best peer", |_| true);
        }
        // The 4 KiB, what of their chunk is checked with them, and the path to it.
        let part = self.middle(case(Workload::Large, "part", 1), |m| m.per_commit(m.read_bytes) / 1024.0);
        self.at_most("large part 1: KiB read for 4".to_owned(), 32.0, part);
    }

    fn sizes(&mut self) {
        let of_raw = |measured: &Measured| ratio(measured.file_bytes as f64, measured.raw_bytes as f64);
        let churn = case(Workload::Churn, "", 1);
        for (case, asked, what) in [
            (case(Workload::Bulk, "random", 1), 1.45, "the raw data"),
            (case(Workload::Bulk, "sorted", 1), 1.15, "the raw data"),
            (churn, 1.5, "the live data"),
        ] {
            let found = self.middle(case, of_raw);
            self.at_most(format!("{case}: file beside {what}"), asked, found);
        }
        let of_windows = |name: &'static str, first: u32| {
            move |m: &Measured| {
                let window = |number: u32| m.more.get(&format!("{number:02} {name}")).copied().unwrap_or(0.0);
                ratio(window(10), window(first))
            }
        };
        let grown = self.middle(churn, of_windows("MiB of file", 5));
        self.at_most("churn 1: file after the last window beside the fifth".to_owned(), 1.1, grown);
        let rate = self.middle(churn, of_windows("per second", 2));
        self.at_least("churn 1: rate of the last window beside the second".to_owned(), 0.8, rate);
        for variant in ["clean", "killed"] {
            let found = self.middle(case(Workload::Open, variant, 1), |measured| measured.seconds * 1000.0);
            let what = if variant == "killed" { " and replay" } else { "" };
            self.at_most(format!("open {variant} 1: ms{what}"), 50.0, found);
        }
        let memory = Case::shown().into_iter().filter_map(|case| {
            self.middle(case, |measured| ratio(measured.anonymous_bytes as f64, measured.budget_bytes as f64))
        });
        let most = memory.reduce(f64::max);
        self.at_most("every case: peak memory beside the budget".to_owned(), BUDGET_AND, most);
    }

    /// Spinney's rate beside one engine's.
    fn beside(&mut self, case: Case, asked: f64, engine: Engine) {
        let found = beside(self.results, Engine::Spinney, engine, case);
        self.at_least(format!("{case}: beside {}", engine.name()), asked, found);
    }

    /// Spinney's rate beside that of the best of some peers, which may be another one in each run.
    fn beside_best(&mut self, case: Case, asked: f64, what: &str, is_meant: impl Fn(Engine) -> bool) {
        let is_peer = |engine: &Engine| !matches!(engine, Engine::Spinney | Engine::Bare) && is_meant(*engine);
        let peers: Vec<_> = Engine::ALL.into_iter().filter(is_peer).collect();
        let ratios = self.results.measured(Engine::Spinney, case).into_iter().filter_map(|(session, run, ours)| {
            let rates = peers.iter().filter_map(|&peer| rate_in(self.results, peer, case, session, run, ours.class));
            rates.reduce(f64::max).map(|best| ratio(ours.per_second(), best))
        });
        let ratios: Vec<_> = ratios.collect();
        let found = (!ratios.is_empty()).then(|| median(ratios));
        self.at_least(format!("{case}: beside {what}"), asked, found);
    }

    fn middle(&self, case: Case, number: impl Fn(&Measured) -> f64) -> Option<f64> {
        let all = self.results.measured(Engine::Spinney, case);
        (!all.is_empty()).then(|| median(all.into_iter().map(|(_, _, measured)| number(measured))))
    }

    fn at_least(&mut self, what: String, asked: f64, found: Option<f64>) {
        self.add(what, ">=", asked, found, |found| found >= asked);
    }

    fn at_most(&mut self, what: String, asked: f64, found: Option<f64>) {
        self.add(what, "<=", asked, found, |found| found <= asked);
    }

    fn add(&mut self, what: String, sign: &str, asked: f64, found: Option<f64>, is_reached: impl Fn(f64) -> bool) {
        let verdict = match found {
            None => "not measured",
            Some(found) if is_reached(found) => "yes",
            Some(_) => "no",
        };
        let found = found.map_or_else(|| "-".to_owned(), |found| format!("{found:.2}"));
        self.rows.push(vec![what, format!("{sign} {asked:.2}"), found, verdict.to_owned()]);
    }
}

/// One engine's rate beside another's, where their promises compare: the median over the runs that both have.
pub(crate) fn beside(results: &Results, this: Engine, that: Engine, case: Case) -> Option<f64> {
    let ratios = results.measured(this, case).into_iter().filter_map(|(session, run, measured)| {
        let other = rate_in(results, that, case, session, run, measured.class)?;
        Some(ratio(measured.per_second(), other))
    });
    let ratios: Vec<_> = ratios.collect();
    (!ratios.is_empty()).then(|| median(ratios))
}

/// An engine's rate in one run, if what it promises compares.
fn rate_in(results: &Results, engine: Engine, case: Case, session: u64, run: u32, class: Class) -> Option<f64> {
    let all = results.measured(engine, case);
    let same = all.into_iter().find(|(of, number, _)| (*of, *number) == (session, run))?.2;
    same.class.compares_with(class).then(|| same.per_second())
}

const fn case(workload: Workload, variant: &'static str, threads: u32) -> Case {
    Case { workload, variant, threads }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measured::{Line, Outcome};

    fn measured(class: Class, rate: u64) -> Measured {
        let json = serde_json::json!({
            "class": class, "operations": rate, "commits": 1, "seconds": 1.0, "settled_seconds": 1.0, "cpu_seconds": 1.0,
            "written_bytes": 0, "write_calls": 0, "handed_bytes": 0, "read_bytes": 0, "anonymous_bytes": 5,
            "resident_bytes": 0, "budget_bytes": 10, "file_bytes": 0, "raw_bytes": 0,
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn only_equals_of_one_run_are_compared() {
        let folder = tempfile::tempdir().unwrap();
        let mut results = Results::open(&folder.path().join("lines")).unwrap();
        let case = case(Workload::FamiliesEventual, "", 4);
        let rates = [
            (1, Engine::Spinney, Class::Memory, 300),
            (1, Engine::Rocksdb, Class::System, 100),
            (1, Engine::Lmdb, Class::Unordered, 900),
            (2, Engine::Spinney, Class::Memory, 40),
            (2, Engine::Rocksdb, Class::System, 10),
        ];
        for (run, engine, class, rate) in rates {
            let outcome = Outcome::Measured(measured(class, rate));
            results.add(Line { session: 7, run, engine, case: case.to_string(), scale: 1.0, outcome }).unwrap();
        }
        let text = goals(&results);
        let row = text.lines().find(|line| line.contains("families-eventual 4: beside the best")).unwrap();
        assert!(row.contains(">= 1.20") && row.contains("3.50") && row.contains("yes"), "{row}");
        assert_eq!(beside(&results, Engine::Lmdb, Engine::Spinney, case), None);
        assert_eq!(Results::open(&folder.path().join("lines")).unwrap().measured(Engine::Spinney, case).len(), 2);
    }
}
