//! Versions that were, brought back: as the newest of their dataset, without a byte being copied.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use tombolo_api::stream::Call;
use tombolo_api::wire::{NewRestore, PAGE_MAX, Page, PageQuery, RemovedVersion, VersionInfo};
use tombolo_core::spec::REASON_CHARS_MAX;
use tombolo_core::world::{NamedVersion, Refusal, Removed, VersionRecord, Which};
use tombolo_core::{Name, SiteId, VersionId};

use super::access::Caller;
use super::extract::{Ask, At, Json as Body};
use super::fault::Fault;
use super::once::{Create, Key};
use super::{Shared, sites, views};

/// What lost a dataset's name, newest first; the last 1000 are remembered.
#[utoipa::path(
    get, path = "/v1/datasets/{name}/removed", tag = "data", params(("name" = String, Path), PageQuery),
    responses((status = 200, body = Page<RemovedVersion>))
)]
pub(super) async fn removed(
    State(shared): State<Shared>,
    At(name): At<Name>,
    Ask(page): Ask<PageQuery>,
) -> Result<Json<Page<RemovedVersion>>, Fault> {
    let found = shared.engine.store().removed(&name, &page).await?;
    Ok(Json(Page { items: found.items.into_iter().map(view).collect(), next: found.next }))
}

fn view((number, removed): (u64, Removed)) -> RemovedVersion {
    let Removed { named, at, by, why, record } = removed;
    let (bytes, files, replicas) =
        record.map_or_else(Default::default, |record| (record.bytes, record.files, record.replicas));
    RemovedVersion {
        version: named.version,
        number,
        bytes,
        files,
        at: named.at.0,
        removed: at.0,
        by,
        why,
        sites: replicas.iter().map(SiteId::to_string).collect(),
    }
}

/// What a change needs to bring a version back.
struct Found {
    version: VersionId,
    was: u64,
    /// Where nobody names it any more: how it was known, and the sites that still have its bytes and hold them.
    forgotten: Option<(VersionRecord, Vec<SiteId>)>,
}

/// Makes a version the newest of its dataset again, under a new number. One that lost its name comes back for as long as
/// some site has its bytes, under every rule that it was under.
#[utoipa::path(
    post, path = "/v1/datasets/{name}/restore", tag = "data", request_body = NewRestore,
    params(("name" = String, Path), ("Idempotency-Key" = String, Header)),
    responses((status = 201, body = VersionInfo))
)]
pub(super) async fn restore(
    State(shared): State<Shared>,
    caller: Caller,
    key: Key,
    At(dataset): At<Name>,
    Body { value, hash }: Body<NewRestore>,
) -> Result<Response, Fault> {
    let NewRestore { version, reason } = value;
    let which: Which = version.parse().map_err(|_| {
        Fault::invalid("bad-version", "that is no version").hint("give its 64 hex digits, or its number such as v3")
    })?;
    if reason.as_ref().is_some_and(|reason| reason.chars().count() > REASON_CHARS_MAX) {
        return Err(Fault::invalid("long-reason", format!("a reason has at most {REASON_CHARS_MAX} characters")));
    }
    let (reader, name) = (shared.clone(), dataset.clone());
    let found = async move { find(&reader, &name, which).await };
    Create::new(caller, key, &hash)
        .perform(shared, found, move |world, now, caller, found| {
            let Found { version, was, forgotten } = found;
            if let Some((record, sites)) = forgotten.filter(|_| !world.versions.contains_key(&version)) {
                world.bring_back(version, &record, &sites)?;
            }
            if !world.versions.contains_key(&version) {
                return Err(gone(&dataset, version, "it lost its last name while this was under way; try again"));
            }
            let from = format!("brought back from v{was}");
            let why = reason.as_ref().map_or_else(|| from.clone(), |reason| format!("{from}: {reason}"));
            let number = world.name_version(&dataset, version, Some(why.clone()), caller.by(now))?;
            let info = views::named(world, &dataset, number).expect("it was named just now");
            Ok((info, vec![caller.done(now, format!("{dataset} v{number} {version}"), Some(why))]))
        })
        .await
}

/// A version that a dataset names or named.
async fn find(shared: &Shared, dataset: &Name, which: Which) -> Result<Found, Fault> {
    let name = dataset.clone();
    let named = shared.engine.look(move |world, _| {
        let versions = &world.datasets.get(&name)?.versions;
        let is_meant = |(number, named): &(&u64, &NamedVersion)| match which {
            Which::Number(wanted) => **number == wanted,
            Which::Version(wanted) => named.version == wanted,
        };
        versions.iter().rev().find(is_meant).map(|(number, named)| (*number, named.version))
    });
    if let Some((was, version)) = named.await? {
        return Ok(Found { version, was, forgotten: None });
    }
    let (was, removed) = find_removed(shared, dataset, which).await?;
    let version = removed.named.version;
    let known = shared.engine.look(move |world, _| world.versions.contains_key(&version)).await?;
    if known {
        return Ok(Found { version, was, forgotten: None });
    }
    let Some(record) = removed.record else {
        return Err(gone(dataset, version, "nothing is known of it any more"));
    };
    let sites = held(shared, dataset, version, &record).await?;
    Ok(Found { version, was, forgotten: Some((*record, sites)) })
}

async fn find_removed(shared: &Shared, dataset: &Name, which: Which) -> Result<(u64, Removed), Fault> {
    let mut page = PageQuery { after: None, limit: Some(PAGE_MAX) };
    loop {
        let listed = shared.engine.store().removed(dataset, &page).await?;
        let is_meant = |(number, removed): &(u64, Removed)| match which {
            Which::Number(wanted) => *number == wanted,
            Which::Version(wanted) => removed.named.version == wanted,
        };
        if let Some(found) = listed.items.into_iter().find(is_meant) {
            return Ok(found);
        }
        page.after = Some(listed.next.ok_or_else(|| {
            let dataset = dataset.clone();
            let hint = format!("`tombolo data show {dataset} --removed` lists those that lost their name");
            Fault::from(Refusal::NotNamed { dataset, which }).hint(hint)
        })?);
    }
}

/// Those of the sites that had a version which have it still; they hold it, so that no collection that is under way takes
/// it before it has its name.
async fn held(
    shared: &Shared,
    dataset: &Name,
    version: VersionId,
    record: &VersionRecord,
) -> Result<Vec<SiteId>, Fault> {
    let (mut held, mut faults) = (Vec::new(), Vec::new());
    for site in &record.replicas {
        match sites::whole(shared, site, Call::Hold { version }).await {
            Ok(_) => held.push(site.clone()),
            Err(fault) => faults.push(format!("{site}: {}", fault.0.title)),
        }
    }
    match held.is_empty() {
        false => Ok(held),
        true if faults.is_empty() => Err(gone(dataset, version, "no site had its bytes")),
        true => Err(gone(dataset, version, &faults.join("; "))),
    }
}

fn gone(dataset: &Name, version: VersionId, why: &str) -> Fault {
    Fault::conflict(
        "bytes-gone",
        format!("no site can be found that still has version {} of {dataset}", version.short()),
    )
    .detail(why.to_owned())
    .hint("if a site that had it is away, try again when it is back; else add the data again: tombolo data add")
}
