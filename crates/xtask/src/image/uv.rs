//! The layer with uv, which makes the stages' Python environments: here from PATH, where a site looks for it first.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::binary::Arch;
use super::blob::Blob;
use super::layer::{self, Member};
use super::steps::{Steps, megabytes};
use crate::process;

/// One version, as another would be another image.
const VERSION: &str = "0.13.9";

/// For the image's history.
pub fn shown() -> String {
    format!("uv {VERSION}")
}

/// From the cache, or fetched as a site does it that has no uv: by pip, from the package index that it is told of.
pub fn bring(arch: Arch, cache: &Path, scratch: &Path, steps: &mut Steps) -> Result<Blob> {
    let file = cache.join(format!("uv-{VERSION}-{}.tar", arch.oci()));
    if let Some(kept) = Blob::kept(&file)? {
        return steps.time("uv", || Ok((format!("{} from the cache", shown()), kept)));
    }
    steps.time("uv", || {
        let env = scratch.join("uv");
        process::output(process::command("python3").args(["-m", "venv"]).arg(&env))
            .context("can't make a virtual environment to fetch uv with\nhint: apt-get install python3-venv")?;
        let mut pip = process::command(env.join("bin/python"));
        pip.args(["-m", "pip", "install", "-q", "--disable-pip-version-check", "--only-binary", ":all:"]);
        pip.arg(format!("uv=={VERSION}"));
        process::output(&mut pip).context("can't fetch uv\nhint: is the package index reachable from here?")?;
        let members = vec![Member::program("usr/local/bin/uv", &env.join("bin/uv"))?];
        let blob = layer::pack(members, &file)?;
        blob.keep()?;
        Ok((format!("{}, {}", shown(), megabytes(blob.bytes)), blob))
    })
}
