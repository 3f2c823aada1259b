//! Retention by hand: what rules keep of a dataset, and the names of the rest taken away.

use axum::extract::State;
use axum::response::Response;
use tombolo_api::wire::{NewPrune, Pruned, PrunedVersion};
use tombolo_core::Name;
use tombolo_core::world::{NamedVersion, Retained, World};

use super::Shared;
use super::access::Caller;
use super::extract::{At, Json as Body};
use super::fault::Fault;
use super::once::{Create, Key};

/// Takes the names away of the versions that no rule keeps: the rules of the projects that use the dataset, or others. The
/// newest stays, and what has a tag or is in use by a run that is not over. At most 1000 go at once, the oldest first.
#[utoipa::path(
    post, path = "/v1/datasets/{name}/prune", tag = "data", request_body = NewPrune,
    params(("name" = String, Path), ("Idempotency-Key" = String, Header)),
    responses((status = 201, body = Pruned))
)]
pub(super) async fn prune(
    State(shared): State<Shared>,
    caller: Caller,
    key: Key,
    At(dataset): At<Name>,
    Body { value, hash }: Body<NewPrune>,
) -> Result<Response, Fault> {
    Create::new(caller, key, &hash)
        .perform(shared, std::future::ready(Ok(())), move |world, now, caller, ()| {
            let NewPrune { keep, dry_run } = value;
            let retained = world.retained(&dataset, keep.as_ref(), now)?;
            let said = world.datasets[&dataset].rules_in_words();
            let rules = keep.as_ref().map_or(said, ToString::to_string);
            let rules = Some(rules).filter(|rules| !rules.is_empty());
            let versions = shown(world, &dataset, &retained);
            let mut writes = Vec::new();
            if !dry_run {
                world.prune(&dataset, keep.as_ref(), caller.by(now))?;
                let gone: Vec<String> = retained.goes.iter().map(|number| format!("v{number}")).collect();
                let detail = format!("{} lost their names by {}", gone.len(), rules.as_deref().unwrap_or("no rule"));
                let detail = if gone.is_empty() { detail } else { format!("{detail}: {}", gone.join(", ")) };
                writes.push(caller.done(now, &dataset, Some(detail)));
            }
            Ok((Pruned { rules, versions, done: !dry_run }, writes))
        })
        .await
}

fn shown(world: &World, dataset: &Name, retained: &Retained) -> Vec<PrunedVersion> {
    let one = |(number, named): (&u64, &NamedVersion)| PrunedVersion {
        number: *number,
        version: named.version,
        bytes: world.versions.get(&named.version).map_or(0, |record| record.bytes),
        at: named.at.0,
        goes: retained.goes.contains(number),
        because: retained.kept.get(number).into_iter().flatten().map(ToString::to_string).collect(),
    };
    world.datasets[dataset].versions.iter().rev().map(one).collect()
}
