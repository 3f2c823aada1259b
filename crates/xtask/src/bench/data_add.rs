//! `data-add`: tables of 2 GB into a store, and again with one row in a hundred changed; beside restic and DVC.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::place::Place;
use super::{Context, Goal, Row, bytes_in, input, median, peers};
use crate::process;

const BYTES: u64 = 2_000_000_000;
const BYTES_QUICK: u64 = 40_000_000;

/// What one side's runs came to.
#[derive(Default)]
struct Side {
    new: Vec<f64>,
    changed: Vec<f64>,
    /// What the second adding stored, in per cent of the input.
    stored: Vec<f64>,
}

/// The input before and after the change. Both are put at one path in turn, as a tree that changes would be.
struct Trees<'a> {
    ctx: &'a Context,
    bytes: u64,
}

impl Trees<'_> {
    fn place(&self, which: &str, at: &Path) -> Result<()> {
        std::fs::rename(self.ctx.path(which), at).with_context(|| format!("can't place {which}"))
    }

    fn take_back(&self, which: &str, at: &Path) -> Result<()> {
        std::fs::rename(at, self.ctx.path(which)).with_context(|| format!("can't take {which} back"))
    }

    /// Runs one side: `add` is called for either tree and returns its seconds; `stored` says how large the store is.
    fn run(
        &self,
        side: &mut Side,
        at: PathBuf,
        stored: &dyn Fn() -> Result<u64>,
        add: &dyn Fn(&Path) -> Result<f64>,
    ) -> Result<()> {
        self.place("old", &at)?;
        side.new.push(add(&at)?);
        self.take_back("old", &at)?;
        let before = stored()?;
        self.place("new", &at)?;
        side.changed.push(add(&at)?);
        self.take_back("new", &at)?;
        side.stored.push((stored()? - before) as f64 * 100.0 / self.bytes as f64);
        Ok(())
    }
}

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    let size = ctx.size(BYTES, BYTES_QUICK);
    ctx.need_disk(6 * size)?;
    peers::debian(&["restic", "git"])?;
    peers::python(peers::DVC, "dvc")?;
    ctx.say("making the tables");
    let bytes = bytes_in(&input::tables(ctx, "old", size, false)?)?;
    input::tables(ctx, "new", size, true)?;
    let trees = Trees { ctx, bytes };

    let mut note = String::new();
    let (mut tombolo, mut restic, mut dvc) = (Side::default(), Side::default(), Side::default());
    for round in 1..=ctx.runs {
        ctx.say(&format!("round {round} of {}: ours, restic, dvc", ctx.runs));
        let place = Place::start(ctx)?;
        let (store, at) = (ctx.path("home/site/store"), ctx.path("input"));
        trees.run(&mut tombolo, at.clone(), &|| bytes_in(&store), &|tree| ours(ctx, &place, tree))?;
        note = place.binary.note.clone();
        drop(place);
        ctx.remove("home")?;

        let repository = ctx.path("repository");
        process::output(peers::restic(ctx, "repository").arg("init"))?;
        trees.run(&mut restic, at, &|| bytes_in(&repository), &|tree| {
            ctx.time(peers::restic(ctx, "repository").arg("backup").arg(tree))
        })?;
        ctx.remove("repository")?;
        ctx.remove("restic-cache")?;

        let work = ctx.fresh("work")?;
        process::output(process::command("git").args(["init", "--quiet"]).current_dir(&work))?;
        process::output(peers::dvc(ctx, "work")?.args(["init", "--quiet"]))?;
        let cache = work.join(".dvc");
        trees.run(&mut dvc, work.join("data"), &|| bytes_in(&cache), &|_| {
            ctx.time(peers::dvc(ctx, "work")?.args(["add", "--quiet", "data"]))
        })?;
        ctx.remove("work")?;
    }
    rows(ctx, bytes, &note, tombolo, [("restic", restic), ("dvc add", dvc)])
}

/// `tombolo data add` of each table, as a user has it: stored, looked at for its schema, rows and nulls, and made known.
fn ours(ctx: &Context, place: &Place, tree: &Path) -> Result<f64> {
    let mut seconds = 0.0;
    for table in ["csv", "parquet"] {
        let mut command = place.binary.command(ctx);
        command.args(["data", "add", table]).arg(tree.join(table));
        seconds += ctx.time(&mut command)?;
    }
    Ok(seconds)
}

fn rows(ctx: &Context, bytes: u64, build: &str, ours: Side, peers: [(&str, Side); 2]) -> Result<Vec<Row>> {
    let note = format!(
        "{:.2} GB of CSV and Parquet, warm page cache; ours is `tombolo data add` of the CSV and of the Parquet, which also tells their schema, rows and nulls; {build}; restic {}, DVC {}",
        bytes as f64 / 1e9,
        peers::version(process::command("restic").arg("version"))?,
        peers::DVC[0].trim_start_matches("dvc==")
    );
    let mut rows = Vec::new();
    for (peer, side) in &peers {
        let mut row = |measure: &str, unit: &str, values: fn(&Side) -> &Vec<f64>, goal: Goal| {
            let beside = Some((*peer, median(values(side).clone())));
            rows.push(ctx.row(measure, unit, median(values(&ours).clone()), beside, goal).note(&note));
        };
        row("add", "s", |side| &side.new, Goal::RatioMax(1.0));
        row("add again with 1% of rows changed", "s", |side| &side.changed, Goal::RatioMax(1.0));
        row("stored for the change", "%", |side| &side.stored, Goal::ValueMax(3.0));
    }
    Ok(rows)
}
