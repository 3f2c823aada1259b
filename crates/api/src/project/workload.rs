//! Stages and services: the keys that both have, and each one's own.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_core::Resources;
use tombolo_core::routes::{Access, DRAIN_DEFAULT, DRAIN_MAX, WEIGHT_MAX};
use tombolo_core::spec::{
    Bound, Command, FAILOVER_AFTER_MIN, GRACE_DEFAULT, Gate, Job, Kind, Python, REASON_CHARS_MAX, Ready,
    SNAPSHOT_EVERY_MIN, SNAPSHOT_SITES_MAX, Service, StateCopies, WorkloadSpec,
};
use tombolo_core::{Millis, Name, SiteId};

use super::amount;
use super::fault::{Span, quoted};
use super::node::{Key, Node, Value};
use super::read::{Fields, Reader, Word, Work};
use super::table;

/// How long a service may take to become ready unless it says otherwise.
pub const READY_TIMEOUT_DEFAULT: Millis = Millis::from_secs(120);
/// Most names in one list, environment variables, or requirements of a workload.
const ITEMS_MAX: usize = 1_000;

const SHELL_COMMAND: &str = "a shell command such as `python train.py`";

impl Reader<'_, '_> {
    pub fn workload(&mut self, key: &Key, node: &Node, service: bool) -> Option<Work> {
        self.check_name(&key.text, key.span);
        let (table, other, kind) = match service {
            false => (&table::STAGE, (&table::SERVICE, "a service"), "stage"),
            true => (&table::SERVICE, (&table::STAGE, "a stage"), "service"),
        };
        let fields = self.fields(node, table, &[other], &format!("{kind} {}", quoted(&key.text)))?;
        let (inputs, env) = (self.inputs(&fields), self.env(&fields));
        let mut work = Work {
            name: Word { text: key.text.clone(), span: key.span },
            inputs,
            outputs: Vec::new(),
            releases: Vec::new(),
            gate: None,
            expects: Vec::new(),
            site: fields.get("site").map(|node| node.span),
            port: None,
            sql: None,
            env: env.iter().map(|(word, _)| word.clone()).collect(),
            secrets: fields.get("secrets").map(|node| self.words(node)).unwrap_or_default(),
            spec: WorkloadSpec {
                kind: Kind::Job(Job::default()),
                command: Command::Run(String::new()),
                python: fields.get("python").and_then(|node| self.python(node)),
                image: fields.get("image").and_then(|node| self.image(node)),
                inputs: BTreeMap::new(),
                env: env.into_iter().map(|(word, value)| (word.text, value)).collect(),
                secrets: BTreeSet::new(),
                resources: fields.get("resources").map(|node| self.resources(node)).unwrap_or_default(),
                site: fields.get("site").and_then(|node| self.selector(node)),
                grace: fields.get("grace").and_then(|node| self.duration(node)).unwrap_or(GRACE_DEFAULT),
                priority: self.number_or(&fields, "priority", -table::PRIORITY_MAX, table::PRIORITY_MAX, 0),
                failover_after: fields.get("failover_after").and_then(|node| self.lease(node)),
                duration: fields.get("duration").and_then(|node| self.span(node)),
                home: fields.get("home").and_then(|node| self.site_name(node)),
                leaning: fields.get("placement").and_then(|node| self.leaning(node)),
                state: fields.get("state").and_then(|node| self.snapshots(node)),
            },
        };
        if let Some(command) = fields.get("run").and_then(|node| self.text(node, SHELL_COMMAND)) {
            work.spec.command = Command::Run(command);
        }
        match service {
            false => self.stage(&fields, &mut work),
            true => self.service(&fields, &mut work),
        }
        fields.finish();
        Some(work)
    }

    fn lease(&mut self, node: &Node) -> Option<Millis> {
        let lease = self.span(node)?;
        if lease < FAILOVER_AFTER_MIN {
            let message = format!("failover_after is at least {FAILOVER_AFTER_MIN}");
            self.fault(node.span, message, "a shorter lease would end between two reports of a site that is well");
            return None;
        }
        Some(lease)
    }

    fn snapshots(&mut self, node: &Node) -> Option<StateCopies> {
        let fields = self.fields(node, &table::STATE, &[], "`state`")?;
        let sites = self.number_or(&fields, "sites", 1, i64::from(SNAPSHOT_SITES_MAX), 1);
        let every = fields.get("every").map(|node| (node.span, self.span(node)));
        fields.finish();
        let (span, every) = every?;
        if every? < SNAPSHOT_EVERY_MIN {
            let message = format!("`every` is at least {SNAPSHOT_EVERY_MIN}");
            self.fault(span, message, "each copy looks at every file of the state directory");
            return None;
        }
        Some(StateCopies { every: every?, sites })
    }

