//! A bucket as a store: packs and manifests are objects, and the store's directory is only a cache of them.
//!
//! Any number of agents share a bucket, each with a directory of its own, and one that is lost loses nothing that it
//! had acknowledged. Objects have the names that the files of a directory have (see [`crate::store`]), below the
//! bucket's prefix; `gc/condemned` is the one that is ever changed by several (see [`condemned`]). A pack is an object
//! before it is known, and a manifest is one only when all its packs are.
//!
//! What a bucket must do: read what was written (as all do today), list with at most [`LAG`] of delay, and put
//! on condition (`If-None-Match`, `If-Match`). Clocks of agents are never compared: ages are those that the bucket's
//! own clock gives.

mod cache;
pub(crate) mod condemned;
pub(crate) mod gc;
mod lease;

use std::collections::BTreeSet;
use std::fs::File;
use std::future::Future;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as Key;
use object_store::{
    ClientConfigKey, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig,
};
use tombolo_core::{Timestamp, VersionId};
use url::Url;

use crate::error::{At, DataError};
use crate::index::{Listing, PackId};
use crate::pack::{self, PackEntry, PackFault, Records};
use crate::session::Session;
use crate::store::form::{FORMAT_BYTES_MAX, Form};
use cache::Cache;
use condemned::{Sentence, State};
pub(crate) use lease::BucketLease;

/// How late a listing may be.
pub(crate) const LAG: Duration = Duration::from_secs(60);
/// How often a request is tried again, after an answer of 500 or 503 or a broken connection.
const RETRIES_MAX: usize = 8;
/// How long one request is tried for, in all.
const RETRY_TIME: Duration = Duration::from_secs(120);
/// How long one try may take: [`BUCKET_PACK_BYTES_MAX`] over a line of 1 Mbit/s.
const REQUEST_TIME: &str = "600 seconds";
/// How often a body that broke off is asked for again.
const BODIES_MAX: u32 = 5;
const FORMAT_KIND: &str = "tombolo-bucket";
/// Longest pin that is read, in bytes.
const PIN_BYTES_MAX: u64 = 16 << 20;
/// Longest pack that is uploaded, which is in memory then.
pub(crate) const BUCKET_PACK_BYTES_MAX: u64 = 64 << 20;

/// Where a store's bucket is.
#[derive(Clone, Debug)]
pub struct BucketOptions {
    /// `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`.
    pub url: String,
    /// By the names of the clouds' own tools in small letters, as `aws_access_key_id`; without any, those of the
    /// environment.
    pub settings: Vec<(String, String)>,
    /// Bytes of chunks that the directory keeps.
    pub cache_bytes_max: u64,
    pub timing: Timing,
}

/// The spans on which gc of a bucket rests; all who share a bucket must have the same.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A lease that wasn't renewed for so long is dead.
    pub lease: Duration,
    /// A commit that took longer looks again whether all its chunks are there.
    pub commit: Duration,
    /// Between condemning a pack and removing it; longer than `commit` and the lag of listings together.
    pub condemned: Duration,
    /// How long the removed are remembered, longer than listings may lag.
    pub remembered: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            lease: Duration::from_secs(600),
            commit: Duration::from_secs(300),
            condemned: Duration::from_secs(1200),
            remembered: Duration::from_secs(3600),
        }
    }
}

impl BucketOptions {
    pub fn new(url: impl Into<String>) -> BucketOptions {
        BucketOptions { url: url.into(), settings: Vec::new(), cache_bytes_max: 4 << 30, timing: Timing::default() }
    }
}

pub(crate) struct Bucket {
    objects: Arc<dyn ObjectStore>,
    prefix: Key,
    cache: Cache,
    pub(crate) url: String,
    pub(crate) timing: Timing,
}

/// One object, without its kind's prefix.
pub(crate) struct Item {
    pub name: String,
    pub bytes: u64,
    /// By the bucket's clock.
    pub modified: Timestamp,
}

impl Bucket {
    /// Makes a store of the bucket, if it isn't one yet. It must be one of this form.
    pub(crate) fn open(options: &BucketOptions, dir: &Path, form: Form) -> Result<Bucket, DataError> {
        let bucket = Bucket::new(options, dir)?;
        let mut found = bucket.form()?;
        if found.is_none() && !bucket.put_if("gc", "format", form.text(FORMAT_KIND).into(), PutMode::Create)? {
            // Another has put one meanwhile, perhaps with a key of its own.
            found = bucket.form()?;
        }
        found.map_or(Ok(()), |found| found.expect(form, &options.url))?;
        Ok(bucket)
    }

