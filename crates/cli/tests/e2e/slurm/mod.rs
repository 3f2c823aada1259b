//! A Slurm cluster as a site, against the real one: the same projects and verbs, and what happens behind our back.

pub(super) mod cluster;

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::flights;
use super::sameness;
use super::world::{SOON, World, left_out, may_install, wait, workload};
use cluster::Cluster;

/// A world with the cluster as its site `hpc`; nothing where there can't be one here.
fn world() -> Option<(Cluster, World)> {
    world_with("hpc", &[])
}

fn world_with(site: &str, facts: &[&str]) -> Option<(Cluster, World)> {
    let cluster = match Cluster::start() {
        Ok(cluster) => cluster,
        Err(why) => {
            left_out(&why);
            return None;
        }
    };
    let mut world = World::start_with_env(cluster.env());
    let dir = world.site_dir(site).display().to_string();
    world.add(site, &[&["--slurm", "--partition", "main", "--dir", &dir], facts].concat());
    Some((cluster, world))
}

fn note(world: &World, run: &str, stage: &str) -> String {
    let view = world.try_json(&["ps", run]).map(|view| workload(&view[0], stage)).unwrap_or(Value::Null);
    view["why"].as_str().unwrap_or_default().to_owned()
}

/// The same project, but for the site's name, gives the same bytes at a host and at a cluster; what is printed and how it
/// ends are the same.
#[test]
fn a_project_runs_as_it_does_on_a_host() {
    let Some((cluster, mut world)) = world() else { return };
    world.join("lab", &[]);
    let sites = world.json(&["site", "show", "hpc"]);
    assert_eq!(sites["site"]["capacity"]["cpus_milli"], 4000, "{sites:#}");
    sameness::check(&world, "lab", "hpc");
    assert!(cluster.jobs().iter().any(|(_, _, name)| name == "tombolo:hpc:hpc-1/make.1"), "{:?}", cluster.jobs());
}

/// The flights example without a changed line, with the cluster as its cheapest site; and, to the byte, the same without
/// the cluster.
#[test]
fn flights_run_as_they_are_with_a_cluster_among_the_sites() {
    if !may_install() {
        return left_out("the flights example installs Python packages; TOMBOLO_E2E=1 runs it");
    }
    let public = ["--label", "visibility=public", "--price"];
    let Some((cluster, mut world)) = world_with("cloud", &[&public[..], &["cpu_hour=0.04"]].concat()) else { return };
    world.join("onprem", &["--label", "visibility=private", "--price", "cpu_hour=0.12"]);
    world.join("prod", &[&public[..], &["cpu_hour=0.10"]].concat());
    let dir = world.path("projects").join("flights");
    flights::copy(Path::new(flights::EXAMPLE), &dir);
    let (at, made) = flights::trained(&world, &dir);
    assert_eq!(at, "cloud");
    assert!(
        cluster.jobs().iter().any(|(_, _, name)| name == "tombolo:cloud:flights-1/train.1"),
        "{:?}",
        cluster.jobs()
    );
    world.ok(&["site", "set", "cloud", "--draining", "true"]);
    let (at, again) = flights::trained(&world, &dir);
    assert_ne!(at, "cloud");
    assert_eq!(made, again);
}

/// A service answers through the gateway, and goes when it is told to.
#[test]
fn a_service_serves_and_is_stopped() {
    let Some((cluster, world)) = world() else { return };
    let yaml = "project: s\nservices:\n  web: {run: 'exec python3 -m http.server $PORT', ready: /, access: public, site: hpc}\n";
    let run = world.submit(&world.project("s", yaml, &[("hello.txt", "hello from a node")]));
    let view = world.wait_stage(&run, "web", &["ready"]);
    let url = view["urls"][0]["url"].as_str().unwrap_or_else(|| panic!("{view:#}")).to_owned();
    let output =
        std::process::Command::new("curl").args(["-sS", "--max-time", "20"]).arg(format!("{url}hello.txt")).output();
    assert_eq!(String::from_utf8_lossy(&output.unwrap().stdout), "hello from a node", "{view:#}");
    world.ok(&["stop", &run]);
    world.wait_stage(&run, "web", &["stopped"]);
    wait(SOON, "its job is over", || {
        let live = |(_, state, _): &(String, String, String)| matches!(state.as_str(), "RUNNING" | "PENDING");
        (!cluster.jobs().iter().any(live)).then_some(())
    });
}

/// From a host to the cluster and back, under load: as between hosts.
#[test]
fn services_and_jobs_move_to_a_cluster_and_back() {
    let Some((_cluster, mut world)) = world_with("there", &[]) else { return };
    world.join("here", &[]);
    super::gateway::switches(&world);
    super::moves::there_and_back(&world);
}

/// Its job has a time limit, and another takes its place before: no request fails or is done twice.
#[test]
#[ignore = "waits for a time limit of Slurm's, a minute and a half: cargo test --workspace --test e2e its_time_limit -- --ignored"]
fn a_service_is_followed_before_its_time_limit() {
    let Some((_cluster, mut world)) = world_with("here", &["--sbatch=--time=3"]) else { return };
    world.join("there", &[]);
    super::gateway::is_followed(&world, SOON * 3);
}

#[test]
fn a_single_service_moves_to_a_cluster_and_back() {
    let Some((_cluster, mut world)) = world_with("there", &[]) else { return };
    world.join("here", &[]);
    super::gateway::single_moves(&world);
}

