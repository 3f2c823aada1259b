//! `tombolo schema`: the JSON Schema of project files, for editors.

use clap::Args;

use crate::failure::Failure;
use crate::render;

const EXAMPLES: &str = "\
Examples:
  tombolo schema > tombolo.schema.json

An editor with a YAML language server then completes keys, if the project file begins with
  # yaml-language-server: $schema=./tombolo.schema.json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Schema {}

pub fn run(_: Schema) -> Result<(), Failure> {
    render::json(&tombolo_api::project::json_schema());
    Ok(())
}
