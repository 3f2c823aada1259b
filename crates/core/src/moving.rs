//! What a move of a workload to another site is made of, and when enough of its state was copied ahead.

use serde::{Deserialize, Serialize};

use crate::draining::Cause;
use crate::ids::{Epoch, SiteId, VersionId, WorkloadId};
use crate::placement::Terms;
use crate::time::{Millis, Timestamp};

/// Rounds of copying ahead, after which the last one is as small as it gets.
pub const ROUNDS_MAX: u32 = 12;
/// A last round that is brought in so long is small enough where nobody asked for less downtime.
pub const LAST_ROUND_GOOD: Millis = Millis(250);
/// A round that is more than this many hundredths of the one before is no progress.
const SHRINKS_BELOW_PERCENT: u64 = 80;
/// Rounds without progress after which there will be none.
const STALLS_MAX: usize = 2;
/// What is assumed of a link that was never measured, in bytes in a second.
pub const BANDWIDTH_ASSUMED: f64 = 12_500_000.0;
/// How long it takes from a program's being told to end until what it left is known, where it was never seen.
pub const SAVE_ASSUMED: Millis = Millis(200);
/// How long it takes to start a program at a site that has all for it, where that was never seen.
pub const START_ASSUMED: Millis = Millis(300);
/// What a round takes beside the bytes: looking at the files, and word to and fro.
pub const ROUND_ASSUMED: Millis = Millis(300);

/// How a workload gets from one site to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Both run for a moment, and requests go over to the new one when it answers.
    Switch,
    /// It ends, and goes on elsewhere from what it left in its state directory.
    Checkpoint,
    /// It ends, and begins elsewhere from its start.
    Restart,
}

impl Method {
    pub fn word(self) -> &'static str {
        match self {
            Method::Switch => "switch",
            Method::Checkpoint => "checkpoint",
            Method::Restart => "restart",
        }
    }
}

/// What `tombolo notebook` calls its projects, alone or with a name behind it, and the service in them.
pub const NOTEBOOK_PROJECT: &str = "notebook";
pub const NOTEBOOK_SERVICE: &str = "lab";

/// What of a notebook is not kept: told in the words of those who use one.
pub fn lost_kernels(workload: &WorkloadId) -> Option<&'static str> {
    let rest = workload.run.project().as_str().strip_prefix(NOTEBOOK_PROJECT)?;
    let is_notebook = workload.name.as_str() == NOTEBOOK_SERVICE && (rest.is_empty() || rest.starts_with('-'));
    is_notebook.then_some("what kernels hold: they restart")
}

/// What a method keeps, and what it doesn't.
pub fn survives(method: Method) -> (&'static [&'static str], &'static [&'static str]) {
    const STATE: &str = "what is in $TOMBOLO_STATE";
    match method {
        Method::Switch => {
            (&["every request", "the state as it was last copied"], &["memory", "later changes of the state"])
        }
        Method::Checkpoint => (&[STATE, "inputs and code"], &["memory", "open connections"]),
        Method::Restart => (&["inputs and code"], &["memory", STATE, "the work so far"]),
    }
}

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    pub to: SiteId,
    /// None: what suits the workload best.
    pub method: Option<Method>,
    /// From now, after which the move is undone unless it is past the point of no return.
    pub deadline: Option<Millis>,
    /// Undone, before anything is stopped, where the last round can't be made as short as this.
    pub max_downtime: Option<Millis>,
    pub by: String,
    pub why: Option<String>,
    pub cause: Cause,
}

