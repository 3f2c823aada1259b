//! Who did what, and who was refused.

use axum::Json;
use axum::extract::State;
use tombolo_api::wire::{AuditEntry, Page, PageQuery};

use super::Shared;
use super::extract::Ask;
use super::fault::Fault;

/// The audit log, newest first.
#[utoipa::path(
    get, path = "/v1/audit", tag = "access", params(PageQuery), responses((status = 200, body = Page<AuditEntry>))
)]
pub(super) async fn list(
    State(shared): State<Shared>,
    Ask(page): Ask<PageQuery>,
) -> Result<Json<Page<AuditEntry>>, Fault> {
    Ok(Json(shared.engine.store().audit(&page).await?))
}
