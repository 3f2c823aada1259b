//! The workloads of a run together: their order, and the longest way through what was decided for each.

use tombolo_core::Millis;
use tombolo_core::world::{WorkloadRecord, critical_path, in_order};

use crate::play::{Play, run};

fn workloads(play: &Play) -> Vec<WorkloadRecord> {
    play.world.workloads_of(&run("p-1")).cloned().collect()
}

fn names(workloads: Vec<WorkloadRecord>) -> Vec<String> {
    in_order(workloads).iter().map(|record| record.id.name.to_string()).collect()
}

#[test]
fn each_comes_after_what_it_reads_and_services_come_last() {
    let mut play = Play::new(&["a"]);
    play.submit("p-1", &["a in=m", "b service in=m", "m in=n out=m", "n out=n", "x"]);
    assert_eq!(names(workloads(&play)), ["n", "m", "a", "x", "b"]);
}

#[test]
fn the_longest_way_is_what_counts_not_the_sum() {
    let mut play = Play::new(&["a"]);
    play.submit(
        "p-1",
        &[
            "first takes=10 out=f",
            "long in=f takes=20 out=l",
            "short in=f takes=5 out=s",
            "last in=l in=s takes=1",
            "web service",
        ],
    );
    assert_eq!(critical_path(&workloads(&play)), Millis::from_secs(31));
    for stage in ["first", "short", "long", "last"] {
        play.step(&format!("start p-1/{stage}"));
        play.step(&format!("end p-1/{stage} ok"));
    }
    play.step("ready p-1/web");
    assert_eq!(critical_path(&workloads(&play)), Millis::from_secs(31));
    // The order in which they are told makes no difference.
    let turned: Vec<WorkloadRecord> = workloads(&play).into_iter().rev().collect();
    assert_eq!(critical_path(&turned), Millis::from_secs(31));
}
