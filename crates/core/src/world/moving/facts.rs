//! What sites say of moves, and what is concluded from it.

use super::super::{Measured, WorkloadRecord, World};
use super::LANDING_LEASE;
use crate::ids::{Epoch, SiteId, VersionId, WorkloadId};
use crate::moving::{self, BANDWIDTH_ASSUMED, Leaving, Method, Moving, Next, Prepared, Round, Stage};
use crate::sync::{Copied, Finish, Observed, Outcome, Phase, StateCopy};
use crate::time::Timestamp;
use crate::workload::State;

impl World {
    /// Whether a site's placement is the one that a move puts there.
    pub(in crate::world) fn arrives(&self, site: &SiteId, id: &WorkloadId, epoch: Epoch) -> bool {
        self.workloads.get(id).and_then(WorkloadRecord::arrival) == Some((site, epoch))
    }

    /// What a destination says of a placement that is not the workload's yet.
    pub(in crate::world) fn take_arrival(&mut self, observed: &Observed, now: Timestamp) {
        let id = &observed.workload;
        let Some(moving) = self.workloads.get_mut(id).and_then(|record| record.moving.as_mut()) else { return };
        match (&observed.phase, moving.stage) {
            (Phase::Prepared { state }, Stage::Ahead | Stage::Stopping) => {
                let prepared = Some(Prepared { state: *state });
                if moving.prepared != prepared {
                    moving.prepared = prepared;
                    self.moves_on(id, now, None, []);
                    self.advance(id, now);
                }
            }
            (Phase::Running { .. }, Stage::Beside) if moving.marks.started.is_none() => {
                moving.marks.started = Some(now);
                self.touch(id);
            }
            (Phase::Ready { since, address } | Phase::Ending { since, address, .. }, Stage::Beside) => {
                let (since, address) = (*since, address.clone());
                self.arrive_beside(id, since, address, now);
            }
            (Phase::Finished(finish), Stage::Ahead | Stage::Beside) => {
                let why = format!("at {} it {}", moving.to, finish.outcome);
                self.undo(id, why, now);
            }
            // The source is about to end; then it comes back at once.
            (Phase::Finished(finish), Stage::Stopping) if moving.off.is_none() => {
                moving.off = Some(format!("at {} it {}", moving.to, finish.outcome));
                self.touch(id);
            }
            (Phase::Preparing | Phase::Queued { .. } | Phase::Running { .. } | Phase::Prepared { .. }, _)
            | (Phase::Ready { .. } | Phase::Ending { .. } | Phase::Finished(_), _) => {}
        }
    }

    /// A copy of a state directory was taken, or can't be.
    pub(in crate::world) fn take_copy(&mut self, site: &SiteId, copied: &Copied, now: Timestamp) {
        let StateCopy { workload: id, epoch, turn } = &copied.of;
        let Some(record) = self.workloads.get(id).filter(|record| record.epoch == *epoch) else { return };
        if record.snapshot_turn() == Some(*turn) && record.state.site() == Some(site) {
            return self.take_snapshot(site, id, &copied.result, now);
        }
        let Some(moving) = &record.moving else { return };
        let due =
            moving.stage == Stage::Ahead && moving.from == *site && *turn == (moving.epoch, moving.rounds.len() as u32);
        if !due || moving.rounds.last().is_none_or(|round| round.taken.is_some()) {
            return;
        }
        let taken = match &copied.result {
            Ok(taken) => taken.clone(),
            Err(why) => return self.undo(id, format!("its state can't be copied: {why}"), now),
        };
        if let Some(version) = taken.version {
            let residency = self.inherited(id);
            self.enter_version(version, taken.bytes, taken.files, residency, site, Some(id.clone()), now);
        }
        let before = moving_ahead(&self.workloads[id]);
        let record = self.workloads.get_mut(id).expect("looked up above");
        let since = record.state.since().unwrap_or_default();
        let moving = record.moving.as_mut().expect("looked up above");
        let round = moving.rounds.last_mut().expect("looked at above");
        round.taken = Some(taken.clone());
        record.copied = Some(Measured::again(record.copied, &taken, round.asked, since));
        let to = moving.to.clone();
        match taken.version {
            Some(version) if !taken.torn => self.keep_state(id, version, now),
            _ => {}
        }
        self.let_go(before);
        self.moves_on(id, now, None, [to]);
        self.advance(id, now);
    }

