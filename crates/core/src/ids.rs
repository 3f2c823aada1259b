//! Typed names and numbers for the things that Tombolo knows.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Longest name of anything a user names, in bytes (a DNS label's limit, so that names can be host names).
pub const NAME_BYTES_MAX: usize = 63;

/// A user's name for a project, stage, dataset, output, site or secret: `[a-z0-9]([a-z0-9_-]*)`, at most 63 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    #[error("a name can't be empty")]
    Empty,
    #[error("the name is {0} bytes long; at most {NAME_BYTES_MAX} are allowed")]
    TooLong(usize),
    #[error("{0:?} can't be in a name: use a-z, 0-9, '-' and '_', beginning with a letter or digit")]
    BadCharacter(char),
}

impl Name {
    pub fn new(text: impl Into<String>) -> Result<Name, BadName> {
        let text = text.into();
        if text.is_empty() {
            return Err(BadName::Empty);
        }
        if text.len() > NAME_BYTES_MAX {
            return Err(BadName::TooLong(text.len()));
        }
        for (i, c) in text.chars().enumerate() {
            let fits = c.is_ascii_lowercase() || c.is_ascii_digit() || (i > 0 && (c == '-' || c == '_'));
            if !fits {
                return Err(BadName::BadCharacter(c));
            }
        }
        Ok(Name(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as part of an environment variable: `hourly-delays` becomes `HOURLY_DELAYS`.
    pub fn as_env(&self) -> String {
        self.0.to_ascii_uppercase().replace('-', "_")
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Name, BadName> {
        Name::new(text)
    }
}

impl TryFrom<String> for Name {
    type Error = BadName;
    fn try_from(text: String) -> Result<Name, BadName> {
        Name::new(text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

/// A site, by the name that it joined under; a control plane never gives one name to two sites.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SiteId(pub Name);

impl SiteId {
    pub fn new(text: impl Into<String>) -> Result<SiteId, BadName> {
        Name::new(text).map(SiteId)
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for SiteId {
    type Err = BadName;
    fn from_str(text: &str) -> Result<SiteId, BadName> {
        SiteId::new(text)
    }
}

/// One execution of a project: `flights-7`, the project's name and a number that grows.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId {
    project: Name,
    number: u64,
}

/// A text that is no run or workload id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadId {
    #[error("{0:?} is no run: a run is written <project>-<number>, such as flights-7")]
    Run(String),
    #[error("{0:?} is no workload: a workload is written <run>/<stage>, such as flights-7/train")]
    Workload(String),
}

impl RunId {
    pub fn new(project: Name, number: u64) -> RunId {
        RunId { project, number }
    }

    pub fn project(&self) -> &Name {
        &self.project
    }

    pub fn number(&self) -> u64 {
        self.number
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.project, self.number)
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RunId {
    type Err = BadId;
    fn from_str(text: &str) -> Result<RunId, BadId> {
        let fault = || BadId::Run(text.chars().take(100).collect());
        let (project, number) = text.rsplit_once('-').ok_or_else(fault)?;
        // Only the canonical spelling, so that an id is one string: no sign, no leading zero.
        if number.starts_with('0') && number != "0" || number.starts_with('+') {
            return Err(fault());
        }
        Ok(RunId { project: Name::new(project).map_err(|_| fault())?, number: number.parse().map_err(|_| fault())? })
    }
}

impl TryFrom<String> for RunId {
    type Error = BadId;
    fn try_from(text: String) -> Result<RunId, BadId> {
        text.parse()
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> String {
        id.to_string()
    }
}

/// A stage or service of a run: `flights-7/train`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkloadId {
    pub run: RunId,
    pub name: Name,
}

impl WorkloadId {
    pub fn new(run: RunId, name: Name) -> WorkloadId {
        WorkloadId { run, name }
    }
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.run, self.name)
    }
}

impl fmt::Debug for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for WorkloadId {
    type Err = BadId;
    fn from_str(text: &str) -> Result<WorkloadId, BadId> {
        let fault = || BadId::Workload(text.chars().take(200).collect());
        let (run, name) = text.split_once('/').ok_or_else(fault)?;
        Ok(WorkloadId { run: run.parse().map_err(|_| fault())?, name: Name::new(name).map_err(|_| fault())? })
    }
}

impl TryFrom<String> for WorkloadId {
    type Error = BadId;
    fn try_from(text: String) -> Result<WorkloadId, BadId> {
        text.parse()
    }
}

impl From<WorkloadId> for String {
    fn from(id: WorkloadId) -> String {
        id.to_string()
    }
}

/// The number of a workload's placement. Each placement has a higher one, and only the highest may act or write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Before the first placement.
    pub const NONE: Epoch = Epoch(0);

    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A version of a dataset, of code or of an output: the digest of its manifest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VersionId(pub Digest);

impl VersionId {
    pub fn short(&self) -> String {
        self.0.short()
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for VersionId {
    type Err = crate::digest::NotADigest;
    fn from_str(text: &str) -> Result<VersionId, Self::Err> {
        text.parse().map(VersionId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_at_the_door() {
        for good in ["a", "flights", "gpu-a100", "0x", "a_b"] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        assert_eq!(Name::new(""), Err(BadName::Empty));
        assert_eq!(Name::new("a".repeat(64)), Err(BadName::TooLong(64)));
        for (bad, c) in [("Flights", 'F'), ("-a", '-'), ("a/b", '/'), ("a b", ' '), ("..", '.'), ("ü", 'ü')] {
            assert_eq!(Name::new(bad), Err(BadName::BadCharacter(c)));
        }
    }

    #[test]
    fn ids_round_trip() {
        let id: WorkloadId = "flights-late-12/train".parse().unwrap();
        assert_eq!(id.run.project().as_str(), "flights-late");
        assert_eq!(id.run.number(), 12);
        assert_eq!(id.to_string(), "flights-late-12/train");
        for bad in ["flights", "flights-", "flights-01", "flights-+1", "-1", "a-1/", "a-1/b/c", "a/b"] {
            assert!(bad.parse::<WorkloadId>().is_err(), "{bad}");
        }
    }
}
