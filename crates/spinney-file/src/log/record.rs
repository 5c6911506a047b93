//! One record of the log: a commit, a checkpoint, or a recovery.

use crate::{
    Descriptor,
    log::RingLayout,
    superblock::{get_u32, get_u64},
};
use bytes::Bytes;
use spinney_alloc::{Extent, Owner, PageNo, Seq, Stamp};

/// A run of pages an image wrote, and what recovery must find there unless the image was synced by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunClaim {
    pub(crate) extent: Extent,
    /// Digest of the run's pages; unused when the record is marked synced.
    pub(crate) digest: u64,
}

/// One owner's share of a commit whose pages are in their final place.
///
/// | at   | size   | field    | meaning                                          |
/// |-----:|-------:|----------|--------------------------------------------------|
/// |    0 |      4 | owner    |                                                  |
/// |    4 |      1 | kind     | 1: image                                         |
/// |    5 |      3 | reserved | zero when written, checked when read             |
/// |    8 |      8 | stamp    | the transaction's last stamp in this owner       |
/// |   16 |     64 | root     | the new descriptor                               |
/// |   80 |      4 | claims   | how many runs follow                             |
/// |   84 |      4 | releases | how many extents follow the claims               |
/// |   88 | 20 x n | claims   | start page u64, pages u32, digest u64            |
/// |      | 12 x n | releases | start page u64, pages u32                        |
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImagePart {
    pub(crate) owner: Owner,
    pub(crate) stamp: Stamp,
    pub(crate) root: Descriptor,
    /// Pages that are in use by this owner from this commit on.
    pub(crate) claims: Vec<RunClaim>,
    /// Pages that older roots of this owner need and this one does not.
    pub(crate) releases: Vec<Extent>,
}

/// One owner's share of a small commit: what it did, to be repeated. Its pages are in memory until a checkpoint or an image.
///
/// | at | size | field    | meaning                                          |
/// |---:|-----:|----------|--------------------------------------------------|
/// |  0 |    4 | owner    |                                                  |
/// |  4 |    1 | kind     | 2: ops                                           |
/// |  5 |    3 | reserved | zero when written, checked when read             |
/// |  8 |    4 | bytes    | of the effects                                   |
/// | 12 |      | effects  | those of the layer above                         |
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpsPart {
    pub(crate) owner: Owner,
    pub(crate) effects: Bytes,
}

/// One owner's share of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LogPart {
    Image(ImagePart),
    Ops(OpsPart),
}

/// A record. It has no seq of its own: the group's header gives the first one's and they count up.
///
/// | at | size | field | meaning                                                                 |
/// |---:|-----:|-------|-------------------------------------------------------------------------|
/// |  0 |    4 | bytes | of the whole record                                                     |
/// |  4 |    1 | kind  | 1 commit, 2 checkpoint with a larger log, 3 recovered, 4 anchor                             |
/// |  5 |    1 | flags | commit: bit 0 synced; others zero when written, checked when read       |
/// |  6 |    2 | parts | commit: how many; checkpoint: log extents                               |
/// |  8 |      |       | commit: the parts; checkpoint: (start u64, pages u64) each; recovered: S u64, seq limit u64, stamp limit u64 |
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// A transaction, all its families at once.
    Commit {
        /// Its pages were on stable storage before it was appended.
        synced: bool,
        /// One per owner.
        parts: Vec<LogPart>,
    },
    /// The log grew for a checkpoint that covers all up to here; from here on it has this layout.
    Checkpoint { log: Vec<Extent> },
    /// Recovery decided that everything after `up_to` never happened; numbers go on from `seq_limit`'s predecessor record.
    Recovered { up_to: Seq, seq_limit: Seq, stamp_limit: Stamp },
    /// The first record after a checkpoint: shows that the log goes on from its superblock.
    Anchor,
}

/// Before the parts of a commit, in bytes.
pub(crate) const RECORD_HEADER_BYTES: usize = 8;
const SYNCED: u8 = 1;
const KIND_COMMIT: u8 = 1;
const KIND_CHECKPOINT: u8 = 2;
const KIND_RECOVERED: u8 = 3;
const KIND_ANCHOR: u8 = 4;
const PART_IMAGE: u8 = 1;
const PART_OPS: u8 = 2;
const PART_HEADER_BYTES: usize = 88;
const OPS_HEADER_BYTES: usize = 12;
const CLAIM_BYTES: usize = 20;
const RELEASE_BYTES: usize = 12;

