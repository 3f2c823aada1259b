//! What only shows in the whole: names that clash, references to nothing, cycles, and rules that no site can keep.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use tombolo_core::residency::{Selector, Term};
use tombolo_core::spec::Kind;

use super::fault::{Sink, Span, nearest, quoted};
use super::read::{Draft, Word, Work};

/// Variables that the runtime contract sets itself, besides `PORT` and all that begin with `TOMBOLO_`, unless a workload
/// names a tracking server of its own.
const TRACKING_ENV: [&str; 2] = ["MLFLOW_TRACKING_TOKEN", "MLFLOW_RUN_ID"];
const TRACKING_SERVER: &str = "MLFLOW_TRACKING_URI";
/// Longest way of a cycle that is written out, in stages.
const CYCLE_SHOWN_MAX: usize = 12;

pub(super) fn whole(draft: &Draft, sink: &mut Sink) {
    let graph = Graph::new(draft, sink);
    workload_names(draft, sink);
    for work in &draft.workloads {
        inputs(work, &graph, sink);
        outputs(work, sink);
        environment(work, sink);
    }
    ports(draft, sink);
    let order = in_order(draft, &graph, sink);
    residency(draft, &graph, &order, sink);
}

/// What makes each dataset and output.
struct Graph<'d> {
    made: HashMap<&'d str, Maker>,
}

#[derive(Clone, Copy)]
enum Maker {
    /// An index into the draft's datasets.
    Data(usize),
    /// An index into the draft's workloads.
    Stage(usize),
}

impl<'d> Graph<'d> {
    fn new(draft: &'d Draft, sink: &mut Sink) -> Graph<'d> {
        let mut made = HashMap::new();
        for (i, (word, _)) in draft.data.iter().enumerate() {
            made.insert(word.text.as_str(), Maker::Data(i));
        }
        for (i, work) in draft.workloads.iter().enumerate() {
            for output in &work.outputs {
                let what = quoted(&output.text);
                match made.get(output.text.as_str()) {
                    None => {
                        made.insert(&output.text, Maker::Stage(i));
                    }
                    Some(Maker::Data(first)) => {
                        let line = draft.data[*first].0.span.line;
                        let hint = format!("the dataset is at line {line}; datasets and outputs share their names");
                        sink.add(output.span, format!("the output {what} has the name of a dataset"), hint);
                    }
                    Some(Maker::Stage(first)) if *first == i => {
                        sink.add(output.span, format!("the output {what} is declared twice"), "list it once");
                    }
                    Some(Maker::Stage(first)) => {
                        let owner = quoted(&draft.workloads[*first].name.text);
                        let hint = format!("stage {owner} makes it already; give one of them another name");
                        sink.add(output.span, format!("the output {what} is declared twice"), hint);
                    }
                }
            }
        }
        Graph { made }
    }

    /// The workloads that make a workload's inputs, with the input that says so.
    fn upstream<'w>(&self, work: &'w Work) -> impl Iterator<Item = (usize, &'w Word)> {
        work.inputs.iter().filter_map(|(_, source)| match self.made.get(source.text.as_str()) {
            Some(Maker::Stage(i)) => Some((*i, source)),
            _ => None,
        })
    }
}

fn workload_names(draft: &Draft, sink: &mut Sink) {
    let mut seen: HashMap<&str, Span> = HashMap::new();
    for work in &draft.workloads {
        // Within one mapping a double is a duplicate key, so these are of two kinds.
        if let Some(first) = seen.insert(&work.name.text, work.name.span) {
            let hint = format!(
                "the other is at line {}; stages, services and datasets with `from` share their names",
                first.line
            );
            sink.add(work.name.span, format!("{} is the name of two of them", quoted(&work.name.text)), hint);
        }
    }
}

fn inputs(work: &Work, graph: &Graph, sink: &mut Sink) {
    let mut aliases: HashMap<String, &str> = HashMap::new();
    for (alias, source) in &work.inputs {
        if !graph.made.contains_key(source.text.as_str()) {
            let message = format!("there is no dataset or output {}", quoted(&source.text));
            let hint = if sink.is_crowded() { String::new() } else { missing_hint(&source.text, graph) };
            sink.add(source.span, message, hint);
        }
        clash(&mut aliases, alias, "input", sink);
    }
}

fn missing_hint(text: &str, graph: &Graph) -> String {
    if let Some(word) = nearest(text, graph.made.keys().copied().collect::<BTreeSet<_>>()) {
        return format!("did you mean `{word}`?");
    }
    "declare it under `data:`, or in the `out` of a stage".to_owned()
}

