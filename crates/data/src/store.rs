//! The chunk store: a directory that several processes open at once, to read and to add.
//!
//! # Layout
//! ```text
//! format           "tombolo-store 1\n"
//! packs/           chunks, see [`crate::pack`]
//! manifests/<hex>  one version each, see [`crate::manifest`]; a version is here once its file has this name
//! pins/<name>      versions that gc keeps, one hex digest a line
//! leases/          who is at work, see [`crate::lease`]
//! quarantine/      damaged packs and manifests, kept for whoever wants to look at them
//! tmp/             files being written, named after their session
//! lock, gc.lock    see [`crate::lease`]
//! ```
//! A file gets its name by a rename after it was synced, and its directory is synced after that; a manifest is
//! written only when all its packs are durable. So a kill at any instant leaves either a whole version or none.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tombolo_core::{Digest, VersionId};

use crate::codec;
use crate::error::{At, DataError};
use crate::index::{DigestSet, Index, Location};
use crate::lease::{self, Lease, Lock};
use crate::manifest::{ChunkRef, MANIFEST_BYTES_MAX, Manifest, Node, Summary};
use crate::pack::{PACK_BYTES_MAX, sync_dir};
use crate::session::lock;
use crate::transfer::InFlight;

const FORMAT: &str = "tombolo-store 1\n";
const DIRS: [&str; 6] = ["packs", "manifests", "pins", "leases", "quarantine", "tmp"];
/// Packs that are kept open for reading.
const OPEN_PACKS_MAX: usize = 64;

#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Make the store where there is none.
    pub create: bool,
    /// Stored bytes after which a pack is full.
    pub pack_bytes: u64,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions { create: true, pack_bytes: 32 << 20 }
    }
}

