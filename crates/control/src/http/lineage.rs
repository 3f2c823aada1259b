//! Lineage: which stages made a version and of what, and which stages read it.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use tombolo_api::wire::{Lineage, LineageStep, PAGE_MAX, PageQuery};
use tombolo_core::world::{Cache, RunRecord, WorkloadRecord};
use tombolo_core::{Name, VersionId};

use super::extract::At;
use super::fault::Fault;
use super::{Shared, versions};

/// Newest runs that are looked through.
const RUNS_MAX: usize = 200;
/// Steps that are told each way.
const STEPS_MAX: usize = 100;

/// What made a version and of what, and what it fed, as far as the newest 200 runs tell.
#[utoipa::path(
    get, path = "/v1/versions/{version}/lineage", tag = "data", params(("version" = String, Path)),
    responses((status = 200, body = Lineage))
)]
pub(super) async fn show(State(shared): State<Shared>, At(id): At<VersionId>) -> Result<Json<Lineage>, Fault> {
    versions::found(&shared, &id).await?;
    let mut lineage = Lineage::default();
    let mut page = PageQuery { after: None, limit: Some(PAGE_MAX.min(RUNS_MAX as u32)) };
    loop {
        let runs = shared.engine.store().runs(None, &page).await?;
        for run in &runs.items {
            if lineage.runs as usize == RUNS_MAX {
                lineage.partial = true;
                return Ok(Json(lineage));
            }
            lineage.runs += 1;
            if let Some((run, workloads)) = shared.engine.store().run(&run.id).await? {
                look_through(&id, &run, &workloads, &mut lineage);
            }
        }
        match runs.next {
            Some(next) => page.after = Some(next),
            None => return Ok(Json(lineage)),
        }
    }
}

fn look_through(id: &VersionId, run: &RunRecord, workloads: &[WorkloadRecord], lineage: &mut Lineage) {
    let made_by: BTreeMap<&Name, &WorkloadRecord> =
        workloads.iter().flat_map(|record| record.spec.outputs().map(move |output| (output, record))).collect();
    let resolve = |source: &Name| match run.data.get(source) {
        Some(version) => Some(*version),
        None => made_by.get(source).and_then(|record| record.outputs.get(source)).map(|made| made.version),
    };
    for record in workloads {
        // What waits or was skipped has read nothing.
        if record.attempts.is_empty() && record.cache != Cache::Hit {
            continue;
        }
        let inputs: BTreeMap<&Name, VersionId> =
            record.spec.inputs.values().filter_map(|source| Some((source, resolve(source)?))).collect();
        let step = || LineageStep {
            workload: record.id.to_string(),
            state: record.state.word().to_owned(),
            at: run.at.0,
            code: run.code.to_string(),
            inputs: inputs.iter().map(|(name, version)| (name.to_string(), version.to_string())).collect(),
            outputs: record.outputs.iter().map(|(name, made)| (name.to_string(), made.version.to_string())).collect(),
        };
        if record.outputs.values().any(|made| made.version == *id) && lineage.made.len() < STEPS_MAX {
            lineage.made.push(step());
        }
        if inputs.values().any(|input| input == id) && lineage.fed.len() < STEPS_MAX {
            lineage.fed.push(step());
        }
    }
}
