//! What a `Workload` is told of itself: its status, and events where it changes.

use serde_json::{Map, Value, json};
use tombolo_api::wire::{RunView, WorkloadView};

use super::resource::Wanted;

/// Longest message in a status and in an event, in characters; the cluster takes 1 KiB in an event.
const MESSAGE_CHARS_MAX: usize = 900;

/// An event beside a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Whether it is a `Warning`.
    pub warns: bool,
    pub reason: &'static str,
    pub note: String,
}

/// What there is to say.
pub enum Seen<'a> {
    /// Its run stands like this; `current` where it is of what the resource says now.
    Run { run: &'a RunView, current: bool },
    /// It is not submitted: it is wrong, or the control plane refuses it; an older run may go on.
    Refused { why: &'a str, run: Option<&'a RunView> },
    /// Nobody can be asked; what was known stays.
    Unreachable(&'a str),
    /// It stands still and has no run.
    Suspended,
}

/// The status as it is to be, `now` being RFC 3339.
pub fn status(wanted: &Wanted, seen: &Seen<'_>, now: &str) -> Value {
    let before = &wanted.status;
    let mut status = match seen {
        Seen::Run { run, .. } | Seen::Refused { run: Some(run), .. } => of_run(wanted, run),
        // Whatever it had before goes on.
        Seen::Refused { run: None, .. } | Seen::Unreachable(_) => before.as_object().cloned().unwrap_or_default(),
        Seen::Suspended => Map::new(),
    };
    let phase = status.get("phase").and_then(Value::as_str).unwrap_or("Pending").to_owned();
    let phase = match seen {
        Seen::Refused { run: None, .. } if !before["run"].is_string() => "Refused".to_owned(),
        Seen::Suspended => "Suspended".to_owned(),
        _ => phase,
    };
    let accepted = match seen {
        Seen::Run { .. } | Seen::Suspended => ("True", "Submitted", String::new()),
        Seen::Refused { why, .. } => ("False", "Refused", short(why)),
        Seen::Unreachable(why) => ("Unknown", "Unreachable", short(why)),
    };
    match seen {
        Seen::Refused { why, .. } | Seen::Unreachable(why) => status.insert("message".to_owned(), short(why).into()),
        Seen::Run { .. } | Seen::Suspended => None,
    };
    let observed = match seen {
        Seen::Unreachable(_) | Seen::Run { current: false, .. } => before["observedGeneration"].clone(),
        _ => wanted.generation.into(),
    };
    let done = if wanted.is_job() { ("Complete", "Succeeded") } else { ("Ready", "Ready") };
    let is_done = if phase == done.1 { "True" } else { "False" };
    // What has been reached is of the spec that was submitted, also where a newer one is refused.
    let was = before["conditions"].as_array().and_then(|all| all.iter().find(|one| one["type"] == done.0));
    let of = match seen {
        Seen::Run { current: true, .. } | Seen::Suspended => wanted.generation.into(),
        _ => was.map(|was| was["observedGeneration"].clone()).unwrap_or_default(),
    };
    let reached = condition(before, &of, (done.0, is_done), (&phase, ""), now);
    let accepted = condition(before, &observed, ("Accepted", accepted.0), (accepted.1, &accepted.2), now);
    status.insert("phase".to_owned(), phase.into());
    status.insert("conditions".to_owned(), json!([accepted, reached]));
    if !observed.is_null() {
        status.insert("observedGeneration".to_owned(), observed);
    }
    status.into()
}

fn of_run(wanted: &Wanted, run: &RunView) -> Map<String, Value> {
    let mut status = Map::new();
    let mut put = |name: &str, value: Value| {
        if !value.is_null() && value != "" {
            status.insert(name.to_owned(), value);
        }
    };
    let all = &run.workloads;
    let phase = all.iter().map(|one| phase(one, wanted.spec.suspend)).max_by_key(|phase| rank(phase));
    put("phase", phase.unwrap_or("Pending").into());
    put("run", run.id.as_str().into());
    let mut sites: Vec<&str> = all.iter().filter_map(|one| one.site.as_deref()).collect();
    sites.dedup();
    put("site", sites.join(",").into());
    put("epoch", all.iter().map(|one| one.epoch).max().into());
    put("message", short(all.iter().find_map(|one| one.why.as_deref()).unwrap_or_default()).into());
    put("endpoint", all.iter().find_map(|one| one.urls.first()).map(|url| url.url.clone()).into());
    put("submittedAt", rfc3339(run.at).into());
    put("endedAt", run.ended.and_then(rfc3339).into());
    if !wanted.is_job() {
        let ready = all.iter().filter(|one| one.state == "ready").count();
        put("ready", format!("{ready}/{}", all.len()).into());
    }
    let outputs = all.iter().flat_map(|one| &one.outputs);
    let outputs: Map<String, Value> =
        outputs.map(|(name, output)| (name.clone(), output.version.as_str().into())).collect();
    if !outputs.is_empty() {
        put("outputs", outputs.into());
    }
    status
}

fn phase(one: &WorkloadView, suspended: bool) -> &'static str {
    match one.state.as_str() {
        "placed" | "preparing" => "Starting",
        "running" => "Running",
        "ready" => "Ready",
        "backoff" => "Backoff",
        "succeeded" | "cached" => "Succeeded",
        "failed" | "skipped" => "Failed",
        "stopped" if suspended => "Suspended",
        "stopped" => "Stopped",
        _ => "Pending",
    }
}