/// Names of inputs and outputs become names of environment variables, where `-` and `_` are one.
fn clash<'w>(seen: &mut HashMap<String, &'w str>, word: &'w Word, what: &str, sink: &mut Sink) {
    match seen.insert(word.text.replace('-', "_"), &word.text) {
        Some(first) if first == word.text => {
            sink.add(word.span, format!("the {what} {} is listed twice", quoted(first)), "list it once");
        }
        Some(first) => {
            let message =
                format!("the {what}s {} and {} differ only in `-` and `_`", quoted(first), quoted(&word.text));
            sink.add(word.span, message, "they would share one environment variable; rename one of them");
        }
        None => {}
    }
}

fn outputs(work: &Work, sink: &mut Sink) {
    let whose = quoted(&work.name.text);
    let declared = |word: &Word| work.outputs.iter().any(|output| output.text == word.text);
    let hint = |word: &Word| match nearest(&word.text, work.outputs.iter().map(|output| output.text.as_str())) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("add it to `out` of {whose}"),
    };
    let mut names: HashMap<String, &str> = HashMap::new();
    let mut seen = BTreeSet::new();
    for output in work.outputs.iter().filter(|output| seen.insert(&output.text)) {
        clash(&mut names, output, "output", sink);
    }
    let mut released = HashMap::new();
    for release in &work.releases {
        if !declared(release) {
            let message = format!("`release` names {}, which is no output of {whose}", quoted(&release.text));
            sink.add(release.span, message, hint(release));
        } else if released.insert(&release.text, ()).is_some() {
            sink.add(release.span, format!("{} is released twice", quoted(&release.text)), "list it once");
        }
    }
    for (expected, _) in work.expects.iter().filter(|(expected, _)| !declared(expected)) {
        let message = format!("`expect` names {}, which is no output of {whose}", quoted(&expected.text));
        sink.add(expected.span, message, hint(expected));
    }
    if let Some(gate) = work.gate.as_ref().filter(|gate| !declared(gate)) {
        let message = format!("`gate` reads {}, which is no output of {whose}", quoted(&gate.text));
        sink.add(gate.span, message, hint(gate));
    }
    if let Some(span) = work.sql {
        if work.outputs.len() != 1 {
            let message = format!("a stage with `sql` has exactly one output, and {whose} has {}", work.outputs.len());
            sink.add(span, message, format!("such as `out: [{}]`", work.name.text));
        }
        if let Some(gate) = &work.gate {
            sink.add(gate.span, "a query writes Parquet, not JSON that `gate` could read", "gate in a later stage");
        }
    }
}

fn environment(work: &Work, sink: &mut Sink) {
    let mut set: BTreeMap<&str, Span> = BTreeMap::new();
    let variable = |secret: &Word| secret.text.to_ascii_uppercase().replace('-', "_");
    let tracks_elsewhere = work.env.iter().any(|word| word.text == TRACKING_SERVER)
        || work.secrets.iter().any(|secret| variable(secret) == TRACKING_SERVER);
    let reserved = |variable: &str| reserved(variable, tracks_elsewhere);
    for word in &work.env {
        set.insert(&word.text, word.span);
        if let Some(why) = reserved(&word.text) {
            sink.add(word.span, format!("the environment variable {} is Tombolo's own", quoted(&word.text)), why);
        }
    }
    let mut secrets: BTreeMap<String, &Word> = BTreeMap::new();
    for word in &work.secrets {
        let variable = variable(word);
        let what = quoted(&word.text);
        if reserved(&variable).is_some() {
            let message = format!("the secret {what} would set ${variable}, which is Tombolo's own");
            sink.add(word.span, message, "give the secret another name");
        } else if let Some(span) = set.get(variable.as_str()) {
            let message = format!("the secret {what} would set ${variable}, which `env` sets already");
            sink.add(word.span, message, format!("leave one of them out; `env` sets it at line {}", span.line));
        } else if let Some(first) = secrets.insert(variable.clone(), word) {
            let message = format!("the secrets {} and {what} would both set ${variable}", quoted(&first.text));
            sink.add(word.span, message, "leave one of them out");
        }
    }
}

fn reserved(variable: &str, tracks_elsewhere: bool) -> Option<&'static str> {
    if variable == "PORT" {
        return Some("use `port` of a service to choose it");
    }
    if variable.starts_with("TOMBOLO_") {
        return Some("use another name; names with TOMBOLO_ are set by Tombolo");
    }
    let own = TRACKING_ENV.contains(&variable) && !tracks_elsewhere;
    own.then_some("leave it out; it is yours only beside a MLFLOW_TRACKING_URI of your own")
}

