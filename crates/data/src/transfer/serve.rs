//! The sending side.

use std::io;
use std::sync::{Arc, Weak};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::OnceCell;
use tombolo_core::{Digest, VersionId};

use super::wire::{Answer, HEAD_BYTES_MAX, PIECE_BYTES, WHOLE_BYTES_MAX, Wanted, read_request};
use super::{Amount, Gate};
use crate::error::DataError;
use crate::manifest::members::Members;
use crate::manifest::pages::PageTree;
use crate::manifest::{BadManifest, bytes_of};
use crate::session::lock;
use crate::store::{Hold, Store};

/// Stored bytes that are read before they are sent; a chunk more, at most.
const AHEAD_BYTES: usize = 1 << 20;

/// What one stream has brought its peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    pub requests: u64,
    pub chunks: u64,
    /// Bytes of all frames.
    pub bytes_wire: u64,
}

/// A version that is being sent, once for all streams that it goes to: gc leaves it alone meanwhile.
///
/// Its memory is that of the encoding, 8 bytes for each chunk, and a twenty-fifth of the encoding once a peer asks for
/// the tree.
pub(crate) struct Serving {
    manifest: Vec<u8>,
    amount: Amount,
    members: Members,
    /// Made when it is first asked for.
    tree: OnceCell<PageTree>,
    _hold: Hold,
}

impl Serving {
    async fn tree(self: &Arc<Self>) -> Result<&PageTree, DataError> {
        let build = || async {
            let serving = self.clone();
            blocking(move || Ok(PageTree::build(&serving.manifest))).await
        };
        self.tree.get_or_try_init(build).await
    }
}

/// Answers a stream's requests until the peer ends it or is refused. An error is the stream's, or a peer's that
/// doesn't speak the protocol; what is wrong with the store is told to the peer.
pub async fn serve_stream<S, R>(store: &Store, mut send: S, mut recv: R, gate: &dyn Gate) -> io::Result<Served>
where
    S: AsyncWrite + Unpin,
    R: AsyncRead + Unpin,
{
    let mut served = Served::default();
    // Kept from one request to the next, so that the version is looked up once a stream.
    let mut current: Option<(VersionId, Arc<Serving>)> = None;
    while let Some(request) = read_request(&mut recv).await? {
        served.requests += 1;
        if let Err(why) = gate.check(&request.grant, request.version) {
            answer(&mut send, &Answer::Refused(why), &mut served).await?;
            break;
        }
        if current.as_ref().is_none_or(|(version, _)| *version != request.version) {
            match lookup(store, request.version).await {
                Ok(serving) => current = Some((request.version, serving)),
                Err(error) => {
                    let absences = match &request.what {
                        Wanted::Chunks(digests) | Wanted::Sound(digests) => digests.len(),
                        Wanted::Manifest | Wanted::Tree(_) => 1,
                    };
                    for _ in 0..absences {
                        answer(&mut send, &Answer::Absent(told(&error)), &mut served).await?;
                    }
                    continue;
                }
            }
        }
        let Some((version, serving)) = &current else { continue };
        let leave = Leave { gate, grant: &request.grant, amount: serving.amount };
        if let Err(why) = leave.spend(0) {
            answer(&mut send, &Answer::Refused(why), &mut served).await?;
            break;
        }
        let sound = matches!(request.what, Wanted::Sound(_));
        let sent = match request.what {
            Wanted::Manifest => send_manifest(&mut send, serving, leave, &mut served).await,
            Wanted::Chunks(digests) | Wanted::Sound(digests) => {
                let foreign = |digest: &&Digest| !serving.members.contains(&serving.manifest, digest);
                if let Some(foreign) = digests.iter().find(foreign) {
                    let why = format!("chunk {} is not in version {}", foreign.short(), version.short());
                    answer(&mut send, &Answer::Refused(why), &mut served).await?;
                    break;
                }
                send_chunks(store, &mut send, digests, sound, leave, &mut served).await
            }
            Wanted::Tree(digests) if digests.is_empty() && serving.manifest.len() <= WHOLE_BYTES_MAX => {
                send_manifest(&mut send, serving, leave, &mut served).await
            }
            Wanted::Tree(digests) => send_items(&mut send, serving, &digests, leave, &mut served).await,
        };
        match sent {
            Ok(()) => {}
            Err(Stop::Refused(why)) => {
                answer(&mut send, &Answer::Refused(why), &mut served).await?;
                break;
            }
            Err(Stop::Io(error)) => return Err(error),
        }
    }
    send.shutdown().await?;
    Ok(served)
}

/// The leave that a request came with.
#[derive(Clone, Copy)]
struct Leave<'a> {
    gate: &'a dyn Gate,
    grant: &'a [u8],
    amount: Amount,
}

impl Leave<'_> {
    fn spend(&self, more: u64) -> Result<(), String> {
        self.gate.spend(self.grant, self.amount, more)
    }
}

/// Why no more is sent.
enum Stop {
    /// No more may be.
    Refused(String),
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Io(error)
    }
}

async fn lookup(store: &Store, version: VersionId) -> Result<Arc<Serving>, DataError> {
    let known = lock(&store.in_flight().served).get(&version).and_then(Weak::upgrade);
    if let Some(serving) = known {
        return Ok(serving);
    }
    let store = store.clone();
    blocking(move || {
        let hold = store.hold(version)?;
        let manifest = store.manifest_bytes(version)?;
        let corrupt = |why: BadManifest| DataError::CorruptManifest { version, reason: why.to_string() };
        let members = Members::of(&manifest).map_err(corrupt)?;
        let amount = Amount { bytes: bytes_of(&manifest).map_err(corrupt)?, manifest_bytes: manifest.len() as u64 };
        let serving = Arc::new(Serving { manifest, amount, members, tree: OnceCell::new(), _hold: hold });
        let mut served = lock(&store.in_flight().served);
        served.retain(|_, serving| serving.strong_count() > 0);
        served.insert(version, Arc::downgrade(&serving));
        drop(served);
        Ok(serving)
    })
    .await
}

