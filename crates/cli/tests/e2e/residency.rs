//! Data that must stay at one site, by every way that bytes go: none of its chunks is ever in another site's store.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use serde_json::{Value, json};
use tombolo_core::{Digest, VersionId};
use tombolo_data::{Store, StoreOptions};

use super::world::{SOON, World, noise, outputs, states, tree, wait, workload};

/// Work is dear at home, so that whatever may go away does.
const SITES: [(&str, &[&str]); 2] = [
    ("home", &["--label", "zone=inner", "--price", "cpu_hour=9"]),
    ("away", &["--label", "zone=outer", "--price", "cpu_hour=0.01"]),
];

/// `copy` leaves state behind and is tried again; `sum` lets a digest go; `seen` is what gets it.
const PROJECT: &str = r#"
project: guarded
objective: cost
data:
  named: { path: data/named.bin, keep_at: home }
  labelled: { path: data/labelled.bin, keep_at: { zone: inner } }
stages:
  copy:
    run: 'cat inputs/*/*.bin > outputs/table/t; if test ! -e "$TOMBOLO_STATE/s"; then tac inputs/named/named.bin > "$TOMBOLO_STATE/s"; exit 1; fi'
    in: [named, labelled]
    out: [table]
    retries: 1
  twice:
    run: 'echo "a line of $((6 * 7)) rows"; tac inputs/table/t > outputs/derived/d'
    in: [table]
    out: [derived]
  sum:
    run: 'sha256sum < inputs/derived/d > outputs/total/sum; cp inputs/derived/d outputs/kept/k'
    in: [derived]
    out: [total, kept]
    release: { total: 'one digest of it all' }
  look:
    run: 'cp inputs/total/sum outputs/seen/sum'
    in: [total]
    out: [seen]
    site: away
"#;

