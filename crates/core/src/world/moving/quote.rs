//! What a move would take, or what forbids it.

use super::super::{Refusal, WorkloadRecord, World};
use crate::ids::{SiteId, WorkloadId};
use crate::moving::{self, BANDWIDTH_ASSUMED, Method, Quote, Wish};
use crate::placement::{self, Progress, Terms, Verdict};
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

    pub(in crate::world) fn quote(
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
}
