//! Shims as Jobs of a Kubernetes cluster, in whose namespace the agent itself runs.
//!
//! The site's directory is a volume that the agent and all pods have at the same path; the placement's lock and events in
//! it, there for every shim, decide what has happened, and the cluster says why something waits or was ended. A pod runs
//! the agent's own program from that volume, so that any image will do that has the C library it needs.

mod desk;
mod job;
pub(crate) mod watching;
mod words;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tombolo_core::ids::{Name, SiteId};
use tombolo_core::sync::Order;

use super::scheduled::Scheduled;
use super::shared;
use crate::shim::placement::{Placement, ShimOrder};
use desk::Desk;
use words::Asked;

pub use job::SITE_LABEL;

/// Where the agent serves endpoints in its pod, and what workloads log to.
pub const GATEWAY_PORT: u16 = 7080;
pub const TRACKING_PORT: u16 = 7079;

/// Longer than a watch lasts, which the server ends after less than five minutes.
const SILENCE_MAX: Duration = Duration::from_secs(320);

/// How Jobs are made, beside what their workloads ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KubernetesConfig {
    pub namespace: String,
    /// Of workloads that name none.
    pub image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<String>,
    /// Names of secrets for registries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pull_secrets: Vec<String>,
    /// The claim of the volume on which the site's directory is.
    pub claim: String,
    /// Of the agent, by which pods reach it.
    pub address: String,
    /// The control plane's API, as pods reach it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub control: String,
    /// Whether the namespace's `Workload`s are submitted to the control plane.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub workloads: bool,
    /// Whose number pods run under; none where the cluster gives one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<i64>,
    /// Whether the cluster is to give the number, as OpenShift does.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub any_user: bool,
    /// Given to pods that may use the cluster's API; without one they get no token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// As in pods.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<serde_json::Value>,
    /// The secret with the variables that lead to the store, where that is a bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_secret: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_class: Option<String>,
    /// The local queue of Kueue in which jobs wait for their turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub accelerators: BTreeMap<Name, Accelerator>,
    /// For the agent and its shims, such as the proxy by which they get packages; workloads see what shims pass on.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Further volumes of workloads' pods, such as an NFS export that imports read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
}

/// A volume of the cluster's in workloads' pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Where it is in the pod.
    pub path: PathBuf,
    #[serde(default)]
    pub read_only: bool,
    /// Kubernetes' volume without its name, such as `{nfs: {server: files, path: /data}}`.
    pub volume: serde_json::Value,
}

/// How a kind of accelerator is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Accelerator {
    /// The extended resource; `nvidia.com/gpu` unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Labels of the nodes that have it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Of those nodes' taints, as in pods.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<serde_json::Value>,
}

/// A cluster. Clones are the same.
#[derive(Clone)]
pub struct Kubernetes {
    desk: Arc<Desk>,
    site: SiteId,
    site_dir: PathBuf,
    config: Arc<KubernetesConfig>,
    /// What starts a shim in a pod, before its directory.
    shim: Arc<Vec<String>>,
}

/// A Job that is watched until this is dropped.
struct Tracked {
    desk: Arc<Desk>,
    number: u64,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.desk.forget(self.number);
    }
}

impl Kubernetes {
    /// From within a pod, whose service account is used. `shim_command` is what starts a shim on this machine.
    pub async fn open(
        config: KubernetesConfig,
        site: SiteId,
        site_dir: &Path,
        shim_command: &[OsString],
    ) -> io::Result<Kubernetes> {
        let site_dir = std::path::absolute(site_dir)?;
        let shim = shared::command(&site_dir, shim_command)?;
        let client = connect().await.map_err(|error| {
            let why =
                format!("the cluster can't be spoken to: {error}; the agent of a Kubernetes site runs in a pod there");
            io::Error::new(io::ErrorKind::NotConnected, why)
        })?;
        let desk = Desk::open(client, config.namespace.clone(), site.as_str());
        Ok(Kubernetes { desk, site, site_dir, config: Arc::new(config), shim: Arc::new(shim) })
    }

    pub fn client(&self) -> kube::Client {
        self.desk.client()
    }

    /// How pods reach the agent: by its service's address, which is in the environment of pods that are younger than it,
    /// else by its name.
    pub fn address(&self) -> String {
        let name = self.config.address.split('.').next().unwrap_or_default();
        let variable = format!("{}_SERVICE_HOST", name.to_ascii_uppercase().replace('-', "_"));
        std::env::var(variable).unwrap_or_else(|_| self.config.address.clone())
    }

    /// Has the placement's Job made, in the background: a cluster that doesn't answer is waited for.
    pub fn start(&self, placement: &Placement, order: &Order, secrets: &[u8]) -> io::Result<Scheduled> {
        let ShimOrder { workload, epoch, .. } =
            placement.read_order()?.ok_or_else(|| io::Error::other("its order is gone"))?;
        let (run, stage) = (workload.run.to_string(), workload.name.to_string());
        if !order.spec.secrets.is_empty() {
            placement.keep_secrets(secrets)?;
        }
        let name = job::name(&run, &stage, epoch.0, &job::nonce()?);
        let mut command = self.shim.as_ref().clone();
        command.push(shared::text(placement.dir().as_os_str())?);
        let making = job::Making {
            name: name.clone(),
            site: &self.site,
            run: &run,
            stage: &stage,
            epoch: epoch.0,
            spec: &order.spec,
            config: &self.config,
            site_dir: &self.site_dir,
            command,
        };
        let job = job::job(&making)?;
        // The mark first: whoever finds it looks for the Job.
        fs::write(mark(placement), &name)?;
        let (number, stands) = self.desk.track(name.clone(), false, asked(order));
        let submission = desk::Submission { number, name, placement: placement.clone(), job };
        tokio::spawn(submission.submit(self.desk.clone()));
        Ok(Scheduled::new(stands, Tracked { desk: self.desk.clone(), number }))
    }

    /// The Job of a placement that had one made once, if it had.
    pub fn found(&self, placement: &Placement) -> Option<Scheduled> {
        let name = match fs::read_to_string(mark(placement)) {
            Ok(name) => name,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            // It may be there; whoever watches reads the events until they can be read.
            Err(_) => String::new(),
        };
        let order = placement.read_order().ok().flatten();
        let asked = order.map(|order| asked(&order.order)).unwrap_or_default();
        let made = !name.is_empty();
        let (number, stands) = self.desk.track(name, made, asked);
        Some(Scheduled::new(stands, Tracked { desk: self.desk.clone(), number }))
    }

    /// Deletes the Job, so that a pod that runs is told to end and one that waits never starts. One that is over stays for a
    /// while, to be looked at.
    pub fn stop(&self, placement: &Placement) {
        if placement.progress().is_ok_and(|progress| progress.finish.is_some()) {
            return;
        }
        if let Ok(name) = fs::read_to_string(mark(placement)) {
            self.desk.delete(name);
        }
    }
}

/// To the cluster of this pod. A server that falls silent is noticed, and what is to be said again is for the desk to say.
async fn connect() -> Result<kube::Client, Box<dyn std::error::Error>> {
    let mut config = kube::Config::incluster()?;
    config.read_timeout = Some(SILENCE_MAX);
    Ok(kube::Client::try_from(config)?)
}

fn asked(order: &Order) -> Asked {
    Asked { memory_bytes: order.spec.resources.memory_bytes }
}

/// Of the file that says which Job is a placement's.
fn mark(placement: &Placement) -> PathBuf {
    placement.dir().join("kubernetes.job")
}