/// One request as anybody with a token can send it: the status and the answer.
fn ask(world: &World, token: &str, method: &str, path: &str, body: &Value) -> (u16, String) {
    let mut stream = TcpStream::connect(world.address()).unwrap();
    let body = body.to_string();
    let key = format!("{method}-{path}-{}", blake3_of(&body));
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nAuthorization: Bearer {token}\r\nIdempotency-Key: {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{method} {path}: {answer}")), answer)
}

/// Bodies apart from each other for idempotency keys.
fn blake3_of(text: &str) -> String {
    tombolo_data::manifest::version_of(text.as_bytes()).short()
}

fn store(world: &World, site: &str) -> Store {
    Store::open(world.site_dir(site).join("store"), StoreOptions::default()).unwrap()
}

/// The rule that the control plane has a version under, or nothing for what it doesn't know.
fn residency(world: &World, token: &str, version: VersionId) -> Option<String> {
    let (status, answer) = ask(world, token, "GET", &format!("/v1/versions/{version}"), &Value::Null);
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let info: Value = serde_json::from_str(body).unwrap();
    (status == 200).then(|| info["residency"].as_str().unwrap().to_owned())
}

/// The chunks of every version in home's store but those that may be anywhere: inputs, outputs, state, and whatever the
/// control plane doesn't know.
fn forbidden(world: &World, token: &str) -> BTreeSet<Digest> {
    let home = store(world, "home");
    let (mut stay, mut free) = (BTreeSet::new(), BTreeSet::new());
    for version in home.versions().unwrap() {
        let set = match residency(world, token, version).as_deref() {
            Some("anywhere") => &mut free,
            _ => &mut stay,
        };
        set.extend(home.manifest(version).unwrap().chunks().map(|chunk| chunk.digest));
    }
    stay.difference(&free).copied().collect()
}

/// Those of the chunks that a site's store holds.
fn held(world: &World, site: &str, chunks: &BTreeSet<Digest>) -> usize {
    let (home, at) = (store(world, "home"), store(world, site));
    let mut found = BTreeSet::new();
    for version in home.versions().unwrap() {
        let manifest = home.manifest(version).unwrap();
        let missing: BTreeSet<Digest> = at.missing(&manifest).unwrap().iter().map(|chunk| chunk.digest).collect();
        let here = manifest.chunks().map(|chunk| chunk.digest).filter(|digest| !missing.contains(digest));
        found.extend(here.filter(|digest| chunks.contains(digest)));
    }
    found.len()
}

fn contains(dir: &Path, bytes: &[u8]) -> bool {
    tree(dir).values().any(|file| file.windows(bytes.len()).any(|window| window == bytes))
}

/// A world in which the project ran once, with all that is needed to ask after it.
struct Guarded {
    world: World,
    dir: String,
    run: Value,
    /// Of an admin, and the one that somebody stole from a member.
    admin: String,
    stolen: String,
    named: Vec<u8>,
    /// Every chunk that was ever forbidden.
    chunks: BTreeSet<Digest>,
}

impl Guarded {
    fn start() -> Guarded {
        let world = World::with_sites(&SITES);
        let dir = world.project("guarded", PROJECT, &[]);
        let (named, labelled) = (noise(21, 400_000), noise(22, 300_000));
        fs::create_dir_all(format!("{dir}/data")).unwrap();
        fs::write(format!("{dir}/data/named.bin"), &named).unwrap();
        fs::write(format!("{dir}/data/labelled.bin"), &labelled).unwrap();
        let admin = fs::read_to_string(world.path("server/admin.token")).unwrap().trim().to_owned();
        let stolen = world.ok(&["token", "create", "mal", "--role", "member"]).trim().to_owned();
        let ran = world.cli(&["run", &dir, "--output", "json"]);
        assert_eq!(ran.code, 0, "{ran}\n{}", world.logs());
        let run = serde_json::from_str(&ran.out).unwrap();
        let mut guarded = Guarded { world, dir, run, admin, stolen, named, chunks: BTreeSet::new() };
        guarded.check("after the first run");
        guarded
    }

    /// None of the forbidden chunks is away, nor a piece of the bytes in any file there, work and logs included.
    fn check(&mut self, when: &str) {
        self.chunks.extend(forbidden(&self.world, &self.admin));
        assert!(self.chunks.len() >= 10, "{when}: {} chunks", self.chunks.len());
        let here = held(&self.world, "home", &self.chunks);
        assert!(here > 0, "{when}: the search finds nothing where it is");
        assert_eq!(held(&self.world, "away", &self.chunks), 0, "{when}: forbidden chunks are away");
        let piece = &self.named[150_000..150_064];
        assert!(!contains(&self.world.site_dir("away"), piece), "{when}: forbidden bytes are away");
    }

    fn audit(&self) -> Vec<Value> {
        self.world.json(&["audit", "--limit", "500"]).as_array().unwrap().clone()
    }

    fn refuses(&self, method: &str, path: &str, body: Value) {
        let (status, answer) = ask(&self.world, &self.stolen, method, path, &body);
        assert_eq!(status, 403, "{method} {path} {body}: {answer}");
        let refused = |entry: &Value| {
            entry["who"] == "mal" && entry["outcome"] == "refused" && entry["what"] == format!("{method} {path}")
        };
        assert!(self.audit().iter().any(refused), "{method} {path} is not in the audit log");
    }
}

#[test]
fn forbidden_chunks_stay_by_every_way_that_bytes_go() {
    let mut guarded = Guarded::start();
    let world = &guarded.world;
    let at = |stage: &str| workload(&guarded.run, stage)["attempts"].as_array().unwrap().clone();
    // State was left behind, and the second attempt had it where it may be.
    let sites: Vec<_> = at("copy").iter().map(|attempt| attempt["site"].clone()).collect();
    assert_eq!(sites, ["home", "home"], "{:#}", guarded.run);
    assert_eq!(at("look")[0]["site"], "away", "what was released is away: {:#}", guarded.run);
    assert_eq!(world.json(&["data", "where", "guarded/total"]), json!(["away", "home"]));

    let act = guarded.audit().into_iter().find(|entry| entry["what"] == "release").expect("the release is recorded");
    let detail = act["detail"].as_str().unwrap();
    assert!(detail.contains("home") && detail.ends_with("reason: one digest of it all"), "{act:#}");

    // Logs go through the control plane to whoever asks, on the record; none is kept on the way.
    let id = guarded.run["id"].as_str().unwrap().to_owned();
    assert!(world.ok(&["logs", &format!("{id}/twice")]).contains("a line of 42 rows"));
    let read =
        |entry: &Value| entry["on"] == format!("{id}/twice") && entry["detail"].as_str().unwrap().contains("home");
    assert!(guarded.audit().iter().any(read), "reading the log is not in the audit log");
    let (away, server) = (world.site_dir("away"), world.path("server"));
    for dir in [&away, &server] {
        assert!(!contains(dir, b"a line of 42 rows"), "{}", dir.display());
    }

    // Cached results, then all of it once more though nothing has changed, with every site there is.
    let again = world.cli(&["run", &guarded.dir, "--output", "json"]);
    assert_eq!(again.code, 0, "{again}");
    let again: Value = serde_json::from_str(&again.out).unwrap();
    assert_eq!(states(&again), "copy cached, look cached, sum cached, twice cached");
    assert_eq!(outputs(&again), outputs(&guarded.run));
    guarded.check("after a cached run");
    let world = &guarded.world;
    let forced = world.cli(&["run", &guarded.dir, "--force"]);
    assert_eq!(forced.code, 0, "{forced}");
    for name in ["named", "labelled", "guarded/table", "guarded/derived", "guarded/kept"] {
        let refused = world.cli(&["data", "get", name, world.path("taken").to_str().unwrap(), "--site", "away"]);
        assert_eq!(refused.code, 2, "{name}: {refused}");
    }
    guarded.check("after a forced run and replicas that were asked for");

    // A label that is gone takes the leave with it, and none of it moves to where the planner would rather have it.
    let world = &guarded.world;
    world.ok(&["data", "gc"]);
    let held_back = PROJECT.replace("retries: 1", "retries: 1\n    site: away");
    let dir = world.project("held", &held_back.replace("project: guarded", "project: held"), &[]);
    fs::create_dir_all(format!("{dir}/data")).unwrap();
    for file in ["named.bin", "labelled.bin"] {
        fs::copy(format!("{}/data/{file}", guarded.dir), format!("{dir}/data/{file}")).unwrap();
    }
    let refused = world.cli(&["run", &dir]);
    assert_eq!(refused.code, 2, "{refused}");
    guarded.check("after a stage that was sent away");

    why_is_told(&guarded);

    // Released by hand it goes: the search that found nothing finds it now.
    let world = &guarded.world;
    let reason = "reviewed by the data office";
    world.ok(&["data", "release", "guarded/table", "--reason", reason]);
    let entries = guarded.audit();
    let entry = entries.iter().find(|entry| entry["what"].as_str().unwrap().ends_with("/release")).unwrap();
    let detail = entry["detail"].as_str().unwrap();
    assert!(detail.contains(reason) && detail.contains("home") && detail.contains("{zone: inner}"), "{entry:#}");
    world.ok(&["data", "get", "guarded/table", world.path("open").to_str().unwrap(), "--site", "away"]);
    assert!(held(world, "away", &guarded.chunks) > 0, "the search finds nothing where something is");
}

/// Which rule forbids what, by which way it came, and what was released.
fn why_is_told(guarded: &Guarded) {
    let world = &guarded.world;
    let why = world.json(&["data", "why", "guarded/derived", "away"]);
    assert_eq!((&why["allowed"], &why["partial"]), (&json!(false), &json!(false)), "{why:#}");
    let mut rules: Vec<String> = Vec::new();
    for rule in why["rules"].as_array().unwrap() {
        assert_eq!(rule["allows"], false);
        let names = rule["chain"].as_array().unwrap().iter().map(|step| step["name"].as_str().unwrap_or("?"));
        rules.push(format!("{}: {}", rule["keep_at"].as_str().unwrap(), names.collect::<Vec<_>>().join(" < ")));
    }
    rules.sort();
    assert_eq!(rules, ["home: derived < table < named", "{zone: inner}: derived < table < labelled"]);
    assert_eq!(world.json(&["data", "why", "guarded/derived", "home"])["allowed"], true);

    let why = world.json(&["data", "why", "guarded/total", "away"]);
    assert_eq!((&why["allowed"], &why["lifted"][0]["output"]), (&json!(true), &json!("total")), "{why:#}");
    let text = world.ok(&["data", "why", "guarded/total", "away"]);
    assert!(text.contains("may be at away") && text.contains("released total"), "{text}");

    let slip = world.cli(&["data", "why", "named", "awy"]);
    assert!(slip.code == 2 && slip.err.contains("did you mean away?"), "{slip}");
    let slip = world.cli(&["data", "why", "nammed", "away"]);
    assert!(slip.code == 2 && slip.err.contains("did you mean named?"), "{slip}");
}

#[test]
fn a_stolen_member_token_gets_nothing_out() {
    let mut guarded = Guarded::start();
    let world = &guarded.world;
    let info = world.json(&["data", "show", "named"])[0].clone();
    let version = info["version"].as_str().unwrap().to_owned();
    let derived = outputs(&guarded.run)["derived"].clone();
    let claim = |site: &str| {
        json!({ "version": version, "bytes": info["bytes"], "files": info["files"], "site": site,
                "dataset": "mine", "residency": [] })
    };

    // Sent away, said to be there, relabelled, released: by hand and by a project of one's own.
    for version in [&version, &derived] {
        guarded.refuses("POST", &format!("/v1/versions/{version}/replicas"), json!({ "site": "away" }));
        guarded.refuses("POST", &format!("/v1/versions/{version}/release"), json!({ "reason": "please" }));
    }
    guarded.refuses("POST", "/v1/versions", claim("away"));
    guarded.refuses("PATCH", "/v1/sites/away", json!({ "labels": { "zone": "inner" } }));
    guarded.refuses("PUT", "/v1/links/home/away", json!({}));
    guarded.refuses("POST", "/v1/sites/home/gc", json!({}));
    guarded.refuses("POST", "/v1/join-tokens", json!({ "site": "inner" }));
    guarded.refuses("POST", "/v1/tokens", json!({ "name": "more", "role": "admin" }));
    let refused = guarded.world.cli(&["run", &guarded.dir, "--token", &guarded.stolen]);
    assert_eq!(refused.code, 2, "{refused}");
    assert!(refused.err.contains("releases total") && refused.err.contains("hint:"), "{refused}");
    guarded.check("after all that is refused");

    // A second name for the bytes, under no rule, is taken, and lifts none.
    let world = &guarded.world;
    assert_eq!(ask(world, &guarded.stolen, "POST", "/v1/versions", &claim("home")).0, 201);
    guarded.refuses("POST", &format!("/v1/versions/{version}/replicas"), json!({ "site": "away" }));

    // Nor does removing every name first, so that the control plane has forgotten them while home still has the bytes.
    let world = &mut guarded.world;
    for name in ["mine", "named"] {
        let path = format!("/v1/datasets/{name}/versions/{version}");
        // A run that has just ended lets go of what it needs in its own time.
        wait(SOON, "the name is removed", || {
            (ask(world, &guarded.stolen, "DELETE", &path, &Value::Null).0 == 204).then_some(())
        });
    }
    let id: VersionId = version.parse().unwrap();
    assert_eq!(residency(world, &guarded.admin, id), None, "it is forgotten");
    world.kill_server();
    world.start_server();
    world.wait_site("home", "up");
    world.wait_site("away", "up");
    guarded.refuses(
        "POST",
        "/v1/versions",
        json!({ "dataset": "again", "version": version, "bytes": info["bytes"],
        "files": info["files"], "site": "away", "residency": [] }),
    );
    let mut again = claim("home");
    again["dataset"] = json!("again");
    assert_eq!(ask(&guarded.world, &guarded.stolen, "POST", "/v1/versions", &again).0, 201);
    assert_eq!(residency(&guarded.world, &guarded.admin, id).as_deref(), Some("home"), "it came back under its rules");
    guarded.refuses("POST", &format!("/v1/versions/{version}/replicas"), json!({ "site": "away" }));
    // And by what is brought back from among those that lost their names.
    let world = &guarded.world;
    assert_eq!(
        ask(world, &guarded.stolen, "DELETE", &format!("/v1/datasets/again/versions/{version}"), &Value::Null).0,
        204
    );
    assert_eq!(residency(world, &guarded.admin, id), None, "it is forgotten again");
    let back = json!({ "version": version, "reason": "none that is good" });
    // The site's line to the new control plane may take its time.
    wait(SOON, "it is brought back", || {
        (ask(world, &guarded.stolen, "POST", "/v1/datasets/again/restore", &back).0 == 201).then_some(())
    });
    assert_eq!(residency(world, &guarded.admin, id).as_deref(), Some("home"), "it came back under its rules");
    guarded.refuses("POST", &format!("/v1/versions/{version}/replicas"), json!({ "site": "away" }));
    guarded.check("after names were taken away and given anew");
}

/// Writes what it has read to its state, again and again until it is told to end, and logs it as an artifact.
const KEEP: &str = r#"
import os, shutil, signal, sys, time, urllib.request
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
data = open("inputs/named/named.bin", "rb").read()
url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow-artifacts/artifacts/"
headers = {"Authorization": "Bearer " + os.environ["MLFLOW_TRACKING_TOKEN"]}
lookup = url.replace("mlflow-artifacts/artifacts/", "mlflow/runs/get?run_id=" + os.environ["MLFLOW_RUN_ID"])
import json
run = json.load(urllib.request.urlopen(urllib.request.Request(lookup, headers=headers)))["run"]
place = run["info"]["artifact_uri"].split(":/", 1)[1].lstrip("/")
put = urllib.request.Request(url + place + "/all.bin", data, headers, method="PUT")
assert urllib.request.urlopen(put).status == 200
round = 0
while True:
    round += 1
    with open(os.environ["TOMBOLO_STATE"] + "/new", "wb") as file:
        file.write(data[::-1] + str(round).encode())
    os.replace(os.environ["TOMBOLO_STATE"] + "/new", os.environ["TOMBOLO_STATE"] + "/kept")
    if round == 1:
        print("kept", flush=True)
        open(os.environ["MARK"], "w").close()
    time.sleep(0.2)
"#;

/// A move takes copies of state along; what derives from data that must stay is refused by the rule's name before any is
/// taken, whoever asks. What a workload logs as an artifact stays at its site as well.
#[test]
fn neither_a_move_nor_an_artifact_takes_anything_out() {
    let world = World::with_sites(&SITES);
    let mark = world.path("kept");
    let yaml = format!(
        "project: keeping\nobjective: cost\ndata:\n  named: {{ path: data/named.bin, keep_at: home }}\nstages:\n  keep:\n    \
         run: 'python3 keep.py'\n    in: [named]\n    env: {{ MARK: '{}' }}\n",
        mark.display()
    );
    let dir = world.project("keeping", &yaml, &[("keep.py", KEEP)]);
    let named = noise(31, 500_000);
    fs::create_dir_all(format!("{dir}/data")).unwrap();
    fs::write(format!("{dir}/data/named.bin"), &named).unwrap();
    let admin = fs::read_to_string(world.path("server/admin.token")).unwrap().trim().to_owned();
    let stolen = world.ok(&["token", "create", "mal", "--role", "member"]).trim().to_owned();
    let run = world.submit(&dir);
    wait(SOON, "the stage has read its input and logged it", || mark.exists().then_some(()));

    let id = format!("{run}/keep");
    for args in [&["--quote"][..], &[], &["--method", "restart"], &["--detach"]] {
        let refused = world.cli(&[&["move", &id, "--to", "away"], args].concat());
        assert_eq!(refused.code, 2, "{refused}");
        assert!(refused.err.contains("keep") && refused.err.contains("home"), "{refused}");
    }
    let (status, answer) = ask(&world, &stolen, "POST", &format!("/v1/workloads/{id}/move"), &json!({ "to": "away" }));
    assert!((400..500).contains(&status), "{status}: {answer}");
    assert!(answer.contains("residency"), "the rule is named: {answer}");
    assert_eq!(workload(&world.view(&run), "keep")["site"], "home");

    // Its state, once it is over, is a version as any: it may be nowhere else, and nobody has it brought there.
    world.ok(&["stop", &run]);
    world.wait_run(&run, &["stopped"]);
    let chunks = forbidden(&world, &admin);
    let reversed: Vec<u8> = named.iter().rev().copied().collect();
    assert!(contains(&world.site_dir("home"), &reversed[1_000..1_064]), "its state is at home");
    // As large as it is, it is a version of the store, in which its bytes are those of the input.
    assert!(contains(&world.site_dir("home/artifacts"), b"tombolo-artifact 1\nstored "), "its artifact is at home");
    assert!(contains(&world.site_dir("home/store"), &named[150_000..150_064]));
    for at in [world.site_dir("away"), world.path("server")] {
        for piece in [&named[150_000..150_064], &reversed[1_000..1_064]] {
            assert!(!contains(&at, piece), "forbidden bytes are in {}", at.display());
        }
    }
    assert!(!chunks.is_empty() && held(&world, "home", &chunks) > 0);
    assert_eq!(held(&world, "away", &chunks), 0, "forbidden chunks are away");
}
