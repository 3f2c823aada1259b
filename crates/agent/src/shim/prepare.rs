//! Before the command: code, inputs, state directory and Python environment.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tombolo_core::ids::{Epoch, VersionId};
use tombolo_core::resources::bytes;
use tombolo_core::sync::Outcome;
use tombolo_core::time::Millis;
use tombolo_data::{DataError, MaterializeOptions, SiteKey, Store, StoreOptions, Summary};

use super::Shim;
use super::files::{self, is_no_space, unprepared, unprepared_io};
use super::placement::Lack;
use crate::python::{self, PythonError};
use crate::state::Ahead;

/// What the command finds.
pub struct Prepared {
    pub store: Store,
    /// The Python environment's directory.
    pub venv: Option<PathBuf>,
}

/// Why the command can't be started.
pub enum Unprepared {
    For(Outcome),
    /// Not yet: something has to be brought to the site's store first.
    Lacks(Lack),
}

impl From<Outcome> for Unprepared {
    fn from(outcome: Outcome) -> Unprepared {
        Unprepared::For(outcome)
    }
}

pub fn prepare(shim: &Shim) -> Result<Prepared, Unprepared> {
    let began = Instant::now();
    let store = open_store(shim).map_err(unprepared("can't open the site's store"))?;
    let brought = bring_code_and_inputs(shim, &store)?;
    prepare_state(shim, &store)?;
    let inputs = shim.order.order.inputs.len();
    if inputs > 0 {
        let took = Millis(began.elapsed().as_millis() as u64);
        let plural = if inputs == 1 { "input" } else { "inputs" };
        shim.log.say(&format!("brought code and {inputs} {plural} ({}) in {took}", bytes(brought)));
    }
    let venv = match &shim.order.order.spec.python {
        None => None,
        Some(python) => {
            let venv = python::ensure(&shim.order.envs_dir, python, &|line| shim.log.say(line));
            Some(venv.map_err(no_python)?)
        }
    };
    Ok(Prepared { store, venv })
}

fn open_store(shim: &Shim) -> Result<Store, DataError> {
    let key = shim.order.store_key.as_deref().map(SiteKey::load).transpose()?;
    Store::open(&shim.order.store_dir, StoreOptions { create: false, key, ..StoreOptions::default() })
}

fn no_python(error: PythonError) -> Outcome {
    let why = error.to_string();
    match error {
        PythonError::Io { source, .. } if is_no_space(&source) => Outcome::NoSpace { why },
        _ if why.contains("No space left on device") => Outcome::NoSpace { why },
        _ => Outcome::Unprepared { why },
    }
}

/// Answers how many bytes of inputs there are.
fn bring_code_and_inputs(shim: &Shim, store: &Store) -> Result<u64, Unprepared> {
    let (code, inputs, outputs) =
        (shim.placement.code_dir(), shim.placement.inputs_dir(), shim.placement.outputs_dir());
    // Left by a shim that was killed before it launched anything.
    files::remove_tree(&code).map_err(unprepared_io("can't clear the working directory"))?;
    let order = &shim.order.order;
    bring(store, order.code, &code, "the code")?;
    for dir in [&inputs, &outputs] {
        // What the project has under these names in its code would be taken for data.
        files::remove_tree(dir).map_err(unprepared_io("can't clear the working directory"))?;
        fs::create_dir(dir).map_err(unprepared_io("can't make the working directory"))?;
    }
    let mut brought = 0;
    for (name, version) in &order.inputs {
        let dir = inputs.join(name.as_str());
        let summary = bring(store, *version, &dir, &format!("the input {name}"))?;
        files::make_read_only(&dir).map_err(unprepared_io("can't protect the inputs"))?;
        brought += summary.bytes;
    }
    for name in order.spec.outputs() {
        fs::create_dir(outputs.join(name.as_str())).map_err(unprepared_io("can't make the output directories"))?;
    }
    Ok(brought)
}

/// Writes a version's tree to where the command finds it.
fn bring(store: &Store, version: VersionId, to: &Path, what: &str) -> Result<Summary, Unprepared> {
    store
        .materialize(version, to, &MaterializeOptions::default())
        .map_err(|error| not_brought(store, version, what, error))
}

