//! `tombolo data ls` and `tombolo data where`.

use clap::Args;
use tombolo_api::wire::DatasetInfo;

use super::{Reference, find};
use crate::failure::Failure;
use crate::render;
use crate::session::{Output, Session};

const EXAMPLES: &str = "\
Examples:
  tombolo data ls
  tombolo data ls --output json";

const WHERE_EXAMPLES: &str = "\
Examples:
  tombolo data where raw
  tombolo data where raw@3f2a";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Ls {}

#[derive(Debug, Args)]
#[command(after_help = WHERE_EXAMPLES)]
pub struct Where {
    /// A dataset, and a version by its first digits
    #[arg(value_name = "NAME[@VERSION]")]
    dataset: Reference,
}

pub async fn run(session: &Session, _: Ls) -> Result<(), Failure> {
    let datasets: Vec<DatasetInfo> = session.all("/v1/datasets").await?;
    match session.output {
        Output::Text if datasets.is_empty() => eprintln!("no dataset yet; add one: tombolo data add <name> <path>"),
        Output::Text => render::text(&list(&datasets)),
        Output::Json => render::json(&datasets),
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
    let info = find(session, &args.dataset).await?;
    match session.output {
        Output::Json => render::json(&info.replicas),
        Output::Text if info.replicas.is_empty() => eprintln!("no site has version {}", info.version.short()),
        Output::Text => render::text(&(info.replicas.join("\n") + "\n")),
    }
    Ok(())
}
