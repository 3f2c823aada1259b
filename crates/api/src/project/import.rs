//! Datasets that are brought from elsewhere: the `from` key, which makes a stage of the dataset's own.

use tombolo_core::Residency;
use tombolo_core::source::Source;
use tombolo_core::spec::{Command, Job, Kind, WorkloadSpec};

use super::fault::quoted;
use super::node::{Key, Node};
use super::read::{Fields, Reader, Word, Work};

/// Keys of a dataset that only an import has.
const ONLY_IMPORTS: [&str; 5] = ["query", "site", "env", "secrets", "timeout"];
/// Another system's hiccup is no reason to fail a run.
const RETRIES: u32 = 2;

impl Reader<'_, '_> {
    /// The stage that makes a dataset with `from`: named as the dataset, which is its only output.
    pub fn import(&mut self, key: &Key, from: &Node, fields: &Fields) -> Work {
        let word = Word { text: key.text.clone(), span: key.span };
        if let Some(span) = fields.span("path") {
            let hint = "data is either here or elsewhere; leave one of `path` and `from` out";
            self.fault(span, "`path` means nothing beside `from`", hint);
        }
        fields.get("retain");
        if let Some(span) = fields.span("retain") {
            let hint = "each run's is an output of it, and stays until its name is removed; leave the key out";
            self.fault(span, "`retain` is for datasets that are added, not for those that `from` brings", hint);
        }
        let env = self.env(fields);
        let keep_at = fields.get("keep_at").and_then(|node| self.selector(node));
        let expect = fields.get("expect").and_then(|node| {
            self.expect(node, &format!("`expect` of dataset {}", quoted(&word.text))).map(|e| (word.clone(), e))
        });
        let job = Job {
            retries: RETRIES,
            timeout: fields.get("timeout").and_then(|node| self.span(node)),
            keep_at: keep_at.map(Residency::keep_at).unwrap_or_default(),
            logs: fields.get("logs").and_then(|node| self.logs(node)).unwrap_or_default(),
            ..Job::default()
        };
        let source = self.source(from, fields.get("query"));
        // A draft with faults is never made into a spec; what reads this dataset makes no further faults.
        let source = source.unwrap_or_else(|| Source::Web { url: String::new() });
        Work {
            name: word.clone(),
            inputs: Vec::new(),
            outputs: vec![word],
            releases: Vec::new(),
            gate: None,
            expects: expect.into_iter().collect(),
            site: fields.get("site").map(|node| node.span),
            port: None,
            sql: None,
            env: env.iter().map(|(word, _)| word.clone()).collect(),
            secrets: fields.get("secrets").map(|node| self.words(node)).unwrap_or_default(),
            spec: WorkloadSpec {
                env: env.into_iter().map(|(word, value)| (word.text, value)).collect(),
                site: fields.get("site").and_then(|node| self.selector(node)),
                ..WorkloadSpec::new(Kind::Job(job), Command::Import(source))
            },
        }
    }

    fn source(&mut self, from: &Node, query: Option<&Node>) -> Option<Source> {
        let text = self.text(from, "an address such as s3://bucket/prefix")?;
        let query = match query {
            Some(node) => Some(self.sql(node)?),
            None => None,
        };
        match Source::parse(&text, query.as_deref()) {
            Ok(source) => Some(source),
            Err(why) => {
                self.fault(from.span, why, "see docs/guide/data.md on connectors");
                None
            }
        }
    }

    /// What a dataset without `from` must not have.
    pub fn no_import(&mut self, fields: &Fields) {
        for key in ONLY_IMPORTS {
            fields.get(key);
            if let Some(span) = fields.span(key) {
                let hint = "it tells how data is brought; give `from`, or leave the key out";
                self.fault(span, format!("`{key}` means nothing without `from`"), hint);
            }
        }
    }
}
