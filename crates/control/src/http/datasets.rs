//! Datasets: names, and the versions under them.

use std::ops::Bound;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use tombolo_api::wire::{DatasetInfo, PAGE_DEFAULT, PAGE_MAX, Page, PageQuery, VersionInfo};
use tombolo_core::Name;
use tombolo_core::world::{Dataset, Refusal, Which, World};

use super::access::Caller;
use super::extract::{Ask, At};
use super::fault::Fault;
use super::{Shared, views};

/// Datasets by name.
#[utoipa::path(
    get, path = "/v1/datasets", tag = "data", params(PageQuery), responses((status = 200, body = Page<DatasetInfo>))
)]
pub(super) async fn list(
    State(shared): State<Shared>,
    Ask(page): Ask<PageQuery>,
) -> Result<Json<Page<DatasetInfo>>, Fault> {
    let after = page.after.as_deref().map(Name::new).transpose();
    let after = after.map_err(|_| Fault::bad_request("bad-page", "`after` is no name of a dataset"))?;
    let limit = limit(&page);
    let listed = shared.engine.look(move |world, _| {
        let start = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let all = world.datasets.range::<Name, _>((start, Bound::Unbounded));
        let mut all = all.filter_map(|(name, dataset)| info(world, name, dataset));
        let items: Vec<_> = all.by_ref().take(limit).collect();
        let next = all.next().and_then(|_| items.last().map(|info| info.name.clone()));
        Page { items, next }
    });
    Ok(Json(listed.await?))
}

fn limit(page: &PageQuery) -> usize {
    page.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX) as usize
}

#[utoipa::path(
    get, path = "/v1/datasets/{name}", tag = "data", params(("name" = String, Path)),
    responses((status = 200, body = DatasetInfo))
)]
pub(super) async fn show(State(shared): State<Shared>, At(name): At<Name>) -> Result<Json<DatasetInfo>, Fault> {
    let found = shared.engine.look(move |world, _| {
        let found = world.datasets.get(&name).and_then(|dataset| info(world, &name, dataset));
        found.ok_or(Refusal::NoDataset(name))
    });
    Ok(Json(found.await??))
}

/// Nothing of a dataset that has no version any more.
fn info(world: &World, name: &Name, dataset: &Dataset) -> Option<DatasetInfo> {
    let (newest, _) = dataset.newest()?;
    let tags = dataset.tags.iter().map(|(tag, tagged)| (tag.to_string(), tagged.version.to_string()));
    Some(DatasetInfo {
        name: name.to_string(),
        versions: dataset.versions.len() as u64,
        latest: views::named(world, name, newest)?,
        tags: tags.collect(),
        retain: dataset.rules.clone(),
    })
}

/// A dataset's versions, newest first; `after` is the number of the last page's last one.
#[utoipa::path(
    get, path = "/v1/datasets/{name}/versions", tag = "data", params(("name" = String, Path), PageQuery),
    responses((status = 200, body = Page<VersionInfo>))
)]
pub(super) async fn versions(
    State(shared): State<Shared>,
    At(name): At<Name>,
    Ask(page): Ask<PageQuery>,
) -> Result<Json<Page<VersionInfo>>, Fault> {
    let after = page.after.as_deref().map_or(Ok(u64::MAX), str::parse);
    let after: u64 = after.map_err(|_| Fault::bad_request("bad-page", "`after` is no number of a version"))?;
    let limit = limit(&page);
    let listed = shared.engine.look(move |world, _| {
        let dataset = world.datasets.get(&name).filter(|dataset| !dataset.versions.is_empty());
        let dataset = dataset.ok_or_else(|| Refusal::NoDataset(name.clone()))?;
        let mut rest = dataset.versions.range(..after).rev().map(|(number, _)| *number);
        let numbers: Vec<u64> = rest.by_ref().take(limit).collect();
        let next = rest.next().and(numbers.last()).map(u64::to_string);
        let items = numbers.into_iter().filter_map(|number| views::named(world, &name, number)).collect();
        Ok::<_, Refusal>(Page { items, next })
    });
    Ok(Json(listed.await??))
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct DropQuery {
    /// Takes the version's tags away too.
    #[serde(default)]
    force: bool,
}

/// Takes a version's name away; refused while a run that is not over needs it, and while it has a tag. A digest means
/// every number that the version has in the dataset, `v3` that one alone.
#[utoipa::path(
    delete, path = "/v1/datasets/{name}/versions/{version}", tag = "data",
    params(("name" = String, Path), ("version" = String, Path, description = "64 hex digits, or `v3`"), DropQuery),
    responses((status = 204))
)]
pub(super) async fn drop_version(
    State(shared): State<Shared>,
    caller: Caller,
    At((name, version)): At<(Name, String)>,
    Ask(query): Ask<DropQuery>,
) -> Result<StatusCode, Fault> {
    let which: Which = version.parse().map_err(|_| {
        Fault::bad_request("bad-path", "the path names no version")
            .detail("give its 64 hex digits, or its number as v3")
    })?;
    let dropped = shared.engine.change(move |world, now| {
        // The sites' garbage collection may take its bytes, once it has no other name.
        let version = world.unname(&name, which, query.force, "removed by hand", caller.by(now))?;
        let forced = query.force.then(|| "with its tags".to_owned());
        Ok::<_, Fault>(((), vec![caller.done(now, format!("{name} {which} {version}"), forced)]))
    });
    dropped.await??;
    Ok(StatusCode::NO_CONTENT)
}
