//! Which chunks a manifest refers to, in 8 bytes for each: a set of the digests themselves takes 55.

use tombolo_core::Digest;

use super::{BadManifest, MANIFEST_BYTES_MAX, each_chunk};

const _: () = assert!(MANIFEST_BYTES_MAX <= u32::MAX as usize);

/// The distinct chunks of an encoding, which every question has to bring along.
pub(crate) struct Members {
    /// The first bytes of a digest above, where in the encoding it lies below; in order of the digests.
    sorted: Vec<u64>,
}

impl Members {
    pub(crate) fn of(encoded: &[u8]) -> Result<Members, BadManifest> {
        let mut sorted = Vec::new();
        each_chunk(encoded, |at| sorted.push(u64::from(first(digest(encoded, at))) << 32 | at as u64))?;
        let key = |entry: &u64| digest(encoded, at(*entry));
        sorted.sort_unstable_by(|a, b| (a >> 32).cmp(&(b >> 32)).then_with(|| key(a).cmp(key(b))));
        sorted.dedup_by(|a, b| *a >> 32 == *b >> 32 && key(a) == key(b));
        sorted.shrink_to_fit();
        Ok(Members { sorted })
    }

    pub(crate) fn contains(&self, encoded: &[u8], wanted: &Digest) -> bool {
        let order = |entry: &u64| {
            let found = (entry >> 32).cmp(&u64::from(first(&wanted.0)));
            found.then_with(|| digest(encoded, at(*entry)).cmp(&wanted.0))
        };
        self.sorted.binary_search_by(order).is_ok()
    }
}

fn at(entry: u64) -> usize {
    entry as u32 as usize
}

fn digest(encoded: &[u8], at: usize) -> &[u8; 32] {
    encoded[at..].first_chunk().expect("each_chunk gives places of whole references")
}

fn first(digest: &[u8; 32]) -> u32 {
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{ChunkRef, Entry, Manifest, Node};

    #[test]
    fn it_holds_what_the_manifest_refers_to_and_nothing_else() {
        // Digests that share their first four bytes, in any order and twice.
        let name = |n: u8| Digest(std::array::from_fn(|i| if i < 4 { n % 3 } else { n }));
        let file = |path: &str, chunks: &[u8]| Entry {
            path: path.into(),
            node: Node::File {
                executable: false,
                chunks: chunks.iter().map(|n| ChunkRef { digest: name(*n), bytes: 9 }).collect(),
            },
        };
        let link = Entry { path: "c".into(), node: Node::Link { target: "a".into() } };
        let none = Entry { path: "d".into(), node: Node::EmptyDir };
        let manifest =
            Manifest::new(vec![file("a", &[9, 3, 6, 4, 3]), file("b", &[6, 9, 200, 6]), link, none]).unwrap();
        let encoded = manifest.encode();
        let members = Members::of(&encoded).unwrap();
        assert_eq!(members.sorted.len(), 5);
        for n in 0..=255 {
            assert_eq!(members.contains(&encoded, &name(n)), [3, 4, 6, 9, 200].contains(&n), "{n}");
        }
        assert!(Members::of(&encoded[..encoded.len() - 1]).is_err());
        let empty = Manifest::default().encode();
        assert!(!Members::of(&empty).unwrap().contains(&empty, &name(1)));
    }
}
