//! What a cluster says of a shim's Job and pod, as it is to be understood.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerState, Event, Pod};
use tombolo_core::sync::Outcome;

use super::job::CONTAINER;
use crate::driver::scheduled::Stands;

/// Reasons for which a container waits that no time mends.
const NEVER_STARTS: [&str; 2] = ["InvalidImageName", "ErrImageNeverPull"];
/// What a kubelet says of an image whose user the pod may not be, in small letters; what else keeps it from making a
/// container passes, as just after its start.
const WRONG_USER: [&str; 2] = ["runasnonroot", "non-numeric user"];
/// A container that could not be started.
const NOT_STARTED: [&str; 2] = ["StartError", "ContainerCannotRun"];
const NOT_PULLED: [&str; 3] = ["ErrImagePull", "ImagePullBackOff", "RegistryUnavailable"];
/// What registries and runtimes say where the image isn't there or may not be had, in small letters.
const NO_IMAGE: [&str; 7] = [
    "not found",
    "manifest unknown",
    "does not exist",
    "unauthorized",
    "authorization failed",
    "pull access denied",
    "invalid reference format",
];
/// Why something can't be placed or made, by the names of events.
const WARNINGS: [&str; 5] =
    ["FailedCreate", "FailedScheduling", "FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"];
/// How often a pod has to be refused for the same reason until that is taken for the last word.
const REFUSALS_MAX: i32 = 3;

/// What a placement was submitted with, as far as its states are to be understood.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    pub memory_bytes: u64,
}

/// How a Job and its pod stand; either may not have been seen, or be gone.
pub fn stands(job: Option<&Job>, pod: Option<&Pod>, asked: &Asked) -> Stands {
    match (job, pod) {
        (_, Some(pod)) => of_pod(pod, asked),
        (Some(job), None) => of_job(job),
        (None, None) => Stands::Over(None),
    }
}

/// Whether the cluster will do nothing more with a Job.
pub fn is_over(job: &Job) -> bool {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ends = ["Failed", "Complete", "FailureTarget", "SuccessCriteriaMet"];
    conditions.into_iter().any(|one| one.status == "True" && ends.contains(&&*one.type_))
}

fn of_job(job: &Job) -> Stands {
    let spec = job.spec.as_ref();
    if spec.and_then(|spec| spec.suspend) == Some(true) {
        let labels = job.metadata.labels.iter().flatten();
        let queue = labels.into_iter().find(|(label, _)| label.starts_with("kueue.")).map(|(_, queue)| queue);
        return Stands::Waits(match queue {
            Some(queue) => format!("its Job waits in the queue {queue}"),
            None => "its Job is suspended".to_owned(),
        });
    }
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ended = conditions.into_iter().find(|one| one.status == "True" && matches!(&*one.type_, "Failed" | "Complete"));
    match ended {
        // The pod that it had is gone.
        Some(ended) if ended.type_ == "Failed" => {
            let why = ended.message.clone().or_else(|| ended.reason.clone()).unwrap_or_default();
            Stands::Over(Some(Outcome::Evicted { why: format!("its pod was deleted: {why}") }))
        }
        Some(_) => Stands::Over(None),
        None if job.metadata.deletion_timestamp.is_some() => Stands::Over(None),
        None => Stands::Waits("its Job has no pod yet".to_owned()),
    }
}

fn of_pod(pod: &Pod, asked: &Asked) -> Stands {
    let status = pod.status.as_ref();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let statuses = status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let state = statuses.into_iter().find(|one| one.name == CONTAINER).and_then(|one| one.state.as_ref());
    // Whatever else is in the pod: nothing is started in it again.
    if state.is_some_and(|state| state.terminated.is_some()) {
        return Stands::Over(ended(pod, name, state, asked));
    }
    match status.and_then(|status| status.phase.as_deref()).unwrap_or("Pending") {
        "Pending" => waits(pod, state),
        "Succeeded" | "Failed" => Stands::Over(ended(pod, name, state, asked)),
        // `Unknown` too: the node doesn't answer, and what runs there may be well.
        _ => Stands::Has,
    }
}

