//! gc of a bucket, which has no locks: what is to go is condemned first, and removed by a later gc.
//!
//! # Why nothing that is needed goes
//! - A writer commits in this order: it lists the packs, takes away the condemned, sees that all its chunks are in
//!   the rest, puts the manifest; where that took longer than `commit`, it looks again before it says so.
//! - So a manifest that relies on a pack was there at most `commit` after the pack was condemned. A gc removes a pack
//!   only `condemned` later, after a new look at all manifests, which then shows every such one even if the listing
//!   is late.
//! - A pack isn't removed before the versions that need it are past being saved.
//! - Before a removal the sentence becomes `doomed`, by a change that fails if anything else about the list has
//!   changed meanwhile. So a writer that wants a condemned version back strikes it from the list and either is first
//!   or sees that it is too late.
//! - The doomed stay on the list for longer than listings are late, so that a late one brings none back.
//! - Ages are by the bucket's clock. A writer's packs aren't condemned while its lease lives or they are young.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use tombolo_core::{Millis, Timestamp, VersionId};

use super::condemned::{self, Condemned, Sentence, State};
use super::{Bucket, lease};
use crate::error::DataError;
use crate::gc::{Collected, small_below};
use crate::index::{DigestSet, PackId};
use crate::lease::Live;
use crate::pack::{PackEntry, PackFault};
use crate::session::Session;
use crate::store::Store;

/// Removes what an earlier gc has condemned and nobody needs, and condemns what isn't needed now.
pub(crate) fn gc(
    store: &Store,
    bucket: &Bucket,
    keep: &BTreeSet<VersionId>,
    grace: Millis,
) -> Result<Collected, DataError> {
    let session = Session::start(store)?;
    let now = bucket.now(session.name())?;
    // Before anything is looked at, so that whoever changes it later makes this gc give up.
    let (mut list, tag) = condemned::read(bucket)?;
    let gc = Gc { store, bucket, keep, grace, now, live: lease::live(bucket, now)? };
    let staying = gc.staying()?;
    let alive = gc.chunks(&staying)?;
    gc.judge_versions(&staying, &mut list)?;
    let condemned = list.versions.iter().filter(|(_, sentence)| sentence.state == State::Condemned);
    let savable = gc.chunks(&condemned.map(|(version, _)| *version).collect())?;
    let packs = gc.judge_packs(&alive, &savable, &mut list, &session)?;
    session.flush()?;
    // Who read the list before it was published knows nothing of these: their time begins now, however long the gc took.
    let published = bucket.now(session.name())?;
    list.begin(now, published);
    let began = Instant::now();
    let mut collected = Collected { packs_rewritten: packs.rewritten, ..Collected::default() };
    let sentences = list.versions.values().chain(list.packs.values());
    let waiting: Vec<_> = sentences.filter(|sentence| sentence.state == State::Condemned).collect();
    collected.condemned = waiting.len() as u64;
    let first = waiting.iter().map(|sentence| sentence.since).min().unwrap_or(published);
    let span = Millis(bucket.timing.condemned.as_millis() as u64);
    collected.condemned_for = Millis(span.0.saturating_sub(published.since(first).0));
    if !condemned::replace(bucket, &list, tag)? {
        tracing::info!("another process has changed what is condemned; the next gc goes on");
        return Ok(collected);
    }
    gc.remove_doomed(&list, &packs.sizes, began, &mut collected)?;
    if !collected.versions_removed.is_empty() {
        // They are gone for good, and may come again.
        condemned::change(bucket, |list| list.versions.retain(|v, _| !collected.versions_removed.contains(v)))?;
    }
    store.refresh()?;
    Ok(collected)
}

struct Gc<'a> {
    store: &'a Store,
    bucket: &'a Bucket,
    keep: &'a BTreeSet<VersionId>,
    grace: Millis,
    now: Timestamp,
    live: Live,
}

#[derive(Default)]
struct Packs {
    sizes: BTreeMap<PackId, u64>,
    rewritten: u64,
}

