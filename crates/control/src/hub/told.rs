//! What an agent is told: only what is news on its connection, in messages of bounded size.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tombolo_api::stream::{Down, Peer, RoutesNews};
use tombolo_core::EndpointId;
use tombolo_core::sync::{Assignment, Desired, Intent};
use tombolo_core::world::{Routes, SiteRecord, World};
use tombolo_core::{Epoch, Millis, Name, SiteId, VersionId, WorkloadId};

/// Assignments, and placements that are settled, in one message.
pub const PART_ITEMS_MAX: usize = 500;
/// Bytes of assignments and their secrets in one message, far below a frame's limit; a single assignment may have
/// more, and then goes alone.
pub const PART_BYTES_MAX: usize = 4 << 20;

/// What is said beside placements.
#[derive(Default)]
pub struct News {
    pub revoked: Option<BTreeSet<String>>,
    pub routes: Vec<RoutesNews>,
}

pub type Secrets = BTreeMap<WorkloadId, BTreeMap<Name, String>>;

/// What an agent was told on this connection, so that long orders are not sent again with each heartbeat.
#[derive(Default)]
pub struct Told {
    assignments: BTreeMap<WorkloadId, Word>,
    revoked: BTreeSet<String>,
    routes: Option<(u64, Arc<Routes>)>,
    peers: Option<Vec<Peer>>,
}

/// What of an assignment makes it another one: a placement's order stays as it is but for this.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    /// With the state to be prepared for.
    Prepare(Epoch, Option<VersionId>),
    /// Under a lease.
    Run(Epoch, Option<Millis>),
    Stop(Epoch),
}

impl Word {
    fn of(assignment: &Assignment) -> Word {
        let epoch = assignment.epoch;
        match &assignment.intent {
            Intent::Prepare(order) => Word::Prepare(epoch, order.state),
            Intent::Run(order) => Word::Run(epoch, order.spec.failover_after),
            Intent::Stop => Word::Stop(epoch),
        }
    }
}

impl Told {
    pub fn is_news(&mut self, assignment: &Assignment) -> bool {
        let now = Word::of(assignment);
        self.assignments.insert(assignment.workload.clone(), now) != Some(now)
    }

    /// The keys of revoked sites, where they are not those that the agent has heard.
    pub fn revoked(&mut self, now: BTreeSet<String>) -> Option<BTreeSet<String>> {
        (self.revoked != now).then(|| {
            self.revoked = now.clone();
            now
        })
    }

    /// What an agent has not heard of endpoints, in pieces of bounded size; mostly nothing.
    pub fn routes(&mut self, (version, now): (u64, Arc<Routes>), peers: Vec<Peer>) -> Vec<RoutesNews> {
        let mut pieces = vec![RoutesNews::default()];
        if self.peers.as_ref() != Some(&peers) {
            pieces[0].peers = Some(peers.clone());
            self.peers = Some(peers);
        }
        if self.routes.as_ref().is_none_or(|(told, _)| *told != version) {
            let before = self.routes.replace((version, now.clone())).map(|(_, before)| before);
            let known = |id: &EndpointId| before.as_ref().and_then(|before| before.get(id));
            let mut bytes = 0;
            for (id, route) in now.iter().filter(|(id, route)| known(id) != Some(*route)) {
                bytes += length(&route);
                if bytes > PART_BYTES_MAX {
                    pieces.push(RoutesNews::default());
                    bytes = length(&route);
                }
                pieces.last_mut().expect("there is always one").set.push((id.clone(), route.clone()));
            }
            if before.is_none_or(|before| !before.keys().eq(now.keys())) {
                pieces.last_mut().expect("there is always one").only = Some(now.keys().cloned().collect());
            }
        }
        pieces.retain(|piece| *piece != RoutesNews::default());
        pieces
    }
}

