//! Python environments: made once per site for a set of requirements, used by every stage that names the same.
//!
//! `uv` makes them in seconds. It is taken from PATH, else fetched once from the package index into the site's
//! directory; where neither works, the standard library's `venv` and `pip` do the same more slowly.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tombolo_core::spec::Python;
use tombolo_core::time::Millis;

/// How long one step (fetching uv, installing the requirements) may take.
const STEP_MAX: Duration = Duration::from_secs(30 * 60);
/// How many of a failed tool's last lines are shown.
const LINES_MAX: usize = 15;
/// Longest line of a tool that is kept, in bytes.
const LINE_BYTES_MAX: usize = 2_000;
/// Written last; an environment without it is made again.
const MARKER: &str = ".tombolo-ok";

/// Why there is no environment.
#[derive(Debug, thiserror::Error)]
pub enum PythonError {
    #[error("there is no python3 on this site's PATH\nhint: install Python 3 (with its venv module) at the site")]
    NoPython,
    #[error("{program} can't be run: {source}")]
    CantRun { program: String, source: io::Error },
    #[error("{step} took longer than {}\nhint: is the package index reachable from this site?", Millis(STEP_MAX.as_millis() as u64))]
    TooSlow { step: String },
    #[error("{step} failed ({status}):\n{output}\nhint: {hint}")]
    Failed { step: String, status: String, output: String, hint: &'static str },
    #[error("the Python environment can't be written to {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// An interpreter that is installed at the site.
#[derive(Debug, Clone)]
struct System {
    executable: PathBuf,
    version: String,
}

/// The environment's directory, made if it isn't there yet. `talk` hears of progress, in whole lines. Blocks; many may
/// ask for the same environment at once, and one of them makes it.
pub fn ensure(envs_dir: &Path, python: &Python, talk: &dyn Fn(&str)) -> Result<PathBuf, PythonError> {
    let system = System::find(python.version.as_deref())?;
    let key = key(python, &system);
    let dir = envs_dir.join(&key);
    if is_whole(&dir) {
        return Ok(dir);
    }
    let _lock = lock(envs_dir, &key)?;
    if is_whole(&dir) {
        return Ok(dir);
    }
    let began = Instant::now();
    // What is there was left by somebody who was killed half-way.
    if dir.exists() {
        fs::remove_dir_all(&dir).map_err(io_at(&dir))?;
    }
    make(envs_dir, &dir, python, &system, talk)?;
    fs::write(dir.join(MARKER), &key).map_err(io_at(&dir))?;
    let took = Millis(began.elapsed().as_millis() as u64);
    talk(&format!("made the Python environment ({}) in {took}", describe(python, &system)));
    Ok(dir)
}

fn make(envs_dir: &Path, dir: &Path, python: &Python, system: &System, talk: &dyn Fn(&str)) -> Result<(), PythonError> {
    let fits = python.version.as_deref().is_none_or(|version| is_version(&system.version, version));
    if python.requirements.is_empty() && fits {
        let step = "making a virtual environment";
        return run(
            step,
            &system.executable,
            ["-m".as_ref(), "venv".as_ref(), "--without-pip".as_ref(), dir.as_os_str()],
            talk,
        );
    }
    let requirements = envs_dir.join(format!("{}.txt", dir.file_name().unwrap_or_default().to_string_lossy()));
    let text: String = python.requirements.iter().map(|line| format!("{line}\n")).collect();
    fs::write(&requirements, text).map_err(io_at(&requirements))?;
    talk(&format!("making the Python environment ({})", describe(python, system)));
    match find_uv(envs_dir, system, talk) {
        Ok(uv) => make_with_uv(&uv, dir, &requirements, python, system, fits, talk),
        Err(error) if fits => {
            talk(&format!("uv can't be had ({error}); going on with venv and pip"));
            make_with_pip(dir, &requirements, system, talk)
        }
        Err(error) => Err(error),
    }
}

fn make_with_uv(
    uv: &Path,
    dir: &Path,
    requirements: &Path,
    python: &Python,
    system: &System,
    fits: bool,
    talk: &dyn Fn(&str),
) -> Result<(), PythonError> {
    let interpreter = match &python.version {
        Some(version) if !fits => version.as_ref(),
        _ => system.executable.as_os_str(),
    };
    run(
        "making a virtual environment",
        uv,
        ["venv".as_ref(), "-q".as_ref(), "--python".as_ref(), interpreter, dir.as_os_str()],
        talk,
    )?;
    if python.requirements.is_empty() {
        return Ok(());
    }
    let args = [
        "pip".as_ref(),
        "install".as_ref(),
        // Here and not when the first command starts, for which a move may be waiting.
        "--compile-bytecode".as_ref(),
        "--python".as_ref(),
        dir.as_os_str(),
        "-r".as_ref(),
        requirements.as_os_str(),
    ];
    run("installing the requirements", uv, args, talk)
}

fn make_with_pip(dir: &Path, requirements: &Path, system: &System, talk: &dyn Fn(&str)) -> Result<(), PythonError> {
    run("making a virtual environment", &system.executable, ["-m".as_ref(), "venv".as_ref(), dir.as_os_str()], talk)?;
    let args = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "-r"].map(OsStr::new);
    let args = args.into_iter().chain([requirements.as_os_str()]);
    run("installing the requirements", &dir.join("bin/python"), args, talk)
}

/// From PATH, else the site's own, which the first to need it fetches.
fn find_uv(envs_dir: &Path, system: &System, talk: &dyn Fn(&str)) -> Result<PathBuf, PythonError> {
    if let Some(uv) = on_path("uv") {
        return Ok(uv);
    }
    let dir = envs_dir.join("tools-uv");
    let uv = dir.join("bin/uv");
    if dir.join(MARKER).exists() && uv.exists() {
        return Ok(uv);
    }
    let _lock = lock(envs_dir, "tools-uv")?;
    if dir.join(MARKER).exists() && uv.exists() {
        return Ok(uv);
    }
    if dir.exists() {
        fs::remove_dir_all(&dir).map_err(io_at(&dir))?;
    }
    talk("fetching uv, once for this site");
    run("making a virtual environment", &system.executable, ["-m".as_ref(), "venv".as_ref(), dir.as_os_str()], talk)?;
    let args = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "uv"];
    run("fetching uv", &dir.join("bin/python"), args, talk)?;
    fs::write(dir.join(MARKER), "").map_err(io_at(&dir))?;
    Ok(uv)
}

