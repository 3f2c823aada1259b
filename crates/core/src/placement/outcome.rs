//! What a plan says, in types for programs and in words for people.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Source, form};
use crate::ids::{Name, SiteId};
use crate::residency::Selector;
use crate::resources::{Shortage, bytes};
use crate::time::Millis;

/// Where everything goes, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// One for each task, by start; what can't be placed comes last.
    pub placements: Vec<Placement>,
    /// From now until the last job has ended and the last service has started.
    pub makespan: Millis,
    /// Compute and egress of all that is not yet running or done; a service counts with [`super::SERVICE_PRICED`].
    pub cost: f64,
    /// Whether no assignment of sites is better, given the planner's way of scheduling.
    pub exact: bool,
    /// How many times a task was scheduled to find it: what planning took, on any machine.
    pub steps: u64,
}

impl Plan {
    pub fn placement(&self, task: &Name) -> Option<&Placement> {
        self.placements.iter().find(|placement| placement.task == *task)
    }
}

/// What is planned for one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Placement {
    pub task: Name,
    #[serde(with = "form::outcome")]
    pub outcome: Result<Outcome, Unplaceable>,
    /// Every other site, by name (every site where there is no outcome).
    #[serde(with = "form::others")]
    pub others: Vec<(SiteId, Verdict)>,
}

impl Placement {
    pub fn site(&self) -> Option<&SiteId> {
        self.outcome.as_ref().ok().map(|outcome| &outcome.site)
    }

    /// Whether every site there is refuses the task, and will go on to.
    pub fn is_hopeless(&self) -> bool {
        let refused = |(_, verdict): &(SiteId, Verdict)| matches!(verdict, Verdict::Refused(reason) if reason.lasts());
        self.outcome == Err(Unplaceable::NoSite) && !self.others.is_empty() && self.others.iter().all(refused)
    }
}

/// A task's place and time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub site: SiteId,
    /// From now.
    pub start: Millis,
    pub terms: Terms,
    pub transfers: Vec<Transfer>,
}

/// An input that has to be brought to its task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    pub input: Name,
    pub from: SiteId,
    pub to: SiteId,
    pub bytes: u64,
    /// The whole input's, where a part of it is there already; zero where all has to come.
    #[serde(default)]
    pub whole_bytes: u64,
    pub time: Millis,
    pub egress_price: f64,
}

/// What a task takes at a site. The transfers begin when the inputs exist, the wait when they have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// For room, after the inputs have arrived.
    pub wait: Millis,
    /// From when the last input exists until all have arrived.
    pub transfer: Millis,
    pub transfer_bytes: u64,
    pub egress_price: f64,
    /// Zero for a service, which has no end.
    pub run: Millis,
    pub run_source: Source,
    pub compute_price: f64,
    /// What the objective makes of the task alone: hours until it ends, money, or both weighted. Lower is better.
    pub score: f64,
}

impl Terms {
    pub fn price(&self) -> f64 {
        self.egress_price + self.compute_price
    }
}

/// Why a task has no place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Unplaceable {
    /// Every site refuses it; `others` says why.
    NoSite,
    /// What it reads comes from a task that has no place.
    Upstream { task: Name },
    /// It reads what no task makes before it.
    Broken { input: Name },
}

/// Why a site was not chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Verdict {
    Refused(Reason),
    /// It would do; the terms are those of the plan in which only this task's site is another.
    Lost {
        terms: Terms,
        by: Margin,
    },
}

/// Why a site can't have a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// A rule keeps away from the site the bytes of `input`, or what the task reads `through` an output that derives
    /// from it.
    Residency {
        input: Name,
        rule: Selector,
        through: Option<Name>,
    },
    Selector {
        wanted: Selector,
    },
    /// The site is too small for it, even when empty.
    NeverFits(Shortage),
    Unreachable,
    Draining,
    NoContainers,
    /// No reachable site has the bytes that lack here.
    NoReplicaReachable {
        input: Name,
    },
    /// What holds the room is not known to end.
    Full,
    /// The task is already somewhere else.
    Decided {
        site: SiteId,
    },
    /// The task waits for one that has no place.
    Upstream {
        task: Name,
    },
    /// The task reads what no task makes before it.
    Broken {
        input: Name,
    },
    /// The task would rather be elsewhere, and comes here when it has waited so long, or is expected to.
    Spare {
        after: Millis,
    },
    /// Its moves there were undone.
    FailedThere {
        why: String,
    },
}

impl Reason {
    /// A word for the kind of it.
    pub fn rule(&self) -> &'static str {
        match self {
            Reason::Residency { .. } => "residency",
            Reason::Selector { .. } => "selector",
            Reason::NeverFits(_) | Reason::Full => "capacity",
            Reason::Unreachable => "unreachable",
            Reason::Draining => "draining",
            Reason::NoContainers => "image",
            Reason::NoReplicaReachable { .. } => "no-replica",
            Reason::Decided { .. } => "decided",
            Reason::Spare { .. } => "placement",
            Reason::FailedThere { .. } => "failed-there",
            Reason::Upstream { .. } | Reason::Broken { .. } => "inputs",
        }
    }

    /// Whether it stays so as long as neither the project nor the site is changed.
    pub fn lasts(&self) -> bool {
        match self {
            Reason::Residency { .. } | Reason::Selector { .. } | Reason::NeverFits(_) | Reason::NoContainers => true,
            Reason::Unreachable
            | Reason::Draining
            | Reason::NoReplicaReachable { .. }
            | Reason::Full
            | Reason::Decided { .. }
            | Reason::Upstream { .. }
            | Reason::Spare { .. }
            | Reason::FailedThere { .. }
            | Reason::Broken { .. } => false,
        }
    }
}

