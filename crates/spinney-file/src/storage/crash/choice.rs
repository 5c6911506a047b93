//! What one crash left, in terms of what was pending: enough to make the image again from one line of text.

use crate::storage::sim_disk::{
    blocks::{BLOCK_BYTES, BlockMap, SECTOR_BYTES},
    log::{Call, Step},
    random::Random,
    state::{Data, DiskState, Effect},
};
use std::{fmt, fmt::Write as _, sync::Arc};

/// How a cut ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    Power(PowerChoice),
    /// The process died; so many bytes of the write in flight had been taken.
    Kill {
        bytes: u64,
    },
}

/// What the disk kept of the pending pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PowerChoice {
    /// For each pending piece of bytes, in the order of issue, its sectors that arrived.
    pub(crate) masks: Vec<u8>,
    /// How many of the pending changes of length arrived; they arrive in order.
    pub(crate) lengths: usize,
    pub(crate) garbage: Option<Garbage>,
}

/// A sector that was being written when the power failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Garbage {
    pub(crate) piece: usize,
    pub(crate) sector: usize,
    pub(crate) seed: u64,
}

impl PowerChoice {
    /// The file as it is when the power comes back.
    pub(crate) fn image(&self, state: &DiskState) -> BlockMap {
        let mut map = state.durable.clone();
        let mut bytes_now = map.len();
        let mut masks = self.masks.iter();
        let mut lengths_left = self.lengths;
        for piece in &state.pending {
            match &piece.effect {
                Effect::Length(bytes) => {
                    if lengths_left > 0 {
                        lengths_left -= 1;
                        if *bytes < bytes_now {
                            map.set_len(*bytes);
                        }
                        bytes_now = *bytes;
                    }
                }
                effect => match masks.next() {
                    None | Some(0) => {}
                    Some(mask) => effect.lay_over(&mut map, *mask),
                },
            }
        }
        if let Some(garbage) = &self.garbage
            && let Some(Effect::Bytes { block, .. }) = pieces_of_bytes(state).nth(garbage.piece)
        {
            let mut random = Random::new(garbage.seed);
            let sector: Vec<u8> = (0..SECTOR_BYTES / 8).flat_map(|_| random.next().to_le_bytes()).collect();
            map.write_part(*block, garbage.sector * SECTOR_BYTES, &sector);
        }
        // Pieces beyond the length are gone, whatever arrived of them.
        map.set_len(bytes_now);
        map
    }
}

/// The pending pieces that `PowerChoice::masks` speaks of.
pub(crate) fn pieces_of_bytes(state: &DiskState) -> impl Iterator<Item = &Effect> {
    state.pending.iter().map(|piece| &piece.effect).filter(|effect| matches!(effect, Effect::Bytes { .. }))
}

/// The disk after the process died: writes are visible and still pending.
pub(crate) fn killed(state: &DiskState, in_flight: Option<&Step>, bytes: u64) -> DiskState {
    let mut state = state.clone();
    let Some((issue, at, effects)) = write_in_flight(in_flight).filter(|_| bytes > 0) else { return state };
    let end = at + bytes;
    let mut taken: Vec<Effect> = Vec::new();
    if effects.iter().any(|effect| matches!(effect, Effect::Length(_))) {
        taken.extend(state.lengthened_to(end));
    }
    for effect in effects {
        let Effect::Bytes { block, from, data } = effect else { continue };
        let start = block * BLOCK_BYTES as u64 + *from as u64;
        if start >= end {
            break;
        }
        let length = usize::try_from(end - start).unwrap_or(usize::MAX);
        let data = match data {
            Data::Whole(block) if length < BLOCK_BYTES => Data::Part(block.bytes()[..length].into()),
            Data::Part(part) if length < part.len() => Data::Part(Arc::from(&part[..length])),
            whole => whole.clone(),
        };
        taken.push(Effect::Bytes { block: *block, from: *from, data });
    }
    state.issue(issue, taken);
    state
}

/// The places at which a write in flight can be cut short: between and within its pieces, in bytes from its start.
pub(crate) fn kill_points(in_flight: Option<&Step>) -> Vec<u64> {
    let mut points = vec![0];
    let Some((_, at, effects)) = write_in_flight(in_flight) else { return points };
    for effect in effects {
        let Effect::Bytes { block, from, data } = effect else { continue };
        let start = block * BLOCK_BYTES as u64 + *from as u64 - at;
        let length = match data {
            Data::Whole(_) => BLOCK_BYTES,
            Data::Part(part) => part.len(),
            Data::Zeros(bytes) => *bytes,
        } as u64;
        if length > 1 {
            points.push(start + length / 2);
        }
        points.push(start + length);
    }
    points
}

