//! What control plane and agent tell each other: intent flows down, facts flow up.
//!
//! Both directions are level-triggered. A message says how things are, not what changed, so that sending
//! one twice does no harm and losing one is mended by the next. Nothing is ever inferred from absence: an
//! agent stops only what it is told to stop, by name and epoch.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::expect::OnFailure;
use crate::facts::{Checked, Facts};
use crate::ids::{Epoch, Name, VersionId, WorkloadId};
use crate::moving::Taken;
use crate::sketch::Sketch;
use crate::spec::{Bound, Job, WorkloadSpec};
use crate::time::{Millis, Timestamp};

/// Down: what the control plane wants of a site.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Desired {
    pub assignments: Vec<Assignment>,
    /// Ends that are recorded durably; the agent may forget these placements.
    pub settled: Vec<(WorkloadId, Epoch)>,
    /// Copies of state directories that are wanted while their workloads run.
    #[serde(default)]
    pub copies: Vec<StateCopy>,
    /// Versions that shall be here, for workloads that may come.
    #[serde(default)]
    pub holds: Vec<Hold>,
    /// State directories that are of no use any more: of these placements, and of earlier ones of their workloads.
    #[serde(default)]
    pub forget: Vec<(WorkloadId, Epoch)>,
}

/// A state that shall be at a site because its workload may come there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hold {
    pub workload: WorkloadId,
    pub version: VersionId,
    /// What it needs beside: code and inputs. Where its site has died, nobody else may have these.
    #[serde(default)]
    pub beside: Vec<VersionId>,
}

/// A copy of a placement's state directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StateCopy {
    pub workload: WorkloadId,
    pub epoch: Epoch,
    /// The newest epoch that was given out when it was asked for, and how many were asked for before: who has taken a copy of
    /// this turn or of a later one need not take it again.
    pub turn: (Epoch, u32),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    pub workload: WorkloadId,
    pub epoch: Epoch,
    pub intent: Intent,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// Bring and make what it needs, and don't run it yet.
    Prepare(Box<Order>),
    Run(Box<Order>),
    Stop,
}

/// All that a site needs to know to run a workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub spec: WorkloadSpec,
    pub code: VersionId,
    /// By the names under which the workload sees them.
    pub inputs: BTreeMap<Name, VersionId>,
    /// What an earlier attempt left in its state directory.
    #[serde(default)]
    pub state: Option<VersionId>,
}

impl Order {
    /// Every version that must be at the site before the workload can start.
    pub fn versions(&self) -> impl Iterator<Item = VersionId> + '_ {
        std::iter::once(self.code).chain(self.inputs.values().copied()).chain(self.state)
    }
}

/// Up: what a site has to say of some or all of its placements.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Report {
    pub observed: Vec<Observed>,
    pub replicas: Replicas,
    /// What came over links since the last report, for the measured bandwidth.
    #[serde(default)]
    pub transfers: Vec<TransferSeen>,
    #[serde(default)]
    pub copied: Vec<Copied>,
    /// State directories that lie here without a placement, with the last one that used each.
    #[serde(default)]
    pub left: Vec<(WorkloadId, Epoch)>,
}

/// What became of a copy of a state directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Copied {
    pub of: StateCopy,
    pub result: Result<Taken, String>,
}

/// Which versions are whole at the site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replicas {
    /// These came since the last report.
    New(Vec<VersionId>),
    /// These, and no others.
    All(Vec<VersionId>),
}

impl Default for Replicas {
    fn default() -> Replicas {
        Replicas::New(Vec::new())
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransferSeen {
    pub version: VersionId,
    /// For which placement, where it was for one.
    #[serde(default)]
    pub workload: Option<WorkloadId>,
    pub from: crate::ids::SiteId,
    /// Bytes on the wire, and what they were before compression.
    pub wire_bytes: u64,
    pub raw_bytes: u64,
    pub took: Millis,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    pub workload: WorkloadId,
    pub epoch: Epoch,
    pub phase: Phase,
}

/// How far a placement is, at its site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// In the agent's journal; inputs are being brought, the environment made.
    Preparing,
    /// All is there, with this state, and it waits: for the word to run, or for a port that another process has.
    Prepared {
        state: Option<VersionId>,
    },
    /// Handed to the site's own scheduler, which lets it wait, in its words.
    Queued {
        why: String,
    },
    Running {
        since: Timestamp,
    },
    /// A service that answers.
    Ready {
        since: Timestamp,
        /// `host:port` as seen from the site.
        address: String,
    },
    /// A service that answers still, though its site will end it soon: another has to take its place.
    Ending {
        since: Timestamp,
        address: String,
        why: String,
    },
    Finished(Box<Finish>),
}

/// How a placement ended, and what it made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finish {
    pub outcome: Outcome,
    pub at: Timestamp,
    /// From the command's first instruction to its last; none where it was never started.
    #[serde(default)]
    pub ran: Option<Millis>,
    #[serde(default)]
    pub outputs: BTreeMap<Name, Made>,
    /// The state directory, where something was left in it.
    #[serde(default)]
    pub state: Option<VersionId>,
    /// Of the files in it; 0 where the agent doesn't tell.
    #[serde(default)]
    pub state_bytes: u64,
    #[serde(default)]
    pub memory_peak_bytes: Option<u64>,
    #[serde(default)]
    pub cpu: Option<Millis>,
    /// The gate's metric.
    #[serde(default)]
    pub metric: Option<f64>,
}

