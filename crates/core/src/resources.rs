//! What a workload needs and what a site has.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::Name;

/// An amount of compute. As a need, a zero means 'does not care'.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpus_milli: u64,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    /// Accelerators by kind, such as `a100`.
    pub gpus: BTreeMap<Name, u32>,
}

/// What is short, when something does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "resource", rename_all = "snake_case")]
pub enum Shortage {
    Cpus { needed_milli: u64, has_milli: u64 },
    Memory { needed_bytes: u64, has_bytes: u64 },
    Disk { needed_bytes: u64, has_bytes: u64 },
    Gpus { kind: Name, needed: u32, has: u32 },
}

impl Resources {
    /// The first thing that `self` lacks to hold `need`, or nothing where it fits.
    pub fn shortage(&self, need: &Resources) -> Option<Shortage> {
        if need.cpus_milli > self.cpus_milli {
            return Some(Shortage::Cpus { needed_milli: need.cpus_milli, has_milli: self.cpus_milli });
        }
        if need.memory_bytes > self.memory_bytes {
            return Some(Shortage::Memory { needed_bytes: need.memory_bytes, has_bytes: self.memory_bytes });
        }
        if need.disk_bytes > self.disk_bytes {
            return Some(Shortage::Disk { needed_bytes: need.disk_bytes, has_bytes: self.disk_bytes });
        }
        need.gpus.iter().find_map(|(kind, &needed)| {
            let has = self.gpus.get(kind).copied().unwrap_or(0);
            (needed > has).then(|| Shortage::Gpus { kind: kind.clone(), needed, has })
        })
    }

    pub fn holds(&self, need: &Resources) -> bool {
        self.shortage(need).is_none()
    }

    pub fn add(&mut self, other: &Resources) {
        self.cpus_milli = self.cpus_milli.saturating_add(other.cpus_milli);
        self.memory_bytes = self.memory_bytes.saturating_add(other.memory_bytes);
        self.disk_bytes = self.disk_bytes.saturating_add(other.disk_bytes);
        for (kind, count) in &other.gpus {
            let has = self.gpus.entry(kind.clone()).or_default();
            *has = has.saturating_add(*count);
        }
    }

    /// What is left after `other` is taken; zero where more is taken than there is (a site may shrink under its load).
    pub fn take(&mut self, other: &Resources) {
        self.cpus_milli = self.cpus_milli.saturating_sub(other.cpus_milli);
        self.memory_bytes = self.memory_bytes.saturating_sub(other.memory_bytes);
        self.disk_bytes = self.disk_bytes.saturating_sub(other.disk_bytes);
        for (kind, count) in &other.gpus {
            if let Some(has) = self.gpus.get_mut(kind) {
                *has = has.saturating_sub(*count);
            }
        }
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shortage::Cpus { needed_milli, has_milli } => {
                write!(f, "needs {} cpus, has {}", cpus(*needed_milli), cpus(*has_milli))
            }
            Shortage::Memory { needed_bytes, has_bytes } => {
                write!(f, "needs {} of memory, has {}", bytes(*needed_bytes), bytes(*has_bytes))
            }
            Shortage::Disk { needed_bytes, has_bytes } => {
                write!(f, "needs {} of disk, has {}", bytes(*needed_bytes), bytes(*has_bytes))
            }
            Shortage::Gpus { kind, needed, has } => write!(f, "needs {needed} x {kind}, has {has}"),
        }
    }
}

/// Thousandths of a core as people write them: `2`, `0.5`.
pub fn cpus(milli: u64) -> String {
    if milli.is_multiple_of(1000) {
        return (milli / 1000).to_string();
    }
    format!("{}.{:03}", milli / 1000, milli % 1000).trim_end_matches('0').to_owned()
}

/// Bytes as people read them, in powers of 1024: `812 B`, `4.5 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 100.0 || value.fract() == 0.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortage_names_the_first_thing_that_lacks() {
        let has = Resources { cpus_milli: 2000, memory_bytes: 1 << 30, ..Default::default() };
        let check = |need: Resources, text: &str| {
            assert_eq!(has.shortage(&need).map(|s| s.to_string()).unwrap_or_default(), text);
        };
        check(Resources { cpus_milli: 2000, ..Default::default() }, "");
        check(Resources { cpus_milli: 2500, ..Default::default() }, "needs 2.5 cpus, has 2");
        check(Resources { memory_bytes: 3 << 29, ..Default::default() }, "needs 1.5 GiB of memory, has 1 GiB");
        let gpu = BTreeMap::from([(Name::new("a100").unwrap(), 2)]);
        check(Resources { gpus: gpu, ..Default::default() }, "needs 2 x a100, has 0");
    }
}
