//! The resources as the cluster has them, and what is written beside them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tombolo_core::chain;

use super::resource::{self, Wanted};
use super::status::Told;
use crate::driver::kubernetes::watching::{Seen, follow};

/// How long the cluster may take for a status or an event.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Who has said what of a resource.
const MANAGER: &str = "tombolo-agent";

/// Clones are the same.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
    seen: Arc<Mutex<Option<HashMap<String, DynamicObject>>>>,
    pub changed: Arc<Notify>,
}

impl Cluster {
    /// Watches the resources of a namespace for as long as the process lives.
    pub fn open(client: Client, namespace: String) -> Cluster {
        let cluster = Cluster { client, namespace, seen: Arc::default(), changed: Arc::default() };
        let watching = cluster.clone();
        tokio::spawn(follow(cluster.api(), watcher::Config::default(), move |seen| {
            watching.take(seen);
            true
        }));
        cluster
    }

    fn api(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource::kind())
    }

    fn take(&self, seen: Seen<DynamicObject>) {
        let mut known = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let key = |object: &DynamicObject| object.uid().unwrap_or_default();
        match seen {
            Seen::All(all) => *known = Some(all.into_iter().map(|object| (key(&object), object)).collect()),
            Seen::One(object) => {
                let known = known.get_or_insert_default();
                if known.get(&key(&object)).is_none_or(|before| is_newer(&object, before)) {
                    known.insert(key(&object), object);
                }
            }
            Seen::Gone(object) => {
                known.get_or_insert_default().remove(&key(&object));
            }
        }
        drop(known);
        self.changed.notify_one();
    }

    /// By uid; none until they were listed.
    pub fn all(&self) -> Option<HashMap<String, DynamicObject>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What a write has answered, of one that is still there: the watch tells it too, later.
    fn keep(&self, told: DynamicObject) {
        let mut known = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.as_mut().and_then(|known| known.get_mut(&told.uid().unwrap_or_default()));
        if let Some(before) = before.filter(|before| is_newer(&told, before)) {
            *before = told;
        }
    }

    /// Replaces the status whole: what isn't said any more goes. False where it could not be written.
    pub async fn tell(&self, object: &DynamicObject, status: &Value) -> bool {
        let name = object.name_any();
        let mut whole = json!({
            "apiVersion": "tombolo.dev/v1alpha1", "kind": "Workload", "metadata": {"name": name}, "status": status
        });
        // A patch of a resource that was made anew under this name is refused.
        whole["metadata"]["uid"] = object.uid().into();
        let params = PatchParams::apply(MANAGER).force();
        match tokio::time::timeout(ANSWER_WITHIN, self.api().patch_status(&name, &params, &Patch::Apply(&whole))).await
        {
            Ok(Ok(told)) => {
                self.keep(told);
                return true;
            }
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {}
            Ok(Err(error)) => tracing::warn!(workload = name, error = %chain(&error), "its status can't be written"),
            Err(_) => tracing::warn!(workload = name, "its status can't be written: the cluster does not answer"),
        }
        false
    }

    pub async fn note(&self, of: &Wanted, told: &Told) {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let now = Some(Time(jiff::Timestamp::now()));
        let event = Event {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}.", of.name)),
                namespace: Some(of.namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("tombolo.dev/v1alpha1".to_owned()),
                kind: Some("Workload".to_owned()),
                name: Some(of.name.clone()),
                namespace: Some(of.namespace.clone()),
                uid: Some(of.uid.clone()),
                ..ObjectReference::default()
            },
            type_: Some(if told.warns { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(told.reason.to_owned()),
            message: Some(told.note.clone()),
            source: Some(EventSource { component: Some("tombolo".to_owned()), host: None }),
            first_timestamp: now.clone(),
            last_timestamp: now,
            count: Some(1),
            ..Event::default()
        };
        match tokio::time::timeout(ANSWER_WITHIN, events.create(&PostParams::default(), &event)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(workload = of.name, error = %chain(&error), "an event can't be written"),
            Err(_) => tracing::debug!(workload = of.name, "an event can't be written: the cluster does not answer"),
        }
    }
}

/// By their versions, which grow; what can't be compared is taken as it comes.
fn is_newer(one: &DynamicObject, than: &DynamicObject) -> bool {
    let version = |object: &DynamicObject| object.resource_version().and_then(|text| text.parse::<u64>().ok());
    match (version(one), version(than)) {
        (Some(one), Some(than)) => one > than,
        _ => true,
    }
}
