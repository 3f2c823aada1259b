//! Which of a service's addresses is shown: that of a gateway on this machine, if there is one.

use std::collections::BTreeSet;

use tombolo_api::wire::{RunView, WorkloadView};

use crate::failure::Failure;
use crate::home::Home;

/// Puts the addresses at gateways of this machine first: those of others are mostly out of reach, as gateways listen on loopback.
pub fn own_first(home: &Home, view: &mut RunView) -> Result<(), Failure> {
    if view.workloads.iter().any(|workload| !workload.urls.is_empty()) {
        let own: BTreeSet<String> = home.local_sites()?.into_iter().map(|site| site.name.to_string()).collect();
        for workload in &mut view.workloads {
            workload.urls.sort_by_key(|url| !own.contains(&url.site));
        }
    }
    Ok(())
}

/// Where a service answers: where it always will, or its own port where no gateway is known.
pub fn shown(workload: &WorkloadView) -> Option<String> {
    let address = workload.address.as_ref()?;
    Some(workload.urls.first().map_or_else(|| format!("http://{address}"), |url| url.url.clone()))
}

#[cfg(test)]
mod tests {
    use tombolo_api::wire::EndpointUrl;

    use super::*;

    #[test]
    fn a_gateway_of_this_machine_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home(dir.path().to_owned());
        let url = |site: &str| EndpointUrl { site: site.to_owned(), url: format!("http://{site}/p/s/") };
        let text = serde_json::json!({
            "id": "p-1", "project": "p", "state": "serving", "by": "me", "at": 0, "code": "",
            "workloads": [{
                "id": "p-1/s", "name": "s", "kind": "service", "state": "ready", "epoch": 1, "inputs": {}, "outputs": {},
                "attempts": [], "address": "127.0.0.1:1", "urls": [url("a"), url("b")],
            }],
        });
        let mut view: RunView = serde_json::from_value(text).unwrap();
        own_first(&home, &mut view).unwrap();
        assert_eq!(shown(&view.workloads[0]).unwrap(), "http://a/p/s/");
        std::fs::create_dir_all(dir.path().join("local-sites")).unwrap();
        let site =
            serde_json::json!({ "name": "b", "key": "k", "site_dir": dir.path(), "store_dir": dir.path(), "pid": 1 });
        std::fs::write(dir.path().join("local-sites/b.k.json"), site.to_string()).unwrap();
        own_first(&home, &mut view).unwrap();
        assert_eq!(shown(&view.workloads[0]).unwrap(), "http://b/p/s/");
        view.workloads[0].urls.clear();
        assert_eq!(shown(&view.workloads[0]).unwrap(), "http://127.0.0.1:1");
        view.workloads[0].address = None;
        assert_eq!(shown(&view.workloads[0]), None);
    }
}
