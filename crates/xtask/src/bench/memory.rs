//! `memory`: the most memory that is resident while 20 GB are added, and while they are fetched; beside what xet says.

use anyhow::Result;

use super::ours::Ours;
use super::{Context, Goal, Row, input};

const BYTES: u64 = 20_000_000_000;
const BYTES_QUICK: u64 = 100_000_000;
/// What xet-core's own benchmark gives for an upload of this size.
const XET_MB: f64 = 1_340.0;
const GOAL_MB: f64 = 256.0;

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    let bytes = ctx.size(BYTES, BYTES_QUICK);
    // The input and a store of it, then that store and the one that it is fetched into.
    ctx.need_disk(2 * bytes + bytes / 8)?;
    let ours = Ours::build(ctx)?;
    ctx.say(&format!("making a file of {bytes} random bytes"));
    let dir = ctx.fresh("input")?;
    input::random_file(&dir.join("random.bin"), bytes, 11)?;
    ctx.fresh("store")?;
    let added = ours.add(ctx, "store", &dir)?.1;
    ctx.remove("input")?;
    let serving = ours.serve(ctx, "store")?;
    let fetched = ours.fetch(ctx, "store-there", &serving, &added.version)?.1;

    let note =
        format!("{:.1} GB of random bytes in one file; xet's number is its own, not measured here", bytes as f64 / 1e9);
    let row = |measure: &str, peak: u64| {
        let peak = peak as f64 / 1e6;
        ctx.row(measure, "MB", peak, Some(("xet", XET_MB)), Goal::ValueMax(GOAL_MB)).note(&note)
    };
    let serving = serving.memory_peak_bytes()?;
    Ok(vec![
        row("peak while adding", added.memory_peak_bytes),
        row("peak while fetching", fetched.memory_peak_bytes),
        row("peak while sending", serving),
    ])
}