/// Of several replicas the one that is the furthest from what is wanted speaks for all.
fn rank(phase: &str) -> usize {
    const ORDER: [&str; 9] =
        ["Succeeded", "Ready", "Running", "Starting", "Pending", "Suspended", "Stopped", "Backoff", "Failed"];
    ORDER.iter().position(|one| *one == phase).unwrap_or_default()
}

/// `kind` with whether it holds, why with a message. It says for which generation: whoever waits for a condition waits for
/// the one of what they have applied.
fn condition(
    before: &Value,
    observed: &Value,
    (kind, is): (&str, &str),
    (reason, message): (&str, &str),
    now: &str,
) -> Value {
    let was = before["conditions"].as_array().and_then(|all| all.iter().find(|one| one["type"] == kind));
    let since = was.filter(|was| was["status"] == is).map(|was| was["lastTransitionTime"].clone());
    let mut condition = json!({
        "type": kind, "status": is, "reason": reason, "message": message,
        "lastTransitionTime": since.unwrap_or_else(|| now.into())
    });
    if !observed.is_null() {
        condition["observedGeneration"] = observed.clone();
    }
    condition
}

/// Whether two differ in more than the words of their messages, which may count seconds.
pub fn differ(before: &Value, after: &Value) -> bool {
    let wordless = |status: &Value| {
        let mut status = status.clone();
        if let Some(fields) = status.as_object_mut() {
            fields.remove("message");
        }
        status["conditions"].as_array_mut().into_iter().flatten().for_each(|one| one["message"] = Value::Null);
        status
    };
    wordless(before) != wordless(after)
}

/// What somebody who describes the resource is told of a change.
pub fn events(before: &Value, after: &Value) -> Vec<Told> {
    let text = |status: &Value, name: &str| status[name].as_str().unwrap_or_default().to_owned();
    let changed = |name: &str| before[name] != after[name] && !after[name].is_null();
    let mut told = Vec::new();
    let mut say = |warns, reason, note: String| told.push(Told { warns, reason, note });
    let run = text(after, "run");
    if changed("run") {
        say(false, "Submitted", format!("it is the run {run}"));
    }
    if changed("site") || (changed("epoch") && after["site"].is_string()) {
        say(false, "Placed", format!("at {}, epoch {}", text(after, "site"), after["epoch"]));
    }
    let accepted = |status: &Value| status["conditions"][0]["reason"].as_str().unwrap_or_default().to_owned();
    let message = text(after, "message");
    let refused = accepted(after) == "Refused";
    // Once for each spec: the words may differ from one try to the next.
    if refused && (accepted(before) != "Refused" || before["observedGeneration"] != after["observedGeneration"]) {
        say(true, "Refused", message.clone());
    }
    if accepted(after) == "Unreachable" && accepted(before) != "Unreachable" {
        say(true, "Unreachable", message.clone());
    }
    if changed("phase") {
        let with = |what: &str| if message.is_empty() { what.to_owned() } else { format!("{what}: {message}") };
        match text(after, "phase").as_str() {
            "Running" => say(false, "Running", run),
            "Ready" => say(false, "Ready", text(after, "endpoint")),
            "Succeeded" => say(false, "Succeeded", run),
            "Failed" => say(true, "Failed", with(&run)),
            "Backoff" => say(true, "Backoff", with(&run)),
            "Stopped" => say(false, "Stopped", run),
            "Suspended" => say(false, "Suspended", run),
            _ => {}
        }
    }
    told
}

fn rfc3339(ms: i64) -> Option<String> {
    jiff::Timestamp::from_millisecond(ms).ok()?.round(jiff::Unit::Second).ok().map(|at| at.to_string())
}

