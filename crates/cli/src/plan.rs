//! `tombolo plan`: where everything would go, or went, and why.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use tombolo_api::project::{FILE_NAME, Faults};
use tombolo_api::wire::{ExpectedData, NewPlan, PlanView};
use tombolo_core::placement::{Outcome, Placement, Source, Terms};
use tombolo_core::resources::bytes;
use tombolo_core::spec::Objective;
use tombolo_core::{Name, RunId, VersionId};

use crate::data::Reference;
use crate::failure::Failure;
use crate::names;
use crate::project::{Project, objective};
use crate::render;
use crate::run::pins;
use crate::session::{Global, Output, Session};
use crate::upload::Nearest;

const EXAMPLES: &str = "\
Examples:
  tombolo plan                      the project in this directory; where there is none, the newest run
  tombolo plan examples/flights     another project
  tombolo plan flights-7            what was decided for a run
  tombolo plan --at raw@v3          with an earlier version of a dataset
  tombolo plan --objective cost --output json";

/// Below this a price is a rounding error of sums.
const PRICE_MIN: f64 = 1e-9;
/// Reasons that a refusal lists.
const REASONS_SHOWN_MAX: usize = 5;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Plan {
    /// A project's directory or file, or a run
    #[arg(value_name = "PROJECT|RUN")]
    what: Option<String>,
    /// What to minimise: `time`, `cost`, or the weight of time from 0 to 1
    #[arg(long, value_parser = objective)]
    objective: Option<Objective>,
    /// With this version of a dataset, and not the newest or what its path holds
    #[arg(long, value_name = "NAME@VERSION")]
    at: Vec<Reference>,
}

pub async fn run(global: &Global, args: Plan) -> Result<(), Failure> {
    let path = args.what.as_ref().map_or_else(|| PathBuf::from("."), PathBuf::from);
    let is_project = path.is_file() || path.join(FILE_NAME).is_file() || (args.what.is_some() && path.exists());
    let mut refused = None;
    let plan = if is_project {
        // Faults are told before anybody is asked anything.
        let mut project = Project::load(&path)?;
        let session = Session::open(global)?;
        let pins = pins(&session, &mut project, args.at).await?;
        let plan = of_project(&session, &project, args.objective, &pins).await?;
        refused = hopeless(&plan, &project);
        plan
    } else {
        if !args.at.is_empty() {
            return Err(Failure::usage("--at is for planning a project, and this is a run")
                .because("what a run reads was decided when it was submitted"));
        }
        let session = Session::open(global)?;
        let run = match &args.what {
            Some(text) => names::run(&session, text).await?,
            None => names::newest(&session).await?,
        };
        let plan = of_run(&session, &run).await?;
        if plan.placements.is_empty() && global.output == Output::Text {
            eprintln!("nothing of {run} has needed a place yet; `tombolo ps {run}` shows what it waits for or reuses");
        }
        plan
    };
    match global.output {
        Output::Text if is_project => render::text(&text(&plan)),
        Output::Text => render::text(&stages(&plan)),
        Output::Json => render::json(&plan),
    }
    // As `tombolo run` would answer. Of a run, that something has no place is what was asked for.
    match refused {
        Some(faults) => Err(faults.into()),
        None if is_project => all_have_a_place(&plan),
        None => Ok(()),
    }
}

/// A plan in which a stage has no place is none, though a site may come back that can have it.
fn all_have_a_place(plan: &PlanView) -> Result<(), Failure> {
    let homeless: Vec<&str> = plan.placements.iter().filter(|p| p.outcome.is_err()).map(|p| p.task.as_str()).collect();
    match homeless.as_slice() {
        [] => Ok(()),
        names => Err(Failure::system(format!("no site can have {} now", names.join(", ")))
            .hint("`tombolo site ls` tells what there is; `tombolo run` waits for a site that can")),
    }
}

/// What would happen if the project were run now.
pub async fn of_project(
    session: &Session,
    project: &Project,
    objective: Option<Objective>,
    pins: &BTreeMap<Name, VersionId>,
) -> Result<PlanView, Failure> {
    let expected = expected(session, project).await?;
    let body = NewPlan { project: project.spec.clone(), expected, data: pins.clone(), objective };
    Ok(session.create("/v1/plan", &body).await?)
}

/// What was decided for a run.
pub async fn of_run(session: &Session, run: &RunId) -> Result<PlanView, Failure> {
    Ok(session.client.get(&format!("/v1/runs/{run}/plan")).await?)
}

