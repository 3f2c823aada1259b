//! What a site may say, however wrong, and how much may live at once.

use std::time::Instant;

use crate::play::{Play, id, run, site, version};
use tombolo_core::Millis;
use tombolo_core::sync::{Finish, Observed, Outcome, Phase, Replicas, Report, TransferSeen};

fn report(play: &mut Play, workload: &str, ran: u64) {
    let mut finish = Finish::without_running(Outcome::Succeeded, play.now);
    finish.ran = Some(Millis(ran));
    let epoch = play.world.workloads[&id(workload)].epoch;
    let observed = vec![Observed { workload: id(workload), epoch, phase: Phase::Finished(Box::new(finish)) }];
    play.world.report(&site("a"), &Report { observed, ..Report::default() }, play.now);
    play.settle();
}

#[test]
fn a_run_time_without_measure_ends_nothing() {
    let mut play = Play::new(&["a"]);
    for number in 1..=2 {
        let of = format!("p-{number}");
        play.try_submit(&of, &["x"], true).unwrap();
        report(&mut play, &format!("{of}/x"), u64::MAX);
        play.table(&of, &[("", "succeeded: x=succeeded")]);
    }
}

#[test]
fn bytes_without_measure_end_nothing() {
    let mut play = Play::new(&["a", "b"]);
    play.submit("p-1", &["x site=a"]);
    let seen = TransferSeen {
        version: version("code"),
        workload: Some(id("p-1/x")),
        from: site("b"),
        wire_bytes: u64::MAX,
        raw_bytes: u64::MAX,
        took: Millis(1),
    };
    let report = Report { transfers: vec![seen.clone(), seen], ..Report::default() };
    play.world.report(&site("a"), &report, play.now);
    play.table("p-1", &[("", "active: x=placed@a#1")]);
}

#[test]
fn links_to_nowhere_are_not_kept() {
    let mut play = Play::new(&["a"]);
    for number in 0..100 {
        let seen = TransferSeen {
            version: version("code"),
            workload: None,
            from: site(&format!("x{number}")),
            wire_bytes: 1 << 21,
            raw_bytes: 1 << 21,
            took: Millis(10),
        };
        play.world.report(&site("a"), &Report { transfers: vec![seen], ..Report::default() }, play.now);
    }
    assert!(play.world.links.0.is_empty(), "{}", play.world.links.0.len());
}

#[test]
fn attempts_are_bounded_also_without_an_end() {
    let mut play = Play::new(&["a", "b"]);
    play.submit("p-1", &["x failover=1"]);
    for round in 0..120 {
        let at = play.world.workloads[&id("p-1/x")].state.site().unwrap().clone();
        play.silent = [at].into();
        // Lease, grace, drift and margin; the other site has been heard of again by then.
        play.step("wait 17");
        assert!(play.world.workloads[&id("p-1/x")].epoch.0 > round, "{}", play.how("p-1"));
    }
    assert!(play.world.workloads[&id("p-1/x")].attempts.len() <= tombolo_core::world::ATTEMPTS_MAX);
}

#[test]
fn all_of_a_sites_replicas_replace_what_was_known() {
    let mut play = Play::new(&["a", "b"]);
    play.know("raw", None, &["a", "b"]);
    let all = |words: &[&str]| Report {
        replicas: Replicas::All(words.iter().map(|word| version(word)).collect()),
        ..Report::default()
    };
    // What nobody registered is nobody's replica.
    play.world.report(&site("a"), &all(&["code", "stray"]), play.now);
    let held =
        |play: &Play| play.world.versions[&version("raw")].replicas.iter().map(|s| s.to_string()).collect::<Vec<_>>();
    assert_eq!(held(&play), ["b"]);
    assert!(!play.world.versions.contains_key(&version("stray")));
    let new = Report { replicas: Replicas::New(vec![version("raw")]), ..Report::default() };
    play.world.report(&site("a"), &new, play.now);
    assert_eq!(held(&play), ["a", "b"]);
}

