//! One stream to a source: questions go out and answers come in, and a source that falls silent is noticed.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tombolo_core::VersionId;

use super::Dial;
use super::fetch::Source;
use super::queue::Fault;
use super::wire::{Answer, GRANT_BYTES_MAX, Request, Wanted, read_answer, write_request};

/// Bytes that a source must bring in the time of a stall, so as not to be taken for silent.
const LIVELY_BYTES: u64 = 1 << 10;

pub(super) struct Stream<'a, D: Dial> {
    pub(super) asking: Asking<'a, D>,
    pub(super) answering: Answering<'a, D>,
}

/// The end that questions go out at.
pub(super) struct Asking<'a, D: Dial> {
    source: &'a Source<D>,
    send: D::Send,
    stall: Duration,
    wire: &'a AtomicU64,
}

/// The end that answers come in at.
pub(super) struct Answering<'a, D: Dial> {
    recv: Heard<D>,
    stall: Duration,
    wire: &'a AtomicU64,
}

impl<'a, D: Dial> Stream<'a, D> {
    pub(super) async fn open(
        source: &'a Source<D>,
        stall: Duration,
        wire: &'a AtomicU64,
    ) -> Result<Stream<'a, D>, Fault> {
        if source.grant.len() > GRANT_BYTES_MAX {
            return Err(Fault::Failed(format!("its grant is longer than {GRANT_BYTES_MAX} bytes")));
        }
        let (send, recv) = in_time(stall, &AtomicU64::new(0), source.dial.open()).await?;
        let recv = Heard { recv, bytes: Arc::default() };
        Ok(Stream { asking: Asking { source, send, stall, wire }, answering: Answering { recv, stall, wire } })
    }

    pub(super) async fn ask(&mut self, version: VersionId, what: Wanted) -> Result<(), Fault> {
        self.asking.ask(version, what).await.map(drop)
    }

    pub(super) async fn answer(&mut self) -> Result<Answer, Fault> {
        self.answering.answer().await
    }
}

impl<D: Dial> Asking<'_, D> {
    /// Whether the source still takes questions. One that doesn't may have said why: its next answer tells, or that it is
    /// cut off.
    pub(super) async fn ask(&mut self, version: VersionId, what: Wanted) -> Result<bool, Fault> {
        let request = Request { version, grant: self.source.grant.clone(), what };
        let written = async { Ok(write_request(&mut self.send, &request).await.ok()) };
        let bytes = in_time(self.stall, &AtomicU64::new(0), written).await?;
        self.wire.fetch_add(bytes.unwrap_or(0), Ordering::Relaxed);
        Ok(bytes.is_some())
    }
}

impl<D: Dial> Answering<'_, D> {
    pub(super) async fn answer(&mut self) -> Result<Answer, Fault> {
        let heard = self.recv.bytes.clone();
        let (answer, bytes) = in_time(self.stall, &heard, read_answer(&mut self.recv)).await?;
        self.wire.fetch_add(bytes, Ordering::Relaxed);
        Ok(answer)
    }
}

/// Waits for as long as something is heard, however little of the whole it is.
async fn in_time<T>(stall: Duration, heard: &AtomicU64, work: impl Future<Output = io::Result<T>>) -> Result<T, Fault> {
    let mut work = pin!(work);
    loop {
        let before = heard.load(Ordering::Relaxed);
        match tokio::time::timeout(stall, &mut work).await {
            Ok(outcome) => return outcome.map_err(|e| Fault::Failed(e.to_string())),
            Err(_) if heard.load(Ordering::Relaxed) >= before + LIVELY_BYTES => {}
            Err(_) => return Err(Fault::Failed(format!("it was silent for {} ms", stall.as_millis()))),
        }
    }
}

/// Counts what is read, and what isn't because this side holds it back.
struct Heard<D: Dial> {
    recv: D::Recv,
    bytes: Arc<AtomicU64>,
}

impl<D: Dial> AsyncRead for Heard<D> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.recv).poll_read(cx, buf);
        let heard = match polled {
            Poll::Pending if D::is_held_back(&self.recv) => LIVELY_BYTES,
            _ => (buf.filled().len() - before) as u64,
        };
        self.bytes.fetch_add(heard, Ordering::Relaxed);
        polled
    }
}

/// What is wrong with an answer that doesn't fit, unless it is a refusal.
pub(super) fn unexpected(answer: Answer) -> Fault {
    match answer {
        Answer::Refused(why) => Fault::Refused(why),
        _ => Fault::Failed("it gave an answer that doesn't fit the question".to_owned()),
    }
}
