//! Rules about the documentation: its links lead somewhere, and every decision is listed.

use std::collections::BTreeSet;

use super::{Fault, File};

const ADRS: &str = "docs/adr/";
const ADR_INDEX: &str = "docs/adr/README.md";

pub(super) fn check(paths: &[String], files: &[File]) -> Vec<Fault> {
    let known: BTreeSet<&str> = paths.iter().map(String::as_str).collect();
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        links(file, &known, &mut faults);
    }
    decisions(paths, files, &mut faults);
    faults
}

fn links(file: &File, known: &BTreeSet<&str>, faults: &mut Vec<Fault>) {
    let mut fenced = false;
    for (number, line) in (1..).zip(file.text.lines()) {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for target in targets(line) {
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
                continue;
            }
            if !resolve(&file.path, path).is_some_and(|path| exists(&path, known)) {
                faults.push(Fault::new(&file.path, number, format!("the link to {target:?} leads nowhere")));
            }
        }
    }
}

/// Where a line's links lead: `[text](target)`, `[text](target "title")` and `[label]: target`, outside of code.
fn targets(line: &str) -> Vec<&str> {
    let trimmed = line.trim_start();
    if trimmed.starts_with('[')
        && let Some((_, target)) = trimmed.split_once("]: ")
    {
        return target.split_whitespace().take(1).collect();
    }
    // Every second piece between backticks is code.
    let prose = line.split('`').step_by(2);
    let whole = prose.flat_map(|text| text.split("](").skip(1)).filter_map(|rest| rest.split(')').next());
    whole.filter_map(|target| target.split_whitespace().next()).collect()
}

/// A link's path, relative to the checkout; none if it leads out of it.
fn resolve(from: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = if link.starts_with('/') { Vec::new() } else { from.split('/').collect() };
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn exists(path: &str, known: &BTreeSet<&str>) -> bool {
    let dir = format!("{path}/");
    path.is_empty()
        || known.contains(path)
        || known.range(dir.as_str()..).next().is_some_and(|first| first.starts_with(&dir))
}

fn decisions(paths: &[String], files: &[File], faults: &mut Vec<Fault>) {
    let index = files.iter().find(|file| file.path == ADR_INDEX).map_or("", |file| &file.text);
    let listed: Vec<&str> = index.lines().flat_map(targets).collect();
    for path in paths.iter().filter(|path| path.ends_with(".md") && *path != ADR_INDEX) {
        if let Some(name) = path.strip_prefix(ADRS)
            && !listed.contains(&name)
        {
            faults.push(Fault::new(path, 0, format!("{ADR_INDEX} doesn't list it")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{file, shown};
    use super::*;

    fn check_page(path: &str, text: &str) -> Vec<String> {
        let paths = ["README.md", "docs/guide/move.md", "docs/adr/README.md", path].map(str::to_owned);
        shown(&check(&paths, &[file(path, text)]))
    }

    #[test]
    fn links_lead_to_files_and_directories() {
        let text = "[a](move.md) [b](../../README.md#top) [c](/docs/guide) [d](..) [e](#here)\n\
                    [f](https://example.org/x) ![g](../adr/ \"title\")\n`[code](nowhere.md)`\n```\n[x](nowhere)\n```\n[h]: move.md\n";
        assert_eq!(check_page("docs/guide/run.md", text), Vec::<String>::new());
    }

    #[test]
    fn a_dead_link_is_named_with_its_line() {
        let faults = check_page("docs/guide/run.md", "x\n[a](gone.md)\n[b]: ../../../out.md\n");
        assert_eq!(
            faults,
            [
                "docs/guide/run.md:2: the link to \"gone.md\" leads nowhere",
                "docs/guide/run.md:3: the link to \"../../../out.md\" leads nowhere"
            ]
        );
    }

    #[test]
    fn every_decision_is_listed() {
        let paths = ["docs/adr/README.md", "docs/adr/0001-iroh.md", "docs/adr/0002-new.md"].map(str::to_owned);
        let files = [file("docs/adr/README.md", "- [1](0001-iroh.md)"), file("docs/adr/0001-iroh.md", "")];
        assert_eq!(shown(&check(&paths, &files)), ["docs/adr/0002-new.md: docs/adr/README.md doesn't list it"]);
    }
}
