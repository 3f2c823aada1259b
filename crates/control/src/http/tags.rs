//! Tags: words on versions of a dataset.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use tombolo_api::wire::{NewTag, TagInfo};
use tombolo_core::{Name, Tag};

use super::Shared;
use super::access::Caller;
use super::extract::{At, Json as Body};
use super::fault::Fault;

/// Puts a tag on a version. One that is on another version already stays there unless the body says that it may move. It
/// may be sent again.
#[utoipa::path(
    put, path = "/v1/datasets/{name}/tags/{tag}", tag = "data",
    params(("name" = String, Path), ("tag" = String, Path)), request_body = NewTag,
    responses((status = 200, body = TagInfo))
)]
pub(super) async fn put(
    State(shared): State<Shared>,
    caller: Caller,
    At((dataset, tag)): At<(Name, String)>,
    Body { value, .. }: Body<NewTag>,
) -> Result<Json<TagInfo>, Fault> {
    let tag = parse(&tag)?;
    let NewTag { version, may_move } = value;
    let tagged = shared.engine.change(move |world, now| {
        let before = world.datasets.get(&dataset).and_then(|known| known.tags.get(&tag)).map(|there| there.version);
        world.tag(&dataset, &tag, version, may_move, caller.by(now))?;
        let (known, on) = (&world.datasets[&dataset], format!("{dataset}@{tag} {version}"));
        let tagged = &known.tags[&tag];
        let info = TagInfo {
            dataset: dataset.to_string(),
            tag: tag.to_string(),
            version: version.to_string(),
            number: known.numbers(version).last().unwrap_or_default(),
            by: tagged.by.clone(),
            at: tagged.at.0,
        };
        let from = before.filter(|before| *before != version).map(|before| format!("before, it was on {before}"));
        Ok::<_, Fault>((info, vec![caller.done(now, on, from)]))
    });
    Ok(Json(tagged.await??))
}

/// Takes a tag away. The version keeps its name.
#[utoipa::path(
    delete, path = "/v1/datasets/{name}/tags/{tag}", tag = "data",
    params(("name" = String, Path), ("tag" = String, Path)), responses((status = 204))
)]
pub(super) async fn remove(
    State(shared): State<Shared>,
    caller: Caller,
    At((dataset, tag)): At<(Name, String)>,
) -> Result<StatusCode, Fault> {
    let tag = parse(&tag)?;
    let removed = shared.engine.change(move |world, now| {
        let version = world.untag(&dataset, &tag)?;
        Ok::<_, Fault>(((), vec![caller.done(now, format!("{dataset}@{tag} {version}"), None)]))
    });
    removed.await??;
    Ok(StatusCode::NO_CONTENT)
}

fn parse(text: &str) -> Result<Tag, Fault> {
    Tag::new(text).map_err(|bad| {
        Fault::invalid("bad-tag", bad.to_string()).hint(
            "a word such as `prod` or `before-cleaning`: it has to mean nothing else where a version is asked for",
        )
    })
}