    fn stage(&mut self, fields: &Fields, work: &mut Work) {
        work.outputs = fields.get("out").map(|node| self.words(node)).unwrap_or_default();
        let reasons = self.releases(fields, work);
        if let Some(node) = fields.get("sql") {
            work.sql = Some(node.span);
            if let Some(query) = self.sql(node) {
                work.spec.command = Command::Sql(query);
            }
            for key in ["python", "image", "env", "secrets"] {
                if let Some(span) = fields.span(key) {
                    let hint = "a query runs in the built-in engine; leave the key out";
                    self.fault(span, format!("`{key}` means nothing for a stage with `sql`"), hint);
                }
            }
        }
        work.expects = fields.get("expect").map(|node| self.expects(node)).unwrap_or_default();
        let gate = fields.get("gate").and_then(|node| self.gate(node, work));
        let timeout = fields.get("timeout").and_then(|node| self.span(node));
        let retries = self.number_or(fields, "retries", 0, table::RETRIES_MAX, 0);
        work.spec.kind = Kind::Job(Job { retries, timeout, gate, reasons, ..Job::default() });
    }

    fn service(&mut self, fields: &Fields, work: &mut Work) {
        let port = fields.get("port").and_then(|node| self.whole(node, 1, 65_535));
        work.port = fields.get("port").map(|node| node.span);
        let ready = fields.get("ready").and_then(|node| self.ready(node));
        let replicas = self.number_or(fields, "replicas", 1, table::REPLICAS_MAX, 1);
        let single = fields.get("single").and_then(|node| self.flag(node)).unwrap_or(false);
        if single && replicas > 1 {
            let span = fields.span("single").expect("it was read");
            self.fault(span, "`single` and several `replicas` exclude each other", "leave one of them out");
        }
        let port = port.and_then(|port| u16::try_from(port).ok());
        let access = fields.get("access").and_then(|node| self.access(node)).unwrap_or_default();
        let drain = fields.get("drain").and_then(|node| self.drain(node)).unwrap_or(DRAIN_DEFAULT);
        let weights = fields.get("weights").map(|node| self.weights(node)).unwrap_or_default();
        let keeps_prefix = fields.get("prefix").and_then(|node| self.prefix(node)).unwrap_or(false);
        let service = Service { port, ready, replicas, single, access, drain, weights, keeps_prefix };
        work.spec.kind = Kind::Service(service);
    }

    fn access(&mut self, node: &Node) -> Option<Access> {
        match node.text() {
            Some("token") => Some(Access::Token),
            Some("token-passed") => Some(Access::TokenPassed),
            Some("public") => Some(Access::Public),
            _ => {
                self.wrong_type(node, "`token`, `token-passed` or `public`");
                None
            }
        }
    }

    /// Whether it stays.
    fn prefix(&mut self, node: &Node) -> Option<bool> {
        match node.text() {
            Some("keep") => Some(true),
            Some("strip") => Some(false),
            _ => {
                self.wrong_type(node, "`strip` or `keep`");
                None
            }
        }
    }

    fn drain(&mut self, node: &Node) -> Option<Millis> {
        // None at all is a fine answer here.
        let drain = self.duration(node)?;
        if drain > DRAIN_MAX {
            self.fault(node.span, format!("drain is at most {DRAIN_MAX}"), "what takes longer is cut off");
            return None;
        }
        Some(drain)
    }

    fn weights(&mut self, node: &Node) -> BTreeMap<SiteId, u32> {
        let mut weights = BTreeMap::new();
        for entry in self.entries(node, "a mapping from sites to weights, such as `{onprem: 3, cloud: 1}`") {
            self.check_name(&entry.key.text, entry.key.span);
            let weight = self.whole(&entry.node, 0, i64::from(WEIGHT_MAX));
            let weight = weight.and_then(|weight| u32::try_from(weight).ok());
            weights.extend(SiteId::new(entry.key.text.as_str()).ok().zip(weight));
        }
        if !weights.is_empty() && weights.values().all(|weight| *weight == 0) {
            self.fault(node.span, "no site has a weight above 0", "leave `weights` out: then the nearest gets all");
        }
        weights
    }

    fn number_or<N: TryFrom<i64>>(&mut self, fields: &Fields, key: &'static str, min: i64, max: i64, default: N) -> N {
        let number = fields.get(key).and_then(|node| self.whole(node, min, max));
        number.and_then(|number| N::try_from(number).ok()).unwrap_or(default)
    }

