//! A copy-on-write B+tree on a paged file.
#![forbid(unsafe_code)]
