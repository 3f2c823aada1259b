//! What a request brings, parsed at the door: body, path and query, with problems for what is wrong in them.

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::fault::Fault;

/// Longest body of a request, in bytes.
pub const BODY_BYTES_MAX: usize = 8 << 20;

/// A JSON body without any field that the type doesn't know, at whatever depth.
pub struct Json<T> {
    pub value: T,
    /// BLAKE3 of the bytes as they came, in hex.
    pub hash: String,
}

impl<T: DeserializeOwned + Serialize, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &S) -> Result<Json<T>, Fault> {
        let bytes = read(request.into_body()).await?;
        // A list of a type's fields without their names would be understood too.
        if bytes.trim_ascii_start().first() == Some(&b'[') {
            return Err(Fault::invalid("bad-body", "the body is a list, not an object"));
        }
        let value: T = serde_json::from_slice(&bytes).map_err(|error| match error.is_data() {
            true => Fault::invalid("bad-body", "the body does not say what is needed").detail(error.to_string()),
            false => Fault::bad_request("bad-json", "the body is no JSON").detail(error.to_string()),
        })?;
        let (sent, known) = (serde_json::from_slice(&bytes), serde_json::to_value(&value));
        if let (Ok(sent), Ok(known)) = (sent, known)
            && let Some(path) = unknown(&sent, &known)
        {
            let title = format!("the body has a field that nobody knows: {path}");
            return Err(Fault::invalid("unknown-field", title).hint("look for a slip of the pen, or a newer version"));
        }
        Ok(Json { value, hash: blake3::hash(&bytes).to_hex().to_string() })
    }
}

async fn read(body: Body) -> Result<axum::body::Bytes, Fault> {
    axum::body::to_bytes(body, BODY_BYTES_MAX).await.map_err(|error| {
        let long = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
            .any(|error| error.to_string().contains("length limit exceeded"));
        match long {
            true => Fault::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "the body is too large")
                .detail(format!("at most {} MiB are taken", BODY_BYTES_MAX >> 20)),
            false => Fault::bad_request("broken-body", "the body did not come whole"),
        }
    })
}

/// The first field of `sent` that is not in what was understood of it.
fn unknown(sent: &Value, known: &Value) -> Option<String> {
    match (sent, known) {
        (Value::Object(sent), Value::Object(known)) => sent.iter().find_map(|(key, value)| match known.get(key) {
            None => Some(key.clone()),
            Some(inner) => unknown(value, inner).map(|path| format!("{key}.{path}")),
        }),
        // A set may have come in another order than it has now.
        (Value::Array(sent), Value::Array(known)) => sent.iter().enumerate().find_map(|(i, value)| {
            let paths: Vec<_> = known.iter().map(|inner| unknown(value, inner)).collect();
            let clean = paths.iter().any(Option::is_none);
            paths.into_iter().flatten().next().filter(|_| !clean).map(|path| format!("{i}.{path}"))
        }),
        _ => None,
    }
}

/// Parts of the path.
pub struct At<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for At<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<At<T>, Fault> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(At(value)),
            Err(PathRejection::FailedToDeserializePathParams(error)) => {
                Err(Fault::bad_request("bad-path", "the path names nothing").detail(error.body_text()))
            }
            Err(error) => Err(Fault::bad_request("bad-path", "the path can't be read").detail(error.body_text())),
        }
    }
}

/// What comes after the question mark.
pub struct Ask<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Ask<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Ask<T>, Fault> {
        let query: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, state).await;
        let fault = |error: QueryRejection| {
            Fault::bad_request("bad-query", "the query can't be read").detail(error.body_text())
        };
        query.map(|Query(value)| Ask(value)).map_err(fault)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_nobody_knows_are_named_with_their_place() {
        let known = json!({ "a": { "b": [ { "c": 1 }, { "d": 2 } ] }, "e": null });
        assert_eq!(unknown(&json!({ "a": { "b": [ { "d": 2 }, { "c": 1 } ] } }), &known), None);
        assert_eq!(unknown(&json!({ "a": { "x": 1 } }), &known), Some("a.x".to_owned()));
        assert_eq!(unknown(&json!({ "a": { "b": [ { "c": 1 }, { "y": 2 } ] } }), &known), Some("a.b.1.y".to_owned()));
        assert_eq!(unknown(&json!({ "z": 1 }), &known), Some("z".to_owned()));
    }
}
