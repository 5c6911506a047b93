//! A workload as an SVG: a bar for each engine of each case, as long as its median is beside the best one, and a dot for every run.

use crate::{
    case::{Case, Workload},
    engine::Engine,
    results::Results,
};
use spinney_bench_harness::{median, thousands};
use std::fmt::Write;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 190.0;
/// For the number behind a bar.
const RIGHT: f64 = 110.0;
const TOP: f64 = 48.0;
const BAR: f64 = 18.0;
const GAP: f64 = 26.0;

/// Distinguishable without colour vision (Okabe & Ito, 2008): ours, the others', and what is none.
const OURS: &str = "#0072b2";
const OTHERS: &str = "#e69f00";
const NONE: &str = "#999999";

/// `None` when nothing of the workload was measured.
pub(crate) fn svg(results: &Results, workload: Workload) -> Option<String> {
    let mut bars = String::new();
    let mut at = TOP;
    for case in Case::shown().into_iter().filter(|case| case.workload == workload) {
        let rates = Engine::ALL.map(|engine| {
            let all = results.measured(engine, case).into_iter();
            (engine, all.map(|(_, _, measured)| measured.per_second()).collect::<Vec<_>>())
        });
        let most = rates.iter().flat_map(|(_, rates)| rates).copied().fold(0.0, f64::max);
        if most == 0.0 {
            continue;
        }
        let _ = writeln!(bars, "<text x=\"{LEFT}\" y=\"{:.1}\" font-weight=\"bold\">{case}</text>", at + 12.0);
        at += 20.0;
        for (engine, rates) in rates.iter().filter(|(_, rates)| !rates.is_empty()) {
            bar(&mut bars, *engine, rates, most, at);
            at += BAR;
        }
        at += GAP - 20.0;
    }
    if bars.is_empty() {
        return None;
    }
    let unit = if workload == Workload::Open { "openings per second" } else { "records per second" };
    let name = workload.name();
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"28\" font-size=\"16\">{name}: {unit}, more is better</text>\n{bars}</svg>\n",
        at + 10.0
    ))
}

fn bar(out: &mut String, engine: Engine, rates: &[f64], most: f64, at: f64) {
    let x = |rate: f64| LEFT + rate / most * (WIDTH - LEFT - RIGHT);
    let color = match engine {
        Engine::Spinney => OURS,
        Engine::Bare => NONE,
        _ => OTHERS,
    };
    let middle = median(rates.iter().copied());
    let (text, name) = (at + 12.0, engine.name());
    let _ = writeln!(out, "<text x=\"{:.1}\" y=\"{text:.1}\" text-anchor=\"end\">{name}</text>", LEFT - 8.0);
    let (width, height) = (x(middle) - LEFT, BAR - 4.0);
    let _ = writeln!(
        out,
        "<rect x=\"{LEFT}\" y=\"{at:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{color}\" opacity=\"0.8\"/>"
    );
    for &rate in rates {
        let _ = writeln!(out, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\"/>", x(rate), at + height / 2.0);
    }
    let rightmost = rates.iter().copied().fold(middle, f64::max);
    let label = if middle < 100.0 { format!("{middle:.1}") } else { thousands(middle) };
    let _ = writeln!(out, "<text x=\"{:.1}\" y=\"{text:.1}\">{label}</text>", x(rightmost) + 8.0);
}
