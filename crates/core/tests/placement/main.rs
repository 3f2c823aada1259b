//! The planner: telling cases, properties against brute force, and large problems.

mod cases;
mod chunks;
mod large;
mod properties;
mod sketch;
mod text;
mod world;
