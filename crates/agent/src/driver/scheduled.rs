//! A shim that a site's own scheduler runs, whichever that is: what is known of it, told once each.

use std::any::Any;

use tokio::sync::watch;
use tombolo_core::sync::Outcome;

use super::launch::News;

/// How a scheduler has it.
#[derive(Debug, Clone, PartialEq)]
pub enum Stands {
    Waits(String),
    /// It has its processors.
    Has,
    /// The same, and not for long.
    Ends(String),
    /// It is over; what the scheduler says of its end, where that isn't for the shim to say.
    Over(Option<Outcome>),
}

/// A shim that was submitted, or is to be.
pub struct Scheduled {
    stands: watch::Receiver<Stands>,
    /// Why it waits, as it was told last.
    told: Option<String>,
    /// Whether it was told that it will end.
    ends: bool,
    fate: Option<Outcome>,
    /// Watched for as long as this is held.
    _tracked: Box<dyn Any + Send + Sync>,
}

impl Scheduled {
    pub fn new(stands: watch::Receiver<Stands>, tracked: impl Any + Send + Sync) -> Scheduled {
        Scheduled { stands, told: None, ends: false, fate: None, _tracked: Box::new(tracked) }
    }

    /// Waits for a word on it.
    pub async fn news(&mut self) -> News {
        loop {
            let stands = self.stands.borrow_and_update().clone();
            match stands {
                Stands::Over(fate) => {
                    self.fate = fate;
                    return News::Gone;
                }
                Stands::Waits(why) if self.told.as_ref() != Some(&why) => {
                    self.told = Some(why.clone());
                    return News::Queued(why);
                }
                Stands::Ends(why) if !self.ends => {
                    self.ends = true;
                    return News::Ends(why);
                }
                Stands::Waits(_) | Stands::Has | Stands::Ends(_) => {}
            }
            if self.stands.changed().await.is_err() {
                // Who watches goes on for as long as this does.
                return std::future::pending().await;
            }
        }
    }

    pub fn fate(&self) -> Option<Outcome> {
        self.fate.clone()
    }
}

/// Wakes nobody where nothing has changed.
pub fn tell(stands: &watch::Sender<Stands>, now: Stands) {
    stands.send_if_modified(|before| {
        let changed = *before != now;
        *before = now;
        changed
    });
}
