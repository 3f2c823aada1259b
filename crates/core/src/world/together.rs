//! The workloads of one run together: an order in which they can go, and how long all takes by what was decided for each.

use std::collections::{BTreeMap, BTreeSet};

use super::WorkloadRecord;
use crate::ids::Name;
use crate::time::Millis;

/// Each after what makes its inputs, and services after all jobs, for which they wait; by name where that leaves a choice.
pub fn in_order(workloads: Vec<WorkloadRecord>) -> Vec<WorkloadRecord> {
    let order = order(&workloads);
    let mut workloads: Vec<Option<WorkloadRecord>> = workloads.into_iter().map(Some).collect();
    order.into_iter().filter_map(|at| workloads[at].take()).collect()
}

/// From the beginning until the last job has ended and the last service has started, by what was decided for each when
/// it was decided: the longest way from one to the next. What needed no place, as it was cached, takes no time.
pub fn critical_path(workloads: &[WorkloadRecord]) -> Millis {
    let needs = needs(workloads);
    let mut ends = vec![Millis(0); workloads.len()];
    for at in order(workloads) {
        let begin = needs[at].iter().map(|before| ends[*before]).max().unwrap_or_default();
        let outcome = workloads[at].placement.as_ref().and_then(|placement| placement.outcome.as_ref().ok());
        let takes = outcome.map(|outcome| outcome.terms.transfer + outcome.terms.wait + outcome.terms.run);
        ends[at] = begin + takes.unwrap_or_default();
    }
    ends.into_iter().max().unwrap_or_default()
}

/// For each workload those that must have ended before it.
fn needs(workloads: &[WorkloadRecord]) -> Vec<BTreeSet<usize>> {
    let outputs =
        |(at, record): (usize, &WorkloadRecord)| record.spec.outputs().map(|name| (name.clone(), at)).collect();
    let made: BTreeMap<Name, usize> = workloads.iter().enumerate().flat_map(|one| -> Vec<_> { outputs(one) }).collect();
    let jobs = || workloads.iter().enumerate().filter(|(_, record)| record.spec.job().is_some()).map(|(at, _)| at);
    let of = |record: &WorkloadRecord| match record.spec.service() {
        Some(_) => jobs().collect(),
        None => record.spec.inputs.values().filter_map(|input| made.get(input).copied()).collect(),
    };
    workloads.iter().map(of).collect()
}

/// Indices; a project has no cycles, and what were in one would be left out.
fn order(workloads: &[WorkloadRecord]) -> Vec<usize> {
    let needs = needs(workloads);
    let mut open: Vec<usize> = needs.iter().map(BTreeSet::len).collect();
    let mut feeds: Vec<Vec<usize>> = vec![Vec::new(); workloads.len()];
    for (at, before) in needs.iter().enumerate() {
        before.iter().for_each(|before| feeds[*before].push(at));
    }
    let key = |at: usize| (&workloads[at].id.name, at);
    let mut ready: BTreeSet<(&Name, usize)> = (0..workloads.len()).filter(|at| open[*at] == 0).map(key).collect();
    let mut order = Vec::new();
    while let Some((_, at)) = ready.pop_first() {
        order.push(at);
        for next in &feeds[at] {
            open[*next] -= 1;
            if open[*next] == 0 {
                ready.insert(key(*next));
            }
        }
    }
    order
}
