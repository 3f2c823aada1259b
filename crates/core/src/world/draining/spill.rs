//! Where a workload may be placed that would rather be somewhere: at first only there, and elsewhere when it has waited.

use std::collections::BTreeMap;

use super::super::{WorkloadRecord, World};
use crate::draining::Leaning;
use crate::ids::SiteId;
use crate::placement::{Placement, Reason, Verdict};
use crate::site::SiteInfo;
use crate::time::{Millis, Timestamp};
use crate::workload::State;

impl World {
    /// The sites that are not for a workload now, as it waits to be placed.
    pub(in crate::world) fn barred(&self, record: &WorkloadRecord, now: Timestamp) -> BTreeMap<SiteId, Reason> {
        let Some(leaning) = &record.spec.leaning else { return BTreeMap::new() };
        let spills = match &record.state {
            State::Queued { since } => {
                now.since(*since) >= leaning.burst_after || self.expects_to_wait(record, leaning)
            }
            State::Waiting | State::Backoff { .. } => false,
            // What is somewhere is there, and may be moved wherever somebody asks.
            _ => return BTreeMap::new(),
        };
        let all = leaning.all();
        let refuse = |info: &SiteInfo| {
            if leaning.prefer.picks(&info.id, &info.labels) {
                return None;
            }
            let after = leaning.burst_after;
            match &all {
                Some(all) if !all.picks(&info.id, &info.labels) => Some(Reason::Selector { wanted: all.clone() }),
                _ => (!spills).then_some(Reason::Spare { after }),
            }
        };
        let refused = self.sites.values().filter_map(|site| Some((site.info.id.clone(), refuse(&site.info)?)));
        refused.collect()
    }

    /// Whether every site where it would rather be has it wait too long, by what was planned last.
    fn expects_to_wait(&self, record: &WorkloadRecord, leaning: &Leaning) -> bool {
        let Some(placement) = &record.placement else { return false };
        let mut waits = self.sites.values().filter(|site| leaning.prefer.picks(&site.info.id, &site.info.labels));
        let mut known = false;
        let all = waits.all(|site| match wait_at(placement, &site.info.id) {
            Some(wait) => {
                known = true;
                wait > leaning.burst_after
            }
            // It is full for good, or can't have it: whether that lasts, time tells.
            None => true,
        });
        all && known
    }
}

fn wait_at(placement: &Placement, site: &SiteId) -> Option<Millis> {
    match &placement.outcome {
        Ok(outcome) if outcome.site == *site => return Some(outcome.terms.wait),
        _ => {}
    }
    placement.others.iter().find(|(other, _)| other == site).and_then(|(_, verdict)| match verdict {
        Verdict::Lost { terms, .. } => Some(terms.wait),
        Verdict::Refused(_) => None,
    })
}
