//! Rules about crates: their names, what they may depend on, and that each says what it is for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{Fault, File};

/// All that the core crate may depend on: what reads no clock, no randomness, no environment and does no IO.
const CORE_MAY: &[&str] = &["serde", "thiserror"];

/// Crates that never depend on one another, by whichever way: each half has to work while the other is away.
const APART: &[(&str, &str)] = &[("tombolo-control", "tombolo-agent"), ("tombolo-agent", "tombolo-control")];

/// Names that say nothing, and so take in everything.
const VAGUE: &[&str] = &["common", "utils", "util", "types", "helpers", "misc"];

/// Shortest header that can say what a crate is for, in bytes.
const HEADER_BYTES_MIN: usize = 30;

/// What core's clippy.toml has to disallow.
const CORE_CLIPPY: &[&str] =
    &["std::time::SystemTime::now", "std::time::Instant::now", "std::env::var", "std::fs::File"];

pub(super) struct Package {
    name: String,
    /// Relative to the checkout.
    manifest: String,
    /// Relative to the checkout: its `lib.rs` or, without one, `main.rs`.
    entry: String,
    /// Ordinary and build dependencies, without those for tests.
    needs: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<MetadataPackage>,
}

#[derive(Deserialize)]
struct MetadataPackage {
    name: String,
    manifest_path: PathBuf,
    targets: Vec<MetadataTarget>,
    dependencies: Vec<MetadataDependency>,
}

#[derive(Deserialize)]
struct MetadataTarget {
    kind: Vec<String>,
    src_path: PathBuf,
}

#[derive(Deserialize)]
struct MetadataDependency {
    name: String,
    kind: Option<String>,
}

/// Takes in what `cargo metadata --no-deps` prints.
pub(super) fn parse(root: &Path, metadata: &str) -> Result<Vec<Package>> {
    let metadata: Metadata = serde_json::from_str(metadata).context("can't read cargo's metadata")?;
    let relative = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
    let package = |package: MetadataPackage| {
        let by_kind = |kind: &str| package.targets.iter().find(|target| target.kind.iter().any(|found| found == kind));
        let entry = by_kind("lib").or_else(|| by_kind("bin")).map(|target| relative(&target.src_path));
        let needs = package.dependencies.into_iter().filter(|needed| needed.kind.as_deref() != Some("dev"));
        Package {
            entry: entry.unwrap_or_default(),
            manifest: relative(&package.manifest_path),
            needs: needs.map(|needed| needed.name).collect(),
            name: package.name,
        }
    };
    Ok(metadata.packages.into_iter().map(package).collect())
}

pub(super) fn check(packages: &[Package], files: &[File]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for package in packages {
        name(package, &mut faults);
        header(package, files, &mut faults);
        if package.name == "tombolo-core" {
            core(package, files, &mut faults);
        }
    }
    modules(files, &mut faults);
    for (one, other) in APART {
        if let Some(way) = way(packages, one, other) {
            let manifest =
                packages.iter().find(|package| package.name == *one).map(|package| package.manifest.as_str());
            let message = format!("{one} may not depend on {other}, and does: {}", way.join(" -> "));
            faults.push(Fault::new(manifest.unwrap_or_default(), 0, message));
        }
    }
    faults
}

fn name(package: &Package, faults: &mut Vec<Fault>) {
    if package.name.split(['-', '_']).any(|word| VAGUE.contains(&word)) {
        let message = format!("{:?} doesn't say what the crate is for", package.name);
        faults.push(Fault::new(&package.manifest, 0, message));
    }
}

fn modules(files: &[File], faults: &mut Vec<Fault>) {
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        let Some((_, inside)) = file.path.split_once("/src/") else { continue };
        if let Some(word) = inside.split('/').map(|part| part.trim_end_matches(".rs")).find(|part| VAGUE.contains(part))
        {
            faults.push(Fault::new(&file.path, 0, format!("a module named {word:?} doesn't say what it is for")));
        }
    }
}

fn header(package: &Package, files: &[File], faults: &mut Vec<Fault>) {
    let text = files.iter().find(|file| file.path == package.entry).map_or("", |file| &file.text);
    let header: usize = text.lines().map_while(|line| line.strip_prefix("//!")).map(|line| line.trim().len()).sum();
    if header < HEADER_BYTES_MIN {
        let message = "begins with no `//!` header that says what the crate is for";
        faults.push(Fault::new(if package.entry.is_empty() { &package.manifest } else { &package.entry }, 1, message));
    }
}

