//! What goes over wires: the HTTP API's types and its client, the agent's stream, grants, the project file.

pub mod client;
pub mod frames;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod grant;
pub mod problem;
pub mod project;
pub mod run_token;
pub mod stream;
pub mod wire;
