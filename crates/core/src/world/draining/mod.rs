//! Sites that are left as a whole, step by step: each pass looks at how things are and begins those moves that can go,
//! so that it makes no difference what died in between.

mod home;
mod plan;
mod spill;

use std::collections::{BTreeMap, BTreeSet};

use super::{REPLAN_EVERY, Refusal, SiteRecord, WorkloadRecord, World};
use crate::draining::{
    self, BY_MAINTENANCE, Cause, Drain, DrainWish, Homecoming, Planned, Stay, UNDER_WAY_MAX, maintained,
};
use crate::ids::{SiteId, WorkloadId};
use crate::moving::{Moved, Moving, Stage, Wish};
use crate::site::DAY_MINUTES;
use crate::time::{Millis, Timestamp};

/// What the last pass that looked for moves saw.
#[derive(Debug, Clone, Default)]
pub(super) struct Looked {
    at: Timestamp,
    reachable: BTreeSet<SiteId>,
    /// When moves back were last looked for.
    back: Timestamp,
    /// Something that matters to moves has changed since.
    pub(super) stale: bool,
    /// Of the last pass of any kind.
    now: Timestamp,
}

impl SiteRecord {
    /// Whether all that is there is to go elsewhere.
    pub fn is_left(&self) -> bool {
        self.draining && !self.revoked && self.drain.as_ref().is_some_and(Drain::lasts)
    }
}

impl WorkloadRecord {
    /// Where the newest move that was done has left it, as far as drains go.
    pub(super) fn note_whereabouts(&mut self) {
        let Some(Moved { from, to, cause, undone: None, .. }) = self.moves.last() else { return };
        match cause {
            Cause::Asked => self.away_from = None,
            Cause::Drain => drop(self.away_from.get_or_insert(from.clone())),
            Cause::Home | Cause::Back => {}
        }
        self.away_from.take_if(|from| from == to);
    }

    /// Moves for a cause that were undone since a moment, the newest last.
    fn undone_since(&self, cause: Cause, since: Timestamp) -> impl DoubleEndedIterator<Item = &Moved> {
        let undone = move |moved: &&Moved| moved.cause == cause && moved.at >= since && moved.undone.is_some();
        self.moves.iter().filter(undone)
    }

    /// Why it is not tried again yet, or not at all while its job has left no state.
    fn held_back(&self, cause: Cause, since: Timestamp, now: Timestamp) -> Option<Stay> {
        let last = self.undone_since(cause, since).next_back()?;
        let stateless = self.state_dir.is_none() && self.undone_since(cause, since).any(|moved| moved.stateless);
        let after = draining::retry_after(self.undone_since(cause, since).count(), stateless);
        if now >= last.ended + after {
            return None;
        }
        let why = last.undone.clone().unwrap_or_default();
        Some(match stateless {
            true => Stay::new("no-state", "it has left nothing in $TOMBOLO_STATE, and would begin anew"),
            false => Stay::new("undone", format!("its move to {} was undone, and is tried again: {why}", last.to)),
        })
    }
}

impl World {
    /// All that is at a site goes elsewhere, as far as it can; nothing new is placed there. Asked for again, it is the
    /// same drain with what was asked last.
    pub fn drain(&mut self, site: &SiteId, wish: DrainWish, now: Timestamp) -> Result<(), Refusal> {
        let of = self.present_at(site).map(|record| record.id.clone()).collect();
        self.close_site(site, wish, of, now, false)
    }

    fn close_site(
        &mut self,
        site: &SiteId,
        wish: DrainWish,
        of: BTreeSet<WorkloadId>,
        now: Timestamp,
        maintenance: bool,
    ) -> Result<(), Refusal> {
        if self.sites.get(site).is_some_and(|record| record.revoked) {
            return Err(Refusal::Revoked(site.clone()));
        }
        self.edit_site(site, |record| {
            let before = record.drain.take().filter(Drain::lasts);
            let deadline = wish.deadline.map(|deadline| now + deadline);
            let begun = before.as_ref().map_or(now, |before| before.at);
            record.drain = Some(Drain {
                by: wish.by,
                at: begun,
                deadline: deadline.or(before.as_ref().and_then(|before| before.deadline)),
                restart_jobs: wish.restart_jobs,
                maintenance,
                ended: None,
                of: before.as_ref().map_or(of, |before| before.of.clone()),
                stays: before.map(|before| before.stays).unwrap_or_default(),
            });
            record.draining = true;
            record.homecoming = None;
        })
    }

