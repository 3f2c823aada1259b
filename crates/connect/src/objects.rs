//! Objects under a prefix, or one file from the web, into files.
//!
//! Every object is read in ranges under the entity tag that it was listed with, so that a file is never half of one
//! version and half of another, and a connection that breaks costs one range.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use url::Url;

use crate::error::at;
use crate::{Brought, ConnectError, Import};

/// Objects brought at once, each with one range in memory.
const PARALLEL: usize = 4;
const RANGE_BYTES: u64 = 16 << 20;
/// Objects under one prefix.
const OBJECTS_MAX: usize = 5_000_000;
const HINT: &str = "check the address, and that the credentials are among the stage's secrets";
/// Times that a download from the web goes on after its connection broke without a byte having come.
/// How long a server may take to be reached, and to say something more.
const CONNECT_WITHIN: std::time::Duration = std::time::Duration::from_secs(30);
const SILENT_MAX: std::time::Duration = std::time::Duration::from_secs(120);
const WEB_TRIES_MAX: u32 = 5;
const WEB_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);
/// Settings that object_store knows by the names of the clouds' own tools begin so.
const ENV_PREFIXES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

pub(crate) async fn bring(url: &str, import: &Import) -> Result<Brought, ConnectError> {
    let parsed = Url::parse(url).map_err(|error| unreachable(url, &error))?;
    let settings = import.env.iter().filter(|(name, _)| ENV_PREFIXES.iter().any(|prefix| name.starts_with(prefix)));
    let settings = settings.map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
    let (store, prefix) = object_store::parse_url_opts(&parsed, settings).map_err(|error| unreachable(url, &error))?;
    let store: Arc<dyn ObjectStore> = Arc::from(store);
    let objects = list(&store, &prefix, url).await?;
    let mut brought = Brought::default();
    let mut coming = futures_util::stream::iter(objects.into_iter().map(|meta| {
        let store = store.clone();
        let prefix = prefix.clone();
        async move {
            let path = import.output.join(place(&prefix, &meta.location)?);
            read(&store, &meta, &path).await
        }
    }))
    .buffer_unordered(PARALLEL);
    while let Some(bytes) = coming.try_next().await? {
        brought.files += 1;
        brought.bytes += bytes;
    }
    Ok(brought)
}

async fn list(store: &Arc<dyn ObjectStore>, prefix: &Key, url: &str) -> Result<Vec<ObjectMeta>, ConnectError> {
    let mut objects: Vec<ObjectMeta> = Vec::new();
    let mut listing = store.list(Some(prefix));
    while let Some(meta) = listing.try_next().await.map_err(|error| unreachable(url, &error))? {
        objects.push(meta);
        if objects.len() > OBJECTS_MAX {
            let why = format!("more than {OBJECTS_MAX} objects are there");
            return Err(ConnectError::Unreachable { address: url.to_owned(), why, hint: "name a narrower prefix" });
        }
    }
    if objects.is_empty() {
        // A listing is of what is below; the address may be one object's own.
        match store.head(prefix).await {
            Ok(meta) => objects.push(meta),
            Err(object_store::Error::NotFound { .. }) => return Err(ConnectError::Nothing { address: url.to_owned() }),
            Err(error) => return Err(unreachable(url, &error)),
        }
    }
    drop_folders(&mut objects, prefix);
    Ok(objects)
}

/// Takes away the objects that some tools make for folders: without bytes, and named as what others are below. (Their
/// names end in a slash, which a [`Key`] has not.)
fn drop_folders(objects: &mut Vec<ObjectMeta>, prefix: &Key) {
    let folders: BTreeSet<String> = objects
        .iter()
        .flat_map(|object| {
            let name = object.location.as_ref();
            name.match_indices('/').map(|(end, _)| name[..end].to_owned()).collect::<Vec<_>>()
        })
        .collect();
    let alone = objects.len() == 1;
    objects.retain(|object| {
        let folder = folders.contains(object.location.as_ref()) || (object.location == *prefix && !alone);
        object.size > 0 || !folder
    });
}

/// Where an object goes below the output: its name without the prefix.
fn place(prefix: &Key, object: &Key) -> Result<PathBuf, ConnectError> {
    let parts: Vec<_> = match object.prefix_match(prefix) {
        Some(parts) => parts.map(|part| part.as_ref().to_owned()).collect(),
        None => Vec::new(),
    };
    let parts = match parts.is_empty() {
        true => object.filename().map(str::to_owned).into_iter().collect(),
        false => parts,
    };
    below(parts, object.as_ref())
}

/// A relative path of names, none of which leads elsewhere.
fn below(parts: Vec<String>, object: &str) -> Result<PathBuf, ConnectError> {
    let bad = |part: &String| part.is_empty() || part == "." || part == ".." || part.contains(['/', '\0']);
    if parts.is_empty() || parts.iter().any(bad) {
        return Err(ConnectError::BadName { object: object.to_owned() });
    }
    Ok(parts.iter().collect())
}

async fn read(store: &Arc<dyn ObjectStore>, meta: &ObjectMeta, path: &Path) -> Result<u64, ConnectError> {
    if let Some(folder) = path.parent() {
        tokio::fs::create_dir_all(folder).await.map_err(at(folder))?;
    }
    let mut file = File::create(path).await.map_err(at(path))?;
    let mut from = 0;
    while from < meta.size {
        let to = (from + RANGE_BYTES).min(meta.size);
        let mut options = GetOptions { range: Some(GetRange::Bounded(from..to)), ..GetOptions::default() };
        options.if_match.clone_from(&meta.e_tag);
        let failed = |error: object_store::Error| match error {
            object_store::Error::Precondition { .. } | object_store::Error::NotFound { .. } => {
                ConnectError::Changed { object: meta.location.to_string() }
            }
            error => unreachable(meta.location.as_ref(), &error),
        };
        let answer = store.get_opts(&meta.location, options).await.map_err(failed)?;
        let bytes = answer.bytes().await.map_err(failed)?;
        if bytes.len() as u64 != to - from {
            return Err(ConnectError::Changed { object: meta.location.to_string() });
        }
        file.write_all(&bytes).await.map_err(at(path))?;
        from = to;
    }
    file.flush().await.map_err(at(path))?;
    Ok(meta.size)
}

