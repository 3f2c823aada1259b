//! The chunk store: a directory that several processes open at once, to read and to add.
//!
//! # Layout
//! ```text
//! format           "tombolo-store 1\n", or "tombolo-store 2 encrypted <id of the key>\n" (see [`Form`])
//! packs/           chunks, see [`crate::pack`]
//! manifests/<hex>  one version each, see [`crate::manifest`]; a version is here once its file has this name
//! pins/<name>      versions that gc keeps, one hex digest a line
//! leases/          who is at work, see [`crate::lease`]
//! quarantine/      damaged packs and manifests, kept for whoever wants to look at them
//! tmp/             files being written, named after their session
//! bucket           where the packs and manifests really are, see [`crate::BucketOptions`]; none for most stores
//! cache/           parts of a bucket's packs
//! index/           derived from the packs: where each chunk is
//! lock, gc.lock    see [`crate::lease`]
//! ```
//! A file gets its name by a rename after it was synced, and its directory is synced after that; a manifest is
//! written only when all its packs are durable. So a kill at any instant leaves either a whole version or none.

pub(crate) mod form;
mod known;
mod open;
mod packs;
mod records;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

use tombolo_core::VersionId;

use crate::bucket::{BUCKET_PACK_BYTES_MAX, Bucket, BucketLease, BucketOptions};
use crate::error::{At, DataError};
use crate::index::{Index, PackId};
use crate::lease::{self, Lease, Lock};
use crate::manifest::{ChunkRef, MANIFEST_FILE_BYTES_MAX, Manifest, Node, Summary};
use crate::pack::{PACK_BYTES_MAX, Records, sync_dir};
use crate::seal::SiteKey;
use crate::session::lock;
use crate::transfer::InFlight;
pub use form::Form;
pub(crate) use open::read_file;
use open::{form_of, prepare};

const DIRS: [&str; 7] = ["packs", "index", "manifests", "pins", "leases", "quarantine", "tmp"];
/// Packs that are kept open for reading.
const OPEN_PACKS_MAX: usize = 64;

#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Make the store where there is none.
    pub create: bool,
    /// Stored bytes after which a pack is full.
    pub pack_bytes: u64,
    /// Bytes of memory that the index of a handle may take, beside some 50 for each pack; whatever the store's size.
    pub memory_bytes_max: usize,
    /// The bucket that the store is; the directory is its cache then, and remembers the address. None for a directory
    /// that is the store itself, and for one that remembers its bucket: that is found with the environment's settings.
    pub bucket: Option<BucketOptions>,
    /// What chunks and manifests are sealed with. A store is made with a key or without one, and opened only with the
    /// same.
    pub key: Option<SiteKey>,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions { create: true, pack_bytes: 32 << 20, memory_bytes_max: 64 << 20, bucket: None, key: None }
    }
}

/// A handle to a store; clones share one index.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    bucket: Option<Arc<Bucket>>,
    key: Option<SiteKey>,
    pack_bytes: u64,
    index: RwLock<Index>,
    /// Held while packs are listed and the list is taken in, so that an older list never replaces a newer one.
    refreshing: Mutex<()>,
    files: Mutex<HashMap<PackId, Arc<File>>>,
    in_flight: InFlight,
}

/// One entry of [`Store::list`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    pub path: String,
    pub kind: ListedKind,
    pub bytes: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ListedKind {
    File { executable: bool },
    Link { target: String },
    EmptyDir,
}

/// Keeps a version from being removed by gc, in any process, for as long as the value lives.
pub struct Hold {
    _lease: Lease,
}

impl Store {
    pub fn open(dir: impl AsRef<Path>, options: StoreOptions) -> Result<Store, DataError> {
        let dir = std::path::absolute(&dir).at("can't resolve", &dir)?;
        let bucket = prepare(&dir, &options, Form::of(options.key.as_ref()))?.map(Arc::new);
        let pack_bytes_max = if bucket.is_some() { BUCKET_PACK_BYTES_MAX } else { PACK_BYTES_MAX };
        let inner = Inner {
            pack_bytes: options.pack_bytes.clamp(1, pack_bytes_max),
            bucket,
            key: options.key,
            index: RwLock::new(Index::new(dir.join("index"), options.memory_bytes_max)),
            dir,
            refreshing: Mutex::default(),
            files: Mutex::default(),
            in_flight: InFlight::default(),
        };
        let store = Store { inner: Arc::new(inner) };
        store.refresh()?;
        Ok(store)
    }

    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// How a store is kept that is in the directory or else in the bucket; None where there is none yet. Nothing is
    /// written, and no key needed.
    pub fn form_at(dir: impl AsRef<Path>, bucket: Option<&BucketOptions>) -> Result<Option<Form>, DataError> {
        match (form_of(dir.as_ref())?, bucket) {
            (None, Some(bucket)) => Bucket::new(bucket, dir.as_ref())?.form(),
            (form, _) => Ok(form),
        }
    }

