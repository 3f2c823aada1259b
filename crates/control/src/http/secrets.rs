//! Secrets: written here, read by workloads alone. No route ever answers a value.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use tombolo_api::wire::{NewSecret, Page, PageQuery, SECRET_BYTES_MAX, SecretInfo};
use tombolo_core::Name;

use super::Shared;
use super::access::Caller;
use super::extract::{Ask, At, Json as Body};
use super::fault::Fault;
use crate::store::Write;

/// Names of secrets, and when each was last written.
#[utoipa::path(
    get, path = "/v1/secrets", tag = "access", params(PageQuery), responses((status = 200, body = Page<SecretInfo>))
)]
pub(super) async fn list(
    State(shared): State<Shared>,
    Ask(page): Ask<PageQuery>,
) -> Result<Json<Page<SecretInfo>>, Fault> {
    Ok(Json(shared.engine.store().secrets(&page).await?))
}

/// Writes a secret; a value that was there is gone.
#[utoipa::path(
    put, path = "/v1/secrets/{name}", tag = "access", params(("name" = String, Path)), request_body = NewSecret,
    responses((status = 200, body = SecretInfo))
)]
pub(super) async fn set(
    State(shared): State<Shared>,
    caller: Caller,
    At(name): At<Name>,
    Body { value: NewSecret { value }, .. }: Body<NewSecret>,
) -> Result<Json<SecretInfo>, Fault> {
    if value.len() > SECRET_BYTES_MAX || value.is_empty() || value.contains('\0') {
        let title = format!("a secret has 1 to {SECRET_BYTES_MAX} bytes, none of them zero");
        return Err(Fault::invalid("bad-secret", title));
    }
    let sealed = shared.secrets.seal(&name, value.as_bytes());
    let written = shared.engine.change(move |_, now| {
        let info = SecretInfo { name: name.to_string(), updated: now.0 };
        let audit = caller.done(now, &name, None);
        Ok::<_, Fault>((info, vec![Write::Secret { name, sealed, updated: now }, audit]))
    });
    Ok(Json(written.await??))
}

#[utoipa::path(
    delete, path = "/v1/secrets/{name}", tag = "access", params(("name" = String, Path)), responses((status = 204))
)]
pub(super) async fn remove(
    State(shared): State<Shared>,
    caller: Caller,
    At(name): At<Name>,
) -> Result<StatusCode, Fault> {
    if shared.engine.store().secret(&name).await?.is_none() {
        return Err(Fault::not_found(format!("there is no secret {name}"))
            .hint("`tombolo secret ls` lists those that there are"));
    }
    let removed = shared.engine.change(move |_, now| {
        let audit = caller.done(now, &name, None);
        Ok::<_, Fault>(((), vec![Write::DropSecret { name }, audit]))
    });
    removed.await??;
    Ok(StatusCode::NO_CONTENT)
}
