//! What sites lack of versions that they don't have whole: other versions there may have most of the same chunks.
//!
//! Two versions' chunks never change, so neither does what they have in common: that is compared once, when a run that
//! reads the version is planned, and kept. Which site has which version does change; it is looked up at each use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::World;
use crate::ids::{RunId, SiteId, VersionId};
use crate::sketch::{Overlap, Sketch};

/// Sketches kept in memory, at 12 KiB at the most; of older versions all counts as missing again.
pub const SKETCHES_MAX: usize = 10_000;
/// The newest versions with which one is compared.
const COMPARED_MAX: usize = 512;
/// Versions that are compared for one plan, the largest first: 20 ms or so.
const COMPARING_MAX: usize = 128;
/// Versions of a site that are counted together, the newest first.
const HELD_MAX: usize = 32;
/// Versions of which it is remembered what they share with others; beyond it all is forgotten and compared again.
const REMEMBERED_MAX: usize = 256;

/// The sketches of known versions. A clone shares them.
#[derive(Debug, Clone, Default)]
pub(super) struct Sketches {
    known: BTreeMap<VersionId, (u64, Arc<Sketch>)>,
    /// By the number under which each came, so that the newest is last.
    order: BTreeMap<u64, VersionId>,
    next: u64,
    compared: BTreeMap<VersionId, Arc<Compared>>,
}

/// What a version shares with those of lower numbers than `until`.
#[derive(Debug, Clone, Default)]
struct Compared {
    until: u64,
    /// The newest last; those with which it shares nothing are left out.
    with: Vec<(VersionId, Arc<Overlap>)>,
}

impl Sketches {
    /// Whether it is news.
    fn learn(&mut self, id: VersionId, sketch: Sketch) -> bool {
        if self.known.contains_key(&id) {
            return false;
        }
        self.known.insert(id, (self.next, Arc::new(sketch)));
        self.order.insert(self.next, id);
        self.next += 1;
        if self.known.len() > SKETCHES_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.known.remove(&oldest);
            self.compared.remove(&oldest);
        }
        true
    }

    fn forget(&mut self, id: &VersionId) {
        if let Some((number, _)) = self.known.remove(id) {
            self.order.remove(&number);
        }
        self.compared.remove(id);
    }

    /// Compares a version with those that came since it was last compared.
    fn compare(&mut self, id: &VersionId) {
        let Some((_, sketch)) = self.known.get(id) else { return };
        let sketch = Arc::clone(sketch);
        if self.compared.len() >= REMEMBERED_MAX {
            self.compared.clear();
        }
        // Copied only where a plan that is being made looks at it too.
        let compared = Arc::make_mut(self.compared.entry(*id).or_default());
        let newest = self.order.range(compared.until..).rev().take(COMPARED_MAX).map(|(_, other)| *other);
        let mut fresh = Vec::new();
        for other in newest.filter(|other| other != id) {
            let Some((_, theirs)) = self.known.get(&other).filter(|(_, theirs)| sketch.may_share(theirs)) else {
                continue;
            };
            let overlap = sketch.overlap(theirs);
            if !overlap.is_nothing() {
                fresh.push((other, Arc::new(overlap)));
            }
        }
        compared.with.extend(fresh.into_iter().rev());
        let excess = compared.with.len().saturating_sub(COMPARED_MAX);
        compared.with.drain(..excess);
        compared.until = self.next;
    }

    fn is_compared(&self, id: &VersionId) -> bool {
        self.compared.get(id).is_some_and(|compared| compared.until == self.next)
    }
}

impl World {
    /// What a version's chunks are like, where its site says so. The first word stands: chunks don't change.
    pub fn learn_sketch(&mut self, id: VersionId, sketch: Sketch) {
        // One that claims more than there is says nothing of the version.
        let fits = self.versions.get(&id).is_some_and(|record| sketch.bytes() <= record.bytes);
        if fits && self.sketches.learn(id, sketch) {
            self.changes.sketches.insert(id);
            self.planned.stale = true;
        }
    }

    /// As the store has them, the oldest version's first.
    pub fn load_sketches(&mut self, sketches: impl IntoIterator<Item = (VersionId, Sketch)>) {
        for (id, sketch) in sketches {
            if self.versions.contains_key(&id) {
                self.sketches.learn(id, sketch);
            }
        }
    }

    pub fn sketch(&self, id: &VersionId) -> Option<&Sketch> {
        self.sketches.known.get(id).map(|(_, sketch)| &**sketch)
    }

    pub(super) fn forget_sketch(&mut self, id: &VersionId) {
        self.sketches.forget(id);
        self.changes.sketches.remove(id);
    }

    /// Before a run's problem is made: what its versions share with others. Where that would take too long, all of
    /// the smallest versions counts as missing, until a later plan.
    pub(super) fn compare_sketches(&mut self, run: &RunId) {
        let Some(record) = self.runs.get(run) else { return };
        let sources = self.workloads_of(run).flat_map(|workload| workload.spec.inputs.values());
        let mut read: BTreeSet<VersionId> = sources.filter_map(|source| self.resolve(record, source)).collect();
        read.insert(record.code);
        let fresh = read.into_iter().filter(|id| !self.sketches.is_compared(id));
        let mut fresh: Vec<_> = fresh.filter_map(|id| Some((self.sketch(&id)?.bytes(), id))).collect();
        fresh.sort_unstable_by(|a, b| b.cmp(a));
        for (_, id) in fresh.into_iter().take(COMPARING_MAX) {
            self.sketches.compare(&id);
        }
    }

    /// What each site lacks of a version's bytes, where that is less than all. A site that is no replica has at least
    /// something to fetch: what it has is not known to be the version.
    pub(super) fn missing(&self, id: &VersionId) -> BTreeMap<SiteId, u64> {
        let mut missing = BTreeMap::new();
        let (Some(record), Some(sketch)) = (self.versions.get(id), self.sketch(id)) else { return missing };
        let shared = self.sketches.compared.get(id).map_or(&[][..], |compared| &compared.with);
        let mut held: BTreeMap<&SiteId, Vec<&Overlap>> = BTreeMap::new();
        for (other, overlap) in shared.iter().rev() {
            let replicas = self.versions.get(other).map(|other| &other.replicas);
            for site in replicas.into_iter().flatten().filter(|site| !record.replicas.contains(*site)) {
                let held = held.entry(site).or_default();
                if held.len() < HELD_MAX {
                    held.push(overlap);
                }
            }
        }
        // What occurs in it again and again is brought once, wherever it is brought to.
        let alone = sketch.missing_beside(std::iter::empty());
        for site in self.sites.keys().filter(|site| !record.replicas.contains(*site)) {
            let lacks = held.get(site).map_or(alone, |held| sketch.missing_beside(held.iter().copied())).max(1);
            if lacks < record.bytes {
                missing.insert(site.clone(), lacks);
            }
        }
        missing
    }
}
