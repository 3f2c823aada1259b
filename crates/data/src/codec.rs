//! One chunk's bytes as they are stored and sent: raw, or compressed with zstd where that pays.
//!
//! A stored form as long as the raw one is the raw one; a shorter one is a zstd frame.

use std::cell::RefCell;

use tombolo_core::Digest;
use zstd::bulk::{Compressor, Decompressor};

use crate::chunker::CHUNK_BYTES_MAX;

/// Level 1: on tables and code it comes within a tenth of level 3's size at about twice its speed.
const LEVEL: i32 = 1;
/// Chunks longer than this are tried on a sample first.
const SAMPLE_FROM_BYTES: usize = 8 << 10;
const SAMPLE_BYTES: usize = 2 << 10;

pub(crate) fn digest_of(raw: &[u8]) -> Digest {
    Digest(*blake3::hash(raw).as_bytes())
}

pub(crate) struct Encoder {
    zstd: Compressor<'static>,
    out: Vec<u8>,
    sample: Vec<u8>,
}

impl Encoder {
    pub(crate) fn new() -> std::io::Result<Encoder> {
        let room = zstd::zstd_safe::compress_bound(CHUNK_BYTES_MAX);
        let sample_room = zstd::zstd_safe::compress_bound(SAMPLE_BYTES);
        let zstd = Compressor::new(LEVEL)?;
        Ok(Encoder { zstd, out: Vec::with_capacity(room), sample: Vec::with_capacity(sample_room) })
    }

    /// The stored form of a chunk.
    pub(crate) fn encode<'a>(&'a mut self, raw: &'a [u8]) -> &'a [u8] {
        if raw.len() > SAMPLE_FROM_BYTES {
            let middle = &raw[raw.len() / 2..][..SAMPLE_BYTES];
            self.sample.clear();
            let sampled = self.zstd.compress_to_buffer(middle, &mut self.sample).unwrap_or(SAMPLE_BYTES);
            if sampled > SAMPLE_BYTES / 16 * 15 {
                return raw;
            }
        }
        self.out.clear();
        match self.zstd.compress_to_buffer(raw, &mut self.out) {
            // Less than a sixteenth saved isn't worth the decompression at every read.
            Ok(stored) if stored <= raw.len() / 16 * 15 => &self.out[..stored],
            _ => raw,
        }
    }
}

thread_local! {
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The raw bytes of a stored chunk, verified. No more than `bytes` is ever allocated for them.
pub(crate) fn decode(stored: Vec<u8>, bytes: u32, digest: &Digest) -> Result<Vec<u8>, String> {
    let bytes = bytes as usize;
    if bytes == 0 || bytes > CHUNK_BYTES_MAX || stored.len() > bytes {
        return Err(format!("{} stored bytes can't hold a chunk of {bytes} bytes", stored.len()));
    }
    let raw = if stored.len() == bytes {
        stored
    } else {
        DECOMPRESSOR.with_borrow_mut(|slot| {
            let zstd = match slot {
                Some(zstd) => zstd,
                None => slot.insert(Decompressor::new().map_err(|e| e.to_string())?),
            };
            zstd.decompress(&stored, bytes).map_err(|e| format!("it doesn't decompress: {e}"))
        })?
    };
    if raw.len() != bytes {
        return Err(format!("it has {} bytes instead of {bytes}", raw.len()));
    }
    let found = digest_of(&raw);
    if found != *digest {
        return Err(format!("its bytes hash to {}", found.short()));
    }
    Ok(raw)
}
