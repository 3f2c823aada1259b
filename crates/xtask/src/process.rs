//! Running other programs: with their output shown, captured, or both.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Cargo as it called us, so that the same toolchain is used throughout.
pub fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).stdin(Stdio::null());
    // What cargo told us about this crate would be wrong for what it builds next, and makes some build scripts run anew.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    command
}

/// A command without standard input, so that nothing ever waits for somebody to type.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// The command as a person would type it.
pub fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    if let Some(name) = Path::new(&text).file_name() {
        text = name.to_string_lossy().into_owned();
    }
    for arg in command.get_args() {
        let _ = write!(text, " {}", arg.to_string_lossy());
    }
    text
}

/// Runs the command with its output shown.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("can't start {}", shown(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

/// Runs the command and returns what it printed; what it complained about is told only if it fails.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("can't start {}", shown(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}\n{}", shown(command), output.status, tail(&String::from_utf8_lossy(&output.stderr)));
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} printed no UTF-8", shown(command)))
}

/// Processors' time, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cpu {
    pub own: f64,
    /// Of all that it has started and seen end, and of theirs.
    pub children: f64,
}

/// Clock ticks in a second, as Linux tells them to programs on every machine that we know.
const TICKS: f64 = 100.0;

/// What a process took until now: a pid, or `self`.
pub fn cpu(pid: &str) -> Result<Cpu> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("can't read {path}"))?;
    parse_cpu(&text).with_context(|| format!("can't understand {path}"))
}

/// Fields 14 to 17 of proc(5)'s stat; the second, a name, may hold anything.
fn parse_cpu(stat: &str) -> Option<Cpu> {
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: Vec<f64> = rest.split_whitespace().skip(11).take(4).map_while(|field| field.parse().ok()).collect();
    let [user, system, children_user, children_system] = ticks.try_into().ok()?;
    Some(Cpu { own: (user + system) / TICKS, children: (children_user + children_system) / TICKS })
}

/// The last lines of a long text.
fn tail(text: &str) -> String {
    const LINES_MAX: usize = 40;
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES_MAX)..].join("\n")
}

/// Where on PATH a program is.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// A directory outside the checkout for what is costly to bring again.
pub fn cache_dir() -> Result<PathBuf> {
    let base = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(dir), _) if !dir.is_empty() => PathBuf::from(dir),
        (_, Some(home)) => PathBuf::from(home).join(".cache"),
        _ => bail!("neither XDG_CACHE_HOME nor HOME is set, so there is no place for a cache"),
    };
    let dir = base.join("tombolo-ci");
    std::fs::create_dir_all(&dir).with_context(|| format!("can't create {}", dir.display()))?;
    Ok(dir)
}

pub fn is_root() -> Result<bool> {
    Ok(output(command("id").arg("-u"))?.trim() == "0")
}

/// Installs Debian packages, after saying so. Needs root, by being it or through sudo that asks nothing.
pub fn apt_install(packages: &[&str]) -> Result<()> {
    if which("apt-get").is_none() {
        bail!("there is no apt-get here to install {} with; please install the like", packages.join(", "));
    }
    let root = is_root()?;
    let prefix: &[&str] = if root { &[] } else { &["sudo", "-n"] };
    println!("installing with apt-get{}: {}", if root { "" } else { " (through sudo)" }, packages.join(" "));
    let apt = |args: &[&str]| {
        let words: Vec<&str> =
            prefix.iter().copied().chain(["apt-get", "-q", "-y"]).chain(args.iter().copied()).collect();
        output(command(words[0]).args(&words[1..]).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    apt(&["update"])?;
    apt(&[&["install", "--no-install-recommends"], packages].concat())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_says_what_it_complained_about() {
        let error = output(command("sh").args(["-c", "echo broken >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("sh -c") && error.contains("broken") && error.contains('3'), "{error}");
        assert_eq!(output(command("echo").arg("fine")).unwrap(), "fine\n");
    }

    #[test]
    fn what_a_process_took_is_read_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 300 25 20 0 1 0 99";
        assert_eq!(parse_cpu(stat), Some(Cpu { own: 2.0, children: 3.25 }));
        assert_eq!(parse_cpu("7 (a) S 1 2"), None);
        assert!(cpu("self").is_ok());
    }

    #[test]
    fn only_the_end_of_a_long_complaint_is_told() {
        let long: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let short = tail(&long.join("\n"));
        assert!(short.starts_with("60\n") && short.ends_with("\n99"), "{short}");
    }
}
