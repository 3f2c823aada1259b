//! Tokens of this API.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use tombolo_api::wire::{NewToken, PAGE_MAX, Page, PageQuery, TokenInfo, TokenMade};

use super::access::Caller;
use super::extract::{Ask, At, Json as Body};
use super::fault::Fault;
use super::once::{Create, Key};
use super::{Shared, check};
use crate::secrets::{hash_token, new_token};
use crate::store::{TokenRecord, Write};

const LIFE_S: u64 = 90 * 24 * 3_600;
const LIFE_S_MAX: u64 = 10 * 366 * 24 * 3_600;

/// Tokens, newest first, revoked and expired ones included.
#[utoipa::path(
    get, path = "/v1/tokens", tag = "access", params(PageQuery), responses((status = 200, body = Page<TokenInfo>))
)]
pub(super) async fn list(
    State(shared): State<Shared>,
    Ask(page): Ask<PageQuery>,
) -> Result<Json<Page<TokenInfo>>, Fault> {
    Ok(Json(shared.engine.store().tokens(&page).await?))
}

/// Makes a token, which is shown this once.
#[utoipa::path(
    post, path = "/v1/tokens", tag = "access", request_body = NewToken,
    params(("Idempotency-Key" = String, Header)), responses((status = 201, body = TokenMade))
)]
pub(super) async fn make(
    State(shared): State<Shared>,
    caller: Caller,
    key: Key,
    Body { value, hash }: Body<NewToken>,
) -> Result<Response, Fault> {
    check::title(&value.name)?;
    let life = check::life(value.expires_in_s, LIFE_S, LIFE_S_MAX)?;
    let mut create = Create::new(caller, key, &hash);
    create.sealed = true;
    create
        .perform(shared, std::future::ready(Ok(new_token("tbl"))), move |_, now, caller, token| {
            let hash = hash_token(&token);
            let id = format!("t-{}", &hash[..16]);
            let NewToken { name, role, .. } = value;
            let detail = format!("{name}, {role}");
            let expires = (now + life).0;
            let info = TokenInfo { id: id.clone(), name, role, created: now.0, expires, revoked: false };
            let writes = vec![Write::Token(Box::new(TokenRecord { info, hash })), caller.done(now, &id, Some(detail))];
            Ok((TokenMade { id, token }, writes))
        })
        .await
}

/// Revokes a token, at once and for good.
#[utoipa::path(
    delete, path = "/v1/tokens/{id}", tag = "access", params(("id" = String, Path)), responses((status = 204))
)]
pub(super) async fn revoke(
    State(shared): State<Shared>,
    caller: Caller,
    At(id): At<String>,
) -> Result<StatusCode, Fault> {
    if caller.token.as_ref().is_some_and(|token| token.id == id) {
        let title = "this is the token that you use; revoke it with another";
        return Err(Fault::conflict("own-token", title));
    }
    let known = found(&shared, &id).await?.ok_or_else(|| {
        Fault::not_found("there is no such token").hint("`tombolo token ls` shows the ids of those that there are")
    })?;
    let revoked = shared.engine.change(move |_, now| {
        let audit = caller.done(now, &known.id, Some(known.name));
        Ok::<_, Fault>(((), vec![Write::RevokeToken { id: known.id }, audit]))
    });
    revoked.await??;
    Ok(StatusCode::NO_CONTENT)
}

async fn found(shared: &Shared, id: &str) -> Result<Option<TokenInfo>, Fault> {
    let mut page = PageQuery { after: None, limit: Some(PAGE_MAX) };
    loop {
        let tokens = shared.engine.store().tokens(&page).await?;
        if let Some(token) = tokens.items.into_iter().find(|token| token.id == id) {
            return Ok(Some(token));
        }
        match tokens.next {
            Some(next) => page.after = Some(next),
            None => return Ok(None),
        }
    }
}

/// The token that is used here.
#[utoipa::path(get, path = "/v1/whoami", tag = "access", responses((status = 200, body = TokenInfo)))]
pub(super) async fn whoami(caller: Caller) -> Result<Json<TokenInfo>, Fault> {
    caller.token.map(Json).ok_or_else(|| Fault::unauthorized("a token is needed"))
}
