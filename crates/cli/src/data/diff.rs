//! `tombolo data diff`: two versions by their files and, where they are tables, by schema and rows.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use tombolo_api::wire::VersionInfo;
use tombolo_core::Digest;
use tombolo_data::manifest::Node;
use tombolo_data::{Manifest, MaterializeOptions};
use tombolo_sql::{TableDelta, TablesDiff};

use super::{Reference, Which, find, get};
use crate::failure::Failure;
use crate::home::LocalSite;
use crate::session::{Output, Session};
use crate::upload::{self, Nearest};
use crate::{progress, render};

/// What grouping rows may hold before it spills to the disk, in bytes.
const MEMORY_BYTES: usize = 512 << 20;
/// Files that are listed for people.
const FILES_SHOWN: usize = 100;

const EXAMPLES: &str = "\
Examples:
  tombolo data diff raw@v3                          from an earlier version to the newest
  tombolo data diff raw --at 2026-11-20             the same, by a time
  tombolo data diff raw@v3 raw@prod --key id        rows of the same id are the same row, changed
  tombolo data diff flights/features@6 flights/features@7 --output json

Both are read at a site on this machine, and brought there first where they may be and are not.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Diff {
    /// A dataset, and a version by its number, first digits, tag or time; or an output, and a run
    #[arg(value_name = "A[@VERSION]")]
    a: Reference,
    /// What it is compared with [default: the newest of the same]
    #[arg(value_name = "B[@VERSION]")]
    b: Option<Reference>,
    /// Which version of A: the same as after an `@`
    #[arg(long, value_name = "VERSION|TAG|TIME")]
    at: Option<Which>,
    /// Columns that tell which rows are the same one
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    key: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    a: String,
    b: String,
    files: FilesDelta,
    /// None where one of them is no table.
    table: Option<TableReport>,
}

/// By path, with sizes in bytes.
#[derive(Debug, PartialEq, Eq, Default, Serialize)]
struct FilesDelta {
    added: BTreeMap<String, u64>,
    removed: BTreeMap<String, u64>,
    /// The sizes in A and B.
    changed: BTreeMap<String, (u64, u64)>,
    same: u64,
    /// Of the distinct chunks, raw.
    bytes_shared: u64,
    bytes_only_a: u64,
    bytes_only_b: u64,
}

#[derive(Debug, Serialize)]
struct TableReport {
    rows_a: u64,
    rows_b: u64,
    columns_removed: Vec<(String, String)>,
    columns_added: Vec<(String, String)>,
    columns_changed: Vec<(String, String, String)>,
    rows_only_a: u64,
    rows_only_b: u64,
    /// None without a key.
    rows_changed: Option<u64>,
}

/// A version that is at a site on this machine.
struct Here<'s> {
    info: VersionInfo,
    site: &'s LocalSite,
    manifest: Manifest,
}

pub async fn run(session: &Session, args: Diff) -> Result<(), Failure> {
    let of_a = args.a.at(args.at)?;
    let of_b = args.b.unwrap_or_else(|| Reference { which: None, ..of_a.clone() });
    let nearest = Nearest::find(session).await?;
    let local: Vec<&LocalSite> = nearest.sites().map(|(site, _)| site).collect();
    let (a, b) = (here(session, &of_a, &local).await?, here(session, &of_b, &local).await?);
    let files = files(&a.manifest, &b.manifest);
    let table = match is_table(&a.manifest) && is_table(&b.manifest) {
        true => Some(table(&a, &b, &args.key).await?),
        false if args.key.is_empty() => None,
        false => {
            return Err(Failure::usage("--key is for tables, and these are not both tables")
                .because("a table is made of Parquet or of CSV files, and of no others"));
        }
    };
    let name = |reference: &Reference, here: &Here| format!("{reference}@{}", here.info.version);
    let report = Report { a: name(&of_a, &a), b: name(&of_b, &b), files, table };
    match session.output {
        Output::Text => render::text(&text(&report)),
        Output::Json => render::json(&report),
    }
    Ok(())
}