    /// None where the bucket isn't a store.
    pub(crate) fn form(&self) -> Result<Option<Form>, DataError> {
        let Some(found) = self.get("gc", "format", FORMAT_BYTES_MAX)? else { return Ok(None) };
        let known = Form::Plain.text(FORMAT_KIND);
        let bad = |found| DataError::BadBucket {
            url: self.url.clone(),
            why: format!("its format is {found}, not {known:?}"),
        };
        Form::parse(&found, FORMAT_KIND).map(Some).map_err(bad)
    }

    /// Without touching either the bucket or the directory.
    pub(crate) fn new(options: &BucketOptions, dir: &Path) -> Result<Bucket, DataError> {
        let bad = |why: String| DataError::BadBucket { url: options.url.clone(), why };
        let url = Url::parse(&options.url).map_err(|error| bad(error.to_string()))?;
        let objects = build(&url, &options.settings).map_err(bad)?;
        let prefix = Key::parse(url.path().trim_matches('/')).map_err(|error| bad(error.to_string()))?;
        let cache = Cache::new(&dir.join("cache"), options.cache_bytes_max);
        Ok(Bucket { objects, prefix, cache, url: options.url.clone(), timing: options.timing })
    }

    pub(crate) fn make_cache(&self) -> Result<(), DataError> {
        self.cache.make()
    }

    fn key(&self, kind: &str, name: &str) -> Key {
        self.prefix.clone().join(kind).join(name)
    }

    pub(crate) fn list(&self, kind: &'static str) -> Result<Vec<Item>, DataError> {
        let (objects, prefix) = (self.objects.clone(), self.prefix.clone().join(kind));
        let at = prefix.clone();
        let listed = ask(&objects, move |objects| {
            let prefix = at.clone();
            async move { objects.list(Some(&prefix)).try_collect::<Vec<_>>().await }
        });
        let item = |meta: object_store::ObjectMeta| Item {
            name: meta.location.filename().unwrap_or_default().to_owned(),
            bytes: meta.size,
            modified: Timestamp(meta.last_modified.timestamp_millis()),
        };
        let listed = listed.map_err(|source| bucket_error("can't list", &prefix, source))?;
        Ok(listed.into_iter().map(item).collect())
    }

