//! What the tracking of experiments is told of workloads.

mod http_fixtures;

use http_fixtures::{api, run_body};
use serde_json::json;
use tombolo_control::http::how_workloads_stand;

#[tokio::test]
async fn the_tracking_hears_how_live_workloads_stand() {
    let api = api().await;
    api.ready().await;
    let id = api.post("/v1/runs", run_body()).await.ok()["id"].as_str().unwrap().to_owned();
    let ask = how_workloads_stand(api.engine.clone());
    let asked = async || {
        let names = ["make", "use", "nobody"].map(|name| format!("{id}/{name}"));
        let names = names.into_iter().chain(["gone-7/make".to_owned(), "no workload".to_owned()]);
        let stand = ask(names.collect()).await.unwrap();
        let mut told: Vec<_> = stand
            .into_iter()
            .map(|(name, stand)| {
                format!("{name} #{} at {} is {}", stand.epoch, stand.site.unwrap_or_default(), stand.state)
            })
            .collect();
        told.sort();
        told
    };
    assert_eq!(asked().await, [format!("{id}/make #1 at home is placed"), format!("{id}/use #0 at  is waiting")]);
    api.post("/v1/sites/home/revoke", json!({})).await.ok();
    assert_eq!(asked().await[0], format!("{id}/make #1 at  is backoff"));
}
