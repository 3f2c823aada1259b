//! What the tests need beside Rust: found by trying it, and brought where it is missing.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

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
    Need {
        name: "iproute2 (ip)",
        why: "sites that can't reach each other are tried in networks of their own",
        probe: &["ip", "-Version"],
        packages: &["iproute2"],
    },
    Need {
        name: "strace",
        why: "what a power cut may leave of a store is told from its system calls",
        probe: &["strace", "--version"],
        packages: &["strace"],
    },
    Need {
        name: "PostgreSQL's server",
        why: "imports are tested against a real one",
        probe: &["sh", "-c", "ls /usr/lib/postgresql/*/bin/initdb"],
        packages: &["postgresql"],
    },
    Need {
        name: "Java 17 or later",
        why: "Kafka's broker, against which imports are tested, is a Java program",
        probe: &["java", "--version"],
        packages: &["default-jre-headless"],
    },
    Need { name: "Maven", why: "it brings Kafka's jars", probe: &["mvn", "--version"], packages: &["maven"] },
];

/// As in the POM beside the tests, and in their `servers/kafka.rs`.
const KAFKA_JARS: &str = "kafka-4.1.1";
const KAFKA_POM: &str = "crates/connect/tests/servers/kafka.pom.xml";

/// Makes sure that everything is there. With `install` false it refuses and says what is missing instead.
pub fn bring(root: &Path, install: bool) -> Result<()> {
    bring_packages(install)?;
    bring_kafka(root, install)
}

/// The broker's jars, outside of the checkout, where the tests look for them.
fn bring_kafka(root: &Path, install: bool) -> Result<()> {
    let cache = process::cache_dir()?;
    let jars = cache.join(KAFKA_JARS);
    println!("  {:<30} {}", "Kafka's jars", if jars.is_dir() { "there" } else { "missing" });
    if jars.is_dir() {
        return Ok(());
    }
    if !install {
        bail!("the tests need Kafka's jars in {}; without --no-install Maven brings them (45 MB)", jars.display());
    }
    println!("  fetching Kafka's jars into {} (45 MB, by Maven)", jars.display());
    // Under another name until all are there.
    let part = cache.join(format!("{KAFKA_JARS}.part"));
    let mut maven = process::command("mvn");
    maven.args(["--quiet", "--batch-mode", "dependency:copy-dependencies", "--file"]).arg(root.join(KAFKA_POM));
    maven.arg(format!("-DoutputDirectory={}", part.display()));
    process::run(&mut maven).context("Kafka's jars can't be brought")?;
    std::fs::rename(&part, &jars).with_context(|| format!("can't make {}", jars.display()))
}

fn bring_packages(install: bool) -> Result<()> {
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
