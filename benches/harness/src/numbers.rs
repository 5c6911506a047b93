//! The middle of several measurements, and other numbers made of numbers.

use std::time::Duration;

/// The middle value; of an even number the mean of the two in the middle. Zero of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// Zero when there is nothing to divide by.
pub fn ratio(dividend: f64, divisor: f64) -> f64 {
    if divisor == 0.0 { 0.0 } else { dividend / divisor }
}

/// What so many percent of the durations did not exceed. Zero of none.
pub fn quantile(durations: &[Duration], percent: usize) -> Duration {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_several() {
        assert_eq!(median([]), 0.0);
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0]), 2.5);
    }

    #[test]
    fn quantiles_count_from_the_shortest() {
        let durations: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        let of = |percent| quantile(&durations, percent).as_millis();
        assert_eq!((of(50), of(99)), (50, 99));
        assert_eq!(quantile(&[], 50), Duration::ZERO);
    }
}
