//! What is to be done about a `Workload`: of what is wanted, what was submitted and how that stands.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::resource::Wanted;

/// What was submitted for a `Workload`; kept in the site's directory, as the control plane knows of no resources.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub namespace: String,
    pub name: String,
    /// The newest that the control plane has taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Submitted>,
    /// Runs of before, which go on until the newest takes over from them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub older: Vec<String>,
    /// What may or may not have arrived: it is sent again, under the same key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<Sent>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Submitted {
    pub run: String,
    pub work: Work,
    /// Stopped because it was suspended.
    #[serde(default)]
    pub suspended: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    pub key: String,
    pub body: Value,
    pub work: Work,
}

/// What makes a difference to what runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    pub project: String,
    pub is_job: bool,
    pub digest: String,
}

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stands {
    /// Nobody could be asked.
    Unknown,
    Live,
    Stopped,
    /// Succeeded or failed.
    Ended,
    /// The control plane knows no such run.
    Gone,
}

impl Stands {
    pub fn is_over(self) -> bool {
        matches!(self, Stands::Stopped | Stands::Ended | Stands::Gone)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// As it should be.
    Keep,
    /// Submit what it says now.
    Begin,
    /// Take what was submitted before for what it says now.
    Adopt,
    /// Send again what may not have arrived.
    Resend,
    Stop,
    /// Nothing of it is left.
    Forget,
}

/// `wanted` is none where the resource was deleted; `stands` is of the run that was taken.
pub fn next(wanted: Option<&Wanted>, entry: Option<&Entry>, stands: Stands) -> Next {
    if entry.is_some_and(|entry| entry.sent.is_some()) {
        return Next::Resend;
    }
    let Some(was) = entry.and_then(|entry| entry.run.as_ref()) else {
        return match wanted {
            None => Next::Forget,
            Some(wanted) if known(wanted) => Next::Adopt,
            Some(wanted) if wanted.spec.suspend => Next::Keep,
            Some(_) => Next::Begin,
        };
    };
    if stands == Stands::Unknown {
        return Next::Keep;
    }
    let stop = |or| if stands.is_over() { or } else { Next::Stop };
    let Some(wanted) = wanted else { return stop(Next::Forget) };
    if wanted.spec.suspend {
        return stop(Next::Keep);
    }
    let work = wanted.work();
    if work != was.work {
        // Of a service the newer one replaces the older when it is ready.
        let replaces = !work.is_job && !was.work.is_job && work.project == was.work.project;
        return if replaces { Next::Begin } else { stop(Next::Begin) };
    }
    match (was.suspended, stands) {
        (true, Stands::Stopped | Stands::Gone) => Next::Begin,
        // It ends as it was told to before it may begin again.
        (true, Stands::Live) => Next::Stop,
        _ => Next::Keep,
    }
}

/// Whether it says itself what was submitted for it: what the site's directory has lost.
fn known(wanted: &Wanted) -> bool {
    wanted.status["run"].is_string()
}

/// Whether the run that its status names is of what it says now; else it counts as changed.
pub fn is_of_now(wanted: &Wanted) -> bool {
    let reached =
        wanted.status["conditions"].as_array().and_then(|all| all.iter().find(|one| one["type"] != "Accepted"));
    reached.is_some_and(|reached| reached["observedGeneration"] == wanted.generation)
}

#[cfg(test)]
mod tests {
    use super::super::resource::tests::wanted;
    use super::*;
    use serde_json::json;

    fn entry(of: &Wanted) -> Entry {
        let run = Submitted { run: "r".to_owned(), work: of.work(), suspended: false };
        Entry { namespace: "ml".to_owned(), name: "train".to_owned(), run: Some(run), older: Vec::new(), sent: None }
    }

    #[test]
    fn what_is_wanted_and_what_is_there_say_what_is_next() {
        let job = wanted(1, json!({"stage": {"run": "x"}}));
        let other_job = wanted(2, json!({"stage": {"run": "y"}}));
        let service = wanted(1, json!({"service": {"run": "x"}}));
        let other_service = wanted(2, json!({"service": {"run": "y"}}));
        let held = wanted(2, json!({"stage": {"run": "x"}, "suspend": true}));
        let elsewhere = wanted(2, json!({"service": {"run": "x"}, "project": "other"}));
        let mut stopped = entry(&job);
        stopped.run.as_mut().unwrap().suspended = true;
        let mut lost = job.clone();
        lost.status = json!({"run": "train-3", "conditions": [{"type": "Complete", "observedGeneration": 1}]});
        assert!(is_of_now(&lost) && !is_of_now(&Wanted { generation: 2, ..lost.clone() }));
        let (was, service_was) = (entry(&job), entry(&service));
        let mut sent = entry(&job);
        sent.sent = Some(Sent { key: "k".to_owned(), body: json!({}), work: other_job.work() });
        use Stands::*;
        for (what, wanted, entry, stands, expected) in [
            ("new", Some(&job), None, Unknown, Next::Begin),
            ("new and suspended", Some(&held), None, Unknown, Next::Keep),
            ("its entry is lost", Some(&lost), None, Unknown, Next::Adopt),
            ("the answer is lost", Some(&job), Some(&sent), Unknown, Next::Resend),
            ("the answer is lost and so is the resource", None, Some(&sent), Unknown, Next::Resend),
            ("runs", Some(&job), Some(&was), Live, Next::Keep),
            ("has ended", Some(&job), Some(&was), Ended, Next::Keep),
            ("was stopped by somebody", Some(&job), Some(&was), Stopped, Next::Keep),
            ("nobody answers", Some(&other_job), Some(&was), Unknown, Next::Keep),
            ("a job changes", Some(&other_job), Some(&was), Live, Next::Stop),
            ("a job has changed", Some(&other_job), Some(&was), Stopped, Next::Begin),
            ("a job that had ended changes", Some(&other_job), Some(&was), Ended, Next::Begin),
            ("a service changes", Some(&other_service), Some(&service_was), Live, Next::Begin),
            ("a service goes to another project", Some(&elsewhere), Some(&service_was), Live, Next::Stop),
            ("a service becomes a job", Some(&other_job), Some(&service_was), Live, Next::Stop),
            ("suspended", Some(&held), Some(&was), Live, Next::Stop),
            ("suspended, and stands still", Some(&held), Some(&stopped), Stopped, Next::Keep),
            ("suspended after its end", Some(&held), Some(&was), Ended, Next::Keep),
            ("goes on", Some(&job), Some(&stopped), Stopped, Next::Begin),
            ("goes on before it stood still", Some(&job), Some(&stopped), Live, Next::Stop),
            ("ended before it stood still", Some(&job), Some(&stopped), Ended, Next::Keep),
            ("deleted while it runs", None, Some(&was), Live, Next::Stop),
            ("deleted after its end", None, Some(&was), Ended, Next::Forget),
            ("deleted, nobody answers", None, Some(&was), Unknown, Next::Keep),
            ("deleted, and unknown", None, Some(&was), Gone, Next::Forget),
        ] {
            assert_eq!(next(wanted, entry, stands), expected, "{what}");
        }
    }
}
