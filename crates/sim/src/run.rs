//! One simulated history, from a seed: what happens, in which order, and whether it was right.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use tombolo_core::draining::Cause;
use tombolo_core::sync::{Desired, Observed, Outcome, Phase, Replicas, Report, StateCopy};
use tombolo_core::world::{Known, Submission};
use tombolo_core::{Epoch, Millis, SiteId, Timestamp, VersionId, WorkloadId};

use crate::check::Ledger;
use crate::control::{Control, Disk};
use crate::project;
use crate::rng::Rng;
use crate::site::{Line, Placement, Site};

/// Lines of the story that a failure keeps.
const STORY_MAX: usize = 400;
/// Events of one history at most; more means that something goes round in circles.
const EVENTS_MAX: u64 = 200_000;
/// For how long faults go on, and how long after them everything has to be at rest.
pub const FAULTS_FOR: Millis = Millis::from_secs(600);
const REST_AFTER: Millis = Millis::from_secs(2400);
const BEAT: Millis = Millis::from_secs(3);

#[derive(Debug, Clone)]
pub struct Options {
    pub seed: u64,
    /// Whether workloads may have leases, so that failing over happens.
    pub leases: bool,
    /// Tell the story of a run that went well, too.
    pub trace: bool,
}

/// A history in which an invariant did not hold.
#[derive(Debug)]
pub struct Failure {
    pub seed: u64,
    pub what: String,
    pub story: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.what)?;
        for line in &self.story {
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}

/// What a history was made of, so that a test can see that it tested something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub events: u64,
    pub launches: u64,
    pub crashes: u64,
    pub cuts: u64,
    pub successes: u64,
    pub failovers: u64,
    pub moves: u64,
    pub moved: u64,
    pub undone: u64,
    pub drains: u64,
    /// Moves that were done since a site was to be left, and those since what belongs to a site was brought home.
    pub drained: u64,
    pub homed: u64,
    pub story: Vec<String>,
}

#[derive(Debug, Clone)]
pub enum Event {
    Submit(usize),
    StopRun(usize),
    Retry(usize),
    Tick,
    Beat(SiteId),
    Reported {
        site: SiteId,
        line: Line,
        sent: Timestamp,
        report: Report,
    },
    Told {
        site: SiteId,
        line: Line,
        answers: Option<Timestamp>,
        desired: Desired,
    },
    Prepared {
        site: SiteId,
        placement: Placement,
    },
    Ends {
        site: SiteId,
        placement: Placement,
    },
    EndsSoon {
        site: SiteId,
        placement: Placement,
    },
    ControlDies,
    ControlStarts,
    AgentDies(SiteId),
    PowerCut(SiteId),
    AgentStarts(SiteId),
    Cut(SiteId),
    Heal(SiteId),
    /// A shim looks whether its lease is over.
    LeaseEnds {
        site: SiteId,
        placement: Placement,
    },
    /// Somebody asks to move something that runs, and may think better of it later.
    Move,
    /// Somebody drains a site, or opens it again.
    Drain(SiteId),
    Undrain(SiteId),
    CallOff(WorkloadId),
    Copied {
        site: SiteId,
        of: StateCopy,
    },
    /// A site brings what a workload may need that may come.
    Held {
        site: SiteId,
        version: VersionId,
    },
    /// A site asks for a version that it may have no business with.
    Pry(SiteId),
}

pub struct Sim {
    pub rng: Rng,
    pub now: Timestamp,
    pub queue: BinaryHeap<Reverse<(Timestamp, u64)>>,
    pub events: BTreeMap<u64, Event>,
    pub number: u64,
    pub disk: Disk,
    pub control: Option<Control>,
    pub sites: BTreeMap<SiteId, Site>,
    /// Sites that can't reach the control plane.
    pub cut: BTreeMap<SiteId, bool>,
    /// When the newest message of each direction arrives.
    pub last: BTreeMap<(SiteId, bool), Timestamp>,
    pub ledger: Ledger,
    pub submissions: Vec<Submission>,
    pub faults_until: Timestamp,
    /// Commands go on for hours and don't fail by themselves.
    pub calm: bool,
    pub summary: Summary,
    pub story: Vec<String>,
}

