//! Tables and units for people.

use std::time::Duration;

/// Columns as wide as they need be.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    /// Per column, whether its cells end where it ends, as numbers do.
    to_the_right: Vec<bool>,
}

impl Table {
    /// One heading per column; `>` before it turns the column to the right. No line of headings when all are empty.
    pub(crate) fn new(heads: &[&str]) -> Self {
        let to_the_right = heads.iter().map(|head| head.starts_with('>')).collect();
        let heads: Vec<String> = heads.iter().map(|head| head.trim_start_matches('>').to_owned()).collect();
        Self { rows: if heads.iter().all(String::is_empty) { Vec::new() } else { vec![heads] }, to_the_right }
    }

    /// Adds a row; missing cells are empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut row: Vec<_> = cells.into_iter().collect();
        row.resize(self.to_the_right.len(), String::new());
        self.rows.push(row);
    }

    /// Prints it, and an empty line.
    pub(crate) fn print(&self) {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..self.to_the_right.len()).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, &width), &to_the_right) in row.iter().zip(&widths).zip(&self.to_the_right) {
                line += &if to_the_right { format!("  {cell:>width$}") } else { format!("  {cell:<width$}") };
            }
            println!("{}", line.trim_end());
        }
        println!();
    }
}

/// A number with its digits in groups.
pub(crate) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// Bytes in the unit that leaves one to four digits before the point.
pub(crate) fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{} B", number(bytes)),
        10_240..10_485_760 => format!("{:.1} KiB", bytes as f64 / f64::from(1 << 10)),
        _ => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
    }
}

/// Seconds, or milliseconds when there are few of them.
pub(crate) fn time(took: Duration) -> String {
    if took < Duration::from_secs(1) {
        format!("{:.1} ms", took.as_secs_f64() * 1e3)
    } else {
        format!("{:.2} s", took.as_secs_f64())
    }
}
