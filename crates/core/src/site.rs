//! What is known of a site and of the links between sites.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{Name, SiteId};
use crate::resources::Resources;
use crate::time::Millis;

/// Free-form facts about a site, such as `visibility: private` or `region: eu`.
pub type Labels = BTreeMap<String, String>;

/// What a site is and has, as its operator and its agent describe it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteInfo {
    pub id: SiteId,
    #[serde(default)]
    pub labels: Labels,
    /// All that workloads together may use there.
    pub capacity: Resources,
    #[serde(default)]
    pub prices: Prices,
    /// Whether `image:` workloads can run there.
    #[serde(default)]
    pub containers: bool,
}

/// Prices in one currency of the operator's choice (the CLI prints it as `$`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Prices {
    pub cpu_hour: f64,
    pub memory_gib_hour: f64,
    pub gpu_hour: BTreeMap<Name, f64>,
    /// For each GiB that leaves the site.
    pub egress_gib: f64,
}

impl Prices {
    /// The price of holding `need` for `span`.
    pub fn compute(&self, need: &Resources, span: Millis) -> f64 {
        let hours = span.as_secs_f64() / 3600.0;
        let gpus: f64 = need
            .gpus
            .iter()
            .map(|(kind, count)| self.gpu_hour.get(kind).copied().unwrap_or(0.0) * f64::from(*count))
            .sum();
        let cpus = self.cpu_hour * need.cpus_milli as f64 / 1000.0;
        let memory = self.memory_gib_hour * need.memory_bytes as f64 / GIB;
        hours * (cpus + memory + gpus)
    }

    pub fn egress(&self, bytes: u64) -> f64 {
        self.egress_gib * bytes as f64 / GIB
    }
}

pub const GIB: f64 = (1u64 << 30) as f64;

/// One direction of a connection between two sites.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Link {
    pub bytes_per_s: f64,
    pub latency: Millis,
    /// What transfers may take of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
}

/// The most that all transfers over a link may take together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    pub bytes_per_s: u64,
    /// When it holds, by the clock of the site that fetches; none: always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours: Option<Hours>,
}

impl Limit {
    /// Below this a chunk on one of several streams takes so long that its sender counts as silent.
    pub const BYTES_PER_S_MIN: u64 = 64 << 10;

    /// Bytes in a second that may be moved at a minute of the week, from Monday's midnight; none: as many as there are.
    pub fn at(&self, minute: u16) -> Option<u64> {
        self.hours.is_none_or(|hours| hours.contains(minute)).then_some(self.bytes_per_s)
    }
}

/// Minutes of a day.
pub const DAY_MINUTES: u16 = 24 * 60;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const EVERY_DAY: u8 = 0b111_1111;

/// A span of the day, in minutes from midnight, on some days of the week: `08:00-18:00`, `mon-fri 08:00-18:00`. One that
/// ends before it begins goes over midnight, into the day after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hours {
    /// A bit for each day, Monday's the lowest.
    days: u8,
    from: u16,
    until: u16,
}

impl Hours {
    /// `minute` is of the week, from Monday's midnight.
    pub fn contains(&self, minute: u16) -> bool {
        let (day, minute) = (minute / DAY_MINUTES % 7, minute % DAY_MINUTES);
        let on = |day: u16| self.days & (1 << (day % 7)) != 0;
        match self.from <= self.until {
            true => on(day) && (self.from..self.until).contains(&minute),
            false => on(day) && minute >= self.from || on(day + 6) && minute < self.until,
        }
    }
}

/// `mon-fri`, `sat,sun`, `mon,wed-fri`.
fn days(text: &str) -> Option<u8> {
    let day = |text: &str| DAYS.iter().position(|day| *day == text.trim().to_ascii_lowercase());
    let mut days = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut at, last) = (day(first)?, day(last)?);
        days |= 1 << at;
        while at != last {
            at = (at + 1) % DAYS.len();
            days |= 1 << at;
        }
    }
    Some(days)
}

fn shown_days(days: u8) -> String {
    let on: Vec<usize> = (0..DAYS.len()).filter(|day| days & (1 << day) != 0).collect();
    match on[..] {
        [first, .., last] if last - first + 1 == on.len() && on.len() > 2 => format!("{}-{}", DAYS[first], DAYS[last]),
        _ => on.iter().map(|day| DAYS[*day]).collect::<Vec<_>>().join(","),
    }
}

impl std::str::FromStr for Hours {
    type Err = String;

    fn from_str(text: &str) -> Result<Hours, String> {
        let wrong = || format!("{text:?} is no span of the day; write it as 08:00-18:00 or mon-fri 08:00-18:00");
        let minute = |text: &str| {
            let (hour, minute) = text.split_once(':')?;
            let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
            (hour <= 24 && minute < 60 && hour * 60 + minute <= DAY_MINUTES).then_some(hour * 60 + minute)
        };
        let span = text.trim();
        let (on, span) = match span.find(|c: char| c.is_ascii_digit()) {
            Some(at) if at > 0 => (days(span[..at].trim()).ok_or_else(wrong)?, &span[at..]),
            _ => (EVERY_DAY, span),
        };
        let (from, until) = span.split_once('-').ok_or_else(wrong)?;
        let (from, until) = (minute(from.trim()).ok_or_else(wrong)?, minute(until.trim()).ok_or_else(wrong)?);
        if from == until {
            return Err(format!("{text:?} is no time at all; leave the hours out for a limit that always holds"));
        }
        Ok(Hours { days: on, from, until })
    }
}

impl TryFrom<String> for Hours {
    type Error = String;

    fn try_from(text: String) -> Result<Hours, String> {
        text.parse()
    }
}

