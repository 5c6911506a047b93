//! What a transaction did to a family, for a log that repeats it: effects only, never pages.
//!
//! ```text
//!   insert, remove, ... --note--> [effects of the part] --shorten, at store--> log --replay--> the same contents
//! ```
//! Freeing the graveyard, and what changes in the directory because a table changed, are no effects: they follow from others,
//! or leave the contents as they are.
#![expect(clippy::cast_possible_truncation, reason = "the low byte of a number is taken on purpose")]

use crate::{range::Bounds, root::TableId};
use spinney_file::Part;
use std::ops::{Bound, Range};

/// The effects of one commit, as the log keeps them. No effect at all: no byte at all. Lengths and table ids are LEB128: seven
/// bits per byte, the lowest first, bit 7 set in all but the last, never longer than needed.
///
/// | at | size | field   | meaning                            |
/// |---:|-----:|---------|------------------------------------|
/// |  0 |    1 | version | of this format: 1                  |
/// |  1 |      | effects | one after the other, in order      |
///
/// | effect       | kind | bytes after the first one                                                          |
/// |--------------|-----:|------------------------------------------------------------------------------------|
/// | put          |    1 | table, key length, value length, key, value                                        |
/// | delete       |    2 | table, key length, key                                                             |
/// | delete range |    3 | table, then of each end that there is, the start first: key length, key            |
/// | clear        |    4 | table                                                                              |
/// | create table |    5 | table                                                                              |
/// | drop table   |    6 | table                                                                              |
/// | drop all     |    7 | none: every table is empty or gone                                                 |
///
/// | bits of the first byte | meaning                                                              |
/// |-----------------------:|----------------------------------------------------------------------|
/// |                   0..3 | kind; 0 is never valid                                               |
/// |                      3 | the table's id follows; else it is the default table, without bytes  |
/// |                   4..6 | delete range: the start. 0 none, 1 included, 2 excluded; else zero   |
/// |                   6..8 | delete range: the end, likewise                                      |
///
/// A put into the default table takes 4 bytes more than a short key and a value of 128 bytes to 16 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect<'a> {
    Put { table: TableId, key: &'a [u8], value: &'a [u8] },
    Delete { table: TableId, key: &'a [u8] },
    DeleteRange { table: TableId, bounds: (Bound<&'a [u8]>, Bound<&'a [u8]>) },
    Clear(TableId),
    CreateTable(TableId),
    DropTable(TableId),
    DropAll,
}

const VERSION: u8 = 1;

mod kind {
    pub(super) const PUT: u8 = 1;
    pub(super) const DELETE: u8 = 2;
    pub(super) const DELETE_RANGE: u8 = 3;
    pub(super) const CLEAR: u8 = 4;
    pub(super) const CREATE_TABLE: u8 = 5;
    pub(super) const DROP_TABLE: u8 = 6;
    pub(super) const DROP_ALL: u8 = 7;
    pub(super) const MASK: u8 = 7;
    pub(super) const HAS_TABLE: u8 = 8;
    pub(super) const START_SHIFT: u8 = 4;
    pub(super) const END_SHIFT: u8 = 6;
}

/// A commit with a longer key, value or end of a range than this writes its pages: the log would cost as much.
pub(crate) const PIECE_BYTES_MAX: usize = 64 << 10;

/// The bytes of an effect before a key: the first one, a table id and two lengths.
#[derive(Debug)]
struct Head {
    bytes: [u8; 1 + 3 * VARINT_BYTES_MAX],
    len: usize,
}

/// A `u32` as LEB128.
const VARINT_BYTES_MAX: usize = 5;

impl Head {
    const NONE: Self = Self { bytes: [0; 16], len: 0 };

    #[inline]
    fn new(first: u8, table: TableId) -> Self {
        let mut head = Self::NONE;
        head.bytes[0] = first;
        head.len = 1;
        if table != TableId::DEFAULT {
            head.bytes[0] |= kind::HAS_TABLE;
            head.varint(table.0);
        }
        head
    }

    #[inline]
    fn varint(&mut self, mut n: u32) {
        while n >= 0x80 {
            self.bytes[self.len] = n as u8 | 0x80;
            self.len += 1;
            n >>= 7;
        }
        self.bytes[self.len] = n as u8;
        self.len += 1;
    }