/// A move that is under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moving {
    pub from: SiteId,
    pub to: SiteId,
    pub method: Method,
    /// Whether the method was chosen by us: then a job without checkpoints is not begun anew behind its owner's back.
    pub chosen: bool,
    pub by: String,
    #[serde(default)]
    pub why: Option<String>,
    #[serde(default)]
    pub cause: Cause,
    /// Undone, since the job had left no state from which it could go on.
    #[serde(default)]
    pub stateless: bool,
    pub at: Timestamp,
    #[serde(default)]
    pub deadline: Option<Timestamp>,
    #[serde(default)]
    pub max_downtime: Option<Millis>,
    /// Of the placement at the destination.
    pub epoch: Epoch,
    pub stage: Stage,
    /// Why it shall be undone, or was.
    #[serde(default)]
    pub off: Option<String>,
    /// The one that lasts included.
    pub rounds: Vec<Round>,
    /// The state for which the destination is prepared, once it is.
    #[serde(default)]
    pub prepared: Option<Prepared>,
    /// What came to the destination over the network for it, and its price.
    #[serde(default)]
    pub bytes: u64,
    #[serde(default)]
    pub egress: f64,
    #[serde(default)]
    pub marks: Marks,
    pub quote: Quote,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Code, inputs, environment and state are brought ahead; the source runs.
    Ahead,
    /// The source runs, and the destination starts beside it.
    Beside,
    /// The source was told to end and to leave its state.
    Stopping,
    /// The source is over, and the destination starts.
    Landing,
    /// The destination did not start, and the source goes on from where it was.
    Returning,
}

impl Moving {
    /// The newest copy of the state that was taken.
    pub fn ahead(&self) -> Option<VersionId> {
        self.rounds.iter().rev().find_map(|round| round.taken.as_ref()).and_then(|taken| taken.version)
    }
}

impl Stage {
    pub fn word(self) -> &'static str {
        match self {
            Stage::Ahead => "copying ahead",
            Stage::Beside => "starting beside",
            Stage::Stopping => "stopping",
            Stage::Landing => "landing",
            Stage::Returning => "returning",
        }
    }

    /// Whether the destination has a placement of its own beside the source's.
    pub fn has_arrival(self) -> bool {
        matches!(self, Stage::Ahead | Stage::Beside | Stage::Stopping)
    }
}

/// That all is at the destination which the placement there needs, with this state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    pub state: Option<VersionId>,
}

/// When, by the control plane's clock, what happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Marks {
    /// The source was told to end.
    pub stop: Option<Timestamp>,
    /// The source is over, and its last state is known.
    pub stopped: Option<Timestamp>,
    /// The command runs at the destination.
    pub started: Option<Timestamp>,
}

/// One copy of the state directory, from its being taken to its being whole at the destination.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    pub asked: Timestamp,
    #[serde(default)]
    pub taken: Option<Taken>,
    #[serde(default)]
    pub there: Option<Timestamp>,
}

/// A copy of a state directory, as a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    /// None where the directory is empty.
    pub version: Option<VersionId>,
    pub bytes: u64,
    pub files: u64,
    /// Of its bytes those that no copy before had.
    pub fresh_bytes: u64,
    /// What another site has to get beside the bytes: of which chunks the files are made.
    #[serde(default)]
    pub beside_bytes: u64,
    pub took: Millis,
    /// Whether files were written to while they were read: then it is good for copying ahead, and not to go on from.
    #[serde(default)]
    pub torn: bool,
}

/// What a move is expected to take.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Quote {
    /// Of code and inputs, as the planner has it.
    #[serde(default)]
    pub terms: Option<Terms>,
    /// The state's, and how much of it changes in a second; none where no copy of it was ever taken.
    #[serde(default)]
    pub state_bytes: Option<u64>,
    #[serde(default)]
    pub change_bytes_per_s: Option<f64>,
    pub bytes: u64,
    pub last_bytes: u64,
    pub rounds: u32,
    pub duration: Millis,
    pub downtime: Millis,
    /// Of the downtime what the program itself takes: to end, and to start.
    #[serde(default)]
    pub save: Millis,
    #[serde(default)]
    pub start: Millis,
    pub egress_price: f64,
}

