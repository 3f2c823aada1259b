//! `tombolo data show`.

use clap::Args;

use super::{Reference, find, version_path, version_table, versions};
use crate::failure::Failure;
use crate::render;
use crate::session::{Output, Session};

const EXAMPLES: &str = "\
Examples:
  tombolo data show raw             its versions
  tombolo data show raw@3f2a        one version, with its files";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Show {
    /// A dataset, and a version by its first digits
    #[arg(value_name = "NAME[@VERSION]")]
    dataset: Reference,
}

pub async fn run(session: &Session, args: Show) -> Result<(), Failure> {
    if args.dataset.version.is_none() {
        let versions = versions(session, &args.dataset.name).await?;
        match session.output {
            Output::Text => render::text(&version_table(&versions)),
            Output::Json => render::json(&versions),
        }
        return Ok(());
    }
    let info = find(session, &args.dataset).await?;
    let files: serde_json::Value = session.client.get(&format!("{}/files", version_path(info.version))).await?;
    match session.output {
        Output::Json => render::json(&serde_json::json!({ "version": info, "files": files })),
        Output::Text => render::text(&format!("{}\n{}", version_table(&[info]), file_table(&files))),
    }
    Ok(())
}

/// What the site that was asked says of a version's files.
fn file_table(answer: &serde_json::Value) -> String {
    let files = answer.get("answer").unwrap_or(answer);
    let files = files.as_array().or_else(|| files.get("items").and_then(|items| items.as_array()));
    let row = |file: &serde_json::Value| {
        let path = file.get("path").and_then(|path| path.as_str()).unwrap_or("-").to_owned();
        let bytes = file.get("bytes").and_then(|bytes| bytes.as_u64()).unwrap_or(0);
        vec![render::bytes(bytes), path]
    };
    render::table(&["size", "file"], &[0], files.into_iter().flatten().map(row).collect())
}
