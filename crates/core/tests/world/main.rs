//! The control plane's mind, through what its edge calls: tables of what happens and what follows from it.

#[path = "../placement/chunks.rs"]
mod chunks;
mod data;
mod datasets;
mod drains;
mod expect;
mod life;
mod limits;
mod moves;
mod play;
mod queue;
mod routes;
mod services;
mod sites;
mod sketches;
mod snapshots;
mod spills;
mod together;
mod why;
