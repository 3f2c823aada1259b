//! Copies of state directories that are taken while nothing moves, and what is kept of a workload's states.
//!
//! A copy is asked for now and then, and brought to where its workload would most likely go next. Kept are the newest and
//! the newest that is also somewhere else; what takes their place is forgotten. Torn ones are never kept.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Measured, WorkloadRecord, World};
use crate::ids::{Epoch, SiteId, VersionId, WorkloadId};
use crate::moving::{ROUNDS_MAX, Taken};
use crate::placement::Verdict;
use crate::spec::Command;
use crate::sync::{Desired, Hold, Order, StateCopy};
use crate::time::{Millis, Timestamp};
use crate::workload::State;

/// How long a workload has to have run where it is before the state directory goes that it left elsewhere.
pub const LEFT_FOR: Millis = Millis::from_secs(600);
/// States that are kept of a workload, whatever sites have of them.
const KEPT_MAX: usize = 8;

/// What is kept of a workload's states.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshots {
    /// Copies asked for so far.
    pub asked: u32,
    /// When the one was asked for that is under way.
    pub open: Option<Timestamp>,
    /// When the last one was taken, or could not be.
    pub last: Option<Timestamp>,
    /// The oldest first.
    pub kept: Vec<Snapshot>,
    /// Where the newest is brought, the likeliest first.
    pub standby: Vec<SiteId>,
}

/// A state directory as it was, file by file, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub version: VersionId,
    pub at: Timestamp,
}

impl Snapshots {
    /// Whether time changes something for it, whatever its workload does.
    pub(super) fn is_timed(&self) -> bool {
        self.open.is_some() || self.kept.len() > 1
    }
}

/// State directories at a site.
#[derive(Debug, Clone, Default)]
pub(super) struct Left {
    told: BTreeSet<(WorkloadId, Epoch)>,
    goes: BTreeSet<(WorkloadId, Epoch)>,
}

impl WorkloadRecord {
    /// The turn of the copy that is under way beside any move: after all that moves have asked for.
    pub(super) fn snapshot_turn(&self) -> Option<(Epoch, u32)> {
        let Snapshots { open, asked, .. } = &self.snapshots;
        open.is_some().then(|| (self.newest_epoch(), ROUNDS_MAX.saturating_add(*asked)))
    }

    /// Whether its command runs, and nothing is about to end it.
    fn is_steady(&self) -> bool {
        let runs = matches!(self.state, State::Running { .. } | State::Ready { .. });
        runs && !self.stopping && self.moving.is_none()
    }

    /// It has nothing to go on from any more. Answers what it had.
    pub(super) fn begin_anew(&mut self) -> Vec<VersionId> {
        let kept = std::mem::take(&mut self.snapshots.kept);
        kept.into_iter().map(|kept| kept.version).chain(self.state_dir.take()).collect()
    }
}

impl World {
    /// Asks for a copy of a state directory now, unless one is under way: whether there can be one.
    pub fn ask_snapshot(&mut self, id: &WorkloadId, now: Timestamp) -> bool {
        let Some(record) = self.workloads.get_mut(id).filter(|record| record.is_steady()) else { return false };
        if record.snapshots.open.is_none() {
            record.snapshots.open = Some(now);
            record.snapshots.asked = record.snapshots.asked.saturating_add(1);
            self.changes.wake.extend(record.state.site().cloned());
            self.touch(id);
        }
        true
    }

    /// When the next copy is due.
    pub(super) fn snapshot_due(record: &WorkloadRecord) -> Option<Timestamp> {
        let copies = record.spec.state.filter(|_| record.is_steady() && record.snapshots.open.is_none())?;
        let placed = record.attempts.last()?.placed;
        Some(record.snapshots.last.map_or(placed, |last| last.max(placed)) + copies.every)
    }

    pub(super) fn take_snapshots(&mut self, now: Timestamp) {
        let due = |record: &&WorkloadRecord| World::snapshot_due(record).is_some_and(|due| due <= now);
        let due: Vec<WorkloadId> = self.timed().filter(due).map(|record| record.id.clone()).collect();
        for id in due {
            self.ask_snapshot(&id, now);
        }
        let several = |record: &&WorkloadRecord| record.snapshots.kept.len() > 1;
        let several: Vec<WorkloadId> = self.timed().filter(several).map(|record| record.id.clone()).collect();
        for id in several {
            self.thin_out(&id);
        }
    }