fn write_in_flight(step: Option<&Step>) -> Option<(u64, u64, &[Effect])> {
    match step? {
        Step::Changed { call: Call::Write { at, .. } | Call::WriteSync { at, .. }, issue, effects } => {
            Some((*issue, *at, effects))
        }
        _ => None,
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let power = match self {
            Self::Kill { bytes } => return write!(f, "kill={bytes}"),
            Self::Power(power) => power,
        };
        write!(f, "keep={} lengths={}", runs_of(&power.masks), power.lengths)?;
        if let Some(Garbage { piece, sector, seed }) = power.garbage {
            write!(f, " garbage={piece}.{sector}.{seed}")?;
        }
        Ok(())
    }
}

/// `0-3:ff,7:0f/9`: pieces 0 to 3 whole, of piece 7 the first four sectors, of nine pieces.
fn runs_of(masks: &[u8]) -> String {
    let mut text = String::new();
    let mut first = 0;
    while first < masks.len() {
        let count = masks[first..].iter().take_while(|mask| **mask == masks[first]).count();
        if masks[first] != 0 {
            let comma = if text.is_empty() { "" } else { "," };
            write!(text, "{comma}{first}-{}:{:02x}", first + count - 1, masks[first]).expect("a string takes all");
        }
        first += count;
    }
    format!("{text}/{}", masks.len())
}

impl Choice {
    /// Reads what `Display` wrote, but for the words that are not about the choice.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut power = PowerChoice { masks: Vec::new(), lengths: 0, garbage: None };
        for (name, value) in text.split_whitespace().filter_map(|word| word.split_once('=')) {
            match name {
                "kill" => return Ok(Self::Kill { bytes: number(value)? }),
                "keep" => power.masks = masks_of(value)?,
                "lengths" => power.lengths = number(value)?,
                "garbage" => {
                    let parts: Vec<&str> = value.split('.').collect();
                    let [piece, sector, seed] = parts[..] else { return Err(format!("garbage: {value}")) };
                    let sector: usize = number(sector)?;
                    if sector >= BLOCK_BYTES / SECTOR_BYTES {
                        return Err(format!("sector {sector} of a block"));
                    }
                    power.garbage = Some(Garbage { piece: number(piece)?, sector, seed: number(seed)? });
                }
                _ => {}
            }
        }
        Ok(Self::Power(power))
    }
}

fn masks_of(text: &str) -> Result<Vec<u8>, String> {
    let (runs, count) = text.split_once('/').ok_or_else(|| format!("keep: {text}"))?;
    let mut masks = vec![0; number(count)?];
    for run in runs.split(',').filter(|run| !run.is_empty()) {
        let parts = run.split_once(':').and_then(|(range, mask)| Some((range.split_once('-')?, mask)));
        let ((first, last), mask) = parts.ok_or_else(|| format!("keep: {run}"))?;
        let mask = u8::from_str_radix(mask, 16).map_err(|error| format!("{mask}: {error}"))?;
        let (first, last) = (number::<usize>(first)?, number::<usize>(last)?);
        masks.get_mut(first..=last).ok_or_else(|| format!("keep: no piece {last}"))?.fill(mask);
    }
    Ok(masks)
}

fn number<T: std::str::FromStr<Err: fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{text}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, option, prelude::*};

    proptest! {
        #[test]
        fn a_choice_survives_its_text(
            masks in vec(prop_oneof![Just(0u8), Just(0xFF), any::<u8>()], 0..20),
            lengths in 0usize..9,
            garbage in option::of((0usize..9, 0usize..8, any::<u64>())),
            kill in option::weighted(0.1, any::<u64>()),
        ) {
            let garbage = garbage.map(|(piece, sector, seed)| Garbage { piece, sector, seed });
            let choice = match kill {
                Some(bytes) => Choice::Kill { bytes },
                None => Choice::Power(PowerChoice { masks, lengths, garbage }),
            };
            prop_assert_eq!(Choice::parse(&format!("cut=7 {choice} # some words")), Ok(choice));
        }
    }

    #[test]
    fn nonsense_is_an_error() {
        for text in
            ["keep=1-2:ff", "keep=1-2:ff/2", "keep=2-1:ff/3x", "keep=x/1", "garbage=1.8.0", "garbage=1", "kill=x"]
        {
            assert!(Choice::parse(text).is_err(), "{text}");
        }
    }
}
