//! A long line for benchmarks: two network namespaces, joined by a relay of ours. Needs root.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::Context;
use crate::process;

const SCRIPT: &str = include_str!("wan.py");
/// The address of each end.
pub const ENDS: [&str; 2] = ["10.91.0.1", "10.91.0.2"];

pub struct Line {
    pub one_way_ms: u32,
    pub mbit: u32,
    pub loss_percent: f64,
}

/// The namespaces and the relay, gone with this value.
pub struct Wan {
    names: [String; 2],
    relay: Option<Child>,
}

impl Wan {
    pub fn start(ctx: &Context, line: &Line) -> Result<Wan> {
        let own = std::process::id();
        let mut wan = Wan { names: [format!("tombolo-a-{own}"), format!("tombolo-b-{own}")], relay: None };
        for name in &wan.names {
            let made = process::output(process::command("ip").args(["netns", "add", name]));
            made.context("a network namespace can't be made; hint: this benchmark needs root")?;
        }
        let script = ctx.path("wan.py");
        std::fs::write(&script, SCRIPT).context("can't write the relay")?;
        let mut command = process::command("python3");
        command.arg(&script).args(&wan.names).arg(line.one_way_ms.to_string()).arg(line.mbit.to_string());
        command.arg(line.loss_percent.to_string()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut relay = command.spawn().context("can't start the relay")?;
        let stdout = relay.stdout.take().context("the relay has no output")?;
        wan.relay = Some(relay);
        let mut said = String::new();
        BufReader::new(stdout).read_line(&mut said).context("the relay can't be heard")?;
        if said.trim() != "ready" {
            bail!("the relay did not come up");
        }
        Ok(wan)
    }

    /// A program at one end.
    pub fn at(&self, end: usize, program: impl AsRef<Path>) -> Command {
        let mut command = process::command("ip");
        command.args(["netns", "exec", &self.names[end]]).arg(program.as_ref());
        command
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        if let Some(relay) = &mut self.relay {
            // Gone already, or about to be: either is fine.
            let _ = relay.kill();
            let _ = relay.wait();
        }
        for name in &self.names {
            let _ = process::output(process::command("ip").args(["netns", "delete", name]));
        }
    }
}
