//! A version's sketch, from its manifest.

use tombolo_core::VersionId;
use tombolo_core::sketch::{Sampled, Sketch};

use crate::error::DataError;
use crate::manifest::{ChunkRef, Manifest};
use crate::store::Store;

impl Manifest {
    /// A sample of the chunks, by which versions can be compared without their manifests.
    pub fn sketch(&self) -> Sketch {
        Sketch::new(self.chunks().map(sampled).collect())
    }
}

impl Store {
    pub fn sketch(&self, version: VersionId) -> Result<Sketch, DataError> {
        Ok(self.manifest(version)?.sketch())
    }
}

fn sampled(chunk: &ChunkRef) -> Sampled {
    let [a, b, c, d, e, f, g, h, ..] = chunk.digest.0;
    (u64::from_be_bytes([a, b, c, d, e, f, g, h]), chunk.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Entry, Node};
    use tombolo_core::Digest;

    #[test]
    fn each_chunk_counts_once_and_what_is_kept_comes_back() {
        let chunk = |n: u8| ChunkRef { digest: Digest([n; 32]), bytes: 100 + u32::from(n) };
        let file = |path: &str, chunks: &[u8]| Entry {
            path: path.into(),
            node: Node::File { executable: false, chunks: chunks.iter().map(|n| chunk(*n)).collect() },
        };
        let manifest = Manifest::new(vec![file("a", &[3, 1, 3]), file("b", &[1, 2]), file("c", &[])]).unwrap();
        let sketch = manifest.sketch();
        assert_eq!((sketch.chunks(), sketch.bytes(), sketch.is_whole()), (3, 306, true));
        let text = serde_json::to_string(&sketch).unwrap();
        let sample = "010101010101010100000065020202020202020200000066030303030303030300000067";
        assert_eq!(text, format!(r#"{{"chunks":3,"bytes":306,"sample":"{sample}"}}"#));
        assert_eq!(serde_json::from_str::<Sketch>(&text).unwrap(), sketch);
        let refuse = |from: &str, to: &str, why: &str| {
            let error = serde_json::from_str::<Sketch>(&text.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        };
        refuse("\"chunks\":3", "\"chunks\":4", "is not the smallest of its chunks");
        refuse("306", "305", "is not a part of its bytes");
        refuse("306", "307", "is not a part of its bytes");
        refuse("0202020202020202", "0402020202020202", "is out of order");
        refuse("00000067\"", "0000006\"", "is no hex digits");
        refuse("00000067\"", "0000006x\"", "is no hex digits");
    }

    #[test]
    fn one_percent_changed_is_one_percent_missing() {
        let (dir, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = Store::open(dir.path(), crate::StoreOptions::default()).unwrap();
        let mut bytes = noise(8 << 20);
        let add = |bytes: &[u8]| {
            std::fs::write(tree.path().join("data.bin"), bytes).unwrap();
            store.add_tree(tree.path(), &crate::AddOptions::default()).unwrap()
        };
        let first = add(&bytes);
        bytes[1_000_000] ^= 1;
        let second = add(&bytes);
        let (old, new) = (store.sketch(first.version).unwrap(), store.sketch(second.version).unwrap());
        assert!(new.is_whole());
        let missing = new.missing(&[&old]);
        assert!((1..second.bytes / 50).contains(&missing), "{missing} of {}", second.bytes);
        let manifest = store.manifest(first.version).unwrap();
        let known: std::collections::HashSet<_> = manifest.chunks().collect();
        let changed = store.manifest(second.version).unwrap();
        let exact: u64 =
            changed.chunks().filter(|chunk| !known.contains(chunk)).map(|chunk| u64::from(chunk.bytes)).sum();
        assert_eq!(missing, exact);
    }

    /// Bytes that don't repeat (Knuth's MMIX generator).
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..length).map(|_| next()).collect()
    }
}
