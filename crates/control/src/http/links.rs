//! Links between sites.

use axum::Json;
use axum::extract::State;
use tombolo_api::wire::{LinkView, NewLink, Page};
use tombolo_core::site::Link;
use tombolo_core::{Millis, SiteId};

use super::Shared;
use super::access::Caller;
use super::extract::{At, Json as Body};
use super::fault::Fault;

/// Longest latency that is believed, in milliseconds.
const LATENCY_MS_MAX: u64 = 600_000;

/// All links that are described or were measured; those that aren't here are assumed.
#[utoipa::path(get, path = "/v1/links", tag = "sites", responses((status = 200, body = Page<LinkView>)))]
pub(super) async fn list(State(shared): State<Shared>) -> Result<Json<Page<LinkView>>, Fault> {
    let links = shared
        .engine
        .look(|world, _| world.links.0.iter().map(|((from, to), link)| view(from, to, *link)).collect::<Vec<_>>());
    Ok(Json(Page { items: links.await?, next: None }))
}

/// Says how fast one direction between two sites is; what is measured later changes it.
#[utoipa::path(
    put, path = "/v1/links/{from}/{to}", tag = "sites", params(("from" = String, Path), ("to" = String, Path)),
    request_body = NewLink, responses((status = 200, body = LinkView))
)]
pub(super) async fn set(
    State(shared): State<Shared>,
    caller: Caller,
    At((from, to)): At<(SiteId, SiteId)>,
    Body { value, .. }: Body<NewLink>,
) -> Result<Json<LinkView>, Fault> {
    let NewLink { bytes_per_s, latency_ms } = value;
    if !(bytes_per_s.is_finite() && bytes_per_s > 0.0) || latency_ms > LATENCY_MS_MAX || from == to {
        let title = format!(
            "a link goes between two sites, with more than 0 bytes_per_s and at most {LATENCY_MS_MAX} latency_ms"
        );
        return Err(Fault::invalid("bad-link", title));
    }
    let link = Link { bytes_per_s, latency: Millis(latency_ms) };
    let shown = view(&from, &to, link);
    let changed = shared.engine.change(move |world, now| {
        world.set_link(&from, &to, link)?;
        let detail = format!("{bytes_per_s} bytes/s, {latency_ms} ms");
        Ok::<_, Fault>(((), vec![caller.done(now, format!("{from} -> {to}"), Some(detail))]))
    });
    changed.await??;
    Ok(Json(shown))
}

fn view(from: &SiteId, to: &SiteId, link: Link) -> LinkView {
    let (from, to) = (from.to_string(), to.to_string());
    LinkView { from, to, bytes_per_s: link.bytes_per_s, latency_ms: link.latency.0 }
}
