//! What is free at one site, over time.

/// An amount of each kind of resource, by the kind's index in the world.
pub type Amounts = Vec<u64>;

/// A need, without the kinds that it does not care for.
pub type Need = Vec<(usize, u64)>;

/// A step function: `free(i)` holds from `times[i]` to `times[i + 1]`, the last for ever. Times grow, the first is 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    times: Vec<u64>,
    /// `kinds` amounts for each time.
    free: Vec<u64>,
    kinds: usize,
}

impl Profile {
    pub fn new(free: Amounts) -> Profile {
        Profile { times: vec![0], kinds: free.len(), free }
    }

    /// The first moment from `ready` on at which `need` is free for all of `span` (none: for ever), or nothing where
    /// it never is. A span of zero still has to fit.
    pub fn earliest(&self, need: &Need, ready: u64, span: Option<u64>) -> Option<u64> {
        let mut start = ready;
        let first = self.times.partition_point(|&time| time <= ready) - 1;
        for i in first..self.times.len() {
            let done = span.is_some_and(|span| i > first && self.times[i] >= start.saturating_add(span.max(1)));
            if done && start <= self.times[i] {
                return Some(start);
            }
            if !self.fits(i, need) {
                // Whoever has to wait starts with a later step, or never.
                start = *self.times.get(i + 1)?;
            }
        }
        Some(start)
    }

    /// Takes `need` from `start` to `end` (none: for ever). What is not there is not taken.
    pub fn hold(&mut self, need: &Need, start: u64, end: Option<u64>) {
        if need.is_empty() || end.is_some_and(|end| end <= start) {
            return;
        }
        let first = self.cut(start);
        let last = match end {
            Some(end) => self.cut(end),
            None => self.times.len(),
        };
        for step in first..last {
            for &(kind, amount) in need {
                let free = &mut self.free[step * self.kinds + kind];
                *free = free.saturating_sub(amount);
            }
        }
    }

    fn fits(&self, step: usize, need: &Need) -> bool {
        need.iter().all(|&(kind, amount)| self.free[step * self.kinds + kind] >= amount)
    }

    /// The step that begins at `time`, made if there is none.
    fn cut(&mut self, time: u64) -> usize {
        let after = self.times.partition_point(|&t| t <= time);
        if self.times[after - 1] == time {
            return after - 1;
        }
        self.times.insert(after, time);
        let row = (after - 1) * self.kinds;
        for kind in 0..self.kinds {
            let amount = self.free[row + kind];
            self.free.insert(row + self.kinds + kind, amount);
        }
        after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_gap_that_is_long_enough() {
        let mut profile = Profile::new(vec![4]);
        profile.hold(&vec![(0, 3)], 10, Some(20));
        profile.hold(&vec![(0, 2)], 30, None);
        let check = |need: u64, ready: u64, span: Option<u64>, start: Option<u64>| {
            assert_eq!(profile.earliest(&vec![(0, need)], ready, span), start, "{need} from {ready} for {span:?}");
        };
        check(4, 0, Some(10), Some(0));
        check(4, 0, Some(11), None);
        check(4, 1, Some(10), Some(20));
        check(4, 20, Some(10), Some(20));
        check(4, 21, Some(10), None);
        check(1, 5, Some(1000), Some(5));
        check(2, 5, Some(1000), Some(20));
        check(2, 0, None, Some(20));
        check(3, 0, None, None);
        check(2, 12, Some(0), Some(20));
        check(0, 12, None, Some(12));
    }
}