    pub(super) fn take_snapshot(
        &mut self,
        site: &SiteId,
        id: &WorkloadId,
        result: &Result<Taken, String>,
        now: Timestamp,
    ) {
        let record = self.workloads.get_mut(id).expect("looked up by the caller");
        let asked = record.snapshots.open.take().unwrap_or(now);
        record.snapshots.last = Some(asked);
        let taken = match result {
            Ok(taken) => taken,
            Err(why) => {
                self.touch(id);
                return self.tell(now, id, Some(format!("its state can't be copied: {why}")));
            }
        };
        let since = record.state.since().unwrap_or_default();
        record.copied = Some(Measured::again(record.copied, taken, asked, since));
        if let Some(version) = taken.version {
            let residency = self.inherited(id);
            self.enter_version(version, taken.bytes, taken.files, residency, site, Some(id.clone()), now);
            match taken.torn {
                true => self.let_go([version]),
                false => self.keep_state(id, version, now),
            }
        }
        self.choose_standby(id, now);
        self.touch(id);
    }

    /// A whole state of a workload is known, which it goes on from unless there is a newer one.
    pub(super) fn keep_state(&mut self, id: &WorkloadId, version: VersionId, now: Timestamp) {
        let record = self.workloads.get_mut(id).expect("looked up by the caller");
        let before = record.state_dir.replace(version);
        if matches!(record.spec.command, Command::Import(_)) {
            return;
        }
        let kept = &mut record.snapshots.kept;
        kept.retain(|kept| kept.version != version);
        kept.push(Snapshot { version, at: now });
        let excess = kept.len().saturating_sub(KEPT_MAX);
        let mut gone: Vec<VersionId> = kept.drain(..excess).map(|kept| kept.version).collect();
        gone.extend(before);
        self.let_go(gone);
        self.touch(id);
    }

    /// Keeps the newest state, and the newest that is somewhere else than the workload.
    fn thin_out(&mut self, id: &WorkloadId) {
        let record = &self.workloads[id];
        let here = record.state.site();
        let elsewhere = |kept: &&Snapshot| {
            let known = self.versions.get(&kept.version);
            known.is_some_and(|known| known.replicas.iter().any(|at| Some(at) != here && self.is_in_use(at)))
        };
        let kept = &record.snapshots.kept;
        let stays: BTreeSet<VersionId> =
            kept.last().into_iter().chain(kept.iter().rfind(elsewhere)).map(|k| k.version).collect();
        if stays.len() == kept.len() {
            return;
        }
        let record = self.workloads.get_mut(id).expect("looked up above");
        let gone: Vec<Snapshot> = record.snapshots.kept.extract_if(.., |kept| !stays.contains(&kept.version)).collect();
        self.let_go(gone.into_iter().map(|kept| kept.version));
        self.touch(id);
    }

    fn is_in_use(&self, site: &SiteId) -> bool {
        self.sites.get(site).is_some_and(|site| !site.revoked)
    }

    /// Where the workload would go if it had to leave: the planner's next choices.
    fn choose_standby(&mut self, id: &WorkloadId, now: Timestamp) {
        let record = &self.workloads[id];
        let Some(copies) = record.spec.state else { return };
        let here = record.state.site().cloned();
        let Some(placement) = self.place_anew(record, now) else { return };
        let chosen = placement.outcome.iter().map(|outcome| (outcome.terms.score, outcome.site.clone()));
        let lost = placement.others.iter().filter_map(|(site, verdict)| match verdict {
            Verdict::Lost { terms, .. } => Some((terms.score, site.clone())),
            Verdict::Refused(_) => None,
        });
        let mut sites: Vec<(f64, SiteId)> =
            chosen.chain(lost).filter(|(_, site)| Some(site) != here.as_ref()).collect();
        sites.sort_by(|(a, x), (b, y)| a.total_cmp(b).then_with(|| x.cmp(y)));
        let standby: Vec<SiteId> = sites.into_iter().map(|(_, site)| site).take(copies.sites as usize).collect();
        let record = self.workloads.get_mut(id).expect("looked up above");
        self.changes.wake.extend(standby.iter().cloned());
        record.snapshots.standby = standby;
    }

