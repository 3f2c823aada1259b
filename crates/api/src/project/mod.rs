//! The project file, `tombolo.yaml`: its text becomes a [`ProjectSpec`], or every fault in it with its place.
//!
//! The text is parsed to a tree that keeps places ([`node`]), the tree is read by one table of known keys
//! ([`table`], [`read`]), and then what only shows in the whole is checked: references, cycles, residency ([`check`]).
//! No step stops at its first fault, save for a text that is no YAML. The format is in `docs/guide/project-file.md`.

mod amount;
mod check;
mod expect;
mod fault;
mod import;
mod leaning;
mod loader;
mod node;
mod read;
mod retain;
mod schema;
mod selector;
mod table;
mod workload;

pub use amount::{BadAmount, duration, size};
pub use fault::{FAULTS_MAX, Fault, Faults, nearest};
pub use loader::{Directory, LOADED_BYTES_MAX, Loader};
pub use schema::json_schema;

use tombolo_core::spec::ProjectSpec;

use fault::{Sink, Span};

/// The name that a project file has unless the user says otherwise.
pub const FILE_NAME: &str = "tombolo.yaml";
/// Largest project file.
pub const TEXT_BYTES_MAX: usize = 1 << 20;
/// Most datasets in a project file. Stages and services together: [`tombolo_core::spec::STAGES_MAX`].
pub const DATASETS_MAX: usize = 2_000;

/// What was found out of stages, services or imports after the file was read, as faults where each of them stands. What
/// stands nowhere, such as the second of several replicas, is told at the one that it belongs to, or at the top.
pub fn faults_of<'n>(
    text: &str,
    file_name: &str,
    found: impl IntoIterator<Item = (&'n str, String, String)>,
) -> Faults {
    let mut sink = Sink::new(text, file_name);
    let tree = node::tree(text, &mut Sink::new(text, file_name));
    let sections = ["stages", "services", "data"].into_iter().filter_map(|section| tree.as_ref()?.get(section));
    let keys: Vec<_> = sections.flat_map(node::Node::keys).collect();
    for (name, message, hint) in found {
        let belongs = |key: &&node::Key| name.strip_prefix(&key.text).is_some_and(|rest| rest.starts_with('-'));
        let key = keys.iter().copied().find(|key| key.text == name).or_else(|| keys.iter().copied().find(belongs));
        sink.add(key.map_or(Span { line: 1, column: 1, width: 1 }, |key| key.span), message, hint);
    }
    sink.into_faults()
}

/// Reads a project file. `file_name` is only for the faults; `loader` brings the files that the text names.
pub fn parse(text: &str, file_name: &str, loader: &dyn Loader) -> Result<ProjectSpec, Faults> {
    let mut sink = Sink::new(text, file_name);
    let top = Span { line: 1, column: 1, width: 1 };
    if text.len() > TEXT_BYTES_MAX {
        let message = format!("the file has {} bytes; at most {TEXT_BYTES_MAX} are read", text.len());
        sink.add(top, message, "put long queries and lists into files of their own");
        return Err(sink.into_faults());
    }
    let tree = node::tree(text, &mut sink).filter(|root| !root.is_null());
    let draft = tree.and_then(|root| read::project(&root, &mut sink, loader));
    match draft {
        Some(draft) => {
            check::whole(&draft, &mut sink);
            if sink.is_empty() { Ok(draft.into_spec()) } else { Err(sink.into_faults()) }
        }
        None => {
            if sink.is_empty() {
                let hint = "begin with `project: <name>` and `stages:`; `tombolo schema` prints the format";
                sink.add(top, "the file is empty", hint);
            }
            Err(sink.into_faults())
        }
    }
}
