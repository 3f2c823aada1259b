//! The routes as a client sees them, without one.

#![allow(dead_code, reason = "each test program uses some of it")]

use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use tombolo_tracking::{Access, Ask, Own, Standing, Standings, Tracking, router};
use tower::ServiceExt;

pub struct Api {
    pub tracking: Tracking,
    pub access: Access,
    /// How workloads stand that don't as [`newest`] says.
    pub stand: Arc<Mutex<Standings>>,
}

/// At its first placement, and running.
pub fn newest(epoch: u64) -> Standing {
    Standing { epoch, site: Some("here".to_owned()), state: "running" }
}

pub fn asked(stand: &Arc<Mutex<Standings>>) -> Ask {
    let stand = Arc::clone(stand);
    Arc::new(move |workloads| {
        let stand = stand.lock().unwrap().clone();
        let of = |workload: String| (workload.clone(), stand.get(&workload).cloned().unwrap_or_else(|| newest(1)));
        Box::pin(std::future::ready(Some(workloads.into_iter().map(of).filter(|(_, stand)| stand.epoch > 0).collect())))
    })
}

pub fn person() -> Access {
    Access { who: "ada".to_owned(), run: None }
}

pub fn workload(name: &str) -> Access {
    let own = Own {
        workload: format!("flights-1/{name}"),
        project: "flights".to_owned(),
        stage: name.to_owned(),
        site: "here".to_owned(),
        epoch: 1,
        run_id: format!("{name}00000000000000000000000000"),
    };
    Access { who: own.workload.clone(), run: Some(own) }
}

impl Api {
    pub async fn new(dir: &tempfile::TempDir) -> Api {
        let stand = Arc::default();
        let tracking = Tracking::open(&dir.path().join("tracking.db"), asked(&stand)).await.unwrap();
        Api { tracking, access: person(), stand }
    }

    pub fn by(&self, access: Access) -> Api {
        Api { tracking: self.tracking.clone(), access, stand: Arc::clone(&self.stand) }
    }

    pub async fn send(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let uri = if path.starts_with("/api") { path.to_owned() } else { format!("/api/2.0/mlflow/{path}") };
        let mut request = Request::builder().method(method).uri(uri).body(Body::from(body.to_owned())).unwrap();
        request.extensions_mut().insert(self.access.clone());
        let answer = router(self.tracking.clone()).oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let bytes = axum::body::to_bytes(answer.into_body(), 64 << 20).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.send("POST", path, &body.to_string()).await;
        assert_eq!(status, 200, "{path} {body}: {answer}");
        answer
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.send("GET", path, "").await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// The status, code and message of what is refused.
    pub async fn refused(&self, method: &str, path: &str, body: Value) -> (u16, String, String) {
        let (status, answer) = self.send(method, path, &body.to_string()).await;
        assert!(status >= 400, "{path} {body} was taken: {answer}");
        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        (status, text("error_code"), text("message"))
    }

    pub async fn experiment(&self, name: &str) -> String {
        self.post("experiments/create", json!({ "name": name })).await["experiment_id"].as_str().unwrap().to_owned()
    }

    pub async fn run(&self, experiment: &str, name: &str) -> String {
        let asked = json!({ "experiment_id": experiment, "run_name": name, "start_time": 1000, "user_id": "ada" });
        self.post("runs/create", asked).await["run"]["info"]["run_id"].as_str().unwrap().to_owned()
    }

    pub async fn names(&self, experiment: &str, filter: &str, order: &[&str]) -> Vec<String> {
        let asked = json!({ "experiment_ids": [experiment], "filter": filter, "order_by": order });
        let found = self.post("runs/search", asked).await;
        let names =
            found["runs"].as_array().unwrap().iter().map(|run| run["info"]["run_name"].as_str().unwrap().to_owned());
        names.collect()
    }
}
