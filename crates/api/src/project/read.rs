//! From the tree to a draft: every value read by itself, with the places that later checks need.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_core::expect::Expect;
use tombolo_core::spec::{DataSpec, Kind, Logs, Objective, PRIORITIES_MAX, ProjectSpec, STAGES_MAX, WorkloadSpec};
use tombolo_core::{Millis, Name, Residency};

use super::fault::{Sink, Span, nearest, quoted};
use super::loader::Loader;
use super::node::{Entry, Key, Node, Value};
use super::table::{self, Table};
use super::{DATASETS_MAX, amount};

/// Longest text of a single value, in bytes.
const VALUE_BYTES_MAX: usize = 64 << 10;
/// Longest span that may be asked for.
const DURATION_MAX: Millis = Millis::from_secs(366 * 86_400);

/// A word with its place; the word may be no valid name, which is reported once and makes no further faults.
#[derive(Debug, Clone)]
pub(super) struct Word {
    pub text: String,
    pub span: Span,
}

impl Word {
    fn name(&self) -> Option<Name> {
        Name::new(self.text.as_str()).ok()
    }
}

/// A project of which every value was read, and nothing between them is checked yet.
pub(super) struct Draft {
    pub name: Name,
    pub objective: Objective,
    pub data: Vec<(Word, DataSpec)>,
    pub workloads: Vec<Work>,
}

/// What an entry under `data` is.
enum Dataset {
    Given(DataSpec),
    Import(Box<Work>),
}

/// A stage or a service. What refers to other parts is here with its place, and only later put into the spec.
pub(super) struct Work {
    pub name: Word,
    pub spec: WorkloadSpec,
    /// The name inside, and the dataset or output.
    pub inputs: Vec<(Word, Word)>,
    pub outputs: Vec<Word>,
    pub releases: Vec<Word>,
    pub gate: Option<Word>,
    pub expects: Vec<(Word, Expect)>,
    pub site: Option<Span>,
    pub port: Option<Span>,
    pub sql: Option<Span>,
    pub env: Vec<Word>,
    pub secrets: Vec<Word>,
}

impl Draft {
    /// Only for a draft without faults: names that are none would be left out.
    pub fn into_spec(self) -> ProjectSpec {
        let data = self.data.into_iter().filter_map(|(word, spec)| Some((word.name()?, spec))).collect();
        let workloads = self.workloads.into_iter().filter_map(|work| Some((work.name.name()?, work.into_spec())));
        ProjectSpec { name: self.name, data, workloads: workloads.collect(), objective: self.objective }
    }
}

impl Work {
    fn into_spec(self) -> WorkloadSpec {
        let names = |words: &[Word]| -> BTreeSet<Name> { words.iter().filter_map(Word::name).collect() };
        let mut spec = self.spec;
        spec.inputs = self.inputs.iter().filter_map(|(alias, source)| Some((alias.name()?, source.name()?))).collect();
        spec.secrets = names(&self.secrets);
        if let Kind::Job(job) = &mut spec.kind {
            job.outputs = names(&self.outputs);
            job.release = names(&self.releases);
            job.expect = self.expects.into_iter().filter_map(|(word, expect)| Some((word.name()?, expect))).collect();
        }
        spec
    }
}

pub(super) fn project(root: &Node, sink: &mut Sink, loader: &dyn Loader) -> Option<Draft> {
    let mut reader = Reader { sink, loader };
    let fields = reader.fields(root, &table::PROJECT, &[], "the project")?;
    let name = fields.get("project").and_then(|node| reader.name(node)).and_then(|text| Name::new(text).ok());
    let objective = fields.get("objective").and_then(|node| reader.objective(node)).unwrap_or_default();
    let (data, mut workloads) = fields.get("data").map(|node| reader.data(node)).unwrap_or_default();
    for (key, service) in [("stages", false), ("services", true)] {
        let Some(node) = fields.get(key) else { continue };
        for entry in reader.entries(node, "a mapping from names to what is run") {
            if workloads.len() == STAGES_MAX {
                let message = format!("there are more than {STAGES_MAX} stages and services");
                reader.fault(entry.key.span, message, "split the project");
                break;
            }
            workloads.extend(reader.workload(&entry.key, &entry.node, service));
        }
    }
    let mut priorities = BTreeSet::new();
    if let Some(work) =
        workloads.iter().find(|w| priorities.insert(w.spec.priority) && priorities.len() > PRIORITIES_MAX)
    {
        let message = format!("there are more than {PRIORITIES_MAX} different priorities");
        reader.fault(work.name.span, message, "give stages that may wait for one another the same");
    }
    let nothing = [fields.get("stages"), fields.get("services")]
        .into_iter()
        .flatten()
        .all(|node| matches!(&node.value, Value::Map(entries) if entries.is_empty()) || node.is_null());
    if nothing {
        let place = Span { line: root.span.line, column: root.span.column, width: 1 };
        reader.fault(place, "the project has neither a stage nor a service", "add one under `stages:`");
    }
    fields.finish();
    // A draft without a name is never made into a spec: its missing or bad name is a fault already.
    let name = name.or_else(|| Name::new("unnamed").ok())?;
    Some(Draft { name, objective, data, workloads })
}

