use proptest::prelude::*;

use super::*;

fn file(path: &str, chunks: &[u32]) -> Entry {
    let chunk = |bytes: &u32| ChunkRef { digest: Digest([*bytes as u8; 32]), bytes: *bytes };
    let node = Node::File { executable: false, chunks: chunks.iter().map(chunk).collect() };
    Entry { path: path.into(), node }
}

fn link(path: &str, target: &str) -> Entry {
    Entry { path: path.into(), node: Node::Link { target: target.into() } }
}

#[test]
fn paths_are_checked() {
    for good in ["a", "a/b", "a b/ü", "...", "a/..b", ".git"] {
        assert_eq!(check_path(good), Ok(()), "{good}");
    }
    let bad = [
        ("", PathFault::Empty),
        ("/a", PathFault::Absolute),
        ("a//b", PathFault::EmptyComponent),
        ("a/", PathFault::EmptyComponent),
        ("..", PathFault::Dots),
        ("a/../b", PathFault::Dots),
        ("./a", PathFault::Dots),
        ("a\0", PathFault::Nul),
    ];
    for (path, fault) in bad {
        assert_eq!(check_path(path), Err(fault), "{path:?}");
    }
    assert_eq!(check_path(&"a".repeat(256)), Err(PathFault::LongComponent));
    assert_eq!(check_path(&"a/".repeat(2000)), Err(PathFault::TooLong));
}

#[test]
fn links_stay_within_the_tree() {
    for (path, target) in [("a", "b"), ("d/a", "../b"), ("d/e/a", "../../b/c"), ("a", "./b"), ("a", "d/..b")] {
        assert_eq!(check_link(path, target), Ok(()), "{path} -> {target}");
    }
    let bad = [
        ("a", "..", LinkFault::Outside),
        ("a", "../b", LinkFault::Outside),
        ("d/a", "../../b", LinkFault::Outside),
        ("a", "/etc/passwd", LinkFault::Absolute),
        // With d/e/up -> .., this is one above the tree, though by its letters it is d.
        ("a", "d/e/up/../..", LinkFault::DotsWithin),
        ("a", "", LinkFault::Empty),
    ];
    for (path, target, fault) in bad {
        assert_eq!(check_link(path, target), Err(fault), "{path} -> {target}");
    }
}

#[test]
fn trees_that_cannot_be_are_refused() {
    let beneath = Manifest::new(vec![file("a", &[1]), file("a!", &[1]), file("a/b", &[1])]);
    assert_eq!(beneath, Err(BadManifest::Beneath { path: "a/b".into(), above: "a".into() }));
    let through_a_link = Manifest::new(vec![link("a", "b"), file("a/b", &[1])]);
    assert!(matches!(through_a_link, Err(BadManifest::Beneath { .. })));
    let twice = Manifest::new(vec![file("a", &[1]), file("a", &[2])]);
    assert_eq!(twice, Err(BadManifest::Order { path: "a".into() }));
    for bytes in [0, CHUNK_BYTES_MAX as u32 + 1] {
        let chunk = Manifest::new(vec![file("a", &[bytes])]);
        assert_eq!(chunk, Err(BadManifest::ChunkBytes { path: "a".into(), bytes }));
    }
}

#[test]
fn equal_trees_have_equal_versions_and_others_not() {
    let one = Manifest::new(vec![file("b", &[1, 2]), file("a", &[3])]).unwrap();
    let same = Manifest::new(vec![file("a", &[3]), file("b", &[1, 2])]).unwrap();
    let other = Manifest::new(vec![file("a", &[3, 1]), file("b", &[2])]).unwrap();
    assert_eq!(one.version(), same.version());
    assert_ne!(one.version(), other.version());
    assert_eq!(one.summary(), Summary { files: 2, bytes: 6, chunks: 3 });
}

#[test]
fn an_encoding_out_of_order_or_with_a_tail_is_refused() {
    let encoded = Manifest::new(vec![file("a", &[1]), file("b", &[1])]).unwrap().encode();
    let mut swapped = encoded.clone();
    let (first, second) = (15, 15 + 1 + 4 + 36 + 3);
    assert_eq!((swapped[first], swapped[second]), (b'a', b'b'));
    swapped.swap(first, second);
    assert!(matches!(Manifest::decode(&swapped), Err(BadManifest::Order { .. })));
    assert_eq!(Manifest::decode(&[&encoded[..], b"x"].concat()), Err(BadManifest::Trailing(1)));
    for end in 0..encoded.len() {
        assert!(Manifest::decode(&encoded[..end]).is_err(), "{end}");
    }
}

#[test]
fn a_claim_of_four_thousand_million_entries_or_chunks_takes_no_room() {
    let mut entries = MAGIC.to_vec();
    entries.extend_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Manifest::decode(&entries), Err(BadManifest::Short { entry: 0 }));
    let mut chunks = Manifest::new(vec![file("a", &[1])]).unwrap().encode();
    chunks[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Manifest::decode(&chunks), Err(BadManifest::Short { entry: 0 }));
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let chunk = (any::<[u8; 32]>(), 1..=CHUNK_BYTES_MAX as u32)
        .prop_map(|(digest, bytes)| ChunkRef { digest: Digest(digest), bytes });
    let node = prop_oneof![
        (any::<bool>(), prop::collection::vec(chunk, 0..5))
            .prop_map(|(executable, chunks)| Node::File { executable, chunks }),
        "[a-z]{1,5}(/[a-z]{1,5}){0,3}".prop_map(|target| Node::Link { target }),
        Just(Node::EmptyDir),
    ];
    // One letter more than directories have keeps files from being above others.
    prop::collection::btree_map("([a-z]{1,3}/){0,3}[a-zé ]{4}", node, 0..20)
        .prop_map(|tree| tree.into_iter().map(|(path, node)| Entry { path, node }).collect())
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(entries in entries()) {
        let manifest = Manifest::new(entries).unwrap();
        let encoded = manifest.encode();
        prop_assert_eq!(encoded.len(), manifest.encoded_len());
        prop_assert_eq!(Manifest::decode(&encoded).unwrap(), manifest);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic_and_what_it_takes_is_canonical(
        entries in entries(), at in any::<prop::sample::Index>(), with in any::<u8>(),
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = Manifest::decode(&noise);
        let _ = Manifest::decode(&[&MAGIC[..], &noise].concat());
        let mut encoded = Manifest::new(entries).unwrap().encode();
        let at = at.index(encoded.len());
        encoded[at] = with;
        if let Ok(manifest) = Manifest::decode(&encoded) {
            prop_assert_eq!(manifest.encode(), encoded);
        }
    }
}
