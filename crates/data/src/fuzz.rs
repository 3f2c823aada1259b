//! What decoders must keep to, whatever bytes they are given: each function takes any bytes, and panics where one of them
//! is accepted that shouldn't be. `fuzz/` drives them with bytes that libFuzzer makes up, and has a directory of seeds
//! for each, among them whatever has ever been a crash; the tests here run those.
//!
//! Not part of the program: it is built for tests and by `cargo xtask fuzz` only.

use std::ops::RangeInclusive;

pub use crate::index::fuzz::{lists, segment};
pub use crate::manifest::fuzz::{manifest, pages};
pub use crate::pack::fuzz::{pack, record};
pub use crate::transfer::fuzz::{answer, fetch, request, serve, walk};

/// A target: any bytes go in, and a panic is a fault.
pub type Target = fn(&[u8]);

/// All targets of this crate by their names, which are those of the programs in `fuzz/fuzz_targets`.
pub const TARGETS: &[(&str, Target)] = &[
    ("data-manifest", manifest),
    ("data-pages", pages),
    ("data-pack", pack),
    ("data-record", record),
    ("data-index", segment),
    ("data-lists", lists),
    ("data-request", request),
    ("data-answer", answer),
    ("data-walk", walk),
    ("data-serve", serve),
    ("data-fetch", fetch),
];

/// Takes numbers and lengths off the front of made-up bytes; what isn't there is zero.
pub(crate) struct Draw<'a>(pub &'a [u8]);

impl<'a> Draw<'a> {
    pub(crate) fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    pub(crate) fn within(&mut self, range: RangeInclusive<usize>) -> usize {
        let drawn = usize::from(u16::from_le_bytes([self.byte(), self.byte()]));
        range.start() + drawn % (range.end() - range.start() + 1)
    }

    pub(crate) fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    include!("../../../fuzz/seeds.rs");

    #[test]
    fn every_target_has_seeds_and_keeps_to_its_word_on_them() {
        check_targets(TARGETS, &[]);
    }
}
