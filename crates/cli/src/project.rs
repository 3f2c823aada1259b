//! The user's project directory: its spec, and which of its files are code.

use std::path::{Path, PathBuf};

use tombolo_api::project::{self, Directory, FILE_NAME, Faults, TEXT_BYTES_MAX};
use tombolo_core::spec::{Objective, ProjectSpec};
use tombolo_data::IGNORE_FOR_CODE;

use crate::failure::Failure;

/// What a project leaves out of its code, one rule a line: `name` anywhere, `/path` from the project's directory.
pub const IGNORE_FILE: &str = ".tomboloignore";

#[derive(Debug)]
pub struct Project {
    pub dir: PathBuf,
    pub spec: ProjectSpec,
    /// What the file says, and what it is called for people.
    text: String,
    shown: String,
}

impl Project {
    /// `path` is a project's directory, or its file.
    pub fn load(path: &Path) -> Result<Project, Failure> {
        let file = if path.is_dir() { path.join(FILE_NAME) } else { path.to_owned() };
        let text = read(&file)?;
        let dir = match file.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
            _ => PathBuf::from("."),
        };
        let shown = file.strip_prefix(".").unwrap_or(&file).display().to_string();
        let spec = project::parse(&text, &shown, &Directory(dir.clone()))?;
        Ok(Project { dir, spec, text, shown })
    }

    /// What was found out of stages once there was a plan, with their places in the file: stage, message, hint.
    pub fn faults_of<'n>(&self, found: impl IntoIterator<Item = (&'n str, String, String)>) -> Faults {
        project::faults_of(&self.text, &self.shown, found)
    }

    /// What is not code: what never is, the data, and what the project itself leaves out.
    pub fn ignored(&self) -> Result<Vec<String>, Failure> {
        let mut rules: Vec<String> = IGNORE_FOR_CODE.map(str::to_owned).to_vec();
        for path in self.spec.data.values().filter_map(|data| data.path.as_deref()) {
            let named = format!("/{}", path.trim_start_matches("./").trim_end_matches('/'));
            let target = self.target(path).filter(|target| *target != named);
            rules.push(named);
            rules.extend(target);
        }
        let file = self.dir.join(IGNORE_FILE);
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Failure::usage(format!("{} can't be read", file.display())).because(error)),
        };
        for (number, line) in text.lines().enumerate() {
            rules.extend(rule(line).map_err(|failure| Failure {
                what: format!("{}:{}: {}", file.display(), number + 1, failure.what),
                ..failure
            })?);
        }
        Ok(rules)
    }
}

impl Project {
    /// Where a dataset's path leads by links, if that is in the project too: it is the data then, whatever its name.
    fn target(&self, path: &str) -> Option<String> {
        let (dir, target) = (self.dir.canonicalize().ok()?, self.dir.join(path).canonicalize().ok()?);
        let inner = target.strip_prefix(dir).ok()?.to_str().filter(|inner| !inner.is_empty())?;
        Some(format!("/{inner}"))
    }
}

/// The project's directory that a path is in, and the path from there.
fn around(path: &Path) -> Option<(&Path, &Path)> {
    let dir = path.ancestors().skip(1).find(|dir| dir.join(FILE_NAME).is_file())?;
    Some((dir, path.strip_prefix(dir).ok()?))
}

/// An error where the project around a directory to be made could not leave it out of its code.
pub fn check_leaves_out(path: &Path) -> Result<(), Failure> {
    let Ok(path) = std::path::absolute(path) else { return Ok(()) };
    let Some((_, inner)) = around(&path) else { return Ok(()) };
    let line = inner.to_str().map(|inner| format!("/{inner}"));
    let understood = line.as_ref().is_some_and(|line| matches!(rule(line), Ok(Some(rule)) if rule == *line));
    if understood && !inner.as_os_str().as_encoded_bytes().contains(&b'\n') {
        return Ok(());
    }
    Err(Failure::usage(format!("{} is no place for data", path.display()))
        .because(format!(
            "it is in a project, whose {IGNORE_FILE} has no word for such a name: it would go out as code"
        ))
        .hint("name a directory without *, ?, [, ! and blanks at its ends, or one outside of the project"))
}

/// Has the project that a path is in leave it out of its code; the file that says so, if that was news. What was got
/// from a site is data, and may be under rules that code is not.
pub fn leave_out(path: &Path) -> Result<Option<PathBuf>, Failure> {
    let Ok(path) = path.canonicalize() else { return Ok(None) };
    let Some((dir, inner)) = around(&path) else { return Ok(None) };
    let Some(inner) = inner.to_str() else { return Ok(None) };
    let ignored = |rule: &String| {
        let rooted = rule.strip_prefix('/').is_some_and(|rule| Path::new(inner).starts_with(rule));
        rooted || inner.split('/').any(|part| part == rule)
    };
    // A project that can't be read is for whoever runs it to mend.
    let rules = Project::load(dir).ok().and_then(|project| project.ignored().ok());
    if rules.is_some_and(|rules| rules.iter().any(ignored)) {
        return Ok(None);
    }
    let file = dir.join(IGNORE_FILE);
    let unwritable = |error| Failure::system(format!("{} can't be written", file.display())).because(error);
    let mut text = match std::fs::read_to_string(&file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        read => read.map_err(unwritable)?,
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&format!("/{inner}\n"));
    std::fs::write(&file, text).map_err(unwritable)?;
    Ok(Some(file))
}

