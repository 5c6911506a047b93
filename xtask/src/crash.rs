//! Is nothing acknowledged ever lost: the crash suite at any size, from any seed.

use crate::step::Step;

/// How much of the crash suite to run, and from where.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many crash images to open, recover and compare with the model, at least
    #[arg(long, default_value_t = 1_000_000)]
    images: u64,
    /// Where the random workloads begin; the same seed gives the same images
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs the test target `crash` of the facade, which reads both numbers from its environment.
///
/// In the test profile, not the release profile: that one is optimised too, and every assertion of the
/// engine is on, so that an image that recovers by luck still fails.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    Step::cargo(&["test", "--locked", "-p", "spinney", "--all-features", "--test", "crash", "--", "--nocapture"])
        .env("SPINNEY_CRASH_IMAGES", arguments.images.to_string())
        .env("SPINNEY_CRASH_SEED", arguments.seed.to_string())
        .run()
}
