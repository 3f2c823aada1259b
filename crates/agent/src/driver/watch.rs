//! One task for each placement that has a shim: tells what happens to it, and when it is over for good.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tombolo_core::ids::{Epoch, WorkloadId};
use tombolo_core::sync::{Order, Outcome, Phase};
use tombolo_core::time::Timestamp;

use super::launch::{LOOK_EVERY, News, Shim};
use super::{Driver, end};
use crate::shim::placement::{Event, Events, Lack, Placement};
use crate::shim::{lost, process};

/// Pause before a placement that could not be read is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How often a shim is started that ends before it has launched anything.
pub const SPAWNS_MAX: u32 = 3;
/// How much of what a shim has said is quoted, in bytes.
const QUOTE_BYTES_MAX: usize = 2_000;

/// What it takes to start another shim, for a placement that this agent started.
pub struct Spawner {
    pub order: Order,
    pub secrets: Vec<u8>,
    pub left: u32,
}

pub struct Watch {
    pub driver: Driver,
    pub workload: WorkloadId,
    pub epoch: Epoch,
    pub placement: Placement,
    pub wake: Arc<Notify>,
    pub shim: Shim,
    /// None for a shim that was found.
    pub spawner: Option<Spawner>,
    /// Whether the shim has told anything.
    pub began: bool,
    /// Since when it answers, and where.
    pub ready: Option<(Timestamp, String)>,
    /// How many times what the placement lacked was brought.
    pub brought: usize,
}

impl Watch {
    pub async fn run(mut self) {
        let mut events = self.placement.events();
        while let Err(error) = self.follow(&mut events).await {
            tracing::warn!(dir = %self.placement.dir().display(), %error, "a placement can't be watched");
            // What can't be read now, as on a file system that hangs, says nothing: its shim may be well.
            if error.kind() != io::ErrorKind::InvalidData && self.placement.exists() {
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            }
            self.driver.stop(&self.workload, self.epoch);
            let why = format!("its directory can't be read: {error}");
            self.tell(Phase::Finished(Box::new(tombolo_core::sync::Finish::without_running(
                Outcome::Lost { why },
                crate::clock::now(),
            ))))
            .await;
            break;
        }
        self.driver.inner.leave(&self.placement);
        // It still removes what it no longer needs.
        self.shim.reap().await;
    }

    async fn follow(&mut self, events: &mut Events) -> io::Result<()> {
        loop {
            if self.tell_new(events).await? {
                return Ok(());
            }
            let over = match self.news().await {
                News::Look => false,
                News::Gone => self.look_after(events).await?,
                // What a scheduler says may be older than what the shim has said meanwhile.
                News::Queued(_) if self.began => false,
                News::Queued(why) => {
                    self.tell(Phase::Queued { why }).await;
                    false
                }
                News::Ends(why) => {
                    if let Some((since, address)) = self.ready.clone() {
                        self.tell(Phase::Ending { since, address, why }).await;
                    }
                    false
                }
            };
            if over {
                return Ok(());
            }
        }
    }

