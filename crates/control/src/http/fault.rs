//! Every error that the API answers, as a problem; the one place where refusals get their statuses.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tombolo_api::problem::{CONTENT_TYPE, Problem};
use tombolo_core::world::Refusal;

use crate::engine::{EngineGone, KeptError};
use crate::hub::CallError;
use crate::store::StoreError;

/// An answer that is no success. Its problem also goes into the response's extensions, for the audit log.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault(pub Box<Problem>);

impl Fault {
    pub fn new(status: StatusCode, kind: &str, title: impl Into<String>) -> Fault {
        let (kind, title, status) = (kind.to_owned(), title.into(), status.as_u16());
        Fault(Box::new(Problem { kind, title, status, detail: None, hint: None }))
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Fault {
        self.0.detail = Some(detail.into());
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Fault {
        self.0.hint = Some(hint.into());
        self
    }

    pub fn bad_request(kind: &str, title: impl Into<String>) -> Fault {
        Fault::new(StatusCode::BAD_REQUEST, kind, title)
    }

    pub fn invalid(kind: &str, title: impl Into<String>) -> Fault {
        Fault::new(StatusCode::UNPROCESSABLE_ENTITY, kind, title)
    }

    pub fn not_found(title: impl Into<String>) -> Fault {
        Fault::new(StatusCode::NOT_FOUND, "not-found", title)
    }

    pub fn conflict(kind: &str, title: impl Into<String>) -> Fault {
        Fault::new(StatusCode::CONFLICT, kind, title)
    }

    pub fn forbidden(kind: &str, title: impl Into<String>) -> Fault {
        Fault::new(StatusCode::FORBIDDEN, kind, title)
    }

    pub fn unavailable(kind: &str, title: impl Into<String>) -> Fault {
        Fault::new(StatusCode::SERVICE_UNAVAILABLE, kind, title)
    }

    pub fn unauthorized(title: impl Into<String>) -> Fault {
        Fault::new(StatusCode::UNAUTHORIZED, "unauthorized", title)
            .hint("give one that holds: --token or $TOMBOLO_TOKEN, in HTTP `Authorization: Bearer <token>`; an admin makes them with `tombolo token create`")
    }

    /// Too much at once; the caller may come again soon.
    pub fn busy(title: impl Into<String>) -> Fault {
        Fault::new(StatusCode::TOO_MANY_REQUESTS, "too-many-requests", title).hint("try again in a few seconds")
    }

    /// A fault of ours: logged here, where its cause is known, and told without it.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Fault {
        tracing::error!(error, "a request failed");
        Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the control plane failed to answer this")
            .hint("its log says why")
    }

    /// The same fault as the data of an event, where the answer has begun already.
    pub fn event(&self) -> axum::response::sse::Event {
        let data = serde_json::to_string(&self.0).expect("a problem is plain data");
        axum::response::sse::Event::default().event("problem").data(data)
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).expect("a problem is plain data");
        let mut response = (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let ask = HeaderValue::from_static("Bearer realm=\"tombolo\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, ask);
        }
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("3"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        let title = refusal.to_string();
        match refusal {
            Refusal::NoRun(_) | Refusal::NoWorkload(_) => Fault::not_found(title),
            Refusal::NoSite(_) => Fault::not_found(title).hint("`tombolo site ls` lists those that there are"),
            Refusal::RunExists(_) => Fault::conflict("run-exists", title),
            Refusal::SiteExists(_) => {
                Fault::conflict("site-exists", title).hint("let the agent join under another name")
            }
            Refusal::NoData { name, .. } => {
                Fault::invalid("no-data", title).hint(format!("add it first: tombolo data add {name} <path>"))
            }
            Refusal::Unexpected { .. } => Fault::conflict("expectations-failed", title)
                .hint("mend the data and add it again, or take it as it is: tombolo run --allow-failed"),
            Refusal::NoVersion(_) => {
                Fault::invalid("no-version", title).hint("make it known first with POST /v1/versions")
            }
            Refusal::TooManyStages(_) => Fault::invalid("too-many-stages", title),
            Refusal::TooManyReplicas(..) => Fault::invalid("too-many-replicas", title),
            Refusal::ReplicaName(..) => Fault::invalid("replica-name", title),
            Refusal::NothingToRetry(_) => Fault::conflict("nothing-to-retry", title),
            Refusal::Forgotten { .. } => Fault::conflict("input-forgotten", title)
                .hint("submit the project again: it reads the newest versions of its data"),
            Refusal::Over(..) => Fault::conflict("run-over", title),
            Refusal::Residency { .. } => Fault::forbidden("residency", title),
            Refusal::NoDataset(_) => Fault::not_found(title).hint("`tombolo data ls` lists those that there are"),
            Refusal::NotNamed { dataset, .. } => {
                Fault::not_found(title).hint(format!("`tombolo data show {dataset}` lists its versions"))
            }
            Refusal::InUse { .. } => Fault::conflict("in-use", title).hint("wait until it is over, or stop it"),
            Refusal::Tagged { dataset, tag, .. } => Fault::conflict("tagged", title).hint(format!(
                "take the tag away first with `tombolo data tag --delete {dataset} {tag}`, or remove both with --force"
            )),
            Refusal::NoTag { dataset, .. } => {
                Fault::not_found(title).hint(format!("`tombolo data show {dataset}` lists its tags"))
            }
            Refusal::TagElsewhere { .. } => {
                Fault::conflict("tag-elsewhere", title).hint("to take it from there, say --move")
            }
            Refusal::NotMoving(_) => Fault::conflict("not-moving", title).hint("`tombolo move ls` lists moves"),
            Refusal::CantMove { rule: "residency", .. } => Fault::forbidden("residency", title)
                .hint("`tombolo data why <dataset> <site>` tells where the rule comes from"),
            Refusal::CantMove { rule, .. } => Fault::conflict(rule, title),
            Refusal::Revoked(_) => Fault::conflict("revoked", title).hint("a revoked site is out for good"),
            Refusal::NotDraining(_) => {
                Fault::conflict("not-draining", title).hint("`tombolo site ls` tells how sites are")
            }
            Refusal::TooManyTags(_) => Fault::conflict("too-many-tags", title)
                .hint("take some away with `tombolo data tag --delete <dataset> <tag>`"),
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Fault {
        match &error {
            StoreError::BadPage(_) => Fault::bad_request("bad-page", error.to_string()),
            StoreError::Unusable { .. }
            | StoreError::Newer { .. }
            | StoreError::Failed(_)
            | StoreError::Malformed(_) => Fault::internal(&error),
        }
    }
}

impl From<EngineGone> for Fault {
    fn from(gone: EngineGone) -> Fault {
        Fault::unavailable("stopping", gone.to_string()).hint("try again when it has started anew")
    }
}

impl From<KeptError> for Fault {
    fn from(error: KeptError) -> Fault {
        match error {
            KeptError::Gone(gone) => gone.into(),
            KeptError::Store(error) => error.into(),
        }
    }
}

impl From<CallError> for Fault {
    fn from(error: CallError) -> Fault {
        Fault::unavailable("site-unreachable", error.to_string())
            .hint("see `tombolo site ls`; what runs there goes on, and answers when the line is back")
    }
}
