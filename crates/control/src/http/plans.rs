//! What would happen if a project were run now.

use axum::Json;
use axum::extract::State;
use tombolo_api::wire::{ExpectedData, NewPlan, PlanView};
use tombolo_core::world::{Submission, VersionRecord, World};
use tombolo_core::{Digest, Residency, Timestamp, VersionId, placement};

use super::extract::Json as Body;
use super::fault::Fault;
use super::{Shared, check, runs};

/// Plans made at the same time; who comes when all places are taken is sent away.
pub const PLANS_MAX: usize = 4;

/// Plans a project without running it; nothing is kept.
#[utoipa::path(
    post, path = "/v1/plan", tag = "runs", request_body = NewPlan,
    responses(
        (status = 200, body = PlanView),
        (status = 429, body = tombolo_api::problem::Problem, content_type = "application/problem+json",
            description = "Too many plans are being made."),
    )
)]
pub(super) async fn plan(
    State(shared): State<Shared>,
    Body { value, .. }: Body<NewPlan>,
) -> Result<Json<PlanView>, Fault> {
    check::project(&value.project)?;
    check::objective(value.objective)?;
    for expected in value.expected.values() {
        check::bytes(expected.bytes)?;
    }
    let place = shared.plans.clone().try_acquire_owned();
    let place = place.map_err(|_| Fault::busy(format!("{PLANS_MAX} plans are being made already")))?;
    let (world, now) = shared.engine.look(|world, now| (world.clone(), now)).await?;
    // Planning computes; the engine and the other requests go on meanwhile.
    let plan = tokio::task::spawn_blocking(move || {
        let _place = place;
        make(world, now, value)
    });
    plan.await.map_err(|error| Fault::internal(&error))?.map(Json)
}

fn make(mut world: World, now: Timestamp, wanted: NewPlan) -> Result<PlanView, Fault> {
    let NewPlan { mut project, expected, objective } = wanted;
    let mut data = std::collections::BTreeMap::new();
    // Where things would go is told also of data that a run would refuse.
    project.allow_failed();
    for (name, ExpectedData { bytes, site }) in expected {
        let Some(spec) = project.data.get(&name) else {
            let title = format!("{name} is expected, which is no dataset of the project");
            return Err(Fault::invalid("no-such-dataset", title));
        };
        let id = stand_in(name.as_str());
        let record = version(bytes, spec.residency.clone(), now);
        world.add_version(id, record, &site)?;
        data.insert(name, id);
    }
    runs::add_newest(&world, &project, &mut data);
    // The code is small, and wherever it is submitted: it makes no difference to where things go.
    let code = stand_in("");
    let mut record = version(0, Residency::anywhere(), now);
    record.replicas.extend(world.sites.keys().cloned());
    world.versions.insert(code, record);
    let id = world.next_run(&project.name);
    let submission = Submission { id, spec: project, code, data, by: String::new(), force: false };
    let plan = placement::plan(&world.what_if(submission, objective, now)?);
    let (makespan_ms, cost, exact) = (plan.makespan.0, plan.cost, plan.exact);
    Ok(PlanView { makespan_ms, cost, exact, placements: plan.placements })
}

/// The id of a version that does not exist yet.
fn stand_in(name: &str) -> VersionId {
    VersionId(Digest(*blake3::hash(format!("expected data {name}").as_bytes()).as_bytes()))
}

fn version(bytes: u64, residency: Residency, at: Timestamp) -> VersionRecord {
    VersionRecord {
        bytes,
        files: 1,
        residency,
        made_by: None,
        given: Default::default(),
        facts: Default::default(),
        at,
        replicas: Default::default(),
    }
}
