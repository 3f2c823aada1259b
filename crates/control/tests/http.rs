//! The door: who may do what, what bad requests get, and what is recorded of it.

mod http_fixtures;

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::Request;
use http_fixtures::{ROLES, api, fill, run_body, token};
use serde_json::{Value, json};
use tombolo_api::wire::Role;
use tombolo_control::http::{BODY_BYTES_MAX, Door, RULES, openapi};

/// Every operation of the OpenAPI document.
fn operations() -> Vec<(String, String)> {
    let document = serde_json::to_value(openapi()).unwrap();
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        all.extend(item.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone())));
    }
    all
}

#[tokio::test]
async fn every_route_keeps_to_the_table() {
    let api = api().await;
    let documented: BTreeSet<_> = operations().into_iter().collect();
    let ruled: BTreeSet<_> = RULES.iter().map(|(method, path, _)| (method.to_string(), path.to_string())).collect();
    assert_eq!(documented, ruled, "the table and the router name the same routes");
    assert_eq!(ruled.len(), RULES.len(), "one rule a route");

    for (method, path, door) in RULES {
        let at = fill(path);
        let shown = format!("{method} {path}");
        let body = json!({});
        let ask = |token: String| api.ask_owned(token, method, at.clone(), body.clone());
        let without = ask(String::new()).await;
        let needed = match door {
            Door::Open => {
                assert_eq!((*method, *path, without.status.as_u16()), ("GET", "/healthz", 200));
                continue;
            }
            Door::JoinToken => {
                assert_eq!(*path, "/v1/join");
                assert_eq!(without.problem(422), "bad-body", "{shown}");
                continue;
            }
            Door::Needs(role) => *role,
        };
        assert_eq!(without.problem(401), "unauthorized", "{shown}");
        assert_eq!(without.headers["www-authenticate"], "Bearer realm=\"tombolo\"");
        for bad in ["unknown", "token-of-expired", "token-of-revoked"] {
            assert_eq!(ask(bad.to_owned()).await.problem(401), "unauthorized", "{shown} with {bad}");
        }
        for role in ROLES {
            let answer = ask(token(role)).await;
            if role < needed {
                assert_eq!(answer.problem(403), "forbidden", "{shown} as {role}");
            } else {
                let status = answer.status.as_u16();
                assert!(status < 500 && ![401, 403, 405].contains(&status), "{shown} as {role}: {}", answer.text);
            }
        }
    }
}

impl http_fixtures::Api {
    async fn ask_owned(&self, token: String, method: &str, path: String, body: Value) -> http_fixtures::Answer {
        self.ask(&token, method, &path, Some(&body)).await
    }
}

