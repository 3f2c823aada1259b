//! The one place that talks to Slurm: however many jobs there are, one question about all of them at a time.

use std::collections::BTreeMap;
use std::io;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::{Notify, OnceCell, Semaphore, SemaphorePermit, watch};
use tombolo_core::spec::WorkloadSpec;
use tombolo_core::sync::Outcome;

use super::words::{self, Asked, Nodes, Queued};
use super::{SlurmConfig, mark};
use crate::driver::scheduled::{self, Stands};
use crate::shim::placement::Placement;

/// How often the queue is looked at while jobs are in it. How a command runs and ends is told by its shim, without delay.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The first look after something was submitted.
const LOOK_FIRST: Duration = Duration::from_millis(300);
/// Submissions at once: controllers take jobs one after the other.
const SUBMISSIONS_MAX: usize = 4;
/// Pauses before something is said to Slurm again; they double.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often a wish to stop is said to a controller that doesn't answer.
const CANCELS_MAX: u32 = 100;
/// Variables by which a user gives options to Slurm's commands.
const OVERRIDES: [&str; 5] = ["SQUEUE_", "SCANCEL_", "SBATCH_", "SINFO_", "SACCT_"];
/// How long a submission may wait for its turn before it says so.
const TURN_MAX: Duration = Duration::from_secs(2);
/// How long one of its commands may take.
const COMMAND_MAX: Duration = Duration::from_secs(60);

pub struct Desk {
    jobs: Mutex<Jobs>,
    ring: Notify,
    submissions: Semaphore,
    partition: Option<String>,
    nodes: OnceCell<Nodes>,
}

#[derive(Default)]
struct Jobs {
    tracked: BTreeMap<u64, Tracked>,
    next: u64,
}

struct Tracked {
    name: String,
    /// None while it is being submitted; then its number in Slurm, where that is known.
    id: Option<Option<u64>>,
    asked: Asked,
    stands: watch::Sender<Stands>,
}

impl Desk {
    pub fn open(partition: Option<String>) -> Arc<Desk> {
        let desk = Arc::new(Desk {
            jobs: Mutex::default(),
            ring: Notify::new(),
            submissions: Semaphore::new(SUBMISSIONS_MAX),
            partition,
            nodes: OnceCell::new(),
        });
        tokio::spawn(look(Arc::downgrade(&desk)));
        desk
    }

    /// `id` is none for a job that is about to be submitted.
    pub fn track(&self, name: String, id: Option<Option<u64>>, asked: Asked) -> (u64, watch::Receiver<Stands>) {
        let (stands, seen) = watch::channel(Stands::Has);
        let mut jobs = self.jobs();
        let number = jobs.next;
        jobs.next += 1;
        jobs.tracked.insert(number, Tracked { name, id, asked, stands });
        drop(jobs);
        self.ring.notify_one();
        (number, seen)
    }

    pub fn forget(&self, number: u64) {
        self.jobs().tracked.remove(&number);
    }

    fn submitted(&self, number: u64, id: u64) {
        if let Some(job) = self.jobs().tracked.get_mut(&number) {
            job.id = Some(Some(id));
        }
        self.ring.notify_one();
    }

