//! Problems and plans as text, one fact a line.
//!
//! ```text
//! site <name> [cpus=8] [mem=16] [gpu=a100*2] [containers] [draining] [unreachable] [<price>=<money>] [<label>=<value>]
//! busy <site> cpus=4 [for=<seconds>]
//! queue <site> cpus=4 [for=<seconds>]
//! link <from> <to> <n>MB/s
//! version <name> <n>MB at=<site>,.. [keep=<site or label:value>] [<site>@<n>MB]
//! task <name> [cpus=1] [mem=1] [gpu=a100*1] [run=<s>] [run@<site>=<s>] [in=<version>] [from=<task>:<n>MB[!]]
//!      [only=<site>] [image] [service] [priority=<n>] [running=<site>:<s>] [placed=<site>] [done=<site>]
//! objective time|cost|<weight>
//! ```
//! `from=features:5MB!` reads the output of `features`, which is released; `cloud@5MB` is what `cloud` lacks of a version.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use tombolo_core::placement::{
    Busy, Estimate, Input, Placement, Plan, Problem, Progress, Queued, SiteState, Source, Task, Verdict, plan,
};
use tombolo_core::residency::{Residency, Selector};
use tombolo_core::resources::Resources;
use tombolo_core::site::{Link, Links, Prices, SiteInfo};
use tombolo_core::spec::Objective;
use tombolo_core::{Millis, Name, SiteId};

/// Plans what the text describes; indentation does not count.
#[track_caller]
pub fn check(text: &str, expected: &str) {
    let lines = |text: &str| text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("\n");
    let shown = show(&plan(&problem(text)));
    assert!(lines(&shown) == lines(expected), "planned:\n{shown}\nexpected:\n{expected}");
}

pub fn show(plan: &Plan) -> String {
    let mut text = format!("{}, ${:.2}, {}\n", plan.makespan, plan.cost, if plan.exact { "exact" } else { "a guess" });
    for Placement { task, outcome, others } in &plan.placements {
        match outcome {
            Ok(outcome) => writeln!(text, "{task} -> {} at {}", outcome.site, outcome.start).unwrap(),
            Err(why) => writeln!(text, "{task}: {why}").unwrap(),
        }
        for transfer in outcome.iter().flat_map(|outcome| &outcome.transfers) {
            let mut size = tombolo_core::resources::bytes(transfer.bytes);
            if transfer.whole_bytes > 0 {
                size += &format!(" of {}", tombolo_core::resources::bytes(transfer.whole_bytes));
            }
            writeln!(text, "  + {} from {}: {size}, {}", transfer.input, transfer.from, transfer.time).unwrap();
        }
        for (site, verdict) in others {
            let mark = if matches!(verdict, Verdict::Refused(_)) { "x" } else { "-" };
            writeln!(text, "  {mark} {site}: {verdict}").unwrap();
        }
    }
    text
}

/// The rest of a line: flags, and values by key.
struct Words<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Words<'a> {
    fn new(words: &[&'a str]) -> Words<'a> {
        Words(words.iter().map(|word| word.split_once('=').unwrap_or((word, ""))).collect())
    }

    fn all(&self, key: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| *k == key).map(|(_, value)| *value)
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.all(key).next()
    }

    fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    fn number(&self, key: &str) -> f64 {
        self.get(key).map_or(0.0, |value| value.parse().unwrap_or_else(|_| panic!("{key}={value}")))
    }

    fn resources(&self) -> Resources {
        let gpus = self.all("gpu").map(|gpu| gpu.split_once('*').unwrap());
        Resources {
            cpus_milli: (self.number("cpus") * 1000.0) as u64,
            memory_bytes: (self.number("mem") * (1u64 << 30) as f64) as u64,
            disk_bytes: 0,
            gpus: gpus.map(|(kind, count)| (name(kind), count.parse().unwrap())).collect(),
        }
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn id(text: &str) -> SiteId {
    SiteId::new(text).unwrap()
}

fn seconds(text: &str) -> Millis {
    Millis((text.parse::<f64>().unwrap() * 1000.0) as u64)
}

fn bytes(text: &str) -> u64 {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_alphabetic()).unwrap());
    let unit = BTreeMap::from([("MB", 1e6), ("GB", 1e9), ("MB/s", 1e6)])[unit];
    (number.parse::<f64>().unwrap() * unit) as u64
}

fn selector(text: &str) -> Selector {
    match text.split_once(':') {
        Some((key, value)) => Selector::label(key, value),
        None => Selector::site(id(text)),
    }
}