/// Two servers can't listen on one port; that is certain where both can only be at one and the same named site.
fn ports(draft: &Draft, sink: &mut Sink) {
    let mut taken: HashMap<(&str, u16), &Work> = HashMap::new();
    for work in &draft.workloads {
        let Kind::Service(service) = &work.spec.kind else { continue };
        let (Some(port), Some(span)) = (service.port, work.port) else { continue };
        let sites = work.spec.site.as_ref().and_then(named).unwrap_or_default();
        let [site] = sites.as_slice() else { continue };
        let hint = "leave `port` out: Tombolo picks one and says so in $PORT";
        if service.replicas > 1 {
            let message = format!("{} replicas at site `{site}` can't all listen on port {port}", service.replicas);
            sink.add(span, message, hint);
        }
        if let Some(first) = taken.insert((*site, port), work) {
            let first = quoted(&first.name.text);
            sink.add(span, format!("port {port} at site `{site}` is taken by service {first} already"), hint);
        }
    }
}

/// The sites that a selector names, sorted; nothing where it picks by labels, which only a plan can decide.
fn named(selector: &Selector) -> Option<Rc<Vec<&str>>> {
    let mut sites = Vec::new();
    for term in &selector.0 {
        match term {
            Term::Site(site) => sites.push(site.as_str()),
            Term::Labels(_) => return None,
        }
    }
    Some(Rc::new(sites))
}

/// The workloads, each after those that it needs; those in or behind a cycle are left out and the cycles reported.
fn in_order(draft: &Draft, graph: &Graph, sink: &mut Sink) -> Vec<usize> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
        /// In or behind a cycle.
        Bad,
    }
    let works = &draft.workloads;
    let upstream: Vec<Vec<(usize, &Word)>> = works.iter().map(|work| graph.upstream(work).collect()).collect();
    let mut marks = vec![Mark::New; works.len()];
    let mut order = Vec::new();
    for start in 0..works.len() {
        if marks[start] != Mark::New {
            continue;
        }
        // A stack of its own, as a chain may be as long as there are stages.
        let mut way: Vec<(usize, usize)> = vec![(start, 0)];
        marks[start] = Mark::Open;
        while let Some((at, next)) = way.last_mut() {
            let at = *at;
            let Some(&(to, input)) = upstream[at].get(*next) else {
                way.pop();
                if marks[at] == Mark::Open {
                    let bad = upstream[at].iter().any(|(to, _)| marks[*to] == Mark::Bad);
                    marks[at] = if bad { Mark::Bad } else { Mark::Done };
                }
                if marks[at] == Mark::Done {
                    order.push(at);
                }
                continue;
            };
            *next += 1;
            match marks[to] {
                Mark::New => {
                    marks[to] = Mark::Open;
                    way.push((to, 0));
                }
                Mark::Open => {
                    let from = way.iter().position(|(i, _)| *i == to).unwrap_or(0);
                    let cycle: Vec<usize> = way[from..].iter().map(|(i, _)| *i).collect();
                    report_cycle(&cycle, draft, input, sink);
                    cycle.iter().for_each(|i| marks[*i] = Mark::Bad);
                }
                Mark::Done | Mark::Bad => {}
            }
        }
    }
    order
}

/// `needs` holds stages each of which reads from the next, and the last from the first by `input`.
fn report_cycle(needs: &[usize], draft: &Draft, input: &Word, sink: &mut Sink) {
    // Written the way that the data goes, from the stage that stands first in the file.
    let mut flow: Vec<usize> = needs.iter().rev().copied().collect();
    let first = flow.iter().enumerate().min_by_key(|(_, i)| **i).map_or(0, |(at, _)| at);
    flow.rotate_left(first);
    flow.push(flow[0]);
    let mut names: Vec<&str> = flow.iter().map(|i| draft.workloads[*i].name.text.as_str()).collect();
    if names.len() > CYCLE_SHOWN_MAX {
        names.splice(CYCLE_SHOWN_MAX / 2..names.len() - CYCLE_SHOWN_MAX / 2, ["..."]);
    }
    let message = match needs {
        [_] => format!("a stage reads its own output: {}", names.join(" -> ")),
        _ => format!("stages wait for each other: {}", names.join(" -> ")),
    };
    sink.add(input.span, message, format!("take {} or another of these inputs out", quoted(&input.text)));
}

/// A rule by names: the only sites where bytes may be, and the dataset that the rule came from.
type Rules<'d> = BTreeMap<Rc<Vec<&'d str>>, &'d str>;

