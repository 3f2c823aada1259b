//! The project's own tooling: `cargo xtask <task>`. Nothing here is shipped.

mod bench;
#[cfg(test)]
#[path = "../../cli/src/mentioned/find.rs"]
mod find;
mod fuzz;
mod generated;
mod image;
mod needs;
mod process;
mod test;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Tombolo's own tooling: tests, house rules, generated files, benchmarks, the image"
)]
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
    /// Look for inputs that break what reads others' bytes
    Fuzz(fuzz::Args),
    /// Make the runner's default image, as an archive that container engines load
    Image(image::Args),
    /// Run a benchmark beside its peers, and record its result in docs/benchmarks.json and .md
    Bench(bench::Args),
    /// A benchmark's load, at an even pace
    #[command(hide = true)]
    Load(bench::load::Args),
}

fn main() -> ExitCode {
    let root = root();
    let done = match Cli::parse().task {
        Task::Test(args) => test::run(&root, &args),
        Task::Tidy => tidy::run(&root),
        Task::Openapi(args) => generated::run(&root, generated::OPENAPI, &args),
        Task::Schema(args) => generated::run(&root, generated::SCHEMA, &args),
        Task::Fuzz(args) => fuzz::run(&root, &args),
        Task::Image(args) => image::run(&root, &args),
        Task::Bench(args) => bench::run(&root, &args),
        Task::Load(args) => bench::load::run(&args),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// `<name>` stands for a benchmark.
    #[test]
    fn every_task_that_the_documents_name_is_one_that_is_taken() {
        let mut named = 0;
        for (file, text) in find::files(&root(), &["README.md", "ARCHITECTURE.md", "docs", "examples"], "md") {
            for command in find::in_markdown(&text, &["cargo xtask "]) {
                let words = command.replace("<name>", "plan").replace("cargo xtask", "xtask");
                let parsed = Cli::try_parse_from(words.split_whitespace());
                assert!(parsed.is_ok(), "{file}: {command}: {}", parsed.err().unwrap());
                named += 1;
            }
        }
        assert!(named > 3, "only {named} were found");
    }
}
