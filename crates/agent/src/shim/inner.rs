//! Work that the shim does itself instead of starting a command: on threads of its own, watched until it ends or shall stop.

use std::future::Future;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::placement::{Durable, Event};
use super::run::{Cause, End, Ran};
use super::{Shim, Wake};
use crate::clock::now;

/// How often running work looks whether it shall stop.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The work's result, or how it ended without one. It has no state of its own to save, so that it gets no grace.
pub fn run<T: Send + 'static>(
    shim: &Shim,
    woken: &Receiver<Wake>,
    began: Instant,
    threads: usize,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Ran> {
    let pid = std::process::id().cast_signed();
    if let Err(error) = shim.append(&Event::Running { at: now(), pid }, Durable::No) {
        crate::logs::mutter(&format!("the start can't be written down: {error}"));
    }
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
        // Nobody listens any more where the work was stopped; the process is about to end then.
        let _ = done.send(runtime.map(|runtime| runtime.block_on(work)));
    });
    let timeout = shim.order.order.spec.job().and_then(|job| job.timeout);
    loop {
        match ended.recv_timeout(LOOK_EVERY) {
            Ok(Ok(result)) => return Ok(result),
            Ok(Err(error)) => {
                shim.log.say(&format!("no threads to work on: {error}"));
                return Err(Ran { end: End::Code(1), ..Ran::default() });
            }
            Err(RecvTimeoutError::Disconnected) => {
                shim.log.say("the thread ended without a result");
                return Err(Ran { end: End::Code(1), ..Ran::default() });
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        let late = timeout.filter(|timeout| began.elapsed() > Duration::from_millis(timeout.0));
        let cause = match (woken.try_recv(), late) {
            (Ok(Wake::Stop), _) => Some(Cause::Asked),
            (Ok(Wake::Evicted), _) => Some(Cause::Evicted),
            (_, Some(after)) => Some(Cause::TimedOut { after }),
            _ => None,
        };
        if cause.is_some() {
            return Err(Ran { stopped: cause, ..Ran::default() });
        }
    }
}
