//! `cargo xtask test`: brings what the tests need, builds them once, and runs them in lanes.
//!
//! All lanes share one build of the whole workspace. Choosing packages by cargo's flags instead would change the
//! features that dependencies are built with, and so build many of them twice.

pub mod kubernetes;
mod tally;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::{needs, process};
use tally::Tally;

/// Longest that one test program may take; the slowest, the simulation, takes a few minutes on 2 busy cores.
const PROGRAM_LIMIT: Duration = Duration::from_secs(25 * 60);
const SIM_SEEDS_DEFAULT: &str = "2000";

#[derive(clap::Args)]
pub struct Args {
    /// Run only this lane; may be given several times
    #[arg(long, value_enum)]
    lane: Vec<Lane>,
    /// Build the Kubernetes that its lane needs, if it isn't built; without this the lane is left out then
    #[arg(long)]
    kubernetes: bool,
    /// Install nothing: say what is missing and end
    #[arg(long)]
    no_install: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Lane {
    /// Unit and integration tests of every crate, save those below
    Unit,
    /// Examples in the documentation
    Doc,
    /// The simulated world; TOMBOLO_SIM_SEEDS says how many seeds
    Sim,
    /// Real processes end to end; TOMBOLO_E2E=0 leaves out the tests that install Python packages
    E2e,
    /// Against a real Kubernetes of one node, which it brings up for as long as it runs
    Kubernetes,
}

impl Lane {
    const ALL: [Lane; 5] = [Lane::Unit, Lane::Doc, Lane::Sim, Lane::E2e, Lane::Kubernetes];

    fn name(self) -> &'static str {
        match self {
            Lane::Unit => "unit",
            Lane::Doc => "doc",
            Lane::Sim => "sim",
            Lane::E2e => "e2e",
            Lane::Kubernetes => "kubernetes",
        }
    }

    /// The lane that a test program belongs to.
    fn of(package: &str, kind: &str) -> Lane {
        match (package, kind) {
            ("tombolo-sim", _) => Lane::Sim,
            ("tombolo-cli", "test") => Lane::E2e,
            _ => Lane::Unit,
        }
    }

    /// What the lane's programs find in their environment.
    fn env(self) -> Option<(&'static str, String)> {
        let (name, default) = match self {
            Lane::Sim => ("TOMBOLO_SIM_SEEDS", SIM_SEEDS_DEFAULT),
            Lane::E2e => ("TOMBOLO_E2E", "1"),
            Lane::Unit | Lane::Doc | Lane::Kubernetes => return None,
        };
        Some((name, std::env::var(name).unwrap_or_else(|_| default.to_owned())))
    }
}

/// A program with tests in it, as cargo has built it.
#[derive(Debug, PartialEq)]
struct Program {
    package: String,
    name: String,
    kind: String,
    dir: PathBuf,
    file: PathBuf,
}

impl Program {
    /// As `cargo test` would start it.
    fn command(&self, built: &Built) -> Command {
        let mut command = process::command(&self.file);
        command.current_dir(&self.dir).env("CARGO_MANIFEST_DIR", &self.dir).env("CARGO_PKG_NAME", &self.package);
        command.envs(built.bins.iter().map(|(name, file)| (format!("CARGO_BIN_EXE_{name}"), file)));
        // What a test that passed says of what it left out is in its output.
        command.arg("--show-output");
        command
    }
}

/// What cargo has built.
#[derive(Debug, Default, PartialEq)]
struct Built {
    tests: Vec<Program>,
    /// Ordinary programs, which integration tests run: name and file.
    bins: Vec<(String, PathBuf)>,
}

struct Ran {
    lane: Lane,
    tally: Tally,
    took: Duration,
}

pub fn run(root: &Path, args: &Args) -> Result<()> {
    let began = Instant::now();
    heading("needs");
    needs::bring(root, !args.no_install)?;

    heading("build: cargo test --workspace --locked --no-run");
    let built = build(root)?;
    println!("  {} test programs in {}", built.tests.len(), seconds(began.elapsed()));

    let chosen = |lane: &Lane| args.lane.is_empty() || args.lane.contains(lane);
    let mut lanes = Vec::new();
    for lane in Lane::ALL.into_iter().filter(chosen) {
        let since = Instant::now();
        let env = lane.env();
        let with = env.as_ref().map(|(name, value)| format!(" ({name}={value})")).unwrap_or_default();
        heading(&format!("lane {}{with}", lane.name()));
        let tally = match lane {
            Lane::Kubernetes => run_kubernetes(root, args.kubernetes || !args.lane.is_empty(), &built)?,
            _ => run_lane(root, lane, &built, env)?,
        };
        lanes.push(Ran { lane, tally, took: since.elapsed() });
    }
    let (text, good) = summary(&lanes, began.elapsed());
    println!("{text}");
    if !good {
        bail!("some tests didn't pass");
    }
    Ok(())
}

fn heading(text: &str) {
    println!("\n== {text}");
}

