//! What runs have made, by name: `<project>/<output>`, one for each run that had it.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use tombolo_api::wire::{OutputInfo, OutputQuery, Page, PageQuery};
use tombolo_core::world::VersionRecord;
use tombolo_core::{Name, RunId, VersionId};

use super::access::Caller;
use super::extract::{Ask, At};
use super::fault::Fault;
use super::{Shared, views};
use crate::store::{NamedOutput, Write};

/// The newest of each output, by project and name.
#[utoipa::path(
    get, path = "/v1/outputs", tag = "data", params(OutputQuery),
    responses((status = 200, body = Page<OutputInfo>))
)]
pub(super) async fn list(
    State(shared): State<Shared>,
    Ask(query): Ask<OutputQuery>,
) -> Result<Json<Page<OutputInfo>>, Fault> {
    let found = shared.engine.store().outputs(&query).await?;
    shown(&shared, found).await.map(Json)
}

/// What runs of a project have made under a name, newest first.
#[utoipa::path(
    get, path = "/v1/outputs/{project}/{output}", tag = "data",
    params(("project" = String, Path), ("output" = String, Path), PageQuery),
    responses((status = 200, body = Page<OutputInfo>))
)]
pub(super) async fn versions(
    State(shared): State<Shared>,
    At((project, output)): At<(Name, Name)>,
    Ask(page): Ask<PageQuery>,
) -> Result<Json<Page<OutputInfo>>, Fault> {
    let found = shared.engine.store().output(&project, &output, &page).await?;
    if found.items.is_empty() && page.after.is_none() {
        return Err(missing(&project, &output));
    }
    shown(&shared, found).await.map(Json)
}

fn missing(project: &Name, output: &Name) -> Fault {
    Fault::not_found(format!("no run of {project} has made {output}"))
        .hint("`tombolo data ls --outputs` lists what runs have made")
}

async fn shown(shared: &Shared, found: Page<NamedOutput>) -> Result<Page<OutputInfo>, Fault> {
    let wanted: Vec<VersionId> = found.items.iter().map(|output| output.version).collect();
    let looked = shared.engine.look(move |world, _| {
        let known = |id: VersionId| Some((id, world.versions.get(&id)?.clone()));
        wanted.into_iter().filter_map(known).collect::<BTreeMap<_, _>>()
    });
    let records = looked.await?;
    let info = |made: NamedOutput| records.get(&made.version).map(|record| info(made, record));
    Ok(Page { items: found.items.into_iter().filter_map(info).collect(), next: found.next })
}

fn info(made: NamedOutput, record: &VersionRecord) -> OutputInfo {
    let NamedOutput { run, stage, output, version, at, cached } = made;
    let project = run.project().to_string();
    OutputInfo {
        version: views::version(version, record, Some(format!("{project}/{output}"))),
        project,
        output: output.to_string(),
        stage: stage.to_string(),
        run: run.to_string(),
        at: at.0,
        cached,
    }
}

/// Takes away the name of what one run made; refused while that run is not over. Without any name left, the bytes
/// are free to be collected.
#[utoipa::path(
    delete, path = "/v1/outputs/{project}/{output}/{run}", tag = "data",
    params(("project" = String, Path), ("output" = String, Path), ("run" = String, Path)),
    responses((status = 204))
)]
pub(super) async fn unname(
    State(shared): State<Shared>,
    caller: Caller,
    At((project, output, run)): At<(Name, Name, RunId)>,
) -> Result<StatusCode, Fault> {
    let store = shared.engine.store();
    // The page that begins with this run.
    let page = PageQuery { after: Some((run.number().saturating_add(1)).to_string()), limit: Some(1) };
    let found = store.output(&project, &output, &page).await?.items.pop();
    let Some(made) = found.filter(|made| made.run == run) else {
        return Err(missing(&project, &output).detail(format!("at least the run {run} has not")));
    };
    let version = made.version;
    let dropped = shared.engine.change(move |world, now| {
        if world.runs.contains_key(&run) {
            let title = format!("the run {run}, which made it, is not over");
            return Err(Fault::conflict("in-use", title).hint("wait until it is over, or stop it"));
        }
        let audit = caller.done(now, format!("{project}/{output}@{run} {version}"), None);
        // From then on the sites' garbage collection may take its bytes, if it has no other name.
        world.unname_output(version);
        Ok(((), vec![Write::DropOutput { project, output, number: run.number() }, audit]))
    });
    dropped.await??;
    Ok(StatusCode::NO_CONTENT)
}
