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
}

impl Link {
    /// What is assumed of a link that nobody described and over which nothing was measured: 100 Mbit/s, 20 ms.
    pub const ASSUMED: Link = Link { bytes_per_s: 12_500_000.0, latency: Millis(20) };

    /// How long `bytes` take; nothing for no bytes.
    pub fn transfer(&self, bytes: u64) -> Millis {
        if bytes == 0 {
            return Millis(0);
        }
        Millis(self.latency.0 + (bytes as f64 * 1000.0 / self.bytes_per_s.max(1.0)).ceil() as u64)
    }

    /// The link after a transfer of `bytes` took `span`: an exponentially weighted mean, so that one slow
    /// moment does not turn the plans over. Transfers too small to tell bandwidth from latency change nothing.
    pub fn measured(self, bytes: u64, span: Millis) -> Link {
        const BYTES_MIN: u64 = 1 << 20;
        const WEIGHT: f64 = 0.3;
        if bytes < BYTES_MIN || span.0 == 0 {
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
