//! Manifests and their pages, from any bytes.

use tombolo_core::Digest;

use super::members::Members;
use super::pages::{HEIGHT_MAX, Item, PAGE_BYTES_MAX, PageTree, digest_of, read};
use super::{Entry, Manifest, Node, bytes_of, each_chunk};

/// What is decoded has one encoding, the set of its chunks is the set of its chunks, and nothing leads out of the tree.
pub fn manifest(bytes: &[u8]) {
    let mut places = Vec::new();
    let walked = each_chunk(bytes, |at| places.push(at));
    let members = Members::of(bytes);
    let Ok(manifest) = Manifest::decode(bytes) else { return };
    assert!(manifest.encode() == bytes, "two encodings of one manifest");
    assert_eq!(manifest.encoded_len(), bytes.len());
    walked.expect("what decodes is walked");
    let members = members.expect("what decodes has members");
    assert_eq!(places.len(), manifest.chunks().count());
    for (chunk, at) in manifest.chunks().zip(places) {
        assert!(bytes[at..at + 32] == chunk.digest.0, "a reference is elsewhere");
        assert!(members.contains(bytes, &chunk.digest), "a chunk is no member");
    }
    assert_eq!(bytes_of(bytes), Ok(manifest.summary().bytes));
    manifest.entries().iter().for_each(stays_within);
    assert!(Manifest::new(manifest.entries().to_vec()).is_ok_and(|again| again == manifest));
}

/// As a file system would resolve it, step by step.
fn stays_within(entry: &Entry) {
    let mut depth = 0;
    for part in entry.path.split('/') {
        assert!(!matches!(part, "" | "." | "..") && part.len() <= 255 && !part.contains('\0'), "{:?}", entry.path);
        depth += 1;
    }
    let Node::Link { target } = &entry.node else { return };
    assert!(!target.starts_with('/'), "{target:?}");
    depth -= 1;
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        assert!(depth >= 0, "{:?} leads out by {target:?}", entry.path);
    }
}

/// A tree holds exactly the bytes that it was made of, and any bytes are read as an item of one height at most.
pub fn pages(bytes: &[u8]) {
    let heights = (0..=HEIGHT_MAX + 1).filter(|height| read(bytes, *height).is_ok()).count();
    assert!(heights <= 1, "an item has several heights");
    if bytes.is_empty() {
        return;
    }
    let tree = PageTree::build(bytes);
    let root = tree.head(0);
    assert_eq!(root.len(), 1);
    let item = tree.item(root[0], bytes);
    let mut gathered = Vec::new();
    gather(&tree, bytes, &digest_of(&item), item[0], &mut gathered);
    assert!(gathered == bytes, "the tree holds something else");
}

fn gather(tree: &PageTree, encoded: &[u8], digest: &Digest, height: u8, into: &mut Vec<u8>) {
    let place = tree.find(digest).expect("a child of an item is in the tree");
    let item = tree.item(place, encoded);
    assert_eq!(digest_of(&item), *digest);
    match read(&item, height).expect("a tree's own item is one") {
        Item::Page(page) => {
            assert!(page.len() <= PAGE_BYTES_MAX);
            into.extend_from_slice(page);
        }
        Item::Node(children) => {
            children.iter().for_each(|child| gather(tree, encoded, &Digest(*child), height - 1, into))
        }
    }
}
