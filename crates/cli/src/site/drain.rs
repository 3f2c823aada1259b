//! `tombolo site drain`: everything that is at a site goes elsewhere.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use tombolo_api::client::ClientError;
use tombolo_api::wire::{DrainRequest, DrainView, LeaverView, MoveMethod};
use tombolo_core::{Millis, SiteId};

use crate::failure::{Exit, Failure};
use crate::logs::span;
use crate::progress;
use crate::render;
use crate::session::{Output, Session};

const EXAMPLES: &str = "\
Examples:
  tombolo site drain onprem --dry-run            who would go where, and what can't leave
  tombolo site drain onprem --deadline 10m
  tombolo site drain onprem --restart-jobs       jobs without state begin anew elsewhere
  tombolo site undrain onprem

Ctrl-C stops following only; the drain goes on. The same command follows it again.";

/// How often a drain is looked at while it is followed, and how often in a row that may fail.
const LOOK_EVERY: Duration = Duration::from_millis(300);
const FAILURES_MAX: u32 = 100;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DrainArgs {
    site: SiteId,
    /// Move nothing after so long, such as 10m; what is there then goes on there
    #[arg(long, value_name = "SPAN", value_parser = span)]
    deadline: Option<Millis>,
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
    /// Let jobs that have left nothing in $TOMBOLO_STATE begin anew elsewhere
    #[arg(long)]
    restart_jobs: bool,
    /// Don't wait for its end
    #[arg(long)]
    detach: bool,
}

pub async fn run(session: &Session, args: DrainArgs) -> Result<(), Failure> {
    let path = format!("/v1/sites/{}/drain", args.site);
    let request =
        DrainRequest { deadline_ms: args.deadline.map(|deadline| deadline.0), restart_jobs: args.restart_jobs };
    if args.dry_run {
        let plan: DrainView = session.create(&format!("{path}/plan"), &request).await?;
        match session.output {
            Output::Json => render::json(&plan),
            Output::Text if plan.workloads.is_empty() => eprintln!("nothing is at {}", plan.site),
            Output::Text => render::text(&planned(&plan.workloads)),
        }
        return Ok(());
    }
    let begun: DrainView = session.create(&path, &request).await?;
    if args.detach {
        match session.output {
            Output::Json => render::json(&begun),
            Output::Text => eprintln!("site {} is drained; `tombolo site ls` tells how it goes", args.site),
        }
        return Ok(());
    }
    tokio::select! {
        followed = follow(session, &path, begun.at) => followed,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("the drain of {} goes on; follow it again: tombolo site drain {}", args.site, args.site);
            Ok(())
        }
    }
}

