//! Reads of who may do what, and of who did.

use sqlx::SqlitePool;
use tombolo_api::wire::{AuditEntry, Page, PageQuery, Role, SecretInfo, TokenInfo};
use tombolo_core::{SiteId, Timestamp};

use super::failed;
use super::read::{Cut, parse};
use crate::store::{Idempotent, StoreError};

type TokenRow = (i64, String, String, String, i64, i64, bool);

fn token_info((_, id, name, role, created, expires, revoked): TokenRow) -> Result<TokenInfo, StoreError> {
    Ok(TokenInfo { id, name, role: parse(&role)?, created, expires, revoked })
}

pub(super) async fn token(pool: &SqlitePool, hash: String) -> Result<Option<TokenInfo>, StoreError> {
    const SQL: &str = "SELECT place, id, name, role, created, expires, revoked FROM tokens WHERE hash = ?";
    let row: Option<TokenRow> = sqlx::query_as(SQL).bind(hash).fetch_optional(pool).await.map_err(failed)?;
    row.map(token_info).transpose()
}

pub(super) async fn tokens(pool: &SqlitePool, page: PageQuery) -> Result<Page<TokenInfo>, StoreError> {
    const SQL: &str = "SELECT place, id, name, role, created, expires, revoked FROM tokens \
        WHERE place < ? ORDER BY place DESC LIMIT ?";
    let cut = Cut::newest_first(&page)?;
    let rows: Vec<TokenRow> =
        sqlx::query_as(SQL).bind(cut.before).bind(cut.fetch()).fetch_all(pool).await.map_err(failed)?;
    cut.page(rows, |row| row.0.to_string(), token_info)
}

pub(super) async fn has_token(pool: &SqlitePool, role: Role) -> Result<bool, StoreError> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM tokens WHERE role = ?)")
        .bind(role.to_string())
        .fetch_one(pool)
        .await
        .map_err(failed)
}

pub(super) async fn join_token(
    pool: &SqlitePool,
    hash: String,
) -> Result<Option<(Option<SiteId>, Timestamp)>, StoreError> {
    let row: Option<(Option<String>, i64)> = sqlx::query_as("SELECT site, expires FROM join_tokens WHERE hash = ?")
        .bind(hash)
        .fetch_optional(pool)
        .await
        .map_err(failed)?;
    let one =
        |(site, expires): (Option<String>, i64)| Ok((site.map(|site| parse(&site)).transpose()?, Timestamp(expires)));
    row.map(one).transpose()
}

pub(super) async fn secret(pool: &SqlitePool, name: String) -> Result<Option<Vec<u8>>, StoreError> {
    sqlx::query_scalar("SELECT sealed FROM secrets WHERE name = ?")
        .bind(name)
        .fetch_optional(pool)
        .await
        .map_err(failed)
}

pub(super) async fn secrets(pool: &SqlitePool, page: PageQuery) -> Result<Page<SecretInfo>, StoreError> {
    let cut = Cut::by_name(&page);
    let rows: Vec<(String, i64)> =
        sqlx::query_as("SELECT name, updated FROM secrets WHERE name > ? ORDER BY name LIMIT ?")
            .bind(cut.after.clone())
            .bind(cut.fetch())
            .fetch_all(pool)
            .await
            .map_err(failed)?;
    cut.page(rows, |(name, _)| name.clone(), |(name, updated)| Ok(SecretInfo { name, updated }))
}

type AuditRow = (i64, i64, String, String, String, String, Option<String>);

pub(super) async fn audit(pool: &SqlitePool, page: PageQuery) -> Result<Page<AuditEntry>, StoreError> {
    const SQL: &str = "SELECT number, at, who, what, subject, outcome, detail FROM audit \
        WHERE number < ? ORDER BY number DESC LIMIT ?";
    let cut = Cut::newest_first(&page)?;
    let rows: Vec<AuditRow> =
        sqlx::query_as(SQL).bind(cut.before).bind(cut.fetch()).fetch_all(pool).await.map_err(failed)?;
    let item = |(number, at, who, what, on, outcome, detail): AuditRow| {
        Ok(AuditEntry { number, at, who, what, on, outcome, detail })
    };
    cut.page(rows, |row| row.0.to_string(), item)
}

pub(super) async fn idempotent(
    pool: &SqlitePool,
    token: String,
    key: String,
) -> Result<Option<Idempotent>, StoreError> {
    let row: Option<(String, i64, String)> =
        sqlx::query_as("SELECT request_hash, status, body FROM idempotent WHERE token = ? AND key = ?")
            .bind(token)
            .bind(key)
            .fetch_optional(pool)
            .await
            .map_err(failed)?;
    let one = |(request_hash, status, body): (String, i64, String)| {
        let status = u16::try_from(status).map_err(|_| StoreError::Malformed(format!("{status} is no HTTP status")))?;
        Ok(Idempotent { request_hash, status, body })
    };
    row.map(one).transpose()
}
