//! `cargo xtask bench <name>`: each benchmark runs Tombolo and its peers side by side on the same input, in one go.
//!
//! To add one: a file here with `pub fn run(ctx: &Context) -> Result<Vec<Row>>`, and a line in [`BENCHES`].

mod apart;
mod cluster;
mod data_add;
mod data_many;
mod data_move;
mod data_parquet;
mod data_read;
mod data_s3;
mod data_wan;
mod dispatch;
mod drain;
mod gateway;
mod http;
mod idle;
mod input;
mod k8s_many;
mod k8s_submit;
pub mod load;
mod memory;
mod mlflow_write;
mod move_checkpoint;
mod move_quote;
mod move_switch;
mod ours;
mod overhead;
mod pairs;
mod peers;
mod place;
mod plan;
mod reconcile;
mod report;
mod sameness;
mod slurm;
mod slurm_submit;
mod submit;
mod wan;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::process;
pub use report::Row;

type Run = fn(&Context) -> Result<Vec<Row>>;

const BENCHES: &[(&str, Run)] = &[
    ("data-add", data_add::run),
    ("data-many", data_many::run),
    ("data-move", data_move::run),
    ("data-parquet", data_parquet::run),
    ("data-read", data_read::run),
    ("data-s3", data_s3::run),
    ("data-wan", data_wan::run),
    ("dispatch", dispatch::run),
    ("drain", drain::run),
    ("gateway", gateway::run),
    ("idle", idle::run),
    ("k8s-many", k8s_many::run),
    ("k8s-submit", k8s_submit::run),
    ("memory", memory::run),
    ("mlflow-write", mlflow_write::run),
    ("move-checkpoint", move_checkpoint::run),
    ("move-quote", move_quote::run),
    ("move-switch", move_switch::run),
    ("overhead", overhead::run),
    ("plan", plan::run),
    ("reconcile", reconcile::run),
    ("sameness", sameness::run),
    ("slurm-submit", slurm_submit::run),
    ("submit", submit::run),
];

/// Each side of a comparison runs so often, in turns; the median counts.
const RUNS_DEFAULT: usize = 3;

#[derive(clap::Args)]
pub struct Args {
    /// data-add, data-many, data-move, data-parquet, data-read, data-s3, data-wan, dispatch, drain, gateway, idle, k8s-many, k8s-submit, memory, mlflow-write, move-checkpoint, move-quote, move-switch, overhead, plan, reconcile, sameness, slurm-submit, submit; or `report` to make docs/benchmarks.md anew from the recorded rows
    name: String,
    /// Small inputs and the dev profile, to try the benchmark itself; its rows are shown and never recorded
    #[arg(long)]
    quick: bool,
    /// The input's size, where the default is too much for this machine: bytes, or what else the benchmark counts
    /// (dispatch: jobs; drain: histories; gateway: seconds; idle: runs; k8s-many: jobs; k8s-submit: times; mlflow-write: seconds; move-quote, move-switch: moves; overhead: seconds; plan: stages; reconcile: chunks; sameness: seconds; slurm-submit, submit: times); the rows' notes say so
    #[arg(long)]
    size: Option<u64>,
    /// How often each side runs (overhead: at least ten times)
    #[arg(long, default_value_t = RUNS_DEFAULT)]
    runs: usize,
    /// Measure this build of `tombolo`, where a benchmark starts the whole program, and not `target/dist/tombolo` or one for development
    #[arg(long, requires = "built")]
    binary: Option<PathBuf>,
    /// How that was built, for the notes of the rows
    #[arg(long, requires = "binary")]
    built: Option<String>,
    /// Why a goal isn't reached, for the notes of the rows that miss theirs
    #[arg(long)]
    why: Option<String>,
    /// The directory to work in, on the disk that is to be measured; the default is the system's for temporary files
    #[arg(long)]
    scratch: Option<PathBuf>,
}

