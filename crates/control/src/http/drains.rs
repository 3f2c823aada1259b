//! Sites that are left as a whole, and opened again.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use tombolo_api::wire::{DrainBrief, DrainRequest, DrainView, HomecomingView, LeaverView, QuoteView};
use tombolo_core::draining::{Drain, DrainWish, Plan, Planned, Stay};
use tombolo_core::world::{Refusal, SiteRecord, WorkloadRecord, World};
use tombolo_core::{Millis, SiteId, WorkloadId};

use super::Shared;
use super::access::Caller;
use super::extract::{At, Json as Body};
use super::fault::Fault;

/// What a drain of a site would do now. Nothing is touched.
#[utoipa::path(
    post, path = "/v1/sites/{site}/drain/plan", tag = "sites", params(("site" = String, Path)),
    request_body = DrainRequest, responses((status = 200, body = DrainView))
)]
pub(super) async fn plan(
    State(shared): State<Shared>,
    At(site): At<SiteId>,
    Body { value: request, .. }: Body<DrainRequest>,
) -> Result<Json<DrainView>, Fault> {
    let planned = shared.engine.look(move |world, now| {
        let record = world.sites.get(&site).ok_or_else(|| Refusal::NoSite(site.clone()))?;
        if record.revoked {
            return Err(Refusal::Revoked(site));
        }
        let plan = world.drain_plan(&site, request.restart_jobs, now).unwrap_or_default();
        let under_way = world.moves().filter(|record| leaves(record, &site));
        let moving = under_way.map(|record| leaver(record, &site, &Drain::none(now)));
        let workloads = moving.chain(rows(world, plan)).collect();
        Ok(DrainView { restart_jobs: request.restart_jobs, workloads, ..head(world, record) })
    });
    Ok(Json(planned.await??))
}

/// Has all that is at a site go elsewhere, as far as it can. Asked again, it is the same drain as it was asked last.
#[utoipa::path(
    post, path = "/v1/sites/{site}/drain", tag = "sites", params(("site" = String, Path)),
    request_body = DrainRequest, responses((status = 200, body = DrainView))
)]
pub(super) async fn begin(
    State(shared): State<Shared>,
    caller: Caller,
    At(site): At<SiteId>,
    Body { value: request, .. }: Body<DrainRequest>,
) -> Result<Json<DrainView>, Fault> {
    let said = serde_json::to_string(&request).map_err(|error| Fault::internal(&error))?;
    let asked = site.clone();
    let begun = shared.engine.change(move |world, now| {
        let DrainRequest { deadline_ms, restart_jobs } = request;
        let wish = DrainWish { deadline: deadline_ms.map(Millis), restart_jobs, by: caller.who().to_owned() };
        world.drain(&asked, wish, now)?;
        Ok::<_, Refusal>(((), vec![caller.done(now, &asked, Some(said))]))
    });
    begun.await??;
    view(&shared, site).await
}

/// How the leaving of a site stands.
#[utoipa::path(
    get, path = "/v1/sites/{site}/drain", tag = "sites", params(("site" = String, Path)),
    responses((status = 200, body = DrainView))
)]
pub(super) async fn show(State(shared): State<Shared>, At(site): At<SiteId>) -> Result<Json<DrainView>, Fault> {
    view(&shared, site).await
}

/// Opens a site again. What has not left it stays; what belongs there comes home where that is worth it.
#[utoipa::path(
    post, path = "/v1/sites/{site}/undrain", tag = "sites", params(("site" = String, Path)),
    responses((status = 200, body = HomecomingView))
)]
pub(super) async fn undrain(
    State(shared): State<Shared>,
    caller: Caller,
    At(site): At<SiteId>,
) -> Result<Json<HomecomingView>, Fault> {
    let opened = shared.engine.change(move |world, now| {
        world.undrain(&site, caller.who(), now)?;
        // As it is seen now: the moves begin when the world decides, right after this.
        let workloads = rows(world, world.homeward(&site, now, now)).collect();
        let writes = vec![caller.done(now, &site, None)];
        Ok::<_, Refusal>((HomecomingView { site: site.to_string(), workloads }, writes))
    });
    Ok(Json(opened.await??))
}

async fn view(shared: &Shared, site: SiteId) -> Result<Json<DrainView>, Fault> {
    let looked = shared.engine.look(move |world, now| {
        let record = world.sites.get(&site).ok_or_else(|| Refusal::NoSite(site.clone()))?;
        let drain = record.drain.clone().unwrap_or_else(|| Drain::none(now));
        let here = world.workloads.values().filter(|record| record.sites().any(|at| *at == site));
        let mut ids: BTreeSet<&WorkloadId> = here.map(|record| &record.id).collect();
        ids.extend(&drain.of);
        let row = |id: &WorkloadId| match world.workloads.get(id) {
            Some(record) => leaver(record, &site, &drain),
            None => LeaverView::new(id, "over"),
        };
        let workloads = ids.into_iter().map(row).collect();
        Ok::<_, Refusal>(DrainView { workloads, ..head(world, record) })
    });
    Ok(Json(looked.await??))
}

