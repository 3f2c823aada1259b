//! Looking at every stored byte, and setting aside what is damaged so that it is fetched again.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio_util::sync::CancellationToken;
use tombolo_core::{Digest, VersionId};

use crate::add::Progress;
use crate::error::{At, DataError};
use crate::index::DigestSet;
use crate::pack::{self, PackEntry, PackFault, sync_dir};
use crate::session::{Session, lock};
use crate::store::Store;

#[derive(Clone, Default)]
pub struct VerifyOptions {
    /// Only look; leave damaged packs and manifests where they are.
    pub keep_damaged: bool,
    /// In bytes of packs.
    pub progress: Option<Progress>,
    pub cancel: CancellationToken,
}

/// What [`Store::verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    pub packs: u64,
    pub chunks: u64,
    /// Stored bytes that were read.
    pub bytes: u64,
    /// In order of the packs' names.
    pub damaged: Vec<Damage>,
    /// Versions whose manifest is damaged.
    pub manifests_damaged: Vec<VersionId>,
    /// The files that can't be read any more, with the first chunk each that is damaged or in no pack.
    pub hits: Vec<Hit>,
    /// Packs that were set aside; what was whole in them is in other packs now.
    pub quarantined: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub pack: String,
    /// None where the pack can't tell what it holds.
    pub chunk: Option<Digest>,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    pub version: VersionId,
    pub path: String,
    pub chunk: Digest,
}

impl VerifyReport {
    pub fn is_clean(&self) -> bool {
        self.damaged.is_empty() && self.manifests_damaged.is_empty() && self.hits.is_empty()
    }
}

impl Store {
    /// Reads all packs and manifests. Damaged ones are moved to `quarantine/`; then [`Store::missing`] lists what
    /// was lost, and a fetch brings it.
    pub fn verify(&self, options: &VerifyOptions) -> Result<VerifyReport, DataError> {
        self.check_form()?;
        self.refresh()?;
        let mut report = VerifyReport::default();
        let mut names = self.pack_sizes()?;
        names.sort();
        report.damaged = self.verify_packs(&names, options, &mut report)?;
        for version in self.versions()? {
            match self.manifest(version) {
                Ok(_) | Err(DataError::NoVersion { .. }) => {}
                Err(DataError::CorruptManifest { .. }) => report.manifests_damaged.push(version),
                Err(error) => return Err(error),
            }
        }
        let mut lost = DigestSet::default();
        if options.keep_damaged {
            lost.extend(report.damaged.iter().filter_map(|damage| damage.chunk));
        } else {
            let mut packs: Vec<&str> = report.damaged.iter().map(|damage| damage.pack.as_str()).collect();
            packs.dedup();
            report.quarantined = packs.into_iter().map(str::to_owned).collect();
            for pack in &report.quarantined {
                self.quarantine_pack(pack)?;
            }
            self.quarantine_manifests(&report.manifests_damaged)?;
        }
        self.refresh()?;
        report.hits = self.hits(&lost)?;
        Ok(report)
    }

    /// Verifies one pack, as named by an error, and sets it aside if it is damaged.
    pub fn check_pack(&self, pack: &str) -> Result<Vec<Damage>, DataError> {
        let damaged = self.verify_pack(pack)?.damaged;
        if !damaged.is_empty() {
            self.quarantine_pack(pack)?;
        }
        Ok(damaged)
    }

    fn verify_pack(&self, name: &str) -> Result<PackSeen, DataError> {
        match self.open_pack(name)? {
            Some(file) => self.verify_open(&file, name),
            // A gc has removed it; then nothing in it is needed.
            None => Ok(PackSeen { chunks: 0, bytes: 0, damaged: Vec::new() }),
        }
    }

    fn verify_open(&self, file: &File, name: &str) -> Result<PackSeen, DataError> {
        let mut seen = PackSeen { chunks: 0, bytes: 0, damaged: Vec::new() };
        let damage = |chunk, reason| Damage { pack: name.to_owned(), chunk, reason };
        let entries = match pack::entries_of(file, &self.path(&["packs", name]), self.records()) {
            Ok(entries) => entries,
            Err(PackFault::Gone) => return Ok(seen),
            Err(PackFault::Damaged(reason)) => {
                seen.damaged.push(damage(None, reason));
                return Ok(seen);
            }
            Err(PackFault::Other(error)) => return Err(error),
        };
        for_each_record(file, &entries, |entry, record| {
            seen.chunks += 1;
            seen.bytes += u64::from(entry.stored);
            let checked = record.and_then(|record| self.check_record(record, entry.raw, &entry.digest));
            if let Err(reason) = checked {
                seen.damaged.push(damage(Some(entry.digest), reason));
            }
            Ok(())
        })?;
        Ok(seen)
    }

    fn copy_whole(&self, session: &Session, file: &File, entries: &[PackEntry]) -> Result<(), DataError> {
        for_each_record(file, entries, |entry, record| match record {
            Ok(record) if self.check_record(record.clone(), entry.raw, &entry.digest).is_ok() => {
                session.put_record(entry.digest, entry.raw, &record)
            }
            _ => Ok(()),
        })
    }

