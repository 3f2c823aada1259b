//! A control plane and a site at one end of a long line, and a site at the other. Needs root.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Context;
use super::place::{Binary, Process, wait_for};
use super::wan::{ENDS, Line, Wan};
use crate::process;

/// The sites, each at its end.
pub const SITES: [&str; 2] = ["near", "far"];
const UP_MAX: Duration = Duration::from_secs(60);
/// A job that trains for as long as it is told to, and goes on from its state.
pub const TRAIN: &str = include_str!("train.py");

/// What runs there is stopped with this value.
pub struct Apart {
    pub binary: Binary,
    home: PathBuf,
    project: PathBuf,
    _server: Process,
    _agents: [Process; 2],
    // Last, so that what runs in it is ended before.
    pub wan: Wan,
}

impl Apart {
    pub fn start(ctx: &Context, line: &Line) -> Result<Apart> {
        let wan = Wan::start(ctx, line)?;
        let binary = Binary::find(ctx)?;
        let home = ctx.fresh("home")?;
        let at = |end: usize| {
            let mut command = wan.at(end, &binary.path);
            command.env("TOMBOLO_HOME", &home).env("TOMBOLO_LOG", "warn").env("TOMBOLO_DIE_WITH_PARENT", "1");
            command
        };
        let mut command = at(0);
        command.args(["server", "--listen", &format!("{}:7070", ENDS[0])]);
        command.args(["--agent-listen", &format!("{}:7071", ENDS[0]), "--dir"]).arg(home.join("server"));
        let server = Process::start(ctx, "server", &mut command)?;
        wait_for("the control plane's start", UP_MAX, || Ok(home.join("context.json").is_file().then_some(())))?;
        let join = |end: usize| {
            let name = SITES[end];
            let token = process::output(at(0).args(["site", "token", "--site", name]))?;
            let mut command = at(end);
            command.args(["agent", "join", &format!("{}:7070", ENDS[0]), "--token", token.trim(), "--name", name]);
            command.args(["--listen", &format!("{}:0", ENDS[end]), "--dir"]).arg(home.join(name));
            Process::start(ctx, name, &mut command)
        };
        let agents = [join(0)?, join(1)?];
        let project = ctx.fresh("project")?;
        let apart = Apart { binary, home, project, _server: server, _agents: agents, wan };
        wait_for("the sites' start", UP_MAX, || {
            let sites = apart.json(&["site", "ls"])?;
            let up = sites.as_array().map_or(0, |sites| sites.iter().filter(|site| site["status"] == "up").count());
            Ok((up == SITES.len()).then_some(()))
        })?;
        Ok(apart)
    }

    /// Has everything begin at the near site, though it may go to the other.
    pub fn prefer_near(&self) -> Result<()> {
        process::output(self.command().args(["site", "set", SITES[1], "--price", "cpu_hour=9"])).map(drop)
    }

    /// Writes a file of the project.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        std::fs::write(self.project.join(name), text).with_context(|| format!("can't write the project's {name}"))
    }

    /// The command line at the near end, in the project's directory.
    pub fn command(&self) -> Command {
        let mut command = self.wan.at(0, &self.binary.path);
        command.env("TOMBOLO_HOME", &self.home).current_dir(&self.project);
        command
    }

    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = process::output(self.command().args(args).args(["--output", "json"]))?;
        serde_json::from_str(&text).with_context(|| format!("no JSON in {text}"))
    }

    /// Starts a project and answers its run's id.
    pub fn submit(&self, yaml: &str) -> Result<String> {
        self.write("tombolo.yaml", yaml)?;
        Ok(process::output(self.command().args(["run", "--force", "--detach"]))?.trim().to_owned())
    }

    /// Waits until what a stage printed has such a text.
    pub fn printed(&self, stage: &str, text: &str, within: Duration) -> Result<()> {
        wait_for(&format!("{text:?} from {stage}"), within, || {
            let said = process::output(self.command().args(["logs", stage]));
            Ok(said.is_ok_and(|said| said.contains(text)).then_some(()))
        })
    }
}

impl Drop for Apart {
    /// What was run outlives its agent.
    fn drop(&mut self) {
        let runs = self.json(&["ps"]).ok();
        for run in runs.iter().flat_map(|runs| runs.as_array()).flatten() {
            if let Some(id) = run["id"].as_str() {
                // One that is over is refused, and the directory goes all the same.
                let _ = process::output(self.command().args(["stop", id]));
            }
        }
    }
}
