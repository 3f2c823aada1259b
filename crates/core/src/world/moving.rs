//! Moves: from being asked for to being done or undone. Whatever fails before the point of no return, which is
//! [`World::arrive`], leaves the workload where it was.

use super::{ATTEMPTS_MAX, Attempt, Measured, Refusal, WorkloadRecord, World};
use crate::ids::{Epoch, SiteId, WorkloadId};
use crate::moving::{
    self, BANDWIDTH_ASSUMED, Leaving, Marks, Method, Moved, Moving, Next, Prepared, Quote, Round, Stage, Wish,
};
use crate::placement::{self, Progress, Terms, Verdict};
use crate::spec::FAILOVER_AFTER_MIN;
use crate::sync::{Assignment, Copied, Desired, Finish, Intent, Observed, Order, Outcome, Phase, StateCopy};
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

    /// Whether its site is told to end it, be it for good or for a move.
    pub(super) fn has_to_end(&self) -> bool {
        let moves =
            |moving: &Moving| moving.stage == Stage::Stopping || moving.stage == Stage::Landing && moving.off.is_some();
        self.stopping || self.moving.as_ref().is_some_and(moves)
    }

    /// After how long a silence its site stops it by itself.
    pub fn lease(&self) -> Option<Millis> {
        let landing = self.moving.as_ref().filter(|moving| moving.stage == Stage::Landing).map(|_| LANDING_LEASE);
        self.spec.failover_after.into_iter().chain(landing).min()
    }
}

/// A move that can't be, by the name of the rule that forbids it.
fn forbidden(id: &WorkloadId, to: &SiteId, rule: &'static str, why: impl Into<String>) -> Refusal {
    Refusal::CantMove { id: id.clone(), to: to.clone(), rule, why: why.into() }
}

impl World {
    /// What a move would take, or what forbids it.
    pub fn quote_move(&self, id: &WorkloadId, wish: &Wish, now: Timestamp) -> Result<(Method, Quote), Refusal> {
        let to = &wish.to;
        let record = self.workloads.get(id).ok_or_else(|| Refusal::NoWorkload(id.clone()))?;
        if !self.sites.contains_key(to) {
            return Err(Refusal::NoSite(to.clone()));
        }
        let no = |rule, why: String| Err(forbidden(id, to, rule, why));
        if record.state.is_final() {
            return no("over", format!("it is over: it {}", record.state.word()));
        }
        let Some(from) = record.state.site() else {
            return no("nowhere", format!("it is at no site: it is {}", record.state.word()));
        };
        if from == to {
            return no("same-site", "it is there".to_owned());
        }
        if record.stopping {
            return no("stopping", format!("it was asked to stop, and is about to end at {from}"));
        }
        if let Some(moving) = &record.moving {
            return no("moving", format!("a move to {} is under way: it is {}", moving.to, moving.stage.word()));
        }
        if !self.sites.get(from).is_some_and(|site| site.reachable(now)) {
            return no("source-unreachable", format!("{from}, where it is, was not heard of lately"));
        }
        let suits = match record.spec.service() {
            Some(service) if !service.single => Method::Switch,
            Some(_) | None => Method::Checkpoint,
        };
        let method = wish.method.unwrap_or(suits);
        match (method, record.spec.service()) {
            (Method::Switch, None) => return no("method", "a job can't run at two sites at once".to_owned()),
            (Method::Switch, Some(service)) if service.single => {
                return no("method", "it is `single`: it can't run at two sites at once".to_owned());
            }
            _ => {}
        }
        let terms = self.terms_at(record, to, now).map_err(|(rule, why)| forbidden(id, to, rule, why))?;
        Ok((method, self.quote(record, from, to, method, wish.max_downtime, terms)))
    }

