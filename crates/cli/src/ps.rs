//! `tombolo ps`: runs, and what their stages and services do.

use clap::Args;
use tombolo_api::wire::{RunView, WorkloadView};
use tombolo_core::{RunId, Timestamp};

use crate::failure::{Failure, apart};
use crate::gateways;
use crate::names;
use crate::progress;
use crate::render;
use crate::session::{Global, Output, Session};

/// Newest runs that are looked at, and live ones that are shown in full.
const RUNS_LOOKED_AT: usize = 200;
const LIVE_SHOWN: usize = 20;

const NO_RUN: &str = "no run yet; start one: tombolo run";

const EXAMPLES: &str = "\
Examples:
  tombolo ps                        what runs and serves; where nothing does, the newest run
  tombolo ps flights-7              one run
  tombolo ps flights                the newest run of a project
  tombolo ps --all                  all runs, newest first";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Ps {
    /// A run, or a project for its newest one
    run: Option<String>,
    /// List all runs, without their stages
    #[arg(long, short, conflicts_with = "run")]
    all: bool,
}

pub async fn run(global: &Global, args: Ps) -> Result<(), Failure> {
    let session = Session::open(global)?;
    if args.all {
        let runs: Vec<RunView> = session.all("/v1/runs").await?;
        match session.output {
            Output::Text if runs.is_empty() => eprintln!("{NO_RUN}"),
            Output::Text => render::text(&list(&runs, render::now())),
            Output::Json => render::json(&runs),
        }
        return Ok(());
    }
    let mut views = match &args.run {
        Some(text) => vec![get(&session, &names::target(&session, text).await?.run().clone()).await?],
        None => live(&session).await?,
    };
    views.iter_mut().try_for_each(|view| gateways::own_first(&session.home, view))?;
    match session.output {
        Output::Json => render::json(&views),
        Output::Text if views.is_empty() => eprintln!("{NO_RUN}"),
        Output::Text => {
            let shown: Vec<String> = views.iter().map(|view| one(view, render::now())).collect();
            render::text(&shown.join("\n"));
        }
    }
    Ok(())
}

async fn get(session: &Session, run: &RunId) -> Result<RunView, Failure> {
    Ok(session.client.get(&format!("/v1/runs/{run}")).await?)
}

/// The runs that are not over, or the newest one.
async fn live(session: &Session) -> Result<Vec<RunView>, Failure> {
    let runs: Vec<RunView> = session.up_to("/v1/runs", RUNS_LOOKED_AT).await?;
    let is_live = |run: &&RunView| matches!(run.state.as_str(), "active" | "serving");
    let mut shown: Vec<&RunView> = runs.iter().filter(is_live).take(LIVE_SHOWN).collect();
    if shown.is_empty() {
        shown.extend(runs.first());
    }
    let mut views = Vec::new();
    for run in shown {
        views.push(session.client.get(&format!("/v1/runs/{}", run.id)).await?);
    }
    Ok(views)
}

pub fn list(runs: &[RunView], now: Timestamp) -> String {
    let row = |run: &RunView| {
        let took = run.ended.map(|ended| render::span(u64::try_from(ended - run.at).unwrap_or(0)));
        vec![run.id.clone(), run.state.clone(), render::ago(now, run.at), render::dash(took), run.by.clone()]
    };
    render::table(&["run", "state", "started", "took", "by"], &[3], runs.iter().map(row).collect())
}

pub fn one(run: &RunView, now: Timestamp) -> String {
    let rows = run.workloads.iter().map(|workload| row(workload, now)).collect();
    let table = render::table(&["stage", "state", "site", "since", "ran", "moved", "note"], &[4, 5], rows);
    format!("{}  {}, started {} by {}\n{table}", run.id, run.state, render::ago(now, run.at), run.by)
}

fn row(workload: &WorkloadView, now: Timestamp) -> Vec<String> {
    let last = workload.attempts.last();
    let ran = last.and_then(|attempt| attempt.ran_ms).map(render::span);
    let note = match (&workload.moving, &workload.why, gateways::shown(workload)) {
        (Some(moving), _, _) => format!("{} comes: {}", moving.what, progress::told(moving)),
        // What to do about it is told by `tombolo events` and where it failed.
        (None, Some(why), _) => apart(why).0.to_owned(),
        (None, None, Some(url)) => url,
        (None, None, None) => String::new(),
    };
    vec![
        workload.name.clone(),
        workload.state.clone(),
        render::dash(workload.site.clone().or_else(|| last.map(|attempt| attempt.site.clone()))),
        render::dash(workload.since.map(|since| render::ago(now, since))),
        render::dash(ran),
        render::bytes(workload.attempts.iter().map(|attempt| attempt.bytes_in).sum()),
        note,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tombolo_api::wire::AttemptView;

    fn workload(name: &str, state: &str) -> WorkloadView {
        WorkloadView {
            id: format!("flights-7/{name}"),
            name: name.into(),
            kind: "job".into(),
            state: state.into(),
            site: None,
            epoch: 0,
            since: Some(30_000),
            why: None,
            address: None,
            urls: vec![],
            inputs: BTreeMap::new(),
            outputs: BTreeMap::new(),
            attempts: vec![],
            moving: None,
        }
    }

    fn run_view(workloads: Vec<WorkloadView>) -> RunView {
        RunView {
            id: "flights-7".into(),
            project: "flights".into(),
            state: "active".into(),
            by: "admin".into(),
            at: 0,
            ended: None,
            code: String::new(),
            workloads,
        }
    }

    #[test]
    fn a_run_with_its_stages() {
        let mut train = workload("train", "running");
        train.site = Some("cloud".into());
        train.attempts.push(AttemptView {
            epoch: 1,
            site: "cloud".into(),
            placed: 0,
            ended: None,
            ran_ms: None,
            outcome: None,
            bytes_in: 5 << 20,
            memory_peak_bytes: None,
            cpu_ms: None,
            metric: None,
            cost: 0.0,
        });
        let mut test = workload("test", "waiting");
        (test.since, test.why) = (None, Some("waits for train".into()));
        let mut serve = workload("serve", "preparing");
        serve.site = Some("prod".into());
        serve.moving = Some(tombolo_api::stream::Progress {
            what: "version 0a1b2c3d".into(),
            done_bytes: 30 << 20,
            total_bytes: 120 << 20,
            bytes_per_s: Some(11 << 20),
            left_ms: Some(8_100),
        });
        let view = run_view(vec![workload("features", "cached"), train, test, serve]);
        insta::assert_snapshot!(one(&view, Timestamp(60_000)), @r"
        flights-7  active, started 1 min ago by admin
        STAGE     STATE      SITE   SINCE     RAN  MOVED  NOTE
        features  cached     -      30 s ago    -      -
        train     running    cloud  30 s ago    -  5 MiB
        test      waiting    -      -           -      -  waits for train
        serve     preparing  prod   30 s ago    -      -  version 0a1b2c3d comes: 30 MiB of 120 MiB, 11 MiB/s, 8.1 s left
        ");
        insta::assert_snapshot!(list(&[view], Timestamp(60_000)), @r"
        RUN        STATE   STARTED    TOOK  BY
        flights-7  active  1 min ago     -  admin
        ");
    }
}
