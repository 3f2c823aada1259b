//! A version's manifest from one of the sources: what is held already of it is not sent again.

use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use tombolo_core::VersionId;

use super::Dial;
use super::ask::{Stream, unexpected};
use super::fetch::{FetchError, FetchOptions, Source, no_source};
use super::queue::{Fault, SourceState};
use super::reconcile::{Step, Walk};
use super::serve::blocking;
use super::wire::{Answer, HEAD_ITEMS_MAX, REQUEST_DIGESTS_MAX, WHOLE_BYTES_MAX, Wanted};
use crate::error::DataError;
use crate::manifest::pages::{ITEM_BYTES_MAX, PageTree};
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest, version_of};
use crate::store::Store;

/// Manifests that are held and compared with the one that is wanted.
const HELD_MAX: usize = 8;
/// A manifest of another length than this times the wanted one's, or a part of it, is not compared.
const HELD_FACTOR: u64 = 4;
/// Bytes of what is compared, for each byte of the wanted one.
const HELD_BYTES_FACTOR: u64 = 4;

/// The manifest, and the stream that it came by with its source.
pub(super) async fn obtain<'a, D: Dial>(
    store: &Store,
    version: VersionId,
    sources: &'a [Source<D>],
    states: &mut [SourceState],
    options: &FetchOptions,
    wire: &'a AtomicU64,
) -> Result<(Manifest, usize, Stream<'a, D>), FetchError> {
    for (index, (source, state)) in sources.iter().zip(states.iter_mut()).enumerate() {
        let asked = async {
            let mut stream = Stream::open(source, options.stall, wire).await?;
            let manifest = ask(store, version, &mut stream).await?;
            Ok((manifest, index, stream))
        };
        match asked.await {
            Ok(obtained) => return Ok(obtained),
            Err(fault) => state.fault = Some(fault),
        }
    }
    Err(no_source(version, sources, states))
}

async fn ask<D: Dial>(store: &Store, version: VersionId, stream: &mut Stream<'_, D>) -> Result<Manifest, Fault> {
    let lister = store.clone();
    // Without the list all comes from the source, as if nothing were held.
    let held = blocking(move || Ok(held(&lister))).await.unwrap_or_default();
    let comparable = held.iter().any(|held| held.bytes * HELD_FACTOR > WHOLE_BYTES_MAX as u64);
    let walked = if comparable { walk(store, version, stream, held).await? } else { None };
    let encoded = match walked {
        Some(encoded) => encoded,
        None => whole(version, stream).await?,
    };
    let decoded = blocking(move || {
        Ok(if version_of(&encoded) == version {
            Manifest::decode(&encoded).map_err(|error| format!("its manifest is not valid: {error}"))
        } else {
            Err("it lied: its manifest is another version's".to_owned())
        })
    });
    decoded.await.map_err(ours)?.map_err(Fault::Failed)
}

async fn whole<D: Dial>(version: VersionId, stream: &mut Stream<'_, D>) -> Result<Vec<u8>, Fault> {
    stream.ask(version, Wanted::Manifest).await?;
    match stream.answer().await? {
        Answer::Manifest { bytes } => pieces(bytes, stream).await,
        Answer::Absent(why) => Err(Fault::Failed(why)),
        answer => Err(unexpected(answer)),
    }
}

async fn pieces<D: Dial>(bytes: u64, stream: &mut Stream<'_, D>) -> Result<Vec<u8>, Fault> {
    if bytes > MANIFEST_BYTES_MAX as u64 {
        return Err(Fault::Failed(format!("its manifest has {bytes} bytes")));
    }
    let (mut encoded, bytes) = (Vec::new(), bytes as usize);
    while encoded.len() < bytes {
        match stream.answer().await? {
            Answer::Piece(piece) if !piece.is_empty() && encoded.len() + piece.len() <= bytes => {
                encoded.extend_from_slice(&piece);
            }
            answer => return Err(unexpected(answer)),
        }
    }
    Ok(encoded)
}

