//! `tombolo openapi`: the HTTP API's description.

use clap::Args;

use crate::failure::Failure;
use crate::render;

const EXAMPLES: &str = "\
Examples:
  tombolo openapi > openapi.json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct OpenApi {}

pub fn run(_: OpenApi) -> Result<(), Failure> {
    render::json(&tombolo_control::http::openapi());
    Ok(())
}
