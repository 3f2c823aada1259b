//! What a run came to: what ran where, for how long, with how many bytes moved, for how much.

use std::collections::BTreeSet;
use std::fmt::Write;

use tombolo_api::wire::{AttemptView, RunView, WorkloadView};
use tombolo_core::resources::bytes;

use crate::failure::{Exit, Failure, apart};
use crate::gateways;
use crate::render;

/// A table of the run's stages and services, the sums, and the addresses that answer.
pub fn summary(view: &RunView) -> String {
    let rows = view.workloads.iter().map(row).collect();
    let mut text = render::table(&["stage", "state", "site", "ran", "moved", "cost", "made"], &[3, 4, 5], rows);
    let attempts = || view.workloads.iter().flat_map(|workload| &workload.attempts);
    let moved: u64 = attempts().map(|attempt| attempt.bytes_in).sum();
    let cost: f64 = attempts().map(|attempt| attempt.cost).sum();
    let took = view.ended.map(|ended| format!(" in {}", render::span(u64::try_from(ended - view.at).unwrap_or(0))));
    let mut parts = vec![format!("{} {}{}", view.id, view.state, took.unwrap_or_default())];
    parts.extend((moved > 0).then(|| format!("moved {}", render::bytes(moved))));
    parts.extend((cost > 0.0).then(|| format!("cost {}", render::money(cost))));
    let _ = writeln!(text, "{}", parts.join(", "));
    let mut told = BTreeSet::new();
    for workload in view.workloads.iter().filter(|workload| workload.state == "ready") {
        // Replicas of a service have one address.
        if let Some(url) = gateways::shown(workload).filter(|url| told.insert(url.clone())) {
            let _ = writeln!(text, "{} answers at {url}", workload.name);
        }
    }
    text
}

fn row(workload: &WorkloadView) -> Vec<String> {
    let sum = |of: fn(&AttemptView) -> u64| workload.attempts.iter().map(of).sum::<u64>();
    let last = workload.attempts.last();
    let ran = sum(|attempt| attempt.ran_ms.unwrap_or(0));
    vec![
        workload.name.clone(),
        state(workload),
        render::dash(workload.site.clone().or_else(|| last.map(|attempt| attempt.site.clone()))),
        if ran == 0 { "-".to_owned() } else { render::span(ran) },
        render::bytes(sum(|attempt| attempt.bytes_in)),
        render::money(workload.attempts.iter().map(|attempt| attempt.cost).sum()),
        made(workload),
    ]
}

/// The state, with the number of attempts where it took several.
fn state(workload: &WorkloadView) -> String {
    match workload.attempts.len() {
        0 | 1 => workload.state.clone(),
        attempts => format!("{} ({attempts} attempts)", workload.state),
    }
}

