//! Subtrees that no table reaches any more and whose pages are freed bit by bit.

/// A subtree that waits to be freed; an entry of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grave {}
