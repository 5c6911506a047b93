//! The images of one cut as a numbered list that is never written down: any of them is made from its number.

use super::{
    choice::{Choice, Garbage, PowerChoice, kill_points, pieces_of_bytes},
    limits::{CrashUnit, EnumerationLimits},
};
use crate::storage::sim_disk::{
    log::Step,
    random::{Random, combine},
    state::{DiskState, Effect},
};

/// The tears tried on every page: only its first sector arrived, its first half, all but its last sector.
const TORN_MASKS: [u8; 3] = [0x01, 0x0F, 0x7F];

/// A kind of image; the list of a cut is one run of each.
#[derive(Clone, Copy, Debug)]
enum Section {
    Corners,
    Lengths,
    Subsets,
    Prefixes,
    Suffixes,
    Omissions,
    Inclusions,
    DoubleOmissions,
    DoubleInclusions,
    RandomSubsets,
    Tears,
    RandomTears,
    Garbage,
    Kills,
}

/// A unit that arrives or not.
#[derive(Clone, Copy, Debug)]
struct Unit {
    piece: usize,
    mask: u8,
}

#[derive(Debug)]
pub(crate) struct Plan {
    units: Vec<Unit>,
    /// What is certain: the sectors of forced pieces.
    certain: Vec<u8>,
    lengths_min: usize,
    lengths_max: usize,
    /// How many lengths each subset is combined with: all, or the last and a random one.
    lengths_each: u64,
    torn_masks: u64,
    /// Every subset is there, with every length.
    whole: bool,
    kill_points: Vec<u64>,
    sections: Vec<(Section, u64)>,
    seed: u64,
}

impl Plan {
    pub(crate) fn new(state: &DiskState, in_flight: Option<&Step>, limits: &EnumerationLimits, seed: u64) -> Self {
        let mut units = Vec::new();
        let mut certain = Vec::new();
        let (mut lengths_min, mut lengths_max) = (0, 0);
        for piece in &state.pending {
            match &piece.effect {
                Effect::Length(_) => {
                    lengths_max += 1;
                    if piece.forced {
                        lengths_min = lengths_max;
                    }
                }
                effect => {
                    let (index, sectors) = (certain.len(), effect.sectors());
                    certain.push(if piece.forced { sectors } else { 0 });
                    match limits.unit {
                        _ if piece.forced => {}
                        CrashUnit::Page => units.push(Unit { piece: index, mask: sectors }),
                        CrashUnit::Sector => {
                            let masks = (0..8).map(|sector| 1 << sector).filter(|mask| sectors & mask != 0);
                            units.extend(masks.map(|mask| Unit { piece: index, mask }));
                        }
                    }
                }
            }
        }
        let lengths = (lengths_max - lengths_min + 1) as u64;
        let kill_points = spread(kill_points(in_flight), limits.kills);
        let mut plan = Self {
            units,
            certain,
            lengths_min,
            lengths_max,
            lengths_each: lengths.min(2),
            torn_masks: 0,
            whole: false,
            kill_points,
            sections: Vec::new(),
            seed,
        };
        plan.list_sections(limits, lengths);
        plan
    }

    fn list_sections(&mut self, limits: &EnumerationLimits, lengths: u64) {
        let n = self.units.len() as u64;
        let exhaustive = u64::from(limits.exhaustive_units.min(24));
        let whole = n <= exhaustive;
        if whole && (1u64 << n).saturating_mul(lengths) <= 1 << exhaustive {
            self.lengths_each = lengths;
        }
        self.whole = whole && self.lengths_each == lengths;
        let each = self.lengths_each;
        self.torn_masks = TORN_MASKS.len() as u64 + limits.torn_masks.unwrap_or(0);
        let tearable = if limits.unit == CrashUnit::Page && limits.torn_masks.is_some() { n } else { 0 };
        let pairs = (n * n.saturating_sub(1) / 2).min(limits.pairs);
        let not_whole = u64::from(!whole) * each;
        let uncertain = u64::from(n > 0);
        self.sections = vec![
            (Section::Corners, 4),
            (Section::Lengths, lengths),
            (Section::Subsets, if whole { (1 << n) * each } else { 0 }),
            (Section::Prefixes, n * not_whole),
            (Section::Suffixes, n * not_whole),
            (Section::Omissions, n * not_whole),
            (Section::Inclusions, n * not_whole),
            (Section::DoubleOmissions, pairs * not_whole),
            (Section::DoubleInclusions, pairs * not_whole),
            (Section::RandomSubsets, limits.random_subsets * not_whole),
            (Section::Tears, tearable * self.torn_masks * 3),
            (Section::RandomTears, limits.random_tears * uncertain),
            (Section::Garbage, limits.garbage_sectors * uncertain),
            (Section::Kills, self.kill_points.len() as u64),
        ];
    }

    /// How many images there are, duplicates included.
    pub(crate) fn count(&self) -> u64 {
        self.sections.iter().map(|(_, count)| count).sum()
    }

    /// Whether every subset of the pending units is among them, with every length.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }

    /// The first so many are never left to chance.
    pub(crate) fn corner_count(&self) -> u64 {
        self.sections[0].1
    }

    /// The number of legal images apart from torn ones; `None` beyond 2^128.
    pub(crate) fn legal_count(&self) -> Option<u128> {
        let lengths = (self.lengths_max - self.lengths_min + 1) as u128;
        1u128.checked_shl(u32::try_from(self.units.len()).ok()?)?.checked_mul(lengths)
    }