/// Asks for what differs from the manifests that are held. None where that isn't worth it.
async fn walk<D: Dial>(
    store: &Store,
    version: VersionId,
    stream: &mut Stream<'_, D>,
    held: Vec<Held>,
) -> Result<Option<Vec<u8>>, Fault> {
    stream.ask(version, Wanted::Tree(Vec::new())).await?;
    let (bytes, count) = match stream.answer().await? {
        Answer::Manifest { bytes } => return pieces(bytes, stream).await.map(Some),
        Answer::Head { bytes, items } => (bytes, items as usize),
        Answer::Absent(why) => return Err(Fault::Failed(why)),
        answer => return Err(unexpected(answer)),
    };
    if count > HEAD_ITEMS_MAX {
        return Err(Fault::Failed(format!("its tree's head has {count} items")));
    }
    let head = items(count, stream).await?;
    let reader = store.clone();
    let (mut walk, compared) =
        blocking(move || Ok(Compared::begin(&reader, held, bytes, &head))).await.map_err(ours)?.map_err(lied)?;
    loop {
        match walk.step(REQUEST_DIGESTS_MAX) {
            Step::Whole => return Ok(None),
            Step::Assemble => break,
            Step::Ask(asked) => {
                stream.ask(version, Wanted::Tree(asked.clone())).await?;
                let items = items(asked.len(), stream).await?;
                walk.answered(&asked, items, &compared.trees).map_err(lied)?;
            }
        }
    }
    let reader = store.clone();
    let assembled = blocking(move || walk.assemble(|index| reader.manifest_bytes(compared.versions[index]))).await;
    match assembled {
        Ok(Some(encoded)) => Ok(Some(encoded)),
        Ok(None) => Err(lied("its tree isn't as long as its manifest".to_owned())),
        // One that was held is gone or damaged meanwhile.
        Err(error) => {
            tracing::debug!(%error, "a manifest is asked for whole");
            Ok(None)
        }
    }
}

async fn items<D: Dial>(count: usize, stream: &mut Stream<'_, D>) -> Result<Vec<Vec<u8>>, Fault> {
    let mut items = Vec::with_capacity(count);
    while items.len() < count {
        match stream.answer().await? {
            Answer::Item(item) if item.len() <= ITEM_BYTES_MAX => items.push(item),
            Answer::Absent(why) => return Err(lied(format!("an item of its tree is absent: {why}"))),
            answer => return Err(unexpected(answer)),
        }
    }
    Ok(items)
}

fn lied(why: String) -> Fault {
    Fault::Failed(format!("it lied: {why}"))
}

/// Only where the process is being ended.
fn ours(error: DataError) -> Fault {
    Fault::Failed(error.to_string())
}

/// Manifests that are held and compared, with their trees.
#[derive(Default)]
struct Compared {
    versions: Vec<VersionId>,
    trees: Vec<PageTree>,
}

impl Compared {
    /// Compares a tree's head with manifests that are held, the newest first, until most of it is found.
    fn begin(store: &Store, held: Vec<Held>, bytes: u64, head: &[Vec<u8>]) -> Result<(Walk, Compared), String> {
        let mut walk = Walk::new(bytes, head)?;
        walk.given(head, &[])?;
        let (mut compared, mut room) = (Compared::default(), bytes.saturating_mul(HELD_BYTES_FACTOR));
        for held in held {
            let known = walk.known() as u64;
            if known > bytes / 2 || compared.versions.len() == HELD_MAX {
                break;
            }
            if held.bytes > bytes.saturating_mul(HELD_FACTOR)
                || held.bytes.saturating_mul(HELD_FACTOR) < bytes
                || held.bytes > room
            {
                continue;
            }
            // What is gone or damaged can't be compared.
            let Ok(encoded) = store.manifest_bytes(held.version) else { continue };
            room -= held.bytes;
            compared.versions.push(held.version);
            compared.trees.push(PageTree::build(&encoded));
            walk.given(&[], &compared.trees)?;
        }
        Ok((walk, compared))
    }
}

/// A manifest that is held.
struct Held {
    version: VersionId,
    /// Of its encoding.
    bytes: u64,
}

/// What is held, the newest first. In a bucket only what this process has brought there: its list tells no times.
fn held(store: &Store) -> Vec<Held> {
    if store.bucket().is_some() {
        return store.in_flight().brought().into_iter().map(|(version, bytes)| Held { version, bytes }).collect();
    }
    let Ok(dir) = std::fs::read_dir(store.path(&["manifests"])) else { return Vec::new() };
    let mut held: Vec<(SystemTime, Held)> = dir
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.parse::<VersionId>().ok()?;
            let metadata = entry.metadata().ok()?;
            Some((metadata.modified().ok()?, Held { version, bytes: metadata.len() }))
        })
        .collect();
    held.sort_unstable_by_key(|(changed, held)| (std::cmp::Reverse(*changed), held.version));
    held.into_iter().map(|(_, held)| held).collect()
}
