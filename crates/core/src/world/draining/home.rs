//! What comes home: to a site that was opened again, and to where it would rather be when there is room again.

use super::super::decide::placeable;
use super::super::{Refusal, WorkloadRecord, World};
use super::plan::method_of;
use crate::draining::{Back, Bargain, Cause, HOMECOMING_FOR, Plan, Planned, STAY_ASSUMED, Stay, TRIES_MAX, worth};
use crate::ids::{SiteId, WorkloadId};
use crate::moving::{Quote, Wish};
use crate::time::{Millis, Timestamp};
use crate::workload::State;

/// Rules that time may lift; what stays for another stays for good.
const PASSING: [&str; 7] =
    ["capacity", "unreachable", "source-unreachable", "no-replica", "draining", "undone", "moving"];

impl World {
    /// What belongs to a site and is elsewhere: what comes home, in order, and what does not.
    pub fn homeward(&self, site: &SiteId, since: Timestamp, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        for record in self.strangers(site) {
            match self.way_home(record, site, since, now) {
                Ok(planned) => plan.moves.push(planned),
                Err(stay) => plan.stays.push((record.id.clone(), stay)),
            }
        }
        plan
    }

    /// What runs at other sites and belongs to this one.
    fn strangers<'a>(&'a self, site: &'a SiteId) -> impl Iterator<Item = &'a WorkloadRecord> {
        let belongs = move |record: &&WorkloadRecord| {
            let ours = record.away_from.as_ref() == Some(site) || record.spec.home.as_ref() == Some(site);
            ours && runs(record) && record.state.site() != Some(site) && record.moving.is_none()
        };
        self.sites.keys().filter(move |other| *other != site).flat_map(|other| self.placed_at(other)).filter(belongs)
    }

    fn way_home(
        &self,
        record: &WorkloadRecord,
        site: &SiteId,
        since: Timestamp,
        now: Timestamp,
    ) -> Result<Planned, Stay> {
        if let Some(last) = record.undone_since(Cause::Home, since).next_back() {
            let tries = record.undone_since(Cause::Home, since).count();
            if last.stateless || tries >= TRIES_MAX {
                let why = last.undone.clone().unwrap_or_default();
                return Err(Stay::new("failed-there", format!("its moves there were undone: {why}")));
            }
        }
        if let Some(held) = record.held_back(Cause::Home, since, now) {
            return Err(held);
        }
        let mut planned = self.quoted(record, site, Cause::Home, now)?;
        let bargain = self.bargain(record, site, &planned.quote, now);
        planned.why = Some(match record.spec.home.as_ref() == Some(site) {
            // Its owner has said where it belongs: what that costs is not asked, only whether it is still worth the way.
            true => worth(&Bargain { price: 0.0, here_hour: 0.0, there_hour: 0.0, ..bargain })
                .map(|_| format!("{site} is its home"))?,
            false => format!("a drain of {site} had moved it; {}", worth(&bargain)?),
        });
        Ok(planned)
    }

    fn quoted(&self, record: &WorkloadRecord, site: &SiteId, cause: Cause, now: Timestamp) -> Result<Planned, Stay> {
        let (method, (by, why)) = (method_of(record), (String::new(), None));
        let wish = Wish { to: site.clone(), method: None, deadline: None, max_downtime: None, by, why, cause };
        let quoted = self.quote_move(&record.id, &wish, now);
        let (_, quote) = quoted.map_err(|refusal| match refusal {
            Refusal::CantMove { rule, why, .. } => Stay::new(rule, why),
            other => Stay::new("refused", other.to_string()),
        })?;
        let from = record.state.site().cloned().unwrap_or_else(|| site.clone());
        Ok(Planned { workload: record.id.clone(), from, to: site.clone(), method, quote, why: None })
    }

    fn bargain(&self, record: &WorkloadRecord, to: &SiteId, quote: &Quote, now: Timestamp) -> Bargain {
        let hour = Millis::from_secs(3600);
        let need = &record.spec.resources;
        let price = |site: Option<&SiteId>| {
            site.and_then(|site| self.sites.get(site)).map_or(0.0, |site| site.info.prices.compute(need, hour))
        };
        let from = record.state.site();
        let known = self.runs_known(record);
        let job = record.spec.job().is_some();
        let stay = from.filter(|_| job).map(|site| match known {
            true => self.remaining(record, site, now),
            false => STAY_ASSUMED,
        });
        Bargain {
            stay,
            known,
            here_hour: price(from),
            there_hour: price(Some(to)),
            takes: quote.duration,
            price: quote.egress_price,
        }
    }

