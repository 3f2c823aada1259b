//! Our side of the data benchmarks: the data crate's example `bench`, as a process of its own like the peers.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::Context;
use crate::process;

pub struct Ours {
    program: PathBuf,
}

/// What the program prints at its end; what doesn't concern its verb is zero.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Outcome {
    pub version: String,
    /// Raw bytes of the version.
    pub bytes: u64,
    /// Bytes that were stored.
    pub bytes_new: u64,
    /// Bytes that went over the wire, both ways.
    pub bytes_wire: u64,
    /// Most memory that was resident at once.
    pub memory_peak_bytes: u64,
    /// How long the work itself took, without the start of the process.
    pub seconds: f64,
}

impl Ours {
    /// Builds the program: as it is distributed, or, where only the benchmark is tried, as it is developed.
    pub fn build(ctx: &Context) -> Result<Ours> {
        let profile = if ctx.quick { "dev" } else { "dist" };
        Ok(Ours { program: build(ctx, profile, &["--package", "tombolo-data", "--example", "bench"])? })
    }

    /// Adds a tree to a store. Returns the seconds that the whole process took, and what it says.
    pub fn add(&self, ctx: &Context, store: &str, input: &Path) -> Result<(f64, Outcome)> {
        let mut command = process::command(&self.program);
        command.arg("add").arg(ctx.path(store)).arg(input);
        timed(ctx, command)
    }

    /// A verb on a store that is a bucket's cache; `settings` are the bucket's, for the environment.
    pub fn in_bucket(
        &self,
        ctx: &Context,
        verb: &[&str],
        store: &str,
        args: &[&str],
        settings: &[(&str, String)],
    ) -> Result<(f64, Outcome)> {
        let mut command = process::command(&self.program);
        command.args(verb).arg(ctx.path(store)).args(args).envs(settings.iter().map(|(name, value)| (name, value)));
        timed(ctx, command)
    }

    /// Serves a store over loopback until the value is dropped.
    pub fn serve(&self, ctx: &Context, store: &str) -> Result<Serving> {
        let mut command = process::command(&self.program);
        command.arg("serve").arg(ctx.path(store)).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("can't start our side")?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("our side has no output")?;
        BufReader::new(stdout).read_line(&mut line).context("our side says no address")?;
        Ok(Serving { child, address: line.trim().to_owned() })
    }

    /// Brings a version from a store that is served.
    pub fn fetch(&self, ctx: &Context, store: &str, from: &Serving, version: &str) -> Result<(f64, Outcome)> {
        let mut command = process::command(&self.program);
        command.arg("fetch").arg(ctx.path(store)).arg(&from.address).arg(version);
        timed(ctx, command)
    }
}

/// Builds one program of ours with a profile, and says where it is.
pub fn build(ctx: &Context, profile: &str, which: &[&str]) -> Result<PathBuf> {
    ctx.say(&format!("building our side with the profile {profile}"));
    let mut cargo = process::cargo(&ctx.root);
    cargo.args(["build", "--locked", "--profile", profile]).args(which);
    cargo.args(["--message-format=json-render-diagnostics"]).stderr(Stdio::inherit());
    let output = cargo.output().context("can't start cargo")?;
    if !output.status.success() {
        bail!("our side doesn't build");
    }
    let messages = String::from_utf8(output.stdout).context("cargo printed no UTF-8")?;
    let files = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut programs = files.filter_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)));
    programs.next_back().context("cargo has built no program")
}

/// A number of bytes that the kernel tells of a process: `VmRSS` is what is resident, `VmHWM` the most that was.
pub fn memory(process: u32, field: &str) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("can't read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("{path} doesn't say {field}"))? * 1024)
}

fn timed(ctx: &Context, mut command: std::process::Command) -> Result<(f64, Outcome)> {
    process::run(&mut process::command("sync"))?;
    let began = std::time::Instant::now();
    let text = process::output(&mut command)?;
    let seconds = began.elapsed().as_secs_f64();
    let outcome = serde_json::from_str(&text).with_context(|| format!("our side said {text}"))?;
    ctx.say(&format!("ours: {seconds:.3} s, {outcome:?}"));
    Ok((seconds, outcome))
}

/// A process that ends with this value.
pub struct Serving {
    child: Child,
    pub address: String,
}

impl Serving {
    /// Most memory that was resident at once, so far.
    pub fn memory_peak_bytes(&self) -> Result<u64> {
        memory(self.child.id(), "VmHWM")
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It is gone already, or about to be: either is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