    /// Goes on where a round is whole at the destination.
    fn advance(&mut self, id: &WorkloadId, now: Timestamp) {
        let Some(record) = self.workloads.get_mut(id) else { return };
        let before = record.state_dir;
        let Some(moving) = record.moving.as_mut().filter(|moving| moving.stage == Stage::Ahead) else { return };
        let state = moving.ahead().or(before);
        let Some(prepared) = moving.prepared else { return };
        let (from, to) = (moving.from.clone(), moving.to.clone());
        if moving.method == Method::Restart {
            return self.go(id, now);
        }
        let Some(round) = moving.rounds.last_mut().filter(|round| round.taken.is_some()) else { return };
        if prepared.state != state {
            return;
        }
        round.there.get_or_insert(now);
        let speed = self.links.get(&from, &to).bytes_per_s;
        let speed = if speed > 0.0 { speed } else { BANDWIDTH_ASSUMED };
        let moving = self.workloads.get_mut(id).and_then(|record| record.moving.as_mut()).expect("looked up above");
        match moving::next(&moving.rounds, speed, moving.max_downtime) {
            Next::Round => {
                moving.rounds.push(Round { asked: now, taken: None, there: None });
                self.moves_on(id, now, None, [from]);
            }
            Next::Go => self.go(id, now),
            Next::GiveUp(why) => self.undo(id, why, now),
        }
    }

    /// Whether a workload goes on from what an end has left. What failed at a move's destination before it had arrived has
    /// changed nothing: the source goes on from what it had left itself.
    pub(in crate::world) fn goes_on_from(&self, id: &WorkloadId, finish: &Finish, outcome: &Outcome) -> bool {
        let record = &self.workloads[id];
        let Some(moving) = record.moving.as_ref().filter(|moving| moving.stage == Stage::Landing) else { return true };
        let job = record.spec.job().is_some();
        let asked = matches!(outcome, Outcome::Stopped | Outcome::Checkpointed | Outcome::Evicted { .. });
        let arrived = record.stopping || outcome.is_success() || job && finish.ran.is_some() && moving.off.is_none();
        // One that went on there for a moment before it was called back goes on from there.
        arrived || job && asked
    }

    /// Takes in the end of a workload that moves. Answers whether that is all that follows from it: if not, it is an
    /// end like any other.
    pub(in crate::world) fn end_of_moving(
        &mut self,
        id: &WorkloadId,
        finish: &Finish,
        outcome: &Outcome,
        now: Timestamp,
    ) -> bool {
        let record = &self.workloads[id];
        let Some(moving) = &record.moving else { return false };
        let (off, job) = (moving.off.clone(), record.spec.job().is_some());
        let asked = matches!(outcome, Outcome::Stopped | Outcome::Checkpointed);
        match moving.stage {
            Stage::Stopping if asked && !record.stopping => {
                let anew = moving.method == Method::Restart;
                let record = self.workloads.get_mut(id).expect("looked up above");
                let moving = record.moving.as_mut().expect("looked up above");
                moving.marks.stopped = Some(now);
                match off {
                    Some(why) => self.return_home(id, why, now),
                    None => self.land(id, anew, now),
                }
                true
            }
            Stage::Ahead | Stage::Beside | Stage::Stopping => {
                let why = match record.stopping {
                    true => "it was asked to stop".to_owned(),
                    false => format!("it {outcome} meanwhile"),
                };
                self.undo(id, why, now);
                false
            }
            Stage::Landing if record.stopping || outcome.is_success() => {
                let undone = (!outcome.is_success()).then(|| "it was asked to stop".to_owned());
                self.end_move(id, undone, now);
                false
            }
            // It ran there, so that it is past the point of no return and this is an end of its own.
            Stage::Landing if job && finish.ran.is_some() && off.is_none() => {
                self.arrive(id, now);
                false
            }
            Stage::Landing => {
                let why = off.unwrap_or_else(|| format!("at {} it {outcome}", self.to(id)));
                self.return_home(id, why, now);
                true
            }
            Stage::Returning => {
                let why = off.unwrap_or_default();
                self.end_move(id, Some(why), now);
                false
            }
        }
    }

