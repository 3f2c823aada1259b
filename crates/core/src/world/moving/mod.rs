//! Moves: from being asked for to being done or undone. Whatever fails before the point of no return, which is
//! [`World::arrive`], leaves the workload where it was.

mod facts;
mod quote;

use super::{ATTEMPTS_MAX, Attempt, Refusal, WorkloadRecord, World};
use crate::ids::{Epoch, SiteId, WorkloadId};
use crate::moving::{Leaving, Marks, Method, Moved, Moving, Round, Stage, Wish};
use crate::spec::FAILOVER_AFTER_MIN;
use crate::sync::{Assignment, Desired, Intent, Order, StateCopy};
use crate::time::{Millis, Timestamp};
use crate::workload::{State, Step};

/// Moves of a workload that are remembered; the oldest go first.
pub const MOVES_MAX: usize = 50;
/// A destination that can't be heard of gives up what has not started there yet after so long, and then so do we.
pub const LANDING_LEASE: Millis = FAILOVER_AFTER_MIN;

impl WorkloadRecord {
    /// The highest epoch that was ever given out.
    pub fn newest_epoch(&self) -> Epoch {
        self.epoch.max(self.spent)
    }

    /// Whether nothing of it is anywhere any more, and nothing will be unless somebody asks.
    pub fn is_over(&self) -> bool {
        self.state.is_final() && self.leaving.is_empty()
    }

    /// The placement at the destination of a move that is not the workload's yet.
    pub fn arrival(&self) -> Option<(&SiteId, Epoch)> {
        self.moving.as_ref().filter(|moving| moving.stage.has_arrival()).map(|moving| (&moving.to, moving.epoch))
    }

    /// Every site that has something of it.
    pub fn sites(&self) -> impl Iterator<Item = &SiteId> {
        let arrival = self.arrival().map(|(site, _)| site);
        self.state.site().into_iter().chain(arrival).chain(self.leaving.iter().map(|leaving| &leaving.site))
    }

    /// Whether its site is told to end it, be it for good, for a move or for another in its place.
    pub(super) fn has_to_end(&self) -> bool {
        let moves =
            |moving: &Moving| moving.stage == Stage::Stopping || moving.stage == Stage::Landing && moving.off.is_some();
        self.stopping || self.renewing == Some(self.epoch) || self.moving.as_ref().is_some_and(moves)
    }

    /// After how long a silence its site stops it by itself.
    pub fn lease(&self) -> Option<Millis> {
        let landing = self.moving.as_ref().filter(|moving| moving.stage == Stage::Landing).map(|_| LANDING_LEASE);
        self.spec.failover_after.into_iter().chain(landing).min()
    }
}

impl World {
    /// Begins a move, or says what forbids it.
    pub fn begin_move(&mut self, id: &WorkloadId, wish: Wish, now: Timestamp) -> Result<(), Refusal> {
        let (method, quote) = self.quote_move(id, &wish, now)?;
        let record = self.workloads.get_mut(id).expect("looked up for the quote");
        let from = record.state.site().cloned().expect("looked at for the quote");
        let epoch = record.newest_epoch().next();
        record.spent = epoch;
        let rounds = match method {
            Method::Restart => Vec::new(),
            Method::Switch | Method::Checkpoint => vec![Round { asked: now, taken: None, there: None }],
        };
        let (text, to) = (format!("moves to {} ({})", wish.to, method.word()), wish.to.clone());
        // Its own rounds take the place of a copy that is under way.
        record.snapshots.open = None;
        record.moving = Some(Moving {
            from: from.clone(),
            to: wish.to,
            method,
            chosen: wish.method.is_none(),
            by: wish.by,
            why: wish.why,
            cause: wish.cause,
            stateless: false,
            at: now,
            deadline: wish.deadline.map(|deadline| now + deadline),
            max_downtime: wish.max_downtime,
            epoch,
            stage: Stage::Ahead,
            off: None,
            rounds,
            prepared: None,
            bytes: 0,
            egress: 0.0,
            marks: Marks::default(),
            quote,
        });
        self.moves_on(id, now, Some(text), [from, to]);
        Ok(())
    }

