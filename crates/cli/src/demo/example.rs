//! The demo's project and its sites. The project is part of the program, so that the demo needs no checkout.

use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// Labels and prices are such that every stage has a reason to be where it ends up.
pub struct DemoSite {
    pub name: &'static str,
    pub arguments: &'static [&'static str],
}

pub const SITES: [DemoSite; 3] = [
    DemoSite {
        name: "onprem",
        arguments: &["--label", "visibility=private", "--price", "cpu_hour=0.12", "--price", "egress_gib=0.02"],
    },
    DemoSite {
        name: "cloud",
        arguments: &["--label", "visibility=public", "--price", "cpu_hour=0.04", "--price", "egress_gib=0.09"],
    },
    DemoSite {
        name: "prod",
        arguments: &["--label", "visibility=public", "--price", "cpu_hour=0.10", "--price", "egress_gib=0.09"],
    },
];

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../../../../examples/flights/", $name)))),*]
    };
}

const FILES: &[(&str, &[u8])] = files![
    "tombolo.yaml",
    ".tomboloignore",
    "features.sql",
    "features.py",
    "train.py",
    "test.py",
    "serve.py",
    "requirements.txt",
    "request.json",
    "fetch_full.sh",
    "data/flights-200k.parquet",
];
const SAMPLE: &str = "data/flights-200k.parquet";
const FULL: &str = "data/flights-3m.parquet";

/// Writes the project where the demo is; with `full`, brings the whole data set and has the project use it.
pub async fn lay_out(dir: &Path, full: bool) -> Result<PathBuf, Failure> {
    let unwritable =
        |error: std::io::Error| Failure::system(format!("{} can't be written", dir.display())).because(error);
    std::fs::create_dir_all(dir.join("data")).map_err(unwritable)?;
    for (name, content) in FILES {
        std::fs::write(dir.join(name), content).map_err(unwritable)?;
    }
    if full {
        fetch_full(dir).await?;
        let project = dir.join("tombolo.yaml");
        let text = std::fs::read_to_string(&project).map_err(unwritable)?;
        std::fs::write(&project, text.replace(SAMPLE, FULL)).map_err(unwritable)?;
    }
    Ok(dir.to_owned())
}

async fn fetch_full(dir: &Path) -> Result<(), Failure> {
    eprintln!("fetching all flights: the npm package vega-datasets");
    let status = tokio::process::Command::new("sh").arg("fetch_full.sh").current_dir(dir).status().await;
    let status = status.map_err(|error| Failure::system("sh can't be started").because(error))?;
    if !status.success() || !dir.join(FULL).exists() {
        return Err(Failure::system("the whole data set could not be fetched")
            .because("fetch_full.sh failed; what it said stands above")
            .hint("it needs npm and the npm registry; without --full the demo runs on a sample that it brings along"));
    }
    Ok(())
}
