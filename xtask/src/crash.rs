//! Is nothing acknowledged ever lost: the crash suite at any size, from any seed.

use crate::step::Step;

/// How much of the crash suite to run, and from where.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many crash images of random workloads to open, recover and compare with the model, at least
    #[arg(long, default_value_t = 1_000_000)]
    images: u64,
    /// Where the random workloads begin; the same seed gives the same images
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Instead: every sequence of up to so many operations, at every cut
    #[arg(long)]
    sequences: Option<u32>,
    /// Instead: the one image of a line that a failure printed
    #[arg(long, conflicts_with = "sequences")]
    image: Option<String>,
}

/// Runs the test target `crash` of the facade, which reads all this from its environment.
///
/// In the test profile, not the release profile: that one is optimised too, and every assertion of the
/// engine is on, so that an image that recovers by luck still fails.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut words = vec!["test", "--locked", "-p", "spinney", "--all-features", "--test", "crash", "--", "--nocapture"];
    if arguments.sequences.is_some() {
        words.push("every_crash_of_every_short_sequence");
    } else if arguments.image.is_some() {
        words.push("every_crash");
    }
    let mut step = Step::cargo(&words)
        .env("SPINNEY_CRASH_IMAGES", arguments.images.to_string())
        .env("SPINNEY_CRASH_SEED", arguments.seed.to_string());
    if let Some(length) = arguments.sequences {
        step = step.env("SPINNEY_CRASH_LENGTH", length.to_string());
    }
    if let Some(line) = &arguments.image {
        step = step.env("SPINNEY_CRASH_IMAGE", line);
    }
    step.run()
}