    /// Takes a move back, as far as it can be: whatever has not arrived goes on where it was.
    pub fn call_off(&mut self, id: &WorkloadId, why: String, now: Timestamp) -> Result<(), Refusal> {
        let record = self.workloads.get(id).ok_or_else(|| Refusal::NoWorkload(id.clone()))?;
        let Some(moving) = &record.moving else { return Err(Refusal::NotMoving(id.clone())) };
        match moving.stage {
            Stage::Ahead | Stage::Beside => self.undo(id, why, now),
            // What was told to end can't be told otherwise: it comes back as soon as it has.
            Stage::Stopping | Stage::Landing if moving.off.is_none() => {
                let to = moving.to.clone();
                self.workloads.get_mut(id).and_then(|record| record.moving.as_mut()).expect("looked up above").off =
                    Some(why.clone());
                self.moves_on(id, now, Some(format!("the move is called off: {why}")), [to]);
            }
            Stage::Stopping | Stage::Landing | Stage::Returning => {}
        }
        Ok(())
    }

    /// What is asked to stop goes nowhere any more.
    pub(super) fn stop_moving(&mut self, id: &WorkloadId, now: Timestamp) {
        let stage = self.workloads.get(id).and_then(|record| record.moving.as_ref()).map(|moving| moving.stage);
        if let Some(Stage::Ahead | Stage::Beside) = stage {
            self.undo(id, "it was asked to stop".to_owned(), now);
        }
    }

    /// Ends a move before anything was stopped: the source never noticed.
    fn undo(&mut self, id: &WorkloadId, why: String, now: Timestamp) {
        self.leave_arrival(id, now);
        self.end_move(id, Some(why), now);
    }

    /// The placement at the destination has to end there.
    fn leave_arrival(&mut self, id: &WorkloadId, now: Timestamp) {
        let Some(record) = self.workloads.get_mut(id) else { return };
        let Some((site, epoch)) = record.arrival().map(|(site, epoch)| (site.clone(), epoch)) else { return };
        if self.sites.get(&site).is_some_and(|site| !site.revoked) {
            record.leaving.push(Leaving { epoch, site: site.clone(), since: now });
        }
        self.changes.wake.insert(site);
    }

    /// Writes a move down as over, and what came of it.
    fn end_move(&mut self, id: &WorkloadId, undone: Option<String>, now: Timestamp) {
        let Some(record) = self.workloads.get_mut(id) else { return };
        let Some(moving) = record.moving.take() else { return };
        let text = match &undone {
            None => format!("moved to {}", moving.to),
            Some(why) => format!("the move to {} was undone: {why}", moving.to),
        };
        let last = moving.rounds.iter().rev().find_map(|round| round.taken.as_ref());
        let ahead = moving.ahead();
        record.moves.push(Moved {
            ended: now,
            epoch: moving.epoch,
            undone,
            rounds: moving.rounds.len() as u32,
            bytes: moving.bytes,
            last_bytes: last.map_or(0, |taken| taken.fresh_bytes),
            downtime: moving.marks.stop.map(|stop| now.since(stop)),
            switch: moving.marks.stopped.zip(moving.marks.started).map(|(stopped, started)| started.since(stopped)),
            from: moving.from.clone(),
            to: moving.to.clone(),
            method: moving.method,
            by: moving.by,
            why: moving.why,
            cause: moving.cause,
            stateless: moving.stateless,
            at: moving.at,
            quote: moving.quote,
        });
        let excess = record.moves.len().saturating_sub(MOVES_MAX);
        record.moves.drain(..excess);
        record.note_whereabouts();
        self.let_go(ahead);
        self.moves_on(id, now, Some(text), [moving.from, moving.to]);
    }