async fn here<'s>(session: &Session, reference: &Reference, local: &[&'s LocalSite]) -> Result<Here<'s>, Failure> {
    let info = find(session, reference).await?;
    if local.is_empty() {
        return Err(Failure::usage("there is no site on this machine to read the versions at")
            .hint("run this where such a site is, or start one: tombolo agent join"));
    }
    let site = match get::holder(&info, local).await? {
        Some(site) => site,
        None => get::bring(session, &info, local).await?,
    };
    let (store, version) = (upload::open(site).await?, info.version);
    let manifest = upload::blocking(move || store.manifest(version)).await?;
    Ok(Here { info, site, manifest })
}

fn files(a: &Manifest, b: &Manifest) -> FilesDelta {
    let mut delta = FilesDelta::default();
    for entry in a.entries() {
        match b.entry(&entry.path) {
            None => drop(delta.removed.insert(entry.path.clone(), entry.bytes())),
            Some(other) if other.node == entry.node => delta.same += 1,
            Some(other) => drop(delta.changed.insert(entry.path.clone(), (entry.bytes(), other.bytes()))),
        }
    }
    for entry in b.entries().iter().filter(|entry| a.entry(&entry.path).is_none()) {
        delta.added.insert(entry.path.clone(), entry.bytes());
    }
    let in_a: HashSet<Digest> = a.chunks().map(|chunk| chunk.digest).collect();
    let mut in_b: HashSet<Digest> = HashSet::new();
    for chunk in b.chunks() {
        if in_b.insert(chunk.digest) {
            let bytes = if in_a.contains(&chunk.digest) { &mut delta.bytes_shared } else { &mut delta.bytes_only_b };
            *bytes += u64::from(chunk.bytes);
        }
    }
    let mut seen = in_b;
    for chunk in a.chunks() {
        if seen.insert(chunk.digest) {
            delta.bytes_only_a += u64::from(chunk.bytes);
        }
    }
    delta
}

/// Whether all its files, but hidden ones, are Parquet or all are CSV.
fn is_table(manifest: &Manifest) -> bool {
    let files = manifest.entries().iter().filter(|entry| !entry.path.split('/').any(|part| part.starts_with('.')));
    let mut endings = HashSet::new();
    for entry in files {
        match entry.node {
            Node::File { .. } | Node::Link { .. } => {
                let ending = Path::new(&entry.path).extension().and_then(|ending| ending.to_str());
                endings.insert(ending.unwrap_or_default().to_ascii_lowercase());
            }
            Node::EmptyDir => {}
        }
    }
    endings.len() == 1 && endings.iter().all(|ending| ending == "parquet" || ending == "csv")
}

/// Writes both out next to their stores, which may hold them, and compares their rows.
async fn table(a: &Here<'_>, b: &Here<'_>, key: &[String]) -> Result<TableReport, Failure> {
    let (dir_a, dir_b) = (written(a).await?, written(b).await?);
    let path = |dir: &tempfile::TempDir| -> PathBuf { dir.path().join("data") };
    let tables = TablesDiff { a: path(&dir_a), b: path(&dir_b), key: key.to_vec(), memory_bytes: MEMORY_BYTES };
    let bar = progress::spinner();
    bar.set_message("comparing rows");
    let compared = tokio::task::spawn_blocking(move || tombolo_sql::diff(&tables)).await;
    bar.finish_and_clear();
    let compared = compared.map_err(|panic| Failure::system("comparing rows ended unexpectedly").because(panic))?;
    let delta = compared.map_err(|error| Failure::usage("the tables can't be compared").because(error))?;
    let TableDelta { rows_a, rows_b, columns_removed, columns_added, columns_changed, .. } = delta;
    Ok(TableReport {
        rows_a,
        rows_b,
        columns_removed,
        columns_added,
        columns_changed,
        rows_only_a: delta.rows_only_a,
        rows_only_b: delta.rows_only_b,
        rows_changed: (!key.is_empty()).then_some(delta.rows_changed),
    })
}

async fn written(here: &Here<'_>) -> Result<tempfile::TempDir, Failure> {
    let dir = tempfile::Builder::new().prefix("diff-").tempdir_in(&here.site.site_dir);
    let dir = dir.map_err(|error| Failure::system("there is no room to compare tables in").because(error))?;
    let (store, version, dest) = (upload::open(here.site).await?, here.info.version, dir.path().join("data"));
    let bar = progress::bytes(&version.short());
    let options = MaterializeOptions { progress: Some(upload::show(&bar)), ..MaterializeOptions::default() };
    let done = upload::blocking(move || store.materialize(version, dest, &options)).await;
    bar.finish_and_clear();
    done?;
    Ok(dir)
}