fn waits(pod: &Pod, state: Option<&ContainerState>) -> Stands {
    if let Some(waiting) = state.and_then(|state| state.waiting.as_ref())
        && let Some(reason) = &waiting.reason
    {
        let said = waiting.message.clone().unwrap_or_default();
        let image = pod.spec.as_ref().and_then(|spec| spec.containers.first()).and_then(|one| one.image.clone());
        let image = image.unwrap_or_default();
        let pulled = !NOT_PULLED.contains(&&**reason);
        let small = said.to_lowercase();
        if WRONG_USER.iter().any(|word| small.contains(word)) {
            let why = format!(
                "its pod can't be a user that the image {image} knows: {said}\nhint: say in the site file which user pods are \
                 (kubernetes: {{user: 1000}}), or take an image that needs none"
            );
            return Stands::Over(Some(Outcome::Unprepared { why }));
        }
        if NEVER_STARTS.contains(&&**reason) || (!pulled && NO_IMAGE.iter().any(|word| small.contains(word))) {
            let why = format!(
                "its pod can't start with the image {image}: {said} ({reason})\nhint: name an image that the cluster's nodes can \
                 pull (`image:`), with its registry and tag; registries that ask for a password need `pull_secrets` in the site file"
            );
            return Stands::Over(Some(Outcome::Unprepared { why }));
        }
        if !pulled {
            return Stands::Waits(format!("its pod can't get the image {image}: {said} ({reason})"));
        }
        return Stands::Waits(match &**reason {
            "ContainerCreating" => "its pod is being made".to_owned(),
            _ => format!("its pod waits: {said} ({reason})"),
        });
    }
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let unplaced = conditions.into_iter().find(|one| one.type_ == "PodScheduled" && one.status == "False");
    match unplaced.and_then(|one| one.message.clone().or_else(|| one.reason.clone())) {
        Some(why) => Stands::Waits(format!("no node takes its pod: {why}")),
        None => Stands::Waits("its pod waits for a node".to_owned()),
    }
}

/// What the cluster knows of a pod's end that its shim can't have written down.
fn ended(pod: &Pod, name: &str, state: Option<&ContainerState>, asked: &Asked) -> Option<Outcome> {
    let status = pod.status.as_ref()?;
    let terminated = state.and_then(|state| state.terminated.as_ref());
    if terminated.and_then(|one| one.reason.as_deref()) == Some("OOMKilled") {
        return Some(Outcome::OutOfMemory { limit_bytes: asked.memory_bytes });
    }
    let disrupted =
        status.conditions.iter().flatten().find(|one| one.type_ == "DisruptionTarget" && one.status == "True");
    let said = |message: &Option<String>, reason: &Option<String>| {
        message.clone().or_else(|| reason.clone()).unwrap_or_else(|| "the cluster gives no reason".to_owned())
    };
    if let Some(disrupted) = disrupted {
        let why = format!("its pod {name} was ended by the cluster: {}", said(&disrupted.message, &disrupted.reason));
        return Some(Outcome::Evicted { why });
    }
    match status.reason.as_deref() {
        Some("Evicted" | "Preempting" | "Terminated" | "NodeShutdown" | "Shutdown") => {
            let why = format!("its pod {name} was evicted: {}", said(&status.message, &status.reason));
            Some(Outcome::Evicted { why })
        }
        Some("NodeLost" | "NodeAffinity" | "UnexpectedAdmissionError" | "OutOfcpu" | "OutOfmemory" | "OutOfpods") => {
            let why = format!("its pod {name} was refused by its node: {}", said(&status.message, &status.reason));
            Some(Outcome::Evicted { why })
        }
        _ if pod.metadata.deletion_timestamp.is_some() => {
            Some(Outcome::Evicted { why: format!("its pod {name} was deleted") })
        }
        reason => {
            let Some(terminated) = terminated else {
                // Nothing of it was started, or nobody can say.
                let reason = status.message.as_deref().or(reason)?;
                return Some(Outcome::Evicted { why: format!("its pod {name} was ended by the cluster: {reason}") });
            };
            let message = terminated.message.as_deref().unwrap_or_default().trim();
            let unfit = terminated.reason.as_deref().is_some_and(|reason| NOT_STARTED.contains(&reason));
            if unfit || message.contains("GLIBC_") {
                let why = format!(
                    "its pod {name} could not start the shim: {message}\nhint: an image needs the C library of Debian 12 or \
                     later (glibc 2.36), and the processor of the agent's machine"
                );
                return Some(Outcome::Unprepared { why });
            }
            // A shim that could say nothing where it should: what it said instead.
            (terminated.exit_code != 0 && !message.is_empty())
                .then(|| Outcome::Lost { why: format!("its pod {name} ended: {message}") })
        }
    }
}

