//! What happens in a run, as it happens.

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::response::Response;
use axum::response::sse::Event;
use serde::Deserialize;
use tombolo_api::wire::EventView;
use tombolo_core::RunId;
use tombolo_core::world::RunState;

use super::extract::{Ask, At};
use super::fault::Fault;
use super::feed::{Cut, Feed};
use super::{Shared, runs};

/// Events read from the store at once.
const BATCH: u32 = 500;

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct EventQuery {
    /// The number of the last event that is known already; `Last-Event-ID` goes before it.
    after: Option<i64>,
}

/// Where a broken stream is taken up again.
pub(super) struct LastEvent(Option<i64>);

impl<S: Send + Sync> FromRequestParts<S> for LastEvent {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<LastEvent, Fault> {
        let Some(given) = parts.headers.get("last-event-id") else { return Ok(LastEvent(None)) };
        let number = given.to_str().ok().and_then(|text| text.parse().ok());
        number
            .map(Some)
            .map(LastEvent)
            .ok_or_else(|| Fault::bad_request("bad-event-id", "Last-Event-ID is no event's number"))
    }
}

/// Events of a run as server-sent events, `data` being an `EventView`. Ends when all of a run that is over, or
/// that serves, was sent.
#[utoipa::path(
    get, path = "/v1/runs/{run}/events", tag = "runs",
    params(("run" = String, Path), ("Last-Event-ID" = Option<i64>, Header), EventQuery),
    responses(
        (status = 200, body = EventView, content_type = "text/event-stream"),
        (status = 429, body = tombolo_api::problem::Problem, content_type = "application/problem+json",
            description = "Too many streams are open."),
    )
)]
pub(super) async fn follow(
    State(shared): State<Shared>,
    At(id): At<RunId>,
    LastEvent(last): LastEvent,
    Ask(query): Ask<EventQuery>,
) -> Result<Response, Fault> {
    runs::found(&shared, &id).await?;
    let (feed, response) = Feed::open(&shared)?;
    let after = last.or(query.after).unwrap_or(0);
    tokio::spawn(async move {
        match tell(&shared, &id, after, &feed).await {
            Ok(()) | Err(Ended::Cut) => {}
            Err(Ended::Fault(fault)) => feed.fail(&fault).await,
        }
    });
    Ok(response)
}

enum Ended {
    Cut,
    Fault(Fault),
}

impl From<Cut> for Ended {
    fn from(_: Cut) -> Ended {
        Ended::Cut
    }
}

impl<E: Into<Fault>> From<E> for Ended {
    fn from(error: E) -> Ended {
        Ended::Fault(error.into())
    }
}

async fn tell(shared: &Shared, id: &RunId, mut after: i64, feed: &Feed) -> Result<(), Ended> {
    let mut news = shared.engine.events();
    loop {
        news.mark_unchanged();
        // The state first: whatever led to it is among the events that are read after it.
        let (run, _) = runs::found(shared, id).await?;
        loop {
            let events = shared.engine.store().events(Some(id), after, BATCH).await?;
            let Some(last) = events.last() else { break };
            after = last.number;
            for event in &events {
                let data = serde_json::to_string(event).map_err(|error| Fault::internal(&error))?;
                feed.send(Event::default().id(event.number.to_string()).data(data)).await?;
            }
        }
        if run.state != RunState::Active {
            return Ok(());
        }
        tokio::select! {
            changed = news.changed() => changed.map_err(|_| crate::engine::EngineGone)?,
            () = feed.closed() => return Ok(()),
        }
    }
}
