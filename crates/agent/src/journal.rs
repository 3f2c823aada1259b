//! The journal on disk: a file to which is appended what has changed, and which is written anew when it has grown.
//!
//! ```text
//! <site>/journal
//!   tombolo journal 1
//!   <bytes of the record, 8 hex digits> <start of its BLAKE3, 16 hex digits> <record>
//!   ...
//! ```
//! A record is a JSON list of `[workload, entry or null]`, one for each entry that was made, changed or removed since the
//! last record; null for a removed one. It is one write and one fsync, and nothing is acted upon before. So a record that
//! a kill or a power cut left in pieces stands at the end, and was never acted upon: it is dropped. Anything else that
//! can't be read is damage, and refused, since what the journal names may be running.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use tombolo_core::WorkloadId;
use tombolo_core::journal::{Entry, Journal};

use crate::AgentError;
use crate::config;

const HEADER: &[u8] = b"tombolo journal 1\n";
/// Bytes before a record: its length, its checksum, and a space after each.
const FRAME_BYTES: usize = 8 + 1 + 16 + 1;
/// A shorter file is never written anew.
const ANEW_BYTES_MIN: u64 = 1 << 20;
/// How often as long as after its last writing a file may be, before it is written anew. What is written in all is so at
/// most three times what was appended.
const ANEW_FACTOR: u64 = 2;

/// A workload's entry as it is now, or that there is none.
type Change = (WorkloadId, Option<Entry>);

/// The file, open for appending. There is one at a time: the agent holds its site's lock.
#[derive(Debug)]
pub struct JournalFile {
    path: PathBuf,
    /// None after a write that failed: what is at the file's end is not known then, and only a new file will do.
    file: Option<File>,
    bytes: u64,
    anew_above: u64,
}

impl JournalFile {
    /// Opens the site's journal, and makes it where there is none. A `journal.json` of before is taken over, once.
    pub fn open(path: &Path) -> Result<(JournalFile, Journal), AgentError> {
        let at = |error| config::io(path, error);
        let old = path.with_extension("json");
        let (journal, whole) = match std::fs::read(path) {
            Ok(text) => parse(path, &text)?,
            Err(error) if error.kind() == ErrorKind::NotFound => (read_old(&old)?, 0),
            Err(error) => return Err(at(error)),
        };
        let mut file = JournalFile { path: path.to_owned(), file: None, bytes: 0, anew_above: 0 };
        if whole == 0 {
            file.write_anew(&journal).map_err(at)?;
            // The new file is durable and goes before the old one, should this be cut short.
            remove_if_there(&old).map_err(at)?;
        } else {
            file.append_behind(whole).map_err(at)?;
            if whole > ANEW_BYTES_MIN {
                // Else what is dead in it would count as its size from now on, and it would grow with every start.
                file.write_anew(&journal).map_err(at)?;
            }
        }
        Ok((file, journal))
    }

    /// Makes durable what has changed since the last call that succeeded. One that failed may be tried again.
    pub fn save(&mut self, journal: &Journal, changed: &BTreeSet<WorkloadId>) -> io::Result<()> {
        let text = record(changed.iter().map(|workload| (workload.clone(), journal.entries.get(workload).cloned())));
        match &self.file {
            Some(_) if self.bytes + text.len() as u64 <= self.anew_above => self.append(&text),
            _ => self.write_anew(journal),
        }
    }

    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        let Some(mut file) = self.file.take() else { return Err(io::Error::other("it is not open")) };
        if let Err(error) = file.write_all(text).and_then(|()| file.sync_data()) {
            // On a full disk there is seldom room for a second copy: what was written of the record is taken back, so
            // that it can be appended again. Where not even that works, only a new file will do.
            if file.set_len(self.bytes).and_then(|()| file.sync_all()).is_ok() {
                self.file = Some(file);
            }
            return Err(error);
        }
        self.bytes += text.len() as u64;
        self.file = Some(file);
        Ok(())
    }

    /// Whole or not at all; an entry is a record of its own.
    fn write_anew(&mut self, journal: &Journal) -> io::Result<()> {
        let mut text = HEADER.to_vec();
        for (workload, entry) in &journal.entries {
            text.extend(record([(workload.clone(), Some(entry.clone()))]));
        }
        self.file = None;
        tombolo_net::write_private(&self.path, &text)?;
        self.append_behind(text.len() as u64)
    }

    /// Opens the file, of which so many bytes are good; the others go.
    fn append_behind(&mut self, whole: u64) -> io::Result<()> {
        let file = OpenOptions::new().append(true).open(&self.path)?;
        let length = file.metadata()?.len();
        if length > whole {
            let cut = length - whole;
            tracing::warn!(path = %self.path.display(), cut, "the journal's last record was cut short; it is dropped");
            file.set_len(whole)?;
            file.sync_all()?;
        }
        (self.file, self.bytes) = (Some(file), whole);
        self.anew_above = (whole * ANEW_FACTOR).max(ANEW_BYTES_MIN);
        Ok(())
    }
}