/// Not a test of correctness: run with `--ignored --nocapture` to see what one pass costs.
#[test]
#[expect(clippy::disallowed_methods, reason = "it measures, and decides nothing by it")]
#[ignore = "measures: the cost of one heartbeat, one end and one desired state among 10,000 live workloads"]
fn ten_thousand_live_workloads() {
    let mut play = Play::new(&["a cpus=3000", "b cpus=3000"]);
    let lines: Vec<String> = (0..2000).map(|n| format!("s{n} out=o{n}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    for number in 1..=5 {
        let begun = Instant::now();
        play.submit(&format!("p-{number}"), &lines);
        println!("submit of 2,000 stages: {:?}", begun.elapsed());
    }
    let live = play.world.workloads.values().filter(|record| record.state.site().is_some()).count();
    println!("{live} placed of {}", play.world.workloads.len());
    let begun = Instant::now();
    play.world.decide(play.now);
    println!("decide with nothing new: {:?}", begun.elapsed());
    let begun = Instant::now();
    println!("desired of {}: {:?}", play.world.desired(&site("a"), &[]).assignments.len(), begun.elapsed());
    let next = play.world.workloads_of(&run("p-1")).find(|r| r.state.site().is_some()).unwrap().id.clone();
    let begun = Instant::now();
    play.step(&format!("end {next} ok"));
    println!("one end: {:?}", begun.elapsed());
}

/// As above: what a graph of stages that read from each other costs, in its parts. The problem took 93 s with 2,000.
#[test]
#[expect(clippy::disallowed_methods, reason = "it measures, and decides nothing by it")]
#[ignore = "measures, and shows a bug: making the problem of 1,000 stages takes seconds, and the engine waits"]
fn a_long_graph_is_planned_while_nobody_notices() {
    let mut play = Play::new(&["a cpus=10", "b cpus=10"]);
    play.know("raw", None, &["a"]);
    let lines: Vec<String> = (0..1000)
        .map(|n| match n {
            0..40 => format!("s{n} in=raw out=o{n}"),
            _ => format!("s{n} in=o{} in=o{} out=o{n}", n - 40, n - 39),
        })
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let begun = Instant::now();
    play.submit("p-1", &lines);
    println!("submit and place: {:?}", begun.elapsed());
    let begun = Instant::now();
    play.world.decide(play.now);
    println!("decide with nothing new: {:?}", begun.elapsed());
    let loads = play.world.loads(play.now);
    let begun = Instant::now();
    let problem = play.world.problem(&play.world.runs[&run("p-1")], &loads, play.now);
    let problem_took = begun.elapsed();
    println!("the problem: {problem_took:?}");
    let begun = Instant::now();
    tombolo_core::placement::plan(&problem);
    println!("the plan: {:?}", begun.elapsed());
    assert!(problem_took.as_millis() < 500, "{problem_took:?}");
}

/// As above: many runs, and long runs, in one queue.
#[test]
#[expect(clippy::disallowed_methods, reason = "it measures, and decides nothing by it")]
#[ignore = "measures: what ends cost with 1,000 runs of one stage, and with 10 runs of 1,000, in the queue"]
fn long_queues() {
    let mut play = Play::new(&["a cpus=10", "b cpus=10"]);
    let begun = Instant::now();
    for number in 1..=1_000 {
        play.submit(&format!("p-{number}"), &["x"]);
    }
    println!("1,000 submissions, one by one: {:?}", begun.elapsed());
    let begun = Instant::now();
    for _ in 0..100 {
        let next = play.world.workloads.values().find(|record| record.state.site().is_some()).unwrap().id.clone();
        play.step(&format!("end {next} ok"));
    }
    println!("100 ends, one by one, with 1,000 runs live: {:?}", begun.elapsed());

    let mut play = Play::new(&["a cpus=10", "b cpus=10"]);
    let wide: Vec<String> = (0..1000).map(|n| format!("s{n}")).collect();
    let wide: Vec<&str> = wide.iter().map(String::as_str).collect();
    for number in 1..=10 {
        play.submit(&format!("p-{number}"), &wide);
    }
    let begun = Instant::now();
    play.step("end p-1/s0 ok");
    println!("one end with 10 runs of 1,000 stages in the queue: {:?}", begun.elapsed());
}