/// The messages that say all of it; one at least, since it also answers. Each stands for itself: what a message does
/// not name stays as it is.
pub fn parts(answers: u64, desired: Desired, mut secrets: Secrets, news: News) -> Vec<Down> {
    let empty = || Down {
        answers,
        desired: Desired::default(),
        secrets: Secrets::new(),
        revoked: None,
        now: None,
        routes: None,
    };
    // Of routes first: where a placement ends, requests have to know what takes its place.
    let mut parts: Vec<Down> = news.routes.into_iter().map(|news| Down { routes: Some(news), ..empty() }).collect();
    if parts.is_empty() {
        parts.push(empty());
    }
    parts[0].revoked = news.revoked;
    (parts[0].desired.copies, parts[0].desired.holds) = (desired.copies, desired.holds);
    parts[0].desired.forget = desired.forget;
    let mut bytes = 0;
    for assignment in desired.assignments {
        let secrets = secrets.remove(&assignment.workload);
        let more = length(&assignment) + length(&secrets);
        let last = parts.last().expect("there is always one");
        let held = last.desired.assignments.len();
        if held > 0 && (held >= PART_ITEMS_MAX || bytes + more > PART_BYTES_MAX) {
            parts.push(empty());
            bytes = 0;
        }
        bytes += more;
        let last = parts.last_mut().expect("there is always one");
        last.secrets.extend(secrets.map(|secrets| (assignment.workload.clone(), secrets)));
        last.desired.assignments.push(assignment);
    }
    let settled: Vec<_> = desired.settled.chunks(PART_ITEMS_MAX).map(<[_]>::to_vec).collect();
    parts.resize_with(parts.len().max(settled.len()), empty);
    for (part, settled) in parts.iter_mut().zip(settled) {
        part.desired.settled = settled;
    }
    parts
}

fn length(value: &impl serde::Serialize) -> usize {
    serde_json::to_vec(value).map_or(0, |text| text.len())
}

/// The sites between which requests may go, as one of them is told of them.
pub(super) fn peers(world: &World, to: &SiteId) -> Vec<Peer> {
    let others = world.sites.values().filter(|site| !site.revoked && site.info.id != *to);
    let peer = |site: &SiteRecord| Peer {
        site: site.info.id.clone(),
        key: site.key.clone(),
        latency: world.links.get(to, &site.info.id).latency,
        address: None,
    };
    others.map(peer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment(i: usize) -> Assignment {
        let workload = format!("p-1/s{i}").parse().unwrap();
        Assignment { workload, epoch: Epoch(1), intent: Intent::Stop }
    }

    #[test]
    fn much_goes_in_parts_and_nothing_is_lost() {
        let settled: Vec<_> = (0..2 * PART_ITEMS_MAX).map(|i| (assignment(i).workload, Epoch(1))).collect();
        // The first two are small, the third has secrets that fill a message by themselves.
        let assignments: Vec<_> = (0..PART_ITEMS_MAX + 3).map(assignment).collect();
        let long = BTreeMap::from([(Name::new("long").unwrap(), "x".repeat(PART_BYTES_MAX))]);
        let secrets = Secrets::from([(assignments[2].workload.clone(), long.clone())]);
        let revoked = Some(BTreeSet::from(["key".to_owned()]));
        let desired = Desired { assignments: assignments.clone(), settled: settled.clone(), ..Desired::default() };
        let all = parts(7, desired, secrets, News { revoked: revoked.clone(), ..News::default() });

        let lengths: Vec<_> = all.iter().map(|part| part.desired.assignments.len()).collect();
        assert_eq!(lengths, [2, 1, PART_ITEMS_MAX]);
        assert_eq!(all.iter().map(|part| part.desired.settled.len()).collect::<Vec<_>>(), [500, 500, 0]);
        assert!(all.iter().all(|part| part.answers == 7));
        assert_eq!(all[1].secrets, Secrets::from([(assignments[2].workload.clone(), long)]));
        assert_eq!(all.iter().filter_map(|part| part.revoked.clone()).collect::<Vec<_>>(), Vec::from_iter(revoked));
        assert_eq!(all.iter().flat_map(|part| part.desired.assignments.clone()).collect::<Vec<_>>(), assignments);
        assert_eq!(all.iter().flat_map(|part| part.desired.settled.clone()).collect::<Vec<_>>(), settled);
        assert_eq!(
            parts(7, Desired::default(), Secrets::new(), News::default()).len(),
            1,
            "an answer is owed all the same"
        );
    }
}