    fn say(&self, number: u64, stands: Stands) {
        if let Some(job) = self.jobs().tracked.get(&number) {
            scheduled::tell(&job.stands, stands);
        }
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn nodes(&self) -> Result<&Nodes, String> {
        self.nodes.get_or_try_init(|| nodes(self.partition.as_deref())).await
    }

    /// One look at the queue; jobs that were submitted before it and are not in it are over.
    async fn look(&self) {
        let due: Vec<(u64, String, Option<u64>)> = {
            let jobs = self.jobs();
            let submitted = jobs.tracked.iter().filter_map(|(number, job)| Some((*number, job.name.clone(), job.id?)));
            submitted.collect()
        };
        if due.is_empty() {
            return;
        }
        let queue = match queue().await {
            Ok(queue) => queue,
            Err(said) => {
                tracing::warn!(said, "Slurm's queue can't be seen; what runs goes on");
                return;
            }
        };
        let mut missing = Vec::new();
        for (number, name, id) in due {
            // A controller that has lost its state gives numbers anew: the name has to be the same too.
            let same = |job: &&Queued| job.name == name && id.is_none_or(|id| job.id == id);
            match queue.iter().filter(same).max_by_key(|job| job.id) {
                Some(job) => self.saw(number, job),
                None => missing.push((number, name, id)),
            }
        }
        if missing.is_empty() {
            return;
        }
        let ids: Vec<u64> = missing.iter().filter_map(|(.., id)| *id).collect();
        let known = accounts(&ids).await;
        for (number, name, id) in missing {
            let known = known.iter().find(|job| Some(job.id) == id && job.name == name);
            // What the accounting has as alive though the queue doesn't know it is over as well, as after a controller that
            // has lost its state; whether its shim is alive is told by its lock.
            self.ended(number, known);
        }
    }

    fn ended(&self, number: u64, known: Option<&Queued>) {
        if let Some(job) = self.jobs().tracked.get(&number) {
            scheduled::tell(
                &job.stands,
                match known.map(|known| words::stands(known, &job.asked)) {
                    Some(over @ Stands::Over(_)) => over,
                    _ => Stands::Over(None),
                },
            );
        }
    }

    fn saw(&self, number: u64, seen: &Queued) {
        if let Some(job) = self.jobs().tracked.get_mut(&number) {
            job.id = Some(Some(seen.id));
            scheduled::tell(&job.stands, words::stands(seen, &job.asked));
        }
    }
}

/// Looks for as long as anybody has the desk.
async fn look(desk: Weak<Desk>) {
    loop {
        {
            let Some(desk) = desk.upgrade() else { return };
            if desk.jobs().tracked.is_empty() {
                // Without a ring as well, to see whether anybody is left.
                let _ = tokio::time::timeout(PAUSE_MAX, desk.ring.notified()).await;
            }
        }
        let pause = {
            let Some(desk) = desk.upgrade() else { return };
            let rung = tokio::time::timeout(LOOK_EVERY, desk.ring.notified()).await.is_ok();
            if rung { LOOK_FIRST } else { Duration::ZERO }
        };
        tokio::time::sleep(pause).await;
        let Some(desk) = desk.upgrade() else { return };
        desk.look().await;
    }
}

/// A shim that is to become a job.
pub struct Submission {
    pub number: u64,
    pub name: String,
    pub placement: Placement,
    pub config: Arc<SlurmConfig>,
    pub spec: WorkloadSpec,
    pub script: String,
    pub secrets: Option<Vec<u8>>,
}

impl Submission {
    /// Goes on until Slurm has taken or refused it, or nobody wants it any more.
    pub async fn submit(self, desk: Arc<Desk>) {
        let (mut pause, mut last) = (PAUSE_MIN, None);
        loop {
            let Some(turn) = self.turn(&desk).await else {
                return desk.say(self.number, Stands::Over(None));
            };
            let submitted = self.once(&desk).await;
            drop(turn);
            let said = match submitted {
                Ok(id) => return self.submitted(&desk, id).await,
                Err(said) => said,
            };
            if !words::may_pass(&said) {
                let why = format!(
                    "Slurm refuses the job: {}\nhint: ask for what a node has (`resources:`), or choose another partition or \
                     account for the site",
                    last_line(&said)
                );
                return desk.say(self.number, Stands::Over(Some(Outcome::Unprepared { why })));
            }
            tracing::warn!(job = self.name, said, "Slurm takes no job now; tried again");
            desk.say(self.number, Stands::Waits(format!("Slurm takes no job now: {}", last_line(&said))));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
            // It may have taken this one, and only have failed to say so; what is over already was an earlier one.
            let queue = queue().await.unwrap_or_default();
            let mine: Vec<&Queued> = queue.iter().filter(|job| job.name == self.name && Some(job.id) > last).collect();
            let live = |job: &&&Queued| !matches!(words::stands(job, &Asked::default()), Stands::Over(_));
            if let Some(job) = mine.iter().filter(live).max_by_key(|job| job.id) {
                return self.submitted(&desk, job.id).await;
            }
            last = mine.iter().map(|job| job.id).max().or(last);
            // Nothing is submitted: an agent that starts again need not look for it.
            let _ = std::fs::remove_file(mark(&self.placement));
        }
    }

    /// Room to submit; none where nobody wants it any more.
    async fn turn<'a>(&self, desk: &'a Desk) -> Option<SemaphorePermit<'a>> {
        loop {
            let turn = tokio::time::timeout(TURN_MAX, desk.submissions.acquire()).await;
            if self.placement.stop_was_asked() || !self.placement.exists() {
                return None;
            }
            match turn {
                Ok(turn) => return turn.ok(),
                Err(_) => {
                    desk.say(self.number, Stands::Waits("waits for its turn to be submitted to Slurm".to_owned()))
                }
            }
        }
    }

    async fn submitted(&self, desk: &Desk, id: u64) {
        if let Err(error) = std::fs::write(mark(&self.placement), id.to_string()) {
            tracing::warn!(id, %error, "a job's number can't be kept; it is found by its name");
        }
        desk.submitted(self.number, id);
        // A wish that came meanwhile has found no job.
        if self.placement.stop_was_asked() {
            cancel(self.name.clone()).await;
        }
    }

    async fn once(&self, desk: &Desk) -> Result<u64, String> {
        let nodes = desk.nodes().await?;
        let dir = self.placement.dir();
        let mut sbatch = command("sbatch");
        sbatch.args(words::options(&self.config, &self.spec, nodes)).arg(format!("--job-name={}", self.name));
        sbatch.arg("--chdir=/").arg("--output=/dev/null").arg("--open-mode=append");
        sbatch.arg(format!("--error={}", escaped(&self.placement.shim_err())));
        sbatch.arg("--input=/dev/null");
        if let Some(secrets) = &self.secrets {
            let kept = self.placement.keep_secrets(secrets);
            kept.map_err(|error| format!("the secrets can't be kept in {}: {error}", dir.display()))?;
        }
        // The mark first: whoever finds it looks for the job.
        std::fs::write(mark(&self.placement), b"").map_err(|error| format!("{}: {error}", dir.display()))?;
        let printed = run(sbatch, Some(self.script.as_bytes())).await?;
        words::submitted(&printed).ok_or_else(|| format!("sbatch names no job in {}: {printed:?}", dir.display()))
    }
}

