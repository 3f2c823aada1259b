//! Endpoints: what a gateway knows of a service, and which of its replicas a request goes to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{BadName, Epoch, Name, SiteId, WorkloadId};
use crate::time::{Millis, Timestamp};

/// How long requests, streams and web sockets may take to end before a service is asked to, unless it says otherwise.
pub const DRAIN_DEFAULT: Millis = Millis::from_secs(30);
pub const DRAIN_MAX: Millis = Millis::from_secs(3_600);
/// The highest weight of a site.
pub const WEIGHT_MAX: u32 = 1_000;
/// Tokens of one endpoint that are good at the same time.
pub const PASSES_MAX: usize = 1_000;

/// A service of a project, whichever run, replica and site answers for it: `flights/predict`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EndpointId {
    pub project: Name,
    pub service: Name,
}

impl std::fmt::Display for EndpointId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.project, self.service)
    }
}

impl std::fmt::Debug for EndpointId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for EndpointId {
    type Err = BadName;

    fn from_str(text: &str) -> Result<EndpointId, BadName> {
        let (project, service) = text.split_once('/').unwrap_or((text, ""));
        Ok(EndpointId { project: Name::new(project)?, service: Name::new(service)? })
    }
}

impl TryFrom<String> for EndpointId {
    type Error = BadName;

    fn try_from(text: String) -> Result<EndpointId, BadName> {
        text.parse()
    }
}

impl From<EndpointId> for String {
    fn from(id: EndpointId) -> String {
        id.to_string()
    }
}

/// Who may use an endpoint; the stricter is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Whoever reaches a gateway.
    Public,
    /// Who has a token of the endpoint, which the service gets to see.
    TokenPassed,
    /// Who has a token of the endpoint, which ends at the gateway.
    #[default]
    Token,
}

impl Access {
    pub fn word(self) -> &'static str {
        match self {
            Access::Public => "public",
            Access::TokenPassed => "token-passed",
            Access::Token => "token",
        }
    }
}

/// All that a gateway needs to know of an endpoint.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Route {
    #[serde(default)]
    pub access: Access,
    #[serde(default)]
    pub passes: Vec<Pass>,
    /// Which share of the requests sites get; none given: the nearest gets all.
    #[serde(default)]
    pub weights: BTreeMap<SiteId, u32>,
    /// The beginning of the path that names the endpoint stays on it.
    #[serde(default)]
    pub keeps_prefix: bool,
    /// It is in the gap of a move and will answer again soon: requests wait.
    #[serde(default)]
    pub waits: bool,
    /// What it does, for those who find no replica that answers.
    #[serde(default)]
    pub state: String,
    #[serde(default)]
    pub replicas: Vec<Replica>,
}

/// A token that is good for an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// BLAKE3 of the token, in hex. A token is 256 random bits, so that a slow hash would add nothing.
    pub hash: String,
    pub expires: Timestamp,
}

/// A placement that answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Replica {
    pub workload: WorkloadId,
    pub epoch: Epoch,
    pub site: SiteId,
}

impl Route {
    /// Whether a token with this hash is good.
    pub fn admits(&self, hash: &str, now: Timestamp) -> bool {
        self.passes.iter().any(|pass| pass.hash == hash && now < pass.expires)
    }

    /// The replicas in the order in which a request tries them: those of this site, then the nearest, in turns where
    /// some are equally near. Where there are weights, turns go by these. Those that are set aside come last.
    pub fn order(
        &self,
        here: &SiteId,
        latency: impl Fn(&SiteId) -> Millis,
        aside: impl Fn(&Replica) -> bool,
        turn: u64,
    ) -> Vec<&Replica> {
        let distance = |replica: &Replica| if replica.site == *here { None } else { Some(latency(&replica.site)) };
        let mut ordered: Vec<(bool, Option<Millis>, &Replica)> =
            self.replicas.iter().map(|replica| (aside(replica), distance(replica), replica)).collect();
        ordered.sort();
        for group in ordered.chunk_by_mut(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let by = turn % group.len() as u64;
            group.rotate_left(by as usize);
        }
        let mut ordered: Vec<(bool, &Replica)> =
            ordered.into_iter().map(|(aside, _, replica)| (aside, replica)).collect();
        if !self.weights.is_empty() {
            let first = self.by_weight(&ordered, turn);
            let first = first.map(|at| ordered.remove(at));
            // Who has no weight is only asked when nobody else is there.
            ordered.sort_by_key(|(aside, replica)| (*aside, self.weight(replica) == 0));
            ordered.splice(..0, first);
        }
        ordered.into_iter().map(|(_, replica)| replica).collect()
    }

