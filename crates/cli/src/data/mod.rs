//! `tombolo data`: datasets, their versions, and where their bytes are.

mod add;
mod care;
mod cat;
mod diff;
mod get;
mod list;
mod prune;
mod reference;
mod release;
mod restore;
mod rm;
mod show;
mod tag;
mod why;

use clap::{Args, Subcommand};
use tombolo_api::wire::{OutputInfo, VersionInfo};
use tombolo_core::VersionId;
use tombolo_core::resources::bytes;

use crate::failure::Failure;
use crate::render;
use crate::session::{Global, Session};

use reference::{Means, Named, Which, number_or_digits};
pub use reference::{Reference, find};

const EXAMPLES: &str = "\
Examples:
  tombolo data add raw data/raw.parquet --keep-at onprem
  tombolo data ls
  tombolo data get raw ./raw
  tombolo data get raw@v3 ./raw-before    the third version; by its first digits, raw@3f2a
  tombolo data get raw@2026-11-20 ./raw   the newest at the end of that day
  tombolo data tag raw@v3 prod            from then on raw@prod too
  tombolo data diff raw@prod raw
  tombolo data where raw
  tombolo data why flights/model cloud    which rules let it be there or don't
  tombolo data ls --outputs               what runs have made
  tombolo data get flights/model ./model  the newest; flights/model@7 is run 7's";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Data {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Add a file or directory as a new version of a dataset
    Add(add::Add),
    /// List datasets, or what runs have made
    Ls(list::Ls),
    /// Show the versions of a dataset or an output, or one version with its files
    Show(show::Show),
    /// Compare two versions by files and, of tables, by schema and rows
    Diff(diff::Diff),
    /// Print a file of a version, as it comes
    Cat(cat::Cat),
    /// Write a version's files into a directory
    Get(get::Get),
    /// Put a word on a version of a dataset, by which it is found from then on
    Tag(tag::TagArgs),
    /// Make an earlier version the newest again, also one that lost its name
    Restore(restore::Restore),
    /// Remove the names of versions that no rule keeps, or show which
    Prune(prune::Prune),
    /// Remove the name of a version or an output; gc then frees what nothing needs
    Rm(rm::Rm),
    /// Read every stored byte and set aside what is damaged
    Verify(care::Verify),
    /// Free what no version needs
    Gc(care::Gc),
    /// Show at which sites the bytes of a dataset or an output are
    Where(list::Where),
    /// Tell whether a version may be at a site, and which rules say so
    Why(why::Why),
    /// Let a version leave where it must stay, with a reason, on the record
    Release(release::Release),
}

pub async fn run(global: &Global, args: Data) -> Result<(), Failure> {
    let session = Session::open(global)?;
    match args.verb {
        Verb::Add(args) => add::run(&session, args).await,
        Verb::Ls(args) => list::run(&session, args).await,
        Verb::Show(args) => show::run(&session, args).await,
        Verb::Diff(args) => diff::run(&session, args).await,
        Verb::Cat(args) => cat::run(&session, args).await,
        Verb::Get(args) => get::run(&session, args).await,
        Verb::Tag(args) => tag::run(&session, args).await,
        Verb::Restore(args) => restore::run(&session, args).await,
        Verb::Prune(args) => prune::run(&session, args).await,
        Verb::Rm(args) => rm::run(&session, args).await,
        Verb::Verify(args) => care::verify(&session, args).await,
        Verb::Gc(args) => care::gc(&session, args).await,
        Verb::Where(args) => list::run_where(&session, args).await,
        Verb::Why(args) => why::run(&session, args).await,
        Verb::Release(args) => release::run(&session, args).await,
    }
}

/// A table of versions; those of a dataset with their numbers and tags.
fn version_table(versions: &[VersionInfo]) -> String {
    let now = render::now();
    let of_dataset = versions.iter().any(|info| info.number.is_some());
    let row = |info: &VersionInfo| {
        let number = of_dataset.then(|| number_or_digits(info));
        let tags = of_dataset.then(|| render::dash(Some(info.tags.join(", ")).filter(|tags| !tags.is_empty())));
        let rest = [
            info.version.short(),
            bytes(info.bytes),
            info.files.to_string(),
            render::dash(info.facts.table.as_ref().and_then(|table| Some(table.rows?.to_string()))),
            as_expected(info),
            info.residency.clone(),
            info.replicas.join(", "),
            render::dash(info.made_by.clone()),
            render::ago(now, info.at),
        ];
        number.into_iter().chain(rest).chain(tags).collect()
    };
    let header =
        ["no", "version", "size", "files", "rows", "as expected", "may be at", "is at", "made by", "added", "tags"];
    let (header, right): (_, &[usize]) =
        if of_dataset { (&header[..], &[2, 3, 4]) } else { (&header[1..10], &[1, 2, 3]) };
    render::table(header, right, versions.iter().map(row).collect())
}

/// Nothing where nothing was expected.
fn as_expected(info: &VersionInfo) -> String {
    let word = |failed| if failed { "no" } else { "yes" };
    render::dash(info.facts.checked.as_ref().map(|checked| word(checked.failed()).to_owned()))
}

/// A table of what runs have made, with the outputs' names where they are of several.
fn output_table(outputs: &[OutputInfo], with_names: bool) -> String {
    let now = render::now();
    let row = |made: &OutputInfo| {
        let info = &made.version;
        let name = with_names.then(|| format!("{}/{}", made.project, made.output));
        let rest = [
            made.run.clone(),
            info.version.short(),
            bytes(info.bytes),
            info.files.to_string(),
            as_expected(info),
            info.residency.clone(),
            info.replicas.join(", "),
            made.stage.clone(),
            render::ago(now, made.at),
        ];
        name.into_iter().chain(rest).collect()
    };
    let header = ["output", "run", "version", "size", "files", "as expected", "may be at", "is at", "stage", "made"];
    let (header, right): (_, &[usize]) = if with_names { (&header[..], &[3, 4]) } else { (&header[1..], &[2, 3]) };
    render::table(header, right, outputs.iter().map(row).collect())
}

fn version_path(version: VersionId) -> String {
    format!("/v1/versions/{version}")
}
