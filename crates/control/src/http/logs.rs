//! What a workload printed, straight from its site.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use tokio::sync::mpsc;
use tombolo_api::stream::{Call, LogLine, LogQuery, Said};
use tombolo_api::wire::LogParams;
use tombolo_core::{Name, RunId, SiteId, Timestamp, WorkloadId};

use super::extract::{Ask, At};
use super::fault::Fault;
use super::feed::{Feed, hand_on};
use super::{Shared, views, workloads};

/// How long a site may take to take a question.
const CALL_WITHIN: Duration = Duration::from_secs(15);

/// A workload's log as server-sent events, `data` being a `LogLine`.
#[utoipa::path(
    get, path = "/v1/workloads/{run}/{name}/logs", tag = "workloads",
    params(("run" = String, Path), ("name" = String, Path), LogParams),
    responses(
        (status = 200, body = LogLine, content_type = "text/event-stream"),
        (status = 409, body = tombolo_api::problem::Problem, content_type = "application/problem+json",
            description = "It was not placed yet."),
        (status = 429, body = tombolo_api::problem::Problem, content_type = "application/problem+json",
            description = "Too many streams are open."),
    )
)]
pub(super) async fn follow(
    State(shared): State<Shared>,
    At((run, name)): At<(RunId, Name)>,
    Ask(query): Ask<LogParams>,
) -> Result<Response, Fault> {
    let id = WorkloadId::new(run, name);
    let record = workloads::found(&shared, &id).await?;
    let (epoch, site) = views::attempt_at(&record, query.epoch).ok_or_else(|| match query.epoch {
        Some(epoch) => Fault::not_found(format!("{id} has no attempt {epoch}")),
        None => Fault::conflict("not-started", format!("{id} has no log yet: it is {}", record.state.word())),
    })?;
    let (feed, response) = Feed::open(&shared)?;
    let query = LogQuery { since: query.since.map(Timestamp), tail: query.tail, follow: query.follow };
    let said = ask(&shared, &site, Call::Logs { workload: id, epoch, query }).await?;
    tokio::spawn(hand_on(feed, said, |piece| match piece {
        Said::Log(line) => Some(line),
        Said::Progress(_) | Said::Done(_) | Said::Failed(_) => None,
    }));
    Ok(response)
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
