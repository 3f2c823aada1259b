//! `tombolo data get`.

use std::path::PathBuf;

use clap::Args;
use tombolo_api::stream::Progress;
use tombolo_api::wire::VersionInfo;
use tombolo_core::SiteId;
use tombolo_core::resources::bytes;
use tombolo_data::{DataError, MaterializeOptions};

use super::{Reference, Which, find, version_path};
use crate::failure::Failure;
use crate::home::LocalSite;
use crate::session::{Session, new_key};
use crate::upload::{self, Nearest};
use crate::{progress, project};

const EXAMPLES: &str = "\
Examples:
  tombolo data get raw ./raw
  tombolo data get raw@v3 ./raw-before
  tombolo data get raw ./raw-in-use --at prod
  tombolo data get model ./model --site onprem
  tombolo data get flights/model@7 ./model         what run 7 of the project flights has made

Where no site on this machine has the bytes, they are brought to one that may have them first.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Get {
    /// A dataset, and a version by its number, first digits, tag or time; or an output, and a run
    #[arg(value_name = "NAME[@VERSION]")]
    name: Reference,
    /// A directory that does not exist or is empty
    dest: PathBuf,
    /// The site on this machine to take it from
    #[arg(long)]
    site: Option<SiteId>,
    /// Which version: the same as after an `@`
    #[arg(long, value_name = "VERSION|TAG|TIME")]
    at: Option<Which>,
}

pub async fn run(session: &Session, mut args: Get) -> Result<(), Failure> {
    args.name = args.name.at(args.at.take())?;
    project::check_leaves_out(&args.dest)?;
    let info = find(session, &args.name).await?;
    if let Some(checked) = info.facts.checked.as_ref().filter(|checked| checked.failed()) {
        eprintln!("warning: {} failed its expectations: {checked}", args.name);
    }
    let nearest = Nearest::find(session).await?;
    let local = local_sites(&nearest, args.site.as_ref())?;
    let site = match holder(&info, &local).await? {
        Some(site) => site,
        None => bring(session, &info, &local).await?,
    };
    let site = match write(&info, site, &args).await? {
        None => site,
        Some(damage) => {
            eprintln!("warning: at {}, {damage}; it is brought again", site.name);
            let brought = bring(session, &info, &local).await;
            let site = brought.map_err(|failure| Failure { what: format!("{damage}; {}", failure.what), ..failure })?;
            if let Some(damage) = write(&info, site, &args).await? {
                return Err(damage.into());
            }
            site
        }
    };
    if let Some(file) = project::leave_out(&args.dest)? {
        eprintln!("{} is no code of the project around it: {} says so now", args.dest.display(), file.display());
    }
    let size = bytes(info.bytes);
    eprintln!("{}@{}: {size} from {} into {}", args.name, info.version.short(), site.name, args.dest.display());
    Ok(())
}

/// The sites on this machine, or the one of them that is wanted.
pub(super) fn local_sites<'n>(nearest: &'n Nearest, wanted: Option<&SiteId>) -> Result<Vec<&'n LocalSite>, Failure> {
    let fits = |site: &&LocalSite| wanted.is_none_or(|wanted| site.name == *wanted);
    let local: Vec<&LocalSite> = nearest.sites().map(|(site, _)| site).filter(fits).collect();
    if local.is_empty() {
        return Err(Failure::usage("there is no site on this machine to take it from")
            .because("files are read from the store of a site whose agent was started here")
            .hint("run this where such a site is, or start one: tombolo agent join"));
    }
    Ok(local)
}

/// Writes the version's tree from a site's store. Answers what is damaged there, which is set aside then; nothing is
/// written in that case.
async fn write(info: &VersionInfo, site: &LocalSite, args: &Get) -> Result<Option<DataError>, Failure> {
    let store = upload::open(site).await?;
    let bar = progress::bytes(args.name.name.as_str());
    let options = MaterializeOptions { progress: Some(upload::show(&bar)), ..MaterializeOptions::default() };
    let (version, dest) = (info.version, args.dest.clone());
    let done = upload::blocking(move || {
        let error = match store.materialize(version, &dest, &options) {
            Ok(_) => return Ok(None),
            Err(error) => error,
        };
        let (DataError::CorruptChunk { pack, .. } | DataError::CorruptPack { pack, .. }) = &error else {
            return Err(error);
        };
        store.check_pack(pack)?;
        // Only what was written just now: it was not there, or empty.
        std::fs::remove_dir_all(&dest).map_err(|source| DataError::Io { doing: "can't empty", path: dest, source })?;
        Ok(Some(error))
    });
    let done = done.await;
    bar.finish_and_clear();
    done
}

/// A site on this machine whose store has the version whole.
pub(super) async fn holder<'s>(info: &VersionInfo, local: &[&'s LocalSite]) -> Result<Option<&'s LocalSite>, Failure> {
    for site in local {
        let store = upload::open(site).await?;
        let version = info.version;
        if upload::blocking(move || store.has(version)).await? {
            return Ok(Some(site));
        }
    }
    Ok(None)
}

/// Has the version brought to the first site on this machine that may have it; the control plane knows the rules.
pub(super) async fn bring<'s>(
    session: &Session,
    info: &VersionInfo,
    local: &[&'s LocalSite],
) -> Result<&'s LocalSite, Failure> {
    let mut refused = None;
    for site in local {
        let bar = progress::bytes(&format!("to {}", site.name));
        let body = serde_json::json!({ "site": site.name });
        let path = format!("{}/replicas", version_path(info.version));
        let key = new_key();
        let brought = session.client.post_events(&path, &key, &body, |moved: Progress| {
            bar.set_length(moved.total_bytes);
            bar.set_position(moved.done_bytes);
            true
        });
        let brought = brought.await;
        bar.finish_and_clear();
        match brought {
            Ok(()) if holder(info, &[site]).await?.is_some() => return Ok(site),
            Ok(()) => {
                refused = Some(
                    Failure::system(format!("version {} did not come to {}", info.version.short(), site.name))
                        .hint("see whether a site that has it is up: tombolo data where, tombolo site ls"),
                );
            }
            Err(error) => refused = Some(Failure::from(error)),
        }
    }
    Err(refused.unwrap_or_else(|| Failure::usage("no site on this machine may have it")))
}
