//! `tombolo logs <run>/<stage> --site-dir <dir>`: a stage's log from the site's own directory, on the machine where it is.

use std::fs;
use std::path::Path;

use futures_util::StreamExt;
use tombolo_agent::logs;
use tombolo_agent::shim::placement::{Placement, kept_logs_dir};
use tombolo_api::stream::{LogLine, LogQuery};
use tombolo_core::{Epoch, WorkloadId};

use crate::failure::Failure;

/// Hands on every line, without asking the control plane.
pub async fn read(
    site_dir: &Path,
    workload: &WorkloadId,
    epoch: Option<u64>,
    query: LogQuery,
    mut each: impl FnMut(&LogLine),
) -> Result<(), Failure> {
    let newest = || newest(site_dir, workload);
    let Some(epoch) = epoch.map(Epoch).or_else(newest) else {
        return Err(Failure::usage(format!("{} has no log of {workload}", site_dir.display()))
            .because("a site keeps the logs of what ran there")
            .hint("name the directory that the site's agent was given with --dir"));
    };
    let placement = Placement::of(site_dir, workload, epoch);
    let dirs = vec![placement.dir().to_owned(), kept_logs_dir(site_dir, workload, epoch)];
    let mut lines = std::pin::pin!(logs::read(dirs, query));
    while let Some(line) = lines.next().await {
        let unreadable = |error| Failure::system(format!("the log of {workload} can't be read")).because(error);
        each(&line.map_err(unreadable)?);
    }
    Ok(())
}

/// The newest attempt that is in the site's directory or among its kept logs.
fn newest(site_dir: &Path, workload: &WorkloadId) -> Option<Epoch> {
    let any = Epoch(0);
    let dirs = [Placement::of(site_dir, workload, any).dir().to_owned(), kept_logs_dir(site_dir, workload, any)];
    let names = dirs.iter().filter_map(|dir| fs::read_dir(dir.parent()?).ok()).flatten();
    let prefix = format!("{}.", workload.name);
    let epoch = |name: std::ffi::OsString| name.to_str()?.strip_prefix(&prefix)?.parse().ok().map(Epoch);
    names.filter_map(|entry| epoch(entry.ok()?.file_name())).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_attempt_is_found_where_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let workload: WorkloadId = "flights-7/train".parse().unwrap();
        assert_eq!(newest(dir.path(), &workload), None);
        for (place, name) in [("work", "train.2"), ("work", "train-more.9"), ("logs", "train.10"), ("logs", "train.x")]
        {
            fs::create_dir_all(dir.path().join(place).join("flights-7").join(name)).unwrap();
        }
        assert_eq!(newest(dir.path(), &workload), Some(Epoch(10)));
    }
}