/// What it made with the sizes; where it failed, why.
fn made(workload: &WorkloadView) -> String {
    if let Some(why) = &workload.why {
        return apart(why).0.to_owned();
    }
    let outputs = workload.outputs.iter().map(|(name, output)| format!("{name} {}", bytes(output.bytes)));
    let mut parts: Vec<String> = outputs.collect();
    parts.extend(workload.attempts.last().and_then(|attempt| attempt.metric).map(|metric| format!("metric {metric}")));
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

/// Nothing where the run did what it should; else the user's failure.
pub fn verdict(view: &RunView) -> Result<(), Failure> {
    if matches!(view.state.as_str(), "succeeded" | "serving") {
        return Ok(());
    }
    let failed: Vec<&WorkloadView> = view.workloads.iter().filter(|workload| workload.state == "failed").collect();
    let failure = match failed.as_slice() {
        [] => Failure::usage(format!("{} was {}", view.id, view.state))
            .hint(format!("`tombolo retry {}` goes on where it was", view.id)),
        [workload] => {
            let why = outcome(workload);
            let (why, hint) = why.as_deref().map_or((None, None), |why| (Some(apart(why).0), apart(why).1));
            let next = match hint {
                Some(hint) => format!("{hint}; when it is mended, `tombolo retry {}` goes on", view.id),
                None => format!(
                    "see `tombolo logs {}`; when it is mended, `tombolo retry {}` goes on",
                    workload.id, view.id
                ),
            };
            let why = why.map(str::to_owned);
            Failure { why, ..Failure::usage(format!("{} of {} failed", workload.name, view.id)) }.hint(next)
        }
        several => of_several(view, several),
    };
    Err(Failure { exit: Exit::Workload, ..failure })
}

/// Each with why; a hint that several of them have is told once.
fn of_several(view: &RunView, failed: &[&WorkloadView]) -> Failure {
    let (mut whys, mut hints): (Vec<String>, Vec<String>) = Default::default();
    for workload in failed {
        let why = outcome(workload).unwrap_or_else(|| "failed".to_owned());
        let (why, hint) = apart(&why);
        whys.push(format!("{}: {why}", workload.name));
        hints.extend(hint.map(str::to_owned).filter(|hint| !hints.contains(hint)));
    }
    let names: Vec<&str> = failed.iter().map(|workload| workload.name.as_str()).collect();
    hints.push(format!(
        "see `tombolo logs {}` and the others'; when they are mended, `tombolo retry {}` goes on",
        failed[0].id, view.id
    ));
    Failure::usage(format!("{} of {} failed", names.join(", "), view.id))
        .because(whys.join("\n       "))
        .hint(hints.join("; "))
}

fn outcome(workload: &WorkloadView) -> Option<String> {
    workload.why.clone().or_else(|| workload.attempts.last().and_then(|last| last.outcome.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tombolo_api::wire::{EndpointUrl, OutputView};

    pub fn attempt(site: &str, ran_ms: u64, bytes_in: u64, cost: f64) -> AttemptView {
        AttemptView {
            epoch: 1,
            site: site.into(),
            placed: 0,
            ended: Some(60_000),
            ran_ms: Some(ran_ms),
            outcome: None,
            bytes_in,
            memory_peak_bytes: None,
            cpu_ms: None,
            metric: None,
            cost,
        }
    }

    fn workload(name: &str, kind: &str, state: &str, attempts: Vec<AttemptView>) -> WorkloadView {
        WorkloadView {
            id: format!("flights-7/{name}"),
            name: name.into(),
            kind: kind.into(),
            state: state.into(),
            site: None,
            epoch: attempts.len() as u64,
            since: Some(0),
            why: None,
            address: None,
            urls: vec![],
            inputs: BTreeMap::new(),
            outputs: BTreeMap::new(),
            attempts,
            moving: None,
        }
    }

    fn view(state: &str, workloads: Vec<WorkloadView>) -> RunView {
        RunView {
            id: "flights-7".into(),
            project: "flights".into(),
            state: state.into(),
            by: "admin".into(),
            at: 0,
            ended: Some(95_000),
            code: String::new(),
            workloads,
        }
    }

    #[test]
    fn a_run_that_serves() {
        let output = OutputView { version: "ab".into(), bytes: 3 << 20, files: 1 };
        let mut train = workload(
            "train",
            "job",
            "succeeded",
            vec![attempt("cloud", 0, 5 << 20, 0.001), attempt("prod", 30_250, 5 << 20, 0.02)],
        );
        train.outputs = BTreeMap::from([("model".to_owned(), output)]);
        let mut predict = workload("predict", "service", "ready", vec![attempt("prod", 0, 3 << 20, 0.0)]);
        (predict.site, predict.address) = (Some("prod".into()), Some("127.0.0.1:4000".into()));
        predict.urls = vec![EndpointUrl { site: "onprem".into(), url: "http://127.0.0.1:33/flights/predict/".into() }];
        let more = WorkloadView { name: "predict-2".into(), ..predict.clone() };
        let mut old = workload("old", "service", "ready", vec![]);
        old.address = Some("127.0.0.1:4001".into());
        let view = view("serving", vec![workload("features", "job", "cached", vec![]), train, predict, more, old]);
        insta::assert_snapshot!(summary(&view), @r"
        STAGE      STATE                   SITE     RAN   MOVED   COST  MADE
        features   cached                  -          -       -      -  -
        train      succeeded (2 attempts)  prod  30.2 s  10 MiB  $0.02  model 3 MiB
        predict    ready                   prod       -   3 MiB      -  -
        predict-2  ready                   prod       -   3 MiB      -  -
        old        ready                   -          -       -      -  -
        flights-7 serving in 1 min 35 s, moved 16 MiB, cost $0.02
        predict answers at http://127.0.0.1:33/flights/predict/
        old answers at http://127.0.0.1:4001
        ");
        assert!(verdict(&view).is_ok());
    }

    #[test]
    fn a_run_that_failed() {
        let mut test = workload("test", "job", "failed", vec![attempt("prod", 1_500, 0, 0.0)]);
        test.why = Some("gate failed: auc is 0.5, must be at least 0.6".into());
        let mut predict = workload("predict", "service", "skipped", vec![]);
        predict.why = Some("test did not succeed".into());
        let view = view("failed", vec![test, predict]);
        insta::assert_snapshot!(summary(&view), @r"
        STAGE    STATE    SITE    RAN  MOVED  COST  MADE
        test     failed   prod  1.5 s      -     -  gate failed: auc is 0.5, must be at least 0.6
        predict  skipped  -         -      -     -  test did not succeed
        flights-7 failed in 1 min 35 s
        ");
        let failure = verdict(&view).unwrap_err();
        assert_eq!(failure.exit, Exit::Workload);
        insta::assert_snapshot!(failure, @r"
        error: test of flights-7 failed
          why: gate failed: auc is 0.5, must be at least 0.6
        hint: see `tombolo logs flights-7/test`; when it is mended, `tombolo retry flights-7` goes on
        ");
    }

    #[test]
    fn a_hint_of_a_stage_is_told_once() {
        let failed = |name: &str, why: &str| {
            let mut failed = workload(name, "job", "failed", vec![attempt("prod", 1_500, 0, 0.0)]);
            failed.why = Some(why.to_owned());
            failed
        };
        let why = "the output model is empty\nhint: write its files to outputs/model";
        let one = view("failed", vec![failed("train", why)]);
        assert!(!summary(&one).contains("hint"), "{}", summary(&one));
        insta::assert_snapshot!(verdict(&one).unwrap_err(), @r"
        error: train of flights-7 failed
          why: the output model is empty
        hint: write its files to outputs/model; when it is mended, `tombolo retry flights-7` goes on
        ");
        let two = view("failed", vec![failed("test", "exited with code 3"), failed("train", why), failed("more", why)]);
        insta::assert_snapshot!(verdict(&two).unwrap_err(), @r"
        error: test, train, more of flights-7 failed
          why: test: exited with code 3
               train: the output model is empty
               more: the output model is empty
        hint: write its files to outputs/model; see `tombolo logs flights-7/test` and the others'; when they are mended, `tombolo retry flights-7` goes on
        ");
    }
}
