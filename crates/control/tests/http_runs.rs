//! Runs over the API: submitting once, looking, following, planning.

mod http_fixtures;

use axum::body::Body;
use axum::http::Request;
use http_fixtures::{CODE, DATA, api, events, project, run_body, token};
use serde_json::{Value, json};
use tombolo_api::wire::Role;

#[tokio::test]
async fn a_create_that_is_sent_again_is_made_once() {
    let api = api().await;
    api.ready().await;
    let (member, body) = (token(Role::Member), run_body());
    let send = || api.ask_keyed(&member, "POST", "/v1/runs", Some(&body), "again");
    let all = futures_util::future::join_all((0..8).map(|_| send())).await;
    assert!(all.iter().all(|answer| answer.status == 201 && answer.text == all[0].text));
    assert_eq!(all.iter().filter(|answer| answer.headers.contains_key("idempotency-replayed")).count(), 7);
    assert_eq!(all[0].json()["id"], "flights-late-1");
    assert_eq!(api.get("/v1/runs").await.ok()["items"].as_array().unwrap().len(), 1);

    let mut other = body.clone();
    other["force"] = json!(true);
    let reused = api.ask_keyed(&member, "POST", "/v1/runs", Some(&other), "again").await;
    assert_eq!(reused.problem(409), "idempotency-key-reused");
    // Another's key is another key.
    let admin = api.ask_keyed(&token(Role::Admin), "POST", "/v1/runs", Some(&body), "again").await.ok();
    assert_eq!(admin["id"], "flights-late-2");
    let request = Request::post("/v1/runs").header("Authorization", format!("Bearer {member}"));
    let without = api.send(request.body(Body::from(body.to_string())).unwrap()).await;
    assert_eq!(without.problem(400), "idempotency-key");
    let long = api.ask_keyed(&member, "POST", "/v1/runs", Some(&body), &"k".repeat(201)).await;
    assert_eq!(long.problem(400), "idempotency-key");
}

#[tokio::test]
async fn a_refused_create_takes_no_key() {
    let api = api().await;
    let (member, body) = (token(Role::Member), run_body());
    let early = api.ask_keyed(&member, "POST", "/v1/runs", Some(&body), "k").await;
    assert_eq!(early.problem(422), "no-version");
    api.ready().await;
    api.ask_keyed(&member, "POST", "/v1/runs", Some(&body), "k").await.ok();
}

#[tokio::test]
async fn what_no_world_can_run_is_refused() {
    let api = api().await;
    api.ready().await;
    let kafka = |brokers: &[&str]| json!({ "import": { "kafka": { "brokers": brokers, "topic": "t" } } });
    let password = json!({ "import": { "postgres": { "url": "postgres://u:pw@db/d", "query": "select 1" } } });
    let expected =
        json!({ "flights": { "path": null, "residency": [], "expect": { "unique": ["x".repeat(10_000)] } } });
    let cases: [(&str, &str, Value); 16] = [
        ("/project/workloads/make/command", "one output and without inputs", kafka(&["b:9092"])),
        ("/project/data", "is too much", expected),
        ("/project/workloads/make/inputs/x", "reads nothing-made", json!("nothing-made")),
        ("/project/workloads/use/kind/job/outputs/0", "has a name that is taken", json!("made")),
        ("/project/workloads/make/kind/job/outputs/0", "has a name that is taken", json!("flights")),
        ("/project/workloads/make/inputs/x", "what it makes itself", json!("used")),
        ("/project/workloads", "no stages", json!({})),
        ("/project/objective", "weight", json!({ "weighted": 1.5 })),
        ("/project/workloads/make/grace", "a time longer", json!(u64::MAX)),
        ("/project/workloads/make/resources", "more than", json!({ "disk_bytes": u64::MAX })),
        ("/project/workloads/make/resources", "can't be counted", json!({ "cpus_milli": u64::MAX })),
        ("/project/workloads/make/priority", "priority", json!(i32::MIN)),
        ("/project/workloads/make/env", "can't set", json!({ "A=B": "x" })),
        ("/project/workloads/make/env", "can't set", json!({ "TOMBOLO_RUN": "x" })),
        ("/project/workloads/make/kind", "no replicas", json!({ "service": { "replicas": 0 } })),
        ("/data", "no dataset of the project", json!({ "other": DATA })),
    ];
    for (place, says, value) in cases {
        let mut body = run_body();
        body["data"] = json!({});
        body["project"]["objective"] = json!("time");
        for key in ["resources", "env", "priority"] {
            body["project"]["workloads"]["make"][key] = if key == "priority" { json!(0) } else { json!({}) };
        }
        *body.pointer_mut(place).unwrap() = value;
        let answer = api.post("/v1/runs", body.clone()).await;
        answer.problem(422);
        assert!(answer.text.contains(says), "{place}: {}", answer.text);
    }
    for (says, command) in [("no place in a project file", password), ("names no broker", kafka(&[]))] {
        let mut body = run_body();
        body["project"]["workloads"]["make"]["inputs"] = json!({});
        body["project"]["workloads"]["make"]["command"] = command;
        let answer = api.post("/v1/runs", body).await;
        answer.problem(422);
        assert!(answer.text.contains(says), "{}", answer.text);
    }
    let mut body = run_body();
    body["project"]["data"]["unheard"] = json!({ "path": null, "residency": [] });
    let answer = api.post("/v1/runs", body).await;
    assert_eq!(answer.problem(422), "no-data");
    assert!(answer.json()["hint"].as_str().unwrap().contains("tombolo data add unheard"), "{}", answer.text);
    assert_eq!(api.get("/v1/runs").await.ok()["items"], json!([]));
}

