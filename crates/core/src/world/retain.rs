//! Which versions of a dataset keep their names: by the rules that projects say, or that a person gives.
//!
//! The rules of all projects that say some hold together: a version stays if any of them keeps it. They are applied where
//! a version gets a name, and where a project says something new.

use std::collections::{BTreeMap, BTreeSet};

use super::{By, Dataset, Refusal, World};
use crate::facts::Checked;
use crate::ids::{Name, RunId, VersionId};
use crate::retention::{Candidate, Reason, Rule, Rules, retained};
use crate::time::{Millis, Timestamp};

/// How long a version stays after somebody added it, whatever the rules say: who adds data and then submits a run of it
/// must find it there, whoever else adds some meanwhile.
pub const YOUNG: Millis = Millis::from_secs(3_600);
/// Names that one act takes away, the oldest first. The next act takes more.
pub const PRUNED_MAX: usize = 1_000;

/// A name that the rules took away, for the record.
#[derive(Debug, Clone, PartialEq)]
pub struct Pruned {
    pub dataset: Name,
    pub number: u64,
    pub version: VersionId,
    /// Who added a version or submitted a run, so that the rules were applied.
    pub by: String,
    /// Such as `last 10 (project flights)`.
    pub rules: String,
}

/// What stays and what goes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Retained {
    /// By number, each with every reason.
    pub kept: BTreeMap<u64, Vec<Reason>>,
    /// In order of their numbers, at most [`PRUNED_MAX`].
    pub goes: Vec<u64>,
}

impl Dataset {
    /// Such as `last 10 (project flights)`.
    pub fn rules_in_words(&self) -> String {
        let words: Vec<String> =
            self.rules.iter().map(|(project, rules)| format!("{rules} (project {project})")).collect();
        words.join("; ")
    }
}

impl World {
    /// What rules keep of a dataset, and why; those of its projects unless others are given. Where there are none,
    /// everything stays. A person who gives rules means them also for what was added just now.
    pub fn retained(&self, dataset: &Name, given: Option<&Rules>, now: Timestamp) -> Result<Retained, Refusal> {
        let record = self.known_dataset(dataset)?;
        let rules: Vec<Rule> = match given {
            Some(rules) => rules.iter().copied().collect(),
            None => record.rules.values().flat_map(Rules::iter).copied().collect(),
        };
        if rules.is_empty() {
            return Ok(Retained {
                kept: record.versions.keys().map(|number| (*number, Vec::new())).collect(),
                ..Retained::default()
            });
        }
        let kept = retained(&self.candidates(record, given.is_none(), now), rules.iter(), now);
        let goes = record.versions.keys().filter(|number| !kept.contains_key(number)).copied().take(PRUNED_MAX);
        let goes = goes.collect();
        Ok(Retained { kept, goes })
    }

    /// A dataset's versions. What needs a version is said of the newest number that it has; the others may go.
    fn candidates(&self, record: &Dataset, spare_young: bool, now: Timestamp) -> Vec<Candidate> {
        let in_use = self.in_use();
        let mut seen = BTreeSet::new();
        let candidate = |(number, named): (&u64, &super::NamedVersion)| {
            let mut holds = Vec::new();
            if seen.insert(named.version) {
                holds.extend(record.tags_of(named.version).cloned().map(Reason::Tag));
                holds.extend(in_use.get(&named.version).map(|run| Reason::Run((*run).clone())));
                if spare_young && now.since(named.seen) < YOUNG {
                    holds.push(Reason::Young);
                }
            }
            let checked = self.versions.get(&named.version).and_then(|known| known.facts.checked.as_ref());
            let failed = checked.is_some_and(Checked::failed);
            Candidate { number: *number, at: named.at, failed, holds }
        };
        record.versions.iter().rev().map(candidate).collect()
    }

    /// Every version that a run which is not over reads, made or may resume from, with one such run.
    fn in_use(&self) -> BTreeMap<VersionId, &RunId> {
        let mut in_use = BTreeMap::new();
        for run in self.runs.values() {
            in_use.extend(run.data.values().chain([&run.code]).map(|version| (*version, &run.id)));
        }
        for record in self.workloads.values() {
            let made = record.outputs.values().map(|made| made.version);
            let kept = record.snapshots.kept.iter().map(|kept| kept.version);
            in_use.extend(made.chain(record.state_dir).chain(kept).map(|version| (version, &record.id.run)));
        }
        in_use
    }

    /// Takes the names away that given rules don't keep. Answers what it was decided by.
    pub fn prune(&mut self, dataset: &Name, given: Option<&Rules>, by: By) -> Result<Retained, Refusal> {
        let retained = self.retained(dataset, given, by.at)?;
        let rules = given.map_or_else(|| self.datasets[dataset].rules_in_words(), Rules::to_string);
        self.take_names(dataset, &retained.goes, &format!("pruned by hand, by {rules}"), by);
        Ok(retained)
    }

    /// Applies what projects say of a dataset, if they say anything.
    pub(super) fn retain(&mut self, dataset: &Name, by: By) {
        let Some(record) = self.datasets.get(dataset).filter(|record| !record.rules.is_empty()) else { return };
        let rules = record.rules_in_words();
        let Ok(Retained { goes, .. }) = self.retained(dataset, None, by.at) else { return };
        for number in &goes {
            let Some(named) = self.datasets[dataset].versions.get(number) else { continue };
            let (version, who) = (named.version, by.who.to_owned());
            let (dataset, rules) = (dataset.clone(), rules.clone());
            self.changes.pruned.push(Pruned { dataset, number: *number, version, by: who, rules });
        }
        self.take_names(dataset, &goes, &format!("kept by none of the rules {rules}"), by);
    }

    /// Takes in what a project says of its datasets. Of what it says nothing about any more, it has no rule.
    pub(super) fn say_rules(&mut self, project: &Name, said: BTreeMap<Name, Rules>, by: By) {
        let ruled = self.datasets.iter().filter(|(_, record)| record.rules.contains_key(project));
        let names: BTreeSet<Name> = ruled.map(|(name, _)| name.clone()).chain(said.keys().cloned()).collect();
        for name in names {
            let rules = said.get(&name).cloned();
            let Some(record) = self.datasets.get_mut(&name) else { continue };
            if record.rules.get(project) == rules.as_ref() {
                continue;
            }
            match rules {
                Some(rules) => drop(record.rules.insert(project.clone(), rules)),
                None => drop(record.rules.remove(project)),
            }
            self.changes.datasets.insert(name.clone());
            self.retain(&name, by);
        }
    }
}
