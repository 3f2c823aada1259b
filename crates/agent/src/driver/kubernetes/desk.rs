//! The one place that talks to a cluster: however many Jobs there are, one watch of the Jobs and one of their pods.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use tokio::sync::{Semaphore, watch};
use tombolo_core::chain;
use tombolo_core::sync::Outcome;

use super::job::SITE_LABEL;
use super::watching::{Seen, follow};
use super::words::{self, Asked};
use crate::driver::scheduled::{self, Stands};
use crate::shim::placement::Placement;

/// On pods, by the Job's controller: whose they are.
const OWNER_LABEL: &str = "batch.kubernetes.io/job-name";
/// How often it is asked why something has no pod or no node.
const ASK_WHY_EVERY: Duration = Duration::from_secs(2);
/// How long a Job that was made may not have been seen by the watch until it is asked for.
const UNSEEN_MAX: Duration = Duration::from_secs(60);
/// Requests that make Jobs, at once.
const SUBMISSIONS_MAX: usize = 8;
/// Pauses before something is said to the cluster again; they double.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// How often a wish to delete is said to a cluster that doesn't answer.
const DELETES_MAX: u32 = 240;
/// How long the cluster may take to answer; its own limit for a request is a minute.
const ANSWER_WITHIN: Duration = Duration::from_secs(65);

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
    /// What an event has said of why it waits, and whether that will stay so.
    warning: Option<(String, bool)>,
}

impl Desk {
    pub fn open(client: Client, namespace: String, site: &str) -> Arc<Desk> {
        let submissions = Semaphore::new(SUBMISSIONS_MAX);
        let desk = Arc::new(Desk { client, namespace, submissions, held: Mutex::default() });
        let config = watcher::Config::default().labels(&format!("{SITE_LABEL}={site}"));
        tokio::spawn(follow(desk.jobs(), config.clone(), told(&desk, Desk::jobs_seen)));
        tokio::spawn(follow(desk.pods(), config, told(&desk, Desk::pods_seen)));
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

    pub fn client(&self) -> Client {
        self.client.clone()
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
                if held.pods.as_ref().is_some_and(|pods| pods.contains_key(&name)) {
                    drop(held);
                    return self.judge(&name);
                }
                let why = format!("its Job {name} was deleted");
                held.over(&name, |_| Stands::Over(Some(Outcome::Evicted { why: why.clone() })));
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
                held.over(&name, |asked| match words::stands(None, Some(&pod), asked) {
                    over @ Stands::Over(_) => over,
                    // Deleted by force, or before it was started.
                    _ => {
                        let why = format!("its pod {} was deleted", pod.name_any());
                        Stands::Over(Some(Outcome::Evicted { why }))
                    }
                });
                // One that waits for its turn again, as after a preemption by Kueue, would only find the end.
                let left = held.jobs.as_ref().and_then(|jobs| jobs.get(&name)).is_some_and(|job| !words::is_over(job));
                drop(held);
                if left {
                    self.delete(name);
                }
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
                if tracked.made.is_none() || !tracked.seen {
                    continue;
                }
                let mut stands = words::stands(job, pod, &tracked.asked);
                if let (Stands::Waits(waits), Some((warning, lasts))) = (&stands, &tracked.warning) {
                    stands = match (pod, lasts) {
                        (None, true) => {
                            Stands::Over(Some(Outcome::Unprepared { why: refused(warning, &self.namespace) }))
                        }
                        (None, false) => Stands::Waits(warning.clone()),
                        (Some(_), _) if waits.contains(warning.as_str()) => stands,
                        (Some(_), _) => Stands::Waits(format!("{waits}: {warning}")),
                    };
                }
                unwanted |= matches!(stands, Stands::Over(Some(Outcome::Unprepared { .. })));
                tracked.tell(stands);
            }
        }
        if unwanted {
            // It would go on to be tried by the cluster.
            self.delete(name.to_owned());
        }
    }

    /// Asks for those that were made and that no watch has told of: a watch that is blind doesn't say so.
    async fn look_for_unseen(&self) {
        let late = |one: &&Tracked| !one.seen && one.made.is_some_and(|made| made.elapsed() > UNSEEN_MAX);
        let unseen: Vec<String> = self.held().tracked.values().filter(late).map(|one| one.name.clone()).collect();
        for name in unseen {
            let asked = ListParams::default().fields(&format!("metadata.name={name}"));
            if let Some(Ok(found)) = within(self.jobs().list(&asked)).await
                && found.items.is_empty()
            {
                self.held().change(&name, |one| one.seen = true);
                self.judge(&name);
            }
        }
    }

    /// Asks once about all that wait for a pod or in one.
    async fn ask_why(&self) {
        let waiting = self.held().waiting();
        if waiting.is_empty() {
            return;
        }
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let asked = ListParams::default().fields("type=Warning");
        let Some(Ok(events)) = within(events.list(&asked)).await else { return };
        let mut about: HashMap<&str, Vec<&Event>> = HashMap::new();
        for event in &events.items {
            about.entry(event.involved_object.name.as_deref().unwrap_or_default()).or_default().push(event);
        }
        for (name, pod) in waiting {
            let told = about.get(pod.as_deref().unwrap_or(&name)).into_iter().flatten().copied();
            let warning = words::warning(told);
            self.held().change(&name, |one| one.warning = warning.clone());
            self.judge(&name);
        }
    }

    /// Deletes a Job: its pod, if it has one, is told to end and gets its grace.
    pub fn delete(&self, name: String) {
        tokio::spawn(delete(self.jobs(), name));
    }
}

