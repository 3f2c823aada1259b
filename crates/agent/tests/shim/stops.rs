//! Stopping: nothing of a command is left, whatever it does to stay.

use tombolo_core::sync::Outcome;
use tombolo_core::time::Millis;

use crate::site::{Site, is_alive, job, job_with, outputs};

/// The pids that a command has written to a file of its state directory.
fn pids(site: &Site) -> Vec<i32> {
    let file = site.dir.join("state/flights-1/train/pids");
    std::fs::read_to_string(file).unwrap().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_saves_its_state_is_checkpointed() {
    let mut site = Site::new();
    let script = "trap 'echo at 7 > $TOMBOLO_STATE/step; exit 75' TERM; echo waiting; while :; do sleep 0.01; done";
    site.start(&site.order(job(script)));
    site.line("waiting").await;
    site.stop();
    let finish = site.finish().await;
    assert_eq!(finish.outcome, Outcome::Checkpointed);
    let state = finish.state.unwrap();
    assert_eq!(site.files(state)["step"], "at 7\n");

    // Elsewhere it goes on from there.
    let mut other = Site::new();
    let dir = tempfile::tempdir().unwrap();
    site.store.materialize(state, dir.path(), &Default::default()).unwrap();
    let mut order = other.order(job_with("cp $TOMBOLO_STATE/step outputs/out/", outputs(&["out"])));
    order.state = Some(other.store.add_tree(dir.path(), &Default::default()).unwrap().version);
    other.start(&order);
    let finish = other.finish().await;
    assert_eq!(finish.outcome, Outcome::Succeeded, "{}", other.all_logs().await);
    assert_eq!(other.files(finish.outputs.values().next().unwrap().version)["step"], "at 7\n");
    // It has nothing to go on from any more, once its shim is done.
    other.shim_gone();
    assert!(!other.dir.join("state/flights-1/train").exists());
}

/// As when the machine shuts down, or a cluster's scheduler takes the place back: nobody has asked for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_is_not_ours_is_no_wish_to_stop() {
    let told = |script: &'static str| async move {
        let mut site = Site::new();
        site.start(&site.order(job(script)));
        site.line("waiting").await;
        let (shim, _) = site.placement().holder().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGTERM).unwrap();
        let finish = site.finish().await;
        (finish.outcome.clone(), finish.state.map(|state| site.files(state)["step"].clone()))
    };
    let saves = "trap 'echo at 7 > $TOMBOLO_STATE/step; exit 75' TERM; echo waiting; while :; do sleep 0.01; done";
    assert_eq!(told(saves).await, (Outcome::Checkpointed, Some("at 7\n".to_owned())));
    let (outcome, state) = told("echo at 3 > $TOMBOLO_STATE/step; echo waiting; exec sleep 100").await;
    assert!(matches!(outcome, Outcome::Evicted { .. }) && outcome.may_retry(), "{outcome}");
    assert_eq!(state.as_deref(), Some("at 3\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_ignores_sigterm_is_killed_after_its_grace() {
    let mut site = Site::new();
    let mut spec = job("trap '' TERM; echo $$ > $TOMBOLO_STATE/pids; echo waiting; while :; do sleep 0.01; done");
    spec.grace = Millis(200);
    site.start(&site.order(spec));
    site.line("waiting").await;
    let began = std::time::Instant::now();
    site.stop();
    let finish = site.finish().await;
    assert_eq!(finish.outcome, Outcome::Stopped);
    assert!(began.elapsed().as_millis() >= 200);
    assert!(!is_alive(pids(&site)[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_with_0_after_sigterm_counts_if_the_outputs_are_there() {
    for (before, expected) in [("true", Outcome::Stopped), ("echo done > outputs/out/file", Outcome::Succeeded)] {
        let mut site = Site::new();
        let script = format!("trap '{before}; exit 0' TERM; echo waiting; while :; do sleep 0.01; done");
        site.start(&site.order(job_with(&script, outputs(&["out"]))));
        site.line("waiting").await;
        site.stop();
        assert_eq!(site.finish().await.outcome, expected, "{before}");
    }
}

/// Two processes that have left the command's process group, session and parent; one also clears its environment.
const DAEMONS: &str = "cat > d.sh <<'END'\n\
    echo $$ >> $1; echo daemon up; trap '' TERM HUP; while :; do sleep 0.01; done\nEND\n\
    (setsid sh d.sh $TOMBOLO_STATE/pids &) ; (env -i setsid sh d.sh $TOMBOLO_STATE/pids &); \
    while [ $(cat $TOMBOLO_STATE/pids 2>/dev/null | wc -l) -lt 2 ]; do sleep 0.01; done;";

#[tokio::test(flavor = "multi_thread")]
async fn daemons_don_t_outlive_a_command_that_ends() {
    let mut site = Site::new();
    let finish = site.run(job(&format!("{DAEMONS} exit 5"))).await;
    assert_eq!(finish.outcome, Outcome::Failed { code: 5 });
    let pids = pids(&site);
    assert_eq!(pids.len(), 2);
    assert!(pids.iter().all(|&pid| tombolo_agent::shim::process::stat(pid).is_none()), "{pids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn daemons_don_t_outlive_a_command_that_is_stopped() {
    let mut site = Site::new();
    site.start(&site.order(job(&format!("{DAEMONS} echo both up; sleep 1000"))));
    site.line("both up").await;
    site.stop();
    assert_eq!(site.finish().await.outcome, Outcome::Stopped);
    let pids = pids(&site);
    assert!(pids.len() == 2 && pids.iter().all(|&pid| !is_alive(pid)), "{pids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn daemons_don_t_outlive_a_shim_that_is_killed() {
    let mut site = Site::new();
    site.start(&site.order(job(&format!("{DAEMONS} echo $$ >> $TOMBOLO_STATE/pids; echo both up; sleep 1000"))));
    site.line("both up").await;
    let with_groups = !site.placement().progress().unwrap().launched.unwrap().cgroups.is_empty();
    let (shim, _) = site.placement().holder().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL).unwrap();
    let Outcome::Lost { why } = site.finish().await.outcome else { panic!() };
    assert!(why.contains("its shim was killed while the command ran"), "{why}");
    let pids = pids(&site);
    let alive: Vec<_> = pids.iter().copied().filter(|&pid| is_alive(pid)).collect();
    for &pid in &alive {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    // The one that has cleared its environment is found by its control group alone.
    let escape = usize::from(!with_groups);
    assert!(pids.len() == 3 && alive.len() <= escape, "{alive:?} of {pids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_before_the_start_starts_nothing() {
    let mut site = Site::new();
    std::fs::create_dir_all(site.placement().dir()).unwrap();
    site.stop();
    let finish = site.run(job("echo it runs > $TOMBOLO_STATE/ran")).await;
    assert_eq!((finish.outcome, finish.ran), (Outcome::Stopped, None));
    assert!(!site.dir.join("state/flights-1/train/ran").exists());
}

/// Nobody is there to stop it: the site is silent, and the shim has to hold itself to the lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_a_command_without_an_agent() {
    let lease = tombolo_agent::lease::path;
    let mut site = Site::new();
    tombolo_agent::lease::renew(&lease(&site.dir), tombolo_agent::lease::since_boot()).unwrap();
    let mut spec = job("echo waiting; while :; do sleep 0.01; done");
    spec.failover_after = Some(Millis(1_500));
    site.start(&site.order(spec.clone()));
    site.line("waiting").await;
    assert_eq!(site.finish().await.outcome, Outcome::Stopped);
    assert!(tombolo_agent::lease::silence(&lease(&site.dir)) >= Millis(1_500));

    // And what comes late is not started at all.
    let mut late = Site::new();
    let silent = tombolo_agent::lease::since_boot().saturating_sub(60_000);
    tombolo_agent::lease::renew(&lease(&late.dir), silent).unwrap();
    let finish = late.run(spec).await;
    assert_eq!((finish.outcome, finish.ran), (Outcome::Stopped, None));
}
