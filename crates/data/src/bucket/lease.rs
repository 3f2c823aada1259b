//! Leases as objects: who is at work, for as long as the object is renewed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use object_store::ObjectStoreExt;
use tokio_util::sync::CancellationToken;
use tombolo_core::{Timestamp, VersionId};

use super::{Bucket, runtime};
use crate::error::DataError;
use crate::lease::{LEASE_BYTES_MAX, Live};

/// A lease that is renewed as long as the value lives.
pub(crate) struct BucketLease {
    bucket: Arc<Bucket>,
    session: String,
    ended: CancellationToken,
    lapsed: Arc<AtomicBool>,
}

impl BucketLease {
    pub(crate) fn take(bucket: &Arc<Bucket>, session: &str, versions: &[VersionId]) -> Result<BucketLease, DataError> {
        let text: String = versions.iter().map(|version| format!("{version}\n")).collect();
        bucket.put("leases", session, text.clone().into_bytes())?;
        let lease = BucketLease {
            bucket: bucket.clone(),
            session: session.to_owned(),
            ended: CancellationToken::new(),
            lapsed: Arc::default(),
        };
        let (ended, lapsed) = (lease.ended.clone(), lease.lapsed.clone());
        let (objects, key, span) = (bucket.objects.clone(), bucket.key("leases", session), bucket.timing.lease);
        let renewing = async move {
            let mut renewed = Instant::now();
            loop {
                tokio::select! {
                    () = ended.cancelled() => return,
                    () = tokio::time::sleep(span / 5) => {}
                }
                let began = Instant::now();
                match objects.put_opts(&key, text.clone().into_bytes().into(), Default::default()).await {
                    Ok(_) if began.duration_since(renewed) < span => renewed = began,
                    Ok(_) => lapsed.store(true, Ordering::Relaxed),
                    Err(error) => tracing::warn!(%error, "a lease can't be renewed"),
                }
                if renewed.elapsed() >= span {
                    lapsed.store(true, Ordering::Relaxed);
                }
            }
        };
        if let Ok(runtime) = runtime() {
            runtime.spawn(renewing);
        }
        Ok(lease)
    }

    /// Whether a gc may have taken its packs for a dead one's.
    pub(crate) fn has_lapsed(&self) -> bool {
        self.lapsed.load(Ordering::Relaxed)
    }
}

impl Drop for BucketLease {
    fn drop(&mut self) {
        self.ended.cancel();
        let (objects, key) = (self.bucket.objects.clone(), self.bucket.key("leases", &self.session));
        // Nobody waits for it: what isn't removed now is dead soon, and removed by a gc.
        if let Ok(runtime) = runtime() {
            runtime.spawn(async move {
                if let Err(error) = objects.delete(&key).await {
                    tracing::debug!(%error, "a lease is left behind");
                }
            });
        }
    }
}

/// The leases that are alive at `now`; dead ones are removed.
pub(super) fn live(bucket: &Bucket, now: Timestamp) -> Result<Live, DataError> {
    let mut live = Live { sessions: BTreeSet::new(), versions: BTreeSet::new() };
    for item in bucket.list("leases")? {
        if now.since(item.modified).0 > bucket.timing.lease.as_millis() as u64 {
            bucket.remove("leases", &item.name)?;
            continue;
        }
        let Some(text) = bucket.get("leases", &item.name, LEASE_BYTES_MAX)? else { continue };
        live.versions.extend(String::from_utf8_lossy(&text).lines().filter_map(|line| line.parse::<VersionId>().ok()));
        live.sessions.insert(item.name);
    }
    Ok(live)
}
