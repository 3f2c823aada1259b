//! Sites, data and access over the API.

mod http_fixtures;

use http_fixtures::{CODE, DATA, api, join_body, key_of, token};
use serde_json::json;
use tombolo_api::wire::Role;
use tombolo_control::secrets::hash_token;
use tombolo_control::store::Write;
use tombolo_core::Timestamp;

#[tokio::test]
async fn a_join_token_lets_one_site_in_once() {
    let api = api().await;
    let invite = async |body| api.post("/v1/join-tokens", body).await.ok()["token"].as_str().unwrap().to_owned();
    let join = async |token: &str, site: &str| {
        api.ask("", "POST", "/v1/join", Some(&join_body(token, site, &key_of(site), json!({})))).await
    };
    let token = invite(json!({})).await;
    let race = tokio::join!(join(&token, "a"), join(&token, "b"), join(&token, "c"));
    let statuses = [race.0.status, race.1.status, race.2.status];
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), 2, "{statuses:?}");
    assert_eq!(api.get("/v1/sites").await.ok()["items"].as_array().unwrap().len(), 1);

    assert_eq!(join("join_made-up", "d").await.problem(401), "unauthorized");
    let bound = invite(json!({ "site": "d" })).await;
    assert_eq!(join(&bound, "e").await.problem(403), "other-site");
    let joined = join(&bound, "d").await.ok();
    assert_eq!(joined["grant_key"], "bb".repeat(32));

    let expired = Write::JoinToken { hash: hash_token("join_old"), site: None, expires: Timestamp(1) };
    let write = api.engine.change(move |_, _| Ok::<_, std::convert::Infallible>(((), vec![expired])));
    let Ok(()) = write.await.unwrap();
    let old = join("join_old", "f").await;
    assert_eq!(old.problem(401), "unauthorized");
    assert!(old.text.contains("has expired"), "{}", old.text);
    assert_eq!(api.post("/v1/join-tokens", json!({ "expires_in_s": 0 })).await.problem(422), "invalid");
    assert!(
        !api.database().windows(token.len()).any(|part| part == token.as_bytes()),
        "tokens are kept hashed or sealed"
    );
}

#[tokio::test]
async fn names_and_keys_belong_together() {
    let api = api().await;
    let invite = async || api.post("/v1/join-tokens", json!({})).await.ok()["token"].as_str().unwrap().to_owned();
    let join = async |site: &str, key: &str| {
        let body = join_body(&invite().await, site, key, json!({}));
        api.ask("", "POST", "/v1/join", Some(&body)).await
    };
    join("a", &key_of("a")).await.ok();
    join("a", &key_of("a")).await.ok();
    assert_eq!(join("a", &key_of("b")).await.problem(409), "site-exists");
    assert_eq!(join("b", &key_of("a")).await.problem(409), "key-taken");
    assert_eq!(join("b", "short").await.problem(422), "bad-key");
    assert_eq!(api.post("/v1/sites/a/revoke", json!({})).await.ok()["status"], "revoked");
    assert_eq!(join("a", &key_of("a")).await.problem(403), "revoked");
    let token = invite().await;
    let mut body = join_body(&token, "c", &key_of("c"), json!({}));
    body["info"]["prices"] = json!({ "cpu_hour": -1.0 });
    assert_eq!(api.ask("", "POST", "/v1/join", Some(&body)).await.problem(422), "invalid");
    // What was refused spent nothing; an answer that was lost is given again.
    let body = join_body(&token, "c", &key_of("c"), json!({}));
    let first = api.ask_keyed("", "POST", "/v1/join", Some(&body), "k").await;
    let again = api.ask_keyed("", "POST", "/v1/join", Some(&body), "k").await;
    assert_eq!((first.status.as_u16(), &first.text), (201, &again.text));
}

