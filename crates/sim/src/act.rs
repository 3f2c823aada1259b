//! What happens at a site: what the journal asks for is done, commands start, end and are stopped.

use tombolo_core::journal::Action;
use tombolo_core::moving::Taken;
use tombolo_core::sync::{Copied, Finish, Order, Outcome, Phase, StateCopy};
use tombolo_core::{Millis, SiteId, VersionId};

use crate::project;
use crate::run::{Event, Sim};
use crate::site::{Placement, Process, label};

impl Sim {
    pub fn act(&mut self, id: &SiteId, actions: Vec<Action>) -> Result<(), String> {
        for action in actions {
            match action {
                Action::Unlease { workload, epoch } => {
                    let site = self.sites.get_mut(id).expect("a site");
                    if let Some(process) = site.processes.get_mut(&(workload, epoch)) {
                        process.order.spec.failover_after = None;
                    }
                }
                Action::Start { workload, epoch } | Action::Prepare { workload, epoch } => {
                    let placement = (workload, epoch);
                    self.sites.get_mut(id).expect("a site").preparing.insert(placement.clone());
                    let delay = Millis(self.rng.range(10, 20_000));
                    self.after(delay, Event::Prepared { site: id.clone(), placement });
                }
                Action::Stop { workload, epoch } | Action::StopNow { workload, epoch } => {
                    self.stop(id, (workload, epoch))?;
                }
                Action::Discard { workload, epoch } => {
                    let placement = (workload, epoch);
                    let site = self.sites.get_mut(id).expect("a site");
                    if site.processes.contains_key(&placement) {
                        return Err(format!("{} was discarded while it ran", label(id, &placement)));
                    }
                }
            }
        }
        Ok(())
    }

    fn stop(&mut self, id: &SiteId, placement: Placement) -> Result<(), String> {
        let newer = self.disk.workloads.keys().any(|other| {
            other.name == placement.0.name
                && other.run.project() == placement.0.run.project()
                && other.run.number() > placement.0.run.number()
        });
        self.ledger.stop(&placement, &self.sites[id], newer, &self.disk)?;
        let now = self.now;
        let delay = Millis(self.rng.range(0, 3_000));
        let site = self.sites.get_mut(id).expect("a site");
        if site.preparing.remove(&placement) {
            let finish = Finish::without_running(Outcome::Stopped, site.clock(now));
            return self.see(id, &placement, Phase::Finished(Box::new(finish)));
        }
        let Some(process) = site.processes.get_mut(&placement).filter(|process| process.killed.is_none()) else {
            return Ok(());
        };
        // Some end at once, some use up their grace.
        let grace = process.order.spec.grace.0.min(delay.0);
        process.killed = Some(now + Millis(grace));
        process.outcome = Outcome::Stopped;
        process.ends = process.killed;
        self.after(Millis(grace), Event::Ends { site: id.clone(), placement });
        Ok(())
    }

    pub fn prepared(&mut self, id: &SiteId, placement: Placement) -> Result<(), String> {
        let site = self.sites.get_mut(id).expect("a site");
        if !site.alive || !site.preparing.contains(&placement) {
            return Ok(());
        }
        let entry = site.journal.entries.get(&placement.0).filter(|entry| entry.epoch == placement.1);
        let entry_is_held = entry.is_some_and(|entry| entry.held);
        let Some(order) = entry.and_then(|entry| entry.order.clone()) else { return Ok(()) };
        if let Some(missing) = order.versions().find(|version| !self.sites[id].store.contains(version)) {
            return self.fetch(id, placement, missing);
        }
        if entry_is_held {
            let site = self.sites.get_mut(id).expect("a site");
            site.preparing.remove(&placement);
            return self.see(id, &placement, Phase::Prepared { state: order.state });
        }
        self.launch(id, placement, order)
    }

    /// The agent takes a copy of a state directory, which takes a while.
    pub fn copy(&mut self, id: &SiteId, wanted: &StateCopy) {
        let placement = (wanted.workload.clone(), wanted.epoch);
        let done = self.sites[id].copied.get(&placement).is_some_and(|copied| copied.of.turn >= wanted.turn);
        if !done {
            let delay = Millis(self.rng.range(10, 5_000));
            self.after(delay, Event::Copied { site: id.clone(), of: wanted.clone() });
        }
    }

