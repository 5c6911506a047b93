//! Criterion benchmarks, one file per question.
