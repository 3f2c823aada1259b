//! Fetches that are under way: who takes part in each, and how far it is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tombolo_api::stream::Progress;
use tombolo_core::speed::Speed;
use tombolo_core::{Millis, VersionId, WorkloadId};

pub(super) type UnderWay = Arc<Mutex<BTreeMap<VersionId, Arc<tokio::sync::Mutex<()>>>>>;

/// One of those that want a version. The last of them takes it from what is under way, however its fetch ends.
pub(super) struct Turn {
    pub(super) all: UnderWay,
    pub(super) version: VersionId,
    pub(super) lock: Arc<tokio::sync::Mutex<()>>,
}

impl Turn {
    pub(super) fn of(all: &UnderWay, version: VersionId) -> Turn {
        let lock = all.lock().expect("nobody panics holding it").entry(version).or_default().clone();
        Turn { all: all.clone(), version, lock }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut all = self.all.lock().expect("nobody panics holding it");
        // The map's and this one: nobody else waits, and nobody can come while the map is held.
        if Arc::strong_count(&self.lock) == 2 {
            all.remove(&self.version);
        }
    }
}

/// What a fetch has brought, with the speed of late.
#[derive(Clone)]
pub(super) struct Meter {
    pub(super) what: String,
    pub(super) began: Instant,
    pub(super) speed: Speed,
    pub(super) done_bytes: u64,
    pub(super) total_bytes: u64,
}

impl Meter {
    pub(super) fn new(what: String) -> Meter {
        Meter { what, began: Instant::now(), speed: Speed::default(), done_bytes: 0, total_bytes: 0 }
    }

    pub(super) fn note(&mut self, done_bytes: u64, total_bytes: u64) {
        // Several streams tell of it, and the last to speak isn't always the last to have counted.
        self.done_bytes = self.done_bytes.max(done_bytes);
        self.total_bytes = total_bytes;
        let at = self.now();
        self.speed.note(at, self.done_bytes);
    }

    /// As of now: while nothing comes the rate falls.
    pub(super) fn read(&self) -> Progress {
        let now = self.now();
        Progress {
            what: self.what.clone(),
            done_bytes: self.done_bytes,
            total_bytes: self.total_bytes,
            bytes_per_s: self.speed.bytes_per_s(now),
            left_ms: self.speed.left(now, self.total_bytes).map(|left| left.0),
        }
    }

    fn now(&self) -> Millis {
        Millis(self.began.elapsed().as_millis() as u64)
    }
}

/// A fetch's line among what is moving; gone with the fetch, however it ends.
pub(super) struct Moving {
    pub(super) all: Arc<Mutex<BTreeMap<WorkloadId, Meter>>>,
    pub(super) workload: Option<WorkloadId>,
}

impl Moving {
    pub(super) fn note(&self, meter: &Meter) {
        if let Some(workload) = &self.workload {
            self.all.lock().expect("nobody panics holding it").insert(workload.clone(), meter.clone());
        }
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        if let Some(workload) = &self.workload {
            self.all.lock().expect("nobody panics holding it").remove(workload);
        }
    }
}