/// The size of each dataset that the project brings, and the site where it would be added.
async fn expected(session: &Session, project: &Project) -> Result<BTreeMap<Name, ExpectedData>, Failure> {
    let mut expected = BTreeMap::new();
    if project.spec.data.values().all(|data| data.path.is_none()) {
        return Ok(expected);
    }
    let nearest = Nearest::find(session).await?;
    for (name, data) in &project.spec.data {
        let Some(path) = &data.path else { continue };
        let site = nearest.for_residency(name.as_str(), &data.residency)?.name.clone();
        let path = project.dir.join(path);
        let bytes = size(&path).map_err(|error| {
            Failure::usage(format!("dataset {name} can't be read at {}", path.display())).because(error)
        })?;
        expected.insert(name.clone(), ExpectedData { bytes, site });
    }
    Ok(expected)
}

/// Bytes of a file, or of all files in a directory.
fn size(path: &Path) -> std::io::Result<u64> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    let (mut total, mut dirs) = (0, vec![path.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            // A link's own metadata, so that a loop of links ends.
            let metadata = entry.metadata()?;
            match metadata.is_dir() {
                true => dirs.push(entry.path()),
                false => total += metadata.len(),
            }
        }
    }
    Ok(total)
}

/// Refuses a project with stages that no site will ever take as they are, before anything is moved for it.
pub fn refuse_hopeless(plan: &PlanView, project: &Project) -> Result<(), Failure> {
    match hopeless(plan, project) {
        Some(faults) => Err(faults.into()),
        None => Ok(()),
    }
}

/// Stages that no site will ever take as they are, each with its place in the project file.
fn hopeless(plan: &PlanView, project: &Project) -> Option<Faults> {
    let hint =
        "change what it asks for or where it may be; or let it wait for such a site: tombolo run --wait-for-site";
    let found: Vec<_> = plan
        .placements
        .iter()
        .filter(|placement| placement.is_hopeless())
        .map(|placement| {
            let message = format!("no site can run {}: {}", placement.task, reasons(placement));
            (placement.task.as_str(), message, hint.to_owned())
        })
        .collect();
    (!found.is_empty()).then(|| project.faults_of(found))
}

fn reasons(placement: &Placement) -> String {
    let grouped = by_reason(placement);
    let shown = grouped.iter().take(REASONS_SHOWN_MAX);
    let mut reasons: Vec<String> = shown.map(|(reason, sites)| format!("{}: {reason}", sites.join(", "))).collect();
    let more = grouped.len().saturating_sub(REASONS_SHOWN_MAX);
    if more > 0 {
        reasons.push(format!("and {more} more"));
    }
    reasons.join("; ")
}

/// Sites that lost for the same reason are told together.
fn by_reason(placement: &Placement) -> Vec<(String, Vec<&str>)> {
    let mut reasons: Vec<(String, Vec<&str>)> = Vec::new();
    for (site, verdict) in &placement.others {
        let reason = verdict.to_string();
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, sites)) => sites.push(site.as_str()),
            None => reasons.push((reason, vec![site.as_str()])),
        }
    }
    reasons
}

/// For each stage its site with the terms, and why it is at no other.
pub fn text(plan: &PlanView) -> String {
    let mut text = stages(plan);
    let homeless = plan.placements.iter().filter(|placement| placement.outcome.is_err()).count();
    if homeless > 0 {
        let have = if homeless == 1 { "has" } else { "have" };
        let _ = writeln!(text, "No plan for all of it: {homeless} of {} {have} no place.", plan.placements.len());
        return text;
    }
    // A service's price is that of a day: told apart, as it goes on.
    let daily: f64 = plan.placements.iter().filter_map(daily).sum();
    let once = plan.cost - daily;
    let mut prices = Vec::new();
    prices.extend((once > PRICE_MIN).then(|| render::money(once)));
    prices.extend((daily > PRICE_MIN).then(|| format!("{} a day", render::money(daily))));
    let money = if prices.is_empty() { String::new() } else { format!(" for {}", prices.join(" and ")) };
    let best = if plan.exact { "no plan is better" } else { "the best plan that was found" };
    let _ = writeln!(text, "All in {}{money}: {best}.", render::span(plan.makespan_ms));
    text
}

/// What a service takes each day; None of a job.
fn daily(placement: &Placement) -> Option<f64> {
    let terms = placement.outcome.as_ref().ok()?.terms;
    (terms.run.0 == 0).then_some(terms.compute_price)
}

/// The same of a run, whose stages were decided one after the other, so that there is no sum of them.
pub fn stages(plan: &PlanView) -> String {
    let mut text = String::new();
    plan.placements.iter().for_each(|placement| stage(&mut text, placement));
    text
}

fn stage(text: &mut String, placement: &Placement) {
    let _ = match &placement.outcome {
        Ok(outcome) => writeln!(text, "{} -> {}\n    {}", placement.task, outcome.site, terms(outcome)),
        Err(why) => writeln!(text, "{} has no place: {why}", placement.task),
    };
    for (reason, sites) in by_reason(placement) {
        let _ = writeln!(text, "    not {}: {reason}", sites.join(", "));
    }
}