    fn verify_packs(
        &self,
        names: &[(String, u64)],
        options: &VerifyOptions,
        report: &mut VerifyReport,
    ) -> Result<Vec<Damage>, DataError> {
        let total = names.iter().map(|(_, bytes)| bytes).sum();
        let (next, done, stop) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let seen: Mutex<Vec<PackSeen>> = Mutex::default();
        let work = || {
            while let Some((name, _)) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                if options.cancel.is_cancelled() {
                    return Err(DataError::Cancelled);
                }
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let pack = self.verify_pack(name)?;
                let done = done.fetch_add(pack.bytes, Ordering::Relaxed) + pack.bytes;
                lock(&seen).push(pack);
                if let Some(progress) = &options.progress {
                    progress(done, total);
                }
            }
            Ok(())
        };
        let failed: Mutex<Option<DataError>> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 8) {
                scope.spawn(|| {
                    if let Err(error) = work() {
                        lock(&failed).get_or_insert(error);
                        stop.store(true, Ordering::Relaxed);
                    }
                });
            }
        });
        if let Some(error) = lock(&failed).take() {
            return Err(error);
        }
        let mut damaged = Vec::new();
        for pack in lock(&seen).drain(..) {
            report.packs += 1;
            report.chunks += pack.chunks;
            report.bytes += pack.bytes;
            damaged.extend(pack.damaged);
        }
        damaged.sort_by(|a, b| a.pack.cmp(&b.pack));
        Ok(damaged)
    }

    fn hits(&self, lost: &DigestSet) -> Result<Vec<Hit>, DataError> {
        let mut hits = Vec::new();
        for version in self.versions()? {
            let manifest = match self.manifest(version) {
                Ok(manifest) => manifest,
                Err(DataError::NoVersion { .. } | DataError::CorruptManifest { .. }) => continue,
                Err(error) => return Err(error),
            };
            for entry in manifest.entries() {
                for chunk in entry.chunks() {
                    if lost.contains(&chunk.digest) || self.locate(&chunk.digest)?.is_none() {
                        hits.push(Hit { version, path: entry.path.clone(), chunk: chunk.digest });
                        break;
                    }
                }
            }
        }
        Ok(hits)
    }

    /// Copies what is whole in the pack into another one, then moves it away.
    fn quarantine_pack(&self, name: &str) -> Result<(), DataError> {
        let _gc = self.lock_gc()?;
        let path = self.path(&["packs", name]);
        let session = Session::start(self)?;
        let Some(file) = self.open_pack(name)? else { return Ok(()) };
        match pack::entries_of(&file, &path, self.records()) {
            Ok(entries) => self.copy_whole(&session, &file, &entries)?,
            Err(PackFault::Damaged(_)) => {}
            Err(PackFault::Gone) => return Ok(()),
            Err(PackFault::Other(error)) => return Err(error),
        }
        session.flush()?;
        if let Some(bucket) = self.bucket() {
            bucket.set_aside_pack(name, &session)?;
            return self.refresh();
        }
        let held = self.lock_exclusive()?;
        set_aside(&path, &self.path(&["quarantine", name]))?;
        sync_dir(&self.path(&["packs"]))?;
        sync_dir(&self.path(&["quarantine"]))?;
        drop(held);
        self.forget_files();
        self.refresh()
    }

    fn quarantine_manifests(&self, versions: &[VersionId]) -> Result<(), DataError> {
        if versions.is_empty() {
            return Ok(());
        }
        let _held = self.lock_exclusive()?;
        for version in versions {
            let name = version.to_string();
            let path = self.path(&["manifests", &name]);
            // Somebody may have brought it again meanwhile.
            if !matches!(self.manifest(*version), Err(DataError::CorruptManifest { .. })) {
                continue;
            }
            match self.bucket() {
                Some(bucket) => bucket.set_aside("manifests", &name)?,
                None => set_aside(&path, &self.path(&["quarantine", &name]))?,
            }
        }
        sync_dir(&self.path(&["manifests"]))
    }
}

fn set_aside(path: &Path, to: &Path) -> Result<(), DataError> {
    std::fs::rename(path, to).at("can't rename", path)?;
    // The time says when it was set aside, from which gc counts.
    let file = File::options().write(true).open(to).at("can't open", to)?;
    file.set_modified(std::time::SystemTime::now()).at("can't stamp", to)
}

struct PackSeen {
    chunks: u64,
    bytes: u64,
    damaged: Vec<Damage>,
}

/// Calls `each` with the record of every entry, or why it can't be read.
pub(crate) fn for_each_record(
    file: &File,
    entries: &[PackEntry],
    mut each: impl FnMut(&PackEntry, Result<Vec<u8>, String>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    for entry in entries {
        let mut record = vec![0; entry.stored as usize];
        let read = file.read_exact_at(&mut record, u64::from(entry.offset));
        each(entry, read.map(|()| record).map_err(|e| format!("it can't be read: {e}")))?;
    }
    Ok(())
}
