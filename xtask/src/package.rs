//! Does what is published work for a stranger: the crates are packaged, unpacked beside each other, and each
//! README's programs are run against the packages - the files that would be downloaded, not those of the workspace.
//!
//! ```text
//!   target/packaged/packages/spinney-0.1.0/...   what `cargo package` put into the crate
//!   target/packaged/readme-spinney/              a crate whose documentation is the README, depending on the above
//! ```
//! Cargo's own verification is not used: it unpacks the lower layers into a cache by version number, and builds the
//! upper ones against what it finds there from an earlier run.

use crate::{
    step::Step,
    workspace::{self, FACADE, LAYERS},
};
use anyhow::{Context, ensure};
use std::{ffi::OsStr, fs, path::Path};

/// Packages, unpacks, builds and runs.
pub(crate) fn run() -> anyhow::Result<()> {
    let target = workspace::target_dir()?;
    // Dirty is allowed so that a change can be tried before it is committed; a release is made from a clean clone.
    let mut package = vec!["package", "--locked", "--no-verify", "--allow-dirty"];
    package.extend(LAYERS.iter().flat_map(|name| ["-p", name]));
    Step::cargo(&package).run()?;

    let home = target.join("packaged");
    let packages = home.join("packages");
    remove_dir(&packages)?;
    fs::create_dir_all(&packages).with_context(|| format!("cannot create {}", packages.display()))?;
    for name in LAYERS {
        let archive = target.join("package").join(format!("{name}-{}.crate", version(name)?));
        // `m`: as new as now. Packages carry one fixed date, by which cargo would take a changed file for unchanged.
        let arguments = ["-xzmf", path_text(&archive)?, "-C", path_text(&packages)?];
        Step::program(OsStr::new("tar"), &arguments).run()?;
    }

    write(&home.join("Cargo.toml"), &manifest_of_all()?)?;
    // The versions the workspace is tested with, so that this needs nothing from the network.
    fs::copy(workspace::root().join("Cargo.lock"), home.join("Cargo.lock")).context("cannot copy Cargo.lock")?;
    for name in LAYERS {
        let readme = packages.join(format!("{name}-{}", version(name)?)).join("README.md");
        write_reader(&home.join(format!("readme-{name}")), name, &readme)?;
    }
    write_reader(&home.join("readme"), FACADE, &workspace::root().join("README.md"))?;
    Step::cargo(&["test", "--doc", "--workspace"]).env("CARGO_TARGET_DIR", home.join("target")).current_dir(&home).run()
}

/// The workspace around the READMEs. What looks like crates.io to them is the packages.
fn manifest_of_all() -> anyhow::Result<String> {
    let mut manifest = String::from("[workspace]\nresolver = \"3\"\nmembers = [\"readme*\"]\n\n[patch.crates-io]\n");
    for name in LAYERS {
        manifest += &format!("{name} = {{ path = \"packages/{name}-{}\" }}\n", version(name)?);
    }
    Ok(manifest)
}

/// What a reader of a README would begin: a crate with one dependency, by its version. Its documentation is the
/// README, so that the programs there are documentation tests; each runs in a folder of its own.
fn write_reader(home: &Path, name: &str, readme: &Path) -> anyhow::Result<()> {
    let text = fs::read_to_string(readme).with_context(|| format!("cannot read {}", readme.display()))?;
    ensure!(text.contains("```rust"), "{} shows no program", readme.display());
    remove_dir(home)?;
    let reader = home.file_name().and_then(OsStr::to_str).context("the reader has no name")?;
    let package = format!("[package]\nname = \"{reader}\"\nedition = \"2024\"\npublish = false\n");
    write(&home.join("Cargo.toml"), &format!("{package}\n[dependencies]\n{name} = \"={}\"\n", version(name)?))?;
    write(&home.join("src/lib.rs"), &format!("#![doc = include_str!({:?})]\n", path_text(readme)?))
}

/// The version in a crate's manifest, by way of cargo.
fn version(name: &str) -> anyhow::Result<String> {
    let id = Step::cargo(&["pkgid", "-p", name]).output()?;
    let (_, version) = id.trim().rsplit_once(['@', '#']).with_context(|| format!("no version in {id}"))?;
    Ok(version.to_owned())
}

fn path_text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let directory = path.parent().unwrap_or(path);
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn remove_dir(path: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
