//! The routes, and how a request becomes a question: body, query and path in one JSON object.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, RawPathParams, Request, State};
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, patch, post};
use axum::{Json, Router};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::fault::{Code, Fault};
use crate::room::Size;
use crate::{Access, Tracking};

/// Longest body of a request that is no artifact, in bytes. MLflow's own limit is 1 MB for a batch; data sets may say
/// more of themselves.
const BODY_BYTES_MAX: usize = 32 << 20;
/// Values in a body: in memory each takes far more than the byte or two that it may be written in.
const BODY_VALUES_MAX: usize = 500_000;
/// Where the API is; clients in browsers take the second pair.
pub const PREFIXES: [&str; 4] = ["/api/2.0/mlflow", "/api/3.0/mlflow", "/ajax-api/2.0/mlflow", "/ajax-api/3.0/mlflow"];
/// The version of MLflow whose protocol this is.
const MLFLOW_VERSION: &str = "3.17.2";
/// What comes in a query as a list, even if only once.
const LISTS: [&str; 4] = ["experiment_ids", "run_ids", "order_by", "stages"];

/// Whether a request only reads, so that a viewer may send it. Searches are long and come as POST.
pub fn reads(method: &Method, path: &str) -> bool {
    method == Method::GET
        || method == Method::HEAD
        || method == Method::POST
            && ["/search", "/search-datasets", "/get-latest-versions"].iter().any(|end| path.ends_with(end))
}

/// All routes, for whoever checks tokens; every request must bring an [`Access`] extension.
pub fn router(tracking: Tracking) -> Router {
    let mut router = Router::new()
        .route("/version", get(async || MLFLOW_VERSION))
        .route("/health", get(async || "OK"))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown);
    for prefix in PREFIXES {
        router = router.nest(prefix, api());
    }
    router.with_state(tracking)
}

fn api() -> Router<Tracking> {
    Router::new()
        .merge(experiments())
        .merge(runs())
        .merge(models())
        .merge(registry())
        .route("/server-info", get(server_info))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
}

fn experiments() -> Router<Tracking> {
    Router::new()
        .route("/experiments/create", post(ask(Tracking::create_experiment)))
        .route("/experiments/get", get(ask(Tracking::get_experiment)))
        .route("/experiments/get-by-name", get(ask(Tracking::experiment_by_name)))
        .route("/experiments/search", both(Tracking::search_experiments))
        .route("/experiments/update", post(ask(Tracking::update_experiment)))
        .route("/experiments/delete", post(ask(Tracking::delete_experiment)))
        .route("/experiments/restore", post(ask(Tracking::restore_experiment)))
        .route("/experiments/set-experiment-tag", post(ask(Tracking::set_experiment_tag)))
        .route("/experiments/delete-experiment-tag", post(ask(Tracking::delete_experiment_tag)))
        .route("/experiments/search-datasets", post(ask(Tracking::search_datasets)))
}

fn runs() -> Router<Tracking> {
    Router::new()
        .route("/runs/create", post(ask(Tracking::create_run)))
        .route("/runs/get", get(ask(Tracking::get_run)))
        .route("/runs/update", post(ask(Tracking::update_run)))
        .route("/runs/delete", post(ask(Tracking::delete_run)))
        .route("/runs/restore", post(ask(Tracking::restore_run)))
        .route("/runs/search", both(Tracking::search_runs))
        .route("/runs/log-metric", post(ask(Tracking::log_metric)))
        .route("/runs/log-parameter", post(ask(Tracking::log_param)))
        .route("/runs/log-batch", post(ask(Tracking::log_batch)))
        .route("/runs/set-tag", post(ask(Tracking::set_tag)))
        .route("/runs/delete-tag", post(ask(Tracking::delete_tag)))
        .route("/runs/log-inputs", post(ask(Tracking::log_inputs)))
        .route("/runs/outputs", post(ask(Tracking::log_outputs)))
        .route("/metrics/get-history", get(ask(Tracking::history)))
        .route("/metrics/get-history-bulk-interval", get(ask(Tracking::bulk_history)))
}

fn models() -> Router<Tracking> {
    Router::new()
        .route("/logged-models", post(ask(Tracking::create_model)))
        .route("/logged-models/search", post(ask(Tracking::search_models)))
        .route(
            "/logged-models/{model_id}",
            get(ask(Tracking::get_model))
                .merge(patch(ask(Tracking::finalize_model)))
                .merge(delete(ask(Tracking::delete_model))),
        )
        .route("/logged-models/{model_id}/tags", patch(ask(Tracking::set_model_tags)))
        .route("/logged-models/{model_id}/tags/{tag_key}", delete(ask(Tracking::delete_model_tag)))
        .route("/logged-models/{model_id}/params", post(ask(Tracking::log_model_params)))
}