    /// What the planner says of a site for a workload that is at another, or by which rule it can't be there.
    fn terms_at(&self, record: &WorkloadRecord, to: &SiteId, now: Timestamp) -> Result<Terms, (&'static str, String)> {
        let run = &self.runs[&record.id.run];
        let mut problem = self.problem(run, &self.loads(now), now);
        problem.tasks.retain(|task| task.name == record.id.name);
        for task in &mut problem.tasks {
            task.progress = Progress::Undecided;
        }
        // What the run holds elsewhere at the destination stays held.
        for site in &mut problem.sites {
            site.free = self.free(&self.sites[&site.info.id]);
            (site.busy, site.queued) = Default::default();
        }
        let plan = placement::plan(&problem);
        let placement = plan.placements.first().ok_or(("nowhere", "it is in no plan".to_owned()))?;
        let terms = match &placement.outcome {
            Ok(outcome) if outcome.site == *to => outcome.terms,
            _ => match placement.others.iter().find(|(site, _)| site == to).map(|(_, verdict)| verdict) {
                Some(Verdict::Lost { terms, .. }) => *terms,
                Some(Verdict::Refused(reason)) => return Err((reason.rule(), reason.to_string())),
                None => return Err(("nowhere", "the planner knows nothing of it".to_owned())),
            },
        };
        Ok(terms)
    }

