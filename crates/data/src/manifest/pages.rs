//! A manifest's encoding as a tree of pages: two sites find what differs between manifests by comparing digests, from the
//! root down.
//!
//! The encoding is cut where its content says so (FastCDC), and so are the lists of digests above the pages; a change
//! moves only what is next to it, and everything else keeps its digest, wherever it lies.
//! ```text
//! item     height u8: 0 for a page, whose bytes follow; else the digests of the node's children follow, 32 bytes each,
//!          whose height is one less
//! digest   BLAKE3 of the item, so that a page is never taken for a node, nor a node for one of another height
//! ```
//! Who compares relies on the digests alone: where the cuts are is its maker's affair.

use std::ops::Range;

use fastcdc::v2020::FastCDC;
use tombolo_core::Digest;

use super::MANIFEST_BYTES_MAX;

/// Shortest page, in bytes, but for the last one of a manifest.
pub(crate) const PAGE_BYTES_MIN: usize = 512;
const PAGE_BYTES_AVERAGE: usize = 1 << 10;
pub(crate) const PAGE_BYTES_MAX: usize = 4 << 10;
/// Fewest children of a node, but for the last one at its height. More than one, so that the tree ends.
const CHILDREN_MIN: usize = 8;
pub(crate) const CHILDREN_MAX: usize = 128;
/// A node ends after a child whose digest begins with this many zero bits; with the fewest it has 24 on average.
const CHILDREN_BITS: u32 = 4;
/// Height of the highest root.
pub(crate) const HEIGHT_MAX: u8 = 8;
/// Longest item, in bytes.
pub(crate) const ITEM_BYTES_MAX: usize = 1 + max(PAGE_BYTES_MAX, 32 * CHILDREN_MAX);

const _: () = assert!(MANIFEST_BYTES_MAX <= u32::MAX as usize);
const _: () = assert!(MANIFEST_BYTES_MAX / PAGE_BYTES_MIN < CHILDREN_MIN.pow(HEIGHT_MAX as u32));

const fn max(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

/// The tree above an encoding, without its bytes: 44 bytes of memory for each page, so a twenty-fifth of the encoding.
pub(crate) struct PageTree {
    /// The pages first, the root last.
    levels: Vec<Level>,
    /// All items by their digests.
    order: Vec<Place>,
}

/// The items of one height, from left to right.
#[derive(Default)]
struct Level {
    digests: Vec<Digest>,
    /// Where each ends: a page in the encoding, a node among the items below.
    ends: Vec<u32>,
}

/// One item of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    height: u8,
    index: u32,
}

