//! Many sorted runs of entries as one, in little memory.

use std::path::Path;
use std::sync::Arc;

use tombolo_core::Digest;

use super::segment::{Rows, Segment, SegmentWriter, Unusable};
use super::{Location, PackId};

/// A chunk and one of the packs that it is in.
pub(super) type Placed = (Digest, Location);

enum Run {
    Segment { segment: Arc<Segment>, next: u32, rows: Option<Rows> },
    Memory(std::vec::IntoIter<Placed>),
}

impl Run {
    fn next(&mut self) -> Result<Option<Placed>, Unusable> {
        let Run::Segment { segment, next, rows } = self else {
            let Run::Memory(placed) = self else { return Ok(None) };
            return Ok(placed.next());
        };
        loop {
            if let Some(row) = rows.as_mut().and_then(Iterator::next) {
                return segment.placed(&row).map(Some);
            }
            if *next == segment.blocks() {
                return Ok(None);
            }
            *rows = Some(segment.block(*next)?);
            *next += 1;
        }
    }
}

/// All entries of some runs in order; entries of one chunk follow each other.
pub(super) struct Merge {
    runs: Vec<(Run, Placed)>,
}

/// Why a merge can't go on, and in which segment.
pub(super) struct Broken {
    pub segment: String,
    pub why: Unusable,
}

impl Merge {
    pub(super) fn new(segments: &[Arc<Segment>], mut memory: Vec<Placed>) -> Result<Merge, Broken> {
        memory.sort_unstable_by_key(|(digest, location)| (*digest, location.pack));
        let runs = segments.iter().map(|segment| Run::Segment { segment: segment.clone(), next: 0, rows: None });
        let mut merge = Merge { runs: Vec::new() };
        for run in runs.chain([Run::Memory(memory.into_iter())]) {
            merge.push(run)?;
        }
        Ok(merge)
    }

    fn push(&mut self, mut run: Run) -> Result<(), Broken> {
        match run.next() {
            Ok(Some(placed)) => self.runs.push((run, placed)),
            Ok(None) => {}
            Err(why) => {
                let segment =
                    if let Run::Segment { segment, .. } = &run { segment.name.clone() } else { String::new() };
                return Err(Broken { segment, why });
            }
        }
        Ok(())
    }

    pub(super) fn next(&mut self) -> Result<Option<Placed>, Broken> {
        let least = self.runs.iter().enumerate().min_by_key(|(_, (_, (digest, place)))| (*digest, place.pack));
        let Some((least, _)) = least else { return Ok(None) };
        let (run, placed) = self.runs.swap_remove(least);
        self.push(run)?;
        Ok(Some(placed))
    }
}

/// What goes wrong with writing a segment.
pub(super) enum MergeFault {
    Broken(Broken),
    Io(std::io::Error),
}

impl From<Broken> for MergeFault {
    fn from(broken: Broken) -> MergeFault {
        MergeFault::Broken(broken)
    }
}

impl From<std::io::Error> for MergeFault {
    fn from(error: std::io::Error) -> MergeFault {
        MergeFault::Io(error)
    }
}

/// Writes one segment of all the entries whose packs are among `packs`.
pub(super) fn write(
    path: &Path,
    mut packs: Vec<PackId>,
    segments: &[Arc<Segment>],
    memory: Vec<Placed>,
    filter_bytes_max: usize,
) -> Result<(), MergeFault> {
    packs.sort_unstable();
    packs.dedup();
    let entries_max = segments.iter().map(|segment| segment.entries).sum::<u64>() + memory.len() as u64;
    let mut merge = Merge::new(segments, memory)?;
    let mut out = SegmentWriter::create(path, packs, entries_max, filter_bytes_max)?;
    while let Some((digest, location)) = merge.next()? {
        out.put(&digest, &location)?;
    }
    Ok(out.finish()?)
}
