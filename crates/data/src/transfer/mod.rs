//! Versions from one store to another, over any streams that keep bytes in order.
//!
//! # Protocol
//! The fetching side opens bidirectional streams and asks; the other side answers. A stream carries any number of
//! requests, one after the other, and ends when the asking side ends it. Both send frames: a length (u32, little-
//! endian as all numbers) and so many bytes, the first of which is the kind.
//! ```text
//! request   1 manifest  version 32 bytes, length u32, grant
//!           2 chunks    version 32 bytes, length u32, grant, count u32 (1..=4096), digests 32 bytes each
//!           3 tree      version 32 bytes, length u32, grant, count u32 (0..=4096), digests of items 32 bytes each
//! answer    1 manifest  length u64 of the encoding, which follows in frames of kind 2
//!           2 piece     up to 1 MiB of it
//!           3 chunk     raw length u32, stored form; in the order of the request
//!           4 absent    why, UTF-8: in place of a chunk, an item or the manifest that the sender hasn't got whole
//!           5 refused   why, UTF-8; the sender then ends the stream
//!           6 head      length u64 of the encoding, count u32 of items, which follow in frames of kind 7
//!           7 item      of the manifest's tree, see `manifest/pages.rs`; in the order of the request
//! ```
//! A request 3 without digests asks for the tree's head: its root, first, and what else of the nodes below it fits in
//! 64 KiB. A manifest of up to 128 KiB is sent whole instead, as for request 1.
//!
//! The grant is checked for every request, and what is sent under it is counted ([`Gate::spend`]). A chunk that the named version doesn't hold is refused, so that a
//! grant for one version opens no other, nor does it open items of another's manifest. The fetching side believes
//! nothing: manifests are checked against the version, items and chunks against their digests, and a compressed chunk
//! is never given more room than the manifest says.

mod ask;
mod budget;
mod chunks;
mod fetch;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod obtain;
mod queue;
mod reconcile;
mod serve;
mod wire;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, Weak};

use tokio::io::{AsyncRead, AsyncWrite};
use tombolo_core::VersionId;

pub use budget::Budget;
pub use fetch::{BUDGET_BYTES, FetchError, FetchOptions, Fetched, Seal, Source, fetch};
pub use serve::{Served, serve_stream};
pub use wire::{GRANT_BYTES_MAX, REASON_BYTES_MAX};

use serve::Serving;

/// The way to one peer. Each opening is a bidirectional stream, as of one QUIC connection.
pub trait Dial: Sync {
    type Send: AsyncWrite + Unpin + Send;
    type Recv: AsyncRead + Unpin + Send;

    fn open(&self) -> impl Future<Output = io::Result<(Self::Send, Self::Recv)>> + Send;

    /// Whether it is this side that holds back what there is to read, as a limit of the link has it: the peer isn't
    /// silent then.
    fn is_held_back(_recv: &Self::Recv) -> bool {
        false
    }
}

/// Decides whether the peer at the other end may have a version.
pub trait Gate: Send + Sync {
    /// The error is what the peer is told.
    fn check(&self, grant: &[u8], version: VersionId) -> Result<(), String>;

    /// Called before anything is sent of a version that [`Gate::check`] lets go, with how many bytes that will be: 0
    /// before the first. The error is what the peer is told instead of them.
    fn spend(&self, _grant: &[u8], _amount: Amount, _more: u64) -> Result<(), String> {
        Ok(())
    }
}

/// What a version comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    /// Raw bytes of all its files.
    pub bytes: u64,
    /// Of its manifest's encoding.
    pub manifest_bytes: u64,
}

/// What goes on in this process, so that the same work isn't done twice at once.
#[derive(Default)]
pub(crate) struct InFlight {
    fetches: Mutex<HashMap<VersionId, Weak<tokio::sync::Mutex<()>>>>,
    served: Mutex<HashMap<VersionId, Weak<Serving>>>,
    /// The versions that were brought last, the newest first, with the lengths of their manifests.
    brought: Mutex<VecDeque<(VersionId, u64)>>,
}

/// Versions that are remembered as brought.
const BROUGHT_MAX: usize = 64;
/// What little differs between two manifests comes to when they are reconciled: pages on three levels, as measured.
const RECONCILED_BYTES: u64 = 7_000;

/// What a manifest of so many bytes takes on the wire, where the other site has one that differs little.
pub(crate) fn manifest_wire_bytes(encoded_bytes: usize) -> u64 {
    if encoded_bytes <= wire::WHOLE_BYTES_MAX { encoded_bytes as u64 } else { RECONCILED_BYTES }
}

impl InFlight {
    /// The lock that a fetch of the version holds.
    fn fetch_lock(&self, version: VersionId) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetches = crate::session::lock(&self.fetches);
        fetches.retain(|_, held| held.strong_count() > 0);
        let held = fetches.get(&version).and_then(Weak::upgrade).unwrap_or_default();
        fetches.insert(version, Arc::downgrade(&held));
        held
    }

    fn note_brought(&self, version: VersionId, bytes: u64) {
        let mut brought = crate::session::lock(&self.brought);
        brought.retain(|(other, _)| *other != version);
        brought.push_front((version, bytes));
        brought.truncate(BROUGHT_MAX);
    }

    fn brought(&self) -> Vec<(VersionId, u64)> {
        crate::session::lock(&self.brought).iter().copied().collect()
    }
}
