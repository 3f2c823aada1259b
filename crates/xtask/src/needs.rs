//! What the tests need beside Rust: found by trying it, and brought where it is missing.

use std::path::Path;
use std::process::{Command, Stdio};

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
    Need {
        name: "Node.js 18 or later, with npm",
        why: "Azurite, the emulator of Azure's storage, is a program for it",
        probe: &["sh", "-c", "npm --version && node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)'"],
        packages: &["nodejs", "npm"],
    },
    Need {
        name: "Go 1.21 or later",
        why: "fake-gcs-server, the emulator of Google's storage, is built with it",
        // From 1.21 on it brings the toolchain that a program asks for.
        probe: &["sh", "-c", "go version | grep -qE 'go(1\\.(2[1-9]|[3-9][0-9])|[2-9])'"],
        packages: &["golang-go"],
    },
    Need {
        name: "Slurm (slurmctld, slurmd, sbatch) and munge",
        why: "a cluster of two nodes on this machine is the site of some tests",
        probe: &[
            "sh",
            "-c",
            "PATH=$PATH:/usr/sbin; command -v slurmctld && command -v slurmd && command -v sbatch && command -v munged",
        ],
        packages: &["slurmctld", "slurmd", "slurm-client", "munge"],
    },
    Need {
        name: "a C++ compiler (c++)",
        why: "libFuzzer, which `cargo xtask fuzz` links into its programs, is C++",
        probe: &["c++", "--version"],
        packages: &["g++"],
    },
];

/// As in the POM beside the tests, and in their `servers/kafka.rs`.
const KAFKA_JARS: &str = "kafka-4.1.1";
const KAFKA_POM: &str = "crates/connect/tests/servers/kafka.pom.xml";

/// Makes sure that everything is there. With `install` false it refuses and says what is missing instead.
pub fn bring(root: &Path, install: bool) -> Result<()> {
    bring_packages(install)?;
    bring_kafka(root, install)?;
    EMULATORS.iter().try_for_each(|emulator| bring_emulator(emulator, install))
}

/// A server that stands for a cloud's storage, in the tests that are named in `crates/data/tests/help/clouds.rs`.
struct Emulator {
    name: &'static str,
    /// What is installed, and where below the cache; the version is in both.
    package: &'static str,
    dir: &'static str,
    size: &'static str,
    command: fn(&Emulator, &Path) -> Command,
}

const EMULATORS: &[Emulator] = &[
    Emulator {
        name: "Azurite (Azure's storage)",
        package: "azurite@3.35.0",
        dir: "azurite-3.35.0",
        size: "190 MB, by npm",
        command: |emulator, into| {
            let mut npm = process::command("npm");
            npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", "--prefix"]);
            npm.arg(into).arg(emulator.package);
            npm
        },
    },
    Emulator {
        name: "fake-gcs-server (Google's)",
        package: "github.com/fsouza/fake-gcs-server@v1.56.1",
        dir: "fake-gcs-server-1.56.1",
        size: "50 MB, built by Go in some minutes",
        command: |emulator, into| {
            let mut go = process::command("go");
            go.args(["install", emulator.package]).env("GOBIN", into).env("GOFLAGS", "-mod=mod");
            go
        },
    },
];

/// Outside of the checkout, where the tests look for it.
fn bring_emulator(emulator: &Emulator, install: bool) -> Result<()> {
    let cache = process::cache_dir()?;
    let dir = cache.join(emulator.dir);
    println!("  {:<30} {}", emulator.name, if dir.is_dir() { "there" } else { "missing" });
    if dir.is_dir() {
        return Ok(());
    }
    if !install {
        bail!(
            "the tests need {} in {}; without --no-install it is brought ({})",
            emulator.package,
            dir.display(),
            emulator.size
        );
    }
    println!("  installing {} into {} ({})", emulator.package, dir.display(), emulator.size);
    // Under another name until all is there.
    let part = cache.join(format!("{}.part", emulator.dir));
    if part.is_dir() {
        std::fs::remove_dir_all(&part).with_context(|| format!("can't remove {}", part.display()))?;
    }
    std::fs::create_dir_all(&part).with_context(|| format!("can't make {}", part.display()))?;
    process::run(&mut (emulator.command)(emulator, &part))
        .with_context(|| format!("{} can't be brought", emulator.name))?;
    std::fs::rename(&part, &dir).with_context(|| format!("can't make {}", dir.display()))
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
