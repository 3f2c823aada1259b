//! The planner: telling cases, properties against brute force, and large problems.

mod cases;
mod large;
mod properties;
mod text;
mod world;
