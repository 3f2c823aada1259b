//! A watch of the cluster's objects that goes on whatever happens to it.

use futures_util::StreamExt;
use kube::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use tombolo_core::chain;

/// What a watch tells.
pub enum Seen<K> {
    /// There are these and no others.
    All(Vec<K>),
    One(K),
    Gone(K),
}

/// Until `told` says that nobody wants to know any more.
pub async fn follow<K>(api: Api<K>, config: watcher::Config, told: impl Fn(Seen<K>) -> bool)
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let mut events = watcher(api, config).default_backoff().boxed();
    let mut listed = Vec::new();
    while let Some(event) = events.next().await {
        let seen = match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(watcher::Event::InitApply(one)) => {
                listed.push(one);
                continue;
            }
            Ok(watcher::Event::InitDone) => Seen::All(std::mem::take(&mut listed)),
            Ok(watcher::Event::Apply(one)) => Seen::One(one),
            Ok(watcher::Event::Delete(one)) => Seen::Gone(one),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the cluster can't be seen; what runs goes on");
                continue;
            }
        };
        if !told(seen) {
            return;
        }
    }
}