pub fn run(root: &Path, args: &Args) -> Result<()> {
    if args.name == "report" {
        return report::Book::open(root)?.write(root);
    }
    let Some((name, run)) = BENCHES.iter().find(|(name, _)| *name == args.name) else {
        let known: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
        bail!("there is no benchmark {:?}; there are {}", args.name, known.join(", "));
    };
    // An unreadable record is found before the hours of work that would add to it.
    let mut book = report::Book::open(root)?;
    let ctx = Context::new(root, name, args)?;
    let because = |row: Row| match &args.why {
        Some(why) if !row.reached => row.note(why),
        _ => row,
    };
    let rows: Vec<Row> = run(&ctx)?.into_iter().map(because).collect();
    println!("\n{}", report::table(&rows));
    if args.quick {
        println!("tried with small inputs; nothing is recorded");
        return Ok(());
    }
    book.replace(name, rows);
    book.write(root)
}

/// What a benchmark works with.
pub struct Context {
    pub root: PathBuf,
    /// Emptied when the benchmark ends.
    scratch: tempfile::TempDir,
    pub quick: bool,
    pub runs: usize,
    size: Option<u64>,
    /// The program that is measured, and what the notes say of it.
    binary: Option<(PathBuf, String)>,
    bench: &'static str,
    date: String,
    commit: String,
    machine: String,
}

impl Context {
    fn new(root: &Path, bench: &'static str, args: &Args) -> Result<Context> {
        let parent = args.scratch.clone().unwrap_or_else(std::env::temp_dir);
        let scratch = tempfile::Builder::new().prefix("tombolo-bench-").tempdir_in(&parent);
        Ok(Context {
            root: root.to_path_buf(),
            scratch: scratch.with_context(|| format!("can't work in {}", parent.display()))?,
            quick: args.quick,
            runs: if args.quick { 1 } else { args.runs.max(1) },
            size: args.size,
            binary: args.binary.clone().zip(args.built.clone()),
            bench,
            date: process::output(process::command("date").args(["-u", "+%F"]))?.trim().to_owned(),
            commit: commit(root)?,
            machine: machine(),
        })
    }

    /// The input's size: what was asked for, else the full one, else the quick one.
    pub fn size(&self, full: u64, quick: u64) -> u64 {
        self.size.unwrap_or(if self.quick { quick } else { full })
    }

    /// A path in the scratch directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The path of a directory that is there and empty.
    pub fn fresh(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        self.remove(name)?;
        std::fs::create_dir_all(&path).with_context(|| format!("can't create {}", path.display()))?;
        Ok(path)
    }

    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("can't remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Fails with a clear word where the disk is too small, instead of filling it.
    pub fn need_disk(&self, bytes: u64) -> Result<()> {
        let mut df = process::command("df");
        let text = process::output(df.args(["--output=avail", "-B1"]).arg(self.scratch.path()))?;
        let free: u64 =
            text.lines().nth(1).and_then(|line| line.trim().parse().ok()).context("can't read df's output")?;
        if free < bytes {
            let where_ = self.scratch.path().display();
            bail!("{where_} has {free} bytes free and {bytes} are needed; hint: --scratch or --size");
        }
        Ok(())
    }

    /// How long a command takes, in seconds, from a quiet disk on: what earlier ones wrote is flushed before.
    pub fn time(&self, command: &mut Command) -> Result<f64> {
        process::run(&mut process::command("sync"))?;
        let began = Instant::now();
        process::output(command)?;
        Ok(began.elapsed().as_secs_f64())
    }

    pub fn say(&self, text: &str) {
        println!("[{}] {text}", self.bench);
    }

    /// A row of the record. `note` says what a reader must know to judge it, and why a goal wasn't reached.
    pub fn row(&self, measure: &str, unit: &str, ours: f64, peer: Option<(&str, f64)>, goal: Goal) -> Row {
        let ratio = peer.map(|(_, value)| ours / value);
        Row {
            bench: self.bench.to_owned(),
            measure: measure.to_owned(),
            unit: unit.to_owned(),
            ours: rounded(ours),
            peer: peer.map(|(name, _)| name.to_owned()),
            peer_value: peer.map(|(_, value)| rounded(value)),
            ratio: ratio.map(rounded),
            goal: goal.text(unit),
            reached: goal.reached(ours, ratio),
            note: self.size.map(|size| format!("run with --size {size}")).unwrap_or_default(),
            date: self.date.clone(),
            commit: self.commit.clone(),
            machine: self.machine.clone(),
        }
    }
}

impl Context {
    /// A row of what was measured in pairs: either side's median, and of the ratio what the pairs say of it.
    pub fn paired(&self, measure: &str, unit: &str, pairs: &pairs::Pairs, peer: &str, goal: Goal) -> Row {
        let (ours, beside) = (median(pairs.ours.clone()), median(pairs.peer.clone()));
        let row = self.row(measure, unit, ours, Some((peer, beside)), goal);
        let ratio = pairs.ratio();
        Row { ratio: Some(rounded(ratio)), reached: goal.reached(ours, Some(ratio)), ..row }.note(&pairs.told())
    }
}

/// What a row is to reach. A ratio is always ours divided by the peer's.
#[derive(Clone, Copy)]
pub enum Goal {
    RatioMax(f64),
    RatioMin(f64),
    ValueMax(f64),
    ValueMin(f64),
}

impl Goal {
    fn text(self, unit: &str) -> String {
        match self {
            Goal::RatioMax(limit) => format!("ratio <= {limit}"),
            Goal::RatioMin(limit) => format!("ratio >= {limit}"),
            Goal::ValueMax(limit) => format!("ours < {limit} {unit}"),
            Goal::ValueMin(limit) => format!("ours >= {limit} {unit}"),
        }
    }

