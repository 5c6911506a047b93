//! Where things are: the root of the workspace and the crates in it.

use crate::step::Step;
use anyhow::Context;
use std::{
    env,
    path::{Path, PathBuf},
};

/// The crates that are published, lowest layer first; each uses the one before it and no other.
pub(crate) const LAYERS: [&str; 4] = ["spinney-alloc", "spinney-file", "spinney-btree", "spinney"];

/// The highest layer: what programs and tools use.
pub(crate) const FACADE: &str = LAYERS[LAYERS.len() - 1];

/// The only crate in which `unsafe` may appear.
pub(crate) const UNSAFE_ALLOWED_IN: &str = "spinney-file";

/// The only file beside it: another engine that maps its file has no safe way to be opened. It is in no default build.
pub(crate) const UNSAFE_ALLOWED_ALSO_IN: &str = "benches/peers/src/engine/lmdb.rs";

/// The benchmarks' package.
pub(crate) const BENCHES: &str = "spinney-benches";

/// The packages that may look at every layer: benchmarks, and what fuzz targets do.
pub(crate) const LOOK_AT_ALL: [&str; 2] = [BENCHES, "spinney-fuzz-cases"];

/// The root of the workspace this binary is run from, or else was built in.
pub(crate) fn root() -> PathBuf {
    let manifest_dir = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let manifest_dir = Path::new(&manifest_dir);
    manifest_dir.parent().unwrap_or(manifest_dir).to_owned()
}

/// Where cargo builds, whoever chose it.
pub(crate) fn target_dir() -> anyhow::Result<PathBuf> {
    #[derive(serde::Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    let metadata = Step::cargo(&["metadata", "--no-deps", "--format-version=1"]).output()?;
    Ok(serde_json::from_str::<Metadata>(&metadata)
        .context("cargo metadata names no target directory")?
        .target_directory)
}
