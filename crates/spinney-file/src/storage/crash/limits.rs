//! How many of the legal images are visited: their number grows without bound, time does not.

/// What a disk writes or forgets as a whole, apart from tearing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CrashUnit {
    /// 4 KiB, as file systems cache; torn at 512 bytes where the limits say so.
    #[default]
    Page,
    /// 512 bytes, as disks write: eight times as many units, and no tearing to be asked for.
    Sector,
}

/// Which images of each cut are made. All of it is counted before anything is made, see
/// [`Recording::image_count`](crate::Recording::image_count).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnumerationLimits {
    /// The unit that is kept or lost.
    pub unit: CrashUnit,
    /// Cuts with at most so many pending units are enumerated whole: all 2^n subsets. At most 24.
    pub exhaustive_units: u32,
    /// Of the other cuts: at most so many double omissions and as many double inclusions, beside every prefix, suffix, single
    /// omission and single inclusion.
    pub pairs: u64,
    /// Of the other cuts: random subsets.
    pub random_subsets: u64,
    /// Every pending page is torn after its first sector, in the middle and before its last - with none, with all and with the
    /// earlier ones of the others - and by so many random masks. `None`: no page is torn.
    pub torn_masks: Option<u64>,
    /// Random subsets of randomly torn pages, with a random length of the file.
    pub random_tears: u64,
    /// Images with one sector of garbage in place of a pending one.
    pub garbage_sectors: u64,
    /// Process kills: the completed calls and at most so many first parts of the one in flight.
    pub kills: u64,
    /// No cut yields more images than this; beyond it they are a random sample.
    pub images_per_cut_max: u64,
    /// The recording yields no more images than this; cuts with few images keep theirs, the others are sampled alike.
    pub images_max: u64,
}

impl EnumerationLimits {
    /// For every pull request: all subsets up to 10 pending units, and a few hundred images of larger cuts.
    pub const PULL_REQUEST: Self = Self {
        unit: CrashUnit::Page,
        exhaustive_units: 10,
        pairs: 64,
        random_subsets: 100,
        torn_masks: Some(1),
        random_tears: 50,
        garbage_sectors: 2,
        kills: 5,
        images_per_cut_max: u64::MAX,
        images_max: u64::MAX,
    };

    /// For the second level of nested runs and other places that multiply: some tens of images for each cut.
    pub const QUICK: Self = Self {
        exhaustive_units: 5,
        pairs: 4,
        random_subsets: 8,
        torn_masks: Some(0),
        random_tears: 8,
        garbage_sectors: 1,
        kills: 2,
        images_per_cut_max: 40,
        ..Self::PULL_REQUEST
    };

    /// For nights: all subsets up to 16 pending units.
    pub const NIGHTLY: Self = Self {
        exhaustive_units: 16,
        pairs: 1000,
        random_subsets: 500,
        torn_masks: Some(8),
        random_tears: 500,
        garbage_sectors: 8,
        kills: 17,
        ..Self::PULL_REQUEST
    };
}

impl Default for EnumerationLimits {
    fn default() -> Self {
        Self::PULL_REQUEST
    }
}
