//! `tombolo move`: takes what runs to another site, says beforehand what that takes and afterwards what it took.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use tombolo_api::client::ClientError;
use tombolo_api::wire::{MoveMethod, MoveRequest, MoveView, QuoteView};
use tombolo_core::{Millis, WorkloadId};

use crate::failure::{Exit, Failure};
use crate::logs::span;
use crate::names::{self, Target};
use crate::progress;
use crate::render;
use crate::session::{Global, Output, Session};

const EXAMPLES: &str = "\
Examples:
  tombolo move train --to cloud                what it is doing goes on at cloud
  tombolo move train --to cloud --quote        what that would take; nothing is touched
  tombolo move predict --back                  to where it came from
  tombolo move train --to cloud --max-downtime 1s
  tombolo move --cancel train                  whatever has not arrived goes on where it was
  tombolo move ls                              moves, quoted beside actual";

/// How often a move is looked at while it is followed, and how often in a row that may fail.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const FAILURES_MAX: u32 = 150;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Move {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    go: Option<Go>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List moves, the newest first, with what was quoted and what it took
    #[command(after_help = "Examples:\n  tombolo move ls\n  tombolo move ls flights-7/predict")]
    Ls(Ls),
}

#[derive(Debug, Args)]
struct Ls {
    /// Of one stage or service, all moves that are remembered; else of all that is not over
    #[arg(value_name = "STAGE")]
    what: Option<String>,
}