    pub fn form(&self) -> Form {
        Form::of(self.inner.key.as_ref())
    }

    pub(crate) fn records(&self) -> Records {
        self.form().records()
    }

    /// That no other store has been made in the place of the one that was opened: under another key all that is in it
    /// would seem damaged.
    pub(crate) fn check_form(&self) -> Result<(), DataError> {
        let (found, at) = match &self.inner.bucket {
            Some(bucket) => (bucket.form()?, bucket.url.clone()),
            None => (form_of(&self.inner.dir)?, self.inner.dir.display().to_string()),
        };
        found.map_or(Ok(()), |found| found.expect(self.form(), at))
    }

    /// Whether the version can be read whole: its manifest and all its chunks are here.
    pub fn has(&self, version: VersionId) -> Result<bool, DataError> {
        match self.manifest(version) {
            Ok(manifest) => Ok(self.is_whole(&manifest)? || {
                self.refresh()?;
                self.is_whole(&manifest)?
            }),
            Err(DataError::NoVersion { .. } | DataError::CorruptManifest { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn is_whole(&self, manifest: &Manifest) -> Result<bool, DataError> {
        Ok(self.absent(manifest, Index::holds, 1)?.is_empty())
    }

    /// The versions whose manifests are here, in order.
    pub fn versions(&self) -> Result<Vec<VersionId>, DataError> {
        if let Some(bucket) = &self.inner.bucket {
            return Ok(bucket.versions()?.into_iter().collect());
        }
        let dir = self.path(&["manifests"]);
        let mut versions = BTreeSet::new();
        for entry in std::fs::read_dir(&dir).at("can't list", &dir)? {
            let name = entry.at("can't list", &dir)?.file_name();
            versions.extend(name.to_str().and_then(|name| name.parse::<VersionId>().ok()));
        }
        Ok(versions.into_iter().collect())
    }

    pub fn manifest(&self, version: VersionId) -> Result<Manifest, DataError> {
        let encoded = self.manifest_bytes(version)?;
        Manifest::decode(&encoded).map_err(|e| DataError::CorruptManifest { version, reason: e.to_string() })
    }

    /// The manifest's encoding, verified against the version.
    pub fn manifest_bytes(&self, version: VersionId) -> Result<Vec<u8>, DataError> {
        let bytes = match &self.inner.bucket {
            Some(bucket) => bucket.get("manifests", &version.to_string(), MANIFEST_FILE_BYTES_MAX)?,
            None => read_file(&self.path(&["manifests", &version.to_string()]), MANIFEST_FILE_BYTES_MAX)?,
        };
        let bytes = bytes.ok_or(DataError::NoVersion { version })?;
        let encoded = self.manifest_of_form(version, bytes)?;
        if crate::manifest::version_of(&encoded) != version {
            return Err(DataError::CorruptManifest { version, reason: "its bytes hash to another version".into() });
        }
        Ok(encoded)
    }

    pub fn summary(&self, version: VersionId) -> Result<Summary, DataError> {
        Ok(self.manifest(version)?.summary())
    }

    /// Raw bytes of the version's files, before deduplication.
    pub fn version_bytes(&self, version: VersionId) -> Result<u64, DataError> {
        Ok(self.summary(version)?.bytes)
    }

    /// What the version holds, in order of the paths.
    pub fn list(&self, version: VersionId) -> Result<Vec<Listed>, DataError> {
        let listed = |entry: &crate::manifest::Entry| Listed {
            path: entry.path.clone(),
            bytes: entry.bytes(),
            kind: match &entry.node {
                Node::File { executable, .. } => ListedKind::File { executable: *executable },
                Node::Link { target } => ListedKind::Link { target: target.clone() },
                Node::EmptyDir => ListedKind::EmptyDir,
            },
        };
        Ok(self.manifest(version)?.entries().iter().map(listed).collect())
    }

    /// The distinct chunks of the manifest that this store doesn't hold, as far as this process knows; in a bucket
    /// also those that a gc is about to remove.
    pub fn missing(&self, manifest: &Manifest) -> Result<Vec<ChunkRef>, DataError> {
        self.absent(manifest, Index::holds_relied, usize::MAX)
    }

    /// [`Store::missing`], after a look at what other processes have added where something seems to be missing.
    pub fn missing_refreshed(&self, manifest: &Manifest) -> Result<Vec<ChunkRef>, DataError> {
        if self.missing(manifest)?.is_empty() {
            return Ok(Vec::new());
        }
        self.refresh()?;
        self.missing(manifest)
    }

    /// Distinct chunks in this store, as far as this process knows. The whole index is read for it.
    pub fn chunk_count(&self) -> Result<u64, DataError> {
        self.with_index(Index::count)
    }

    /// Keeps the version from gc until the value is dropped.
    pub fn hold(&self, version: VersionId) -> Result<Hold, DataError> {
        if let Some(bucket) = &self.inner.bucket {
            // The lease comes first: from then on no gc condemns the version.
            let lease = self.lease(&[version])?;
            return if bucket.holds(version)? {
                Ok(Hold { _lease: lease })
            } else {
                Err(DataError::NoVersion { version })
            };
        }
        let held = self.lock_shared()?;
        let path = self.path(&["manifests", &version.to_string()]);
        if !path.try_exists().at("can't look at", &path)? {
            return Err(DataError::NoVersion { version });
        }
        Ok(Hold { _lease: Lease::take(&self.path(&["leases"]), &[version], &held)? })
    }

    /// Keeps the versions from gc until the pin is removed; a pin of the same name is replaced.
    pub fn pin(&self, name: &str, versions: &BTreeSet<VersionId>) -> Result<(), DataError> {
        check_pin(name)?;
        let text: String = versions.iter().map(|version| format!("{version}\n")).collect();
        if let Some(bucket) = &self.inner.bucket {
            return bucket.put("pins", name, text.into_bytes());
        }
        let held = self.lock_shared()?;
        let lease = Lease::take(&self.path(&["leases"]), &[], &held)?;
        self.write_durably("pins", name, &lease.session, text.as_bytes())
    }

    /// Removes a pin; that there is none is fine.
    pub fn unpin(&self, name: &str) -> Result<(), DataError> {
        check_pin(name)?;
        if let Some(bucket) = &self.inner.bucket {
            return bucket.remove("pins", name);
        }
        let path = self.path(&["pins", name]);
        match std::fs::remove_file(&path) {
            Ok(()) => sync_dir(&self.path(&["pins"])),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(DataError::io("can't remove", path, e)),
        }
    }

    /// The pins with their versions.
    pub fn pins(&self) -> Result<Vec<(String, BTreeSet<VersionId>)>, DataError> {
        if let Some(bucket) = &self.inner.bucket {
            return bucket.pins();
        }
        let dir = self.path(&["pins"]);
        let mut pins = Vec::new();
        for entry in std::fs::read_dir(&dir).at("can't list", &dir)? {
            let entry = entry.at("can't list", &dir)?;
            let text = match std::fs::read_to_string(entry.path()) {
                Ok(text) => text,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(DataError::io("can't read", entry.path(), e)),
            };
            let versions = text.lines().filter_map(|line| line.parse::<VersionId>().ok()).collect();
            pins.push((entry.file_name().to_string_lossy().into_owned(), versions));
        }
        pins.sort();
        Ok(pins)
    }

    pub(crate) fn forget_files(&self) {
        lock(&self.inner.files).clear();
    }

    pub(crate) fn in_flight(&self) -> &InFlight {
        &self.inner.in_flight
    }

    pub(crate) fn pack_bytes(&self) -> u64 {
        self.inner.pack_bytes
    }

    pub(crate) fn path(&self, parts: &[&str]) -> PathBuf {
        let mut path = self.inner.dir.clone();
        path.extend(parts);
        path
    }

    pub(crate) fn lock_shared(&self) -> Result<Lock, DataError> {
        lease::shared(&self.path(&["lock"]))
    }

    pub(crate) fn lock_exclusive(&self) -> Result<Lock, DataError> {
        lease::exclusive(&self.path(&["lock"]))
    }

    pub(crate) fn lock_gc(&self) -> Result<Lock, DataError> {
        lease::exclusive(&self.path(&["gc.lock"]))
    }

    pub(crate) fn lease(&self, versions: &[VersionId]) -> Result<Lease, DataError> {
        let mut lease = {
            let held = self.lock_shared()?;
            Lease::take(&self.path(&["leases"]), versions, &held)?
        };
        if let Some(bucket) = &self.inner.bucket {
            lease.bucket = Some(BucketLease::take(bucket, &lease.session, versions)?);
        }
        Ok(lease)
    }

    /// Writes `<dir>/<name>` whole or not at all.
    pub(crate) fn write_durably(&self, dir: &str, name: &str, session: &str, bytes: &[u8]) -> Result<(), DataError> {
        let tmp = self.path(&["tmp", &format!("{session}-{name}")]);
        let written = write_synced(&tmp, bytes).and_then(|()| {
            let to = self.path(&[dir, name]);
            std::fs::rename(&tmp, &to).at("can't rename", &tmp)
        });
        if written.is_err() {
            // It may not be there at all, and what stays is removed by the next gc.
            let _ = std::fs::remove_file(&tmp);
        }
        written.and_then(|()| sync_dir(&self.path(&[dir])))
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    let mut file = File::create(path).at("can't create", path)?;
    file.write_all(bytes).at("can't write", path)?;
    file.sync_all().at("can't sync", path)
}

fn check_pin(name: &str) -> Result<(), DataError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || name.len() > 200 || name.starts_with('.') || !name.chars().all(fits) {
        return Err(DataError::BadPin { name: name.chars().take(200).collect() });
    }
    Ok(())
}
