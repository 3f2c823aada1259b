//! Who may do what: one table, and the door that every request goes through.

use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tombolo_api::wire::{AuditEntry, Role, TokenInfo};
use tombolo_core::Timestamp;
use tombolo_core::spec::ProjectSpec;
use tombolo_core::world::By;

use super::Shared;
use super::fault::Fault;
use crate::refusals::{self, Window};
use crate::secrets::hash_token;
use crate::store::Write;

/// Who may come in at a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Anybody, without a token.
    Open,
    /// Who brings a join token in the body.
    JoinToken,
    /// Who has at least this role.
    Needs(Role),
}

use Door::{JoinToken, Needs, Open};
use Role::{Admin, Member, Operator, Viewer};

/// Every route and who may use it. A route that is not here answers nobody.
pub const RULES: &[(&str, &str, Door)] = &[
    ("GET", "/healthz", Open),
    ("GET", "/v1/openapi.json", Needs(Viewer)),
    ("GET", "/v1/whoami", Needs(Viewer)),
    ("GET", "/v1/runs", Needs(Viewer)),
    ("POST", "/v1/runs", Needs(Member)),
    ("GET", "/v1/runs/{run}", Needs(Viewer)),
    ("GET", "/v1/runs/{run}/plan", Needs(Viewer)),
    ("GET", "/v1/runs/{run}/events", Needs(Viewer)),
    ("POST", "/v1/runs/{run}/stop", Needs(Member)),
    ("POST", "/v1/runs/{run}/retry", Needs(Member)),
    ("GET", "/v1/workloads/{run}/{name}/logs", Needs(Viewer)),
    ("POST", "/v1/workloads/{run}/{name}/stop", Needs(Member)),
    ("POST", "/v1/workloads/{run}/{name}/move", Needs(Member)),
    ("DELETE", "/v1/workloads/{run}/{name}/move", Needs(Member)),
    ("POST", "/v1/workloads/{run}/{name}/move/quote", Needs(Viewer)),
    ("GET", "/v1/workloads/{run}/{name}/moves", Needs(Viewer)),
    ("GET", "/v1/workloads/{run}/{name}/history", Needs(Viewer)),
    ("GET", "/v1/moves", Needs(Viewer)),
    ("GET", "/v1/endpoints", Needs(Viewer)),
    ("GET", "/v1/endpoints/{project}/{service}/tokens", Needs(Member)),
    ("POST", "/v1/endpoints/{project}/{service}/tokens", Needs(Member)),
    ("DELETE", "/v1/endpoint-tokens/{id}", Needs(Member)),
    ("POST", "/v1/plan", Needs(Viewer)),
    ("GET", "/v1/sites", Needs(Viewer)),
    ("GET", "/v1/sites/{site}", Needs(Viewer)),
    ("PATCH", "/v1/sites/{site}", Needs(Operator)),
    ("POST", "/v1/sites/{site}/revoke", Needs(Operator)),
    ("GET", "/v1/sites/{site}/drain", Needs(Viewer)),
    ("POST", "/v1/sites/{site}/drain", Needs(Operator)),
    ("POST", "/v1/sites/{site}/drain/plan", Needs(Viewer)),
    ("POST", "/v1/sites/{site}/undrain", Needs(Operator)),
    ("POST", "/v1/sites/{site}/gc", Needs(Operator)),
    ("POST", "/v1/sites/{site}/verify", Needs(Operator)),
    ("GET", "/v1/links", Needs(Viewer)),
    ("PUT", "/v1/links/{from}/{to}", Needs(Operator)),
    ("POST", "/v1/join-tokens", Needs(Operator)),
    ("POST", "/v1/join", JoinToken),
    ("POST", "/v1/versions", Needs(Member)),
    ("GET", "/v1/versions/{version}", Needs(Viewer)),
    ("GET", "/v1/versions/{version}/files", Needs(Viewer)),
    ("GET", "/v1/versions/{version}/lineage", Needs(Viewer)),
    ("GET", "/v1/versions/{version}/why/{site}", Needs(Viewer)),
    ("POST", "/v1/versions/{version}/release", Needs(RELEASES)),
    ("POST", "/v1/versions/{version}/replicas", Needs(Member)),
    ("GET", "/v1/datasets", Needs(Viewer)),
    ("GET", "/v1/datasets/{name}", Needs(Viewer)),
    ("GET", "/v1/datasets/{name}/versions", Needs(Viewer)),
    ("DELETE", "/v1/datasets/{name}/versions/{version}", Needs(Member)),
    ("GET", "/v1/datasets/{name}/removed", Needs(Viewer)),
    ("POST", "/v1/datasets/{name}/prune", Needs(Member)),
    ("POST", "/v1/datasets/{name}/restore", Needs(Member)),
    ("PUT", "/v1/datasets/{name}/tags/{tag}", Needs(Member)),
    ("DELETE", "/v1/datasets/{name}/tags/{tag}", Needs(Member)),
    ("GET", "/v1/outputs", Needs(Viewer)),
    ("GET", "/v1/outputs/{project}/{output}", Needs(Viewer)),
    ("DELETE", "/v1/outputs/{project}/{output}/{run}", Needs(Member)),
    ("GET", "/v1/secrets", Needs(Operator)),
    ("PUT", "/v1/secrets/{name}", Needs(Operator)),
    ("DELETE", "/v1/secrets/{name}", Needs(Operator)),
    ("GET", "/v1/tokens", Needs(Admin)),
    ("POST", "/v1/tokens", Needs(Admin)),
    ("DELETE", "/v1/tokens/{id}", Needs(Admin)),
    ("GET", "/v1/audit", Needs(Operator)),
];