impl Record {
    /// A commit of small shares, by their owners and effects: what [`encode`](Self::encode) makes of it, without the parts between.
    pub(crate) fn encode_ops<'a>(parts: impl Iterator<Item = (Owner, &'a [u8])> + Clone) -> Vec<u8> {
        let bytes = parts.clone().map(|(_, effects)| OpsPart::encoded_bytes(effects.len())).sum::<usize>();
        let mut out = Vec::with_capacity(RECORD_HEADER_BYTES + bytes);
        out.resize(RECORD_HEADER_BYTES, 0);
        (out[4], out[5]) = (KIND_COMMIT, SYNCED);
        put_count(&mut out, parts.clone().count());
        parts.for_each(|(owner, effects)| encode_ops(&mut out, owner, effects));
        put_bytes(&mut out);
        out
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let parts = match self {
            Self::Commit { parts, .. } => &parts[..],
            _ => &[],
        };
        let mut out = Vec::with_capacity(RECORD_HEADER_BYTES + parts.iter().map(LogPart::bytes).sum::<usize>());
        out.resize(RECORD_HEADER_BYTES, 0);
        match self {
            Self::Commit { synced, parts } => {
                out[4] = KIND_COMMIT;
                out[5] = u8::from(*synced) * SYNCED;
                put_count(&mut out, parts.len());
                parts.iter().for_each(|part| part.encode(&mut out));
            }
            Self::Checkpoint { log } => {
                out[4] = KIND_CHECKPOINT;
                put_count(&mut out, log.len());
                for extent in log {
                    out.extend(extent.start.get().to_le_bytes());
                    out.extend(extent.pages.to_le_bytes());
                }
            }
            Self::Recovered { up_to, seq_limit, stamp_limit } => {
                out[4] = KIND_RECOVERED;
                [up_to.0, seq_limit.0, stamp_limit.0].iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
            Self::Anchor => out[4] = KIND_ANCHOR,
        }
        put_bytes(&mut out);
        out
    }

    /// The first record of `bytes`, which are some of `group`, and what follows it; `None` when it is malformed. Effects share the
    /// group's memory.
    pub(crate) fn decode<'a>(bytes: &'a [u8], group: &Bytes, page_bytes: u32) -> Option<(Self, &'a [u8])> {
        if bytes.len() < 8 {
            return None;
        }
        let len = get_u32(bytes, 0) as usize;
        if len < 8 || len > bytes.len() {
            return None;
        }
        let (record, rest) = bytes.split_at(len);
        // Bits that mean nothing in this version.
        let flags = if record[4] == KIND_COMMIT { SYNCED } else { 0 };
        if record[5] & !flags != 0 {
            return None;
        }
        let count = usize::from(u16::from_le_bytes([record[6], record[7]]));
        let mut body = &record[8..];
        let decoded = match record[4] {
            KIND_COMMIT => {
                let mut parts = Vec::with_capacity(count.min(body.len() / OPS_HEADER_BYTES + 1));
                for _ in 0..count {
                    let (part, after) = LogPart::decode(body, group)?;
                    parts.push(part);
                    body = after;
                }
                Self::Commit { synced: record[5] & SYNCED != 0, parts }
            }
            KIND_CHECKPOINT => {
                let (table, after) = body.split_at_checked(16 * count)?;
                body = after;
                let log = table
                    .chunks_exact(16)
                    .map(|e| Extent::new(get_u64(e, 0), get_u64(e, 8)))
                    .collect::<Option<Vec<_>>>()?;
                RingLayout::new(log.clone(), page_bytes)?;
                Self::Checkpoint { log }
            }
            KIND_RECOVERED => {
                let (numbers, after) = body.split_at_checked(24)?;
                body = after;
                Self::Recovered {
                    up_to: Seq(get_u64(numbers, 0)),
                    seq_limit: Seq(get_u64(numbers, 8)),
                    stamp_limit: Stamp(get_u64(numbers, 16)),
                }
            }
            KIND_ANCHOR => Self::Anchor,
            _ => return None,
        };
        body.is_empty().then_some((decoded, rest))
    }
}

impl ImagePart {
    /// How long an image with so many claims and releases is, in bytes.
    pub(crate) fn encoded_bytes(claims: usize, releases: usize) -> usize {
        PART_HEADER_BYTES + claims * CLAIM_BYTES + releases * RELEASE_BYTES
    }
}

impl OpsPart {
    /// How long a part with so many bytes of effects is.
    pub(crate) fn encoded_bytes(effects: usize) -> usize {
        OPS_HEADER_BYTES + effects
    }
}

impl LogPart {
    /// The image in it, if it is one.
    pub(crate) fn image(&self) -> Option<&ImagePart> {
        match self {
            Self::Image(image) => Some(image),
            Self::Ops(_) => None,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Image(image) => ImagePart::encoded_bytes(image.claims.len(), image.releases.len()),
            Self::Ops(ops) => OpsPart::encoded_bytes(ops.effects.len()),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Image(image) => image.encode(out),
            Self::Ops(ops) => encode_ops(out, ops.owner, &ops.effects),
        }
    }

    fn decode<'a>(bytes: &'a [u8], group: &Bytes) -> Option<(Self, &'a [u8])> {
        if bytes.get(5..8)? != [0; 3] {
            return None;
        }
        match *bytes.get(4)? {
            PART_IMAGE => ImagePart::decode(bytes).map(|(image, rest)| (Self::Image(image), rest)),
            PART_OPS => {
                let (header, rest) = bytes.split_at_checked(OPS_HEADER_BYTES)?;
                let (effects, rest) = rest.split_at_checked(get_u32(header, 8) as usize)?;
                Some((Self::Ops(OpsPart { owner: Owner(get_u32(header, 0)), effects: group.slice_ref(effects) }), rest))
            }
            _ => None,
        }
    }
}

