//! What is known of endpoints and sites: said by the control plane, saved, and good without it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tombolo_api::stream::{Peer, RoutesNews};
use tombolo_core::routes::Route;
use tombolo_core::{EndpointId, Millis, SiteId};

/// In the site's directory.
pub const FILE: &str = "routes";
/// Of a site of which nobody has said how far it is.
const FAR: Millis = Millis(1_000);

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Held {
    pub routes: BTreeMap<EndpointId, Route>,
    pub peers: BTreeMap<SiteId, Peer>,
}

impl Held {
    pub fn latency(&self, site: &SiteId) -> Millis {
        self.peers.get(site).map_or(FAR, |peer| peer.latency)
    }

    /// Whether a key is that of a site which may send requests here.
    pub fn knows(&self, key: &str) -> bool {
        self.peers.values().any(|peer| peer.key == key)
    }
}

pub struct Table {
    held: RwLock<Arc<Held>>,
    /// Rings when there is something to save.
    due: Arc<Notify>,
    file: PathBuf,
}

impl Table {
    /// What was saved; an unreadable file is as good as none, as the control plane says all of it again.
    pub fn open(file: &Path) -> Table {
        let held = match std::fs::read(file) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::warn!(file = %file.display(), %error, "what was known of endpoints can't be read");
                Held::default()
            }),
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    tracing::warn!(file = %file.display(), %error, "what was known of endpoints can't be read");
                }
                Held::default()
            }
        };
        Table { held: RwLock::new(Arc::new(held)), due: Arc::default(), file: file.to_owned() }
    }

    pub fn held(&self) -> Arc<Held> {
        self.held.read().expect("nobody panics holding it").clone()
    }

    /// Takes news in; whether anything is different now.
    pub fn learn(&self, news: RoutesNews) -> bool {
        let mut held = self.held.write().expect("nobody panics holding it");
        let mut next = Held::clone(&held);
        next.routes.extend(news.set);
        if let Some(mut only) = news.only {
            only.sort();
            next.routes.retain(|id, _| only.binary_search(id).is_ok());
        }
        if let Some(peers) = news.peers {
            let before = std::mem::take(&mut next.peers);
            for mut peer in peers {
                // Where nothing is said of its address it is where it was.
                let known = before.get(&peer.site).filter(|before| before.key == peer.key);
                peer.address = peer.address.or_else(|| known.and_then(|before| before.address.clone()));
                next.peers.insert(peer.site.clone(), peer);
            }
        }
        if next == **held {
            return false;
        }
        *held = Arc::new(next);
        self.due.notify_one();
        true
    }

    /// Saves whatever comes, for as long as the process lives.
    pub async fn keep_saved(&self) {
        loop {
            self.due.notified().await;
            let (held, file) = (self.held(), self.file.clone());
            let saved = tokio::task::spawn_blocking(move || {
                // It has hashes of tokens.
                tombolo_net::write_private(&file, &serde_json::to_vec(&*held).expect("plain data"))
            });
            if let Ok(Err(error)) = saved.await {
                tracing::warn!(file = %self.file.display(), %error, "what is known of endpoints can't be saved");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tombolo_api::stream::PeerAddress;

    use super::*;

    fn route(state: &str) -> Route {
        Route { state: state.to_owned(), ..Route::default() }
    }

    fn peer(site: &str, key: &str, at: Option<&str>) -> Peer {
        let address = at.map(|at| PeerAddress { key: key.to_owned(), direct: vec![at.to_owned()], relay: None });
        Peer { site: SiteId::new(site).unwrap(), key: key.to_owned(), latency: Millis(7), address }
    }

    #[tokio::test]
    async fn news_are_taken_in_by_parts_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        let id = |text: &str| text.parse::<EndpointId>().unwrap();
        let table = Arc::new(Table::open(&file));
        let saving = table.clone();
        tokio::spawn(async move { saving.keep_saved().await });
        let first = RoutesNews {
            set: vec![(id("p/a"), route("1")), (id("p/b"), route("1"))],
            only: None,
            peers: Some(vec![peer("there", "k", Some("1.2.3.4:5")), peer("gone", "g", None)]),
        };
        assert!(table.learn(first.clone()) && !table.learn(first), "the same again is no news");
        let second = RoutesNews {
            set: vec![(id("p/b"), route("2"))],
            only: Some(vec![id("p/b")]),
            peers: Some(vec![peer("there", "k", None)]),
        };
        assert!(table.learn(second));
        let held = table.held();
        assert_eq!(held.routes, BTreeMap::from([(id("p/b"), route("2"))]));
        let there = &held.peers[&SiteId::new("there").unwrap()];
        assert_eq!(
            there.address.as_ref().unwrap().direct,
            ["1.2.3.4:5"],
            "a site that is not connected is where it was"
        );
        assert!(held.knows("k") && !held.knows("g"));
        // Another agent by the same name is somewhere else.
        assert!(table.learn(RoutesNews { peers: Some(vec![peer("there", "k2", None)]), ..RoutesNews::default() }));
        let held = table.held();
        assert_eq!(held.peers[&SiteId::new("there").unwrap()].address, None);

        let patience = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        while *Table::open(&file).held() != *held {
            assert!(tokio::time::Instant::now() < patience, "it is never saved");
            tokio::task::yield_now().await;
        }
        std::fs::write(&file, "{ half").unwrap();
        assert_eq!(*Table::open(&file).held(), Held::default());
    }
}
