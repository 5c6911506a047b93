//! What writers do: transaction `c` of writer `w` is a function of the seed, `w` and `c` alone, so that whoever knows how far a
//! writer came knows what must be there.

use spinney::Durability;

/// Numbers that look random and repeat (Steele et al., "Fast splittable pseudorandom number generators", OOPSLA 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `end`, which is not among them.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True in one of `of` cases.
    pub(crate) fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}

/// What is stored under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// So many bytes, all following from `seed`.
    Bytes { seed: u64, bytes: usize },
    /// The number of a transaction.
    Counter(u64),
}

impl Value {
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Bytes { bytes, .. } => bytes,
            Self::Counter(_) => 8,
        }
    }

    pub(crate) fn make(self) -> Vec<u8> {
        match self {
            Self::Counter(counter) => counter.to_be_bytes().to_vec(),
            Self::Bytes { seed, bytes } => {
                let mut random = Random::new(seed);
                let mut all = Vec::with_capacity(bytes + 8);
                while all.len() < bytes {
                    all.extend(random.next().to_le_bytes());
                }
                all.truncate(bytes);
                all
            }
        }
    }
}

/// One change. Families are named without the writer they belong to, see [`Plan::name`].
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Create(Place),
    Drop(Place),
    Put(Place, Vec<u8>, Value),
    Remove(Place, Vec<u8>),
    /// From the first key to the second, which is not removed.
    RemoveRange(Place, Vec<u8>, Vec<u8>),
}

/// A family, as writers know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// One of the writer's own.
    Own(u8),
    /// One that comes and goes: its number says when.
    Passing(u64),
    /// The one that all writers share; each has keys of its own in it.
    Shared,
}

/// What a writer does between transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Checkpoint,
    Reopen,
    Reclaim,
    Flush,
    HoldSnapshot,
    DropSnapshots,
}

/// A transaction.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    pub(crate) durability: Durability,
    /// Families that exist before and are changed.
    pub(crate) places: Vec<Place>,
    pub(crate) changes: Vec<Change>,
}

/// How large everything is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Different keys per family and writer.
    pub(crate) keys: u64,
    /// One transaction in so many is a large one.
    pub(crate) large_every: u64,
    /// Changes of a large transaction, at most.
    pub(crate) large_changes: u64,
    /// The largest value; most have less than 200 bytes.
    pub(crate) value_bytes_max: u64,
    /// One transaction in so many removes a range.
    pub(crate) range_every: u64,
    /// Transactions from one passing family to the next.
    pub(crate) passing_every: u64,
    /// One commit in so many is durable at once; half as many are `Buffered`.
    pub(crate) durable_every: u64,
    /// Events come after one transaction in so many.
    pub(crate) event_every: u64,
}

impl Plan {
    /// A hundred or two system calls, with everything in it.
    pub(crate) fn short(seed: u64) -> Self {
        Self {
            seed,
            keys: 60,
            large_every: 5,
            large_changes: 60,
            value_bytes_max: 30_000,
            range_every: 6,
            passing_every: 12,
            durable_every: 2,
            event_every: 3,
        }
    }

    /// Hours of work on data that stay below some 40 MiB.
    pub(crate) fn long(seed: u64) -> Self {
        Self {
            seed,
            keys: 2500,
            large_every: 40,
            large_changes: 300,
            value_bytes_max: 300_000,
            range_every: 60,
            passing_every: 400,
            durable_every: 8,
            event_every: 500,
        }
    }

    /// What a family is called in the file.
    pub(crate) fn name(place: Place, writer: u8) -> String {
        match place {
            Place::Own(number) => format!("own {writer} {number}"),
            Place::Passing(number) => format!("passing {writer} {number}"),
            Place::Shared => "shared".to_owned(),
        }
    }

    /// Which writer a family belongs to, or `None` when all share it.
    pub(crate) fn writer_of(name: &str) -> Option<u8> {
        name.split(' ').nth(1).and_then(|writer| writer.parse().ok())
    }

