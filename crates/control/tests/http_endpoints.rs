//! Endpoints: who is told of them, and the tokens that open them.

mod http_fixtures;

use std::collections::BTreeMap;

use http_fixtures::agent::Line;
use http_fixtures::{Api, CODE, api, token};
use serde_json::json;
use tombolo_api::stream::{Down, Peer};
use tombolo_api::wire::Role;
use tombolo_core::routes::Route;
use tombolo_core::sync::{Phase, Report};
use tombolo_core::{EndpointId, Timestamp, VersionId};

/// What an agent knows of endpoints, by all that it was told.
#[derive(Default)]
struct Known {
    routes: BTreeMap<EndpointId, Route>,
    peers: Vec<Peer>,
    /// Words that were news.
    words: usize,
}

impl Known {
    fn learn(&mut self, heard: Vec<Down>) {
        for news in heard.into_iter().filter_map(|down| down.routes) {
            self.words += 1;
            self.routes.extend(news.set);
            if let Some(only) = news.only {
                self.routes.retain(|id, _| only.contains(id));
            }
            self.peers = news.peers.unwrap_or_else(|| std::mem::take(&mut self.peers));
        }
    }

    fn of(&self, id: &str) -> &Route {
        &self.routes[&id.parse::<EndpointId>().unwrap()]
    }
}

/// A service `p/s` at `home`, that answers.
async fn serving(api: &Api, line: &mut Line) {
    let stage = json!({
        "kind": { "service": { "replicas": 1, "access": "token" } }, "command": { "run": "true" }, "grace": 30_000,
    });
    let project = json!({ "name": "p", "data": {}, "workloads": { "s": stage } });
    api.post("/v1/runs", json!({ "project": project, "code": CODE })).await.ok();
    let address = "127.0.0.1:1".to_owned();
    line.observe(&"p-1/s".parse().unwrap(), 1, Phase::Ready { since: Timestamp(1), address }).await;
}

#[tokio::test]
async fn every_site_hears_where_an_endpoint_is_and_each_word_once() {
    let api = api().await;
    let (home, away) = (api.agent("home", json!({})).await, api.agent("away", json!({})).await);
    api.version(CODE, None, json!([])).await.ok();
    let mut at_home = home.connect(&[CODE.parse::<VersionId>().unwrap()]).await;
    let mut at_away = away.greet(away.dial().await).await.unwrap();
    serving(&api, &mut at_home).await;
    let mut known = Known::default();
    while known.routes.values().all(|route| route.replicas.is_empty()) {
        known.learn(at_away.say(Report::default()).await);
    }
    let replica = &known.of("p/s").replicas[0];
    assert_eq!((replica.workload.to_string().as_str(), replica.site.as_str()), ("p-1/s", "home"));
    // Who came first is where it has said it is; the key is the one that it has proved to hold.
    let peer = &known.peers[0];
    assert_eq!((known.peers.len(), peer.site.as_str(), &peer.key), (1, "home", &home.key));
    assert_eq!(peer.address.as_ref().unwrap().key, home.key);
    let before = known.words;
    for _ in 0..3 {
        known.learn(at_away.say(Report::default()).await);
    }
    assert_eq!(known.words, before, "nothing has changed, and nothing is said");
    // On another connection all of it is said again.
    let mut anew = Known::default();
    let mut again = away.greet(away.dial().await).await.unwrap();
    anew.learn(again.say(Report::default()).await);
    assert_eq!((anew.routes, anew.peers), (known.routes.clone(), known.peers.clone()));
    // Over, it is an endpoint no more.
    api.post("/v1/runs/p-1/stop", json!({})).await.ok();
    let finish = tombolo_core::sync::Finish::without_running(tombolo_core::sync::Outcome::Stopped, Timestamp(2));
    at_home.observe(&"p-1/s".parse().unwrap(), 1, Phase::Finished(Box::new(finish))).await;
    while !known.routes.is_empty() {
        known.learn(again.say(Report::default()).await);
    }
    // A site that is revoked is nobody's peer.
    api.post("/v1/sites/home/revoke", json!({})).await.ok();
    while !known.peers.is_empty() {
        known.learn(again.say(Report::default()).await);
    }
}

#[tokio::test]
async fn tokens_are_made_listed_and_ended_and_shown_once() {
    let api = api().await;
    let home = api.agent("home", json!({})).await;
    api.version(CODE, None, json!([])).await.ok();
    let mut line = home.connect(&[CODE.parse::<VersionId>().unwrap()]).await;
    api.post("/v1/endpoints/p/s/tokens", json!({})).await.problem(404);
    serving(&api, &mut line).await;
    let path = "/v1/endpoints/p/s/tokens";
    let made = api.post(path, json!({ "expires_in_s": 60 })).await.ok();
    let (id, secret) = (made["id"].as_str().unwrap().to_owned(), made["token"].as_str().unwrap().to_owned());
    assert!(secret.starts_with("tble_"));
    assert!(!String::from_utf8_lossy(&api.database()).contains(&secret), "only its hash is kept");
    // It opens nothing else.
    api.ask(&secret, "GET", "/v1/runs", None).await.problem(401);
    let listed = api.get(path).await.ok();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["id"]), (1, &json!(id)));
    assert!(!listed.to_string().contains(&secret));
    let mut known = Known::default();
    known.learn(line.say(Report::default()).await);
    let hash = tombolo_control::secrets::hash_token(&secret);
    let admits = |known: &Known| known.of("p/s").passes.iter().any(|pass| pass.hash == hash);
    while !admits(&known) {
        known.learn(line.say(Report::default()).await);
    }
    let shown = api.get("/v1/endpoints").await.ok();
    assert_eq!(
        (&shown[0]["name"], &shown[0]["tokens"], &shown[0]["access"]),
        (&json!("p/s"), &json!(1), &json!("token"))
    );

    let of = |role| token(role);
    api.ask(&of(Role::Viewer), "DELETE", &format!("/v1/endpoint-tokens/{id}"), None).await.problem(403);
    api.ask(&of(Role::Viewer), "POST", path, Some(&json!({}))).await.problem(403);
    let ended = api.ask(&of(Role::Member), "DELETE", &format!("/v1/endpoint-tokens/{id}"), None).await;
    assert_eq!(ended.status.as_u16(), 204);
    api.ask(&of(Role::Member), "DELETE", &format!("/v1/endpoint-tokens/{id}"), None).await.problem(404);
    while admits(&known) {
        known.learn(line.say(Report::default()).await);
    }
    assert_eq!(api.get(path).await.ok(), json!([]));
    for bad in [json!({ "expires_in_s": 0 }), json!({ "what": 1 })] {
        let said = api.post(path, bad).await;
        assert!(said.status.is_client_error());
    }
}
