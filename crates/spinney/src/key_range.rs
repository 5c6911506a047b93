//! Which keys: Rust's range expressions over anything that is bytes, and prefixes.

use std::ops::{Bound, Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

/// A range of keys: any range expression whose ends are bytes (`"a".."b"`, `key..`, `..=&vec[..]`), `..` for all,
/// or a pair of [`Bound`]s. A range whose start lies behind its end is empty.
///
/// [`RangeBounds`](std::ops::RangeBounds) is not used because a plain `..` would leave its element type open.
pub trait KeyRange {
    /// Where it starts.
    fn start(&self) -> Bound<&[u8]>;
    /// Where it ends.
    fn end(&self) -> Bound<&[u8]>;
}

impl KeyRange for RangeFull {
    fn start(&self) -> Bound<&[u8]> {
        Bound::Unbounded
    }

    fn end(&self) -> Bound<&[u8]> {
        Bound::Unbounded
    }
}

impl<K: AsRef<[u8]>> KeyRange for Range<K> {
    fn start(&self) -> Bound<&[u8]> {
        Bound::Included(self.start.as_ref())
    }

    fn end(&self) -> Bound<&[u8]> {
        Bound::Excluded(self.end.as_ref())
    }
}

impl<K: AsRef<[u8]>> KeyRange for RangeFrom<K> {
    fn start(&self) -> Bound<&[u8]> {
        Bound::Included(self.start.as_ref())
    }

    fn end(&self) -> Bound<&[u8]> {
        Bound::Unbounded
    }
}

impl<K: AsRef<[u8]>> KeyRange for RangeTo<K> {
    fn start(&self) -> Bound<&[u8]> {
        Bound::Unbounded
    }

    fn end(&self) -> Bound<&[u8]> {
        Bound::Excluded(self.end.as_ref())
    }
}

impl<K: AsRef<[u8]>> KeyRange for RangeInclusive<K> {
    fn start(&self) -> Bound<&[u8]> {
        Bound::Included(self.start().as_ref())
    }

    fn end(&self) -> Bound<&[u8]> {
        Bound::Included(self.end().as_ref())
    }
}

impl<K: AsRef<[u8]>> KeyRange for RangeToInclusive<K> {
    fn start(&self) -> Bound<&[u8]> {
        Bound::Unbounded
    }

    fn end(&self) -> Bound<&[u8]> {
        Bound::Included(self.end.as_ref())
    }
}

impl<K: AsRef<[u8]>> KeyRange for (Bound<K>, Bound<K>) {
    fn start(&self) -> Bound<&[u8]> {
        as_bytes(&self.0)
    }

    fn end(&self) -> Bound<&[u8]> {
        as_bytes(&self.1)
    }
}

impl<R: KeyRange + ?Sized> KeyRange for &R {
    fn start(&self) -> Bound<&[u8]> {
        (**self).start()
    }

    fn end(&self) -> Bound<&[u8]> {
        (**self).end()
    }
}

fn as_bytes<K: AsRef<[u8]>>(bound: &Bound<K>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) => Bound::Included(key.as_ref()),
        Bound::Excluded(key) => Bound::Excluded(key.as_ref()),
        Bound::Unbounded => Bound::Unbounded,
    }
}

/// The keys that begin with `prefix`: up to, not including, the first key behind all of them.
pub(crate) fn prefix_range(prefix: &[u8]) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let mut end = prefix.to_vec();
    // 0xFF has no successor of its length: the byte before it carries.
    while end.last() == Some(&0xFF) {
        end.pop();
    }
    let end = match end.last_mut() {
        Some(last) => {
            *last += 1;
            Bound::Excluded(end)
        }
        None => Bound::Unbounded,
    };
    (Bound::Included(prefix.to_vec()), end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contains(range: &impl KeyRange, key: &[u8]) -> bool {
        std::ops::RangeBounds::<[u8]>::contains(&(range.start(), range.end()), key)
    }

    proptest! {
        #[test]
        fn a_prefix_range_holds_what_begins_with_it(
            prefix in prop::collection::vec(prop_oneof![Just(0u8), Just(0xFE), Just(0xFF)], 0..4),
            key in prop::collection::vec(prop_oneof![Just(0u8), Just(0xFE), Just(0xFF)], 0..6),
        ) {
            prop_assert_eq!(contains(&prefix_range(&prefix), &key), key.starts_with(&prefix));
        }
    }
}
