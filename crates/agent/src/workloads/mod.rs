//! `Workload` resources of the cluster's, reconciled into the control plane: what is applied is submitted, what is deleted is
//! stopped, and how it stands is written back.
//!
//! Level-triggered: each pass compares what the cluster wants, what was submitted ([`ledger`]) and how that stands, and does
//! what is next ([`decide`]). A submission is noted before it is sent and has a key of its own, so that whoever is killed, it is
//! made once. It speaks to the API as any user does, with a token whose role is all that whoever may apply a `Workload` gets.

mod cluster;
mod control;
mod decide;
mod ledger;
mod resource;
mod status;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::api::DynamicObject;
use tombolo_api::wire::RunView;
use tombolo_core::SiteId;
use tombolo_data::Store;

use cluster::Cluster;
use control::{Control, Refusal};
use decide::{Entry, Next, Sent, Stands, Submitted};
use ledger::Ledger;
use resource::Wanted;
use status::Seen;

/// Where the secret with the token for the control plane is, in the agent's pod.
pub const TOKEN_DIR: &str = "/etc/tombolo-workloads";
const TOKEN_KEY: &str = "token";
/// In the site's directory.
const LEDGER: &str = "workloads.json";
/// Between two passes where nothing changes, and at least.
const PASS_EVERY: Duration = Duration::from_secs(1);
const PASS_MIN: Duration = Duration::from_millis(500);
/// Between two writes of a status in which only words differ.
const WORDS_EVERY: Duration = Duration::from_secs(30);
/// In the site's directory: code that is being put into the store.
const CODE_DIR: &str = "workloads.code";
/// How long what was refused or was told to stop is left alone.
const AGAIN_AFTER: Duration = Duration::from_secs(15);
/// How long a run that is over is not asked about: somebody may have it retried.
const OVER_FOR: Duration = Duration::from_secs(60);

pub struct Workloads {
    cluster: Cluster,
    control: Control,
    ledger: Ledger,
    /// Runs that are over, as they stood when they were asked about.
    over: HashMap<String, (Instant, (Stands, Option<RunView>))>,
    /// By uid: what was refused, of which generation, and until when it stays so.
    refused: HashMap<String, (i64, String, Instant)>,
    /// Runs that were told to stop, and when.
    told: HashMap<String, Instant>,
    /// By uid: when its status was written last.
    written: HashMap<String, Instant>,
}

impl Workloads {
    /// `address` is the control plane's API.
    pub fn open(
        client: kube::Client,
        namespace: String,
        address: String,
        site: SiteId,
        site_dir: &Path,
        store: Arc<Store>,
    ) -> io::Result<Workloads> {
        // Of an agent that was killed.
        match std::fs::remove_dir_all(site_dir.join(CODE_DIR)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Workloads {
            cluster: Cluster::open(client, namespace),
            control: Control::new(address, Path::new(TOKEN_DIR).join(TOKEN_KEY), site, site_dir, store),
            ledger: Ledger::load(site_dir.join(LEDGER))?,
            over: HashMap::new(),
            refused: HashMap::new(),
            told: HashMap::new(),
            written: HashMap::new(),
        })
    }

    /// Until the process ends.
    pub async fn run(mut self) {
        loop {
            let _ = tokio::time::timeout(PASS_EVERY, self.cluster.changed.notified()).await;
            let Some(all) = self.cluster.all() else { continue };
            let uids: BTreeSet<String> = all.keys().chain(self.ledger.uids()).cloned().collect();
            self.refused.retain(|uid, _| uids.contains(uid));
            self.written.retain(|uid, _| uids.contains(uid));
            for uid in uids {
                if let Err(error) = self.one(&uid, all.get(&uid)).await {
                    tracing::error!(%error, uid, "what was submitted for a Workload can't be noted");
                }
            }
            tokio::time::sleep(PASS_MIN).await;
        }
    }

