//! What differs between a directory and a bucket: how packs and manifests get there, and how whole packs are read.

use std::borrow::Cow;
use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use tombolo_core::VersionId;

use super::Store;
use crate::bucket::{Bucket, BucketLease};
use crate::error::{At, DataError};
use crate::index::PackId;
use crate::lease::Lease;
use crate::pack::{self, PackWriter, sync_dir};
use crate::seal::{Purpose, SEAL_BYTES};

impl Store {
    pub(crate) fn bucket(&self) -> Option<&Arc<Bucket>> {
        self.inner.bucket.as_ref()
    }

    /// Makes a pack durable and known to all.
    pub(crate) fn seal(&self, pack: PackWriter, name: &str) -> Result<(), DataError> {
        let entries = match &self.inner.bucket {
            None => pack.seal(&self.path(&["packs", name]))?,
            Some(bucket) => {
                let (path, entries) = pack.finish()?;
                let uploaded = bucket.upload(&path, name);
                if uploaded.is_err() {
                    // What can't be removed now is removed by the next gc.
                    let _ = std::fs::remove_file(&path);
                }
                uploaded.map(|()| entries)?
            }
        };
        self.sealed(name, &entries);
        Ok(())
    }

    /// Makes a version durable whose chunks were all there at `looked`. False where that was too long ago to be sure
    /// that they still are; then the caller looks again.
    pub(crate) fn write_manifest(
        &self,
        version: VersionId,
        lease: &Lease,
        encoded: &[u8],
        looked: Instant,
    ) -> Result<bool, DataError> {
        let bytes = self.manifest_form(version, encoded)?;
        let Some(bucket) = &self.inner.bucket else {
            // A pack of another writer may be seen before its name is durable.
            sync_dir(&self.path(&["packs"]))?;
            self.write_durably("manifests", &version.to_string(), &lease.session, &bytes)?;
            return Ok(true);
        };
        if lease.bucket.as_ref().is_some_and(BucketLease::has_lapsed) {
            return Err(DataError::LeaseLapsed { session: lease.session.clone() });
        }
        bucket.put_manifest(version, bytes.into_owned())?;
        Ok(looked.elapsed() < bucket.timing.commit)
    }

    /// A manifest as it lies in this store.
    pub(crate) fn manifest_form<'a>(&self, version: VersionId, encoded: &'a [u8]) -> Result<Cow<'a, [u8]>, DataError> {
        let Some(key) = &self.inner.key else { return Ok(Cow::Borrowed(encoded)) };
        let sealed = key.seal(Purpose::Manifest, &version.0.0, encoded.len() as u64, encoded);
        Ok(Cow::Owned(sealed.at("can't encrypt what is to lie in", &self.inner.dir)?))
    }

    /// Of what lies in this store.
    pub(crate) fn manifest_of_form(&self, version: VersionId, bytes: Vec<u8>) -> Result<Vec<u8>, DataError> {
        let Some(key) = &self.inner.key else { return Ok(bytes) };
        let length = bytes.len().saturating_sub(SEAL_BYTES) as u64;
        let opened = key.open(Purpose::Manifest, &version.0.0, length, bytes);
        opened.map_err(|reason| DataError::CorruptManifest { version, reason })
    }

    /// A pack's file, as it lies where the store is; None where it is gone.
    pub(crate) fn open_pack(&self, name: &str) -> Result<Option<File>, DataError> {
        if let Some(bucket) = &self.inner.bucket {
            return bucket.download(name);
        }
        let path = self.path(&["packs", name]);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(DataError::io("can't open", path, e)),
        }
    }

    /// The packs' names and lengths.
    pub(crate) fn pack_sizes(&self) -> Result<Vec<(String, u64)>, DataError> {
        if let Some(bucket) = &self.inner.bucket {
            let known = bucket.packs()?.packs;
            let items = bucket
                .list("packs")?
                .into_iter()
                .filter(|item| PackId::parse(&item.name).is_some_and(|pack| known.contains(&pack)));
            return Ok(items.map(|item| (item.name, item.bytes)).collect());
        }
        let size = |name: &String| std::fs::metadata(self.path(&["packs", name])).map_or(0, |m| m.len());
        let names = pack::pack_names(&self.path(&["packs"]))?;
        Ok(names.into_iter().map(|name| (name.clone(), size(&name))).collect())
    }
}
