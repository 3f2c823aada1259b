//! Where files are cut: FastCDC (Xia et al., 2020), so that a change moves only the cuts next to it.
//!
//! Chunks are of 16 KiB on average (4 at least), in files of over 256 MiB of 64 KiB (16 at least), and never of over 256 KiB.
//! Smaller chunks find more that is equal around a change, and
//! cost more: 36 bytes each in every manifest, as much in the index on disk. Measured on 300 MB of tables, half CSV and half
//! Parquet in files of 64 MB, of which one row in a hundred changes (the input of `cargo xtask bench data-add`):
//!
//! | aimed at | stored for the change | of CSV alone | of Parquet alone | the whole at first |
//! |---:|---:|---:|---:|---:|
//! | 64 KiB | 3.55 % | 1.01 % | 6.02 % | 195.0 MB |
//! | 32 KiB | 2.89 % | 0.69 % | 5.03 % | 195.8 MB |
//! | 16 KiB | 2.53 % | 0.63 % | 4.38 % | 197.4 MB |
//! | 8 KiB | 2.31 % | 0.74 % | 3.84 % | 199.9 MB |
//!
//! Below 16 KiB the manifests eat what is won; large files have larger chunks as a manifest is held whole in memory. A file
//! whose length crosses the bound is stored anew once.

use std::io::Read;
use std::ops::Range;

use fastcdc::v2020::FastCDC;

/// No chunk is longer, on disk or on the wire.
pub const CHUNK_BYTES_MAX: usize = 256 << 10;
/// Files that are larger have larger chunks.
const FINE_FILE_BYTES_MAX: u64 = 256 << 20;
const FINE: Sizes = Sizes { min: 4 << 10, average: 16 << 10 };
const COARSE: Sizes = Sizes { min: 16 << 10, average: 64 << 10 };

struct Sizes {
    min: usize,
    average: usize,
}

/// Cuts what is in `bytes` of a file of `file_bytes`; `last` says that nothing follows. Without it the end may stay
/// uncut, since where its cut belongs depends on what follows. The ranges follow each other from 0.
pub(crate) fn cut(bytes: &[u8], file_bytes: u64, last: bool) -> Vec<Range<usize>> {
    let sizes = if file_bytes > FINE_FILE_BYTES_MAX { COARSE } else { FINE };
    let cdc = FastCDC::new(bytes, sizes.min, sizes.average, CHUNK_BYTES_MAX);
    let mut ranges = Vec::with_capacity(bytes.len() / sizes.average + 1);
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
