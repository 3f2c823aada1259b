//! `gc/condemned`: the packs and versions of a bucket that are about to go, and those that went lately.
//!
//! The one object that is changed, always on the condition that nobody has changed it since it was read. Lines of
//! `<state> <since> <pack or version>`, the time in milliseconds by the bucket's clock.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use object_store::{PutMode, UpdateVersion};
use tombolo_core::{Timestamp, VersionId};

use super::Bucket;
use crate::error::DataError;
use crate::index::PackId;

/// Longest list that is read, in bytes: about a million packs.
const BYTES_MAX: u64 = 64 << 20;
/// How often a change is tried that others keep getting ahead of.
const TRIES_MAX: u32 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing new may rely on it. A version can still be saved.
    Condemned,
    /// It is being removed, or is gone, and nothing saves it.
    Doomed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sentence {
    pub state: State,
    pub since: Timestamp,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Condemned {
    pub packs: BTreeMap<PackId, Sentence>,
    pub versions: BTreeMap<VersionId, Sentence>,
}

/// The list and the object's tag; None where there is no such object yet.
pub(crate) fn read(bucket: &Bucket) -> Result<(Condemned, Option<UpdateVersion>), DataError> {
    match bucket.get_tagged("gc", "condemned", BYTES_MAX)? {
        None => Ok((Condemned::default(), None)),
        Some((bytes, tag)) => Ok((Condemned::parse(&String::from_utf8_lossy(&bytes))?, Some(tag))),
    }
}

/// Writes the list, if nobody has since `tag` was read.
pub(crate) fn replace(bucket: &Bucket, condemned: &Condemned, tag: Option<UpdateVersion>) -> Result<bool, DataError> {
    let mode = tag.map_or(PutMode::Create, PutMode::Update);
    if bucket.put_if("gc", "condemned", condemned.text().into_bytes(), mode)? {
        return Ok(true);
    }
    // The answer to the first try may have been lost on the way.
    Ok(read(bucket)?.0 == *condemned)
}

/// Changes the list, again and again while others do.
pub(crate) fn change(bucket: &Bucket, with: impl Fn(&mut Condemned)) -> Result<(), DataError> {
    for _ in 0..TRIES_MAX {
        let (before, tag) = read(bucket)?;
        let mut after = before.clone();
        with(&mut after);
        if after == before || replace(bucket, &after, tag)? {
            return Ok(());
        }
    }
    Err(DataError::Contended { tries: TRIES_MAX })
}

impl Condemned {
    /// Lets what was condemned at `judged` be condemned as of `published`, which is later.
    pub(crate) fn begin(&mut self, judged: Timestamp, published: Timestamp) {
        let sentences = self.packs.values_mut().chain(self.versions.values_mut());
        for sentence in sentences.filter(|s| s.state == State::Condemned && s.since == judged) {
            sentence.since = published;
        }
    }

    pub(crate) fn text(&self) -> String {
        let line = |sentence: &Sentence, name: &dyn Display| {
            let state = if sentence.state == State::Condemned { "condemned" } else { "doomed" };
            format!("{state} {} {name}\n", sentence.since.0)
        };
        let packs = self.packs.iter().map(|(pack, sentence)| line(sentence, pack));
        packs.chain(self.versions.iter().map(|(version, sentence)| line(sentence, version))).collect()
    }

    /// A line that can't be read makes the list unusable: to leave it out would be to rely on what may go.
    pub(crate) fn parse(text: &str) -> Result<Condemned, DataError> {
        let mut condemned = Condemned::default();
        for line in text.lines() {
            let bad = || DataError::BadCondemned { line: line.chars().take(200).collect() };
            let mut words = line.split(' ');
            let (Some(state), Some(since), Some(name), None) = (words.next(), words.next(), words.next(), words.next())
            else {
                return Err(bad());
            };
            let state = match state {
                "condemned" => State::Condemned,
                "doomed" => State::Doomed,
                _ => return Err(bad()),
            };
            let sentence = Sentence { state, since: Timestamp(i64::from_str(since).map_err(|_| bad())?) };
            if let Some(pack) = PackId::parse(name) {
                condemned.packs.insert(pack, sentence);
            } else {
                condemned.versions.insert(name.parse().map_err(|_| bad())?, sentence);
            }
        }
        Ok(condemned)
    }
}
