//! Our side with a Kubernetes of one node as its site, for as long as it is measured; and the cluster itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::Context;
use super::place::{Place, wait_for};
use crate::process;
use crate::test::kubernetes::Cluster;

const UP_MAX: Duration = Duration::from_secs(120);
pub const NAMESPACE: &str = "bench";
/// The runner image, as `cargo xtask image` calls it.
pub const IMAGE: &str = concat!("tombolo:", env!("CARGO_PKG_VERSION"));

pub struct Clustered {
    pub place: Place,
    cluster: Cluster,
}

impl Clustered {
    /// The cluster as the site `cloud`, and a site `lab` on this machine that code comes from.
    pub fn start(ctx: &Context) -> Result<Clustered> {
        let program = super::place::Binary::find(ctx)?.path;
        let cluster = Cluster::start(&ctx.root, &program)?;
        let place = Place::without_sites_at(ctx, &cluster.var("HOST_IP")?)?;
        let mut clustered = Clustered { place, cluster };
        clustered.kubectl(&["create", "namespace", NAMESPACE])?;
        let file = ctx.path("site.yaml");
        std::fs::write(&file, "kubernetes: {pull_policy: Never}\n").context("can't write the site file")?;
        let mut add = clustered.place.binary.command(ctx);
        add.args(["site", "add", "cloud", "--kubernetes", "--namespace", NAMESPACE, "--storage-class=", "--site-file"]);
        add.arg(&file).args(["--image", IMAGE]).env("KUBECONFIG", clustered.cluster.var("KUBECONFIG")?);
        process::output(&mut add)?;
        let server = &clustered.place.server;
        wait_for("the site's start", UP_MAX, || {
            Ok(server.api.get("/v1/sites")?.to_string().contains("\"up\"").then_some(()))
        })?;
        clustered.place.join(ctx, "lab", "home/lab")?;
        Ok(clustered)
    }

    /// What is to run where it can goes to the cluster from now on.
    pub fn close_lab(&self, ctx: &Context) -> Result<()> {
        process::output(self.place.binary.command(ctx).args(["site", "set", "lab", "--draining", "true"])).map(drop)
    }

    /// In the benchmark's namespace.
    pub fn kubectl_command(&self) -> Result<Command> {
        let mut command = process::command(self.cluster.var("KUBECTL")?);
        command.env("KUBECONFIG", self.cluster.var("KUBECONFIG")?).args(["--namespace", NAMESPACE]);
        Ok(command)
    }

    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        process::output(self.kubectl_command()?.args(args))
    }

    /// Where the node keeps what pods print: a directory for each pod, with its name in it.
    pub fn pod_logs(&self) -> PathBuf {
        self.cluster.dir().join("log/pods")
    }

    /// The agent's process, of which this machine's kernel counts as of its own.
    pub fn agent(&self) -> Result<u32> {
        let found = process::output(process::command("pgrep").args(["--full", "--", "--or-run"]))?;
        let pids: Vec<u32> = found.lines().filter_map(|line| line.trim().parse().ok()).collect();
        match pids[..] {
            [pid] => Ok(pid),
            _ => bail!("there are {} agents in pods on this machine", pids.len()),
        }
    }
}

/// What the pod of a Job has printed so far, by its file on the node.
pub fn printed(logs: &Path, job: &str) -> String {
    let start = format!("{NAMESPACE}_{job}-");
    let of = |dir: &Path| std::fs::read_dir(dir).map(|all| all.flatten().map(|one| one.path()).collect::<Vec<_>>());
    let pods = of(logs).unwrap_or_default();
    let mine = pods.iter().filter(|pod| pod.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&start)));
    let containers = mine.flat_map(|pod| of(pod).unwrap_or_default());
    let files = containers.flat_map(|container| of(&container).unwrap_or_default());
    files.filter_map(|file| std::fs::read_to_string(file).ok()).collect()
}
