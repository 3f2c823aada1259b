//! Where each task runs: a pure function from a snapshot of the world to a plan that explains itself.
//!
//! **The schedule.** A plan is an assignment of sites to tasks, and what an assignment is worth is found by
//! list scheduling: tasks are taken in a fixed order, and each starts at the earliest moment at which its
//! inputs are at its site and its resources are free there until it ends, given all tasks before it in the
//! order. The order knows nothing of sites: topological, then higher priority, then the longer path of
//! expected run times to the end of the graph, then the name. So a site more is only a choice more.
//!
//! **The search.** Branch and bound over the assignments ([`exact`]) finds the best one under that
//! evaluation, or runs out of its budget of evaluations; then the best of several constructions and a bounded
//! local search ([`heuristic`]) stands, and [`Plan::exact`] is false.
//!
//! **What is assumed.** The transfers of one task that come from one site share that link one after another;
//! transfers of different tasks do not slow each other. External versions can be fetched from now on, outputs
//! when their task ends. What was moved to a site for one task is there for the next.

mod exact;
mod explain;
mod form;
mod heuristic;
mod outcome;
mod profile;
mod schedule;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::{Name, SiteId};
use crate::residency::{Residency, Selector};
use crate::resources::Resources;
use crate::site::{Links, SiteInfo};
use crate::spec::Objective;
use crate::time::Millis;

pub use outcome::{Cause, Decided, Margin, Outcome, Placement, Plan, Reason, Terms, Transfer, Unplaceable, Verdict};

/// A service has no end; its price is counted for this long, so that it can be weighed against jobs.
pub const SERVICE_PRICED: Millis = Millis::from_secs(24 * 3600);

/// How many nodes (a task tried at a site, and the bound of what remains) the exact search may look at.
pub const EXACT_NODES_MAX: u64 = 20_000;

/// The exact search is not begun beyond this many undecided tasks.
pub const EXACT_TASKS_MAX: usize = 24;

/// How many tasks the local search may schedule, over all the assignments that it tries.
pub const LOCAL_STEPS_MAX: u64 = 100_000;

/// A snapshot of all that a plan depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    pub sites: Vec<SiteState>,
    pub links: Links,
    pub tasks: Vec<Task>,
    pub objective: Objective,
}

/// A site as it is now. What the tasks of this problem hold there is left out of `free`, `busy` and `queued`:
/// each task says itself where it stands, in [`Task::progress`].
#[derive(Debug, Clone, PartialEq)]
pub struct SiteState {
    pub info: SiteInfo,
    /// Capacity less what is held by `busy` (and by anything else: that is held until further notice).
    pub free: Resources,
    pub reachable: bool,
    pub draining: bool,
    pub busy: Vec<Busy>,
    /// What was promised room before this problem's tasks, in the order of the queue. Nobody overtakes: what one
    /// waits for is held from now on until its end, and `free` is without it.
    pub queued: Vec<Queued>,
}

/// Something that holds resources now.
#[derive(Debug, Clone, PartialEq)]
pub struct Busy {
    pub resources: Resources,
    /// From now; none where it is not known to end, as with a service.
    pub ends_in: Option<Millis>,
}

/// Something that goes first as soon as there is room, after those before it in the queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Queued {
    pub resources: Resources,
    /// None where it will not end by itself, as with a service.
    pub duration: Option<Millis>,
}

/// A job or a service to be placed, or one that is placed already and others depend on.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// One task has this name in the problem.
    pub name: Name,
    pub resources: Resources,
    /// Higher goes first where both could go.
    pub priority: i32,
    /// None: any site that fits.
    pub selector: Option<Selector>,
    /// Whether it needs containers.
    pub image: bool,
    /// A rule of the task's own, beside those of its inputs.
    pub residency: Residency,
    /// How long it runs where `durations` does not say otherwise.
    pub duration: Estimate,
    /// What history says of single sites.
    pub durations: BTreeMap<SiteId, Estimate>,
    pub inputs: Vec<Input>,
    /// Stays until it is stopped: it holds its resources for ever, and what counts is when it starts.
    pub service: bool,
    pub progress: Progress,
    /// Sites where it may not go now, for reasons that only whoever asks knows.
    pub barred: BTreeMap<SiteId, Reason>,
}

/// How far a task has come. All but the first are facts that a plan keeps.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    Undecided,
    /// Promised to a site and not started: it waits there for its inputs and for room.
    Placed(SiteId),
    /// It holds its resources now, for the rest of its time (of a job; a service has no end).
    Running {
        site: SiteId,
        remaining: Millis,
    },
    /// Its outputs are at the site.
    Done(SiteId),
}

/// How long a task runs, and who says so.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub millis: Millis,
    pub source: Source,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    History,
    Declared,
    Assumed,
}

/// What a task reads.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Bytes that exist. Equal versions of several tasks are one: they are moved to a site once.
    Version {
        name: Name,
        bytes: u64,
        /// What a site lacks of the bytes; a site that is not in it lacks all, or nothing if it is a replica.
        missing: BTreeMap<SiteId, u64>,
        /// The sites that have it whole.
        replicas: BTreeSet<SiteId>,
        residency: Residency,
    },
    /// What another task will make, or has made.
    Output {
        /// The output's name.
        name: Name,
        /// The index in [`Problem::tasks`] of the task that makes it.
        task: usize,
        /// As expected.
        bytes: u64,
        /// Whether it leaves the residency of its task's inputs.
        released: bool,
    },
}

/// An assignment, and what is known of it.
struct Found {
    assignment: schedule::Assignment,
    exact: bool,
    /// How many times a task was scheduled to find it.
    steps: u64,
}

/// The best plan that the budgets allow; the same for the same problem, whatever the order of its sites.
pub fn plan(problem: &Problem) -> Plan {
    let world = world::World::new(problem);
    let guess = heuristic::search(&world);
    let found = exact::search(&world, guess);
    explain::plan(&world, &found)
}