async fn send_manifest(
    send: &mut (impl AsyncWrite + Unpin),
    serving: &Serving,
    leave: Leave<'_>,
    served: &mut Served,
) -> Result<(), Stop> {
    leave.spend(serving.manifest.len() as u64).map_err(Stop::Refused)?;
    answer(send, &Answer::Manifest { bytes: serving.manifest.len() as u64 }, served).await?;
    for piece in serving.manifest.chunks(PIECE_BYTES) {
        answer(send, &Answer::Piece(piece.to_vec()), served).await?;
    }
    Ok(())
}

/// Sends items of the manifest's tree, or its head.
async fn send_items(
    send: &mut (impl AsyncWrite + Unpin),
    serving: &Arc<Serving>,
    digests: &[Digest],
    leave: Leave<'_>,
    served: &mut Served,
) -> Result<(), Stop> {
    let tree = serving.tree().await.map_err(io::Error::other)?;
    let mut frames = Vec::new();
    let mut items = Vec::with_capacity(digests.len());
    if digests.is_empty() {
        items.extend(tree.head(HEAD_BYTES_MAX).into_iter().map(Some));
        Answer::Head { bytes: serving.manifest.len() as u64, items: items.len() as u32 }.frame(&mut frames);
    } else {
        items.extend(digests.iter().map(|digest| tree.find(digest)));
    }
    for item in items {
        match item {
            Some(place) => Answer::Item(tree.item(place, &serving.manifest)).frame(&mut frames),
            None => Answer::Absent("it isn't of this version's manifest".to_owned()).frame(&mut frames),
        }
        if frames.len() >= AHEAD_BYTES {
            leave.spend(frames.len() as u64).map_err(Stop::Refused)?;
            served.bytes_wire += frames.len() as u64;
            send.write_all(&frames).await?;
            frames.clear();
        }
    }
    leave.spend(frames.len() as u64).map_err(Stop::Refused)?;
    served.bytes_wire += frames.len() as u64;
    send.write_all(&frames).await?;
    Ok(send.flush().await?)
}

/// Sends the chunks, as many at a time as are read at once. What isn't `sound` for certain
/// isn't verified here: the peer does that, and asks again for what is damaged, which then is found and set aside.
async fn send_chunks(
    store: &Store,
    send: &mut (impl AsyncWrite + Unpin),
    mut digests: Vec<Digest>,
    sound: bool,
    leave: Leave<'_>,
    served: &mut Served,
) -> Result<(), Stop> {
    while !digests.is_empty() {
        let before = digests.len();
        let (frames, rest) = read_some(store, digests, sound).await?;
        leave.spend(frames.len() as u64).map_err(Stop::Refused)?;
        served.chunks += (before - rest.len()) as u64;
        served.bytes_wire += frames.len() as u64;
        send.write_all(&frames).await?;
        send.flush().await?;
        digests = rest;
    }
    Ok(())
}

/// The frames of the first of the chunks, and the others.
async fn read_some(store: &Store, mut digests: Vec<Digest>, sound: bool) -> io::Result<(Vec<u8>, Vec<Digest>)> {
    let store = store.clone();
    let read = tokio::task::spawn_blocking(move || {
        let (mut frames, mut done) = (Vec::new(), 0);
        for digest in &digests {
            if frames.len() >= AHEAD_BYTES {
                break;
            }
            done += 1;
            let answer = match store.read_stored(digest, sound) {
                Ok((stored, raw)) => Answer::Chunk { raw, stored },
                Err(error) => {
                    tracing::warn!(%error, "a chunk that a peer wants can't be read");
                    set_aside(&store, &error);
                    Answer::Absent(told(&error))
                }
            };
            answer.frame(&mut frames);
        }
        (frames, digests.split_off(done))
    });
    read.await.map_err(io::Error::other)
}

/// What is damaged stays no longer than until it is found: while it is there it is offered to every peer, and who adds
/// the same data again is told that it is here already.
fn set_aside(store: &Store, error: &DataError) {
    let (DataError::CorruptChunk { pack, .. } | DataError::CorruptPack { pack, .. }) = error else { return };
    if let Err(error) = store.check_pack(pack) {
        tracing::warn!(%error, pack, "what is damaged can't be set aside");
    }
}

async fn answer(send: &mut (impl AsyncWrite + Unpin), answer: &Answer, served: &mut Served) -> io::Result<()> {
    let mut frame = Vec::new();
    answer.frame(&mut frame);
    served.bytes_wire += frame.len() as u64;
    send.write_all(&frame).await?;
    send.flush().await
}

/// What a peer is told of an error: no paths of this site.
fn told(error: &DataError) -> String {
    match error {
        DataError::NoVersion { .. }
        | DataError::NoChunk { .. }
        | DataError::CorruptChunk { .. }
        | DataError::CorruptPack { .. }
        | DataError::CorruptManifest { .. } => error.to_string(),
        _ => "the sender can't read its store".to_owned(),
    }
}

/// Runs what blocks where it may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DataError> + Send + 'static,
) -> Result<T, DataError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(join) => match join.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is being shut down.
            Err(_) => Err(DataError::Cancelled),
        },
    }
}
