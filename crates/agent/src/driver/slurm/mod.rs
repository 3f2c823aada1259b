//! Shims as jobs of a Slurm cluster: submitted, watched in the queue and cancelled by its commands, as an ordinary user.
//!
//! The site's directory lies on the file system that the nodes share. A job's name says which placement it is, so that
//! an agent that starts again finds it; the placement's lock and events, there for every shim, make a job that was
//! submitted twice harmless.

mod desk;
mod words;

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tombolo_core::ids::SiteId;
use tombolo_core::resources::Resources;
use tombolo_core::sync::{Order, Outcome};

use super::launch::News;
use crate::shim::placement::Placement;
use desk::Desk;
use words::{Asked, Stands};

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

/// A shim that was submitted, or is to be.
pub struct Job {
    desk: Arc<Desk>,
    number: u64,
    stands: watch::Receiver<Stands>,
    /// Why it waits, as it was told last.
    told: Option<String>,
    /// Whether it was told that it will end.
    ends: bool,
    fate: Option<Outcome>,
}

impl Slurm {
    /// `shim_command` is what starts a shim on this machine; its program is put into the site's directory, where the
    /// nodes find it. Needs a tokio runtime.
    pub fn new(config: SlurmConfig, site: SiteId, site_dir: &Path, shim_command: &[OsString]) -> io::Result<Slurm> {
        let [program, args @ ..] = shim_command else { return Err(io::Error::other("there is no command for a shim")) };
        let site_dir = std::path::absolute(site_dir)?;
        let mut shim = vec![text(shared(&site_dir.join("bin"), Path::new(program))?.as_os_str())?];
        for arg in args {
            shim.push(text(arg)?);
        }
        Ok(Slurm { desk: Desk::open(config.partition.clone()), site, config: Arc::new(config), shim: Arc::new(shim) })
    }

    /// Submits the placement's shim, in the background: a controller that doesn't answer is waited for.
    pub fn start(&self, placement: &Placement, order: &Order, secrets: &[u8]) -> io::Result<Job> {
        let script = words::script(&self.shim, placement.dir()).ok_or_else(not_utf8)?;
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
        Ok(Job { desk: self.desk.clone(), number, stands, told: None, ends: false, fate: None })
    }

    /// The job of a placement that was submitted once, if it was.
    pub fn found(&self, placement: &Placement) -> Option<Job> {
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
        Some(Job { desk: self.desk.clone(), number, stands, told: None, ends: false, fate: None })
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

impl Job {
    /// Waits for a word on it.
    pub async fn news(&mut self) -> News {
        loop {
            let stands = self.stands.borrow_and_update().clone();
            match stands {
                Stands::Over(fate) => {
                    self.fate = fate;
                    return News::Gone;
                }
                Stands::Waits(why) if self.told.as_ref() != Some(&why) => {
                    self.told = Some(why.clone());
                    return News::Queued(why);
                }
                Stands::Ends(why) if !self.ends => {
                    self.ends = true;
                    return News::Ends(why);
                }
                Stands::Waits(_) | Stands::Has | Stands::Ends(_) => {}
            }
            if self.stands.changed().await.is_err() {
                // The desk goes on for as long as this does.
                return std::future::pending().await;
            }
        }
    }

    pub fn fate(&self) -> Option<Outcome> {
        self.fate.clone()
    }
}

impl Drop for Job {
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
    let part = |at: usize| parts.get(at).and_then(|part| part.as_os_str().to_str()).ok_or_else(not_utf8);
    Ok(format!("tombolo:{site}:{}/{}", part(1)?, part(0)?))
}

fn text(word: &std::ffi::OsStr) -> io::Result<String> {
    word.to_str().map(str::to_owned).ok_or_else(not_utf8)
}

fn not_utf8() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "its path is not UTF-8")
}

/// The program, in a directory that the nodes share; under a name of its contents, since jobs that wait go on to need it
/// when it has been replaced.
fn shared(bin: &Path, program: &Path) -> io::Result<PathBuf> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(fs::File::open(program)?)?;
    let to = bin.join(format!("tombolo-{}", &hasher.finalize().to_hex()[..16]));
    if to.exists() {
        return Ok(to);
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(bin)?;
    let new = bin.join(format!("new.{}", std::process::id()));
    // Left by a process that had this number before.
    let _ = fs::remove_file(&new);
    if fs::hard_link(program, &new).is_err() {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o700).open(&new)?;
        io::copy(&mut fs::File::open(program)?, &mut file)?;
        file.flush()?;
    }
    fs::rename(&new, &to)?;
    Ok(to)
}