/// Who may let data go from its rules: by hand, or by submitting a project with a stage that releases an output.
pub const RELEASES: Role = Operator;

/// How long an answer may take to begin.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// The same where a site goes through its whole store for it.
const SITE_ANSWERS_WITHIN: Duration = Duration::from_secs(2 * 3600);
const SITE_WIDE: [&str; 2] = ["/v1/sites/{site}/gc", "/v1/sites/{site}/verify"];

/// Longest path that is recorded, in characters.
pub(super) const PATH_SHOWN_MAX: usize = 200;

/// Who asks. There is one only behind the door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// None where the route needs no token.
    pub token: Option<TokenInfo>,
    /// Method and path as they came, for the audit log.
    pub what: String,
}

impl Caller {
    /// The token's name, or `nobody`.
    pub fn who(&self) -> &str {
        self.token.as_ref().map_or("nobody", |token| token.name.as_str())
    }

    /// Refuses who may not release what a project's stages let go of.
    pub fn may_release(&self, project: &ProjectSpec) -> Result<(), Fault> {
        let mut releases = project.workloads.iter().filter_map(|(stage, workload)| {
            let output = workload.job()?.release.first()?;
            Some((stage, output))
        });
        let role = self.token.as_ref().map(|token| token.role);
        let Some((stage, output)) = releases.next().filter(|_| role.is_none_or(|role| role < RELEASES)) else {
            return Ok(());
        };
        let title = format!("{stage} releases {output}, and the token {} has not the right to", self.who());
        let hint = format!(
            "ask somebody with the role {RELEASES} to submit it, or leave `release: {output}` out: then {output} stays \
             where its inputs must stay"
        );
        Err(Fault::forbidden("may-not-release", title).hint(hint))
    }

    /// Whose doing a change is.
    pub fn by(&self, at: Timestamp) -> By<'_> {
        By { who: self.who(), at }
    }

    /// The record of something that was done, to be written together with it.
    pub fn done(&self, now: Timestamp, on: impl ToString, detail: Option<String>) -> Write {
        Write::Audit(Box::new(AuditEntry {
            number: 0,
            at: now.0,
            who: self.who().to_owned(),
            what: self.what.clone(),
            on: on.to_string(),
            outcome: "done".to_owned(),
            detail,
        }))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Fault> {
        let caller = parts.extensions.get::<Caller>().cloned();
        caller.ok_or_else(|| Fault::unauthorized("nobody checked who asks"))
    }
}

