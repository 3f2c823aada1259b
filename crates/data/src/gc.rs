//! Removing versions that nobody keeps, and the chunks that only they used.
//!
//! # Why nothing that is needed goes
//! - What stays is decided by manifests: those in `keep`, in pins, listed by live leases, or younger than the grace.
//! - A writer's packs stay while its lease lives, and for the grace after their writing: so an interrupted
//!   transfer finds again what it had brought.
//! - A writer may share a chunk of a pack that is about to go. It checks under the shared `lock` that all its
//!   chunks are here, and writes its manifest before it lets go; packs and manifests vanish only under the
//!   exclusive one, after a second look at the manifests. So either gc sees the manifest and leaves the pack, or
//!   the writer sees that the chunk is gone and stores it anew.
//! - Rewritten packs are durable before the old ones vanish, and manifests vanish before packs. A gc that is
//!   killed leaves at worst chunks twice or chunks of no version, which the next one removes.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::UNIX_EPOCH;

use tombolo_core::{Digest, Millis, Timestamp, VersionId};

use crate::error::{At, DataError};
use crate::index::DigestSet;
use crate::lease::{self, Live, session_of};
use crate::pack::{self, PackEntry, PackFault, pack_names, sync_dir};
use crate::session::Session;
use crate::store::Store;
use crate::verify::for_each_record;

/// How long damaged packs and manifests are kept for whoever wants to look at them, at least.
const QUARANTINE_KEPT: Millis = Millis::from_secs(7 * 24 * 3600);
/// A pack shorter than this part of what packs are to have is small: each transfer that was made durable in steps, and
/// each small version, leaves some. So many are copied together, and not fewer, so that nothing is copied at each gc.
const SMALL_PART: u64 = 8;
const SMALL_PACKS_MIN: usize = 8;

/// The length below which packs are copied together, of those that a gc may touch; 0 where there are too few.
pub(crate) fn small_below(pack_bytes: u64, lengths: impl Iterator<Item = u64>) -> u64 {
    let small = pack_bytes / SMALL_PART;
    if lengths.filter(|length| *length < small).count() < SMALL_PACKS_MIN { 0 } else { small }
}

/// What a gc did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub versions_removed: Vec<VersionId>,
    /// Packs in which nothing was needed.
    pub packs_removed: u64,
    /// Packs in which less than half was needed, which was copied; and small ones, copied together.
    pub packs_rewritten: u64,
    /// On disk, after what was copied.
    pub bytes_freed: u64,
    /// Of a bucket: versions and packs that a later gc removes, `condemned_for` from now at the earliest, unless somebody
    /// comes to need them. A bucket has no locks, so that nothing goes at once.
    pub condemned: u64,
    pub condemned_for: Millis,
}

struct Candidate {
    name: String,
    length: u64,
    entries: Vec<PackEntry>,
    rewritten: bool,
}

impl Store {
    /// Removes the manifests that are neither in `keep`, pinned, held nor younger than `grace`, and the chunks that
    /// no manifest needs any more. `now` is the time by the clock that also stamps the files.
    pub fn gc(&self, keep: &BTreeSet<VersionId>, now: Timestamp, grace: Millis) -> Result<Collected, DataError> {
        let _gc = self.lock_gc()?;
        if let Some(bucket) = self.bucket().cloned() {
            let collected = crate::bucket::gc::gc(self, &bucket, keep, grace)?;
            let _held = self.lock_exclusive()?;
            let live = lease::live(&self.path(&["leases"]), true)?;
            Gc { store: self, keep, now, grace }.tidy(&live)?;
            return Ok(collected);
        }
        let gc = Gc { store: self, keep, now, grace };
        let live = lease::live(&self.path(&["leases"]), false)?;
        let staying = gc.staying(&live)?;
        let mut alive = DigestSet::default();
        gc.mark(&staying, &mut alive)?;
        let session = Session::start(self)?;
        let (candidates, mut homes) = gc.sort_packs(&live, &alive, &session)?;
        session.flush()?;
        gc.sweep(&staying, candidates, &mut homes, &session)
    }
}

