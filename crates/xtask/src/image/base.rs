//! The lowest layer: a small Debian with Python, of the release that this machine runs.
//!
//! mmdebstrap makes it from Debian's packages. What it leaves that isn't the same each time, or that nobody reads in a
//! container, isn't taken over; licences (`copyright` files) are.

use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};

use super::binary::Arch;
use super::blob::{self, Blob};
use super::config::{HOME, UID};
use super::layer::{self, Kind, Member};
use super::sources;
use super::steps::{Steps, megabytes};
use crate::process;

/// Raised whenever what [`make`] does changes in a way that the recipe's other fields don't show.
const VERSION: u32 = 1;
/// Beside Debian's essential packages (bash among them) and apt, which is there for those who build upon the image.
const PACKAGES: &[&str] = &["ca-certificates", "python3", "python3-venv"];

/// Their contents stay out; a directory itself may have an owner and a mode that its packages want.
const EMPTIED: &[&str] = &[
    "run",
    "tmp",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "var/cache",
    "var/lib/apt/lists",
    "var/log",
    "var/tmp",
];
/// The mirror and the way to it are this machine's, and the host's names too.
const LEFT_OUT: &[&str] = &[
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/apt/sources.list",
    "etc/hostname",
    "etc/machine-id",
    "etc/resolv.conf",
    "var/lib/dbus/machine-id",
];
/// Copies that tools keep of what they have changed.
const BACKUPS: &[&str] = &[
    "etc/group-",
    "etc/gshadow-",
    "etc/passwd-",
    "etc/shadow-",
    "etc/subgid-",
    "etc/subuid-",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/status-old",
];

pub struct Recipe {
    /// Debian's code name for it.
    release: String,
    arch: Arch,
}

impl Recipe {
    pub fn of_this_machine(arch: Arch) -> Result<Recipe> {
        const FILE: &str = "/etc/os-release";
        let text = std::fs::read_to_string(FILE).with_context(|| format!("can't read {FILE}"))?;
        match release(&text) {
            Some(release) => Ok(Recipe { release, arch }),
            None => {
                bail!("the image's base is made on a stable Debian, which {FILE} doesn't tell of\nhint: make it there")
            }
        }
    }

    /// For the image's history and for who watches.
    pub fn shown(&self) -> String {
        format!("Debian {} with {}", self.release, PACKAGES.join(", "))
    }

    /// Of all that decides what the base is, save the state of Debian's mirrors.
    fn key(&self) -> String {
        let Recipe { release, arch } = self;
        let left_out = [EMPTIED, LEFT_OUT, BACKUPS];
        let text = format!("{VERSION} {release} {arch:?} {PACKAGES:?} {left_out:?} {} {}", account(), layer::EPOCH);
        blob::digest(text.as_bytes())["sha256:".len()..][..16].to_owned()
    }
}

/// From the cache, or made.
pub fn bring(recipe: &Recipe, cache: &Path, scratch: &Path, renew: bool, steps: &mut Steps) -> Result<Blob> {
    let file = cache.join(format!("base-{}-{}-{}.tar", recipe.release, recipe.arch.oci(), recipe.key()));
    if !renew && let Some(kept) = Blob::kept(&file)? {
        let days = days_since(file.metadata().and_then(|meta| meta.modified()).ok());
        return steps.time("base", || {
            Ok((format!("{} from the cache, made {days} days ago (--renew makes it anew)", recipe.shown()), kept))
        });
    }
    if process::which("mmdebstrap").is_none() {
        process::apt_install(&["mmdebstrap"]).context("mmdebstrap makes the image's base, and can't be installed")?;
    }
    eprintln!("  making {} with mmdebstrap, in a minute or two", recipe.shown());
    let raw = steps.time("mmdebstrap", || {
        let raw = scratch.join("raw.tar");
        make(recipe, &raw)?;
        Ok((format!("{} as installed", megabytes(raw.metadata()?.len())), raw))
    })?;
    steps.time("base", || {
        let mut members: Vec<Member> = layer::read(&raw)?.into_iter().filter(stays).collect();
        members.push(dev());
        let count = members.len();
        // What was compressed before is of the base before.
        let _ = std::fs::remove_file(file.with_extension("tar.gz"));
        let blob = layer::pack(members, &file)?;
        blob.keep()?;
        Ok((format!("{}: {count} files and directories, {}", recipe.shown(), megabytes(blob.bytes)), blob))
    })
}

