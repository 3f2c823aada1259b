//! Sites: look, describe, revoke, and look after their stores.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use tombolo_api::stream::{Call, Said};
use tombolo_api::wire::{PAGE_DEFAULT, PAGE_MAX, Page, PageQuery, SiteAnswer, SitePatch, SiteView};
use tombolo_core::world::World;
use tombolo_core::{SiteId, VersionId};

use super::access::Caller;
use super::extract::{Ask, At, Json as Body};
use super::fault::Fault;
use super::{Shared, check, logs, views};

/// Sites by name.
#[utoipa::path(
    get, path = "/v1/sites", tag = "sites", params(PageQuery), responses((status = 200, body = Page<SiteView>))
)]
pub(super) async fn list(
    State(shared): State<Shared>,
    Ask(page): Ask<PageQuery>,
) -> Result<Json<Page<SiteView>>, Fault> {
    let listed = shared.engine.look(move |world, now| {
        let after = page.after.unwrap_or_default();
        let limit = page.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX) as usize;
        let mut rest = world.sites.values().filter(|site| site.info.id.as_str() > after.as_str());
        let items: Vec<_> = rest.by_ref().take(limit).map(|site| views::site(world, site, now)).collect();
        let next = rest.next().and_then(|_| items.last().map(|site| site.name.clone()));
        Page { items, next }
    });
    let (mut listed, gateways) = (listed.await?, shared.hub.gateways());
    listed.items.iter_mut().for_each(|view| view.gateway = gateway_of(&gateways, view));
    Ok(Json(listed))
}

#[utoipa::path(
    get, path = "/v1/sites/{site}", tag = "sites", params(("site" = String, Path)),
    responses((status = 200, body = SiteView))
)]
pub(super) async fn show(State(shared): State<Shared>, At(id): At<SiteId>) -> Result<Json<SiteView>, Fault> {
    view(&shared, id).await.map(Json)
}

async fn view(shared: &Shared, id: SiteId) -> Result<SiteView, Fault> {
    let asked = id.clone();
    let found = shared.engine.look(move |world, now| Some(views::site(world, world.sites.get(&asked)?, now)));
    let mut view = found.await?.ok_or_else(|| missing(&id))?;
    view.gateway = gateway_of(&shared.hub.gateways(), &view);
    Ok(view)
}

fn gateway_of(gateways: &BTreeMap<SiteId, String>, view: &SiteView) -> Option<String> {
    gateways.get(&SiteId::new(view.name.as_str()).ok()?).cloned()
}

fn missing(id: &SiteId) -> Fault {
    Fault::not_found(format!("there is no site {id}")).hint("`tombolo site ls` lists those that there are")
}

/// Changes what an operator says of a site; what is absent stays.
#[utoipa::path(
    patch, path = "/v1/sites/{site}", tag = "sites", params(("site" = String, Path)), request_body = SitePatch,
    responses((status = 200, body = SiteView))
)]
pub(super) async fn patch(
    State(shared): State<Shared>,
    caller: Caller,
    At(id): At<SiteId>,
    Body { value, .. }: Body<SitePatch>,
) -> Result<Json<SiteView>, Fault> {
    value.labels.as_ref().map_or(Ok(()), check::labels)?;
    value.prices.as_ref().map_or(Ok(()), check::prices)?;
    value.capacity.as_ref().map_or(Ok(()), check::resources)?;
    let said = serde_json::to_string(&value).map_err(|error| Fault::internal(&error))?;
    let site = id.clone();
    let changed = shared.engine.change(move |world, now| {
        world.edit_site(&site, |record| {
            let SitePatch { labels, prices, capacity, draining } = value;
            let info = &mut record.info;
            info.labels = labels.unwrap_or_else(|| std::mem::take(&mut info.labels));
            info.prices = prices.unwrap_or_else(|| std::mem::take(&mut info.prices));
            info.capacity = capacity.unwrap_or_else(|| std::mem::take(&mut info.capacity));
            if draining == Some(false) {
                // Whoever opens it like this brings nothing home, and is minded until its maintenance is over.
                record.unmaintained |= record.drain.take().is_some_and(|drain| drain.maintenance);
            }
            record.draining = draining.unwrap_or(record.draining);
        })?;
        Ok::<_, Fault>(((), vec![caller.done(now, &site, Some(said))]))
    });
    changed.await??;
    view(&shared, id).await.map(Json)
}

