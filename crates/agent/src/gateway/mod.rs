//! The gateway: every site serves the endpoints of all sites, at an address that stays.
//!
//! A request is for an endpoint, by the beginning of its path or by its host name. The table of routes ([`table`]), which
//! the control plane keeps up to date and which is saved here, says which placements answer; [`proxy`] tries them one
//! after the other. A placement of this site is reached at its port ([`local`], [`upstream`]), another one through the
//! gateway of its own site ([`mesh`]): so all that a placement answers passes its own site's gateway, which knows when
//! it is answering nothing any more. The control plane is not on this way, and nothing of it stops when that is away.

mod headers;
mod health;
mod local;
mod mesh;
mod proxy;
mod refusals;
mod serve;
mod table;
#[cfg(test)]
mod tests;
mod upstream;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use iroh::Endpoint;
use tokio::sync::{Semaphore, watch};
use tombolo_api::stream::RoutesNews;
use tombolo_core::journal::Entry;
use tombolo_core::{Epoch, SiteId, WorkloadId};

use crate::clock::ControlTime;

pub use serve::listen;

/// Requests that wait for an endpoint in the gap of a move; one that comes later is answered 503.
const WAITING_MAX: usize = 1_000;
/// How long a request waits.
const WAIT_MAX: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

struct Inner {
    site: SiteId,
    table: table::Table,
    local: local::Local,
    health: health::Health,
    mesh: mesh::Mesh,
    pool: upstream::Pool,
    /// Rings when what is known of routes, or of the placements here, has changed.
    changed: watch::Sender<u64>,
    waiting: Arc<Semaphore>,
    /// A place for each body that is held.
    held: Arc<Semaphore>,
    turn: AtomicU64,
    time: ControlTime,
    limits: Limits,
}

/// What tests set otherwise.
#[derive(Clone)]
pub struct Limits {
    pub wait_max: Duration,
    pub waiting_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { wait_max: WAIT_MAX, waiting_max: WAITING_MAX }
    }
}

impl Gateway {
    /// One that goes on from what was saved in the site's directory.
    pub fn new(site: SiteId, site_dir: &Path, endpoint: Endpoint, time: ControlTime, limits: Limits) -> Gateway {
        let (changed, _) = watch::channel(0);
        Gateway(Arc::new(Inner {
            site,
            table: table::Table::open(&site_dir.join(table::FILE)),
            local: local::Local::default(),
            health: health::Health::default(),
            mesh: mesh::Mesh::new(endpoint),
            pool: upstream::Pool::default(),
            changed,
            waiting: Arc::new(Semaphore::new(limits.waiting_max)),
            held: Arc::new(Semaphore::new(proxy::HELD_MAX)),
            turn: AtomicU64::new(0),
            time,
            limits,
        }))
    }

    /// Takes in what the control plane says of endpoints.
    pub fn learn(&self, news: RoutesNews) {
        if self.0.table.learn(news) {
            self.0.mesh.forget_strangers(&self.0.table.held());
            self.ring();
        }
    }

    /// Takes in what has become of a placement here; none where it is no more.
    pub fn note(&self, workload: &WorkloadId, entry: Option<&Entry>) {
        if self.0.local.note(workload, entry) {
            self.ring();
        }
    }

    /// Gives a placement no new request, and waits until it has answered those that it has; for so long at most as its
    /// service says. None where it answers nothing, or that is waited for already.
    pub fn drain(
        &self,
        workload: &WorkloadId,
        epoch: Epoch,
        entry: Option<&Entry>,
    ) -> Option<impl Future<Output = ()> + use<>> {
        let limit = entry?.order.as_ref()?.spec.service()?.drain;
        let stay = self.0.local.leave(workload, epoch)?;
        self.ring();
        let (gateway, workload) = (self.clone(), workload.clone());
        Some(async move {
            // Streams end when their clients like. Where something else takes over they may go on beside it for a
            // while; where that waits for this one to end, or nothing follows, it would only wait for them.
            let held = || gateway.successor_of(&workload, epoch);
            stay.emptied(Duration::from_millis(limit.0), held).await;
        })
    }

    /// Ends the waiting of [`Gateway::drain`].
    pub fn hurry(&self, workload: &WorkloadId, epoch: Epoch) {
        self.0.local.hurry(workload, epoch);
    }

    /// Whether another placement answers in the place of one.
    fn successor_of(&self, workload: &WorkloadId, epoch: Epoch) -> bool {
        let held = self.0.table.held();
        let others = |route: &tombolo_core::routes::Route| {
            route.replicas.iter().any(|replica| replica.workload != *workload || replica.epoch != epoch)
        };
        held.routes
            .iter()
            .any(|(id, route)| id.project == *workload.run.project() && serves(id, workload) && others(route))
    }

    fn ring(&self) {
        self.0.changed.send_modify(|times| *times += 1);
    }
}

/// Whether a workload is a replica of an endpoint's service: `predict-2` of `predict`.
fn serves(id: &tombolo_core::EndpointId, workload: &WorkloadId) -> bool {
    let (name, service) = (workload.name.as_str(), id.service.as_str());
    let numbered = |rest: &str| rest.strip_prefix('-').is_some_and(|number| number.parse::<u32>().is_ok());
    name == service || name.strip_prefix(service).is_some_and(numbered)
}
