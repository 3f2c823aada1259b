//! `tombolo data cat`.

use std::io::{BufWriter, ErrorKind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use tombolo_api::wire::VersionInfo;
use tombolo_core::{SiteId, VersionId};
use tombolo_data::{DataError, Expect, Store};

use super::get::{bring, holder, local_sites};
use super::{Reference, Which, find};
use crate::failure::Failure;
use crate::home::LocalSite;
use crate::session::Session;
use crate::upload::{self, Nearest};

const EXAMPLES: &str = "\
Examples:
  tombolo data cat raw | head                  the only file of the newest version
  tombolo data cat raw@v3 2024/flights.csv | python train.py
  tombolo data cat flights/model@7 metrics.json

Where no site on this machine has the bytes, they are brought to one that may have them, and printed as they come.";

/// What is written at once, in bytes.
const WRITE_BYTES: usize = 1 << 20;
/// How often it is looked where the version comes.
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Cat {
    /// A dataset, and a version by its number, first digits, tag or time; or an output, and a run
    #[arg(value_name = "NAME[@VERSION]")]
    name: Reference,
    /// Which of its files [default: the only one]
    file: Option<String>,
    /// The site on this machine to take it from, or to bring it to
    #[arg(long)]
    site: Option<SiteId>,
    /// Which version: the same as after an `@`
    #[arg(long, value_name = "VERSION|TAG|TIME")]
    at: Option<Which>,
}

pub async fn run(session: &Session, mut args: Cat) -> Result<(), Failure> {
    args.name = args.name.at(args.at.take())?;
    let info = find(session, &args.name).await?;
    if let Some(checked) = info.facts.checked.as_ref().filter(|checked| checked.failed()) {
        eprintln!("warning: {} failed its expectations: {checked}", args.name);
    }
    let nearest = Nearest::find(session).await?;
    let local = local_sites(&nearest, args.site.as_ref())?;
    let over = Arc::new(AtomicBool::new(false));
    if let Some(site) = holder(&info, &local).await? {
        over.store(true, Ordering::SeqCst);
        return print(&info, &[site], args.file, &over).await;
    }
    let mut bringing = pin!(bring(session, &info, &local));
    let mut printing = pin!(print(&info, &local, args.file, &over));
    tokio::select! {
        // All of the file, or nobody reads it any more: the rest of the version isn't needed for that.
        printed = &mut printing => printed,
        brought = &mut bringing => {
            over.store(true, Ordering::SeqCst);
            match (printing.await, brought) {
                (Err(_), Err(failure)) => Err(failure),
                (printed, _) => printed,
            }
        }
    }
}

/// Writes the file to stdout from the site that has the version or gets it, until there will be no more.
async fn print(
    info: &VersionInfo,
    sites: &[&LocalSite],
    file: Option<String>,
    over: &Arc<AtomicBool>,
) -> Result<(), Failure> {
    let mut stores = Vec::new();
    for site in sites {
        stores.push(upload::open(site).await?);
    }
    let (version, over) = (info.version, over.clone());
    upload::blocking(move || {
        let expect = || if over.load(Ordering::SeqCst) { Expect::NoMore } else { Expect::More };
        let store = in_sight(&stores, version, &expect)?;
        let mut out = BufWriter::with_capacity(WRITE_BYTES, std::io::stdout().lock());
        match store.follow_file(version, file.as_deref(), &expect, &mut out) {
            // Whoever read it has read enough.
            Err(DataError::Io { source, .. }) if source.kind() == ErrorKind::BrokenPipe => {
                // What it still holds can't be written either.
                drop(out.into_parts());
                Ok(())
            }
            Err(error) => {
                // Set aside, so that the next one has it brought again.
                if let DataError::CorruptChunk { pack, .. } | DataError::CorruptPack { pack, .. } = &error {
                    store.check_pack(pack)?;
                }
                Err(error)
            }
            Ok(_) => Ok(()),
        }
    })
    .await
}

/// The store in which the version is, or shows first.
fn in_sight<'s>(stores: &'s [Store], version: VersionId, expect: &dyn Fn() -> Expect) -> Result<&'s Store, DataError> {
    loop {
        let expected = expect();
        if let Some(store) = stores.iter().find(|store| store.manifest_in_sight(version).is_ok()) {
            return Ok(store);
        }
        if expected == Expect::NoMore {
            return Err(DataError::NoVersion { version });
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
