//! What the image says of itself: whose user it runs as, what it starts, its labels.
//!
//! Structs and ordered maps throughout, so that the bytes depend on nothing but the values:
//! <https://github.com/opencontainers/image-spec/blob/main/config.md>.

use std::collections::BTreeMap;

use serde::Serialize;

use super::archive::Layer;
use super::binary::Arch;
use super::layer;

/// A user who owns nothing but a home. Numbers, as a cluster that demands `runAsNonRoot` can't look names up.
pub const UID: u32 = 10_001;
pub const HOME: &str = "/var/lib/tombolo";

/// `HOME` is where caches and settings go. Clusters have the root file system read-only and something writable at
/// `/tmp`; the home in the passwd file is writable only where somebody mounts a volume.
const ENV: &[&str] =
    &["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "LANG=C.UTF-8"];

#[derive(Serialize)]
pub struct Config {
    created: &'static str,
    architecture: &'static str,
    os: &'static str,
    config: Process,
    rootfs: RootFs,
    history: Vec<History>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Process {
    user: String,
    env: &'static [&'static str],
    entrypoint: [&'static str; 1],
    working_dir: &'static str,
    labels: BTreeMap<&'static str, &'static str>,
}

#[derive(Serialize)]
struct RootFs {
    r#type: &'static str,
    diff_ids: Vec<String>,
}

#[derive(Serialize)]
struct History {
    created: &'static str,
    created_by: String,
}

pub fn config(layers: &[Layer], arch: Arch) -> Config {
    let history = |layer: &Layer| History { created: layer::EPOCH_TEXT, created_by: layer.made_by.clone() };
    Config {
        created: layer::EPOCH_TEXT,
        architecture: arch.oci(),
        os: "linux",
        config: Process {
            user: format!("{UID}:{UID}"),
            env: ENV,
            entrypoint: ["/usr/local/bin/tombolo"],
            working_dir: "/",
            labels: labels(),
        },
        rootfs: RootFs { r#type: "layers", diff_ids: layers.iter().map(|layer| layer.diff_id.clone()).collect() },
        history: layers.iter().map(history).collect(),
    }
}

fn labels() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([
        ("org.opencontainers.image.title", "Tombolo"),
        ("org.opencontainers.image.version", env!("CARGO_PKG_VERSION")),
        ("org.opencontainers.image.source", env!("CARGO_PKG_REPOSITORY")),
        ("org.opencontainers.image.licenses", env!("CARGO_PKG_LICENSE")),
    ])
}
