//! Sites that are left and opened again: what is asked, what is known of it, and the rules by which things go and come back.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::{SiteId, WorkloadId};
use crate::moving::{Method, Quote};
use crate::residency::Selector;
use crate::site::{Hours, Labels, Link};
use crate::time::{Millis, Timestamp};

/// The label that says when a site is left by itself.
pub const MAINTENANCE: &str = "maintenance";
/// Whose doing that is.
pub const BY_MAINTENANCE: &str = "maintenance";
/// So long before a maintenance begins its site is left, so that it is empty by then.
pub const MAINTENANCE_LEAD: Millis = Millis::from_secs(15 * 60);
/// Spans in one maintenance label.
pub const SPANS_MAX: usize = 32;

/// What one of several moves over a link shall have of it at least; in bytes in a second.
pub const SHARE_BYTES_PER_S: f64 = 5_000_000.0;
/// Moves over one link at once, however fast it is; and away from one site.
pub const PARALLEL_MAX: usize = 8;
pub const UNDER_WAY_MAX: usize = 16;

/// How often one destination is tried for a workload in a drain, and how often its home in a homecoming.
pub const TRIES_MAX: usize = 3;
/// Between tries; doubled with each.
pub const RETRY_FIRST: Millis = Millis::from_secs(5);
pub const RETRY_MAX: Millis = Millis::from_secs(300);
/// The same where a job had left no state: it may leave some later.
pub const STATELESS_RETRY_FIRST: Millis = Millis::from_secs(60);

/// For how long what belongs to a site that was opened again may still come home.
pub const HOMECOMING_FOR: Millis = Millis::from_secs(24 * 3600);
/// A job that ends within so many times what its move takes is left to end where it is.
pub const ENDS_WITHIN: u64 = 2;
/// How long a job stays of which nobody knows how long it runs.
pub const STAY_ASSUMED: Millis = Millis::from_secs(3600);

/// Who wanted a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Somebody asked for this very move.
    #[default]
    Asked,
    /// Its site was to be left.
    Drain,
    /// It belongs to a site that was opened again.
    Home,
    /// It had spilled over, and where it would rather be has room again.
    Back,
}

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainWish {
    /// From now, after which nothing is moved any more. What is there then goes on.
    pub deadline: Option<Millis>,
    /// Whether jobs that have left no state begin anew elsewhere.
    pub restart_jobs: bool,
    pub by: String,
}

/// A site that is being left, or was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    pub by: String,
    pub at: Timestamp,
    #[serde(default)]
    pub deadline: Option<Timestamp>,
    #[serde(default)]
    pub restart_jobs: bool,
    /// Begun by the site's label, and over with its time.
    #[serde(default)]
    pub maintenance: bool,
    /// When the site was empty, or the deadline had passed.
    #[serde(default)]
    pub ended: Option<Timestamp>,
    /// What was there when it began.
    #[serde(default)]
    pub of: BTreeSet<WorkloadId>,
    /// What can't leave, as things are.
    #[serde(default)]
    pub stays: BTreeMap<WorkloadId, Stay>,
}

impl Drain {
    /// That of a site which nobody has drained.
    pub fn none(at: Timestamp) -> Drain {
        Drain {
            by: String::new(),
            at,
            deadline: None,
            restart_jobs: false,
            maintenance: false,
            ended: None,
            of: BTreeSet::new(),
            stays: BTreeMap::new(),
        }
    }

    pub fn lasts(&self) -> bool {
        self.ended.is_none()
    }
}

/// Why something stays where it is, by the name of a rule and in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stay {
    pub rule: String,
    pub why: String,
}

impl Stay {
    pub fn new(rule: &str, why: impl Into<String>) -> Stay {
        Stay { rule: rule.to_owned(), why: why.into() }
    }
}

/// A site that was opened again, and to which what belongs there may come home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Homecoming {
    pub by: String,
    pub at: Timestamp,
}

/// A move that a plan has, in the order in which they go.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    pub workload: WorkloadId,
    pub from: SiteId,
    pub to: SiteId,
    pub method: Method,
    pub quote: Quote,
    /// Why it is worth it, or on what it depends.
    pub why: Option<String>,
}

