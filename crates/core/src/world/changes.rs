//! What has changed in a world since its store was last brought up to it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Event, Naming, Pruned};
use crate::ids::{Name, RunId, SiteId, VersionId, WorkloadId};
use crate::residency::Residency;

/// What the edge has to make durable.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    pub sites: BTreeSet<SiteId>,
    pub links: BTreeSet<(SiteId, SiteId)>,
    pub runs: BTreeSet<RunId>,
    pub workloads: BTreeSet<WorkloadId>,
    pub versions: BTreeSet<VersionId>,
    /// Versions whose sketch is new: [`World::sketch`].
    pub sketches: BTreeSet<VersionId>,
    /// Datasets whose numbers or rules changed.
    pub datasets: BTreeSet<Name>,
    /// What happened to names and tags, in order.
    pub namings: Vec<Naming>,
    /// Versions that lost a name: they may be forgotten where they have no other and nothing live needs them.
    pub unnamed: BTreeSet<VersionId>,
    pub history: BTreeSet<(Name, Name)>,
    /// Cache entries: key, the workload that made it. The outputs are the workload's.
    pub cached: Vec<(String, WorkloadId)>,
    /// Cache keys that the edge shall look up, and answer with [`World::cache_answer`].
    pub lookups: Vec<(WorkloadId, String)>,
    pub released: Vec<Release>,
    /// Names that rules of retention took away.
    pub pruned: Vec<Pruned>,
    /// Sites that their labels closed (true) or opened.
    pub maintained: Vec<(SiteId, bool)>,
    pub events: Vec<Event>,
    /// Sites whose desired state may have changed.
    pub wake: BTreeSet<SiteId>,
}

/// The recorded act that let an output leave its inputs' residency.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Release {
    pub workload: WorkloadId,
    pub output: Name,
    pub version: VersionId,
    pub by: String,
    /// The rules that it lifted.
    pub from: Residency,
    /// Why, as the project says.
    pub reason: Option<String>,
}

impl Changes {
    /// Takes in what changed later.
    pub fn merge(&mut self, later: Changes) {
        self.sites.extend(later.sites);
        self.links.extend(later.links);
        self.runs.extend(later.runs);
        self.workloads.extend(later.workloads);
        self.versions.extend(later.versions);
        self.sketches.extend(later.sketches);
        self.datasets.extend(later.datasets);
        self.namings.extend(later.namings);
        self.unnamed.extend(later.unnamed);
        self.history.extend(later.history);
        self.cached.extend(later.cached);
        self.lookups.extend(later.lookups);
        self.released.extend(later.released);
        self.pruned.extend(later.pruned);
        self.maintained.extend(later.maintained);
        self.events.extend(later.events);
        self.wake.extend(later.wake);
    }

    pub fn is_empty(&self) -> bool {
        self.sites.is_empty()
            && self.links.is_empty()
            && self.runs.is_empty()
            && self.workloads.is_empty()
            && self.versions.is_empty()
            && self.sketches.is_empty()
            && self.datasets.is_empty()
            && self.namings.is_empty()
            && self.unnamed.is_empty()
            && self.history.is_empty()
            && self.cached.is_empty()
            && self.lookups.is_empty()
            && self.released.is_empty()
            && self.pruned.is_empty()
            && self.maintained.is_empty()
            && self.events.is_empty()
            && self.wake.is_empty()
    }
}
