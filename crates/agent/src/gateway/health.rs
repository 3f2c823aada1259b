//! Which sites and placements were out of reach a moment ago.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tombolo_core::routes::Replica;
use tombolo_core::{Epoch, SiteId, WorkloadId};

/// How long what could not be reached is only tried when nothing else is there.
const ASIDE_FOR: Duration = Duration::from_secs(5);
/// What is set aside at once; beyond that nothing more is, and requests find out by themselves.
const ASIDE_MAX: usize = 10_000;

#[derive(Default)]
pub struct Health(Mutex<HashMap<Aside, Instant>>);

#[derive(PartialEq, Eq, Hash)]
enum Aside {
    Site(SiteId),
    Placement(WorkloadId, Epoch),
}

impl Health {
    pub fn set_aside(&self, replica: &Replica) {
        self.put(Aside::Placement(replica.workload.clone(), replica.epoch));
    }

    pub fn set_site_aside(&self, site: &SiteId) {
        self.put(Aside::Site(site.clone()));
    }

    fn put(&self, what: Aside) {
        let mut aside = self.0.lock().expect("nobody panics holding it");
        let now = Instant::now();
        aside.retain(|_, until| *until > now);
        if aside.len() < ASIDE_MAX {
            aside.insert(what, now + ASIDE_FOR);
        }
    }

    pub fn is_aside(&self, replica: &Replica) -> bool {
        let aside = self.0.lock().expect("nobody panics holding it");
        if aside.is_empty() {
            return false;
        }
        let now = Instant::now();
        let is = |what: Aside| aside.get(&what).is_some_and(|until| *until > now);
        is(Aside::Site(replica.site.clone())) || is(Aside::Placement(replica.workload.clone(), replica.epoch))
    }
}
