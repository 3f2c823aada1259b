//! The OpenAPI document, and the two routes that are about the API itself.

use axum::Json;
use axum::response::IntoResponse;
use tombolo_api::problem::{CONTENT_TYPE, Problem};
use utoipa::openapi::path::{HttpMethod, Operation};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, Response, ResponseBuilder};
use utoipa::{OpenApi as _, PartialSchema, ToSchema};

use super::access::{Door, RULES};

/// The whole API as an OpenAPI 3.1 document.
pub fn openapi() -> OpenApi {
    let mut document = super::all().into_openapi();
    for (path, item) in &mut document.paths.paths {
        let operations = [
            (HttpMethod::Get, &mut item.get),
            (HttpMethod::Put, &mut item.put),
            (HttpMethod::Post, &mut item.post),
            (HttpMethod::Delete, &mut item.delete),
            (HttpMethod::Patch, &mut item.patch),
        ];
        for (method, operation) in operations {
            if let Some(operation) = operation {
                add_problems(path, &method, operation);
            }
        }
    }
    document
}

/// Title and security; the routes follow.
pub(super) fn head() -> OpenApi {
    #[derive(utoipa::OpenApi)]
    #[openapi(info(
        title = "Tombolo",
        description = "Run machine learning where its data, its accelerators and its rules want it.",
        version = "1"
    ))]
    struct Head;
    let mut document = Head::openapi();
    let components = document.components.get_or_insert_default();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("A token of this API.")).build();
    components.security_schemes.insert("token".to_owned(), SecurityScheme::Http(bearer).into());
    components.schemas.insert(Problem::name().into_owned(), Problem::schema());
    document
}

/// Problems that follow from a route's kind, beside those that its own description names.
fn add_problems(path: &str, method: &HttpMethod, operation: &mut Operation) {
    let verb = match method {
        HttpMethod::Get => "GET",
        HttpMethod::Put => "PUT",
        HttpMethod::Post => "POST",
        HttpMethod::Delete => "DELETE",
        HttpMethod::Patch => "PATCH",
        HttpMethod::Head | HttpMethod::Options | HttpMethod::Trace => return,
    };
    let door = RULES.iter().find(|(known, at, _)| *known == verb && *at == path).map(|(_, _, door)| *door);
    if door == Some(Door::Open) {
        return;
    }
    let mut problems = vec![
        ("400", "Something in the request can't be read."),
        ("500", "The control plane failed; its log says why."),
        ("503", "The control plane, or a site that is needed, can't answer now."),
    ];
    if matches!(door, Some(Door::Needs(_))) {
        operation.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
        problems.push(("401", "No token, or one that is unknown, revoked or expired."));
        problems.push(("403", "The token's role is too low, or a rule forbids it."));
    }
    if path.contains('{') {
        problems.push(("404", "There is no such thing."));
    }
    if *method != HttpMethod::Get {
        problems.push(("409", "It does not go with how things are."));
    }
    if operation.request_body.is_some() {
        problems.push(("413", "The body is too large."));
        problems.push(("422", "The body asks for what can't be."));
    }
    for (status, description) in problems {
        let of_its_own = operation.responses.responses.entry(status.to_owned());
        of_its_own.or_insert_with(|| problem(description).into());
    }
}

fn problem(description: &str) -> Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(Problem::name()))).build();
    ResponseBuilder::new().description(description).content(CONTENT_TYPE, content).build()
}

/// Whether the control plane answers at all.
#[utoipa::path(get, path = "/healthz", tag = "about", responses((status = 200, body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "about", responses((status = 200, body = Object)))]
pub(super) async fn openapi_json() -> impl IntoResponse {
    Json(openapi())
}
