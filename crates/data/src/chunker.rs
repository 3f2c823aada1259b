//! Where files are cut: FastCDC (Xia et al., 2020), so that a change moves only the cuts next to it.
//!
//! Sizes are 16, 64 and 256 KiB (least, aimed at, most). Smaller chunks find more that is equal around a
//! change but cost 36 bytes each in every manifest and 50 in every open store's memory: at 64 KiB a store of
//! 20 GB needs about 15 MB for its index, and one changed row costs one chunk of about 64 KiB.

use std::io::Read;
use std::ops::Range;

use fastcdc::v2020::FastCDC;

pub const CHUNK_BYTES_MIN: usize = 16 << 10;
pub const CHUNK_BYTES_AVERAGE: usize = 64 << 10;
/// No chunk is longer, on disk or on the wire.
pub const CHUNK_BYTES_MAX: usize = 256 << 10;

/// Cuts what is in `bytes`; `last` says that nothing follows. Without it the end may stay uncut, since where its
/// cut belongs depends on what follows. The ranges follow each other from 0.
pub(crate) fn cut(bytes: &[u8], last: bool) -> Vec<Range<usize>> {
    let cdc = FastCDC::new(bytes, CHUNK_BYTES_MIN, CHUNK_BYTES_AVERAGE, CHUNK_BYTES_MAX);
    let mut ranges = Vec::with_capacity(bytes.len() / CHUNK_BYTES_AVERAGE + 1);
    let mut start = 0;
    while start < bytes.len() && (last || bytes.len() - start >= CHUNK_BYTES_MAX) {
        let (_, end) = cdc.cut(start, bytes.len() - start);
        ranges.push(start..end);
        start = end;
    }
    ranges
}

/// Reads up to `room` more bytes to the end of `buffer`; true when the source has ended.
pub(crate) fn fill(source: &mut impl Read, buffer: &mut Vec<u8>, room: usize) -> std::io::Result<bool> {
    let read = source.by_ref().take(room as u64).read_to_end(buffer)?;
    Ok(read < room)
}
