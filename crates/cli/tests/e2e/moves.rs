//! Moves of what runs, from site to site, with nothing lost and nothing done twice.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::world::{SOON, World, poll, wait, workload};

const SITES: [(&str, &[&str]); 2] = [("here", &[]), ("there", &[])];

/// Counts from where its state says, ten in a second; each number leaves a mark. Asked to stop, it ends between two
/// numbers: one that it could not write down, since all its processes are asked, it has not counted.
const COUNT: &str = r#"
n=$(cat "$TOMBOLO_STATE/n" 2>/dev/null || echo 0)
trap 'stop=75' TERM
while [ "$n" -lt $LAST ]; do
  n=$((n + 1))
  echo "$n" > "$TOMBOLO_STATE/n.new"
  # All its processes are asked to stop: this one does all of it or nothing.
  (trap '' TERM; exec mv "$TOMBOLO_STATE/n.new" "$TOMBOLO_STATE/n") || exit 75
  echo "count $n@$TOMBOLO_SITE" >> $MARKS
  [ -z "$stop" ] || exit $stop
  sleep 0.1
done
echo "$n" > outputs/sum/n
"#;

const YAML: &str = "
project: counting
stages:
  count: { run: 'sh count.sh', out: [sum] }
";

/// What is counted to unless there is much to do meanwhile.
const LAST: usize = 60;

/// One that runs at `here` for a while, though it may be anywhere.
fn counting(world: &World) -> String {
    counting_to(world, LAST)
}

fn counting_to(world: &World, last: usize) -> String {
    // It begins at the dearest, which the other is not when it begins.
    world.ok(&["site", "set", "there", "--price", "cpu_hour=9"]);
    let dir = world.project("counting", YAML, &[("count.sh", &COUNT.replace("$LAST", &last.to_string()))]);
    let run = world.submit(&dir);
    world.wait_mark("count", 5);
    run
}

