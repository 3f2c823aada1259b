//! Why a version may be at a site or not: every rule that it is under, by which way the rule came, and which rules
//! were lifted on the way.

use std::collections::{BTreeMap, BTreeSet};

use super::{RunRecord, VersionRecord, WorkloadRecord};
use crate::ids::{Name, RunId, SiteId, VersionId, WorkloadId};
use crate::residency::{Residency, Selector};
use crate::site::Labels;

/// Versions on the way of one rule from where it was given; longer ways are cut.
const CHAIN_MAX: usize = 64;
/// Versions that are looked at for one answer, which also bounds the runs that are read for it.
pub const LOOKED_AT_MAX: usize = 500;

/// What is known of versions and of the runs that made them.
#[derive(Debug, Clone, Default)]
pub struct Provenance {
    pub versions: BTreeMap<VersionId, VersionRecord>,
    pub runs: BTreeMap<RunId, (RunRecord, Vec<WorkloadRecord>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// Every rule that the version is under.
    pub rules: Vec<Rule>,
    /// The releases between it and what it derives from, the nearest first.
    pub lifted: Vec<Lifted>,
}

/// One rule, and how it came to be the version's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub keep_at: Selector,
    pub allows: bool,
    /// From the version itself to what the rule was given to.
    pub chain: Vec<Derived>,
    /// Whether the last of the chain was given the rule. If not, nothing that is still known tells where it is from.
    pub whole: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derived {
    pub version: VersionId,
    /// What the stage before it in the chain reads it as, or what the stage that made it calls it.
    pub name: Option<Name>,
    pub made_by: Option<WorkloadId>,
}

/// A release that what the version derives from went through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifted {
    pub workload: WorkloadId,
    pub output: Name,
    pub by: String,
    /// Those of the rules that the stage's inputs are under now and the output isn't.
    pub rules: Residency,
}

/// What a workload has read, its code included; nothing for what was never made.
pub fn read_by<'a>(
    record: &'a WorkloadRecord,
    run: &'a RunRecord,
    workloads: &'a [WorkloadRecord],
) -> impl Iterator<Item = (Option<Name>, VersionId)> + 'a {
    let inputs = record.spec.inputs.values().filter_map(move |source| {
        let made = || workloads.iter().find_map(|other| other.outputs.get(source)).map(|made| made.version);
        Some((Some(source.clone()), run.data.get(source).copied().or_else(made)?))
    });
    inputs.chain([(None, run.code)])
}

/// Which rules keep a version at sites or away from one, and by which way it came under them.
pub fn why(known: &Provenance, id: VersionId, site: &SiteId, labels: &Labels) -> Why {
    let Some(record) = known.versions.get(&id) else { return Why { rules: Vec::new(), lifted: Vec::new() } };
    let rule = |keep_at: &Selector| {
        let (chain, whole) = chain(known, id, keep_at);
        Rule { keep_at: keep_at.clone(), allows: keep_at.picks(site, labels), chain, whole }
    };
    Why { rules: record.residency.0.iter().map(rule).collect(), lifted: lifted(known, id) }
}

/// The way from a version to what a rule was given to.
fn chain(known: &Provenance, from: VersionId, rule: &Selector) -> (Vec<Derived>, bool) {
    let (mut way, mut seen) = (Vec::new(), BTreeSet::new());
    let mut next = Some((None, from));
    while let Some((name, version)) = next.take() {
        let Some(record) = known.versions.get(&version) else { break };
        let made_by = record.made_by.clone();
        let name = name.or_else(|| output_name(known, version, made_by.as_ref()?));
        way.push(Derived { version, name, made_by: made_by.clone() });
        if record.given.0.contains(rule) {
            return (way, true);
        }
        let Some((maker, run, workloads)) = made_by.and_then(|id| maker(known, &id)) else { break };
        if maker.spec.job().is_some_and(|job| job.keep_at.0.contains(rule)) {
            return (way, true);
        }
        seen.insert(version);
        let under =
            |version: &VersionId| known.versions.get(version).is_some_and(|read| read.residency.0.contains(rule));
        let found = read_by(maker, run, workloads).find(|(_, read)| under(read) && !seen.contains(read));
        next = found.filter(|_| way.len() < CHAIN_MAX);
    }
    // What was added as data has all its rules by itself.
    let data = way.last().and_then(|last| known.versions.get(&last.version)).is_some_and(|last| last.made_by.is_none());
    (way, data)
}

/// The releases on the way to a version, the nearest first.
fn lifted(known: &Provenance, from: VersionId) -> Vec<Lifted> {
    let (mut found, mut seen) = (Vec::new(), BTreeSet::from([from]));
    let mut due = std::collections::VecDeque::from([from]);
    while let Some(version) = due.pop_front() {
        let Some(record) = known.versions.get(&version) else { continue };
        let Some((maker, run, workloads)) = record.made_by.as_ref().and_then(|id| maker(known, id)) else { continue };
        let read: Vec<VersionId> = read_by(maker, run, workloads).map(|(_, version)| version).collect();
        let inputs = read.iter().filter_map(|version| known.versions.get(version));
        let own = maker.spec.job().map(|job| job.keep_at.clone()).unwrap_or_default();
        let inherited = inputs.fold(own, |all, input| all.and(&input.residency));
        let rules = Residency(inherited.0.difference(&record.residency.0).cloned().collect());
        let output = output_name(known, version, &maker.id);
        let declared = |output: &Name| maker.spec.job().is_some_and(|job| job.release.contains(output));
        if let Some(output) = output.filter(|output| declared(output) && !rules.is_anywhere()) {
            found.push(Lifted { workload: maker.id.clone(), output, by: run.by.clone(), rules });
        }
        due.extend(read.into_iter().filter(|version| seen.len() < LOOKED_AT_MAX && seen.insert(*version)));
    }
    found
}

fn maker<'a>(
    known: &'a Provenance,
    id: &WorkloadId,
) -> Option<(&'a WorkloadRecord, &'a RunRecord, &'a [WorkloadRecord])> {
    let (run, workloads) = known.runs.get(&id.run)?;
    Some((workloads.iter().find(|record| record.id == *id)?, run, workloads))
}

fn output_name(known: &Provenance, version: VersionId, made_by: &WorkloadId) -> Option<Name> {
    let (maker, ..) = maker(known, made_by)?;
    maker.outputs.iter().find(|(_, made)| made.version == version).map(|(name, _)| name.clone())
}
