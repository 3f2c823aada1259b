//! One stream to a source: questions go out and answers come in, none later than a stall allows.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tombolo_core::VersionId;

use super::Dial;
use super::fetch::Source;
use super::queue::Fault;
use super::wire::{Answer, GRANT_BYTES_MAX, Request, Wanted, read_answer, write_request};

pub(super) struct Stream<'a, D: Dial> {
    source: &'a Source<D>,
    send: D::Send,
    recv: D::Recv,
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
        let (send, recv) = in_time(stall, source.dial.open()).await?;
        Ok(Stream { source, send, recv, stall, wire })
    }

    pub(super) async fn ask(&mut self, version: VersionId, what: Wanted) -> Result<(), Fault> {
        let request = Request { version, grant: self.source.grant.clone(), what };
        let bytes = in_time(self.stall, write_request(&mut self.send, &request)).await?;
        self.wire.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    pub(super) async fn answer(&mut self) -> Result<Answer, Fault> {
        let (answer, bytes) = in_time(self.stall, read_answer(&mut self.recv)).await?;
        self.wire.fetch_add(bytes, Ordering::Relaxed);
        Ok(answer)
    }
}

async fn in_time<T>(stall: Duration, work: impl Future<Output = std::io::Result<T>>) -> Result<T, Fault> {
    match tokio::time::timeout(stall, work).await {
        Ok(outcome) => outcome.map_err(|e| Fault::Failed(e.to_string())),
        Err(_) => Err(Fault::Failed(format!("it was silent for {} ms", stall.as_millis()))),
    }
}

/// What is wrong with an answer that doesn't fit, unless it is a refusal.
pub(super) fn unexpected(answer: Answer) -> Fault {
    match answer {
        Answer::Refused(why) => Fault::Refused(why),
        _ => Fault::Failed("it gave an answer that doesn't fit the question".to_owned()),
    }
}