    /// None where there is no such object.
    pub(crate) fn get(&self, kind: &str, name: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, DataError> {
        Ok(self.get_tagged(kind, name, bytes_max)?.map(|(bytes, _)| bytes))
    }

    pub(crate) fn get_tagged(
        &self,
        kind: &str,
        name: &str,
        bytes_max: u64,
    ) -> Result<Option<(Vec<u8>, object_store::UpdateVersion)>, DataError> {
        let key = self.key(kind, name);
        match self.read(&key, None, bytes_max) {
            Ok(found) => Ok(Some(found)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(bucket_error("can't read", &key, source)),
        }
    }

    /// Reads an object or a range of it, again where the body breaks off.
    fn read(
        &self,
        key: &Key,
        range: Option<GetRange>,
        bytes_max: u64,
    ) -> Result<(Vec<u8>, object_store::UpdateVersion), object_store::Error> {
        let key = key.clone();
        ask(&self.objects, move |objects| {
            let (key, options) = (key.clone(), GetOptions { range: range.clone(), ..GetOptions::default() });
            async move {
                let answer = objects.get_opts(&key, options).await?;
                let length = answer.range.end - answer.range.start;
                let unfit = |why: String| object_store::Error::NotSupported { source: why.into() };
                if length > bytes_max {
                    return Err(unfit(format!("it is {length} bytes long, more than {bytes_max}")));
                }
                let version = object_store::UpdateVersion {
                    e_tag: answer.meta.e_tag.clone(),
                    version: answer.meta.version.clone(),
                };
                let bytes = answer.bytes().await?;
                if bytes.len() as u64 != length {
                    let why = format!("only {} of {length} bytes came", bytes.len());
                    return Err(object_store::Error::Generic { store: "bucket", source: why.into() });
                }
                Ok((bytes.to_vec(), version))
            }
        })
    }

    /// Puts an object; where there is one already it is replaced.
    pub(crate) fn put(&self, kind: &str, name: &str, bytes: Vec<u8>) -> Result<(), DataError> {
        self.put_if(kind, name, bytes, PutMode::Overwrite).map(drop)
    }

    /// False where the condition doesn't hold. After an answer that was lost it may not hold though this very put
    /// was what changed the object.
    pub(crate) fn put_if(&self, kind: &str, name: &str, bytes: Vec<u8>, mode: PutMode) -> Result<bool, DataError> {
        let (key, payload) = (self.key(kind, name), PutPayload::from(bytes));
        let at = key.clone();
        let put = ask(&self.objects, move |objects| {
            let options = PutOptions { mode: mode.clone(), ..PutOptions::default() };
            let (at, payload) = (at.clone(), payload.clone());
            async move { objects.put_opts(&at, payload, options).await }
        });
        match put {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(false),
            Err(source) => Err(bucket_error("can't write", &key, source)),
        }
    }

    /// That there is none is fine.
    pub(crate) fn remove(&self, kind: &str, name: &str) -> Result<(), DataError> {
        let key = self.key(kind, name);
        let at = key.clone();
        let removed = ask(&self.objects, move |objects| {
            let at = at.clone();
            async move { objects.delete(&at).await }
        });
        match removed {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(bucket_error("can't remove", &key, source)),
        }
    }

    fn head(&self, key: &Key) -> Result<object_store::ObjectMeta, object_store::Error> {
        let key = key.clone();
        ask(&self.objects, move |objects| {
            let key = key.clone();
            async move { objects.head(&key).await }
        })
    }

    /// Uploads a pack and takes the file into the cache.
    pub(crate) fn upload(&self, file: &Path, pack: &str) -> Result<(), DataError> {
        let bytes = std::fs::read(file).at("can't read", file)?;
        // A pack's name is its writer's own: an upload that is tried again replaces the same bytes.
        self.put("packs", pack, bytes)?;
        self.cache.take_in(file, pack);
        Ok(())
    }

    /// The packs. What is doomed isn't among them, whatever a late listing says.
    pub(crate) fn packs(&self) -> Result<Listing, DataError> {
        let listed = self.list("packs")?;
        // Read after the listing: what was condemned between the two must not be relied on either.
        let (condemned, _) = condemned::read(self)?;
        let mut listing = Listing::default();
        for pack in listed.iter().filter_map(|item| PackId::parse(&item.name)) {
            match condemned.packs.get(&pack).map(|sentence| sentence.state) {
                None => listing.packs.insert(pack),
                Some(State::Condemned) => listing.packs.insert(pack) && listing.condemned.insert(pack),
                Some(State::Doomed) => false,
            };
        }
        let doomed = condemned.packs.iter().filter(|(_, sentence)| sentence.state == State::Doomed);
        listing.doomed = doomed.map(|(pack, _)| *pack).collect();
        Ok(listing)
    }

    /// The versions. One that is doomed isn't among them.
    pub(crate) fn versions(&self) -> Result<BTreeSet<VersionId>, DataError> {
        let items = self.list("manifests")?;
        let (condemned, _) = condemned::read(self)?;
        let versions = items.iter().filter_map(|item| item.name.parse().ok());
        let doomed = |version: &VersionId| condemned.versions.get(version).is_some_and(|s| s.state == State::Doomed);
        Ok(versions.filter(|version| !doomed(version)).collect())
    }

    /// Whether the version is there and stays, now that a lease or a pin names it. One that is condemned is saved.
    pub(crate) fn holds(&self, version: VersionId) -> Result<bool, DataError> {
        let name = version.to_string();
        let there = self.get("manifests", &name, crate::manifest::MANIFEST_FILE_BYTES_MAX)?.is_some();
        Ok(there && self.save(version)?)
    }

    /// Strikes a version from the condemned; false where it is too late.
    fn save(&self, version: VersionId) -> Result<bool, DataError> {
        if !condemned::read(self)?.0.versions.contains_key(&version) {
            return Ok(true);
        }
        condemned::change(self, |list| {
            if list.versions.get(&version).is_some_and(|sentence| sentence.state == State::Condemned) {
                list.versions.remove(&version);
            }
        })?;
        Ok(!condemned::read(self)?.0.versions.contains_key(&version))
    }

    /// Puts a version's manifest. One that is condemned is saved by it, unless it is too late.
    pub(crate) fn put_manifest(&self, version: VersionId, bytes: Vec<u8>) -> Result<(), DataError> {
        if !self.save(version)? {
            return Err(DataError::BeingRemoved { version });
        }
        // The same replaces what may be there, so that the version is young again.
        self.put("manifests", &version.to_string(), bytes)
    }

    pub(crate) fn pins(&self) -> Result<Vec<(String, BTreeSet<VersionId>)>, DataError> {
        let mut pins = Vec::new();
        for item in self.list("pins")? {
            let Some(text) = self.get("pins", &item.name, PIN_BYTES_MAX)? else { continue };
            let text = String::from_utf8_lossy(&text).into_owned();
            pins.push((item.name, text.lines().filter_map(|line| line.parse().ok()).collect()));
        }
        pins.sort();
        Ok(pins)
    }

    /// Moves an object to `quarantine/`.
    pub(crate) fn set_aside(&self, kind: &str, name: &str) -> Result<(), DataError> {
        let (from, to) = (self.key(kind, name), self.key("quarantine", name));
        let at = from.clone();
        let copied = ask(&self.objects, move |objects| {
            let (at, to) = (at.clone(), to.clone());
            async move { objects.copy(&at, &to).await }
        });
        match copied {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => self.remove(kind, name),
            Err(source) => Err(bucket_error("can't set aside", &from, source)),
        }
    }

    pub(crate) fn set_aside_pack(&self, name: &str, session: &Session) -> Result<(), DataError> {
        let since = self.now(session.name())?;
        if let Some(pack) = PackId::parse(name) {
            // Remembered, so that no late listing brings it back.
            condemned::change(self, |list| {
                list.packs.insert(pack, Sentence { state: State::Doomed, since });
            })?;
        }
        self.forget(name);
        self.set_aside("packs", name)
    }

    /// The chunks of a pack, from its footer alone.
    pub(crate) fn entries(&self, pack: &str, records: Records) -> Result<Vec<PackEntry>, PackFault> {
        let key = self.key("packs", pack);
        let fault = |source| match source {
            object_store::Error::NotFound { .. } => PackFault::Gone,
            source => PackFault::Other(bucket_error("can't read", &key, source)),
        };
        let length = self.head(&key).map_err(fault)?.size;
        pack::entries_from(pack, length, records, |offset, bytes| {
            let range = GetRange::Bounded(offset..offset + bytes.len() as u64);
            let (read, _) = self.read(&key, Some(range), bytes.len() as u64).map_err(fault)?;
            if read.len() != bytes.len() {
                return Err(PackFault::Damaged("it is shorter than it was said to be".to_owned()));
            }
            bytes.copy_from_slice(&read);
            Ok(())
        })
    }

    /// Reads from a pack, through the cache. False where the pack is gone, or ends before that.
    pub(crate) fn read_at(&self, pack: &str, bytes: &mut [u8], offset: u64) -> Result<bool, DataError> {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let block = at / cache::BLOCK_BYTES;
            let within = (at % cache::BLOCK_BYTES) as usize;
            let rest = (bytes.len() - done).min(cache::BLOCK_BYTES as usize - within);
            let target = &mut bytes[done..done + rest];
            if !self.cache.read(pack, block, target, within)? {
                let key = self.key("packs", pack);
                let range = GetRange::Bounded(block * cache::BLOCK_BYTES..(block + 1) * cache::BLOCK_BYTES);
                let read = match self.read(&key, Some(range), cache::BLOCK_BYTES) {
                    Ok((read, _)) => read,
                    Err(object_store::Error::NotFound { .. }) => return Ok(false),
                    Err(source) => return Err(bucket_error("can't read", &key, source)),
                };
                let Some(found) = read.get(within..within + rest) else { return Ok(false) };
                target.copy_from_slice(found);
                self.cache.put(pack, block, &read);
            }
            done += rest;
        }
        Ok(true)
    }

    /// Forgets what the cache has of a pack, because it turned out damaged.
    pub(crate) fn forget(&self, pack: &str) {
        self.cache.forget(pack);
    }

    /// The whole pack as it lies in the bucket, in a file without a name.
    pub(crate) fn download(&self, pack: &str) -> Result<Option<File>, DataError> {
        let Some(bytes) = self.get("packs", pack, BUCKET_PACK_BYTES_MAX + (16 << 20))? else { return Ok(None) };
        let (mut file, path) = self.cache.scratch()?;
        file.write_all(&bytes).at("can't write", &path)?;
        Ok(Some(file))
    }

    /// What time it is by the bucket's clock.
    pub(crate) fn now(&self, session: &str) -> Result<Timestamp, DataError> {
        self.put("gc", session, Vec::new())?;
        let key = self.key("gc", session);
        let meta = self.head(&key);
        self.remove("gc", session)?;
        let meta = meta.map_err(|source| bucket_error("can't look at", &key, source))?;
        Ok(Timestamp(meta.last_modified.timestamp_millis()))
    }
}

fn bucket_error(doing: &'static str, key: &Key, source: object_store::Error) -> DataError {
    DataError::Bucket { doing, key: key.to_string(), source: Box::new(source) }
}

fn build(url: &Url, settings: &[(String, String)]) -> Result<Arc<dyn ObjectStore>, String> {
    let retry = RetryConfig { max_retries: RETRIES_MAX, retry_timeout: RETRY_TIME, ..RetryConfig::default() };
    macro_rules! built {
        ($builder:ident) => {{
            let builder = if settings.is_empty() { $builder::from_env() } else { $builder::new() };
            let mut builder = builder.with_url(url.as_str()).with_retry(retry);
            let timeout = ClientConfigKey::Timeout.as_ref().parse().map_err(|_| "requests can't be given more time")?;
            builder = builder.with_config(timeout, REQUEST_TIME);
            for (name, value) in settings {
                let key = name.parse().map_err(|_| format!("{name:?} is no setting of such a bucket"))?;
                builder = builder.with_config(key, value);
            }
            builder.build().map(|built| Arc::new(built) as Arc<dyn ObjectStore>).map_err(|error| error.to_string())
        }};
    }
    match url.scheme() {
        "s3" => built!(AmazonS3Builder),
        "gs" => built!(GoogleCloudStorageBuilder),
        "az" => built!(MicrosoftAzureBuilder),
        scheme => Err(format!("{scheme:?} is none of s3, gs and az")),
    }
}

/// Asks a bucket, again where the answer breaks off: object_store does so only until an answer has begun.
fn ask<T: Send + 'static, F>(
    objects: &Arc<dyn ObjectStore>,
    work: impl Fn(Arc<dyn ObjectStore>) -> F + Send + 'static,
) -> Result<T, object_store::Error>
where
    F: Future<Output = Result<T, object_store::Error>> + Send + 'static,
{
    let objects = objects.clone();
    run(async move {
        let (began, mut tries) = (Instant::now(), 0);
        loop {
            tries += 1;
            match work(objects.clone()).await {
                Err(error @ object_store::Error::Generic { .. })
                    if tries < BODIES_MAX && began.elapsed() < RETRY_TIME =>
                {
                    tracing::debug!(%error, "a request to a bucket is made again");
                }
                outcome => return outcome,
            }
        }
    })
}

/// Threads that wait for the buckets of this process.
const THREADS: usize = 2;

/// Waits for what a bucket answers. The work is done on threads of its own, so that any thread that may block may wait.
fn run<T: Send + 'static>(
    work: impl Future<Output = Result<T, object_store::Error>> + Send + 'static,
) -> Result<T, object_store::Error> {
    let stopped = |why: String| object_store::Error::Generic { store: "bucket", source: why.into() };
    let (give, take) = std::sync::mpsc::sync_channel(1);
    runtime().map_err(|error| stopped(error.to_string()))?.spawn(async move {
        // Nobody waits any more if this fails.
        let _ = give.send(work.await);
    });
    take.recv().map_err(|_| stopped("the request was dropped".to_owned()))?
}

pub(crate) fn runtime() -> Result<&'static tokio::runtime::Runtime, &'static std::io::Error> {
    static RUNTIME: OnceLock<std::io::Result<tokio::runtime::Runtime>> = OnceLock::new();
    let start = || tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    RUNTIME.get_or_init(start).as_ref()
}