    fn weight(&self, replica: &Replica) -> u64 {
        self.weights.get(&replica.site).copied().unwrap_or(0).into()
    }

    /// Whose turn it is: each site gets its share, whatever the number of its replicas.
    fn by_weight(&self, ordered: &[(bool, &Replica)], turn: u64) -> Option<usize> {
        let mut sites: BTreeMap<&SiteId, (u64, Vec<usize>)> = BTreeMap::new();
        for (at, (aside, replica)) in ordered.iter().enumerate() {
            let weight = self.weight(replica);
            if !aside && weight > 0 {
                sites.entry(&replica.site).or_insert((weight, Vec::new())).1.push(at);
            }
        }
        let total: u64 = sites.values().map(|(weight, _)| weight).sum();
        let mut left = turn.checked_rem(total)?;
        for (weight, of_site) in sites.values() {
            if left < *weight {
                return Some(of_site[(turn / total) as usize % of_site.len()]);
            }
            left -= weight;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `p-1/a@here p-1/b@far`, weights as `here=1`; what comes first in each of so many turns, then the last turn whole.
    fn check(replicas: &str, weights: &str, aside: &str, turns: u64, firsts: &str, last: &str) {
        let site = |text: &str| SiteId::new(text).unwrap();
        let replica = |text: &str| {
            let (name, at) = text.split_once('@').unwrap();
            let workload = format!("p-1/{name}").parse().unwrap();
            Replica { workload, epoch: Epoch(1), site: site(at) }
        };
        let weight = |text: &str| {
            let (at, weight) = text.split_once('=').unwrap();
            (site(at), weight.parse().unwrap())
        };
        let route = Route {
            replicas: replicas.split_whitespace().map(replica).collect(),
            weights: weights.split_whitespace().map(weight).collect(),
            ..Route::default()
        };
        let latency = |site: &SiteId| Millis(if site.as_str().starts_with("far") { 80 } else { 5 });
        let aside: Vec<&str> = aside.split_whitespace().collect();
        let away = |replica: &Replica| aside.contains(&replica.workload.name.as_str());
        let name = |replica: &&Replica| replica.workload.name.to_string();
        let orders: Vec<Vec<String>> =
            (0..turns).map(|turn| route.order(&site("here"), latency, away, turn).iter().map(name).collect()).collect();
        let seen: Vec<&str> = orders.iter().filter_map(|order| order.first()).map(String::as_str).collect();
        assert_eq!(seen.join(" "), firsts, "{replicas} {weights} {aside:?}");
        assert_eq!(orders.last().unwrap().join(" "), last, "{replicas} {weights} {aside:?}");
    }

    #[test]
    fn the_nearest_come_first_and_equals_take_turns() {
        check("", "", "", 1, "", "");
        check("a@far b@near c@here", "", "", 2, "c c", "c b a");
        check("a@here b@here c@near", "", "", 3, "a b a", "a b c");
        check("a@far b@far2 c@near d@near2", "", "", 2, "c d", "d c b a");
        // Who was set aside is still there when nobody else is.
        check("a@here b@near c@far", "", "a", 1, "b", "b c a");
        check("a@here b@near", "", "a b", 1, "a", "a b");
    }

    #[test]
    fn weights_are_shares_of_sites() {
        check("a@here b@far", "far=3 here=1", "", 8, "b b b a b b b a", "a b");
        check("a@here b@far c@far", "far=1 here=1", "", 6, "b a c a b a", "a c b");
        check("a@here b@far", "far=1 here=0", "", 2, "b b", "b a");
        check("a@here b@far c@near", "far=1", "", 1, "b", "b a c");
        // Its share goes to the others while one is set aside, and where nobody has a weight nearness decides.
        check("a@here b@far", "far=3 here=1", "b", 4, "a a a a", "a b");
        check("a@here b@near", "far=3", "", 2, "a a", "a b");
    }

    #[test]
    fn tokens_end() {
        let pass = Pass { hash: "h".into(), expires: Timestamp(10) };
        let route = Route { passes: vec![pass], ..Route::default() };
        assert!(
            route.admits("h", Timestamp(9)) && !route.admits("h", Timestamp(10)) && !route.admits("i", Timestamp(9))
        );
    }

    #[test]
    fn an_endpoint_is_named_by_project_and_service() {
        let id: EndpointId = "flights/predict".parse().unwrap();
        assert_eq!(
            (id.project.as_str(), id.service.as_str(), id.to_string().as_str()),
            ("flights", "predict", "flights/predict")
        );
        for bad in ["", "flights", "flights/", "/predict", "a/b/c", "A/b"] {
            assert!(bad.parse::<EndpointId>().is_err(), "{bad}");
        }
    }
}
