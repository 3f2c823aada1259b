//! `tombolo data`: datasets, their versions, and where their bytes are.

mod add;
mod care;
mod get;
mod list;
mod rm;
mod show;

use clap::{Args, Subcommand};
use tombolo_api::wire::{DatasetInfo, RunView, VersionInfo};
use tombolo_core::{Name, VersionId};

use crate::failure::Failure;
use crate::render;
use crate::session::{Global, Session};

/// Newest runs whose outputs are looked through for a name.
const RUNS_SEARCHED: usize = 50;

const EXAMPLES: &str = "\
Examples:
  tombolo data add raw data/raw.parquet --keep-at onprem
  tombolo data ls
  tombolo data get raw ./raw
  tombolo data get raw@3f2a ./raw-before
  tombolo data where raw";

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
    /// List datasets
    Ls(list::Ls),
    /// Show a dataset's versions, or one version with its files
    Show(show::Show),
    /// Write a version's files into a directory
    Get(get::Get),
    /// Remove a version's name; gc then frees what nothing needs
    Rm(rm::Rm),
    /// Read every stored byte and set aside what is damaged
    Verify(care::Verify),
    /// Free what no version needs
    Gc(care::Gc),
    /// Show at which sites a dataset's bytes are
    Where(list::Where),
}

pub async fn run(global: &Global, args: Data) -> Result<(), Failure> {
    let session = Session::open(global)?;
    match args.verb {
        Verb::Add(args) => add::run(&session, args).await,
        Verb::Ls(args) => list::run(&session, args).await,
        Verb::Show(args) => show::run(&session, args).await,
        Verb::Get(args) => get::run(&session, args).await,
        Verb::Rm(args) => rm::run(&session, args).await,
        Verb::Verify(args) => care::verify(&session, args).await,
        Verb::Gc(args) => care::gc(&session, args).await,
        Verb::Where(args) => list::run_where(&session, args).await,
    }
}

/// `raw` or `raw@3f2a`: a dataset, and a version of it by the first digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    pub name: Name,
    pub version: Option<String>,
}

impl std::str::FromStr for Reference {
    type Err = String;
    fn from_str(text: &str) -> Result<Reference, String> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        let is_hex = |digits: &str| (4..=64).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
        if let Some(version) = version.filter(|version| !is_hex(version)) {
            return Err(format!("{version:?} is no version: give 4 to 64 of its hex digits"));
        }
        let name = Name::new(name).map_err(|fault| fault.to_string())?;
        Ok(Reference { name, version: version.map(str::to_ascii_lowercase) })
    }
}

/// A dataset's versions, newest first.
pub async fn versions(session: &Session, name: &Name) -> Result<Vec<VersionInfo>, Failure> {
    session.all(&format!("/v1/datasets/{name}/versions")).await
}

/// The version that a reference means: the newest unless it says which.
pub async fn find(session: &Session, reference: &Reference) -> Result<VersionInfo, Failure> {
    let path = format!("/v1/datasets/{}", reference.name);
    let versions = match session.find::<DatasetInfo>(&path).await? {
        Some(_) => versions(session, &reference.name).await?,
        None => outputs(session, &reference.name).await?,
    };
    chosen(reference, versions)
}

/// What runs have made under a name that is no dataset's, newest first.
async fn outputs(session: &Session, name: &Name) -> Result<Vec<VersionInfo>, Failure> {
    let mut found: Vec<VersionInfo> = Vec::new();
    for run in session.up_to::<RunView>("/v1/runs", RUNS_SEARCHED).await?.iter().take(RUNS_SEARCHED) {
        let run: RunView = session.client.get(&format!("/v1/runs/{}", run.id)).await?;
        for output in run.workloads.iter().filter_map(|workload| workload.outputs.get(name.as_str())) {
            if !found.iter().any(|info| info.version.to_string() == output.version) {
                found.extend(session.find::<VersionInfo>(&format!("/v1/versions/{}", output.version)).await?);
            }
        }
    }
    if found.is_empty() {
        return Err(Failure::usage(format!("there is no dataset {name}, and no output of a recent run"))
            .hint("`tombolo data ls` lists datasets, `tombolo ps <run> --output json` a run's outputs"));
    }
    Ok(found)
}

fn chosen(reference: &Reference, versions: Vec<VersionInfo>) -> Result<VersionInfo, Failure> {
    let name = &reference.name;
    let Some(digits) = &reference.version else {
        let newest = versions.into_iter().next();
        return newest.ok_or_else(|| Failure::usage(format!("{name} has no version")));
    };
    let mut found: Vec<VersionInfo> =
        versions.into_iter().filter(|info| info.version.to_string().starts_with(digits.as_str())).collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => {
            Err(Failure::usage(format!("{name} has no version {digits}"))
                .hint(format!("see `tombolo data show {name}`")))
        }
        count => {
            Err(Failure::usage(format!("{count} versions of {name} begin with {digits}")).hint("give more digits"))
        }
    }
}

/// A table of versions.
fn version_table(versions: &[VersionInfo]) -> String {
    let now = render::now();
    let row = |info: &VersionInfo| {
        vec![
            info.version.short(),
            render::bytes(info.bytes),
            info.files.to_string(),
            info.residency.clone(),
            info.replicas.join(", "),
            render::dash(info.made_by.clone()),
            render::ago(now, info.at),
        ]
    };
    let header = ["version", "size", "files", "may be at", "is at", "made by", "added"];
    render::table(&header, &[1, 2], versions.iter().map(row).collect())
}

fn version_path(version: VersionId) -> String {
    format!("/v1/versions/{version}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tombolo_core::Digest;

    fn info(byte: u8) -> VersionInfo {
        VersionInfo {
            version: VersionId(Digest([byte; 32])),
            dataset: Some("raw".into()),
            bytes: 1,
            files: 1,
            residency: "anywhere".into(),
            replicas: vec![],
            made_by: None,
            at: 0,
        }
    }

    #[test]
    fn references() {
        let reference: Reference = "raw@3F2A".parse().unwrap();
        assert_eq!((reference.name.as_str(), reference.version.as_deref()), ("raw", Some("3f2a")));
        assert_eq!("raw".parse::<Reference>().unwrap().version, None);
        for bad in ["", "Raw", "raw@", "raw@3f", "raw@xyzw", "raw@3f2a@1"] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_version_is_chosen_by_its_first_digits() {
        let versions = || vec![info(0x22), info(0x11), info(0x22)];
        let check = |text: &str, byte: Option<u8>| {
            let found = chosen(&text.parse().unwrap(), versions()).ok().map(|info| info.version);
            assert_eq!(found, byte.map(|byte| VersionId(Digest([byte; 32]))), "{text}");
        };
        check("raw", Some(0x22));
        check("raw@1111", Some(0x11));
        check("raw@2222", None);
        check("raw@3333", None);
    }
}
