//! An artifact as an answer: whole, or the range of it that was asked for.

use std::io::{self, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;
use tombolo_core::VersionId;
use tombolo_data::Store;

use super::entry::Entry;

/// Chunks that wait for a slow reader; each is 1 MiB at most.
const CHUNKS_MAX: usize = 4;

/// From the first byte to the one after the last.
type Range = std::ops::Range<u64>;

/// None where there is no such file.
pub async fn send(path: &Path, store: &Arc<Store>, headers: &HeaderMap) -> io::Result<Option<Response>> {
    let at = path.to_owned();
    let Some(entry) = super::aside(move || Entry::read(&at)).await? else { return Ok(None) };
    let bytes = entry.bytes();
    let asked = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let (status, range) = match asked.map_or(Asked::All, |text| asked_range(text, bytes)) {
        Asked::All => (StatusCode::OK, 0..bytes),
        Asked::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Asked::Beyond => {
            let of = [(header::CONTENT_RANGE, format!("bytes */{bytes}"))];
            return Ok(Some((StatusCode::RANGE_NOT_SATISFIABLE, of).into_response()));
        }
    };
    let mut answer = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_LENGTH, range.end - range.start);
    if status == StatusCode::PARTIAL_CONTENT {
        let last = range.end.saturating_sub(1);
        answer = answer.header(header::CONTENT_RANGE, format!("bytes {}-{last}/{bytes}", range.start));
    }
    let body = match entry {
        Entry::Alone { at, .. } => alone(path, at, range).await?,
        Entry::Stored { version, .. } => stored(store.clone(), version, range),
    };
    answer.body(body).map(Some).map_err(io::Error::other)
}

async fn alone(path: &Path, at: u64, range: Range) -> io::Result<Body> {
    let mut file = tokio::fs::File::open(path).await?;
    file.seek(SeekFrom::Start(at + range.start)).await?;
    Ok(Body::from_stream(ReaderStream::new(file.take(range.end - range.start))))
}

/// Chunk by chunk, each verified; one that is damaged ends the answer before its end.
fn stored(store: Arc<Store>, version: VersionId, range: Range) -> Body {
    let (chunks, read) = mpsc::channel::<io::Result<Bytes>>(CHUNKS_MAX);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = read_chunks(&store, version, range, &chunks) {
            tracing::error!(%version, %error, "an artifact can't be read");
            let _ = chunks.blocking_send(Err(error));
        }
    });
    let stream = futures_util::stream::unfold(read, |mut read| async { read.recv().await.map(|chunk| (chunk, read)) });
    Body::from_stream(stream.fuse())
}

fn read_chunks(
    store: &Store,
    version: VersionId,
    range: Range,
    into: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let _hold = store.hold(version).map_err(io::Error::other)?;
    let manifest = store.manifest(version).map_err(io::Error::other)?;
    let mut at = 0;
    for chunk in manifest.chunks() {
        let (begin, end) = (at, at + u64::from(chunk.bytes));
        at = end;
        if end <= range.start {
            continue;
        }
        if begin >= range.end {
            break;
        }
        let bytes = Bytes::from(store.read_chunk(chunk).map_err(io::Error::other)?);
        let (first, last) = (range.start.saturating_sub(begin), (range.end.min(end)) - begin);
        if into.blocking_send(Ok(bytes.slice(first as usize..last as usize))).is_err() {
            // Nobody reads it any more.
            return Ok(());
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq)]
enum Asked {
    All,
    Part(Range),
    /// It begins after the end.
    Beyond,
}

/// What isn't understood is as if it weren't said.
fn asked_range(text: &str, bytes: u64) -> Asked {
    let Some((first, last)) = text.trim().strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Asked::All;
    };
    match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), _) if first >= bytes => Asked::Beyond,
        (Ok(first), Ok(last)) if last >= first => Asked::Part(first..bytes.min(last.saturating_add(1))),
        (Ok(first), Err(_)) if last.trim().is_empty() => Asked::Part(first..bytes),
        (Err(_), Ok(0)) if first.trim().is_empty() => Asked::Beyond,
        (Err(_), Ok(count)) if first.trim().is_empty() => Asked::Part(bytes.saturating_sub(count)..bytes),
        _ => Asked::All,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_http() {
        for (text, expected) in [
            ("bytes=0-3", Asked::Part(0..4)),
            ("bytes=4-", Asked::Part(4..10)),
            ("bytes=-3", Asked::Part(7..10)),
            ("bytes=-30", Asked::Part(0..10)),
            ("bytes=8-99", Asked::Part(8..10)),
            ("bytes=10-", Asked::Beyond),
            ("bytes=-0", Asked::Beyond),
            ("bytes=3-1", Asked::All),
            ("bytes=0-1,4-5", Asked::All),
            ("lines=1-2", Asked::All),
            ("bytes=-", Asked::All),
            ("bytes=0-18446744073709551615", Asked::Part(0..10)),
        ] {
            assert_eq!(asked_range(text, 10), expected, "{text}");
        }
    }
}