    /// The next step of a homecoming; it is over when nothing is left that may still come.
    pub(super) fn bring_home(&mut self, site: &SiteId, now: Timestamp) {
        let Some(homecoming) = self.sites[site].homecoming.clone() else { return };
        let plan = self.homeward(site, homecoming.at, now);
        let mut waits = plan.stays.iter().any(|(_, stay)| PASSING.contains(&stay.rule.as_str()));
        for planned in plan.moves {
            let why = planned.why.clone().unwrap_or_default();
            let why = Some(format!("{site} was opened again by {}: {why}", homecoming.by));
            waits |= self.set_off(&planned, Cause::Home, None, why, false, &homecoming.by, now).is_err();
        }
        let comes = self.moves().filter_map(|record| record.moving.as_ref());
        let comes = comes.filter(|moving| moving.cause == Cause::Home).any(|moving| moving.to == *site);
        // What is on its way elsewhere, or about to begin, is looked at when it is there.
        let later = self
            .workloads
            .values()
            .any(|record| record.away_from.as_ref() == Some(site) && !record.state.is_final() && !runs(record));
        let late = now.since(homecoming.at) > HOMECOMING_FOR;
        if late || !(waits || comes || later) {
            self.end_homecoming(site);
        }
    }

    /// What stays away now is at home where it is.
    fn end_homecoming(&mut self, site: &SiteId) {
        let away = |record: &&WorkloadRecord| record.away_from.as_ref() == Some(site);
        let ids: Vec<WorkloadId> = self.workloads.values().filter(away).map(|record| record.id.clone()).collect();
        for id in ids {
            if let Some(record) = self.workloads.get_mut(&id) {
                record.away_from = None;
            }
            self.touch(&id);
        }
        let _ = self.edit_site(site, |record| record.homecoming = None);
    }

    /// What has spilled over goes back where it would rather be, when that has room and is worth it.
    pub(super) fn return_spilled(&mut self, now: Timestamp) {
        let ids: Vec<WorkloadId> =
            self.workloads.values().filter(|record| self.may_go_back(record, now)).map(|one| one.id.clone()).collect();
        for id in ids {
            let Some(planned) = self.way_back(&id, now) else { continue };
            let _ = self.set_off(&planned, Cause::Back, None, planned.why.clone(), false, "placement", now);
        }
    }

    fn may_go_back(&self, record: &WorkloadRecord, now: Timestamp) -> bool {
        let Some(leaning) = record.spec.leaning.as_ref().filter(|leaning| leaning.back == Back::WhenFree) else {
            return false;
        };
        let at = record.state.site().and_then(|site| self.sites.get(site));
        let astray = at.is_some_and(|site| !leaning.prefer.picks(&site.info.id, &site.info.labels));
        let keeps = record.spec.service().is_some() || record.state_dir.is_some();
        // A placement, and a move however it ended: none follows the other too soon.
        let placed = record.attempts.last().map(|attempt| attempt.placed);
        let moved = record.moves.last().map(|moved| moved.ended);
        let settled = placed.max(moved).is_none_or(|last| now.since(last) >= leaning.back_at_most);
        astray && keeps && settled && runs(record) && !record.stopping && record.moving.is_none()
    }

    fn way_back(&self, id: &WorkloadId, now: Timestamp) -> Option<Planned> {
        let record = self.workloads.get(id)?;
        let leaning = record.spec.leaning.as_ref()?;
        let preferred = self.sites.values().filter(|site| {
            let picked = leaning.prefer.picks(&site.info.id, &site.info.labels);
            picked && site.reachable(now) && !site.draining && self.free(site).holds(&record.spec.resources)
        });
        let ways = preferred.filter(|site| !self.is_waited_for(&site.info.id)).filter_map(|site| {
            let to = &site.info.id;
            let mut planned = self.quoted(record, to, Cause::Back, now).ok()?;
            let saves = worth(&self.bargain(record, to, &planned.quote, now)).ok()?;
            planned.why = Some(format!("{to} has room again: {saves}"));
            Some(planned)
        });
        ways.min_by(|a, b| {
            let price = |planned: &Planned| planned.quote.terms.map_or(f64::INFINITY, |terms| terms.score);
            price(a).total_cmp(&price(b))
        })
    }

    /// Whether something that is queued has its place there: it goes before what already runs elsewhere.
    fn is_waited_for(&self, site: &SiteId) -> bool {
        let queued = self.index.queued.iter().filter_map(|id| self.workloads.get(id)).filter(|one| placeable(one));
        queued.into_iter().any(|record| record.placement.as_ref().and_then(|place| place.site()) == Some(site))
    }
}

fn runs(record: &WorkloadRecord) -> bool {
    match &record.state {
        State::Running { .. } => record.spec.job().is_some(),
        State::Ready { .. } => true,
        _ => false,
    }
}
