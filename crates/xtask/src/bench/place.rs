//! Our side as its users have it: the `tombolo` binary, a control plane and one site on this machine.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::http::Api;
use super::{Context, ours};
use crate::process;

/// How long a control plane or a site may take to start.
const UP_MAX: Duration = Duration::from_secs(60);
/// How long any process may take to end when it is asked to.
const DOWN_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The binary that is measured.
pub struct Binary {
    pub path: PathBuf,
    /// What a reader must know of it.
    pub note: String,
}

impl Binary {
    /// The one that was asked for; else the binary as it is distributed if that was built, which takes long; else as it is
    /// developed.
    pub fn find(ctx: &Context) -> Result<Binary> {
        if let Some((path, built)) = &ctx.binary {
            let path = path.canonicalize().with_context(|| format!("there is no {}", path.display()))?;
            return Ok(Binary { path, note: format!("our side {built}") });
        }
        let dist = ctx.root.join("target/dist/tombolo");
        if dist.is_file() && !ctx.quick {
            return Ok(Binary { path: dist, note: "our side built with the profile dist".to_owned() });
        }
        let path = ours::build(ctx, "dev", &["--package", "tombolo-cli", "--bin", "tombolo"])?;
        let note = "our side is the development build, whose dependencies are not optimised".to_owned();
        Ok(Binary { path, note })
    }

    /// A command of it that knows only what is in the benchmark's scratch directory.
    pub fn command(&self, ctx: &Context) -> Command {
        let mut command = process::command(&self.path);
        command.env("TOMBOLO_HOME", ctx.path("home")).env("TOMBOLO_DIE_WITH_PARENT", "1").env("TOMBOLO_LOG", "warn");
        command.env_remove("TOMBOLO_SERVER").env_remove("TOMBOLO_TOKEN");
        command
    }
}

/// A process that is ended with this value.
pub struct Process(pub Child);

