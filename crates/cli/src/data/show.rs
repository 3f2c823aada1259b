//! `tombolo data show`.

use std::collections::BTreeMap;

use clap::Args;
use tombolo_api::wire::{Lineage, LineageStep, RemovedVersion, VersionInfo};
use tombolo_core::facts::{Column, Table};
use tombolo_core::resources::bytes as amount;

use super::{Named, Reference, Which, find, output_table, version_path, version_table};
use crate::failure::Failure;
use crate::render;
use crate::session::{Output, Session};

const EXAMPLES: &str = "\
Examples:
  tombolo data show raw               its versions
  tombolo data show raw@v3            one version: schema, expectations, lineage, files
  tombolo data show raw --at 2026-11-20
  tombolo data show raw --removed     what lost its name, when and why
  tombolo data show flights/model     what runs have made under this name
  tombolo data show flights/model@7   what run 7 has made, with its files";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Show {
    /// A dataset, and a version by its number, first digits, tag or time; or an output, and a run
    #[arg(value_name = "NAME[@VERSION]")]
    name: Reference,
    /// Which version: the same as after an `@`
    #[arg(long, value_name = "VERSION|TAG|TIME")]
    at: Option<Which>,
    /// What lost its name, and why; `tombolo data restore` may bring it back
    #[arg(long, conflicts_with = "at")]
    removed: bool,
}

pub async fn run(session: &Session, args: Show) -> Result<(), Failure> {
    let name = args.name.at(args.at)?;
    if args.removed {
        return removed(session, &name).await;
    }
    if name.which.is_none() {
        match (Named::find(session, &name).await?, session.output) {
            (Named::Dataset(versions), Output::Text) => render::text(&version_table(&versions)),
            (Named::Dataset(versions), Output::Json) => render::json(&versions),
            (Named::Output(outputs), Output::Text) => render::text(&output_table(&outputs, false)),
            (Named::Output(outputs), Output::Json) => render::json(&outputs),
        }
        return Ok(());
    }
    let info = find(session, &name).await?;
    let path = version_path(info.version);
    let files: serde_json::Value = session.client.get(&format!("{path}/files")).await?;
    let lineage: Lineage = session.client.get(&format!("{path}/lineage")).await?;
    match session.output {
        Output::Json => render::json(&serde_json::json!({ "version": info, "files": files, "lineage": lineage })),
        Output::Text => {
            if let Some(why) = &info.why {
                eprintln!("{name}: {why}, by {}", render::dash(info.by.clone()));
            }
            let (found, history) = (facts(&info), history(&lineage, &info));
            render::text(&format!("{}{found}{history}\n{}", version_table(&[info]), file_table(&files)));
        }
    }
    Ok(())
}

async fn removed(session: &Session, name: &Reference) -> Result<(), Failure> {
    if let Some(which) = &name.which {
        return Err(Failure::usage(format!("--removed lists all of {name}, not {}", which.text))
            .hint(format!("tombolo data show {name} --removed")));
    }
    let removed: Vec<RemovedVersion> = session.all(&format!("/v1/datasets/{}/removed", name.dataset()?)).await?;
    match session.output {
        Output::Text if removed.is_empty() => eprintln!("nothing of {name} lost its name"),
        Output::Text => render::text(&removed_table(&removed)),
        Output::Json => render::json(&removed),
    }
    Ok(())
}

fn removed_table(removed: &[RemovedVersion]) -> String {
    let now = render::now();
    let row = |removed: &RemovedVersion| {
        vec![
            format!("v{}", removed.number),
            removed.version.short(),
            amount(removed.bytes),
            removed.files.to_string(),
            removed.sites.join(", "),
            render::ago(now, removed.at),
            render::ago(now, removed.removed),
            removed.by.clone(),
            removed.why.clone(),
        ]
    };
    let header = ["no", "version", "size", "files", "was at", "added", "removed", "by", "why"];
    render::table(&header, &[2, 3], removed.iter().map(row).collect())
}

