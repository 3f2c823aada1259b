//! A run as it happens: its events, and the logs of each stage as they are written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tombolo_api::client::{Client, ClientError};
use tombolo_api::stream::Progress;
use tombolo_api::wire::{EventView, RunView};
use tombolo_core::{Name, RunId, WorkloadId};

use crate::failure::{Failure, apart};
use crate::logs::{self, LogRequest, Printer};
use crate::session::{Output, Session};
use crate::{progress, render};

/// Times in a row that a lost connection is tried again before giving up, and the pause between them.
const RETRIES_MAX: u32 = 60;
/// How often what moves is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(500);
/// How often it is told in a line of its own, where nothing is drawn, as in a log.
const TELL_EVERY: Duration = Duration::from_secs(15);
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long the last lines of logs may take to arrive after a run's end.
const LAST_LINES_WAIT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub struct FollowOptions {
    /// Only what happens after this event.
    pub after: i64,
    /// Print the stages' logs.
    pub logs: bool,
    /// Tell of every stage's steps.
    pub events: bool,
}

impl Default for FollowOptions {
    fn default() -> FollowOptions {
        FollowOptions { after: 0, logs: true, events: true }
    }
}

pub enum Followed {
    /// Over, or serving.
    Ended(Box<RunView>),
    /// The user no longer wants to look; the run goes on.
    Detached,
}

/// Whether there is nothing more to wait for: it is over, or what stays of it answers.
pub fn is_over(state: &str) -> bool {
    matches!(state, "succeeded" | "serving" | "failed" | "stopped")
}

/// Follows until the run is over or the user presses Ctrl-C, which never touches the run.
pub async fn follow_or_detach(session: &Session, run: &RunId, options: &FollowOptions) -> Result<Followed, Failure> {
    tokio::select! {
        view = follow(session, run, options) => Ok(Followed::Ended(Box::new(view?))),
        _ = tokio::signal::ctrl_c() => Ok(Followed::Detached),
    }
}

/// Follows until the run is over or serving. A control plane that is away for a while is waited for.
pub async fn follow(session: &Session, run: &RunId, options: &FollowOptions) -> Result<RunView, Failure> {
    let first: RunView = session.client.get(&format!("/v1/runs/{run}")).await?;
    let mut follower = Follower::new(session, run, &first, options);
    let mut retries = 0;
    let view = loop {
        let seen = follower.last;
        let path = format!("/v1/runs/{run}/events?after={seen}");
        let heard = session.client.events(&path, |event| follower.see(event)).await;
        let view = match heard {
            Ok(()) => session.client.get::<RunView>(&format!("/v1/runs/{run}")).await,
            Err(error) => Err(error),
        };
        match view {
            Ok(view) if is_over(&view.state) && follower.has_seen_end(&view) => break view,
            Ok(_) => {}
            Err(ClientError::Unreachable { .. } | ClientError::Broken(_)) if retries < RETRIES_MAX => {}
            Err(error) => return Err(lost(run, error)),
        }
        retries = if follower.last > seen { 0 } else { retries + 1 };
        if retries > 0 {
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    };
    follower.finish(&view).await;
    Ok(view)
}

/// Whether an event is the end of a run that was seen so. One that was retried has ended before, and one that served may
/// have been stopped since.
pub fn is_end(view: &RunView, event: &EventView) -> bool {
    let ends = event.workload.is_none() && is_over(&event.state);
    let is_last =
        !is_over(&view.state) || event.state == view.state && view.ended.is_none_or(|ended| event.at >= ended);
    ends && is_last
}

/// The number of the last event of a run that is over; none where it is not.
pub async fn last_event(session: &Session, run: &RunId) -> Result<i64, Failure> {
    let view: RunView = session.client.get(&format!("/v1/runs/{run}")).await?;
    if !is_over(&view.state) {
        return Ok(0);
    }
    let mut last = 0;
    let each = |event: EventView| {
        last = event.number;
        !is_end(&view, &event)
    };
    session.client.events(&format!("/v1/runs/{run}/events?after=0"), each).await?;
    Ok(last)
}

fn lost(run: &RunId, error: ClientError) -> Failure {
    Failure::from(error).hint(format!("the run goes on without being watched; follow it again: tombolo logs -f {run}"))
}

struct Follower<'a> {
    session: &'a Session,
    run: &'a RunId,
    options: &'a FollowOptions,
    /// The highest event number seen.
    last: i64,
    /// When the run ended, as far as events told.
    ended: Option<i64>,
    printer: Arc<Printer>,
    /// Stages that are somewhere or wait, with their state.
    live: BTreeMap<String, String>,
    reading: BTreeSet<(String, u64)>,
    readers: Readers,
    /// States, for whoever draws them together with what moves.
    states: watch::Sender<String>,
}

/// Ends its tasks when it is dropped, so that nothing prints after Ctrl-C.
#[derive(Default)]
struct Readers(Vec<(String, JoinHandle<()>)>);

impl Drop for Readers {
    fn drop(&mut self) {
        self.0.iter().for_each(|(_, reader)| reader.abort());
    }
}

