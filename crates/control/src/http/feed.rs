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
    read_within: Duration,
    _place: OwnedSemaphorePermit,
}

/// The reader has gone, or does not read.
pub struct Cut;

impl Feed {
    pub fn open(shared: &Shared) -> Result<(Feed, Response), Fault> {
        let place = shared.streams.clone().try_acquire_owned();
        let place = place.map_err(|_| Fault::busy(format!("{STREAMS_MAX} event streams are open already")))?;
        Ok(Feed::new(place, READ_WITHIN))
    }

    fn new(place: OwnedSemaphorePermit, read_within: Duration) -> (Feed, Response) {
        let (events, waiting) = mpsc::channel(BUFFERED_MAX);
        let stream = ReceiverStream::new(waiting).map(Ok::<_, Infallible>);
        let response = Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
        (Feed { events, read_within, _place: place }, response)
    }

    pub async fn send(&self, event: Event) -> Result<(), Cut> {
        self.events.send_timeout(event, self.read_within).await.map_err(|_| Cut)
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
        let piece = match piece {
            Some(Said::Failed(why)) => return feed.fail(&Fault::unavailable("site-failed", why)).await,
            Some(piece) => piece,
            None => {
                let title = "the connection to the site broke before it had said all";
                return feed.fail(&Fault::unavailable("site-unreachable", title)).await;
            }
        };
        let last = matches!(piece, Said::Done(_));
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;
    use tombolo_api::stream::LogLine;
    use tombolo_core::Timestamp;

    use super::*;

    async fn feed(read_within: Duration) -> (Feed, Response, Arc<Semaphore>) {
        let places = Arc::new(Semaphore::new(1));
        let (feed, response) = Feed::new(places.clone().acquire_owned().await.unwrap(), read_within);
        (feed, response, places)
    }

    fn line(text: &str) -> Said {
        Said::Log(LogLine { at: Timestamp(1), stream: "stdout".to_owned(), text: text.to_owned() })
    }

    /// What a reader gets of what a site says.
    async fn read(pieces: Vec<Said>) -> String {
        let (feed, response, _) = feed(READ_WITHIN).await;
        let (say, said) = mpsc::channel(pieces.len());
        for piece in pieces {
            say.send(piece).await.unwrap();
        }
        drop(say);
        let lines = |piece| if let Said::Log(line) = piece { Some(line) } else { None };
        tokio::spawn(hand_on(feed, said, lines));
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn what_a_site_says_is_handed_on_until_it_is_done_or_failed() {
        let text = read(vec![line("one\ntwo"), Said::Done(serde_json::Value::Null), line("never")]).await;
        assert_eq!(text, "data: {\"at\":1,\"stream\":\"stdout\",\"text\":\"one\\ntwo\"}\n\n");
        let text = read(vec![line("one"), Said::Failed("the disk is gone".to_owned())]).await;
        assert!(text.contains("event: problem") && text.contains("the disk is gone"), "{text}");
        let text = read(vec![line("one")]).await;
        assert!(text.contains("event: problem") && text.contains("site-unreachable"), "{text}");
    }

    #[tokio::test]
    async fn who_does_not_read_is_cut_off_and_gives_its_place_back() {
        let (feed, response, places) = feed(Duration::from_millis(1)).await;
        let mut taken = 0;
        while feed.say(&taken).await.is_ok() {
            taken += 1;
        }
        assert_eq!(taken, BUFFERED_MAX);
        assert_eq!(places.available_permits(), 0);
        drop(feed);
        assert_eq!(places.available_permits(), 1);
        // What was taken can still be read, and then the stream ends.
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        assert!(body.ends_with(format!("data: {}\n\n", BUFFERED_MAX - 1).as_bytes()));
    }
}
