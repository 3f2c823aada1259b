//! Datasets: names, and the versions under them.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use tombolo_api::wire::{DatasetInfo, PAGE_DEFAULT, PAGE_MAX, Page, PageQuery, VersionInfo};
use tombolo_core::{Name, VersionId};

use super::access::Caller;
use super::extract::{Ask, At};
use super::fault::Fault;
use super::{Shared, versions, views};
use crate::store::{Dataset, Write};

/// Datasets by name.
#[utoipa::path(
    get, path = "/v1/datasets", tag = "data", params(PageQuery), responses((status = 200, body = Page<DatasetInfo>))
)]
pub(super) async fn list(
    State(shared): State<Shared>,
    Ask(page): Ask<PageQuery>,
) -> Result<Json<Page<DatasetInfo>>, Fault> {
    let found = shared.engine.store().datasets(&page).await?;
    let mut items = Vec::with_capacity(found.items.len());
    for dataset in found.items {
        items.push(info(&shared, dataset).await?);
    }
    Ok(Json(Page { items, next: found.next }))
}

#[utoipa::path(
    get, path = "/v1/datasets/{name}", tag = "data", params(("name" = String, Path)),
    responses((status = 200, body = DatasetInfo))
)]
pub(super) async fn show(State(shared): State<Shared>, At(name): At<Name>) -> Result<Json<DatasetInfo>, Fault> {
    let dataset = found(&shared, &name).await?;
    info(&shared, dataset).await.map(Json)
}

async fn found(shared: &Shared, name: &Name) -> Result<Dataset, Fault> {
    let found = shared.engine.store().dataset(name).await?;
    found.ok_or_else(|| {
        Fault::not_found(format!("there is no dataset {name}")).hint("`tombolo data` lists those that there are")
    })
}

async fn info(shared: &Shared, dataset: Dataset) -> Result<DatasetInfo, Fault> {
    let Dataset { name, versions } = dataset;
    let gone = || Fault::not_found(format!("the dataset {name} has no version any more"));
    let (latest, _) = versions.first().ok_or_else(gone)?;
    let latest = views::version(*latest, &versions::found(shared, latest).await?, Some(name.to_string()));
    Ok(DatasetInfo { name: name.to_string(), versions: versions.len() as u64, latest })
}

/// A dataset's versions, newest first; `after` is the last page's last version.
#[utoipa::path(
    get, path = "/v1/datasets/{name}/versions", tag = "data", params(("name" = String, Path), PageQuery),
    responses((status = 200, body = Page<VersionInfo>))
)]
pub(super) async fn versions(
    State(shared): State<Shared>,
    At(name): At<Name>,
    Ask(page): Ask<PageQuery>,
) -> Result<Json<Page<VersionInfo>>, Fault> {
    let dataset = found(&shared, &name).await?;
    let start = match &page.after {
        None => 0,
        Some(after) => {
            let known = dataset.versions.iter().position(|(version, _)| version.to_string() == *after);
            known.ok_or_else(|| Fault::bad_request("bad-page", "`after` is no version of this dataset"))? + 1
        }
    };
    let limit = page.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX) as usize;
    let rest = &dataset.versions[start..];
    let mut items = Vec::new();
    for (version, at) in rest.iter().take(limit) {
        let mut info = views::version(*version, &versions::found(&shared, version).await?, Some(name.to_string()));
        // When it came under this name, which may be later than when its bytes were first known.
        info.at = at.0;
        items.push(info);
    }
    let next = items.last().filter(|_| rest.len() > limit).map(|info| info.version.to_string());
    Ok(Json(Page { items, next }))
}

/// Takes a version's name away; refused while a run that is not over needs it.
#[utoipa::path(
    delete, path = "/v1/datasets/{name}/versions/{version}", tag = "data",
    params(("name" = String, Path), ("version" = String, Path)), responses((status = 204))
)]
pub(super) async fn drop_version(
    State(shared): State<Shared>,
    caller: Caller,
    At((name, version)): At<(Name, VersionId)>,
) -> Result<StatusCode, Fault> {
    let dataset = found(&shared, &name).await?;
    if !dataset.versions.iter().any(|(known, _)| *known == version) {
        return Err(Fault::not_found(format!("{name} has no version {version}")));
    }
    // This name is one of them.
    let elsewhere = shared.engine.store().names(&version).await? > 1;
    let dropped = shared.engine.change(move |world, now| {
        let user = world.runs.values().find(|run| run.data.values().any(|used| *used == version));
        if let Some(run) = user {
            let title = format!("the run {} needs version {} of {name}", run.id, version.short());
            return Err(Fault::conflict("in-use", title).hint("wait until it is over, or stop it"));
        }
        let audit = caller.done(now, format!("{name} {version}"), None);
        let mut writes = vec![Write::DropDataset { name, version }, audit];
        if !elsewhere && world.forget_version(&version) {
            // From now on the sites' garbage collection may take its bytes.
            writes.push(Write::DropVersion { version });
        }
        Ok(((), writes))
    });
    dropped.await??;
    Ok(StatusCode::NO_CONTENT)
}