impl<'a> Follower<'a> {
    fn new(session: &'a Session, run: &'a RunId, view: &RunView, options: &'a FollowOptions) -> Follower<'a> {
        let width = view.workloads.iter().map(|workload| workload.name.len()).max().unwrap_or(0);
        let bar: ProgressBar = progress::spinner();
        let aside = session.output == Output::Json;
        let printer = Arc::new(Printer { bar: Some(bar), prefix: Some(width), aside, hints: false });
        let (states, seen) = watch::channel(String::new());
        let mut readers = Readers::default();
        let (client, run_id, shown) = (session.client.clone(), run.clone(), printer.clone());
        let task = match printer.has_bar() {
            true => Some(tokio::spawn(draw(client, run_id, shown, seen))),
            false if options.events => Some(tokio::spawn(tell(client, run_id, shown, seen))),
            false => None,
        };
        readers.0.extend(task.map(|task| (String::new(), task)));
        Follower {
            session,
            run,
            options,
            last: options.after,
            ended: None,
            printer,
            live: BTreeMap::new(),
            reading: BTreeSet::new(),
            readers,
            states,
        }
    }

    /// Takes in an event; false where it may have been the last one.
    fn see(&mut self, event: EventView) -> bool {
        self.last = self.last.max(event.number);
        let Some(name) = event.workload.clone() else {
            self.ended = is_over(&event.state).then_some(event.at);
            return self.ended.is_none();
        };
        match event.state.as_str() {
            "placed" | "preparing" | "running" | "queued" | "backoff" => {
                self.live.insert(name.clone(), state_line(&event));
            }
            _ => drop(self.live.remove(&name)),
        }
        if self.options.events {
            self.printer.talk(&format!("{} {name}: {}", render::clock(event.at), state_line(&event)));
        }
        let states: Vec<String> = self.live.iter().map(|(name, state)| format!("{name} {state}")).collect();
        let states = states.join(" · ");
        self.printer.state(&states);
        let _ = self.states.send(states);
        if self.options.logs && event.epoch > 0 {
            self.read_logs(&name, &event);
        }
        true
    }

    /// The logs of an attempt are read once, from its first line on.
    fn read_logs(&mut self, name: &str, event: &EventView) {
        let has_lines = matches!(event.state.as_str(), "running" | "ready" | "succeeded" | "failed" | "backoff");
        let Ok(stage) = Name::new(name) else { return };
        if !has_lines || !self.reading.insert((name.to_owned(), event.epoch)) {
            return;
        }
        let workload = WorkloadId::new(self.run.clone(), stage);
        let request = LogRequest { follow: true, epoch: Some(event.epoch), ..LogRequest::default() };
        let (client, printer) = (self.session.client.clone(), self.printer.clone());
        let reader = tokio::spawn(async move {
            if let Err(failure) = logs::print(&client, &workload, &request, &printer).await {
                let why = failure.why.map(|why| format!(": {why}")).unwrap_or_default();
                printer.talk(&format!("the log of {workload} can't be read: {}{why}", failure.what));
            }
        });
        self.readers.0.push((name.to_owned(), reader));
    }

    /// A run that was retried has ended before; only its last end counts.
    fn has_seen_end(&self, view: &RunView) -> bool {
        self.ended.is_some_and(|at| view.ended.is_none_or(|ended| at >= ended))
    }

    /// Lets the last lines of what has ended arrive. Services go on, and so would their logs.
    async fn finish(mut self, view: &RunView) {
        let serving =
            |name: &str| view.workloads.iter().any(|workload| workload.name == name && workload.state == "ready");
        let deadline = tokio::time::Instant::now() + LAST_LINES_WAIT;
        for (name, reader) in &mut self.readers.0 {
            if !name.is_empty() && !serving(name) {
                // Late lines are still at the site, and `tombolo logs` shows them.
                let _ = tokio::time::timeout_at(deadline, reader).await;
            }
        }
        self.printer.close();
    }
}

/// Draws what moves beside the states, for as long as something is on its way somewhere.
async fn draw(client: Client, run: RunId, printer: Arc<Printer>, mut states: watch::Receiver<String>) {
    loop {
        let state = states.borrow_and_update().clone();
        let moves = is_moving(&state);
        if moves && let Ok(view) = client.get::<RunView>(&format!("/v1/runs/{run}")).await {
            let bars: Vec<String> =
                coming(&view).map(|(name, moving)| format!("{name}: {}", progress::line(moving))).collect();
            printer.state(&if bars.is_empty() { state } else { format!("{state}  {}", bars.join("  ")) });
        }
        tokio::select! {
            changed = states.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(DRAW_EVERY), if moves => {}
        }
    }
}

/// Tells of what moves now and then, line by line.
async fn tell(client: Client, run: RunId, printer: Arc<Printer>, mut states: watch::Receiver<String>) {
    loop {
        let moves = is_moving(&states.borrow_and_update());
        tokio::select! {
            changed = states.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            () = tokio::time::sleep(TELL_EVERY), if moves => {}
        }
        let Ok(view) = client.get::<RunView>(&format!("/v1/runs/{run}")).await else { continue };
        for (name, moving) in coming(&view) {
            let at = render::clock(render::now().0);
            printer.talk(&format!("{at} {name}: {} comes: {}", moving.what, progress::told(moving)));
        }
    }
}

fn is_moving(state: &str) -> bool {
    state.contains("preparing") || state.contains("placed")
}

/// What is on its way to which stage.
fn coming(view: &RunView) -> impl Iterator<Item = (&str, &Progress)> {
    view.workloads.iter().filter_map(|workload| Some((workload.name.as_str(), workload.moving.as_ref()?)))
}

/// `running at cloud`, `failed: exited with code 3`.
fn state_line(event: &EventView) -> String {
    let mut line = event.state.clone();
    if let Some(site) = &event.site {
        line += &format!(" at {site}");
    }
    if let Some(text) = &event.text {
        // The verdict at the run's end tells its hints, once.
        line += &format!(": {}", apart(text).0);
    }
    line
}
