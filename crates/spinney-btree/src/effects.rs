//! What a small transaction did to a family, for the log: the final value of each key, never pages.
#![expect(clippy::cast_possible_truncation, reason = "the low byte of a number is taken on purpose")]

use crate::{limits::Limits, root::TableId};

/// The effects of one commit, as the log keeps them, by table and key in ascending order. No effect at all: no byte at all. Lengths and
/// table ids are LEB128: seven bits per byte, the lowest first, bit 7 set in all but the last, never longer than needed.
///
/// | at | size | field   | meaning                            |
/// |---:|-----:|---------|------------------------------------|
/// |  0 |    1 | version | of this format: 1                  |
/// |  1 |      | effects | one after the other, in order      |
///
/// | effect | kind | bytes after the first one                   |
/// |--------|-----:|---------------------------------------------|
/// | put    |    1 | table, key length, value length, key, value |
/// | delete |    2 | table, key length, key                      |
///
/// | bits of the first byte | meaning                                                             |
/// |-----------------------:|---------------------------------------------------------------------|
/// |                   0..3 | kind; no other is valid                                             |
/// |                      3 | the table's id follows; else it is the default table, without bytes |
/// |                      4 | the key was there before the commit, so entries stay as many, or become one fewer |
/// |                      5 | nobody looked whether it was there; bit 4 is zero then             |
/// |                   6..8 | zero                                                                |
///
/// A put into the default table takes 4 bytes more than a short key and a value of 128 bytes to 16 KiB. Whatever else a transaction can
/// do, it does to pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Effect<'a> {
    pub(crate) table: TableId,
    pub(crate) key: &'a [u8],
    /// `None`: it is deleted.
    pub(crate) value: Option<&'a [u8]>,
    /// Whether the key was there before; `None`: nobody looked.
    pub(crate) existed: Option<bool>,
}

const VERSION: u8 = 1;

mod kind {
    pub(super) const PUT: u8 = 1;
    pub(super) const DELETE: u8 = 2;
    pub(super) const MASK: u8 = 7;
    pub(super) const HAS_TABLE: u8 = 8;
    pub(super) const EXISTED: u8 = 16;
    pub(super) const UNKNOWN: u8 = 32;
}

/// A transaction with a longer key or value than this changes pages: the log would cost as much.
pub(crate) const PIECE_BYTES_MAX: usize = 64 << 10;

/// A `u32` as LEB128.
const VARINT_BYTES_MAX: usize = 5;

impl Effect<'_> {
    /// Adds it to the effects of a commit.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        if out.is_empty() {
            out.push(VERSION);
        }
        let kind = if self.value.is_some() { kind::PUT } else { kind::DELETE };
        let has_table = u8::from(self.table != TableId::DEFAULT) * kind::HAS_TABLE;
        let existed = self.existed.map_or(kind::UNKNOWN, |existed| u8::from(existed) * kind::EXISTED);
        out.push(kind | has_table | existed);
        if has_table != 0 {
            put_varint(out, self.table.0);
        }
        put_length(out, self.key);
        self.value.iter().for_each(|value| put_length(out, value));
        out.extend_from_slice(self.key);
        self.value.iter().for_each(|value| out.extend_from_slice(value));
    }
}

fn put_length(out: &mut Vec<u8>, piece: &[u8]) {
    put_varint(out, u32::try_from(piece.len()).expect("no piece is longer than PIECE_BYTES_MAX"));
}

fn put_varint(out: &mut Vec<u8>, mut n: u32) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// The effects of one commit, in order; ends with the first that does not fit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effects<'a> {
    rest: &'a [u8],
}