impl System {
    /// The interpreter of that version if the site has it, else its default one.
    fn find(version: Option<&str>) -> Result<System, PythonError> {
        let exact = version.map(|version| format!("python{version}"));
        let names = exact.iter().map(String::as_str).chain(["python3", "python"]);
        let mut found = names.filter_map(on_path).filter_map(|path| System::ask(&path));
        found.next().ok_or(PythonError::NoPython)
    }

    /// None where the program is no working Python 3.
    fn ask(path: &Path) -> Option<System> {
        let script = "import sys; print('%d.%d.%d' % sys.version_info[:3]); print(sys.executable)";
        let output = Command::new(path).args(["-I", "-c", script]).stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let (version, executable) = text.trim_end().split_once('\n')?;
        (output.status.success() && version.starts_with("3."))
            .then(|| System { executable: executable.into(), version: version.to_owned() })
    }
}

/// `3.11` is a version of `3.11.7`, but not of `3.1.1`.
fn is_version(has: &str, wanted: &str) -> bool {
    has == wanted || has.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('.'))
}

fn key(python: &Python, system: &System) -> String {
    let mut hasher = blake3::Hasher::new();
    let parts = [python.version.as_deref().unwrap_or(""), &system.version, &system.executable.to_string_lossy()]
        .map(str::to_owned);
    for part in parts.iter().chain(&python.requirements) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex()[..24].to_owned()
}

fn describe(python: &Python, system: &System) -> String {
    let version = python.version.as_deref().unwrap_or(&system.version);
    match python.requirements.len() {
        0 => format!("Python {version}"),
        1 => format!("Python {version}, 1 requirement"),
        count => format!("Python {version}, {count} requirements"),
    }
}

/// The interpreter is a link out of the environment: it may have gone.
fn is_whole(dir: &Path) -> bool {
    dir.join(MARKER).exists() && dir.join("bin/python").exists()
}

