//! `tombolo data add`.

use std::path::{Path, PathBuf};

use clap::Args;
use tombolo_api::project::FILE_NAME;
use tombolo_core::expect::Expect;
use tombolo_core::residency::{Selector, Term};
use tombolo_core::{Name, Residency, SiteId};

use crate::failure::Failure;
use crate::inspect;
use crate::project::Project;
use crate::render;
use crate::session::{Output, Session, pairs};
use crate::upload::{self, Nearest};

const EXAMPLES: &str = "\
Examples:
  tombolo data add raw data/raw.parquet
  tombolo data add raw data/ --keep-at onprem             may only be at this site
  tombolo data add raw data/ --keep-at region=eu          only at sites with this label
  tombolo data add raw data/ --keep-at onprem --keep-at cloud    at either
  tombolo data add raw data/ --expect examples/flights    check it by what this project expects of `raw`

The bytes go into the store of a site on this machine. What is stored already isn't stored again.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Add {
    /// The dataset; it is made if there is none
    name: Name,
    /// A file or a directory
    path: PathBuf,
    /// A site, or labels such as region=eu,visibility=private: where its bytes and all that derives from them may be
    #[arg(long, value_name = "SITE|LABELS")]
    keep_at: Vec<String>,
    /// A project's directory or file, which says what the dataset is expected to be [default: the one here, if any]
    #[arg(long, value_name = "PROJECT")]
    expect: Option<PathBuf>,
    /// The site on this machine to add it at
    #[arg(long)]
    site: Option<SiteId>,
}

pub async fn run(session: &Session, args: Add) -> Result<(), Failure> {
    let residency = residency(&args.keep_at)?;
    let expect = expected(&args)?;
    let nearest = Nearest::find(session).await?;
    let site = match &args.site {
        Some(site) => nearest.named(site, args.name.as_str(), &residency)?,
        None => nearest.for_residency(args.name.as_str(), &residency)?,
    };
    let stored = upload::dataset(site, &args.name, &args.path, expect.as_ref(), &residency).await?;
    let info = upload::announce(session, &stored, Some(&args.name), &residency).await?;
    eprintln!("{}", upload::line(args.name.as_str(), &stored));
    match session.output {
        Output::Text => render::text(&format!("{}@{}\n", args.name, stored.added.version)),
        Output::Json => render::json(&info),
    }
    inspect::refused(args.name.as_str(), &stored.facts, expect.as_ref())
}

/// What a project expects of the dataset: the one that is named, or else the one in the directory that this runs in.
fn expected(args: &Add) -> Result<Option<Expect>, Failure> {
    let expect = |project: Project| project.spec.data.get(&args.name).and_then(|data| data.expect.clone());
    match &args.expect {
        Some(path) => match expect(Project::load(path)?) {
            Some(expect) => Ok(Some(expect)),
            None => Err(Failure::usage(format!("the project at {} expects nothing of {}", path.display(), args.name))
                .hint(format!("say what under `data: {}: expect:`", args.name))),
        },
        None if Path::new(FILE_NAME).exists() => match Project::load(Path::new(".")) {
            Ok(project) => Ok(expect(project)),
            // It may have nothing to do with this dataset.
            Err(_) => {
                eprintln!("warning: {FILE_NAME} has faults (see `tombolo plan`), so that nothing is checked by it");
                Ok(None)
            }
        },
        None => Ok(None),
    }
}

/// Any of the terms picks a site; none allows every site.
fn residency(keep_at: &[String]) -> Result<Residency, Failure> {
    let mut terms = std::collections::BTreeSet::new();
    for text in keep_at {
        terms.insert(match text.contains('=') {
            true => Term::Labels(pairs(&text.split(',').map(str::to_owned).collect::<Vec<_>>())?),
            false => Term::Site(
                SiteId::new(text.as_str())
                    .map_err(|fault| Failure::usage(format!("{text:?} is neither a site nor labels")).because(fault))?,
            ),
        });
    }
    Ok(if terms.is_empty() { Residency::anywhere() } else { Residency::keep_at(Selector(terms)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn residency_is_any_of_what_is_given() {
        let check = |texts: &[&str], words: &str| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(residency(&texts).unwrap().to_string(), words);
        };
        check(&[], "anywhere");
        check(&["onprem"], "onprem");
        check(&["onprem", "region=eu,tier=1"], "onprem or {region: eu, tier: 1}");
        assert!(residency(&["On Prem".into()]).is_err() && residency(&["=eu".into()]).is_err());
    }
}