/// In names of files Slurm replaces what stands behind `%`.
fn escaped(path: &std::path::Path) -> String {
    path.display().to_string().replace('%', "%%")
}

/// Takes a job that waits out of the queue, and has one that runs told; said until it is heard.
pub async fn cancel(name: String) {
    let mut pause = PAUSE_MIN;
    for _ in 0..CANCELS_MAX {
        let mut waiting = command("scancel");
        waiting.args([user(), format!("--name={name}"), "--state=PENDING".to_owned()]);
        let mut running = command("scancel");
        running.args([user(), format!("--name={name}"), "--state=RUNNING".to_owned()]);
        // The shim alone: the command gets its signal, and its grace, from there. One that is suspended now finds the mark
        // when it goes on.
        running.args(["--batch", "--signal=TERM"]);
        let said = match run(waiting, None).await {
            Ok(_) => run(running, None).await,
            failed => failed,
        };
        match said {
            Err(said) if words::may_pass(&said) => {}
            Err(said) => {
                tracing::warn!(job = name, said, "a job can't be cancelled");
                return;
            }
            Ok(_) => return,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
    tracing::warn!(job = name, "a job can't be cancelled: Slurm does not answer");
}

/// All jobs of this user, also those that ended a moment ago.
async fn queue() -> Result<Vec<Queued>, String> {
    let mut squeue = command("squeue");
    // Hidden partitions too: jobs of this user may be in them.
    squeue.args(["--noheader", "--all", "--states=all", &user(), &format!("--format={}", words::QUEUE_FORMAT)]);
    Ok(run(squeue, None).await?.lines().filter_map(words::queued).collect())
}

/// What the accounting says of jobs that have left the queue; nothing where there is none.
async fn accounts(ids: &[u64]) -> Vec<Queued> {
    if ids.is_empty() {
        return Vec::new();
    }
    let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
    let mut sacct = command("sacct");
    sacct.args(["--noheader", "--parsable2", "--allocations", &format!("--format={}", words::ACCOUNT_FORMAT)]);
    sacct.arg(format!("--jobs={}", ids.join(",")));
    let printed = run(sacct, None).await.unwrap_or_else(|said| {
        tracing::debug!(said, "no accounting");
        String::new()
    });
    printed.lines().filter_map(words::accounted).collect()
}

/// What a partition's nodes have.
pub async fn nodes(partition: Option<&str>) -> Result<Nodes, String> {
    let mut sinfo = command("sinfo");
    sinfo.args(["--noheader", "--Node", &format!("--format={}", words::NODES_FORMAT)]);
    sinfo.args(partition.map(|partition| format!("--partition={partition}")));
    let printed = run(sinfo, None).await?;
    if printed.trim().is_empty() {
        let which = partition.map_or("the cluster".to_owned(), |partition| format!("the partition {partition}"));
        return Err(format!("{which} has no nodes"));
    }
    Ok(words::nodes(&printed))
}

fn user() -> String {
    format!("--user={}", nix::unistd::geteuid())
}

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    // What a user has set for commands by hand would change what these do.
    let set = std::env::vars_os().map(|(name, _)| name);
    for name in set.filter(|name| OVERRIDES.iter().any(|prefix| name.to_string_lossy().starts_with(prefix))) {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// What a command prints, or what it says of its failure.
async fn run(mut command: Command, input: Option<&[u8]>) -> Result<String, String> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let talk = async {
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => format!("there is no {program} on this machine's PATH"),
            _ => format!("{program} can't be started: {error}"),
        })?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            // One that ends without reading says why.
            let _ = stdin.write_all(input).await;
        }
        child.wait_with_output().await.map_err(|error| format!("{program}: {error}"))
    };
    let done = match tokio::time::timeout(COMMAND_MAX, talk).await {
        Ok(done) => done?,
        Err(_) => return Err(format!("{program}: Socket timed out: it has not answered within {COMMAND_MAX:?}")),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match done.status.success() {
        true => Ok(text(&done.stdout)),
        false => Err(format!("{program}: {} {}", text(&done.stdout), text(&done.stderr))),
    }
}

fn last_line(said: &str) -> &str {
    said.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it doesn't say why")
}
