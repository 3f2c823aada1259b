//! Agents and shims that die, and disks that are full.

use std::collections::BTreeMap;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tombolo_core::ids::Epoch;
use tombolo_core::journal::Found;
use tombolo_core::sync::{Outcome, Phase};

use crate::site::{Site, job, job_with, outputs, workload};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn an_agent_that_starts_again_finds_what_runs() {
    let temp = tempfile::tempdir().unwrap();
    let before = runtime();
    let pid = before.block_on(async {
        let mut site = Site::at(temp.path());
        site.start(&site.order(job_with("mkfifo go; echo up; read x < go; cp go2 outputs/out/", outputs(&["out"]))));
        site.running().await;
        site.line("up").await;
        site.placement().holder().unwrap().0
    });
    // The agent is gone, with all its tasks.
    before.shutdown_background();

    runtime().block_on(async {
        let mut site = Site::at(temp.path());
        assert_eq!(site.driver.find(&workload(), Epoch(1)), Found::Alive);
        site.driver.watch(&workload(), Epoch(1));
        site.running().await;
        assert_eq!(site.placement().holder().unwrap().0, pid);
        std::fs::write(site.placement().code_dir().join("go2"), "made after").unwrap();
        std::fs::write(site.placement().code_dir().join("go"), "\n").unwrap();
        let finish = site.finish().await;
        assert_eq!(finish.outcome, Outcome::Succeeded, "{}", site.all_logs().await);
        assert_eq!(site.files(finish.outputs.values().next().unwrap().version)["go2"], "made after");
    });
}

#[test]
fn what_ended_while_the_agent_was_away_is_found() {
    let temp = tempfile::tempdir().unwrap();
    let before = runtime();
    let fifo = before.block_on(async {
        let mut site = Site::at(temp.path());
        site.start(&site.order(job("mkfifo go; echo up; read x < go; exit 6")));
        site.running().await;
        site.line("up").await;
        site.placement().code_dir().join("go")
    });
    before.shutdown_background();
    std::fs::write(fifo, "\n").unwrap();
    runtime().block_on(async {
        let site = Site::at(temp.path());
        // A follower's log ends with the placement.
        let query = tombolo_agent::logs::LogQuery { follow: true, ..Default::default() };
        site.log(query).await;
        let Found::Ended(finish) = site.driver.find(&workload(), Epoch(1)) else { panic!() };
        assert_eq!(finish.outcome, Outcome::Failed { code: 6 });
    });
}

#[test]
fn a_shim_that_died_while_the_agent_was_away_has_vanished_with_its_command() {
    let temp = tempfile::tempdir().unwrap();
    let before = runtime();
    let (shim, command) = before.block_on(async {
        let mut site = Site::at(temp.path());
        site.start(&site.order(job("echo up; trap '' TERM; while :; do sleep 0.01; done")));
        site.running().await;
        site.line("up").await;
        (site.placement().holder().unwrap().0, site.placement().progress().unwrap().running.unwrap().1)
    });
    before.shutdown_background();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL).unwrap();
    // It is a child of this process, so that its end can be waited for.
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(shim), None).ok();
    runtime().block_on(async {
        let site = Site::at(temp.path());
        assert_eq!(site.driver.find(&workload(), Epoch(1)), Found::Vanished);
        assert!(!crate::site::is_alive(command));
        // Asked again, it says how it ended.
        let Found::Ended(finish) = site.driver.find(&workload(), Epoch(1)) else { panic!() };
        assert!(matches!(finish.outcome, Outcome::Lost { .. }));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_shims_one_runs_the_command() {
    let mut site = Site::new();
    let order = site.order(job("echo once >> $TOMBOLO_STATE/count; exit 1"));
    site.start(&order);
    let mut others = Vec::new();
    for _ in 0..4 {
        let mut shim = std::process::Command::new(std::env::current_exe().unwrap());
        shim.args(crate::site::SHIM_ARGS).arg(site.placement().dir()).stdin(std::process::Stdio::null());
        shim.stdout(std::process::Stdio::null());
        others.push(shim.spawn().unwrap());
    }
    let finish = site.finish().await;
    assert_eq!(finish.outcome, Outcome::Failed { code: 1 });
    for mut other in others {
        assert!(other.wait().unwrap().success());
    }
    assert_eq!(site.files(finish.state.unwrap())["count"], "once\n");
    // Nor does one that comes later.
    site.driver.start(&workload(), Epoch(1), &order, &BTreeMap::new()).unwrap();
    site.finish().await;
    assert_eq!(std::fs::read_to_string(site.dir.join("state/flights-1/train/count")).unwrap(), "once\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_started_is_nothing_and_can_be_started() {
    let mut site = Site::new();
    assert_eq!(site.driver.find(&workload(), Epoch(1)), Found::Nothing);
    site.driver.stop(&workload(), Epoch(1));
    site.driver.watch(&workload(), Epoch(1));
    assert_eq!(site.run(job("true")).await.outcome, Outcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_can_t_work_is_given_up_with_what_it_said() {
    let site = Site::new();
    let (sender, mut seen) = tokio::sync::mpsc::channel(10);
    let broken = ["/bin/sh", "-c", "echo it is broken >&2; exit 1"].map(Into::into).to_vec();
    let driver = tombolo_agent::driver::Driver::new(
        "onprem".parse().unwrap(),
        &site.dir,
        None,
        tombolo_agent::driver::Launcher::Process(broken),
        sender,
    );
    driver.start(&workload(), Epoch(1), &site.order(job("true")), &BTreeMap::new()).unwrap();
    let (_, _, Phase::Finished(finish)) = seen.recv().await.unwrap() else { panic!() };
    let Outcome::Unprepared { why } = finish.outcome else { panic!("{finish:?}") };
    assert!(why.contains("it is broken"), "{why}");
    assert_eq!(std::fs::read_to_string(site.placement().shim_err()).unwrap().lines().count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_apart() {
    let temp = tempfile::tempdir().unwrap();
    let store = temp.path().join("store");
    std::fs::create_dir(&store).unwrap();
    if let Err(error) = mount(Some("tmpfs"), &store, Some("tmpfs"), MsFlags::empty(), Some("size=1m")) {
        eprintln!("SKIPPED: a small file system can't be mounted here: {error}");
        return;
    }
    let mut site = Site::at(temp.path());
    let finish = site.run(job_with("head -c 4000000 /dev/urandom > outputs/out/file", outputs(&["out"]))).await;
    let log = site.all_logs().await;
    drop(site);
    umount2(&store, MntFlags::MNT_DETACH).unwrap();
    let Outcome::NoSpace { why } = finish.outcome else { panic!("{finish:?}\n{log}") };
    assert!(why.contains("the output out can't be kept"), "{why}");
}