impl<'a> Effects<'a> {
    /// The effects in what the log kept of one commit.
    ///
    /// # Errors
    /// What does not fit, in words.
    pub(crate) fn decode(commit: &'a [u8]) -> Result<Self, &'static str> {
        match commit {
            [] => Ok(Self { rest: &[] }),
            [VERSION] => Err("the effects of a commit are a version and nothing else"),
            [VERSION, rest @ ..] => Ok(Self { rest }),
            _ => Err("the effects of a commit have an unknown version"),
        }
    }

    fn effect(&mut self) -> Result<Effect<'a>, &'static str> {
        let first = self.take(1)?[0];
        if first & !(kind::MASK | kind::HAS_TABLE | kind::EXISTED | kind::UNKNOWN) != 0 {
            return Err("an effect has bits that mean nothing");
        }
        let existed = match first & (kind::EXISTED | kind::UNKNOWN) {
            0 => Some(false),
            kind::EXISTED => Some(true),
            kind::UNKNOWN => None,
            _ => return Err("an effect knows what it does not know"),
        };
        let table = match first & kind::HAS_TABLE {
            0 => TableId::DEFAULT,
            _ => match TableId(self.varint()?) {
                TableId::DEFAULT | TableId::DIRECTORY => return Err("an effect names an impossible table"),
                other => other,
            },
        };
        match first & kind::MASK {
            kind::PUT => {
                let (key_len, value_len) = (self.varint()?, self.varint()?);
                Ok(Effect { table, key: self.take(key_len)?, value: Some(self.take(value_len)?), existed })
            }
            kind::DELETE => {
                let key_len = self.varint()?;
                Ok(Effect { table, key: self.take(key_len)?, value: None, existed })
            }
            _ => Err("an effect of unknown kind"),
        }
    }

    #[inline]
    fn take(&mut self, len: u32) -> Result<&'a [u8], &'static str> {
        let len = usize::try_from(len).map_err(|_| "an effect is larger than memory")?;
        let (piece, rest) = self.rest.split_at_checked(len).ok_or("an effect ends after its commit")?;
        self.rest = rest;
        Ok(piece)
    }

    #[inline]
    fn varint(&mut self) -> Result<u32, &'static str> {
        let mut n = 0;
        for i in 0..VARINT_BYTES_MAX {
            let byte = self.take(1)?[0];
            let bits = u32::from(byte & 0x7F);
            if i == VARINT_BYTES_MAX - 1 && bits > 0xF {
                break;
            }
            n |= bits << (7 * i);
            if byte < 0x80 {
                return if byte == 0 && i > 0 { Err("a number in an effect is too long") } else { Ok(n) };
            }
        }
        Err("a number in an effect is too large")
    }
}

impl<'a> Iterator for Effects<'a> {
    type Item = Result<Effect<'a>, &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let effect = self.effect();
        if effect.is_err() {
            self.rest = &[];
        }
        Some(effect)
    }
}

/// Looks through the effects of a commit that a log has, in a file with such pages: each must be one that a transaction tells, and
/// their order the one it tells them in, with which no key comes twice.
///
/// # Errors
/// What does not fit, in words.
pub(crate) fn check(commit: &[u8], page_bytes: usize) -> Result<(), &'static str> {
    let key_bytes_max = Limits::new(page_bytes).key_bytes_max;
    let mut last = None;
    for effect in Effects::decode(commit)? {
        let Effect { table, key, .. } = effect?;
        if key.len() > key_bytes_max {
            return Err("an effect has a key that is too long");
        }
        if last.is_some_and(|last| last >= (table, key)) {
            return Err("the effects of a commit are not in order");
        }
        last = Some((table, key));
    }
    Ok(())
}

/// What becomes of one key of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point<'a> {
    pub(crate) key: &'a [u8],
    /// `None`: it is deleted.
    pub(crate) value: Option<&'a [u8]>,
}

/// The first bytes of a key as a number, missing ones zero: most comparisons end here.
#[inline]
pub(crate) fn head_of(key: &[u8]) -> u64 {
    match key.first_chunk() {
        Some(head) => u64::from_be_bytes(*head),
        None => {
            let mut head = [0; 8];
            head[..key.len()].copy_from_slice(key);
            u64::from_be_bytes(head)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn effects_survive_the_round_trip_and_bytes_that_are_none_are_refused(
            effects in prop::collection::vec((0..3_u32, prop::collection::vec(any::<u8>(), 0..300),
                prop::option::of(prop::collection::vec(any::<u8>(), 0..300)), any::<Option<bool>>()), 0..8),
            cut in any::<prop::sample::Index>(), turned in any::<u8>(),
        ) {
            let mut bytes = Vec::new();
            for (table, key, value, existed) in &effects {
                let (table, value) = (TableId(*table), value.as_deref());
                Effect { table, key, value, existed: *existed }.encode(&mut bytes);
            }
            let decoded: Vec<_> = Effects::decode(&bytes).unwrap().map(Result::unwrap).collect();
            prop_assert_eq!(decoded.len(), effects.len());
            for (decoded, (table, key, value, existed)) in decoded.iter().zip(&effects) {
                prop_assert_eq!(decoded, &Effect { table: TableId(*table), key, value: value.as_deref(), existed: *existed });
            }
            if !bytes.is_empty() {
                // Never more than there were, whatever is wrong with them.
                let at = cut.index(bytes.len());
                let whole = |bytes: &[u8]| Effects::decode(bytes).map_or(0, |found| found.filter(Result::is_ok).count());
                prop_assert!(whole(&bytes[..at]) <= effects.len());
                let len = bytes.len();
                bytes[at] ^= turned;
                prop_assert!(whole(&bytes) <= len);
            }
        }
    }
}
