//! Tells the tracking of experiments how workloads ended, event by event, also of what it has missed.

use std::time::Duration;

use tombolo_api::wire::EventView;
use tombolo_tracking::{End, Tracking};

use crate::engine::Engine;

/// Events read at once.
const EVENTS_MAX: u32 = 500;
/// Events after which the position is written down even if none of them meant anything.
const WRITE_EVERY: i64 = 5_000;
/// Pause after a fault; nothing is lost meanwhile.
const AGAIN: Duration = Duration::from_secs(5);

/// Follows for as long as the process lives.
pub async fn follow(engine: Engine, tracking: Tracking) {
    let mut news = engine.events();
    let mut at = None;
    loop {
        match take(&engine, &tracking, &mut at).await {
            Ok(true) => {}
            Ok(false) if news.changed().await.is_err() => return,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(error, "how workloads ended is told later");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// The event up to which all is done, and the one up to which that is written down: looking at events again does no
/// harm, so not each of them is worth a transaction.
#[derive(Clone, Copy)]
struct Position {
    done: i64,
    written: i64,
}

/// Whether there were any events.
async fn take(engine: &Engine, tracking: &Tracking, at: &mut Option<Position>) -> Result<bool, String> {
    let told = |error: tombolo_tracking::Fault| error.to_string();
    let position = match *at {
        Some(position) => position,
        None => {
            let written = tracking.followed().await.map_err(told)?;
            *at.insert(Position { done: written, written })
        }
    };
    let events = engine.store().events(None, position.done, EVENTS_MAX).await.map_err(|error| error.to_string())?;
    let Some(done) = events.last().map(|event| event.number) else { return Ok(false) };
    let ends: Vec<End> = events.iter().filter_map(end).collect();
    let remember = done - position.written >= WRITE_EVERY;
    let mut written = position.written;
    if (!ends.is_empty() || remember) && tracking.follow(ends, done, remember).await.map_err(told)? {
        written = done;
    }
    *at = Some(Position { done, written });
    Ok(true)
}

fn end(event: &EventView) -> Option<End> {
    let status = match event.state.as_str() {
        "succeeded" => "FINISHED",
        "failed" => "FAILED",
        "stopped" => "KILLED",
        _ => return None,
    };
    let workload = format!("{}/{}", event.run, event.workload.as_ref()?);
    Some(End { workload, epoch: event.epoch, status, at: event.at })
}
