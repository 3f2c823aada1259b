//! What an operator says of a site: labels, prices, capacity; as options and as a site file.

use std::collections::BTreeMap;
use std::path::Path;

use clap::Args;
use serde::Deserialize;
use tombolo_agent::driver::kubernetes::KubernetesConfig;
use tombolo_api::project::size;
use tombolo_core::site::{Labels, Prices};
use tombolo_core::{Name, Resources};

use crate::failure::Failure;
use crate::session::pairs;

/// Largest site file.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Clone, Default, Args)]
pub struct FactOptions {
    /// A fact to pick the site by, such as region=eu; an empty value takes it away
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// cpu_hour, memory_gib_hour, egress_gib or gpu_hour.<kind>
    #[arg(long = "price", value_name = "WHAT=PRICE")]
    prices: Vec<String>,
    /// Cores for workloads, such as 7.5
    #[arg(long, value_parser = cpus)]
    cpus: Option<u64>,
    /// Memory for workloads, such as 28GiB
    #[arg(long, value_parser = bytes)]
    memory: Option<u64>,
    /// Disk for workloads, such as 500GB
    #[arg(long, value_parser = bytes)]
    disk: Option<u64>,
    /// Accelerators by kind, such as a100=2
    #[arg(long = "gpu", value_name = "KIND=COUNT")]
    gpus: Vec<String>,
}

impl FactOptions {
    pub fn has_labels(&self) -> bool {
        !self.labels.is_empty()
    }

    pub fn has_prices(&self) -> bool {
        !self.prices.is_empty()
    }

    pub fn has_capacity(&self) -> bool {
        self.cpus.is_some() || self.memory.is_some() || self.disk.is_some() || !self.gpus.is_empty()
    }

    pub fn change_labels(&self, labels: &mut Labels) -> Result<(), Failure> {
        for (key, value) in pairs(&self.labels)? {
            match value.is_empty() {
                true => drop(labels.remove(&key)),
                false => drop(labels.insert(key, value)),
            }
        }
        Ok(())
    }

    pub fn change_prices(&self, prices: &mut Prices) -> Result<(), Failure> {
        for (what, value) in pairs(&self.prices)? {
            let price = value.parse::<f64>().ok().filter(|price| price.is_finite() && *price >= 0.0);
            let price =
                price.ok_or_else(|| Failure::usage(format!("the price {what}={value} is no amount of money")))?;
            match what.as_str() {
                "cpu_hour" => prices.cpu_hour = price,
                "memory_gib_hour" => prices.memory_gib_hour = price,
                "egress_gib" => prices.egress_gib = price,
                _ => match what.strip_prefix("gpu_hour.").map(Name::new) {
                    Some(Ok(kind)) => drop(prices.gpu_hour.insert(kind, price)),
                    _ => {
                        return Err(Failure::usage(format!("there is no price {what:?}"))
                            .hint("there are cpu_hour, memory_gib_hour, egress_gib and gpu_hour.<kind>"));
                    }
                },
            }
        }
        Ok(())
    }

    pub fn change_capacity(&self, capacity: &mut Resources) -> Result<(), Failure> {
        capacity.cpus_milli = self.cpus.unwrap_or(capacity.cpus_milli);
        capacity.memory_bytes = self.memory.unwrap_or(capacity.memory_bytes);
        capacity.disk_bytes = self.disk.unwrap_or(capacity.disk_bytes);
        for (kind, count) in pairs(&self.gpus)? {
            let count =
                count.parse().map_err(|_| Failure::usage(format!("{kind}={count} is no number of accelerators")))?;
            let kind =
                Name::new(kind).map_err(|fault| Failure::usage("an accelerator's kind is a name").because(fault))?;
            capacity.gpus.insert(kind, count);
        }
        Ok(())
    }
}

/// `site.yaml`, given to `tombolo agent join`; options go before it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SiteFile {
    pub name: Option<String>,
    pub labels: Labels,
    pub prices: PriceList,
    pub cpus: Option<f64>,
    /// As `28GiB`.
    pub memory: Option<String>,
    pub disk: Option<String>,
    pub gpus: BTreeMap<Name, u32>,
    /// Whether `image:` workloads can run there.
    pub containers: bool,
    /// How its pods are made, where the site is a Kubernetes cluster.
    pub kubernetes: Option<KubernetesConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PriceList {
    pub cpu_hour: f64,
    pub memory_gib_hour: f64,
    pub gpu_hour: BTreeMap<Name, f64>,
    pub egress_gib: f64,
}

