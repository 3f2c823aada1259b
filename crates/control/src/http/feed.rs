//! Event streams: a bounded buffer between what happens and who listens, and an end for who doesn't read.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tombolo_api::stream::Said;

use super::Shared;
use super::fault::Fault;

/// Streams that may be open at once.
pub const STREAMS_MAX: usize = 1_000;
/// Events that may wait for a slow reader.
const BUFFERED_MAX: usize = 64;
/// How long a full buffer is waited for before the reader is cut off.
const READ_WITHIN: Duration = Duration::from_secs(30);
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The writing end of a stream.
pub struct Feed {
    events: mpsc::Sender<Event>,
    _place: OwnedSemaphorePermit,
}

/// The reader has gone, or does not read.
pub struct Cut;

impl Feed {
    pub fn open(shared: &Shared) -> Result<(Feed, Response), Fault> {
        let place = shared.streams.clone().try_acquire_owned();
        let place = place.map_err(|_| Fault::busy(format!("{STREAMS_MAX} event streams are open already")))?;
        let (events, waiting) = mpsc::channel(BUFFERED_MAX);
        let stream = ReceiverStream::new(waiting).map(Ok::<_, Infallible>);
        let response = Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
        Ok((Feed { events, _place: place }, response))
    }

    pub async fn send(&self, event: Event) -> Result<(), Cut> {
        self.events.send_timeout(event, READ_WITHIN).await.map_err(|_| Cut)
    }

    pub async fn say(&self, value: &impl Serialize) -> Result<(), Cut> {
        self.send(Event::default().data(serde_json::to_string(value).map_err(|_| Cut)?)).await
    }

    pub async fn fail(&self, fault: &Fault) {
        let _ = self.send(fault.event()).await;
    }

    /// Resolves when nobody reads any more.
    pub async fn closed(&self) {
        self.events.closed().await;
    }
}

/// Hands on what a site says until it has said all. `pick` chooses what the reader gets of each piece.
pub async fn hand_on<T: Serialize>(feed: Feed, mut said: mpsc::Receiver<Said>, pick: impl Fn(Said) -> Option<T>) {
    loop {
        let piece = tokio::select! {
            piece = said.recv() => piece,
            () = feed.closed() => return,
        };
        let last = match piece {
            None => {
                let title = "the connection to the site broke before it had said all";
                return feed.fail(&Fault::unavailable("site-unreachable", title)).await;
            }
            Some(Said::Failed(why)) => return feed.fail(&Fault::unavailable("site-failed", why)).await,
            Some(piece @ Said::Done(_)) => (true, piece),
            Some(piece) => (false, piece),
        };
        let (last, piece) = last;
        if let Some(value) = pick(piece)
            && feed.say(&value).await.is_err()
        {
            return;
        }
        if last {
            return;
        }
    }
}