    async fn one(&mut self, uid: &str, object: Option<&DynamicObject>) -> io::Result<()> {
        let wanted = match object.and_then(Wanted::read).transpose() {
            Ok(wanted) => wanted,
            // As of a definition that is another one than ours.
            Err(error) => {
                tracing::warn!(uid, error, "a Workload can't be understood");
                return Ok(());
            }
        };
        let mut failed = None;
        let (stands, mut view) = self.stands(uid, &mut failed).await;
        let mut found = (stands, decide::next(wanted.as_ref(), self.ledger.get(uid), stands));
        if matches!(found.1, Next::Forget | Next::Begin) && self.forget_over(uid) {
            // What is to be done for good is done on what is true now: somebody may have had it retried.
            let (stands, now) = self.stands(uid, &mut failed).await;
            (found, view) = ((stands, decide::next(wanted.as_ref(), self.ledger.get(uid), stands)), now);
        }
        let (stands, mut next) = found;
        let suspended = wanted.as_ref().is_some_and(|wanted| wanted.spec.suspend);
        // A spec that is wrong takes nothing away.
        if let (Next::Stop, Some(Err(why)), false) = (next, wanted.as_ref().map(Wanted::to_project), suspended) {
            (next, failed) = (Next::Keep, Some(Refusal::Refused(why)));
        }
        if next == Next::Keep && stands == Stands::Gone {
            failed = Some(Refusal::Away("the control plane does not know its run any more".to_owned()));
        }
        let left = self.older(uid, wanted.is_none() || next == Next::Stop || suspended).await?;
        let done = match (next, &wanted) {
            (Next::Keep, Some(_)) if suspended && stands == Stands::Stopped => {
                self.suspended(uid)?;
                Ok(None)
            }
            (Next::Keep, _) | (Next::Begin | Next::Adopt, None) => Ok(None),
            (Next::Begin, Some(wanted)) => self.begin(wanted).await?,
            (Next::Adopt, Some(wanted)) => self.adopt(wanted).map(Ok)?,
            (Next::Resend, _) => self.send(uid).await?,
            (Next::Stop, _) => self.stop(uid, suspended).await?,
            (Next::Forget, _) if left => Ok(None),
            (Next::Forget, _) => {
                if let Some(entry) = self.ledger.get(uid) {
                    if let Some(was) = &entry.run {
                        self.over.remove(&was.run);
                        self.told.remove(&was.run);
                    }
                    self.ledger.put(uid, None)?;
                }
                Ok(None)
            }
        };
        match done {
            Ok(Some(newer)) => view = Some(newer),
            Ok(None) => {}
            Err(refusal) => failed = Some(refusal),
        }
        if let (Some(wanted), Some(object)) = (wanted, object) {
            self.tell(&wanted, object, view, failed, suspended && stands.is_over()).await;
        }
        Ok(())
    }

    /// How the run that was taken stands; why not, where nobody can say.
    async fn stands(&mut self, uid: &str, failed: &mut Option<Refusal>) -> (Stands, Option<RunView>) {
        let Some(run) = self.ledger.get(uid).and_then(|entry| entry.run.as_ref()).map(|was| was.run.clone()) else {
            return (Stands::Unknown, None);
        };
        self.of_run(&run).await.unwrap_or_else(|refusal| {
            *failed = Some(refusal);
            (Stands::Unknown, None)
        })
    }

    async fn of_run(&mut self, run: &str) -> Result<(Stands, Option<RunView>), Refusal> {
        if let Some((at, over)) = self.over.get(run)
            && at.elapsed() < OVER_FOR
        {
            return Ok(over.clone());
        }
        let found = self.control.run(run).await?;
        if found.0.is_over() {
            self.over.insert(run.to_owned(), (Instant::now(), found.clone()));
        } else {
            self.over.remove(run);
        }
        Ok(found)
    }

    /// Whether what is known of its run's end was not asked just now; then it is to be asked.
    fn forget_over(&mut self, uid: &str) -> bool {
        let run = self.ledger.get(uid).and_then(|entry| entry.run.as_ref()).map(|was| &was.run);
        run.and_then(|run| self.over.remove(run)).is_some_and(|(at, _)| at.elapsed() > PASS_MIN)
    }

