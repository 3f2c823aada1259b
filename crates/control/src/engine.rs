//! The one task that owns the world: it takes changes, decides, makes durable, and only then answers.
//!
//! Changes that wait while a transaction is under way go into the next one together, so that one fsync
//! serves them all. Nobody, reader or writer, sees a world that the store does not have yet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot, watch};
use tombolo_core::sync::Observed;
use tombolo_core::world::{Known, World};
use tombolo_core::{Epoch, RunId, SiteId, Timestamp, VersionId, WorkloadId};

use crate::store::{Store, StoreError, Write};

mod pass;

/// Commands that may wait; who comes later waits for room.
const QUEUE_MAX: usize = 4096;

/// The engine has ended; the process is about to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the control plane is stopping")]
pub struct EngineGone;

/// A handle to the engine. Its task ends when the last handle is gone.
#[derive(Clone)]
pub struct Engine {
    commands: mpsc::Sender<Command>,
    store: Arc<dyn Store>,
    events: watch::Receiver<i64>,
    wakes: Wakes,
    clock: Clock,
}

enum Command {
    Change { revive: Option<RunId>, apply: Apply },
    Look(Look),
}

type Apply = Box<dyn FnOnce(&mut World, Timestamp) -> Applied + Send>;
type Look = Box<dyn FnOnce(&World, Timestamp) + Send>;

/// What a change left to be done: writes of its own, and the answer, to be given when all is durable.
struct Applied {
    writes: Vec<Write>,
    answer: Box<dyn FnOnce() + Send>,
}

impl Engine {
    /// Loads what is live and starts the task.
    pub async fn start(store: Arc<dyn Store>) -> Result<Engine, StoreError> {
        let clock = Clock::start();
        let live = store.live().await?;
        let (commands, inbox) = mpsc::channel(QUEUE_MAX);
        let (told, events) = watch::channel(live.last_event);
        let wakes = Wakes::default();
        let task = pass::Task::new(live, Arc::clone(&store), clock, told, wakes.clone());
        let task = tokio::spawn(task.run(inbox));
        tokio::spawn(async move {
            if task.await.is_err_and(|ended| ended.is_panic()) {
                // The world is in an unknown state; the store is not. A new process begins from there.
                tracing::error!("the engine panicked; the process ends, so that a new one can go on from the store");
                std::process::abort();
            }
        });
        Ok(Engine { commands, store, events, wakes, clock })
    }

    /// Runs `f` on the world, lets the world decide, commits all that changed together with the writes that
    /// `f` returned, and only then answers. If `f` fails none of its writes are made; it must leave the world
    /// as it was then, as the world's own methods do when they refuse.
    pub async fn change<T: Send + 'static, E: Send + 'static>(
        &self,
        f: impl FnOnce(&mut World, Timestamp) -> Result<(T, Vec<Write>), E> + Send + 'static,
    ) -> Result<Result<T, E>, EngineGone> {
        self.send_change(None, f).await
    }

    /// As [`Engine::change`], on a world that has the run also where it is over and only the store knew it.
    pub async fn change_reviving<T: Send + 'static, E: Send + 'static>(
        &self,
        run: &RunId,
        f: impl FnOnce(&mut World, Timestamp) -> Result<(T, Vec<Write>), E> + Send + 'static,
    ) -> Result<Result<T, E>, EngineGone> {
        self.send_change(Some(run.clone()), f).await
    }

    async fn send_change<T: Send + 'static, E: Send + 'static>(
        &self,
        revive: Option<RunId>,
        f: impl FnOnce(&mut World, Timestamp) -> Result<(T, Vec<Write>), E> + Send + 'static,
    ) -> Result<Result<T, E>, EngineGone> {
        let (tell, told) = oneshot::channel();
        let apply = Box::new(move |world: &mut World, now: Timestamp| {
            let (answer, writes) = match f(world, now) {
                Ok((value, writes)) => (Ok(value), writes),
                Err(refusal) => (Err(refusal), Vec::new()),
            };
            // Who asked may have gone; what was asked is done all the same.
            Applied { writes, answer: Box::new(move || drop(tell.send(answer))) }
        });
        self.commands.send(Command::Change { revive, apply }).await.map_err(|_| EngineGone)?;
        told.await.map_err(|_| EngineGone)
    }

