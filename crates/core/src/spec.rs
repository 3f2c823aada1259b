//! What a project asks for, after parsing: every value valid by itself, references checked.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::draining::Leaning;
use crate::expect::{Expect, OnFailure};
use crate::ids::{Name, SiteId};
use crate::residency::{Residency, Selector};
use crate::resources::Resources;
use crate::retention::Rules;
use crate::routes::{Access, DRAIN_DEFAULT};
use crate::source::Source;
use crate::time::Millis;

/// Grace between SIGTERM and SIGKILL unless a workload says otherwise.
pub const GRACE_DEFAULT: Millis = Millis::from_secs(30);
/// The least `failover_after`: sites report every few seconds and count as silent after these. A shorter lease would be
/// over again and again between two reports, and nothing would ever finish.
pub const FAILOVER_AFTER_MIN: Millis = Millis::from_secs(15);
/// The least time between two copies of a state directory.
pub const SNAPSHOT_EVERY_MIN: Millis = Millis::from_secs(5);
/// Sites to which they are brought.
pub const SNAPSHOT_SITES_MAX: u32 = 8;
pub const STAGES_MAX: usize = 2_000;
/// Distinct priorities in a project: a run is planned once for each in a pass.
pub const PRIORITIES_MAX: usize = 16;

/// A project file, whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProjectSpec {
    pub name: Name,
    pub data: BTreeMap<Name, DataSpec>,
    /// Stages and services together; they share one namespace.
    pub workloads: BTreeMap<Name, WorkloadSpec>,
    #[serde(default)]
    pub objective: Objective,
}

/// A dataset that exists before the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataSpec {
    /// Relative to the project file; none where the dataset is already known to the control plane by this name.
    pub path: Option<String>,
    pub residency: Residency,
    #[serde(default)]
    pub logs: Logs,
    /// What a version must be to be given to stages.
    #[serde(default)]
    pub expect: Option<Expect>,
    /// Which of its versions keep their names; none: all, as far as this project is asked.
    #[serde(default)]
    pub retain: Option<Rules>,
}

/// Whether what workloads print may be read away from their site, where it derives from a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Logs {
    #[default]
    Readable,
    Stay,
}

/// What a plan minimises: `time` (seconds), `cost` (money), or a weight of time from 0 to 1 between them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    Time,
    Cost,
    /// The weight of time; an hour counts as much as one unit of money.
    Weighted(f64),
}

impl Default for Objective {
    /// Time counts, and money decides among what is about equally fast.
    fn default() -> Objective {
        Objective::Weighted(0.5)
    }
}

/// A stage or a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkloadSpec {
    pub kind: Kind,
    pub command: Command,
    #[serde(default)]
    pub python: Option<Python>,
    #[serde(default)]
    pub image: Option<String>,
    /// Names under which the workload sees its inputs -> the dataset or output that each is.
    #[serde(default)]
    pub inputs: BTreeMap<Name, Name>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default)]
    pub secrets: BTreeSet<Name>,
    #[serde(default)]
    pub resources: Resources,
    /// Only at these sites; none: wherever it fits.
    #[serde(default)]
    pub site: Option<Selector>,
    pub grace: Millis,
    /// Higher goes first where there is a queue.
    #[serde(default)]
    pub priority: i32,
    /// Start it elsewhere when its site was not heard of for so long; none: wait for the site.
    #[serde(default)]
    pub failover_after: Option<Millis>,
    /// The author's estimate, used until there is history.
    #[serde(default)]
    pub duration: Option<Millis>,
    /// Where it belongs: it is brought back there when that site is opened again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<SiteId>,
    /// Where it would rather be; none: it is all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaning: Option<Leaning>,
    /// Copies of its state directory that are taken while it runs; none: only with a move.
    #[serde(default)]
    pub state: Option<StateCopies>,
}

/// How often the state of what runs is copied, and to how many sites where it might go next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateCopies {
    pub every: Millis,
    pub sites: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Job(Job),
    Service(Service),
}

/// Longest reason for a release, in characters.
pub const REASON_CHARS_MAX: usize = 1000;

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Job {
    pub outputs: BTreeSet<Name>,
    /// How often it may be tried again after a failure.
    pub retries: u32,
    pub timeout: Option<Millis>,
    pub gate: Option<Gate>,
    /// Outputs that leave their inputs' residency.
    pub release: BTreeSet<Name>,
    /// Why, for the audit log, of those of which it is said.
    pub reasons: BTreeMap<Name, String>,
    /// A rule of its own, beside those of its inputs: of an import, where what it brings may be.
    pub keep_at: Residency,
    /// What outputs must be for the stage to succeed.
    pub expect: BTreeMap<Name, Expect>,
    /// Beside what it reads: of an import, whether logs that tell of what it brings stay.
    pub logs: Logs,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// The port it listens on; none: Tombolo picks one and says so in `$PORT`.
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default)]
    pub ready: Option<Ready>,
    pub replicas: u32,
    /// Whether no two of it may run at once, not even for the moment of a move.
    #[serde(default)]
    pub single: bool,
    /// Who may use its endpoint.
    #[serde(default)]
    pub access: Access,
    /// How long what it is answering may go on when it has to end, before it is asked to.
    #[serde(default = "drain_default")]
    pub drain: Millis,
    /// Which share of the requests each site gets; none given: the nearest gets all.
    #[serde(default)]
    pub weights: BTreeMap<SiteId, u32>,
    /// Whether it gets the path as its clients ask for it, `/<project>/<service>` included.
    #[serde(default)]
    pub keeps_prefix: bool,
}