    /// The image of a number below the count.
    pub(crate) fn choice(&self, number: u64) -> Choice {
        let mut index = number;
        let mut sections = self.sections.iter();
        let section = loop {
            let (section, count) = sections.next().expect("a number below the count");
            if index < *count {
                break *section;
            }
            index -= count;
        };
        let mut random = Random::new(combine(&[self.seed, number]));
        if let Section::Kills = section {
            return Choice::Kill { bytes: self.kill_points[usize::try_from(index).expect("an index")] };
        }
        Choice::Power(self.power_choice(section, index, &mut random))
    }

    fn power_choice(&self, section: Section, index: u64, random: &mut Random) -> PowerChoice {
        let n = self.units.len();
        let last = self.lengths_max;
        let (which, length) = (as_index(index / self.lengths_each), index % self.lengths_each);
        // The last length first: it is the one that hides nothing.
        let length = match self.lengths_each {
            2 if length == 1 => self.any_length(random),
            _ => last - as_index(length),
        };
        match section {
            Section::Corners => match index {
                0 => self.keeping(self.lengths_min, |_| false),
                1 => self.keeping(last, |_| true),
                2 => self.keeping(last, |_| false),
                _ => self.keeping(self.lengths_min, |_| true),
            },
            Section::Lengths => self.keeping(self.lengths_min + as_index(index), |_| true),
            Section::Subsets => self.keeping(length, |unit| which & (1 << unit) != 0),
            Section::Prefixes => self.keeping(length, |unit| unit < which),
            Section::Suffixes => self.keeping(length, |unit| unit >= which),
            Section::Omissions => self.keeping(length, |unit| unit != which),
            Section::Inclusions => self.keeping(length, |unit| unit == which),
            Section::DoubleOmissions | Section::DoubleInclusions => {
                let (first, second) = (random.index(n), random.index(n));
                let inclusion = matches!(section, Section::DoubleInclusions);
                self.keeping(length, |unit| (unit == first || unit == second) == inclusion)
            }
            Section::RandomSubsets => {
                let density = [1, 4, 4, 7][random.index(4)];
                self.keeping(length, |_| random.chance(density))
            }
            Section::Tears => {
                let (torn, rest) = (as_index(index / (self.torn_masks * 3)), index % (self.torn_masks * 3));
                let mask = match TORN_MASKS.get(as_index(rest / 3)) {
                    Some(mask) => *mask,
                    None => any_mask(random),
                };
                let mut choice = match rest % 3 {
                    0 => self.keeping(last, |_| false),
                    1 => self.keeping(last, |_| true),
                    _ => self.keeping(last, |unit| unit < torn),
                };
                self.tear(&mut choice, torn, mask);
                choice
            }
            Section::RandomTears => {
                let density = [1, 4, 7, 8][random.index(4)];
                let mut choice = self.keeping(self.any_length(random), |_| random.chance(density));
                for unit in 0..n {
                    if random.chance(2) {
                        self.tear(&mut choice, unit, any_mask(random));
                    }
                }
                choice
            }
            Section::Garbage => {
                let Unit { piece, mask } = self.units[random.index(n)];
                let sectors: Vec<usize> = (0..8).filter(|sector| mask & (1 << sector) != 0).collect();
                let density = [0, 4, 8][random.index(3)];
                let mut choice = self.keeping(last, |_| random.chance(density));
                let sector = sectors[random.index(sectors.len())];
                choice.garbage = Some(Garbage { piece, sector, seed: random.next() });
                choice
            }
            Section::Kills => unreachable!("a kill keeps everything"),
        }
    }

    fn keeping(&self, lengths: usize, mut kept: impl FnMut(usize) -> bool) -> PowerChoice {
        let mut masks = self.certain.clone();
        for (index, unit) in self.units.iter().enumerate() {
            if kept(index) {
                masks[unit.piece] |= unit.mask;
            }
        }
        PowerChoice { masks, lengths, garbage: None }
    }

    fn tear(&self, choice: &mut PowerChoice, unit: usize, sectors: u8) {
        let Unit { piece, mask } = self.units[unit];
        choice.masks[piece] = (choice.masks[piece] & !mask) | (mask & sectors);
    }

    fn any_length(&self, random: &mut Random) -> usize {
        self.lengths_min + random.index(self.lengths_max - self.lengths_min + 1)
    }
}

/// A random legal image, torn and with any length, for power cuts that are not enumerated.
pub(crate) fn random_choice(state: &DiskState, seed: u64) -> PowerChoice {
    let plan = Plan::new(state, None, &EnumerationLimits { kills: 0, ..EnumerationLimits::QUICK }, seed);
    assert_eq!(plan.certain.len(), pieces_of_bytes(state).count());
    plan.power_choice(Section::RandomTears, 0, &mut Random::new(seed))
}

/// At most `count` of the points, the first and the last among them if there is room.
fn spread(points: Vec<u64>, count: u64) -> Vec<u64> {
    let count = as_index(count.min(points.len() as u64));
    if count == points.len() {
        return points;
    }
    (0..count).map(|place| points[place * (points.len() - 1) / (count - 1).max(1)]).collect()
}

fn any_mask(random: &mut Random) -> u8 {
    random.next().to_le_bytes()[0]
}

fn as_index(number: u64) -> usize {
    usize::try_from(number).expect("a number of units or lengths")
}
