//! A world that is played by words: each step happens, the world decides, and how things are then is one line.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_core::digest::Digest;
use tombolo_core::draining::{Back, Cause, DrainWish, Leaning};
use tombolo_core::moving::{Method, Taken, Wish};
use tombolo_core::residency::{Residency, Selector};
use tombolo_core::routes::Access;
use tombolo_core::site::{Prices, SiteInfo};
use tombolo_core::sketch::Sketch;
use tombolo_core::source::Source;
use tombolo_core::spec::{
    Bound, Command, DataSpec, Job, Kind, Objective, ProjectSpec, Service, StateCopies, WorkloadSpec,
};
use tombolo_core::sync::{Copied, Finish, Intent, Made, Observed, Outcome, Phase, Replicas, Report, StateCopy};
use tombolo_core::world::{
    Event, Pruned, Refusal, Release, SiteRecord, Submission, VersionRecord, WorkloadRecord, World,
};
use tombolo_core::{Epoch, Millis, Name, Resources, RunId, SiteId, Timestamp, VersionId, WorkloadId};

pub struct Play {
    pub world: World,
    pub now: Timestamp,
    pub events: Vec<Event>,
    pub released: Vec<Release>,
    pub pruned: Vec<Pruned>,
    /// Versions that lost a name, which the edge would look at.
    pub unnamed: BTreeSet<VersionId>,
    /// Versions whose sketches the edge's store would keep.
    pub sketched: BTreeSet<VersionId>,
    /// Sites that don't report.
    pub silent: BTreeSet<SiteId>,
    /// What the edge's store would remember.
    cached: BTreeMap<String, BTreeMap<Name, Made>>,
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub fn site(text: &str) -> SiteId {
    SiteId::new(text).unwrap()
}

pub fn run(text: &str) -> RunId {
    text.parse().unwrap()
}

pub fn id(text: &str) -> WorkloadId {
    text.parse().unwrap()
}

/// Versions are named by one word, and equal words are equal bytes.
pub fn version(word: &str) -> VersionId {
    let mut digest = [0; 32];
    let bytes = word.as_bytes();
    digest[..bytes.len()].copy_from_slice(bytes);
    VersionId(Digest(digest))
}

/// `key=value` words after a first one.
struct Words<'a>(&'a str, Vec<(&'a str, &'a str)>);

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Words<'a> {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap();
        Words(first, words.map(|word| word.split_once('=').unwrap_or((word, ""))).collect())
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.1.iter().find(|(k, _)| *k == key).map(|(_, value)| *value)
    }

    fn all(&self, key: &str) -> impl Iterator<Item = &'a str> {
        self.1.iter().filter(move |(k, _)| *k == key).map(|(_, value)| *value)
    }

    fn number(&self, key: &str, default: u64) -> u64 {
        self.get(key).map_or(default, |value| value.parse().unwrap())
    }
}

/// `train cpus=2 in=data out=model out=metrics release=model retries=1 prio=5 site=a failover=20 service replicas=2
/// port=80 keep=a kafka`
fn workload(line: &str) -> (Name, WorkloadSpec) {
    let words = Words::of(line);
    let kind = match words.get("service") {
        Some(_) => Kind::Service(Service {
            port: words.get("port").map(|port| port.parse().unwrap()),
            ready: None,
            replicas: words.number("replicas", 1) as u32,
            single: words.get("single").is_some(),
            access: if words.get("public").is_some() { Access::Public } else { Access::Token },
            ..Service::default()
        }),
        None => Kind::Job(Job {
            outputs: words.all("out").map(name).collect(),
            retries: words.number("retries", 0) as u32,
            release: words.all("release").map(name).collect(),
            keep_at: words.get("keep").map_or(Residency::anywhere(), |at| Residency::keep_at(Selector::site(site(at)))),
            ..Job::default()
        }),
    };
    let command = match words.get("kafka") {
        Some(_) => Command::Import(Source::Kafka { brokers: vec!["b:9092".to_owned()], topic: words.0.to_owned() }),
        None => Command::Run(words.get("do").unwrap_or(words.0).to_owned()),
    };
    let spec = WorkloadSpec {
        kind,
        command,
        python: None,
        image: None,
        inputs: words.all("in").map(|input| (name(input), name(input))).collect(),
        env: BTreeMap::new(),
        secrets: BTreeSet::new(),
        resources: Resources { cpus_milli: 1000 * words.number("cpus", 1), ..Resources::default() },
        site: words.get("site").map(|at| Selector::site(site(at))),
        grace: Millis(5_000),
        priority: words.get("prio").map_or(0, |prio| prio.parse().unwrap()),
        failover_after: words.get("failover").map(|secs| Millis::from_secs(secs.parse().unwrap())),
        duration: words.get("takes").map(|secs| Millis::from_secs(secs.parse().unwrap())),
        home: words.get("home").map(site),
        leaning: leaning(&words),
        state: words.get("state").map(|secs| StateCopies {
            every: Millis::from_secs(secs.parse().unwrap()),
            sites: words.number("standby", 1) as u32,
        }),
    };
    (name(words.0), spec)
}

