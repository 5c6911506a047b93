//! What an image costs, part by part.

use crate::{
    oracle::Run,
    support::{canonical, model::check, model::open},
};
use spinney::{Crash, EnumerationLimits, Exploration, Result};

/// Time that this thread has had a processor for, in nanoseconds; 0 where the system does not say.
fn processor_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// Run with `--ignored --nocapture`, on a machine that may be busy: it is the processor's time that counts.
#[test]
#[ignore = "a measurement"]
fn what_an_image_costs() {
    let limits = EnumerationLimits { images_max: 3000, ..EnumerationLimits::PULL_REQUEST };
    let runs: Vec<_> = canonical::all().iter().map(|w| Run::scripted(&w.ops, w.seed, None).unwrap()).collect();
    let measure = |what: &str, one_in: u64, look: &(dyn Fn(&Run, &Crash<'_>) -> Result<usize> + Sync)| {
        let again = EnumerationLimits { images_max: 1, ..EnumerationLimits::QUICK };
        let (begun, mut images) = (processor_ns(), 0);
        for run in &runs {
            let exploration = Exploration::new("").limits(limits.clone()).crash_again(one_in, again.clone()).threads(1);
            images += exploration.run(&run.recording, |crash| look(run, crash)).images;
        }
        let ns = (processor_ns() - begun) / images;
        println!("{what:<36} {:>8.1} us an image, {:>6} images a second", ns as f64 / 1e3, 1_000_000_000 / ns.max(1));
    };
    measure("nothing but the image", 0, &|_, crash| Ok(crash.depth()));
    measure("opening", 0, &|run, crash| open(&crash.disk(), run.options()).map(|_| 0));
    measure("opening and checking every page", 0, &|run, crash| {
        check(&open(&crash.disk(), run.options())?, "recovered").map(|()| 0)
    });
    measure("D1 to D4", 0, &|run, crash| run.check(crash));
    measure("D1 to D7 with one more crash", 1, &|run, crash| run.check(crash));
}
