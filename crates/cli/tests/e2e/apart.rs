//! Sites that can't reach each other, and a line that is cut: in a network of its own, which needs root.

use std::time::Duration;

use super::net::Apart;
use super::world::{SOON, World, noise, states, tree, wait, workload};

/// A partition lasts until a lease is over, and lines are found dead only after a while.
const LONG: Duration = Duration::from_secs(180);

#[test]
fn sites_that_can_t_reach_each_other_meet_at_the_relay() {
    let Some(net) = Apart::make() else { return };
    assert!(net.reaches_b_from("control"), "the check of the way can see one");
    assert!(!net.reaches_b_from("a"), "there is no direct way");
    let world = World::apart(net);
    let yaml = "
project: apart
data: { raw: { path: raw.bin } }
stages:
  there: { run: 'cp inputs/raw/raw.bin outputs/copy/', in: [raw], out: [copy], site: b }
  back: { run: 'sha256sum < inputs/copy/raw.bin > outputs/sum/sum', in: [copy], out: [sum], site: a }
";
    let dir = world.project("apart", yaml, &[]);
    let raw = noise(3, 5_000_000);
    std::fs::write(format!("{dir}/raw.bin"), &raw).unwrap();
    let ran = world.cli(&["run", &dir, "--site", "a", "--output", "json"]);
    assert_eq!(ran.code, 0, "{ran}\n{}", world.logs());
    let view = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(states(&view), "back succeeded, there succeeded");
    let there = workload(&view, "there")["attempts"].clone();
    assert_eq!((there.as_array().unwrap().len(), there[0]["site"].as_str()), (1, Some("b")), "{there:#}");
    assert!(there[0]["bytes_in"].as_u64().unwrap() >= 5_000_000, "they came over the line: {there:#}");
    let got = world.path("got");
    world.ok(&["data", "get", "copy", got.to_str().unwrap(), "--site", "b"]);
    assert!(tree(&got)["raw.bin"] == raw, "other bytes came");
}

/// One stage may fail over and one may not; both run at `b` when its line is cut.
fn partitioned(world: &World) -> String {
    let path = |name: &str| world.path(name).display().to_string();
    let (go, leave) = (path("go"), path("leave"));
    let yaml = format!(
        "
project: cut
stages:
  stay:
    run: 'echo \"stay $TOMBOLO_EPOCH\" >> $MARKS; until test -e {go}; do sleep 0.05; done; echo \"stayed $TOMBOLO_EPOCH\" >> $MARKS; echo 5 > outputs/five/n'
    out: [five]
    site: b
  leave:
    run: 'until test -e {leave}; do echo \"leave $TOMBOLO_EPOCH\" >> $MARKS; sleep 0.05; done'
    failover_after: 15s
    grace: 1s
  after: {{ run: 'echo \"after $TOMBOLO_EPOCH\" >> $MARKS; cp inputs/five/n outputs/six/', in: [five], out: [six], site: a }}
"
    );
    world.project("cut", &yaml, &[])
}

#[test]
fn a_partition_neither_kills_nor_doubles_and_fails_over_only_what_asked_for_it() {
    let Some(net) = Apart::make() else { return };
    let world = World::apart(net);
    let dir = partitioned(&world);
    world.ok(&["site", "set", "a", "--draining", "true"]);
    let run = world.ok(&["run", &dir, "--detach", "--site", "a"]).trim().to_owned();
    world.wait_mark("stay", 1);
    world.wait_mark("leave", 1);
    world.ok(&["site", "set", "a", "--draining", "false"]);

    world.net().line_to_b(false);
    // Nothing but the stage that asked for it goes elsewhere, and that only when it is over where it was.
    wait(LONG, &format!("the second placement\n{}", world.logs()), || {
        world.marks_of("leave").contains(&"2".to_owned()).then_some(())
    });
    world.wait_site("b", "unreachable");
    world.let_go("go");
    world.wait_mark("stayed", 1);
    assert!(world.marks_of("after").is_empty(), "what nobody could report is not known");
    assert_eq!(workload(&world.view(&run), "stay")["state"], "running");

    world.net().line_to_b(true);
    world.wait_site("b", "up");
    world.wait_mark("after", 1);
    world.let_go("leave");
    let view = world.wait_run_within(LONG, &run, &["succeeded", "failed", "stopped"]);
    assert_eq!(states(&view), "after succeeded, leave succeeded, stay succeeded", "{view:#}\n{}", world.logs());
    for stage in ["stay", "stayed", "after"] {
        assert_eq!(world.marks_of(stage), ["1"], "{stage}: once, where it was");
    }
    let leave = world.marks_of("leave");
    assert!(leave.is_sorted(), "two epochs acted at once: {leave:?}");
    let attempts = workload(&view, "leave")["attempts"].clone();
    let sites: Vec<_> = attempts.as_array().unwrap().iter().map(|attempt| attempt["site"].as_str().unwrap()).collect();
    assert_eq!(sites, ["b", "a"], "{attempts:#}");
    wait(SOON, "nothing of the run is left", || world.shims("until test -e").is_empty().then_some(()));
}