    /// A name or a list of names.
    pub fn words(&mut self, node: &Node) -> Vec<Word> {
        let items: Vec<&Node> = match &node.value {
            Value::List(items) => items.iter().map(|item| &**item).collect(),
            Value::Scalar { .. } if !node.is_null() => vec![node],
            _ => {
                self.wrong_type(node, "a name or a list of names");
                return Vec::new();
            }
        };
        if items.len() > ITEMS_MAX {
            self.fault(node.span, format!("the list has more than {ITEMS_MAX} names"), "");
            return Vec::new();
        }
        let word = |item: &Node| Some(Word { text: self.name(item)?, span: item.span });
        items.into_iter().filter_map(word).collect()
    }

    /// Takes in what is released; why, where it is said.
    fn releases(&mut self, fields: &Fields, work: &mut Work) -> BTreeMap<Name, String> {
        let Some(node) = fields.get("release") else { return BTreeMap::new() };
        let Value::Map(entries) = &node.value else {
            work.releases = self.words(node);
            return BTreeMap::new();
        };
        if entries.len() > ITEMS_MAX {
            self.fault(node.span, format!("there are more than {ITEMS_MAX} releases"), "");
            return BTreeMap::new();
        }
        let mut reasons = BTreeMap::new();
        for entry in entries {
            self.check_name(&entry.key.text, entry.key.span);
            work.releases.push(Word { text: entry.key.text.clone(), span: entry.key.span });
            let Some(reason) = self.text(&entry.node, "a reason, as text") else { continue };
            if !(1..=REASON_CHARS_MAX).contains(&reason.trim().chars().count()) {
                let message = format!("the reason for a release has 1 to {REASON_CHARS_MAX} characters");
                self.fault(entry.node.span, message, "say why it may leave; the audit log keeps it");
            }
            reasons.extend(Name::new(entry.key.text.as_str()).ok().map(|name| (name, reason)));
        }
        reasons
    }

    fn inputs(&mut self, fields: &Fields) -> Vec<(Word, Word)> {
        let Some(node) = fields.get("in") else { return Vec::new() };
        let Value::Map(entries) = &node.value else {
            return self.words(node).into_iter().map(|word| (word.clone(), word)).collect();
        };
        if entries.len() > ITEMS_MAX {
            self.fault(node.span, format!("there are more than {ITEMS_MAX} inputs"), "");
            return Vec::new();
        }
        let mut inputs = Vec::new();
        for entry in entries {
            self.check_name(&entry.key.text, entry.key.span);
            let alias = Word { text: entry.key.text.clone(), span: entry.key.span };
            inputs.extend(self.name(&entry.node).map(|text| (alias, Word { text, span: entry.node.span })));
        }
        inputs
    }

    pub fn env(&mut self, fields: &Fields) -> Vec<(Word, String)> {
        let Some(node) = fields.get("env") else { return Vec::new() };
        let entries = self.entries(node, "a mapping from names to values");
        if entries.len() > ITEMS_MAX {
            self.fault(node.span, format!("there are more than {ITEMS_MAX} environment variables"), "");
            return Vec::new();
        }
        let mut env = Vec::new();
        for entry in entries {
            let (text, span) = (entry.key.text.clone(), entry.key.span);
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if text.is_empty() || text.starts_with(|c: char| c.is_ascii_digit()) || !text.chars().all(fits) {
                let hint = "use letters, digits and `_`, not beginning with a digit";
                self.fault(span, format!("{} can't be an environment variable", quoted(&text)), hint);
                continue;
            }
            // An empty text is a fine value; a missing one is more likely forgotten.
            let value = self.scalar(&entry.node, "text (`\"\"` for an empty one)");
            if value.as_ref().is_some_and(|value| value.contains('\0')) {
                self.fault(entry.node.span, "an environment variable can't hold a zero byte", "");
            }
            env.extend(value.map(|value| (Word { text, span }, value)));
        }
        env
    }

    /// A path to a query, or the query: only a query has white space.
    pub fn sql(&mut self, node: &Node) -> Option<String> {
        let text = self.text(node, "a query, or a path to a .sql file")?;
        if text.trim().contains(char::is_whitespace) {
            return Some(text);
        }
        if !text.to_ascii_lowercase().ends_with(".sql") {
            let message = format!("{} is neither a query nor a path to a .sql file", quoted(&text));
            self.fault(node.span, message, "such as `sql: features.sql` or `sql: SELECT * FROM raw`");
            return None;
        }
        let path = self.path(node, "a path")?;
        let query = self.load(&path, node.span, "the query file")?;
        if query.trim().is_empty() {
            self.fault(node.span, format!("the query file {} is empty", quoted(&path)), "");
        }
        Some(query)
    }