/// What the newest of these events says of why something has not come to be, and whether that will stay so.
pub fn warning<'a>(events: impl IntoIterator<Item = &'a Event>) -> Option<(String, bool)> {
    let told = events.into_iter().filter(|event| {
        event.type_.as_deref() == Some("Warning") && event.reason.as_deref().is_some_and(|r| WARNINGS.contains(&r))
    });
    let newest = told.max_by_key(|event| {
        let seen = event.last_timestamp.as_ref().map(|time| time.0);
        seen.or_else(|| event.metadata.creation_timestamp.as_ref().map(|time| time.0))
    });
    let newest = newest?;
    let message = newest.message.clone()?;
    // A quota that is used up has room again when something ends.
    let refused = newest.reason.as_deref() == Some("FailedCreate") && !message.contains("exceeded quota");
    Some((message, refused && newest.count.is_some_and(|count| count >= REFUSALS_MAX)))
}

/// Whether a refusal may be another one the next time.
pub fn may_pass(code: u16, message: &str) -> bool {
    // A quota that is used up now has room when something ends.
    let quota = code == 403 && message.contains("exceeded quota");
    // A key that is just being changed, and a role that is not there yet.
    let unknown = code == 401 || (code == 403 && message.contains(" cannot "));
    quota || unknown || code == 409 || code == 429 || code >= 500
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> Pod {
        let spec = json!({"containers": [{"name": CONTAINER, "image": "example.org/x:1"}]});
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec, "status": status})).unwrap()
    }

    fn state(phase: &str, state: Value) -> Value {
        let container = json!({
            "name": CONTAINER, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state
        });
        json!({"phase": phase, "containerStatuses": [container]})
    }

    fn of(status: Value) -> Stands {
        stands(None, Some(&pod(status)), &Asked { memory_bytes: 5 })
    }

    fn over(stands: Stands) -> Outcome {
        let Stands::Over(Some(outcome)) = stands else { panic!("{stands:?}") };
        outcome
    }

    #[test]
    fn a_pod_that_waits_says_why_in_the_clusters_words() {
        let unplaced = json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available"}
        ]});
        assert_eq!(of(unplaced), Stands::Waits("no node takes its pod: 0/1 nodes are available".to_owned()));
        let slow = state("Pending", json!({"waiting": {"reason": "ErrImagePull", "message": "connection refused"}}));
        assert!(matches!(of(slow), Stands::Waits(why) if why.contains("example.org/x:1") && why.contains("refused")));
    }

    #[test]
    fn an_image_that_is_not_there_is_not_waited_for() {
        for (reason, message) in [("ErrImagePull", "x: Not Found"), ("InvalidImageName", "couldn't parse")] {
            let status = state("Pending", json!({"waiting": {"reason": reason, "message": message}}));
            let outcome = over(of(status));
            assert!(matches!(&outcome, Outcome::Unprepared { why } if why.contains("example.org/x:1")), "{outcome}");
        }
    }

    #[test]
    fn ends_that_are_nobodys_failure_are_told_apart() {
        let killed = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        assert_eq!(over(of(state("Failed", killed))), Outcome::OutOfMemory { limit_bytes: 5 });
        let mut drained = state("Failed", json!({"terminated": {"exitCode": 0}}));
        drained["conditions"] =
            json!([{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]);
        assert!(matches!(over(of(drained)), Outcome::Evicted { why } if why.contains("EvictionByEvictionAPI")));
        let full = json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory"});
        assert!(matches!(over(of(full)), Outcome::Evicted { why } if why.contains("low on memory")));
        let said = json!({"terminated": {"exitCode": 128, "reason": "StartError", "message": "no such file"}});
        assert!(matches!(over(of(state("Failed", said))), Outcome::Unprepared { why } if why.contains("no such file")));
        let said = json!({"terminated": {"exitCode": 1, "reason": "Error", "message": "the directory is gone"}});
        assert!(matches!(over(of(state("Failed", said))), Outcome::Lost { why } if why.contains("is gone")));
        let refused = json!({"phase": "Failed", "reason": "OutOfexample.com/gpu", "message": "no GPU is free"});
        assert!(matches!(over(of(refused)), Outcome::Evicted { why } if why.contains("no GPU is free")));
        // Whatever runs beside it.
        let beside = state("Running", json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}));
        assert!(matches!(over(of(beside)), Outcome::OutOfMemory { .. }));
        assert_eq!(of(state("Succeeded", json!({"terminated": {"exitCode": 0}}))), Stands::Over(None));
    }

    #[test]
    fn a_node_that_does_not_answer_ends_nothing() {
        assert_eq!(of(json!({"phase": "Unknown"})), Stands::Has);
        let mut leaving = pod(state("Running", json!({"running": {}})));
        leaving.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        assert_eq!(stands(None, Some(&leaving), &Asked::default()), Stands::Has);
    }

    #[test]
    fn a_job_without_a_pod_waits_or_has_lost_it() {
        let job = |spec: Value, status: Value| -> Job {
            let labels = json!({"kueue.x-k8s.io/queue-name": "ml"});
            let spec = json!({"template": {}, "suspend": spec});
            serde_json::from_value(json!({"metadata": {"labels": labels}, "spec": spec, "status": status})).unwrap()
        };
        let of = |job: Job| stands(Some(&job), None, &Asked::default());
        assert_eq!(of(job(json!(true), json!({}))), Stands::Waits("its Job waits in the queue ml".to_owned()));
        assert!(matches!(of(job(json!(false), json!({}))), Stands::Waits(_)));
        let failed = json!({"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]});
        assert!(matches!(over(of(job(json!(false), failed))), Outcome::Evicted { .. }));
        assert_eq!(stands(None, None, &Asked::default()), Stands::Over(None));
    }

    #[test]
    fn only_what_can_change_is_tried_again() {
        assert!(may_pass(403, "jobs is forbidden: exceeded quota: small"));
        assert!(may_pass(500, "") && may_pass(429, ""));
        assert!(may_pass(401, "") && may_pass(403, "User \"x\" cannot create resource \"jobs\""));
        assert!(!may_pass(403, "violates PodSecurity") && !may_pass(422, "") && !may_pass(404, ""));
    }

    #[test]
    fn a_kubelet_that_has_just_started_is_waited_for_and_a_wrong_user_is_not() {
        let waiting = |message: &str| {
            state("Pending", json!({"waiting": {"reason": "CreateContainerConfigError", "message": message}}))
        };
        assert!(matches!(of(waiting("services have not yet been read at least once")), Stands::Waits(_)));
        let root = over(of(waiting("container has runAsNonRoot and image will run as root")));
        assert!(matches!(&root, Outcome::Unprepared { why } if why.contains("user:")), "{root}");
    }

    #[test]
    fn a_pod_that_is_refused_again_and_again_is_given_up_unless_a_quota_is_full() {
        let event = |message: &str, count: i32| -> Event {
            serde_json::from_value(json!({
                "metadata": {}, "involvedObject": {}, "type": "Warning", "reason": "FailedCreate", "message": message,
                "count": count
            }))
            .unwrap()
        };
        assert_eq!(warning([&event("violates PodSecurity", 1)]), Some(("violates PodSecurity".to_owned(), false)));
        assert_eq!(warning([&event("violates PodSecurity", 3)]), Some(("violates PodSecurity".to_owned(), true)));
        assert!(!warning([&event("exceeded quota: q", 9)]).unwrap().1);
    }
}