    #[inline]
    fn length(&mut self, piece: &[u8]) {
        self.varint(u32::try_from(piece.len()).expect("no piece is longer than PIECE_BYTES_MAX"));
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl<'a> Effect<'a> {
    /// Lends the pieces of the encoded effect to `write`.
    #[inline]
    fn encode<R>(&self, write: impl FnOnce(&[&[u8]]) -> R) -> R {
        match *self {
            Self::Put { table, key, value } => {
                let mut head = Head::new(kind::PUT, table);
                head.length(key);
                head.length(value);
                write(&[head.bytes(), key, value])
            }
            Self::Delete { table, key } => {
                let mut head = Head::new(kind::DELETE, table);
                head.length(key);
                write(&[head.bytes(), key])
            }
            Self::DeleteRange { table, bounds } => {
                let (start_kind, start) = split(bounds.0);
                let (end_kind, end) = split(bounds.1);
                let first = kind::DELETE_RANGE | start_kind << kind::START_SHIFT | end_kind << kind::END_SHIFT;
                let (mut head, mut between) = (Head::new(first, table), Head::NONE);
                if let Some(start) = start {
                    head.length(start);
                }
                if let Some(end) = end {
                    between.length(end);
                }
                write(&[head.bytes(), start.unwrap_or_default(), between.bytes(), end.unwrap_or_default()])
            }
            Self::Clear(table) => write(&[Head::new(kind::CLEAR, table).bytes()]),
            Self::CreateTable(table) => write(&[Head::new(kind::CREATE_TABLE, table).bytes()]),
            Self::DropTable(table) => write(&[Head::new(kind::DROP_TABLE, table).bytes()]),
            Self::DropAll => write(&[&[kind::DROP_ALL]]),
        }
    }

    /// The longest key, value or end of a range.
    #[inline]
    fn longest_piece(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len().max(value.len()),
            Self::Delete { key, .. } => key.len(),
            Self::DeleteRange { bounds, .. } => {
                let len = |bound| split(bound).1.map_or(0, <[u8]>::len);
                len(bounds.0).max(len(bounds.1))
            }
            Self::Clear(_) | Self::CreateTable(_) | Self::DropTable(_) | Self::DropAll => 0,
        }
    }

    /// The removal of a range.
    pub(crate) fn range(table: TableId, bounds: &'a Bounds) -> Self {
        let lend = |bound: &'a Bound<Vec<u8>>| bound.as_ref().map(Vec::as_slice);
        Self::DeleteRange { table, bounds: (lend(&bounds.0), lend(&bounds.1)) }
    }
}

fn split(bound: Bound<&[u8]>) -> (u8, Option<&[u8]>) {
    match bound {
        Bound::Unbounded => (0, None),
        Bound::Included(key) => (1, Some(key)),
        Bound::Excluded(key) => (2, Some(key)),
    }
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
        let kind = first & kind::MASK;
        if kind != kind::DELETE_RANGE && first & !(kind::MASK | kind::HAS_TABLE) != 0 {
            return Err("an effect has bits that mean nothing");
        }
        let table = match first & kind::HAS_TABLE {
            0 => TableId::DEFAULT,
            _ => match TableId(self.varint()?) {
                TableId::DEFAULT | TableId::DIRECTORY => return Err("an effect names an impossible table"),
                other => other,
            },
        };
        Ok(match kind {
            kind::PUT => {
                let (key_len, value_len) = (self.varint()?, self.varint()?);
                Effect::Put { table, key: self.take(key_len)?, value: self.take(value_len)? }
            }
            kind::DELETE => Effect::Delete { table, key: self.piece()? },
            kind::DELETE_RANGE => {
                let start = self.bound(first >> kind::START_SHIFT & 3)?;
                Effect::DeleteRange { table, bounds: (start, self.bound(first >> kind::END_SHIFT)?) }
            }
            kind::CLEAR => Effect::Clear(table),
            kind::CREATE_TABLE | kind::DROP_TABLE if table == TableId::DEFAULT => {
                return Err("an effect creates or drops the default table");
            }
            kind::CREATE_TABLE => Effect::CreateTable(table),
            kind::DROP_TABLE => Effect::DropTable(table),
            kind::DROP_ALL if table == TableId::DEFAULT => Effect::DropAll,
            _ => return Err("an effect of unknown kind"),
        })
    }

    fn bound(&mut self, kind: u8) -> Result<Bound<&'a [u8]>, &'static str> {
        Ok(match kind {
            0 => Bound::Unbounded,
            1 => Bound::Included(self.piece()?),
            2 => Bound::Excluded(self.piece()?),
            _ => return Err("an effect has an end of a range of unknown kind"),
        })
    }

    fn piece(&mut self) -> Result<&'a [u8], &'static str> {
        let len = self.varint()?;
        self.take(len)
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

/// What becomes of one key: the last one counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point<'a> {
    pub(crate) table: TableId,
    /// Place among those gathered.
    order: u32,
    /// The first bytes of the key as a number, missing ones zero: most comparisons end here.
    head: u64,
    pub(crate) key: &'a [u8],
    /// `None`: it is deleted.
    pub(crate) value: Option<&'a [u8]>,
}

/// Effects on single keys, until something else comes between them.
#[derive(Debug, Default)]
pub(crate) struct Points<'a>(Vec<Point<'a>>);

