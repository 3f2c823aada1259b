//! Runs: submit, look, stop, retry.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use tombolo_api::wire::{NewRun, Page, PageQuery, PlanView, RunView};
use tombolo_core::spec::ProjectSpec;
use tombolo_core::world::{RunRecord, Submission, VersionRecord, WorkloadRecord, World, in_order};
use tombolo_core::{Name, RunId, SiteId, VersionId};

use super::access::Caller;
use super::extract::{Ask, At, Json as Body};
use super::fault::Fault;
use super::once::{Create, Key};
use super::{Shared, check, views};

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct RunQuery {
    /// Only runs of this project.
    #[param(value_type = Option<String>)]
    project: Option<Name>,
    /// Where the page before ended.
    after: Option<String>,
    /// Items, at most 500.
    limit: Option<u32>,
}

/// Runs, newest first, without their workloads.
#[utoipa::path(get, path = "/v1/runs", tag = "runs", params(RunQuery), responses((status = 200, body = Page<RunView>)))]
pub(super) async fn list(
    State(shared): State<Shared>,
    Ask(query): Ask<RunQuery>,
) -> Result<Json<Page<RunView>>, Fault> {
    let page = PageQuery { after: query.after, limit: query.limit };
    let found = shared.engine.store().runs(query.project.as_ref(), &page).await?;
    Ok(Json(Page { items: found.items.iter().map(views::run).collect(), next: found.next }))
}

/// Submits a project. Its code and data must be known as versions.
#[utoipa::path(
    post, path = "/v1/runs", tag = "runs", request_body = NewRun,
    params(("Idempotency-Key" = String, Header, description = "The same key gets the same answer")),
    responses((status = 201, body = RunView))
)]
pub(super) async fn submit(
    State(shared): State<Shared>,
    caller: Caller,
    key: Key,
    Body { value, hash }: Body<NewRun>,
) -> Result<Response, Fault> {
    check::project(&value.project)?;
    caller.may_release(&value.project)?;
    only_of(&value.project, &value.data)?;
    Create::new(caller, key, &hash)
        .perform(shared, std::future::ready(Ok(())), move |world, now, caller, ()| {
            let NewRun { project, code, mut data, force, .. } = value;
            add_newest(world, &project, &mut data);
            let rules = rules(world, &project, &data)?;
            let id = world.next_run(&project.name);
            let by = caller.who().to_owned();
            world.submit(Submission { id: id.clone(), spec: project, code, data, by, force }, now)?;
            for (version, record, site) in rules {
                world.add_version(version, record, &site)?;
            }
            let record = &world.runs[&id];
            let audit = caller.done(now, &id, Some(format!("code {}", code.short())));
            Ok((views::run(record), vec![audit]))
        })
        .await
}

/// Refuses versions of datasets that the project does not have.
pub(super) fn only_of(project: &ProjectSpec, data: &BTreeMap<Name, VersionId>) -> Result<(), Fault> {
    match data.keys().find(|name| !project.data.contains_key(*name)) {
        None => Ok(()),
        Some(name) => {
            let title = format!("the run names a version of {name}, which is no dataset of the project");
            Err(Fault::invalid("no-such-dataset", title))
        }
    }
}

/// Of each dataset of which no version is named, the newest that it has.
pub(super) fn add_newest(world: &World, project: &ProjectSpec, data: &mut BTreeMap<Name, VersionId>) {
    let missing = project.data.keys().filter(|name| !data.contains_key(*name));
    let found: Vec<_> = missing.filter_map(|name| Some((name.clone(), world.newest(name)?))).collect();
    data.extend(found);
}

/// The versions whose bytes the project puts under a rule that they are not under yet, and a site of theirs that
/// the rule allows. Checked before anything is changed.
fn rules(
    world: &World,
    project: &ProjectSpec,
    data: &BTreeMap<Name, VersionId>,
) -> Result<Vec<(VersionId, VersionRecord, SiteId)>, Fault> {
    let mut rules = Vec::new();
    for (name, version) in data {
        let (Some(spec), Some(record)) = (project.data.get(name), world.versions.get(version)) else { continue };
        let residency = record.residency.and(&spec.residency);
        if residency == record.residency {
            continue;
        }
        let allowed = record
            .replicas
            .iter()
            .find(|site| world.sites.get(*site).is_some_and(|place| residency.allows(site, &place.info.labels)));
        let Some(site) = allowed else {
            let title = format!("{name} may only be at {residency}, and none of the sites that have it is there");
            return Err(Fault::forbidden("residency", title));
        };
        rules.push((*version, VersionRecord { residency, ..record.clone() }, site.clone()));
    }
    Ok(rules)
}