/// A move that is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    pub from: SiteId,
    pub to: SiteId,
    pub method: Method,
    pub by: String,
    #[serde(default)]
    pub why: Option<String>,
    #[serde(default)]
    pub cause: Cause,
    /// Undone, since the job had left no state from which it could go on.
    #[serde(default)]
    pub stateless: bool,
    pub at: Timestamp,
    pub ended: Timestamp,
    /// Of the placement at the destination.
    #[serde(default)]
    pub epoch: Epoch,
    /// Why it was undone; none where it was done.
    #[serde(default)]
    pub undone: Option<String>,
    pub rounds: u32,
    pub bytes: u64,
    /// The last round's new bytes.
    pub last_bytes: u64,
    /// From the source's being told to end until it went on, wherever; none where it never stopped.
    #[serde(default)]
    pub downtime: Option<Millis>,
    /// Of this what the state took: from the source's end until the command ran again.
    #[serde(default)]
    pub switch: Option<Millis>,
    pub quote: Quote,
}

/// A placement that is over for the workload, and that its site has to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    pub epoch: Epoch,
    pub site: SiteId,
    pub since: Timestamp,
}

/// What follows from the rounds that are at the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// One more brings the last one down.
    Round,
    /// What is left is as little as it gets, or little enough.
    Go,
    GiveUp(String),
}

/// Whether another round pays. `bytes_per_s` is the link's, `max_downtime` what was asked for.
pub fn next(rounds: &[Round], bytes_per_s: f64, max_downtime: Option<Millis>) -> Next {
    let fresh: Vec<u64> = rounds.iter().filter_map(|round| Some(round.taken.as_ref()?.fresh_bytes)).collect();
    let Some(last) = fresh.last() else { return Next::Round };
    // What changes while the last round is under way is about what changed during this one.
    let expected = expected_fresh(rounds).unwrap_or(*last);
    let takes = millis(expected, bytes_per_s);
    let good = max_downtime.unwrap_or(LAST_ROUND_GOOD);
    if takes <= good {
        return Next::Go;
    }
    let stalls = fresh.windows(2).rev().take_while(|two| two[1] * 100 > two[0] * SHRINKS_BELOW_PERCENT).count();
    if stalls < STALLS_MAX && fresh.len() < ROUNDS_MAX as usize {
        return Next::Round;
    }
    match max_downtime {
        None => Next::Go,
        Some(asked) => Next::GiveUp(format!(
            "its state changes so fast that the last round would take {takes} over this link, and at most {asked} was \
             asked for"
        )),
    }
}

/// The new bytes of a round that is taken right after the last one arrived; none before there were two.
pub fn expected_fresh(rounds: &[Round]) -> Option<u64> {
    let rate = change_rate(rounds)?;
    let last = rounds.last()?;
    let open = last.there?.since(last.asked);
    Some((rate * open.as_secs_f64()) as u64)
}

/// Bytes of the state that change in a second, by the two rounds that were taken last.
pub fn change_rate(rounds: &[Round]) -> Option<f64> {
    let mut taken = rounds.iter().rev().filter(|round| round.taken.is_some());
    let (last, before) = (taken.next()?, taken.next()?);
    let seconds = last.asked.since(before.asked).as_secs_f64().max(0.001);
    Some(last.taken.as_ref()?.fresh_bytes as f64 / seconds)
}

/// What copying ahead and the last round come to, for a state of which so much changes in a second, and of which the
/// destination lacks `first_bytes`.
pub fn foresee(
    state_bytes: u64,
    first_bytes: u64,
    change_bytes_per_s: f64,
    bytes_per_s: f64,
    max_downtime: Option<Millis>,
) -> (u32, u64, u64) {
    let good = max_downtime.unwrap_or(LAST_ROUND_GOOD).as_secs_f64();
    let (mut rounds, mut sent, mut due) = (0, 0u64, first_bytes as f64);
    loop {
        rounds += 1;
        sent = sent.saturating_add(due as u64);
        let takes = due / bytes_per_s + ROUND_ASSUMED.as_secs_f64();
        let next = (change_bytes_per_s * takes).min(state_bytes as f64);
        let shrinks = next * 100.0 <= due * SHRINKS_BELOW_PERCENT as f64;
        let over = next / bytes_per_s <= good || !shrinks || rounds >= ROUNDS_MAX;
        due = next;
        if over {
            return (rounds, sent.saturating_add(due as u64), due as u64);
        }
    }
}