fn seconds(time: Duration) -> String {
    let whole = time.as_secs();
    if whole < 60 { format!("{:.1} s", time.as_secs_f64()) } else { format!("{} min {} s", whole / 60, whole % 60) }
}

fn build(root: &Path) -> Result<Built> {
    let mut cargo = process::cargo(root);
    cargo.args(["test", "--workspace", "--locked", "--no-run", "--message-format=json-render-diagnostics"]);
    // Cargo's own progress goes to standard error and is shown as it comes.
    let output = cargo.stderr(Stdio::inherit()).output().context("can't start cargo")?;
    if !output.status.success() {
        bail!("the tests don't build");
    }
    let built = parse_build(&String::from_utf8(output.stdout).context("cargo printed no UTF-8")?)?;
    if built.tests.is_empty() {
        bail!("cargo has built no test program at all");
    }
    Ok(built)
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Picks the programs out of cargo's messages, one JSON object a line.
fn parse_build(messages: &str) -> Result<Built> {
    let mut built = Built::default();
    for line in messages.lines() {
        let message: Message = serde_json::from_str(line).with_context(|| format!("cargo said {line}"))?;
        if message.reason != "compiler-artifact" {
            continue;
        }
        let (Some(file), Some(target), Some(profile)) = (message.executable, message.target, message.profile) else {
            continue;
        };
        let kind = target.kind.first().cloned().unwrap_or_default();
        if profile.test {
            let manifest = message.manifest_path.context("cargo named no manifest")?;
            let dir = manifest.parent().map(Path::to_path_buf).unwrap_or_default();
            let package = package_name(&dir)?;
            built.tests.push(Program { package, name: target.name, kind, dir, file });
        } else if kind == "bin" {
            built.bins.push((target.name, file));
        }
    }
    built.tests.sort_by(|a, b| (&a.package, &a.kind, &a.name).cmp(&(&b.package, &b.kind, &b.name)));
    Ok(built)
}

/// The package in `crates/<name>`: `tombolo-<name>`, save for this one, which isn't shipped.
fn package_name(dir: &Path) -> Result<String> {
    let name = dir.file_name().and_then(|name| name.to_str()).context("a crate's directory has no name")?;
    Ok(if name == "xtask" { name.to_owned() } else { format!("tombolo-{name}") })
}

/// The tests of the program `e2e` that are about a cluster, one after the other: some take parts of it away for a while.
fn run_kubernetes(root: &Path, build: bool, built: &Built) -> Result<Tally> {
    let mut tally = Tally::default();
    if !build && let Some(why) = kubernetes::lacking(root)? {
        println!("LEFT OUT: {why}");
        tally.skipped.push(format!("all against a Kubernetes: {why}"));
        return Ok(tally);
    }
    let program = built.bins.iter().find(|(name, _)| name == "tombolo").context("cargo has built no tombolo")?;
    let cluster = kubernetes::Cluster::start(root, &program.1)?;
    let tests = built.tests.iter().find(|test| test.package == "tombolo-cli" && test.name == "e2e");
    let tests = tests.context("cargo has built no tests of tombolo-cli")?;
    let mut command = tests.command(built);
    command.envs(Lane::E2e.env());
    command.env("TOMBOLO_E2E_HELM", cluster.helm()?);
    command.env(kubernetes::VARIABLE, cluster.dir()).args(["--test-threads=1", "kubernetes::"]);
    follow(command, "tombolo-cli test e2e kubernetes::", &mut tally)?;
    Ok(tally)
}

fn run_lane(root: &Path, lane: Lane, built: &Built, env: Option<(&str, String)>) -> Result<Tally> {
    let mut tally = Tally::default();
    if lane == Lane::Doc {
        let mut cargo = process::cargo(root);
        cargo.args(["test", "--workspace", "--locked", "--doc", "--no-fail-fast", "--quiet", "--", "--format=pretty"]);
        follow(cargo, "the documentation's examples", &mut tally)?;
        return Ok(tally);
    }
    for program in built.tests.iter().filter(|program| Lane::of(&program.package, &program.kind) == lane) {
        let what = format!("{} {} {}", program.package, program.kind, program.name);
        println!("\n-- {what}");
        let mut command = program.command(built);
        command.envs(env.clone());
        if lane == Lane::E2e {
            // They have a lane of their own.
            command.args(["--skip", "kubernetes::"]);
        }
        follow(command, &what, &mut tally)?;
    }
    Ok(tally)
}

/// Runs one program that prints libtest's lines, shows them and counts them.
fn follow(mut command: Command, what: &str, tally: &mut Tally) -> Result<()> {
    let deadline = Instant::now() + PROGRAM_LIMIT;
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("can't start {what}"))?;
    let stdout = child.stdout.take().context("there is no pipe to read from")?;
    let (sender, lines) = channel();
    // A thread of its own, since a program that hangs prints nothing and would hold us in a read.
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if sender.send(text).is_err() {
                return;
            }
        }
    });
    tally.start(what);
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if tally.line(&line) {
                    println!("{line}");
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                child.kill().with_context(|| format!("can't end {what}"))?;
                child.wait()?;
                tally.end(&format!("took more than {} and was ended", seconds(PROGRAM_LIMIT)));
                return Ok(());
            }
        }
    }
    let status = child.wait().with_context(|| format!("can't wait for {what}"))?;
    tally.end(&if status.success() { String::new() } else { format!("ended with {status}") });
    Ok(())
}