#[tokio::test]
async fn operators_describe_sites_and_links() {
    let api = api().await;
    api.site("home", json!({ "region": "eu" })).await;
    api.site("away", json!({})).await;
    let operator = token(Role::Operator);
    let patch = async |body| api.ask(&operator, "PATCH", "/v1/sites/home", Some(&body)).await;
    let site = patch(json!({ "draining": true, "prices": { "cpu_hour": 0.5 } })).await.ok();
    assert_eq!((&site["draining"], &site["prices"]["cpu_hour"]), (&json!(true), &json!(0.5)));
    assert_eq!((&site["labels"]["region"], &site["status"]), (&json!("eu"), &json!("up")));
    assert_eq!(site["capacity"]["cpus_milli"], 8000);
    assert_eq!(patch(json!({ "capacity": { "cpus_milli": u64::MAX } })).await.problem(422), "invalid");
    assert_eq!(patch(json!({ "prices": { "cpu_hours": 1 } })).await.problem(422), "unknown-field");
    assert_eq!(patch(json!({ "drainnig": true })).await.problem(422), "bad-body");
    let audit = api.get("/v1/audit").await.ok();
    let done = audit["items"].as_array().unwrap().iter().find(|entry| entry["what"] == "PATCH /v1/sites/home");
    assert!(done.is_some(), "{audit}");

    let link = async |path: &str, body| api.ask(&operator, "PUT", path, Some(&body)).await;
    link("/v1/links/home/away", json!({ "bytes_per_s": 1e9, "latency_ms": 3 })).await.ok();
    let links = api.get("/v1/links").await.ok();
    assert_eq!(links["items"], json!([{ "from": "home", "to": "away", "bytes_per_s": 1e9, "latency_ms": 3 }]));
    // What is left out stays, and a limit goes by 0 alone.
    let limited =
        link("/v1/links/home/away", json!({ "limit_bytes_per_s": 70_000, "limit_hours": "8:00-18:00" })).await;
    let expected = json!({
        "from": "home", "to": "away", "bytes_per_s": 1e9, "latency_ms": 3, "limit_bytes_per_s": 70_000,
        "limit_hours": "08:00-18:00",
    });
    assert_eq!(limited.ok(), expected);
    assert_eq!(link("/v1/links/home/away", json!({ "latency_ms": 4 })).await.ok()["limit_bytes_per_s"], 70_000);
    let lifted = link("/v1/links/home/away", json!({ "limit_bytes_per_s": 0 })).await.ok();
    assert_eq!(lifted, json!({ "from": "home", "to": "away", "bytes_per_s": 1e9, "latency_ms": 4 }));
    for bad in [
        json!({ "bytes_per_s": 0 }),
        json!({ "bytes_per_s": -1 }),
        json!({ "bytes_per_s": 1, "latency_ms": u64::MAX }),
        json!({ "limit_bytes_per_s": 5 }),
        json!({ "limit_bytes_per_s": 70_000, "limit_hours": "night" }),
        json!({ "limit_hours": "08:00-18:00" }),
    ] {
        assert_eq!(link("/v1/links/home/away", bad).await.problem(422), "bad-link");
    }
    assert_eq!(link("/v1/links/home/nope", json!({ "bytes_per_s": 1 })).await.problem(404), "not-found");
    for path in ["/v1/sites/home/gc", "/v1/sites/home/verify"] {
        assert_eq!(api.post(path, json!({})).await.problem(503), "site-unreachable");
        assert_eq!(api.post(&path.replace("home", "nope"), json!({})).await.problem(404), "not-found");
    }
}

