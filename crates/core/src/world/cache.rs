//! When a stage need not run again: its code, inputs, environment and command are those of an earlier one.

use super::{Cache, WorkloadRecord, World};
use crate::ids::{Name, WorkloadId};
use crate::spec::Command;
use crate::sync::Made;
use crate::time::Timestamp;
use crate::workload::Step;

use std::collections::BTreeMap;

impl World {
    /// All that a job's outputs depend on, as text, once its inputs are known; none for services. The edge
    /// may shorten it by hashing.
    pub fn cache_key(&self, id: &WorkloadId) -> Option<String> {
        let record = self.workloads.get(id)?;
        let run = self.runs.get(&id.run)?;
        let job = record.spec.job()?;
        let mut inputs = Vec::new();
        for (alias, source) in &record.spec.inputs {
            inputs.push((alias, self.resolve(run, source)?));
        }
        // A query is whole by itself; a command may read anything of the project.
        let code = match &record.spec.command {
            Command::Sql(_) => None,
            Command::Run(_) => Some(run.code),
            // Nobody knows whether it is as it was before it was looked at again.
            Command::Import(_) => return None,
        };
        let spec = &record.spec;
        // Left out where there is none, so that what was kept before there were expectations is still found.
        let expect = if job.expect.is_empty() { String::new() } else { format!(" {:?}", job.expect) };
        Some(format!(
            "v1 {:?}{expect}",
            (
                (id.run.project(), &spec.command, code, &spec.python, &spec.image),
                (&spec.env, &spec.secrets, inputs, &job.outputs, &job.gate, &job.release),
            )
        ))
    }

    /// Asks for the look-ups that are due.
    pub(super) fn ask_cache(&mut self) {
        let due: Vec<_> = self
            .index
            .queued
            .iter()
            .filter_map(|id| self.workloads.get(id))
            .filter(|record| record.cache == Cache::Unasked)
            .map(|record| record.id.clone())
            .collect();
        for id in due {
            let forced = self.runs.get(&id.run).is_some_and(|run| run.force);
            let key = if forced { None } else { self.cache_key(&id) };
            let record = self.workloads.get_mut(&id).expect("listed above");
            match key {
                Some(key) => {
                    record.cache = Cache::Asked;
                    self.changes.lookups.push((id, key));
                }
                None => record.cache = Cache::Missed,
            }
        }
    }

    /// A store may have been left between question and answer: ask again.
    pub fn forget_questions(&mut self) {
        for record in self.workloads.values_mut().filter(|record| record.cache == Cache::Asked) {
            record.cache = Cache::Unasked;
        }
    }

    /// What an earlier run left under the key, or nothing.
    pub fn cache_answer(&mut self, id: &WorkloadId, found: Option<BTreeMap<Name, Made>>, now: Timestamp) {
        let usable = found.filter(|outputs| self.still_there(id, outputs));
        if !self.workloads.get(id).is_some_and(|record| record.cache == Cache::Asked) {
            return;
        }
        // Whatever the answer, the workload can be placed or others can go on.
        self.planned.stale = true;
        let record = self.workloads.get_mut(id).expect("looked up above");
        let Some((outputs, next)) = usable.zip(record.state.step(Step::CacheHit, now).ok()) else {
            record.cache = Cache::Missed;
            return;
        };
        let WorkloadRecord { cache, state, .. } = record;
        (*cache, *state) = (Cache::Hit, next);
        record.outputs = outputs;
        self.govern_outputs(id);
        self.touch(id);
        self.tell(now, id, Some("unchanged since an earlier run".to_owned()));
    }

    /// Whether every output is known and at some site that is not revoked.
    fn still_there(&self, id: &WorkloadId, outputs: &BTreeMap<Name, Made>) -> bool {
        let declared =
            self.workloads.get(id).is_some_and(|record| record.spec.outputs().all(|o| outputs.contains_key(o)));
        let held = |made: &Made| {
            self.versions.get(&made.version).is_some_and(|version| {
                version.replicas.iter().any(|site| self.sites.get(site).is_some_and(|site| !site.revoked))
            })
        };
        declared && outputs.values().all(held)
    }
}
