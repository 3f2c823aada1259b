//! The agent's clock: the wall's time when the process started, and from there on one that never jumps.

use std::sync::OnceLock;
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
