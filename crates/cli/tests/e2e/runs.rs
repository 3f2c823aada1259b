//! Runs that go wrong, are stopped, tried again and looked at.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::Value;

use super::world::{SOON, World, states, wait, workload};

const SITE: [(&str, &[&str]); 1] = [("here", &[])];

#[test]
fn a_failed_gate_ends_the_run_red_and_deploys_nothing() {
    let world = World::with_sites(&SITE);
    let yaml = "
project: gated
stages:
  test:
    run: 'echo ''{\"auc\": 0.55}'' > outputs/evaluation/metrics.json'
    out: [evaluation]
    retries: 3
    gate: { output: evaluation, file: metrics.json, metric: auc, at_least: 0.6 }
  publish: { run: 'echo \"publish 1\" >> $MARKS', in: [evaluation] }
services:
  predict: { run: 'echo \"predict 1\" >> $MARKS; sleep 600' }
";
    let dir = world.project("gated", yaml, &[]);
    let ran = world.cli(&["run", &dir, "--output", "json"]);
    assert_eq!(ran.code, 1, "{ran}");
    let view: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (view["state"].as_str(), states(&view).as_str()),
        (Some("failed"), "predict skipped, publish skipped, test failed")
    );
    let test = workload(&view, "test");
    assert_eq!(test["attempts"].as_array().unwrap().len(), 1, "a gate is not tried again: {test:#}");
    assert!(test["why"].as_str().unwrap().contains("auc"), "{test:#}");
    assert!(ran.err.contains("0.55") && ran.err.contains("0.6"), "{ran}");
    assert!(world.marks_of("publish").is_empty() && world.marks_of("predict").is_empty());

    // The same code, retried, is as red as before; it was not forgotten that it failed.
    let retried = world.cli(&["retry", view["id"].as_str().unwrap()]);
    assert_eq!(retried.code, 1, "{retried}");
}

#[test]
fn a_flaky_stage_is_tried_again_with_pauses_and_on_request() {
    let world = World::with_sites(&SITE);
    // Fails three times: twice within its retries, then once more for `tombolo retry` to get past.
    let yaml = "
project: flaky
stages:
  first: { run: 'echo \"first $TOMBOLO_EPOCH\" >> $MARKS; echo 1 > outputs/one/n', out: [one] }
  second:
    run: 'echo \"second $TOMBOLO_EPOCH\" >> $MARKS; echo try $TOMBOLO_EPOCH; test $(grep -c second $MARKS) -gt 3 && cp inputs/one/n outputs/two/'
    in: [one]
    out: [two]
    retries: 2
  third: { run: 'cp inputs/two/n outputs/three/', in: [two], out: [three] }
";
    let dir = world.project("flaky", yaml, &[]);
    let ran = world.cli(&["run", &dir, "--output", "json"]);
    assert_eq!(ran.code, 1, "{ran}");
    let view: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(states(&view), "first succeeded, second failed, third skipped");
    let attempts = workload(&view, "second")["attempts"].as_array().unwrap().clone();
    assert_eq!(attempts.len(), 3, "{attempts:#?}");
    let time = |attempt: usize, key: &str| attempts[attempt][key].as_i64().unwrap();
    let pauses = [time(1, "placed") - time(0, "ended"), time(2, "placed") - time(1, "ended")];
    assert!(pauses[0] >= 1_000 && pauses[1] >= 2_000, "{pauses:?}");
    assert!(attempts.iter().all(|attempt| attempt["outcome"].as_str().unwrap().contains("code 1")), "{attempts:#?}");

    let run = view["id"].as_str().unwrap();
    let retried = world.cli(&["retry", run, "--output", "json"]);
    assert_eq!(retried.code, 0, "{retried}");
    let view: Value = serde_json::from_str(&retried.out).unwrap();
    assert_eq!(states(&view), "first succeeded, second succeeded, third succeeded");
    assert_eq!(world.marks_of("first"), ["1"], "what had succeeded is not run again");
    assert_eq!(world.marks_of("second"), ["1", "2", "3", "4"], "each epoch once, each higher");
    let logs = |more: &[&str]| world.ok(&[&["logs", &format!("{run}/second")], more].concat());
    assert!(logs(&["--epoch", "2"]).contains("try 2") && !logs(&["--epoch", "2"]).contains("try 4"));
    assert!(logs(&[]).contains("try 4") && !logs(&[]).contains("try 2"));
}

