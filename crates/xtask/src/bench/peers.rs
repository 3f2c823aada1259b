//! The peers: other people's programs, installed by the benchmark that wants them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::Context;
use crate::process;

/// Packages of Python that a benchmark needs, each set in an environment of its own outside the checkout.
pub const DVC: &[&str] = &["dvc==3.67.1"];
pub const ARROW: &[&str] = &["pyarrow==26.0.1", "numpy==2.4.6"];

/// Installs those of Debian's packages that are named like their program and aren't there.
pub fn debian(programs: &[&str]) -> Result<()> {
    let missing: Vec<&str> = programs.iter().copied().filter(|program| process::which(program).is_none()).collect();
    if missing.is_empty() { Ok(()) } else { process::apt_install(&missing) }
}

/// A program of a Python environment with the given packages, which is made if it isn't there.
pub fn python(packages: &[&str], program: &str) -> Result<PathBuf> {
    let name = packages.join("+").replace("==", "-");
    let dir = process::cache_dir()?.join("peers").join(name);
    let marker = dir.join("complete");
    if !marker.is_file() {
        println!("installing with pip into {}: {}", dir.display(), packages.join(" "));
        process::run(process::command("python3").args(["-m", "venv", "--clear"]).arg(&dir))?;
        process::run(process::command(dir.join("bin/pip")).args(["install", "--quiet"]).args(packages))?;
        std::fs::write(&marker, "").context("can't mark the environment as complete")?;
    }
    Ok(dir.join("bin").join(program))
}

/// restic on a repository of its own in the scratch directory, with its cache there too.
pub fn restic(ctx: &Context, repository: &str) -> Command {
    let mut command = process::command("restic");
    command.arg("--quiet").arg("--repo").arg(ctx.path(repository));
    command.env("RESTIC_PASSWORD", "bench").env("RESTIC_FROM_PASSWORD", "bench");
    command.env("RESTIC_CACHE_DIR", ctx.path("restic-cache"));
    command
}

/// rclone without anybody's configuration.
pub fn rclone() -> Command {
    let mut command = process::command("rclone");
    // Its S3 client refuses to start where a bundle of certificates is named, which no bucket here needs.
    command.args(["--config", "/dev/null"]).env_remove("AWS_CA_BUNDLE");
    command
}

/// dvc in a directory, with nobody's settings and nothing sent home.
pub fn dvc(ctx: &Context, dir: &str) -> Result<Command> {
    let mut command = process::command(python(DVC, "dvc")?);
    command.current_dir(ctx.path(dir)).env("DVC_NO_ANALYTICS", "1");
    command.env("DVC_GLOBAL_CONFIG_DIR", ctx.path("dvc-config")).env("DVC_SYSTEM_CONFIG_DIR", ctx.path("dvc-config"));
    command.env("DVC_SITE_CACHE_DIR", ctx.path("dvc-site"));
    Ok(command)
}

/// The version that a peer says it is, for the note.
pub fn version(command: &mut Command) -> Result<String> {
    let text = process::output(command)?;
    let word = |text: &str| text.split_whitespace().find(|word| word.contains('.')).map(str::to_owned);
    Ok(text.lines().find_map(word).unwrap_or_default().trim_start_matches('v').to_owned())
}
