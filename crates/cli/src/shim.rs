//! `tombolo shim`: one placement's process; the agent starts it, nobody else.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

#[derive(Debug, Args)]
pub struct Shim {
    /// The placement's directory
    dir: PathBuf,
}

pub fn run(args: Shim) -> ExitCode {
    tombolo_agent::shim::main(&args.dir)
}
