//! Looking chunks up: one, or many in the order of their digests, when a block that several are in is read once.

use tombolo_core::Digest;

use super::segment::{Rows, Segment, Unusable, key};
use super::{Damaged, Index, Location, PackId};

impl Index {
    /// Where a chunk can be read.
    pub(crate) fn get(&self, digest: &Digest) -> Result<Option<Location>, Damaged> {
        self.look().find(digest, |pack| self.live.contains(&pack))
    }

    /// Where a chunk is that a new version may rely on.
    pub(crate) fn get_relied(&self, digest: &Digest) -> Result<Option<Location>, Damaged> {
        self.look().find(digest, |pack| self.is_relied(pack))
    }

    /// Which chunks can be read. Fast if they come in order.
    pub(crate) fn holds(&self, digests: &[Digest]) -> Result<Vec<bool>, Damaged> {
        self.holds_in(digests, |pack| self.live.contains(&pack))
    }

    /// Which chunks a new version may rely on. Fast if they come in order.
    pub(crate) fn holds_relied(&self, digests: &[Digest]) -> Result<Vec<bool>, Damaged> {
        self.holds_in(digests, |pack| self.is_relied(pack))
    }

    fn is_relied(&self, pack: PackId) -> bool {
        self.live.contains(&pack) && !self.condemned.contains(&pack)
    }

    fn holds_in(&self, digests: &[Digest], fits: impl Fn(PackId) -> bool) -> Result<Vec<bool>, Damaged> {
        let mut look = self.look();
        digests.iter().map(|digest| Ok(look.find(digest, &fits)?.is_some())).collect()
    }

    fn look(&self) -> Look<'_> {
        // The smallest first, as they are in what is newest.
        let cursors = self.segments.iter().rev().map(|segment| Cursor { segment, block: None }).collect();
        Look { index: self, cursors }
    }
}

struct Look<'a> {
    index: &'a Index,
    cursors: Vec<Cursor<'a>>,
}

impl Look<'_> {
    fn find(&mut self, digest: &Digest, fits: impl Fn(PackId) -> bool) -> Result<Option<Location>, Damaged> {
        if let Some(location) = self.index.memory.chunks.get(digest).filter(|location| fits(location.pack)) {
            return Ok(Some(*location));
        }
        for cursor in &mut self.cursors {
            let found = cursor.find(digest, &fits);
            let damaged = |why: Unusable| Damaged { segment: cursor.segment.name.clone(), why: why.0 };
            if let Some(location) = found.map_err(damaged)? {
                return Ok(Some(location));
            }
        }
        Ok(None)
    }
}

/// A segment, and the block of it that was read last.
struct Cursor<'a> {
    segment: &'a Segment,
    block: Option<(u32, Rows)>,
}

impl Cursor<'_> {
    /// The first entry of the chunk whose pack fits.
    fn find(&mut self, digest: &Digest, fits: impl Fn(PackId) -> bool) -> Result<Option<Location>, Unusable> {
        if !self.segment.may_hold(digest) {
            return Ok(None);
        }
        let mut number = match &self.block {
            Some((number, rows)) if rows.surround(digest) => *number,
            _ => self.segment.first_block(key(digest))?,
        };
        while number < self.segment.blocks() {
            let rows = match self.block.take() {
                Some((read, rows)) if read == number => rows,
                _ => self.segment.block(number)?,
            };
            let rows = &self.block.insert((number, rows)).1;
            for row in rows.from(digest) {
                if row.digest != *digest {
                    return Ok(None);
                }
                let (_, location) = self.segment.placed(&row)?;
                if fits(location.pack) {
                    return Ok(Some(location));
                }
            }
            number += 1;
        }
        Ok(None)
    }
}