/// What an item says.
pub(crate) enum Item<'a> {
    Page(&'a [u8]),
    Node(&'a [[u8; 32]]),
}

pub(crate) fn digest_of(item: &[u8]) -> Digest {
    Digest(*blake3::hash(item).as_bytes())
}

/// Reads an item that must be of this height.
pub(crate) fn read(item: &[u8], height: u8) -> Result<Item<'_>, &'static str> {
    let (found, content) = item.split_first().ok_or("it is empty")?;
    if *found != height {
        return Err("it is of another height than its place in the tree");
    }
    if height == 0 {
        return if (1..=PAGE_BYTES_MAX).contains(&content.len()) {
            Ok(Item::Page(content))
        } else {
            Err("it is no page's length")
        };
    }
    match content.as_chunks::<32>() {
        (children, []) if (1..=CHILDREN_MAX).contains(&children.len()) => Ok(Item::Node(children)),
        _ => Err("it is no list of children"),
    }
}

impl PageTree {
    /// The tree of an encoding, which is never empty and at most [`MANIFEST_BYTES_MAX`] bytes long.
    pub(crate) fn build(encoded: &[u8]) -> PageTree {
        let mut levels = vec![pages(encoded)];
        while let Some(below) = levels.last().filter(|level| level.digests.len() > 1) {
            let above = nodes(below, levels.len() as u8);
            levels.push(above);
        }
        let places = levels
            .iter()
            .zip(0..)
            .flat_map(|(level, height)| (0..level.digests.len() as u32).map(move |index| Place { height, index }));
        let mut order: Vec<Place> = places.collect();
        order.sort_unstable_by_key(|place| levels[usize::from(place.height)].digests[place.index as usize]);
        PageTree { levels, order }
    }

    pub(crate) fn find(&self, digest: &Digest) -> Option<Place> {
        let of = |place: &Place| self.levels[usize::from(place.height)].digests[place.index as usize];
        self.order.binary_search_by_key(digest, of).ok().map(|found| self.order[found])
    }

    /// Where in the encoding what is beneath the item lies.
    pub(crate) fn span(&self, place: Place) -> Range<usize> {
        let index = place.index as usize;
        let mut span = index..index + 1;
        for level in self.levels[..=usize::from(place.height)].iter().rev() {
            span = level.start(span.start)..level.start(span.end);
        }
        span
    }

    /// The item itself; `encoded` is what the tree was built of.
    pub(crate) fn item(&self, place: Place, encoded: &[u8]) -> Vec<u8> {
        let level = &self.levels[usize::from(place.height)];
        let within = level.start(place.index as usize)..level.start(place.index as usize + 1);
        let mut item = vec![place.height];
        match place.height {
            0 => item.extend_from_slice(&encoded[within]),
            height => item.extend(self.levels[usize::from(height) - 1].digests[within].iter().flat_map(|d| d.0)),
        }
        item
    }

    /// The root, and of the nodes below it as many whole levels as fit in `bytes_max`.
    pub(crate) fn head(&self, bytes_max: usize) -> Vec<Place> {
        let (mut head, mut bytes) = (Vec::new(), 0);
        for (height, level) in self.levels.iter().enumerate().rev() {
            let below = height.checked_sub(1).map(|below| &self.levels[below]);
            bytes += level.digests.len() + below.map_or(usize::MAX / 2, |below| 32 * below.digests.len());
            if !head.is_empty() && bytes > bytes_max {
                break;
            }
            let height = height as u8;
            head.extend((0..level.digests.len() as u32).map(|index| Place { height, index }));
        }
        head
    }
}

impl Level {
    /// Where an item begins; also where the one before it ends.
    fn start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.ends[before] as usize)
    }

    fn push(&mut self, digest: Digest, end: usize) {
        self.digests.push(digest);
        self.ends.push(end as u32);
    }
}

fn pages(encoded: &[u8]) -> Level {
    let cdc = FastCDC::new(encoded, PAGE_BYTES_MIN, PAGE_BYTES_AVERAGE, PAGE_BYTES_MAX);
    let (mut level, mut start) = (Level::default(), 0);
    while start < encoded.len() {
        let (_, end) = cdc.cut(start, encoded.len() - start);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[0]).update(&encoded[start..end]);
        level.push(Digest(*hasher.finalize().as_bytes()), end);
        start = end;
    }
    level
}

