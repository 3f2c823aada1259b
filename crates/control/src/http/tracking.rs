//! Who may track: people by their tokens and roles, workloads by the tokens that their sites sign for them.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use ed25519_dalek::VerifyingKey;
use tombolo_api::run_token::{self, Claimed, RunToken};
use tombolo_api::wire::Role;
use tombolo_core::WorkloadId;
use tombolo_core::world::World;
use tombolo_tracking::{Access, Ask, Code, Own, Standing, Standings};

use super::Shared;
use super::access::{self, ANSWER_WITHIN, PATH_SHOWN_MAX};
use super::artifacts;
use super::fault::Fault;
use crate::engine::Engine;
use crate::store::Write;

/// How long an artifact may take to come: it is answered when it is kept.
const ARTIFACT_WITHIN: Duration = Duration::from_secs(6 * 3600);
/// Where MLflow's clients ask, beside this server's own API.
pub const PATHS: [&str; 4] = ["/api/{*rest}", "/ajax-api/{*rest}", "/health", "/version"];

pub(super) fn router(shared: &Shared) -> Router {
    let door = middleware::from_fn_with_state(shared.clone(), door);
    tombolo_tracking::router(shared.tracking.clone()).merge(artifacts::router(shared)).layer(door)
}

async fn door(State(shared): State<Shared>, mut request: Request, next: Next) -> Response {
    if request.uri().path() == "/health" {
        return next.run(request).await;
    }
    let method = request.method().clone();
    let path: String = request.uri().path().chars().take(PATH_SHOWN_MAX).collect();
    let reads = tombolo_tracking::reads(&method, &path);
    let (who, answer) = match admit(&shared, request.headers(), reads).await {
        Err(fault) => {
            let why = Some(fault.message.clone());
            access::record_refusal(&shared, None, format!("{method} {path}"), why).await;
            return fault.into_response();
        }
        Ok(admitted) => {
            let who = admitted.who.clone();
            request.extensions_mut().insert(admitted);
            let late = |_| {
                let why = "there was no answer in time";
                tombolo_tracking::Fault::new(Code::TemporarilyUnavailable, why).into_response()
            };
            let patience = if artifacts::is_about(&path) { ARTIFACT_WITHIN } else { ANSWER_WITHIN };
            (who, tokio::time::timeout(patience, next.run(request)).await.unwrap_or_else(late))
        }
    };
    if answer.status() == StatusCode::FORBIDDEN {
        access::record_refusal(&shared, Some(&who), format!("{method} {path}"), None).await;
    } else if answer.status().is_success() && is_recorded(&method, &path) {
        record(&shared, who, format!("{method} {path}")).await;
    }
    answer
}

/// What takes something away or gives it back, and what says which version of a model is meant. What a run logs is its own
/// record.
fn is_recorded(method: &Method, path: &str) -> bool {
    const ENDS: [&str; 7] = [
        "/restore",
        "/experiments/update",
        "/registered-models/create",
        "/registered-models/rename",
        "/registered-models/alias",
        "/model-versions/create",
        "/model-versions/transition-stage",
    ];
    let end = path.rsplit('/').next().unwrap_or_default();
    method == Method::DELETE
        || method == Method::POST && (end.starts_with("delete") || ENDS.iter().any(|end| path.ends_with(end)))
}

async fn record(shared: &Shared, who: String, what: String) {
    let entry = tombolo_api::wire::AuditEntry {
        number: 0,
        at: shared.engine.now().0,
        who,
        what,
        on: String::new(),
        outcome: "done".to_owned(),
        detail: None,
    };
    let writes = vec![Write::Audit(Box::new(entry))];
    let _ = shared.engine.change(move |_, _| Ok::<_, std::convert::Infallible>(((), writes))).await;
}

async fn admit(shared: &Shared, headers: &HeaderMap, reads: bool) -> Result<Access, tombolo_tracking::Fault> {
    let token = access::bearer(headers).map_err(translated)?;
    if token.starts_with(run_token::PREFIX) {
        return workload(shared, token).await;
    }
    let token = access::authenticate(shared, headers).await.map_err(translated)?;
    let needed = if reads { Role::Viewer } else { Role::Member };
    match token.role < needed {
        true => {
            let why = format!("this needs the role {needed}; the token {} has {}", token.name, token.role);
            Err(tombolo_tracking::Fault::denied(why))
        }
        false => Ok(Access { who: token.name, run: None }),
    }
}