impl Finish {
    /// The same with what was found in the outputs within its limits, as it comes from elsewhere.
    pub fn bounded(mut self) -> Finish {
        for made in self.outputs.values_mut() {
            made.facts = std::mem::take(&mut made.facts).bounded();
        }
        if let Outcome::ExpectationsFailed { output, checked } = self.outcome {
            self.outcome = Outcome::ExpectationsFailed { output, checked: checked.bounded() };
        }
        self
    }

    /// An end without a command having run.
    pub fn without_running(outcome: Outcome, at: Timestamp) -> Finish {
        Finish {
            outcome,
            at,
            ran: None,
            outputs: BTreeMap::new(),
            state: None,
            state_bytes: 0,
            memory_peak_bytes: None,
            cpu: None,
            metric: None,
        }
    }
}

/// A version that a workload made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    pub version: VersionId,
    pub bytes: u64,
    pub files: u64,
    #[serde(default)]
    pub facts: Facts,
    /// What its chunks are like. Without it all of the version counts as missing where it is not whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sketch: Option<Sketch>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Succeeded,
    /// The command's own exit code.
    Failed {
        code: i32,
    },
    Signalled {
        signal: i32,
    },
    OutOfMemory {
        limit_bytes: u64,
    },
    TimedOut {
        after: Millis,
    },
    GateFailed {
        metric: String,
        value: f64,
        bound: Bound,
    },
    /// An output is not what it is expected to be. It is kept, and no stage gets it.
    ExpectationsFailed {
        output: Name,
        checked: Checked,
    },
    /// Inputs or environment could not be made.
    Unprepared {
        why: String,
    },
    /// It ran, but what it left can't be taken as its outputs.
    BadOutputs {
        why: String,
    },
    NoSpace {
        why: String,
    },
    NeverReady {
        after: Millis,
    },
    /// Stopped because it was asked to.
    Stopped,
    /// Told to end by its site and not by Tombolo, as for a time limit, a preemption or a node that is emptied.
    Evicted {
        why: String,
    },
    /// Exit 75 after SIGTERM: its state directory says where to go on.
    Checkpointed,
    /// Its shim is gone without a word, as after a power cut.
    Lost {
        why: String,
    },
}

impl Outcome {
    /// What becomes of a success whose outputs are not what they are expected to be; none where they are, or will do.
    pub fn unexpected(job: &Job, outputs: &BTreeMap<Name, Made>) -> Option<Outcome> {
        outputs.iter().find_map(|(output, made)| {
            let refused = job.expect.get(output).is_some_and(|expect| expect.on_failure == OnFailure::Refuse);
            let checked = made.facts.checked.as_ref().filter(|checked| refused && checked.failed())?;
            Some(Outcome::ExpectationsFailed { output: output.clone(), checked: checked.clone() })
        })
    }

    pub fn is_success(&self) -> bool {
        matches!(self, Outcome::Succeeded)
    }

    /// Whether running the same thing again may end otherwise.
    pub fn may_retry(&self) -> bool {
        match self {
            Outcome::Succeeded
            | Outcome::GateFailed { .. }
            | Outcome::ExpectationsFailed { .. }
            | Outcome::BadOutputs { .. }
            | Outcome::Stopped => false,
            Outcome::Failed { .. }
            | Outcome::Signalled { .. }
            | Outcome::OutOfMemory { .. }
            | Outcome::TimedOut { .. }
            | Outcome::Unprepared { .. }
            | Outcome::NoSpace { .. }
            | Outcome::NeverReady { .. }
            | Outcome::Evicted { .. }
            | Outcome::Checkpointed
            | Outcome::Lost { .. } => true,
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outcome::Succeeded => f.write_str("succeeded"),
            Outcome::Failed { code } => write!(f, "exited with code {code}"),
            Outcome::Signalled { signal } => write!(f, "was ended by signal {signal}"),
            Outcome::OutOfMemory { limit_bytes } => {
                write!(f, "ran out of memory (limit {})", crate::resources::bytes(*limit_bytes))
            }
            Outcome::TimedOut { after } => write!(f, "ran longer than its timeout of {after}"),
            Outcome::GateFailed { metric, value, bound } => {
                write!(f, "gate failed: {metric} is {value}, must be {bound}")
            }
            Outcome::ExpectationsFailed { output, checked } => write!(f, "expectations failed: {output}: {checked}"),
            Outcome::Unprepared { why } => write!(f, "could not be prepared: {why}"),
            Outcome::BadOutputs { why } => write!(f, "outputs refused: {why}"),
            Outcome::NoSpace { why } => write!(f, "no space left at the site: {why}"),
            Outcome::NeverReady { after } => write!(f, "was not ready after {after}"),
            Outcome::Stopped => f.write_str("stopped on request"),
            Outcome::Evicted { why } => write!(f, "was ended by its site: {why}"),
            Outcome::Checkpointed => f.write_str("stopped at a checkpoint"),
            Outcome::Lost { why } => write!(f, "was lost: {why}"),
        }
    }
}
