//! The Kubernetes of one node that the lane `kubernetes` tests against: built, brought up and taken down by the scripts in
//! `tests/kubernetes`.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::{image, process};

/// Where the tests find it.
pub const VARIABLE: &str = "TOMBOLO_E2E_KUBERNETES";

/// What the lane may write, with a margin: archives of two images and what containerd unpacks of them, pods' volumes, logs.
/// With less, the node would evict pods in the midst of the tests.
const DISK_GIB: u64 = 6;

/// Up for as long as this lives.
pub struct Cluster {
    scripts: PathBuf,
    dir: tempfile::TempDir,
}

/// Why there is none to be had without building it, if so: that takes some ten minutes, once.
pub fn lacking(root: &Path) -> Result<Option<String>> {
    if !process::is_root()? {
        return Ok(Some("a node needs root".to_owned()));
    }
    let free = free_gib(&std::env::temp_dir())?;
    if free < DISK_GIB {
        let dir = std::env::temp_dir();
        return Ok(Some(format!("it needs {DISK_GIB} GiB of disk in {}, where {free} GiB are free", dir.display())));
    }
    let built =
        process::command("bash").arg(scripts(root).join("build")).arg("--is-there").stdout(Stdio::null()).status()?;
    Ok((!built.success())
        .then(|| "Kubernetes isn't built; cargo xtask test --kubernetes builds it, in some ten minutes".to_owned()))
}

impl Cluster {
    /// With the runner image of this program.
    pub fn start(root: &Path, program: &Path) -> Result<Cluster> {
        let scripts = scripts(root);
        bring_packages(&scripts)?;
        let built = process::command("bash").arg(scripts.join("build")).stdout(Stdio::null()).status()?;
        if !built.success() {
            bail!("Kubernetes can't be built");
        }
        let dir = tempfile::Builder::new().prefix("tombolo-k8s-").tempdir()?;
        let image = dir.path().join("tombolo.tar");
        image::of(root, program, &image)?;
        let cluster = Cluster { scripts, dir };
        let up =
            process::command("bash").arg(cluster.scripts.join("up")).arg(cluster.dir.path()).arg(&image).output()?;
        if !up.status.success() {
            bail!("the cluster doesn't come up:\n{}", String::from_utf8_lossy(&up.stderr));
        }
        std::fs::write(cluster.dir.path().join("vars"), &up.stdout).context("the cluster's addresses can't be kept")?;
        Ok(cluster)
    }

    /// The program of Helm, built where it isn't there.
    pub fn helm(&self) -> Result<String> {
        let said = process::output(process::command("bash").arg(self.scripts.join("helm/build")))?;
        Ok(said.trim().to_owned())
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Cluster {
    /// One of what `up` has printed.
    pub fn var(&self, name: &str) -> Result<String> {
        let text = std::fs::read_to_string(self.dir().join("vars"))?;
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        found.map(str::to_owned).with_context(|| format!("the cluster has no {name}"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let down = process::command("bash").arg(self.scripts.join("down")).arg(self.dir.path()).status();
        if !down.is_ok_and(|status| status.success()) {
            eprintln!("the cluster in {} is not down", self.dir.path().display());
        }
    }
}

/// Rounded down.
fn free_gib(dir: &Path) -> Result<u64> {
    let said = process::output(process::command("df").args(["--output=avail", "--block-size=1G"]).arg(dir))?;
    // df rounds up.
    let blocks: u64 = said.lines().last().unwrap_or_default().trim().parse().context("df tells no number")?;
    Ok(blocks.saturating_sub(1))
}

fn scripts(root: &Path) -> PathBuf {
    root.join("tests/kubernetes")
}

fn bring_packages(scripts: &Path) -> Result<()> {
    let text = std::fs::read_to_string(scripts.join("needs"))?;
    let packages: Vec<&str> =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let there = |package: &&str| {
        let said =
            process::command("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", package]).output();
        said.is_ok_and(|said| said.stdout == b"installed")
    };
    let missing: Vec<&str> = packages.into_iter().filter(|package| !there(package)).collect();
    if !missing.is_empty() {
        process::apt_install(&missing)?;
    }
    Ok(())
}