    /// Runs of before, which the newest has not taken over from: those that are over are forgotten, and all are stopped where
    /// nothing is to go on. Returns whether some are left.
    async fn older(&mut self, uid: &str, stop: bool) -> io::Result<bool> {
        let older = self.ledger.get(uid).map(|entry| entry.older.clone()).unwrap_or_default();
        let mut left = Vec::new();
        for run in &older {
            match self.of_run(run).await {
                Ok((stands, _)) if stands.is_over() => {
                    self.over.remove(run);
                    self.told.remove(run);
                    continue;
                }
                Ok(_) if stop => drop(self.tell_to_stop(run).await),
                Ok(_) | Err(_) => {}
            }
            left.push(run.clone());
        }
        let some = !left.is_empty();
        if left != older
            && let Some(entry) = self.ledger.get(uid).cloned()
        {
            self.ledger.put(uid, Some(Entry { older: left, ..entry }))?;
        }
        Ok(some)
    }

    async fn begin(&mut self, wanted: &Wanted) -> io::Result<Result<Option<RunView>, Refusal>> {
        if let Some((generation, why, until)) = self.refused.get(&wanted.uid)
            && (*generation == wanted.generation && Instant::now() < *until)
        {
            return Ok(Err(Refusal::Refused(why.clone())));
        }
        if let Some(wait) = self.in_the_way(wanted) {
            return Ok(Err(wait));
        }
        let prepared = match wanted.to_project() {
            Err(why) => Err(Refusal::Refused(why)),
            Ok(project) => self.control.prepare(&wanted.uid, project, &wanted.spec.files, wanted.spec.force).await,
        };
        let (body, hold) = match prepared {
            Ok(prepared) => prepared,
            Err(refusal) => return Ok(Err(self.refuse(wanted, refusal))),
        };
        let key = format!("workload-{}-{}", wanted.uid, wanted.generation);
        let mut entry = self.ledger.get(&wanted.uid).cloned().unwrap_or_else(|| empty(wanted));
        entry.sent = Some(Sent { key, body, work: wanted.work() });
        self.ledger.put(&wanted.uid, Some(entry))?;
        let sent = self.send(&wanted.uid).await?;
        drop(hold);
        Ok(sent.map_err(|refusal| self.refuse(wanted, refusal)))
    }

    /// What another resource has running that this one can't be beside.
    fn in_the_way(&self, wanted: &Wanted) -> Option<Refusal> {
        let is_service = |entry: &&Entry| {
            entry.run.as_ref().is_some_and(|was| !was.work.is_job && was.work.project == wanted.project())
        };
        let of_name = |entry: &&Entry| (&entry.namespace, &entry.name) == (&wanted.namespace, &wanted.name);
        if self.ledger.others(&wanted.uid).any(|entry| of_name(&entry)) {
            return Some(Refusal::Away("the one of this name that was deleted has not ended yet".to_owned()));
        }
        if wanted.is_job() {
            return None;
        }
        let other = self.ledger.others(&wanted.uid).find(is_service)?;
        Some(Refusal::Refused(format!(
            "the Workload {} is the service of the project {} already, and a newer one would end it\nhint: give this one a project of its own",
            other.name,
            wanted.project()
        )))
    }

    fn refuse(&mut self, wanted: &Wanted, refusal: Refusal) -> Refusal {
        if let Refusal::Refused(why) = &refusal {
            let until = Instant::now() + AGAIN_AFTER;
            self.refused.insert(wanted.uid.clone(), (wanted.generation, why.clone(), until));
        }
        refusal
    }