/// What a run of the project reads that nothing in it makes is its data.
pub fn project(project: &str, lines: &[&str]) -> ProjectSpec {
    let workloads: BTreeMap<_, _> = lines.iter().map(|line| workload(line)).collect();
    let made: BTreeSet<&Name> = workloads.values().flat_map(|spec| spec.outputs()).collect();
    let read = workloads.values().flat_map(|spec: &WorkloadSpec| spec.inputs.values());
    let external: BTreeSet<Name> = read.filter(|input| !made.contains(input)).cloned().collect();
    let data = external.into_iter().map(|n| {
        (
            n,
            DataSpec {
                path: None,
                residency: Residency::anywhere(),
                logs: Default::default(),
                expect: None,
                retain: None,
            },
        )
    });
    ProjectSpec { name: name(project), data: data.collect(), objective: Objective::Cost, workloads }
}

/// `prefer=a burst=b,c after=60 back=600`
fn leaning(words: &Words) -> Option<Leaning> {
    let selector =
        |text: &str| Selector(text.split(',').map(|at| tombolo_core::residency::Term::Site(site(at))).collect());
    let secs = |key: &str| words.get(key).map(|secs| Millis::from_secs(secs.parse().unwrap()));
    Some(Leaning {
        prefer: selector(words.get("prefer")?),
        burst: words.get("burst").map(selector),
        burst_after: secs("after").unwrap_or(Leaning::BURST_AFTER_DEFAULT),
        back: if words.get("back").is_some() { Back::WhenFree } else { Back::Never },
        back_at_most: secs("back").unwrap_or(Leaning::BACK_AT_MOST_DEFAULT),
    })
}

impl Play {
    /// Sites as `a cpus=2 price=1`, each reachable.
    pub fn new(sites: &[&str]) -> Play {
        let now = Timestamp(1_000_000);
        let mut play = Play {
            world: World::default(),
            now,
            events: Vec::new(),
            released: Vec::new(),
            pruned: Vec::new(),
            unnamed: BTreeSet::new(),
            sketched: BTreeSet::new(),
            silent: BTreeSet::new(),
            cached: BTreeMap::new(),
        };
        play.world.awake = now;
        for line in sites {
            let words = Words::of(line);
            let info = SiteInfo {
                id: site(words.0),
                labels: BTreeMap::new(),
                capacity: Resources { cpus_milli: 1000 * words.number("cpus", 100), ..Resources::default() },
                prices: Prices { cpu_hour: words.number("price", 0) as f64, ..Prices::default() },
                containers: false,
            };
            play.world.join(SiteRecord::new(info, words.0.into(), now)).unwrap();
        }
        play.know("code", None, sites.iter().map(|line| Words::of(line).0).collect::<Vec<_>>().as_slice());
        play.settle();
        play
    }

    /// A version at sites, kept at one of them where that is said.
    pub fn know(&mut self, word: &str, keep_at: Option<&str>, at: &[&str]) {
        let residency = keep_at.map_or(Residency::anywhere(), |at| Residency::keep_at(Selector::site(site(at))));
        for place in at {
            let record = VersionRecord {
                bytes: 10,
                files: 1,
                residency: residency.clone(),
                made_by: None,
                given: Default::default(),
                facts: Default::default(),
                at: self.now,
                replicas: BTreeSet::new(),
            };
            self.world.add_version(version(word), record, &site(place)).unwrap();
        }
    }

    /// A run; its data are the versions of the same name.
    pub fn submit(&mut self, id: &str, lines: &[&str]) {
        self.try_submit(id, lines, false).unwrap();
    }

    pub fn try_submit(&mut self, id: &str, lines: &[&str], force: bool) -> Result<(), Refusal> {
        let id = run(id);
        let spec = project(id.project().as_str(), lines);
        let data = spec.data.keys().map(|name| (name.clone(), version(name.as_str()))).collect();
        let submission = Submission { id, spec, code: version("code"), data, by: "ann".into(), force };
        self.world.submit(submission, self.now)?;
        self.settle();
        Ok(())
    }