/// Shuts a site out for good: its agent is cut off and may not come back under its key.
#[utoipa::path(
    post, path = "/v1/sites/{site}/revoke", tag = "sites", params(("site" = String, Path)),
    responses((status = 200, body = SiteView))
)]
pub(super) async fn revoke(
    State(shared): State<Shared>,
    caller: Caller,
    At(id): At<SiteId>,
) -> Result<Json<SiteView>, Fault> {
    let (site, told) = (id.clone(), shared.clone());
    // Whoever asked may hang up; what is decided is carried out all the same.
    let revoked = tokio::spawn(async move {
        let on = site.clone();
        let change = told.engine.change(move |world, now| {
            world.revoke(&on, now)?;
            Ok::<_, Fault>(((), vec![caller.done(now, &on, None)]))
        });
        change.await??;
        told.hub.disconnect(&site);
        Ok::<_, Fault>(())
    });
    revoked.await.map_err(|error| Fault::internal(&error))??;
    view(&shared, id).await.map(Json)
}

/// Removes from a site's store what nothing needs any more.
#[utoipa::path(
    post, path = "/v1/sites/{site}/gc", tag = "sites", params(("site" = String, Path)),
    responses((status = 200, body = SiteAnswer))
)]
pub(super) async fn gc(
    State(shared): State<Shared>,
    caller: Caller,
    At(id): At<SiteId>,
) -> Result<Json<SiteAnswer>, Fault> {
    record(&shared, caller, &id).await?;
    let mut keep: BTreeSet<VersionId> = shared.engine.kept().await?.into_iter().collect();
    keep.extend(shared.engine.look(|world, _| referenced(world)).await?);
    answer(&shared, id, Call::Gc { keep: keep.into_iter().collect() }).await
}

/// Reads a site's whole store and checks every hash.
#[utoipa::path(
    post, path = "/v1/sites/{site}/verify", tag = "sites", params(("site" = String, Path)),
    responses((status = 200, body = SiteAnswer))
)]
pub(super) async fn verify(
    State(shared): State<Shared>,
    caller: Caller,
    At(id): At<SiteId>,
) -> Result<Json<SiteAnswer>, Fault> {
    record(&shared, caller, &id).await?;
    answer(&shared, id, Call::Verify).await
}

async fn record(shared: &Shared, caller: Caller, id: &SiteId) -> Result<(), Fault> {
    let site = id.clone();
    let recorded = shared.engine.change(move |world, now| match world.sites.contains_key(&site) {
        true => Ok(((), vec![caller.done(now, &site, None)])),
        false => Err(missing(&site)),
    });
    recorded.await?
}

async fn answer(shared: &Shared, id: SiteId, call: Call) -> Result<Json<SiteAnswer>, Fault> {
    let answer = whole(shared, &id, call).await?;
    Ok(Json(SiteAnswer { site: id.to_string(), answer }))
}

/// A site's whole answer to a question.
pub(super) async fn whole(shared: &Shared, id: &SiteId, call: Call) -> Result<serde_json::Value, Fault> {
    let mut said = logs::ask(shared, id, call).await?;
    while let Some(piece) = said.recv().await {
        match piece {
            Said::Done(value) => return Ok(value),
            Said::Failed(why) => return Err(Fault::unavailable("site-failed", why)),
            Said::Log(_) | Said::Progress(_) => {}
        }
    }
    Err(Fault::unavailable("site-unreachable", format!("the connection to {id} broke before it had answered")))
}

/// Every version that something which is not over may come to need, at whatever site.
fn referenced(world: &World) -> BTreeSet<VersionId> {
    let runs = world.runs.values().flat_map(|run| run.data.values().copied().chain([run.code]));
    let made = world.workloads.values().flat_map(|record| {
        let kept = record.snapshots.kept.iter().map(|kept| kept.version);
        record.outputs.values().map(|made| made.version).chain(record.state_dir).chain(kept)
    });
    runs.chain(made).collect()
}