    fn image(&mut self, node: &Node) -> Option<String> {
        let text = self.text(node, "a container image such as `python:3.11-slim`")?;
        if text.contains(char::is_whitespace) || text.starts_with('-') {
            self.fault(node.span, format!("{} is no container image", quoted(&text)), "such as `python:3.11-slim`");
            return None;
        }
        Some(text)
    }

    fn python(&mut self, node: &Node) -> Option<Python> {
        let Value::Map(_) = &node.value else {
            return Some(Python { requirements: self.requirements(node), version: None });
        };
        let fields = self.fields(node, &table::PYTHON, &[], "`python`")?;
        let requirements = fields.get("requirements").map(|node| self.requirements(node)).unwrap_or_default();
        let version = fields.get("version").and_then(|node| {
            let text = self.scalar(node, "a version such as `3.11`")?;
            let parts: Vec<&str> = text.split('.').collect();
            let digits = |part: &&str| !part.is_empty() && part.len() <= 3 && part.bytes().all(|b| b.is_ascii_digit());
            if parts[0] != "3" || !(2..=3).contains(&parts.len()) || !parts.iter().all(digits) {
                self.fault(node.span, format!("{} is no version of Python 3", quoted(&text)), "such as `3.11`");
                return None;
            }
            Some(text)
        });
        fields.finish();
        Some(Python { requirements, version })
    }

