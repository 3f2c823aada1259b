//! Artifacts, from and to the sites that keep them: nothing of them stays here.
//!
//! What a workload has logged is at the sites where it ran, and may go where all that it has read may go. What people log
//! is kept at one site, which is settled when the first of it comes.

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Json, Router};
use serde_json::json;
use tombolo_core::residency::Residency;
use tombolo_core::{SiteId, WorkloadId};
use tombolo_tracking::{Access, Code, Fault, Root};

use super::Shared;
use super::access::ANSWER_WITHIN;
use super::logs::Rule;
use super::workloads;

/// Where MLflow's clients ask for artifacts, and those in browsers.
const PREFIXES: [&str; 2] = ["/api/2.0/mlflow-artifacts", "/ajax-api/2.0/mlflow-artifacts"];
const ARTIFACTS: &str = "/artifacts";
/// Sites that are asked for one thing, at most.
const ASKED_MAX: usize = 8;

/// Whether a path is about artifacts, which may be large.
pub fn is_about(path: &str) -> bool {
    PREFIXES.iter().any(|prefix| path.starts_with(prefix))
}

pub fn router(shared: &Shared) -> Router {
    let mut router = Router::new();
    for prefix in PREFIXES {
        router = router
            .route(&format!("{prefix}{ARTIFACTS}"), any(handle))
            .route(&format!("{prefix}{ARTIFACTS}/{{*path}}"), any(handle))
            .route(&format!("{prefix}/{{*rest}}"), any(no_parts));
    }
    router.with_state(shared.clone())
}

async fn no_parts() -> Fault {
    let why = "uploads in parts and signed addresses aren't served; without them clients send a file whole";
    Fault::new(Code::NotImplemented, why)
}

async fn handle(State(shared): State<Shared>, Extension(access): Extension<Access>, request: Request) -> Response {
    answer(&shared, &access, request).await.unwrap_or_else(IntoResponse::into_response)
}

/// A question as it goes on to a site.
struct Asked {
    method: Method,
    /// Path and query as a site has them.
    uri: String,
    root: Root,
    lists: bool,
    /// What the site is told of the rest.
    headers: HeaderMap,
}

impl Asked {
    fn read(request: &Request) -> Result<Asked, Fault> {
        let uri = request.uri();
        let path = PREFIXES.iter().find_map(|prefix| uri.path().strip_prefix(prefix)).unwrap_or_default();
        let encoded = path.strip_prefix(ARTIFACTS).unwrap_or_default().trim_start_matches('/');
        let lists = encoded.is_empty();
        let text = if lists {
            let query = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
            query.into_owned().find(|(name, _)| name == "path").map(|(_, path)| path).unwrap_or_default()
        } else {
            percent_encoding::percent_decode_str(encoded).decode_utf8_lossy().into_owned()
        };
        let root = root(&text).ok_or_else(|| {
            let text: String = text.chars().take(200).collect();
            Fault::invalid(format!(
                "Invalid path {text:?}: it must be <experiment>/<run>/artifacts/<path>, without .. in it"
            ))
        })?;
        let mut headers = HeaderMap::new();
        for name in [header::RANGE, header::CONTENT_LENGTH, header::CONTENT_TYPE] {
            headers.extend(request.headers().get(&name).map(|value| (name, value.clone())));
        }
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        Ok(Asked {
            method: request.method().clone(),
            uri: format!("{}{path}{query}", PREFIXES[0]),
            root,
            lists,
            headers,
        })
    }

    fn reads(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
    }
}

/// The site checks the rest.
fn root(path: &str) -> Option<Root> {
    let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    if parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
        return None;
    }
    match parts.as_slice() {
        [_, "models", model, "artifacts", ..] => Some(Root::Model((*model).to_owned())),
        [_, run, "artifacts", ..] => Some(Root::Run((*run).to_owned())),
        _ => None,
    }
}

async fn answer(shared: &Shared, access: &Access, request: Request) -> Result<Response, Fault> {
    let asked = Asked::read(&request)?;
    if access.run.is_some() && !asked.reads() {
        // At its own site it needs nobody's help, and elsewhere nothing is a workload's.
        return Err(Fault::denied("A workload keeps its artifacts at its own site"));
    }
    let mut sites = allowed(shared, access, &asked).await?;
    if let Some(own) = &access.run {
        // It has looked there.
        sites.retain(|site| site.as_str() != own.site);
    }
    if !asked.reads() {
        let site = match sites.first() {
            Some(site) => site.clone(),
            None => settled(shared, &asked.root).await?,
        };
        return pass(shared, &site, &asked, request.into_body()).await;
    }
    let mut away = None;
    for site in sites.iter().take(ASKED_MAX) {
        match pass(shared, site, &asked, Body::empty()).await {
            Ok(answer) if answer.status() == StatusCode::NOT_FOUND => {}
            Ok(answer) if asked.lists && answer.status() == StatusCode::OK => {
                // Where it ran last it may have logged nothing.
                let whole = axum::body::to_bytes(answer.into_body(), LIST_BYTES_MAX).await;
                let whole =
                    whole.map_err(|_| Fault::new(Code::TemporarilyUnavailable, "the list did not come whole"))?;
                if !is_empty(&whole) {
                    return Ok(([(header::CONTENT_TYPE, "application/json")], whole).into_response());
                }
            }
            Ok(answer) => return Ok(answer),
            Err(fault) => away = Some(fault),
        }
    }
    match away {
        Some(fault) => Err(fault),
        None if asked.lists => Ok(Json(json!({ "files": [] })).into_response()),
        None => Err(Fault::missing("No such artifact")),
    }
}

/// Longest list of a directory, in bytes: 10,000 entries of 1 KiB.
const LIST_BYTES_MAX: usize = 12 << 20;

