//! `Workload` resources: what kubectl applies is run by Tombolo, and says so.

use serde_json::{Value, json};

use super::{Clustered, world_with};
use crate::world::{SOON, wait};

fn resource(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "tombolo.dev/v1alpha1", "kind": "Workload", "metadata": {"name": name}, "spec": spec})
}

impl Clustered {
    /// A job that says with which text it ran, and may wait until the file `go` is there.
    fn job(&self, text: &str, waits: bool) -> Value {
        let wait = if waits { "; while ! test -e $(dirname $MARKS)/go; do sleep 0.2; done" } else { "" };
        let script = format!("echo {text} $TOMBOLO_RUN >> $MARKS; echo {text} > outputs/said/text{wait}\n");
        let script = script.replace("$MARKS", &self.marks().display().to_string());
        json!({"stage": {"run": "sh say.sh", "site": "cloud", "out": ["said"]}, "files": {"say.sh": script}})
    }

    fn resource(&self, name: &str) -> Value {
        serde_json::from_str(&self.cluster.say(&["get", "workload", name, "--output=json"])).unwrap_or(Value::Null)
    }

    fn wait_status(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        wait(SOON, &format!("the Workload {name} {what}"), || {
            Some(self.resource(name)["status"].clone()).filter(|status| is(status))
        })
    }

    fn wait_phase(&self, name: &str, phase: &str) -> Value {
        self.wait_status(name, &format!("is {phase}"), |status| status["phase"] == phase)
    }

    fn reasons(&self, name: &str) -> Vec<String> {
        let about = format!("--field-selector=involvedObject.kind=Workload,involvedObject.name={name}");
        let text = self.cluster.say(&["get", "events", &about, "--output=jsonpath={range .items[*]}{.reason} {end}"]);
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn runs_of(&self, project: &str) -> usize {
        let all = self.json(&["ps", "--all"]);
        all.as_array().unwrap().iter().filter(|run| run["project"] == project).count()
    }
}

#[test]
fn what_is_applied_runs_and_what_is_deleted_stops() {
    let Some(mut clustered) = world_with("resources", "cloud", &["--workloads"]) else { return };
    clustered.world.join("lab", &[]);
    let cluster = &clustered.cluster;

    // A job, as GitOps would have it: applied, waited for, read.
    cluster.apply(&resource("train", clustered.job("one", false)));
    cluster.ok(&["wait", "--for=condition=Complete", "workload/train", "--timeout=60s"]);
    let train = clustered.resource("train");
    assert_eq!(train["spec"]["suspend"], false, "what isn't said is filled in: {train:#}");
    let status = &train["status"];
    assert_eq!(
        (&status["run"], &status["site"], &status["observedGeneration"]),
        (&json!("train-1"), &json!("cloud"), &json!(1))
    );
    assert!(status["outputs"]["said"].is_string(), "{status:#}");
    assert_eq!(clustered.marks_of("one"), ["train-1"]);
    let table = cluster.ok(&["get", "workloads"]);
    let (head, row) = table.split_once('\n').unwrap();
    for (column, cell) in [("PHASE", "Succeeded"), ("SITE", "cloud"), ("RUN", "train-1")] {
        assert!(head.contains(column) && row.contains(cell), "{table}");
    }
    let reasons = clustered.reasons("train");
    for reason in ["Submitted", "Placed", "Succeeded"] {
        assert_eq!(reasons.iter().filter(|one| *one == reason).count(), 1, "{reason}: {reasons:?}");
    }

    // Another spec is another run, and the same one is not.
    cluster.apply(&resource("train", clustered.job("one", false)));
    cluster.apply(&resource("train", clustered.job("two", false)));
    clustered
        .wait_status("train", "has run again", |status| status["run"] == "train-2" && status["phase"] == "Succeeded");
    assert_eq!((clustered.marks_of("two").len(), clustered.runs_of("train")), (1, 2));

    // One that runs ends before its successor begins; one that is suspended stands still; one that goes on runs again.
    cluster.apply(&resource("long", clustered.job("three", true)));
    clustered.wait_phase("long", "Running");
    // A spec that is wrong takes nothing away, and nobody takes what goes on for what it asks for.
    cluster.apply(&resource("long", json!({"stage": {"runs": "true"}})));
    let status = clustered.wait_status("long", "is refused", |status| status["conditions"][0]["reason"] == "Refused");
    let generations = |at: usize| status["conditions"][at]["observedGeneration"].clone();
    assert_eq!((&status["phase"], generations(0), generations(1)), (&json!("Running"), json!(2), json!(1)));
    assert_eq!(clustered.view("long-1")["state"], "active");
    cluster.apply(&resource("long", clustered.job("four", true)));
    clustered.wait_status("long", "runs anew", |status| status["run"] == "long-2" && status["phase"] == "Running");
    assert_eq!(clustered.view("long-1")["state"], "stopped");
    cluster.ok(&["patch", "workload", "long", "--type=merge", "--patch={\"spec\":{\"suspend\":true}}"]);
    clustered.wait_phase("long", "Suspended");
    assert_eq!(clustered.view("long-2")["state"], "stopped");
    cluster.ok(&["patch", "workload", "long", "--type=merge", "--patch={\"spec\":{\"suspend\":false}}"]);
    clustered.wait_status("long", "goes on", |status| status["run"] == "long-3" && status["phase"] == "Running");
    cluster.ok(&["delete", "workload", "long"]);
    clustered.wait_run("long-3", &["stopped"]);

    // A service is ready, replaced by a newer one, and gone with its resource.
    let serve = |text: &str| {
        let run = format!("echo {text} > index.html; exec python3 -m http.server $PORT");
        json!({"project": "web", "service": {"run": run, "site": "cloud", "ready": "/"}})
    };
    cluster.apply(&resource("serve", serve("a")));
    cluster.ok(&["wait", "--for=condition=Ready", "workload/serve", "--timeout=60s"]);
    let status = clustered.resource("serve")["status"].clone();
    assert_eq!((&status["ready"], &status["run"]), (&json!("1/1"), &json!("web-1")));
    assert!(status["endpoint"].as_str().unwrap().contains("/web/serve"), "{status:#}");
    cluster.apply(&resource("serve", serve("b")));
    clustered.wait_status("serve", "is replaced", |status| status["run"] == "web-2" && status["phase"] == "Ready");
    clustered.wait_run("web-1", &["stopped"]);
    // One that can't be ready leaves the older one serving; deleted, both go.
    let ill = json!({"project": "web", "service": {"run": "exec sleep 600", "site": "cloud", "ready": "/never"}});
    cluster.apply(&resource("serve", ill));
    clustered.wait_status("serve", "runs the third", |status| status["run"] == "web-3");
    assert_eq!(clustered.view("web-2")["state"], "serving");
    // A second service of the project would end it.
    cluster.apply(&resource("other", json!({"project": "web", "service": {"run": "true"}})));
    let refused = clustered.wait_phase("other", "Refused");
    assert!(refused["message"].as_str().unwrap().contains("the service of the project web already"), "{refused:#}");
    cluster.ok(&["delete", "workload", "serve", "other"]);
    for run in ["web-2", "web-3"] {
        clustered.wait_run(run, &["stopped"]);
    }
}

/// What is wrong is said where somebody looks for it, and what ran goes on; what happens while the agent or the control plane
/// is away happens when they are back, once.
#[test]
fn what_is_wrong_with_a_workload_is_said_and_what_was_missed_is_made_up_for() {
    let Some(mut clustered) = world_with("resources-ill", "cloud", &["--workloads"]) else { return };
    clustered.world.join("lab", &[]);
    let both = resource("both", json!({"stage": {"run": "true"}, "service": {"run": "true"}}));
    let refused = clustered.cluster.refuse(&both);
    assert!(refused.contains("say one of stage and service"), "{refused}");
    let refused = clustered.cluster.refuse(&resource("typed", json!({"stage": {"run": "true"}, "suspend": "maybe"})));
    assert!(refused.contains("spec.suspend"), "{refused}");

    clustered.cluster.apply(&resource("odd", json!({"stage": {"runs": "true", "site": "cloud"}})));
    let status = clustered.wait_phase("odd", "Refused");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("runs") && message.contains("hint:"), "{message}");
    assert_eq!(status["conditions"][0]["status"], "False");
    assert!(clustered.reasons("odd").contains(&"Refused".to_owned()));
    clustered.cluster.apply(&resource(
        "odd",
        json!({"stage": {"run": "true", "in": ["raw"], "site": "cloud"}, "data": {"raw": {}}}),
    ));
    clustered.wait_status("odd", "says what dataset", |status| {
        status["message"].as_str().is_some_and(|message| message.contains("raw") && !message.contains("runs"))
    });
    clustered.cluster.apply(&resource("odd", clustered.job("odd", false)));
    clustered.wait_phase("odd", "Succeeded");

