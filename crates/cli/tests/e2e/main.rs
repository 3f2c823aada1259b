//! Whole ways through the real program: a control plane and sites as processes of their own, killed and started again
//! as a machine or a person would. Stages are plain shell, so that nothing has to be installed.

mod apart;
mod artifacts;
mod buckets;
mod cat;
mod clock;
mod data;
mod demo;
mod drains;
mod expect;
mod flights;
mod full;
mod gateway;
mod golden;
mod hybrid;
mod imports;
mod kills;
mod kubernetes;
mod limits;
mod moves;
mod net;
mod notebook;
mod refusals;
mod residency;
mod runs;
mod sameness;
#[path = "../../../connect/tests/servers/mod.rs"]
mod servers;
mod slurm;
mod steady;
mod tracking;
mod versions;
mod world;
mod wrong;
