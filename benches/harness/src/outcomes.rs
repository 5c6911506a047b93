//! Every case in every run: measured in turns, compared within a run.

use crate::{
    numbers::{median, ratio},
    program::progress,
    table::table,
};
use anyhow::Context;

/// What was measured (`Measured`) of what (`Case`), as often as there were runs.
pub struct Outcomes<Case, Measured> {
    runs: Vec<Vec<(Case, Measured)>>,
}

impl<Case: Copy + PartialEq, Measured> Outcomes<Case, Measured> {
    /// Measures the cases of each run, in the order that `cases` gives for it: it rotates them, so that a slow minute of the
    /// machine is everybody's. The run is counted from 0.
    ///
    /// # Errors
    /// The first of `measure`, with the name of its case.
    pub fn measure(
        runs: u32,
        cases: impl Fn(u32) -> Vec<Case>,
        name: impl Fn(Case) -> String,
        mut measure: impl FnMut(Case) -> anyhow::Result<Measured>,
    ) -> anyhow::Result<Self> {
        let bar = progress(u64::from(runs) * cases(0).len() as u64);
        let mut all = Vec::new();
        for run in 0..runs {
            let mut outcomes = Vec::new();
            for case in cases(run) {
                bar.set_message(format!("run {}: {}", run + 1, name(case)));
                outcomes.push((case, measure(case).with_context(|| name(case))?));
                bar.inc(1);
            }
            all.push(outcomes);
        }
        bar.finish_and_clear();
        Ok(Self { runs: all })
    }

    /// How many runs there were.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Every case, in the order of the first run.
    pub fn cases(&self) -> impl Iterator<Item = Case> {
        self.runs.first().into_iter().flatten().map(|(case, _)| *case)
    }

    /// The measurements of one case, by run.
    pub fn of(&self, case: Case) -> impl Iterator<Item = &Measured> {
        self.runs.iter().flatten().filter(move |(of, _)| *of == case).map(|(_, measured)| measured)
    }

    /// Whether the case was measured.
    pub fn has(&self, case: Case) -> bool {
        self.of(case).next().is_some()
    }

    /// The median of a number over the runs.
    pub fn middle(&self, case: Case, number: impl Fn(&Measured) -> f64) -> f64 {
        median(self.of(case).map(number))
    }

    /// A number of one case beside that of another, divided within each run.
    pub fn compared(&self, this: Case, that: Case, number: impl Fn(&Measured) -> f64) -> f64 {
        median(self.of(this).zip(self.of(that)).map(|(this, that)| ratio(number(this), number(that))))
    }

    /// A table with a row for each case and a column for each run. `names` has a head for each part of a name.
    pub fn every_run<const N: usize>(
        &self,
        out: &mut String,
        heads: [&str; N],
        names: impl Fn(Case) -> [String; N],
        cell: impl Fn(&Measured) -> String,
    ) {
        let mut heads = heads.map(str::to_owned).to_vec();
        heads.extend((1..=self.runs()).map(|run| format!("run {run}")));
        let rows = self.cases().map(|case| names(case).into_iter().chain(self.of(case).map(&cell)).collect());
        table(out, &heads, rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_each_run() {
        // The machine is ten times slower in the second run, and the cases take turns: it changes no ratio.
        let mut speeds = [100.0, 50.0, 5.0, 10.0].into_iter();
        let turns = |run| if run == 0 { vec!["a", "b"] } else { vec!["b", "a"] };
        let outcomes = Outcomes::measure(2, turns, str::to_owned, |_| Ok(speeds.next().unwrap())).unwrap();
        assert_eq!(outcomes.compared("b", "a", |speed| *speed), 0.5);
        assert_eq!(outcomes.middle("a", |speed| *speed), 55.0);
        assert_eq!((outcomes.runs(), outcomes.cases().collect::<Vec<_>>()), (2, vec!["a", "b"]));
        assert!(outcomes.has("a") && !outcomes.has("c"));
    }
}