fn text(report: &Report) -> String {
    let FilesDelta { added, removed, changed, same, bytes_shared, bytes_only_a, bytes_only_b } = &report.files;
    let size = |bytes: u64| tombolo_core::resources::bytes(bytes);
    let mut text = format!(
        "files: {} added, {} removed, {} changed, {same} the same\nbytes: {} shared, {} only in A, {} only in B\n",
        added.len(),
        removed.len(),
        changed.len(),
        size(*bytes_shared),
        size(*bytes_only_a),
        size(*bytes_only_b)
    );
    let mut lines: Vec<String> = Vec::new();
    lines.extend(removed.iter().map(|(path, bytes)| format!("- {path} ({})", size(*bytes))));
    lines.extend(added.iter().map(|(path, bytes)| format!("+ {path} ({})", size(*bytes))));
    lines.extend(changed.iter().map(|(path, (a, b))| format!("~ {path} ({} -> {})", size(*a), size(*b))));
    let more = lines.len().saturating_sub(FILES_SHOWN);
    for line in lines.iter().take(FILES_SHOWN) {
        text += &format!("  {line}\n");
    }
    if more > 0 {
        text += &format!("  and {more} more (all of them: --output json)\n");
    }
    let Some(table) = &report.table else { return text };
    text += &format!("rows: {} in A, {} in B; ", table.rows_a, table.rows_b);
    let changed = table.rows_changed.map(|rows| format!(", {rows} changed")).unwrap_or_default();
    text += &format!("{} only in A, {} only in B{changed}\n", table.rows_only_a, table.rows_only_b);
    if table.columns_removed.is_empty() && table.columns_added.is_empty() && table.columns_changed.is_empty() {
        return text + "columns: the same\n";
    }
    text += "columns:\n";
    for (name, kind) in &table.columns_removed {
        text += &format!("  - {name} {}\n", render::kind(kind));
    }
    for (name, kind) in &table.columns_added {
        text += &format!("  + {name} {}\n", render::kind(kind));
    }
    for (name, a, b) in &table.columns_changed {
        // Of two widths of a number the words are the same.
        let words = (render::kind(a), render::kind(b));
        let (a, b) = if words.0 == words.1 { (a.as_str(), b.as_str()) } else { words };
        text += &format!("  ~ {name} {a} -> {b}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use tombolo_data::ChunkRef;
    use tombolo_data::manifest::Entry;

    fn manifest(files: &[(&str, &[u8])]) -> Manifest {
        let chunk = |byte: &u8| ChunkRef { digest: Digest([*byte; 32]), bytes: 10 };
        let file = |(path, bytes): &(&str, &[u8])| Entry {
            path: (*path).to_owned(),
            node: Node::File { executable: false, chunks: bytes.iter().map(chunk).collect() },
        };
        Manifest::new(files.iter().map(file).collect()).unwrap()
    }

    #[test]
    fn files_and_chunks_are_compared() {
        let a = manifest(&[("gone.csv", &[1, 2]), ("kept.csv", &[3]), ("new-end.csv", &[4, 5])]);
        let b = manifest(&[("kept.csv", &[3]), ("moved.csv", &[1, 2]), ("new-end.csv", &[4, 6, 6])]);
        let files = files(&a, &b);
        assert_eq!(files.removed, BTreeMap::from([("gone.csv".to_owned(), 20)]));
        assert_eq!(files.added, BTreeMap::from([("moved.csv".to_owned(), 20)]));
        assert_eq!(files.changed, BTreeMap::from([("new-end.csv".to_owned(), (20, 30))]));
        assert_eq!((files.same, files.bytes_shared, files.bytes_only_a, files.bytes_only_b), (1, 40, 10, 10));
    }

    #[test]
    fn a_table_is_of_one_kind_of_files() {
        let check = |paths: &[&str], table: bool| {
            let files: Vec<(&str, &[u8])> = paths.iter().map(|path| (*path, &[1_u8][..])).collect();
            assert_eq!(is_table(&manifest(&files)), table, "{paths:?}");
        };
        check(&["a.csv", "b/c.CSV"], true);
        check(&[".hidden", "a.parquet"], true);
        check(&["a.csv", "b.parquet"], false);
        check(&["a.csv", "readme"], false);
        check(&["model.bin"], false);
    }
}