fn is_empty(list: &[u8]) -> bool {
    let files = serde_json::from_slice::<serde_json::Value>(list).ok();
    files.is_none_or(|list| list["files"].as_array().is_none_or(Vec::is_empty))
}

/// Sites that may have it, the newest first, if whoever asks may have it from there.
async fn allowed(shared: &Shared, access: &Access, asked: &Asked) -> Result<Vec<SiteId>, Fault> {
    let holder = shared.tracking.holder(&asked.root).await?;
    let mut sites: Vec<SiteId> = holder.home.iter().filter_map(|site| site.parse().ok()).collect();
    let owner: Option<WorkloadId> = holder.owner.and_then(|owner| owner.parse().ok());
    let Some(owner) = owner else { return Ok(sites) };
    let gone = |_| Fault::missing(format!("the run of {owner} is not known here any more"));
    let record = workloads::found(shared, &owner).await.map_err(gone)?;
    for attempt in record.attempts.iter().rev() {
        if !sites.contains(&attempt.site) {
            sites.push(attempt.site.clone());
        }
    }
    let rule = Rule::of(shared, &record).await.map_err(gone)?;
    match forbidden(shared, access, &rule.residency).await? {
        Some(why) if asked.reads() => Err(Fault::denied(format!(
            "{why}: what {owner} has read may only be at {}; its artifacts are read where it ran",
            rule.residency
        ))),
        _ => Ok(sites),
    }
}

/// Why bytes under this rule don't go to who asks, if so.
async fn forbidden(shared: &Shared, access: &Access, residency: &Residency) -> Result<Option<String>, Fault> {
    if residency.is_anywhere() {
        return Ok(None);
    }
    let Some(own) = &access.run else {
        return Ok(Some("artifacts under residency don't leave their site for a client's machine".to_owned()));
    };
    let (site, rule) = (own.site.clone(), residency.clone());
    let looked = shared.engine.look(move |world, _| {
        let site: SiteId = site.parse().ok()?;
        let labels = &world.sites.get(&site)?.info.labels;
        Some(rule.allows(&site, labels))
    });
    let allowed = looked.await.map_err(|_| stopping())?.unwrap_or(false);
    Ok((!allowed).then(|| format!("these artifacts may not come to {}", own.site)))
}

fn stopping() -> Fault {
    Fault::new(Code::TemporarilyUnavailable, "the control plane is stopping")
}

/// Where people's artifacts of this root are to be: of the sites that are there, and rather of those that aren't public, the
/// one with the most room.
async fn settled(shared: &Shared, root: &Root) -> Result<SiteId, Fault> {
    let looked = shared.engine.look(|world, now| {
        let sites = world.sites.values().filter(|site| !site.revoked && site.reachable(now) && !site.draining);
        let room = |site: &&tombolo_core::world::SiteRecord| {
            let public = site.info.labels.get("visibility").is_some_and(|word| word == "public");
            (!public, site.info.capacity.disk_bytes)
        };
        sites.max_by_key(room).map(|site| site.info.id.clone())
    });
    let site = looked.await.map_err(|_| stopping())?;
    let site = site.ok_or_else(|| {
        Fault::new(Code::TemporarilyUnavailable, "no site is there to keep artifacts; `tombolo site ls` lists them")
    })?;
    let settled = shared.tracking.settle_home(root, site.as_str()).await?;
    settled.parse().map_err(|_| Fault::missing("the site that keeps these artifacts is not known any more"))
}

async fn pass(shared: &Shared, site: &SiteId, asked: &Asked, body: Body) -> Result<Response, Fault> {
    let request = Request::builder().method(asked.method.clone()).uri(&asked.uri).body(body);
    let mut request = request.map_err(|error| Fault::invalid(format!("Invalid path: {error}")))?;
    request.headers_mut().clone_from(&asked.headers);
    let away = |why: String| {
        Fault::new(Code::TemporarilyUnavailable, format!("{site}, which keeps these artifacts, does not answer: {why}"))
    };
    let answer = shared.hub.artifacts(site, request);
    // What is put is answered when it is kept, which takes as long as it is large.
    let answer = match asked.reads() {
        true => tokio::time::timeout(ANSWER_WITHIN, answer).await.map_err(|_| away("it takes too long".to_owned()))?,
        false => answer.await,
    };
    answer.map_err(|error| away(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(uri: &str) -> Result<Asked, Fault> {
        Asked::read(&Request::builder().uri(uri).body(Body::empty()).unwrap())
    }

    #[test]
    fn questions_name_a_run_or_a_model_and_nothing_else() {
        for prefix in PREFIXES {
            let one = asked(&format!("{prefix}/artifacts/0/abc/artifacts/sub/a%20b.txt")).unwrap();
            assert_eq!((one.root, one.lists), (Root::Run("abc".to_owned()), false));
            assert_eq!(one.uri, "/api/2.0/mlflow-artifacts/artifacts/0/abc/artifacts/sub/a%20b.txt");
            let list = asked(&format!("{prefix}/artifacts?path=0%2Fmodels%2Fm-1%2Fartifacts")).unwrap();
            assert_eq!((list.root, list.lists), (Root::Model("m-1".to_owned()), true));
        }
        for bad in ["", "?path=", "?path=0/abc", "/0/abc/other/x", "/0/../artifacts/x", "/0/%2e%2e/artifacts/x", "/x"] {
            assert!(asked(&format!("{}/artifacts{bad}", PREFIXES[0])).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_list_without_files_is_none() {
        for (list, empty) in
            [("{\"files\":[]}", true), ("{}", true), ("", true), ("{\"files\":[{\"path\":\"a\"}]}", false)]
        {
            assert_eq!(is_empty(list.as_bytes()), empty, "{list}");
        }
    }
}