/// Until the drain that began then is over.
async fn follow(session: &Session, path: &str, at: Option<i64>) -> Result<(), Failure> {
    let bar = progress::spinner();
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    let mut failures = 0;
    loop {
        let seen: DrainView = match session.client.get(path).await {
            Ok(seen) => seen,
            // It is carried on when the control plane is back.
            Err(ClientError::Unreachable { .. } | ClientError::Broken(_)) if failures < FAILURES_MAX => {
                failures += 1;
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        failures = 0;
        if seen.at != at {
            bar.finish_and_clear();
            let by = if seen.state == "open" { "it is open again" } else { "it is another drain now" };
            return Err(Failure::usage(format!("the drain of {} was ended: {by}", seen.site)));
        }
        for row in &seen.workloads {
            let line = said(row, &seen.site);
            if told.get(&row.workload).is_none_or(|before| *before != line) {
                bar.suspend(|| eprintln!("{} {line}", render::clock(render::now().0)));
                told.insert(row.workload.clone(), line);
            }
        }
        if seen.ended.is_some() {
            bar.finish_and_clear();
            return report(session, &seen);
        }
        bar.set_message(format!("{} left at {}", seen.left, seen.site));
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn said(row: &LeaverView, site: &str) -> String {
    let name = &row.workload;
    let to = row.to.as_deref().unwrap_or("-");
    match row.state.as_str() {
        "moving" => format!("{name} -> {to}: {}", row.stage.as_deref().unwrap_or_default()),
        "moved" => format!("{name} is at {to}"),
        "stays" => format!("{name} stays at {site}: {}", row.why.as_deref().unwrap_or_default()),
        "goes" => format!("{name} waits for its turn"),
        "elsewhere" => match &row.why {
            Some(why) => format!("{name} goes on elsewhere: {why}"),
            None => format!("{name} goes on at {to}"),
        },
        _ => format!("{name} is over"),
    }
}

fn report(session: &Session, seen: &DrainView) -> Result<(), Failure> {
    match session.output {
        Output::Json => render::json(seen),
        Output::Text => render::text(&table(&seen.workloads)),
    }
    if seen.left > 0 {
        let what = if seen.left == 1 { "1 workload is".to_owned() } else { format!("{} workloads are", seen.left) };
        let failure = Failure::usage(format!("{what} still at {}, and the deadline has passed", seen.site))
            .hint(format!("nothing was stopped; go on without a deadline: tombolo site drain {}", seen.site));
        return Err(Failure { exit: Exit::Workload, ..failure });
    }
    eprintln!("nothing is at {} any more; open it again: tombolo site undrain {}", seen.site, seen.site);
    Ok(())
}

/// What a plan has, in its order.
pub fn planned(rows: &[LeaverView]) -> String {
    let row = |row: &LeaverView| {
        let quote = row.quote.as_ref();
        let downtime = quote.map(|quote| match quote.method {
            MoveMethod::Switch => "none".to_owned(),
            MoveMethod::Checkpoint | MoveMethod::Restart => render::span(quote.downtime_ms),
        });
        vec![
            row.workload.clone(),
            row.state.clone(),
            render::dash(row.to.clone()),
            render::dash(row.method.map(|method| method.word().to_owned())),
            render::dash(quote.map(|quote| render::bytes(quote.bytes))),
            render::dash(quote.map(|quote| render::span(quote.duration_ms))),
            render::dash(downtime),
            render::dash(quote.map(|quote| render::money(quote.egress_price))),
            reason(row),
        ]
    };
    let header = ["workload", "what", "to", "method", "bytes", "takes", "downtime", "price", "why"];
    render::table(&header, &[4, 5, 6, 7], rows.iter().map(row).collect())
}

/// What has become of each.
fn table(rows: &[LeaverView]) -> String {
    let row = |row: &LeaverView| {
        let moved = row.state == "moved";
        let none = || moved.then(|| "none".to_owned());
        vec![
            row.workload.clone(),
            row.state.clone(),
            render::dash(row.to.clone()),
            render::dash(row.method.map(|method| method.word().to_owned())),
            render::dash(row.bytes.map(render::bytes)),
            render::dash(row.took_ms.map(render::span)),
            render::dash(row.downtime_ms.map(render::span).or_else(none)),
            reason(row),
        ]
    };
    let header = ["workload", "what", "to", "method", "bytes", "took", "downtime", "why"];
    render::table(&header, &[4, 5, 6], rows.iter().map(row).collect())
}

/// `residency: raw may only be at onprem`.
fn reason(row: &LeaverView) -> String {
    match (&row.rule, &row.why) {
        (Some(rule), Some(why)) => format!("{rule}: {why}"),
        (None, Some(why)) => why.clone(),
        (_, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_become_of_each() {
        let moved = LeaverView {
            to: Some("cloud".into()),
            method: Some(MoveMethod::Switch),
            bytes: Some(5 << 20),
            took_ms: Some(4_200),
            ..LeaverView::new("flights-7/predict", "moved")
        };
        let stays = LeaverView {
            rule: Some("residency".into()),
            why: Some("cloud: raw may only be at onprem".into()),
            ..LeaverView::new("flights-8/features", "stays")
        };
        insta::assert_snapshot!(table(&[moved, stays, LeaverView::new("a-1/x", "over")]), @r"
        WORKLOAD            WHAT   TO     METHOD  BYTES   TOOK  DOWNTIME  WHY
        flights-7/predict   moved  cloud  switch  5 MiB  4.2 s      none
        flights-8/features  stays  -      -           -      -         -  residency: cloud: raw may only be at onprem
        a-1/x               over   -      -           -      -         -
        ");
    }
}