#[tokio::test]
async fn only_a_bearer_token_counts() {
    let api = api().await;
    for given in ["", "Bearer", "Basic dG9rZW46eA==", "token-of-admin", "Bearer ü", "Bearer  "] {
        let request = Request::get("/v1/whoami").header("Authorization", given.as_bytes());
        let answer = api.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.problem(401), "unauthorized", "{given:?}");
    }
    let request = Request::get("/v1/whoami").header("Authorization", "bearer token-of-member");
    let me = api.send(request.body(Body::empty()).unwrap()).await.ok();
    assert_eq!((me["name"].as_str(), me["role"].as_str()), (Some("member"), Some("member")));
    assert!(me.get("hash").is_none());
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_a_problem() {
    let api = api().await;
    let member = token(Role::Member);
    assert_eq!(api.ask("", "GET", "/v2/runs", None).await.problem(404), "not-found");
    assert_eq!(api.ask(&member, "DELETE", "/v1/runs", None).await.problem(405), "wrong-method");
    assert_eq!(api.get("/v1/runs/nope").await.problem(400), "bad-path");
    assert_eq!(api.get("/v1/runs/nope-7").await.problem(404), "not-found");
    assert_eq!(api.get("/v1/versions/xyz").await.problem(400), "bad-path");
    assert_eq!(api.get("/v1/runs?limit=many").await.problem(400), "bad-query");
    assert_eq!(api.get("/v1/runs?after=x").await.problem(400), "bad-page");

    let post = async |body: Body| {
        let request = Request::post("/v1/runs").header("Authorization", format!("Bearer {member}"));
        api.send(request.header("Idempotency-Key", "k").body(body).unwrap()).await
    };
    let broken = post(Body::from("{\n  \"project\": }")).await;
    assert_eq!(broken.problem(400), "bad-json");
    assert!(broken.json()["detail"].as_str().unwrap().contains("line 2"), "{}", broken.text);
    let wrong = post(Body::from("{\"project\": 7}")).await;
    assert_eq!(wrong.problem(422), "bad-body");
    assert!(wrong.json()["detail"].as_str().unwrap().contains("line 1"), "{}", wrong.text);
    let mut strange = run_body();
    strange["project"]["workloads"]["make"]["comand"] = json!("x");
    let strange = post(Body::from(strange.to_string())).await;
    assert_eq!(strange.problem(422), "unknown-field");
    assert!(strange.text.contains("project.workloads.make.comand"), "{}", strange.text);
    assert_eq!(post(Body::from("[".repeat(100_000))).await.problem(422), "bad-body");
    assert_eq!(post(Body::from("[null]")).await.problem(422), "bad-body");
    let padded = |length: usize| Body::from(" ".repeat(length));
    assert_eq!(post(padded(BODY_BYTES_MAX + 1)).await.problem(413), "too-large");
    assert_eq!(post(padded(BODY_BYTES_MAX)).await.problem(400), "bad-json");
    // In pieces, without a length beforehand.
    let pieces = futures_util::stream::iter((0..9).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1 << 20])));
    assert_eq!(post(Body::from_stream(pieces)).await.problem(413), "too-large");
}

#[tokio::test]
async fn refusals_are_recorded_and_a_flood_of_them_is_not() {
    let api = api().await;
    api.ask(&token(Role::Viewer), "POST", "/v1/runs", Some(&json!({}))).await.problem(403);
    for _ in 0..500 {
        api.ask("guess", "GET", "/v1/runs", None).await.problem(401);
    }
    let audit = api.get("/v1/audit?limit=500").await.ok();
    let of = |who: &str| audit["items"].as_array().unwrap().iter().filter(|entry| entry["who"] == who).count();
    assert_eq!(of("viewer"), 1);
    assert!((1..=100).contains(&of("nobody")), "{} of 500", of("nobody"));
    let first = &audit["items"].as_array().unwrap().iter().find(|entry| entry["who"] == "viewer").unwrap();
    assert_eq!((&first["what"], &first["outcome"]), (&json!("POST /v1/runs"), &json!("refused")));
    assert!(first["detail"].as_str().unwrap().contains("needs the role member"), "{first}");
    assert!(!audit.to_string().contains("guess"));
}

#[tokio::test]
async fn every_operation_says_what_it_answers() {
    let document = serde_json::to_value(openapi()).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    assert!(document["components"]["schemas"]["Problem"].is_object());
    for (method, path, door) in RULES {
        let operation = &document["paths"][path][method.to_lowercase()];
        let answers = operation["responses"].as_object().unwrap();
        assert!(answers.keys().any(|status| status.starts_with('2')), "{method} {path}");
        if let Door::Needs(_) = door {
            let mut expected = vec!["400", "401", "403", "500", "503"];
            expected.extend(operation.get("requestBody").map(|_| ["413", "422"]).into_iter().flatten());
            expected.extend(path.contains('{').then_some("404"));
            for status in expected {
                assert!(answers.contains_key(status), "{method} {path} {status}");
            }
            assert!(operation["security"][0]["token"].is_array(), "{method} {path}");
        }
    }
    let references = document.to_string();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for reference in references.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "the schema {name} is missing");
    }
}