    /// Sends what was noted, and notes what came of it.
    async fn send(&mut self, uid: &str) -> io::Result<Result<Option<RunView>, Refusal>> {
        let Some((mut entry, sent)) = self.ledger.get(uid).cloned().and_then(|mut entry| {
            let sent = entry.sent.take()?;
            Some((entry, sent))
        }) else {
            return Ok(Ok(None));
        };
        match self.control.submit(&sent.key, &sent.body).await {
            Ok(view) => {
                entry.older.extend(entry.run.take().map(|before| before.run));
                entry.run = Some(Submitted { run: view.id.clone(), work: sent.work, suspended: false });
                self.ledger.put(uid, Some(entry))?;
                // The answer to a submission has no workloads in it yet.
                Ok(self.control.run(&view.id).await.map(|(_, view)| view))
            }
            Err(Refusal::Away(why)) => Ok(Err(Refusal::Away(why))),
            Err(refused) => {
                let left = (entry.run.is_some() || !entry.older.is_empty()).then_some(entry);
                self.ledger.put(uid, left)?;
                Ok(Err(refused))
            }
        }
    }

    fn adopt(&mut self, wanted: &Wanted) -> io::Result<Option<RunView>> {
        let run = wanted.status["run"].as_str().unwrap_or_default().to_owned();
        let mut work = wanted.work();
        if !decide::is_of_now(wanted) {
            work.digest.clear();
        }
        let entry = Entry { run: Some(Submitted { run, work, suspended: wanted.spec.suspend }), ..empty(wanted) };
        self.ledger.put(&wanted.uid, Some(entry))?;
        Ok(None)
    }

    /// That its run stands still as it should, whoever stopped it: it begins again when it may.
    fn suspended(&mut self, uid: &str) -> io::Result<()> {
        let Some(mut entry) = self.ledger.get(uid).cloned() else { return Ok(()) };
        match &mut entry.run {
            Some(was) if !was.suspended => was.suspended = true,
            _ => return Ok(()),
        }
        self.ledger.put(uid, Some(entry))
    }

    async fn stop(&mut self, uid: &str, suspend: bool) -> io::Result<Result<Option<RunView>, Refusal>> {
        if suspend {
            self.suspended(uid)?;
        }
        let Some(run) = self.ledger.get(uid).and_then(|entry| entry.run.as_ref()).map(|was| was.run.clone()) else {
            return Ok(Ok(None));
        };
        Ok(self.tell_to_stop(&run).await.map(|()| None))
    }

    async fn tell_to_stop(&mut self, run: &str) -> Result<(), Refusal> {
        if self.told.get(run).is_some_and(|at| at.elapsed() < AGAIN_AFTER) {
            return Ok(());
        }
        self.control.stop(run).await?;
        self.told.insert(run.to_owned(), Instant::now());
        Ok(())
    }

    async fn tell(
        &mut self,
        wanted: &Wanted,
        object: &DynamicObject,
        view: Option<RunView>,
        failed: Option<Refusal>,
        rests: bool,
    ) {
        let was = self.ledger.get(&wanted.uid).and_then(|entry| entry.run.as_ref());
        let current = rests || was.is_some_and(|was| was.work == wanted.work());
        let seen = match (&failed, &view) {
            (Some(Refusal::Refused(why)), run) => Seen::Refused { why, run: run.as_ref() },
            (Some(Refusal::Away(why)), _) => Seen::Unreachable(why),
            (None, Some(run)) => Seen::Run { run, current },
            (None, None) if wanted.spec.suspend => Seen::Suspended,
            // Nothing is known yet.
            (None, None) => return,
        };
        let now = jiff::Timestamp::now().round(jiff::Unit::Second).map(|at| at.to_string()).unwrap_or_default();
        let status = status::status(wanted, &seen, &now);
        let wrote = self.written.get(&wanted.uid);
        let words_alone = !status::differ(&wanted.status, &status);
        if status == wanted.status || words_alone && wrote.is_some_and(|at| at.elapsed() < WORDS_EVERY) {
            return;
        }
        if !self.cluster.tell(object, &status).await {
            return;
        }
        self.written.insert(wanted.uid.clone(), Instant::now());
        for told in status::events(&wanted.status, &status) {
            self.cluster.note(wanted, &told).await;
        }
    }
}

fn empty(of: &Wanted) -> Entry {
    Entry { namespace: of.namespace.clone(), name: of.name.clone(), run: None, older: Vec::new(), sent: None }
}