fn nodes(below: &Level, height: u8) -> Level {
    let (mut level, mut item) = (Level::default(), vec![height]);
    for (digest, end) in below.digests.iter().zip(1..) {
        item.extend_from_slice(&digest.0);
        let children = item.len() / 32;
        let ends = children >= CHILDREN_MIN && u32::from(digest.0[0]) >> (8 - CHILDREN_BITS) == 0;
        if ends || children == CHILDREN_MAX || end == below.digests.len() {
            level.push(digest_of(&item), end);
            item.truncate(1);
        }
    }
    level
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes as of an encoding: digests.
    fn noise(seed: u64, bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
        out
    }

    /// Everything beneath an item, from the items alone.
    fn gather(tree: &PageTree, encoded: &[u8], digest: &Digest, height: u8) -> Vec<u8> {
        let place = tree.find(digest).unwrap();
        assert_eq!(place.height, height);
        let item = tree.item(place, encoded);
        assert_eq!(digest_of(&item), *digest);
        let gathered = match read(&item, height).unwrap() {
            Item::Page(bytes) => bytes.to_vec(),
            Item::Node(children) => {
                children.iter().flat_map(|child| gather(tree, encoded, &Digest(*child), height - 1)).collect()
            }
        };
        assert!(gathered == encoded[tree.span(place)]);
        gathered
    }

    #[test]
    fn the_tree_of_an_encoding_holds_it() {
        for bytes in [1, 12, PAGE_BYTES_MIN, 3_000, 100_000, 2_000_000] {
            let encoded = noise(bytes as u64, bytes);
            let tree = PageTree::build(&encoded);
            let height = tree.levels.len() - 1;
            let root = tree.levels[height].digests[0];
            assert!(gather(&tree, &encoded, &root, height as u8) == encoded, "{bytes}");
            let pages = &tree.levels[0];
            let short = (1..pages.ends.len()).filter(|i| pages.start(*i) - pages.start(i - 1) < PAGE_BYTES_MIN);
            assert_eq!(short.count(), 0, "{bytes}");
        }
        // The bytes of one page over and over: nothing says where to cut, and the tree still ends.
        for unit in [noise(1, 36), vec![0]] {
            let encoded = unit.repeat(4_000_000 / unit.len());
            let tree = PageTree::build(&encoded);
            assert!(tree.levels.len() <= usize::from(HEIGHT_MAX) + 1);
            let root = tree.levels.last().unwrap().digests[0];
            assert!(gather(&tree, &encoded, &root, tree.levels.len() as u8 - 1) == encoded);
        }
    }

    #[test]
    fn a_change_leaves_the_rest_as_it_was() {
        let encoded = noise(1, 4_000_000);
        let tree = PageTree::build(&encoded);
        let mut changed = encoded.clone();
        changed.splice(2_000_000..2_000_001, [7; 40]);
        let other = PageTree::build(&changed);
        for (height, level) in other.levels.iter().enumerate() {
            let new = level.digests.iter().filter(|digest| tree.find(digest).is_none()).count();
            assert!((1..=3).contains(&new), "{new} of {} at height {height}", level.digests.len());
        }
    }

    #[test]
    fn the_head_is_whole_levels_from_the_root() {
        let encoded = noise(1, 4_000_000);
        let tree = PageTree::build(&encoded);
        let nodes: usize = tree.levels[1..].iter().map(|level| level.digests.len()).sum();
        assert_eq!(tree.head(0).len(), 1);
        assert_eq!(tree.head(usize::MAX / 4).len(), nodes, "never a page");
        let head = tree.head(32 << 10);
        assert!((2..nodes).contains(&head.len()), "{} of {nodes}", head.len());
        let bytes: usize = head.iter().map(|place| tree.item(*place, &encoded).len()).sum();
        assert!(bytes <= 32 << 10, "{bytes}");
        let alone = PageTree::build(b"small");
        assert_eq!(alone.head(0), [Place { height: 0, index: 0 }]);
    }

    #[test]
    fn what_is_no_item_is_refused() {
        let node: Vec<u8> = [&[1][..], &[7; 64]].concat();
        assert!(matches!(read(&node, 1), Ok(Item::Node(children)) if children.len() == 2));
        assert!(read(&node, 0).is_err() && read(&node, 2).is_err());
        assert!(matches!(read(&[0, 5], 0), Ok(Item::Page([5]))));
        for bad in [&[][..], &[0], &[1], &node[..64], &[0; PAGE_BYTES_MAX + 2], &[1; 2 + 32 * CHILDREN_MAX]] {
            let height = bad.first().copied().unwrap_or(0);
            assert!(read(bad, height).is_err(), "{} bytes", bad.len());
        }
        let mut long = vec![1; 1 + 32 * CHILDREN_MAX];
        assert!(read(&long, 1).is_ok());
        long.extend_from_slice(&[1; 32]);
        assert!(read(&long, 1).is_err());
    }
}