    /// Where what a workload would go on from is out of reach, it goes on from the newest that is not.
    pub(super) fn fall_back(&mut self, id: &WorkloadId, now: Timestamp) {
        let record = &self.workloads[id];
        let in_reach = |version: &VersionId| {
            let known = self.versions.get(version);
            known.is_some_and(|known| {
                known.replicas.iter().any(|at| self.sites.get(at).is_some_and(|site| site.reachable(now)))
            })
        };
        // Who did not ask to be started elsewhere waits for the newest.
        if record.spec.failover_after.is_none() || record.state_dir.is_none_or(|version| in_reach(&version)) {
            return;
        }
        let Some(at) = record.snapshots.kept.iter().rposition(|kept| in_reach(&kept.version)) else { return };
        let record = self.workloads.get_mut(id).expect("looked up above");
        let newer = record.snapshots.kept.split_off(at + 1);
        let Snapshot { version, at } = record.snapshots.kept[at];
        let before = record.state_dir.replace(version);
        self.let_go(newer.into_iter().map(|kept| kept.version).chain(before));
        self.touch(id);
        let text = format!("goes on from its state of {} ago, the newest that is in reach", now.since(at));
        self.tell(now, id, Some(text));
    }

    /// What is over goes on from nothing: of one that did its work nothing is kept, of another what it left at last.
    pub(super) fn forget_snapshots(&mut self, id: &WorkloadId) {
        let Some(record) = self.workloads.get_mut(id).filter(|record| record.state.is_final()) else { return };
        (record.snapshots.open, record.snapshots.standby) = (None, Vec::new());
        let is_import = matches!(record.spec.command, Command::Import(_));
        let gone = match record.state {
            State::Succeeded { .. } if !is_import => record.begin_anew(),
            _ => std::mem::take(&mut record.snapshots.kept).into_iter().map(|kept| kept.version).collect(),
        };
        self.let_go(gone);
        self.touch(id);
    }

    /// Versions that a workload has no use for any more. Nothing names them but workloads.
    pub(super) fn let_go(&mut self, versions: impl IntoIterator<Item = VersionId>) {
        let gone: Vec<VersionId> = versions.into_iter().filter(|version| !self.needs(version)).collect();
        self.changes.unnamed.extend(gone);
    }

    /// Adds to what a site is told: the copy that is due there, what it shall have of others, and what may go.
    pub(super) fn desire_snapshots(&self, site: &SiteId, desired: &mut Desired) {
        let here = self.timed().filter(|record| record.state.site() == Some(site));
        desired.copies.extend(here.filter_map(|record| {
            let turn = record.snapshot_turn()?;
            Some(StateCopy { workload: record.id.clone(), epoch: record.epoch, turn })
        }));
        for id in &self.index.held {
            let Some(record) = self.workloads.get(id).filter(|record| record.snapshots.standby.contains(site)) else {
                continue;
            };
            let newest = record.snapshots.kept.last().map(|kept| kept.version);
            if let Some(version) = newest.filter(|version| self.may_be_at(version, site).is_ok()) {
                let order = self.order(record).map(|order| Order { state: None, ..order });
                let beside: Vec<_> = order.iter().flat_map(Order::versions).collect();
                // The planner has chosen the site for all of it; rules may have changed since.
                if beside.iter().all(|version| self.may_be_at(version, site).is_ok()) {
                    desired.holds.push(Hold { workload: id.clone(), version, beside });
                }
            }
        }
        desired.forget.extend(self.left.get(site).into_iter().flat_map(|left| left.goes.iter().cloned()));
    }

    pub(super) fn take_left(&mut self, site: &SiteId, told: &[(WorkloadId, Epoch)]) {
        if told.is_empty() {
            self.left.remove(site);
            return;
        }
        self.left.entry(site.clone()).or_default().told = told.iter().cloned().collect();
    }

    /// Which state directories at sites are of no use any more.
    pub(super) fn sort_left(&mut self, now: Timestamp) {
        let mut left = std::mem::take(&mut self.left);
        for (site, Left { told, goes }) in &mut left {
            let due = told.iter().filter(|(id, _)| self.is_useless(site, id, now)).cloned().collect();
            if *goes != due {
                *goes = due;
                self.changes.wake.insert(site.clone());
            }
        }
        self.left = left;
    }

    /// Of runs that are over only the store knows; the edge has looked there.
    fn is_useless(&self, site: &SiteId, id: &WorkloadId, now: Timestamp) -> bool {
        let Some(record) = self.workloads.get(id) else { return false };
        if record.sites().any(|at| at == site) {
            return false;
        }
        let settled = || record.attempts.last().is_some_and(|attempt| attempt.placed + LEFT_FOR <= now);
        record.state.is_final() || record.is_steady() && settled()
    }
}