    fn moves_on(
        &mut self,
        id: &WorkloadId,
        now: Timestamp,
        text: Option<String>,
        wake: impl IntoIterator<Item = SiteId>,
    ) {
        self.changes.wake.extend(wake);
        self.touch(id);
        if text.is_some() {
            self.tell(now, id, text);
        }
    }

    /// Those moves whose time is up are called off.
    pub(super) fn end_late_moves(&mut self, now: Timestamp) {
        let late = |record: &&WorkloadRecord| {
            let moving = record.moving.as_ref();
            moving.is_some_and(|moving| moving.off.is_none() && moving.deadline.is_some_and(|deadline| deadline <= now))
        };
        let late: Vec<WorkloadId> = self.timed().filter(late).map(|record| record.id.clone()).collect();
        for id in late {
            let _ = self.call_off(&id, "its deadline passed".to_owned(), now);
        }
    }

    /// The moment at which a move is called off.
    pub(super) fn move_deadline(record: &WorkloadRecord) -> Option<Timestamp> {
        record.moving.as_ref().filter(|moving| moving.off.is_none())?.deadline
    }

    /// Adds to what a site is told: what arrives there, what has to leave, and what shall be copied.
    pub(super) fn desire_moves(&self, site: &SiteId, desired: &mut Desired) {
        for record in self.present_at(site) {
            let here = record.state.site() == Some(site);
            if let Some(moving) = &record.moving {
                let copies = here && moving.stage == Stage::Ahead && !moving.rounds.is_empty();
                if copies {
                    let turn = (moving.epoch, moving.rounds.len() as u32);
                    desired.copies.push(StateCopy { workload: record.id.clone(), epoch: record.epoch, turn });
                }
            }
            if let Some((_, epoch)) = record.arrival().filter(|(at, _)| *at == site)
                && let Some(order) = self.order(record)
            {
                let order = Box::new(self.arriving(record, order));
                let beside = record.moving.as_ref().is_some_and(|moving| moving.stage == Stage::Beside);
                let intent = if beside { Intent::Run(order) } else { Intent::Prepare(order) };
                desired.assignments.push(Assignment { workload: record.id.clone(), epoch, intent });
            } else if !here && let Some(leaving) = record.leaving.iter().rfind(|leaving| leaving.site == *site) {
                let (workload, epoch) = (record.id.clone(), leaving.epoch);
                desired.assignments.push(Assignment { workload, epoch, intent: Intent::Stop });
            }
        }
    }

    /// An order as it is at the destination: who begins anew gets no state.
    fn arriving(&self, record: &WorkloadRecord, order: Order) -> Order {
        let Some(moving) = record.moving.as_ref().filter(|moving| moving.method != Method::Restart) else {
            return Order { state: None, ..order };
        };
        Order { state: moving.ahead().or(order.state), ..order }
    }

    /// The destination answers, and is the workload from now on; the source has to leave.
    fn arrive_beside(&mut self, id: &WorkloadId, since: Timestamp, address: String, now: Timestamp) {
        let record = self.workloads.get_mut(id).expect("looked up by the caller");
        let moving = record.moving.as_ref().expect("looked up by the caller");
        let (from, to, epoch) = (moving.from.clone(), moving.to.clone(), moving.epoch);
        let Ok(next) = record.state.step(Step::Switch { site: to.clone(), since, address }, now) else { return };
        record.leaving.push(Leaving { epoch: record.epoch, site: from, since: now });
        record.state = next;
        record.epoch = epoch;
        record.note_attempt(&to, now);
        record.count_brought();
        self.arrive(id, now);
        self.supersede(&id.clone(), now);
    }

    /// The point of no return: from here on the destination goes on alone.
    fn arrive(&mut self, id: &WorkloadId, now: Timestamp) {
        self.learn_from_move(id);
        self.end_move(id, None, now);
    }

