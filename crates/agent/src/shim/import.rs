//! Stages that bring data from elsewhere: read in this process by the connectors.

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use tombolo_connect::{Brought, ConnectError, Import};
use tombolo_core::resources::bytes;
use tombolo_core::source::Source;

use super::run::{End, Ran};
use super::{Shim, Wake, inner};

/// Threads that read, unpack and write.
const THREADS: usize = 2;

pub fn run(shim: &Shim, source: &Source, woken: &Receiver<Wake>, began: Instant) -> Ran {
    shim.log.say(&format!("importing from {source}"));
    let import = match import(shim, source) {
        Ok(import) => import,
        Err(error) => return failed(shim, &error),
    };
    let work = async move { tombolo_connect::bring(&import).await };
    match inner::run(shim, woken, began, THREADS, work) {
        Ok(Ok(brought)) => {
            tell(shim, &brought);
            Ran { end: End::Code(0), ..Ran::default() }
        }
        Ok(Err(error)) => failed(shim, &error),
        Err(ran) => ran,
    }
}

fn import(shim: &Shim, source: &Source) -> Result<Import, ConnectError> {
    let output = match shim.order.order.spec.outputs().next() {
        Some(name) => shim.placement.outputs_dir().join(name.as_str()),
        None => shim.placement.outputs_dir(),
    };
    let made = std::fs::create_dir_all(&output);
    made.map_err(|source| ConnectError::Write { path: output.clone(), source })?;
    let mut env: BTreeMap<String, String> = shim.order.order.spec.env.clone();
    env.extend(shim.secrets.iter().map(|(name, value)| (name.as_env(), value.clone())));
    Ok(Import { source: source.clone(), output, state: shim.order.state_dir.clone(), env })
}

fn tell(shim: &Shim, brought: &Brought) {
    brought.warnings.iter().for_each(|warning| shim.log.say(&format!("warning: {warning}")));
    let rows = brought.rows.map(|rows| format!("{rows} rows, ")).unwrap_or_default();
    let files = if brought.files == 1 { "1 file".to_owned() } else { format!("{} files", brought.files) };
    shim.log.say(&format!("brought {rows}{files}, {}", bytes(brought.bytes)));
}

fn failed(shim: &Shim, error: &ConnectError) -> Ran {
    let mut text = error.to_string();
    if let Some(cause) = std::error::Error::source(error) {
        text = format!("{text}: {cause}");
    }
    // On one line: the outcome has no room for it, and whoever follows a run is shown the outcome's hint alone.
    shim.log.say(&text.replace("\nhint: ", "; hint: "));
    let end = if error.is_no_space() { End::NoSpace(text) } else { End::Code(1) };
    Ran { end, ..Ran::default() }
}
