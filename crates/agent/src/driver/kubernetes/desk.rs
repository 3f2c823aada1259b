//! The one place that talks to a cluster: however many Jobs there are, one watch of the Jobs and one of their pods.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::{Semaphore, watch};
use tombolo_core::sync::Outcome;

use super::job::SITE_LABEL;
use super::words::{self, Asked};
use crate::driver::scheduled::{self, Stands};
use crate::shim::placement::Placement;

/// On pods, by the Job's controller: whose they are.
const OWNER_LABEL: &str = "batch.kubernetes.io/job-name";
/// How often it is asked why something has no pod or no node.
const ASK_WHY_EVERY: Duration = Duration::from_secs(2);
/// How long a Job that was made may not have been seen by the watch.
const UNSEEN_MAX: Duration = Duration::from_secs(60);
/// Requests that make Jobs, at once.
const SUBMISSIONS_MAX: usize = 8;
/// Pauses before something is said to the cluster again; they double.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// How often a wish to delete is said to a cluster that doesn't answer.
const DELETES_MAX: u32 = 240;
/// Warnings of a namespace that are looked at.
const EVENTS_MAX: u32 = 500;

pub struct Desk {
    client: Client,
    namespace: String,
    submissions: Semaphore,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    tracked: BTreeMap<u64, Tracked>,
    next: u64,
    /// By their names, once they were listed.
    jobs: Option<HashMap<String, Job>>,
    /// By their Jobs' names; the newest of each, once they were listed.
    pods: Option<HashMap<String, Pod>>,
}

struct Tracked {
    name: String,
    /// Since when it is known to have been made; none while it is being made.
    made: Option<Instant>,
    /// Whether a watch has told of it.
    seen: bool,
    asked: Asked,
    stands: watch::Sender<Stands>,
    /// What an event has said of why it waits.
    warning: Option<String>,
}

impl Desk {
    pub fn open(client: Client, namespace: String, site: &str) -> Arc<Desk> {
        let submissions = Semaphore::new(SUBMISSIONS_MAX);
        let desk = Arc::new(Desk { client, namespace, submissions, held: Mutex::default() });
        let config = watcher::Config::default().labels(&format!("{SITE_LABEL}={site}"));
        tokio::spawn(follow(Arc::downgrade(&desk), desk.jobs(), config.clone(), Desk::jobs_seen));
        tokio::spawn(follow(Arc::downgrade(&desk), desk.pods(), config, Desk::pods_seen));
        tokio::spawn(ask_why(Arc::downgrade(&desk)));
        desk
    }

    /// `made` says whether there was a Job of that name once.
    pub fn track(&self, name: String, made: bool, asked: Asked) -> (u64, watch::Receiver<Stands>) {
        let (stands, seen) = watch::channel(Stands::Has);
        let mut held = self.held();
        let number = held.next;
        held.next += 1;
        let made = made.then(Instant::now);
        let tracked = Tracked { name: name.clone(), made, seen: made.is_some(), asked, stands, warning: None };
        held.tracked.insert(number, tracked);
        drop(held);
        self.judge(&name);
        (number, seen)
    }

    pub fn forget(&self, number: u64) {
        self.held().tracked.remove(&number);
    }

    fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, number: u64, stands: Stands) {
        if let Some(tracked) = self.held().tracked.get(&number) {
            scheduled::tell(&tracked.stands, stands);
        }
    }

    fn made(&self, number: u64) {
        let name = self.held().tracked.get_mut(&number).map(|tracked| {
            tracked.made = Some(Instant::now());
            tracked.name.clone()
        });
        if let Some(name) = name {
            self.judge(&name);
        }
    }

    fn jobs_seen(&self, event: Seen<Job>) {
        let mut held = self.held();
        match event {
            Seen::All(jobs) => {
                held.jobs = Some(jobs.into_iter().map(|job| (job.name_any(), slim_job(job))).collect());
                drop(held);
                self.judge_all();
            }
            Seen::One(job) => {
                let name = job.name_any();
                held.jobs.get_or_insert_default().insert(name.clone(), slim_job(job));
                drop(held);
                self.judge(&name);
            }
            Seen::Gone(job) => {
                let name = job.name_any();
                held.jobs.get_or_insert_default().remove(&name);
                drop(held);
                self.judge(&name);
            }
        }
    }

    fn pods_seen(&self, event: Seen<Pod>) {
        let owner = |pod: &Pod| pod.labels().get(OWNER_LABEL).cloned();
        let mut held = self.held();
        match event {
            Seen::All(pods) => {
                held.pods = Some(pods.into_iter().filter_map(|pod| Some((owner(&pod)?, slim_pod(pod)))).collect());
                drop(held);
                self.judge_all();
            }
            Seen::One(pod) => {
                let Some(name) = owner(&pod) else { return };
                held.pods.get_or_insert_default().insert(name.clone(), slim_pod(pod));
                drop(held);
                self.judge(&name);
            }
            Seen::Gone(pod) => {
                let Some(name) = owner(&pod) else { return };
                let pods = held.pods.get_or_insert_default();
                // A Job has one pod; one that was deleted says how it ended, if it did.
                if pods.get(&name).is_some_and(|known| known.uid() == pod.uid()) {
                    pods.remove(&name);
                }
                let over = match words::stands(None, Some(&pod), &Asked::default()) {
                    over @ Stands::Over(_) => over,
                    // Deleted by force, or before it was started.
                    _ => {
                        Stands::Over(Some(Outcome::Evicted { why: format!("its pod {} was deleted", pod.name_any()) }))
                    }
                };
                let tracked = held.tracked.values().filter(|tracked| tracked.name == name);
                tracked.for_each(|tracked| scheduled::tell(&tracked.stands, over.clone()));
            }
        }
    }

    fn judge_all(&self) {
        let names: Vec<String> = self.held().tracked.values().map(|tracked| tracked.name.clone()).collect();
        names.iter().for_each(|name| self.judge(name));
    }

    /// Tells how one stands by all that is known.
    fn judge(&self, name: &str) {
        let mut unwanted = false;
        {
            let mut held = self.held();
            let Held { tracked, jobs, pods, .. } = &mut *held;
            let (Some(jobs), Some(pods)) = (jobs, pods) else { return };
            let (job, pod) = (jobs.get(name), pods.get(name));
            for tracked in tracked.values_mut().filter(|tracked| tracked.name == name) {
                tracked.seen |= job.is_some() || pod.is_some();
                let Some(made) = tracked.made else { continue };
                if !tracked.seen && made.elapsed() < UNSEEN_MAX {
                    continue;
                }
                let mut stands = words::stands(job, pod, &tracked.asked);
                if let (Stands::Waits(why), Some(warning)) = (&mut stands, &tracked.warning)
                    && pod.is_none()
                {
                    *why = warning.clone();
                }
                unwanted |= matches!(stands, Stands::Over(Some(Outcome::Unprepared { .. })));
                // The first word on its end is the last: what is seen later is what was left of it.
                if !matches!(*tracked.stands.borrow(), Stands::Over(_)) {
                    scheduled::tell(&tracked.stands, stands);
                }
            }
        }
        if unwanted {
            // It would go on to be tried by the cluster.
            tokio::spawn(delete(self.jobs(), name.to_owned()));
        }
    }

    /// Asks once about all that wait without a pod.
    async fn ask_why(&self) {
        let waits = |held: &Held| {
            let pods = held.pods.as_ref();
            let without = |one: &&Tracked| one.made.is_some() && pods.is_some_and(|pods| !pods.contains_key(&one.name));
            held.tracked.values().filter(without).map(|one| one.name.clone()).collect::<Vec<_>>()
        };
        let names = waits(&self.held());
        if names.is_empty() {
            return;
        }
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let asked = ListParams::default().fields("type=Warning,involvedObject.kind=Job").limit(EVENTS_MAX);
        let Ok(events) = events.list(&asked).await else { return };
        for name in names {
            let about = events.items.iter().filter(|event| event.involved_object.name.as_deref() == Some(&name));
            let warning = words::warning(about);
            {
                let mut held = self.held();
                held.tracked.values_mut().filter(|one| one.name == name).for_each(|one| one.warning = warning.clone());
            }
            // Also where there is none: one that was never seen is missing in the end.
            self.judge(&name);
        }
    }
}

/// What a watch tells.
enum Seen<K> {
    All(Vec<K>),
    One(K),
    Gone(K),
}