/// `runs 30.0 s (declared), no wait, moves 12 MiB from onprem in 1.2 s ($0.0010), compute $0.0012`.
fn terms(outcome: &Outcome) -> String {
    let Terms { wait, transfer, transfer_bytes, egress_price, run, run_source, compute_price, .. } = outcome.terms;
    let is_service = run.0 == 0;
    let mut parts = vec![match is_service {
        true => "stays".to_owned(),
        false => format!("runs {run} ({})", source(run_source)),
    }];
    parts.push(if wait.0 == 0 { "no wait".to_owned() } else { format!("waits {wait} for room") });
    parts.push(match transfer_bytes {
        0 => "nothing to move".to_owned(),
        _ => {
            let mut from: Vec<&str> = outcome.transfers.iter().map(|transfer| transfer.from.as_str()).collect();
            from.sort_unstable();
            from.dedup();
            let price =
                if egress_price > 0.0 { format!(" (egress {})", render::money(egress_price)) } else { String::new() };
            let whole = outcome.transfers.iter().map(|transfer| transfer.whole_bytes.max(transfer.bytes));
            let part = match whole.fold(0, u64::saturating_add) {
                whole if whole > transfer_bytes => format!(" of {} (the rest is there)", bytes(whole)),
                _ => String::new(),
            };
            format!("moves {}{part} from {} in {transfer}{price}", bytes(transfer_bytes), from.join(", "))
        }
    });
    if compute_price > 0.0 {
        let each = if is_service { " a day" } else { "" };
        parts.push(format!("compute {}{each}", render::money(compute_price)));
    }
    parts.join(", ")
}

fn source(source: Source) -> &'static str {
    match source {
        Source::History => "as in earlier runs",
        Source::Declared => "declared",
        Source::Assumed => "assumed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tombolo_core::placement::{Cause, Decided, Margin, Reason, Transfer, Unplaceable, Verdict};
    use tombolo_core::{Millis, Selector, SiteId};

    fn site(name: &str) -> SiteId {
        SiteId::new(name).unwrap()
    }

    fn some_terms(run_ms: u64, transfer_bytes: u64) -> Terms {
        Terms {
            wait: Millis(0),
            transfer: Millis(if transfer_bytes > 0 { 1200 } else { 0 }),
            transfer_bytes,
            egress_price: if transfer_bytes > 0 { 0.0012 } else { 0.0 },
            run: Millis(run_ms),
            run_source: Source::Declared,
            compute_price: 0.25,
            score: 0.0,
        }
    }

    #[test]
    fn a_plan_says_where_and_why() {
        let name = |text: &str| Name::new(text).unwrap();
        let rule = Selector::site(site("onprem"));
        let kept = Verdict::Refused(Reason::Residency { input: name("raw"), rule, through: None });
        let features = Placement {
            task: name("features"),
            outcome: Ok(Outcome {
                site: site("onprem"),
                start: Millis(0),
                terms: some_terms(10_000, 0),
                transfers: vec![],
            }),
            others: vec![(site("cloud"), kept.clone()), (site("prod"), kept)],
        };
        let transfer = Transfer {
            input: name("features"),
            from: site("onprem"),
            to: site("cloud"),
            bytes: 12 << 20,
            whole_bytes: 0,
            time: Millis(1200),
            egress_price: 0.0012,
        };
        let margin = Margin {
            decided: Decided::Time,
            slower_ms: 12_000,
            dearer: 0.0,
            cause: Some(Cause::Wait { millis: Millis(12_000) }),
        };
        let lost = Verdict::Lost { terms: some_terms(30_000, 0), by: margin };
        let train = Placement {
            task: name("train"),
            outcome: Ok(Outcome {
                site: site("cloud"),
                start: Millis(11_200),
                terms: some_terms(30_000, 12 << 20),
                transfers: vec![transfer],
            }),
            others: vec![(site("onprem"), lost), (site("prod"), Verdict::Refused(Reason::Draining))],
        };
        let predict = Placement {
            task: name("predict"),
            outcome: Err(Unplaceable::NoSite),
            others: vec![(site("cloud"), Verdict::Refused(Reason::Unreachable))],
        };
        let plan = PlanView { makespan_ms: 41_200, cost: 0.5, exact: true, placements: vec![features, train, predict] };
        insta::assert_snapshot!(text(&plan), @r"
        features -> onprem
            runs 10.0 s (declared), no wait, nothing to move, compute $0.25
            not cloud, prod: raw may only be at onprem
        train -> cloud
            runs 30.0 s (declared), no wait, moves 12 MiB from onprem in 1.2 s (egress $0.0012), compute $0.25
            not onprem: 12.0 s slower: waits 12.0 s for room
            not prod: is draining
        predict has no place: no site can have it
            not cloud: is not reachable
        No plan for all of it: 1 of 3 has no place.
        ");
    }
}
