//! Golden sessions of commands that do what they are asked to, against a control plane and two sites: what stands in
//! `tests/cmd/sessions`. `INSTA_UPDATE=always` writes them anew.

use super::steady::steady;
use super::world::{Done, World};

const SITES: [(&str, &[&str]); 2] = [
    ("onprem", &["--label", "visibility=private", "--price", "cpu_hour=0.12", "--price", "egress_gib=0.02"]),
    ("cloud", &["--label", "visibility=public", "--price", "cpu_hour=0.04", "--price", "egress_gib=0.09"]),
];

/// Each stage waits for the one before, and only one of them prints, so that there is one order of what is said.
const RIDES: &str = r#"
project: rides
objective: cost
data:
  raw:
    path: rides.csv
    keep_at: onprem
    expect: { columns: { fare: { type: number, min: 0 } } }
stages:
  features:
    sql: SELECT zone, avg(fare) AS fare FROM raw GROUP BY zone ORDER BY zone
    in: [raw]
    out: [features]
    release: { features: averages only }
    duration: 5s
    resources: { cpus: 1, memory: 512MiB }
  train:
    run: echo training with a rate of $RATE; ls inputs/features > outputs/model/weights
    in: [features]
    out: [model]
    env: { RATE: "0.1" }
    duration: 1h
    resources: { cpus: 2, memory: 1GiB }
  test:
    run: echo '{"auc":0.75}' > outputs/evaluation/metrics.json
    in: [model]
    out: [evaluation]
    site: onprem
    duration: 1m
    resources: { cpus: 1 }
    gate: { metric: auc, file: metrics.json, at_least: 0.6 }
services:
  predict:
    run: exec python3 -m http.server "$PORT" --bind 127.0.0.1 --directory inputs/model > log 2>&1
    in: [model]
    site: cloud
    ready: /weights
    resources: { cpus: 0.5 }
"#;

/// Its second stage fails once.
const FLAKY: &str = r#"
project: flaky
stages:
  first: { run: 'echo 1 > outputs/one/one', out: [one], site: onprem }
  second: { run: 'test -e $TOMBOLO_STATE/tried || { touch $TOMBOLO_STATE/tried; echo no table; exit 3; }; echo 2 > outputs/two/two', in: [one], out: [two], site: onprem }
  third: { run: 'true', in: [two], site: onprem }
"#;

const LONG: &str = "
project: long
stages:
  wait: { run: 'while :; do sleep 0.05; done', out: [late], site: onprem }
  after: { run: 'true', in: [late], site: onprem }
";

const HOLLOW: &str = "
project: hollow
stages:
  empty: { run: 'true', out: [model], site: onprem }
";

const NOWHERE: &str = "
project: nowhere
stages:
  near: { run: 'true' }
  far:
    run: 'true'
    site: mars
";

/// What is typed and what it answers.
struct Session<'w> {
    world: &'w World,
    text: String,
}

impl Session<'_> {
    fn new<'w>(world: &'w World, about: &str) -> Session<'w> {
        Session { world, text: format!("{about}\n") }
    }

    /// `tombolo plan rides`, from the directory in which the projects are. Words are parted by single spaces.
    fn run(&mut self, line: &str) -> &mut Self {
        self.run_with(line, "")
    }

    fn run_with(&mut self, line: &str, stdin: &str) -> &mut Self {
        let args: Vec<&str> = line.split(' ').skip(1).collect();
        let mut command = self.world.program();
        command.args(args).current_dir(self.world.path("projects"));
        let Done { code, out, err } = self.world.finish(command, stdin);
        self.text += &format!("\n$ {line}\n");
        if code != 0 {
            self.text += &format!("? {code}\n");
        }
        // What is said comes before what is data, as their order in time is nobody's promise.
        self.text.extend(err.lines().map(|line| format!("2> {line}\n")));
        self.text += &out;
        self
    }

    fn check(&self, name: &str) {
        let mut settings = insta::Settings::new();
        settings.set_snapshot_path("../cmd/sessions");
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!(name, steady(&self.world.path(""), &self.text)));
    }
}

#[test]
fn golden_sessions_with_sites() {
    let world = World::with_sites(&SITES);
    world.project("rides", RIDES, &[("rides.csv", "zone,fare\na,4\na,6\nb,11\n")]);
    world.project("flaky", FLAKY, &[]);
    world.project("long", LONG, &[]);
    world.project("hollow", HOLLOW, &[]);
    world.project("nowhere", NOWHERE, &[]);
    runs(&world);
    data(&world);
    failures(&world);
    access(&world);
    sites(&world);
}

#[test]
fn golden_sessions_where_there_is_nothing_yet() {
    let world = World::start();
    std::fs::create_dir(world.path("projects")).unwrap();
    let mut session = Session::new(&world, "Listings of a control plane that was just started.");
    for line in [
        "ps",
        "ps --all",
        "logs",
        "data ls",
        "data ls --outputs",
        "site ls",
        "secret ls",
        "data verify",
        "data gc",
        "token ls",
        "audit",
    ] {
        session.run(&format!("tombolo {line}"));
    }
    for line in ["ps", "ps --all", "data ls", "data ls --outputs", "site ls", "secret ls", "data verify", "data gc"] {
        session.run(&format!("tombolo {line} --output json"));
    }
    session.check("nothing-yet");
}

