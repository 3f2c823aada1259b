//! Moves of workloads: quoted, asked for, followed and called off.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use tombolo_api::wire::{MoveMethod, MoveRequest, MoveView, QuoteView, StayView};
use tombolo_core::moving::Wish;
use tombolo_core::world::{Refusal, WorkloadRecord, World};
use tombolo_core::{Name, RunId, WorkloadId};

use super::Shared;
use super::access::Caller;
use super::extract::{At, Json as Body};
use super::fault::Fault;
use super::workloads::found;

/// How long a quote waits for what nobody knows yet, how often it looks, and the time between two copies that tell how much
/// changes.
const MEASURED_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(30);
const BETWEEN_COPIES: Duration = Duration::from_secs(1);
/// Moves in one listing; the oldest are left out.
const LISTED_MAX: usize = 500;

/// What a move would take, or what forbids it. Nothing is touched.
#[utoipa::path(
    post, path = "/v1/workloads/{run}/{name}/move/quote", tag = "moves", request_body = MoveRequest,
    params(("run" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = QuoteView))
)]
pub(super) async fn quote(
    State(shared): State<Shared>,
    caller: Caller,
    At((run, name)): At<(RunId, Name)>,
    Body { value: request, .. }: Body<MoveRequest>,
) -> Result<Json<QuoteView>, Fault> {
    let id = WorkloadId::new(run, name);
    measure(&shared, &id, &request).await?;
    let wish = wish(request, &caller)?;
    let asked = id.clone();
    let looked = shared.engine.look(move |world, now| {
        let quoted = world.quote_move(&asked, &wish, now);
        let from = world.workloads.get(&asked).and_then(|record| record.state.site().cloned());
        quoted.map(|(method, quote)| (method, quote, from, wish))
    });
    let quoted = looked.await?;
    let (method, quote, from, wish) = match quoted {
        Err(Refusal::NoWorkload(_)) => return Err(over(&found(&shared, &id).await?)),
        quoted => quoted?,
    };
    let from = from.expect("what is nowhere has no quote");
    Ok(Json(QuoteView::new(&id, &from, &wish.to, method, &quote)))
}

/// Begins a move. Asked again while it goes to the same site, it is the same move.
#[utoipa::path(
    post, path = "/v1/workloads/{run}/{name}/move", tag = "moves", request_body = MoveRequest,
    params(("run" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = MoveView))
)]
pub(super) async fn begin(
    State(shared): State<Shared>,
    caller: Caller,
    At((run, name)): At<(RunId, Name)>,
    Body { value: request, .. }: Body<MoveRequest>,
) -> Result<Json<MoveView>, Fault> {
    let id = WorkloadId::new(run, name);
    measure(&shared, &id, &request).await?;
    let wish = wish(request, &caller)?;
    let asked = id.clone();
    let begun = shared.engine.change(move |world, now| {
        let same = |record: &WorkloadRecord| record.moving.as_ref().is_some_and(|moving| moving.to == wish.to);
        let mut writes = Vec::new();
        if !world.workloads.get(&asked).is_some_and(same) {
            let detail = format!("to {}", wish.to);
            world.begin_move(&asked, wish, now)?;
            writes.push(caller.done(now, &asked, Some(detail)));
        }
        Ok::<_, Refusal>((under_way(world, &asked), writes))
    });
    match begun.await? {
        Err(Refusal::NoWorkload(_)) => Err(over(&found(&shared, &id).await?)),
        Err(refusal) => Err(refusal.into()),
        Ok(view) => view.map(Json).ok_or_else(|| Fault::conflict("not-moving", "the move is over already")),
    }
}

/// Takes a move back, as far as it can be.
#[utoipa::path(
    delete, path = "/v1/workloads/{run}/{name}/move", tag = "moves",
    params(("run" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = [MoveView]))
)]
pub(super) async fn call_off(
    State(shared): State<Shared>,
    caller: Caller,
    At((run, name)): At<(RunId, Name)>,
) -> Result<Json<Vec<MoveView>>, Fault> {
    let id = WorkloadId::new(run, name);
    let asked = id.clone();
    let called = shared.engine.change(move |world, now| {
        let why = format!("{} called it off", caller.who());
        world.call_off(&asked, why, now)?;
        Ok::<_, Refusal>(((), vec![caller.done(now, &asked, None)]))
    });
    match called.await? {
        Err(Refusal::NoWorkload(_)) => Err(over(&found(&shared, &id).await?)),
        Err(refusal) => Err(refusal.into()),
        Ok(()) => Ok(Json(all(&found(&shared, &id).await?))),
    }
}