    /// A site is open again. What has not left it yet stays, and what belongs there comes home.
    pub fn undrain(&mut self, site: &SiteId, by: &str, now: Timestamp) -> Result<(), Refusal> {
        let record = self.sites.get(site).ok_or_else(|| Refusal::NoSite(site.clone()))?;
        if record.revoked {
            return Err(Refusal::Revoked(site.clone()));
        }
        if !record.draining {
            return Err(Refusal::NotDraining(site.clone()));
        }
        let in_maintenance = by != BY_MAINTENANCE && self.in_maintenance(record, now);
        let leaves = |record: &&WorkloadRecord| {
            let of_drain = |moving: &Moving| moving.cause == Cause::Drain && moving.from == *site;
            record.moving.as_ref().is_some_and(of_drain)
        };
        let leaving: Vec<WorkloadId> = self.moves().filter(leaves).map(|record| record.id.clone()).collect();
        for id in leaving {
            let _ = self.call_off(&id, format!("{site} was opened again by {by}"), now);
        }
        self.edit_site(site, |record| {
            record.draining = false;
            record.drain = None;
            record.homecoming = Some(Homecoming { by: by.to_owned(), at: now });
            record.unmaintained = in_maintenance;
        })
    }

    fn in_maintenance(&self, site: &SiteRecord, now: Timestamp) -> bool {
        maintained(&site.info.labels, self.minute_of_the_week(now))
    }

    /// By the clock on the wall, from Monday's midnight.
    fn minute_of_the_week(&self, now: Timestamp) -> u16 {
        let minutes = now.0.saturating_add(self.wall_ahead_ms).div_euclid(60_000);
        // The epoch was a Thursday.
        let thursday = 3 * i64::from(DAY_MINUTES);
        (minutes + thursday).rem_euclid(7 * i64::from(DAY_MINUTES)) as u16
    }

    /// Draws conclusions from how sites are to be: what has to leave leaves, what belongs elsewhere goes there.
    pub(super) fn decide_moves(&mut self, now: Timestamp) {
        self.looked.now = now;
        self.keep_maintenance(now);
        self.give_up_on_the_silent(now);
        if !self.worth_looking(now) {
            return;
        }
        let left: Vec<SiteId> = self.ids_of(SiteRecord::is_left);
        left.iter().for_each(|site| self.carry_on(site, now));
        let opened: Vec<SiteId> = self.ids_of(|site| site.homecoming.is_some() && !site.revoked);
        opened.iter().for_each(|site| self.bring_home(site, now));
        if now >= self.looked.back + REPLAN_EVERY || now < self.looked.back {
            self.looked.back = now;
            self.return_spilled(now);
        }
    }

    fn ids_of(&self, pick: impl Fn(&SiteRecord) -> bool) -> Vec<SiteId> {
        self.sites.values().filter(|site| pick(site)).map(|site| site.info.id.clone()).collect()
    }

    /// Whether looking for moves may find something that the last look did not.
    fn worth_looking(&mut self, now: Timestamp) -> bool {
        let reachable: BTreeSet<SiteId> = self.ids_of(|site| site.reachable(now)).into_iter().collect();
        let due = now >= self.looked.at + REPLAN_EVERY || now < self.looked.at;
        let worth = self.looked.stale || due || reachable != self.looked.reachable;
        if worth {
            (self.looked.at, self.looked.reachable, self.looked.stale) = (now, reachable, false);
        }
        worth
    }

    /// When labels have to be looked at again, if there are any: with the next minute.
    pub(super) fn next_maintenance(&self) -> Option<Timestamp> {
        let labelled = |site: &SiteRecord| {
            let lasts = site.drain.as_ref().is_some_and(|drain| drain.maintenance);
            !site.revoked && (lasts || site.unmaintained || site.info.labels.contains_key(draining::MAINTENANCE))
        };
        let minute = Timestamp(self.looked.now.0.div_euclid(60_000) * 60_000) + Millis(60_000);
        self.sites.values().any(labelled).then_some(minute)
    }

    /// When a drain's time is up, and when what was undone may be tried again at the latest.
    pub(super) fn next_of_drains(&self) -> Option<Timestamp> {
        let drains = self.sites.values().filter(|site| site.is_left()).filter_map(|site| site.drain.as_ref()?.deadline);
        drains.min()
    }

    /// Sites whose labels have them empty at times are left and opened by themselves.
    fn keep_maintenance(&mut self, now: Timestamp) {
        let labelled = |site: &SiteRecord| {
            let lasts = site.drain.as_ref().is_some_and(|drain| drain.maintenance);
            !site.revoked && (lasts || site.unmaintained || site.info.labels.contains_key(draining::MAINTENANCE))
        };
        for site in self.ids_of(labelled) {
            let record = &self.sites[&site];
            let due = self.in_maintenance(record, now);
            let ours = record.drain.as_ref().is_some_and(|drain| drain.maintenance);
            let done = match (due, ours) {
                (true, false) if !record.unmaintained && !record.draining => {
                    let wish = DrainWish { deadline: None, restart_jobs: false, by: BY_MAINTENANCE.to_owned() };
                    let of = self.present_at(&site).map(|record| record.id.clone()).collect();
                    self.close_site(&site, wish, of, now, true).map(|()| Some(true))
                }
                (false, true) => self.undrain(&site, BY_MAINTENANCE, now).map(|()| Some(false)),
                (false, false) if record.unmaintained => {
                    self.edit_site(&site, |record| record.unmaintained = false).map(|()| None)
                }
                _ => continue,
            };
            if let Ok(Some(closed)) = done {
                self.changes.maintained.push((site, closed));
            }
        }
    }

