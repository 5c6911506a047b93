//! Markdown tables, and the one that says what was reached.

use std::fmt::Write;

/// A table whose source is aligned too: it is read in terminals.
pub fn table(out: &mut String, heads: &[impl AsRef<str>], rows: impl IntoIterator<Item = Vec<String>>) {
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
pub fn thousands(number: f64) -> String {
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

/// What something is built to reach, beside what was found.
#[derive(Default)]
pub struct Aims {
    rows: Vec<Vec<String>>,
}

impl Aims {
    /// More is better.
    pub fn at_least(&mut self, what: &str, least: f64, found: f64) {
        self.add(what, ">=", (least, found), found >= least);
    }

    /// Less is better.
    pub fn at_most(&mut self, what: &str, most: f64, found: f64) {
        self.add(what, "<=", (most, found), found <= most);
    }

    fn add(&mut self, what: &str, sign: &str, (bound, found): (f64, f64), is_reached: bool) {
        // Small numbers are ratios, large ones are rates.
        let shown = |number: f64| if bound < 1000.0 { format!("{number:.2}") } else { thousands(number) };
        let verdict = if is_reached { "yes" } else { "no" };
        self.rows.push(vec![what.to_owned(), format!("{sign} {}", shown(bound)), shown(found), verdict.to_owned()]);
    }

    /// A chapter of them; nothing when there are none.
    pub fn write(self, out: &mut String) {
        if !self.rows.is_empty() {
            *out += "\n## What it aims at\n\n";
            table(out, &["aim", "asked", "found", "reached"], self.rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_from_the_end() {
        assert_eq!(
            ["1", "999", "1 000", "1 234 567"].map(str::to_owned),
            [1.0, 999.0, 1000.0, 1_234_567.0].map(thousands)
        );
    }

    #[test]
    fn an_aim_is_reached_at_its_bound() {
        let (mut aims, mut out) = (Aims::default(), String::new());
        aims.at_least("rate", 400_000.0, 399_999.0);
        aims.at_most("share", 1.0, 1.0);
        aims.write(&mut out);
        assert!(out.contains("| rate  | >= 400 000 | 399 999 | no      |"), "{out}");
        assert!(out.contains("| share |    <= 1.00 |    1.00 | yes     |"), "{out}");
    }
}