fn make(recipe: &Recipe, into: &Path) -> Result<()> {
    let mut command = process::command("mmdebstrap");
    // No devices, as one without root's rights couldn't unpack them.
    command.args(["--variant=minbase", "--format=tar", "--skip=output/dev"]);
    command.arg(format!("--include={}", PACKAGES.join(",")));
    command.arg(format!("--customize-hook={}", account()));
    for setting in sources::settings()? {
        command.arg(format!("--aptopt={setting}"));
    }
    command.arg(&recipe.release).arg(into).args(sources::of_this_machine(&recipe.release)?);
    command.env("SOURCE_DATE_EPOCH", layer::EPOCH.to_string()).env("LC_ALL", "C.UTF-8");
    process::output(&mut command).map(drop).context(
        "Debian's base can't be made\n\
         hint: `apt-get update` tells whether the mirror is in reach; without root, mmdebstrap needs the package uidmap",
    )
}

/// The user that the image runs as, made by a shell that has the new root as its first argument.
fn account() -> String {
    format!(
        "echo tombolo:x:{UID}:{UID}:Tombolo:{HOME}:/usr/sbin/nologin >>\"$1/etc/passwd\" && \
         echo tombolo:x:{UID}: >>\"$1/etc/group\" && \
         mkdir -m 755 \"$1{HOME}\" && chown {UID}:{UID} \"$1{HOME}\""
    )
}

/// Where engines mount their own devices, also in a root file system that is read-only.
fn dev() -> Member {
    Member { path: "dev".into(), mode: 0o755, uid: 0, gid: 0, mtime: layer::EPOCH, kind: Kind::Directory }
}

fn stays(member: &Member) -> bool {
    let path = &member.path;
    if matches!(member.kind, Kind::Directory) {
        // The directories below one that is emptied go as well, save those that programs expect.
        let kept = ["var/log/apt", "var/cache/apt/archives/partial", "var/lib/apt/lists/partial"];
        return !below_emptied(path) || kept.iter().any(|kept| Path::new(kept).starts_with(path));
    }
    let named = |list: &[&str]| list.iter().any(|other| path == Path::new(other));
    // The files that man and info would show, but for what the licences ask to go along.
    let documentation = path.starts_with("usr/share/doc") && path.file_name().is_none_or(|name| name != "copyright");
    !below_emptied(path) && !named(LEFT_OUT) && !named(BACKUPS) && !documentation
}

fn below_emptied(path: &Path) -> bool {
    EMPTIED.iter().any(|dir| path.starts_with(dir) && path != Path::new(dir))
}

/// The code name, where it is Debian and a release that has a number: testing has none.
fn release(os_release: &str) -> Option<String> {
    let value = |key: &str| {
        let line = os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(line.trim_matches('"'))
    };
    (value("ID") == Some("debian") && value("VERSION_ID").is_some())
        .then(|| value("VERSION_CODENAME"))?
        .map(str::to_owned)
}

fn days_since(time: Option<SystemTime>) -> u64 {
    time.and_then(|time| time.elapsed().ok()).map_or(0, |age| age.as_secs() / (24 * 60 * 60))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn only_a_stable_debian_is_a_base() {
        let stable = "PRETTY_NAME=\"Debian 12\"\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\nID=debian\n";
        assert_eq!(release(stable).as_deref(), Some("bookworm"));
        assert_eq!(release("VERSION_CODENAME=trixie\nID=debian\n"), None, "testing");
        assert_eq!(release(&stable.replace("ID=debian", "ID=ubuntu\nID_LIKE=debian")), None);
    }

    #[test]
    fn what_differs_or_is_never_read_stays_out() {
        let member = |path: &str, kind| Member { path: path.into(), mode: 0, uid: 0, gid: 0, mtime: 0, kind };
        for (path, expected) in [
            ("etc/passwd", true),
            ("etc/passwd-", false),
            ("etc/resolv.conf", false),
            ("usr/share/doc/bash/copyright", true),
            ("usr/share/doc/bash/README", false),
            ("usr/share/man/man1/ls.1.gz", false),
            ("usr/share/mandatory", true),
            ("usr/lib/python3.11/__pycache__/os.cpython-311.pyc", true),
            ("var/cache/ldconfig/aux-cache", false),
            ("var/log/dpkg.log", false),
            ("var/lib/dpkg/status", true),
        ] {
            assert_eq!(stays(&member(path, Kind::Symlink(PathBuf::new()))), expected, "{path}");
        }
        for (path, expected) in [
            ("var/cache", true),
            ("var/cache/apt/archives", true),
            ("var/cache/debconf", false),
            ("usr/share/man/man1", false),
            ("var/lib/tombolo", true),
        ] {
            assert_eq!(stays(&member(path, Kind::Directory)), expected, "{path}/");
        }
    }

    #[test]
    fn another_recipe_has_another_key() {
        let key = |release: &str, arch| Recipe { release: release.to_owned(), arch }.key();
        assert_eq!(key("bookworm", Arch::Amd64).len(), 16);
        assert_ne!(key("bookworm", Arch::Amd64), key("trixie", Arch::Amd64));
        assert_ne!(key("bookworm", Arch::Amd64), key("bookworm", Arch::Arm64));
    }
}