fn site_of(world: &World, run: &str, stage: &str) -> String {
    workload(&world.view(run), stage)["site"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_job_goes_there_and_back_and_counts_each_number_once() {
    there_and_back(&World::with_sites(&SITES));
}

/// A job that checkpoints goes from `here` to `there` and back.
pub(super) fn there_and_back(world: &World) {
    let run = counting(world);
    assert_eq!(site_of(world, &run, "count"), "here");

    let quote = world.json(&["move", "count", "--to", "there", "--quote"]);
    assert_eq!((quote["method"].as_str(), quote["from"].as_str()), (Some("checkpoint"), Some("here")));
    assert_eq!(site_of(world, &run, "count"), "here", "a quote touches nothing");

    let moved = world.json(&["move", "count", "--to", "there", "--why", "maintenance"]);
    assert_eq!(moved["stage"], "done", "{moved:#}");
    assert!(moved["downtime_ms"].is_u64() && moved["rounds"].as_u64() >= Some(1), "{moved:#}");
    assert_eq!(site_of(world, &run, "count"), "there");
    let back = world.json(&["move", "count", "--back"]);
    assert_eq!((back["to"].as_str(), back["stage"].as_str()), (Some("here"), Some("done")));

    let view = world.wait_run(&run, &["succeeded"]);
    counted(world, &view, LAST, &["here", "there", "here"]);

    let stays = world.json(&["history", &format!("{run}/count")]);
    let stays: Vec<_> = stays
        .as_array()
        .unwrap()
        .iter()
        .map(|stay| (stay["site"].as_str().unwrap(), stay["why"].as_str().unwrap()))
        .collect();
    assert_eq!(stays.len(), 3, "{stays:?}");
    assert_eq!(stays[0], ("here", "placed"));
    assert!(
        stays[1].0 == "there" && stays[1].1.starts_with("moved from here by ") && stays[1].1.ends_with(": maintenance"),
        "{stays:?}"
    );

    let moves = world.json(&["move", "ls", &format!("{run}/count")]);
    let ways: Vec<_> = moves.as_array().unwrap().iter().map(|one| one["to"].as_str().unwrap()).collect();
    assert_eq!(ways, ["here", "there"], "the newest first");
    assert_eq!(moves[1]["why"], "maintenance");
}

/// Each number was counted once, and something at each of the sites.
fn counted(world: &World, view: &Value, last: usize, sites: &[&str]) {
    let marks = world.marks_of("count");
    let numbers: Vec<usize> = marks.iter().map(|mark| mark.split('@').next().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (1..=last).collect::<Vec<_>>(), "{marks:?}");
    for site in sites {
        assert!(marks.iter().any(|mark| mark.ends_with(&format!("@{site}"))), "{marks:?}");
    }
    let attempts = workload(view, "count")["attempts"].as_array().unwrap().clone();
    let at: Vec<&str> = attempts.iter().map(|attempt| attempt["site"].as_str().unwrap()).collect();
    assert_eq!(at, sites);
}

/// A job that checkpoints goes from `here` to one site after the other, and what it has made is what it makes where nobody
/// moves it.
pub(super) fn round(world: &World, way: &[&str]) {
    const LAST: usize = 250;
    let run = counting_to(world, LAST);
    let mut sites = vec!["here"];
    for to in way {
        let so_far = world.marks_of("count").len();
        let moved = world.json(&["move", "count", "--to", to]);
        assert_eq!(
            (moved["method"].as_str(), moved["stage"].as_str()),
            (Some("checkpoint"), Some("done")),
            "{moved:#}"
        );
        world.wait_mark("count", so_far + 10);
        sites.push(to);
    }
    let view = world.wait_run(&run, &["succeeded"]);
    counted(world, &view, LAST, &sites);
    let into = world.path("counted");
    world.ok(&["data", "get", &format!("counting/sum@{run}"), &into.display().to_string()]);
    let n = std::fs::read_to_string(into.join("n")).unwrap();
    assert_eq!(n.trim(), LAST.to_string());
}

fn refused(world: &World, args: &[&str], expected: &str) {
    let done = world.cli(args);
    assert!(done.code == 2 && done.err.contains(expected), "{args:?}: {done}");
}

#[test]
fn what_can_t_be_moved_says_why_and_goes_on() {
    let mut world = World::with_sites(&SITES);
    let run = counting(&world);
    refused(&world, &["move", "count", "--to", "here"], "it is there");
    refused(&world, &["move", "count", "--to", "nowhere"], "there is no site nowhere");
    refused(&world, &["move", "count", "--to", "there", "--method", "switch"], "can't run at two sites at once");
    refused(&world, &["move", "count", "--back"], "was not moved yet");
    refused(&world, &["move", "--cancel", "count"], "is not being moved");
    refused(&world, &["move", &run, "--to", "there"], "is a run");
    refused(&world, &["move", "nothing", "--to", "there"], "there is no run, stage or service");

    // The destination dies while all is being brought there; the source never notices.
    world.kill_agent("there");
    let begun = world.ok(&["move", "count", "--to", "there", "--deadline", "2s", "--detach"]);
    assert_eq!(begun, "");
    let again = world.cli(&["move", "count", "--to", "there", "--detach"]);
    assert_eq!(again.code, 0, "asked for twice, it is one move: {again}");
    let ended = wait(SOON, "the deadline", || {
        let moves = world.json(&["move", "ls", "count"]);
        (moves[0]["stage"] == "undone").then(|| moves.clone())
    });
    assert_eq!(ended.as_array().unwrap().len(), 1);
    assert!(ended[0]["undone"].as_str().unwrap().contains("deadline"), "{ended:#}");
    world.start_agent("there");
    world.wait_run(&run, &["succeeded"]);
    assert!(world.marks_of("count").iter().all(|mark| mark.ends_with("@here")));
    refused(&world, &["move", &format!("{run}/count"), "--to", "there"], "it is over");
}

const SERVE: &str = r#"
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = os.environ["TOMBOLO_SITE"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

#[test]
fn a_service_answers_there_before_it_leaves_here() {
    let world = World::with_sites(&SITES);
    world.ok(&["site", "set", "there", "--price", "cpu_hour=9"]);
    let yaml = "
project: serving
services:
  predict: { run: 'python3 serve.py', ready: / }
";
    let dir = world.project("serving", yaml, &[("serve.py", SERVE)]);
    let run = world.submit(&dir);
    let view = world.wait_run(&run, &["serving"]);
    let address = |view: &Value| workload(view, "predict")["address"].as_str().unwrap().to_owned();
    let first = address(&view);
    assert_eq!(ask(&first).as_deref(), Some("here"));
    let moved = world.json(&["move", "predict", "--to", "there"]);
    assert_eq!((moved["method"].as_str(), moved["downtime_ms"].is_null()), (Some("switch"), true), "{moved:#}");
    let second = address(&world.view(&run));
    assert_eq!(ask(&second).as_deref(), Some("there"));
    wait(SOON, "the source to leave", || ask(&first).is_none().then_some(()));
    assert_eq!(world.view(&run)["state"], "serving");
}

fn ask(address: &str) -> Option<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.split("\r\n\r\n").nth(1)?.to_owned())
}

/// Control plane and destination are killed in the middle of moves; each number is counted once all the same.
#[test]
fn moves_outlive_kills() {
    let mut world = World::with_sites(&SITES);
    let run = counting(&world);
    world.ok(&["move", "count", "--to", "there", "--detach"]);
    world.kill_server();
    world.start_server();
    world.kill_agent("there");
    world.start_agent("there");
    world.kill_agent("here");
    world.start_agent("here");
    let over = poll(SOON, || {
        let moves = world.try_json(&["move", "ls", "count"])?;
        ["done", "undone"].contains(&moves[0]["stage"].as_str()?).then_some(())
    });
    assert!(over.is_some(), "{}\n{}", world.json(&["move", "ls"]), world.logs());
    world.wait_run(&run, &["succeeded"]);
    let marks = world.marks_of("count");
    let counted: Vec<usize> = marks.iter().map(|mark| mark.split('@').next().unwrap().parse().unwrap()).collect();
    assert_eq!(counted, (1..=60).collect::<Vec<_>>(), "{marks:?}");
    assert!(!Path::new(&world.path("sites/there/state")).join(&run).join("count.aside").exists());
}

/// The site dies with the machine; the job goes on elsewhere from the newest copy that had got there.
#[test]
fn a_failover_goes_on_from_the_last_copy() {
    let mut world = World::with_sites(&SITES);
    world.ok(&["site", "set", "there", "--price", "cpu_hour=9"]);
    let yaml = "
project: counting
stages:
  count: { run: 'sh count.sh', out: [sum], state: { every: 5s }, failover_after: 15s, grace: 1s }
";
    let dir = world.project("counting", yaml, &[("count.sh", &COUNT.replace("$LAST", "900"))]);
    let run = world.submit(&dir);
    world.wait_mark("count", 5);
    assert_eq!(site_of(&world, &run, "count"), "here");
    // The code, and behind it a copy of the state; there is nothing else.
    let manifests = world.site_dir("there").join("store/manifests");
    wait(SOON, "a copy of the state", || (std::fs::read_dir(&manifests).ok()?.count() > 1).then_some(()));
    let copied = world.marks_of("count").len();
    world.kill_agent("here");
    for pid in world.shims("/count.1").into_iter().chain(world.shims("count.sh")) {
        super::world::kill_pid(pid);
    }
    wait(Duration::from_secs(180), "the failover", || {
        world.marks_of("count").iter().any(|mark| mark.ends_with("@there")).then_some(())
    });
    let marks = world.marks_of("count");
    let first = marks.iter().find(|mark| mark.ends_with("@there")).unwrap();
    let number: usize = first.split('@').next().unwrap().parse().unwrap();
    assert!(number > 1 && number <= copied + 100, "it goes on from a copy, not from its start: {first} after {copied}");
    let stays = world.json(&["history", "count"]);
    assert_eq!(stays[1]["came"], "failed_over", "{stays:#}");
    world.ok(&["stop", &run]);
}