impl<'a> Points<'a> {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes a put or a delete; gives back any other effect.
    #[inline]
    pub(crate) fn gather(&mut self, effect: Effect<'a>) -> Result<(), Effect<'a>> {
        let (table, key, value) = match effect {
            Effect::Put { table, key, value } => (table, key, Some(value)),
            Effect::Delete { table, key } => (table, key, None),
            other => return Err(other),
        };
        let head = match key.first_chunk() {
            Some(head) => u64::from_be_bytes(*head),
            None => {
                let mut head = [0; 8];
                head[..key.len()].copy_from_slice(key);
                u64::from_be_bytes(head)
            }
        };
        let order = u32::try_from(self.0.len()).expect("fewer effects than bytes, and those are limited");
        self.0.push(Point { table, order, head, key, value });
        Ok(())
    }

    /// The last one of each key, sorted by table and key.
    pub(crate) fn finals(&mut self) -> &[Point<'a>] {
        let place = |p: &Point<'a>| (p.table, p.head, p.key, p.order);
        self.0.sort_unstable_by(|a, b| place(a).cmp(&place(b)));
        self.0.dedup_by(|later, kept| {
            let same = later.table == kept.table && later.key == kept.key;
            if same {
                *kept = *later;
            }
            same
        });
        &self.0
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Writes the finals to `out` and begins anew; says where the last one has its key there.
    fn finish(&mut self, out: &mut Vec<u8>) -> Option<(TableId, Range<usize>)> {
        let mut last = None;
        for &Point { table, key, value, .. } in self.finals() {
            let effect = match value {
                Some(value) => Effect::Put { table, key, value },
                None => Effect::Delete { table, key },
            };
            effect.encode(|pieces| pieces.iter().for_each(|piece| out.extend_from_slice(piece)));
            last = key_at(&effect, out.len());
        }
        self.clear();
        last
    }
}

/// Where an effect on a single key has its key, by where the effect ends.
fn key_at(effect: &Effect<'_>, end: usize) -> Option<(TableId, Range<usize>)> {
    let (table, key, end) = match *effect {
        Effect::Put { table, key, value } => (table, key, end - value.len()),
        Effect::Delete { table, key } => (table, key, end),
        _ => return None,
    };
    Some((table, end - key.len()..end))
}

/// Notes a transaction's effects in its part.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// The newest effect when it is on a single key: the table, and where the key is in the part's effects.
    last: Option<(TableId, Range<usize>)>,
    /// Some effect on a single key came after one on the same key or a higher one: there may be something to shorten.
    unsorted: bool,
    /// What [`shorten`](Notes::shorten) writes to; then the effects before that.
    buffer: Vec<u8>,
}

impl Notes {
    /// Notes what an operation has done. Costs a copy of the effect; nothing when the commit writes its pages.
    #[inline]
    pub(crate) fn note(&mut self, part: &mut Part, effect: Effect<'_>) {
        if part.logs_effects() {
            self.append(part, effect);
        }
    }

    fn append(&mut self, part: &mut Part, effect: Effect<'_>) {
        if effect.longest_piece() > PIECE_BYTES_MAX {
            part.write_pages();
            return;
        }
        let Some(noted) = part.effects_mut() else { return };
        if effect == Effect::DropAll {
            noted.clear(); // nothing is left of what they did
            (self.last, self.unsorted) = (None, false);
        }
        if let (Effect::Put { table, key, .. } | Effect::Delete { table, key }, Some((last_table, last_key))) =
            (effect, &self.last)
        {
            let last_key = noted.get(last_key.clone()); // `None`: somebody else shortened them
            self.unsorted |= last_key.is_none_or(|last_key| (table, key) <= (*last_table, last_key));
        }
        if noted.is_empty() {
            noted.push(VERSION);
        }
        effect.encode(|pieces| part.log_effect(pieces));
        let Some(noted) = part.effects_mut() else { return };
        self.last = key_at(&effect, noted.len());
    }

    /// Leaves the final value per key, sorted, between effects of other sorts. Costs nothing when the keys came in order.
    pub(crate) fn shorten(&mut self, part: &mut Part) {
        if !self.unsorted {
            return;
        }
        self.unsorted = false;
        let Some(noted) = part.effects_mut().filter(|noted| !noted.is_empty()) else { return };
        self.buffer.clear();
        self.buffer.reserve(noted.len());
        self.buffer.push(VERSION);
        let mut points = Points::default();
        for effect in Effects::decode(noted).expect("noted here") {
            if let Err(other) = points.gather(effect.expect("noted here")) {
                points.finish(&mut self.buffer);
                other.encode(|pieces| pieces.iter().for_each(|piece| self.buffer.extend_from_slice(piece)));
            }
        }
        self.last = points.finish(&mut self.buffer);
        std::mem::swap(noted, &mut self.buffer);
    }
}
