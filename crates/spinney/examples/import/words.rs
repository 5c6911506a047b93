//! What a word is, and where it stands in the index.

use std::collections::BTreeMap;

/// Shorter words say nothing.
const CHARS_MIN: usize = 3;
/// Longer ones are no words.
const BYTES_MAX: usize = 48;
/// Between word and path, and in no word.
const BETWEEN: u8 = 0;

/// How often each word occurs in a text, in lower case; nothing in what is not UTF-8.
pub(crate) fn count(content: &[u8]) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for word in str::from_utf8(content).unwrap_or_default().split(|c: char| !c.is_alphanumeric()) {
        if word.len() <= BYTES_MAX && word.chars().nth(CHARS_MIN - 1).is_some() && word.contains(char::is_alphabetic) {
            *counts.entry(word.to_lowercase()).or_default() += 1;
        }
    }
    counts
}

/// The key of a word in a file: all files of one word are neighbours.
pub(crate) fn key(word: &str, path: &[u8]) -> Vec<u8> {
    [word.as_bytes(), &[BETWEEN], path].concat()
}

/// What the keys of one word begin with.
pub(crate) fn prefix(word: &str) -> Vec<u8> {
    key(word, b"")
}

/// Word and path of a key.
pub(crate) fn split(key: &[u8]) -> Option<(&str, &[u8])> {
    let at = key.iter().position(|&byte| byte == BETWEEN)?;
    Some((str::from_utf8(&key[..at]).ok()?, &key[at + 1..]))
}
