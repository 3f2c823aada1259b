//! How many refusals are recorded: enough to be seen, and never so many that they fill the disk or hide others.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Refusals recorded within a window; those beyond it are counted and the count recorded with the next.
pub const REFUSALS_MAX: u32 = 60;
pub const REFUSALS_WINDOW: Duration = Duration::from_secs(60);
/// Keys of refused agents that are remembered, so that each is recorded once a window.
pub const KEYS_MAX: usize = 1_024;

#[derive(Debug, Default)]
pub struct Window {
    since: Option<Instant>,
    recorded: u32,
    left_out: u64,
}

impl Window {
    /// Whether one more may be recorded, and how many were left out since the last.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.duration_since(since) >= REFUSALS_WINDOW) {
            (self.since, self.recorded) = (Some(now), 0);
        }
        if self.recorded >= REFUSALS_MAX {
            self.left_out += 1;
            return None;
        }
        self.recorded += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// Agents that were turned away: each key is recorded once a window, and all of them within one window's limit,
/// since whoever wants to can make as many keys as he likes.
#[derive(Debug, Default)]
pub struct TurnedAway {
    window: Window,
    recorded: BTreeMap<String, Instant>,
}

impl TurnedAway {
    /// As [`Window::admit`], for a key.
    pub fn admit(&mut self, key: &str, now: Instant) -> Option<u64> {
        self.recorded.retain(|_, at| now.duration_since(*at) < REFUSALS_WINDOW);
        if self.recorded.contains_key(key) {
            return None;
        }
        if self.recorded.len() >= KEYS_MAX {
            self.window.left_out += 1;
            return None;
        }
        self.recorded.insert(key.to_owned(), now);
        self.window.admit(now)
    }
}

/// What is recorded of why, with the number of those that were left out before it.
pub fn detail(why: Option<String>, left_out: u64) -> Option<String> {
    match left_out {
        0 => why,
        more => Some(format!("{}; {more} more were refused and not recorded", why.unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_counted_and_not_recorded() {
        let (mut window, start) = (Window::default(), Instant::now());
        let recorded = (0..1000).filter(|_| window.admit(start).is_some()).count();
        assert_eq!(recorded, REFUSALS_MAX as usize);
        assert_eq!(window.admit(start + REFUSALS_WINDOW), Some(1000 - u64::from(REFUSALS_MAX)));
        assert_eq!(window.admit(start + REFUSALS_WINDOW), Some(0));
    }

    #[test]
    fn a_key_is_recorded_once_a_window_and_keys_are_bounded() {
        let (mut away, start) = (TurnedAway::default(), Instant::now());
        assert_eq!(away.admit("a", start), Some(0));
        assert_eq!(away.admit("a", start + REFUSALS_WINDOW / 2), None);
        assert_eq!(away.admit("b", start + REFUSALS_WINDOW / 2), Some(0));
        assert_eq!(away.admit("a", start + REFUSALS_WINDOW), Some(0), "a minute later it is news again");

        let (mut away, flood) = (TurnedAway::default(), 10 * KEYS_MAX);
        let recorded = (0..flood).filter(|i| away.admit(&i.to_string(), start).is_some()).count();
        assert_eq!((recorded, away.recorded.len()), (REFUSALS_MAX as usize, KEYS_MAX));
        let left_out = (flood - recorded) as u64;
        assert_eq!(away.admit("0", start + REFUSALS_WINDOW), Some(left_out));
    }
}
