//! What a workload printed, straight from its site.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use tokio::sync::mpsc;
use tombolo_api::stream::{Call, LogLine, LogQuery, Said};
use tombolo_api::wire::LogParams;
use tombolo_core::residency::Residency;
use tombolo_core::workload;
use tombolo_core::world::{WorkloadRecord, read_by};
use tombolo_core::{Name, RunId, SiteId, Timestamp, WorkloadId};

use super::access::Caller;
use super::extract::{Ask, At};
use super::fault::Fault;
use super::feed::{Feed, hand_on};
use super::{Shared, views, workloads};

/// How long a site may take to take a question.
const CALL_WITHIN: Duration = Duration::from_secs(15);

/// A workload's log as server-sent events, `data` being a `LogLine`. None of it is kept on the way. What a workload
/// prints derives from what it reads: where that may not be anywhere, the reading is recorded, and where the project
/// says that logs stay at their site, it is refused.
#[utoipa::path(
    get, path = "/v1/workloads/{run}/{name}/logs", tag = "workloads",
    params(("run" = String, Path), ("name" = String, Path), LogParams),
    responses(
        (status = 200, body = LogLine, content_type = "text/event-stream"),
        (status = 403, body = tombolo_api::problem::Problem, content_type = "application/problem+json",
            description = "The token's role is too low, or its dataset says that logs stay at their site."),
        (status = 409, body = tombolo_api::problem::Problem, content_type = "application/problem+json",
            description = "It was not placed yet."),
        (status = 429, body = tombolo_api::problem::Problem, content_type = "application/problem+json",
            description = "Too many streams are open."),
    )
)]
pub(super) async fn follow(
    State(shared): State<Shared>,
    caller: Caller,
    At((run, name)): At<(RunId, Name)>,
    Ask(query): Ask<LogParams>,
) -> Result<Response, Fault> {
    let id = WorkloadId::new(run, name);
    let record = workloads::found(&shared, &id).await?;
    let (epoch, site) = views::attempt_at(&record, query.epoch).ok_or_else(|| match query.epoch {
        Some(epoch) => Fault::not_found(format!("{id} has no attempt {epoch}")),
        None => without_log(&record),
    })?;
    let rule = Rule::of(&shared, &record).await?;
    if let Some(dataset) = rule.stay {
        let title = format!("the log of {id} stays at {site}: the project's dataset {dataset} says `logs: stay`");
        let hint = format!("read it on a machine of {site}: tombolo logs {id} --site-dir <its agent's directory>");
        return Err(Fault::forbidden("logs-stay", title).hint(hint));
    }
    let (feed, response) = Feed::open(&shared)?;
    if !rule.residency.is_anywhere() {
        let detail = format!("read from {site}; its inputs may only be at {}", rule.residency);
        let on = id.clone();
        let recorded = shared
            .engine
            .change(move |_, now| Ok::<_, std::convert::Infallible>(((), vec![caller.done(now, on, Some(detail))])));
        let Ok(()) = recorded.await?;
    }
    let query = LogQuery { since: query.since.map(Timestamp), tail: query.tail, follow: query.follow };
    let said = ask(&shared, &site, Call::Logs { workload: id, epoch, query }).await?;
    tokio::spawn(hand_on(feed, said, |piece| match piece {
        Said::Log(line) => Some(line),
        Said::Progress(_) | Said::Done(_) | Said::Failed(_) => None,
    }));
    Ok(response)
}

/// It was at no site.
fn without_log(record: &WorkloadRecord) -> Fault {
    let WorkloadRecord { id, state, .. } = record;
    let fault = |title: String| Fault::conflict("not-started", title);
    match state {
        workload::State::Succeeded { cached: true, .. } => {
            fault(format!("{id} has no log: it was not run again, as nothing has changed"))
                .hint("one of the earlier runs ran it: `tombolo ps --all` lists them")
        }
        state => fault(format!("{id} has no log yet: it is {}", state.word()))
            .hint(format!("`tombolo ps {}` shows what it waits for", id.run)),
    }
}

/// Under which rules a workload's log is, and its artifacts, by those of what it reads.
pub(super) struct Rule {
    /// The dataset by which it stays at its site.
    stay: Option<Name>,
    pub residency: Residency,
}

impl Rule {
    pub async fn of(shared: &Shared, record: &WorkloadRecord) -> Result<Rule, Fault> {
        let id = record.id.clone();
        let live = shared.engine.look(move |world, _| {
            let (run, record) = (world.runs.get(&id.run)?, world.workloads.get(&id)?);
            Some(Rule { stay: run.spec.logs_stay(&record.spec).cloned(), residency: world.inherited(&id) })
        });
        if let Some(rule) = live.await? {
            return Ok(rule);
        }
        let found = shared.engine.store().run(&record.id.run).await?;
        let (run, workloads) = found.ok_or_else(|| Fault::not_found(format!("there is no run {}", record.id.run)))?;
        let stay = run.spec.logs_stay(&record.spec).cloned();
        let read: Vec<_> = read_by(record, &run, &workloads).map(|(_, version)| version).collect();
        let record = record.clone();
        let residency = shared.engine.look(move |world, _| world.inherited_from(&record, read.into_iter()));
        Ok(Rule { stay, residency: residency.await? })
    }
}

/// Asks a site, or says since when it can't be asked.
pub(super) async fn ask(shared: &Shared, site: &SiteId, call: Call) -> Result<mpsc::Receiver<Said>, Fault> {
    let fault = match tokio::time::timeout(CALL_WITHIN, shared.hub.call(site, call)).await {
        Ok(Ok(said)) => return Ok(said),
        Ok(Err(error)) => Fault::from(error),
        Err(_) => Fault::unavailable("site-unreachable", format!("{site} took no question within {CALL_WITHIN:?}")),
    };
    let place = site.clone();
    let heard = shared.engine.look(move |world, now| (world.sites.get(&place).and_then(|site| site.heard), now));
    let (heard, now) = heard.await?;
    Err(fault.detail(format!("{site} {}", views::not_heard(heard, now))))
}
