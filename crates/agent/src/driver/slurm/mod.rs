//! Shims as jobs of a Slurm cluster: submitted, watched in the queue and cancelled by its commands, as an ordinary user.
//!
//! The site's directory lies on the file system that the nodes share. A job's name says which placement it is, so that
//! an agent that starts again finds it; the placement's lock and events, there for every shim, make a job that was
//! submitted twice harmless.

mod desk;
mod words;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tombolo_core::ids::SiteId;
use tombolo_core::resources::Resources;
use tombolo_core::sync::Order;

use super::scheduled::Scheduled;
use super::shared;
use crate::shim::placement::Placement;
use desk::Desk;
use words::Asked;

/// How jobs are submitted, beside what their workloads ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SlurmConfig {
    /// The cluster's default partition unless given.
    pub partition: Option<String>,
    /// The user's default account unless given.
    pub account: Option<String>,
    /// Further options for `sbatch`, such as `--qos=high`.
    pub options: Vec<String>,
}

/// A cluster. Clones are the same.
#[derive(Clone)]
pub struct Slurm {
    desk: Arc<Desk>,
    site: SiteId,
    config: Arc<SlurmConfig>,
    /// What starts a shim on a node, before its directory.
    shim: Arc<Vec<String>>,
}

/// A job that is watched until this is dropped.
struct Tracked {
    desk: Arc<Desk>,
    number: u64,
}

impl Slurm {
    /// `shim_command` is what starts a shim on this machine; its program is put into the site's directory, where the
    /// nodes find it. Needs a tokio runtime.
    pub fn new(config: SlurmConfig, site: SiteId, site_dir: &Path, shim_command: &[OsString]) -> io::Result<Slurm> {
        let shim = shared::command(&std::path::absolute(site_dir)?, shim_command)?;
        Ok(Slurm { desk: Desk::open(config.partition.clone()), site, config: Arc::new(config), shim: Arc::new(shim) })
    }

    /// Submits the placement's shim, in the background: a controller that doesn't answer is waited for.
    pub fn start(&self, placement: &Placement, order: &Order, secrets: &[u8]) -> io::Result<Scheduled> {
        let script = words::script(&self.shim, placement.dir()).ok_or_else(shared::not_utf8)?;
        let secrets = (!order.spec.secrets.is_empty()).then(|| secrets.to_vec());
        let (number, stands) = self.desk.track(name(&self.site, placement)?, None, Asked::of(&order.spec));
        let submission = desk::Submission {
            number,
            name: name(&self.site, placement)?,
            placement: placement.clone(),
            config: self.config.clone(),
            spec: order.spec.clone(),
            script,
            secrets,
        };
        tokio::spawn(submission.submit(self.desk.clone()));
        Ok(Scheduled::new(stands, Tracked { desk: self.desk.clone(), number }))
    }

    /// The job of a placement that was submitted once, if it was.
    pub fn found(&self, placement: &Placement) -> Option<Scheduled> {
        let id = match fs::read_to_string(mark(placement)) {
            Ok(id) => id.trim().parse().ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            // It may be there; whoever watches reads the events until they can be read.
            Err(_) => None,
        };
        let order = placement.read_order().ok().flatten();
        let asked = order.map(|order| Asked::of(&order.order.spec)).unwrap_or_default();
        let name = name(&self.site, placement).ok()?;
        let (number, stands) = self.desk.track(name, Some(id), asked);
        Some(Scheduled::new(stands, Tracked { desk: self.desk.clone(), number }))
    }

    /// Cancels a job that waits, and tells one that runs to end.
    pub fn stop(&self, placement: &Placement) {
        if let Ok(name) = name(&self.site, placement) {
            tokio::spawn(desk::cancel(name));
        }
    }
}

/// What a cluster's partition has, for a site that is about to join; no memory where that isn't counted there.
pub async fn capacity(config: &SlurmConfig) -> Result<Resources, String> {
    let mut nodes = desk::nodes(config.partition.as_deref()).await?;
    if !nodes.memory_counted {
        nodes.capacity.memory_bytes = 0;
    }
    Ok(nodes.capacity)
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.desk.forget(self.number);
    }
}

/// Of the file that says that a placement was submitted, and under which number.
fn mark(placement: &Placement) -> PathBuf {
    placement.dir().join("slurm.job")
}

/// The name of a placement's job: its site, and where it is in there, which is its run, stage and epoch.
fn name(site: &SiteId, placement: &Placement) -> io::Result<String> {
    let parts: Vec<_> = placement.dir().components().rev().take(2).collect();
    let part = |at: usize| parts.get(at).and_then(|part| part.as_os_str().to_str()).ok_or_else(shared::not_utf8);
    Ok(format!("tombolo:{site}:{}/{}", part(1)?, part(0)?))
}