    pub fn copied(&mut self, id: &SiteId, of: StateCopy) {
        let (now, fails) = (self.now, self.rng.chance(30));
        let fresh_bytes = self.rng.range(0, 100 << 20);
        let site = self.sites.get_mut(id).expect("a site");
        let placement = (of.workload.clone(), of.epoch);
        let known = site.journal.entries.get(&of.workload).is_some_and(|entry| entry.epoch == of.epoch);
        if !site.alive || !known {
            return;
        }
        let version =
            site.processes.get(&placement).map(|process| project::state(&of.workload, process.progress_at(now)));
        site.store.extend(version);
        let taken =
            Taken { version, bytes: 1 << 30, files: 1, fresh_bytes, beside_bytes: 100, took: Millis(1), torn: false };
        let result = if fails { Err("its disk is full".to_owned()) } else { Ok(taken) };
        site.copied.insert(placement, Copied { of, result });
    }

    pub fn held(&mut self, id: &SiteId, version: VersionId) -> Result<(), String> {
        let line = self.sites[id].line.is_some();
        let asked = self.control.as_ref().filter(|_| line).map(|control| control.world.sources(&version, id));
        let Some(Ok(from)) = asked else { return Ok(()) };
        if self.sites[id].alive && from.iter().any(|source| self.sites[source].store.contains(&version)) {
            self.ledger.arrive(version, id, &self.disk)?;
            self.sites.get_mut(id).expect("a site").store.insert(version);
        }
        Ok(())
    }

    /// Removes state directories that are of no use. None may be of what is here, or arrives.
    pub fn forget(&mut self, id: &SiteId, useless: &[Placement]) -> Result<(), String> {
        for (workload, epoch) in useless {
            let site = self.sites.get_mut(id).expect("a site");
            if site.journal.entries.contains_key(workload) || site.states.get(workload).is_none_or(|last| last > epoch)
            {
                continue;
            }
            if let Some(running) = site.processes.keys().find(|(other, _)| other == workload) {
                return Err(format!("{}: its state directory was forgotten while it ran", label(id, running)));
            }
            site.states.remove(workload);
        }
        Ok(())
    }

    /// Asks for leave, and brings a version from a site that has it; tries again where that can't be now.
    fn fetch(&mut self, id: &SiteId, placement: Placement, version: VersionId) -> Result<(), String> {
        let line = self.sites[id].line.is_some();
        let asked = self.control.as_ref().filter(|_| line).map(|control| control.world.sources(&version, id));
        match asked {
            Some(Err(why)) => {
                let site = self.sites.get_mut(id).expect("a site");
                site.preparing.remove(&placement);
                let outcome = Outcome::Unprepared { why };
                let finish = Finish::without_running(outcome, site.clock(self.now));
                return self.see(id, &placement, Phase::Finished(Box::new(finish)));
            }
            Some(Ok(from)) if from.iter().any(|source| self.sites[source].store.contains(&version)) => {
                self.ledger.arrive(version, id, &self.disk)?;
                self.sites.get_mut(id).expect("a site").store.insert(version);
            }
            Some(Ok(_)) | None => {}
        }
        let delay = Millis(self.rng.range(500, 10_000));
        self.after(delay, Event::Prepared { site: id.clone(), placement });
        Ok(())
    }

