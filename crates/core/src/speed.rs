//! How fast something comes, and how long the rest of it will take.

use std::collections::VecDeque;

use crate::time::Millis;

/// How far back the rate looks: long enough to be steady, short enough to tell soon of a line that has become slow.
const WINDOW: Millis = Millis::from_secs(10);
/// Least span that a rate is told of; what was begun just now comes in bursts.
const SPAN_MIN: Millis = Millis(500);
/// Two of what is noted are at least so far apart, so that as much is kept as says something.
const STEP: Millis = Millis(250);

/// What has come, and when. Times are since anything, as long as it is always the same.
#[derive(Debug, Clone, Default)]
pub struct Speed {
    noted: VecDeque<(Millis, u64)>,
}

impl Speed {
    /// So much in all had come at that time.
    pub fn note(&mut self, at: Millis, done: u64) {
        // Begun anew: what came before says nothing of what is missing now.
        if self.noted.back().is_some_and(|(_, last)| *last > done) {
            self.noted.clear();
        }
        let before = self.noted.len().checked_sub(2).map(|index| self.noted[index].0);
        if before.is_some_and(|before| at.0 < before.0 + STEP.0) {
            self.noted.pop_back();
        }
        self.noted.push_back((at, done));
        while self.noted.len() > 2 && self.noted[1].0.0 + WINDOW.0 <= at.0 {
            self.noted.pop_front();
        }
    }

    /// Bytes a second of late, as of `now`; none where too little is known. It falls while nothing comes.
    pub fn bytes_per_s(&self, now: Millis) -> Option<u64> {
        let (_, done) = self.noted.back()?;
        let recent = |(at, _): &&(Millis, u64)| at.0 + WINDOW.0 >= now.0;
        // Where nothing was noted within the window, nothing has come since the last note.
        let (from, before) = self.noted.iter().find(recent).or(self.noted.back())?;
        let span = now.0.saturating_sub(from.0);
        (span >= SPAN_MIN.0).then(|| (u128::from(done - before) * 1000 / u128::from(span)) as u64)
    }

    /// How long the rest will take at that rate; none where nothing comes.
    pub fn left(&self, now: Millis, total: u64) -> Option<Millis> {
        let (_, done) = self.noted.back()?;
        let rest = total.saturating_sub(*done);
        let rate = self.bytes_per_s(now).filter(|rate| *rate > 0)?;
        Some(Millis((u128::from(rest) * 1000 / u128::from(rate)).min(u128::from(u64::MAX)) as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes of `(milliseconds, bytes)`, and then the rate and what is left of 10,000 bytes.
    fn told(notes: &[(u64, u64)], now: u64) -> (Option<u64>, Option<u64>) {
        let mut speed = Speed::default();
        notes.iter().for_each(|(at, done)| speed.note(Millis(*at), *done));
        (speed.bytes_per_s(Millis(now)), speed.left(Millis(now), 10_000).map(|left| left.0))
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        assert_eq!(told(&[], 5_000), (None, None));
        assert_eq!(told(&[(0, 0)], 100), (None, None), "too soon to tell");
        assert_eq!(told(&[(0, 0), (1_000, 500)], 1_000), (Some(500), Some(19_000)));
        // Quick at first, then slow: the first part is forgotten.
        let slowed: Vec<(u64, u64)> = (0..=10)
            .map(|s| (s * 1_000, s * 500))
            .chain((11..=30).map(|s| (s * 1_000, 5_000 + (s - 10) * 10)))
            .collect();
        assert_eq!(told(&slowed, 30_000).0, Some(10));
        // It stands still: the rate falls, and then there is no saying.
        let stopped = [(0, 0), (1_000, 1_000), (2_000, 2_000)];
        assert_eq!(told(&stopped, 4_000), (Some(500), Some(16_000)));
        assert_eq!(told(&stopped, 60_000), (Some(0), None));
        assert_eq!(told(&[(0, 0), (1_000, 10_000)], 1_000).1, Some(0), "all is there");
        // Another version is brought after the first.
        assert_eq!(told(&[(0, 0), (1_000, 9_000), (1_500, 0), (2_500, 1_000)], 2_500), (Some(1_000), Some(9_000)));
    }

    #[test]
    fn many_notes_take_little_room_and_tell_the_same() {
        let mut speed = Speed::default();
        for ms in 0..60_000 {
            speed.note(Millis(ms), ms * 3);
        }
        assert!(speed.noted.len() <= (WINDOW.0 / STEP.0) as usize + 3, "{}", speed.noted.len());
        let rate = speed.bytes_per_s(Millis(60_000)).unwrap();
        assert!((2_950..=3_000).contains(&rate), "{rate}");
    }
}