    /// All is ahead that can be: now the workload itself.
    fn go(&mut self, id: &WorkloadId, now: Timestamp) {
        let record = self.workloads.get_mut(id).expect("looked up by the caller");
        let job = record.spec.job().is_some();
        // What has not begun yet loses nothing.
        let begun = matches!(record.state, State::Running { .. });
        let moving = record.moving.as_mut().expect("looked up by the caller");
        let (from, to) = (moving.from.clone(), moving.to.clone());
        if moving.method == Method::Switch {
            moving.stage = Stage::Beside;
            return self.moves_on(id, now, Some(format!("starts at {to} beside")), [to]);
        }
        let empty = record.state_dir.is_none() && moving.ahead().is_none();
        if begun && job && empty && moving.method == Method::Checkpoint && moving.chosen {
            let why =
                "it has left nothing in $TOMBOLO_STATE so far, and would begin anew; `--method restart` takes that";
            moving.stateless = true;
            return self.undo(id, why.to_owned(), now);
        }
        moving.stage = Stage::Stopping;
        moving.marks.stop = Some(now);
        self.moves_on(id, now, Some(format!("stops, to go on at {to}")), [from]);
    }

    fn to(&self, id: &WorkloadId) -> &SiteId {
        &self.workloads[id].moving.as_ref().expect("asked while it moves").to
    }

    /// The placement at the destination becomes the workload's, with what the source has left.
    fn land(&mut self, id: &WorkloadId, anew: bool, now: Timestamp) {
        let record = self.workloads.get_mut(id).expect("looked up by the caller");
        let gone = if anew { record.begin_anew() } else { Vec::new() };
        let moving = record.moving.as_mut().expect("looked up by the caller");
        moving.stage = Stage::Landing;
        let (to, epoch) = (moving.to.clone(), moving.epoch);
        record.epoch = epoch;
        record.note_attempt(&to, now);
        record.count_brought();
        self.let_go(gone);
        self.take_step(id, Step::Land { site: to.clone() }, now, Some(format!("goes on at {to}")));
    }

    /// The source goes on from where it was, under a new epoch.
    fn return_home(&mut self, id: &WorkloadId, why: String, now: Timestamp) {
        self.leave_arrival(id, now);
        let record = self.workloads.get_mut(id).expect("looked up by the caller");
        let epoch = record.newest_epoch().next();
        (record.epoch, record.spent) = (epoch, epoch);
        let moving = record.moving.as_mut().expect("looked up by the caller");
        moving.stage = Stage::Returning;
        moving.off = Some(why.clone());
        let from = moving.from.clone();
        let text = format!("goes on at {from}, since {why}");
        if self.sites.get(&from).is_none_or(|site| site.revoked) {
            self.end_move(id, Some(why), now);
            self.take_step(id, Step::Abandon, now, Some(format!("{from} is revoked")));
            return;
        }
        self.workloads.get_mut(id).expect("looked up above").note_attempt(&from, now);
        self.take_step(id, Step::Land { site: from }, now, Some(text));
    }

    /// Moves that are under way.
    pub fn moves(&self) -> impl Iterator<Item = &WorkloadRecord> {
        self.workloads.values().filter(|record| record.moving.is_some())
    }
}

impl WorkloadRecord {
    /// What was brought ahead for the newest placement is part of what it took.
    fn count_brought(&mut self) {
        if let (Some(moving), Some(attempt)) = (&self.moving, self.attempts.last_mut()) {
            attempt.bytes_in = attempt.bytes_in.saturating_add(moving.bytes);
            attempt.cost += moving.egress;
        }
    }

    /// A new placement's line in its history.
    pub(super) fn note_attempt(&mut self, site: &SiteId, now: Timestamp) {
        self.attempts.push(Attempt {
            epoch: self.epoch,
            site: site.clone(),
            placed: now,
            ended: None,
            ran: None,
            outcome: None,
            bytes_in: 0,
            memory_peak_bytes: None,
            cpu: None,
            metric: None,
            cost: 0.0,
        });
        let excess = self.attempts.len().saturating_sub(ATTEMPTS_MAX);
        self.attempts.drain(..excess);
    }
}
