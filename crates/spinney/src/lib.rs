//! Embedded transactional key-value store: many column families in one file.
#![forbid(unsafe_code)]