impl Held {
    /// What waits, by name, with its pod's where there is one.
    fn waiting(&self) -> HashMap<String, Option<String>> {
        let Some(pods) = &self.pods else { return HashMap::new() };
        let waits = |one: &&Tracked| {
            one.made.is_some() && (matches!(*one.stands.borrow(), Stands::Waits(_)) || !pods.contains_key(&one.name))
        };
        let named = |one: &Tracked| (one.name.clone(), pods.get(&one.name).map(ResourceExt::name_any));
        self.tracked.values().filter(waits).map(named).collect()
    }

    fn over(&self, name: &str, how: impl Fn(&Asked) -> Stands) {
        self.tracked.values().filter(|one| one.name == name).for_each(|one| one.tell(how(&one.asked)));
    }

    fn change(&mut self, name: &str, how: impl Fn(&mut Tracked)) {
        self.tracked.values_mut().filter(|one| one.name == name).for_each(how);
    }
}

impl Tracked {
    /// The first word on an end is the last: what is seen later is what was left of it.
    fn tell(&self, stands: Stands) {
        if !matches!(*self.stands.borrow(), Stands::Over(_)) {
            scheduled::tell(&self.stands, stands);
        }
    }
}

fn refused(said: &str, namespace: &str) -> String {
    format!(
        "Kubernetes refuses its Job: {said}\nhint: ask for what the namespace {namespace} allows (`resources:`, `image:`), or have \
         its quota, limits, policy or service account changed"
    )
}

/// None where the cluster doesn't answer.
async fn within<T>(asked: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(ANSWER_WITHIN, asked).await.ok()
}

/// For as long as anybody has the desk.
fn told<K>(desk: &Arc<Desk>, how: fn(&Desk, Seen<K>)) -> impl Fn(Seen<K>) -> bool + use<K> {
    let desk = Arc::downgrade(desk);
    move |seen| {
        desk.upgrade().is_some_and(|desk| {
            how(&desk, seen);
            true
        })
    }
}

async fn ask_why(desk: Weak<Desk>) {
    loop {
        tokio::time::sleep(ASK_WHY_EVERY).await;
        let Some(desk) = desk.upgrade() else { return };
        desk.look_for_unseen().await;
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
            let made = within(desk.jobs().create(&PostParams::default(), &self.job)).await;
            drop(turn);
            let said = match made {
                Some(Ok(_)) => return self.made(&desk).await,
                Some(Err(kube::Error::Api(status))) if status.reason == "AlreadyExists" => {
                    return self.made(&desk).await;
                }
                Some(Err(kube::Error::Api(status))) if !words::may_pass(status.code, &status.message) => {
                    let why = refused(&status.message, &desk.namespace);
                    return desk.say(self.number, Stands::Over(Some(Outcome::Unprepared { why })));
                }
                Some(Err(kube::Error::Api(status))) => status.message.clone(),
                Some(Err(error)) => chain(&error),
                None => format!("no answer within {} s", ANSWER_WITHIN.as_secs()),
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

/// Said until it is heard.
async fn delete(jobs: Api<Job>, name: String) {
    let mut pause = PAUSE_MIN;
    for _ in 0..DELETES_MAX {
        match within(jobs.delete(&name, &DeleteParams::background())).await {
            Some(Ok(_)) => return,
            Some(Err(kube::Error::Api(status))) if status.code == 404 => return,
            Some(Err(error)) => {
                tracing::warn!(job = name, error = %chain(&error), "a Job can't be deleted now; tried again")
            }
            None => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
    tracing::warn!(job = name, "a Job can't be deleted: the cluster does not answer");
}