#[tokio::test]
async fn data_is_named_ruled_and_unnamed() {
    let api = api().await;
    api.ready().await;
    api.site("away", json!({ "region": "us" })).await;
    let eu = json!([[{ "labels": { "region": "eu" } }]]);
    let us = json!([[{ "labels": { "region": "us" } }]]);
    assert_eq!(api.version(DATA, Some("flights"), us).await.problem(403), "residency");
    api.version(DATA, Some("flights"), eu).await.ok();
    let info = api.get("/v1/datasets/flights").await.ok();
    assert_eq!((&info["versions"], &info["latest"]["residency"]), (&json!(1), &json!("{region: eu}")));
    assert_eq!(info["latest"]["replicas"], json!(["home"]));

    // A rule forbids the bytes to be there, whoever asks.
    let to = json!({ "site": "away" });
    let moved = api.post(&format!("/v1/versions/{DATA}/replicas"), to.clone()).await;
    assert_eq!(moved.problem(403), "residency");
    assert!(moved.text.contains("{region: eu}"), "{}", moved.text);
    assert_eq!(api.post(&format!("/v1/versions/{CODE}/replicas"), to).await.problem(503), "site-unreachable");
    assert_eq!(api.get(&format!("/v1/versions/{CODE}/files")).await.problem(503), "site-unreachable");

    api.version(CODE, Some("flights"), json!([])).await.ok();
    let page = api.get("/v1/datasets/flights/versions?limit=1").await.ok();
    let next = page["next"].as_str().unwrap();
    let rest = api.get(&format!("/v1/datasets/flights/versions?limit=1&after={next}")).await.ok();
    assert_ne!(rest["items"][0]["version"], page["items"][0]["version"]);
    assert_eq!(rest.get("next"), None);

    let path = format!("/v1/datasets/flights/versions/{DATA}");
    let member = token(Role::Member);
    assert_eq!(api.ask(&member, "DELETE", &path, None).await.status, 204);
    assert_eq!(api.ask(&member, "DELETE", &path, None).await.problem(404), "not-found");
    assert_eq!(api.get("/v1/datasets/flights").await.ok()["versions"], 1);
    let huge = json!({ "version": DATA, "bytes": u64::MAX, "files": 1, "site": "home" });
    assert_eq!(api.post("/v1/versions", huge).await.problem(422), "invalid");
}

#[tokio::test]
async fn secrets_go_in_and_never_out() {
    let api = api().await;
    let operator = token(Role::Operator);
    let put = async |value: String| api.ask(&operator, "PUT", "/v1/secrets/db", Some(&json!({ "value": value }))).await;
    let answer = put("hunter2-hunter2".to_owned()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(put("x".repeat((64 << 10) + 1)).await.problem(422), "bad-secret");
    let listed = api.get("/v1/secrets").await.text;
    let audit = api.get("/v1/audit").await.text;
    assert!(listed.contains("\"db\"") && audit.contains("PUT /v1/secrets/db"));
    assert!(![&answer.text, &listed, &audit].iter().any(|text| text.contains("hunter2")));
    assert!(!api.database().windows(7).any(|part| part == b"hunter2"));
    assert_eq!(api.ask(&operator, "DELETE", "/v1/secrets/db", None).await.status, 204);
    assert_eq!(api.ask(&operator, "DELETE", "/v1/secrets/db", None).await.problem(404), "not-found");
}

#[tokio::test]
async fn a_token_is_shown_to_its_maker_and_ends_when_revoked() {
    let api = api().await;
    let admin = token(Role::Admin);
    let body = json!({ "name": "ann", "role": "member" });
    let make = || api.ask_keyed(&admin, "POST", "/v1/tokens", Some(&body), "k");
    let (first, again) = (make().await, make().await);
    assert_eq!((first.status.as_u16(), &first.text), (201, &again.text));
    let made = first.ok();
    let (id, ann) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    assert!(!api.database().windows(ann.len()).any(|part| part == ann.as_bytes()), "it is kept hashed or sealed");
    assert_eq!(api.ask(ann, "GET", "/v1/whoami", None).await.ok()["name"], "ann");
    let listed = api.get("/v1/tokens").await.text;
    assert!(listed.contains("\"ann\"") && !listed.contains(ann));
    assert_eq!(api.ask(&admin, "DELETE", &format!("/v1/tokens/{id}"), None).await.status, 204);
    assert_eq!(api.ask(ann, "GET", "/v1/whoami", None).await.problem(401), "unauthorized");
    assert_eq!(api.ask(&admin, "DELETE", "/v1/tokens/admin", None).await.problem(409), "own-token");
    assert_eq!(api.ask(&admin, "DELETE", "/v1/tokens/none", None).await.problem(404), "not-found");
    let bad = json!({ "name": " ", "role": "member" });
    assert_eq!(api.post("/v1/tokens", bad).await.problem(422), "invalid");
}
