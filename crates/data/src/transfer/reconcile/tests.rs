use std::convert::Infallible;

use proptest::prelude::*;

use super::*;
use crate::manifest::pages::{CHILDREN_MAX, ITEM_BYTES_MAX, PAGE_BYTES_MAX};

const HEAD_BYTES: usize = 4 << 10;
const ASKED_MAX: usize = 100;
/// Rounds that no honest tree needs.
const ROUNDS_MAX: usize = 10_000;

/// Bytes as an encoding has them: digests, for the most part.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// What a walk came to.
#[derive(Debug, PartialEq)]
enum Outcome {
    Arrived { sent: usize, rounds: usize },
    Whole { sent: usize },
    Refused(String),
}

/// Lets a receiver that holds some manifests walk the tree of another; `mangle` changes every item on its way.
fn walk(held: &[&[u8]], wanted: &[u8], mut mangle: impl FnMut(&mut Vec<u8>)) -> Outcome {
    let sender = PageTree::build(wanted);
    let trees: Vec<PageTree> = held.iter().map(|encoded| PageTree::build(encoded)).collect();
    let mut sent = 0;
    let mut send = |place| {
        let mut item = sender.item(place, wanted);
        mangle(&mut item);
        sent += item.len();
        item
    };
    let head: Vec<Vec<u8>> = sender.head(HEAD_BYTES).into_iter().map(&mut send).collect();
    let mut walk = match Walk::new(wanted.len() as u64, &head) {
        Ok(walk) => walk,
        Err(why) => return Outcome::Refused(why),
    };
    if let Err(why) = walk.given(&head, &trees) {
        return Outcome::Refused(why);
    }
    for rounds in 1..ROUNDS_MAX {
        let asked = match walk.step(ASKED_MAX) {
            Step::Ask(asked) => asked,
            Step::Whole => return Outcome::Whole { sent },
            Step::Assemble => {
                let encoded = walk.assemble(|held_by| Ok::<_, Infallible>(held[held_by].to_vec())).unwrap();
                return match encoded {
                    Some(encoded) if encoded == wanted => Outcome::Arrived { sent, rounds },
                    Some(_) => Outcome::Refused("another manifest".to_owned()),
                    None => Outcome::Refused("not its length".to_owned()),
                };
            }
        };
        assert!(!asked.is_empty() && asked.len() <= ASKED_MAX);
        let Some(places) = asked.iter().map(|digest| sender.find(digest)).collect::<Option<Vec<_>>>() else {
            return Outcome::Refused("asked for what the sender hasn't got".to_owned());
        };
        if let Err(why) = walk.answered(&asked, places.into_iter().map(&mut send).collect(), &trees) {
            return Outcome::Refused(why);
        }
    }
    panic!("the walk doesn't end");
}

fn changed(encoded: &[u8], edits: &[(prop::sample::Index, usize, Vec<u8>)]) -> Vec<u8> {
    let mut changed = encoded.to_vec();
    for (at, gone, new) in edits {
        let at = at.index(changed.len());
        let end = (at + gone).min(changed.len());
        changed.splice(at..end, new.iter().copied());
    }
    changed
}

#[test]
fn a_few_changes_in_much_cost_little() {
    let old = noise(1, 4_000_000);
    let mut new = old.clone();
    for change in 0..10 {
        let at = change * 400_000 + 7;
        new[at..at + 36].copy_from_slice(&noise(change as u64 + 9, 36));
    }
    let Outcome::Arrived { sent, rounds } = walk(&[&noise(2, 100_000), &old], &new, |_| ()) else { panic!() };
    assert!(sent < 60_000 && rounds < 8, "{sent} bytes, {rounds} rounds");
    // What is held as it is costs the head alone.
    let Outcome::Arrived { sent: ..=HEAD_BYTES, rounds: 1 } = walk(&[&old], &old, |_| ()) else { panic!() };
}

#[test]
fn what_is_mostly_new_is_asked_for_whole() {
    let (old, new) = (noise(1, 1_000_000), noise(2, 1_000_000));
    for held in [&[][..], &[&old[..]]] {
        let Outcome::Whole { sent } = walk(held, &new, |_| ()) else { panic!() };
        // Digests of the pages only.
        assert!(sent < new.len() / 20, "{sent}");
    }
}

#[test]
fn an_item_that_is_changed_on_its_way_is_refused() {
    let old = noise(1, 1_000_000);
    let new = [&old[..500_000], b"something new", &old[500_000..]].concat();
    let Outcome::Arrived { rounds: 3.., .. } = walk(&[&old], &new, |_| ()) else { panic!() };
    // Each of the items that travel, in several ways.
    let (mut travelled, unasked) = (0, PageTree::build(&new).head(HEAD_BYTES).len());
    walk(&[&old], &new, |_| travelled += 1);
    assert!(unasked > 1 && travelled > unasked + 1, "{unasked} of {travelled}");
    let lies: [fn(&mut Vec<u8>); 5] = [
        |item| *item.last_mut().unwrap() ^= 1,
        |item| item[0] ^= 1,
        |item| item.truncate(item.len() - 1),
        Vec::clear,
        |item| item.resize(ITEM_BYTES_MAX + 1, 0),
    ];
    for lie in lies {
        for which in 0..travelled {
            let mut seen = 0;
            let outcome = walk(&[&old], &new, |item| {
                if seen == which {
                    lie(item);
                }
                seen += 1;
            });
            // What was given unasked and isn't of the tree is as if it had not been given.
            assert!(outcome != Outcome::Refused("another manifest".to_owned()), "item {which} was taken");
            let harmless = matches!(outcome, Outcome::Arrived { .. }) && (1..unasked).contains(&which);
            assert!(matches!(outcome, Outcome::Refused(_)) || harmless, "item {which}: {outcome:?}");
        }
    }
}