    fn launch(&mut self, id: &SiteId, placement: Placement, order: Order) -> Result<(), String> {
        let now = self.now;
        let lasts = Millis(self.rng.range(500, 90_000));
        let (lasts, fails, evicted) = match self.calm {
            true => (Millis::from_secs(4 * 3600), false, false),
            false => (lasts, self.rng.chance(150), self.rng.chance(80)),
        };
        let service = order.spec.service().is_some();
        let site = self.sites.get_mut(id).expect("a site");
        site.preparing.remove(&placement);
        // The shim's own rule: an epoch's command is started at most once.
        if !site.launched.insert(placement.clone()) {
            return Ok(());
        }
        let outcome = match (evicted, fails) {
            (true, _) => Outcome::Evicted { why: "its time is up".to_owned() },
            (_, true) => Outcome::Failed { code: 1 },
            _ => Outcome::Succeeded,
        };
        let ends = if service && !fails && !evicted { None } else { Some(now + lasts) };
        let progress = project::progress(order.state);
        let process = Process { ends, outcome, killed: None, progress, since: now, order };
        site.processes.insert(placement.clone(), process);
        self.summary.launches += 1;
        self.tell(format!("{} starts", label(id, &placement)));
        self.ledger.launch(&placement, id, &self.sites, &self.disk)?;
        if let Some(ends) = ends {
            self.after(ends.since(now), Event::Ends { site: id.clone(), placement: placement.clone() });
        }
        if service && evicted {
            // Its site says so beforehand, mostly.
            let soon = Millis(lasts.0.saturating_sub(self.rng.range(0, 30_000)));
            self.after(soon, Event::EndsSoon { site: id.clone(), placement: placement.clone() });
        }
        let phase = self.sites[id].phase(&placement, now);
        self.hold_to_lease(id, placement.clone())?;
        self.see(id, &placement, phase)
    }

    /// A shim stops its command by itself when its site's lease is over: the agent may be dead.
    pub fn hold_to_lease(&mut self, id: &SiteId, placement: Placement) -> Result<(), String> {
        let site = &self.sites[id];
        let Some(process) = site.processes.get(&placement) else { return Ok(()) };
        let Some(lease) = process.order.spec.failover_after else { return Ok(()) };
        let silence = site.clock(self.now).since(site.contact);
        if silence >= lease {
            return self.stop(id, placement);
        }
        let left = Millis(lease.0 - silence.0 + 100);
        self.after(left, Event::LeaseEnds { site: id.clone(), placement });
        Ok(())
    }

    /// A service's site will end it, and says so.
    pub fn ends_soon(&mut self, id: &SiteId, placement: &Placement) -> Result<(), String> {
        let Some(process) = self.sites[id].processes.get(placement) else { return Ok(()) };
        let (since, address) = (process.since, "127.0.0.1:1".to_owned());
        let phase = Phase::Ending { since, address, why: "its time is up".to_owned() };
        self.ledger.ending.insert(placement.clone());
        self.tell(format!("{} will be ended", label(id, placement)));
        self.see(id, placement, phase)
    }

    pub fn ends(&mut self, id: &SiteId, placement: &Placement) -> Result<(), String> {
        let now = self.now;
        let due = self.sites[id].processes.get(placement).is_some_and(|p| p.ends.is_some_and(|ends| ends <= now));
        if !due {
            return Ok(());
        }
        let site = self.sites.get_mut(id).expect("a site");
        let outcome = site.processes[placement].outcome.clone();
        site.end(placement, outcome.clone(), now);
        self.tell(format!("{} {outcome}", label(id, placement)));
        if outcome.is_success() {
            self.summary.successes += 1;
        }
        let finish = self.sites[id].results[placement].clone();
        self.see(id, placement, Phase::Finished(Box::new(finish)))
    }

    /// The agent, if it lives, sees something of a shim.
    fn see(&mut self, id: &SiteId, placement: &Placement, phase: Phase) -> Result<(), String> {
        let now = self.now;
        let site = self.sites.get_mut(id).expect("a site");
        if !site.alive {
            return Ok(());
        }
        let clock = site.clock(now);
        let (changed, actions) = site.journal.observe(&placement.0, placement.1, phase, clock);
        if changed {
            site.save();
        }
        self.act(id, actions)
    }

    /// A restarted agent watches again what runs.
    pub fn watch_again(&mut self, id: &SiteId) {
        let now = self.now;
        let running: Vec<_> = self.sites[id].processes.keys().cloned().collect();
        for placement in running {
            let phase = self.sites[id].phase(&placement, now);
            let _ = self.see(id, &placement, phase);
        }
    }
}