/// Who goes where, and who stays.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    pub moves: Vec<Planned>,
    pub stays: Vec<(WorkloadId, Stay)>,
}

/// Where a workload would rather be, and when it may be elsewhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Leaning {
    pub prefer: Selector,
    /// Where it may spill over to; none: wherever else it may be.
    #[serde(default)]
    pub burst: Option<Selector>,
    /// It spills over when it has waited so long, or is expected to.
    pub burst_after: Millis,
    #[serde(default)]
    pub back: Back,
    /// It stays at least so long at a site before it is brought back from there.
    pub back_at_most: Millis,
}

impl Leaning {
    pub const BURST_AFTER_DEFAULT: Millis = Millis::from_secs(300);
    pub const BACK_AT_MOST_DEFAULT: Millis = Millis::from_secs(3600);

    /// All sites that it may be at by itself, where not all others are fine.
    pub fn all(&self) -> Option<Selector> {
        let burst = self.burst.as_ref()?;
        Some(Selector(self.prefer.0.union(&burst.0).cloned().collect()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Back {
    #[default]
    Never,
    WhenFree,
}

/// How many moves may go over a link at once: so many that each has a fair part of it.
pub fn parallel(link: &Link) -> usize {
    let limit =
        link.limit.filter(|limit| limit.hours.is_none()).map_or(f64::INFINITY, |limit| limit.bytes_per_s as f64);
    let shares = link.bytes_per_s.min(limit) / SHARE_BYTES_PER_S;
    (shares as usize).clamp(1, PARALLEL_MAX)
}

/// When a workload whose moves were undone so often may be tried again.
pub fn retry_after(undone: usize, stateless: bool) -> Millis {
    let first = if stateless { STATELESS_RETRY_FIRST } else { RETRY_FIRST };
    Millis((first.0 << undone.saturating_sub(1).min(10)).min(RETRY_MAX.0))
}

/// What coming home changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bargain {
    /// How long it goes on, as far as that is known; none for a service.
    pub stay: Option<Millis>,
    /// Whether that is more than a guess.
    pub known: bool,
    /// What running costs in an hour where it is, and where it would go.
    pub here_hour: f64,
    pub there_hour: f64,
    /// What the move takes.
    pub takes: Millis,
    pub price: f64,
}

/// Whether it is worth going there: a job has to go on for more than [`ENDS_WITHIN`] times what the move takes, and the
/// move must cost no more than being there saves in the time that it stays (a service: a day).
pub fn worth(bargain: &Bargain) -> Result<String, Stay> {
    let span = bargain.stay.unwrap_or(crate::placement::SERVICE_PRICED);
    if bargain.stay.is_some() && bargain.known && span.0 <= bargain.takes.0.saturating_mul(ENDS_WITHIN) {
        let why = format!("it is expected to end in {span}, and the move takes {}", bargain.takes);
        return Err(Stay::new("ends-soon", why));
    }
    let saves = (bargain.here_hour - bargain.there_hour) * span.as_secs_f64() / 3600.0;
    // Prices are sums of small numbers: what differs in the last digits is the same.
    if saves + 1e-9 < bargain.price {
        let what = if saves < 0.0 { "costs more than being here by" } else { "saves" };
        let why = format!("the move costs ${:.2}, and being there {what} ${:.2} in {span}", bargain.price, saves.abs());
        return Err(Stay::new("not-worth", why));
    }
    Ok(format!("saves ${saves:.2} in {span}, and the move costs ${:.2}", bargain.price))
}

/// The spans of a maintenance label: `sat 02:00-06:00`, `sat,sun 02:00-06:00, wed 23:00-01:00`.
pub fn maintenance(text: &str) -> Result<Vec<Hours>, String> {
    let mut spans: Vec<Hours> = Vec::new();
    // Commas part days as well as spans: what has no digit is a day that goes with what follows.
    let mut begun: Vec<&str> = Vec::new();
    for piece in text.split(',') {
        begun.push(piece);
        if piece.contains(|c: char| c.is_ascii_digit()) {
            spans.push(begun.join(",").parse()?);
            begun.clear();
        }
    }
    if !begun.is_empty() {
        return Err(format!("{text:?} names no time; write it as sat 02:00-06:00, several with commas"));
    }
    if spans.len() > SPANS_MAX {
        return Err(format!("there are at most {SPANS_MAX} spans in a maintenance label"));
    }
    Ok(spans)
}

/// Whether a site's label has it empty at a minute of the week, or soon after.
pub fn maintained(labels: &Labels, minute: u16) -> bool {
    let Some(spans) = labels.get(MAINTENANCE).and_then(|text| maintenance(text).ok()) else { return false };
    let lead = (MAINTENANCE_LEAD.0 / 60_000) as u16;
    // Every minute until then, so that a short span is not stepped over.
    spans.iter().any(|span| (0..=lead).any(|ahead| span.contains(minute + ahead)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::Limit;

    #[test]
    fn links_bound_what_goes_over_them() {
        let link = |mb: u64| Link { bytes_per_s: mb as f64 * 1e6, latency: Millis(0), limit: None };
        assert_eq!([0, 1, 12, 20, 1000].map(|mb| parallel(&link(mb))), [1, 1, 2, 4, 8]);
        let limited = |hours: Option<&str>| Link {
            limit: Some(Limit { bytes_per_s: 6_000_000, hours: hours.map(|text| text.parse().unwrap()) }),
            ..link(1000)
        };
        assert_eq!([parallel(&limited(None)), parallel(&limited(Some("08:00-09:00")))], [1, 8]);
    }

    #[test]
    fn tries_get_rarer() {
        assert_eq!([1, 2, 3, 20].map(|n| retry_after(n, false).0), [5_000, 10_000, 20_000, 300_000]);
        assert_eq!(retry_after(1, true), STATELESS_RETRY_FIRST);
    }

    #[test]
    fn what_is_worth_it() {
        let service =
            Bargain { stay: None, known: true, here_hour: 1.0, there_hour: 0.5, takes: Millis(1000), price: 12.0 };
        assert_eq!(worth(&service).unwrap(), "saves $12.00 in 24 h 0 min, and the move costs $12.00");
        let check = |bargain: Bargain, rule: &str| assert_eq!(worth(&bargain).unwrap_err().rule, rule, "{bargain:?}");
        check(Bargain { price: 12.1, ..service }, "not-worth");
        check(Bargain { there_hour: 1.1, price: 0.0, ..service }, "not-worth");
        let job = Bargain { stay: Some(Millis(2_000)), price: 0.0, ..service };
        check(job, "ends-soon");
        assert!(worth(&Bargain { known: false, ..job }).is_ok(), "a guess ends nothing");
        assert!(worth(&Bargain { stay: Some(Millis(2_001)), ..job }).is_ok());
    }

    #[test]
    fn maintenance_labels() {
        let shown = |text: &str| maintenance(text).map(|spans| spans.iter().map(Hours::to_string).collect::<Vec<_>>());
        assert_eq!(shown("sat 02:00-06:00").unwrap(), ["sat 02:00-06:00"]);
        assert_eq!(
            shown("sat,sun 02:00-06:00, wed 23:00-01:00,04:00-05:00").unwrap(),
            ["sat,sun 02:00-06:00", "wed 23:00-01:00", "04:00-05:00"]
        );
        for bad in ["", "sat", "sat 02:00", "sat 02:00-06:00, sun", "x 02:00-06:00", ",", "02:00-03:00,"] {
            assert!(shown(bad).is_err(), "{bad}");
        }
        let labels = Labels::from([(MAINTENANCE.to_owned(), "mon 02:00-02:05, sun 23:50-23:55".to_owned())]);
        let at = |minute: u16| maintained(&labels, minute);
        assert_eq!([104, 105, 119, 120, 124, 125].map(at), [false, true, true, true, true, false]);
        let sunday = 6 * 24 * 60;
        assert!(at(sunday + 23 * 60 + 40) && !at(sunday + 23 * 60 + 56));
        assert!(!maintained(&Labels::new(), 120));
    }
}