    /// A destination that could not be heard of has given up what had not started there yet.
    pub(in crate::world) fn landing_lost(&mut self, id: &WorkloadId, now: Timestamp) -> bool {
        let Some(record) = self.workloads.get_mut(id) else { return false };
        let Some(moving) = record.moving.as_ref() else { return false };
        if moving.stage != Stage::Landing || record.stopping {
            self.undo(id, "its site was silent for longer than its lease".to_owned(), now);
            return false;
        }
        let why = format!("{} was not heard of for {LANDING_LEASE}, before it had started there", moving.to);
        self.return_home(id, why, now);
        true
    }

    /// A workload's placement runs, or answers: where it was on its way, it has arrived, there or back home.
    pub(in crate::world) fn settle_move(&mut self, id: &WorkloadId, now: Timestamp) {
        let Some(record) = self.workloads.get_mut(id) else { return };
        let arrived = match &record.state {
            State::Running { .. } => record.spec.job().is_some(),
            State::Ready { .. } => true,
            _ => false,
        };
        let runs = matches!(record.state, State::Running { .. } | State::Ready { .. });
        let Some(moving) = record.moving.as_mut() else { return };
        match moving.stage {
            Stage::Landing if runs => {
                moving.marks.started.get_or_insert(now);
                if arrived && moving.off.is_none() {
                    self.arrive(id, now);
                }
            }
            Stage::Returning if arrived => {
                let why = moving.off.clone().unwrap_or_default();
                self.end_move(id, Some(why), now);
            }
            _ => {}
        }
    }

    /// Takes in that a placement which had to leave is over.
    pub(in crate::world) fn take_leaving(&mut self, site: &SiteId, observed: &Observed, now: Timestamp) {
        let Some(record) = self.workloads.get_mut(&observed.workload) else { return };
        let before = record.leaving.len();
        let over = matches!(observed.phase, Phase::Finished(_));
        // A site lets go of an older one before it takes in a newer.
        let gone = |leaving: &Leaving| leaving.epoch < observed.epoch || over && leaving.epoch == observed.epoch;
        record.leaving.retain(|leaving| leaving.site != *site || !gone(leaving));
        if record.leaving.len() == before {
            return;
        }
        if let Phase::Finished(finish) = &observed.phase {
            let outcome = finish.outcome.clone();
            self.note_end_of(site, &observed.workload, observed.epoch, &finish.clone().bounded(), &outcome, now);
        }
        self.touch(&observed.workload);
    }

    /// What a revoked site had of moves: nothing has to leave it any more, and nothing arrives there.
    pub(in crate::world) fn revoke_moves(&mut self, site: &SiteId, now: Timestamp) {
        let there: Vec<WorkloadId> = self.present_at(site).map(|record| record.id.clone()).collect();
        for id in there {
            if self.workloads[&id].arrival().is_some_and(|(to, _)| to == site) {
                match self.workloads[&id].moving.as_ref().map(|moving| moving.stage) {
                    Some(Stage::Stopping) => drop(self.call_off(&id, format!("{site} was revoked"), now)),
                    _ => self.undo(&id, format!("{site} was revoked"), now),
                }
            }
            let record = self.workloads.get_mut(&id).expect("listed above");
            record.leaving.retain(|leaving| leaving.site != *site);
            self.touch(&id);
        }
    }
}

/// The newest copy that its move has taken.
fn moving_ahead(record: &WorkloadRecord) -> Option<VersionId> {
    record.moving.as_ref().and_then(Moving::ahead)
}
