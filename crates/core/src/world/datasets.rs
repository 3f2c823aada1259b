//! Datasets: which versions have their names, under which numbers, and the tags on them.
//!
//! A name is given, taken away and counted here, where one change follows the other: so a version is never forgotten
//! while somebody names it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Refusal, VersionRecord, World};
use crate::ids::{Name, RunId, SiteId, VersionId};
use crate::retention::Rules;
use crate::tag::{Tag, version_number};
use crate::time::Timestamp;

/// Tags that a dataset may have.
pub const TAGS_MAX: usize = 1_000;

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Dataset {
    /// The highest number given out; none is given out twice.
    pub last: u64,
    /// By number, which grows: the highest is the newest. The same version may be here several times.
    pub versions: BTreeMap<u64, NamedVersion>,
    pub tags: BTreeMap<Tag, Tagged>,
    /// Which versions are kept, as each project says that says it.
    pub rules: BTreeMap<Name, Rules>,
}

/// A version under a dataset's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NamedVersion {
    pub version: VersionId,
    /// When it became the newest of this name.
    pub at: Timestamp,
    /// When somebody last added it.
    pub seen: Timestamp,
    /// Whose doing it was; of what is from before this was kept, nobody knows.
    #[serde(default)]
    pub by: String,
    /// Why, where it was brought back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tagged {
    pub version: VersionId,
    pub at: Timestamp,
    pub by: String,
}

/// What lost its name, for those who want it back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Removed {
    pub named: NamedVersion,
    pub at: Timestamp,
    pub by: String,
    pub why: String,
    /// As it was known then.
    #[serde(default)]
    pub record: Option<Box<VersionRecord>>,
}

/// Something that happened to a name, for the store.
#[derive(Debug, Clone, PartialEq)]
pub enum Naming {
    Named { dataset: Name, number: u64, named: NamedVersion },
    Removed { dataset: Name, number: u64, removed: Removed },
    Tagged { dataset: Name, tag: Tag, tagged: Tagged },
    Untagged { dataset: Name, tag: Tag },
}

/// One of a dataset's versions: `v3`, or a whole digest, which may have several numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Number(u64),
    Version(VersionId),
}

impl FromStr for Which {
    type Err = crate::digest::NotADigest;
    fn from_str(text: &str) -> Result<Which, Self::Err> {
        match version_number(text) {
            Some(number) => Ok(Which::Number(number)),
            None => text.parse().map(Which::Version),
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Which::Number(number) => write!(f, "v{number}"),
            Which::Version(version) => f.write_str(&version.short()),
        }
    }
}

impl Dataset {
    pub fn newest(&self) -> Option<(u64, &NamedVersion)> {
        self.versions.iter().next_back().map(|(number, named)| (*number, named))
    }

    /// The numbers that a version has here.
    pub fn numbers(&self, version: VersionId) -> impl Iterator<Item = u64> {
        self.versions.iter().filter(move |(_, named)| named.version == version).map(|(number, _)| *number)
    }

    pub fn tags_of(&self, version: VersionId) -> impl Iterator<Item = &Tag> {
        self.tags.iter().filter(move |(_, tagged)| tagged.version == version).map(|(tag, _)| tag)
    }

    fn meant(&self, which: Which) -> Vec<u64> {
        match which {
            Which::Number(number) => self.versions.contains_key(&number).then_some(number).into_iter().collect(),
            Which::Version(version) => self.numbers(version).collect(),
        }
    }
}

/// Whose doing a change is, and when.
#[derive(Debug, Clone, Copy)]
pub struct By<'a> {
    pub who: &'a str,
    pub at: Timestamp,
}

impl World {
    /// Gives a known version a dataset's name, as its newest, under a new number. What is the newest already stays it
    /// under the number that it has. Answers the number.
    pub fn name_version(
        &mut self,
        dataset: &Name,
        version: VersionId,
        why: Option<String>,
        by: By,
    ) -> Result<u64, Refusal> {
        if !self.versions.contains_key(&version) {
            return Err(Refusal::NoVersion(version));
        }
        let record = self.datasets.entry(dataset.clone()).or_default();
        let newest = record.versions.iter_mut().next_back().filter(|(_, named)| named.version == version);
        let (number, named) = match newest {
            Some((number, named)) => {
                named.seen = by.at;
                (*number, named.clone())
            }
            None => {
                record.last += 1;
                let named = NamedVersion { version, at: by.at, seen: by.at, by: by.who.to_owned(), why };
                record.versions.insert(record.last, named.clone());
                self.changes.datasets.insert(dataset.clone());
                (record.last, named)
            }
        };
        self.changes.namings.push(Naming::Named { dataset: dataset.clone(), number, named });
        self.retain(dataset, by);
        Ok(number)
    }

    /// Makes a version that was forgotten known again, at sites that still have its bytes and may have them. It comes back
    /// under every rule that it was under, when it lost its name or since.
    pub fn bring_back(&mut self, id: VersionId, record: &VersionRecord, sites: &[SiteId]) -> Result<(), Refusal> {
        let mut refused = Refusal::NoVersion(id);
        let mut back = false;
        for site in sites {
            let record = VersionRecord { replicas: Default::default(), ..record.clone() };
            match self.add_version(id, record, site) {
                Ok(()) => back = true,
                Err(refusal) => refused = refusal,
            }
        }
        if back { Ok(()) } else { Err(refused) }
    }

