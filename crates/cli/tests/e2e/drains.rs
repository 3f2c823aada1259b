//! A site with services and jobs on it is left as a whole, and opened again.

use std::path::Path;

use serde_json::Value;

use super::world::{SOON, World, poll, wait, workload};

/// Counts from where its state says, ten in a second, until it is let go; each number leaves a mark.
const COUNT: &str = r#"
name=$1
n=$(cat "$TOMBOLO_STATE/n" 2>/dev/null || echo 0)
trap 'stop=1' TERM
until [ -e "$(dirname $MARKS)/$name" ]; do
  [ -z "$stop" ] || exit 75
  n=$((n + 1))
  echo "$n" > "$TOMBOLO_STATE/n.new"
  # All its processes are asked to stop: this one does all of it or nothing.
  (trap '' TERM; exec mv "$TOMBOLO_STATE/n.new" "$TOMBOLO_STATE/n") || exit 75
  echo "$name $n@$TOMBOLO_SITE" >> $MARKS
  sleep 0.1
done
"#;

/// The same without state.
const FORGETFUL: &str = r#"
echo "forget begun@$TOMBOLO_SITE" >> $MARKS
until [ -e "$(dirname $MARKS)/forget" ]; do sleep 0.1; done
"#;

const SERVE: &str = r#"
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

const SERVICES: &str = "
project: serving
services:
  a: { run: 'python3 serve.py', ready: / }
  b: { run: 'python3 serve.py', ready: /, replicas: 2 }
  c: { run: 'python3 serve.py', ready: /, single: true }
";

const JOBS: &str = "
project: counting
stages:
  one: { run: 'sh count.sh one' }
  two: { run: 'sh count.sh two' }
";

/// Where each of a run's workloads is.
fn sites_of(world: &World, run: &str) -> Vec<String> {
    let view = world.view(run);
    let all = view["workloads"].as_array().unwrap();
    all.iter().map(|one| one["site"].as_str().unwrap_or("-").to_owned()).collect()
}

fn row<'a>(view: &'a Value, id: &str) -> &'a Value {
    let rows = view["workloads"].as_array().unwrap();
    rows.iter().find(|row| row["workload"] == id).unwrap_or_else(|| panic!("{id} is not in {view:#}"))
}

fn refused(world: &World, args: &[&str], expected: &str) {
    let done = world.cli(args);
    assert!(done.code == 2 && done.err.contains(expected), "{args:?}: {done}");
}

/// Numbers of a job as they were counted: each one once, whatever site it was at.
fn counted_once(world: &World, stage: &str) {
    let marks = world.marks_of(stage);
    let numbers: Vec<usize> = marks.iter().map(|mark| mark.split('@').next().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>(), "{marks:?}");
}

#[test]
fn everything_leaves_a_site_and_comes_home() {
    let mut world = World::with_sites(&[("here", &[]), ("there", &["--price", "cpu_hour=1"])]);
    let serving = world.project("serving", SERVICES, &[("serve.py", SERVE)]);
    let services = world.submit(&serving);
    world.wait_run(&services, &["serving"]);
    let files = [("count.sh", COUNT)];
    let jobs = world.submit(&world.project("counting", JOBS, &files));
    world.wait_mark("one", 3);
    world.wait_mark("two", 3);
    assert!(sites_of(&world, &services).iter().chain(&sites_of(&world, &jobs)).all(|site| site == "here"));

    let plan = world.json(&["site", "drain", "here", "--dry-run"]);
    assert_eq!((plan["state"].as_str(), plan["left"].as_u64()), (Some("open"), Some(6)), "{plan:#}");
    assert!(plan["workloads"].as_array().unwrap().iter().all(|row| row["state"] == "goes" && row["to"] == "there"));
    assert_eq!(row(&plan, &format!("{services}/a"))["method"], "switch");
    assert_eq!(row(&plan, &format!("{services}/c"))["method"], "checkpoint");
    assert!(sites_of(&world, &services).iter().all(|site| site == "here"), "a plan touches nothing");

    // Killed in the middle, it goes on.
    world.ok(&["site", "drain", "here", "--detach"]);
    world.kill_server();
    world.start_server();
    let left = poll(SOON, || {
        let seen = world.try_json(&["site", "drain", "here"])?;
        (seen["state"] == "drained").then_some(seen)
    });
    let left = left.unwrap_or_else(|| panic!("{}\n{}", world.json(&["move", "ls"]), world.logs()));
    assert!(left["workloads"].as_array().unwrap().iter().all(|row| row["state"] == "moved"), "{left:#}");
    assert!(sites_of(&world, &services).iter().chain(&sites_of(&world, &jobs)).all(|site| site == "there"));
    let listed = world.ok(&["site", "ls"]);
    assert!(listed.contains("up, drained"), "{listed}");

    // Nothing new is placed there, nor moved.
    refused(&world, &["move", "one", "--to", "here"], "is draining");
    let moves = world.json(&["move", "ls", "one"]);
    assert_eq!(moves[0]["why"], "here is drained by admin", "{moves:#}");

    let home = world.json(&["site", "undrain", "here"]);
    assert!(row(&home, &format!("{services}/a"))["why"].as_str().unwrap().contains("a drain of here had moved it"));
    wait(SOON, "all to come home", || {
        let all = sites_of(&world, &services).into_iter().chain(sites_of(&world, &jobs));
        all.into_iter().all(|site| site == "here").then_some(())
    });
    refused(&world, &["site", "undrain", "here"], "it is not being drained");
    wait(SOON, "the moves to be over", || {
        let moves = world.json(&["move", "ls"]);
        moves.as_array().unwrap().iter().all(|one| one["stage"] == "done").then_some(())
    });
    world.let_go("one");
    world.let_go("two");
    world.wait_run(&jobs, &["succeeded"]);
    counted_once(&world, "one");
    counted_once(&world, "two");
    assert_eq!(world.view(&services)["state"], "serving");
    assert!(!Path::new(&world.path("site/there/state")).join(&jobs).join("one.aside").exists());
}