/// One file by GET; goes on where a broken connection ended, if the server says that the file is the same.
pub(crate) async fn bring_file(url: &str, import: &Import) -> Result<Brought, ConnectError> {
    let parsed = Url::parse(url).map_err(|error| unreachable(url, &error))?;
    let name = parsed.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default();
    let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned();
    let path = import.output.join(below(vec![name], url)?);
    let mut file = File::create(&path).await.map_err(at(&path))?;
    let client = reqwest_objects::Client::builder().connect_timeout(CONNECT_WITHIN).read_timeout(SILENT_MAX).build();
    let client = client.map_err(|error| unreachable(url, &error))?;
    let mut download = Download { url: parsed, done: 0, tag: None, total: None };
    let mut fruitless = 0;
    loop {
        let before = download.done;
        let Err(error) = download.go_on(&client, &mut file, &path).await else { break };
        fruitless = if download.done > before { 0 } else { fruitless + 1 };
        let again = matches!(error, ConnectError::Unreachable { .. }) && download.tag.is_some();
        if !again || fruitless >= WEB_TRIES_MAX {
            return Err(error);
        }
        tokio::time::sleep(WEB_PAUSE).await;
    }
    file.flush().await.map_err(at(&path))?;
    Ok(Brought { files: 1, bytes: download.done, ..Brought::default() })
}

struct Download {
    url: Url,
    done: u64,
    /// The strong entity tag under which it began.
    tag: Option<String>,
    total: Option<u64>,
}

impl Download {
    async fn go_on(
        &mut self,
        client: &reqwest_objects::Client,
        file: &mut File,
        path: &Path,
    ) -> Result<(), ConnectError> {
        // An address may carry a signature in its query, which is nobody's to read.
        let mut shown = self.url.clone();
        shown.set_query(None);
        let lost = |error: reqwest_objects::Error| unreachable(shown.as_str(), &error.without_url());
        let mut request = client.get(self.url.clone());
        if let Some(tag) = self.tag.as_ref().filter(|_| self.done > 0) {
            request = request.header("range", format!("bytes={}-", self.done)).header("if-match", tag);
        }
        let answer = request.send().await.map_err(lost)?;
        let status = answer.status().as_u16();
        match (status, self.done) {
            (200, 0) | (206, _) => {}
            (200 | 412 | 416, _) => return Err(ConnectError::Changed { object: shown.to_string() }),
            (404 | 410, _) => return Err(ConnectError::Nothing { address: shown.to_string() }),
            _ => {
                let why = format!("the server answered {}", answer.status());
                return Err(ConnectError::Unreachable { address: shown.to_string(), why, hint: HINT });
            }
        }
        if self.done == 0 {
            let tag = answer.headers().get("etag").and_then(|tag| tag.to_str().ok());
            self.tag = tag.filter(|tag| !tag.starts_with("W/")).map(str::to_owned);
            self.total = answer.content_length();
        }
        let mut body = answer.bytes_stream();
        while let Some(bytes) = body.next().await {
            let bytes = bytes.map_err(lost)?;
            file.write_all(&bytes).await.map_err(at(path))?;
            self.done += bytes.len() as u64;
        }
        match self.total {
            Some(total) if total != self.done => {
                let why = format!("{} of {total} bytes came", self.done);
                Err(ConnectError::Unreachable { address: shown.to_string(), why, hint: HINT })
            }
            _ => Ok(()),
        }
    }
}

fn unreachable(address: &str, error: &dyn std::error::Error) -> ConnectError {
    ConnectError::Unreachable { address: address.to_owned(), why: tombolo_core::chain(error), hint: HINT }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_no_files() {
        let object = |(name, size): (&str, u64)| ObjectMeta {
            location: Key::from(name),
            last_modified: Default::default(),
            size,
            e_tag: None,
            version: None,
        };
        let left = |objects: &[(&str, u64)]| {
            let mut objects: Vec<_> = objects.iter().copied().map(object).collect();
            drop_folders(&mut objects, &Key::from("lake/flights"));
            objects.into_iter().map(|object| object.location.to_string()).collect::<Vec<_>>()
        };
        let listed =
            [("lake/flights", 0), ("lake/flights/2026", 0), ("lake/flights/2026/a.csv", 5), ("lake/flights/empty", 0)];
        assert_eq!(left(&listed), ["lake/flights/2026/a.csv", "lake/flights/empty"]);
        assert_eq!(left(&[("lake/flights", 0)]), ["lake/flights"]);
        assert_eq!(left(&[("lake/flights", 7), ("lake/flights/b", 1)]), ["lake/flights", "lake/flights/b"]);
    }

    #[test]
    fn names_become_paths_below_the_output() {
        let prefix = Key::from("lake/flights");
        let place = |object: &str| place(&prefix, &Key::from(object)).map_err(|error| error.to_string());
        assert_eq!(place("lake/flights/2026/a.parquet"), Ok(PathBuf::from("2026/a.parquet")));
        assert_eq!(place("lake/flights"), Ok(PathBuf::from("flights")));
        for wrong in ["..", ".", "", "a/b", "a\0"] {
            below(vec!["fine".to_owned(), wrong.to_owned()], "object").expect_err(wrong);
        }
    }
}