/// By what a site lost against the chosen one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Margin {
    pub decided: Decided,
    /// How much later all is done (or, in plans too large to play every case through, the task itself). Less than
    /// zero where the site is faster.
    pub slower_ms: i64,
    /// How much more all costs, in the same sense.
    pub dearer: f64,
    /// What tells most of the slowness.
    pub cause: Option<Cause>,
}

/// What counted between two sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decided {
    /// The other leaves tasks without a place.
    Strands,
    Time,
    Cost,
    /// Time and cost, weighted.
    Both,
    /// All is done at the same time for the same money, but this task ends later.
    Later,
    /// Nothing but the name.
    Name,
    /// It looks no worse by itself; the search did not find a better whole with it.
    Whole,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    Transfer { bytes: u64 },
    Wait { millis: Millis },
    Run { millis: Millis },
}

impl fmt::Display for Unplaceable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unplaceable::NoSite => f.write_str("no site can have it"),
            Unplaceable::Upstream { task } => write!(f, "it waits for {task}, which no site can have"),
            Unplaceable::Broken { input } => write!(f, "it reads {input}, which no task makes before it"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Refused(reason) => fmt::Display::fmt(reason, f),
            Verdict::Lost { by, .. } => fmt::Display::fmt(by, f),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Residency { input, rule, through: None } => write!(f, "{input} may only be at {rule}"),
            Reason::Residency { input, rule, through: Some(output) } => {
                write!(f, "{output} derives from {input}, which may only be at {rule}")
            }
            Reason::Selector { wanted } => write!(f, "`site` asks for {wanted}"),
            Reason::NeverFits(shortage) => fmt::Display::fmt(shortage, f),
            Reason::Unreachable => f.write_str("is not reachable"),
            Reason::Draining => f.write_str("is draining"),
            Reason::NoContainers => f.write_str("has no containers"),
            Reason::NoReplicaReachable { input } => write!(f, "no reachable site has {input}"),
            Reason::Full => f.write_str("is full, and what runs there is not known to end"),
            Reason::Decided { site } => write!(f, "already placed at {site}"),
            Reason::Upstream { task } => write!(f, "waits for {task}, which no site can have"),
            Reason::Broken { input } => write!(f, "reads {input}, which no task makes before it"),
            Reason::Spare { after } => write!(f, "is for when it has to wait more than {after} elsewhere"),
            Reason::FailedThere { why } => write!(f, "moves there were undone: {why}"),
        }
    }
}

impl fmt::Display for Margin {
    /// `12.3 s slower: 340 MiB to move`, `$0.12 dearer`, `2.0 s faster, but $0.40 dearer`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = Millis(self.slower_ms.unsigned_abs());
        let (slow, dear) = (self.slower_ms, self.dearer);
        match self.decided {
            Decided::Strands => return f.write_str("leaves no room for other tasks"),
            Decided::Name => return f.write_str("just as good, later by name"),
            Decided::Later => write!(f, "{span} later, though all is done at the same time")?,
            Decided::Whole => return f.write_str("no worse by itself, but no better for the whole"),
            Decided::Time if dear < 0.0 => write!(f, "{} cheaper, but {span} slower", Money(dear))?,
            Decided::Time => write!(f, "{span} slower")?,
            Decided::Cost if slow < 0 => return write!(f, "{span} faster, but {} dearer", Money(dear)),
            Decided::Cost => return write!(f, "{} dearer", Money(dear)),
            Decided::Both => match (slow > 0, dear > 0.0) {
                (true, true) => write!(f, "{span} slower and {} dearer", Money(dear))?,
                (true, false) if dear < 0.0 => write!(f, "{} cheaper, but {span} slower", Money(dear))?,
                (false, true) if slow < 0 => return write!(f, "{span} faster, but {} dearer", Money(dear)),
                (false, _) => return write!(f, "{} dearer", Money(dear)),
                (true, false) => write!(f, "{span} slower")?,
            },
        }
        match &self.cause {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Transfer { bytes: count } => write!(f, "{} to move", bytes(*count)),
            Cause::Wait { millis } => write!(f, "waits {millis} for room"),
            Cause::Run { millis } => write!(f, "runs {millis} longer"),
        }
    }
}

/// An amount without its sign, to the cent; below one cent with two digits that count.
struct Money(f64);

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let amount = self.0.abs();
        if amount == 0.0 || amount >= 0.01 {
            return write!(f, "${amount:.2}");
        }
        let digits = (1 - amount.log10().floor() as i32).clamp(2, 9) as usize;
        write!(f, "${amount:.digits$}")
    }
}