impl SiteFile {
    pub fn load(path: &Path) -> Result<SiteFile, Failure> {
        let fault =
            |why: String| Failure::usage(format!("the site file {} can't be used", path.display())).because(why);
        let bytes = std::fs::metadata(path).map_err(|error| fault(error.to_string()))?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(fault(format!("it has {bytes} bytes; at most {FILE_BYTES_MAX} are read")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
        serde_saphyr::from_str(&text).map_err(|error| fault(error.to_string()))
    }

    pub fn change_capacity(&self, capacity: &mut Resources) -> Result<(), Failure> {
        let fault = |what: &str, why: String| Failure::usage(format!("the site file's {what} is wrong")).because(why);
        if let Some(count) = self.cpus {
            capacity.cpus_milli = cpus(&count.to_string()).map_err(|why| fault("cpus", why))?;
        }
        if let Some(memory) = &self.memory {
            capacity.memory_bytes = bytes(memory).map_err(|why| fault("memory", why))?;
        }
        if let Some(disk) = &self.disk {
            capacity.disk_bytes = bytes(disk).map_err(|why| fault("disk", why))?;
        }
        capacity.gpus.extend(self.gpus.iter().map(|(kind, count)| (kind.clone(), *count)));
        Ok(())
    }
}

impl From<PriceList> for Prices {
    fn from(list: PriceList) -> Prices {
        let PriceList { cpu_hour, memory_gib_hour, gpu_hour, egress_gib } = list;
        Prices { cpu_hour, memory_gib_hour, gpu_hour, egress_gib }
    }
}

/// Thousandths of a core.
pub fn cpus(text: &str) -> Result<u64, String> {
    match text.parse::<f64>() {
        Ok(count) if (0.0..=1e9).contains(&count) => Ok((count * 1000.0) as u64),
        _ => Err("expected a number such as 2 or 0.5".to_owned()),
    }
}

pub fn bytes(text: &str) -> Result<u64, String> {
    size(text).map_err(|fault| fault.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn options_change_what_they_name_and_nothing_else() {
        let options = FactOptions {
            labels: texts(&["region=eu", "old="]),
            prices: texts(&["cpu_hour=0.1", "gpu_hour.a100=2.5"]),
            memory: Some(5),
            gpus: texts(&["a100=2"]),
            ..FactOptions::default()
        };
        let mut labels = Labels::from([("old".to_owned(), "x".to_owned()), ("kept".to_owned(), "y".to_owned())]);
        options.change_labels(&mut labels).unwrap();
        assert_eq!(labels, Labels::from([("kept".to_owned(), "y".to_owned()), ("region".to_owned(), "eu".to_owned())]));
        let mut prices = Prices { egress_gib: 0.5, ..Prices::default() };
        options.change_prices(&mut prices).unwrap();
        assert_eq!((prices.cpu_hour, prices.egress_gib, prices.gpu_hour.len()), (0.1, 0.5, 1));
        let mut capacity = Resources { cpus_milli: 7, ..Resources::default() };
        options.change_capacity(&mut capacity).unwrap();
        assert_eq!((capacity.cpus_milli, capacity.memory_bytes, capacity.gpus.len()), (7, 5, 1));
    }

    #[test]
    fn wrong_prices_are_refused() {
        for bad in ["cpu_hour=free", "cpu_hour=-1", "cpu_hour=NaN", "gpu_hour=1", "tea=1"] {
            let options = FactOptions { prices: texts(&[bad]), ..FactOptions::default() };
            assert!(options.change_prices(&mut Prices::default()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_site_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("site.yaml");
        let text =
            "name: onprem\nlabels: { visibility: private }\nprices: { cpu_hour: 0.1 }\ncpus: 1.5\nmemory: 2GiB\n";
        std::fs::write(&path, text).unwrap();
        let file = SiteFile::load(&path).unwrap();
        let mut capacity = Resources { disk_bytes: 9, ..Resources::default() };
        file.change_capacity(&mut capacity).unwrap();
        assert_eq!(
            capacity,
            Resources { cpus_milli: 1500, memory_bytes: 2 << 30, disk_bytes: 9, ..Default::default() }
        );
        assert_eq!(file.labels["visibility"], "private");
        std::fs::write(&path, "colour: blue\n").unwrap();
        assert!(SiteFile::load(&path).unwrap_err().why.unwrap().contains("colour"));
        std::fs::write(&path, "kubernetes: { quue: ml }\n").unwrap();
        assert!(SiteFile::load(&path).unwrap_err().why.unwrap().contains("quue"));
    }
}