/// All but the workloads.
fn head(world: &World, record: &SiteRecord) -> DrainView {
    let drain = record.drain.as_ref();
    let left = left(world, record);
    DrainView {
        site: record.info.id.to_string(),
        state: state(record, left).to_owned(),
        by: drain.map(|drain| drain.by.clone()),
        at: drain.map(|drain| drain.at.0),
        deadline: drain.and_then(|drain| drain.deadline).map(|at| at.0),
        ended: drain.and_then(|drain| drain.ended).map(|at| at.0),
        restart_jobs: drain.is_some_and(|drain| drain.restart_jobs),
        maintenance: drain.is_some_and(|drain| drain.maintenance),
        left,
        workloads: Vec::new(),
    }
}

pub(super) fn brief(world: &World, record: &SiteRecord) -> Option<DrainBrief> {
    let drain = record.drain.as_ref()?;
    let left = left(world, record);
    let (state, by) = (state(record, left).to_owned(), drain.by.clone());
    Some(DrainBrief { state, by, deadline: drain.deadline.map(|at| at.0), left })
}

fn left(world: &World, site: &SiteRecord) -> u64 {
    let id = &site.info.id;
    let here = |record: &&WorkloadRecord| record.sites().any(|at| at == id) || leaves(record, id);
    world.workloads.values().filter(here).count() as u64
}

fn state(record: &SiteRecord, left: u64) -> &'static str {
    match (record.draining, &record.drain) {
        (false, _) => "open",
        (true, None) => "closed",
        (true, Some(drain)) if drain.lasts() => "draining",
        (true, Some(_)) if left == 0 => "drained",
        (true, Some(_)) => "overdue",
    }
}

fn leaves(record: &WorkloadRecord, site: &SiteId) -> bool {
    record.moving.as_ref().is_some_and(|moving| moving.from == *site)
}

/// How one workload of a site stands.
fn leaver(record: &WorkloadRecord, site: &SiteId, drain: &Drain) -> LeaverView {
    let moved =
        record.moves.iter().rev().find(|moved| moved.from == *site && moved.at >= drain.at && moved.undone.is_none());
    let view = LeaverView { kind: Some(kind(record)), ..LeaverView::new(&record.id, "goes") };
    if let Some(moving) = record.moving.as_ref().filter(|_| leaves(record, site)) {
        let quote = QuoteView::new(&record.id, &moving.from, &moving.to, moving.method, &moving.quote);
        return LeaverView {
            state: "moving".to_owned(),
            to: Some(moving.to.to_string()),
            method: Some(moving.method.into()),
            stage: Some(moving.stage.word().to_owned()),
            why: moving.off.clone(),
            bytes: Some(moving.bytes),
            quote: Some(quote),
            ..view
        };
    }
    match (record.state.site(), moved) {
        (Some(at), _) if at == site => match drain.stays.get(&record.id) {
            Some(Stay { rule, why }) => {
                LeaverView { state: "stays".to_owned(), rule: Some(rule.clone()), why: Some(why.clone()), ..view }
            }
            None => view,
        },
        (_, Some(moved)) => LeaverView {
            state: "moved".to_owned(),
            to: Some(moved.to.to_string()),
            method: Some(moved.method.into()),
            bytes: Some(moved.bytes),
            took_ms: Some(moved.ended.since(moved.at).0),
            downtime_ms: moved.downtime.map(|span| span.0),
            quote: Some(QuoteView::new(&record.id, &moved.from, &moved.to, moved.method, &moved.quote)),
            ..view
        },
        (at, None) if !record.state.is_final() => LeaverView {
            state: "elsewhere".to_owned(),
            to: at.map(SiteId::to_string),
            why: at.is_none().then(|| format!("it is {}", record.state.word())),
            ..view
        },
        (_, None) => LeaverView { state: "over".to_owned(), why: Some(format!("it {}", record.state.word())), ..view },
    }
}

fn kind(record: &WorkloadRecord) -> String {
    if record.spec.job().is_some() { "job" } else { "service" }.to_owned()
}

fn rows(world: &World, plan: Plan) -> impl Iterator<Item = LeaverView> {
    let kind_of = |id: &WorkloadId| world.workloads.get(id).map(kind);
    let goes = plan.moves.into_iter().map(move |planned| {
        let Planned { workload, from, to, method, quote, why } = planned;
        LeaverView {
            kind: kind_of(&workload),
            to: Some(to.to_string()),
            method: Some(method.into()),
            why,
            quote: Some(QuoteView::new(&workload, &from, &to, method, &quote)),
            ..LeaverView::new(&workload, "goes")
        }
    });
    let stays = plan.stays.into_iter().map(move |(id, Stay { rule, why })| LeaverView {
        kind: kind_of(&id),
        rule: Some(rule),
        why: Some(why),
        ..LeaverView::new(&id, "stays")
    });
    goes.chain(stays)
}

/// Why what is at a site that is left stays there, in words.
pub(super) fn stays(world: &World) -> BTreeMap<WorkloadId, String> {
    let left = world.sites.values().filter_map(|site| Some((&site.info.id, site.drain.as_ref()?)));
    let said = left.flat_map(|(site, drain)| {
        let text = move |stay: &Stay| match drain.lasts() {
            true => format!("{site} is drained, and it stays: {}", stay.why),
            false => format!("{site} was drained, and it stayed: {}", stay.why),
        };
        drain.stays.iter().map(move |(id, stay)| (id.clone(), text(stay)))
    });
    said.collect()
}
