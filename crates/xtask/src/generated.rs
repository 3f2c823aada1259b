//! Files that are made from the code and committed, so that a change of the interface shows in its diff.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::process;

#[derive(clap::Args)]
pub struct Args {
    /// Change nothing; fail if the committed file isn't what the code makes
    #[arg(long)]
    check: bool,
}

/// One such file.
#[derive(Clone, Copy)]
pub struct Generated {
    /// The `tombolo` command that prints it.
    verb: &'static str,
    path: &'static str,
}

pub const OPENAPI: Generated = Generated { verb: "openapi", path: "docs/openapi.json" };
pub const SCHEMA: Generated = Generated { verb: "schema", path: "docs/tombolo.schema.json" };

pub fn run(root: &Path, what: Generated, args: &Args) -> Result<()> {
    let mut command = process::cargo(root);
    command.args(["run", "--quiet", "--locked", "--package", "tombolo-cli", "--bin", "tombolo", "--", what.verb]);
    let made = whole(&process::output(&mut command)?).with_context(|| format!("tombolo {}", what.verb))?;
    let path = root.join(what.path);
    let committed = match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("can't read {}", what.path)),
    };
    if args.check {
        return compare(what, committed.as_deref(), &made);
    }
    if committed.as_deref() == Some(&made) {
        println!("{} is up to date", what.path);
        return Ok(());
    }
    std::fs::write(&path, made).with_context(|| format!("can't write {}", what.path))?;
    println!("{} written", what.path);
    Ok(())
}

/// The text as the program printed it, once it is sure to be JSON, and with one line end. Spelling it anew here would
/// make its keys' order depend on the features that this crate happens to be built with.
fn whole(text: &str) -> Result<String> {
    let _: serde_json::Value = serde_json::from_str(text).context("it printed no JSON")?;
    Ok(format!("{}\n", text.trim_end()))
}

fn compare(what: Generated, committed: Option<&str>, made: &str) -> Result<()> {
    let Some(committed) = committed else {
        bail!("{} is missing; hint: cargo xtask {}", what.path, what.verb);
    };
    if committed == made {
        println!("{} is up to date", what.path);
        return Ok(());
    }
    let mut lines = (1..).zip(committed.lines().zip(made.lines()));
    let differs = lines.find(|(_, (old, new))| old != new);
    let number = differs.map_or_else(|| committed.lines().count().min(made.lines().count()) + 1, |(number, _)| number);
    let (old, new) = differs.map_or(("(the end)", "(more or less)"), |(_, lines)| lines);
    bail!(
        "{}:{number} isn't what the code makes\n  committed: {}\n  made:      {}\nhint: cargo xtask {}",
        what.path,
        old.trim(),
        new.trim(),
        what.verb
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_shown_with_its_line() {
        let made = whole("{\n  \"b\": 1,\n  \"a\": 2\n}").unwrap();
        assert!(compare(OPENAPI, Some(&made), &made).is_ok());
        let old = made.replace('1', "3");
        let error = compare(OPENAPI, Some(&old), &made).unwrap_err().to_string();
        assert!(error.starts_with("docs/openapi.json:2 isn't"), "{error}");
        assert!(error.contains("committed: \"b\": 3,") && error.contains("hint: cargo xtask openapi"), "{error}");
        let error = compare(SCHEMA, Some(&made[..made.len() - 3]), &made).unwrap_err().to_string();
        assert!(error.starts_with("docs/tombolo.schema.json:4 isn't"), "{error}");
        assert!(compare(SCHEMA, None, &made).unwrap_err().to_string().contains("missing"));
        assert!(whole("error: no such command").is_err());
    }
}