fn core(package: &Package, files: &[File], faults: &mut Vec<Fault>) {
    for extra in package.needs.iter().filter(|name| !CORE_MAY.contains(&name.as_str())) {
        let message = format!("core may depend on {} alone, not on {extra}", CORE_MAY.join(" and "));
        faults.push(Fault::new(&package.manifest, 0, message));
    }
    let path = package.manifest.replace("Cargo.toml", "clippy.toml");
    let text = files.iter().find(|file| file.path == path).map_or("", |file| &file.text);
    for method in CORE_CLIPPY.iter().filter(|method| !text.contains(**method)) {
        faults.push(Fault::new(&path, 0, format!("doesn't disallow {method}, so nothing keeps core pure")));
    }
}

/// The dependencies through which `from` comes to `to`, if it does.
fn way(packages: &[Package], from: &str, to: &str) -> Option<Vec<String>> {
    let mut ways = vec![vec![from.to_owned()]];
    let mut seen = BTreeSet::from([from.to_owned()]);
    while let Some(way) = ways.pop() {
        let Some(package) = packages.iter().find(|package| way.last() == Some(&package.name)) else { continue };
        for next in &package.needs {
            let longer: Vec<String> = way.iter().chain([next]).cloned().collect();
            if next == to {
                return Some(longer);
            }
            if seen.insert(next.clone()) {
                ways.push(longer);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::{file, shown};
    use super::*;

    const HEADER: &str = "//! What this crate is for, said in a whole sentence.\n";

    fn package(name: &str, needs: &[&str]) -> Package {
        let dir = format!("crates/{}", name.trim_start_matches("tombolo-"));
        Package {
            name: name.to_owned(),
            manifest: format!("{dir}/Cargo.toml"),
            entry: format!("{dir}/src/lib.rs"),
            needs: needs.iter().map(ToString::to_string).collect(),
        }
    }

    fn check_packages(packages: &[Package]) -> Vec<String> {
        let mut files: Vec<File> = packages.iter().map(|package| file(&package.entry, HEADER)).collect();
        files.push(file("crates/core/clippy.toml", &CORE_CLIPPY.join("\n")));
        shown(&check(packages, &files))
    }

    #[test]
    fn core_depends_on_little() {
        assert!(check_packages(&[package("tombolo-core", &["serde"])]).is_empty());
        let faults = check_packages(&[package("tombolo-core", &["serde", "tokio"])]);
        assert_eq!(faults, ["crates/core/Cargo.toml: core may depend on serde and thiserror alone, not on tokio"]);
        let bare = [file("crates/core/src/lib.rs", HEADER)];
        let faults = shown(&check(&[package("tombolo-core", &[])], &bare));
        assert_eq!(faults.len(), CORE_CLIPPY.len());
        assert!(faults[0].starts_with("crates/core/clippy.toml: doesn't disallow std::time::SystemTime::now"));
    }

    #[test]
    fn control_and_agent_stay_apart_also_by_way_of_others() {
        let apart = [package("tombolo-control", &["tombolo-net"]), package("tombolo-agent", &["tombolo-net"])];
        assert!(check_packages(&apart).is_empty());
        let joined = [package("tombolo-control", &["tombolo-net"]), package("tombolo-net", &["tombolo-agent"])];
        assert_eq!(
            check_packages(&joined),
            ["crates/control/Cargo.toml: tombolo-control may not depend on tombolo-agent, and does: \
              tombolo-control -> tombolo-net -> tombolo-agent"]
        );
    }

    #[test]
    fn names_say_something() {
        assert_eq!(check_packages(&[package("tombolo-common", &[])]).len(), 1);
        let files = [file("crates/a/src/run/utils.rs", ""), file("crates/a/tests/common/mod.rs", "")];
        let faults = shown(&check(&[], &files));
        assert_eq!(faults, ["crates/a/src/run/utils.rs: a module named \"utils\" doesn't say what it is for"]);
    }

    #[test]
    fn every_crate_has_a_header() {
        let packages = [package("tombolo-a", &[])];
        for (text, faults) in [(HEADER, 0), ("//! stub\n", 1), ("use std::fmt;\n//! Too late to be a header.\n", 1)] {
            assert_eq!(check(&packages, &[file("crates/a/src/lib.rs", text)]).len(), faults, "{text}");
        }
    }

    #[test]
    fn cargos_metadata_is_read() {
        let json = r#"{"packages":[{"name":"tombolo-x","manifest_path":"/w/crates/x/Cargo.toml",
            "targets":[{"kind":["test"],"src_path":"/w/crates/x/tests/t.rs"},{"kind":["lib"],"src_path":"/w/crates/x/src/lib.rs"}],
            "dependencies":[{"name":"serde","kind":null},{"name":"proptest","kind":"dev"},{"name":"cc","kind":"build"}]}]}"#;
        let packages = parse(Path::new("/w"), json).unwrap();
        assert_eq!(packages[0].entry, "crates/x/src/lib.rs");
        assert_eq!(packages[0].needs.iter().collect::<Vec<_>>(), ["cc", "serde"]);
    }
}