fn read(file: &Path) -> Result<String, Failure> {
    use std::io::Read;
    let unreadable = |error: std::io::Error| {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => {
                "name a project's directory, or write one: `tombolo schema` prints the format"
            }
            _ => "the project file must be a readable text",
        };
        Failure::usage(format!("there is no project at {}", file.display())).because(error).hint(hint)
    };
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    // One byte too many is enough for the parser to refuse it for its length.
    opened.take(TEXT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    String::from_utf8(bytes).map_err(|error| unreadable(std::io::Error::other(format!("it is not UTF-8: {error}"))))
}

/// A line of [`IGNORE_FILE`]; nothing for blanks and comments.
fn rule(line: &str) -> Result<Option<String>, Failure> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    if line.contains(['*', '?', '[', '!']) {
        return Err(Failure::usage(format!("{line:?} is a pattern, which are not understood here"))
            .hint("write a name, which is left out everywhere, or a path that begins with /"));
    }
    Ok(Some(line.trim_end_matches('/').to_owned()).filter(|rule| !rule.is_empty()))
}

/// `time`, `cost`, or the weight of time.
pub fn objective(text: &str) -> Result<Objective, String> {
    match text {
        "time" => Ok(Objective::Time),
        "cost" => Ok(Objective::Cost),
        _ => match text.parse::<f64>() {
            Ok(weight) if (0.0..=1.0).contains(&weight) => Ok(Objective::Weighted(weight)),
            _ => Err("expected `time`, `cost` or the weight of time, from 0 to 1".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_what_is_neither_data_nor_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let yaml = "project: p\ndata: { raw: data/raw.csv }\nstages: { a: { run: 'true', in: [raw] } }\n";
        std::fs::write(dir.path().join(FILE_NAME), yaml).unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        std::fs::write(dir.path().join("data/raw.csv"), "x").unwrap();
        std::fs::write(dir.path().join(IGNORE_FILE), "# notes\n\nnotes/\n/big/file.bin\n").unwrap();
        let project = Project::load(dir.path()).unwrap();
        let rules = project.ignored().unwrap();
        assert_eq!(rules[IGNORE_FOR_CODE.len()..], ["/data/raw.csv", "notes", "/big/file.bin"]);

        std::fs::write(dir.path().join(IGNORE_FILE), "\n*.bin\n").unwrap();
        let failure = project.ignored().unwrap_err();
        assert!(failure.what.contains(".tomboloignore:2: \"*.bin\" is a pattern"), "{failure}");
    }

    #[test]
    fn what_a_datas_path_leads_to_is_data() {
        let dir = tempfile::tempdir().unwrap();
        let yaml = "project: p\ndata: { raw: data/raw.csv }\nstages: { a: { run: 'true', in: [raw] } }\n";
        std::fs::write(dir.path().join(FILE_NAME), yaml).unwrap();
        for name in ["data", "real"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("real/raw.csv"), "x").unwrap();
        std::os::unix::fs::symlink("../real/raw.csv", dir.path().join("data/raw.csv")).unwrap();
        let rules = Project::load(dir.path()).unwrap().ignored().unwrap();
        assert_eq!(rules[IGNORE_FOR_CODE.len()..], ["/data/raw.csv", "/real/raw.csv"]);
    }

    #[test]
    fn what_was_got_is_left_out_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE_NAME), "project: p\nstages: { a: { run: 'true' } }\n").unwrap();
        let (got, inner) = (dir.path().join("got"), dir.path().join("deep/er"));
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::create_dir(&got).unwrap();
        let file = dir.path().canonicalize().unwrap().join(IGNORE_FILE);
        std::fs::write(&file, "notes").unwrap();
        assert_eq!(leave_out(&got).unwrap(), Some(file.clone()));
        assert_eq!(leave_out(&inner).unwrap(), Some(file.clone()));
        assert_eq!(leave_out(&inner).unwrap(), None);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "notes\n/got\n/deep/er\n");
        let rules = Project::load(dir.path()).unwrap().ignored().unwrap();
        assert_eq!(rules[IGNORE_FOR_CODE.len()..], ["notes", "/got", "/deep/er"]);
        let elsewhere = tempfile::tempdir().unwrap();
        assert_eq!(leave_out(elsewhere.path()).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_left_out_is_no_place_for_data() {
        let dir = tempfile::tempdir().unwrap();
        let inside = |name: &str| check_leaves_out(&dir.path().join(name));
        assert!(inside("out[1]").is_ok(), "there is no project around it");
        std::fs::write(dir.path().join(FILE_NAME), "project: p\nstages: { a: { run: 'true' } }\n").unwrap();
        for good in ["out", "deep/er", "with a blank", "ünï"] {
            inside(good).unwrap();
        }
        for bad in ["out[1]", "why?", "not!", "all*", "blank ", "two\nlines"] {
            let failure = inside(bad).unwrap_err();
            assert!(failure.what.ends_with("is no place for data"), "{bad}: {failure}");
        }
    }

    #[test]
    fn objectives() {
        assert_eq!(objective("time"), Ok(Objective::Time));
        assert_eq!(objective("0.25"), Ok(Objective::Weighted(0.25)));
        for bad in ["", "speed", "1.5", "-0.1", "NaN"] {
            assert!(objective(bad).is_err(), "{bad}");
        }
    }
}