    // Its agent is killed; meanwhile one is deleted and another comes.
    for name in ["stays", "goes"] {
        clustered.cluster.apply(&resource(name, clustered.job(name, true)));
        clustered.wait_phase(name, "Running");
    }
    let agent = "--selector=app.kubernetes.io/name=tombolo";
    clustered.cluster.ok(&["scale", "deployment", "tombolo-cloud", "--replicas=0"]);
    clustered.cluster.ok(&["wait", "--for=delete", "pods", agent, "--timeout=60s"]);
    clustered.cluster.ok(&["delete", "workload", "goes"]);
    clustered.cluster.apply(&resource("comes", clustered.job("comes", false)));
    clustered.cluster.ok(&["scale", "deployment", "tombolo-cloud", "--replicas=1"]);
    clustered.wait_phase("comes", "Succeeded");
    clustered.wait_run("goes-1", &["stopped"]);
    assert_eq!(clustered.resource("stays")["status"]["phase"], "Running");

    // Without a control plane what runs goes on, and what comes waits for it.
    clustered.world.kill_server();
    clustered.cluster.apply(&resource("late", clustered.job("late", false)));
    let status =
        clustered.wait_status("late", "says who is away", |status| status["conditions"][0]["reason"] == "Unreachable");
    assert_eq!(status["phase"], "Pending");
    assert_eq!(clustered.resource("stays")["status"]["phase"], "Running");
    clustered.world.start_server();
    clustered.wait_phase("late", "Succeeded");
    clustered.let_go("go");
    clustered.wait_phase("stays", "Succeeded");
    for name in ["stays", "goes", "comes", "late"] {
        assert_eq!((clustered.runs_of(name), clustered.marks_of(name).len()), (1, 1), "{name}");
    }
}