/// Watches for as long as anybody has the desk.
async fn follow<K>(desk: Weak<Desk>, api: Api<K>, config: watcher::Config, told: fn(&Desk, Seen<K>))
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let mut events = watcher(api, config).default_backoff().boxed();
    let mut listed = Vec::new();
    while let Some(event) = events.next().await {
        let Some(desk) = desk.upgrade() else { return };
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(one)) => listed.push(one),
            Ok(watcher::Event::InitDone) => told(&desk, Seen::All(std::mem::take(&mut listed))),
            Ok(watcher::Event::Apply(one)) => told(&desk, Seen::One(one)),
            Ok(watcher::Event::Delete(one)) => told(&desk, Seen::Gone(one)),
            Err(error) => tracing::warn!(error = %chain(&error), "the cluster can't be seen; what runs goes on"),
        }
    }
}

async fn ask_why(desk: Weak<Desk>) {
    loop {
        tokio::time::sleep(ASK_WHY_EVERY).await;
        let Some(desk) = desk.upgrade() else { return };
        desk.ask_why().await;
    }
}

/// There may be thousands of them.
fn slim_job(mut job: Job) -> Job {
    job.metadata.managed_fields = None;
    if let Some(spec) = &mut job.spec {
        spec.template = Default::default();
    }
    job
}

fn slim_pod(mut pod: Pod) -> Pod {
    pod.metadata.managed_fields = None;
    if let Some(spec) = &mut pod.spec {
        spec.volumes = None;
        for container in &mut spec.containers {
            (container.env, container.volume_mounts) = (None, None);
        }
    }
    pod
}

/// A shim that is to become a Job.
pub struct Submission {
    pub number: u64,
    pub name: String,
    pub placement: Placement,
    pub job: Job,
}

impl Submission {
    /// Goes on until the cluster has taken or refused it, or nobody wants it any more. Its name is its own, so that it
    /// is made once however often it is asked for.
    pub async fn submit(self, desk: Arc<Desk>) {
        let mut pause = PAUSE_MIN;
        loop {
            let Ok(turn) = desk.submissions.acquire().await else { return };
            if self.placement.stop_was_asked() || !self.placement.exists() {
                return desk.say(self.number, Stands::Over(None));
            }
            let made = desk.jobs().create(&PostParams::default(), &self.job).await;
            drop(turn);
            let said = match made {
                Ok(_) => return self.made(&desk).await,
                Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => return self.made(&desk).await,
                Err(kube::Error::Api(status)) if !words::may_pass(status.code, &status.message) => {
                    let why = format!(
                        "Kubernetes refuses its Job: {}\nhint: ask for what the namespace {} allows (`resources:`, `image:`), \
                         or have its quota, policy or the agent's role changed",
                        status.message, desk.namespace
                    );
                    return desk.say(self.number, Stands::Over(Some(Outcome::Unprepared { why })));
                }
                Err(kube::Error::Api(status)) => status.message.clone(),
                Err(error) => chain(&error),
            };
            tracing::warn!(job = self.name, said, "the cluster takes no Job now; tried again");
            desk.say(self.number, Stands::Waits(format!("Kubernetes takes no Job now: {said}")));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn made(&self, desk: &Desk) {
        desk.made(self.number);
        // A wish that came meanwhile has found no Job.
        if self.placement.stop_was_asked() {
            delete(desk.jobs(), self.name.clone()).await;
        }
    }
}

impl Desk {
    /// Deletes a Job: its pod, if it has one, is told to end and gets its grace.
    pub fn delete(&self, name: String) {
        tokio::spawn(delete(self.jobs(), name));
    }
}

/// Said until it is heard.
async fn delete(jobs: Api<Job>, name: String) {
    let mut pause = PAUSE_MIN;
    for _ in 0..DELETES_MAX {
        match jobs.delete(&name, &DeleteParams::background()).await {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if status.code == 404 => return,
            Err(kube::Error::Api(status)) if !words::may_pass(status.code, &status.message) => {
                tracing::warn!(job = name, said = status.message, "a Job can't be deleted");
                return;
            }
            Err(error) => {
                tracing::debug!(job = name, error = %chain(&error), "a Job is to be deleted once the cluster answers")
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
    tracing::warn!(job = name, "a Job can't be deleted: the cluster does not answer");
}

/// An error with what lies under it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut under = error.source();
    while let Some(error) = under {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        under = error.source();
    }
    text
}
