//! Tags: words for versions of a dataset that mean nothing else wherever a version is asked for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{BadName, Name, RunId};

/// A word that somebody gave a version: a name that is no version's digits or number, no run and no time.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(Name);

/// Why a text is no tag: what else it would mean after the `@` of a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTag {
    #[error(transparent)]
    Name(#[from] BadName),
    #[error("a tag can't be a number, which means a run: {0:?}")]
    Number(Name),
    #[error("a tag can't be `v` and a number, which means the version of that number: {0:?}")]
    Version(Name),
    #[error("a tag can't look like a time: {0:?}")]
    Time(Name),
    #[error("a tag can't look like a run, <project>-<number>: {0:?}")]
    Run(Name),
    #[error("a tag can't be 4 or more of the digits 0-9 and a-f alone, which mean a version: {0:?}")]
    Digits(Name),
}

impl Tag {
    pub fn new(text: impl Into<String>) -> Result<Tag, BadTag> {
        let name = Name::new(text)?;
        let text = name.as_str();
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(BadTag::Number(name));
        }
        if text.strip_prefix('v').is_some_and(is_number) {
            return Err(BadTag::Version(name));
        }
        if is_dated(text) {
            return Err(BadTag::Time(name));
        }
        if text.parse::<RunId>().is_ok() {
            return Err(BadTag::Run(name));
        }
        if is_digits_of_version(text) {
            return Err(BadTag::Digits(name));
        }
        Ok(Tag(name))
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// The 3 of `v3`, the third version of a dataset.
pub fn version_number(text: &str) -> Option<u64> {
    let number = text.strip_prefix('v').filter(|number| is_number(number) && !number.starts_with('0'))?;
    number.parse().ok()
}

/// Whether a text may be how a version's digest begins: 4 to 64 hex digits.
pub fn is_digits_of_version(text: &str) -> bool {
    (4..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether it begins as `2026-11-20` does.
fn is_dated(text: &str) -> bool {
    const SHAPE: &[u8] = b"dddd-dd-dd";
    let fits = |(byte, shape): (u8, &u8)| if *shape == b'd' { byte.is_ascii_digit() } else { byte == *shape };
    text.len() >= SHAPE.len() && text.bytes().zip(SHAPE).all(fits)
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for Tag {
    type Err = BadTag;
    fn from_str(text: &str) -> Result<Tag, BadTag> {
        Tag::new(text)
    }
}

impl TryFrom<String> for Tag {
    type Error = BadTag;
    fn try_from(text: String) -> Result<Tag, BadTag> {
        Tag::new(text)
    }
}

impl From<Tag> for String {
    fn from(tag: Tag) -> String {
        tag.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_means_nothing_else() {
        for good in ["prod", "gold", "beefy", "abc", "v", "v3a", "before-cleaning", "cafe-x", "2026-q3", "v1_2"] {
            assert_eq!(Tag::new(good).unwrap().as_str(), good);
        }
        let check = |bad: &str, why: &str| {
            let fault = Tag::new(bad).unwrap_err().to_string();
            assert!(fault.contains(why), "{bad}: {fault}");
        };
        check("", "can't be empty");
        check("Prod", "can't be in a name");
        check("7", "can't be a number");
        check("20261120", "can't be a number");
        check("v3", "the version of that number");
        check("v007", "the version of that number");
        check("2026-11-20", "a time");
        check("2026-11-20t10", "a time");
        check("flights-7", "a run");
        check("v1-2", "a run");
        check("beef", "mean a version");
        check("12ab34cd", "mean a version");
    }

    #[test]
    fn numbers_of_versions() {
        let check = |text: &str, number: Option<u64>| assert_eq!(version_number(text), number, "{text}");
        check("v3", Some(3));
        check("v120", Some(120));
        for bad in ["v", "3", "v0", "v03", "v+3", "v-3", "v3a", "v99999999999999999999"] {
            check(bad, None);
        }
    }
}
