//! `data-many`: 100,000 small files into a store, and from there into another; beside restic, rclone and DVC.

use anyhow::Result;

use super::ours::Ours;
use super::{Context, Goal, Row, input, median, peers};
use crate::process;

const FILES: u64 = 100_000;
const FILES_QUICK: u64 = 1_000;

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    let files = ctx.size(FILES, FILES_QUICK);
    // Each file takes a block or two in the input and in every copy.
    ctx.need_disk(files * 8_192 * 8)?;
    peers::debian(&["restic", "rclone", "git"])?;
    peers::python(peers::DVC, "dvc")?;
    let ours = Ours::build(ctx)?;
    ctx.say(&format!("making {files} files"));
    let tree = input::small_files(ctx, "work/data", files)?;

    let mut add: [Vec<f64>; 3] = Default::default();
    let mut transfer: [Vec<f64>; 4] = Default::default();
    for round in 1..=ctx.runs {
        ctx.say(&format!("round {round} of {}: ours, restic, dvc, rclone", ctx.runs));
        for name in ["store", "store-there", "repository", "repository-there", "restic-cache", "copy", "remote"] {
            ctx.remove(name)?;
        }
        input::warm(&tree)?;
        let (seconds, added) = ours.add(ctx, "store", &tree)?;
        add[0].push(seconds);
        let serving = ours.serve(ctx, "store")?;
        transfer[0].push(ours.fetch(ctx, "store-there", &serving, &added.version)?.0);
        drop(serving);

        process::output(peers::restic(ctx, "repository").arg("init"))?;
        input::warm(&tree)?;
        add[1].push(ctx.time(peers::restic(ctx, "repository").arg("backup").arg(&tree))?);
        let here = ctx.path("repository");
        let mut init = peers::restic(ctx, "repository-there");
        process::output(init.args(["init", "--copy-chunker-params", "--from-repo"]).arg(&here))?;
        let mut copy = peers::restic(ctx, "repository-there");
        transfer[1].push(ctx.time(copy.args(["copy", "--from-repo"]).arg(&here))?);

        start_dvc(ctx)?;
        input::warm(&tree)?;
        add[2].push(ctx.time(peers::dvc(ctx, "work")?.args(["add", "--quiet", "data"]))?);
        transfer[2].push(ctx.time(peers::dvc(ctx, "work")?.args(["push", "--quiet"]))?);

        input::warm(&tree)?;
        transfer[3].push(ctx.time(peers::rclone().arg("copy").arg(&tree).arg(ctx.path("copy")))?);
    }
    let [add, transfer] = [add.map(median).to_vec(), transfer.map(median).to_vec()];
    rows(ctx, files, &add, &transfer)
}

/// A DVC project around the files, without what an earlier round has put there.
fn start_dvc(ctx: &Context) -> Result<()> {
    for name in ["work/.git", "work/.dvc"] {
        ctx.remove(name)?;
    }
    for name in ["work/data.dvc", "work/.gitignore", "work/.dvcignore"] {
        // Not there in the first round.
        let _ = std::fs::remove_file(ctx.path(name));
    }
    process::output(process::command("git").args(["init", "--quiet"]).current_dir(ctx.path("work")))?;
    process::output(peers::dvc(ctx, "work")?.args(["init", "--quiet"]))?;
    let remote = ctx.fresh("remote")?;
    process::output(peers::dvc(ctx, "work")?.args(["remote", "add", "--quiet", "--default", "there"]).arg(remote))?;
    Ok(())
}

fn rows(ctx: &Context, files: u64, add: &[f64], transfer: &[f64]) -> Result<Vec<Row>> {
    let note = format!(
        "{files} files of 200 bytes to 8 KiB, in the page cache; ours goes over loopback TCP, the others to a local directory; restic {}, rclone {}, DVC {}",
        peers::version(process::command("restic").arg("version"))?,
        peers::version(peers::rclone().arg("version"))?,
        peers::DVC[0].trim_start_matches("dvc==")
    );
    let row = |measure, ours, peer, value, goal| ctx.row(measure, "s", ours, Some((peer, value)), goal).note(&note);
    let (tenth, faster) = (Goal::RatioMax(0.1), Goal::RatioMax(1.0));
    Ok(vec![
        row("add", add[0], "restic backup", add[1], faster),
        row("add", add[0], "dvc add", add[2], tenth),
        row("transfer", transfer[0], "restic copy", transfer[1], faster),
        row("transfer", transfer[0], "rclone copy", transfer[3], faster),
        row("transfer", transfer[0], "dvc push", transfer[2], tenth),
        row("add and transfer", add[0] + transfer[0], "restic", add[1] + transfer[1], faster),
        row("add and transfer", add[0] + transfer[0], "dvc", add[2] + transfer[2], tenth),
    ])
}