#[test]
fn what_can_t_leave_stays_and_says_why() {
    let world = World::with_sites(&[("here", &[]), ("there", &["--price", "cpu_hour=1"])]);
    let yaml = "
project: staying
stages:
  forget: { run: 'sh forget.sh' }
  pinned: { run: 'sh count.sh pinned', site: here }
";
    let files = [("forget.sh", FORGETFUL), ("count.sh", COUNT)];
    let run = world.submit(&world.project("staying", yaml, &files));
    world.wait_mark("forget", 1);
    world.wait_mark("pinned", 1);
    let plan = world.json(&["site", "drain", "here", "--dry-run"]);
    let pinned = row(&plan, &format!("{run}/pinned"));
    assert_eq!((pinned["state"].as_str(), pinned["rule"].as_str()), (Some("stays"), Some("selector")), "{plan:#}");

    let done = world.cli(&["site", "drain", "here", "--deadline", "8s"]);
    assert!(done.code == 1 && done.err.contains("2 workloads are still at here"), "{done}");
    assert!(done.out.contains("no-state") && done.out.contains("selector"), "{done}");
    assert!(sites_of(&world, &run).iter().all(|site| site == "here"));
    assert_eq!(world.marks_of("forget").len(), 1, "nothing was begun anew");
    let listed = world.ok(&["ps", &run]);
    assert!(listed.contains("here was drained, and it stayed"), "{listed}");
    // With leave to begin anew it goes.
    world.ok(&["site", "drain", "here", "--restart-jobs", "--detach"]);
    world.wait_mark("forget", 2);
    assert_eq!(workload(&world.view(&run), "forget")["site"], "there");
    world.let_go("pinned");
    world.let_go("forget");
    world.wait_run(&run, &["succeeded"]);
    let left = world.json(&["site", "drain", "here"]);
    assert_eq!((left["state"].as_str(), left["left"].as_u64()), (Some("drained"), Some(0)), "{left:#}");
}

#[test]
fn wrong_words_about_sites_are_answered() {
    let world = World::with_sites(&[("here", &[]), ("there", &[])]);
    refused(&world, &["site", "drain", "nowhere"], "there is no site nowhere");
    refused(&world, &["site", "drain", "nowhere", "--dry-run"], "there is no site nowhere");
    refused(&world, &["site", "undrain", "here"], "it is not being drained");
    refused(&world, &["site", "set", "here", "--label", "maintenance=sunday"], "names no time");
    // An empty site is empty at once, and asking again is no fault.
    let first = world.json(&["site", "drain", "there"]);
    assert_eq!(first["state"], "drained", "{first:#}");
    assert_eq!(world.json(&["site", "drain", "there"])["state"], "drained");
    world.ok(&["site", "undrain", "there"]);
    world.ok(&["site", "revoke", "there"]);
    refused(&world, &["site", "drain", "there"], "site there is revoked");
    refused(&world, &["site", "undrain", "there"], "site there is revoked");
    let audit = world.json(&["audit"]);
    let what: Vec<&str> = audit.as_array().unwrap().iter().filter_map(|entry| entry["what"].as_str()).collect();
    assert!(what.contains(&"POST /v1/sites/there/drain") && what.contains(&"POST /v1/sites/there/undrain"), "{what:?}");
}

/// The label's time is now, whenever this is read: every day, all day.
#[test]
fn a_label_drains_and_opens_by_itself() {
    let world = World::with_sites(&[("here", &[]), ("there", &["--price", "cpu_hour=1"])]);
    let serving = world.project("serving", SERVICES, &[("serve.py", SERVE)]);
    let run = world.submit(&serving);
    world.wait_run(&run, &["serving"]);
    world.ok(&["site", "set", "here", "--label", "maintenance=00:00-24:00"]);
    wait(SOON, "the label to empty its site", || {
        (world.json(&["site", "show", "here"])["site"]["drain"]["state"] == "drained").then_some(())
    });
    assert!(sites_of(&world, &run).iter().all(|site| site == "there"));
    world.ok(&["site", "set", "here", "--label", "maintenance="]);
    wait(SOON, "all to come home", || sites_of(&world, &run).iter().all(|site| site == "here").then_some(()));
    let audit = world.json(&["audit"]);
    let by = |entry: &&Value| entry["who"] == "maintenance";
    let what: Vec<&Value> = audit.as_array().unwrap().iter().filter(by).map(|entry| &entry["what"]).collect();
    assert_eq!(what, ["undrain", "drain"], "the newest first");
}
