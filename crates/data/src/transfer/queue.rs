//! Which chunk is asked of which source: a decision without IO.

use std::collections::VecDeque;

use crate::index::DigestSet;
use crate::manifest::ChunkRef;

/// Why a source is asked no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The sender's gate or rules; asking again would change nothing.
    Refused(String),
    /// It failed, lied or fell silent.
    Failed(String),
}

impl Fault {
    pub(super) fn text(&self) -> &str {
        match self {
            Fault::Refused(why) | Fault::Failed(why) => why,
        }
    }
}

pub(super) struct Queue {
    todo: VecDeque<ChunkRef>,
    /// Chunks that at least one source hasn't got.
    scarce: Vec<ChunkRef>,
    /// Chunks that are being asked for and may come back.
    asked: usize,
    pub(super) sources: Vec<SourceState>,
}

#[derive(Default)]
pub(super) struct SourceState {
    pub(super) fault: Option<Fault>,
    absent: DigestSet,
    /// It has sent something damaged, so that from now on it is asked to verify.
    pub(super) sound: bool,
    /// The first thing that it hadn't got.
    pub(super) lacks: Option<String>,
}

/// Whether there is something to ask a source for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Ask,
    /// Nothing now, but what others were asked for may come back.
    Wait,
    /// Nothing any more for this source.
    Over,
}

impl Queue {
    pub(super) fn new(chunks: Vec<ChunkRef>, sources: Vec<SourceState>) -> Queue {
        Queue { todo: chunks.into(), scarce: Vec::new(), asked: 0, sources }
    }

    pub(super) fn look(&self, source: usize) -> Look {
        let state = &self.sources[source];
        if state.fault.is_some() {
            Look::Over
        } else if !self.todo.is_empty() || self.scarce.iter().any(|chunk| !state.absent.contains(&chunk.digest)) {
            Look::Ask
        } else if self.asked > 0 {
            Look::Wait
        } else {
            Look::Over
        }
    }

    /// What to ask the source for: chunks of at most `bytes_max` raw bytes, but at least one, and of at most
    /// `chunks_max`, if [`Queue::look`] says so.
    pub(super) fn next(&mut self, source: usize, bytes_max: u64, chunks_max: usize) -> Vec<ChunkRef> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        if self.look(source) != Look::Ask {
            return batch;
        }
        let mut fits = |batch: &Vec<ChunkRef>, chunk: &ChunkRef| {
            let fits = batch.is_empty() || (bytes + u64::from(chunk.bytes) <= bytes_max && batch.len() < chunks_max);
            bytes += if fits { u64::from(chunk.bytes) } else { 0 };
            fits
        };
        while let Some(chunk) = self.todo.pop_front_if(|chunk| fits(&batch, chunk)) {
            batch.push(chunk);
        }
        if batch.is_empty() {
            let state = &self.sources[source];
            let held = |chunk: &ChunkRef| !state.absent.contains(&chunk.digest);
            batch.extend(self.scarce.extract_if(.., |chunk| held(chunk)).take(1));
        }
        self.asked += batch.len();
        batch
    }

    /// Some of what was asked for has come.
    pub(super) fn came(&mut self, chunks: usize) {
        self.asked -= chunks;
    }

    pub(super) fn absent(&mut self, source: usize, chunk: ChunkRef, why: &str) {
        self.asked -= 1;
        let state = &mut self.sources[source];
        state.absent.insert(chunk.digest);
        state.lacks.get_or_insert_with(|| why.to_owned());
        self.scarce.push(chunk);
    }

    /// The source is asked no more; what it still owed goes to others.
    pub(super) fn drop_source(&mut self, source: usize, owed: Vec<ChunkRef>, fault: Fault) {
        self.give_back(owed);
        self.sources[source].fault.get_or_insert(fault);
    }

    pub(super) fn give_back(&mut self, owed: Vec<ChunkRef>) {
        self.asked -= owed.len();
        for chunk in owed {
            if self.sources.iter().any(|source| source.absent.contains(&chunk.digest)) {
                self.scarce.push(chunk);
            } else {
                self.todo.push_front(chunk);
            }
        }
    }

    /// Raw bytes of what nobody was asked for yet.
    pub(super) fn bytes(&self) -> u64 {
        self.todo.iter().map(|chunk| u64::from(chunk.bytes)).sum()
    }

    pub(super) fn is_done(&self) -> bool {
        self.todo.is_empty() && self.scarce.is_empty() && self.asked == 0
    }
}
