//! How a site gets in: an operator makes a join token, the agent spends it.

use axum::extract::State;
use axum::response::Response;
use tombolo_api::wire::{Join, JoinTokenMade, NewJoinToken};
use tombolo_core::site::SiteInfo;
use tombolo_core::world::{SiteRecord, World};
use tombolo_core::{SiteId, Timestamp};

use super::access::Caller;
use super::extract::Json as Body;
use super::fault::Fault;
use super::once::{Create, Key};
use super::{Shared, check};
use crate::secrets::{hash_token, new_token};
use crate::store::Write;

const LIFE_S: u64 = 3_600;
const LIFE_S_MAX: u64 = 30 * 24 * 3_600;

/// Makes a token with which one site may join, once.
#[utoipa::path(
    post, path = "/v1/join-tokens", tag = "sites", request_body = NewJoinToken,
    params(("Idempotency-Key" = String, Header)), responses((status = 201, body = JoinTokenMade))
)]
pub(super) async fn make_token(
    State(shared): State<Shared>,
    caller: Caller,
    key: Key,
    Body { value, hash }: Body<NewJoinToken>,
) -> Result<Response, Fault> {
    let life = check::life(value.expires_in_s, LIFE_S, LIFE_S_MAX)?;
    let mut create = Create::new(caller, key, &hash);
    create.sealed = true;
    create
        .perform(shared, std::future::ready(Ok(new_token("join"))), move |_, now, caller, token| {
            let expires = now + life;
            let write = Write::JoinToken { hash: hash_token(&token), site: value.site.clone(), expires };
            let on = value.site.map_or("any site".to_owned(), |site| site.to_string());
            Ok((JoinTokenMade { token, expires: expires.0 }, vec![write, caller.done(now, on, None)]))
        })
        .await
}

/// An agent joins with a join token, which is spent by it. No other token is needed.
#[utoipa::path(
    post, path = "/v1/join", tag = "sites", request_body = Join,
    params(("Idempotency-Key" = String, Header)),
    responses(
        (status = 201, body = tombolo_api::wire::Joined),
        (status = 401, body = tombolo_api::problem::Problem, content_type = "application/problem+json",
            description = "The join token is unknown, used or expired."),
        (status = 403, body = tombolo_api::problem::Problem, content_type = "application/problem+json",
            description = "The join token is for another site, or the site is revoked."),
    )
)]
pub(super) async fn join(
    State(shared): State<Shared>,
    caller: Caller,
    key: Key,
    Body { value, hash }: Body<Join>,
) -> Result<Response, Fault> {
    let Join { token, key: site_key, info } = value;
    if site_key.len() != 64 || !site_key.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(Fault::invalid("bad-key", "the agent's key is not 64 lower-case hex digits"));
    }
    check::labels(&info.labels)?;
    check::prices(&info.prices)?;
    check::resources(&info.capacity)?;
    let spent = hash_token(&token);
    let mut create = Create::new(caller, key, &hash);
    create.owner = spent.clone();
    // The second of two joins with one token looks when the first is written, and finds it spent.
    create.one_by_one = true;
    let joined = shared.joined.clone();
    let (reader, asked) = (shared.clone(), spent.clone());
    let prepare = async move { Ok(reader.engine.store().join_token(&asked).await?) };
    create
        .perform(shared, prepare, move |world, now, _, known| {
            let name = info.id.clone();
            let fresh = admit(world, now, known, &site_key, &info)?;
            if fresh {
                world.join(SiteRecord::new(info, site_key, now))?;
            }
            let who = Caller { token: None, what: "POST /v1/join".to_owned() };
            let detail = if fresh { "joined" } else { "joined again with the same key" };
            let audit = who.done(now, format!("site {name}"), Some(detail.to_owned()));
            Ok((joined, vec![Write::SpendJoinToken { hash: spent }, audit]))
        })
        .await
}

/// Whether a site may come in, and whether it is new. The same key under the same name may come again: an agent
/// that was set up anew, or one that lost the answer.
fn admit(
    world: &World,
    now: Timestamp,
    token: Option<(Option<SiteId>, Timestamp)>,
    key: &str,
    info: &SiteInfo,
) -> Result<bool, Fault> {
    let again = "an operator makes a new one with `tombolo site token`";
    let Some((bound, expires)) = token else {
        return Err(Fault::unauthorized("the join token is unknown, or was used already").hint(again));
    };
    if expires <= now {
        return Err(Fault::unauthorized("the join token has expired").hint(again));
    }
    if let Some(bound) = bound.filter(|bound| *bound != info.id) {
        let title = format!("the join token is for the site {bound}, not for {}", info.id);
        return Err(Fault::forbidden("other-site", title).hint(again));
    }
    let holder = world.sites.values().find(|site| site.key == key);
    match (world.sites.get(&info.id), holder) {
        (Some(site), _) if site.key == key && site.revoked => {
            Err(Fault::forbidden("revoked", format!("the site {} is revoked", info.id)))
        }
        (Some(site), _) if site.key == key => Ok(false),
        (Some(_), _) => Err(tombolo_core::world::Refusal::SiteExists(info.id.clone()).into()),
        (None, Some(holder)) => {
            let title = format!("this key is the site {}'s already", holder.info.id);
            Err(Fault::conflict("key-taken", title).hint("give each agent a directory of its own"))
        }
        (None, None) => Ok(true),
    }
}