/// Held until dropped; released by the kernel if its holder is killed.
fn lock(envs_dir: &Path, name: &str) -> Result<File, PythonError> {
    fs::create_dir_all(envs_dir).map_err(io_at(envs_dir))?;
    let path = envs_dir.join(format!("{name}.lock"));
    let file = File::create(&path).map_err(io_at(&path))?;
    file.lock().map_err(io_at(&path))?;
    Ok(file)
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| {
        use std::os::unix::fs::PermissionsExt;
        file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> PythonError {
    let path = path.to_owned();
    move |source| PythonError::Io { path: path.clone(), source }
}

/// Runs a tool to its end and passes on what it says.
fn run<A: AsRef<OsStr>>(
    step: &str,
    program: &Path,
    args: impl IntoIterator<Item = A>,
    talk: &dyn Fn(&str),
) -> Result<(), PythonError> {
    let cant_run = |source| PythonError::CantRun { program: program.display().to_string(), source };
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // An interpreter that is downloaded is only ever one that was asked for by version.
    command.env_remove("VIRTUAL_ENV").env_remove("PYTHONHOME").env_remove("PYTHONPATH").env("NO_COLOR", "1");
    let mut child = command.spawn().map_err(cant_run)?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let (done, watch) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let late = watch.recv_timeout(STEP_MAX) == Err(RecvTimeoutError::Timeout);
        // Not waited for yet, so that the pid is still its own.
        late && kill(pid, Signal::SIGKILL).is_ok()
    });
    let mut last = VecDeque::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line[..line.len().min(LINE_BYTES_MAX)]).trim_end().to_owned();
            talk(&line);
            if last.len() == LINES_MAX {
                last.pop_front();
            }
            last.push_back(line);
        }
    }
    drop(done);
    let late = watchdog.join().unwrap_or(false);
    let status = child.wait().map_err(cant_run)?;
    if late {
        return Err(PythonError::TooSlow { step: step.to_owned() });
    }
    if status.success() {
        return Ok(());
    }
    let output = last.make_contiguous().join("\n");
    Err(PythonError::Failed { step: step.to_owned(), status: status.to_string(), hint: hint(&output), output })
}

fn hint(output: &str) -> &'static str {
    let has = |words: &[&str]| words.iter().any(|word| output.contains(word));
    if has(&["No solution found", "No matching distribution", "not found in the package registry"]) {
        "check the names and versions under `python:`"
    } else if has(&["ensurepip", "No module named venv"]) {
        "install Python's venv module at the site (on Debian: python3-venv)"
    } else if has(&["No space left"]) {
        "free some disk space at the site"
    } else if has(&["dns error", "error sending request", "Connection", "Temporary failure", "timed out"]) {
        "is the package index reachable from this site?"
    } else {
        "run the same requirements with uv at the site to see more"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn python(requirements: &[&str]) -> Python {
        Python { requirements: requirements.iter().map(|&r| r.to_owned()).collect(), version: None }
    }

    #[test]
    fn versions_match_by_whole_numbers() {
        assert!(is_version("3.11.7", "3.11"));
        assert!(is_version("3.11.7", "3.11.7"));
        assert!(!is_version("3.11.7", "3.1"));
        assert!(!is_version("3.1.1", "3.11"));
    }

    #[test]
    fn the_key_tells_environments_apart() {
        let system = System { executable: "/usr/bin/python3".into(), version: "3.11.7".into() };
        let newer = System { version: "3.12.0".into(), ..system.clone() };
        let keys = [
            key(&python(&["a==1"]), &system),
            key(&python(&["a==1", "b"]), &system),
            key(&python(&["a==1"]), &newer),
            key(&Python { version: Some("3.11".into()), ..python(&["a==1"]) }, &system),
        ];
        assert_eq!(keys.iter().collect::<std::collections::BTreeSet<_>>().len(), keys.len());
        assert_eq!(key(&python(&["b", "a==1"]), &system), keys[1]);
    }

    #[test]
    fn an_environment_is_made_once_and_again_where_it_is_broken() {
        let site = tempfile::tempdir().unwrap();
        let said = std::cell::RefCell::new(Vec::new());
        let talk = |line: &str| said.borrow_mut().push(line.to_owned());
        let dir = ensure(site.path(), &python(&[]), &talk).unwrap();
        assert_eq!(said.borrow().len(), 1, "{said:?}");
        assert_eq!(ensure(site.path(), &python(&[]), &talk).unwrap(), dir);
        assert_eq!(said.borrow().len(), 1, "{said:?}");
        fs::remove_file(dir.join(MARKER)).unwrap();
        assert_eq!(ensure(site.path(), &python(&[]), &talk).unwrap(), dir);
        assert_eq!(said.borrow().len(), 2, "{said:?}");
        let out = Command::new(dir.join("bin/python")).args(["-c", "import sys; print(sys.prefix)"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), dir.to_str().unwrap());
    }

    #[test]
    fn a_tool_that_fails_is_quoted() {
        let error =
            run("trying", Path::new("/bin/sh"), ["-c", "echo No solution found >&2; exit 3"], &|_| {}).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3") && text.contains("No solution found"), "{text}");
        assert!(text.contains("hint: check the names"), "{text}");
    }
}
