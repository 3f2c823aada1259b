//! What people ask of the simulated control plane, and what a site asks that has no business with it.

use tombolo_core::draining::{Cause, DrainWish};
use tombolo_core::moving::Wish;
use tombolo_core::{Millis, SiteId};

use crate::run::{Event, Sim};

impl Sim {
    pub fn submit(&mut self, index: usize) {
        let submission = self.submissions[index].clone();
        let run = submission.id.clone();
        if self.ledger.acknowledged.contains(&run) {
            return;
        }
        let now = self.now;
        match self.change(|world| world.submit(submission, now)) {
            Some(Ok(())) => {
                self.tell(format!("{run} is submitted and acknowledged"));
                self.ledger.acknowledged.insert(run);
            }
            // It was committed and the acknowledgement lost: the same key gets the same answer.
            Some(Err(_)) => {
                self.ledger.acknowledged.insert(run);
            }
            None => self.after(Millis(2_000), Event::Submit(index)),
        }
    }

    pub fn people(&mut self, index: usize, retry: bool) {
        let run = self.submissions[index].id.clone();
        self.ledger.touched.insert(run.clone());
        let now = self.now;
        let word = if retry { "retry" } else { "stop" };
        self.tell(format!("{run}: {word} asked for"));
        self.change(|world| match retry {
            true => world.retry(&run, now),
            false => world.stop(&run, now),
        });
    }

    pub fn ask_to_move(&mut self) {
        let Some(control) = &self.control else { return };
        let placed = control.world.workloads.values().filter(|record| record.state.site().is_some());
        let placed: Vec<_> = placed.map(|record| record.id.clone()).collect();
        let sites: Vec<_> = self.sites.keys().cloned().collect();
        let (Some(id), Some(to)) = (self.rng.pick(&placed).cloned(), self.rng.pick(&sites).cloned()) else { return };
        let deadline = self.rng.chance(300).then(|| Millis(self.rng.range(1_000, 90_000)));
        let max_downtime = self.rng.chance(300).then(|| Millis(self.rng.range(100, 9_000)));
        let wish = Wish {
            to: to.clone(),
            method: None,
            deadline,
            max_downtime,
            by: "ada".to_owned(),
            why: None,
            cause: Cause::Asked,
        };
        let now = self.now;
        if let Some(Ok(())) = self.change(|world| world.begin_move(&id, wish, now)) {
            self.tell(format!("{id}: a move to {to} is asked for"));
            self.summary.moves += 1;
            self.ledger.moved.insert(id.clone());
            if self.rng.chance(200) {
                let later = Millis(self.rng.range(1_000, 60_000));
                self.after(later, Event::CallOff(id));
            }
        }
    }

    pub fn ask_to_drain(&mut self, site: &SiteId, deadline: Option<Millis>) {
        let wish = DrainWish { deadline, restart_jobs: !self.calm && self.rng.chance(300), by: "ada".to_owned() };
        let now = self.now;
        // Even if the control plane dies with it, it may have been heard.
        self.ledger.drained.insert(site.clone());
        if let Some(Ok(())) = self.change(|world| world.drain(site, wish, now)) {
            self.tell(format!("{site}: is drained"));
            self.summary.drains += 1;
        }
    }

    pub fn undrain(&mut self, site: &SiteId) {
        let now = self.now;
        if let Some(Ok(())) = self.change(|world| world.undrain(site, "ada", now)) {
            self.tell(format!("{site}: is opened again"));
        }
    }

    /// Whatever a site asks for, it gets no leave for what may not be there.
    pub fn pry(&mut self, id: &SiteId) -> Result<(), String> {
        let versions: Vec<_> = self.disk.versions.keys().copied().collect();
        let Some(version) = self.rng.pick(&versions).copied() else { return Ok(()) };
        let Some(control) = &self.control else { return Ok(()) };
        match control.world.sources(&version, id) {
            Ok(from) if !from.is_empty() => self.ledger.arrive(version, id, &self.disk),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}
