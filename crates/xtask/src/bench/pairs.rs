//! Two sides measured in pairs: what can be told of their ratio although the machine's speed drifts.

use super::median;

/// How sure the interval is to hold the median.
const SURE: f64 = 0.95;

/// What was measured of either side, pair by pair.
#[derive(Debug, Clone)]
pub struct Pairs {
    pub ours: Vec<f64>,
    pub peer: Vec<f64>,
}

impl Pairs {
    pub fn new(ours: impl Iterator<Item = f64>, peer: impl Iterator<Item = f64>) -> Pairs {
        let (ours, peer): (Vec<f64>, Vec<f64>) = (ours.collect(), peer.collect());
        assert_eq!(ours.len(), peer.len(), "each has its pair");
        Pairs { ours, peer }
    }

    fn ratios(&self) -> Vec<f64> {
        let mut ratios: Vec<f64> = self.ours.iter().zip(&self.peer).map(|(ours, peer)| ours / peer).collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }

    /// The median of the pairs' ratios.
    pub fn ratio(&self) -> f64 {
        median(self.ratios())
    }

    /// `pairs' ratio 1.004, in 95% of cases within 0.998 to 1.009`.
    pub fn told(&self) -> String {
        let ratios = self.ratios();
        let place = interval(ratios.len());
        let bounds = place.map(|place| (ratios[place], ratios[ratios.len() - 1 - place]));
        match bounds {
            Some((low, high)) => {
                format!(
                    "the pairs' ratio is {:.4}, and lies between {low:.4} and {high:.4} with 95% confidence",
                    self.ratio()
                )
            }
            None => format!("the pairs' ratio is {:.4}, of too few pairs to say how sure that is", self.ratio()),
        }
    }
}

/// From which place, from either end, on a sorted sample holds the median so surely, whatever it is distributed like: the
/// number of values below the median is binomial.
fn interval(count: usize) -> Option<usize> {
    let mut term = 0.5_f64.powi(i32::try_from(count).ok()?);
    let mut below = 0.0;
    let mut place = None;
    for k in 0..count / 2 {
        below += term;
        if 2.0 * below > 1.0 - SURE {
            break;
        }
        place = Some(k);
        term *= (count - k) as f64 / (k + 1) as f64;
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places counted from one are those of tables of the sign test: of 10 the second, of 20 the sixth.
    #[test]
    fn an_interval_is_as_wide_as_few_values_make_it() {
        for (count, expected) in
            [(0, None), (2, None), (5, None), (6, Some(0)), (9, Some(1)), (10, Some(1)), (20, Some(5))]
        {
            assert_eq!(interval(count), expected, "{count}");
        }
    }

    #[test]
    fn a_drift_of_the_machine_is_not_told_for_a_difference() {
        let drift = (0..10).map(|i| 30.0 + f64::from(i));
        let pairs = Pairs::new(drift.clone().map(|seconds| seconds * 1.002), drift);
        assert!((pairs.ratio() - 1.002).abs() < 1e-9);
        assert_eq!(pairs.told(), "the pairs' ratio is 1.0020, and lies between 1.0020 and 1.0020 with 95% confidence");
        let few = Pairs::new([2.0, 4.0].into_iter(), [2.0, 2.0].into_iter());
        assert_eq!(few.told(), "the pairs' ratio is 1.5000, of too few pairs to say how sure that is");
    }
}
