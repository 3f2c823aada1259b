//! `data-s3`: tables of 5 GB into a bucket of an S3 server on this machine, and back into files; beside rclone.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

use super::ours::{self, Ours};
use super::{Context, Goal, Row, bytes_in, input, median, peers};
use crate::process;

const BYTES: u64 = 5_000_000_000;
const BYTES_QUICK: u64 = 40_000_000;
/// The buckets of either side.
const OURS: &str = "ours";
const THEIRS: &str = "theirs";

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    let size = ctx.size(BYTES, BYTES_QUICK);
    ctx.need_disk(3 * size + size / 2)?;
    peers::debian(&["rclone"])?;
    let program = Ours::build(ctx)?;
    ctx.say("making the tables");
    let tree = input::tables(ctx, "tables", size, false)?;
    let bytes = bytes_in(&tree)? as f64 / 1e6;
    let server = S3::start(ctx)?;
    let settings = server.settings();
    let bucket = format!("s3://{OURS}/store");
    let tree = tree.display().to_string();
    let back = ctx.path("back").display().to_string();

    let (mut ours, mut theirs): ([Vec<f64>; 2], [Vec<f64>; 2]) = Default::default();
    for round in 1..=ctx.runs {
        ctx.say(&format!("round {round} of {}: ours, rclone", ctx.runs));
        for name in [OURS, THEIRS] {
            ctx.fresh(&format!("s3/{name}"))?;
        }
        for name in ["cache", "cache-there", "back"] {
            ctx.remove(name)?;
        }
        let (seconds, added) = program.in_bucket(ctx, &["add"], "cache", &[&tree, &bucket], &settings)?;
        ours[0].push(seconds);
        ctx.remove("cache")?;
        // Another cache, so that what is read comes from the bucket.
        let args = [added.version.as_str(), &back, &bucket];
        ours[1].push(program.in_bucket(ctx, &["get"], "cache-there", &args, &settings)?.0);
        for name in ["cache-there", "back", &format!("s3/{OURS}")] {
            ctx.remove(name)?;
        }
        let remote = format!(":s3:{THEIRS}/tree");
        theirs[0].push(ctx.time(server.rclone().args([&tree, &remote]))?);
        theirs[1].push(ctx.time(server.rclone().args([&remote, &back]))?);
    }
    let note = format!(
        "{:.2} GB of CSV and Parquet; s3s-fs as the server, on the same machine and disk; ours compressed and cut into \
         chunks, each verified; rclone {}, as it comes",
        bytes / 1e3,
        peers::version(peers::rclone().arg("version"))?
    );
    let rows = ["add", "read back"].iter().zip(ours).zip(theirs).map(|((measure, ours), theirs)| {
        let beside = Some(("rclone", bytes / median(theirs)));
        ctx.row(measure, "MB/s", bytes / median(ours), beside, Goal::RatioMin(1.0)).note(&note)
    });
    Ok(rows.collect())
}

/// An S3 server over a directory, ended with this value.
struct S3 {
    process: Child,
    address: String,
}

impl S3 {
    fn start(ctx: &Context) -> Result<S3> {
        let profile = if ctx.quick { "dev" } else { "dist" };
        let program = ours::build(ctx, profile, &["--package", "tombolo-data", "--example", "s3"])?;
        let mut command = process::command(program);
        command.arg(ctx.fresh("s3")?).stdout(Stdio::piped());
        let mut process = command.spawn().context("can't start the S3 server")?;
        let stdout = process.stdout.take().context("the S3 server has no output")?;
        let mut address = String::new();
        BufReader::new(stdout).read_line(&mut address).context("the S3 server says no address")?;
        Ok(S3 { process, address: format!("http://{}", address.trim()) })
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID", "key".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ENDPOINT", self.address.clone()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
        ]
    }

    fn rclone(&self) -> Command {
        let mut command = peers::rclone();
        command.args([
            "copy",
            "--s3-provider",
            "Other",
            "--s3-access-key-id",
            "key",
            "--s3-secret-access-key",
            "secret",
        ]);
        command.args(["--s3-endpoint", &self.address, "--s3-region", "us-east-1", "--s3-force-path-style"]);
        command
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        // Gone already, or about to be: either is fine.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
