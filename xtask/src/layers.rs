//! Do the crates point one way: each layer uses the one directly below it, and nothing else here.
//!
//! ```text
//!   tools ----> spinney ----> spinney-btree ----> spinney-file ----> spinney-alloc
//!   benches, fuzz targets --> any of them
//! ```
//! Dev-dependencies may look further down, never up: a test that needs a higher layer is that layer's test.

use crate::{
    step::Step,
    workspace::{FACADE, LAYERS, LOOK_AT_ALL},
};
use anyhow::{Context, bail};
use serde::Deserialize;

/// What `cargo metadata` says about the members of the workspace, as far as it is read here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    /// Of every kind, for every platform, optional ones too.
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    /// The name of the package, whatever the crate that uses it calls it.
    name: String,
    /// `None` is a normal dependency; otherwise `dev` or `build`.
    kind: Option<String>,
}

/// Asks cargo and compares with the picture above.
pub(crate) fn run() -> anyhow::Result<()> {
    let metadata = Step::cargo(&["metadata", "--no-deps", "--format-version=1"]).output()?;
    let wrong = wrong_edges(&metadata)?;
    if !wrong.is_empty() {
        bail!("crates that do not point one way:\n  {}", wrong.join("\n  "));
    }
    eprintln!("xtask: layers: {}", LAYERS.join(" <- "));
    Ok(())
}

/// Every edge that should not be there, in words.
fn wrong_edges(metadata: &str) -> anyhow::Result<Vec<String>> {
    let Metadata { packages } = serde_json::from_str(metadata).context("cargo metadata is not what it was")?;
    let mut wrong = Vec::new();
    for layer in LAYERS {
        if !packages.iter().any(|package| package.name == layer) {
            wrong.push(format!("{layer} is missing, so nothing was checked about it"));
        }
    }
    for package in &packages {
        for dependency in &package.dependencies {
            if packages.iter().any(|member| member.name == dependency.name)
                && let Some(rule) = broken_rule(&package.name, dependency)
            {
                let kind = dependency.kind.as_deref().unwrap_or("normal");
                wrong.push(format!("{} -> {} ({kind}): {rule}", package.name, dependency.name));
            }
        }
    }
    Ok(wrong)
}

/// Why a member of the workspace may not depend on another one, or `None` when it may.
fn broken_rule(from: &str, to: &Dependency) -> Option<&'static str> {
    let layer = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    let is_dev = to.kind.as_deref() == Some("dev");
    match (layer(from), layer(&to.name)) {
        (Some(_), None) => Some("a layer uses no tool"),
        (Some(from), Some(to)) if to >= from => Some("a layer uses nothing at or above itself"),
        (Some(from), Some(to)) if to + 1 < from && !is_dev => Some("a layer uses only the one directly below"),
        (None, Some(layer)) if LAYERS[layer] != FACADE && !LOOK_AT_ALL.contains(&from) => {
            Some("a tool uses the facade only")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Metadata as cargo writes it, of the four layers, the tools and these edges: (from, to, kind).
    fn metadata(edges: &[(&str, &str, Option<&str>)]) -> String {
        let package = |name: &&str| {
            let dependencies: Vec<_> = edges
                .iter()
                .filter(|(from, ..)| from == name)
                .map(|(_, to, kind)| serde_json::json!({ "name": to, "kind": kind, "optional": false }))
                .collect();
            serde_json::json!({ "name": name, "version": "0.1.0", "dependencies": dependencies })
        };
        let names = LAYERS.iter().chain(&LOOK_AT_ALL).chain(&["xtask"]);
        serde_json::json!({ "packages": names.map(package).collect::<Vec<_>>(), "version": 1 }).to_string()
    }

    fn count_wrong(edges: &[(&str, &str, Option<&str>)]) -> usize {
        wrong_edges(&metadata(edges)).expect("well-formed").len()
    }

    #[test]
    fn the_intended_edges_pass() {
        let intended = [
            ("spinney-file", "spinney-alloc", None),
            ("spinney-btree", "spinney-file", None),
            ("spinney", "spinney-btree", None),
            ("spinney", "spinney-file", Some("dev")),
            ("spinney", "bytes", None),
            ("xtask", "spinney", None),
            (LOOK_AT_ALL[0], "spinney-alloc", None),
            (LOOK_AT_ALL[1], "spinney", None),
        ];
        assert_eq!(wrong_edges(&metadata(&intended)).expect("well-formed"), Vec::<String>::new());
    }

    #[test]
    fn each_wrong_edge_is_caught() {
        for edge in [
            ("spinney", "spinney-file", None),               // skips a layer
            ("spinney", "spinney-alloc", Some("build")),     // skips two, when building
            ("spinney-alloc", "spinney-file", None),         // points up
            ("spinney-file", "spinney-btree", Some("dev")),  // points up, in tests only
            ("spinney-btree", "spinney-btree", Some("dev")), // points at itself
            ("spinney", "xtask", Some("dev")),               // a layer uses a tool
            ("xtask", "spinney-btree", None),                // a tool looks below the facade
            ("xtask", "spinney-alloc", Some("dev")),         // the same, in tests only
        ] {
            assert_eq!(count_wrong(&[edge]), 1, "{edge:?}");
        }
    }

    #[test]
    fn a_missing_layer_is_caught() {
        let without_one = metadata(&[]).replace("\"spinney-file\"", "\"spinney-files\"");
        assert_eq!(wrong_edges(&without_one).expect("well-formed").len(), 1);
    }

    #[test]
    fn this_workspace_points_one_way() {
        run().expect("each crate uses the layer directly below it only");
    }
}