pub(super) struct Reader<'s, 't> {
    pub sink: &'s mut Sink<'t>,
    pub loader: &'s dyn Loader,
}

/// The values of a mapping with known keys.
pub(super) struct Fields<'n> {
    table: &'static Table,
    entries: BTreeMap<&'n str, &'n Entry>,
    asked: std::cell::RefCell<BTreeSet<&'static str>>,
}

impl<'n> Fields<'n> {
    pub fn get(&self, key: &'static str) -> Option<&'n Node> {
        debug_assert!(self.table.has(key), "the reader asks for {key}, which the table does not have");
        self.asked.borrow_mut().insert(key);
        self.entries.get(key).map(|entry| &*entry.node)
    }

    /// Where a key stands.
    pub fn span(&self, key: &'static str) -> Option<Span> {
        self.entries.get(key).map(|entry| entry.key.span)
    }

    /// Every key of the table must have been asked for, or it would be accepted and mean nothing.
    pub fn finish(self) {
        let asked = self.asked.into_inner();
        debug_assert!(self.table.keys().all(|key| asked.contains(key.name)), "read only {asked:?}");
    }
}

impl Reader<'_, '_> {
    pub fn fault(&mut self, span: Span, message: impl Into<String>, hint: impl Into<String>) {
        self.sink.add(span, message, hint);
    }

    pub fn wrong_type(&mut self, node: &Node, expected: &str) {
        let hint = if node.is_null() { "give it a value, or leave the key out" } else { "" };
        self.fault(node.span, format!("expected {expected}, found {}", node.found()), hint);
    }

    /// The known keys of a mapping; `whose` is told in messages, `elsewhere` is where a misplaced key may belong.
    pub fn fields<'n>(
        &mut self,
        node: &'n Node,
        table: &'static Table,
        elsewhere: &[(&'static Table, &str)],
        whose: &str,
    ) -> Option<Fields<'n>> {
        let Value::Map(entries) = &node.value else {
            let keys: Vec<_> = table.keys().take(4).map(|key| key.name).collect();
            self.wrong_type(node, &format!("a mapping with keys such as `{}`", keys.join("`, `")));
            return None;
        };
        let mut known = BTreeMap::new();
        // Keys that are there but misspelt are not missing as well.
        let mut meant = BTreeSet::new();
        for entry in entries {
            if table.has(&entry.key.text) {
                known.insert(entry.key.text.as_str(), entry);
            } else {
                meant.extend(self.unknown_key(&entry.key, table, elsewhere, whose));
            }
        }
        let place = entries.first().map_or(node.span, |entry| entry.key.span);
        for key in table.keys().filter(|key| key.required && !known.contains_key(key.name) && !meant.contains(key.name))
        {
            let hint = format!("such as `{}: {}`", key.name, key.example.trim_matches('"'));
            self.fault(place, format!("{whose} lacks `{}`", key.name), hint);
        }
        let chosen: Vec<&str> = table.one_of.iter().copied().filter(|key| known.contains_key(key)).collect();
        match (table.one_of, chosen.as_slice()) {
            ([], _) | (_, [_]) => {}
            (choice, []) if choice.iter().any(|key| meant.contains(key)) => {}
            (choice, []) => {
                let message = format!("{whose} has neither `{}`", choice.join("` nor `"));
                self.fault(place, message, "exactly one of them is needed");
            }
            (_, [.., last]) => {
                let message = format!("{whose} has both `{}`", chosen.join("` and `"));
                self.fault(known[last].key.span, message, "leave one of them out");
            }
        }
        Some(Fields { table, entries: known, asked: Default::default() })
    }