    /// The newest version of a dataset, if it has one.
    pub fn newest(&self, dataset: &Name) -> Option<VersionId> {
        self.datasets.get(dataset)?.newest().map(|(_, named)| named.version)
    }

    /// Whether some dataset names a version.
    pub fn is_named(&self, version: VersionId) -> bool {
        self.datasets.values().any(|dataset| dataset.numbers(version).next().is_some())
    }

    /// Takes a version's name away: refused while a live run reads it, and while it has a tag, unless its tags may go
    /// too. Answers what it was.
    pub fn unname(
        &mut self,
        dataset: &Name,
        which: Which,
        with_tags: bool,
        why: &str,
        by: By,
    ) -> Result<VersionId, Refusal> {
        let record = self.known_dataset(dataset)?;
        let numbers = record.meant(which);
        let missing = || Refusal::NotNamed { dataset: dataset.clone(), which };
        let version = record.versions[numbers.first().ok_or_else(missing)?].version;
        let mut tags = Vec::new();
        if record.numbers(version).count() == numbers.len() {
            if let Some(run) = self.read_by_live(version) {
                return Err(Refusal::InUse { run: run.clone(), dataset: dataset.clone(), version });
            }
            tags.extend(record.tags_of(version).cloned());
        }
        if let Some(tag) = tags.first().filter(|_| !with_tags) {
            return Err(Refusal::Tagged { dataset: dataset.clone(), version, tag: tag.clone() });
        }
        for tag in tags {
            self.untag(dataset, &tag)?;
        }
        self.take_names(dataset, &numbers, why, by);
        Ok(version)
    }

    /// Puts a tag on a version of a dataset. One that is on another version stays there, unless it may move.
    pub fn tag(
        &mut self,
        dataset: &Name,
        tag: &Tag,
        version: VersionId,
        may_move: bool,
        by: By,
    ) -> Result<(), Refusal> {
        let record = self.known_dataset(dataset)?;
        let which = Which::Version(version);
        if record.numbers(version).next().is_none() {
            return Err(Refusal::NotNamed { dataset: dataset.clone(), which });
        }
        match record.tags.get(tag) {
            Some(there) if there.version == version => return Ok(()),
            Some(there) if !may_move => {
                let version = there.version;
                return Err(Refusal::TagElsewhere { dataset: dataset.clone(), tag: tag.clone(), version });
            }
            None if record.tags.len() >= TAGS_MAX => return Err(Refusal::TooManyTags(dataset.clone())),
            Some(_) | None => {}
        }
        let tagged = Tagged { version, at: by.at, by: by.who.to_owned() };
        let (dataset, tag) = (dataset.clone(), tag.clone());
        self.datasets.entry(dataset.clone()).or_default().tags.insert(tag.clone(), tagged.clone());
        self.changes.namings.push(Naming::Tagged { dataset, tag, tagged });
        Ok(())
    }

    /// Takes a tag away; answers what it was on.
    pub fn untag(&mut self, dataset: &Name, tag: &Tag) -> Result<VersionId, Refusal> {
        self.known_dataset(dataset)?;
        let (dataset, tag) = (dataset.clone(), tag.clone());
        match self.datasets.get_mut(&dataset).and_then(|record| record.tags.remove(&tag)) {
            None => Err(Refusal::NoTag { dataset, tag }),
            Some(tagged) => {
                self.changes.namings.push(Naming::Untagged { dataset, tag });
                Ok(tagged.version)
            }
        }
    }

    /// What a run made lost the name that it had by that run, of which only the store knows.
    pub fn unname_output(&mut self, version: VersionId) {
        self.changes.unnamed.insert(version);
    }

    /// A dataset with at least one version.
    pub(super) fn known_dataset(&self, dataset: &Name) -> Result<&Dataset, Refusal> {
        let found = self.datasets.get(dataset).filter(|record| !record.versions.is_empty());
        found.ok_or_else(|| Refusal::NoDataset(dataset.clone()))
    }

    /// The run that is not over and has a version as data.
    fn read_by_live(&self, version: VersionId) -> Option<&RunId> {
        let user = self.runs.values().find(|run| run.data.values().any(|used| *used == version));
        user.map(|run| &run.id)
    }

    /// Takes names away, whatever they stand for.
    pub(super) fn take_names(&mut self, dataset: &Name, numbers: &[u64], why: &str, by: By) {
        for number in numbers {
            let Some(record) = self.datasets.get_mut(dataset) else { return };
            let Some(named) = record.versions.remove(number) else { continue };
            let known = self.versions.get(&named.version).cloned().map(Box::new);
            self.changes.unnamed.insert(named.version);
            let (who, why) = (by.who.to_owned(), why.to_owned());
            let removed = Removed { named, at: by.at, by: who, why, record: known };
            self.changes.namings.push(Naming::Removed { dataset: dataset.clone(), number: *number, removed });
        }
    }
}
