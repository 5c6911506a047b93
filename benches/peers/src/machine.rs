//! On what, and with which versions.

use crate::engine::Engine;
use std::{fs, thread};

/// The lock file that this program was built with.
const LOCK: &str = include_str!("../Cargo.lock");

/// One line: processors, memory, system.
pub(crate) fn about() -> String {
    let processor = first_field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let count = thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = first_field("/proc/meminfo", "MemTotal").unwrap_or_default();
    let kib: f64 = memory.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0.0);
    let system = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{count} processors ({processor}), {:.0} GiB, Linux {}", kib / f64::from(1 << 20), system.trim())
}

/// Which version of an engine was measured, with that of the library below where there is one.
pub(crate) fn version(engine: Engine) -> Option<String> {
    let version = locked(engine.package()?)?;
    match engine {
        #[cfg(feature = "lmdb")]
        Engine::Lmdb => {
            let lmdb = heed::lmdb_version();
            Some(format!("{}.{}.{} (heed {version})", lmdb.major, lmdb.minor, lmdb.patch))
        }
        #[cfg(feature = "sqlite")]
        Engine::Sqlite => Some(rusqlite::version().to_owned()),
        // The package is called after what it binds: `0.19.0+11.8.1`.
        Engine::Rocksdb => Some(version.rsplit('+').next().unwrap_or(&version).to_owned()),
        _ => Some(version),
    }
}

fn locked(package: &str) -> Option<String> {
    let mut lines = LOCK.lines();
    lines.find(|line| *line == format!("name = \"{package}\""))?;
    Some(lines.next()?.strip_prefix("version = \"")?.trim_end_matches('"').to_owned())
}

fn first_field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_has_a_version() {
        for engine in Engine::ALL {
            assert_eq!(version(engine).is_some(), engine != Engine::Bare, "{engine:?}");
        }
    }
}
