//! Rules about any text: how long a file is, and what isn't written in it.

use super::{Fault, File};

/// Longest source file, in lines.
const LINES_MAX: usize = 700;

/// Source files that may be longer, each with its reason.
const LONG: &[(&str, &str)] = &[];

/// Only what people write by hand and read from top to bottom is held to a length.
const SOURCES: &[&str] = &[".rs", ".py", ".sh", ".ts", ".js", ".svelte", ".css"];

/// Machines write these, and they name where packages come from.
const LOCKS: &[&str] = &["Cargo.lock", "package-lock.json", "uv.lock"];

/// A text that may not be there. Its parts are joined at run time, so that this file keeps its own rule.
struct Banned {
    parts: [&'static str; 2],
    /// Whether only Rust is looked at.
    rust: bool,
    /// Whether it counts only where a path's next part, hence a name, follows.
    before_name: bool,
    message: &'static str,
}

const fn banned(parts: [&'static str; 2], message: &'static str) -> Banned {
    Banned { parts, rust: false, before_name: false, message }
}

const UNDONE: &str = "unfinished work isn't committed: do it, or file an issue";
const HOME: &str = "a path of one person's machine";
const HOST: &str = "a package registry's host; clients have it in their own settings";

const BANNED: &[Banned] = &[
    banned(["TO", "DO"], UNDONE),
    banned(["FIX", "ME"], UNDONE),
    Banned { rust: true, ..banned(["todo", "!("], UNDONE) },
    Banned { rust: true, ..banned(["unimplemented", "!("], UNDONE) },
    Banned { before_name: true, ..banned(["/ho", "me/"], HOME) },
    Banned { before_name: true, ..banned(["/Us", "ers/"], HOME) },
    Banned { before_name: true, ..banned(["/ro", "ot/"], HOME) },
    banned(["index.", "crates.io"], HOST),
    banned(["static.", "crates.io"], HOST),
    banned(["pypi", ".org"], HOST),
    banned(["files.", "pythonhosted.org"], HOST),
    banned(["registry.", "npmjs.org"], HOST),
    banned(["registry.", "yarnpkg.com"], HOST),
    banned(["proxy.", "golang.org"], HOST),
    banned(["repo.", "maven.apache.org"], HOST),
    banned(["deb.", "debian.org"], HOST),
    banned(["artifact", "ory"], HOST),
];

pub(super) fn check(files: &[File]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in files {
        if SOURCES.iter().any(|end| file.path.ends_with(end)) && !LONG.iter().any(|(path, _)| *path == file.path) {
            length(file, &mut faults);
        }
        let name = file.path.rsplit('/').next().unwrap_or_default();
        if !LOCKS.contains(&name) {
            words(file, &mut faults);
        }
    }
    for (path, reason) in LONG {
        if !files.iter().any(|file| file.path == *path && file.text.lines().count() > LINES_MAX) {
            faults.push(Fault::new(path, 0, format!("needs no exception any more ({reason})")));
        }
    }
    faults
}

fn length(file: &File, faults: &mut Vec<Fault>) {
    let lines = file.text.lines().count();
    if lines > LINES_MAX {
        let message = format!("{lines} lines long, more than {LINES_MAX}: split it, or name it in LONG with a reason");
        faults.push(Fault::new(&file.path, 0, message));
    }
}

fn words(file: &File, faults: &mut Vec<Fault>) {
    let rust = file.path.ends_with(".rs");
    let banned: Vec<(String, &Banned)> =
        BANNED.iter().filter(|banned| rust || !banned.rust).map(|banned| (banned.parts.concat(), banned)).collect();
    for (number, line) in (1..).zip(file.text.lines()) {
        for (word, banned) in &banned {
            if holds(line, word, banned.before_name) {
                faults.push(Fault::new(&file.path, number, format!("{word:?}: {}", banned.message)));
            }
        }
    }
}

/// Whether the line holds the word as a word of its own: no letter or digit touches an end that is one itself.
fn holds(line: &str, word: &str, before_name: bool) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let begins_inside = is_part(before) && (is_part(word.chars().next()) || before_name);
        let ends_inside = is_part(word.chars().next_back()) && is_part(after);
        !begins_inside && !ends_inside && (!before_name || is_part(after))
    })
}

#[cfg(test)]
mod tests {
    use super::super::{file, shown};
    use super::*;

    fn check_text(path: &str, text: &str) -> Vec<String> {
        shown(&check(&[file(path, text)]))
    }

    #[test]
    fn long_sources_are_named_and_long_data_is_not() {
        let long = "x\n".repeat(LINES_MAX + 1);
        let faults = check_text("crates/a/src/lib.rs", &long);
        assert_eq!(faults.len(), 1);
        assert!(faults[0].starts_with("crates/a/src/lib.rs: 701 lines long"), "{faults:?}");
        assert!(check_text("crates/a/src/lib.rs", &"x\n".repeat(LINES_MAX)).is_empty());
        assert!(check_text("examples/a.csv", &long).is_empty());
    }

    #[test]
    fn unfinished_work_is_found() {
        let todo = BANNED[0].parts.concat();
        let faults = check_text("a.md", &format!("fine\n// {todo}: later\n"));
        assert_eq!(faults, [format!("a.md:2: {todo:?}: {UNDONE}")]);
        assert!(check_text("a.md", &format!("{todo}S and MAS{todo}N are other words")).is_empty());
        let call = BANNED[2].parts.concat();
        assert_eq!(check_text("a.rs", &format!("    {call})")).len(), 1);
        assert!(check_text("a.md", &format!("`{call})` is refused in Rust")).is_empty());
    }

    #[test]
    fn homes_and_registries_are_found_save_in_lock_files() {
        let home = format!("{}ada/data", BANNED[4].parts.concat());
        assert_eq!(check_text("a.py", &home).len(), 1);
        assert!(check_text("a.py", &format!("https://example.org{home}")).is_empty(), "that is a URL's path");
        assert!(check_text("a.py", &format!("{}<you>/data", BANNED[4].parts.concat())).is_empty());
        let host = BANNED[9].parts.concat();
        assert_eq!(check_text("a.toml", &format!("index = \"https://{host}/simple\"")).len(), 1);
        assert!(check_text("console/package-lock.json", &host).is_empty());
    }
}