    /// Tells what was written since the last time; answers whether that was the end.
    async fn tell_new(&mut self, events: &mut Events) -> io::Result<bool> {
        for event in events.read_new()? {
            let over = matches!(event, Event::Finished { .. });
            if let Some(phase) = event.phase() {
                self.began = true;
                if let Phase::Ready { since, address } = &phase {
                    self.ready = Some((*since, address.clone()));
                }
                self.tell(phase).await;
            }
            if over {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits for something to happen.
    async fn news(&mut self) -> News {
        let wake = self.wake.clone();
        tokio::select! {
            biased;
            news = self.shim.news() => news,
            () = wake.notified() => News::Look,
            () = tokio::time::sleep(LOOK_EVERY) => News::Look,
        }
    }

    /// Where no shim is alive: the end, whether it has written one or not. Answers whether it is over.
    async fn look_after(&mut self, events: &mut Events) -> io::Result<bool> {
        let placement = self.placement.clone();
        let Some(lock) = placement.try_lock()? else {
            // Another shim of this placement was faster; it is no child of this agent.
            self.give_over();
            return Ok(false);
        };
        if self.tell_new(events).await? {
            return Ok(true);
        }
        let mut progress = placement.progress()?;
        let outcome = match progress.launched {
            Some(session) => {
                let dir = placement.dir().to_owned();
                let undead = tokio::task::spawn_blocking(move || process::kill_orphans(&session, &dir)).await;
                let lost = || Outcome::Lost { why: lost(&undead.unwrap_or_default()) + &self.quote() };
                self.shim.fate().unwrap_or_else(lost)
            }
            None if placement.stop_was_asked() => Outcome::Stopped,
            None if let Some(fate) = self.shim.fate() => fate,
            None => {
                drop(lock);
                if progress.lacks.len() > self.brought
                    && let Some(lack) = progress.lacks.pop()
                {
                    self.brought = progress.lacks.len() + 1;
                    return self.bring_again(lack).await;
                }
                return self.start_again().await;
            }
        };
        end(&placement, &lock, outcome)?;
        self.tell_new(events).await
    }

    /// For a shim that has ended because the store lacks something: the next one finds it there.
    async fn bring_again(&mut self, lack: Lack) -> io::Result<bool> {
        let Some(bring) = self.driver.inner.bring.get() else {
            let why = format!("{}, and nothing was said of how to bring it again", lack.why);
            return self.end_unless_held(Outcome::Unprepared { why });
        };
        tracing::warn!(dir = %self.placement.dir().display(), lack = lack.why, "brought again");
        let brought = tokio::select! {
            brought = bring(lack.version, self.workload.clone()) => brought,
            // The next shim finds the mark.
            () = self.stop_asked() => Ok(()),
        };
        match (brought, &mut self.spawner) {
            (Ok(()), Some(spawner)) => {
                self.shim = self.driver.inner.launcher.start(&self.placement, &spawner.order, &spawner.secrets)?;
                Ok(false)
            }
            // Whoever started the last one had the secrets.
            (Ok(()), None) => self.start_again().await,
            (Err(Outcome::Unprepared { why }), _) => self.end_unless_held(Outcome::Unprepared {
                why: format!(
                    "{}, and it can't be brought again: {why}\nhint: add the data again where its files are (tombolo \
                     data add), or run the stage that made it again (--force)",
                    lack.why
                ),
            }),
            (Err(outcome), _) => self.end_unless_held(outcome),
        }
    }

    async fn stop_asked(&self) {
        while !self.placement.stop_was_asked() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// For a shim that has ended without launching anything, as when it was killed or its program is broken.
    async fn start_again(&mut self) -> io::Result<bool> {
        if let Some(spawner) = &mut self.spawner
            && spawner.left > 0
        {
            spawner.left -= 1;
            self.shim = self.driver.inner.launcher.start(&self.placement, &spawner.order, &spawner.secrets)?;
            return Ok(false);
        }
        let outcome = match self.spawner {
            Some(_) => {
                Outcome::Unprepared { why: format!("its shim ends before it starts the command{}", self.quote()) }
            }
            None => Outcome::Lost { why: "its shim ended before it started the command".to_owned() },
        };
        self.end_unless_held(outcome)
    }

    /// Another shim has the lock, which this agent did not start.
    fn give_over(&mut self) {
        (self.shim, self.spawner) = (Shim::Stranger, None);
    }

    /// Writes the end, which is told with the next look.
    fn end_unless_held(&mut self, outcome: Outcome) -> io::Result<bool> {
        // Somebody else may have taken the lock meanwhile; then it is theirs to end.
        let Some(lock) = self.placement.try_lock()? else {
            self.give_over();
            return Ok(false);
        };
        end(&self.placement, &lock, outcome)?;
        Ok(false)
    }

    /// What the shim has said at last.
    fn quote(&self) -> String {
        let text = std::fs::read(self.placement.shim_err()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(QUOTE_BYTES_MAX)..]).trim().to_owned();
        if text.is_empty() { String::new() } else { format!(":\n{text}") }
    }

    async fn tell(&self, phase: Phase) {
        // The agent's loop is gone only when the process ends.
        let _ = self.driver.inner.seen.send((self.workload.clone(), self.epoch, phase)).await;
    }
}
