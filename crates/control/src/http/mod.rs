//! The HTTP API: one file a resource, one table of who may do what ([`access::RULES`]).

mod access;
mod artifacts;
mod audit;
mod check;
mod datasets;
mod document;
mod drains;
mod endpoints;
mod events;
mod extract;
mod fault;
mod feed;
mod join;
mod lineage;
mod links;
mod logs;
mod moves;
mod once;
mod outputs;
mod plans;
mod prune;
mod residency;
mod restore;
mod runs;
mod secrets;
mod sites;
mod tags;
mod tokens;
mod tracking;
mod versions;
mod views;
mod workloads;

use std::any::Any;
use std::sync::{Arc, Mutex};

use axum::http::StatusCode;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;
use tombolo_api::wire::Joined;
use tombolo_tracking::Tracking;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::engine::Engine;
use crate::hub::Hub;
use crate::secrets::Secrets;

pub use access::{Door, RULES};
pub use document::openapi;
pub use extract::BODY_BYTES_MAX;
pub use fault::Fault;
pub use tracking::ask as how_workloads_stand;

/// What the API is an interface to.
#[derive(Clone)]
pub struct App {
    pub engine: Engine,
    pub hub: Hub,
    pub secrets: Arc<Secrets>,
    /// What an agent is told when it has joined.
    pub joined: Joined,
    pub tracking: Tracking,
}

/// What the handlers share.
type Shared = Arc<Api>;

struct Api {
    app: App,
    creates: once::Creates,
    refusals: Mutex<access::RefusalLog>,
    /// A place for each open event stream.
    streams: Arc<Semaphore>,
    /// A place for each plan that is being made.
    plans: Arc<Semaphore>,
}

impl std::ops::Deref for Api {
    type Target = App;
    fn deref(&self) -> &App {
        &self.app
    }
}

/// The whole API, ready to be served. Agents' streams bring calls of workloads to the part that tracks experiments.
pub fn router(app: App) -> axum::Router {
    let hub = app.hub.clone();
    let shared = Arc::new(Api {
        app,
        creates: once::Creates::default(),
        refusals: Mutex::default(),
        streams: Arc::new(Semaphore::new(feed::STREAMS_MAX)),
        plans: Arc::new(Semaphore::new(plans::PLANS_MAX)),
    });
    let (router, _) = all().split_for_parts();
    let tracking = tracking::router(&shared).layer(CatchPanicLayer::custom(panicked));
    hub.track_with(tracking.clone());
    let mut router = router
        .route_layer(middleware::from_fn_with_state(Arc::clone(&shared), access::door))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method);
    for path in tracking::PATHS {
        router = router.route_service(path, tracking.clone());
    }
    router.layer(CatchPanicLayer::custom(panicked)).with_state(shared)
}

fn all() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(document::head())
        .routes(routes!(document::healthz))
        .routes(routes!(document::openapi_json))
        .routes(routes!(runs::list, runs::submit))
        .routes(routes!(runs::show))
        .routes(routes!(runs::plan))
        .routes(routes!(runs::stop))
        .routes(routes!(runs::retry))
        .routes(routes!(events::follow))
        .routes(routes!(logs::follow))
        .routes(routes!(workloads::stop))
        .routes(routes!(moves::quote))
        .routes(routes!(moves::begin, moves::call_off))
        .routes(routes!(moves::of_workload))
        .routes(routes!(moves::history))
        .routes(routes!(moves::list))
        .routes(routes!(endpoints::list))
        .routes(routes!(endpoints::make_token, endpoints::tokens))
        .routes(routes!(endpoints::revoke_token))
        .routes(routes!(plans::plan))
        .routes(routes!(sites::list))
        .routes(routes!(sites::show, sites::patch))
        .routes(routes!(sites::revoke))
        .routes(routes!(drains::show, drains::begin))
        .routes(routes!(drains::plan))
        .routes(routes!(drains::undrain))
        .routes(routes!(sites::gc))
        .routes(routes!(sites::verify))
        .routes(routes!(links::list))
        .routes(routes!(links::set))
        .routes(routes!(join::make_token))
        .routes(routes!(join::join))
        .routes(routes!(versions::add))
        .routes(routes!(versions::show))
        .routes(routes!(versions::files))
        .routes(routes!(versions::replicate))
        .routes(routes!(lineage::show))
        .routes(routes!(residency::why))
        .routes(routes!(residency::release))
        .routes(routes!(datasets::list))
        .routes(routes!(datasets::show))
        .routes(routes!(datasets::versions))
        .routes(routes!(datasets::drop_version))
        .routes(routes!(prune::prune))
        .routes(routes!(restore::removed))
        .routes(routes!(restore::restore))
        .routes(routes!(tags::put, tags::remove))
        .routes(routes!(outputs::list))
        .routes(routes!(outputs::versions))
        .routes(routes!(outputs::unname))
        .routes(routes!(secrets::list))
        .routes(routes!(secrets::set, secrets::remove))
        .routes(routes!(tokens::list, tokens::make))
        .routes(routes!(tokens::revoke))
        .routes(routes!(tokens::whoami))
        .routes(routes!(audit::list))
}

async fn unknown_route() -> Fault {
    Fault::not_found("there is no such route").hint("GET /v1/openapi.json lists them")
}

async fn wrong_method() -> Fault {
    Fault::new(StatusCode::METHOD_NOT_ALLOWED, "wrong-method", "this route does not take this method")
        .hint("GET /v1/openapi.json lists those that it takes")
}

fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let said = panic.downcast_ref::<String>().map(String::as_str);
    let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    tracing::error!(said, "a request's handler panicked");
    Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the control plane failed to answer this")
        .hint("its log says why")
        .into_response()
}