/// What is damaged in the store is set aside, so that what is whole of it elsewhere can take its place.
fn not_brought(store: &Store, version: VersionId, what: &str, error: DataError) -> Unprepared {
    let why = format!("can't bring {what}");
    let (pack, chunk) = match &error {
        DataError::CorruptChunk { chunk, pack, .. } => (Some(pack), Some(*chunk)),
        DataError::CorruptPack { pack, .. } => (Some(pack), None),
        DataError::NoChunk { chunk } => (None, Some(*chunk)),
        DataError::NoVersion { .. } | DataError::CorruptManifest { .. } => (None, None),
        _ => return unprepared(&why)(error).into(),
    };
    let file = chunk.and_then(|chunk| {
        let manifest = store.manifest(version).ok()?;
        let entry = manifest.entries().iter().find(|entry| entry.chunks().iter().any(|held| held.digest == chunk))?;
        Some(format!(", file {:?}", entry.path))
    });
    if let Some(Err(error)) = pack.map(|pack| store.check_pack(pack)) {
        return unprepared(&format!("{why}, and what is damaged can't be set aside"))(error).into();
    }
    let file = file.unwrap_or_default();
    Unprepared::Lacks(Lack {
        version,
        why: format!("{what} (version {}{file}) is not whole here: {error}", version.short()),
    })
}

/// Which placement used a state directory last, and what of it is in the store; `<state dir>.json`.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StateNote {
    pub epoch: Epoch,
    pub version: Option<VersionId>,
}

/// What to do about a state directory.
#[derive(Debug, PartialEq)]
enum StateStep {
    Keep,
    Replace(VersionId),
}

/// A directory that the placement just before this one left here is newer than anything the control plane knows
/// of. Any older one is stale once the workload has been elsewhere, unless it is what was ordered.
fn state_step(found: Option<&StateNote>, ordered: Option<VersionId>, epoch: Epoch) -> StateStep {
    match (found, ordered) {
        (Some(note), _) if note.epoch.next() == epoch || note.epoch == epoch => StateStep::Keep,
        (Some(note), Some(version)) if note.version == Some(version) => StateStep::Keep,
        (_, Some(version)) => StateStep::Replace(version),
        (_, None) => StateStep::Keep,
    }
}

fn prepare_state(shim: &Shim, store: &Store) -> Result<(), Unprepared> {
    let dir = &shim.order.state_dir;
    let failed = unprepared_io("can't make the state directory");
    let has_any = match files::is_empty(dir) {
        Ok(empty) => !empty,
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(failed(error).into()),
    };
    let note = read_note(dir).filter(|_| has_any);
    if let StateStep::Replace(version) = state_step(note.as_ref(), shim.order.order.state, shim.order.epoch) {
        // Beside it first, so that a kill leaves the one or the other whole. With a move most of it is there already.
        let ahead = Ahead::lock(dir, shim.order.epoch).map_err(&failed)?;
        ahead.bring(store, version).map_err(|error| not_brought(store, version, "the state", error))?;
        ahead.into_place().map_err(&failed)?;
        shim.log.say(&format!("goes on from the state {}", version.short()));
    }
    fs::create_dir_all(dir).map_err(&failed)?;
    Ok(write_note(dir, &StateNote { epoch: shim.order.epoch, version: None }).map_err(failed)?)
}

/// Remembers that what is in the directory is in the store.
pub fn note_state(dir: &Path, epoch: Epoch, version: VersionId) -> io::Result<()> {
    write_note(dir, &StateNote { epoch, version: Some(version) })
}

/// A job that has succeeded has nothing to go on from.
pub fn forget_state(dir: &Path) -> io::Result<()> {
    files::remove_tree(dir)?;
    match fs::remove_file(note_path(dir)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub fn read_note(dir: &Path) -> Option<StateNote> {
    serde_json::from_slice(&fs::read(note_path(dir)).ok()?).ok()
}

fn write_note(dir: &Path, note: &StateNote) -> io::Result<()> {
    let new = dir.with_extension("json.new");
    fs::write(&new, serde_json::to_vec(note).map_err(io::Error::other)?)?;
    fs::rename(new, note_path(dir))
}

/// No stage's name has a dot in it.
fn note_path(dir: &Path) -> PathBuf {
    dir.with_extension("json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tombolo_core::digest::Digest;

    #[test]
    fn the_newest_state_wins() {
        let version = |n| VersionId(Digest([n; 32]));
        let note = |epoch, version| StateNote { epoch: Epoch(epoch), version };
        let check = |found: Option<StateNote>, ordered, expected| {
            assert_eq!(state_step(found.as_ref(), ordered, Epoch(5)), expected, "{found:?} {ordered:?}");
        };
        check(None, None, StateStep::Keep);
        check(None, Some(version(1)), StateStep::Replace(version(1)));
        // It ran here last, and what it left, even if its shim died, is newer than what was reported.
        check(Some(note(4, None)), Some(version(1)), StateStep::Keep);
        // It has been elsewhere since.
        check(Some(note(3, None)), Some(version(1)), StateStep::Replace(version(1)));
        check(Some(note(3, Some(version(2)))), Some(version(1)), StateStep::Replace(version(1)));
        check(Some(note(3, Some(version(1)))), Some(version(1)), StateStep::Keep);
        // It was lost elsewhere: an old checkpoint is better than none.
        check(Some(note(2, None)), None, StateStep::Keep);
    }
}
