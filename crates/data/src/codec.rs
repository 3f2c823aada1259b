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

/// What a thread decompresses with, and into where only the digest matters: at most a chunk's bytes.
struct Decoder {
    zstd: Decompressor<'static>,
    out: Vec<u8>,
}

thread_local! {
    static DECODER: RefCell<Option<Decoder>> = const { RefCell::new(None) };
}

fn with_decoder<T>(decode: impl FnOnce(&mut Decoder) -> std::io::Result<T>) -> Result<T, String> {
    DECODER.with_borrow_mut(|slot| {
        let decoder = match slot {
            Some(decoder) => decoder,
            None => {
                let zstd = Decompressor::new().map_err(|e| e.to_string())?;
                slot.insert(Decoder { zstd, out: Vec::new() })
            }
        };
        decode(decoder).map_err(|e| format!("it doesn't decompress: {e}"))
    })
}

/// The raw bytes of a stored chunk, verified. No more than `bytes` is ever allocated for them.
pub(crate) fn decode(stored: Vec<u8>, bytes: u32, digest: &Digest) -> Result<Vec<u8>, String> {
    let bytes = raw_length(stored.len(), bytes)?;
    let raw = match stored.len() == bytes {
        true => stored,
        false => with_decoder(|decoder| decoder.zstd.decompress(&stored, bytes))?,
    };
    check(&raw, bytes, digest)?;
    Ok(raw)
}

/// That [`decode`] would succeed, without room for what it gives.
pub(crate) fn verify(stored: &[u8], bytes: u32, digest: &Digest) -> Result<(), String> {
    let bytes = raw_length(stored.len(), bytes)?;
    if stored.len() == bytes {
        return check(stored, bytes, digest);
    }
    with_decoder(|Decoder { zstd, out }| {
        out.clear();
        out.reserve_exact(bytes);
        zstd.decompress_to_buffer(stored, out)?;
        Ok(check(out, bytes, digest))
    })?
}

fn raw_length(stored: usize, bytes: u32) -> Result<usize, String> {
    let bytes = bytes as usize;
    if bytes == 0 || bytes > CHUNK_BYTES_MAX || stored > bytes {
        return Err(format!("{stored} stored bytes can't hold a chunk of {bytes} bytes"));
    }
    Ok(bytes)
}

fn check(raw: &[u8], bytes: usize, digest: &Digest) -> Result<(), String> {
    if raw.len() != bytes {
        return Err(format!("it has {} bytes instead of {bytes}", raw.len()));
    }
    let found = digest_of(raw);
    if found != *digest {
        return Err(format!("its bytes hash to {}", found.short()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_that_is_verified_is_one_that_is_decoded() {
        let mut encoder = Encoder::new().unwrap();
        let text = b"some text, and again ".repeat(900);
        let noise: Vec<u8> = blake3::hash(b"noise").as_bytes().to_vec();
        let both = |stored: &[u8], bytes: u32, digest: &Digest| {
            let verified = verify(stored, bytes, digest);
            assert_eq!(decode(stored.to_vec(), bytes, digest).is_ok(), verified.is_ok(), "{bytes}");
            verified.is_ok()
        };
        for raw in [&text, &noise, &text[..300].to_vec()] {
            let (digest, bytes) = (digest_of(raw), raw.len() as u32);
            let stored = encoder.encode(raw).to_vec();
            assert!(both(&stored, bytes, &digest));
            for wrong in [0, bytes - 1, bytes + 1, CHUNK_BYTES_MAX as u32 + 1] {
                assert!(!both(&stored, wrong, &digest));
            }
            assert!(!both(&stored, bytes, &digest_of(b"another")));
            assert!(!both(&stored[..stored.len() - 1], bytes, &digest));
            let mut flipped = stored.clone();
            flipped[stored.len() / 2] ^= 1;
            assert!(!both(&flipped, bytes, &digest));
        }
        // The room of the one before isn't the next one's length.
        let (long, short) = (encoder.encode(&text).to_vec(), text[..600].to_vec());
        assert!(both(&long, text.len() as u32, &digest_of(&text)));
        let stored = encoder.encode(&short).to_vec();
        assert!(both(&stored, 600, &digest_of(&short)));
    }
}