    /// Heartbeats, decisions and the cache's answers, until nothing more follows.
    pub fn settle(&mut self) {
        let ids: Vec<SiteId> = self.world.sites.keys().cloned().collect();
        for site in ids.iter().filter(|site| !self.silent.contains(*site)) {
            self.world.report(site, &Report::default(), self.now);
        }
        loop {
            self.world.decide(self.now);
            assert!(self.world.in_step(), "what is kept beside the workloads says something else than they");
            let changes = self.world.take_changes();
            assert!(self.world.routes_in_step(), "gateways are told something else than how things are");
            for (key, made_by) in changes.cached {
                self.cached.insert(key, self.world.workloads[&made_by].outputs.clone());
            }
            self.events.extend(changes.events);
            self.released.extend(changes.released);
            self.pruned.extend(changes.pruned);
            self.unnamed.extend(changes.unnamed);
            self.sketched.extend(changes.sketches);
            if changes.lookups.is_empty() {
                return;
            }
            for (id, key) in changes.lookups {
                self.world.cache_answer(&id, self.cached.get(&key).cloned(), self.now);
            }
        }
    }

    /// One step, and all that follows from it.
    pub fn step(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            ["wait", secs] => {
                // Second by second, as heartbeats and ticks come.
                for _ in 0..secs.parse::<u64>().unwrap() {
                    self.now = self.now + Millis(1_000);
                    self.settle();
                }
            }
            ["silence", at] => drop(self.silent.insert(site(at))),
            ["hear", at] => drop(self.silent.remove(&site(at))),
            ["leave", at, how @ ..] => {
                let deadline = how.iter().find_map(|word| word.strip_prefix("deadline="));
                let deadline = deadline.map(|secs| Millis::from_secs(secs.parse().unwrap()));
                let restart_jobs = how.contains(&"restart");
                self.world.drain(&site(at), DrainWish { deadline, restart_jobs, by: "ann".into() }, self.now).unwrap();
            }
            ["open", at] => self.world.undrain(&site(at), "ann", self.now).unwrap(),
            ["drain", at] => self.world.edit_site(&site(at), |record| record.draining = true).unwrap(),
            ["undrain", at] => self.world.edit_site(&site(at), |record| record.draining = false).unwrap(),
            ["revoke", at] => self.world.revoke(&site(at), self.now).unwrap(),
            ["retire"] => drop(self.world.retire()),
            ["stop", what] if what.contains('/') => self.world.stop_workload(&id(what), self.now).unwrap(),
            ["stop", what] => self.world.stop(&run(what), self.now).unwrap(),
            ["retry", what] => self.world.retry(&run(what), self.now).unwrap(),
            ["move", what, to, how @ ..] => self.try_move(what, to, how).unwrap(),
            ["call-off", what] => self.world.call_off(&id(what), "ann thought better of it".into(), self.now).unwrap(),
            ["prepared", what, state @ ..] => {
                self.see(what, Phase::Prepared { state: state.first().map(|word| version(word)) });
            }
            ["copied", what, round, rest @ ..] => self.copied(what, round.parse().unwrap(), rest),
            ["snapshot", place, rest @ ..] => self.snapshot(place, rest),
            ["has", place, what] => {
                let replicas = Replicas::New(vec![version(what)]);
                self.world.report(&site(place), &Report { replicas, ..Report::default() }, self.now);
            }
            ["accept", what] => self.see(what, Phase::Preparing),
            ["start", what] => self.see(what, Phase::Running { since: self.now }),
            ["ready", what] => self.see(what, Phase::Ready { since: self.now, address: "h:1".into() }),
            ["ending", what] => {
                let (since, address, why) = (self.now, "h:1".into(), "its time is up".into());
                self.see(what, Phase::Ending { since, address, why });
            }
            ["queued", what, why @ ..] => self.see(what, Phase::Queued { why: why.join(" ") }),
            ["end", what, how @ ..] => {
                let finish = self.finish(what, how);
                self.see(what, Phase::Finished(Box::new(finish)));
            }
            other => panic!("{other:?}"),
        }
        self.settle();
    }

    /// `p-1/train b`, with words as `switch`, `deadline=20`, `downtime=1`.
    pub fn try_move(&mut self, what: &str, to: &str, how: &[&str]) -> Result<(), Refusal> {
        let secs = |key: &str| {
            let value = how.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            value.map(|value| Millis::from_secs(value.parse().unwrap()))
        };
        let method = how.iter().find_map(|word| match *word {
            "switch" => Some(Method::Switch),
            "checkpoint" => Some(Method::Checkpoint),
            "restart" => Some(Method::Restart),
            _ => None,
        });
        let (deadline, max_downtime) = (secs("deadline"), secs("downtime"));
        let wish =
            Wish { to: site(to), method, deadline, max_downtime, by: "ann".into(), why: None, cause: Cause::Asked };
        self.world.begin_move(&id(what), wish, self.now)
    }

    /// `p-1/train#1@a 1 s1 100`: the first round's copy is `s1`, of which 100 bytes are new; without one it is empty.
    fn copied(&mut self, what: &str, round: u32, rest: &[&str]) {
        let (workload, old) = what.split_once('#').unwrap();
        let (epoch, place) = old.split_once('@').unwrap();
        let (workload, epoch) = (id(workload), Epoch(epoch.parse().unwrap()));
        let arrival = self.world.workloads[&workload].moving.as_ref().map_or(Epoch::NONE, |moving| moving.epoch);
        let turn = (arrival, round);
        let result = match rest {
            ["failed"] => Err("its disk is full".to_owned()),
            rest => Ok(Taken {
                version: rest.first().map(|word| version(word)),
                bytes: 1000,
                files: rest.len() as u64,
                fresh_bytes: rest.get(1).map_or(0, |fresh| fresh.parse().unwrap()),
                beside_bytes: 0,
                took: Millis(1),
                torn: false,
            }),
        };
        let copied = vec![Copied { of: StateCopy { workload, epoch, turn }, result }];
        self.world.report(&site(place), &Report { copied, ..Report::default() }, self.now);
    }

    /// A placement that had to leave is over.
    pub fn see_end(&mut self, what: &str) {
        let finish = Finish::without_running(Outcome::Stopped, self.now);
        self.see(what, Phase::Finished(Box::new(finish)));
    }

    /// `a s1 100`: the copy that `a` is told to take is `s1`, of which 100 bytes are new; `torn` or `failed`.
    fn snapshot(&mut self, place: &str, rest: &[&str]) {
        let desired = self.world.desired(&site(place), &[]);
        let [of] = desired.copies.as_slice() else { panic!("one copy is wanted at {place}: {:?}", desired.copies) };
        let torn = rest.contains(&"torn");
        let result = match rest {
            ["failed"] => Err("its disk is full".to_owned()),
            rest => Ok(Taken {
                version: Some(version(rest[0])),
                bytes: 1000,
                files: 1,
                fresh_bytes: rest.get(1).map_or(0, |fresh| fresh.parse().unwrap()),
                beside_bytes: 0,
                took: Millis(1),
                torn,
            }),
        };
        let copied = vec![Copied { of: of.clone(), result }];
        self.world.report(&site(place), &Report { copied, ..Report::default() }, self.now);
    }

    /// `p-1/train` is its newest placement, wherever that was; `p-1/train#1@a` another.
    fn see(&mut self, what: &str, phase: Phase) {
        let (workload, old) = what.split_once('#').map_or((what, None), |(id, old)| (id, Some(old)));
        let workload = id(workload);
        let (epoch, place) = match old {
            Some(old) => {
                let (epoch, place) = old.split_once('@').unwrap();
                (Epoch(epoch.parse().unwrap()), site(place))
            }
            None => {
                let attempt = self.world.workloads[&workload].attempts.last().unwrap();
                (attempt.epoch, attempt.site.clone())
            }
        };
        let observed = vec![Observed { workload, epoch, phase }];
        let report = Report { observed, ..Report::default() };
        self.world.report(&place, &report, self.now);
    }

    /// `ok`, `ok model=m1 left=s1`, `failed`, `gate`, `lost`, `evicted`, `stopped`, `checkpointed`. Unless said otherwise an
    /// output's bytes are those of its name.
    fn finish(&self, what: &str, how: &[&str]) -> Finish {
        let outcome = match how[0] {
            "ok" => Outcome::Succeeded,
            "failed" => Outcome::Failed { code: 1 },
            "gate" => Outcome::GateFailed { metric: "auc".into(), value: 0.4, bound: Bound::AtLeast(0.5) },
            "evicted" => Outcome::Evicted { why: "a time limit".into() },
            "lost" => Outcome::Lost { why: "a power cut".into() },
            "stopped" => Outcome::Stopped,
            "checkpointed" => Outcome::Checkpointed,
            other => panic!("{other}"),
        };
        let mut finish = Finish::without_running(outcome, self.now);
        finish.ran = Some(Millis(1_000));
        let made =
            |word: &str| Made { version: version(word), bytes: 10, files: 1, facts: Default::default(), sketch: None };
        let record = &self.world.workloads[&id(what.split('#').next().unwrap())];
        if how[0] == "ok" {
            finish.outputs = record.spec.outputs().map(|name| (name.clone(), made(name.as_str()))).collect();
        }
        for (key, value) in how[1..].iter().map(|word| word.split_once('=').unwrap()) {
            match key {
                "left" => finish.state = Some(version(value)),
                "bytes" => finish.state_bytes = value.parse().unwrap(),
                output => drop(finish.outputs.insert(name(output), made(value))),
            }
        }
        finish
    }

    /// A job ends well, with outputs whose chunks are these.
    pub fn made(&mut self, what: &str, sketch: &Sketch) {
        let mut finish = self.finish(what, &["ok"]);
        for made in finish.outputs.values_mut() {
            (made.bytes, made.sketch) = (sketch.bytes(), Some(sketch.clone()));
        }
        self.see(what, Phase::Finished(Box::new(finish)));
        self.settle();
    }

    /// `p-1 active: clean=running@a#1 train=waiting`.
    pub fn how(&self, of: &str) -> String {
        let Some(record) = self.world.runs.get(&run(of)) else { return format!("{of} is not live") };
        let mut text = format!("{of} {}:", record.state.word());
        for record in self.world.workloads_of(&run(of)) {
            text += &format!(" {}={}", record.id.name, record.state.word());
            if let Some(site) = record.state.site() {
                text += &format!("@{site}#{}{}", record.epoch, if record.stopping { "!" } else { "" });
            }
            if let Some(moving) = &record.moving {
                text += &format!(">{}#{} {}", moving.to, moving.epoch, moving.stage.word());
            }
            for leaving in &record.leaving {
                text += &format!(" -{}#{}", leaving.site, leaving.epoch);
            }
        }
        text
    }

    /// Steps, each with how one run is afterwards.
    pub fn table(&mut self, of: &str, rows: &[(&str, &str)]) {
        for (step, expected) in rows {
            self.step(step);
            let seen = self.how(of);
            let seen = seen.strip_prefix(&format!("{of} ")).unwrap_or(&seen);
            assert_eq!(seen, *expected, "after {step:?}");
        }
    }

    pub fn why(&self, workload: &str) -> &str {
        self.world.workloads[&id(workload)].why.as_deref().unwrap_or_default()
    }

    pub fn residency(&self, word: &str) -> String {
        self.world.versions[&version(word)].residency.to_string()
    }

    /// What a site is told, as `run p-1/x#1`, `stop p-1/x#1`, `settled p-1/x#1`.
    pub fn told(&self, at: &str, seen: &[(&str, u64, bool)]) -> Vec<String> {
        let observed: Vec<_> = seen
            .iter()
            .map(|(workload, epoch, over)| {
                let finish = Finish::without_running(Outcome::Stopped, self.now);
                let phase = if *over { Phase::Finished(Box::new(finish)) } else { Phase::Preparing };
                Observed { workload: id(workload), epoch: Epoch(*epoch), phase }
            })
            .collect();
        let desired = self.world.desired(&site(at), &observed);
        let mut told: Vec<_> = desired
            .assignments
            .iter()
            .map(|one| {
                let word = match &one.intent {
                    Intent::Stop => "stop",
                    Intent::Run(_) => "run",
                    Intent::Prepare(_) => "prepare",
                };
                format!("{word} {}#{}", one.workload, one.epoch)
            })
            .collect();
        told.extend(desired.settled.iter().map(|(workload, epoch)| format!("settled {workload}#{epoch}")));
        told
    }

    /// What every site holds is within what it has.
    pub fn within_capacity(&self) {
        for record in self.world.sites.values() {
            let here = |other: &&WorkloadRecord| other.sites().any(|site| *site == record.info.id);
            let held = self.world.workloads.values().filter(here);
            let held: u64 = held.map(|record| record.spec.resources.cpus_milli).sum();
            assert!(held <= record.info.capacity.cpus_milli, "{} holds {held}", record.info.id);
        }
    }
}
