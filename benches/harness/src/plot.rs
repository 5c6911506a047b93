//! Something per second by number of writers, as an SVG: a line through the medians of each series, a dot for
//! every run. Written by hand: it is a hundred lines, and a plotting crate brings along more than these packages have.

use crate::{numbers::median, table::thousands};
use std::{fmt::Write, iter};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 230.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 60.0;

/// Distinguishable without colour vision (Okabe & Ito, 2008), and by their dashes in print.
const LOOKS: [(&str, &str); 5] =
    [("#0072b2", ""), ("#e69f00", "6 3"), ("#d55e00", "2 3"), ("#009e73", "9 3 2 3"), ("#777777", "1 2")];

/// A line of the picture.
pub struct Series {
    /// In the legend.
    pub name: String,
    /// For each number of writers the measurements of every run. All series have the same numbers.
    pub points: Vec<(u32, Vec<f64>)>,
}

/// The whole picture of up to five series.
pub fn svg(title: &str, below: &str, all: &[Series]) -> String {
    let writers: Vec<u32> =
        all.first().into_iter().flat_map(|series| &series.points).map(|(writers, _)| *writers).collect();
    let most = all.iter().flat_map(|series| &series.points).flat_map(|(_, ops)| ops).copied().fold(1.0, f64::max);
    let step = tick(most);
    let top = (most / step).ceil() * step;
    let x = |writers_index: usize| {
        let share = if writers.len() < 2 { 0.5 } else { writers_index as f64 / (writers.len() - 1) as f64 };
        LEFT + share * (WIDTH - LEFT - RIGHT)
    };
    let y = |ops: f64| HEIGHT - BOTTOM - ops / top * (HEIGHT - TOP - BOTTOM);

    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"26\" font-size=\"16\">{title}</text>\n"
    );
    for ops in iter::successors(Some(0.0), |ops| Some(ops + step)).take_while(|&ops| ops < top + step / 2.0) {
        let (at, label, right) = (y(ops), thousands(ops), WIDTH - RIGHT);
        let _ = writeln!(out, "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#ddd\"/>");
        let _ = writeln!(out, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", LEFT - 8.0, at + 4.0);
    }
    for (index, count) in writers.iter().enumerate() {
        let (at, under) = (x(index), HEIGHT - BOTTOM + 20.0);
        let _ = writeln!(out, "<text x=\"{at:.1}\" y=\"{under}\" text-anchor=\"middle\">{count}</text>");
    }
    let (middle, under) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 16.0);
    let _ = writeln!(out, "<text x=\"{middle}\" y=\"{under}\" text-anchor=\"middle\">{below}</text>");

    for (index, series) in all.iter().enumerate() {
        let (color, dashes) = LOOKS[index % LOOKS.len()];
        let mut path = String::new();
        for (at, (_, ops)) in series.points.iter().enumerate() {
            let command = if path.is_empty() { 'M' } else { 'L' };
            let _ = write!(path, "{command}{:.1} {:.1}", x(at), y(median(ops.iter().copied())));
            for &ops in ops {
                let (x, y) = (x(at), y(ops));
                let _ =
                    writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{color}\" opacity=\"0.6\"/>");
            }
        }
        let line = format!("fill=\"none\" stroke=\"{color}\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\"");
        let _ = writeln!(out, "<path d=\"{path}\" {line}/>");
        let (at, legend) = (TOP + 24.0 * index as f64, WIDTH - RIGHT + 20.0);
        let _ = writeln!(out, "<path d=\"M{legend} {at}h30\" {line}/>");
        let _ = writeln!(out, "<text x=\"{}\" y=\"{}\">{}</text>", legend + 38.0, at + 4.0, series.name);
    }
    out + "</svg>\n"
}

/// The distance of grid lines: 1, 2 or 5 times a power of ten, so that there are four to ten of them.
fn tick(most: f64) -> f64 {
    let power = 10_f64.powf((most / 4.0).log10().floor());
    [5.0, 2.0, 1.0].into_iter().map(|times| times * power).find(|step| most / step >= 4.0).unwrap_or(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_four_to_ten_grid_lines() {
        for most in [1.0, 7.0, 99.0, 100.0, 12_345.0, 399_999.0, 400_000.0, 1_500_000.0] {
            let lines = most / tick(most);
            assert!((4.0..=10.0).contains(&lines), "{most}: {lines}");
        }
    }
}