fn registry() -> Router<Tracking> {
    Router::new()
        .route("/registered-models/create", post(ask(Tracking::create_registered)))
        .route("/registered-models/get", get(ask(Tracking::get_registered)))
        .route("/registered-models/rename", post(ask(Tracking::rename_registered)))
        .route("/registered-models/update", patch(ask(Tracking::describe_registered)))
        .route("/registered-models/delete", delete(ask(Tracking::delete_registered)))
        .route("/registered-models/search", get(ask(Tracking::search_registered)))
        .route("/registered-models/get-latest-versions", both(Tracking::latest_versions))
        .route("/registered-models/set-tag", post(ask(Tracking::set_registered_tag)))
        .route("/registered-models/delete-tag", delete(ask(Tracking::delete_registered_tag)))
        .route(
            "/registered-models/alias",
            get(ask(Tracking::get_alias))
                .merge(post(ask(Tracking::set_alias)))
                .merge(delete(ask(Tracking::delete_alias))),
        )
        .route("/model-versions/create", post(ask(Tracking::create_version)))
        .route("/model-versions/get", get(ask(Tracking::get_version)))
        .route("/model-versions/update", patch(ask(Tracking::describe_version)))
        .route("/model-versions/delete", delete(ask(Tracking::delete_version)))
        .route("/model-versions/search", get(ask(Tracking::search_versions)))
        .route("/model-versions/get-download-uri", get(ask(Tracking::download_uri)))
        .route("/model-versions/transition-stage", post(ask(Tracking::transition_stage)))
        .route("/model-versions/set-tag", post(ask(Tracking::set_version_tag)))
        .route("/model-versions/delete-tag", delete(ask(Tracking::delete_version_tag)))
}

fn both<Q, A, F>(question: fn(Tracking, Access, Q) -> F) -> MethodRouter<Tracking>
where
    Q: DeserializeOwned + Send + 'static,
    A: Serialize + Send + 'static,
    F: Future<Output = Result<A, Fault>> + Send + 'static,
{
    get(ask(question)).merge(post(ask(question)))
}

type Answered = std::pin::Pin<Box<dyn Future<Output = Result<Response, Fault>> + Send>>;

/// A handler that reads the question from wherever it is in the request.
fn ask<Q, A, F>(
    question: fn(Tracking, Access, Q) -> F,
) -> impl Fn(State<Tracking>, Extension<Access>, RawPathParams, Request) -> Answered + Clone + Send + Sync + 'static
where
    Q: DeserializeOwned + Send + 'static,
    A: Serialize + Send + 'static,
    F: Future<Output = Result<A, Fault>> + Send + 'static,
{
    move |State(tracking), Extension(access), path, request| {
        let size = Size::of(&request);
        Box::pin(async move {
            let room = Arc::clone(&tracking.room);
            let _place = room.take(size).await;
            let asked = read(&path, request).await?;
            // As bytes while the place is held.
            Ok(Json(question(tracking, access, asked).await?).into_response())
        })
    }
}

async fn read<Q: DeserializeOwned>(path: &RawPathParams, request: Request) -> Result<Q, Fault> {
    let mut object = query(request.uri().query().unwrap_or_default());
    object.extend(body(request.into_body()).await?);
    object.extend(path.iter().map(|(name, value)| (name.to_owned(), Value::String(value.to_owned()))));
    serde_json::from_value(Value::Object(object)).map_err(|error| Fault::invalid(format!("Invalid request: {error}")))
}

fn query(text: &str) -> Map<String, Value> {
    let mut object = Map::new();
    for (name, value) in form(text) {
        let value = Value::String(value);
        if LISTS.contains(&name.as_str()) {
            match object.entry(name).or_insert_with(|| json!([])) {
                Value::Array(list) => list.push(value),
                _ => unreachable!("lists are made as lists"),
            }
        } else {
            object.insert(name, value);
        }
    }
    object
}

fn form(text: &str) -> Vec<(String, String)> {
    url::form_urlencoded::parse(text.as_bytes()).into_owned().collect()
}

async fn body(body: Body) -> Result<Map<String, Value>, Fault> {
    let bytes = axum::body::to_bytes(body, BODY_BYTES_MAX).await;
    let bytes = bytes.map_err(|_| {
        Fault::invalid(format!("The body did not come whole, or is longer than {} MiB", BODY_BYTES_MAX >> 20))
    })?;
    if bytes.is_empty() {
        return Ok(Map::new());
    }
    if bytes.len() > BODY_VALUES_MAX && values(&bytes) > BODY_VALUES_MAX {
        return Err(Fault::invalid(format!("The body has more than {BODY_VALUES_MAX} values")));
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(mut object)) => {
            // Protobuf's JSON takes a null for what is left out.
            object.retain(|_, value| !value.is_null());
            Ok(object)
        }
        Ok(_) => Err(Fault::invalid("The body must be a JSON object")),
        Err(error) => Err(Fault::invalid(format!("The body is no JSON: {error}"))),
    }
}

/// About how many values a JSON text has: its commas and opening brackets, outside of strings.
fn values(text: &[u8]) -> usize {
    let (mut count, mut quoted, mut escaped) = (0, false, false);
    for byte in text {
        match (quoted, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => quoted = !quoted,
            (false, b',' | b'[' | b'{') => count += 1,
            _ => {}
        }
    }
    count
}

async fn server_info() -> Json<Value> {
    Json(json!({
        "store_type": "TomboloStore",
        "workspaces_enabled": false,
        "trace_archival_enabled": false,
        "multipart_uploads_enabled": false,
        "multipart_downloads_enabled": false,
    }))
}

async fn unknown(request: Request) -> Fault {
    let (method, path) = (request.method(), request.uri().path());
    let path: String = path.chars().take(200).collect();
    let why = format!("{method} {path} is not served here; docs/mlflow.md lists what is of MLflow {MLFLOW_VERSION}");
    Fault::new(Code::EndpointNotFound, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_where_they_are_no_text() {
        let check = |text: &str, expected| assert_eq!(values(text.as_bytes()), expected, "{text}");
        check("", 0);
        check("[1,2,3]", 3);
        check(r#"{"a": [1, {"b": 2}], "c": 3}"#, 5);
        check(r#"{"a": "[,{\",,,", "b": "\\", "c": 1}"#, 3);
    }
}