    /// From a list, or from the requirements file at a path.
    fn requirements(&mut self, node: &Node) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        match &node.value {
            Value::List(items) => {
                for item in items {
                    let text = self.text(item, "a requirement such as `scikit-learn==1.5.2`");
                    found.extend(text.and_then(|text| self.requirement(&text, item.span, None)));
                }
            }
            Value::Scalar { .. } if !node.is_null() => {
                let path = self.path(node, "a path to a requirements file");
                if node.text().is_some_and(|text| text.contains("==")) {
                    self.fault(node.span, "expected a path to a requirements file", "put requirements into a list");
                } else if let Some((path, text)) =
                    path.and_then(|path| Some((path.clone(), self.load(&path, node.span, "the requirements file")?)))
                {
                    // A backslash at a line's end continues it, as in a requirements file.
                    let lines = text.replace("\\\r\n", " ").replace("\\\n", " ");
                    let lines = lines.lines().enumerate();
                    found.extend(lines.filter_map(|(i, line)| self.requirement(line, node.span, Some((&path, i + 1)))));
                }
            }
            _ => self.wrong_type(node, "a path to a requirements file, or a list of requirements"),
        }
        if found.len() > ITEMS_MAX {
            self.fault(node.span, format!("there are more than {ITEMS_MAX} requirements"), "");
        }
        found
    }

    /// A line without its comment; nothing for an empty one.
    fn requirement(&mut self, line: &str, span: Span, file: Option<(&str, usize)>) -> Option<String> {
        let line = line.trim_start_matches('\u{feff}');
        let line = if line.trim_start().starts_with('#') { "" } else { line.split(" #").next().unwrap_or_default() };
        let text = line.split_whitespace().collect::<Vec<_>>().join(" ");
        if text.is_empty() {
            return None;
        }
        if text.starts_with('-') {
            let place = file.map(|(path, number)| format!(" at line {number} of `{path}`")).unwrap_or_default();
            let message = format!("the option {}{place} is not supported", quoted(&text));
            self.fault(span, message, "list the requirements themselves, one a line");
            return None;
        }
        Some(text)
    }

    fn resources(&mut self, node: &Node) -> Resources {
        let mut resources = Resources::default();
        let Some(fields) = self.fields(node, &table::RESOURCES, &[], "`resources`") else { return resources };
        if let Some(node) = fields.get("cpus") {
            resources.cpus_milli = self.cpus(node);
        }
        if let Some(node) = fields.get("memory") {
            resources.memory_bytes = self.size(node, "memory", table::MEMORY_BYTES_MAX);
        }
        if let Some(node) = fields.get("disk") {
            resources.disk_bytes = self.size(node, "disk", table::DISK_BYTES_MAX);
        }
        if let Some(node) = fields.get("gpus") {
            for entry in self.entries(node, "a mapping from kinds to counts, such as `{a100: 1}`") {
                self.check_name(&entry.key.text, entry.key.span);
                let count = entry.node.text().and_then(|text| text.parse().ok());
                let count = count.filter(|count| (1..=table::GPUS_MAX).contains(count));
                if count.is_none() {
                    let expected = format!("expected 1 to {} of {}", table::GPUS_MAX, quoted(&entry.key.text));
                    let message = format!("impossible resources: {expected}, found {}", entry.node.found());
                    self.fault(entry.node.span, message, "leave the kind out where none is needed");
                }
                let count = count.and_then(|count| u32::try_from(count).ok());
                resources.gpus.extend(Name::new(entry.key.text.as_str()).ok().zip(count));
            }
        }
        fields.finish();
        resources
    }

    fn cpus(&mut self, node: &Node) -> u64 {
        let Some(text) = self.scalar(node, "a number of cpus such as `2` or `0.5`") else { return 0 };
        let hint = "give a number of cores above zero, such as `2` or `0.5`";
        let impossible = match amount::cpus_milli(&text) {
            Ok(milli) if milli > 0 && milli <= table::CPUS_MAX * 1000 => return milli,
            Ok(0) => "is not above zero".to_owned(),
            Ok(_) | Err(amount::BadAmount::TooLarge) => format!("is more than {} cpus", table::CPUS_MAX),
            Err(_) if text.starts_with('-') => "is below zero".to_owned(),
            Err(bad) => format!("is no number of cpus: {bad}"),
        };
        self.fault(node.span, format!("impossible resources: {} {impossible}", quoted(&text)), hint);
        0
    }

    fn size(&mut self, node: &Node, what: &str, max: u64) -> u64 {
        let Some(text) = self.scalar(node, "a size such as `512MiB` or `2GB`") else { return 0 };
        let impossible = match amount::size(&text) {
            Ok(bytes) if bytes > 0 && bytes <= max => return bytes,
            Ok(0) => "is not above zero".to_owned(),
            Ok(_) | Err(amount::BadAmount::TooLarge) => format!("is more than {}", tombolo_core::resources::bytes(max)),
            Err(_) if text.starts_with('-') => "is below zero".to_owned(),
            Err(bad) => format!("is no size: {bad}"),
        };
        let message = format!("impossible resources: {} of {what} {impossible}", quoted(&text));
        self.fault(node.span, message, "sizes are such as `512MiB`, `2GB` or `1.5GiB`");
        0
    }

    fn gate(&mut self, node: &Node, work: &mut Work) -> Option<Gate> {
        let fields = self.fields(node, &table::GATE, &[], "`gate`")?;
        let output = fields.get("output").and_then(|node| Some(Word { text: self.name(node)?, span: node.span }));
        work.gate = match (output, work.outputs.as_slice()) {
            (None, [only]) if fields.span("output").is_none() => Some(only.clone()),
            (None, _) if fields.span("output").is_none() => {
                let hint = "only where a stage has exactly one output it need not be told";
                self.fault(node.span, "`gate` lacks `output`", hint);
                None
            }
            (output, _) => output,
        };
        let file = fields.get("file").and_then(|node| self.path(node, "a JSON file within the output"));
        let metric = fields.get("metric").and_then(|node| self.text(node, "a key of the JSON object"));
        let at_least = fields.get("at_least").and_then(|node| self.number(node, "a number"));
        let at_most = fields.get("at_most").and_then(|node| self.number(node, "a number"));
        fields.finish();
        let bound = at_least.map(Bound::AtLeast).or(at_most.map(Bound::AtMost))?;
        let output = Name::new(work.gate.as_ref()?.text.as_str()).ok()?;
        Some(Gate { output, file: file?, metric: metric?, bound })
    }

    fn ready(&mut self, node: &Node) -> Option<Ready> {
        let Value::Map(_) = &node.value else {
            return Some(Ready { path: self.ready_path(node)?, timeout: READY_TIMEOUT_DEFAULT });
        };
        let fields = self.fields(node, &table::READY, &[], "`ready`")?;
        let path = fields.get("path").and_then(|node| self.ready_path(node));
        let timeout = fields.get("timeout").map(|node| self.span(node));
        fields.finish();
        Some(Ready { path: path?, timeout: timeout.flatten().unwrap_or(READY_TIMEOUT_DEFAULT) })
    }

    fn ready_path(&mut self, node: &Node) -> Option<String> {
        let text = self.text(node, "a path such as `/healthz`")?;
        if !text.starts_with('/') || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            let hint =
                format!("such as `/{}`", text.trim_start_matches('/').split_whitespace().next().unwrap_or("healthz"));
            self.fault(node.span, format!("{} is no path of a request: it begins with `/`", quoted(&text)), hint);
            return None;
        }
        Some(text)
    }
}
