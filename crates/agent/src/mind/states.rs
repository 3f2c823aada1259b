//! What the mind does about state directories and their copies: takes copies, brings those that may be needed here, and
//! removes what is of no use.

use std::time::Instant;

use tombolo_core::sync::{Copied, Hold, Replicas, StateCopy};
use tombolo_core::{Epoch, VersionId, WorkloadId};

use super::{LEFT_EVERY, LEFT_MAX, Mind, Wake};
use crate::copies;

impl Mind {
    /// Takes in what is wanted of states.
    pub(super) fn look_after_states(
        &mut self,
        copies: Vec<StateCopy>,
        holds: Vec<Hold>,
        useless: &[(WorkloadId, Epoch)],
    ) {
        for wanted in copies {
            self.copy(wanted);
        }
        self.holds.retain(|workload, (_, busy)| *busy || holds.iter().any(|hold| hold.workload == *workload));
        for hold in holds {
            self.hold(hold);
        }
        self.forget(useless);
        let entries = &self.journal.entries;
        self.copies.retain(|(workload, epoch), _| entries.get(workload).is_some_and(|entry| entry.epoch == *epoch));
    }

    /// Takes a copy of a state directory, unless it was taken or is being taken.
    fn copy(&mut self, of: StateCopy) {
        let key = (of.workload.clone(), of.epoch);
        let here = self.journal.entries.get(&of.workload).is_some_and(|entry| entry.epoch == of.epoch);
        if !here || self.copies.get(&key).is_some_and(|(asked, _)| asked.turn >= of.turn) {
            return;
        }
        self.copies.insert(key, (of.clone(), None));
        let (store, driver, wakes) = (self.fetcher.store.clone(), self.driver.clone(), self.wakes.clone());
        tokio::spawn(async move {
            let dir = driver.state_dir(&of.workload);
            let taken = tokio::task::spawn_blocking(move || copies::take(&store, &dir)).await;
            let result = taken.unwrap_or_else(|error| Err(error.to_string()));
            let _ = wakes.send(Wake::Copied(Copied { of, result })).await;
        });
    }

    pub(super) fn take_copied(&mut self, copied: Copied) {
        let key = (copied.of.workload.clone(), copied.of.epoch);
        // One that was asked for since is under way.
        if self.copies.get(&key).is_none_or(|(asked, _)| *asked != copied.of) {
            return;
        }
        if let Some(version) = copied.result.as_ref().ok().and_then(|taken| taken.version) {
            self.is_here(version);
        }
        self.dirty.insert(copied.of.workload.clone());
        self.copies.insert(key, (copied.of.clone(), Some(copied)));
    }

    /// A version is whole here now.
    pub(super) fn is_here(&mut self, version: VersionId) {
        match &mut self.replicas {
            Replicas::New(versions) | Replicas::All(versions) => versions.push(version),
        }
    }

    /// Looks now and then which state directories are here.
    pub(super) fn look_for_left(&mut self) {
        if self.looked.is_some_and(|looked| looked.elapsed() < LEFT_EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        let (driver, wakes) = (self.driver.clone(), self.wakes.clone());
        tokio::spawn(async move {
            let left = tokio::task::spawn_blocking(move || driver.state_dirs()).await;
            let _ = wakes.send(Wake::Left(left.unwrap_or_default())).await;
        });
    }

    pub(super) fn take_left(&mut self, mut left: Vec<(WorkloadId, Epoch)>) {
        left.retain(|(workload, _)| !self.journal.entries.contains_key(workload));
        left.truncate(LEFT_MAX);
        self.left = left;
    }

    /// Brings what a workload may need that may come. One after the other: only the newest is of any use.
    fn hold(&mut self, hold: Hold) {
        let Hold { workload, version, .. } = &hold;
        if self.holds.get(workload).is_some_and(|(asked, busy)| asked == version || *busy) {
            return;
        }
        self.holds.insert(workload.clone(), (*version, true));
        let (fetcher, wakes) = (self.fetcher.clone(), self.wakes.clone());
        tokio::spawn(async move {
            let mut is_here = true;
            for version in hold.beside.iter().chain([&hold.version]) {
                match fetcher.fetch(*version, Some(&hold.workload), None).await {
                    Ok(None) => {}
                    Ok(Some(seen)) => drop(wakes.send(Wake::Fetched(seen)).await),
                    Err(outcome) => {
                        tracing::warn!(workload = %hold.workload, version = version.short(), "it can't be brought here ahead: {outcome}");
                        is_here = false;
                        break;
                    }
                }
            }
            let _ = wakes.send(Wake::Held(hold, is_here)).await;
        });
    }

    pub(super) fn take_held(&mut self, hold: &Hold, is_here: bool) {
        // What failed is tried again with the next word of the control plane, which comes with each report.
        match self.holds.get_mut(&hold.workload) {
            Some((_, busy)) if is_here => *busy = false,
            _ => drop(self.holds.remove(&hold.workload)),
        }
    }

    /// Removes the state directories that are of no use, of workloads that have no placement here.
    fn forget(&mut self, useless: &[(WorkloadId, Epoch)]) {
        for (workload, epoch) in useless {
            if !self.journal.entries.contains_key(workload) {
                self.left.retain(|(left, _)| left != workload);
                self.driver.forget_state(workload, *epoch);
            }
        }
    }
}