    /// What Tombolo itself has sent to a site that is not heard of any more goes elsewhere; and nothing arrives where all
    /// has to leave.
    fn give_up_on_the_silent(&mut self, now: Timestamp) {
        let mut off = Vec::new();
        for record in self.timed().filter(|record| record.moving.is_some()) {
            let moving = record.moving.as_ref().expect("looked at just now");
            let to = self.sites.get(&moving.to);
            let waits = matches!(moving.stage, Stage::Ahead | Stage::Beside);
            if moving.off.is_some() {
                continue;
            }
            if waits && to.is_some_and(SiteRecord::is_left) {
                off.push((record.id.clone(), format!("{} is drained", moving.to)));
            } else if moving.cause != Cause::Asked
                && (waits || moving.stage == Stage::Stopping)
                && to.is_some_and(|to| !to.reachable(now))
            {
                off.push((record.id.clone(), format!("{} is not heard of any more", moving.to)));
            }
        }
        for (id, why) in off {
            let _ = self.call_off(&id, why, now);
        }
    }

    /// The next step of a drain: what can go, goes.
    fn carry_on(&mut self, site: &SiteId, now: Timestamp) {
        let Some(drain) = self.sites[site].drain.clone() else { return };
        let late = drain.deadline.is_some_and(|deadline| deadline <= now);
        // What has ended here and not begun there may come back.
        let may_return = self.moves().any(|record| record.moving.as_ref().is_some_and(|moving| moving.from == *site));
        let empty = !may_return && self.present_at(site).next().is_none();
        let plan = self.leaving_plan(site, &drain, now);
        let mut stays: BTreeMap<WorkloadId, Stay> = plan.stays.into_iter().collect();
        if late || empty {
            let too_late = || Stay::new("deadline", "the deadline passed before it could go");
            stays.extend(plan.moves.into_iter().map(|planned| (planned.workload, too_late())));
            let ended = Drain { ended: Some(now), stays, ..drain };
            let _ = self.edit_site(site, |record| record.drain = Some(ended));
            return;
        }
        let left = drain.deadline.map(|deadline| deadline.since(now));
        for planned in plan.moves {
            let why = Some(format!("{site} is drained by {}", drain.by));
            if let Err(stay) = self.set_off(&planned, Cause::Drain, left, why, drain.restart_jobs, &drain.by, now) {
                stays.extend(stay.map(|stay| (planned.workload, stay)));
            }
        }
        if stays != drain.stays {
            let _ = self.edit_site(site, |record| {
                if let Some(drain) = &mut record.drain {
                    drain.stays = stays;
                }
            });
        }
    }

    /// Begins a planned move, if the links are not busy with others; why it can't be, where that is the planner's matter.
    #[expect(clippy::too_many_arguments, reason = "each is a part of the wish")]
    fn set_off(
        &mut self,
        planned: &Planned,
        cause: Cause,
        deadline: Option<Millis>,
        why: Option<String>,
        anew: bool,
        by: &str,
        now: Timestamp,
    ) -> Result<(), Option<Stay>> {
        let (from, to) = (&planned.from, &planned.to);
        let under_way = |one: &Moving| one.from == *from || one.to == *to;
        let moves: Vec<&Moving> = self.moves().filter_map(|record| record.moving.as_ref()).collect();
        let over_link = moves.iter().filter(|one| one.from == *from && one.to == *to).count();
        let busy = moves.iter().filter(|one| under_way(one)).count();
        if over_link >= draining::parallel(&self.links.get(from, to)) || busy >= UNDER_WAY_MAX {
            return Err(None);
        }
        let job = self.workloads.get(&planned.workload).is_some_and(|record| record.spec.job().is_some());
        // Asked for, the method holds for jobs without state too.
        let method = (anew && job).then_some(planned.method);
        let wish = Wish { to: to.clone(), method, deadline, max_downtime: None, by: by.to_owned(), why, cause };
        match self.begin_move(&planned.workload, wish, now) {
            Ok(()) => Ok(()),
            Err(Refusal::CantMove { rule, why, .. }) => Err(Some(Stay::new(rule, why))),
            Err(other) => Err(Some(Stay::new("refused", other.to_string()))),
        }
    }
}
