//! `tombolo data ls` and `tombolo data where`.

use clap::Args;
use tombolo_api::wire::{DatasetInfo, OutputInfo};
use tombolo_core::Name;
use tombolo_core::resources::bytes;

use super::{Reference, Which, find, output_table};
use crate::failure::Failure;
use crate::render;
use crate::session::{Output, Session};

/// Tags of a dataset that the listing shows.
const TAGS_SHOWN: usize = 3;

const EXAMPLES: &str = "\
Examples:
  tombolo data ls
  tombolo data ls --outputs               what runs have made: the newest of each
  tombolo data ls --outputs --project flights
  tombolo data ls --output json";

const WHERE_EXAMPLES: &str = "\
Examples:
  tombolo data where raw
  tombolo data where raw@v3
  tombolo data where raw --at prod
  tombolo data where flights/model";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Ls {
    /// What runs have made, instead of datasets
    #[arg(long)]
    outputs: bool,
    /// Only what this project's runs have made
    #[arg(long, value_name = "PROJECT", requires = "outputs")]
    project: Option<Name>,
}

#[derive(Debug, Args)]
#[command(after_help = WHERE_EXAMPLES)]
pub struct Where {
    /// A dataset, and a version by its number, first digits, tag or time; or an output, and a run
    #[arg(value_name = "NAME[@VERSION]")]
    name: Reference,
    /// Which version: the same as after an `@`
    #[arg(long, value_name = "VERSION|TAG|TIME")]
    at: Option<Which>,
}

pub async fn run(session: &Session, args: Ls) -> Result<(), Failure> {
    if args.outputs {
        return outputs(session, args.project.as_ref()).await;
    }
    let datasets: Vec<DatasetInfo> = session.all("/v1/datasets").await?;
    match session.output {
        Output::Text if datasets.is_empty() => eprintln!("no dataset yet; add one: tombolo data add <name> <path>"),
        Output::Text => render::text(&list(&datasets)),
        Output::Json => render::json(&datasets),
    }
    Ok(())
}

async fn outputs(session: &Session, project: Option<&Name>) -> Result<(), Failure> {
    let path = project.map_or("/v1/outputs".to_owned(), |project| format!("/v1/outputs?project={project}"));
    let outputs: Vec<OutputInfo> = session.all(&path).await?;
    match session.output {
        Output::Text if outputs.is_empty() => {
            let whose = project.map(|project| format!(" of {project}")).unwrap_or_default();
            eprintln!("no run{whose} has made anything yet; start one: tombolo run");
        }
        Output::Text => render::text(&output_table(&outputs, true)),
        Output::Json => render::json(&outputs),
    }
    Ok(())
}

fn list(datasets: &[DatasetInfo]) -> String {
    let now = render::now();
    let row = |dataset: &DatasetInfo| {
        let latest = &dataset.latest;
        vec![
            dataset.name.clone(),
            dataset.versions.to_string(),
            latest.version.short(),
            bytes(latest.bytes),
            latest.files.to_string(),
            latest.residency.clone(),
            latest.replicas.join(", "),
            render::ago(now, latest.at),
            tags(dataset),
        ]
    };
    let header = ["dataset", "versions", "latest", "size", "files", "may be at", "is at", "added", "tags"];
    render::table(&header, &[1, 3, 4], datasets.iter().map(row).collect())
}

/// The first few, and how many more.
fn tags(dataset: &DatasetInfo) -> String {
    let first: Vec<&str> = dataset.tags.keys().map(String::as_str).take(TAGS_SHOWN).collect();
    match dataset.tags.len() - first.len() {
        0 => render::dash(Some(first.join(", ")).filter(|tags| !tags.is_empty())),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

pub async fn run_where(session: &Session, args: Where) -> Result<(), Failure> {
    let info = find(session, &args.name.at(args.at)?).await?;
    match session.output {
        Output::Json => render::json(&info.replicas),
        Output::Text if info.replicas.is_empty() => eprintln!("no site has version {}", info.version.short()),
        Output::Text => render::text(&(info.replicas.join("\n") + "\n")),
    }
    Ok(())
}
