//! Links between sites.

use axum::Json;
use axum::extract::State;
use tombolo_api::wire::{LinkView, NewLink, PAGE_DEFAULT, PAGE_MAX, Page, PageQuery};
use tombolo_core::site::{Hours, Limit, Link};
use tombolo_core::{Millis, SiteId};

use super::Shared;
use super::access::Caller;
use super::extract::{Ask, At, Json as Body};
use super::fault::Fault;

/// Longest latency that is believed, in milliseconds.
const LATENCY_MS_MAX: u64 = 600_000;

/// All links that are described or were measured, by both ends; those that aren't here are assumed.
#[utoipa::path(
    get, path = "/v1/links", tag = "sites", params(PageQuery), responses((status = 200, body = Page<LinkView>))
)]
pub(super) async fn list(
    State(shared): State<Shared>,
    Ask(page): Ask<PageQuery>,
) -> Result<Json<Page<LinkView>>, Fault> {
    let limit = page.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX) as usize;
    let after = page.after.unwrap_or_default();
    // Where one page ends is said as `from/to`; no site's name has a slash.
    let after = after.split_once('/').map(|(from, to)| (from.to_owned(), to.to_owned()));
    let listed = shared.engine.look(move |world, _| {
        let ends = |(from, to): &(SiteId, SiteId)| (from.to_string(), to.to_string());
        let mut rest = world.links.0.iter().filter(|(link, _)| after.as_ref().is_none_or(|after| ends(link) > *after));
        let items: Vec<_> = rest.by_ref().take(limit).map(|((from, to), link)| view(from, to, *link)).collect();
        let more = rest.next().is_some();
        let next = items.last().filter(|_| more).map(|link| format!("{}/{}", link.from, link.to));
        Page { items, next }
    });
    Ok(Json(listed.await?))
}

/// Says how fast one direction between two sites is, which what is measured later changes, and what transfers may take.
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
    let fits = value.bytes_per_s.is_none_or(|bytes| bytes.is_finite() && bytes > 0.0)
        && value.latency_ms.is_none_or(|latency| latency <= LATENCY_MS_MAX);
    if !fits || from == to {
        let title = format!(
            "a link goes between two sites, with more than 0 bytes_per_s and at most {LATENCY_MS_MAX} latency_ms"
        );
        return Err(Fault::invalid("bad-link", title));
    }
    let limit = limit(&value)?;
    let changed = shared.engine.change(move |world, now| {
        let mut link = world.links.get(&from, &to);
        link.bytes_per_s = value.bytes_per_s.unwrap_or(link.bytes_per_s);
        link.latency = value.latency_ms.map_or(link.latency, Millis);
        link.limit = limit.unwrap_or(link.limit);
        world.set_link(&from, &to, link)?;
        let shown = view(&from, &to, link);
        let mut detail = format!("{} bytes/s, {} ms", link.bytes_per_s, link.latency.0);
        if let Some(limit) = link.limit {
            detail += &format!(", at most {} bytes/s", limit.bytes_per_s);
            detail += &limit.hours.map(|hours| format!(" at {hours}")).unwrap_or_default();
        }
        Ok::<_, Fault>((shown, vec![caller.done(now, format!("{from} -> {to}"), Some(detail))]))
    });
    Ok(Json(changed.await??))
}

/// None where the limit stays as it is.
fn limit(value: &NewLink) -> Result<Option<Option<Limit>>, Fault> {
    let hours = value.limit_hours.as_ref().map(|text| text.parse::<Hours>()).transpose();
    let hours = hours.map_err(|why| Fault::invalid("bad-link", why))?;
    match (value.limit_bytes_per_s, hours) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(Fault::invalid("bad-link", "limit_hours says when limit_bytes_per_s holds: give both")),
        (Some(0), _) => Ok(Some(None)),
        (Some(bytes_per_s), hours) if bytes_per_s >= Limit::BYTES_PER_S_MIN => {
            Ok(Some(Some(Limit { bytes_per_s, hours })))
        }
        (Some(_), _) => {
            let least = Limit::BYTES_PER_S_MIN;
            Err(Fault::invalid("bad-link", format!("a limit is at least {least} bytes_per_s, or 0 for none")))
        }
    }
}

fn view(from: &SiteId, to: &SiteId, link: Link) -> LinkView {
    let (from, to) = (from.to_string(), to.to_string());
    LinkView {
        from,
        to,
        bytes_per_s: link.bytes_per_s,
        latency_ms: link.latency.0,
        limit_bytes_per_s: link.limit.map(|limit| limit.bytes_per_s),
        limit_hours: link.limit.and_then(|limit| limit.hours).map(|hours| hours.to_string()),
    }
}