/// A handle to a store; clones share one index.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    pack_bytes: u64,
    index: RwLock<Index>,
    files: Mutex<HashMap<u32, Arc<File>>>,
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
        prepare(&dir, options.create)?;
        let inner = Inner {
            dir,
            pack_bytes: options.pack_bytes.clamp(1, PACK_BYTES_MAX),
            index: RwLock::default(),
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

    /// Whether the version can be read whole: its manifest and all its chunks are here.
    pub fn has(&self, version: VersionId) -> Result<bool, DataError> {
        match self.manifest(version) {
            Ok(manifest) => Ok(self.missing_refreshed(&manifest)?.is_empty()),
            Err(DataError::NoVersion { .. } | DataError::CorruptManifest { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The versions whose manifests are here, in order.
    pub fn versions(&self) -> Result<Vec<VersionId>, DataError> {
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
        let path = self.path(&["manifests", &version.to_string()]);
        let file = File::open(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => DataError::NoVersion { version },
            _ => DataError::io("can't open", &path, e),
        })?;
        let mut encoded = Vec::new();
        file.take(MANIFEST_BYTES_MAX as u64 + 1).read_to_end(&mut encoded).at("can't read", &path)?;
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

    /// The distinct chunks of the manifest that this store doesn't hold, as far as this process knows.
    pub fn missing(&self, manifest: &Manifest) -> Vec<ChunkRef> {
        let index = self.index();
        let mut seen = DigestSet::default();
        manifest.chunks().filter(|chunk| !index.contains(&chunk.digest) && seen.insert(chunk.digest)).copied().collect()
    }

    /// [`Store::missing`], after a look at what other processes have added where something seems to be missing.
    pub fn missing_refreshed(&self, manifest: &Manifest) -> Result<Vec<ChunkRef>, DataError> {
        if self.missing(manifest).is_empty() {
            return Ok(Vec::new());
        }
        self.refresh()?;
        Ok(self.missing(manifest))
    }

    /// Distinct chunks in this store, as far as this process knows.
    pub fn chunk_count(&self) -> usize {
        self.index().len()
    }

    /// Keeps the version from gc until the value is dropped.
    pub fn hold(&self, version: VersionId) -> Result<Hold, DataError> {
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
        let held = self.lock_shared()?;
        let lease = Lease::take(&self.path(&["leases"]), &[], &held)?;
        self.write_durably("pins", name, &lease.session, text.as_bytes())
    }

    /// Removes a pin; that there is none is fine.
    pub fn unpin(&self, name: &str) -> Result<(), DataError> {
        check_pin(name)?;
        let path = self.path(&["pins", name]);
        match std::fs::remove_file(&path) {
            Ok(()) => sync_dir(&self.path(&["pins"])),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(DataError::io("can't remove", path, e)),
        }
    }

    /// The pins with their versions.
    pub fn pins(&self) -> Result<Vec<(String, BTreeSet<VersionId>)>, DataError> {
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

    /// Takes in what other processes have added and removed.
    pub fn refresh(&self) -> Result<(), DataError> {
        self.index_mut().refresh(&self.path(&["packs"]))
    }

    /// A chunk's raw bytes, verified.
    pub fn read_chunk(&self, chunk: &ChunkRef) -> Result<Vec<u8>, DataError> {
        let (stored, location) = self.read_stored(&chunk.digest)?;
        if location.raw != chunk.bytes {
            return Err(self.corrupt(&chunk.digest, &location, "its length isn't what the manifest says".into()));
        }
        codec::decode(stored, location.raw, &chunk.digest).map_err(|why| self.corrupt(&chunk.digest, &location, why))
    }

    /// A chunk's stored form and raw length, verified.
    pub(crate) fn read_verified(&self, digest: &Digest) -> Result<(Vec<u8>, u32), DataError> {
        let (stored, location) = self.read_stored(digest)?;
        codec::decode(stored.clone(), location.raw, digest).map_err(|why| self.corrupt(digest, &location, why))?;
        Ok((stored, location.raw))
    }

    /// A chunk's stored form as it lies there.
    fn read_stored(&self, digest: &Digest) -> Result<(Vec<u8>, Location), DataError> {
        let mut refreshed = false;
        loop {
            let found = self.index().get(digest);
            if let Some(location) = found {
                match self.read_at(digest, &location) {
                    // A gc has moved the chunk into another pack.
                    Err(DataError::Io { source, .. })
                        if source.kind() == std::io::ErrorKind::NotFound && !refreshed => {}
                    other => return other.map(|stored| (stored, location)),
                }
            }
            if refreshed {
                return Err(DataError::NoChunk { chunk: *digest });
            }
            self.refresh()?;
            refreshed = true;
        }
    }

    fn read_at(&self, digest: &Digest, location: &Location) -> Result<Vec<u8>, DataError> {
        let mut stored = vec![0; location.stored as usize];
        let (file, path) = self.pack_file(location.pack)?;
        match file.read_exact_at(&mut stored, u64::from(location.offset)) {
            Ok(()) => Ok(stored),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(self.corrupt(digest, location, "the pack ends before it".into()))
            }
            Err(e) => Err(DataError::io("can't read", path, e)),
        }
    }

    fn pack_file(&self, pack: u32) -> Result<(Arc<File>, PathBuf), DataError> {
        let name = self.index().pack_name(pack).unwrap_or_else(|| "gone".into());
        let path = self.path(&["packs", &name]);
        let mut files = lock(&self.inner.files);
        if let Some(file) = files.get(&pack) {
            return Ok((file.clone(), path));
        }
        let file = Arc::new(File::open(&path).at("can't open", &path)?);
        if files.len() >= OPEN_PACKS_MAX {
            files.clear();
        }
        files.insert(pack, file.clone());
        Ok((file, path))
    }

    fn corrupt(&self, digest: &Digest, location: &Location, reason: String) -> DataError {
        let pack = self.index().pack_name(location.pack).map_or_else(|| "gone".to_owned(), |name| name.to_string());
        DataError::CorruptChunk { chunk: *digest, pack, reason }
    }

    pub(crate) fn knows(&self, digest: &Digest) -> bool {
        self.index().contains(digest)
    }

    pub(crate) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.inner.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.inner.index.write().unwrap_or_else(PoisonError::into_inner)
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
        let held = self.lock_shared()?;
        Lease::take(&self.path(&["leases"]), versions, &held)
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

/// Makes what a store needs, or says why the directory is none. Processes may do so at the same time.
fn prepare(dir: &Path, create: bool) -> Result<(), DataError> {
    let not = |why: String| DataError::NotAStore { path: dir.to_path_buf(), why };
    let format = dir.join("format");
    match std::fs::read_to_string(&format) {
        Ok(text) if text == FORMAT => {}
        Ok(text) => {
            return Err(not(format!("its format is {:?}, not {FORMAT:?}", text.chars().take(40).collect::<String>())));
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && create => {
            std::fs::create_dir_all(dir).at("can't create", dir)?;
            for entry in std::fs::read_dir(dir).at("can't list", dir)? {
                let name = entry.at("can't list", dir)?.file_name();
                let name = name.to_string_lossy();
                if !DIRS.contains(&&*name) && name != "format" && !name.starts_with("format.") {
                    return Err(not(format!("it has no format file, but a {name:?}")));
                }
            }
            // The format comes last but for the directories, which every opening makes anew where they are missing.
            let tmp = dir.join(format!("format.{}", std::process::id()));
            write_synced(&tmp, FORMAT.as_bytes())?;
            std::fs::rename(&tmp, &format).at("can't rename", &tmp)?;
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(not("it has no format file".into())),
        Err(e) => return Err(DataError::io("can't read", format, e)),
    }
    for name in DIRS {
        let path = dir.join(name);
        std::fs::create_dir_all(&path).at("can't create", &path)?;
    }
    sync_dir(dir)
}
