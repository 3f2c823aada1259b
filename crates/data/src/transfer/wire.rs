//! Frames, requests and answers.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tombolo_core::{Digest, VersionId};

use crate::chunker::CHUNK_BYTES_MAX;

/// Longest grant, in bytes.
pub const GRANT_BYTES_MAX: usize = 64 << 10;
/// Longest reason for a refusal or an absence, in bytes; what is longer is cut.
pub const REASON_BYTES_MAX: usize = 1 << 10;
/// Digests in one request.
pub(super) const REQUEST_DIGESTS_MAX: usize = 4096;
/// A manifest that isn't longer, in bytes, is sent whole to who asks for its tree: a round trip more would take longer.
pub(super) const WHOLE_BYTES_MAX: usize = 128 << 10;
/// Bytes of a tree's head, which is sent before anything of it is asked for, to save round trips.
pub(super) const HEAD_BYTES_MAX: usize = 64 << 10;
/// Items in a head: it has at least a page's digest for each, and the root.
pub(super) const HEAD_ITEMS_MAX: usize = HEAD_BYTES_MAX / 33 + 1;
/// Manifest bytes in one frame.
pub(super) const PIECE_BYTES: usize = 1 << 20;

const REQUEST_BYTES_MAX: usize = 1 + 32 + 4 + GRANT_BYTES_MAX + 4 + 32 * REQUEST_DIGESTS_MAX;
const ANSWER_BYTES_MAX: usize = 1 + if PIECE_BYTES > CHUNK_BYTES_MAX { PIECE_BYTES } else { CHUNK_BYTES_MAX } + 8;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub version: VersionId,
    pub grant: Vec<u8>,
    pub what: Wanted,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Manifest,
    /// As they lie there: who asks verifies them.
    Chunks(Vec<Digest>),
    /// Only what is whole: for who was sent something else.
    Sound(Vec<Digest>),
    /// Of the manifest's tree: these items, or with no digests its head.
    Tree(Vec<Digest>),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Manifest {
        bytes: u64,
    },
    Piece(Vec<u8>),
    Chunk {
        raw: u32,
        stored: Vec<u8>,
    },
    Absent(String),
    Refused(String),
    /// How long the manifest's encoding is, and how many items of its tree follow.
    Head {
        bytes: u64,
        items: u32,
    },
    Item(Vec<u8>),
}

impl Request {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![match self.what {
            Wanted::Manifest => 1,
            Wanted::Chunks(_) => 2,
            Wanted::Tree(_) => 3,
            Wanted::Sound(_) => 4,
        }];
        out.extend_from_slice(&self.version.0.0);
        out.extend_from_slice(&(self.grant.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.grant);
        if let Wanted::Chunks(digests) | Wanted::Sound(digests) | Wanted::Tree(digests) = &self.what {
            out.extend_from_slice(&(digests.len() as u32).to_le_bytes());
            digests.iter().for_each(|digest| out.extend_from_slice(&digest.0));
        }
        out
    }

    pub(super) fn decode(body: &[u8]) -> Option<Request> {
        let (kind, rest) = body.split_first()?;
        let (version, rest) = rest.split_first_chunk::<32>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (grant, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let what = match kind {
            1 if rest.is_empty() => Wanted::Manifest,
            2 => Wanted::Chunks(digests(rest).filter(|digests| !digests.is_empty())?),
            3 => Wanted::Tree(digests(rest)?),
            4 => Wanted::Sound(digests(rest).filter(|digests| !digests.is_empty())?),
            _ => return None,
        };
        (grant.len() <= GRANT_BYTES_MAX).then(|| Request {
            version: VersionId(Digest(*version)),
            grant: grant.to_vec(),
            what,
        })
    }
}

fn digests(counted: &[u8]) -> Option<Vec<Digest>> {
    let (count, digests) = counted.split_first_chunk::<4>()?;
    let count = u32::from_le_bytes(*count) as usize;
    let (digests, trailing) = digests.as_chunks::<32>();
    let fits = digests.len() == count && count <= REQUEST_DIGESTS_MAX && trailing.is_empty();
    fits.then(|| digests.iter().map(|digest| Digest(*digest)).collect())
}

impl Answer {
    /// The frame, with its length.
    pub(super) fn frame(&self, out: &mut Vec<u8>) {
        let (kind, head, tail): (u8, &[u8], &[u8]) = match self {
            Answer::Manifest { bytes } => (1, &bytes.to_le_bytes(), &[]),
            Answer::Piece(piece) => (2, piece, &[]),
            Answer::Chunk { raw, stored } => (3, &raw.to_le_bytes(), stored),
            Answer::Absent(why) => (4, cut(why), &[]),
            Answer::Refused(why) => (5, cut(why), &[]),
            Answer::Head { bytes, items } => (6, &bytes.to_le_bytes(), &items.to_le_bytes()),
            Answer::Item(item) => (7, item, &[]),
        };
        out.extend_from_slice(&((1 + head.len() + tail.len()) as u32).to_le_bytes());
        out.push(kind);
        out.extend_from_slice(head);
        out.extend_from_slice(tail);
    }