/// Plays one history to its end.
pub fn simulate(options: &Options) -> Result<Summary, Failure> {
    let mut sim = Sim::new(options);
    let outcome = sim.play();
    match outcome {
        Ok(()) => {
            let story = if options.trace { sim.story } else { Vec::new() };
            Ok(Summary { story, ..sim.summary })
        }
        Err(what) => {
            let skip = sim.story.len().saturating_sub(STORY_MAX);
            Err(Failure { seed: options.seed, what, story: sim.story.split_off(skip) })
        }
    }
}

impl Sim {
    pub fn after(&mut self, delay: Millis, event: Event) {
        self.number += 1;
        self.queue.push(Reverse((self.now + delay, self.number)));
        self.events.insert(self.number, event);
    }

    /// How long a message takes on a site's line: mostly little, at times seconds, always in order.
    fn delay(&mut self, id: &SiteId, up: bool) -> Millis {
        let most = if self.rng.chance(50) { 6_000 } else { 400 };
        let at = self.now + Millis(self.rng.range(1, most));
        let last = self.last.entry((id.clone(), up)).or_default();
        *last = at.max(*last);
        last.since(self.now)
    }

    pub fn tell(&mut self, line: String) {
        self.story.push(format!("{:>9.3} s  {line}", (self.now.0 - 1_000_000) as f64 / 1000.0));
    }

    pub fn faulty(&self) -> bool {
        self.now < self.faults_until
    }

    fn play(&mut self) -> Result<(), String> {
        let end = self.faults_until + REST_AFTER;
        let mut healed = false;
        while let Some(Reverse((at, number))) = self.queue.pop() {
            if at > end {
                break;
            }
            self.now = at;
            if !healed && !self.faulty() {
                healed = true;
                self.heal_all();
            }
            let event = self.events.remove(&number).expect("queued with its number");
            self.summary.events += 1;
            if self.summary.events > EVENTS_MAX {
                return Err("it goes round in circles".to_owned());
            }
            self.step(event)?;
            if self.summary.events.is_multiple_of(16) {
                self.ledger.disk(&self.disk)?;
            }
        }
        self.ledger.disk(&self.disk)?;
        for moved in self.disk.workloads.values().flat_map(|record| &record.moves) {
            match (&moved.undone, moved.cause) {
                (Some(_), _) => self.summary.undone += 1,
                (None, Cause::Asked) => self.summary.moved += 1,
                (None, Cause::Drain) => self.summary.drained += 1,
                (None, Cause::Home | Cause::Back) => self.summary.homed += 1,
            }
        }
        self.ledger.at_rest(&self.disk, &self.sites)
    }

    fn heal_all(&mut self) {
        self.tell("all faults end".to_owned());
        for id in self.sites.keys().cloned().collect::<Vec<_>>() {
            self.cut.insert(id.clone(), false);
            if !self.sites[&id].alive {
                self.after(Millis(100), Event::AgentStarts(id));
            }
        }
        if self.control.is_none() {
            self.after(Millis(100), Event::ControlStarts);
        }
    }