    /// A look at the world between two changes, without writing. It sees nothing uncommitted.
    pub async fn look<T: Send + 'static>(
        &self,
        f: impl FnOnce(&World, Timestamp) -> T + Send + 'static,
    ) -> Result<T, EngineGone> {
        let (tell, told) = oneshot::channel();
        let look = Box::new(move |world: &World, now: Timestamp| drop(tell.send(f(world, now))));
        self.commands.send(Command::Look(look)).await.map_err(|_| EngineGone)?;
        told.await.map_err(|_| EngineGone)
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Wakes when events were committed; the value is the highest event number.
    pub fn events(&self) -> watch::Receiver<i64> {
        self.events.clone()
    }

    /// Wakes when the site's desired state may have changed.
    pub fn site_wakes(&self, site: &SiteId) -> watch::Receiver<u64> {
        self.wakes.subscribe(site)
    }

    /// Wall time at start and the monotonic time since: it never jumps.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Of the placements that a site reports and the world does not know: those that the store has recorded
    /// as over. Their agent may forget the ones that have ended, and shall stop the others. Where the store
    /// can't be asked the answer is empty, and the site's next report asks again.
    pub async fn settle_past(&self, site: &SiteId, observed: &[Observed]) -> Vec<(WorkloadId, Epoch)> {
        let reported: Vec<_> = observed.iter().map(|seen| (seen.workload.clone(), seen.epoch)).collect();
        let place = site.clone();
        let unknown = self.look(move |world, _| {
            let unknown = |(id, epoch): &(WorkloadId, Epoch)| world.known(&place, id, *epoch) == Known::Unknown;
            reported.into_iter().filter(unknown).collect::<Vec<_>>()
        });
        let unknown = if observed.is_empty() { Vec::new() } else { unknown.await.unwrap_or_default() };
        if unknown.is_empty() {
            return unknown;
        }
        let ids = unknown.iter().map(|(id, _)| id.clone()).collect();
        let recorded: BTreeMap<_, _> = match self.store.epochs(ids).await {
            Ok(recorded) => recorded.into_iter().map(|(id, epoch, over)| (id, (epoch, over))).collect(),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, %site, "past runs could not be read");
                return Vec::new();
            }
        };
        // That an epoch is over never becomes untrue, so it does not matter what happens meanwhile.
        let over = |(id, epoch): &(WorkloadId, Epoch)| {
            recorded.get(id).is_some_and(|(newest, over)| newest > epoch || (newest == epoch && *over))
        };
        unknown.into_iter().filter(over).collect()
    }

    /// All versions that a garbage collection has to keep: what is known, and what placements need, be it there yet or
    /// not. Of every site, since a site's store may be a bucket that others share.
    pub async fn kept(&self) -> Result<Vec<VersionId>, KeptError> {
        let needed = self.look(|world, _| pass::needed(world)).await?;
        let mut kept = self.store.versions().await?;
        kept.extend(needed);
        kept.sort();
        kept.dedup();
        Ok(kept)
    }
}

/// Why it is not known what a site has to keep. Nothing may be collected then.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    #[error(transparent)]
    Gone(#[from] EngineGone),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, Clone, Copy)]
struct Clock {
    wall: Timestamp,
    start: Instant,
}

impl Clock {
    fn start() -> Clock {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        Clock { wall: Timestamp(i64::try_from(wall).unwrap_or(i64::MAX)), start: Instant::now() }
    }

    fn now(&self) -> Timestamp {
        let elapsed = i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX);
        Timestamp(self.wall.0.saturating_add(elapsed))
    }
}

/// One bell for each site that anybody waits for.
#[derive(Clone, Default)]
struct Wakes(Arc<Mutex<BTreeMap<SiteId, watch::Sender<u64>>>>);

impl Wakes {
    fn subscribe(&self, site: &SiteId) -> watch::Receiver<u64> {
        let mut bells = self.0.lock().expect("nothing panics while it holds the bells");
        bells.entry(site.clone()).or_default().subscribe()
    }

    fn ring(&self, site: &SiteId) {
        let bells = self.0.lock().expect("nothing panics while it holds the bells");
        if let Some(bell) = bells.get(site) {
            bell.send_modify(|rings| *rings += 1);
        }
    }
}