/// Rules by names that no site can keep, through all derived data. Labels are decided when a plan is made.
fn residency(draft: &Draft, graph: &Graph, order: &[usize], sink: &mut Sink) {
    let mut rules: HashMap<&str, Rc<Rules>> = HashMap::new();
    for (word, spec) in &draft.data {
        let named = spec.residency.0.iter().filter_map(named);
        rules.insert(&word.text, Rc::new(named.map(|sites| (sites, word.text.as_str())).collect()));
    }
    for work in order.iter().map(|i| &draft.workloads[*i]) {
        let mut sources: Vec<(&str, Rc<Rules>)> = Vec::new();
        for (_, source) in &work.inputs {
            let known = rules.get(source.text.as_str()).filter(|_| graph.made.contains_key(source.text.as_str()));
            sources.extend(known.map(|rules| (source.text.as_str(), rules.clone())));
        }
        let all = match sources.as_slice() {
            [(_, one)] => one.clone(),
            many => {
                Rc::new(many.iter().flat_map(|(_, r)| r.iter().map(|(sites, data)| (sites.clone(), *data))).collect())
            }
        };
        let met = check_site(work, &sources, sink) && check_meeting(work, &all, sink) && check_own(work, sink);
        for output in &work.outputs {
            // A conflict is told once, where it begins, and not again for everything behind it.
            let free = !met || work.releases.iter().any(|release| release.text == output.text);
            let mut kept = if free { Rc::default() } else { all.clone() };
            // An import's own rule is of what it makes, wherever it runs.
            let own = work.spec.job().map(|job| &job.keep_at.0).into_iter().flatten().filter_map(named);
            own.for_each(|sites| {
                Rc::make_mut(&mut kept).insert(sites, output.text.as_str());
            });
            rules.insert(&output.text, kept);
        }
    }
}

/// Whether at least one of the sites that the workload names may hold each input.
fn check_site(work: &Work, sources: &[(&str, Rc<Rules>)], sink: &mut Sink) -> bool {
    let (Some(span), Some(wanted)) = (work.site, work.spec.site.as_ref().and_then(named)) else { return true };
    for (source, rules) in sources {
        for (sites, data) in rules.iter() {
            if wanted.iter().any(|site| sites.contains(site)) {
                continue;
            }
            let (whose, where_to) = (quoted(&work.name.text), wanted.join("` or `"));
            let kept = sites.join("` or `");
            let derived = if source == data { String::new() } else { format!(", as it derives from `{data}`") };
            let message =
                format!("{whose} is to run at `{where_to}`, but its input `{source}` must stay at `{kept}`{derived}");
            let release = match source == data {
                true => "read an output that an earlier stage releases".to_owned(),
                false => format!("`release` `{source}` in the stage that makes it, if it may leave"),
            };
            sink.add(span, message, format!("run it at `{kept}`, or {release}"));
            return false;
        }
    }
    true
}

/// Whether an import may run where what it brings may be.
fn check_own(work: &Work, sink: &mut Sink) -> bool {
    let (Some(span), Some(wanted)) = (work.site, work.spec.site.as_ref().and_then(named)) else { return true };
    for kept in work.spec.job().map(|job| &job.keep_at.0).into_iter().flatten().filter_map(named) {
        if !wanted.iter().any(|site| kept.contains(site)) {
            let (whose, where_to) = (quoted(&work.name.text), wanted.join("` or `"));
            let kept = kept.join("` or `");
            let message = format!("{whose} is to be read at `{where_to}`, but must stay at `{kept}`");
            sink.add(span, message, format!("read it at `{kept}`"));
            return false;
        }
    }
    true
}

/// Whether at least one site, of those that the workload names if it does, may hold all inputs together.
fn check_meeting(work: &Work, rules: &Rules, sink: &mut Sink) -> bool {
    let whose = quoted(&work.name.text);
    let mut all = rules.iter();
    let Some((kept, first)) = all.next() else { return true };
    let mut common: BTreeSet<&str> = kept.iter().copied().collect();
    for (sites, data) in all {
        common.retain(|site| sites.contains(site));
        if common.is_empty() {
            let (here, there) = (kept.join("` or `"), sites.join("` or `"));
            let hint = format!("`{first}` must stay at `{here}` and `{data}` at `{there}`; release what may leave");
            sink.add(work.name.span, format!("no site may hold all inputs of {whose}"), hint);
            return false;
        }
    }
    let wanted = work.spec.site.as_ref().and_then(named);
    let (Some(span), Some(wanted)) = (work.site, wanted) else { return true };
    if wanted.iter().any(|site| common.contains(site)) {
        return true;
    }
    let (where_to, kept) = (wanted.join("` or `"), common.into_iter().collect::<Vec<_>>().join("` or `"));
    let message = format!("{whose} is to run at `{where_to}`, but its inputs may be together only at `{kept}`");
    sink.add(span, message, format!("run it at `{kept}`, or release what may leave"));
    false
}