/// The door: finds the rule, checks the token, lets the request in, and records what was refused.
pub(super) async fn door(State(shared): State<Shared>, mut request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned()).unwrap_or_default();
    let shown: String = request.uri().path().chars().take(PATH_SHOWN_MAX).collect();
    let (token, answer) = match admit(&shared, &method, &path, request.headers()).await {
        Err((token, fault)) => (token, fault.into_response()),
        Ok(token) => {
            request.extensions_mut().insert(Caller { token: token.clone(), what: format!("{method} {shown}") });
            let patience = if SITE_WIDE.contains(&path.as_str()) { SITE_ANSWERS_WITHIN } else { ANSWER_WITHIN };
            let late = |_| Fault::unavailable("timeout", format!("there was no answer within {patience:?}"));
            let answer = tokio::time::timeout(patience, next.run(request)).await;
            (token, answer.map_err(late).unwrap_or_else(Fault::into_response))
        }
    };
    if is_refusal(&method, answer.status()) {
        let why = answer.extensions().get::<Fault>().map(|fault| fault.0.title.clone());
        let who = token.as_ref().map(|token| token.name.as_str());
        record_refusal(&shared, who, format!("{method} {shown}"), why).await;
    }
    answer
}

type Refused = (Option<TokenInfo>, Fault);

async fn admit(
    shared: &Shared,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Result<Option<TokenInfo>, Refused> {
    // What answers a GET answers a HEAD.
    let verb = if method == Method::HEAD { "GET" } else { method.as_str() };
    let rule = RULES.iter().find(|(known, at, _)| *known == verb && *at == path);
    let needed = match rule {
        Some((_, _, Open | JoinToken)) => return Ok(None),
        Some((_, _, Needs(role))) => *role,
        None => return Err((None, Fault::forbidden("forbidden", "nobody may use this route: it has no rule"))),
    };
    let token = authenticate(shared, headers).await.map_err(|fault| (None, fault))?;
    if token.role < needed {
        let title = format!("this needs the role {needed}; the token {} has {}", token.name, token.role);
        let fault = Fault::forbidden("forbidden", title).hint(format!("ask an admin for a token of role {needed}"));
        return Err((Some(token), fault));
    }
    Ok(Some(token))
}

/// The token that a request brings, as it came.
pub(super) fn bearer(headers: &HeaderMap) -> Result<&str, Fault> {
    let given = headers.get(header::AUTHORIZATION).ok_or_else(|| Fault::unauthorized("a token is needed"))?;
    let given = given.to_str().ok().and_then(|text| text.split_once(' '));
    match given {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(Fault::unauthorized("the Authorization header holds no bearer token")),
    }
}

pub(super) async fn authenticate(shared: &Shared, headers: &HeaderMap) -> Result<TokenInfo, Fault> {
    let token = bearer(headers)?;
    // Looked up by a hash of 256 random bits, so how long the look-up takes tells nothing of other tokens.
    let known = shared.engine.store().token(&hash_token(token)).await?;
    match known {
        None => Err(Fault::unauthorized("the token is not known here")),
        Some(known) if known.revoked => Err(Fault::unauthorized(format!("the token {} is revoked", known.name))),
        Some(known) if known.expires <= shared.engine.now().0 => {
            Err(Fault::unauthorized(format!("the token {} has expired", known.name)))
        }
        Some(known) => Ok(known),
    }
}

/// Refusals of known and of unknown callers are counted apart, so that a flood of one hides nothing of the other.
#[derive(Debug, Default)]
pub struct RefusalLog {
    known: Window,
    unknown: Window,
}

/// Who may not, and what could not be changed as asked.
pub(super) fn is_refusal(method: &Method, status: StatusCode) -> bool {
    let changes = !matches!(*method, Method::GET | Method::HEAD);
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) || (changes && status.is_client_error())
}

/// `who` is none where nobody known asked.
pub(super) async fn record_refusal(shared: &Shared, who: Option<&str>, what: String, why: Option<String>) {
    let left_out = {
        let mut log = shared.refusals.lock().expect("nobody panics while holding it");
        let window = if who.is_some() { &mut log.known } else { &mut log.unknown };
        window.admit(Instant::now())
    };
    let Some(left_out) = left_out else { return };
    let detail = refusals::detail(why, left_out);
    let entry = AuditEntry {
        number: 0,
        at: shared.engine.now().0,
        who: who.unwrap_or("nobody").to_owned(),
        what,
        on: String::new(),
        outcome: "refused".to_owned(),
        detail,
    };
    let writes = vec![Write::Audit(Box::new(entry))];
    let _ = shared.engine.change(move |_, _| Ok::<_, std::convert::Infallible>(((), writes))).await;
}
