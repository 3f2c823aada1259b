//! `cargo xtask fuzz`: builds the fuzz targets in `fuzz/` and lets libFuzzer look for inputs that break them, for a while.
//!
//! The layout is cargo-fuzz's, and `cargo +nightly fuzz run TARGET` works as well. This needs no nightly compiler: what
//! libFuzzer is told of is the compiler's own coverage pass, which any has. There is no sanitizer, as the project has no
//! unsafe code; how much is allocated is bounded by an allocator of the targets' own.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::process;

/// As cargo-fuzz has them.
const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg",
    "fuzzing",
];
const SECONDS_DEFAULT: u64 = 60;
/// Longest input that is made up, in bytes.
const INPUT_BYTES_MAX: u32 = 64 << 10;
/// Most memory of a target, in MiB; its allocator has a limit of its own besides.
const MEMORY_MIB_MAX: u32 = 1024;
/// Longest that one input may take, in seconds, on a busy machine.
const INPUT_SECONDS_MAX: u32 = 20;
/// Lines of a target's output that are shown where it fails.
const SHOWN_LINES: usize = 60;

#[derive(clap::Args)]
pub struct Args {
    /// Only these targets; without any, all
    targets: Vec<String>,
    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = SECONDS_DEFAULT)]
    seconds: u64,
    /// How many run at once; without it, as many as there are processors
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

pub fn run(root: &Path, args: &Args) -> Result<()> {
    let fuzz = root.join("fuzz");
    let mut targets = targets(&fuzz)?;
    if !args.targets.is_empty() {
        if let Some(unknown) = args.targets.iter().find(|name| !targets.contains(name)) {
            bail!("there is no fuzz target {unknown}; there are {}", targets.join(", "));
        }
        targets.clone_from(&args.targets);
    }
    let programs = build(root, &fuzz)?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = args.jobs.unwrap_or(processors).clamp(1, targets.len());
    println!("{} targets, {} s each, {jobs} at once", targets.len(), args.seconds);
    let (waiting, failed) = (Mutex::new(VecDeque::from(targets)), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let Some(target) = waiting.lock().expect("nobody panics holding it").pop_front() else { return };
                    if let Err(error) = one(&fuzz, &programs, &target, args.seconds) {
                        eprintln!("{error:#}");
                        failed.lock().expect("nobody panics holding it").push(target);
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().expect("nobody panics holding it");
    failed.sort();
    if failed.is_empty() { Ok(()) } else { bail!("inputs were found that break {}", failed.join(", ")) }
}

/// The targets, from the manifest.
fn targets(fuzz: &Path) -> Result<Vec<String>> {
    let manifest = fuzz.join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).with_context(|| format!("can't read {}", manifest.display()))?;
    Ok(names(&text))
}

/// The names of the programs in a manifest.
fn names(manifest: &str) -> Vec<String> {
    let bins = manifest.split("[[bin]]").skip(1);
    let name =
        |bin: &str| bin.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"').map(str::to_owned));
    bins.filter_map(name).collect()
}

/// Builds all targets, beside what else is built. Answers where the programs are.
fn build(root: &Path, fuzz: &Path) -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    let found =
        process::output(process::cargo(root).args(["metadata", "--format-version=1", "--no-deps", "--locked"]))?;
    let metadata: Metadata = serde_json::from_str(&found).context("cargo's metadata can't be read")?;
    let into = metadata.target_directory.join("fuzz");
    let host = process::output(process::command("rustc").args(["--print", "host-tuple"]))?.trim().to_owned();
    if !into.is_dir() {
        println!("building the fuzz targets and all they need for the first time, which takes several minutes");
    }
    // What is tested are the versions that the program is built with; cargo adds libFuzzer's to them.
    let (lock, own) = (root.join("Cargo.lock"), fuzz.join("Cargo.lock"));
    std::fs::copy(&lock, &own).with_context(|| format!("can't copy {} to {}", lock.display(), own.display()))?;
    let began = Instant::now();
    let mut cargo = process::cargo(fuzz);
    // For a target, so that build scripts, which run here, are built without the flags.
    cargo.args(["build", "--release", "--bins", "--quiet", "--target", &host, "--target-dir"]).arg(&into);
    cargo.env("RUSTFLAGS", FLAGS.join(" ")).env_remove("CARGO_ENCODED_RUSTFLAGS");
    process::run(&mut cargo)?;
    println!("built in {} s", began.elapsed().as_secs());
    Ok(into.join(host).join("release"))
}

/// Runs one target. What it finds worth keeping goes to its corpus, which isn't committed; the seeds are.
fn one(fuzz: &Path, programs: &Path, target: &str, seconds: u64) -> Result<()> {
    let (corpus, found) = (fuzz.join("corpus").join(target), fuzz.join("artifacts").join(target));
    for dir in [&corpus, &found] {
        std::fs::create_dir_all(dir).with_context(|| format!("can't make {}", dir.display()))?;
    }
    let mut command = process::command(programs.join(target));
    command.arg(&corpus).arg(fuzz.join("seeds").join(target));
    command.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={INPUT_BYTES_MAX}"));
    command.arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}")).arg(format!("-timeout={INPUT_SECONDS_MAX}"));
    command.arg(format!("-artifact_prefix={}/", found.display()));
    let output = command.output().with_context(|| format!("can't start {}", process::shown(&command)))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let lines: Vec<&str> = said.lines().collect();
        let shown = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
        bail!(
            "{shown}\n{target} ended with {}: the input is in {}; once it is mended, keep it in fuzz/seeds/{target}, whose \
             files are tests",
            output.status,
            found.display(),
        );
    }
    let done = said.lines().rev().find(|line| line.contains("DONE")).unwrap_or("it said nothing");
    println!("  {target:<16} {}", done.split_whitespace().collect::<Vec<_>>().join(" "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_is_a_target_and_has_seeds() {
        let fuzz = crate::root().join("fuzz");
        let targets = targets(&fuzz).unwrap();
        assert!(targets.len() > 10 && names("[package]\nname = \"x\"\n").is_empty(), "{targets:?}");
        let mut programs: Vec<String> = std::fs::read_dir(fuzz.join("fuzz_targets"))
            .unwrap()
            .map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        programs.sort();
        let mut listed = targets.clone();
        listed.sort();
        assert_eq!(programs, listed);
        for target in targets {
            assert!(std::fs::read_dir(fuzz.join("seeds").join(&target)).is_ok_and(|mut seeds| seeds.next().is_some()));
        }
    }
}
