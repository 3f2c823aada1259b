//! A simulated world: the real control-plane and agent minds, unchanged, on one thread with virtual time.
//!
//! Everything that happens follows from one seed. Network, disks, processes and crashes are simulated; what
//! decides ([`tombolo_core::world::World`], [`tombolo_core::journal::Journal`]) is the code that ships. A
//! checker holds DESIGN.md's invariants against every step; a failing seed prints the story that led there.

mod act;
mod check;
mod control;
mod drain;
mod people;
mod project;
mod rng;
mod run;
mod setup;
mod site;

pub use drain::{Drained, WORKLOADS, drain};
pub use run::{Failure, Options, Summary, simulate};
