//! The API in this process, over a real engine and a database in a temporary directory.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod agent;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use tempfile::TempDir;
use tombolo_api::stream::{ALPN_AGENT, PeerAddress};
use tombolo_api::wire::{Joined, Role, TokenInfo};
use tombolo_control::engine::Engine;
use tombolo_control::http::{App, how_workloads_stand, router};
use tombolo_control::hub::Hub;
use tombolo_control::secrets::{Secrets, hash_token};
use tombolo_control::store::sqlite::SqliteStore;
use tombolo_control::store::{Store, TokenRecord, Write};
use tombolo_core::SiteId;
use tombolo_core::sync::Report;
use tombolo_core::world::World;
use tower::ServiceExt;

pub const ROLES: [Role; 4] = [Role::Viewer, Role::Member, Role::Operator, Role::Admin];
/// 64 hex digits.
pub const CODE: &str = "c0dec0dec0dec0dec0dec0dec0dec0dec0dec0dec0dec0dec0dec0dec0dec0de";
pub const DATA: &str = "da7ada7ada7ada7ada7ada7ada7ada7ada7ada7ada7ada7ada7ada7ada7ada7a";

pub struct Api {
    pub router: axum::Router,
    pub engine: Engine,
    /// Where agents dial.
    pub control: PeerAddress,
    pub dir: TempDir,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The problem's kind, and that it is one.
    #[track_caller]
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert!(!problem["title"].as_str().unwrap().is_empty());
        problem["type"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.text);
        self.json()
    }
}

/// The token that the fixture has for a role.
pub fn token(role: Role) -> String {
    format!("token-of-{role}")
}

pub async fn api() -> Api {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&dir.path().join("tombolo.db")).await.unwrap());
    let mut tokens: Vec<Write> =
        ROLES.iter().map(|role| token_write(&role.to_string(), *role, i64::MAX, false)).collect();
    tokens.push(token_write("expired", Role::Admin, 1, false));
    tokens.push(token_write("revoked", Role::Admin, i64::MAX, true));
    store.commit(tokens).await.unwrap();
    let engine = Engine::start(store).await.unwrap();
    let secrets = Arc::new(Secrets::open(dir.path()).unwrap());
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let options = tombolo_net::BindOptions { listen: any, alpns: vec![ALPN_AGENT.to_vec()], relay: None };
    let key = tombolo_net::key(&dir.path().join("control.key")).unwrap();
    let endpoint = tombolo_net::bind(key, options).await.unwrap();
    let control = tombolo_net::address(&endpoint, None);
    let hub = Hub::start(engine.clone(), secrets.clone(), SigningKey::from_bytes(&[7; 32]), endpoint);
    let (tracking, ask) = (dir.path().join("tracking.db"), how_workloads_stand(engine.clone()));
    let tracking = tombolo_tracking::Tracking::open(&tracking, ask).await.unwrap();
    let joined = Joined { control: control.clone(), grant_key: "bb".repeat(32) };
    Api { router: router(App { engine: engine.clone(), hub, secrets, joined, tracking }), engine, control, dir }
}

fn token_write(name: &str, role: Role, expires: i64, revoked: bool) -> Write {
    let info = TokenInfo { id: name.to_owned(), name: name.to_owned(), role, created: 0, expires, revoked };
    Write::Token(Box::new(TokenRecord { info, hash: hash_token(&format!("token-of-{name}")) }))
}