struct Gc<'a> {
    store: &'a Store,
    keep: &'a BTreeSet<VersionId>,
    now: Timestamp,
    grace: Millis,
}

impl Gc<'_> {
    fn staying(&self, live: &Live) -> Result<BTreeSet<VersionId>, DataError> {
        let mut kept = self.keep.clone();
        kept.extend(&live.versions);
        for (_, versions) in self.store.pins()? {
            kept.extend(versions);
        }
        let mut staying = BTreeSet::new();
        for version in self.store.versions()? {
            if kept.contains(&version) || self.is_young(&self.store.path(&["manifests", &version.to_string()]))? {
                staying.insert(version);
            }
        }
        Ok(staying)
    }

    fn is_young(&self, path: &Path) -> Result<bool, DataError> {
        Ok(self.age(path)?.is_some_and(|age| age < self.grace))
    }

    /// None where there is no such file.
    fn age(&self, path: &Path) -> Result<Option<Millis>, DataError> {
        match std::fs::metadata(path).and_then(|metadata| metadata.modified()) {
            Ok(modified) => {
                let millis = modified.duration_since(UNIX_EPOCH).map_or(0, |span| span.as_millis() as i64);
                Ok(Some(self.now.since(Timestamp(millis))))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(DataError::io("can't look at", path, e)),
        }
    }

    /// Fails on a damaged manifest that stays: what it needs isn't known, so nothing may be removed.
    fn mark(&self, versions: &BTreeSet<VersionId>, alive: &mut DigestSet) -> Result<(), DataError> {
        for version in versions {
            match self.store.manifest(*version) {
                Ok(manifest) => alive.extend(manifest.chunks().map(|chunk| chunk.digest)),
                Err(DataError::NoVersion { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The packs that may go, their needed chunks copied, and the chunks that are in packs that stay.
    fn sort_packs(
        &self,
        live: &Live,
        alive: &DigestSet,
        session: &Session,
    ) -> Result<(Vec<Candidate>, DigestSet), DataError> {
        let (mut homes, mut open) = (DigestSet::default(), Vec::new());
        for name in pack_names(&self.store.path(&["packs"]))? {
            let path = self.store.path(&["packs", &name]);
            let entries = match pack::read_entries(&path, self.store.records()) {
                Ok(entries) => entries,
                // A pack that can't tell what it holds is verify's to set aside.
                Err(PackFault::Gone | PackFault::Damaged(_)) => continue,
                Err(PackFault::Other(error)) => return Err(error),
            };
            if live.sessions.contains(session_of(&name)) || self.is_young(&path)? {
                homes.extend(entries.iter().map(|entry| entry.digest));
                continue;
            }
            let length = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
            let needed = needed_bytes(&entries, |digest| alive.contains(digest));
            open.push((needed as f64 / length as f64, Candidate { name, length, entries, rewritten: false }));
        }
        // The fullest first: of a chunk that is in two packs, the copy in the fuller one stays.
        open.sort_by(|(a, x), (b, y)| b.total_cmp(a).then_with(|| x.name.cmp(&y.name)));
        let mut candidates = Vec::new();
        let small = small_below(self.store.pack_bytes(), open.iter().map(|(_, pack)| pack.length));
        for (_, mut pack) in open {
            let needed = needed_bytes(&pack.entries, |digest| alive.contains(digest) && !homes.contains(digest));
            if needed * 2 >= pack.length && pack.length >= small {
                homes.extend(pack.entries.iter().map(|entry| entry.digest));
                continue;
            }
            if needed > 0 {
                pack.rewritten = true;
                if !self.rewrite(&pack, alive, &mut homes, session)? {
                    continue;
                }
            }
            candidates.push(pack);
        }
        Ok((candidates, homes))
    }

    /// Copies what is needed; false where a needed chunk is damaged, and then the pack stays for verify.
    fn rewrite(
        &self,
        pack: &Candidate,
        alive: &DigestSet,
        homes: &mut DigestSet,
        session: &Session,
    ) -> Result<bool, DataError> {
        let mut whole = true;
        let Some(file) = self.store.open_pack(&pack.name)? else { return Ok(true) };
        for_each_record(&file, &pack.entries, |entry, record| {
            if !alive.contains(&entry.digest) || homes.contains(&entry.digest) {
                return Ok(());
            }
            match record {
                Ok(record) if self.store.check_record(record.clone(), entry.raw, &entry.digest).is_ok() => {
                    session.put_record(entry.digest, entry.raw, &record)?;
                    homes.insert(entry.digest);
                }
                _ => whole = false,
            }
            Ok(())
        })?;
        Ok(whole)
    }

    fn sweep(
        &self,
        marked: &BTreeSet<VersionId>,
        candidates: Vec<Candidate>,
        homes: &mut DigestSet,
        session: &Session,
    ) -> Result<Collected, DataError> {
        let store = self.store;
        let _held = store.lock_exclusive()?;
        let live = lease::live(&store.path(&["leases"]), true)?;
        // What was committed, pinned or held since the first look.
        let staying = self.staying(&live)?;
        let mut came = DigestSet::default();
        self.mark(&staying.difference(marked).copied().collect(), &mut came)?;
        let mut collected = Collected::default();
        for version in store.versions()? {
            if !staying.contains(&version) && !marked.contains(&version) {
                remove(&store.path(&["manifests", &version.to_string()]))?;
                collected.versions_removed.push(version);
            }
        }
        sync_dir(&store.path(&["manifests"]))?;
        // Another writer that was killed may have left a pack that is relied on here and whose name is not durable yet.
        sync_dir(&store.path(&["packs"]))?;
        let mut freed = 0;
        for pack in candidates {
            if pack.entries.iter().any(|entry| came.contains(&entry.digest) && !homes.contains(&entry.digest)) {
                homes.extend(pack.entries.iter().map(|entry| entry.digest));
                continue;
            }
            remove(&store.path(&["packs", &pack.name]))?;
            freed += pack.length;
            if pack.rewritten {
                collected.packs_rewritten += 1;
            } else {
                collected.packs_removed += 1;
            }
        }
        sync_dir(&store.path(&["packs"]))?;
        let copied = session.bytes_new.load(std::sync::atomic::Ordering::Relaxed);
        collected.bytes_freed = freed.saturating_sub(copied);
        self.tidy(&live)?;
        store.forget_files();
        store.refresh()?;
        Ok(collected)
    }

    /// Removes what dead writers left in `tmp/`, and old things in `quarantine/`.
    fn tidy(&self, live: &Live) -> Result<(), DataError> {
        for (dir, old) in [("tmp", None), ("quarantine", Some(QUARANTINE_KEPT.max(self.grace)))] {
            let dir = self.store.path(&[dir]);
            for entry in std::fs::read_dir(&dir).at("can't list", &dir)? {
                let entry = entry.at("can't list", &dir)?;
                let dead = match old {
                    None => !live.sessions.contains(session_of(&entry.file_name().to_string_lossy())),
                    Some(old) => self.age(&entry.path())?.is_some_and(|age| age > old),
                };
                if dead {
                    remove(&entry.path())?;
                }
            }
        }
        Ok(())
    }
}

/// Stored bytes of the distinct chunks for which `needed` holds.
fn needed_bytes(entries: &[PackEntry], needed: impl Fn(&Digest) -> bool) -> u64 {
    entries.iter().filter(|entry| needed(&entry.digest)).map(|entry| u64::from(entry.stored)).sum()
}

fn remove(path: &Path) -> Result<(), DataError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(DataError::io("can't remove", path, e)),
        _ => Ok(()),
    }
}
