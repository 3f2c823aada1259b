//! Creates that may be sent again: the same key gets the same answer, and nothing is made twice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tombolo_core::world::World;
use tombolo_core::{Name, RunId, Timestamp};

use super::Shared;
use super::access::Caller;
use super::fault::Fault;
use crate::store::Write;

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 200;
/// Set on an answer that was given before.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The request's `Idempotency-Key`.
pub struct Key(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Key {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Key, Fault> {
        let fault = |title: &str| {
            Fault::bad_request("idempotency-key", title)
                .hint("send `Idempotency-Key: <any unique text>`, and the same one when the request is sent again")
        };
        let given = parts.headers.get("idempotency-key").ok_or_else(|| fault("an Idempotency-Key is needed"))?;
        match given.to_str() {
            Ok(key) if !key.is_empty() && key.len() <= KEY_BYTES_MAX => Ok(Key(key.to_owned())),
            _ => Err(fault("the Idempotency-Key is empty, too long or no plain text")),
        }
    }
}

/// One create under way for each key; others with the same key wait for it.
#[derive(Default)]
pub struct Creates(Mutex<HashMap<Place, Turn>>);

/// An owner and a key.
type Place = (String, String);
type Turn = Arc<tokio::sync::Mutex<()>>;

impl Creates {
    async fn enter(&self, place: &Place) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut under_way = self.0.lock().expect("nobody panics while holding it");
            // Locks that nobody holds or waits for any more.
            under_way.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(under_way.entry(place.clone()).or_default())
        };
        lock.lock_owned().await
    }
}

pub struct Create {
    pub caller: Caller,
    /// Whose key it is: a token's id, or a join token's hash.
    pub owner: String,
    pub key: Key,
    /// Of method, path and body.
    pub request_hash: String,
    /// Whether the answer shows a token, and so is kept sealed.
    pub sealed: bool,
    /// Whether all of the owner's creates go one after the other, whatever their keys.
    pub one_by_one: bool,
    /// The run that the change is about, which may be over.
    pub revive: Option<RunId>,
}

impl Create {
    pub fn new(caller: Caller, key: Key, body_hash: &str) -> Create {
        let owner = caller.token.as_ref().map(|token| token.id.clone()).unwrap_or_default();
        let request_hash = blake3::hash(format!("{} {body_hash}", caller.what).as_bytes()).to_hex().to_string();
        Create { caller, owner, key, request_hash, sealed: false, one_by_one: false, revive: None }
    }

    /// Answers what was answered before under the key, or makes the change and keeps its answer in the same
    /// transaction. `prepare` reads what the change needs; it runs only where there is no answer yet.
    pub(super) async fn perform<P, T, F, Fut>(self, shared: Shared, prepare: Fut, change: F) -> Result<Response, Fault>
    where
        P: Send + 'static,
        T: Serialize,
        Fut: Future<Output = Result<P, Fault>> + Send + 'static,
        F: FnOnce(&mut World, Timestamp, &Caller, P) -> Result<(T, Vec<Write>), Fault> + Send + 'static,
    {
        // A task of its own: who asked may hang up, and the key must stay taken until the change is written.
        let task = tokio::spawn(async move {
            let key = if self.one_by_one { String::new() } else { self.key.0.clone() };
            let place = (self.owner.clone(), key);
            let _entered = shared.creates.enter(&place).await;
            if let Some(answer) = self.earlier(&shared).await? {
                return Ok(answer);
            }
            let prepared = prepare.await?;
            let (engine, secrets, revive) = (shared.engine.clone(), shared.secrets.clone(), self.revive.clone());
            let apply = move |world: &mut World, now: Timestamp| {
                let (value, mut writes) = change(world, now, &self.caller, prepared)?;
                let body = serde_json::to_string(&value).map_err(|error| Fault::internal(&error))?;
                let kept = if self.sealed { seal(&secrets, &body) } else { body.clone() };
                writes.push(Write::Idempotent {
                    token: self.owner,
                    key: self.key.0,
                    request_hash: self.request_hash,
                    status: StatusCode::CREATED.as_u16(),
                    body: kept,
                    at: now,
                });
                Ok::<_, Fault>((body, writes))
            };
            let body = match revive {
                Some(run) => engine.change_reviving(&run, apply).await??,
                None => engine.change(apply).await??,
            };
            Ok(answer(StatusCode::CREATED, body))
        });
        task.await.map_err(|error| Fault::internal(&error))?
    }

    async fn earlier(&self, shared: &Shared) -> Result<Option<Response>, Fault> {
        let Some(known) = shared.engine.store().idempotent(&self.owner, &self.key.0).await? else { return Ok(None) };
        if known.request_hash != self.request_hash {
            let title = "the Idempotency-Key was used for another request before";
            return Err(Fault::conflict("idempotency-key-reused", title).hint("take a new key for a new request"));
        }
        let body = if self.sealed { unseal(&shared.secrets, &known.body)? } else { known.body };
        let status = StatusCode::from_u16(known.status).unwrap_or(StatusCode::CREATED);
        let mut answer = answer(status, body);
        answer.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        Ok(Some(answer))
    }
}

fn answer(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Under which name answers that show a token are sealed.
fn seal_name() -> Name {
    Name::new("idempotent-answer").expect("a fixed name")
}

fn seal(secrets: &crate::secrets::Secrets, body: &str) -> String {
    data_encoding::BASE64.encode(&secrets.seal(&seal_name(), body.as_bytes()))
}

fn unseal(secrets: &crate::secrets::Secrets, kept: &str) -> Result<String, Fault> {
    let sealed = data_encoding::BASE64.decode(kept.as_bytes()).map_err(|error| Fault::internal(&error))?;
    let plain = secrets.open_sealed(&seal_name(), &sealed).map_err(|error| Fault::internal(&error))?;
    String::from_utf8(plain).map_err(|error| Fault::internal(&error))
}