pub fn millis(bytes: u64, bytes_per_s: f64) -> Millis {
    Millis((bytes as f64 / bytes_per_s.max(1.0) * 1000.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notebooks_are_told_of_their_kernels() {
        for (workload, is_notebook) in [
            ("notebook-1/lab", true),
            ("notebook-eda-7/lab", true),
            ("notebooks-1/lab", false),
            ("notebook-1/serve", false),
            ("flights-1/lab", false),
        ] {
            assert_eq!(lost_kernels(&workload.parse().unwrap()).is_some(), is_notebook, "{workload}");
        }
    }

    /// Rounds one second apart with so many new bytes, each there after half of that.
    fn rounds(fresh: &[u64]) -> Vec<Round> {
        let round = |(i, fresh_bytes): (usize, &u64)| {
            let asked = Timestamp(i as i64 * 1000);
            let taken = Taken {
                version: None,
                bytes: 1,
                files: 1,
                fresh_bytes: *fresh_bytes,
                beside_bytes: 0,
                took: Millis(1),
                torn: false,
            };
            Round { asked, taken: Some(taken), there: Some(asked + Millis(500)) }
        };
        fresh.iter().enumerate().map(round).collect()
    }

    #[test]
    fn rounds_go_on_while_they_pay() {
        let check = |fresh: &[u64], max: Option<u64>, expected: &str| {
            // A million bytes in a second: 250,000 are brought within the quarter that is good without being asked.
            let next = next(&rounds(fresh), 1e6, max.map(Millis));
            let word = match next {
                Next::Round => "round",
                Next::Go => "go",
                Next::GiveUp(_) => "give up",
            };
            assert_eq!(word, expected, "{fresh:?} {max:?}");
        };
        check(&[], None, "round");
        check(&[100_000], None, "go");
        check(&[9_000_000], None, "round");
        check(&[9_000_000, 3_000_000], None, "round");
        // Half of what changes in the second between two rounds is left.
        check(&[9_000_000, 500_000], None, "go");
        check(&[9_000_000, 500_000], Some(100), "round");
        check(&[9_000_000, 500_000, 200_000], Some(100), "go");
        // Twice without progress.
        check(&[9_000_000, 3_000_000, 2_900_000], None, "round");
        check(&[9_000_000, 3_000_000, 2_900_000, 2_900_000], None, "go");
        check(&[9_000_000, 3_000_000, 2_900_000, 2_900_000], Some(900), "give up");
        check(&[9_000_000, 3_000_000, 2_900_000, 2_900_000], Some(1_450), "go");
    }

    #[test]
    fn what_is_foreseen_ends_and_counts_all() {
        // Nothing changes: one round, nothing left.
        assert_eq!(foresee(1_000, 1_000, 0.0, 1e6, None), (1, 1_000, 0));
        // A tenth of the link's rate: each round is a tenth of the one before, and what changes while it is begun.
        assert_eq!(foresee(100_000_000, 100_000_000, 1e5, 1e6, None), (3, 111_196_300, 133_300));
        // Faster than the link: no round pays.
        let (rounds, all, last) = foresee(10_000_000, 10_000_000, 2e6, 1e6, None);
        assert_eq!((rounds, all, last), (1, 20_000_000, 10_000_000));
        assert_eq!(foresee(0, 0, 1e9, 1e6, None), (1, 0, 0));
        // Most of it is there already.
        assert_eq!(foresee(100_000_000, 1_000_000, 1e5, 1e6, None), (1, 1_130_000, 130_000));
    }
}
