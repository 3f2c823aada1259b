//! The placements of this site that answer, and what each is answering.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tombolo_core::journal::Entry;
use tombolo_core::sync::Phase;
use tombolo_core::{Epoch, WorkloadId};

/// How often the reasons to wait for streams are looked at anew.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Default)]
pub struct Local(Mutex<BTreeMap<WorkloadId, Arc<Stay>>>);

/// A placement from its first answer to its end.
pub struct Stay {
    pub epoch: Epoch,
    pub address: SocketAddr,
    state: Mutex<State>,
    /// Rings when something has ended, or is to be hurried.
    ended: Notify,
}

#[derive(Default)]
struct State {
    leaving: bool,
    hurried: bool,
    requests: usize,
    streams: usize,
}

/// A placement that takes no request: nothing of it answers here, any more or yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Away;

impl Local {
    /// Whether anything changed.
    pub fn note(&self, workload: &WorkloadId, entry: Option<&Entry>) -> bool {
        let mut held = self.0.lock().expect("nobody panics holding it");
        let ready = entry.and_then(|entry| match &entry.phase {
            Phase::Ready { address, .. } | Phase::Ending { address, .. } => {
                Some((entry, address.parse::<SocketAddr>().ok()?))
            }
            _ => None,
        });
        let Some((entry, address)) = ready.filter(|(entry, _)| is_service(entry)) else {
            return held.remove(workload).is_some();
        };
        let known = held.get(workload).filter(|stay| stay.epoch == entry.epoch && stay.address == address);
        if let Some(stay) = known {
            return entry.stopping && !std::mem::replace(&mut stay.lock().leaving, true);
        }
        let state = State { leaving: entry.stopping, ..State::default() };
        let stay = Stay { epoch: entry.epoch, address, state: Mutex::new(state), ended: Notify::new() };
        held.insert(workload.clone(), Arc::new(stay));
        true
    }

    /// A place for one request.
    pub fn enter(&self, workload: &WorkloadId, epoch: Epoch) -> Result<Busy, Away> {
        let stay = self.find(workload, epoch).ok_or(Away)?;
        {
            let mut state = stay.lock();
            if state.leaving {
                return Err(Away);
            }
            state.requests += 1;
        }
        Ok(Busy { stay, stream: false })
    }

    /// Gives it no more requests.
    pub fn leave(&self, workload: &WorkloadId, epoch: Epoch) -> Option<Arc<Stay>> {
        let stay = self.find(workload, epoch)?;
        stay.lock().leaving = true;
        Some(stay)
    }

    pub fn hurry(&self, workload: &WorkloadId, epoch: Epoch) {
        if let Some(stay) = self.leave(workload, epoch) {
            stay.lock().hurried = true;
            stay.ended.notify_waiters();
        }
    }

    fn find(&self, workload: &WorkloadId, epoch: Epoch) -> Option<Arc<Stay>> {
        let held = self.0.lock().expect("nobody panics holding it");
        held.get(workload).filter(|stay| stay.epoch == epoch).cloned()
    }
}

fn is_service(entry: &Entry) -> bool {
    entry.order.as_ref().is_some_and(|order| order.spec.service().is_some())
}

impl Stay {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics holding it")
    }

    /// Waits until it answers nothing any more, or for so long. Streams are waited for while `streams_count` says so.
    pub async fn emptied(&self, limit: Duration, streams_count: impl Fn() -> bool) {
        let deadline = Instant::now() + limit;
        loop {
            let ended = self.ended.notified();
            let streams_count = streams_count();
            {
                let state = self.lock();
                let streams = if streams_count { state.streams } else { 0 };
                if state.hurried || state.requests + streams == 0 {
                    return;
                }
            }
            if Instant::now() >= deadline {
                return;
            }
            let _ = tokio::time::timeout_at(deadline.min(Instant::now() + LOOK_EVERY), ended).await;
        }
    }
}

/// One request that a placement is answering, until it is dropped.
pub struct Busy {
    stay: Arc<Stay>,
    stream: bool,
}

impl Busy {
    pub fn address(&self) -> SocketAddr {
        self.stay.address
    }

    /// It has become something that ends when the client likes: a web socket, or a stream of events.
    pub fn become_stream(&mut self) {
        if !std::mem::replace(&mut self.stream, true) {
            let mut state = self.stay.lock();
            state.requests -= 1;
            state.streams += 1;
            drop(state);
            self.stay.ended.notify_waiters();
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        {
            let mut state = self.stay.lock();
            match self.stream {
                true => state.streams -= 1,
                false => state.requests -= 1,
            }
        }
        self.stay.ended.notify_waiters();
    }
}
