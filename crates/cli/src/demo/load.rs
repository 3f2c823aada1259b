//! A constant load on an address: what became of each request, and how long it took.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tombolo_core::chain;

use crate::failure::Failure;

/// Connections that are kept open, and requests in a second over all of them.
const CONNECTIONS: u32 = 4;
const RATE: u32 = 40;
/// After so long a request counts as failed.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A load that goes on until [`Load::end`].
pub struct Load {
    clients: JoinSet<()>,
    /// In the order of their beginning; what is sent belongs to the last.
    seen: Arc<Mutex<Seen>>,
}

type Seen = Vec<(&'static str, Phase)>;

/// What came of the requests that were due while something was going on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Phase {
    took: Vec<Duration>,
    /// What went wrong, for each request that failed.
    pub failures: Vec<String>,
}

impl Phase {
    pub fn sent(&self) -> usize {
        self.took.len() + self.failures.len()
    }

    /// The time within which so many in a hundred were answered, by the nearest rank.
    pub fn percentile(&self, percent: usize) -> Option<Duration> {
        let mut took = self.took.clone();
        took.sort();
        let rank = (took.len() * percent).div_ceil(100).max(1);
        took.get(rank - 1).copied()
    }
}

impl Load {
    /// Posts `body` to `url` again and again, as many clients do who keep their connections.
    pub fn start(url: &str, body: &serde_json::Value, phase: &'static str) -> Result<Load, Failure> {
        let seen = Arc::new(Mutex::new(vec![(phase, Phase::default())]));
        let mut clients = JoinSet::new();
        let period = Duration::from_secs(1) * CONNECTIONS / RATE;
        for number in 0..CONNECTIONS {
            let client = reqwest::Client::builder().pool_max_idle_per_host(1).timeout(ANSWER_MAX).no_proxy().build();
            let client = client.map_err(|error| Failure::system("no HTTP client can be made").because(error))?;
            let (url, body, seen) = (url.to_owned(), body.clone(), seen.clone());
            clients.spawn(async move {
                let mut due = interval_at(Instant::now() + period * number / CONNECTIONS, period);
                // What is late is sent as soon as it can be, and its time counts from when it was due.
                due.set_missed_tick_behavior(MissedTickBehavior::Burst);
                loop {
                    let due = due.tick().await;
                    let phase = lock(&seen).len() - 1;
                    let answer = ask(&client, &url, &body).await;
                    let phase = &mut lock(&seen)[phase].1;
                    match answer {
                        Ok(()) => phase.took.push(due.elapsed()),
                        Err(why) => phase.failures.push(why),
                    }
                }
            });
        }
        Ok(Load { clients, seen })
    }

    /// What is sent from now on belongs to another phase.
    pub fn phase(&self, phase: &'static str) {
        lock(&self.seen).push((phase, Phase::default()));
    }

    /// Ends the load; whatever is under way then isn't counted.
    pub async fn end(mut self) -> Vec<(&'static str, Phase)> {
        self.clients.shutdown().await;
        std::mem::take(&mut *lock(&self.seen))
    }
}

async fn ask(client: &reqwest::Client, url: &str, body: &serde_json::Value) -> Result<(), String> {
    let answer = client.post(url).json(body).send().await.map_err(|error| chain(&error))?;
    let status = answer.status();
    let text = answer.text().await.map_err(|error| chain(&error))?;
    if status.is_success() { Ok(()) } else { Err(format!("{status}: {text}")) }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let phase =
            |ms: &[u64]| Phase { took: ms.iter().map(|ms| Duration::from_millis(*ms)).collect(), failures: vec![] };
        assert_eq!(phase(&[]).percentile(99), None);
        assert_eq!(phase(&[7]).percentile(1), Some(Duration::from_millis(7)));
        let hundred: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(phase(&hundred).percentile(99), Some(Duration::from_millis(99)));
        assert_eq!(phase(&hundred).percentile(50), Some(Duration::from_millis(50)));
        assert_eq!(phase(&hundred).percentile(100), Some(Duration::from_millis(100)));
    }
}