impl Default for Service {
    fn default() -> Service {
        Service {
            port: None,
            ready: None,
            replicas: 1,
            single: false,
            access: Access::default(),
            drain: DRAIN_DEFAULT,
            weights: BTreeMap::new(),
            keeps_prefix: false,
        }
    }
}

fn drain_default() -> Millis {
    DRAIN_DEFAULT
}

/// An HTTP GET that answers 2xx when the service is ready.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    pub path: String,
    /// How long it may take to become ready.
    pub timeout: Millis,
}

/// What is executed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// A shell command, in the project's code.
    Run(String),
    /// A query in the built-in engine: inputs are tables by name, the result is the only output, as Parquet.
    Sql(String),
    /// Data from elsewhere, which becomes the only output.
    Import(Source),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Python {
    /// As in a requirements file, such as `scikit-learn==1.5.2`; sorted, without doubles.
    pub requirements: BTreeSet<String>,
    /// Such as `3.11`; none: the site's own.
    pub version: Option<String>,
}

/// A bound on a number that the stage writes, as JSON, into one of its outputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    pub output: Name,
    /// Within the output, such as `metrics.json`.
    pub file: String,
    /// A key of the JSON object in the file.
    pub metric: String,
    pub bound: Bound,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    /// NaN passes no gate.
    pub fn holds(&self, value: f64) -> bool {
        match *self {
            Bound::AtLeast(bound) => value >= bound,
            Bound::AtMost(bound) => value <= bound,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Bound::AtLeast(bound) => write!(f, "at least {bound}"),
            Bound::AtMost(bound) => write!(f, "at most {bound}"),
        }
    }
}

impl WorkloadSpec {
    /// One of which nothing else is said.
    pub fn new(kind: Kind, command: Command) -> WorkloadSpec {
        WorkloadSpec {
            kind,
            command,
            python: None,
            image: None,
            inputs: BTreeMap::new(),
            env: BTreeMap::new(),
            secrets: BTreeSet::new(),
            resources: Resources::default(),
            site: None,
            grace: GRACE_DEFAULT,
            priority: 0,
            failover_after: None,
            duration: None,
            home: None,
            leaning: None,
            state: None,
        }
    }

    pub fn outputs(&self) -> impl Iterator<Item = &Name> {
        self.job().into_iter().flat_map(|job| job.outputs.iter())
    }

    pub fn job(&self) -> Option<&Job> {
        match &self.kind {
            Kind::Job(job) => Some(job),
            Kind::Service(_) => None,
        }
    }

    pub fn service(&self) -> Option<&Service> {
        match &self.kind {
            Kind::Job(_) => None,
            Kind::Service(service) => Some(service),
        }
    }
}

impl ProjectSpec {
    /// Takes versions too that fail what is expected of them.
    pub fn allow_failed(&mut self) {
        for data in self.data.values_mut() {
            data.expect.get_or_insert_default().on_failure = OnFailure::Use;
        }
        for workload in self.workloads.values_mut() {
            if let Kind::Job(job) = &mut workload.kind {
                job.expect.values_mut().for_each(|expect| expect.on_failure = OnFailure::Use);
            }
        }
    }

    /// The stage that makes an output.
    pub fn producer(&self, output: &Name) -> Option<&Name> {
        self.workloads.iter().find(|(_, spec)| spec.outputs().any(|o| o == output)).map(|(name, _)| name)
    }

    /// The dataset for whose sake a workload's log stays at its site: one that it reads, or that something which it
    /// reads derives from, or that it imports. An output that is released lets go of this as of its inputs' residency.
    pub fn logs_stay(&self, reader: &WorkloadSpec) -> Option<&Name> {
        let mut due: Vec<&Name> = Vec::new();
        let mut seen = BTreeSet::new();
        let known = |source: &Name| self.data.get_key_value(source).map(|(name, data)| (name, data.logs));
        let mut inputs: Vec<&Name> = reader.inputs.values().collect();
        if reader.job().is_some_and(|job| job.logs == Logs::Stay) {
            return reader.outputs().find_map(|output| self.producer(output));
        }
        loop {
            for source in inputs {
                match known(source) {
                    Some((dataset, Logs::Stay)) => return Some(dataset),
                    Some((_, Logs::Readable)) => {}
                    None => due.extend(self.producer(source).filter(|maker| !self.releases(maker, source))),
                }
            }
            let next = due.pop()?;
            if self.workloads[next].job().is_some_and(|job| job.logs == Logs::Stay) {
                return Some(next);
            }
            inputs = match seen.insert(next) {
                true => self.workloads[next].inputs.values().collect(),
                false => Vec::new(),
            };
        }
    }

    fn releases(&self, stage: &Name, output: &Name) -> bool {
        self.workloads[stage].job().is_some_and(|job| job.release.contains(output))
    }

    /// The stages whose outputs a workload reads.
    pub fn upstream<'a>(&'a self, name: &Name) -> BTreeSet<&'a Name> {
        let inputs = self.workloads.get(name).map(|spec| spec.inputs.values()).into_iter().flatten();
        inputs.filter_map(|source| self.producer(source)).collect()
    }
}