/// The closing text, and whether all is well.
fn summary(lanes: &[Ran], took: Duration) -> (String, bool) {
    let mut text = "\n== what ran\n".to_owned();
    let mut all = Tally::default();
    for lane in Lane::ALL {
        let Some(ran) = lanes.iter().find(|ran| ran.lane == lane) else {
            text += &format!("  {:<10} not asked for\n", lane.name());
            continue;
        };
        let tally = &ran.tally;
        text += &format!(
            "  {:<10} {} passed, {} failed, {} skipped in {} programs, {}\n",
            lane.name(),
            tally.passed,
            tally.failed.len(),
            tally.skipped.len(),
            tally.programs,
            seconds(ran.took)
        );
        if lane == Lane::E2e && lane.env().is_some_and(|(_, value)| value != "1") {
            text += "        without the tests that install Python packages, as TOMBOLO_E2E says\n";
        }
        all.add(&ran.tally);
    }
    for (title, names) in [("skipped", &all.skipped), ("failed", &all.failed)] {
        if !names.is_empty() {
            text += &format!("== {title}\n");
            names.iter().for_each(|name| text += &format!("  {name}\n"));
        }
    }
    let good = all.failed.is_empty() && all.passed > 0;
    text += &format!("== {} in {}\n", if good { "passed" } else { "FAILED" }, seconds(took));
    text += &format!("{} passed, {} failed, {} skipped", all.passed, all.failed.len(), all.skipped.len());
    (text, good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","manifest_path":"/w/crates/cli/Cargo.toml","target":{"name":"tombolo","kind":["bin"]},"profile":{"test":false},"executable":"/t/tombolo"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","manifest_path":"/w/crates/cli/Cargo.toml","target":{"name":"demo","kind":["test"]},"profile":{"test":true},"executable":"/t/demo-1"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","manifest_path":"/w/crates/core/Cargo.toml","target":{"name":"tombolo_core","kind":["lib"]},"profile":{"test":true},"executable":"/t/core-1"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","manifest_path":"/w/crates/core/Cargo.toml","target":{"name":"tombolo_core","kind":["lib"]},"profile":{"test":false},"executable":null}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        let built = parse_build(messages).unwrap();
        assert_eq!(built.bins, [("tombolo".to_owned(), PathBuf::from("/t/tombolo"))]);
        let lanes: Vec<_> = built.tests.iter().map(|test| (&*test.name, Lane::of(&test.package, &test.kind))).collect();
        assert_eq!(lanes, [("demo", Lane::E2e), ("tombolo_core", Lane::Unit)]);
        assert_eq!(built.tests[1].dir, Path::new("/w/crates/core"));
        assert!(parse_build("warning: not JSON").is_err());
    }

    #[test]
    fn a_program_is_followed_to_its_end() {
        let mut tally = Tally::default();
        let mut sh = process::command("sh");
        sh.args(["-c", "echo 'test a::b ... ok'; echo 'test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured'"]);
        follow(sh, "good", &mut tally).unwrap();
        assert_eq!((tally.passed, tally.failed.len()), (1, 0));

        let mut sh = process::command("sh");
        sh.args(["-c", "echo 'test a::c ... ok'; exit 101"]);
        follow(sh, "crashing", &mut tally).unwrap();
        assert_eq!(tally.failed, ["crashing: ended with exit status: 101"]);
    }

    #[test]
    fn the_summary_says_what_ran_and_what_did_not() {
        let tally = |passed, failed: &[&str], skipped: &[&str]| {
            let mut tally = Tally::default();
            (tally.passed, tally.programs) = (passed, 1);
            tally.failed = failed.iter().map(ToString::to_string).collect();
            tally.skipped = skipped.iter().map(ToString::to_string).collect();
            tally
        };
        let ran = |lane, tally| Ran { lane, tally, took: Duration::from_secs(61) };
        let fine = [ran(Lane::Unit, tally(5, &[], &["slow: by hand"])), ran(Lane::Sim, tally(2, &[], &[]))];
        let (text, good) = summary(&fine, Duration::from_secs(125));
        assert!(good);
        for part in
            ["unit       5 passed, 0 failed, 1 skipped", "e2e        not asked for", "  slow: by hand", "in 2 min 5 s"]
        {
            assert!(text.contains(part), "{part} isn't in\n{text}");
        }
        assert!(text.ends_with("\n7 passed, 0 failed, 1 skipped"), "{text}");

        let (text, good) = summary(&[ran(Lane::Unit, tally(5, &["core: boom"], &[]))], Duration::ZERO);
        assert!(!good && text.contains("== failed\n  core: boom"), "{text}");
        assert!(!summary(&[ran(Lane::Unit, tally(0, &[], &[]))], Duration::ZERO).1, "nothing ran, so nothing passed");
    }
}