    /// Reports it, and returns the known key that it most likely was meant to be.
    fn unknown_key(
        &mut self,
        key: &Key,
        table: &'static Table,
        elsewhere: &[(&'static Table, &str)],
        whose: &str,
    ) -> Option<&'static str> {
        if let Some((_, owner)) = elsewhere.iter().find(|(other, _)| other.has(&key.text)) {
            let message = format!("{} belongs to {owner}, and this is {whose}", quoted(&key.text));
            self.fault(key.span, message, "");
            return None;
        }
        let known: Vec<&'static str> = table.keys().map(|key| key.name).collect();
        let near = nearest(&key.text, known.iter().copied());
        let hint = match near {
            Some(word) => format!("did you mean `{word}`?"),
            None => format!("{whose} has the keys `{}`", known.join("`, `")),
        };
        self.fault(key.span, format!("unknown key {}", quoted(&key.text)), hint);
        near
    }

    /// The entries of a mapping with free keys; none for nothing at all, as when all of them are commented out.
    pub fn entries<'n>(&mut self, node: &'n Node, expected: &str) -> &'n [Entry] {
        match &node.value {
            Value::Map(entries) => entries,
            _ if node.is_null() => &[],
            _ => {
                self.wrong_type(node, expected);
                &[]
            }
        }
    }

    pub fn scalar(&mut self, node: &Node, expected: &str) -> Option<String> {
        match node.text() {
            Some(text) if text.len() > VALUE_BYTES_MAX => {
                self.fault(node.span, format!("the text is longer than {VALUE_BYTES_MAX} bytes"), "put it into a file");
                None
            }
            Some(text) => Some(text.to_owned()),
            None => {
                self.wrong_type(node, expected);
                None
            }
        }
    }

    /// A text that says something.
    pub fn text(&mut self, node: &Node, expected: &str) -> Option<String> {
        let text = self.scalar(node, expected)?;
        if text.trim().is_empty() || text.contains('\0') {
            self.fault(node.span, format!("expected {expected}, found an empty text"), "");
            return None;
        }
        Some(text)
    }

    /// The text of a name, reported where it is none.
    pub fn name(&mut self, node: &Node) -> Option<String> {
        let text = self.scalar(node, "a name")?;
        self.check_name(&text, node.span);
        Some(text)
    }

    pub fn check_name(&mut self, text: &str, span: Span) {
        if let Err(bad) = Name::new(text) {
            let better: String = text.to_ascii_lowercase().replace([' ', '.', '/'], "-");
            let hint = Name::new(better).map(|name| format!("such as `{name}`")).unwrap_or_default();
            self.fault(span, format!("{} is no name: {bad}", quoted(text)), hint);
        }
    }

    pub fn whole(&mut self, node: &Node, min: i64, max: i64) -> Option<i64> {
        let number = node.text().and_then(|text| text.parse::<i64>().ok()).filter(|n| (min..=max).contains(n));
        if number.is_none() {
            self.wrong_type(node, &format!("a whole number from {min} to {max}"));
        }
        number
    }

    pub fn number(&mut self, node: &Node, expected: &str) -> Option<f64> {
        let number = node.text().and_then(|text| text.parse::<f64>().ok()).filter(|n| n.is_finite());
        if number.is_none() {
            self.wrong_type(node, expected);
        }
        number
    }

    pub fn duration(&mut self, node: &Node) -> Option<Millis> {
        let text = self.scalar(node, "a duration such as `30s` or `5m`")?;
        match amount::duration(&text) {
            Ok(span) if span > DURATION_MAX => {
                self.fault(node.span, format!("{} is longer than a year", quoted(&text)), "");
                None
            }
            Ok(span) => Some(span),
            Err(bad) => {
                let hint = "durations are numbers with a unit: ms, s, m, h or d";
                self.fault(node.span, format!("{} is no duration: {bad}", quoted(&text)), hint);
                None
            }
        }
    }

    /// A duration above zero.
    pub fn span(&mut self, node: &Node) -> Option<Millis> {
        let span = self.duration(node)?;
        if span.0 == 0 {
            self.fault(node.span, "the duration must be above zero", "leave the key out for the default");
            return None;
        }
        Some(span)
    }

