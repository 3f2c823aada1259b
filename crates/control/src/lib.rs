//! The control plane: one API, one database, one engine that decides. It never dials a site.

mod ends;
pub mod engine;
pub mod http;
pub mod hub;
mod refusals;
pub mod secrets;
pub mod server;
pub mod store;