#[derive(Debug, Args)]
struct Go {
    /// `<run>/<stage>`, or a stage or service of the newest run
    #[arg(value_name = "STAGE")]
    what: String,
    /// The site that it shall go to
    #[arg(long, value_name = "SITE", required_unless_present_any = ["back", "cancel"])]
    to: Option<String>,
    /// To where its last move took it from
    #[arg(long, conflicts_with = "to")]
    back: bool,
    /// Call off the move that is under way
    #[arg(long, conflicts_with_all = ["to", "back", "quote"])]
    cancel: bool,
    /// Only tell what the move would take
    #[arg(long)]
    quote: bool,
    /// How it gets there; by default what suits it best
    #[arg(long, value_enum)]
    method: Option<Method>,
    /// Undo the move where it has not arrived by then, such as 10m
    #[arg(long, value_name = "SPAN", value_parser = span)]
    deadline: Option<Millis>,
    /// Undo it, before anything is stopped, where the last round would take longer, such as 900ms
    #[arg(long, value_name = "SPAN", value_parser = span)]
    max_downtime: Option<Millis>,
    /// Why, for the history
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
    /// Don't wait for its end
    #[arg(long)]
    detach: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Method {
    /// Both run for a moment; requests go over when the new one answers
    Switch,
    /// It ends, and goes on from $TOMBOLO_STATE
    Checkpoint,
    /// It ends, and begins anew
    Restart,
}

impl From<Method> for MoveMethod {
    fn from(method: Method) -> MoveMethod {
        match method {
            Method::Switch => MoveMethod::Switch,
            Method::Checkpoint => MoveMethod::Checkpoint,
            Method::Restart => MoveMethod::Restart,
        }
    }
}

pub async fn run(global: &Global, args: Move) -> Result<(), Failure> {
    let session = Session::open(global)?;
    match (args.verb, args.go) {
        (Some(Verb::Ls(ls)), _) => list(&session, ls).await,
        (None, Some(go)) => begin(&session, go).await,
        (None, None) => Err(Failure::usage("what shall be moved?").hint("tombolo move STAGE --to SITE")),
    }
}

async fn begin(session: &Session, go: Go) -> Result<(), Failure> {
    let id = workload(session, &go.what).await?;
    let path = format!("/v1/workloads/{}/{}/move", id.run, id.name);
    if go.cancel {
        let moves: Vec<MoveView> = session.client.delete(&path).await?;
        eprintln!("the move of {id} is called off");
        return follow(session, &id, moves.last().map_or(0, |last| last.at)).await;
    }
    let to = match (&go.to, go.back) {
        (Some(to), _) => to.clone(),
        (None, _) => came_from(session, &id).await?,
    };
    let request = MoveRequest {
        to,
        method: go.method.map(MoveMethod::from),
        deadline_ms: go.deadline.map(|span| span.0),
        max_downtime_ms: go.max_downtime.map(|span| span.0),
        why: go.why,
    };
    if go.quote {
        let quote: QuoteView = session.create(&format!("{path}/quote"), &request).await?;
        match session.output {
            Output::Json => render::json(&quote),
            Output::Text => render::text(&quoted(&quote)),
        }
        return Ok(());
    }
    if go.detach {
        start(session, &id, &request).await?;
        eprintln!("`tombolo move ls {id}` tells how it goes");
        return Ok(());
    }
    self::go(session, &id, &request).await
}

/// Moves a workload, and follows that to its end.
pub async fn go(session: &Session, id: &WorkloadId, request: &MoveRequest) -> Result<(), Failure> {
    let begun = start(session, id, request).await?;
    follow(session, id, begun.at).await
}

async fn start(session: &Session, id: &WorkloadId, request: &MoveRequest) -> Result<MoveView, Failure> {
    let begun: MoveView = session.create(&format!("/v1/workloads/{}/{}/move", id.run, id.name), request).await?;
    eprint!("{}", quoted(&begun.quote));
    Ok(begun)
}

pub async fn workload(session: &Session, text: &str) -> Result<WorkloadId, Failure> {
    match names::target(session, text).await? {
        Target::Workload(id) => Ok(id),
        Target::Run(run) => Err(Failure::usage(format!("{run} is a run; moves are of single stages and services"))
            .hint(format!("`tombolo ps {run}` lists what it has"))),
    }
}

async fn moves_of(session: &Session, id: &WorkloadId) -> Result<Vec<MoveView>, ClientError> {
    session.client.get(&format!("/v1/workloads/{}/{}/moves", id.run, id.name)).await
}

async fn came_from(session: &Session, id: &WorkloadId) -> Result<String, Failure> {
    let moves = moves_of(session, id).await?;
    let last = moves.iter().rev().find(|one| one.stage == "done");
    last.map(|last| last.from.clone())
        .ok_or_else(|| Failure::usage(format!("{id} was not moved yet")).hint("say where to: --to SITE"))
}

/// Until the move that was asked for then is over.
async fn follow(session: &Session, id: &WorkloadId, at: i64) -> Result<(), Failure> {
    let bar = progress::spinner();
    let (mut stage, mut failures) = (String::new(), 0);
    loop {
        let seen = moves_of(session, id).await;
        let seen = match seen {
            Ok(moves) => moves.into_iter().rev().find(|one| one.at == at),
            // It goes on without the control plane, and is told of when that is back.
            Err(ClientError::Unreachable { .. } | ClientError::Broken(_)) if failures < FAILURES_MAX => {
                failures += 1;
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        failures = 0;
        let Some(seen) = seen else { return Err(Failure::system(format!("the move of {id} is not known any more"))) };
        if let Some(ended) = seen.ended {
            bar.finish_and_clear();
            return report(session, &seen, ended);
        }
        if seen.stage != stage {
            bar.suspend(|| eprintln!("{} {}", render::clock(render::now().0), said(&seen)));
            stage = seen.stage.clone();
        }
        bar.set_message(format!("{}, round {}, {} so far", seen.stage, seen.rounds, render::bytes(seen.bytes)));
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn said(seen: &MoveView) -> String {
    match &seen.undone {
        Some(why) => format!("{}: {why}", seen.stage),
        None => seen.stage.clone(),
    }
}

fn report(session: &Session, seen: &MoveView, ended: i64) -> Result<(), Failure> {
    if session.output == Output::Json {
        render::json(seen);
    }
    if let Some(why) = &seen.undone {
        return Err(Failure {
            exit: Exit::Workload,
            ..Failure::usage(format!("{} was not moved; it goes on at {}", seen.workload, seen.from)).because(why)
        });
    }
    if session.output == Output::Text {
        let took = |ms: Option<u64>| ms.map_or_else(|| "none".to_owned(), render::span);
        let quote = &seen.quote;
        let rows = vec![
            vec!["bytes".to_owned(), render::bytes(quote.bytes), render::bytes(seen.bytes)],
            vec!["last round".to_owned(), render::bytes(quote.last_bytes), render::bytes(seen.last_bytes)],
            vec!["rounds".to_owned(), quote.rounds.to_string(), seen.rounds.to_string()],
            vec!["took".to_owned(), render::span(quote.duration_ms), took(u64::try_from(ended - seen.at).ok())],
            vec!["downtime".to_owned(), downtime(quote), took(seen.downtime_ms)],
        ];
        render::text(&render::table(&["", "quoted", "actual"], &[1, 2], rows));
        eprintln!("{} is at {} now; back with: tombolo move {} --back", seen.workload, seen.to, seen.workload);
    }
    Ok(())
}

fn downtime(quote: &QuoteView) -> String {
    match quote.method {
        MoveMethod::Switch => "none".to_owned(),
        MoveMethod::Checkpoint | MoveMethod::Restart => render::span(quote.downtime_ms),
    }
}

fn quoted(quote: &QuoteView) -> String {
    let mut text = format!(
        "{} goes from {} to {} by {}: {} in about {}, downtime {}",
        quote.workload,
        quote.from,
        quote.to,
        quote.method.word(),
        render::bytes(quote.bytes),
        render::span(quote.duration_ms),
        downtime(quote),
    );
    if quote.egress_price > 0.0 {
        text += &format!(", {}", render::money(quote.egress_price));
    }
    text += &match (quote.state_bytes, quote.change_bytes_per_s) {
        (Some(state), Some(rate)) => {
            format!(
                "\n  state     {}, of which {} change in a second",
                render::bytes(state),
                render::bytes(rate as u64)
            )
        }
        (Some(state), None) => format!("\n  state     {}", render::bytes(state)),
        (None, _) => "\n  state     not known yet: it is measured when the first copy is taken".to_owned(),
    };
    if quote.method != MoveMethod::Switch {
        let (save, start) = (render::span(quote.save_ms), render::span(quote.start_ms));
        text += &format!("\n  program   {save} to end and {start} to start, which are part of the downtime");
    }
    text += &format!("\n  survives  {}\n  lost      {}\n", quote.survives.join(", "), quote.lost.join(", "));
    text
}

async fn list(session: &Session, args: Ls) -> Result<(), Failure> {
    let moves: Vec<MoveView> = match args.what {
        Some(what) => {
            let mut moves = moves_of(session, &workload(session, &what).await?).await?;
            moves.reverse();
            moves
        }
        None => session.client.get("/v1/moves").await?,
    };
    if session.output == Output::Json {
        render::json(&moves);
        return Ok(());
    }
    if moves.is_empty() {
        eprintln!("nothing was moved yet; `tombolo move STAGE --to SITE` does");
        return Ok(());
    }
    let now = render::now();
    let pair = |quoted: String, actual: String| format!("{actual} ({quoted})");
    let row = |one: &MoveView| {
        let took = one.ended.map_or(now.0, |ended| ended) - one.at;
        vec![
            one.workload.clone(),
            format!("{} -> {}", one.from, one.to),
            one.method.word().to_owned(),
            one.stage.clone(),
            pair(render::bytes(one.quote.bytes), render::bytes(one.bytes)),
            pair(render::span(one.quote.duration_ms), render::span(took.max(0) as u64)),
            pair(downtime(&one.quote), one.downtime_ms.map_or_else(|| "none".to_owned(), render::span)),
            render::ago(now, one.at),
            one.undone.clone().or_else(|| one.why.clone()).unwrap_or_default(),
        ]
    };
    let header =
        ["workload", "way", "method", "stage", "bytes (quoted)", "took (quoted)", "downtime (quoted)", "asked", "why"];
    render::text(&render::table(&header, &[4, 5, 6], moves.iter().map(row).collect()));
    let done: Vec<&MoveView> = moves.iter().filter(|one| one.stage == "done").collect();
    let errors = |of: &dyn Fn(&MoveView) -> Option<(u64, u64)>| errors(done.iter().filter_map(|one| of(one)));
    let bytes = errors(&|one| Some((one.quote.bytes, one.bytes)));
    let took = errors(&|one| Some((one.quote.duration_ms, u64::try_from(one.ended? - one.at).ok()?)));
    let down = errors(&|one| Some((one.quote.downtime_ms, one.downtime_ms?)));
    let said = [("bytes", bytes), ("time", took), ("downtime", down)].into_iter().filter_map(|(what, errors)| {
        let (median, worst) = errors?;
        Some(format!("{what} {median:.0}% (worst {worst:.1} times)"))
    });
    let said: Vec<String> = said.collect();
    if !said.is_empty() {
        eprintln!("of {} done, the quotes' median error: {}", done.len(), said.join(", "));
    }
    Ok(())
}

/// Of what was quoted and what it was: the median of how far they are apart, in percent of what it was, and by what factor
/// they are apart at worst.
fn errors(pairs: impl Iterator<Item = (u64, u64)>) -> Option<(f64, f64)> {
    let (mut off, mut worst) = (Vec::new(), 1.0f64);
    for (quoted, actual) in pairs {
        let (quoted, actual) = (quoted.max(1) as f64, actual.max(1) as f64);
        off.push((quoted - actual).abs() * 100.0 / actual);
        worst = worst.max(quoted / actual).max(actual / quoted);
    }
    off.sort_by(f64::total_cmp);
    let median = off.get(off.len() / 2)?;
    Some((*median, worst))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_quotes_are_off() {
        let check = |pairs: &[(u64, u64)], expected| assert_eq!(errors(pairs.iter().copied()), expected, "{pairs:?}");
        check(&[], None);
        check(&[(0, 0)], Some((0.0, 1.0)));
        check(&[(50, 100), (100, 100), (100, 25)], Some((50.0, 4.0)));
        check(&[(20, 100)], Some((80.0, 5.0)));
    }
}