    /// A path inside of the project, with `/`.
    pub fn path(&mut self, node: &Node, expected: &str) -> Option<String> {
        let text = self.text(node, expected)?;
        let mut parts = Vec::new();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    let message = format!("the path {} leaves the project", quoted(&text));
                    self.fault(node.span, message, "paths can't have `..`; put the file into the project's directory");
                    return None;
                }
                part => parts.push(part),
            }
        }
        if text.starts_with('/') || text.contains('\\') || text.contains('\n') {
            let hint = "give it from the project file's directory, with `/`";
            self.fault(node.span, format!("the path {} is not relative to the project", quoted(&text)), hint);
            return None;
        }
        Some(if parts.is_empty() { ".".to_owned() } else { parts.join("/") })
    }

    pub fn load(&mut self, path: &str, span: Span, what: &str) -> Option<String> {
        match self.loader.read(path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let hint = "paths are relative to the project file";
                self.fault(span, format!("{what} {} does not exist", quoted(path)), hint);
                None
            }
            Err(error) => {
                self.fault(span, format!("{what} {} can't be read: {error}", quoted(path)), "");
                None
            }
        }
    }

    fn objective(&mut self, node: &Node) -> Option<Objective> {
        match node.text() {
            Some("time") => return Some(Objective::Time),
            Some("cost") => return Some(Objective::Cost),
            Some(text) => {
                if let Some(weight) = text.parse().ok().filter(|weight| (0.0..=1.0).contains(weight)) {
                    return Some(Objective::Weighted(weight));
                }
            }
            None => {}
        }
        self.wrong_type(node, "`time`, `cost`, or the weight of time from 0 to 1");
        None
    }

    /// Datasets that are there, and the stages that bring those that are elsewhere.
    fn data(&mut self, node: &Node) -> (Vec<(Word, DataSpec)>, Vec<Work>) {
        let entries = self.entries(node, "a mapping from names to datasets");
        if let Some(entry) = entries.get(DATASETS_MAX) {
            self.fault(entry.key.span, format!("there are more than {DATASETS_MAX} datasets"), "split the project");
        }
        let (mut datasets, mut imports) = (Vec::new(), Vec::new());
        for entry in entries.iter().take(DATASETS_MAX) {
            self.check_name(&entry.key.text, entry.key.span);
            let word = Word { text: entry.key.text.clone(), span: entry.key.span };
            match self.dataset(&entry.key, &entry.node) {
                Dataset::Given(spec) => datasets.push((word, spec)),
                Dataset::Import(work) => imports.push(*work),
            }
        }
        (datasets, imports)
    }

    fn dataset(&mut self, key: &Key, node: &Node) -> Dataset {
        let residency = Residency::anywhere();
        let mut spec = DataSpec { path: None, residency, logs: Logs::Readable, expect: None, retain: None };
        if node.is_null() {
            return Dataset::Given(spec);
        }
        if node.text().is_some() {
            spec.path = self.data_path(node);
            return Dataset::Given(spec);
        }
        let whose = format!("dataset {}", quoted(&key.text));
        if let Value::List(_) = node.value {
            self.wrong_type(node, "a path, or a mapping with `path` and `keep_at`");
        } else if let Some(fields) = self.fields(node, &table::DATA, &[], &whose) {
            if let Some(from) = fields.get("from") {
                return Dataset::Import(Box::new(self.import(key, from, &fields)));
            }
            self.no_import(&fields);
            spec.path = fields.get("path").and_then(|node| self.data_path(node));
            let keep_at = fields.get("keep_at").and_then(|node| self.selector(node));
            spec.expect = fields.get("expect").and_then(|node| self.expect(node, &format!("`expect` of {whose}")));
            spec.residency = keep_at.map(Residency::keep_at).unwrap_or_default();
            spec.logs = fields.get("logs").and_then(|node| self.logs(node)).unwrap_or_default();
            spec.retain = fields.get("retain").and_then(|node| self.retain(node));
            fields.finish();
        }
        Dataset::Given(spec)
    }

    pub fn logs(&mut self, node: &Node) -> Option<Logs> {
        match node.text() {
            Some("readable") => Some(Logs::Readable),
            Some("stay") => Some(Logs::Stay),
            _ => {
                self.wrong_type(node, "`readable` or `stay`");
                None
            }
        }
    }

    fn data_path(&mut self, node: &Node) -> Option<String> {
        let path = self.path(node, "a path")?;
        if !self.loader.exists(&path) {
            let message = format!("there is no file or directory {}", quoted(&path));
            self.fault(node.span, message, "paths are relative to the project file");
        }
        Some(path)
    }
}