    pub(super) fn decode(mut body: Vec<u8>) -> Option<Answer> {
        let kind = *body.first()?;
        match kind {
            1 => Some(Answer::Manifest { bytes: u64::from_le_bytes(body[1..].try_into().ok()?) }),
            2 => Some(Answer::Piece(body.split_off(1))),
            3 => {
                let raw = u32::from_le_bytes(body.get(1..5)?.try_into().ok()?);
                body.drain(..5);
                Some(Answer::Chunk { raw, stored: body })
            }
            4 => Some(Answer::Absent(reason(&body[1..]))),
            5 => Some(Answer::Refused(reason(&body[1..]))),
            6 => {
                let (bytes, items) = body[1..].split_first_chunk()?;
                let items = u32::from_le_bytes(items.try_into().ok()?);
                Some(Answer::Head { bytes: u64::from_le_bytes(*bytes), items })
            }
            7 => Some(Answer::Item(body.split_off(1))),
            _ => None,
        }
    }
}

fn cut(why: &str) -> &[u8] {
    &why.as_bytes()[..why.len().min(REASON_BYTES_MAX)]
}

/// A peer's reason as it may be shown: no control characters, bounded.
fn reason(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(REASON_BYTES_MAX)]);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

pub(super) async fn write_request(send: &mut (impl AsyncWrite + Unpin), request: &Request) -> io::Result<u64> {
    let body = request.encode();
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
    frame.extend_from_slice(&body);
    send.write_all(&frame).await?;
    send.flush().await?;
    Ok(frame.len() as u64)
}

/// The next request, or None where the peer has ended the stream between two.
pub(super) async fn read_request(recv: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Request>> {
    let Some(body) = read_frame(recv, REQUEST_BYTES_MAX).await? else { return Ok(None) };
    Request::decode(&body).map(Some).ok_or_else(|| invalid("a request that makes no sense"))
}

/// The next answer and the bytes that it took.
pub(super) async fn read_answer(recv: &mut (impl AsyncRead + Unpin)) -> io::Result<(Answer, u64)> {
    let body = read_frame(recv, ANSWER_BYTES_MAX).await?;
    let body = body.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the stream ended before an answer"))?;
    let bytes = 4 + body.len() as u64;
    Ok((Answer::decode(body).ok_or_else(|| invalid("an answer that makes no sense"))?, bytes))
}

async fn read_frame(recv: &mut (impl AsyncRead + Unpin), bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match recv.read(&mut length).await? {
        0 => return Ok(None),
        read => recv.read_exact(&mut length[read..]).await?,
    };
    let length = u32::from_le_bytes(length) as usize;
    if length == 0 || length > bytes_max {
        return Err(invalid(&format!("a frame of {length} bytes; at most {bytes_max} are allowed")));
    }
    // Room grows with what arrives, not with what is claimed.
    let mut body = Vec::with_capacity(length.min(CHUNK_BYTES_MAX));
    recv.take(length as u64).read_to_end(&mut body).await?;
    if body.len() < length {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stream ended in the middle of a frame"));
    }
    Ok(Some(body))
}

pub(super) fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the peer sent {what}"))
}
