//! `reconcile`: what passes between two sites to find a hundred missing chunks among ten million; beside the list of
//! their hashes.

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{Context, Goal, Row, ours};
use crate::process;

const CHUNKS: u64 = 10_000_000;
const CHUNKS_QUICK: u64 = 20_000;
const CHANGED: u64 = 100;
const HASH_BYTES: u64 = 32;
const GOAL_KB: f64 = 1_000.0;
/// Disk for each chunk in each of two stores: itself, its entry in a pack and in the index, twice while that is merged.
const DISK_BYTES: u64 = 2 * 200;

/// What our side prints.
#[derive(Debug, Deserialize)]
struct Outcome {
    bytes_asked: u64,
    bytes_answered: u64,
    bytes_manifest: u64,
    seconds: f64,
}

pub fn run(ctx: &Context) -> Result<Vec<Row>> {
    let chunks = ctx.size(CHUNKS, CHUNKS_QUICK);
    ctx.need_disk(DISK_BYTES * chunks)?;
    // What is counted is the same in every profile.
    let program = ours::build(ctx, "dev", &["--package", "tombolo-data", "--example", "reconcile"])?;
    ctx.say(&format!("making two stores of {chunks} chunks, and fetching from the one into the other"));
    let dir = ctx.fresh("stores")?;
    let mut command = process::command(program);
    command.arg(dir).args([chunks.to_string(), CHANGED.to_string()]);
    let text = process::output(&mut command)?;
    let outcome: Outcome = serde_json::from_str(&text).with_context(|| format!("our side said {text}"))?;
    ctx.say(&format!("{outcome:?}"));
    let kb = |bytes: u64| bytes as f64 / 1e3;
    let (wire, list) = (outcome.bytes_asked + outcome.bytes_answered, chunks * HASH_BYTES);
    let note = format!(
        "{chunks} chunks in files of 16384, {CHANGED} of them changed, evenly spread, of 8 bytes each so that they don't count; \
         all bytes of all streams of the transfer itself, {:.0} KB asked and {:.0} KB answered, grants of 400 bytes and \
         the chunks included; the manifest, which is here afterwards too, has {:.0} MB; {:.0} s, most of which looks each \
         chunk up, in the development build",
        kb(outcome.bytes_asked),
        kb(outcome.bytes_answered),
        kb(outcome.bytes_manifest) / 1e3,
        outcome.seconds,
    );
    let peer = Some(("the list of hashes", kb(list)));
    Ok(vec![ctx.row("bytes exchanged", "KB", kb(wire), peer, Goal::ValueMax(GOAL_KB)).note(&note)])
}
