//! Chunks of versions that don't exist, for tests of what versions share.

use std::collections::BTreeMap;

use tombolo_core::sketch::{Sampled, Sketch};

/// Lengths by hash.
pub type Chunks = BTreeMap<u64, u32>;

/// Chunk `n` of all that there could be: hashes as even as a digest's (splitmix64's finaliser is a bijection), and
/// lengths from 16 to 112 KiB.
pub fn chunk(n: u64) -> Sampled {
    let mut hash = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    (hash, 16_384 + (hash.rotate_left(32) % 98_304) as u32)
}

pub fn chunks(numbers: impl IntoIterator<Item = u64>) -> Chunks {
    numbers.into_iter().map(chunk).collect()
}

pub fn sketch(chunks: &Chunks) -> Sketch {
    Sketch::new(chunks.iter().map(|(hash, bytes)| (*hash, *bytes)).collect())
}
