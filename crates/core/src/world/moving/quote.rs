//! What a move would take, or what forbids it.

use super::super::{Measured, Refusal, Snapshot, WorkloadRecord, World};
use crate::ids::{SiteId, WorkloadId};
use crate::moving::{self, BANDWIDTH_ASSUMED, Marks, Method, Quote, Wish};
use crate::placement::{self, Input, Placement, Progress, Terms, Verdict};
use crate::time::{Millis, Timestamp};

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
            return no("over", format!("it is over ({})", record.state.word()));
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
        if record.renewing.is_some() {
            return no("renewing", format!("another is about to take its place at {from}; it can be moved then"));
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
        Ok((method, self.quote(record, to, method, wish.max_downtime, terms, now)))
    }

    /// What the planner says of a site for a workload that is at another, or by which rule it can't be there.
    fn terms_at(&self, record: &WorkloadRecord, to: &SiteId, now: Timestamp) -> Result<Terms, (&'static str, String)> {
        let placement = self.place_anew(record, now).ok_or(("nowhere", "it is in no plan".to_owned()))?;
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

    /// What the planner would say of a workload that is somewhere, were it nowhere.
    pub(in crate::world) fn place_anew(&self, record: &WorkloadRecord, now: Timestamp) -> Option<Placement> {
        let run = &self.runs[&record.id.run];
        let mut problem = self.problem(run, &self.loads(now), now);
        problem.tasks.retain(|task| task.name == record.id.name);
        for task in &mut problem.tasks {
            task.progress = Progress::Undecided;
            // Its rules count; what of it has to be brought is reckoned by what copies have told.
            for input in &mut task.inputs {
                if let Input::Version { name, bytes, missing, .. } = input
                    && name.as_str() == "state"
                {
                    (*bytes, *missing) = Default::default();
                }
            }
        }
        // What the run holds elsewhere at the destination stays held.
        for site in &mut problem.sites {
            site.free = self.free(&self.sites[&site.info.id]);
            (site.busy, site.queued) = Default::default();
        }
        placement::plan(&problem).placements.into_iter().next()
    }

    pub(in crate::world) fn quote(
        &self,
        record: &WorkloadRecord,
        to: &SiteId,
        method: Method,
        max_downtime: Option<Millis>,
        terms: Terms,
        now: Timestamp,
    ) -> Quote {
        let from = record.state.site().unwrap_or(to);
        let link = self.links.get(from, to);
        let speed = if link.bytes_per_s > 0.0 { link.bytes_per_s } else { BANDWIDTH_ASSUMED };
        let known = record.copied.as_ref().filter(|_| method != Method::Restart);
        let rate = known.and_then(|known| known.change_bytes_per_s);
        let (whole, lacks) = known.map_or((0, 0), |known| (known.packed(), self.lacks(record, to, known, now)));
        let (rounds, state_all, last_bytes) = moving::foresee(whole, lacks, rate.unwrap_or(0.0), speed, max_downtime);
        // Each copy that differs from what is there says of which chunks it is made, the last one too.
        let beside = known.filter(|known| known.bytes > 0).map_or(0, |known| known.beside_bytes);
        let differ = u64::from(lacks > 0) * u64::from(rounds) + 1;
        let (state_all, last_bytes) = (state_all.saturating_add(beside * differ), last_bytes.saturating_add(beside));
        let last = moving::millis(last_bytes, speed) + link.latency + link.latency;
        let bytes = terms.transfer_bytes.saturating_add(state_all);
        let overheads = Millis(moving::ROUND_ASSUMED.0 * u64::from(rounds));
        let ahead = moving::millis(bytes.saturating_sub(last_bytes), speed) + link.latency + overheads;
        let egress = self.sites.get(from).map_or(0.0, |site| site.info.prices.egress(state_all));
        let past = self.history.get(&(record.id.run.project().clone(), record.id.name.clone()));
        let save = past.and_then(|past| past.save).unwrap_or(moving::SAVE_ASSUMED);
        let start = past.and_then(|past| past.start).unwrap_or(moving::START_ASSUMED);
        let down = save + last + start;
        let (downtime, save) = if method == Method::Switch { Default::default() } else { (down, save) };
        Quote {
            terms: Some(terms),
            state_bytes: known.map(|known| known.bytes),
            change_bytes_per_s: rate,
            bytes,
            last_bytes,
            rounds,
            duration: ahead + save + last + start,
            downtime,
            save,
            start,
            egress_price: terms.egress_price + egress,
        }
    }

    /// Of a workload's state what a site has not, on the wire.
    fn lacks(&self, record: &WorkloadRecord, to: &SiteId, known: &Measured, now: Timestamp) -> u64 {
        let there =
            |kept: &&Snapshot| self.versions.get(&kept.version).is_some_and(|version| version.replicas.contains(to));
        let Some(kept) = record.snapshots.kept.iter().rfind(there) else { return known.packed() };
        // What has changed since then, where it is known how much does; while it was on its way nothing did.
        let age = now.since(kept.at.max(record.state.since().unwrap_or_default())).as_secs_f64();
        let changed = known.change_bytes_per_s.map(|rate| (rate * age) as u64);
        changed.map_or(known.packed(), |changed| changed.min(known.packed()))
    }

    /// What a move that has arrived tells of its workload, for the next quote.
    pub(in crate::world) fn learn_from_move(&mut self, id: &WorkloadId) {
        let Some(moving) = self.workloads.get(id).and_then(|record| record.moving.as_ref()) else { return };
        let Marks { stop: Some(stop), stopped: Some(stopped), started: Some(started) } = moving.marks else { return };
        let link = self.links.get(&moving.from, &moving.to);
        // What was foreseen for the last round is foreseen again; all else is the program's own.
        let speed = if link.bytes_per_s > 0.0 { link.bytes_per_s } else { BANDWIDTH_ASSUMED };
        let sent = moving::millis(moving.quote.last_bytes, speed);
        let (save, start) = (stopped.since(stop), started.since(stopped));
        let start = Millis(start.0.saturating_sub(sent.0 + 2 * link.latency.0));
        let key = (id.run.project().clone(), id.name.clone());
        let past = self.history.entry(key.clone()).or_default();
        let mean = |old: Option<Millis>, new: Millis| Some(old.map_or(new, |old| Millis(old.0 / 2 + new.0 / 2)));
        (past.save, past.start) = (mean(past.save, save), mean(past.start, start));
        self.changes.history.insert(key);
    }
}
