//! What the tests need beside Rust: found by trying it, and brought where it is missing.

use std::process::Stdio;

use anyhow::{Result, bail};

use crate::process;

/// One need, with a probe that tells whether it is met. Probes do the thing itself as far as that is quick:
/// Debian's python3 has a `venv` module that can't make a venv until another package is there.
struct Need {
    name: &'static str,
    why: &'static str,
    probe: &'static [&'static str],
    packages: &'static [&'static str],
}

const NEEDS: &[Need] = &[
    Need {
        name: "a C compiler (cc)",
        why: "SQLite, zstd and the cryptography are partly C",
        probe: &["cc", "--version"],
        packages: &["gcc", "libc6-dev"],
    },
    Need {
        name: "Python 3.9 or later (python3)",
        why: "stages of the tests are Python scripts",
        probe: &["python3", "-c", "import sys; sys.exit(sys.version_info < (3, 9))"],
        packages: &["python3"],
    },
    Need {
        name: "Python's venv with pip",
        why: "a stage's requirements are installed into an environment of its own",
        probe: &["python3", "-c", "import venv, ensurepip"],
        packages: &["python3-venv"],
    },
];

/// Makes sure that everything is there. With `install` false it refuses and says what is missing instead.
pub fn bring(install: bool) -> Result<()> {
    let missing = missing(NEEDS);
    for need in NEEDS {
        let there = !missing.iter().any(|other| other.name == need.name);
        println!("  {:<30} {}", need.name, if there { "there" } else { "missing" });
    }
    if missing.is_empty() {
        return Ok(());
    }
    if !install {
        bail!("{}", refusal(&missing));
    }
    let packages: Vec<&str> = missing.iter().flat_map(|need| need.packages).copied().collect();
    process::apt_install(&packages).map_err(|error| error.context(refusal(&missing)))?;
    let still = self::missing(NEEDS);
    if !still.is_empty() {
        bail!("{}\nand installing the packages didn't help", refusal(&still));
    }
    Ok(())
}

fn missing(needs: &'static [Need]) -> Vec<&'static Need> {
    needs.iter().filter(|need| !met(need)).collect()
}

fn met(need: &Need) -> bool {
    let mut probe = process::command(need.probe[0]);
    probe.args(&need.probe[1..]).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

fn refusal(missing: &[&Need]) -> String {
    let mut text = "the tests need what isn't here:".to_owned();
    for need in missing {
        text += &format!("\n  {} ({}); on Debian: apt-get install {}", need.name, need.why, need.packages.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_with_why_and_how() {
        static TRIED: [Need; 3] = [
            Need { name: "a shell", why: "", probe: &["sh", "-c", "true"], packages: &[] },
            Need { name: "a broken one", why: "it is fun", probe: &["sh", "-c", "exit 1"], packages: &["fun"] },
            Need { name: "a stranger", why: "it is new", probe: &["no-such-program-anywhere"], packages: &["new"] },
        ];
        let found = missing(&TRIED);
        assert_eq!(found.iter().map(|need| need.name).collect::<Vec<_>>(), ["a broken one", "a stranger"]);
        let text = refusal(&found);
        assert!(text.contains("a broken one (it is fun); on Debian: apt-get install fun"), "{text}");
        assert!(!text.contains("a shell"), "{text}");
    }
}