impl Api {
    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 64 << 20).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, text }
    }

    pub async fn ask(&self, token: &str, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.ask_keyed(token, method, path, body, &unique()).await
    }

    pub async fn ask_keyed(&self, token: &str, method: &str, path: &str, body: Option<&Value>, key: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("Idempotency-Key", key);
        if !token.is_empty() {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let body = body.map_or(Body::empty(), |body| Body::from(body.to_string()));
        self.send(request.body(body).unwrap()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask(&token(Role::Admin), "GET", path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask(&token(Role::Admin), "POST", path, Some(&body)).await
    }

    /// Joins a site and lets it be heard of.
    pub async fn site(&self, name: &str, labels: Value) -> SiteId {
        let id = self.join(name, &key_of(name), labels).await;
        let site = id.clone();
        self.world(move |world, now| world.report(&site, &Report::default(), now)).await;
        id
    }

    /// Joins a site under a key.
    pub async fn join(&self, name: &str, key: &str, labels: Value) -> SiteId {
        let invited = self.post("/v1/join-tokens", json!({})).await.ok();
        let join = join_body(invited["token"].as_str().unwrap(), name, key, labels);
        self.ask("", "POST", "/v1/join", Some(&join)).await.ok();
        SiteId::new(name).unwrap()
    }

    /// A site with code and, as the dataset `flights`, data.
    pub async fn ready(&self) {
        self.site("home", json!({ "region": "eu" })).await;
        self.version(CODE, None, json!([])).await.ok();
        self.version(DATA, Some("flights"), json!([])).await.ok();
    }

    pub async fn version(&self, version: &str, dataset: Option<&str>, residency: Value) -> Answer {
        let body = json!({
            "version": version, "bytes": 1000, "files": 2, "site": "home", "dataset": dataset, "residency": residency,
        });
        self.post("/v1/versions", body).await
    }

    pub async fn world(&self, f: impl FnOnce(&mut World, tombolo_core::Timestamp) + Send + 'static) {
        let change = self.engine.change(move |world, now| {
            f(world, now);
            Ok::<_, std::convert::Infallible>(((), Vec::new()))
        });
        let Ok(()) = change.await.unwrap();
    }

    pub fn database(&self) -> Vec<u8> {
        let read = |name: &str| std::fs::read(PathBuf::from(self.dir.path()).join(name)).unwrap_or_default();
        [read("tombolo.db"), read("tombolo.db-wal")].concat()
    }
}

pub fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("key-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn key_of(site: &str) -> String {
    hash_token(site)
}

pub fn join_body(token: &str, site: &str, key: &str, labels: Value) -> Value {
    let capacity = json!({ "cpus_milli": 8000, "memory_bytes": 1u64 << 34, "disk_bytes": 1u64 << 40 });
    json!({ "token": token, "key": key, "info": { "id": site, "labels": labels, "capacity": capacity } })
}

/// `make` reads the dataset, `use` reads what `make` makes.
pub fn project() -> Value {
    let stage = |output: &str, alias: &str, source: &str| {
        json!({
            "kind": { "job": { "outputs": [output] } }, "command": { "run": "true" }, "grace": 30_000,
            "inputs": { alias: source },
        })
    };
    json!({
        "name": "flights-late",
        "data": { "flights": { "path": null, "residency": [] } },
        "workloads": { "make": stage("made", "x", "flights"), "use": stage("used", "y", "made") },
    })
}

pub fn run_body() -> Value {
    json!({ "project": project(), "code": CODE })
}

/// A template's path with something in each place.
pub fn fill(path: &str) -> String {
    let places = BTreeMap::from([
        ("{run}", "nope-1"),
        ("{name}", "nope"),
        ("{project}", "nope"),
        ("{output}", "nope"),
        ("{site}", "nope"),
        ("{tag}", "nope"),
        ("{from}", "nope"),
        ("{to}", "other"),
        ("{id}", "nope"),
        ("{version}", CODE),
    ]);
    places.into_iter().fold(path.to_owned(), |path, (place, value)| path.replace(place, value))
}

/// The data of each event of a stream that has ended, with its id.
pub fn events(text: &str) -> Vec<(Option<i64>, Value)> {
    let one = |block: &str| {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let data = serde_json::from_str(field("data:")?).unwrap();
        Some((field("id:").map(|id| id.parse().unwrap()), data))
    };
    text.split("\n\n").filter_map(one).collect()
}
