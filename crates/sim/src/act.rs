//! What happens at a site: what the journal asks for is done, commands start, end and are stopped.

use tombolo_core::journal::Action;
use tombolo_core::sync::{Finish, Order, Outcome, Phase};
use tombolo_core::{Millis, SiteId, VersionId};

use crate::run::{Event, Sim};
use crate::site::{Placement, Process, label};

impl Sim {
    pub fn act(&mut self, id: &SiteId, actions: Vec<Action>) -> Result<(), String> {
        for action in actions {
            match action {
                Action::Start { workload, epoch } => {
                    let placement = (workload, epoch);
                    self.sites.get_mut(id).expect("a site").preparing.insert(placement.clone());
                    let delay = Millis(self.rng.range(10, 20_000));
                    self.after(delay, Event::Prepared { site: id.clone(), placement });
                }
                Action::Stop { workload, epoch } => self.stop(id, (workload, epoch))?,
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
        self.ledger.stop(&placement, &self.sites[id], newer)?;
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
        let Some(order) = entry.and_then(|entry| entry.order.clone()) else { return Ok(()) };
        if let Some(missing) = order.versions().find(|version| !self.sites[id].store.contains(version)) {
            return self.fetch(id, placement, missing);
        }
        self.launch(id, placement, order)
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
        let fails = self.rng.chance(150);
        let service = order.spec.service().is_some();
        let site = self.sites.get_mut(id).expect("a site");
        site.preparing.remove(&placement);
        // The shim's own rule: an epoch's command is started at most once.
        if !site.launched.insert(placement.clone()) {
            return Ok(());
        }
        let outcome = if fails { Outcome::Failed { code: 1 } } else { Outcome::Succeeded };
        let ends = if service && !fails { None } else { Some(now + lasts) };
        let process = Process { ends, outcome, killed: None, order };
        site.processes.insert(placement.clone(), process);
        self.summary.launches += 1;
        self.tell(format!("{} starts", label(id, &placement)));
        self.ledger.launch(&placement, id, &self.sites)?;
        if let Some(ends) = ends {
            self.after(ends.since(now), Event::Ends { site: id.clone(), placement: placement.clone() });
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
