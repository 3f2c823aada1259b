//! Bringing what a placement needs, and handing it to the driver.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tombolo_core::sync::{Finish, Order, Outcome, Phase};
use tombolo_core::{Epoch, Name, VersionId, WorkloadId};

use super::Wake;
use crate::clock;
use crate::driver::Driver;
use crate::fetch::Fetcher;

/// Brings what a placement needs and hands it to the driver.
pub(super) struct Starter {
    pub(super) driver: Arc<Driver>,
    pub(super) fetcher: Fetcher,
    pub(super) wakes: mpsc::Sender<Wake>,
    pub(super) secrets: BTreeMap<Name, String>,
    pub(super) stop: CancellationToken,
    pub(super) workload: WorkloadId,
    pub(super) epoch: Epoch,
    pub(super) order: Order,
}

impl Starter {
    pub(super) async fn start(self) {
        let prepared = tokio::select! {
            prepared = self.prepare() => prepared,
            () = self.stop.cancelled() => Err(Outcome::Stopped),
        };
        let started = prepared.and_then(|()| {
            self.driver.start(&self.workload, self.epoch, &self.order, &self.secrets).map_err(|error| error.outcome())
        });
        match started {
            Ok(()) => {
                // From now on the shim tells how it goes. A stop that came meanwhile goes to it.
                let driver = self.driver.clone();
                let (workload, epoch, stop) = (self.workload.clone(), self.epoch, self.stop.clone());
                tokio::spawn(async move {
                    stop.cancelled().await;
                    driver.stop(&workload, epoch);
                });
            }
            Err(outcome) => {
                let finish = Finish::without_running(outcome, clock::now());
                self.tell(Phase::Finished(Box::new(finish))).await;
            }
        }
    }

    /// Has all here that the start will need, then says so; a start or a stop that comes meanwhile ends this.
    pub(super) async fn make_ready(self) {
        let made = async {
            self.prepare().await?;
            self.driver.make_ready(&self.fetcher.store, &self.workload, self.epoch, &self.order).await
        };
        let phase = tokio::select! {
            made = made => match made {
                Ok(()) => Phase::Prepared { state: self.order.state },
                Err(outcome) => Phase::Finished(Box::new(Finish::without_running(outcome, clock::now()))),
            },
            () = self.stop.cancelled() => return,
        };
        if !self.stop.is_cancelled() {
            self.tell(phase).await;
        }
    }

    async fn prepare(&self) -> Result<(), Outcome> {
        if let Some(name) = self.order.spec.secrets.iter().find(|name| !self.secrets.contains_key(*name)) {
            let why = format!(
                "the secret {name} is not set, or the control plane can't open it\n\
                 hint: `tombolo secret ls` tells which; set it with: tombolo secret set {name}"
            );
            return Err(Outcome::Unprepared { why });
        }
        let versions: BTreeSet<VersionId> = self.order.versions().collect();
        for version in versions {
            let fetched = self.fetcher.fetch(version, Some(&self.workload), None).await;
            if let Some(seen) = fetched.map_err(|outcome| named(&self.order, version, outcome))? {
                let _ = self.wakes.send(Wake::Fetched(seen)).await;
            }
        }
        Ok(())
    }

    async fn tell(&self, phase: Phase) {
        let _ = self.wakes.send(Wake::Seen(self.workload.clone(), self.epoch, phase)).await;
    }
}

/// What could not be brought, by the name under which people know it.
fn named(order: &Order, version: VersionId, outcome: Outcome) -> Outcome {
    let Outcome::Unprepared { why } = outcome else { return outcome };
    let input = order.inputs.iter().find(|(_, input)| **input == version);
    let what = match input {
        Some((name, _)) => format!("the input {name}"),
        None if order.code == version => "the code".to_owned(),
        None => "the state".to_owned(),
    };
    Outcome::Unprepared { why: format!("{what} can't be brought: {why}") }
}