/// The journal as it was saved last; the file is left as it is, also where an agent is writing to it.
pub fn read(path: &Path) -> Result<Journal, AgentError> {
    match std::fs::read(path) {
        Ok(text) => Ok(parse(path, &text)?.0),
        Err(error) if error.kind() == ErrorKind::NotFound => read_old(&path.with_extension("json")),
        Err(error) => Err(config::io(path, error)),
    }
}

/// What agents wrote before version 0.2: the whole journal as one JSON object.
fn read_old(path: &Path) -> Result<Journal, AgentError> {
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map_err(|error| AgentError::Malformed { path: path.to_owned(), why: error.to_string() }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Journal::default()),
        Err(error) => Err(config::io(path, error)),
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn record(changes: impl IntoIterator<Item = Change>) -> Vec<u8> {
    let changes: Vec<Change> = changes.into_iter().collect();
    let json = serde_json::to_vec(&changes).expect("plain data");
    let mut text = format!("{:08x} {} ", json.len(), checksum(&json)).into_bytes();
    text.extend_from_slice(&json);
    text.push(b'\n');
    text
}

fn checksum(json: &[u8]) -> String {
    blake3::hash(json).to_hex()[..16].to_owned()
}

/// What the file says, and how many of its bytes are whole records.
fn parse(path: &Path, text: &[u8]) -> Result<(Journal, u64), AgentError> {
    let malformed = |why: String| AgentError::Malformed { path: path.to_owned(), why };
    if !text.starts_with(HEADER) {
        return Err(malformed("it does not begin as a journal does".to_owned()));
    }
    let mut entries = BTreeMap::new();
    let mut at = HEADER.len();
    while at < text.len() {
        let Some((json, length)) = record_at(&text[at..]) else {
            if is_cut_short(&text[at..]) {
                break;
            }
            return Err(malformed(format!(
                "the record at byte {at} is damaged, and it is not the last\nhint: bring the file back from a backup; \
                 without one, end what still runs of this site, move the file away, and start the agent anew"
            )));
        };
        let changes: Vec<Change> = serde_json::from_slice(json)
            .map_err(|error| malformed(format!("the record at byte {at} is of another program: {error}")))?;
        for (workload, entry) in changes {
            match entry {
                Some(entry) => drop(entries.insert(workload, entry)),
                None => drop(entries.remove(&workload)),
            }
        }
        at += length;
    }
    Ok((Journal::saved(entries), at as u64))
}

/// The record with which the text begins, if it is whole, and how long it is with its frame.
fn record_at(text: &[u8]) -> Option<(&[u8], usize)> {
    let json = text.get(FRAME_BYTES..FRAME_BYTES.checked_add(declared(text)?)?)?;
    let frame = format!("{:08x} {} ", json.len(), checksum(json));
    let length = FRAME_BYTES + json.len() + 1;
    (text.starts_with(frame.as_bytes()) && text.get(length - 1) == Some(&b'\n')).then_some((json, length))
}

fn declared(text: &[u8]) -> Option<usize> {
    usize::from_str_radix(std::str::from_utf8(text.get(..8)?).ok()?, 16).ok()
}

/// Whether the text, which begins with no whole record, can be the last one: nothing was appended behind it.
fn is_cut_short(text: &[u8]) -> bool {
    let ends_before_the_file = declared(text).is_some_and(|bytes| FRAME_BYTES + bytes + 1 < text.len());
    let mut later = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(end, _)| end + 1);
    !ends_before_the_file && !later.any(|start| record_at(&text[start..]).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tombolo_core::sync::{Assignment, Desired, Intent};
    use tombolo_core::{Epoch, Timestamp};

    const NOW: Timestamp = Timestamp(1_000);

    fn workload(number: usize) -> WorkloadId {
        format!("p-1/s{number}").parse().unwrap()
    }

    /// Something happens to the workload: each call changes its entry.
    fn change(journal: &mut Journal, number: usize, epoch: u64) {
        let assignment = Assignment { workload: workload(number), epoch: Epoch(epoch), intent: Intent::Stop };
        journal.desired(&Desired { assignments: vec![assignment], ..Desired::default() }, NOW);
    }

    fn settle(journal: &mut Journal, number: usize, epoch: u64) {
        journal.desired(&Desired { settled: vec![(workload(number), Epoch(epoch))], ..Desired::default() }, NOW);
    }

    fn save(file: &mut JournalFile, journal: &mut Journal) {
        let changed = journal.take_changed();
        assert!(!changed.is_empty());
        file.save(journal, &changed).unwrap();
    }

    /// A journal of four records, and after each how long the file was and what it said.
    fn history(path: &Path) -> Vec<(usize, Journal)> {
        let (mut file, mut journal) = JournalFile::open(path).unwrap();
        let mut seen = vec![(std::fs::read(path).unwrap().len(), journal.clone())];
        for round in 1..=4 {
            change(&mut journal, 0, round);
            change(&mut journal, round as usize, 1);
            if round == 3 {
                settle(&mut journal, 1, 1);
            }
            save(&mut file, &mut journal);
            seen.push((std::fs::read(path).unwrap().len(), journal.clone()));
        }
        assert_eq!(seen[4].1.entries.len(), 4);
        seen
    }

    #[test]
    fn cut_short_at_any_byte_it_says_what_was_saved_and_goes_on_from_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let seen = history(&path);
        let text = std::fs::read(&path).unwrap();
        for cut in HEADER.len()..=text.len() {
            // As a power cut leaves it: the end of what was being written not there, or there as zeros.
            let (end, _) = seen.iter().find(|(length, _)| *length >= cut).unwrap();
            for length in [cut, *end] {
                let mut left = text[..cut].to_vec();
                left.resize(length, 0);
                std::fs::write(&path, left).unwrap();
                let (_, saved) = seen.iter().rev().find(|(length, _)| *length <= cut).unwrap();
                assert_eq!(read(&path).unwrap(), *saved, "{cut} bytes");
                let (mut file, mut journal) = JournalFile::open(&path).unwrap();
                assert_eq!(journal, *saved, "{cut} bytes");
                change(&mut journal, 9, 1);
                save(&mut file, &mut journal);
                drop(file);
                assert_eq!(JournalFile::open(&path).unwrap().1, journal, "{cut} bytes");
            }
        }
    }

    #[test]
    fn damage_before_the_last_record_is_refused_whichever_byte_it_hits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let seen = history(&path);
        let text = std::fs::read(&path).unwrap();
        let last = seen[3].0;
        for hit in 0..text.len() {
            for with in [text[hit] ^ 1, b'\n', 0] {
                let mut damaged = text.clone();
                damaged[hit] = with;
                std::fs::write(&path, &damaged).unwrap();
                match JournalFile::open(&path) {
                    Ok((_, journal)) if damaged == text => assert_eq!(journal, seen[4].1),
                    // It can't be told from one that was cut short.
                    Ok((_, journal)) => {
                        assert!(hit >= last, "byte {hit} of {} as {with}", text.len());
                        assert_eq!(journal, seen[3].1);
                    }
                    Err(error) => {
                        let text = error.to_string();
                        assert!(text.contains("can't be understood"), "{text}");
                        assert!(hit < HEADER.len() || text.contains("is damaged, and it is not the last"), "{text}");
                        assert_eq!(std::fs::read(&path).unwrap(), damaged, "what is refused is left as it is");
                    }
                }
            }
        }
    }

    #[test]
    fn what_agents_wrote_before_is_taken_over_once() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("journal"), dir.path().join("journal.json"));
        let mut before = Journal::default();
        change(&mut before, 1, 7);
        before.take_changed();
        std::fs::write(&old, serde_json::to_vec(&before).unwrap()).unwrap();
        assert_eq!(read(&path).unwrap(), before);
        assert_eq!(JournalFile::open(&path).unwrap().1, before);
        assert!(!old.exists());
        assert_eq!(JournalFile::open(&path).unwrap().1, before);
        // Killed before the old one was removed, the new one counts.
        std::fs::write(&old, "{}").unwrap();
        assert_eq!(JournalFile::open(&path).unwrap().1, before);

        std::fs::remove_file(&path).unwrap();
        std::fs::write(&old, "{\"entries\":").unwrap();
        assert!(matches!(JournalFile::open(&path), Err(AgentError::Malformed { path, .. }) if path == old));
        assert!(!path.exists());
    }

    #[test]
    fn what_is_written_grows_with_the_changes_and_not_with_their_square() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut file, mut journal) = JournalFile::open(&path).unwrap();
        // As many placements as a site may have, that come and go in batches.
        for first in (0..20_000).step_by(500) {
            (first..first + 500).for_each(|number| change(&mut journal, number, 1));
            save(&mut file, &mut journal);
        }
        let one = record([(workload(1), journal.entries.get(&workload(1)).cloned())]).len() as u64;
        let full = file.bytes;
        assert!((20_000 * (one - 40)..20_000 * (one + 40)).contains(&full), "{full} bytes, {one} each");
        change(&mut journal, 1, 2);
        let before = file.bytes;
        save(&mut file, &mut journal);
        assert!(file.bytes < full || file.bytes - before < 2 * one, "one change wrote {} bytes", file.bytes - before);
        for first in (0..20_000).step_by(500) {
            (first..first + 500).for_each(|number| settle(&mut journal, number, if number == 1 { 2 } else { 1 }));
            save(&mut file, &mut journal);
        }
        assert!(journal.entries.is_empty());
        // What is gone goes from the file too, in time.
        for epoch in 1..=20_000 {
            change(&mut journal, 1, epoch);
            if epoch % 500 == 0 {
                (0..500).for_each(|number| change(&mut journal, 1_000 + number, epoch));
                save(&mut file, &mut journal);
            }
        }
        assert!(file.bytes < 2 * ANEW_BYTES_MIN, "{} bytes", file.bytes);
        drop(file);
        assert_eq!(JournalFile::open(&path).unwrap().1, journal);
    }

    #[test]
    fn after_a_write_that_failed_the_whole_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut file, mut journal) = JournalFile::open(&path).unwrap();
        change(&mut journal, 1, 1);
        save(&mut file, &mut journal);
        change(&mut journal, 2, 1);
        let changed = journal.take_changed();
        // Not open for writing: half of a record is there, as on a full disk.
        file.file = Some(File::open(&path).unwrap());
        file.save(&journal, &changed).unwrap_err();
        let mut torn = std::fs::read(&path).unwrap();
        torn.extend_from_slice(b"000000ff 0123");
        std::fs::write(&path, torn).unwrap();
        file.save(&journal, &changed).unwrap();
        change(&mut journal, 3, 1);
        save(&mut file, &mut journal);
        assert_eq!(JournalFile::open(&path).unwrap().1, journal);
    }
}