/// An item, and its digest.
fn node(height: u8, children: &[Digest]) -> (Vec<u8>, Digest) {
    let item: Vec<u8> = std::iter::once(height).chain(children.iter().flat_map(|child| child.0)).collect();
    let digest = digest_of(&item);
    (item, digest)
}

fn page(bytes: &[u8]) -> (Vec<u8>, Digest) {
    let item = [&[0][..], bytes].concat();
    let digest = digest_of(&item);
    (item, digest)
}

fn begun(bytes: u64, head: &[&[u8]]) -> Result<Walk, String> {
    let head: Vec<Vec<u8>> = head.iter().map(|item| item.to_vec()).collect();
    let mut walk = Walk::new(bytes, &head)?;
    walk.given(&head, &[]).map(|()| walk)
}

fn refused(walk: Result<Walk, String>, why: &str) {
    let Err(found) = walk else { panic!("taken, and not: {why}") };
    assert!(found.contains(why), "{found}, and not: {why}");
}

#[test]
fn a_tree_that_no_manifest_has_is_refused() {
    let (leaf, leaf_digest) = page(&[5; 600]);
    let (root, _) = node(1, &[leaf_digest]);
    assert_eq!(begun(600, &[&root, &leaf]).unwrap().step(9), Step::Assemble);
    // Promised lengths.
    for bytes in [0, MANIFEST_BYTES_MAX as u64 + 1, u64::MAX] {
        refused(begun(bytes, &[&root, &leaf]), "length");
    }
    refused(begun(599, &[&root, &leaf]), "longer");
    let short = begun(601, &[&root, &leaf]).unwrap();
    assert_eq!(short.step(9), Step::Assemble);
    assert_eq!(short.assemble(|_| Ok::<_, Infallible>(Vec::new())), Ok(None));
    // Roots.
    refused(begun(600, &[]), "no root");
    refused(begun(600, &[&[]]), "empty");
    refused(begun(600, &[&node(HEIGHT_MAX + 1, &[leaf_digest]).0]), "height");
    refused(begun(600, &[&[1]]), "children");
    refused(begun(600, &[&node(1, &[leaf_digest; CHILDREN_MAX + 1]).0]), "children");
    refused(begun(600, &[&[0; PAGE_BYTES_MAX + 2]]), "page");
    // A child of its parent's height, as in a tree that has no end.
    let (same, same_digest) = node(1, &[leaf_digest]);
    refused(begun(600, &[&node(1, &[same_digest]).0, &same]), "height");
    refused(begun(600, &[&node(2, &[leaf_digest]).0, &leaf]), "height");
    // One page that stands for as many as a tree can have.
    let (mut items, mut digest) = (vec![leaf], leaf_digest);
    for height in 1..=HEIGHT_MAX {
        let (item, above) = node(height, &[digest; CHILDREN_MAX]);
        (items, digest) = ([vec![item], items].concat(), above);
    }
    let items: Vec<&[u8]> = items.iter().map(Vec::as_slice).collect();
    refused(begun(MANIFEST_BYTES_MAX as u64, &items), "more pages");
}

#[test]
fn more_than_was_asked_for_is_refused() {
    let (leaf, digest) = page(&[5; 600]);
    let (root, _) = node(1, &[digest]);
    let mut walk = begun(1_000, &[&root]).unwrap();
    let more = walk.answered(&[digest], vec![leaf.clone(), leaf.clone()], &[]).unwrap_err();
    assert!(more.contains("more"), "{more}");
    let mut walk = begun(1_000, &[&root]).unwrap();
    let none = walk.answered(&[digest], Vec::new(), &[]).unwrap_err();
    assert!(none.contains("isn't what"), "{none}");
    let mut walk = begun(1_000, &[&root]).unwrap();
    walk.answered(&[digest], vec![leaf], &[]).unwrap();
    assert_eq!((walk.known(), walk.step(9)), (600, Step::Assemble));
}

fn edits() -> impl Strategy<Value = Vec<(prop::sample::Index, usize, Vec<u8>)>> {
    let edit = (any::<prop::sample::Index>(), 0..3_000_usize, prop::collection::vec(any::<u8>(), 0..3_000));
    prop::collection::vec(edit, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is held, what arrives is what was wanted.
    #[test]
    fn any_manifest_arrives_from_any_other(
        seed in 0..4_u64, bytes in 1..200_000_usize, unit in 1..100_000_usize, one in edits(), two in edits(),
    ) {
        // Repeated bytes make equal items.
        let base = noise(seed, unit).into_iter().cycle().take(bytes).collect::<Vec<_>>();
        let (old, other, mut new) = (changed(&base, &one), noise(seed + 9, bytes / 2 + 1), changed(&base, &two));
        if new.is_empty() {
            new.push(1);
        }
        let held: Vec<&[u8]> = [&old[..], &other].into_iter().filter(|held| !held.is_empty()).collect();
        let outcome = walk(&held, &new, |_| ());
        prop_assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    }

    /// No answer panics, and none that is wrong is taken.
    #[test]
    fn no_lie_is_taken(
        at in any::<prop::sample::Index>(), which in 0..8_usize, with in prop::collection::vec(any::<u8>(), 0..99),
    ) {
        let old = noise(1, 100_000);
        let new = [&old[..50_000], b"something new", &old[50_000..]].concat();
        let mut seen = 0;
        let outcome = walk(&[&old], &new, |item| {
            if seen == which {
                let at = at.index(item.len());
                item.splice(at.., with.iter().copied());
            }
            seen += 1;
        });
        prop_assert!(outcome != Outcome::Refused("another manifest".to_owned()), "{outcome:?}");
    }
}
