//! Single workloads.

use axum::Json;
use axum::extract::State;
use tombolo_api::wire::WorkloadView;
use tombolo_core::world::WorkloadRecord;
use tombolo_core::{Name, RunId, WorkloadId};

use super::access::Caller;
use super::extract::At;
use super::fault::Fault;
use super::{Shared, views};

/// Asks one workload to stop.
#[utoipa::path(
    post, path = "/v1/workloads/{run}/{name}/stop", tag = "workloads",
    params(("run" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = WorkloadView))
)]
pub(super) async fn stop(
    State(shared): State<Shared>,
    caller: Caller,
    At((run, name)): At<(RunId, Name)>,
) -> Result<Json<WorkloadView>, Fault> {
    let id = WorkloadId::new(run.clone(), name);
    let asked = id.clone();
    let stopped = shared.engine.change_reviving(&run, move |world, now| {
        let record = world.workloads.get(&asked).ok_or_else(|| missing(&asked))?;
        if record.state.is_final() {
            let title = format!("{asked} is over already: it {}", record.state.word());
            return Err(Fault::conflict("workload-over", title));
        }
        world.stop_workload(&asked, now)?;
        Ok(((), vec![caller.done(now, &asked, None)]))
    });
    stopped.await??;
    let record = found(&shared, &id).await?;
    let (around, now) = shared.engine.look(move |world, now| (views::around(world, &run, now), now)).await?;
    Ok(Json(views::workload(&record, &around, &shared.hub.gateways(), now)))
}

pub(super) async fn found(shared: &Shared, id: &WorkloadId) -> Result<WorkloadRecord, Fault> {
    shared.engine.store().workload(id).await?.ok_or_else(|| missing(id))
}

fn missing(id: &WorkloadId) -> Fault {
    let hint = format!("`tombolo ps {}` lists what the run has", id.run);
    Fault::not_found(format!("there is no workload {id}")).hint(hint)
}
