//! What the gateway answers by itself where it passes nothing on.

use axum::body::Body;
use axum::http::header::{self, HeaderValue};
use axum::http::{Response, StatusCode};
use tombolo_api::problem::{self, Problem};
use tombolo_api::stream::{ABSENT_HEADER, Absent};
use tombolo_core::EndpointId;

/// How long clients are told to wait where there is no replica.
const RETRY_AFTER_SECONDS: u64 = 5;

pub(super) fn not_found(path: &str) -> Response<Body> {
    let shown: String = path.chars().take(200).collect();
    let hint = "endpoints are at /<project>/<service>/; `tombolo endpoint ls` lists them";
    problem(StatusCode::NOT_FOUND, "no-endpoint", format!("there is no endpoint at {shown}"), None, Some(hint))
}

pub(super) fn unauthorised(endpoint: &EndpointId, why: &str) -> Response<Body> {
    let title = format!("{endpoint} may not be used without leave: {why}");
    let EndpointId { project, service } = endpoint;
    let hint = format!(
        "make a token with `tombolo endpoint token {project}/{service}` and send it as `Authorization: Bearer <token>`, or write \
         `access: public` for the service into the project file"
    );
    let mut answer = problem(StatusCode::UNAUTHORIZED, "unauthorized", title, None, Some(&hint));
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    answer
}

pub(super) fn no_replica(endpoint: &EndpointId, why: &str, detail: Option<String>) -> Response<Body> {
    let title = format!("no replica of {endpoint} answers now: {why}");
    let mut answer =
        problem(StatusCode::SERVICE_UNAVAILABLE, "no-replica", title, detail, Some("ask again in a moment"));
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    answer
}

pub(super) fn gave_up(endpoint: &EndpointId, detail: Option<String>) -> Response<Body> {
    let title = format!("{endpoint} did not answer; what was asked may have been done");
    problem(StatusCode::BAD_GATEWAY, "no-answer", title, detail, None)
}

/// To the gateway that has sent a request here.
pub(super) fn refuse(absent: Absent) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::MISDIRECTED_REQUEST;
    answer.headers_mut().insert(ABSENT_HEADER, HeaderValue::from_static(absent.word()));
    answer
}

pub(super) fn problem(
    status: StatusCode,
    kind: &str,
    title: String,
    detail: Option<String>,
    hint: Option<&str>,
) -> Response<Body> {
    let body = Problem { kind: kind.to_owned(), title, status: status.as_u16(), detail, hint: hint.map(str::to_owned) };
    let mut answer = Response::new(Body::from(serde_json::to_vec(&body).expect("plain data")));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(problem::CONTENT_TYPE));
    answer
}
