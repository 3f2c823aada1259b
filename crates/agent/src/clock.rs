//! The agent's clock: the wall's time when the process started, and from there on one that never jumps.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tombolo_core::{Millis, Timestamp};

static START: OnceLock<(Timestamp, Instant)> = OnceLock::new();

pub fn now() -> Timestamp {
    let (wall, start) = START.get_or_init(|| (wall(), Instant::now()));
    *wall + Millis(start.elapsed().as_millis() as u64)
}

fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// The control plane's time, as far as it has said: grants end by its clock, which may be hours off from this one.
#[derive(Debug, Clone, Default)]
pub struct ControlTime(Arc<AtomicI64>);

impl ControlTime {
    /// Takes in what the control plane says that the time is.
    pub fn heard(&self, at: Timestamp) {
        self.0.store(at.0.saturating_sub(now().0), Ordering::Relaxed);
    }

    /// This site's own time until the control plane has said something.
    pub fn now(&self) -> Timestamp {
        Timestamp(now().0.saturating_add(self.0.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_end_by_the_control_planes_clock() {
        let (time, before) = (ControlTime::default(), now());
        assert!(time.now() >= before && time.now() <= now());
        let seen = time.clone();
        for hours in [-2, 2] {
            let there = Timestamp(now().0 + hours * 3_600_000);
            time.heard(there);
            assert!((seen.now().0 - there.0).abs() < 60_000, "{hours}");
        }
    }
}
