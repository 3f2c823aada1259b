//! The demo's processes: one control plane, one agent a site, each as a user would start it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tombolo_api::wire::{JoinTokenMade, NewJoinToken, RunView};
use tombolo_core::SiteId;

use super::example::SITES;
use crate::failure::Failure;
use crate::home::{Context, Home};
use crate::run::is_over;
use crate::session::{Global, Session, new_key};

const UP_MAX: Duration = Duration::from_secs(30);
/// How long what runs may take to stop before the agents are ended all the same.
const STOP_MAX: Duration = Duration::from_secs(45);
/// What a fresh demo keeps of an earlier one: Python environments, which take long to make and depend on nothing else.
const KEPT: [&str; 2] = ["envs", "tools"];

pub struct Processes {
    program: PathBuf,
    children: Vec<(String, Child)>,
    /// What the demo's own control plane has written down, once it serves.
    context: Option<Context>,
    /// Locked for as long as the demo lives.
    _marker: File,
}

impl Processes {
    pub async fn start(home: &Home, dir: &Path) -> Result<Processes, Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::system("this program can't find itself").because(error))?;
        let marker = clear(dir)?;
        let mut processes = Processes { program, children: Vec::new(), context: None, _marker: marker };
        let started = processes.start_all(home, dir).await;
        match started {
            Ok(()) => Ok(processes),
            Err(failure) => {
                processes.end().await;
                Err(failure)
            }
        }
    }

    pub fn program(&self) -> String {
        self.program.display().to_string()
    }

    pub fn context(&self) -> Option<&Context> {
        self.context.as_ref()
    }

    /// With the demo's own control plane, whatever other one the environment names or was started since.
    pub fn session(&self) -> Result<Session, Failure> {
        let context = self.context.as_ref().ok_or_else(|| Failure::system("the control plane does not serve yet"))?;
        let token = std::fs::read_to_string(&context.token_file).map_err(|error| {
            Failure::system(format!("{} can't be read", context.token_file.display())).because(error)
        })?;
        let server = Some(context.address.clone());
        Session::open(&Global { server, token: Some(token), ..Global::default() })
    }

    async fn start_all(&mut self, home: &Home, dir: &Path) -> Result<(), Failure> {
        let server_dir = dir.join("server");
        let log = dir.join("server.log");
        let words = ["server", "--listen", "127.0.0.1:0", "--relay-listen", "127.0.0.1:0", "--dir"];
        let mut command = self.command(&log)?;
        command.args(words).arg(&server_dir);
        let before = home.context()?;
        self.spawn("the control plane", command)?;
        let answers = async {
            loop {
                // The server writes the context when it serves; an older demo's stands for another address.
                if let Some(context) = home.context()?.filter(|context| Some(context) != before.as_ref())
                    && context.token_file.starts_with(&server_dir)
                {
                    return Ok::<_, Failure>(context);
                }
                if let Some(name) = self.dead() {
                    return Err(died(&name, &log));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let context = tokio::time::timeout(UP_MAX, answers)
            .await
            .map_err(|_| Failure::system("the control plane did not start in time").hint(see(&log)))??;
        eprintln!("control plane at {}", context.address);

        self.context = Some(context.clone());
        let session = self.session()?;
        for site in SITES {
            let name = SiteId::new(site.name).expect("a fixed name");
            let body = NewJoinToken { site: Some(name), expires_in_s: Some(600) };
            let made: JoinTokenMade = session.client.post("/v1/join-tokens", &new_key(), &body).await?;
            let log = dir.join(format!("{}.log", site.name));
            let mut command = self.command(&log)?;
            command.args(["agent", "join", &context.address, "--token", &made.token, "--name", site.name]);
            command.args(site.arguments).arg("--dir").arg(dir.join(site.name));
            self.spawn(site.name, command)?;
            eprintln!("site {} joins", site.name);
        }
        Ok(())
    }

    fn command(&self, log: &Path) -> Result<Command, Failure> {
        let unwritable = |error| Failure::system(format!("{} can't be written", log.display())).because(error);
        let out = File::create(log).map_err(unwritable)?;
        let err = out.try_clone().map_err(unwritable)?;
        let mut command = Command::new(&self.program);
        // They end with the demo, however it ends; and Ctrl-C in the terminal is for the demo alone.
        command.env("TOMBOLO_DIE_WITH_PARENT", "1").process_group(0);
        command.env_remove("TOMBOLO_SERVER").env_remove("TOMBOLO_TOKEN");
        if std::env::var_os("TOMBOLO_LOG").is_none() {
            command.env("TOMBOLO_LOG", "info,iroh=warn,noq=warn");
        }
        command.stdin(Stdio::null()).stdout(out).stderr(err).kill_on_drop(true);
        Ok(command)
    }

    fn spawn(&mut self, name: &str, mut command: Command) -> Result<(), Failure> {
        let child =
            command.spawn().map_err(|error| Failure::system(format!("{name} can't be started")).because(error))?;
        self.children.push((name.to_owned(), child));
        Ok(())
    }

    fn dead(&mut self) -> Option<String> {
        let over = |(_, child): &mut (String, Child)| !matches!(child.try_wait(), Ok(None));
        self.children.iter_mut().find_map(|entry| over(entry).then(|| entry.0.clone()))
    }

    /// Waits until one of them ends, and names it.
    pub async fn watch(&mut self) -> String {
        loop {
            if let Some(name) = self.dead() {
                return name;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Stops what runs, then the agents, then the control plane. What was run outlives its agent, so it goes first.
    pub async fn stop(mut self) {
        if let Ok(session) = self.session() {
            let stopped = stop_runs(&session);
            if !matches!(tokio::time::timeout(STOP_MAX, stopped).await, Ok(Ok(()))) {
                eprintln!("not everything that ran could be stopped; see `ps` for what is left");
            }
        }
        self.end().await;
    }

    async fn end(&mut self) {
        for (_, child) in self.children.iter_mut().rev() {
            if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let _ = child.wait().await;
        }
    }
}

async fn stop_runs(session: &Session) -> Result<(), Failure> {
    let runs: Vec<RunView> = session.all("/v1/runs").await?;
    let live = |run: &RunView| run.state == "serving" || !is_over(&run.state);
    for run in runs.iter().filter(|run| live(run)) {
        let path = format!("/v1/runs/{}/stop", run.id);
        session.client.post::<serde_json::Value>(&path, &new_key(), &serde_json::json!({})).await?;
    }
    loop {
        let runs: Vec<RunView> = session.all("/v1/runs").await?;
        if !runs.iter().any(live) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// An earlier demo's directory, without its environments; nobody else's while the file lives that is answered.
fn clear(dir: &Path) -> Result<File, Failure> {
    let unusable = |error: std::io::Error| Failure::system(format!("{} can't be used", dir.display())).because(error);
    let marker = dir.join(".tombolo-demo");
    if dir.exists() && !marker.exists() && std::fs::read_dir(dir).map_err(unusable)?.next().is_some() {
        return Err(Failure::usage(format!("{} is in use for something else", dir.display()))
            .because("the demo empties its directory, and this one was not made by it")
            .hint("give it an empty or a new one with --dir"));
    }
    std::fs::create_dir_all(dir).map_err(unusable)?;
    let mut lock = File::options().create(true).truncate(false).write(true).open(&marker).map_err(unusable)?;
    if lock.try_lock().is_err() {
        return Err(Failure::usage(format!("a demo is running in {}", dir.display()))
            .because("the demo empties its directory, and would take the other's from under it")
            .hint("end that one with Ctrl-C, or give this one a directory of its own with --dir"));
    }
    lock.write_all(b"This directory is emptied by `tombolo demo`.\n").map_err(unusable)?;
    for entry in std::fs::read_dir(dir).map_err(unusable)? {
        let path = entry.map_err(unusable)?.path();
        let site = SITES.iter().any(|site| path.file_name().is_some_and(|name| name == site.name));
        if site {
            for part in std::fs::read_dir(&path).map_err(unusable)? {
                let part = part.map_err(unusable)?.path();
                if !part.file_name().is_some_and(|name| KEPT.iter().any(|kept| name == *kept)) {
                    remove(&part).map_err(unusable)?;
                }
            }
        } else if path != marker {
            remove(&path).map_err(unusable)?;
        }
    }
    Ok(lock)
}

fn remove(path: &Path) -> std::io::Result<()> {
    if path.is_dir() && !path.is_symlink() { make_writable_and_remove(path) } else { std::fs::remove_file(path) }
}

/// Inputs are laid out read-only, directories too.
fn make_writable_and_remove(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    for entry in std::fs::read_dir(dir)? {
        remove(&entry?.path())?;
    }
    std::fs::remove_dir(dir)
}

fn died(name: &str, log: &Path) -> Failure {
    let words = std::fs::read_to_string(log).unwrap_or_default();
    let last: Vec<&str> = words.lines().rev().take(5).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    Failure::system(format!("{name} ended as it started")).because(last.join("\n       ")).hint(see(log))
}

fn see(log: &Path) -> String {
    format!("see {}", log.display())
}