impl Process {
    /// Starts a command with its output in a file of the scratch directory.
    pub fn start(ctx: &Context, name: &str, command: &mut Command) -> Result<Process> {
        let log = std::fs::File::create(ctx.path(&format!("{name}.log"))).context("can't write a log")?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Process(command.spawn().with_context(|| format!("can't start {}", process::shown(command)))?))
    }

    /// What the kernel counts of it now, in bytes: `VmRSS`, `VmHWM`.
    pub fn memory(&self, field: &str) -> Result<u64> {
        ours::memory(self.0.id(), field)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Asked kindly it ends what it has started; where that fails, or takes too long, it is ended itself.
        let pid = self.0.id().to_string();
        let _ = process::output(process::command("kill").args(["-TERM", &pid]));
        let _ = wait_for("the end of a process", DOWN_MAX, || Ok(self.0.try_wait()?));
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks until there is an answer.
pub fn wait_for<T>(what: &str, within: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let until = Instant::now() + within;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > until {
            bail!("{what} took longer than {} s", within.as_secs());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A control plane that answers.
pub struct Server {
    pub process: Process,
    pub api: Api,
}

/// Starts a control plane on what is in `home/server`, if there is anything.
pub fn server(ctx: &Context, binary: &Binary) -> Result<Server> {
    server_at(ctx, binary, "127.0.0.1")
}

fn server_at(ctx: &Context, binary: &Binary, ip: &str) -> Result<Server> {
    let mut command = binary.command(ctx);
    let listen = format!("{ip}:0");
    command.args(["server", "--listen", &listen, "--agent-listen", &listen, "--dir"]).arg(ctx.path("home/server"));
    let mut process = Process::start(ctx, "server", &mut command)?;
    let context = ctx.path("home/context.json");
    let text = wait_for("the control plane's start", UP_MAX, || match std::fs::read_to_string(&context) {
        Ok(text) => Ok(Some(text)),
        Err(_) if process.0.try_wait()?.is_some() => {
            bail!("the control plane ended:\n{}", std::fs::read_to_string(ctx.path("server.log"))?)
        }
        Err(_) => Ok(None),
    })?;
    let said: Value = serde_json::from_str(&text)?;
    let field = |name: &str| said[name].as_str().map(str::to_owned).with_context(|| format!("no {name} in {text}"));
    let authority = field("address")?.trim_start_matches("http://").to_owned();
    let token = std::fs::read_to_string(field("token_file")?).context("can't read the token")?.trim().to_owned();
    Ok(Server { process, api: Api { authority, token } })
}

/// A control plane with one site, and the code of a project there.
pub struct Place {
    pub binary: Binary,
    pub server: Server,
    agents: Vec<Process>,
}

impl Place {
    pub fn start(ctx: &Context) -> Result<Place> {
        let mut place = Place::without_sites(ctx)?;
        place.join(ctx, "bench", "home/site")?;
        Ok(place)
    }

    pub fn without_sites(ctx: &Context) -> Result<Place> {
        Place::without_sites_at(ctx, "127.0.0.1")
    }

    /// At an address of this machine that others reach.
    pub fn without_sites_at(ctx: &Context, ip: &str) -> Result<Place> {
        let binary = Binary::find(ctx)?;
        ctx.fresh("home")?;
        let server = server_at(ctx, &binary, ip)?;
        Ok(Place { binary, server, agents: Vec::new() })
    }

    /// Starts another site, in this directory of the scratch directory.
    pub fn join(&mut self, ctx: &Context, name: &str, dir: &str) -> Result<()> {
        self.join_as(ctx, name, dir, |_| {})
    }

    /// The same, with more said of it.
    pub fn join_as(&mut self, ctx: &Context, name: &str, dir: &str, more: impl FnOnce(&mut Command)) -> Result<()> {
        let token = process::output(self.binary.command(ctx).args(["site", "token", "--site", name]))?;
        let mut command = self.binary.command(ctx);
        command.args(["agent", "join", &self.server.api.authority, "--token", token.trim(), "--name", name, "--dir"]);
        more(command.arg(ctx.path(dir)));
        self.agents.push(Process::start(ctx, name, &mut command)?);
        let sites = self.agents.len();
        // Of sites that have left the files are still there.
        let file = format!("{name}.");
        wait_for("the site's start", UP_MAX, || {
            let up = self.server.api.get("/v1/sites")?.to_string().matches("\"up\"").count();
            Ok((has_entry(&ctx.path("home/local-sites"), &file) && up >= sites).then_some(()))
        })
    }

    /// Ends the site that was started last.
    pub fn leave(&mut self) {
        drop(self.agents.pop());
    }

    /// Writes a project of one stage and runs it once, so that all is warm. Returns what to post for a run of it.
    pub fn project(&self, ctx: &Context, stage: &str, command: &str) -> Result<String> {
        let text = format!("project: {stage}\nstages:\n  {stage}:\n    run: {}\n", Value::from(command));
        std::fs::write(ctx.path("project/tombolo.yaml"), text).context("can't write the project")?;
        process::output(self.run_command(ctx).args(["--output", "json"]))?;
        self.project_body(stage, command)
    }

    /// What to post to run a command on the code that the project of this name brought.
    pub fn project_body(&self, stage: &str, command: &str) -> Result<String> {
        let code = self.server.api.get(&format!("/v1/runs/{stage}-1"))?["code"].clone();
        let job = serde_json::json!({ "kind": { "job": {} }, "command": { "run": command }, "grace": 30_000 });
        let project = serde_json::json!({ "name": stage, "data": {}, "workloads": { stage: job } });
        Ok(serde_json::json!({ "project": project, "code": code, "force": true }).to_string())
    }

    /// `tombolo run --force` of the project.
    pub fn run_command(&self, ctx: &Context) -> Command {
        let mut command = self.binary.command(ctx);
        command.args(["run", "--force"]).current_dir(ctx.path("project"));
        command
    }

    /// The processors' time, in seconds, of the control plane and of the sites' agents with everything that has ended there.
    pub fn cpu(&self) -> Result<f64> {
        let of = |process: &Process| process::cpu(&process.0.id().to_string()).map(|cpu| cpu.own + cpu.children);
        self.agents.iter().chain([&self.server.process]).map(of).sum()
    }

    /// Posts a run, and returns its id.
    pub fn submit(&self, body: &str, key: &str) -> Result<String> {
        let run = self.server.api.post("/v1/runs", key, body)?;
        Ok(run["id"].as_str().context("the run has no id")?.to_owned())
    }
}

fn has_entry(dir: &Path, begins_with: &str) -> bool {
    let named = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with(begins_with);
    std::fs::read_dir(dir).is_ok_and(|entries| entries.flatten().any(|entry| named(&entry)))
}