fn short(text: &str) -> String {
    match text.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::resource::tests::wanted;
    use super::*;

    const NOW: &str = "2026-11-30T00:00:00Z";

    fn run(states: &[(&str, Option<&str>)]) -> RunView {
        let one = |(state, site): &(&str, Option<&str>)| json!({"id": "r-1/x", "name": "x", "kind": "job", "state": state, "site": site, "epoch": 1, "inputs": {}, "outputs": {}, "attempts": []});
        let all: Vec<Value> = states.iter().map(one).collect();
        let view =
            json!({"id": "r-1", "project": "r", "state": "active", "by": "x", "at": 0, "code": "", "workloads": all});
        serde_json::from_value(view).unwrap()
    }

    #[test]
    fn a_job_goes_through_its_phases_and_each_is_told_once() {
        let mut job = wanted(1, json!({"stage": {"run": "x"}}));
        let mut reasons = Vec::new();
        for (state, site) in [
            ("queued", None),
            ("placed", Some("cloud")),
            ("running", Some("cloud")),
            ("running", Some("cloud")),
            ("succeeded", Some("cloud")),
        ] {
            let after = status(&job, &Seen::Run { run: &run(&[(state, site)]), current: true }, NOW);
            reasons.extend(events(&job.status, &after).into_iter().map(|told| told.reason));
            job.status = after;
        }
        assert_eq!(reasons, ["Submitted", "Placed", "Running", "Succeeded"]);
        let complete = &job.status["conditions"][1];
        assert_eq!((&complete["type"], &complete["status"]), (&json!("Complete"), &json!("True")));
        assert_eq!(job.status["observedGeneration"], 1);
        assert_eq!(job.status["submittedAt"], "1970-01-01T00:00:00Z");
    }

    #[test]
    fn a_service_is_ready_when_all_of_it_is() {
        let service = wanted(1, json!({"service": {"run": "x"}}));
        let of =
            |states: &[(&str, Option<&str>)]| status(&service, &Seen::Run { run: &run(states), current: true }, NOW);
        let half = of(&[("ready", Some("a")), ("preparing", Some("b"))]);
        assert_eq!((&half["phase"], &half["ready"], &half["site"]), (&json!("Starting"), &json!("1/2"), &json!("a,b")));
        assert_eq!(half["conditions"][1]["status"], "False");
        let all = of(&[("ready", Some("a")), ("ready", Some("a"))]);
        assert_eq!((&all["phase"], &all["conditions"][1]["status"]), (&json!("Ready"), &json!("True")));
    }

    #[test]
    fn what_is_refused_says_why_and_what_ran_goes_on() {
        let mut job = wanted(1, json!({"stage": {"run": "x"}}));
        let refused = status(&job, &Seen::Refused { why: "no such dataset", run: None }, NOW);
        assert_eq!((&refused["phase"], &refused["message"]), (&json!("Refused"), &json!("no such dataset")));
        assert!(events(&job.status, &refused).iter().any(|told| told.warns && told.reason == "Refused"));
        job.status = refused.clone();
        assert_eq!(events(&job.status, &status(&job, &Seen::Refused { why: "no such dataset", run: None }, NOW)), []);

        job.status = status(&job, &Seen::Run { run: &run(&[("running", Some("a"))]), current: true }, NOW);
        job.generation = 2;
        let refused = status(&job, &Seen::Refused { why: "bad", run: Some(&run(&[("running", Some("b"))])) }, NOW);
        assert_eq!(
            (&refused["phase"], &refused["run"], &refused["site"]),
            (&json!("Running"), &json!("r-1"), &json!("b"))
        );
        assert_eq!(refused["conditions"][0]["status"], "False");
        let generations = |at: usize| refused["conditions"][at]["observedGeneration"].clone();
        assert_eq!(
            (generations(0), generations(1)),
            (json!(2), json!(1)),
            "nobody takes the older one's end for this one's"
        );
    }

    /// Until the newer run is there, what is known is of what was applied before, and nobody takes its end for the newer's.
    #[test]
    fn an_older_run_says_of_which_generation_it_is() {
        let mut job = wanted(1, json!({"stage": {"run": "x"}}));
        let ended = run(&[("succeeded", Some("a"))]);
        job.status = status(&job, &Seen::Run { run: &ended, current: true }, NOW);
        job.generation = 2;
        let older = status(&job, &Seen::Run { run: &ended, current: false }, NOW);
        assert_eq!(
            (&older["observedGeneration"], &older["conditions"][1]["observedGeneration"]),
            (&json!(1), &json!(1))
        );
        assert_eq!(older["conditions"][1]["status"], "True");
        let newer = status(&job, &Seen::Run { run: &run(&[("queued", None)]), current: true }, NOW);
        assert_eq!(
            (&newer["conditions"][1]["observedGeneration"], &newer["conditions"][1]["status"]),
            (&json!(2), &json!("False"))
        );
    }

    #[test]
    fn a_control_plane_that_is_away_takes_nothing_back() {
        let mut job = wanted(1, json!({"stage": {"run": "x"}}));
        job.status = status(&job, &Seen::Run { run: &run(&[("running", Some("a"))]), current: true }, NOW);
        job.generation = 2;
        let away = status(&job, &Seen::Unreachable("it does not answer"), "2026-11-30T01:00:00Z");
        assert_eq!((&away["phase"], &away["observedGeneration"]), (&json!("Running"), &json!(1)));
        assert_eq!(away["conditions"][0]["lastTransitionTime"], "2026-11-30T01:00:00Z");
        assert_eq!(away["conditions"][1]["lastTransitionTime"], NOW);
    }

    #[test]
    fn words_alone_make_no_difference() {
        let job = wanted(1, json!({"stage": {"run": "x"}}));
        let of = |why: &str| status(&job, &Seen::Refused { why, run: None }, NOW);
        assert!(!differ(&of("in 3 s"), &of("in 2 s")));
        assert!(differ(&of("in 3 s"), &status(&job, &Seen::Suspended, NOW)));
        assert!(differ(&Value::Null, &of("x")));
        assert_eq!(events(&of("in 3 s"), &of("in 2 s")), []);
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert_eq!(short(&"ä".repeat(2000)).chars().count(), MESSAGE_CHARS_MAX + 1);
    }
}