#[test]
fn a_stopped_run_leaves_no_process() {
    let world = World::with_sites(&SITE);
    let yaml = "
project: long
stages:
  sleeper:
    run: 'trap \"\" TERM; (setsid sleep 611 &) ; echo \"sleeper $TOMBOLO_EPOCH\" >> $MARKS; sleep 612; sleep 613'
    grace: 1s
  after: { run: 'true', in: [out], site: here }
  feeder: { run: 'echo x > outputs/out/x; sleep 614', out: [out] }
";
    let dir = world.project("long", yaml, &[]);
    let run = world.submit(&dir);
    world.wait_mark("sleeper", 1);
    world.wait_stage(&run, "feeder", &["running"]);
    wait(SOON, "all of it runs", || (world.shims("sleep 61").len() >= 3).then_some(()));
    world.ok(&["stop", &run]);
    let view = world.wait_run(&run, &["stopped"]);
    assert_eq!(workload(&view, "sleeper")["state"], "stopped", "{view:#}");
    assert_ne!(workload(&view, "after")["state"], "succeeded");
    // What had forked away and what ignored SIGTERM are dead by the time it is said to have stopped.
    assert_eq!(world.shims("sleep 61"), [] as [i32; 0]);
}

#[test]
fn logs_as_they_are_written_and_from_the_end() {
    let world = World::with_sites(&SITE);
    let go = world.path("go").display().to_string();
    let yaml = format!(
        "
project: talk
stages:
  talker:
    run: 'for i in $(seq 1 50); do echo line $i; done; echo oops >&2; until test -e {go}; do sleep 0.05; done; echo last'
"
    );
    let dir = world.project("talk", &yaml, &[]);
    let run = world.submit(&dir);
    world.wait_stage(&run, "talker", &["running"]);
    let stage = format!("{run}/talker");
    wait(SOON, "what was printed is shown", || world.ok(&["logs", &stage]).contains("line 50").then_some(()));
    wait(SOON, "stderr too", || world.ok(&["logs", &stage]).contains("oops").then_some(()));

    let mut command = world.program();
    let mut follower = command.args(["logs", "-f", &stage]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    // While the stage waits: the follower has shown all there is and stays.
    let seen: Vec<String> = lines.by_ref().take(51).map(Result::unwrap).collect();
    assert!(seen.contains(&"line 50".to_owned()) && seen.contains(&"oops".to_owned()), "{seen:?}");
    assert!(follower.try_wait().unwrap().is_none(), "it follows");
    world.let_go("go");
    assert_eq!(lines.map(Result::unwrap).collect::<Vec<_>>(), ["last"]);
    assert!(follower.wait().unwrap().success(), "and ends when the stage has ended");

    world.wait_run(&run, &["succeeded"]);
    assert_eq!(world.ok(&["logs", &stage, "--tail", "1"]), "last\n");
    assert_eq!(world.ok(&["logs", &stage]).lines().count(), 52);
}

#[test]
fn a_secret_is_given_and_never_shown() {
    let world = World::with_sites(&SITE);
    let secret = "correct-horse-battery-staple";
    let done = world.cli_with(&["secret", "set", "db-password"], &format!("{secret}\n"));
    assert_eq!(done.code, 0, "{done}");
    let yaml = "
project: hidden
stages:
  reader:
    run: 'printf %s \"$DB_PASSWORD\" | sha256sum | cut -c1-64 > outputs/sum/sum; echo it is $DB_PASSWORD; sleep 0.2'
    out: [sum]
    secrets: [db-password]
";
    let dir = world.project("hidden", yaml, &[]);
    let ran = world.cli(&["run", &dir, "--output", "json"]);
    assert_eq!(ran.code, 0, "{ran}");
    let view: Value = serde_json::from_str(&ran.out).unwrap();
    let got = world.path("sum");
    world.ok(&["data", "get", "sum", got.to_str().unwrap()]);
    let sum = std::fs::read_to_string(got.join("sum")).unwrap();
    assert_eq!(sum.trim(), sha256(secret), "the stage had the secret");
    let run = view["id"].as_str().unwrap();
    let texts = [
        ran.out.clone(),
        ran.err.clone(),
        world.ok(&["logs", run]),
        world.ok(&["audit", "--output", "json"]),
        world.ok(&["ps", run, "--output", "json"]),
        world.ok(&["plan", run, "--output", "json"]),
        world.ok(&["secret", "ls", "--output", "json"]),
    ];
    assert!(texts[2].contains("it is"), "{}", texts[2]);
    assert!(texts.iter().all(|text| !text.contains(secret)), "{texts:#?}");
    // Nor is it in any file of the control plane or of the site.
    let files = super::world::tree(&world.path(""));
    let needle = secret.as_bytes();
    let leaks: Vec<&String> = files
        .iter()
        .filter(|(_, bytes)| bytes.windows(needle.len()).any(|window| window == needle))
        .map(|(name, _)| name)
        .collect();
    assert!(leaks.is_empty(), "{leaks:?}");
}

fn sha256(text: &str) -> String {
    let mut child =
        std::process::Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()[..64].to_owned()
}

/// As the README's first project does it.
#[test]
fn what_was_got_into_a_project_is_no_code() {
    let world = World::with_sites(&[("home", &[]), ("away", &[])]);
    let yaml = "
project: shop
data: { raw: { path: data/raw.csv, keep_at: home } }
stages:
  clean: { run: 'cp inputs/raw/* outputs/clean/', in: [raw], out: [clean] }
  look: { run: 'find . -name \"*.csv\" -not -path \"./inputs/*\" > outputs/seen/files', out: [seen], site: away }
";
    let dir = world.project("shop", yaml, &[("real/raw.csv", "a,b\n1,2\n")]);
    std::fs::create_dir(format!("{dir}/data")).unwrap();
    std::os::unix::fs::symlink("../real/raw.csv", format!("{dir}/data/raw.csv")).unwrap();
    world.ok(&["run", &dir]);
    for (name, place) in [("raw", "before"), ("shop/clean", "clean")] {
        let got = world.cli(&["data", "get", name, &format!("{dir}/{place}")]);
        assert!(got.code == 0 && got.err.contains(".tomboloignore says so now"), "{got}");
    }
    let again: Value = serde_json::from_str(&world.ok(&["run", &dir, "--output", "json"])).unwrap();
    assert_eq!(states(&again), "clean cached, look cached");
    let forced: Value = serde_json::from_str(&world.ok(&["run", &dir, "--force", "--output", "json"])).unwrap();
    let seen = world.path("seen");
    world.ok(&["data", "get", "shop/seen", &seen.display().to_string()]);
    assert_eq!(std::fs::read_to_string(seen.join("files")).unwrap(), "", "data was brought as code: {forced:#}");
}

#[test]
fn a_service_with_a_port_of_its_own_is_deployed_again() {
    let world = World::with_sites(&SITE);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let yaml = |word: &str| {
        format!(
            "
project: fixed
services:
  serve: {{ run: 'echo {word} > index.html; exec python3 -m http.server $PORT --bind 127.0.0.1', port: {port}, ready: /index.html }}
"
        )
    };
    let first = world.submit(&world.project("fixed", &yaml("one"), &[]));
    world.wait_run(&first, &["serving"]);
    let second = world.submit(&world.project("fixed", &yaml("two"), &[]));
    let view = world.wait_run(&second, &["serving"]);
    assert_eq!(workload(&view, "serve")["attempts"].as_array().unwrap().len(), 1, "{view:#}");
    world.wait_run(&first, &["stopped"]);
    world.ok(&["stop", &second]);
}
