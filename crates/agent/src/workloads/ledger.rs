//! What was submitted for which resource: a file in the site's directory.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use super::decide::Entry;

/// By the resources' uids.
pub struct Ledger {
    path: PathBuf,
    entries: BTreeMap<String, Entry>,
}

impl Ledger {
    pub fn load(path: PathBuf) -> io::Result<Ledger> {
        let entries = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| io::Error::other(format!("{} can't be understood: {error}", path.display())))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Ledger { path, entries })
    }

    pub fn get(&self, uid: &str) -> Option<&Entry> {
        self.entries.get(uid)
    }

    pub fn uids(&self) -> impl Iterator<Item = &String> {
        self.entries.keys()
    }

    /// Those of other resources.
    pub fn others<'l>(&'l self, uid: &'l str) -> impl Iterator<Item = &'l Entry> {
        self.entries.iter().filter(move |(other, _)| *other != uid).map(|(_, entry)| entry)
    }

    /// Changed on disk before it is here; none removes.
    pub fn put(&mut self, uid: &str, entry: Option<Entry>) -> io::Result<()> {
        let before = match entry {
            Some(entry) => self.entries.insert(uid.to_owned(), entry),
            None => self.entries.remove(uid),
        };
        let text = serde_json::to_vec_pretty(&self.entries).map_err(io::Error::from)?;
        let written = tombolo_net::write_private(&self.path, &text);
        if written.is_err() {
            match before {
                Some(before) => self.entries.insert(uid.to_owned(), before),
                None => self.entries.remove(uid),
            };
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_there_after_a_restart_and_a_failed_write_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("workloads.json");
        let entry =
            Entry { namespace: "ml".to_owned(), name: "x".to_owned(), run: None, older: Vec::new(), sent: None };
        let mut ledger = Ledger::load(path.clone()).unwrap();
        ledger.put("u", Some(entry.clone())).unwrap();
        let mut ledger = Ledger::load(path.clone()).unwrap();
        assert_eq!(ledger.get("u"), Some(&entry));
        // Where the draft would be is a directory.
        std::fs::create_dir(path.with_extension("draft")).unwrap();
        assert!(ledger.put("u", None).is_err());
        assert_eq!(ledger.get("u"), Some(&entry));
        std::fs::write(&path, "{").unwrap();
        assert!(Ledger::load(path).is_err());
    }
}