/// More than fits waits in Slurm's queue, and `ps` says so in Slurm's words; one that waits can be stopped, and never runs.
#[test]
fn what_waits_says_why_and_can_be_stopped() {
    let Some((cluster, world)) = world() else { return };
    // Somebody else has the cluster.
    let theirs =
        cluster.say("sbatch", &["--parsable", "--exclusive", "--nodes=2", "--output=/dev/null", "--wrap=sleep 600"]);
    wait(SOON, "theirs runs", || {
        cluster.jobs().iter().any(|(id, state, _)| *id == theirs && state == "RUNNING").then_some(())
    });
    let yaml =
        "project: w\nstages:\n  a: {run: 'echo a >> $MARKS', site: hpc}\n  b: {run: 'echo b >> $MARKS', site: hpc}\n";
    let (first, second) =
        (world.project("w", yaml, &[]), world.project("v", &yaml.replace("project: w", "project: v"), &[]));
    let (run, other) = (world.submit(&first), world.submit(&second));
    for stage in ["a", "b"] {
        let said = wait(SOON, "it waits", || Some(note(&world, &run, stage)).filter(|why| why.contains("Slurm")));
        assert!(said.contains("waits"), "{said}");
    }
    world.ok(&["stop", &other]);
    world.wait_run(&other, &["stopped"]);
    cluster.say("scancel", &[&theirs]);
    world.wait_run(&run, &["succeeded"]);
    // Nothing of the stopped run has run.
    assert_eq!((world.marks_of("a").len() + world.marks_of("b").len(), note(&world, &run, "a")), (0, String::new()));
    let marks = fs::read_to_string(world.path("marks")).unwrap();
    assert_eq!(marks.lines().count(), 2, "{marks}");
}

/// Killed while fifty jobs run and wait: all are found again, each runs once.
#[test]
fn an_agent_that_comes_back_finds_fifty_jobs() {
    let Some((_cluster, mut world)) = world() else { return };
    let stage =
        |n: usize| format!("  s{n}: {{run: 'echo s{n} ran >> $MARKS; sleep 1', site: hpc, resources: {{cpus: 1}}}}\n");
    let yaml = format!("project: many\nstages:\n{}", (0..50).map(stage).collect::<String>());
    let run = world.submit(&world.project("many", &yaml, &[]));
    wait(SOON, "some have run", || (fs::read_to_string(world.path("marks")).ok()?.lines().count() > 5).then_some(()));
    world.kill_agent("hpc");
    std::thread::sleep(std::time::Duration::from_secs(3));
    world.start_agent("hpc");
    let view = world.wait_run_within(SOON * 4, &run, &["succeeded", "failed"]);
    assert_eq!(view["state"], "succeeded", "{view:#}\n{}", world.logs());
    let mut marks: Vec<String> = fs::read_to_string(world.path("marks")).unwrap().lines().map(str::to_owned).collect();
    marks.sort();
    marks.dedup();
    let all = fs::read_to_string(world.path("marks")).unwrap().lines().count();
    assert_eq!((marks.len(), all), (50, 50), "each runs once");
}

/// A job that is cancelled behind our back is no failure of the stage: it is tried again, and its end is told for what it
/// was.
#[test]
fn a_job_that_is_cancelled_behind_our_back_is_run_again() {
    let Some((cluster, world)) = world() else { return };
    let yaml = "project: c\nstages:\n  x: {run: 'echo x $TOMBOLO_EPOCH >> $MARKS; test $TOMBOLO_EPOCH -gt 1 || sleep 600', site: hpc}\n";
    let run = world.submit(&world.project("c", yaml, &[]));
    let job = cluster.wait_job("c-1/x.1", "RUNNING");
    world.wait_mark("x", 1);
    cluster.say("scancel", &[&job]);
    let view = world.wait_run(&run, &["succeeded", "failed"]);
    let x = workload(&view, "x");
    let told = x["attempts"][0]["outcome"].as_str().unwrap_or_default().to_owned();
    assert!(told.contains("ended by its site"), "{x:#}");
    assert_eq!((view["state"].as_str(), world.marks_of("x").len()), (Some("succeeded"), 2), "{x:#}");
}

/// What Slurm refuses is told in its words; a controller that is away is waited for, and what runs goes on without it.
#[test]
fn refusals_are_told_and_a_controller_may_be_away() {
    let Some((mut cluster, world)) = world() else { return };
    let wide = "project: r\nstages:\n  x: {run: 'true', site: hpc, resources: {cpus: 3}}\n";
    let view = world.wait_run(&world.submit(&world.project("r", wide, &[])), &["failed"]);
    let why = workload(&view, "x")["why"].as_str().unwrap_or_default().to_owned();
    assert!(why.contains("Slurm refuses the job") && why.contains("hint:"), "{why}");
    let yaml = "project: d\nstages:\n  x: {run: 'echo x >> $MARKS; while ! test -e $(dirname $MARKS)/go; do sleep 0.1; done', site: hpc}\n";
    let running = world.submit(&world.project("d", yaml, &[]));
    cluster.wait_job("d-1/x.1", "RUNNING");
    wait(SOON, "it runs", || world.path("marks").exists().then_some(()));
    cluster.stop_controller();
    let late = world.submit(&world.project("e", "project: e\nstages:\n  y: {run: 'true', site: hpc}\n", &[]));
    let said = wait(SOON, "it waits for Slurm", || Some(note(&world, &late, "y")).filter(|why| why.contains("Slurm")));
    assert!(said.contains("takes no job now"), "{said}");
    // Its end needs no controller.
    world.let_go("go");
    world.wait_run(&running, &["succeeded"]);
    cluster.start_controller();
    world.wait_run_within(SOON * 2, &late, &["succeeded"]);
    assert_eq!(fs::read_to_string(world.path("marks")).unwrap(), "x\n");
}
