//! Why a version may be at a site or not, and its release from its rules by hand.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use tombolo_api::project::nearest;
use tombolo_api::wire::{NewRelease, VersionInfo, Why, WhyLifted, WhyRule, WhyStep};
use tombolo_core::spec::REASON_CHARS_MAX;
use tombolo_core::world::{self, LOOKED_AT_MAX, Provenance, read_by};
use tombolo_core::{SiteId, VersionId};

use super::access::Caller;
use super::extract::{At, Json as Body};
use super::fault::Fault;
use super::once::{Create, Key};
use super::{Shared, views};

/// Whether a version may be at a site: every rule with the chain of derivation by which it came, and every release on
/// the way.
#[utoipa::path(
    get, path = "/v1/versions/{version}/why/{site}", tag = "data",
    params(("version" = String, Path), ("site" = String, Path)), responses((status = 200, body = Why))
)]
pub(super) async fn why(
    State(shared): State<Shared>,
    At((id, site)): At<(VersionId, SiteId)>,
) -> Result<Json<Why>, Fault> {
    let place = site.clone();
    let looked = shared.engine.look(move |world, _| match world.sites.get(&place) {
        Some(record) => Ok(record.clone()),
        None => Err(no_site(&place, world.sites.keys())),
    });
    let place = looked.await??;
    let (known, partial) = provenance(&shared, id).await?;
    let Some(record) = known.versions.get(&id) else {
        return Err(Fault::not_found(format!("there is no version {id}")));
    };
    let found = world::why(&known, id, &site, &place.info.labels);
    let rules: Vec<_> = found.rules.into_iter().map(rule).collect();
    Ok(Json(Why {
        version: id,
        site: site.to_string(),
        allowed: !place.revoked && rules.iter().all(|rule| rule.allows),
        revoked: place.revoked,
        draining: place.draining,
        replicas: record.replicas.iter().map(SiteId::to_string).collect(),
        partial: partial || rules.iter().any(|rule| !rule.whole),
        rules,
        lifted: found.lifted.into_iter().map(lifted).collect(),
    }))
}

fn no_site<'a>(site: &SiteId, known: impl Iterator<Item = &'a SiteId>) -> Fault {
    let fault = Fault::not_found(format!("there is no site {site}"));
    match nearest(site.as_str(), known.map(SiteId::as_str)) {
        Some(near) => fault.hint(format!("did you mean {near}?")),
        None => fault.hint("`tombolo site ls` lists those that there are"),
    }
}

fn rule(rule: world::Rule) -> WhyRule {
    let step = |step: world::Derived| WhyStep {
        version: step.version.to_string(),
        name: step.name.map(|name| name.to_string()),
        made_by: step.made_by.map(|id| id.to_string()),
    };
    let chain = rule.chain.into_iter().map(step).collect();
    WhyRule { keep_at: rule.keep_at.to_string(), allows: rule.allows, chain, whole: rule.whole }
}

fn lifted(lifted: world::Lifted) -> WhyLifted {
    let (workload, output) = (lifted.workload.to_string(), lifted.output.to_string());
    WhyLifted { workload, output, by: lifted.by, rules: lifted.rules.to_string() }
}

/// A version, what it derives from, and the runs between; whether there is more than may be looked at.
async fn provenance(shared: &Shared, id: VersionId) -> Result<(Provenance, bool), Fault> {
    let (mut known, mut due, mut seen) = (Provenance::default(), vec![id], BTreeSet::from([id]));
    let mut partial = false;
    while let Some(id) = due.pop() {
        // The world has what is live as it is now; the store has all.
        let Some(record) = shared.engine.store().version(&id).await? else {
            partial = true;
            continue;
        };
        let made_by = record.made_by.clone();
        known.versions.insert(id, record);
        let Some(made_by) = made_by else { continue };
        if !known.runs.contains_key(&made_by.run) {
            let Some(run) = shared.engine.store().run(&made_by.run).await? else {
                partial = true;
                continue;
            };
            known.runs.insert(made_by.run.clone(), run);
        }
        let (run, workloads) = &known.runs[&made_by.run];
        let maker = workloads.iter().find(|record| record.id == made_by);
        for (_, read) in maker.into_iter().flat_map(|maker| read_by(maker, run, workloads)) {
            if seen.len() < LOOKED_AT_MAX {
                due.extend(seen.insert(read).then_some(read));
            } else if !seen.contains(&read) {
                partial = true;
            }
        }
    }
    Ok((known, partial))
}

/// Lets a version go from every rule that it is under. What was derived from it before stays under them; what its stage
/// makes anew comes under them again.
#[utoipa::path(
    post, path = "/v1/versions/{version}/release", tag = "data", request_body = NewRelease,
    params(("version" = String, Path), ("Idempotency-Key" = String, Header)),
    responses((status = 201, body = VersionInfo))
)]
pub(super) async fn release(
    State(shared): State<Shared>,
    caller: Caller,
    key: Key,
    At(id): At<VersionId>,
    Body { value, hash }: Body<NewRelease>,
) -> Result<Response, Fault> {
    let reason = value.reason.trim().to_owned();
    if reason.is_empty() || reason.chars().count() > REASON_CHARS_MAX {
        let title = format!("a release needs a reason of 1 to {REASON_CHARS_MAX} characters");
        return Err(Fault::invalid("no-reason", title).hint("say why it may leave; the audit log keeps it"));
    }
    Create::new(caller, key, &hash)
        .perform(shared, std::future::ready(Ok(())), move |world, now, caller, ()| {
            let rules = world.release_version(&id)?;
            let detail = format!("it might only be at {rules}; reason: {reason}");
            let audit = caller.done(now, id, Some(detail));
            Ok((views::version(id, &world.versions[&id], None), vec![audit]))
        })
        .await
}
