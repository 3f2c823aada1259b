//! A Kubernetes cluster as a site, against the real one: the same projects and verbs, and what happens behind our back.

mod chart;
mod cluster;
mod outside;
mod resources;

use std::fs;
use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::flights;
use super::sameness;
use super::slurm::cluster::Cluster as Slurm;
use super::world::{SOON, World, left_out, may_install, wait, workload};
use cluster::Cluster;

/// After its API server was away the cluster itself takes more than a minute to be what it was.
const AFTER_AN_OUTAGE: Duration = Duration::from_secs(240);

/// A world on this machine, with a namespace of the cluster as one of its sites.
struct Clustered {
    world: World,
    cluster: Cluster,
    site: String,
}

impl Deref for Clustered {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

/// The cluster as the site `cloud`; nothing where there is none.
fn world(test: &str) -> Option<Clustered> {
    world_with(test, "cloud", &[])
}

fn world_with(test: &str, site: &str, facts: &[&str]) -> Option<Clustered> {
    let cluster = match Cluster::of(test) {
        Ok(cluster) => cluster,
        Err(why) => {
            left_out(&why);
            return None;
        }
    };
    let mut world = World::start_at(cluster.host(), cluster.env());
    let marks = world.share_marks();
    // The marks are no volume of a production cluster's.
    let mount = json!({"path": marks, "volume": {"hostPath": {"path": marks}}});
    let kubernetes = json!({"pull_policy": "Never", "mounts": [mount]});
    let clustered = Clustered { world, cluster, site: site.to_owned() };
    clustered.install(&json!({"kubernetes": kubernetes}), facts);
    Some(clustered)
}

impl Clustered {
    fn wait_mark_line(&self, line: &str) {
        wait(SOON, "it runs", || fs::read_to_string(self.marks()).ok()?.lines().any(|one| one == line).then_some(()));
    }

    fn install(&self, file: &Value, facts: &[&str]) {
        let path = self.path("site.yaml");
        fs::write(&path, file.to_string()).unwrap();
        let (namespace, file) = (self.cluster.namespace.as_str(), path.display().to_string());
        let args = ["site", "add", &self.site, "--kubernetes", "--namespace", namespace, "--storage-class", namespace];
        let cpus = ["--site-file", &file, "--cpus", "8", "--memory", "8GiB"];
        let mut command = self.program();
        command.args(args).args(cpus).args(facts).envs(self.cluster.env());
        let done = self.finish(command, "");
        assert_eq!(done.code, 0, "{done}");
        self.wait_site(&self.site, "up");
    }

    fn note(&self, run: &str, stage: &str) -> String {
        let view = self.try_json(&["ps", run]).map(|view| workload(&view[0], stage)).unwrap_or(Value::Null);
        view["why"].as_str().unwrap_or_default().to_owned()
    }

