//! Artifacts by way of the control plane: where they may be read, and where people's are kept.

use serde_json::{Value, json};

use super::tracking::{admin, ask, send};
use super::world::{SOON, World, noise, wait};

/// Puts a file beside its run, and tells which run that was.
const PUT: &str = r#"
import json, os, sys, urllib.request
run = os.environ["MLFLOW_RUN_ID"]
headers = {"Authorization": "Bearer " + os.environ["MLFLOW_TRACKING_TOKEN"]}
point = {"run_id": run, "key": "m", "value": 1, "timestamp": 1}
url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/runs/log-metric"
assert urllib.request.urlopen(urllib.request.Request(url, json.dumps(point).encode(), headers)).status == 200
url = f"{os.environ['MLFLOW_TRACKING_URI']}/api/2.0/mlflow-artifacts/artifacts/1/{run}/artifacts/notes/a.txt"
text = "by " + os.environ["TOMBOLO_STAGE"] + " from " + os.environ["TOMBOLO_SITE"]
assert urllib.request.urlopen(urllib.request.Request(url, text.encode(), headers, method="PUT")).status == 200
open(f"outputs/{sys.argv[1]}/id", "w").write(run)
"#;

/// Reads what others have put, and tells what came of it.
const GET: &str = r#"
import json, os, urllib.error, urllib.request
headers = {"Authorization": "Bearer " + os.environ["MLFLOW_TRACKING_TOKEN"]}
base = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow-artifacts/artifacts"
def get(path):
    try:
        return urllib.request.urlopen(urllib.request.Request(base + path, None, headers)).read().decode()
    except urllib.error.HTTPError as error:
        return str(error.code) + " " + error.read().decode()
said = {}
for name in ["open", "kept"]:
    run = os.environ[name.upper()]
    said[name] = get(f"/1/{run}/artifacts/notes/a.txt")
    said[name + " list"] = get(f"?path=1/{run}/artifacts/notes")
open("outputs/said/json", "w").write(json.dumps(said))
"#;

fn output(world: &World, name: &str, file: &str) -> String {
    let into = world.path(&name.replace('/', "-"));
    world.ok(&["data", "get", name, &into.display().to_string()]);
    std::fs::read_to_string(into.join(file)).unwrap()
}