#[tokio::test]
async fn listings_come_page_by_page() {
    let api = api().await;
    api.ready().await;
    for _ in 0..5 {
        api.post("/v1/runs", run_body()).await.ok();
    }
    let (mut seen, mut path) = (Vec::new(), "/v1/runs?project=flights-late&limit=2".to_owned());
    loop {
        let page = api.get(&path).await.ok();
        let items = page["items"].as_array().unwrap();
        assert!((1..=2).contains(&items.len()));
        seen.extend(items.iter().map(|run| run["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/runs?project=flights-late&limit=2&after={next}");
    }
    assert_eq!(seen, (1..=5).rev().map(|number| format!("flights-late-{number}")).collect::<Vec<_>>());
    assert_eq!(api.get("/v1/runs?project=other").await.ok()["items"], json!([]));
    for name in ["a", "b", "c"] {
        api.site(name, json!({})).await;
    }
    let page = api.get("/v1/sites?limit=2").await.ok();
    assert_eq!((&page["items"][1]["name"], &page["next"]), (&json!("b"), &json!("b")));
    let rest = api.get("/v1/sites?limit=2&after=b").await.ok();
    assert_eq!((&rest["items"][1]["name"], rest.get("next")), (&json!("home"), None));
}

#[tokio::test]
async fn a_run_is_looked_at_stopped_retried_and_its_events_are_taken_up() {
    let api = api().await;
    api.ready().await;
    let id = api.post("/v1/runs", run_body()).await.ok()["id"].as_str().unwrap().to_owned();
    let run = api.get(&format!("/v1/runs/{id}")).await.ok();
    assert_eq!((&run["state"], &run["by"]), (&json!("active"), &json!("admin")));
    let workloads = run["workloads"].as_array().unwrap();
    assert_eq!((&workloads[0]["state"], &workloads[0]["site"]), (&json!("placed"), &json!("home")));
    assert_eq!(workloads[1]["why"], "waits for its inputs");
    let plan = api.get(&format!("/v1/runs/{id}/plan")).await.ok();
    assert_eq!(plan["placements"][0]["task"], "make");
    let version = format!("/v1/datasets/flights/versions/{DATA}");
    assert_eq!(api.ask(&token(Role::Member), "DELETE", &version, None).await.problem(409), "in-use");

    // The site is heard of and has no connection: its logs can't be had, and the answer says since when.
    let logs = api.get(&format!("/v1/workloads/{id}/make/logs")).await;
    assert_eq!(logs.problem(503), "site-unreachable");
    assert!(logs.json()["detail"].as_str().unwrap().contains("home was last heard of"), "{}", logs.text);
    assert_eq!(api.get(&format!("/v1/workloads/{id}/use/logs")).await.problem(409), "not-started");
    assert_eq!(api.get(&format!("/v1/workloads/{id}/make/logs?epoch=9")).await.problem(404), "not-found");
    assert_eq!(api.get(&format!("/v1/workloads/{id}/none/logs")).await.problem(404), "not-found");
    assert_eq!(api.post(&format!("/v1/runs/{id}/retry"), json!({})).await.problem(409), "nothing-to-retry");

    let stopped = api.post(&format!("/v1/runs/{id}/stop"), json!({})).await.ok();
    assert_eq!(stopped["workloads"][0]["why"], "stop was asked for");
    assert_eq!(stopped["workloads"][1]["state"], "stopped");
    let run_id = id.parse().unwrap();
    api.world(move |world, now| {
        // As the site would report it.
        let workload = tombolo_core::WorkloadId::new(run_id, "make".parse().unwrap());
        let finish = tombolo_core::sync::Finish::without_running(tombolo_core::sync::Outcome::Stopped, now);
        let phase = tombolo_core::sync::Phase::Finished(Box::new(finish));
        let observed = tombolo_core::sync::Observed { workload, epoch: tombolo_core::Epoch(1), phase };
        let report = tombolo_core::sync::Report { observed: vec![observed], ..Default::default() };
        world.report(&"home".parse().unwrap(), &report, now);
    })
    .await;
    assert_eq!(api.get(&format!("/v1/runs/{id}")).await.ok()["state"], "stopped");

    // The run is over, so the stream ends by itself.
    let told = events(&api.get(&format!("/v1/runs/{id}/events")).await.text);
    assert!(told.len() > 3, "{told:?}");
    assert!(told.iter().all(|(number, event)| json!(number) == event["number"] && event["run"] == id.as_str()));
    assert!(told.windows(2).all(|pair| pair[0].0 < pair[1].0));
    let middle = told[1].0.unwrap();
    let rest = events(&api.get(&format!("/v1/runs/{id}/events?after={middle}")).await.text);
    assert_eq!(rest, told[2..]);
    let request = Request::get(format!("/v1/runs/{id}/events?after=0")).header("Last-Event-ID", middle.to_string());
    let request = request.header("Authorization", "Bearer token-of-viewer").body(Body::empty()).unwrap();
    assert_eq!(events(&api.send(request).await.text), told[2..], "the header goes before the query");
    let request = Request::get(format!("/v1/runs/{id}/events")).header("Last-Event-ID", "x");
    let request = request.header("Authorization", "Bearer token-of-viewer").body(Body::empty()).unwrap();
    assert_eq!(api.send(request).await.problem(400), "bad-event-id");

    assert_eq!(api.post(&format!("/v1/runs/{id}/stop"), json!({})).await.problem(409), "run-over");
    let retry = format!("/v1/runs/{id}/retry");
    let first = api.ask_keyed("token-of-member", "POST", &retry, None, "r").await;
    assert_eq!(first.status, 201, "{}", first.text);
    let again = api.ask_keyed("token-of-member", "POST", &retry, None, "r").await;
    assert_eq!(again.text, first.text);
    assert_eq!(api.get(&format!("/v1/runs/{id}")).await.ok()["state"], "active");
}

#[tokio::test]
async fn events_of_a_live_run_come_as_they_happen() {
    use tokio_stream::StreamExt as _;
    use tower::ServiceExt as _;
    let api = api().await;
    api.ready().await;
    let id = api.post("/v1/runs", run_body()).await.ok()["id"].as_str().unwrap().to_owned();
    let request = Request::get(format!("/v1/runs/{id}/events")).header("Authorization", "Bearer token-of-viewer");
    let response = api.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let mut stream = response.into_body().into_data_stream();
    let mut text = String::new();
    let asked = "stop asked for";
    let mut stopped = false;
    while !text.contains(asked) {
        let piece = tokio::time::timeout(std::time::Duration::from_secs(60), stream.next()).await.unwrap();
        text.push_str(std::str::from_utf8(&piece.unwrap().unwrap()).unwrap());
        if !stopped && text.contains("submitted by admin") {
            stopped = true;
            assert!(!text.contains(asked));
            api.post(&format!("/v1/runs/{id}/stop"), json!({})).await.ok();
        }
    }
}

#[tokio::test]
async fn a_plan_says_where_and_keeps_nothing() {
    let api = api().await;
    api.site("home", json!({ "region": "eu" })).await;
    api.site("away", json!({ "region": "us" })).await;
    let expected = json!({ "flights": { "bytes": 10u64 << 30, "site": "away" } });
    let body = json!({ "project": project(), "expected": expected, "objective": "time" });
    let plan = api.ask(&token(Role::Viewer), "POST", "/v1/plan", Some(&body)).await.ok();
    let placements = plan["placements"].as_array().unwrap();
    assert_eq!(placements.len(), 2);
    assert_eq!(placements[0]["outcome"]["site"], "away", "{plan}");
    assert_eq!(plan["exact"], true);
    assert_eq!(api.get("/v1/runs").await.ok()["items"], json!([]));
    assert_eq!(api.get("/v1/datasets").await.ok()["items"], json!([]));
    api.engine
        .look(|world, _| assert!(world.versions.is_empty() && world.runs.is_empty() && world.counters.is_empty()))
        .await
        .unwrap();

    let mut kept = body.clone();
    kept["project"]["data"]["flights"]["residency"] = json!([[{ "labels": { "region": "eu" } }]]);
    assert_eq!(api.post("/v1/plan", kept).await.problem(403), "residency");
    let mut unheard = body.clone();
    unheard["expected"] = json!({});
    assert_eq!(api.post("/v1/plan", unheard).await.problem(422), "no-data");
}

#[tokio::test]
async fn a_projects_rule_holds_for_data_that_was_there_before() {
    let api = api().await;
    api.ready().await;
    let submit = |region: &str| {
        let mut body = run_body();
        body["project"]["data"]["flights"]["residency"] = json!([[{ "labels": { "region": region } }]]);
        body
    };
    assert_eq!(api.post("/v1/runs", submit("us")).await.problem(403), "residency");
    assert_eq!(api.get(&format!("/v1/versions/{DATA}")).await.ok()["residency"], "anywhere");
    api.post("/v1/runs", submit("eu")).await.ok();
    assert_eq!(api.get(&format!("/v1/versions/{DATA}")).await.ok()["residency"], "{region: eu}");
    assert_eq!(api.get(&format!("/v1/versions/{CODE}")).await.ok()["residency"], "anywhere");
}
