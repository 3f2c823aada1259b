//! Endpoints of services: where they are, and the tokens that open them.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use tombolo_api::wire::{EndpointTokenInfo, EndpointTokenMade, EndpointView, NewEndpointToken, ReplicaView};
use tombolo_core::routes::{PASSES_MAX, Route};
use tombolo_core::world::EndpointToken;
use tombolo_core::{EndpointId, Name, Timestamp};

use super::access::Caller;
use super::extract::{At, Json as Body};
use super::fault::Fault;
use super::once::{Create, Key};
use super::{Shared, check, views};
use crate::secrets::{hash_token, new_token};
use crate::store::Write;

const LIFE_S: u64 = 90 * 24 * 3_600;
const LIFE_S_MAX: u64 = 10 * 366 * 24 * 3_600;
/// What begins every token of an endpoint, so that it is told from one of the API.
const PREFIX: &str = "tble";

/// Endpoints of all services that are not over, by name.
#[utoipa::path(get, path = "/v1/endpoints", tag = "endpoints", responses((status = 200, body = [EndpointView])))]
pub(super) async fn list(State(shared): State<Shared>) -> Result<Json<Vec<EndpointView>>, Fault> {
    let ((_, routes), now) = shared.engine.look(|world, now| (world.routes(), now)).await?;
    let gateways = shared.hub.gateways();
    let view = |(id, route): (&EndpointId, &Route)| EndpointView {
        name: id.to_string(),
        access: route.access.word().to_owned(),
        state: route.state.clone(),
        waits: route.waits,
        replicas: route
            .replicas
            .iter()
            .map(|replica| ReplicaView {
                workload: replica.workload.to_string(),
                site: replica.site.to_string(),
                epoch: replica.epoch.0,
            })
            .collect(),
        urls: views::urls(id, &gateways),
        tokens: route.passes.iter().filter(|pass| now < pass.expires).count() as u64,
    };
    Ok(Json(routes.iter().map(view).collect()))
}

/// Makes a token that opens an endpoint; it is shown this once.
#[utoipa::path(
    post, path = "/v1/endpoints/{project}/{service}/tokens", tag = "endpoints", request_body = NewEndpointToken,
    params(("project" = String, Path), ("service" = String, Path), ("Idempotency-Key" = String, Header)),
    responses((status = 201, body = EndpointTokenMade))
)]
pub(super) async fn make_token(
    State(shared): State<Shared>,
    caller: Caller,
    At((project, service)): At<(Name, Name)>,
    key: Key,
    Body { value, hash }: Body<NewEndpointToken>,
) -> Result<Response, Fault> {
    let endpoint = EndpointId { project, service };
    let life = check::life(value.expires_in_s, LIFE_S, LIFE_S_MAX)?;
    let mut create = Create::new(caller, key, &hash);
    create.sealed = true;
    create
        .perform(shared, std::future::ready(Ok(new_token(PREFIX))), move |world, now, caller, token| {
            if !world.routes().1.contains_key(&endpoint) {
                return Err(missing(&endpoint));
            }
            let good = |token: &&EndpointToken| token.endpoint == endpoint && now < token.expires;
            if world.endpoint_tokens.values().filter(good).count() >= PASSES_MAX {
                let title = format!("{endpoint} has {PASSES_MAX} tokens already");
                return Err(Fault::conflict("too-many-tokens", title).hint("revoke some: tombolo endpoint revoke <id>"));
            }
            let hash = hash_token(&token);
            let (id, expires) = (format!("e-{}", &hash[..16]), now + life);
            let by = caller.who().to_owned();
            let made = EndpointToken { id: id.clone(), endpoint, hash, by, created: now, expires };
            let audit = caller.done(now, &id, Some(made.endpoint.to_string()));
            let writes = vec![Write::EndpointToken(Box::new(made.clone())), audit];
            world.admit(made);
            Ok((EndpointTokenMade { id, token, expires: expires.0 }, writes))
        })
        .await
}

/// The tokens of an endpoint, without themselves.
#[utoipa::path(
    get, path = "/v1/endpoints/{project}/{service}/tokens", tag = "endpoints",
    params(("project" = String, Path), ("service" = String, Path)),
    responses((status = 200, body = [EndpointTokenInfo]))
)]
pub(super) async fn tokens(
    State(shared): State<Shared>,
    At((project, service)): At<(Name, Name)>,
) -> Result<Json<Vec<EndpointTokenInfo>>, Fault> {
    let endpoint = EndpointId { project, service };
    let listed = shared.engine.look(move |world, now| {
        let of = |token: &&EndpointToken| token.endpoint == endpoint;
        let known = world.routes().1.contains_key(&endpoint);
        let mut tokens: Vec<_> = world.endpoint_tokens.values().filter(of).map(info).collect();
        tokens.retain(|token| Timestamp(token.expires) > now);
        match tokens.is_empty() && !known {
            true => Err(missing(&endpoint)),
            false => Ok(tokens),
        }
    });
    Ok(Json(listed.await??))
}

/// Ends a token of an endpoint. Gateways that can be reached hear of it at once.
#[utoipa::path(
    delete, path = "/v1/endpoint-tokens/{id}", tag = "endpoints", params(("id" = String, Path)),
    responses((status = 204))
)]
pub(super) async fn revoke_token(
    State(shared): State<Shared>,
    caller: Caller,
    At(id): At<String>,
) -> Result<StatusCode, Fault> {
    let revoked = shared.engine.change(move |world, now| {
        let token = world.shut_out(&id).ok_or_else(|| {
            Fault::not_found("there is no such token").hint("`tombolo endpoint tokens <project>/<service>` lists them")
        })?;
        let audit = caller.done(now, &id, Some(token.endpoint.to_string()));
        Ok::<_, Fault>(((), vec![Write::DropEndpointToken { id }, audit]))
    });
    revoked.await??;
    Ok(StatusCode::NO_CONTENT)
}

fn info(token: &EndpointToken) -> EndpointTokenInfo {
    EndpointTokenInfo {
        id: token.id.clone(),
        endpoint: token.endpoint.to_string(),
        by: token.by.clone(),
        created: token.created.0,
        expires: token.expires.0,
    }
}

fn missing(endpoint: &EndpointId) -> Fault {
    Fault::not_found(format!("there is no endpoint {endpoint}"))
        .hint("`tombolo endpoint ls` lists those of the services that run")
}