/// The moves of a workload, the oldest first; the last may be under way.
#[utoipa::path(
    get, path = "/v1/workloads/{run}/{name}/moves", tag = "moves",
    params(("run" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = [MoveView]))
)]
pub(super) async fn of_workload(
    State(shared): State<Shared>,
    At((run, name)): At<(RunId, Name)>,
) -> Result<Json<Vec<MoveView>>, Fault> {
    Ok(Json(all(&found(&shared, &WorkloadId::new(run, name)).await?)))
}

/// Where a workload has been, the oldest stay first, whether or not it is over.
#[utoipa::path(
    get, path = "/v1/workloads/{run}/{name}/history", tag = "moves",
    params(("run" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = [StayView]))
)]
pub(super) async fn history(
    State(shared): State<Shared>,
    At((run, name)): At<(RunId, Name)>,
) -> Result<Json<Vec<StayView>>, Fault> {
    let record = found(&shared, &WorkloadId::new(run, name)).await?;
    let looked = shared.engine.look(move |world, now| {
        world.stays(&record, now).iter().map(|stay| StayView::new(stay, now)).collect::<Vec<_>>()
    });
    Ok(Json(looked.await?))
}

/// The moves of everything that is not over, the newest first.
#[utoipa::path(get, path = "/v1/moves", tag = "moves", responses((status = 200, body = [MoveView])))]
pub(super) async fn list(State(shared): State<Shared>) -> Result<Json<Vec<MoveView>>, Fault> {
    let looked = shared.engine.look(|world, _| world.workloads.values().flat_map(all).collect::<Vec<_>>());
    let mut moves = looked.await?;
    moves.sort_by_key(|one| std::cmp::Reverse(one.at));
    moves.truncate(LISTED_MAX);
    Ok(Json(moves))
}

/// Has a copy of the state taken where nobody knows how large it is or how fast it changes, and waits for that, though not
/// for ever. What it reads now the move need not read.
async fn measure(shared: &Shared, id: &WorkloadId, request: &MoveRequest) -> Result<(), Fault> {
    if request.method == Some(MoveMethod::Restart) {
        return Ok(());
    }
    let deadline = Instant::now() + MEASURED_WITHIN;
    let mut asked = BTreeSet::new();
    loop {
        let of = id.clone();
        let looked = shared.engine.look(move |world, now| {
            let record = world.workloads.get(&of)?;
            let reachable =
                record.state.site().and_then(|site| world.sites.get(site)).is_some_and(|site| site.reachable(now));
            let moves = record.moving.is_some() || record.spec.service().is_some_and(|service| !service.single);
            (reachable && !moves).then(|| (record.copied, record.snapshots.open.is_some(), record.snapshots.last))
        });
        let Some((copied, open, last)) = looked.await? else { return Ok(()) };
        let known = copied.is_some_and(|copied| copied.bytes == 0 || copied.change_bytes_per_s.is_some());
        let failed = copied.is_none() && last.is_some() && !open;
        if known || failed || Instant::now() >= deadline {
            return Ok(());
        }
        // The second tells what has changed since the first.
        if !open && asked.insert(last) {
            if copied.is_some() {
                tokio::time::sleep(BETWEEN_COPIES).await;
            }
            let of = id.clone();
            let change = shared.engine.change(move |world, now| {
                Ok::<_, std::convert::Infallible>((world.ask_snapshot(&of, now), Vec::new()))
            });
            let Ok(can) = change.await?;
            if !can {
                return Ok(());
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn wish(request: MoveRequest, caller: &Caller) -> Result<Wish, Fault> {
    request.wish(caller.who().to_owned()).map_err(|why| Fault::invalid("bad-move", why))
}

fn under_way(world: &World, id: &WorkloadId) -> Option<MoveView> {
    let moving = world.workloads.get(id)?.moving.as_ref()?;
    Some(MoveView::under_way(id, moving))
}

fn all(record: &WorkloadRecord) -> Vec<MoveView> {
    let over = record.moves.iter().map(|moved| MoveView::over(&record.id, moved));
    over.chain(record.moving.as_ref().map(|moving| MoveView::under_way(&record.id, moving))).collect()
}

/// Of a workload that only the store knows.
fn over(record: &WorkloadRecord) -> Fault {
    Fault::conflict("over", format!("{} can't be moved: it is over ({})", record.id, record.state.word()))
}