#[test]
fn artifacts_come_from_the_site_that_keeps_them_where_they_may_go() {
    let mut world = World::with_sites(&[("here", &[]), ("there", &[])]);
    let admin = admin(&world);
    let yaml = "
project: p
data:
  raw: { path: raw.csv, keep_at: here }
stages:
  open: { run: python3 put.py open-run, site: here, out: [open-run] }
  kept: { run: python3 put.py kept-run, site: here, in: [raw], out: [kept-run], release: { kept-run: 'a name' } }
";
    let files = [("raw.csv", "a\n1\n"), ("put.py", PUT)];
    let ran = world.cli(&["run", &world.project("p", yaml, &files)]);
    assert_eq!(ran.code, 0, "{ran}\n{}", world.logs());
    let (open, kept) = (output(&world, "p/open-run", "id"), output(&world, "p/kept-run", "id"));

    // A person reads what may be anywhere, and nothing else.
    let uri = |run: &str, path: &str| format!("/api/2.0/mlflow-artifacts/artifacts/1/{run}/artifacts/{path}");
    let list = |run: &str, path: &str| format!("/api/2.0/mlflow-artifacts/artifacts?path=1/{run}/artifacts{path}");
    let get = |uri: &str, token: &str| {
        let (status, body) = send(&world.address(), "GET", uri, token, b"");
        (status, String::from_utf8(body).unwrap())
    };
    assert_eq!(get(&uri(&open, "notes/a.txt"), &admin), (200, "by open from here".to_owned()));
    assert_eq!(get(&uri(&open, "notes/a.txt").replace("/api/", "/ajax-api/"), &admin).0, 200);
    let (status, listed) = get(&list(&open, "/notes"), &admin);
    assert!(status == 200 && listed.contains("\"file_size\":17"), "{listed}");
    for uri in [uri(&kept, "notes/a.txt"), list(&kept, "")] {
        let (status, why) = get(&uri, &admin);
        assert!(status == 403 && why.contains("PERMISSION_DENIED") && why.contains("here"), "{status} {why}");
    }
    for (uri, expected) in [
        (uri(&open, "notes/none"), 404),
        (uri(&"0".repeat(32), "a"), 404),
        (uri(&open, "../../x"), 400),
        (uri(&open, "%2e%2e/x"), 400),
        ("/api/2.0/mlflow-artifacts/artifacts/x".to_owned(), 400),
        ("/api/2.0/mlflow-artifacts/mpu/create/x".to_owned(), 501),
    ] {
        assert_eq!(get(&uri, &admin).0, expected, "{uri}");
        assert_eq!(get(&uri, "tbl_x").0, 401, "{uri}");
    }

    // A stage of another site reads the same.
    let yaml = format!(
        "project: q\nstages:\n  look: {{ run: python3 get.py, site: there, out: [said], env: {{ OPEN: '{open}', KEPT: '{kept}' }} }}\n"
    );
    let ran = world.cli(&["run", &world.project("q", &yaml, &[("get.py", GET)])]);
    assert_eq!(ran.code, 0, "{ran}\n{}", world.logs());
    let said: Value = serde_json::from_str(&output(&world, "q/said", "json")).unwrap();
    assert_eq!(said["open"], "by open from here");
    assert!(said["open list"].as_str().unwrap().contains("a.txt"), "{said:#}");
    for name in ["kept", "kept list"] {
        let text = said[name].as_str().unwrap();
        assert!(text.starts_with("403 ") && text.contains("may not come to there"), "{said:#}");
    }

    // What a person logs is kept at one of the sites, and comes back to the byte.
    let (_, made) = ask(&world, "POST", "runs/create", &admin, &json!({ "experiment_id": "1", "run_name": "mine" }));
    let mine = made["run"]["info"]["run_id"].as_str().unwrap().to_owned();
    let viewer: Value =
        serde_json::from_str(&world.ok(&["token", "create", "eve", "--role", "viewer", "--output", "json"])).unwrap();
    let viewer = viewer["token"].as_str().unwrap().to_owned();
    let whole = noise(7, 5 << 20);
    let at = uri(&mine, "model/weights.bin");
    assert_eq!(send(&world.address(), "PUT", &at, &viewer, &whole).0, 403);
    assert_eq!(send(&world.address(), "PUT", &at, &admin, &whole).0, 200);
    assert!(send(&world.address(), "GET", &at, &viewer, b"") == (200, whole), "what comes is what went");
    assert!(get(&list(&mine, "/model"), &viewer).1.contains("weights.bin"));
    assert_eq!(send(&world.address(), "DELETE", &at, &viewer, b"").0, 403);
    assert_eq!(send(&world.address(), "DELETE", &at, &admin, b"").0, 200);
    assert_eq!(send(&world.address(), "GET", &at, &admin, b"").0, 404);
    let audit = world.ok(&["audit", "--output", "json"]);
    assert!(audit.contains("DELETE /api/2.0/mlflow-artifacts"), "{audit}");

    // A site that is away is named, and has it when it is back.
    world.kill_agent("here");
    wait(SOON, "its site is away", || {
        let (status, why) = send(&world.address(), "GET", &uri(&open, "notes/a.txt"), &admin, b"");
        (status == 503 && String::from_utf8_lossy(&why).contains("here")).then_some(())
    });
    world.start_agent("here");
    wait(SOON, "it is back", || {
        (send(&world.address(), "GET", &uri(&open, "notes/a.txt"), &admin, b"").0 == 200).then_some(())
    });
}