impl Gc<'_> {
    fn is_young(&self, modified: Timestamp) -> bool {
        self.now.since(modified) < self.grace
    }

    fn is_past(&self, sentence: &Sentence, span: std::time::Duration) -> bool {
        u128::from(self.now.since(sentence.since).0) >= span.as_millis()
    }

    fn staying(&self) -> Result<BTreeSet<VersionId>, DataError> {
        let mut kept = self.keep.clone();
        kept.extend(&self.live.versions);
        for (_, versions) in self.store.pins()? {
            kept.extend(versions);
        }
        let items = self.bucket.list("manifests")?;
        let versions = items.iter().filter_map(|item| Some((item.name.parse::<VersionId>().ok()?, item.modified)));
        Ok(versions.filter(|(version, at)| kept.contains(version) || self.is_young(*at)).map(|(v, _)| v).collect())
    }

    /// Fails on a damaged manifest: what it needs isn't known, so nothing may be removed.
    fn chunks(&self, versions: &BTreeSet<VersionId>) -> Result<DigestSet, DataError> {
        let mut chunks = DigestSet::default();
        for version in versions {
            match self.store.manifest(*version) {
                Ok(manifest) => chunks.extend(manifest.chunks().map(|chunk| chunk.digest)),
                Err(DataError::NoVersion { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(chunks)
    }

    fn judge_versions(&self, staying: &BTreeSet<VersionId>, list: &mut Condemned) -> Result<(), DataError> {
        let timing = self.bucket.timing;
        for item in self.bucket.list("manifests")? {
            let Ok(version) = item.name.parse::<VersionId>() else { continue };
            let condemned = Sentence { state: State::Condemned, since: self.now };
            match list.versions.get(&version).copied() {
                None if !staying.contains(&version) => drop(list.versions.insert(version, condemned)),
                Some(Sentence { state: State::Condemned, .. }) if staying.contains(&version) => {
                    list.versions.remove(&version);
                }
                Some(sentence) if sentence.state == State::Condemned && self.is_past(&sentence, timing.condemned) => {
                    list.versions.insert(version, Sentence { state: State::Doomed, since: self.now });
                }
                _ => {}
            }
        }
        let remembered = |s: &Sentence| s.state == State::Condemned || !self.is_past(s, timing.remembered);
        list.versions.retain(|_, sentence| remembered(sentence));
        Ok(())
    }

    /// `alive` are the chunks of versions that stay, `savable` those of versions that somebody may yet save.
    fn judge_packs(
        &self,
        alive: &DigestSet,
        savable: &DigestSet,
        list: &mut Condemned,
        session: &Session,
    ) -> Result<Packs, DataError> {
        let timing = self.bucket.timing;
        let mut packs = Packs::default();
        let (mut homes, mut open) = (DigestSet::default(), Vec::new());
        for item in self.bucket.list("packs")? {
            let Some(pack) = PackId::parse(&item.name) else { continue };
            let sentence = list.packs.get(&pack).copied();
            if sentence.is_some_and(|sentence| sentence.state == State::Doomed) {
                packs.sizes.insert(pack, item.bytes);
                continue;
            }
            let entries = match self.bucket.entries(&item.name, self.store.records()) {
                Ok(entries) => entries,
                // A pack that can't tell what it holds is verify's to set aside.
                Err(PackFault::Gone | PackFault::Damaged(_)) => continue,
                Err(PackFault::Other(error)) => return Err(error),
            };
            let session = format!("{:016x}", pack.session);
            if sentence.is_none() && (self.live.sessions.contains(&session) || self.is_young(item.modified)) {
                homes.extend(entries.iter().map(|entry| entry.digest));
                continue;
            }
            packs.sizes.insert(pack, item.bytes);
            let needed = needed_bytes(&entries, alive, &DigestSet::default());
            open.push((sentence, needed, pack, entries, item.bytes));
        }
        // The uncondemned first, and of these the fullest: what is in them needn't be saved from the others.
        open.sort_by_key(|(sentence, needed, pack, ..)| (sentence.is_some(), std::cmp::Reverse(*needed), *pack));
        let free = open.iter().filter(|(sentence, ..)| sentence.is_none());
        let small = small_below(self.store.pack_bytes(), free.map(|(.., length)| *length));
        for (sentence, _, pack, entries, length) in open {
            let needed = needed_bytes(&entries, alive, &homes);
            let condemned = Sentence { state: State::Condemned, since: self.now };
            match sentence {
                None if needed * 2 >= length && length >= small => {
                    homes.extend(entries.iter().map(|entry| entry.digest))
                }
                None => {
                    if needed == 0 || self.rewrite(pack, &entries, alive, &mut homes, session)? {
                        packs.rewritten += u64::from(needed > 0);
                        list.packs.insert(pack, condemned);
                    }
                }
                // Somebody came to need it before the sentence was known.
                Some(_) if needed > 0 => {
                    list.packs.remove(&pack);
                    homes.extend(entries.iter().map(|entry| entry.digest));
                }
                Some(_) if needed_bytes(&entries, savable, &homes) > 0 => {}
                Some(sentence) if self.is_past(&sentence, timing.condemned) => {
                    list.packs.insert(pack, Sentence { state: State::Doomed, since: self.now });
                }
                Some(_) => {}
            }
        }
        let remembered = |s: &Sentence| s.state == State::Condemned || !self.is_past(s, timing.remembered);
        let sizes = &packs.sizes;
        list.packs.retain(|pack, sentence| remembered(sentence) || sizes.contains_key(pack));
        Ok(packs)
    }

    /// Copies what is needed; false where a needed chunk is damaged, and then the pack stays for verify.
    fn rewrite(
        &self,
        pack: PackId,
        entries: &[PackEntry],
        alive: &DigestSet,
        homes: &mut DigestSet,
        session: &Session,
    ) -> Result<bool, DataError> {
        for entry in entries.iter().filter(|entry| alive.contains(&entry.digest)) {
            if homes.contains(&entry.digest) {
                continue;
            }
            let mut record = vec![0; entry.stored as usize];
            let read = self.bucket.read_at(&pack.to_string(), &mut record, u64::from(entry.offset))?;
            if !read || self.store.check_record(record.clone(), entry.raw, &entry.digest).is_err() {
                self.bucket.forget(&pack.to_string());
                return Ok(false);
            }
            session.put_record(entry.digest, entry.raw, &record)?;
            homes.insert(entry.digest);
        }
        Ok(true)
    }

    /// Manifests go before packs. It ends early rather than late: the next gc removes the rest.
    fn remove_doomed(
        &self,
        list: &Condemned,
        sizes: &BTreeMap<PackId, u64>,
        began: Instant,
        collected: &mut Collected,
    ) -> Result<(), DataError> {
        let doomed = |sentence: &Sentence| sentence.state == State::Doomed;
        let in_time = || began.elapsed() < self.bucket.timing.remembered / 4;
        for (version, _) in list.versions.iter().filter(|(_, s)| doomed(s) && s.since == self.now) {
            if in_time() {
                self.bucket.remove("manifests", &version.to_string())?;
                collected.versions_removed.push(*version);
            }
        }
        for (pack, _) in list.packs.iter().filter(|(_, sentence)| doomed(sentence)) {
            let Some(bytes) = sizes.get(pack) else { continue };
            if in_time() {
                self.bucket.remove("packs", &pack.to_string())?;
                collected.packs_removed += 1;
                collected.bytes_freed += bytes;
            }
        }
        Ok(())
    }
}

fn needed_bytes(entries: &[PackEntry], alive: &DigestSet, homes: &DigestSet) -> u64 {
    let needed = entries.iter().filter(|entry| alive.contains(&entry.digest) && !homes.contains(&entry.digest));
    needed.map(|entry| u64::from(entry.stored)).sum()
}
