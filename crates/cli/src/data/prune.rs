//! `tombolo data prune`.

use clap::Args;
use tombolo_api::wire::{NewPrune, Pruned, PrunedVersion};
use tombolo_core::Name;
use tombolo_core::resources::bytes;
use tombolo_core::retention::Rules;

use crate::failure::Failure;
use crate::render;
use crate::session::{Output, Session};

const EXAMPLES: &str = "\
Examples:
  tombolo data prune raw --dry-run                          by the rules that projects say of it, `retain`
  tombolo data prune raw --keep \"last 10, daily for 30 days\" --dry-run
  tombolo data prune raw --keep \"all for 7 days, monthly for 2 years\"
  tombolo data prune raw --keep tagged                      nothing but what stays in any case

Rules, with commas between: last <count>; all for <span>; tagged;
hourly, daily, weekly, monthly or yearly for <span>.

A version stays if any of them keeps it. The newest stays in any case, and what has a tag or is
in use by a run that is not over. `tombolo data gc` frees the bytes of the rest; until then
`tombolo data restore` brings a version back.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Prune {
    /// A dataset
    name: Name,
    /// Which versions stay [default: what projects say]
    #[arg(long, value_name = "RULES")]
    keep: Option<Rules>,
    /// Only show what would go, and why the rest stays
    #[arg(long)]
    dry_run: bool,
}

pub async fn run(session: &Session, args: Prune) -> Result<(), Failure> {
    let Prune { name, keep, dry_run } = args;
    let path = format!("/v1/datasets/{name}/prune");
    let pruned: Pruned = session.create(&path, &NewPrune { keep, dry_run }).await?;
    if session.output == Output::Json {
        render::json(&pruned);
        return Ok(());
    }
    render::text(&table(&pruned.versions));
    let gone = pruned.versions.iter().filter(|version| version.goes).count();
    match &pruned.rules {
        None => eprintln!("no project says which versions of {name} stay, so all do; say it with --keep"),
        Some(_) if gone == 0 => eprintln!("every version of {name} stays"),
        Some(rules) if pruned.done => {
            eprintln!("{gone} of {name} lost their names, by {rules}; `tombolo data gc` frees their bytes");
        }
        Some(rules) => eprintln!("{gone} of {name} would lose their names, by {rules}; nothing was changed"),
    }
    Ok(())
}

fn table(versions: &[PrunedVersion]) -> String {
    let now = render::now();
    let row = |version: &PrunedVersion| {
        vec![
            format!("v{}", version.number),
            version.version.short(),
            bytes(version.bytes),
            render::ago(now, version.at),
            if version.goes { "goes" } else { "stays" }.to_owned(),
            render::dash(Some(version.because.join(", ")).filter(|because| !because.is_empty())),
        ]
    };
    render::table(&["no", "version", "size", "added", "fate", "because"], &[2], versions.iter().map(row).collect())
}