    fn random(&self, writer: u8, counter: u64, salt: u64) -> Random {
        let mut random = Random::new(self.seed ^ salt.rotate_left(40));
        let start = random.next() ^ (u64::from(writer) << 56) ^ counter;
        Random::new(Random::new(start).next())
    }

    /// The key under which each family says which of the writer's transactions changed it last.
    pub(crate) fn counter_key(writer: u8) -> Vec<u8> {
        vec![writer, 0xff]
    }

    /// All keys of a writer begin so.
    fn key(writer: u8, number: u64) -> Vec<u8> {
        let mut key = vec![writer];
        key.extend(number.to_be_bytes());
        key
    }

    /// The passing family that exists just before transaction `counter`.
    fn passing_before(&self, counter: u64) -> Option<Place> {
        let at = counter % self.passing_every;
        let exists = at > self.passing_every / 4 && at <= 3 * self.passing_every / 4;
        exists.then_some(Place::Passing(counter / self.passing_every))
    }

    /// Transaction `counter` of a writer, counted from 1.
    pub(crate) fn transaction(&self, writer: u8, counter: u64) -> Transaction {
        let mut random = self.random(writer, counter, 1);
        let durability = match random.below(2 * self.durable_every) {
            0 | 1 => Durability::Immediate,
            2 => Durability::Buffered,
            _ => Durability::Eventual,
        };
        let mut places = Vec::new();
        match random.below(8) {
            0 | 1 => places.extend([Place::Own(0), Place::Own(1)]),
            2 => places.extend([Place::Own(random.below(2) as u8), Place::Shared]),
            3 => places.push(Place::Shared),
            _ => places.push(Place::Own(random.below(2) as u8)),
        }
        let passing = self.passing_before(counter);
        if random.one_in(3) {
            places.extend(passing);
        }
        let mut changes = Vec::new();
        let at = counter % self.passing_every;
        let mut into = places.clone();
        if at == self.passing_every / 4 {
            let created = Place::Passing(counter / self.passing_every);
            changes.push(Change::Create(created));
            into.push(created);
        }
        let is_large = random.one_in(self.large_every);
        let count = if is_large { 2 + random.below(self.large_changes) } else { 1 + random.below(4) };
        for _ in 0..count {
            let place = into[random.below(into.len() as u64) as usize];
            let key = Self::key(writer, random.below(self.keys));
            if random.one_in(5) {
                changes.push(Change::Remove(place, key));
                continue;
            }
            let bytes = match random.below(100) {
                0..70 => random.below(200),
                70..92 => random.below(2000.min(self.value_bytes_max)),
                92..99 => random.below(20_000.min(self.value_bytes_max)),
                _ => random.below(self.value_bytes_max),
            };
            changes.push(Change::Put(place, key, Value::Bytes { seed: random.next(), bytes: bytes as usize }));
        }
        if random.one_in(self.range_every) {
            let place = into[random.below(into.len() as u64) as usize];
            let from = random.below(self.keys);
            let to = from + random.below(self.keys / 3);
            changes.push(Change::RemoveRange(place, Self::key(writer, from), Self::key(writer, to)));
        }
        for &place in &into {
            changes.push(Change::Put(place, Self::counter_key(writer), Value::Counter(counter)));
        }
        if at == 3 * self.passing_every / 4 {
            let dropped = Place::Passing(counter / self.passing_every);
            changes.push(Change::Drop(dropped));
            if !places.contains(&dropped) {
                places.push(dropped);
            }
        }
        Transaction { durability, places, changes }
    }

    /// What the writer does after transaction `counter`.
    pub(crate) fn event(&self, writer: u8, counter: u64) -> Option<Event> {
        let mut random = self.random(writer, counter, 2);
        random.one_in(self.event_every).then(|| match random.below(8) {
            0 | 1 => Event::Checkpoint,
            2 => Event::Reopen,
            3 => Event::Reclaim,
            4 => Event::Flush,
            5 | 6 => Event::HoldSnapshot,
            _ => Event::DropSnapshots,
        })
    }
}
