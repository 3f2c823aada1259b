//! The record: docs/benchmarks.json holds the rows, and docs/benchmarks.md is made from them.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

const JSON: &str = "docs/benchmarks.json";
const PAGE: &str = "docs/benchmarks.md";

/// One measure beside one peer. `ratio` is ours divided by the peer's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    pub bench: String,
    pub measure: String,
    pub unit: String,
    pub ours: f64,
    pub peer: Option<String>,
    pub peer_value: Option<f64>,
    pub ratio: Option<f64>,
    pub goal: String,
    pub reached: bool,
    pub note: String,
    pub date: String,
    pub commit: String,
    pub machine: String,
}

impl Row {
    /// Adds to what a reader must know.
    pub fn note(mut self, text: &str) -> Row {
        if !self.note.is_empty() && !text.is_empty() {
            self.note += "; ";
        }
        self.note += text;
        self
    }

    fn named(&self) -> String {
        let beside = self.peer.as_ref().map(|peer| format!(" beside {peer}")).unwrap_or_default();
        format!("{}{beside} ({})", self.measure, self.goal)
    }
}

/// All recorded rows.
pub struct Book {
    rows: Vec<Row>,
}

impl Book {
    pub fn open(root: &Path) -> Result<Book> {
        match std::fs::read_to_string(root.join(JSON)) {
            Ok(text) => Ok(Book { rows: serde_json::from_str(&text).with_context(|| format!("can't read {JSON}"))? }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Book { rows: Vec::new() }),
            Err(error) => Err(error).with_context(|| format!("can't read {JSON}")),
        }
    }

    /// Puts a benchmark's rows in the place of its former ones; the order of benchmarks is that of their names.
    pub fn replace(&mut self, bench: &str, rows: Vec<Row>) {
        self.rows.retain(|row| row.bench != bench);
        self.rows.extend(rows);
        self.rows.sort_by(|a, b| a.bench.cmp(&b.bench));
    }

    pub fn write(&self, root: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(&self.rows)? + "\n";
        std::fs::write(root.join(JSON), json).with_context(|| format!("can't write {JSON}"))?;
        std::fs::write(root.join(PAGE), page(&self.rows)).with_context(|| format!("can't write {PAGE}"))?;
        println!("{JSON} and {PAGE} written");
        Ok(())
    }
}

fn page(rows: &[Row]) -> String {
    let mut text = "# Benchmarks\n\n\
        `cargo xtask bench <name>` runs each beside its peers, on one machine, on the same input, in turns, and takes the \
        median; it installs the peers itself. This page is made from [benchmarks.json](benchmarks.json). A ratio is ours \
        divided by the peer's.\n"
        .to_owned();
    if rows.is_empty() {
        text += "\nNothing has been recorded yet.\n";
    }
    let mut rest = rows;
    while let Some(first) = rest.first() {
        let (group, others) = rest.split_at(rest.iter().take_while(|row| row.bench == first.bench).count());
        let _ = write!(text, "\n## {}\n\n{}", first.bench, table(group));
        let _ = write!(text, "\n{}; {}, commit {}.\n", first.machine, first.date, first.commit);
        rest = others;
    }
    text
}

/// Rows as a Markdown table, with what wasn't reached, and the notes, below it.
pub fn table(rows: &[Row]) -> String {
    let mut text = "| measure | Tombolo | peer | its | ratio | goal | |\n|---|---:|---|---:|---:|---|---|\n".to_owned();
    for row in rows {
        let amount = |value: f64| format!("{value} {}", row.unit);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            row.measure,
            amount(row.ours),
            row.peer.as_deref().unwrap_or(""),
            row.peer_value.map(amount).unwrap_or_default(),
            row.ratio.map(|ratio| ratio.to_string()).unwrap_or_default(),
            row.goal,
            if row.reached { "reached" } else { "**not reached**" }
        );
    }
    let missed: Vec<String> = rows.iter().filter(|row| !row.reached).map(Row::named).collect();
    if !missed.is_empty() {
        let _ = write!(text, "\nNot reached: {}.\n", missed.join("; "));
    }
    // Many rows share a note, which is told once.
    let mut notes: Vec<(&str, Vec<&str>)> = Vec::new();
    for row in rows.iter().filter(|row| !row.note.is_empty()) {
        match notes.iter_mut().find(|(note, _)| *note == row.note) {
            Some((_, measures)) if measures.contains(&row.measure.as_str()) => {}
            Some((_, measures)) => measures.push(&row.measure),
            None => notes.push((&row.note, vec![&row.measure])),
        }
    }
    for (note, measures) in notes {
        let _ = write!(text, "\nOn {}: {note}.\n", measures.join("; "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(bench: &str, measure: &str, reached: bool, note: &str) -> Row {
        Row {
            bench: bench.to_owned(),
            measure: measure.to_owned(),
            unit: "s".to_owned(),
            ours: 2.5,
            peer: Some("restic".to_owned()),
            peer_value: Some(10.0),
            ratio: Some(0.25),
            goal: "ratio <= 1".to_owned(),
            reached,
            note: note.to_owned(),
            date: "2026-11-23".to_owned(),
            commit: "90e634d".to_owned(),
            machine: "2 cores".to_owned(),
        }
    }

    #[test]
    fn a_benchmarks_rows_replace_its_former_ones() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("docs")).unwrap();
        let mut book = Book::open(dir.path()).unwrap();
        book.replace("memory", vec![row("memory", "peak", true, "")]);
        book.replace("data-add", vec![row("data-add", "old", true, "")]);
        book.replace("data-add", vec![row("data-add", "new", true, ""), row("data-add", "again", true, "")]);
        book.write(dir.path()).unwrap();
        let read = Book::open(dir.path()).unwrap();
        assert_eq!(read.rows.iter().map(|row| &*row.measure).collect::<Vec<_>>(), ["new", "again", "peak"]);
        assert_eq!(read.rows, book.rows);
    }

    #[test]
    fn an_unreadable_record_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("docs")).unwrap();
        std::fs::write(dir.path().join(JSON), "[{}]").unwrap();
        assert!(Book::open(dir.path()).is_err());
    }

    #[test]
    fn the_page_says_what_was_not_reached_and_why() {
        let rows = [row("data-add", "add", true, "warm cache"), row("memory", "peak", false, "the index is whole")];
        let page = page(&rows);
        for part in [
            "## data-add\n",
            "| add | 2.5 s | restic | 10 s | 0.25 | ratio <= 1 | reached |",
            "On add: warm cache.",
            "**not reached**",
            "Not reached: peak beside restic (ratio <= 1).",
            "On peak: the index is whole.",
            "2 cores; 2026-11-23, commit 90e634d.",
        ] {
            assert!(page.contains(part), "{part} isn't in\n{page}");
        }
        assert!(super::page(&[]).contains("Nothing has been recorded yet"));
    }
}
