//! `data-parquet`: what a changed Parquet table of 1 GB costs a store that has it already; beside restic, with pages cut
//! as writers do by default and by content.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::ours::Ours;
use super::{Context, Goal, Row, bytes_in, peers};
use crate::process;

const BYTES: u64 = 1_000_000_000;
const BYTES_QUICK: u64 = 40_000_000;
const SCRIPT: &str = include_str!("parquet.py");
/// What happens to the table, as the script and as the rows call it.
const CHANGES: [(&str, &str); 3] =
    [("appended", "1% of rows appended"), ("deleted", "1% of rows deleted"), ("column", "a column added")];
const PAGES: [(&str, &str); 2] = [("0", "pages by size"), ("1", "pages by content")];

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    let size = ctx.size(BYTES, BYTES_QUICK);
    ctx.need_disk(8 * size)?;
    peers::debian(&["restic"])?;
    let ours = Ours::build(ctx)?;
    let script = ctx.path("parquet.py");
    std::fs::write(&script, SCRIPT).context("can't write the script that makes the table")?;
    let make = |change: &str, pages: &str| -> Result<u64> {
        let dir = ctx.fresh("input")?;
        let mut python = process::command(peers::python(peers::ARROW, "python")?);
        python.arg(&script).arg(dir.join("table.parquet")).args([&size.to_string(), change, pages]);
        process::run(&mut python)?;
        bytes_in(&dir)
    };
    let note = format!(
        "one table of six columns, zstd, row groups of 2^20 rows, written by pyarrow {}; rows are deleted in eight runs; \
         new bytes in the store, in per cent of the table as it was; restic {}",
        peers::ARROW[0].trim_start_matches("pyarrow=="),
        peers::version(process::command("restic").arg("version"))?,
    );
    let mut rows = Vec::new();
    for (pages, cut) in PAGES {
        ctx.say(&format!("the table with {cut}"));
        let before = make("base", pages)? as f64;
        let tree = ctx.path("input");
        ctx.fresh("store")?;
        ctx.remove("repository")?;
        ours.add(ctx, "store", &tree)?;
        process::output(peers::restic(ctx, "repository").arg("init"))?;
        let mut restic = Restic::backup(ctx, &tree)?;
        for (change, words) in CHANGES {
            ctx.say(words);
            make(change, pages)?;
            let added = ours.add(ctx, "store", &tree)?.1.bytes_new as f64;
            let held = restic;
            restic = Restic::backup(ctx, &tree)?;
            let theirs = (restic.0 - held.0) as f64;
            let beside = Some(("restic", theirs * 100.0 / before));
            let measure = format!("stored for {words}, {cut}");
            rows.push(ctx.row(&measure, "%", added * 100.0 / before, beside, Goal::RatioMax(1.0)).note(&note));
        }
    }
    Ok(rows)
}

/// What a repository holds, in bytes.
struct Restic(u64);

impl Restic {
    fn backup(ctx: &Context, tree: &Path) -> Result<Restic> {
        process::output(peers::restic(ctx, "repository").arg("backup").arg(tree))?;
        Ok(Restic(bytes_in(&ctx.path("repository"))?))
    }
}
