//! kill -9 of the control plane, of agents and of shims, and a control plane that is away: what ran goes on, nothing
//! runs twice at once, and what comes out is what would have come out anyway.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::world::{World, draws, kill_pid, outputs, states, wait, workload};

const SITES: [(&str, &[&str]); 2] = [("a", &[]), ("b", &[])];
/// Rounds of kills, and the seed they are drawn from unless `TOMBOLO_E2E_SEED` names another.
const ROUNDS: usize = 8;
const SEED: u64 = 7;

/// Three stages, the middle one waiting until it is let go.
fn held(world: &World) -> String {
    let go = world.path("go").display().to_string();
    let yaml = format!(
        "
project: held
stages:
  before: {{ run: 'echo \"before $TOMBOLO_EPOCH\" >> $MARKS; echo 1 > outputs/one/n', out: [one], site: a }}
  middle:
    run: 'echo \"middle $TOMBOLO_EPOCH\" >> $MARKS; until test -e {go}; do sleep 0.05; done; echo \"done $TOMBOLO_EPOCH\" >> $MARKS; cp inputs/one/n outputs/two/'
    in: [one]
    out: [two]
    site: b
  after: {{ run: 'echo \"after $TOMBOLO_EPOCH\" >> $MARKS; cp inputs/two/n outputs/three/', in: [two], out: [three], site: a }}
"
    );
    let dir = world.project("held", &yaml, &[]);
    let run = world.submit(&dir);
    world.wait_mark("middle", 1);
    run
}

fn ended_right(world: &World, run: &str, middle: &[&str]) -> Value {
    let view = world.wait_run(run, &["succeeded", "failed", "stopped"]);
    assert_eq!(states(&view), "after succeeded, before succeeded, middle succeeded", "{view:#}\n{}", world.logs());
    assert_eq!(world.marks_of("before"), ["1"]);
    assert_eq!(world.marks_of("middle"), middle);
    assert_eq!(world.marks_of("done"), middle[middle.len() - 1..], "only the last epoch came to its end");
    assert_eq!(world.marks_of("after"), ["1"]);
    view
}

#[test]
fn the_control_plane_is_killed_and_started_again() {
    let mut world = World::with_sites(&SITES);
    let run = held(&world);
    world.kill_server();
    world.start_server();
    world.wait_site("b", "up");
    assert_eq!(world.view(&run)["state"], "active", "what was acknowledged is there");
    world.let_go("go");
    let view = ended_right(&world, &run, &["1"]);
    assert_eq!(workload(&view, "middle")["attempts"].as_array().unwrap().len(), 1);
}

#[test]
fn a_job_ends_while_the_control_plane_is_away() {
    let mut world = World::with_sites(&SITES);
    let run = held(&world);
    world.kill_server();
    world.let_go("go");
    world.wait_mark("done", 1);
    // Its site is still at it or done; nobody has taken note yet. The rest waits for the control plane.
    wait(Duration::from_secs(30), "the shim has ended", || world.shims(" shim ").is_empty().then_some(()));
    assert!(world.marks_of("after").is_empty());
    world.start_server();
    let view = ended_right(&world, &run, &["1"]);
    assert_eq!(workload(&view, "middle")["attempts"].as_array().unwrap().len(), 1);
}

#[test]
fn an_agent_is_killed_and_finds_its_stage_again() {
    let mut world = World::with_sites(&SITES);
    let run = held(&world);
    world.kill_agent("b");
    world.start_agent("b");
    wait(Duration::from_secs(30), "the agent runs again", || {
        let log = std::fs::read_to_string(world.path("b.log")).unwrap_or_default();
        (log.matches("site b runs").count() >= 2).then_some(())
    });
    assert_eq!(workload(&world.view(&run), "middle")["state"], "running");
    world.let_go("go");
    ended_right(&world, &run, &["1"]);
}

#[test]
fn a_stage_ends_while_its_agent_is_dead() {
    let mut world = World::with_sites(&SITES);
    let run = held(&world);
    world.kill_agent("b");
    world.let_go("go");
    world.wait_mark("done", 1);
    wait(Duration::from_secs(30), "the shim has ended", || world.shims(" shim ").is_empty().then_some(()));
    world.start_agent("b");
    ended_right(&world, &run, &["1"]);
}