/// Of a problem, what MLflow's clients show.
fn translated(fault: Fault) -> tombolo_tracking::Fault {
    let problem = fault.0;
    let code = match problem.status {
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        429 | 503 => Code::TemporarilyUnavailable,
        _ => Code::InternalError,
    };
    let message = match problem.hint {
        Some(hint) if code == Code::Unauthenticated => {
            let hint = hint.replace("--token or $TOMBOLO_TOKEN", "$MLFLOW_TRACKING_TOKEN");
            format!("{}\nhint: {hint}", problem.title)
        }
        _ => problem.title,
    };
    tombolo_tracking::Fault::new(code, message)
}

async fn workload(shared: &Shared, token: &str) -> Result<Access, tombolo_tracking::Fault> {
    let unknown = || {
        tombolo_tracking::Fault::new(Code::Unauthenticated, "the run token can't be read or is not signed by its site")
    };
    let claimed = Claimed::read(token).ok_or_else(unknown)?;
    let asked = claimed.claim.clone();
    let looked = shared.engine.look(move |world, _| (site_key(world, &asked), standing(world, &asked.workload)));
    let gone = |_| tombolo_tracking::Fault::new(Code::TemporarilyUnavailable, "the control plane is stopping");
    let (key, standing) = looked.await.map_err(gone)?;
    if !key.is_some_and(|key| claimed.check(&key)) {
        return Err(unknown());
    }
    let RunToken { site, workload, epoch } = claimed.claim;
    let own = Own {
        project: workload.run.project().to_string(),
        stage: workload.name.to_string(),
        site: site.to_string(),
        epoch: epoch.0,
        run_id: run_token::mlflow_run_id(&workload),
        workload: workload.to_string(),
    };
    // Early, so that nothing is read of what would be refused; a change is fenced once more when its turn comes.
    own.may_write(standing.as_ref()).map_err(tombolo_tracking::Fault::denied)?;
    Ok(Access { who: own.workload.clone(), run: Some(own) })
}

/// How workloads stand, for what is theirs among the tracking's changes.
pub fn ask(engine: Engine) -> Ask {
    Arc::new(move |workloads| {
        let engine = engine.clone();
        Box::pin(async move {
            let of =
                |world: &World, workload: String| Some((workload.clone(), standing(world, &workload.parse().ok()?)?));
            let looked = engine.look(move |world, _| {
                workloads.into_iter().filter_map(|workload| of(world, workload)).collect::<Standings>()
            });
            looked.await.ok()
        })
    })
}

/// None where the workload is not live.
fn standing(world: &World, workload: &WorkloadId) -> Option<Standing> {
    let record = world.workloads.get(workload)?;
    let site = record.state.site().map(ToString::to_string);
    Some(Standing { epoch: record.epoch.0, site, state: record.state.word() })
}

fn site_key(world: &World, token: &RunToken) -> Option<VerifyingKey> {
    let site = world.sites.get(&token.site).filter(|site| !site.revoked)?;
    let bytes: [u8; 32] = data_encoding::HEXLOWER.decode(site.key.as_bytes()).ok()?.try_into().ok()?;
    VerifyingKey::from_bytes(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_what_others_rely_on_is_recorded() {
        for (method, end, expected) in [
            (Method::POST, "runs/delete", true),
            (Method::POST, "runs/restore", true),
            (Method::POST, "experiments/update", true),
            (Method::POST, "registered-models/alias", true),
            (Method::GET, "registered-models/alias", false),
            (Method::DELETE, "registered-models/alias", true),
            (Method::POST, "model-versions/transition-stage", true),
            (Method::POST, "runs/log-metric", false),
            (Method::POST, "runs/search", false),
            (Method::PATCH, "model-versions/update", false),
        ] {
            assert_eq!(is_recorded(&method, &format!("/api/2.0/mlflow/{end}")), expected, "{method} {end}");
        }
    }
}
