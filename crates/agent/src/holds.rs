//! Versions that garbage collection leaves alone for a while, because the control plane is about to name them.
//!
//! What to keep is told with each collection, and one that has begun may be of before the name was given. A lease of the
//! store is seen by it too, whenever it began.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tombolo_core::VersionId;
use tombolo_data::{DataError, Hold, Store};

/// By then every collection that did not know of the name is long over.
const HELD_FOR: Duration = Duration::from_secs(3_600);
/// Versions held at the same time.
const HELD_MAX: usize = 256;

#[derive(Default)]
pub struct Holds(Mutex<BTreeMap<VersionId, (Instant, Hold)>>);

impl Holds {
    /// Holds a version that is here whole: whether it is. The wait for the store is for a thread that may block.
    pub fn hold(&self, store: &Store, version: VersionId, now: Instant) -> Result<bool, DataError> {
        let mut held = self.0.lock().expect("nobody panics while holding it");
        held.retain(|_, (since, _)| now.duration_since(*since) < HELD_FOR);
        if held.len() >= HELD_MAX && !held.contains_key(&version) {
            tracing::warn!(%version, "{HELD_MAX} versions are held already; this one counts as not here");
            return Ok(false);
        }
        // The lease first: from then on it stays whole if it is.
        let hold = match store.hold(version) {
            Ok(hold) => hold,
            Err(DataError::NoVersion { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        store.refresh()?;
        // In a bucket, also without what a collection is about to remove.
        let whole = match store.manifest(version) {
            Ok(manifest) => store.missing_refreshed(&manifest)?.is_empty(),
            Err(DataError::NoVersion { .. } | DataError::CorruptManifest { .. }) => false,
            Err(error) => return Err(error),
        };
        if whole {
            held.insert(version, (now, hold));
        }
        Ok(whole)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tombolo_core::{Millis, Timestamp};
    use tombolo_data::{AddOptions, StoreOptions};

    use super::*;

    #[test]
    fn what_is_held_outlives_a_collection_that_does_not_know_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store"), StoreOptions::default()).unwrap();
        let add = |text: &str| {
            let file = dir.path().join("file");
            std::fs::write(&file, text).unwrap();
            store.add_tree(&file, &AddOptions::default()).unwrap().version
        };
        let (wanted, other) = (add("wanted"), add("other"));
        // An age that nothing is younger than.
        let collect = || store.gc(&BTreeSet::new(), Timestamp(i64::MAX / 2), Millis(0)).unwrap().versions_removed;
        let (holds, now) = (Holds::default(), Instant::now());
        assert!(holds.hold(&store, wanted, now).unwrap());
        assert!(holds.hold(&store, wanted, now).unwrap(), "asked again");
        assert_eq!(collect(), [other]);
        assert!(!holds.hold(&store, other, now).unwrap(), "it is gone");
        assert!(store.has(wanted).unwrap());
        // The next question lets go of what was held for long enough.
        assert!(!holds.hold(&store, other, now + HELD_FOR).unwrap());
        assert_eq!(collect(), [wanted]);
    }
}
