//! The project's own tooling: `cargo xtask <task>`. Nothing here is shipped.

mod bench;
mod generated;
mod needs;
mod process;
mod test;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tombolo's own tooling: tests, house rules, generated files, benchmarks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Bring what the tests need, and run them in lanes
    Test(test::Args),
    /// Check the house rules that neither rustfmt nor clippy knows
    Tidy,
    /// Write docs/openapi.json from the code
    Openapi(generated::Args),
    /// Write docs/tombolo.schema.json from the code
    Schema(generated::Args),
    /// Run a benchmark beside its peers, and record its result in docs/benchmarks.json and .md
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let root = root();
    let done = match Cli::parse().task {
        Task::Test(args) => test::run(&root, &args),
        Task::Tidy => tidy::run(&root),
        Task::Openapi(args) => generated::run(&root, generated::OPENAPI, &args),
        Task::Schema(args) => generated::run(&root, generated::SCHEMA, &args),
        Task::Bench(args) => bench::run(&root, &args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The checkout: two directories above this crate, wherever cargo has been called from.
fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    here.ancestors().nth(2).map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}
