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
/// Between two passes where nothing changes.
const PASS_EVERY: Duration = Duration::from_secs(1);
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
        Ok(Workloads {
            cluster: Cluster::open(client, namespace),
            control: Control::new(address, Path::new(TOKEN_DIR).join(TOKEN_KEY), site, site_dir, store),
            ledger: Ledger::load(site_dir.join(LEDGER))?,
            over: HashMap::new(),
            refused: HashMap::new(),
            told: HashMap::new(),
        })
    }

    /// Until the process ends.
    pub async fn run(mut self) {
        loop {
            let _ = tokio::time::timeout(PASS_EVERY, self.cluster.changed.notified()).await;
            let Some(all) = self.cluster.all() else { continue };
            let uids: BTreeSet<String> = all.keys().chain(self.ledger.uids()).cloned().collect();
            for uid in uids {
                if let Err(error) = self.one(&uid, all.get(&uid)).await {
                    tracing::error!(%error, uid, "what was submitted for a Workload can't be noted");
                }
            }
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
        let (stands, mut view) = match self.stands(uid).await {
            Ok(found) => found,
            Err(refusal) => {
                failed = Some(refusal);
                (Stands::Unknown, None)
            }
        };
        let next = decide::next(wanted.as_ref(), self.ledger.get(uid), stands);
        let done = match (next, &wanted) {
            (Next::Keep, _) => Ok(None),
            (Next::Begin, Some(wanted)) => self.begin(wanted).await?,
            (Next::Adopt, Some(wanted)) => self.adopt(wanted).map(Ok)?,
            (Next::Begin | Next::Adopt, None) => Ok(None),
            (Next::Resend, _) => self.send(uid).await?,
            (Next::Stop, wanted) => self.stop(uid, wanted.as_ref().is_some_and(|wanted| wanted.spec.suspend)).await?,
            (Next::Forget, _) => {
                self.refused.remove(uid);
                if let Some(was) = self.ledger.get(uid).and_then(|entry| entry.run.as_ref()) {
                    self.over.remove(&was.run);
                    self.told.remove(&was.run);
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
            self.tell(&wanted, object, view, failed).await;
        }
        Ok(())
    }

    /// How the run that was taken stands.
    async fn stands(&mut self, uid: &str) -> Result<(Stands, Option<RunView>), Refusal> {
        let Some(was) = self.ledger.get(uid).and_then(|entry| entry.run.as_ref()) else {
            return Ok((Stands::Unknown, None));
        };
        if let Some((at, over)) = self.over.get(&was.run)
            && at.elapsed() < OVER_FOR
        {
            return Ok(over.clone());
        }
        let run = was.run.clone();
        let found = self.control.run(&run).await?;
        if !matches!(found.0, Stands::Live | Stands::Unknown) {
            self.over.insert(run, (Instant::now(), found.clone()));
        }
        Ok(found)
    }

    async fn begin(&mut self, wanted: &Wanted) -> io::Result<Result<Option<RunView>, Refusal>> {
        if let Some((generation, why, until)) = self.refused.get(&wanted.uid)
            && (*generation == wanted.generation && Instant::now() < *until)
        {
            return Ok(Err(Refusal::Refused(why.clone())));
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
                if let Some(before) = &entry.run {
                    self.over.remove(&before.run);
                    self.told.remove(&before.run);
                }
                entry.run = Some(Submitted { run: view.id.clone(), work: sent.work, suspended: false });
                self.ledger.put(uid, Some(entry))?;
                // The answer to a submission has no workloads in it yet.
                Ok(self.control.run(&view.id).await.map(|(_, view)| view))
            }
            Err(Refusal::Away(why)) => Ok(Err(Refusal::Away(why))),
            Err(refused) => {
                let left = entry.run.is_some().then_some(entry);
                self.ledger.put(uid, left)?;
                Ok(Err(refused))
            }
        }
    }

    fn adopt(&mut self, wanted: &Wanted) -> io::Result<Option<RunView>> {
        let run = wanted.status["run"].as_str().unwrap_or_default().to_owned();
        let suspended = wanted.spec.suspend;
        let entry = Entry { run: Some(Submitted { run, work: wanted.work(), suspended }), ..empty(wanted) };
        self.ledger.put(&wanted.uid, Some(entry))?;
        Ok(None)
    }

    async fn stop(&mut self, uid: &str, suspend: bool) -> io::Result<Result<Option<RunView>, Refusal>> {
        let Some(mut entry) = self.ledger.get(uid).cloned() else { return Ok(Ok(None)) };
        let Some(was) = &mut entry.run else { return Ok(Ok(None)) };
        let run = was.run.clone();
        if suspend && !was.suspended {
            was.suspended = true;
            self.ledger.put(uid, Some(entry))?;
        }
        if self.told.get(&run).is_some_and(|at| at.elapsed() < AGAIN_AFTER) {
            return Ok(Ok(None));
        }
        let stopped = self.control.stop(&run).await;
        self.told.insert(run, Instant::now());
        Ok(stopped.map(|()| None))
    }

    async fn tell(&self, wanted: &Wanted, object: &DynamicObject, view: Option<RunView>, failed: Option<Refusal>) {
        let was = self.ledger.get(&wanted.uid).and_then(|entry| entry.run.as_ref());
        let current = was.is_some_and(|was| was.work == wanted.work());
        let seen = match (&failed, &view) {
            (Some(Refusal::Refused(why)), _) => Seen::Refused(why),
            (Some(Refusal::Away(why)), _) => Seen::Unreachable(why),
            (None, Some(run)) => Seen::Run { run, current },
            (None, None) if wanted.spec.suspend => Seen::Suspended,
            // Its run is not known to anybody any more: what was told last stays.
            (None, None) => return,
        };
        let now = jiff::Timestamp::now().round(jiff::Unit::Second).map(|at| at.to_string()).unwrap_or_default();
        let status = status::status(wanted, &seen, &now);
        if status == wanted.status {
            return;
        }
        self.cluster.tell(object, &status).await;
        for told in status::events(&wanted.status, &status) {
            self.cluster.note(wanted, &told).await;
        }
    }
}

fn empty(of: &Wanted) -> Entry {
    Entry { namespace: of.namespace.clone(), name: of.name.clone(), run: None, sent: None }
}
