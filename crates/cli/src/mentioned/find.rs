//! Finding the commands that documents and sources name. Also used by the tooling's own test.

use std::fs;
use std::path::{Path, PathBuf};

/// Files with this ending, below some of the checkout's directories or named themselves, with what is in them.
pub fn files(root: &Path, places: &[&str], ending: &str) -> Vec<(String, String)> {
    let mut open: Vec<PathBuf> = places.iter().map(|place| root.join(place)).collect();
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == ending) {
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            found.push((path.strip_prefix(root).unwrap().display().to_string(), text));
        }
    }
    found.sort();
    found
}

/// What stands in backticks and in fenced blocks of Markdown, if it begins with one of `starts`.
pub fn in_markdown(text: &str, starts: &[&str]) -> Vec<String> {
    let (mut prose, mut lines, mut fenced) = (String::new(), Vec::new(), false);
    for line in text.lines() {
        match line.trim_start().starts_with("```") {
            true => fenced = !fenced,
            false if fenced => lines.push(line.to_owned()),
            false => prose += &format!("{line}\n"),
        }
    }
    let block = lines.join("\n").replace("\\\n", " ");
    let mut found: Vec<String> = block.lines().flat_map(|line| of_line(line, starts)).collect();
    found.extend(in_backticks(&prose, starts));
    found
}

/// What stands in backticks, across the ends of lines.
pub fn in_backticks(prose: &str, starts: &[&str]) -> Vec<String> {
    let spans = prose.split("\n\n").flat_map(|paragraph| paragraph.split('`').skip(1).step_by(2));
    let spans = spans.map(|span| span.split_whitespace().collect::<Vec<_>>().join(" "));
    spans.filter(|span| starts.iter().any(|start| span.starts_with(start))).collect()
}

/// A line as it is typed, with what is in `$( )`.
fn of_line(line: &str, starts: &[&str]) -> Vec<String> {
    let line = line.trim_start().trim_start_matches("$ ");
    let inner = line.split("$(").skip(1).filter_map(|rest| rest.split(')').next());
    let outer = match line.split_once("$(") {
        Some((before, rest)) => format!("{before}x{}", rest.split_once(')').map_or("", |(_, after)| after)),
        None => line.to_owned(),
    };
    let outer = outer.split(" #").next().unwrap_or_default().trim().to_owned();
    let all = inner.map(str::to_owned).chain([outer]);
    all.filter(|command| starts.iter().any(|start| command.starts_with(start))).collect()
}
