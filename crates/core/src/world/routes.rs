//! What gateways are told: for each endpoint the replicas that answer, kept beside the workloads so that a pass looks
//! only at those that changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::succession::service_of;
use super::{WorkloadRecord, World};
use crate::ids::RunId;
use crate::moving::Stage;
use crate::routes::{Access, EndpointId, Pass, Replica, Route};
use crate::time::Timestamp;
use crate::workload::State;

/// The routes of all endpoints.
pub type Routes = BTreeMap<EndpointId, Route>;

/// A token of an endpoint, without itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointToken {
    pub id: String,
    pub endpoint: EndpointId,
    /// See [`Pass::hash`].
    pub hash: String,
    /// Who made it.
    pub by: String,
    pub created: Timestamp,
    pub expires: Timestamp,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Routing {
    /// All that was loaded has been taken in.
    whole: bool,
    table: Arc<Routes>,
    version: u64,
    /// Endpoints whose tokens changed.
    stale: BTreeSet<EndpointId>,
}

impl World {
    /// What every gateway is to know, and a number that grows with each change of it.
    pub fn routes(&self) -> (u64, Arc<Routes>) {
        (self.routing.version, self.routing.table.clone())
    }

    /// Makes a token good, to be told to all gateways.
    pub fn admit(&mut self, token: EndpointToken) {
        self.routing.stale.insert(token.endpoint.clone());
        self.endpoint_tokens.insert(token.id.clone(), token);
    }

    /// A token that is good no more.
    pub fn shut_out(&mut self, id: &str) -> Option<EndpointToken> {
        let token = self.endpoint_tokens.remove(id)?;
        self.routing.stale.insert(token.endpoint.clone());
        Some(token)
    }

    /// Brings the table up to what the workloads that have changed are now, and wakes the sites where that matters.
    pub(super) fn settle_routes(&mut self) {
        let mut due = std::mem::take(&mut self.routing.stale);
        let of = |record: &WorkloadRecord| self.endpoint_of(record);
        match self.routing.whole {
            true => due.extend(self.changes.workloads.iter().filter_map(|id| of(self.workloads.get(id)?))),
            false => due.extend(self.workloads.values().filter_map(of)),
        }
        self.routing.whole = true;
        let mut news = false;
        for id in due {
            let route = self.route_of(&id);
            if self.routing.table.get(&id) == route.as_ref() {
                continue;
            }
            news = true;
            let table = Arc::make_mut(&mut self.routing.table);
            match route {
                Some(route) => drop(table.insert(id, route)),
                None => drop(table.remove(&id)),
            }
        }
        if news {
            self.routing.version += 1;
            let live = self.sites.values().filter(|site| !site.revoked);
            self.changes.wake.extend(live.map(|site| site.info.id.clone()));
        }
    }

    /// Whether the table says what the workloads say; for tests.
    #[doc(hidden)]
    pub fn routes_in_step(&self) -> bool {
        let all: BTreeSet<EndpointId> = self.workloads.values().filter_map(|record| self.endpoint_of(record)).collect();
        let anew: Routes = all.into_iter().filter_map(|id| Some((id.clone(), self.route_of(&id)?))).collect();
        anew == *self.routing.table
    }

    /// The endpoint of a service or its replica, as long as its run is there.
    pub fn endpoint_of(&self, record: &WorkloadRecord) -> Option<EndpointId> {
        record.spec.service()?;
        let run = self.runs.get(&record.id.run)?;
        let service = service_of(run, &record.id.name).clone();
        Some(EndpointId { project: record.id.run.project().clone(), service })
    }

    /// None where nothing of the service is anywhere, and nothing will be.
    fn route_of(&self, id: &EndpointId) -> Option<Route> {
        let of_project = RunId::new(id.project.clone(), 0)..=RunId::new(id.project.clone(), u64::MAX);
        let mut route = None;
        let mut access = Access::Public;
        let mut replicas = Vec::new();
        for run in self.runs.range(of_project).map(|(_, run)| run) {
            let same = |record: &&WorkloadRecord| {
                record.spec.service().is_some() && *service_of(run, &record.id.name) == id.service && !record.is_over()
            };
            for record in self.workloads_of(&run.id).filter(same) {
                let service = record.spec.service().expect("looked at above");
                let earlier = route.take();
                let waits = in_the_gap(record) || earlier.is_some_and(|route: Route| route.waits);
                // The newest run's word counts, but nobody gets in where an older replica would not let them.
                let state = match record.state.site() {
                    Some(site) => format!("{} is {} at {site}", record.id, record.state.word()),
                    None => format!("{} is {}", record.id, record.state.word()),
                };
                let (weights, keeps_prefix) = (service.weights.clone(), service.keeps_prefix);
                route = Some(Route { weights, keeps_prefix, waits, state, ..Route::default() });
                if let Some(site) = answers(record) {
                    replicas.push(Replica { workload: record.id.clone(), epoch: record.epoch, site: site.clone() });
                }
                access = access.max(service.access);
            }
        }
        let pass = |token: &EndpointToken| Pass { hash: token.hash.clone(), expires: token.expires };
        let passes = self.endpoint_tokens.values().filter(|token| token.endpoint == *id).map(pass).collect();
        route.map(|route| Route { access, passes, replicas, ..route })
    }
}

/// The site at which it takes requests.
fn answers(record: &WorkloadRecord) -> Option<&crate::ids::SiteId> {
    match &record.state {
        State::Ready { site, .. } if !record.has_to_end() => Some(site),
        _ => None,
    }
}

/// Between its end at one site and its answering at another, or under another epoch at the same.
fn in_the_gap(record: &WorkloadRecord) -> bool {
    let gap = |stage| matches!(stage, Stage::Stopping | Stage::Landing | Stage::Returning);
    let moves = record.moving.as_ref().is_some_and(|moving| gap(moving.stage));
    !record.stopping && (moves || record.renewing.is_some())
}