    fn reached(self, ours: f64, ratio: Option<f64>) -> bool {
        match self {
            Goal::RatioMax(limit) => ratio.is_some_and(|ratio| ratio <= limit),
            Goal::RatioMin(limit) => ratio.is_some_and(|ratio| ratio >= limit),
            Goal::ValueMax(limit) => ours < limit,
            Goal::ValueMin(limit) => ours >= limit,
        }
    }
}

/// The middle one of some measurements; the mean of the two middle ones if they are even in number.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// Three significant digits, and whole numbers as they are: more would only be noise in the record's diffs.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() || value.abs() >= 1000.0 {
        return value.round();
    }
    let scale = 10_f64.powi(2 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

/// The size of all files in a directory, in bytes.
pub fn bytes_in(dir: &Path) -> Result<u64> {
    let mut total = 0;
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).with_context(|| format!("can't list {}", dir.display()))? {
            let entry = entry?;
            let stat = entry.metadata()?;
            if stat.is_dir() {
                dirs.push(entry.path());
            } else {
                total += stat.len();
            }
        }
    }
    Ok(total)
}

/// The commit, with a `+` where the checkout differs from it.
fn commit(root: &Path) -> Result<String> {
    let git = |args: &[&str]| process::output(process::command("git").current_dir(root).args(args));
    let head = git(&["rev-parse", "--short=12", "HEAD"])?;
    // The record itself changes with every benchmark.
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ":!docs/benchmarks.*"])?;
    Ok(format!("{}{}", head.trim(), if changed.trim().is_empty() { "" } else { "+" }))
}

/// What a number depends on and can be told of a machine: processor, cores, memory.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(':'));
        line.map(|(_, value)| value.trim().to_owned())
    };
    let model = field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let memory = field(&read("/proc/meminfo"), "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores of {model}, {} GiB", memory.unwrap_or(0).div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(vec![9.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 9.0]) - 3.0).abs() < 1e-9);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn numbers_are_rounded_to_what_they_are_worth() {
        for (value, expected) in
            [(0.012_345, 0.0123), (1.235_9, 1.24), (98.76, 98.8), (123_456.7, 123_457.0), (0.0, 0.0)]
        {
            assert!((rounded(value) - expected).abs() < 1e-9, "{value} -> {}", rounded(value));
        }
    }

    #[test]
    fn goals_are_judged() {
        assert!(Goal::RatioMax(1.0).reached(3.0, Some(0.9)) && !Goal::RatioMax(0.1).reached(3.0, Some(0.9)));
        assert!(Goal::RatioMin(0.9).reached(3.0, Some(0.9)) && !Goal::RatioMin(0.9).reached(3.0, None));
        assert!(Goal::ValueMax(3.0).reached(2.9, None) && !Goal::ValueMax(3.0).reached(3.0, None));
        assert_eq!(Goal::ValueMax(3.0).text("%"), "ours < 3 %");
    }
}