    pub fn step(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Submit(index) => self.submit(index),
            Event::StopRun(index) => self.people(index, false),
            Event::Retry(index) => self.people(index, true),
            Event::Tick => {
                self.change(|_| ());
                self.after(Millis(1_000), Event::Tick);
            }
            Event::Beat(site) => self.beat(&site)?,
            Event::Reported { site, line, sent, report } => self.reported(&site, line, sent, &report),
            Event::Told { site, line, answers, desired } => self.told(&site, line, answers, &desired)?,
            Event::Prepared { site, placement } => self.prepared(&site, placement)?,
            Event::Ends { site, placement } => self.ends(&site, &placement)?,
            Event::EndsSoon { site, placement } => self.ends_soon(&site, &placement)?,
            Event::ControlDies => self.control_dies(),
            Event::ControlStarts => {
                if self.control.is_none() {
                    self.tell("the control plane starts".to_owned());
                    self.control = Some(Control::start(&self.disk, self.now));
                }
            }
            Event::AgentDies(site) => self.agent_dies(&site, false),
            Event::PowerCut(site) => self.agent_dies(&site, true),
            Event::AgentStarts(site) => {
                if !self.sites[&site].alive {
                    self.tell(format!("{site}: agent starts"));
                    let now = self.now;
                    let actions = self.sites.get_mut(&site).expect("a site").restart(now);
                    self.act(&site, actions)?;
                    self.watch_again(&site);
                    self.after(Millis(50), Event::Beat(site));
                }
            }
            Event::Cut(site) => {
                self.summary.cuts += 1;
                self.tell(format!("{site}: cut off"));
                self.cut.insert(site.clone(), true);
                self.sites.get_mut(&site).expect("a site").line = None;
                let healed = Millis(self.rng.range(1_000, 300_000));
                self.after(healed, Event::Heal(site));
            }
            Event::LeaseEnds { site, placement } => self.hold_to_lease(&site, placement)?,
            Event::Pry(site) => self.pry(&site)?,
            Event::Move => self.ask_to_move(),
            Event::Drain(site) => {
                let deadline = self.rng.chance(300).then(|| Millis(self.rng.range(10_000, 200_000)));
                self.ask_to_drain(&site, deadline);
            }
            Event::Undrain(site) => self.undrain(&site),
            Event::CallOff(workload) => {
                let now = self.now;
                self.tell(format!("{workload}: its move is called off"));
                self.change(|world| world.call_off(&workload, "somebody thought better of it".to_owned(), now));
            }
            Event::Copied { site, of } => self.copied(&site, of),
            Event::Held { site, version } => self.held(&site, version)?,
            Event::Heal(site) => {
                self.tell(format!("{site}: line heals"));
                self.cut.insert(site, false);
            }
        }
        Ok(())
    }

    /// A change in the control plane, if it is there; it may die before the commit.
    pub fn change<T>(&mut self, change: impl FnOnce(&mut tombolo_core::world::World) -> T) -> Option<T> {
        let crash = self.faulty() && self.rng.chance(3);
        let now = self.now;
        let control = self.control.as_mut()?;
        let committed = control.change(&mut self.disk, now, crash, change);
        match committed {
            Some(committed) => {
                for site in committed.wake {
                    self.wake(&site, None);
                }
                Some(committed.answer)
            }
            None => {
                self.control_dies();
                None
            }
        }
    }

    fn control_dies(&mut self) {
        if self.control.take().is_some() {
            self.summary.crashes += 1;
            self.tell("the control plane dies".to_owned());
            for site in self.sites.values_mut() {
                site.line = None;
            }
            let back = Millis(self.rng.range(500, 60_000));
            self.after(back, Event::ControlStarts);
        }
    }

    pub fn agent_dies(&mut self, id: &SiteId, power: bool) {
        self.summary.crashes += 1;
        self.tell(format!("{id}: {}", if power { "power cut" } else { "agent dies" }));
        let site = self.sites.get_mut(id).expect("a site");
        if power {
            site.power_cut();
        } else {
            site.kill_agent();
        }
        let back = Millis(self.rng.range(500, 90_000));
        self.after(back, Event::AgentStarts(id.clone()));
    }

    fn beat(&mut self, id: &SiteId) -> Result<(), String> {
        let reachable = self.control.is_some() && !self.cut.get(id).copied().unwrap_or(false);
        let number = self.number;
        let now = self.now;
        let site = self.sites.get_mut(id).expect("a site");
        if !site.alive {
            return Ok(());
        }
        let clock = site.clock(now);
        let expired = site.journal.expire(clock.since(site.contact));
        site.save();
        if reachable {
            let fresh = site.line.is_none();
            let line = *site.line.get_or_insert(Line { id: number });
            let replicas = if fresh {
                Replicas::All(site.store.iter().copied().collect())
            } else {
                Replicas::New(site.store.iter().copied().collect())
            };
            let report = Report {
                observed: site.journal.observed(),
                replicas,
                transfers: Vec::new(),
                copied: site.copied.values().cloned().collect(),
                left: site.left(),
            };
            let delay = self.delay(id, true);
            self.after(delay, Event::Reported { site: id.clone(), line, sent: clock, report });
        }
        self.act(id, expired)?;
        self.after(BEAT, Event::Beat(id.clone()));
        Ok(())
    }

    fn reported(&mut self, id: &SiteId, line: Line, sent: Timestamp, report: &Report) {
        if self.sites[id].line != Some(line) {
            return;
        }
        let crash = self.faulty() && self.rng.chance(3);
        let now = self.now;
        let Some(control) = self.control.as_mut() else { return };
        // What comes of a placement that was given up is past, and nobody goes on from it.
        let taken_in = |seen: &&Observed| {
            let over = matches!(seen.phase, Phase::Finished(_));
            over && control.world.known(id, &seen.workload, seen.epoch) == Known::Live
        };
        let ends: Vec<_> = report.observed.iter().filter(taken_in).map(|s| (s.workload.clone(), s.epoch)).collect();
        match control.report(&mut self.disk, now, crash, id, report) {
            Some(committed) => {
                for (workload, epoch) in &ends {
                    self.note_left(id, workload, *epoch);
                }
                for (workload, epoch) in &committed.answer.settled {
                    self.ledger.settled.insert((workload.clone(), *epoch));
                }
                self.send(id, Some(sent), committed.answer);
                for site in committed.wake.iter().filter(|site| *site != id) {
                    self.wake(site, None);
                }
            }
            None => self.control_dies(),
        }
    }

    fn wake(&mut self, id: &SiteId, answers: Option<Timestamp>) {
        if let Some(control) = &self.control {
            let desired = control.world.desired(id, &[]);
            self.send(id, answers, desired);
        }
    }

    fn send(&mut self, id: &SiteId, answers: Option<Timestamp>, desired: Desired) {
        if let Some(line) = self.sites[id].line {
            let delay = self.delay(id, false);
            self.after(delay, Event::Told { site: id.clone(), line, answers, desired });
        }
    }

    fn told(&mut self, id: &SiteId, line: Line, answers: Option<Timestamp>, desired: &Desired) -> Result<(), String> {
        let now = self.now;
        let site = self.sites.get_mut(id).expect("a site");
        if !site.alive || site.line != Some(line) {
            return Ok(());
        }
        site.contact = answers.map_or(site.contact, |sent| site.contact.max(sent));
        let clock = site.clock(now);
        let actions = site.journal.desired(desired, clock);
        site.save();
        // The agent may die between saving and acting.
        if self.faulty() && !actions.is_empty() && self.rng.chance(10) {
            self.agent_dies(id, false);
            return Ok(());
        }
        for wanted in &desired.copies {
            self.copy(id, wanted);
        }
        for hold in &desired.holds {
            for version in hold.beside.iter().chain([&hold.version]) {
                if !self.sites[id].store.contains(version) {
                    let delay = Millis(self.rng.range(100, 10_000));
                    self.after(delay, Event::Held { site: id.clone(), version: *version });
                }
            }
        }
        self.forget(id, &desired.forget)?;
        self.act(id, actions)
    }

    /// What an end left that the control plane has taken in is there for good.
    fn note_left(&mut self, id: &SiteId, workload: &WorkloadId, epoch: Epoch) {
        let Some(finish) = self.sites[id].results.get(&(workload.clone(), epoch)) else { return };
        let job = self.disk.workloads.get(workload).is_some_and(|record| record.spec.job().is_some());
        if job && matches!(finish.outcome, Outcome::Stopped | Outcome::Checkpointed | Outcome::Evicted { .. }) {
            let left = self.ledger.left.entry(workload.clone()).or_default();
            *left = (*left).max(project::progress(finish.state));
        }
    }
}