/// Its schema, and whether it is what it is expected to be.
fn facts(info: &VersionInfo) -> String {
    let mut text = String::new();
    if let Some(Table { format, rows, columns, more }) = &info.facts.table {
        let rows = rows.map_or("rows not counted".to_owned(), |rows| format!("{rows} rows"));
        text += &format!("\n{} table, {rows}\n", format.word());
        let row = |column: &Column| {
            vec![
                column.name.clone(),
                type_word(&column.kind).to_owned(),
                render::dash(column.nulls.map(|nulls| nulls.to_string())),
            ]
        };
        text += &render::table(&["column", "type", "nulls"], &[2], columns.iter().map(row).collect());
        if *more > 0 {
            text += &format!("and {more} more columns\n");
        }
    }
    let Some(checked) = &info.facts.checked else { return text };
    let when = render::ago(render::now(), checked.at.0);
    if !checked.failed() {
        return text + &format!("\nas expected: {checked} (checked {when})\n");
    }
    text += &format!("\nnot as expected (checked {when}):\n");
    for breach in &checked.breaches {
        text += &format!("  {breach}\n");
    }
    if checked.more > 0 {
        text += &format!("  and {} more\n", checked.more);
    }
    text
}

/// A column's type in the words of `expect`; what has none there, as Arrow calls it.
fn type_word(kind: &str) -> &str {
    let is_one_of = |heads: &[&str]| heads.iter().any(|head| kind.starts_with(head));
    match kind {
        _ if is_one_of(&["Int8", "Int16", "Int32", "Int64", "UInt"]) => "integer",
        _ if is_one_of(&["Float", "Decimal"]) => "number",
        _ if is_one_of(&["Utf8", "LargeUtf8"]) => "text",
        _ if is_one_of(&["Timestamp"]) => "timestamp",
        "Date32" | "Date64" => "date",
        "Boolean" => "boolean",
        other => other,
    }
}

/// What made it and of what, and what it fed.
fn history(lineage: &Lineage, info: &VersionInfo) -> String {
    let short = |(name, version): (&String, &String)| format!("{name}@{}", version.get(..12).unwrap_or(version));
    let all = |versions: &BTreeMap<String, String>| versions.iter().map(short).collect::<Vec<_>>().join(", ");
    let mut text = String::new();
    for (title, steps) in [("made by", &lineage.made), ("read by", &lineage.fed)] {
        let row = |step: &LineageStep| {
            vec![
                step.workload.clone(),
                step.state.clone(),
                render::dash(some(all(&step.inputs))),
                render::dash(some(all(&step.outputs))),
            ]
        };
        if !steps.is_empty() {
            text.push('\n');
            text += &render::table(&[title, "which", "of", "into"], &[], steps.iter().map(row).collect());
        }
    }
    if lineage.made.is_empty()
        && let Some(workload) = &info.made_by
    {
        text += &format!("\nmade by {workload}\n");
    }
    if lineage.partial {
        text += &format!("\nonly the newest {} runs were looked through\n", lineage.runs);
    }
    text
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// What the site that was asked says of a version's files.
fn file_table(answer: &serde_json::Value) -> String {
    let files = answer.get("answer").unwrap_or(answer);
    let files = files.as_array().or_else(|| files.get("items").and_then(|items| items.as_array()));
    let row = |file: &serde_json::Value| {
        let path = file.get("path").and_then(|path| path.as_str()).unwrap_or("-").to_owned();
        let bytes = file.get("bytes").and_then(|bytes| bytes.as_u64()).unwrap_or(0);
        vec![amount(bytes), path]
    };
    render::table(&["size", "file"], &[0], files.into_iter().flatten().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_told_in_the_project_files_words() {
        for (kind, word) in [
            ("Int64", "integer"),
            ("UInt8", "integer"),
            ("Float32", "number"),
            ("Decimal128(10, 2)", "number"),
            ("Utf8View", "text"),
            ("LargeUtf8", "text"),
            ("Boolean", "boolean"),
            ("Date32", "date"),
            ("Timestamp(Millisecond, None)", "timestamp"),
            ("Interval(DayTime)", "Interval(DayTime)"),
            ("Binary", "Binary"),
        ] {
            assert_eq!(type_word(kind), word, "{kind}");
        }
    }
}