#[test]
fn a_shim_is_killed_and_its_stage_is_placed_anew() {
    let world = World::with_sites(&SITES);
    let run = held(&world);
    let shims = world.shims("/middle.1");
    assert!(!shims.is_empty(), "the shim names its placement");
    let before = world.shims("until test -e");
    assert!(!before.is_empty());
    shims.iter().for_each(|pid| kill_pid(*pid));
    world.wait_mark("middle", 2);
    let now = world.shims("until test -e");
    assert!(before.iter().all(|pid| !now.contains(pid)), "what the first shim left is dead: {before:?} {now:?}");
    world.let_go("go");
    let view = ended_right(&world, &run, &["1", "2"]);
    let attempts = workload(&view, "middle")["attempts"].clone();
    assert_eq!((attempts[0]["epoch"].as_u64(), attempts[1]["epoch"].as_u64()), (Some(1), Some(2)), "{attempts:#}");
}

const FIVE: &str = "
project: five
data: { seed: { path: seed.txt } }
stages:
  s1: { run: sh work.sh seed/seed.txt one, in: [seed], out: [one], site: a, retries: 3 }
  s2: { run: sh work.sh one/n two, in: [one], out: [two], site: b, retries: 3 }
  s3: { run: sh work.sh one/n three, in: [one], out: [three], site: a, retries: 3 }
  s4: { run: sh work.sh two/n four, in: [two, three], out: [four], site: a, retries: 3 }
  s5: { run: sh work.sh four/n five, in: [four], out: [five], site: b, retries: 3 }
";
const WORK: &str = "
echo \"$TOMBOLO_STAGE $TOMBOLO_EPOCH\" >> $MARKS
for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.1; done
{ cat inputs/$1; echo $2; } | sha256sum > outputs/$2/n
";

#[test]
fn kills_at_random_change_nothing_that_comes_out() {
    let seed = std::env::var("TOMBOLO_E2E_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    println!("seed {seed}: TOMBOLO_E2E_SEED={seed} draws the same kills again");
    let files = [("work.sh", WORK), ("seed.txt", "5\n")];
    let mut world = World::with_sites(&SITES);
    let dir = world.project("five", FIVE, &files);
    let calm = world.submit(&dir);
    let calm = world.wait_run(&calm, &["succeeded", "failed"]);
    assert_eq!(calm["state"], "succeeded", "{calm:#}");

    let calm_marks: usize = (1..=5).map(|n| world.marks_of(&format!("s{n}")).len()).sum();
    assert_eq!(calm_marks, 5);
    let run = world.ok(&["run", &dir, "--detach", "--force"]).trim().to_owned();
    let mut draw = draws(seed);
    let mut told = Vec::new();
    for _ in 0..ROUNDS {
        until(Instant::now() + Duration::from_millis(draw(900)));
        match draw(4) {
            0 => {
                world.kill_server();
                until(Instant::now() + Duration::from_millis(draw(1_000)));
                world.start_server();
                told.push("server");
            }
            1 => {
                let site = if draw(2) == 0 { "a" } else { "b" };
                world.kill_agent(site);
                until(Instant::now() + Duration::from_millis(draw(1_000)));
                world.start_agent(site);
                told.push(site);
            }
            _ => {
                let shims = world.shims(" shim ");
                // A stage that loses its shim more than thrice is given up, and five stages share these kills.
                let killed = told.iter().filter(|what| **what == "shim").count();
                if !shims.is_empty() && killed < 3 {
                    kill_pid(shims[draw(shims.len() as u64) as usize]);
                    told.push("shim");
                }
            }
        }
    }
    let view = world.wait_run(&run, &["succeeded", "failed", "stopped"]);
    assert_eq!(view["state"], "succeeded", "seed {seed}, kills {told:?}: {view:#}\n{}", world.logs());
    assert_eq!(outputs(&view), outputs(&calm), "seed {seed}, kills {told:?}");
    let mut acted = 0;
    for stage in ["s1", "s2", "s3", "s4", "s5"] {
        // The calm run's mark comes first.
        let epochs = world.marks_of(stage)[1..].to_vec();
        let placed = workload(&view, stage)["attempts"].as_array().unwrap().len();
        assert_eq!(epochs.iter().collect::<BTreeSet<_>>().len(), epochs.len(), "seed {seed}: {stage} {epochs:?}");
        assert!(epochs.len() <= placed, "seed {seed}: {stage} acted as {epochs:?} in {placed} placements");
        acted += epochs.len();
    }
    let shims = told.iter().filter(|what| **what == "shim").count();
    assert!(acted <= 5 + shims, "seed {seed}: {acted} acts after {told:?}: only a lost shim costs another");
}

/// The moments of kills are what is random here, not what is waited for.
fn until(moment: Instant) {
    while let Some(left) = moment.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}
