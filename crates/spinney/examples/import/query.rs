//! What can be asked: words of all extensions together, from one snapshot.

use crate::{Result, tree::Kind, words};
use spinney::{Database, Family, Snapshot};
use std::collections::{BTreeMap, BTreeSet};

/// The words of all kinds.
pub(crate) struct Index<'a> {
    snapshot: &'a Snapshot,
    families: Vec<Family>,
}

impl<'a> Index<'a> {
    pub(crate) fn open(db: &Database, snapshot: &'a Snapshot, kinds: &[Kind]) -> Result<Self> {
        let mut families = Vec::new();
        for kind in kinds {
            families.extend(db.open_family(&kind.words_family())?);
        }
        Ok(Self { snapshot, families })
    }

    /// Words that begin with `prefix` and have at least so many characters, the most frequent first.
    pub(crate) fn top(&self, prefix: &str, chars_min: usize) -> Result<Vec<(String, u64)>> {
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for family in &self.families {
            for entry in self.snapshot.prefix(family, prefix) {
                let (key, count) = entry?;
                let (word, _) = words::split(&key).ok_or("a key of the index has no path")?;
                let count = u32::from_le_bytes((*count).try_into()?);
                match sums.get_mut(word) {
                    Some(sum) => *sum += u64::from(count),
                    None => drop(sums.insert(word.to_owned(), count.into())),
                }
            }
        }
        let mut words: Vec<_> = sums.into_iter().filter(|(word, _)| word.chars().count() >= chars_min).collect();
        words.sort_by_key(|(_, sum)| std::cmp::Reverse(*sum));
        Ok(words)
    }

    /// Paths of the files that have both words.
    pub(crate) fn files_with(&self, one: &str, other: &str) -> Result<Vec<Vec<u8>>> {
        let mut both = Vec::new();
        for family in &self.families {
            let (ones, others) = (self.files(family, one)?, self.files(family, other)?);
            both.extend(ones.intersection(&others).cloned());
        }
        Ok(both)
    }

    fn files(&self, family: &Family, word: &str) -> Result<BTreeSet<Vec<u8>>> {
        let entries = self.snapshot.prefix(family, words::prefix(word));
        entries
            .map(|entry| {
                let (key, _) = entry?;
                let (_, path) = words::split(&key).ok_or("a key of the index has no path")?;
                Ok(path.to_vec())
            })
            .collect()
    }
}
