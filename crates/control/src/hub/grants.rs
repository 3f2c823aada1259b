//! Leave to fetch: from which sites a version may come, and a signed grant for each.

use tombolo_api::grant::{GRANT_LIFE, Grant};
use tombolo_api::stream::{Source, Sources};
use tombolo_core::{SiteId, VersionId};

use super::Hub;

impl Hub {
    /// Where a site may fetch a version from, with the leave to do so.
    pub(super) async fn sources(&self, to: &SiteId, version: VersionId) -> Sources {
        let place = to.clone();
        let asked = self.0.engine.look(move |world, now| {
            let from = world.sources(&version, &place)?;
            if from.is_empty() {
                return Err(format!("no site has version {} any more", version.short()));
            }
            let key = world.sites.get(&place).map(|site| site.key.clone()).unwrap_or_default();
            let limited = |from: SiteId| {
                let limit = world.links.get(&from, &place).limit;
                (from, limit)
            };
            // Of some it isn't known, as of state that a placement left behind; of one without bytes nothing is lost by it.
            let bytes = world.versions.get(&version).map(|record| record.bytes).filter(|bytes| *bytes > 0);
            Ok::<_, String>((from.into_iter().map(limited).collect::<Vec<_>>(), key, bytes, now))
        });
        let (from, to_key, bytes, now) = match asked.await {
            Ok(Ok(found)) => found,
            Ok(Err(why)) => {
                self.audit(to, version, "refused", why.clone()).await;
                return Sources::Refused(why);
            }
            Err(_) => return Sources::Refused("the control plane is stopping".to_owned()),
        };
        let mut sources = Vec::new();
        for (site, limit) in from {
            let Some(connected) = self.lock().get(&site).cloned() else { continue };
            let until = now + GRANT_LIFE;
            let (from, to, to_key) = (site.clone(), to.clone(), to_key.clone());
            let grant = Grant { version, from, to, to_key, until, bytes };
            let grant = String::from_utf8(grant.sign(&self.0.grant_key)).expect("a grant is JSON");
            sources.push(Source { site, address: connected.address, grant, limit });
        }
        if !sources.is_empty() {
            let names: Vec<_> = sources.iter().map(|source| source.site.to_string()).collect();
            let size = bytes.map(|bytes| format!(", {bytes} bytes")).unwrap_or_default();
            self.audit(to, version, "done", format!("from {}{size}", names.join(", "))).await;
        }
        Sources::From(sources)
    }

    async fn audit(&self, to: &SiteId, version: VersionId, outcome: &str, detail: String) {
        self.record(format!("site {to}"), "grant", version.to_string(), outcome, Some(detail)).await;
    }
}