fn runs(world: &World) {
    let mut session = Session::new(world, "A project from its plan to an endpoint.");
    session.run("tombolo plan rides");
    session.run("tombolo plan rides --output json");
    session.run("tombolo run rides");
    session.run("tombolo ps");
    session.run("tombolo ps rides --output json");
    session.run("tombolo logs train");
    session.run("tombolo logs rides-1 --tail 1");
    session.run("tombolo logs train --output json");
    session.run("tombolo plan rides-1");
    session.run("tombolo events rides-1");
    session.check("run");

    let mut session = Session::new(world, "The same again: what is unchanged isn't run again.");
    session.run("tombolo run rides --detach");
    world.wait_run("rides-2", &["serving"]);
    // What served before is told to end then.
    world.wait_run("rides-1", &["stopped"]);
    session.run("tombolo ps rides-2");
    session.run("tombolo ps --all");
    session.run("tombolo events rides-2");
    session.run("tombolo stop rides-2");
    world.wait_run("rides-2", &["stopped", "succeeded"]);
    session.run("tombolo ps");
    session.run("tombolo events rides-2");
    session.run("tombolo stop rides-1/predict");
    session.check("run-again");
}

fn data(world: &World) {
    let mut session = Session::new(world, "Datasets, their versions, and what runs have made.");
    std::fs::write(world.path("projects/more.csv"), "zone,fare\na,4\na,7\nb,11\nc,2\n").unwrap();
    std::fs::write(world.path("projects/once.csv"), "zone,fare\nd,4\n").unwrap();
    session.run("tombolo data add raw more.csv --keep-at onprem");
    session.run("tombolo data add raw more.csv --keep-at onprem --output json");
    session.run("tombolo data ls");
    session.run("tombolo data ls --output json");
    session.run("tombolo data show raw");
    session.run("tombolo data show raw@v1");
    session.run("tombolo data tag raw@v1 before");
    session.run("tombolo data diff raw@before raw");
    session.run("tombolo data diff raw@before raw --key zone,fare --output json");
    session.run("tombolo data where raw");
    session.run("tombolo data where raw --output json");
    session.run("tombolo data why raw cloud");
    session.run("tombolo data why rides/features cloud");
    session.run("tombolo data ls --outputs");
    session.run("tombolo data show rides/model");
    session.run("tombolo data show rides/model@1");
    session.run("tombolo data get rides/model@1 got");
    session.run("tombolo data prune raw --keep tagged --dry-run");
    session.run("tombolo data rm raw@v1");
    session.run("tombolo data tag --delete raw before");
    session.run("tombolo data rm raw@v1");
    session.run("tombolo data show raw --removed");
    session.run("tombolo data restore raw@v1");
    session.run("tombolo data add once more.csv");
    session.run("tombolo data add once once.csv");
    session.run("tombolo data rm once@v1");
    session.run("tombolo data show once");
    session.run("tombolo data where once");
    session.run("tombolo data prune once --keep tagged");
    session.run("tombolo data ls --outputs --project nosuch");
    session.run("tombolo data show once --removed");
    session.run("tombolo data show raw --removed");
    session.run("tombolo data show raw@v9");
    session.run("tombolo data verify --site onprem");
    session.run("tombolo data verify --site onprem --output json");
    session.run("tombolo data gc --site onprem");
    session.check("data");
}

fn failures(world: &World) {
    let mut session = Session::new(world, "A stage that fails and is tried again, and a run that is stopped.");
    session.run("tombolo run flaky");
    session.run("tombolo ps flaky");
    session.run("tombolo logs flaky/second");
    session.run("tombolo retry flaky");
    session.run("tombolo ps flaky");
    session.run("tombolo run flaky");
    session.run("tombolo plan flaky-2");
    session.run("tombolo logs flaky-2");
    session.run("tombolo logs flaky-2/second");
    session.run("tombolo retry flaky-2");
    session.run("tombolo run hollow");
    session.run("tombolo ps hollow");
    session.run("tombolo logs hollow/empty");
    session.run("tombolo events hollow");
    session.run("tombolo plan nowhere");
    session.run("tombolo run nowhere");
    session.run("tombolo run long --detach");
    world.wait_stage("long-1", "wait", &["running"]);
    session.run("tombolo ps long/wait");
    session.run("tombolo stop long-1");
    world.wait_run("long-1", &["stopped"]);
    session.run("tombolo ps long");
    session.run("tombolo retry long --detach --output json");
    session.run("tombolo retry rides");
    // Nothing of it is left where the next session looks.
    for run in ["long-1", "rides-2"] {
        world.ok(&["stop", run]);
        world.wait_run(run, &["stopped"]);
    }
    session.check("failures");
}

fn sites(world: &World) {
    let mut session = Session::new(world, "Sites and their links.");
    session.run("tombolo site ls");
    session.run("tombolo site ls --output json");
    session.run("tombolo site show cloud");
    session.run("tombolo site set cloud --price cpu_hour=0.05 --label region=eu");
    session.run("tombolo site set cloud --draining true");
    session.run("tombolo site set onprem --cpus 6 --output json");
    session.run("tombolo site link onprem cloud --bandwidth 100MB/s --latency 40ms");
    session.run("tombolo site link onprem cloud --limit 20MB/s --hours 08:00-18:00 --both");
    session.run("tombolo site show cloud");
    session.run("tombolo site token --site prod");
    session.run("tombolo site token --site prod --output json");
    session.run("tombolo site revoke cloud");
    session.run("tombolo site ls");
    session.check("sites");
}

fn access(world: &World) {
    let mut session = Session::new(world, "Who may do what, and who did.");
    session.run("tombolo token create ada --role viewer");
    session.run("tombolo token create ci --expires 30d --output json");
    session.run("tombolo token ls");
    session.run("tombolo token ls --output json");
    session.run_with("tombolo secret set db-password", "swordfish\n");
    session.run("tombolo secret ls");
    session.run("tombolo secret ls --output json");
    session.run("tombolo secret rm db-password");
    session.run("tombolo audit --limit 8");
    session.run("tombolo audit --limit 1 --output json");
    session.check("access");
}
