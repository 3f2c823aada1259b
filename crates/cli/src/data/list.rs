//! `tombolo data ls` and `tombolo data where`.

use clap::Args;
use tombolo_api::wire::{DatasetInfo, OutputInfo};
use tombolo_core::Name;

use super::{Reference, find, output_table};
use crate::failure::Failure;
use crate::render;
use crate::session::{Output, Session};

const EXAMPLES: &str = "\
Examples:
  tombolo data ls
  tombolo data ls --outputs               what runs have made: the newest of each
  tombolo data ls --outputs --project flights
  tombolo data ls --output json";

const WHERE_EXAMPLES: &str = "\
Examples:
  tombolo data where raw
  tombolo data where raw@3f2a
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
    /// A dataset, and a version by its first digits; or an output, and a run
    #[arg(value_name = "NAME[@VERSION]")]
    name: Reference,
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
        Output::Text if outputs.is_empty() => eprintln!("no run has made anything yet; start one: tombolo run"),
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
            render::bytes(latest.bytes),
            latest.files.to_string(),
            latest.residency.clone(),
            latest.replicas.join(", "),
            render::ago(now, latest.at),
        ]
    };
    let header = ["dataset", "versions", "latest", "size", "files", "may be at", "is at", "added"];
    render::table(&header, &[1, 3, 4], datasets.iter().map(row).collect())
}

pub async fn run_where(session: &Session, args: Where) -> Result<(), Failure> {
    let info = find(session, &args.name).await?;
    match session.output {
        Output::Json => render::json(&info.replicas),
        Output::Text if info.replicas.is_empty() => eprintln!("no site has version {}", info.version.short()),
        Output::Text => render::text(&(info.replicas.join("\n") + "\n")),
    }
    Ok(())
}
