//! Tombolo's data: trees of files as versions, kept as chunks in packs, moved between sites.
//!
//! A [`Store`] is a directory; [`store`] says what lies in it, [`pack`] and [`manifest`] what its files look like,
//! and [`gc`] why nothing that is needed is ever removed. [`transfer`] brings versions from other stores. All of it
//! but [`transfer`] blocks and belongs on a thread that may.

mod add;
mod bucket;
mod chunker;
mod codec;
mod coming;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod gc;
mod index;
pub mod lease;
pub mod manifest;
pub mod pack;
mod read;
mod renew;
mod restless;
mod seal;
mod session;
mod sketch;
pub mod store;
pub mod transfer;
mod verify;
mod walk;

pub use add::{AddOptions, Added, Progress};
pub use bucket::{BucketOptions, Timing};
pub use chunker::CHUNK_BYTES_MAX;
pub use coming::Expect;
pub use error::DataError;
pub use gc::Collected;
pub use manifest::{ChunkRef, Manifest, Summary};
pub use read::MaterializeOptions;
pub use restless::{Restless, Seen};
pub use seal::{KeyId, SiteKey};
pub use store::{Form, Hold, Listed, ListedKind, Store, StoreOptions};
pub use verify::{Damage, Hit, VerifyOptions, VerifyReport};
pub use walk::IGNORE_FOR_CODE;