impl ImagePart {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.owner.0.to_le_bytes());
        out.extend([PART_IMAGE, 0, 0, 0]);
        out.extend(self.stamp.0.to_le_bytes());
        out.extend(self.root);
        for count in [self.claims.len(), self.releases.len()] {
            out.extend(u32::try_from(count).expect("fewer extents than pages").to_le_bytes());
        }
        for claim in &self.claims {
            put_extent(out, claim.extent);
            out.extend(claim.digest.to_le_bytes());
        }
        self.releases.iter().for_each(|&extent| put_extent(out, extent));
    }

    fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (header, rest) = bytes.split_at_checked(PART_HEADER_BYTES)?;
        let (claims, rest) = rest.split_at_checked((get_u32(header, 80) as usize).checked_mul(CLAIM_BYTES)?)?;
        let (releases, rest) = rest.split_at_checked((get_u32(header, 84) as usize).checked_mul(RELEASE_BYTES)?)?;
        let part = Self {
            owner: Owner(get_u32(header, 0)),
            stamp: Stamp(get_u64(header, 8)),
            root: header[16..80].try_into().expect("64 bytes"),
            claims: claims
                .chunks_exact(CLAIM_BYTES)
                .map(|c| Some(RunClaim { extent: get_extent(c)?, digest: get_u64(c, 12) }))
                .collect::<Option<_>>()?,
            releases: releases.chunks_exact(RELEASE_BYTES).map(get_extent).collect::<Option<_>>()?,
        };
        Some((part, rest))
    }
}

fn encode_ops(out: &mut Vec<u8>, owner: Owner, effects: &[u8]) {
    out.extend(owner.0.to_le_bytes());
    out.extend([PART_OPS, 0, 0, 0]);
    out.extend(u32::try_from(effects.len()).expect("a small part of the log").to_le_bytes());
    out.extend_from_slice(effects);
}

/// How long a record is, in its place.
fn put_bytes(out: &mut [u8]) {
    let bytes = u32::try_from(out.len()).expect("a record is far below 4 GiB");
    out[..4].copy_from_slice(&bytes.to_le_bytes());
}

fn put_count(out: &mut [u8], count: usize) {
    out[6..8].copy_from_slice(&u16::try_from(count).expect("bounded by the caller").to_le_bytes());
}

fn put_extent(out: &mut Vec<u8>, extent: Extent) {
    out.extend(extent.start.get().to_le_bytes());
    out.extend(u32::try_from(extent.pages).expect("extents end at a map region's end").to_le_bytes());
}

fn get_extent(bytes: &[u8]) -> Option<Extent> {
    PageNo::new(get_u64(bytes, 0)).and_then(|start| Extent::new(start.get(), u64::from(get_u32(bytes, 8))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_the_round_trip_and_reject_every_truncation() {
        let records = [
            Record::Commit {
                synced: false,
                parts: vec![
                    LogPart::Ops(OpsPart { owner: Owner(7), effects: Bytes::from_static(b"effects") }),
                    LogPart::Image(ImagePart {
                        owner: Owner(4),
                        stamp: Stamp(9),
                        root: [5; 64],
                        claims: vec![RunClaim { extent: Extent::new(70, 3).unwrap(), digest: 42 }],
                        releases: vec![Extent::new(9, 1).unwrap(), Extent::new(12, 2).unwrap()],
                    }),
                ],
            },
            Record::Checkpoint { log: vec![Extent::new(6, 16).unwrap()] },
            Record::Recovered { up_to: Seq(8), seq_limit: Seq(100), stamp_limit: Stamp(200) },
            Record::Anchor,
        ];
        for record in records {
            let decoded = |bytes: &[u8]| {
                let group = Bytes::copy_from_slice(bytes);
                Record::decode(&group, &group, 4096).map(|(record, rest)| (record, rest.to_vec()))
            };
            let bytes = record.encode();
            assert_eq!(decoded(&bytes), Some((record.clone(), Vec::new())));
            let ops = Record::encode_ops([(Owner(7), &b"effects"[..]), (Owner(0), b"")].into_iter());
            let parts = [(7, &b"effects"[..]), (0, b"")];
            let parts = parts.map(|(n, e)| LogPart::Ops(OpsPart { owner: Owner(n), effects: Bytes::from_static(e) }));
            assert_eq!(ops, Record::Commit { synced: true, parts: parts.to_vec() }.encode());
            for bit in 1..8 {
                let mut newer = bytes.clone();
                newer[5] ^= 1 << bit;
                assert_eq!(decoded(&newer), None, "flag {bit} of {record:?}");
            }
            for len in 0..bytes.len() {
                assert_eq!(decoded(&bytes[..len]), None);
                let mut shorter = bytes[..len].to_vec();
                if len >= 8 {
                    shorter[..4].copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
                    assert_eq!(decoded(&shorter), None, "{record:?} cut to {len}");
                }
            }
        }
    }
}
