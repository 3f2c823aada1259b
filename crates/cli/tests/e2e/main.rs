//! Whole ways through the real program: a control plane and sites as processes of their own, killed and started again
//! as a machine or a person would. Stages are plain shell, so that nothing has to be installed.

mod data;
mod demo;
mod hybrid;
mod kills;
mod refusals;
mod runs;
mod world;
