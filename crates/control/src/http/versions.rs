//! Versions: made known, looked at, brought to sites.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use tombolo_api::stream::{Call, Progress, Said};
use tombolo_api::wire::{NewVersion, SiteAnswer, VersionInfo};
use tombolo_core::world::VersionRecord;
use tombolo_core::{SiteId, VersionId};

use super::access::Caller;
use super::extract::{At, Json as Body};
use super::fault::Fault;
use super::feed::{Feed, hand_on};
use super::once::{Create, Key};
use super::{Shared, check, logs, sites, views};

/// How long a site may take to say whether it has a version.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(5);

/// Makes a version known that is in a site's store, under a dataset's name or without one. A site that is connected is
/// asked whether it has it.
#[utoipa::path(
    post, path = "/v1/versions", tag = "data", request_body = NewVersion,
    params(("Idempotency-Key" = String, Header)), responses(
        (status = 201, body = VersionInfo),
        (status = 409, body = tombolo_api::problem::Problem, content_type = "application/problem+json",
            description = "The site says that it does not have the version, or is revoked."),
    )
)]
pub(super) async fn add(
    State(shared): State<Shared>,
    caller: Caller,
    key: Key,
    Body { value, hash }: Body<NewVersion>,
) -> Result<Response, Fault> {
    check::bytes(value.bytes)?;
    check::bytes(value.files)?;
    let (asked, site, version) = (shared.clone(), value.site.clone(), value.version);
    let said = async move { Ok(ask_site(&asked, &site, version).await) };
    Create::new(caller, key, &hash)
        .perform(shared, said, move |world, now, caller, said| {
            let NewVersion { version, mut bytes, mut files, site, dataset, residency, facts, sketch } = value;
            if world.sites.get(&site).is_some_and(|site| site.revoked) {
                return Err(Fault::conflict("revoked", format!("the site {site} is revoked")));
            }
            // What may not be there is refused as that, whether it is there or not.
            world.residency_added(version, &residency, &site)?;
            let amount = match said {
                Heard::Denied(denied) => return Err(denied),
                Heard::Amount(amount) => Some(amount),
                Heard::Nothing => None,
            };
            if let Some(amount) = &amount {
                (bytes, files) = (amount.bytes, amount.files);
            }
            let (given, replicas) = Default::default();
            let facts = facts.bounded();
            let record = VersionRecord { bytes, files, residency, made_by: None, given, at: now, replicas, facts };
            world.add_version(version, record, &site)?;
            if amount.is_some() {
                world.learn_amount(version, bytes, files);
            }
            sketch.into_iter().for_each(|sketch| world.learn_sketch(version, sketch));
            let Some(name) = dataset else {
                let audit = caller.done(now, version, Some(format!("at {site}")));
                return Ok((views::version(version, &world.versions[&version], None), vec![audit]));
            };
            let number = world.name_version(&name, version, None, caller.by(now))?;
            let audit = caller.done(now, version, Some(format!("v{number} of {name}, at {site}")));
            let info = views::named(world, &name, number).expect("it was named just now");
            Ok((info, vec![audit]))
        })
        .await
}

/// What a site says of a version that somebody says it has.
enum Heard {
    Denied(Fault),
    /// It is there, and comes to this: grants name so many bytes, so the site's word goes before anybody else's.
    Amount(Amount),
    Nothing,
}

#[derive(Deserialize)]
struct Amount {
    bytes: u64,
    files: u64,
}

/// Whoever may add data may name any site, so the site is asked. One that is away or slow is believed to have it until it
/// tells all that it has, which it does whenever it connects.
async fn ask_site(shared: &Shared, site: &SiteId, version: VersionId) -> Heard {
    let asked = tokio::time::timeout(CONFIRMED_WITHIN, sites::whole(shared, site, Call::Has { version }));
    match asked.await {
        Ok(Ok(serde_json::Value::Bool(false))) => {
            let title = format!("{site} says that it does not have version {}", version.short());
            let fault = Fault::conflict("no-replica", title);
            Heard::Denied(fault.hint("`tombolo data add` puts data into a site's store first"))
        }
        // An older agent says no more than that it has it.
        Ok(Ok(said)) => serde_json::from_value(said).map_or(Heard::Nothing, Heard::Amount),
        Ok(Err(_)) | Err(_) => Heard::Nothing,
    }
}

#[utoipa::path(
    get, path = "/v1/versions/{version}", tag = "data", params(("version" = String, Path)),
    responses((status = 200, body = VersionInfo))
)]
pub(super) async fn show(State(shared): State<Shared>, At(id): At<VersionId>) -> Result<Json<VersionInfo>, Fault> {
    Ok(Json(views::version(id, &found(&shared, &id).await?, None)))
}

pub(super) async fn found(shared: &Shared, id: &VersionId) -> Result<VersionRecord, Fault> {
    let found = shared.engine.store().version(id).await?;
    found.ok_or_else(|| Fault::not_found(format!("there is no version {id}")))
}

/// The list of a version's files, from a site that has it.
#[utoipa::path(
    get, path = "/v1/versions/{version}/files", tag = "data", params(("version" = String, Path)),
    responses((status = 200, body = SiteAnswer))
)]
pub(super) async fn files(State(shared): State<Shared>, At(id): At<VersionId>) -> Result<Json<SiteAnswer>, Fault> {
    let record = found(&shared, &id).await?;
    let mut last = Fault::unavailable("no-replica", format!("no site has version {}", id.short()));
    for site in &record.replicas {
        match sites::whole(&shared, site, Call::List { version: id }).await {
            Ok(answer) => return Ok(Json(SiteAnswer { site: site.to_string(), answer })),
            Err(fault) => last = fault,
        }
    }
    Err(last)
}

#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewReplica {
    /// Where the version shall be too.
    #[schema(value_type = String)]
    site: SiteId,
}

/// Brings a version to a site; server-sent events tell how far it is, `data` being a `Progress`, until the stream
/// ends when all of it is there.
#[utoipa::path(
    post, path = "/v1/versions/{version}/replicas", tag = "data", params(("version" = String, Path)),
    request_body = NewReplica,
    responses(
        (status = 200, body = Progress, content_type = "text/event-stream"),
        (status = 429, body = tombolo_api::problem::Problem, content_type = "application/problem+json",
            description = "Too many streams are open."),
    )
)]
pub(super) async fn replicate(
    State(shared): State<Shared>,
    caller: Caller,
    At(version): At<VersionId>,
    Body { value: NewReplica { site }, .. }: Body<NewReplica>,
) -> Result<Response, Fault> {
    found(&shared, &version).await?;
    let (feed, response) = Feed::open(&shared)?;
    let place = site.clone();
    let allowed = shared.engine.change(move |world, now| {
        if !world.sites.contains_key(&place) {
            return Err(Fault::not_found(format!("there is no site {place}")));
        }
        world.may_be_at(&version, &place).map_err(|rule| Fault::forbidden("residency", rule))?;
        Ok(((), vec![caller.done(now, version, Some(format!("to {place}")))]))
    });
    allowed.await??;
    let said = logs::ask(&shared, &site, Call::Fetch { version }).await?;
    tokio::spawn(hand_on(feed, said, |piece| match piece {
        Said::Progress(progress) => Some(progress),
        Said::Log(_) | Said::Done(_) | Said::Failed(_) => None,
    }));
    Ok(response)
}