/// A run with its workloads.
#[utoipa::path(
    get, path = "/v1/runs/{run}", tag = "runs", params(("run" = String, Path, description = "Such as `flights-7`")),
    responses((status = 200, body = RunView))
)]
pub(super) async fn show(State(shared): State<Shared>, At(id): At<RunId>) -> Result<Json<RunView>, Fault> {
    let (run, workloads) = found(&shared, &id).await?;
    view(&shared, &run, workloads).await.map(Json)
}

async fn view(shared: &Shared, run: &RunRecord, workloads: Vec<WorkloadRecord>) -> Result<RunView, Fault> {
    let workloads = in_order(workloads);
    let id = run.id.clone();
    let (around, now) = shared.engine.look(move |world, now| (views::around(world, &id, now), now)).await?;
    let mut view = views::run(run);
    let gateways = shared.hub.gateways();
    view.workloads = workloads.iter().map(|record| views::workload(record, &around, &gateways, now)).collect();
    for (view, record) in view.workloads.iter_mut().zip(&workloads) {
        view.moving = shared.hub.moving(&record.id);
    }
    Ok(view)
}

/// What was decided for each workload, and why.
#[utoipa::path(
    get, path = "/v1/runs/{run}/plan", tag = "runs", params(("run" = String, Path)),
    responses((status = 200, body = PlanView))
)]
pub(super) async fn plan(State(shared): State<Shared>, At(id): At<RunId>) -> Result<Json<PlanView>, Fault> {
    let (_, workloads) = found(&shared, &id).await?;
    Ok(Json(views::plan(workloads)))
}

/// Asks everything of a run to stop.
#[utoipa::path(
    post, path = "/v1/runs/{run}/stop", tag = "runs", params(("run" = String, Path)),
    responses((status = 200, body = RunView))
)]
pub(super) async fn stop(
    State(shared): State<Shared>,
    caller: Caller,
    At(id): At<RunId>,
) -> Result<Json<RunView>, Fault> {
    let run = id.clone();
    let stopped = shared.engine.change_reviving(&id, move |world, now| {
        world.stop(&run, now)?;
        Ok::<_, Fault>(((), vec![caller.done(now, &run, None)]))
    });
    stopped.await??;
    let (run, workloads) = found(&shared, &id).await?;
    view(&shared, &run, workloads).await.map(Json)
}

/// Runs again whatever of a run failed, was stopped or skipped.
#[utoipa::path(
    post, path = "/v1/runs/{run}/retry", tag = "runs",
    params(("run" = String, Path), ("Idempotency-Key" = String, Header)),
    responses((status = 201, body = RunView))
)]
pub(super) async fn retry(
    State(shared): State<Shared>,
    caller: Caller,
    key: Key,
    At(id): At<RunId>,
) -> Result<Response, Fault> {
    let mut create = Create::new(caller, key, "");
    create.revive = Some(id.clone());
    let gateways = shared.hub.gateways();
    create
        .perform(shared, std::future::ready(Ok(())), move |world, now, caller, ()| {
            world.retry(&id, now)?;
            let around = views::around(world, &id, now);
            let record = world.runs.get(&id).ok_or_else(|| Fault::not_found(format!("there is no run {id}")))?;
            let mut view = views::run(record);
            let workloads = in_order(world.workloads_of(&id).cloned().collect());
            view.workloads = workloads.iter().map(|record| views::workload(record, &around, &gateways, now)).collect();
            Ok((view, vec![caller.done(now, &id, None)]))
        })
        .await
}

pub(super) async fn found(shared: &Shared, id: &RunId) -> Result<(RunRecord, Vec<WorkloadRecord>), Fault> {
    let found = shared.engine.store().run(id).await?;
    found.ok_or_else(|| {
        Fault::not_found(format!("there is no run {id}")).hint("`tombolo ps` lists the runs that there are")
    })
}
