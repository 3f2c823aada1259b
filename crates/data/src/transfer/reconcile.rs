//! What of a version's manifest isn't here: a walk down the sender's tree of pages, without IO.
//!
//! Where an item of the tree is one of a manifest that is held, all beneath it is here and nothing more is asked. The
//! walk believes nothing: an item counts by its digest, heights fall from parent to child, and there are never more
//! parts than a manifest of the promised length can have. That the whole is the right one its version says.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use tombolo_core::Digest;

use crate::manifest::MANIFEST_BYTES_MAX;
use crate::manifest::pages::{HEIGHT_MAX, Item, PAGE_BYTES_MIN, PageTree, digest_of, read};

/// A manifest on its way from what is held and what is sent.
pub(super) struct Walk {
    /// Of the encoding, as the sender says.
    bytes: usize,
    /// From left to right.
    parts: Vec<Part>,
}

enum Part {
    /// Nothing of it is here, as far as is known.
    Wanted {
        height: u8,
        digest: Digest,
    },
    /// In the encoding of one of the manifests that are held.
    Held {
        manifest: usize,
        span: Range<usize>,
    },
    Page(Vec<u8>),
}

impl Part {
    fn bytes(&self) -> usize {
        match self {
            Part::Wanted { .. } => 0,
            Part::Held { span, .. } => span.len(),
            Part::Page(bytes) => bytes.len(),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask for these items, all of one kind: nodes as long as there are any.
    Ask(Vec<Digest>),
    /// Most of it isn't here, and the whole is cheaper than its parts.
    Whole,
    /// All is known.
    Assemble,
}

impl Walk {
    /// Begins with the root, the first of the items that the sender gives unasked.
    pub(super) fn new(bytes: u64, head: &[Vec<u8>]) -> Result<Walk, String> {
        let bytes = usize::try_from(bytes).ok().filter(|bytes| (1..=MANIFEST_BYTES_MAX).contains(bytes));
        let bytes = bytes.ok_or("its manifest's length is none that a manifest has")?;
        let root = head.first().ok_or("its tree has no root")?;
        let height = *root.first().ok_or("its tree's root is empty")?;
        if height > HEIGHT_MAX {
            return Err(format!("its tree has a height of {height}"));
        }
        Ok(Walk { bytes, parts: vec![Part::Wanted { height, digest: digest_of(root) }] })
    }

    /// What to do next; asks for at most `asked_max` items.
    pub(super) fn step(&self, asked_max: usize) -> Step {
        let wanted = |nodes: bool| {
            let wanted = self.parts.iter().filter_map(move |part| match part {
                Part::Wanted { height, digest } if (*height > 0) == nodes => Some(*digest),
                _ => None,
            });
            let mut seen = HashSet::new();
            // What occurs twice is asked for once.
            wanted.filter(|digest| seen.insert(*digest)).take(asked_max).collect::<Vec<_>>()
        };
        let nodes = wanted(true);
        if !nodes.is_empty() {
            return Step::Ask(nodes);
        }
        let pages = wanted(false);
        if pages.is_empty() {
            Step::Assemble
        } else if self.known() < self.bytes / 2 {
            Step::Whole
        } else {
            Step::Ask(pages)
        }
    }

    /// Takes what was asked for, each item in its question's place.
    pub(super) fn answered(&mut self, asked: &[Digest], items: Vec<Vec<u8>>, held: &[PageTree]) -> Result<(), String> {
        let given = items.len();
        let items: HashMap<Digest, Vec<u8>> = items.into_iter().map(|item| (digest_of(&item), item)).collect();
        match asked.iter().find(|digest| !items.contains_key(digest)) {
            Some(digest) => Err(format!("item {} of its tree isn't what it should be", digest.short())),
            None if given > asked.len() => Err("it gave more of its tree than was asked for".to_owned()),
            None => self.take(&items, held),
        }
    }

    /// Takes what the sender gave unasked, as far as it belongs to the tree.
    pub(super) fn given(&mut self, head: &[Vec<u8>], held: &[PageTree]) -> Result<(), String> {
        self.take(&head.iter().map(|item| (digest_of(item), item.clone())).collect(), held)
    }

    fn take(&mut self, items: &HashMap<Digest, Vec<u8>>, held: &[PageTree]) -> Result<(), String> {
        // Every part is at least a page, and only the last page may be short.
        let parts_max = self.bytes / PAGE_BYTES_MIN + 1;
        let mut rest = std::mem::take(&mut self.parts);
        rest.reverse();
        while let Some(part) = rest.pop() {
            match part {
                Part::Wanted { height, digest } => {
                    let found = held.iter().enumerate().find_map(|(manifest, tree)| {
                        tree.find(&digest).map(|place| Part::Held { manifest, span: tree.span(place) })
                    });
                    match (found, items.get(&digest)) {
                        (Some(found), _) => self.push(found),
                        (None, None) => self.parts.push(part),
                        (None, Some(item)) => match read(item, height) {
                            Ok(Item::Page(bytes)) => self.parts.push(Part::Page(bytes.to_vec())),
                            Ok(Item::Node(children)) => {
                                let below =
                                    |child: &[u8; 32]| Part::Wanted { height: height - 1, digest: Digest(*child) };
                                rest.extend(children.iter().rev().map(below));
                            }
                            Err(why) => return Err(format!("item {} of its tree: {why}", digest.short())),
                        },
                    }
                }
                known => self.push(known),
            }
            if self.parts.len() + rest.len() > parts_max {
                return Err("its tree has more pages than its manifest has room for".to_owned());
            }
        }
        if self.known() > self.bytes {
            return Err("its tree's pages are longer than its manifest".to_owned());
        }
        Ok(())
    }

    /// Adds a part, to the one before it where that goes on.
    fn push(&mut self, part: Part) {
        if let (Part::Held { manifest, span }, Some(Part::Held { manifest: before, span: last })) =
            (&part, self.parts.last_mut())
            && manifest == before
            && span.start == last.end
        {
            last.end = span.end;
            return;
        }
        self.parts.push(part);
    }

    /// Bytes that are held or have come.
    pub(super) fn known(&self) -> usize {
        self.parts.iter().map(Part::bytes).sum()
    }

    /// Puts the encoding together; `read` reads the encoding of a manifest that is held. One of them is in memory at once.
    pub(super) fn assemble<E>(self, mut read: impl FnMut(usize) -> Result<Vec<u8>, E>) -> Result<Option<Vec<u8>>, E> {
        if self.known() != self.bytes {
            return Ok(None);
        }
        let mut encoded = vec![0; self.bytes];
        let (mut end, mut spans) = (0, Vec::new());
        for part in self.parts {
            let at = end;
            end += part.bytes();
            match part {
                Part::Wanted { .. } => return Ok(None),
                Part::Page(bytes) => encoded[at..end].copy_from_slice(&bytes),
                Part::Held { manifest, span } => spans.push((manifest, span, at)),
            }
        }
        spans.sort_unstable_by_key(|(manifest, _, at)| (*manifest, *at));
        for of_one in spans.chunk_by(|a, b| a.0 == b.0) {
            let from = read(of_one[0].0)?;
            for (_, span, at) in of_one {
                let Some(bytes) = from.get(span.clone()) else { return Ok(None) };
                encoded[*at..*at + bytes.len()].copy_from_slice(bytes);
            }
        }
        Ok(Some(encoded))
    }
}

#[cfg(test)]
mod tests;
