//! Pauses between tries, each twice as long as the one before it.

use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Pauses {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Pauses {
    pub fn new(first: Duration, max: Duration) -> Pauses {
        Pauses { first, max, next: first }
    }

    /// How long to wait before the next try.
    pub fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        pause
    }

    /// A try has come to something: the next trouble is a new one.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_until_a_try_succeeds() {
        let mut pauses = Pauses::new(Duration::from_secs(1), Duration::from_secs(5));
        let taken: Vec<u64> = (0..5).map(|_| pauses.next().as_secs()).collect();
        assert_eq!(taken, [1, 2, 4, 5, 5]);
        pauses.reset();
        assert_eq!(pauses.next().as_secs(), 1);
    }
}
