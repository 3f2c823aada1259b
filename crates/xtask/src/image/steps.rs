//! The steps of making an image, each told with the time it took.

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

#[derive(Default)]
pub struct Steps {
    pub done: Vec<Step>,
}

#[derive(Serialize)]
pub struct Step {
    name: &'static str,
    seconds: f64,
    what: String,
}

impl Steps {
    /// Takes a step, which says what it did besides giving what it made.
    pub fn time<T>(&mut self, name: &'static str, step: impl FnOnce() -> Result<(String, T)>) -> Result<T> {
        let began = Instant::now();
        let (what, made) = step()?;
        let seconds = (began.elapsed().as_secs_f64() * 100.0).round() / 100.0;
        eprintln!("  {name:<12}{seconds:>8.2} s  {what}");
        self.done.push(Step { name, seconds, what });
        Ok(made)
    }
}

pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