    fn wait_note(&self, run: &str, stage: &str, words: &str) -> String {
        wait(SOON, &format!("{run}/{stage} says {words:?}"), || {
            Some(self.note(run, stage)).filter(|note| note.contains(words))
        })
    }
}

/// The same project, but for the site's name, gives the same bytes at a host and at a cluster; what is printed and how it
/// ends are the same. The namespace takes only what the restricted profile allows.
#[test]
fn a_project_runs_as_it_does_on_a_host() {
    let cluster = match Cluster::of("sameness") {
        Ok(cluster) => cluster,
        Err(why) => return left_out(&why),
    };
    cluster.ok(&["label", "namespace", "sameness", "pod-security.kubernetes.io/enforce=restricted"]);
    let mut world = World::start_at(cluster.host(), cluster.env());
    world.join("lab", &[]);
    let clustered = Clustered { world, cluster, site: "cloud".to_owned() };
    clustered.install(&json!({"kubernetes": {"pull_policy": "Never"}}), &[]);
    sameness::check(&clustered, "lab", "cloud");
    let pods = clustered.cluster.pods();
    assert!(pods.iter().any(|(name, _)| name.starts_with("cloud-1-make-1-")), "{pods:?}");
}

/// The flights example without a changed line, at a host, a Kubernetes and a Slurm: the training runs at the one and, when
/// that is closed, at the other, and what comes out is the same to the byte.
#[test]
fn flights_run_as_they_are_at_three_kinds_of_sites() {
    if std::env::var_os(cluster::VARIABLE).is_some() && !may_install() {
        return left_out("the flights example installs Python packages; TOMBOLO_E2E=1 runs it");
    }
    let (cluster, slurm) = match (Cluster::of("flights"), Slurm::start()) {
        (Ok(cluster), Ok(slurm)) => (cluster, slurm),
        (Err(why), _) | (_, Err(why)) => return left_out(&why),
    };
    let mut world = World::start_at(cluster.host(), [cluster.env(), slurm.env()].concat());
    let shared = world.share_marks();
    // What packages are signed with here, and the way to them.
    let authorities =
        std::env::var("SSL_CERT_FILE").unwrap_or_else(|_| "/etc/ssl/certs/ca-certificates.crt".to_owned());
    let trusted = shared.join("authorities.pem");
    fs::copy(authorities, &trusted).unwrap();
    let proxy = format!("http://{}", outside::proxy(cluster.host()));
    let env = json!({"HTTPS_PROXY": proxy, "SSL_CERT_FILE": trusted, "PIP_CERT": trusted});
    let mount = json!({"path": shared, "volume": {"hostPath": {"path": shared}}});
    let public = ["--label", "visibility=public", "--price"];
    world.join("onprem", &["--label", "visibility=private", "--price", "cpu_hour=0.12"]);
    let dir = world.site_dir("prod").display().to_string();
    world.add("prod", &[&["--slurm", "--partition", "main", "--dir", &dir], &public[..], &["cpu_hour=0.10"]].concat());
    let clustered = Clustered { world, cluster, site: "cloud".to_owned() };
    let file = json!({"kubernetes": {"pull_policy": "Never", "env": env, "mounts": [mount]}});
    clustered.install(&file, &[&public[..], &["cpu_hour=0.04"]].concat());
    let dir = clustered.path("projects").join("flights");
    flights::copy(Path::new(flights::EXAMPLE), &dir);
    let (at, made) = flights::trained(&clustered, &dir);
    assert_eq!(at, "cloud");
    clustered.ok(&["site", "set", "cloud", "--draining", "true"]);
    let (at, again) = flights::trained(&clustered, &dir);
    assert_eq!(at, "prod");
    assert_eq!(made, again);
}

/// From a host to the cluster, from there to a Slurm, and back to the host: a service under load, and a job.
#[test]
fn services_and_jobs_go_round_a_host_a_cluster_and_slurm() {
    let (cluster, slurm) = match (Cluster::of("round"), Slurm::start()) {
        (Ok(cluster), Ok(slurm)) => (cluster, slurm),
        (Err(why), _) | (_, Err(why)) => return left_out(&why),
    };
    let mut world = World::start_at(cluster.host(), [cluster.env(), slurm.env()].concat());
    let shared = world.share_marks();
    world.join("here", &[]);
    let dir = world.site_dir("yonder").display().to_string();
    world.add("yonder", &["--slurm", "--partition", "main", "--dir", &dir]);
    let clustered = Clustered { world, cluster, site: "there".to_owned() };
    let mount = json!({"path": shared, "volume": {"hostPath": {"path": shared}}});
    clustered.install(&json!({"kubernetes": {"pull_policy": "Never", "mounts": [mount]}}), &[]);
    super::gateway::switches_to(&clustered, &["there", "yonder", "here", "yonder", "there", "here"]);
    clustered.ok(&["stop", "serving-1"]);
    super::moves::round(&clustered, &["there", "yonder", "here"]);
}

#[test]
fn a_single_service_moves_to_a_cluster_and_back() {
    let Some(mut clustered) = world_with("single", "there", &[]) else { return };
    clustered.world.join("here", &[]);
    super::gateway::single_moves(&clustered);
}

/// What the cluster has no room or no leave for waits, and `ps` says so in the cluster's words; one that waits can be
/// stopped, and never runs.
#[test]
fn what_waits_says_why_and_can_be_stopped() {
    let Some(mut clustered) = world("waits") else { return };
    clustered.world.join("lab", &[]);
    let yaml = |project: &str, more: &str| {
        format!("project: {project}\nstages:\n  x: {{run: 'echo x $TOMBOLO_RUN >> $MARKS', site: cloud{more}}}\n")
    };
    let submit = |project: &str, more: &str| clustered.submit(&clustered.project(project, &yaml(project, more), &[]));
    // More than the node has, though the site says that it has so much.
    let wide = submit("wide", ", resources: {cpus: 7}");
    let said = clustered.wait_note(&wide, "x", "no node takes its pod");
    assert!(said.contains("Insufficient cpu"), "{said}");
    clustered.ok(&["stop", &wide]);
    clustered.wait_run(&wide, &["stopped"]);
    // A quota that the agent alone uses up.
    let quota = |pods: usize| json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": pods.to_string()}}});
    clustered.cluster.apply(&quota(1));
    wait(SOON, "the quota is counted", || {
        (clustered.cluster.say(&["get", "resourcequota", "q", "--output=jsonpath={.status.used.pods}"]) == "1")
            .then_some(())
    });
    let run = submit("held", "");
    clustered.wait_note(&run, "x", "exceeded quota");
    clustered.cluster.apply(&quota(5));
    // A Job's controller tries again ever later, up to minutes.
    clustered.wait_run_within(SOON * 4, &run, &["succeeded"]);
    assert_eq!(clustered.marks_of("x"), ["held-1"]);
}

/// An image that isn't there is said so at once, by its name; one that is has the workload run in it.
#[test]
fn images_are_those_that_are_asked_for() {
    let Some(mut clustered) = world("images") else { return };
    clustered.world.join("lab", &[]);
    let yaml = "project: j\nstages:\n  x: {run: 'true', site: cloud, image: 'example.test/none:1'}\n";
    let view = clustered.wait_run(&clustered.submit(&clustered.project("j", yaml, &[])), &["failed"]);
    let why = workload(&view, "x")["why"].as_str().unwrap_or_default().to_owned();
    assert!(why.contains("example.test/none:1") && why.contains("hint:"), "{why}");
    // Nothing of it is left to be tried again.
    wait(SOON, "its Job is gone", || clustered.cluster.say(&["get", "jobs", "--output=name"]).is_empty().then_some(()));
    let named = format!("tombolo:{}", env!("CARGO_PKG_VERSION"));
    let yaml = format!(
        "project: k\nstages:\n  x: {{run: 'grep -q bookworm /etc/os-release', site: cloud, image: '{named}'}}\n"
    );
    clustered.wait_run(&clustered.submit(&clustered.project("k", &yaml, &[])), &["succeeded"]);
}

/// Accelerators are the cluster's extended resources: what has none waits, in the cluster's words, though the site says that
/// it has more.
#[test]
fn accelerators_are_extended_resources() {
    let cluster = match Cluster::of("gpus") {
        Ok(cluster) => cluster,
        Err(why) => return left_out(&why),
    };
    // As a device plugin tells it, of a device that isn't there.
    let one = r#"[{"op": "add", "path": "/status/capacity/example.test~1gpu", "value": "1"}]"#;
    cluster.ok(&["patch", "node", "node", "--subresource=status", "--type=json", &format!("--patch={one}")]);
    cluster.ok(&["label", "node", "node", "gpu=a100", "--overwrite"]);
    let mut world = World::start_at(cluster.host(), cluster.env());
    let marks = world.share_marks();
    world.join("lab", &[]);
    let mount = json!({"path": marks, "volume": {"hostPath": {"path": marks}}});
    let a100 = json!({"resource": "example.test/gpu", "node_selector": {"gpu": "a100"}});
    let kubernetes = json!({"pull_policy": "Never", "mounts": [mount], "accelerators": {"a100": a100}});
    let clustered = Clustered { world, cluster, site: "cloud".to_owned() };
    clustered.install(&json!({"gpus": {"a100": 2}, "kubernetes": kubernetes}), &[]);
    let submit = |project: &str| {
        let run = "echo x $TOMBOLO_RUN >> $MARKS; while ! test -e $(dirname $MARKS)/go; do sleep 0.1; done";
        let yaml = format!("project: {project}\nstages:\n  x: {{run: '{run}', resources: {{gpus: {{a100: 1}}}}}}\n");
        clustered.submit(&clustered.project(project, &yaml, &[]))
    };
    let first = submit("g");
    clustered.wait_mark_line("x g-1");
    let pod = clustered.cluster.wait_pod("g-1-x-1-", "Running");
    let asked = "--output=jsonpath={.spec.containers[0].resources.limits.example\\.test/gpu} {.spec.nodeSelector.gpu}";
    assert_eq!(clustered.cluster.say(&["get", "pod", &pod, asked]), "1 a100");
    let second = submit("h");
    clustered.wait_note(&second, "x", "Insufficient example.test/gpu");
    clustered.let_go("go");
    for run in [first, second] {
        clustered.wait_run_within(SOON * 2, &run, &["succeeded"]);
    }
}

/// Killed while fifty jobs run and wait: all are found again, each runs once.
#[test]
fn an_agent_that_comes_back_finds_fifty_jobs() {
    let Some(mut clustered) = world("fifty") else { return };
    clustered.world.join("lab", &[]);
    let stage = |n: usize| {
        format!("  s{n}: {{run: 'echo s{n} ran >> $MARKS; sleep 1', site: cloud, resources: {{cpus: 0.1}}}}\n")
    };
    let yaml = format!("project: many\nstages:\n{}", (0..50).map(stage).collect::<String>());
    let run = clustered.submit(&clustered.project("many", &yaml, &[]));
    let marks = || fs::read_to_string(clustered.marks()).unwrap_or_default();
    wait(SOON, "some have run", || (marks().lines().count() > 5).then_some(()));
    clustered.cluster.ok(&[
        "delete",
        "pods",
        "--selector=app.kubernetes.io/name=tombolo",
        "--grace-period=0",
        "--force",
    ]);
    let view = clustered.wait_run_within(SOON * 5, &run, &["succeeded", "failed"]);
    assert_eq!(view["state"], "succeeded", "{view:#}\n{}", clustered.logs());
    let all = marks();
    let mut different: Vec<&str> = all.lines().collect();
    different.sort_unstable();
    different.dedup();
    assert_eq!((different.len(), all.lines().count()), (50, 50), "each runs once");
}

/// A pod that is deleted, or evicted by a drain of its node, is no failure of the stage: it is run again, and its end is
/// told for what it was. One that takes more memory than it has asked for is.
#[test]
fn ends_behind_our_back_are_told_apart() {
    let Some(mut clustered) = world("ends") else { return };
    clustered.world.join("lab", &[]);
    let cluster = &clustered.cluster;
    let yaml = |project: &str| {
        format!(
            "project: {project}\nstages:\n  x: {{run: 'echo x $TOMBOLO_RUN >> $MARKS; test $TOMBOLO_EPOCH -gt 1 || sleep 600', site: cloud}}\n"
        )
    };
    let first_outcome =
        |view: &Value| workload(view, "x")["attempts"][0]["outcome"].as_str().unwrap_or_default().to_owned();
    let run = clustered.submit(&clustered.project("c", &yaml("c"), &[]));
    clustered.wait_mark("x", 1);
    let pod = cluster.wait_pod("c-1-x-1-", "Running");
    cluster.ok(&["delete", "pod", &pod, "--wait=false"]);
    let view = clustered.wait_run(&run, &["succeeded", "failed"]);
    assert_eq!(view["state"], "succeeded", "{view:#}");
    assert!(first_outcome(&view).contains("ended by its site"), "{view:#}");

    let run = clustered.submit(&clustered.project("d", &yaml("d"), &[]));
    clustered.wait_mark("x", 3);
    cluster.wait_pod("d-1-x-1-", "Running");
    // Of this run alone: the agent is on the same node.
    let its = "--pod-selector=tombolo.dev/run=d-1";
    cluster.ok(&["drain", "node", its, "--ignore-daemonsets", "--delete-emptydir-data", "--disable-eviction=false"]);
    clustered.wait_note(&run, "x", "no node takes its pod");
    cluster.ok(&["uncordon", "node"]);
    let view = clustered.wait_run(&run, &["succeeded", "failed"]);
    assert_eq!(view["state"], "succeeded", "{view:#}");
    assert!(first_outcome(&view).contains("ended by its site"), "{view:#}");

    let hungry = "python3 -c \"b=bytearray(700<<20)\"";
    let yaml = format!("project: m\nstages:\n  x: {{run: {hungry:?}, site: cloud, resources: {{memory: 100MB}}}}\n");
    let view = clustered.wait_run(&clustered.submit(&clustered.project("m", &yaml, &[])), &["failed"]);
    let why = workload(&view, "x")["why"].as_str().unwrap_or_default().to_owned();
    assert!(why.contains("memory"), "{why}");
}

/// What runs goes on and ends without the cluster's API server, what is to start waits for it; a namespace that somebody
/// deletes is a site that is heard of no more.
#[test]
fn without_an_api_server_all_goes_on_and_without_a_namespace_nothing() {
    let Some(mut clustered) = world("away") else { return };
    clustered.world.join("lab", &[]);
    let yaml = "project: d\nstages:\n  x: {run: 'echo x >> $MARKS; while ! test -e $(dirname $MARKS)/go; do sleep 0.1; done', site: cloud}\n";
    let running = clustered.submit(&clustered.project("d", yaml, &[]));
    clustered.wait_mark_line("x");
    clustered.cluster.component("apiserver", "stop");
    let late = clustered.submit(&clustered.project("e", "project: e\nstages:\n  y: {run: 'true', site: cloud}\n", &[]));
    clustered.wait_note(&late, "y", "takes no Job now");
    // Its end needs no API server.
    clustered.let_go("go");
    clustered.wait_run(&running, &["succeeded"]);
    std::thread::sleep(SOON);
    clustered.cluster.component("apiserver", "start");
    clustered.wait_run_within(AFTER_AN_OUTAGE, &late, &["succeeded"]);
    assert_eq!(fs::read_to_string(clustered.marks()).unwrap(), "x\n");
    clustered.cluster.ok(&["delete", "namespace", "away", "--wait=false"]);
    clustered.wait_site("cloud", "unreachable");
}