    fn quote(
        &self,
        record: &WorkloadRecord,
        from: &SiteId,
        to: &SiteId,
        method: Method,
        max_downtime: Option<Millis>,
        terms: Terms,
    ) -> Quote {
        let link = self.links.get(from, to);
        let speed = if link.bytes_per_s > 0.0 { link.bytes_per_s } else { BANDWIDTH_ASSUMED };
        let known = record.copied.as_ref().filter(|_| method != Method::Restart);
        let state_bytes = known.map(|known| known.bytes);
        let rate = known.and_then(|known| known.change_bytes_per_s);
        let (rounds, state_all, last_bytes) =
            moving::foresee(state_bytes.unwrap_or(0), rate.unwrap_or(0.0), speed, max_downtime);
        let last = moving::millis(last_bytes, speed) + link.latency + link.latency;
        let bytes = terms.transfer_bytes.saturating_add(state_all);
        let ahead = moving::millis(bytes.saturating_sub(last_bytes), speed) + link.latency;
        let egress = self.sites.get(from).map_or(0.0, |site| site.info.prices.egress(state_all));
        Quote {
            terms: Some(terms),
            state_bytes,
            change_bytes_per_s: rate,
            bytes,
            last_bytes,
            rounds,
            duration: ahead + last,
            downtime: if method == Method::Switch { Millis(0) } else { last },
            egress_price: terms.egress_price + egress,
        }
    }

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
        record.moving = Some(Moving {
            from: from.clone(),
            to: wish.to,
            method,
            chosen: wish.method.is_none(),
            by: wish.by,
            why: wish.why,
            at: now,
            deadline: wish.deadline.map(|deadline| now + deadline),
            max_downtime: wish.max_downtime,
            epoch,
            stage: Stage::Ahead,
            off: None,
            rounds,
            prepared: None,
            bytes: 0,
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
        record.moves.push(Moved {
            ended: now,
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
            at: moving.at,
            quote: moving.quote,
        });
        let excess = record.moves.len().saturating_sub(MOVES_MAX);
        record.moves.drain(..excess);
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
            } else if !here
                && let Some(leaving) = record.leaving.iter().filter(|leaving| leaving.site == *site).next_back()
            {
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

    /// Whether a site's placement is the one that a move puts there.
    pub(super) fn arrives(&self, site: &SiteId, id: &WorkloadId, epoch: Epoch) -> bool {
        self.workloads.get(id).and_then(WorkloadRecord::arrival) == Some((site, epoch))
    }

    /// What a destination says of a placement that is not the workload's yet.
    pub(super) fn take_arrival(&mut self, observed: &Observed, now: Timestamp) {
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
            (Phase::Ready { since, address }, Stage::Beside) => {
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
            (Phase::Preparing | Phase::Running { .. } | Phase::Prepared { .. }, _)
            | (Phase::Ready { .. } | Phase::Finished(_), _) => {}
        }
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
        self.arrive(id, now);
        self.supersede(&id.clone(), now);
    }

    /// The point of no return: from here on the destination goes on alone.
    fn arrive(&mut self, id: &WorkloadId, now: Timestamp) {
        self.end_move(id, None, now);
    }

    /// A copy of a state directory was taken, or can't be.
    pub(super) fn take_copy(&mut self, site: &SiteId, copied: &Copied, now: Timestamp) {
        let StateCopy { workload: id, epoch, turn } = &copied.of;
        let Some(record) = self.workloads.get(id).filter(|record| record.epoch == *epoch) else { return };
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
        let record = self.workloads.get_mut(id).expect("looked up above");
        record.state_dir = taken.version.filter(|_| !taken.torn).or(record.state_dir);
        let moving = record.moving.as_mut().expect("looked up above");
        moving.rounds.last_mut().expect("looked at above").taken = Some(taken.clone());
        record.copied = Some(Measured { bytes: taken.bytes, change_bytes_per_s: moving::change_rate(&moving.rounds) });
        let to = moving.to.clone();
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

    /// All is ahead that can be: now the workload itself.
    fn go(&mut self, id: &WorkloadId, now: Timestamp) {
        let record = self.workloads.get_mut(id).expect("looked up by the caller");
        let job = record.spec.job().is_some();
        let moving = record.moving.as_mut().expect("looked up by the caller");
        let (from, to) = (moving.from.clone(), moving.to.clone());
        if moving.method == Method::Switch {
            moving.stage = Stage::Beside;
            return self.moves_on(id, now, Some(format!("starts at {to} beside")), [to]);
        }
        let empty = record.state_dir.is_none() && moving.ahead().is_none();
        if job && empty && moving.method == Method::Checkpoint && moving.chosen {
            let why =
                "it has left nothing in $TOMBOLO_STATE so far, and would begin anew; `--method restart` takes that";
            return self.undo(id, why.to_owned(), now);
        }
        moving.stage = Stage::Stopping;
        moving.marks.stop = Some(now);
        self.moves_on(id, now, Some(format!("stops, to go on at {to}")), [from]);
    }

    /// Takes in the end of a workload that moves. Answers whether that is all that follows from it: if not, it is an
    /// end like any other.
    pub(super) fn end_of_moving(
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
                record.state_dir = finish.state.or(record.state_dir);
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
                if job && asked {
                    // It went on there for a moment before it was called back, and goes on from there.
                    let record = self.workloads.get_mut(id).expect("looked up above");
                    record.state_dir = finish.state.or(record.state_dir);
                }
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

    fn to(&self, id: &WorkloadId) -> &SiteId {
        &self.workloads[id].moving.as_ref().expect("asked while it moves").to
    }

    /// The placement at the destination becomes the workload's, with what the source has left.
    fn land(&mut self, id: &WorkloadId, anew: bool, now: Timestamp) {
        let record = self.workloads.get_mut(id).expect("looked up by the caller");
        if anew {
            record.state_dir = None;
        }
        let moving = record.moving.as_mut().expect("looked up by the caller");
        moving.stage = Stage::Landing;
        let (to, epoch) = (moving.to.clone(), moving.epoch);
        record.epoch = epoch;
        record.note_attempt(&to, now);
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

    /// A destination that could not be heard of has given up what had not started there yet.
    pub(super) fn landing_lost(&mut self, id: &WorkloadId, now: Timestamp) -> bool {
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
    pub(super) fn settle_move(&mut self, id: &WorkloadId, now: Timestamp) {
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
    pub(super) fn take_leaving(&mut self, site: &SiteId, observed: &Observed, now: Timestamp) {
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
    pub(super) fn revoke_moves(&mut self, site: &SiteId, now: Timestamp) {
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

    /// Moves that are under way.
    pub fn moves(&self) -> impl Iterator<Item = &WorkloadRecord> {
        self.workloads.values().filter(|record| record.moving.is_some())
    }
}

impl WorkloadRecord {
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