pub fn problem(text: &str) -> Problem {
    let mut problem =
        Problem { sites: Vec::new(), links: Links::default(), tasks: Vec::new(), objective: Objective::Time };
    let mut versions: BTreeMap<&str, Input> = BTreeMap::new();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    for line in lines.iter().filter(|line| line.first() == Some(&"version")) {
        versions.insert(line[1], version(line));
    }
    for line in &lines {
        match line.as_slice() {
            [] | ["version", ..] => {}
            ["site", site, rest @ ..] => problem.sites.push(self::site(site, &Words::new(rest))),
            ["busy", site, rest @ ..] => {
                let words = Words::new(rest);
                let state = problem.sites.iter_mut().find(|state| state.info.id.as_str() == *site).unwrap();
                state.free.take(&words.resources());
                state.busy.push(Busy { resources: words.resources(), ends_in: words.get("for").map(seconds) });
            }
            ["queue", site, rest @ ..] => {
                let words = Words::new(rest);
                let state = problem.sites.iter_mut().find(|state| state.info.id.as_str() == *site).unwrap();
                state.queued.push(Queued { resources: words.resources(), duration: words.get("for").map(seconds) });
            }
            ["link", from, to, speed] => {
                let link = Link { bytes_per_s: bytes(speed) as f64, latency: Millis(0), limit: None };
                problem.links.0.insert((id(from), id(to)), link);
            }
            ["task", task, rest @ ..] => {
                let task = self::task(task, &Words::new(rest), &versions, &problem.tasks);
                problem.tasks.push(task);
            }
            ["objective", "time"] => problem.objective = Objective::Time,
            ["objective", "cost"] => problem.objective = Objective::Cost,
            ["objective", weight] => problem.objective = Objective::Weighted(weight.parse().unwrap()),
            other => panic!("can't read {other:?}"),
        }
    }
    problem
}

fn site(site: &str, words: &Words) -> SiteState {
    const KNOWN: [&str; 9] =
        ["cpus", "mem", "gpu", "containers", "draining", "unreachable", "egress", "cpu_hour", "gpu_hour"];
    let labels = words.0.iter().filter(|(key, _)| !KNOWN.contains(key));
    let capacity = words.resources();
    let prices = Prices {
        cpu_hour: words.number("cpu_hour"),
        gpu_hour: capacity.gpus.keys().map(|kind| (kind.clone(), words.number("gpu_hour"))).collect(),
        egress_gib: words.number("egress"),
        ..Prices::default()
    };
    let info = SiteInfo {
        id: id(site),
        labels: labels.map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        capacity: capacity.clone(),
        prices,
        containers: words.has("containers"),
    };
    let (reachable, draining) = (!words.has("unreachable"), words.has("draining"));
    SiteState { info, free: capacity, reachable, draining, busy: Vec::new(), queued: Vec::new() }
}

fn version(line: &[&str]) -> Input {
    let words = Words::new(&line[3..]);
    let replicas: BTreeSet<SiteId> = words.get("at").unwrap_or("").split_terminator(',').map(id).collect();
    let lacks = line[3..].iter().filter_map(|word| word.split_once('@'));
    Input::Version {
        name: name(line[1]),
        bytes: bytes(line[2]),
        missing: lacks.map(|(site, lacks)| (id(site), bytes(lacks))).collect(),
        replicas,
        residency: words.get("keep").map_or(Residency::anywhere(), |keep| Residency::keep_at(selector(keep))),
    }
}

fn task(task: &str, words: &Words, versions: &BTreeMap<&str, Input>, tasks: &[Task]) -> Task {
    let mut inputs: Vec<Input> = words.all("in").map(|version| versions[version].clone()).collect();
    for from in words.all("from") {
        let (maker, size) = from.split_once(':').unwrap();
        let maker = tasks.iter().position(|task| task.name.as_str() == maker).unwrap();
        inputs.push(Input::Output {
            name: name(&format!("{}-out", tasks[maker].name)),
            task: maker,
            bytes: bytes(size.trim_end_matches('!')),
            released: size.ends_with('!'),
        });
    }
    let history = words.0.iter().filter_map(|(key, run)| Some((key.strip_prefix("run@")?, run)));
    let history =
        history.map(|(site, run)| (id(site), Estimate { millis: seconds(run), source: Source::History })).collect();
    let progress = match (words.get("running"), words.get("placed"), words.get("done")) {
        (Some(running), ..) => {
            let (site, remaining) = running.split_once(':').unwrap();
            Progress::Running { site: id(site), remaining: seconds(remaining) }
        }
        (None, Some(site), _) => Progress::Placed(id(site)),
        (None, None, Some(site)) => Progress::Done(id(site)),
        (None, None, None) => Progress::Undecided,
    };
    Task {
        name: name(task),
        resources: words.resources(),
        priority: words.number("priority") as i32,
        selector: words.get("only").map(selector),
        image: words.has("image"),
        residency: Residency::anywhere(),
        duration: Estimate { millis: seconds(words.get("run").unwrap_or("0")), source: Source::Declared },
        durations: history,
        inputs,
        service: words.has("service"),
        progress,
        barred: Default::default(),
    }
}