impl From<Hours> for String {
    fn from(hours: Hours) -> String {
        hours.to_string()
    }
}

impl std::fmt::Display for Hours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Hours { days, from, until } = self;
        if *days != EVERY_DAY {
            write!(f, "{} ", shown_days(*days))?;
        }
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, until / 60, until % 60)
    }
}

impl Link {
    /// What is assumed of a link that nobody described and over which nothing was measured: 100 Mbit/s, 20 ms.
    pub const ASSUMED: Link = Link { bytes_per_s: 12_500_000.0, latency: Millis(20), limit: None };

    /// How long `bytes` take; nothing for no bytes. A limit counts that always holds: when a transfer will be is not known.
    pub fn transfer(&self, bytes: u64) -> Millis {
        if bytes == 0 {
            return Millis(0);
        }
        let limit =
            self.limit.filter(|limit| limit.hours.is_none()).map_or(f64::INFINITY, |limit| limit.bytes_per_s as f64);
        Millis(self.latency.0 + (bytes as f64 * 1000.0 / self.bytes_per_s.min(limit).max(1.0)).ceil() as u64)
    }

    /// The link after a transfer of `bytes` took `span`: an exponentially weighted mean, so that one slow
    /// moment does not turn the plans over. Transfers too small to tell bandwidth from latency change nothing.
    pub fn measured(self, bytes: u64, span: Millis) -> Link {
        const BYTES_MIN: u64 = 1 << 20;
        const WEIGHT: f64 = 0.3;
        // Under a limit it is the limit that is measured.
        if bytes < BYTES_MIN || span.0 == 0 || self.limit.is_some() {
            return self;
        }
        let seen = bytes as f64 / span.as_secs_f64();
        Link { bytes_per_s: self.bytes_per_s * (1.0 - WEIGHT) + seen * WEIGHT, ..self }
    }
}

/// Links by direction; a missing one is [`Link::ASSUMED`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Links(pub BTreeMap<(SiteId, SiteId), Link>);

impl Links {
    pub fn get(&self, from: &SiteId, to: &SiteId) -> Link {
        self.0.get(&(from.clone(), to.clone())).copied().unwrap_or(Link::ASSUMED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_at_their_hours() {
        let at = |hours: &str, minutes: &[u16]| -> Vec<bool> {
            let limit = Limit { bytes_per_s: 7, hours: Some(hours.parse().unwrap()) };
            minutes.iter().map(|minute| limit.at(*minute) == Some(7)).collect()
        };
        assert_eq!(at("08:00-18:30", &[0, 479, 480, 1109, 1110]), [false, false, true, true, false]);
        assert_eq!(at("22:00-06:00", &[0, 359, 360, 1319, 1320]), [true, true, false, false, true]);
        assert_eq!(at("00:00-24:00", &[0, 1439]), [true, true]);
        assert_eq!(Limit { bytes_per_s: 7, hours: None }.at(5), Some(7));
        // Of each day at ten past six in the morning, at noon, and at eleven in the evening.
        let week = |hours: &str| {
            let at = |day: u16| at(hours, &[6 * 60 + 10, 12 * 60, 23 * 60].map(|minute| day * DAY_MINUTES + minute));
            (0..7)
                .map(|day| at(day).iter().map(|on| if *on { 'x' } else { '.' }).collect::<String>())
                .collect::<Vec<_>>()
        };
        assert_eq!(week("mon-fri 08:00-18:00"), [".x.", ".x.", ".x.", ".x.", ".x.", "...", "..."]);
        assert_eq!(week("sat,sun 00:00-24:00"), ["...", "...", "...", "...", "...", "xxx", "xxx"]);
        assert_eq!(week("sun 22:00-07:00"), ["x..", "...", "...", "...", "...", "...", "..x"]);
        assert_eq!(week("fri-mon 08:00-18:00"), [".x.", "...", "...", "...", ".x.", ".x.", ".x."]);
        for (written, shown) in [
            ("Mon-Fri 8:00-18:00", "mon-fri 08:00-18:00"),
            ("mon-sun 08:00-18:00", "08:00-18:00"),
            ("wed,mon 08:00-18:00", "mon,wed 08:00-18:00"),
            ("sat-sun 00:00-24:00", "sat,sun 00:00-24:00"),
        ] {
            let hours = written.parse::<Hours>().unwrap();
            assert_eq!(hours.to_string(), shown);
            assert_eq!(shown.parse::<Hours>().unwrap(), hours);
        }
        assert_eq!("8:00 - 18:30".parse::<Hours>().unwrap().to_string(), "08:00-18:30");
        for bad in [
            "",
            "8-18",
            "08:00",
            "08:00-08:00",
            "25:00-26:00",
            "08:60-09:00",
            "24:01-10:00",
            "x:00-y:00",
            "mon",
            "mon 8-18",
            "any 08:00-18:00",
            "mon- 08:00-18:00",
            ", 08:00-18:00",
        ] {
            assert!(bad.parse::<Hours>().is_err(), "{bad}");
        }
    }

    #[test]
    fn plans_count_limits_and_measurements_do_not_follow_them() {
        let link = Link { bytes_per_s: 1_000_000.0, latency: Millis(0), limit: None };
        let limited = Link { limit: Some(Limit { bytes_per_s: 100_000, hours: None }), ..link };
        let at_times = Link { limit: Some(Limit { bytes_per_s: 100_000, hours: "08:00-09:00".parse().ok() }), ..link };
        assert_eq!([link, limited, at_times].map(|link| link.transfer(1_000_000).0), [1_000, 10_000, 1_000]);
        assert_eq!(limited.measured(100 << 20, Millis(1)), limited);
        assert_ne!(link.measured(100 << 20, Millis(1)), link);
    }
}
